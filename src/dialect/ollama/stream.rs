//! An answer in pieces: Ollama's lines become OpenAI's events while they come, however the
//! network cut them.

use serde::Serialize;

use super::super::{Broken, Expected, Form, Stamp, Tokens};
use super::wire::{Called, Line, Logprobs, ToolCall, Usage, seconds};

/// Longest line, in bytes. A piece of a text has some hundred; calls of tools come whole.
const LONGEST: usize = 4 * 1024 * 1024;

/// An answer that is being told.
pub(crate) struct Stream {
    expected: Expected,
    id: String,
    /// When it was asked for; then when Ollama says that it began. The same in every event.
    created: u64,
    /// The line that is not whole yet.
    line: Vec<u8>,
    begun: bool,
    calls: usize,
    done: bool,
    tokens: Option<Tokens>,
}

#[derive(Serialize)]
struct Chunk<'a, C: Serialize> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

impl Stream {
    pub(crate) fn new(expected: Expected, stamp: &Stamp) -> Self {
        let prefix = match expected.form {
            Form::Completion => "cmpl",
            _ => "chatcmpl",
        };
        Stream {
            expected,
            id: format!("{prefix}-{}", stamp.id),
            created: stamp.now,
            line: Vec::new(),
            begun: false,
            calls: 0,
            done: false,
            tokens: None,
        }
    }

    /// Whether something was said: lines without content are no beginning.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// What the answer took, once it is done.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        self.tokens
    }

    /// Takes the next piece and writes what can be told of it. Behind an error nothing may be fed;
    /// what was written before it is good.
    pub(crate) fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.line.is_empty() {
                self.tell(line, out)?;
                continue;
            }
            self.keep(line)?;
            let line = std::mem::take(&mut self.line);
            self.tell(&line, out)?;
        }
        self.keep(piece)
    }

    /// The server has nothing more to say.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let line = std::mem::take(&mut self.line);
        self.tell(&line, out)?;
        if self.done { Ok(()) } else { Err(Broken::Cut) }
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Broken> {
        if self.line.len() + part.len() > LONGEST {
            let message = format!("a line of its answer has more than {LONGEST} bytes");
            return Err(Broken::Garbled(message));
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn tell(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let line = line.trim_ascii();
        if line.is_empty() || self.done {
            return Ok(());
        }
        let line = Line::read(line)?;
        if !self.begun
            && let Some(created) = line.created_at.as_deref().and_then(seconds)
        {
            self.created = created;
        }
        match self.expected.form {
            Form::Completion => self.tell_text(&line, out),
            _ => self.tell_message(&line, out),
        }
        if line.done {
            self.done = true;
            self.tokens = Some(line.tokens());
            if self.expected.usage {
                self.write::<()>(&[], Some(line.tokens().into()), out);
            }
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
        Ok(())
    }

    /// Thinking, text and calls each in an event of their own, then the reason of the end.
    fn tell_message(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let message = line.message.as_ref();
        let thought = message.and_then(|m| m.thinking.as_deref());
        let content = message.and_then(|m| m.content.as_deref());
        let mut logprobs = line.logprobs();
        if let Some(thought) = thought.filter(|text| !text.is_empty()) {
            let delta = Delta {
                reasoning: Some(thought),
                ..self.delta()
            };
            self.write_delta(delta, logprobs.take(), None, out);
        }
        if let Some(content) = content.filter(|text| !text.is_empty()) {
            let delta = Delta {
                content: Some(content),
                ..self.delta()
            };
            self.write_delta(delta, logprobs.take(), None, out);
        }
        let calls = message.and_then(|m| m.tool_calls.as_deref());
        for call in calls.unwrap_or_default() {
            self.tell_call(call, out);
        }
        if line.done {
            let delta = self.delta();
            let reason = line.finish_reason(self.calls > 0);
            self.write_delta(delta, logprobs, Some(reason), out);
        }
    }

    /// Ollama numbers calls within a line, or not at all; here they are numbered throughout.
    fn tell_call(&mut self, call: &Called<'_>, out: &mut Vec<u8>) {
        let own = self.id.rsplit('-').next().unwrap_or_default();
        let call = call.told(self.calls, own, true);
        self.calls += 1;
        let delta = Delta {
            tool_calls: vec![call],
            ..self.delta()
        };
        self.write_delta(delta, None, None, out);
    }

    fn tell_text(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let text = line.response.as_deref().unwrap_or_default();
        if text.is_empty() && !line.done {
            return;
        }
        self.begun = true;
        let choice = TextChoice {
            index: 0,
            text,
            logprobs: line.logprobs(),
            finish_reason: line.done.then(|| line.finish_reason(false)),
        };
        self.write(&[choice], None, out);
    }

    /// The first says who speaks.
    fn delta<'a>(&mut self) -> Delta<'a> {
        let first = !std::mem::replace(&mut self.begun, true);
        Delta {
            role: first.then_some("assistant"),
            ..Delta::default()
        }
    }

    fn write_delta(
        &self,
        delta: Delta<'_>,
        logprobs: Option<Logprobs<'_>>,
        finish_reason: Option<&'static str>,
        out: &mut Vec<u8>,
    ) {
        let choice = Choice {
            index: 0,
            delta,
            logprobs,
            finish_reason,
        };
        self.write(&[choice], None, out);
    }

    fn write<C: Serialize>(&self, choices: &[C], usage: Option<Usage>, out: &mut Vec<u8>) {
        let chunk = Chunk {
            id: &self.id,
            object: match self.expected.form {
                Form::Completion => "text_completion",
                _ => "chat.completion.chunk",
            },
            created: self.created,
            model: &self.expected.model,
            system_fingerprint: "fp_ollama",
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &chunk).expect("a chunk can be written to memory");
        out.extend_from_slice(b"\n\n");
    }
}
