//! The assistant's message of an answer that passes by: as it stands in JSON, or put together from
//! the events of a stream.
//!
//! Of a message only what every server takes back is kept: what it says, what it refuses, which
//! tools it calls. The next turn may go to another server, and some refuse each other's extras
//! (OpenAI an empty `tool_calls`, DeepSeek its own `reasoning_content`). What is kept keeps its
//! bytes: strings are joined as JSON writes them, escapes and all.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::Message;

/// Largest JSON answer that is looked into, in bytes.
const LARGEST: usize = 4 * 1024 * 1024;
/// Longest line of an event stream, in bytes.
const LONGEST: usize = 1024 * 1024;
/// Most tool calls of one message.
const MOST_CALLS: usize = 128;

/// Hears an answer while it passes.
pub(crate) enum Hearing {
    Json { body: Vec<u8>, size: usize },
    Events(Box<Events>),
}

impl Hearing {
    /// `most`: bytes beyond which a message is not kept anyway.
    pub(crate) fn new(events: bool, most: u64) -> Self {
        match events {
            true => Hearing::Events(Box::new(Events {
                most,
                ..Events::default()
            })),
            false => Hearing::Json {
                body: Vec::new(),
                size: 0,
            },
        }
    }

    /// Takes the next piece. Says whether an event stream is done: then nothing else comes that
    /// matters, and its end may never be seen.
    pub(crate) fn push(&mut self, piece: &[u8]) -> bool {
        match self {
            Hearing::Json { body, size } => {
                *size += piece.len();
                match *size <= LARGEST {
                    true => body.extend_from_slice(piece),
                    false => *body = Vec::new(),
                }
                false
            }
            Hearing::Events(events) => {
                events.feed(piece);
                events.done
            }
        }
    }

    /// The message, now that the answer is whole; `None` if nothing was said, or not to its end.
    pub(crate) fn message(self) -> Option<Message> {
        match self {
            Hearing::Json { size, .. } if size > LARGEST => Some(Message::too_large(size as u64)),
            Hearing::Json { body, .. } => whole(&body),
            Hearing::Events(events) => events.message(),
        }
    }
}

/// What an answer says, each as JSON text.
#[derive(Default)]
struct Spoken<'a> {
    content: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    tool_calls: Option<Cow<'a, str>>,
}

impl Spoken<'_> {
    fn message(self) -> Option<Message> {
        let is_said =
            |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| text != "\"\"");
        if !is_said(&self.content) && self.refusal.is_none() && self.tool_calls.is_none() {
            return None;
        }
        let content = self.content.unwrap_or(Cow::Borrowed("null"));
        let mut text = format!("{{\"role\":\"assistant\",\"content\":{content}");
        for (name, value) in [("refusal", self.refusal), ("tool_calls", self.tool_calls)] {
            if let Some(value) = value {
                text.push_str(&format!(",\"{name}\":{value}"));
            }
        }
        text.push('}');
        Message::read(&text)
    }
}

/// What was filtered is not for the next turn.
fn is_filtered(reason: Option<&str>) -> bool {
    reason == Some("content_filter")
}

// === JSON ===

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    choices: Vec<WholeChoice<'a>>,
}

#[derive(Deserialize)]
struct WholeChoice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    message: Option<WholeMessage<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct WholeMessage<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

fn whole(body: &[u8]) -> Option<Message> {
    let answer: Whole<'_> = serde_json::from_slice(body).ok()?;
    let first = answer
        .choices
        .into_iter()
        .find(|choice| choice.index == 0)?;
    if is_filtered(first.finish_reason.as_deref()) {
        return None;
    }
    let said = first.message?;
    let text = |raw: Option<&'_ RawValue>| raw.map(|raw| Cow::Owned(raw.get().to_owned()));
    let is_empty = |raw: &&RawValue| {
        let calls = serde_json::from_str::<Vec<&RawValue>>(raw.get());
        calls.is_ok_and(|calls| calls.is_empty())
    };
    let spoken = Spoken {
        content: text(said.content),
        refusal: text(said.refusal),
        tool_calls: text(said.tool_calls.filter(|raw| !is_empty(raw))),
    };
    spoken.message()
}

// === events ===

/// A stream of events, and what its first choice has said so far.
#[derive(Default)]
pub(crate) struct Events {
    /// The beginning of a line.
    begun: Vec<u8>,
    most: u64,
    /// Bytes of what was said, kept or not.
    size: u64,
    /// Between the quotes.
    content: Option<String>,
    refusal: Option<String>,
    calls: Vec<Call>,
    /// Why the choice ended, if it has.
    finished: Option<String>,
    done: bool,
    /// It is no stream of a chat, or it tells of an error.
    failed: bool,
}

/// A tool call; all of it is JSON text.
#[derive(Default)]
struct Call {
    index: u64,
    /// `id`, `type` and whatever else stands beside the function.
    fields: BTreeMap<String, String>,
    /// `name` and whatever else.
    function: BTreeMap<String, String>,
    /// Between the quotes.
    arguments: String,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<ChunkChoice<'a>>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<BTreeMap<String, &'a RawValue>>>,
}

