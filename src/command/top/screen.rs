//! The terminal: taken over when it opens, given back on every way out.

use std::io::{self, Stdout, Write};
use std::panic;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
    EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};

use super::frame::{Line, Style};

/// Gives the terminal back when it is dropped.
pub(super) struct Screen {
    out: Stdout,
    colour: bool,
    size: (usize, usize),
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let before = panic::take_hook();
        // a message on the other screen would be gone with it; and where a panic aborts, nothing
        // is dropped
        panic::set_hook(Box::new(move |what| {
            give_back();
            before(what);
        }));
        terminal::enable_raw_mode()?;
        // from here on `drop` gives it back
        let mut screen = Screen {
            out: io::stdout(),
            colour: std::env::var_os("NO_COLOR").is_none(),
            size: (80, 24),
        };
        execute!(screen.out, EnterAlternateScreen, Hide, DisableLineWrap)?;
        Ok(screen)
    }

    /// Columns and rows, as they are now.
    pub(super) fn measure(&mut self) -> io::Result<(usize, usize)> {
        let (columns, rows) = terminal::size()?;
        // some terminals say 0 for "unknown"
        self.size = match (columns, rows) {
            (0, _) | (_, 0) => (80, 24),
            (columns, rows) => (columns.into(), rows.into()),
        };
        Ok(self.size)
    }

    pub(super) fn height(&self) -> usize {
        self.size.1
    }

    pub(super) fn show(&mut self, lines: &[&Line]) -> io::Result<()> {
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, line) in lines.iter().enumerate() {
            queue!(self.out, MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)))?;
            for (style, text) in line.cut(self.size.0) {
                self.style(style)?;
                queue!(
                    self.out,
                    Print(text),
                    ResetColor,
                    SetAttribute(Attribute::Reset)
                )?;
            }
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < self.size.1 {
            let row = u16::try_from(lines.len()).unwrap_or(u16::MAX);
            queue!(self.out, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        }
        queue!(self.out, EndSynchronizedUpdate)?;
        self.out.flush()
    }

    fn style(&mut self, style: Style) -> io::Result<()> {
        let colour = match style {
            Style::Plain => return Ok(()),
            Style::Strong => return queue!(self.out, SetAttribute(Attribute::Bold)),
            Style::Dim => return queue!(self.out, SetAttribute(Attribute::Dim)),
            Style::Head => return queue!(self.out, SetAttribute(Attribute::Reverse)),
            Style::Good => Color::Green,
            Style::Doubtful => Color::Yellow,
            Style::Bad => Color::Red,
        };
        match self.colour {
            true => queue!(self.out, SetForegroundColor(colour)),
            false => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let mut out = io::stdout();
    let _ = execute!(out, EnableLineWrap, Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}
