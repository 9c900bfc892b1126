//! `trunkline top`: the status of the running program, again and again, for somebody who watches.
//!
//! `frame` makes lines out of two samples and knows no terminal; `screen` is the terminal.

mod cells;
mod frame;
mod screen;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::cli::{FAILED, NOT_RUNNING, OK, Remote};
use crate::command::remote;
use crate::unit::Span;
use frame::{Sample, View};
use screen::Screen;

/// How long a key may wait for an answer to a signal, or a sample to be drawn.
const TICK: Duration = Duration::from_millis(100);

const HELP: &str = "\
Rates are of the last interval; first bytes are of the last answers.
Keys: q or Ctrl-C ends, arrows and Page Up/Down scroll.

Exit codes: 0 ok, 1 the terminal fails, 2 usage, 3 not running.";

/// What `top` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    #[command(flatten)]
    remote: Remote,
    /// Time between two looks.
    #[arg(short, long, value_name = "TIME", default_value = "1s")]
    interval: Span,
    /// Look twice, print what was seen and end; needs no terminal.
    #[arg(long)]
    once: bool,
}

/// What the watcher has seen so far.
struct Watch {
    samples: Receiver<Result<Sample, String>>,
    now: Sample,
    before: Option<Sample>,
    /// Why there is no newer sample.
    fault: Option<String>,
    /// First row that is shown.
    top: usize,
}

/// Watches until it is told to end; says with which code to exit.
pub(crate) fn run(options: &Options) -> u8 {
    if !options.once && !io::stdout().is_terminal() {
        eprintln!("trunkline: `top` draws on a terminal; use `top --once` to print what it shows");
        return 2;
    }
    let first = match sample(&options.remote) {
        Ok(first) => first,
        Err(message) => {
            eprintln!("trunkline: not running, or not to be asked: {message}");
            return NOT_RUNNING;
        }
    };
    let interval = options.interval.0.max(Duration::from_millis(10));
    if options.once {
        return once(options, first, interval);
    }
    match watch(options, first, interval) {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("trunkline: the terminal cannot be used: {error}");
            FAILED
        }
    }
}

fn sample(remote: &Remote) -> Result<Sample, String> {
    remote::fetch(remote).map(|status| Sample {
        at: Instant::now(),
        status,
    })
}

fn once(options: &Options, first: Sample, interval: Duration) -> u8 {
    std::thread::sleep(interval);
    let now = match sample(&options.remote) {
        Ok(now) => now,
        Err(message) => {
            eprintln!("trunkline: it stopped: {message}");
            return NOT_RUNNING;
        }
    };
    let view = View {
        now: &now,
        before: Some(&first),
        fault: None,
    };
    let width = match io::stdout().is_terminal() {
        true => crossterm::terminal::size().map_or(80, |(columns, _)| columns.into()),
        false => 80,
    };
    let frame = frame::draw(&view, width);
    for line in frame.head.iter().chain(&frame.rows).chain(&frame.foot) {
        println!("{}", line.text().trim_end());
    }
    OK
}

fn watch(options: &Options, first: Sample, interval: Duration) -> io::Result<()> {
    let told = told_to_end()?;
    let (seen, samples) = mpsc::channel();
    let remote = options.remote.clone();
    // an answer may take long, and `q` should not
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(interval);
            if seen.send(sample(&remote)).is_err() {
                return;
            }
        }
    });
    let mut watch = Watch {
        samples,
        now: first,
        before: None,
        fault: None,
        top: 0,
    };
    let mut screen = Screen::open()?;
    watch.draw(&mut screen)?;
    while !told.load(Relaxed) {
        let mut changed = watch.take();
        if event::poll(TICK)? {
            match event::read()? {
                Event::Key(key) if ends(&key) => break,
                Event::Key(key) => watch.scroll(key, screen.height()),
                _ => {}
            }
            changed = true;
        }
        if changed {
            watch.draw(&mut screen)?;
        }
    }
    Ok(())
}

/// Becomes true when somebody ends us from outside; then the terminal is still put in order.
fn told_to_end() -> io::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let told = Arc::new(AtomicBool::new(false));
    let flag = told.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(_inside);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        flag.store(true, Relaxed);
    });
    Ok(told)
}

fn ends(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c' | 'd') => control,
        _ => false,
    }
}

impl Watch {
    /// Takes the samples that came; whether there were any.
    fn take(&mut self) -> bool {
        let mut any = false;
        while let Ok(seen) = self.samples.try_recv() {
            any = true;
            match seen {
                Ok(sample) => {
                    self.before = Some(std::mem::replace(&mut self.now, sample));
                    self.fault = None;
                }
                Err(why) => {
                    self.before = None;
                    self.fault = Some(why);
                }
            }
        }
        any
    }

    fn scroll(&mut self, key: KeyEvent, page: usize) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        self.top = match key.code {
            KeyCode::Up | KeyCode::Char('k') => self.top.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.top + 1,
            KeyCode::PageUp => self.top.saturating_sub(page / 2),
            KeyCode::PageDown | KeyCode::Char(' ') => self.top + page / 2,
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX / 2,
            _ => self.top,
        };
    }

    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        let view = View {
            now: &self.now,
            before: self.before.as_ref(),
            fault: self.fault.as_deref(),
        };
        let (width, height) = screen.measure()?;
        let frame = frame::draw(&view, width);
        let lines = frame.fit(height, &mut self.top);
        screen.show(&lines)
    }
}