/// What stands between the quotes of a text.
fn unquoted(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

impl Events {
    fn feed(&mut self, mut piece: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.done || self.failed {
                continue;
            }
            if self.begun.is_empty() {
                self.line(line);
            } else {
                let mut begun = std::mem::take(&mut self.begun);
                begun.extend_from_slice(line);
                self.line(&begun);
            }
        }
        if self.done || self.failed || self.begun.len() + piece.len() > LONGEST {
            self.failed = !self.done;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if line == b"event: error" {
            self.failed = true;
        }
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            return;
        };
        match data {
            b"[DONE]" => self.done = true,
            b"" => {}
            _ if self.chunk(data).is_none() => self.failed = true,
            _ => {}
        }
    }

    /// `None` if it is none, or tells of an error.
    fn chunk(&mut self, data: &[u8]) -> Option<()> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).ok()?;
        if chunk.error.is_some() {
            return None;
        }
        let choices = chunk.choices.into_iter().flatten();
        for choice in choices.filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta {
                self.delta(&delta)?;
            }
            if choice.finish_reason.is_some() {
                self.finished = choice.finish_reason;
            }
        }
        Some(())
    }

    fn delta(&mut self, delta: &Delta<'_>) -> Option<()> {
        for (raw, mine) in [
            (delta.content, &mut self.content),
            (delta.refusal, &mut self.refusal),
        ] {
            let Some(raw) = raw else { continue };
            let text = unquoted(raw)?;
            self.size += text.len() as u64;
            if self.size <= self.most {
                mine.get_or_insert_default().push_str(text);
            }
        }
        for call in delta.tool_calls.iter().flatten() {
            let length: usize = call.values().map(|raw| raw.get().len()).sum();
            self.size += length as u64;
            if self.size <= self.most {
                self.call(call)?;
            }
        }
        Some(())
    }

    fn call(&mut self, delta: &BTreeMap<String, &RawValue>) -> Option<()> {
        let id = delta.get("id").map(|raw| raw.get());
        let id = id.filter(|id| !matches!(*id, "null" | "\"\""));
        let index = delta.get("index").and_then(|raw| raw.get().parse().ok());
        // some give no index, or the same to all; then a new id begins a new call
        let is_same = |call: &Call| {
            index.is_none_or(|index: u64| index == call.index)
                && id.is_none_or(|id| call.fields.get("id").is_none_or(|own| own == id))
        };
        let found = self.calls.iter().rposition(is_same);
        let at = match found {
            Some(at) => at,
            None if self.calls.len() == MOST_CALLS => return None,
            None => {
                self.calls.push(Call {
                    index: index.unwrap_or(self.calls.len() as u64),
                    ..Call::default()
                });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        for (name, raw) in delta {
            match name.as_str() {
                "index" => {}
                "function" => call.function(raw)?,
                _ => once(&mut call.fields, name, raw),
            }
        }
        Some(())
    }

    fn message(self) -> Option<Message> {
        let ended = self.done || self.finished.is_some();
        if self.failed || !ended || is_filtered(self.finished.as_deref()) {
            return None;
        }
        if self.size > self.most {
            return Some(Message::too_large(self.size));
        }
        let quoted = |text: Option<String>| text.map(|text| Cow::Owned(format!("\"{text}\"")));
        let calls: Vec<String> = self.calls.iter().map(Call::written).collect();
        let spoken = Spoken {
            content: quoted(self.content),
            refusal: quoted(self.refusal),
            tool_calls: (!calls.is_empty()).then(|| format!("[{}]", calls.join(",")).into()),
        };
        spoken.message()
    }
}

impl Call {
    fn function(&mut self, raw: &RawValue) -> Option<()> {
        let function: Option<BTreeMap<String, &RawValue>> = serde_json::from_str(raw.get()).ok()?;
        for (name, raw) in function.into_iter().flatten() {
            match name.as_str() {
                "arguments" if raw.get() == "null" => {}
                "arguments" => self.arguments.push_str(unquoted(raw)?),
                _ => once(&mut self.function, &name, raw),
            }
        }
        Some(())
    }

    fn written(&self) -> String {
        let mut fields = self.fields.clone();
        let kind = fields.entry("type".to_owned());
        kind.or_insert_with(|| "\"function\"".to_owned());
        let mut function = self.function.clone();
        function.insert("arguments".to_owned(), format!("\"{}\"", self.arguments));
        fields.insert("function".to_owned(), object(&function));
        object(&fields)
    }
}

/// Notes a field that comes once, or again and again.
fn once(fields: &mut BTreeMap<String, String>, name: &str, raw: &RawValue) {
    if !matches!(raw.get(), "null" | "\"\"") && !fields.contains_key(name) {
        fields.insert(name.to_owned(), raw.get().to_owned());
    }
}

fn object(fields: &BTreeMap<String, String>) -> String {
    let fields = fields.iter();
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_str())))
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests;
