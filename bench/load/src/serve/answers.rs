//! What fake servers answer.

use std::io::Write;

use crate::clock::now;

/// What the answer to everything that is posted is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// A small chat completion, the same each time, after `delay` nanoseconds.
    Chat { delay: u64 },
    /// As many events, `gap` nanoseconds apart, each with the time at which it was sent.
    Events { count: usize, gap: u64 },
    /// As many bytes of audio, the first of them after `delay` nanoseconds, the others at once.
    Speech { delay: u64, bytes: usize },
    /// How many bytes the request's body had.
    Received,
}

pub(crate) const HEALTHY: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}";

const FIRST_AUDIO: usize = 1024;

/// A whole answer, head and body.
pub(crate) fn chat(name: &str) -> Vec<u8> {
    json(&format!(
        r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"bench","system_fingerprint":"{name}","choices":[{{"index":0,"finish_reason":"stop","message":{{"role":"assistant","content":"It is a quarter past nine, says {name}."}}}}],"usage":{{"prompt_tokens":240,"completion_tokens":8,"total_tokens":248}}}}"#
    ))
}

fn json(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub(crate) fn received(out: &mut Vec<u8>, bytes: u64) {
    // `text` is what an answer to a transcription has
    out.extend_from_slice(&json(&format!(
        r#"{{"text":"received {bytes} bytes","received":{bytes}}}"#
    )));
}

impl Answer {
    /// Appends piece `number`. Nanoseconds until the next one, or none if that was the last.
    pub(crate) fn piece(self, number: usize, name: &str, out: &mut Vec<u8>) -> Option<u64> {
        match self {
            Answer::Events { count, gap } => {
                if number == 0 {
                    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n");
                }
                event(out, number, name);
                if number + 1 < count {
                    return Some(gap);
                }
                out.extend_from_slice(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
                None
            }
            Answer::Speech { bytes, .. } if number == 0 => {
                out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n");
                audio(out, FIRST_AUDIO.min(bytes));
                Some(0)
            }
            Answer::Speech { bytes, .. } => {
                if let Some(rest @ 1..) = bytes.checked_sub(FIRST_AUDIO) {
                    audio(out, rest);
                }
                out.extend_from_slice(b"0\r\n\r\n");
                None
            }
            Answer::Chat { .. } => {
                out.extend_from_slice(&chat(name));
                None
            }
            Answer::Received => None,
        }
    }
}

/// One event in a chunk of its own; the time is in the text, where every proxy keeps it.
fn event(out: &mut Vec<u8>, number: usize, name: &str) {
    let sent = now();
    let start = out.len();
    let write = |out: &mut Vec<u8>, part: std::fmt::Arguments<'_>| {
        out.write_fmt(part).expect("a vector takes everything");
    };
    // of the chunk's length, which is known when the event is written
    write(out, format_args!("0000\r\n"));
    let from = out.len();
    write(
        out,
        format_args!(
            r#"data: {{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":0,"model":"bench","system_fingerprint":"{name}","choices":[{{"index":0,"delta":{{"role":"assistant","content":"t={sent:020} n={number:05} "}},"finish_reason":null}}]}}"#
        ),
    );
    out.extend_from_slice(b"\n\n");
    let length = format!("{:04x}", out.len() - from);
    out[start..start + 4].copy_from_slice(length.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn audio(out: &mut Vec<u8>, bytes: usize) {
    write!(out, "{bytes:x}\r\n").expect("a vector takes everything");
    out.resize(out.len() + bytes, 0x55);
    out.extend_from_slice(b"\r\n");
}
