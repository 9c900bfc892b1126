//! Has an answer really begun? Headers sent at once, before any work was done, are no answer: a
//! speech server that fails behind its WAV header has not said anything, and an event stream of
//! pings has not either. As long as nothing has begun, another server can still be asked.

use super::answer::begins;
use super::container::{Part, Walker};

/// So many bytes are an answer, whatever they are: the longest wait that is worth holding them.
const ENOUGH: u64 = 64 * 1024;

/// Watches the first bytes of an answer.
#[derive(Debug)]
pub(crate) struct Opening {
    form: Form,
    fed: u64,
    begun: bool,
}

#[derive(Debug)]
enum Form {
    Events(Events),
    Audio {
        walker: Walker,
        /// Bytes of sound still wanted.
        wanted: u64,
    },
    /// Any byte is a part of the answer.
    Plain,
}

/// An event stream up to its first event.
#[derive(Debug, Default)]
struct Events {
    /// Start of the current line.
    line: Vec<u8>,
    /// A line was ended before, so that a byte order mark is no longer one.
    later: bool,
    /// The event has data.
    data: bool,
    /// The last byte was a carriage return; a line feed behind it ends no further line.
    returned: bool,
}

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// What is kept of a line: enough to know a mark and the field `data` with its colon.
const LINE_START: usize = MARK.len() + b"data:".len();

impl Opening {
    /// `content_type`: what the answer says it is. `min`: bytes of sound that audio must bring
    /// behind its container's headers, at least 1; other forms have begun with their first byte,
    /// or event.
    pub(crate) fn new(content_type: Option<&str>, min: u64) -> Self {
        let essence = content_type.unwrap_or_default().as_bytes();
        let end = essence.iter().position(|byte| *byte == b';');
        let essence = essence[..end.unwrap_or(essence.len())].trim_ascii();
        let is = |one: &[u8]| essence.eq_ignore_ascii_case(one);
        let form = match essence {
            _ if is(b"text/event-stream") => Form::Events(Events::default()),
            _ if is(b"") || is(b"application/octet-stream") => Form::audio(min),
            _ if begins(essence, b"audio/") => Form::audio(min),
            _ => Form::Plain,
        };
        Opening {
            form,
            fed: 0,
            begun: false,
        }
    }

    /// Takes the next piece; true from the moment the answer has begun.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> bool {
        if self.begun || piece.is_empty() {
            return self.begun;
        }
        self.fed = self.fed.saturating_add(piece.len() as u64);
        let begun = match &mut self.form {
            Form::Events(events) => events.feed(piece),
            Form::Audio { walker, wanted } => {
                walker.feed(piece, |part| {
                    if let Part::Sound(sound) = part {
                        *wanted = wanted.saturating_sub(sound.len() as u64);
                    }
                });
                *wanted == 0
            }
            Form::Plain => true,
        };
        self.begun = begun || self.fed >= ENOUGH;
        self.begun
    }

    #[cfg(test)]
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }
}

impl Form {
    fn audio(min: u64) -> Self {
        Form::Audio {
            walker: Walker::default(),
            wanted: min.max(1),
        }
    }
}

impl Events {
    /// True once an event is whole: a field `data`, and the blank line that sends it (HTML
    /// standard, section 9.2.6).
    fn feed(&mut self, piece: &[u8]) -> bool {
        piece.iter().any(|&byte| self.take(byte))
    }

    fn take(&mut self, byte: u8) -> bool {
        let ended_before = std::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if ended_before => false,
            b'\n' | b'\r' => self.end_line(),
            _ => {
                if self.line.len() < LINE_START {
                    self.line.push(byte);
                }
                false
            }
        }
    }

    fn end_line(&mut self) -> bool {
        let line = match self.line.strip_prefix(MARK) {
            Some(line) if !self.later => line,
            _ => &self.line,
        };
        // without a colon the whole line is the name of the field
        self.data |= line == b"data" || line.starts_with(b"data:");
        let sent = line.is_empty() && self.data;
        self.line.clear();
        self.later = true;
        sent
    }
}

#[cfg(test)]
mod tests;
