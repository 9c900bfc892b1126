//! What a request used, where a limit or a budget counts it: its answer is asked to tell, and where
//! it does not, something near is taken for it.

use super::body::Upload;
use super::exchange::{Exchange, Stop};
use super::taken::BYTES_PER_TOKEN;
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Field, Form, Shape};
use crate::observe::usage::Usage;
use crate::transform::fields::{Edit, Edits};

/// Longest `stream_options` that are looked into, in bytes; longer ones are replaced.
const LONGEST: u64 = 4096;
/// Most tokens that are taken for a request nobody counted: what is longer is pictures and sound.
const MOST: u64 = 32 * 1024;

/// Of a request whose use is counted.
#[derive(Clone, Default)]
pub(super) struct Counting {
    /// What becomes of its `stream_options`, if they keep quiet about it.
    options: Option<Edit>,
    /// Events of the answer that passed by.
    events: u64,
}

/// Counts events that pass by; one whose name is cut in two may be missed.
#[derive(Default)]
pub(super) struct Events {
    pub(super) count: u64,
    /// The piece before ended with a line.
    line_begins: bool,
}

impl Events {
    pub(super) fn feed(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        // no text in JSON has the end of a line in it
        let within = memchr::memmem::find_iter(piece, b"\ndata:").count() as u64;
        self.count += within + u64::from(self.line_begins && piece.starts_with(b"data:"));
        self.line_begins = *last == b'\n';
    }
}

/// Whether an answer comes in events, and tells what it used only if it is asked to.
pub(super) fn tells_if_asked(operation: Option<Operation>, body: &Body) -> bool {
    matches!(operation, Some(Operation::Chat | Operation::Completion))
        && body.field("stream").is_some_and(|field| field.is_true)
}

impl Exchange {
    /// Asks for what is used although the client's own `stream_options` do not.
    pub(super) async fn ask_in_options(
        &mut self,
        upload: &Upload,
        options: &Field,
    ) -> Result<(), Stop> {
        let mut text = Vec::new();
        let long = options.value.end - options.value.start > LONGEST;
        let mut at = options.value.start;
        while !long
            && at < options.value.end
            && let Some(piece) = upload.again(at).await?
        {
            let piece = &piece[..piece.len().min((options.value.end - at) as usize)];
            at += piece.len() as u64;
            text.extend_from_slice(piece);
        }
        let own = serde_json::from_slice::<serde_json::Map<_, _>>(&text);
        let mut own = own.unwrap_or_default();
        if own.get("include_usage") == Some(&true.into()) {
            return Ok(());
        }
        own.insert("include_usage".to_owned(), true.into());
        if let Some(counting) = &mut self.counting {
            counting.options = Some(Edit {
                at: options.value.clone(),
                with: serde_json::Value::Object(own).to_string().into(),
            });
            self.asks_usage = true;
        }
        Ok(())
    }

    /// The client's `stream_options`, where they may keep quiet about what is counted.
    pub(super) fn doubtful_options<'a>(&self, body: Option<&'a Body>) -> Option<&'a Field> {
        let body = body.filter(|body| self.counting.is_some() && body.form == Form::Json)?;
        let options = body.field("stream_options")?;
        let asked = tells_if_asked(self.operation, body);
        (asked && matches!(options.shape, Shape::Null | Shape::Other)).then_some(options)
    }

    /// Puts the question into the client's `stream_options`.
    pub(super) fn put_question(&self, edits: &mut Edits) {
        if let Some(edit) = self.counting.as_ref().and_then(|one| one.options.as_ref()) {
            edits.add(std::slice::from_ref(edit));
        }
    }

    /// Notes events of the answer that passed by.
    pub(super) fn passed_events(&mut self, events: u64) {
        if let Some(counting) = &mut self.counting {
            counting.events = events;
        }
    }

    /// What was used: as the answer says, or about that of a stream that does not, be it that its
    /// client left before. An event is a token, more or less.
    pub(super) fn usage(&self) -> Usage {
        let told = self.record.usage;
        let events = self.counting.as_ref().map_or(0, |one| one.events);
        if told != Usage::default() || events == 0 || self.is_audio() {
            return told;
        }
        Usage {
            input: Some((self.record.bytes_in / BYTES_PER_TOKEN).min(MOST)),
            output: Some(events),
        }
    }
}
