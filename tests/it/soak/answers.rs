//! What a fake server answers, and how it fails to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake::{Gone, Inner, Mood, Seen, reset};
use super::ledger::{Act, Did};

pub fn put(mut stream: &TcpStream, bytes: impl AsRef<[u8]>) -> Result<(), Gone> {
    stream.write_all(bytes.as_ref()).map_err(|_| Gone)
}

/// One answer in the making.
pub struct Answering<'a> {
    pub inner: &'a Inner,
    pub stream: &'a TcpStream,
    pub id: &'a str,
    /// The place of the act in the ledger.
    pub at: usize,
}

/// The length and a checksum of a body, for who wants to know that it came whole.
pub fn sum(body: &[u8]) -> String {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{} {hash:x}", body.len())
}

/// What is spoken for a text: the text, over and over.
pub fn spoken(text: &str, length: usize) -> Vec<u8> {
    text.bytes().cycle().take(length).collect()
}

impl Answering<'_> {
    fn note(&self, change: impl FnOnce(&mut Act)) {
        self.inner.ledger.note(self.id, self.at, change);
    }

    pub fn answer(&self, seen: &Seen) -> Result<(), Gone> {
        match self.inner.mood() {
            Mood::Hangs | Mood::Deaf => {
                self.inner.sit_out(self.stream, self.inner.mood())?;
                return Err(Gone);
            }
            Mood::Says500 => return self.error(500, ""),
            Mood::Says503 => return self.error(503, "retry-after: 1\r\n"),
            Mood::Nonsense => {
                self.note(|act| act.did = Did::Nonsense);
                put(self.stream, b"\0\x01\xffwhat is this\r\n\r\n\x80\x81")?;
                return Err(Gone);
            }
            Mood::Well | Mood::Breaks => {}
        }
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let number = |name: &str| body[name].as_u64().unwrap_or(0);
        // as long as the client says that it takes
        std::thread::sleep(Duration::from_millis(number("seed") % 100));
        let path = seen.target.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), path) {
            (_, "/v1/chat/completions") if body["stream"] == true => self.stream_chat(&body),
            (_, "/v1/chat/completions") => self.chat(&body),
            (_, "/v1/audio/speech") => {
                let text = body["input"].as_str().unwrap_or_default();
                self.speak(&spoken(text, 200 * text.len()))
            }
            (_, "/v1/audio/transcriptions") => self.json(&json!({ "text": sum(&seen.body) }), None),
            (_, "/v1/embeddings") => {
                let tokens = 1 + number("seed") % 7;
                let data = json!({ "embedding": [0.5, 0.25], "index": 0, "object": "embedding" });
                let answer = json!({ "object": "list", "data": [data], "model": "e",
                    "echo": body["input"], "usage": { "prompt_tokens": tokens, "total_tokens": tokens } });
                self.json(&answer, Some((tokens, 0)))
            }
            ("POST", "/v1/responses") => {
                let id = format!("resp_{}{}", self.server(), self.id.replace('-', ""));
                let answer = json!({ "id": id, "object": "response", "served_by": self.server(),
                    "usage": { "input_tokens": 5, "output_tokens": 6, "total_tokens": 11 } });
                self.json(&answer, Some((5, 6)))
            }
            ("GET", path) if path.starts_with("/v1/responses/") => {
                let id = &path["/v1/responses/".len()..];
                match id.starts_with(&format!("resp_{}", self.server())) {
                    true => self.json(&json!({ "id": id, "served_by": self.server() }), None),
                    false => self.error(404, ""),
                }
            }
            (_, "/v1/realtime") => self.tunnel(),
            _ => self.error(404, ""),
        }
    }

    fn server(&self) -> &'static str {
        self.inner.name.split('/').nth(1).unwrap()
    }

    /// Whether this answer is to break off in its middle.
    fn breaks(&self) -> bool {
        self.inner.mood() == Mood::Breaks
            && self.id.bytes().last().is_some_and(|b| b.is_multiple_of(2))
    }

    fn error(&self, status: u16, more: &str) -> Result<(), Gone> {
        let body = json!({ "error": { "message": "no", "type": "server_error", "param": null, "code": null } });
        self.whole(status, more, body.to_string().as_bytes(), None)
    }

    fn json(&self, body: &Value, tokens: Option<(u64, u64)>) -> Result<(), Gone> {
        self.whole(200, "", body.to_string().as_bytes(), tokens)
    }

    fn whole(
        &self,
        status: u16,
        more: &str,
        body: &[u8],
        tokens: Option<(u64, u64)>,
    ) -> Result<(), Gone> {
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n",
            body.len()
        );
        self.note(|act| {
            act.status = status;
            act.did = Did::Began;
        });
        if status == 200 && self.breaks() {
            self.piece(&[head.as_bytes(), &body[..body.len() / 2]].concat())?;
            return self.break_off();
        }
        self.inner.sent.fetch_add(body.len() as u64, SeqCst);
        // told before it goes out: behind it all may be looked at
        self.note(|act| {
            act.did = Did::Answered;
            act.tokens = tokens;
        });
        let put = put(self.stream, [head.as_bytes(), body].concat());
        put.inspect_err(|_| self.note(|act| act.did = Did::Began))
    }

    fn piece(&self, bytes: &[u8]) -> Result<(), Gone> {
        self.inner.sent.fetch_add(bytes.len() as u64, SeqCst);
        put(self.stream, bytes)
    }

    fn break_off(&self) -> Result<(), Gone> {
        std::thread::sleep(Duration::from_millis(5));
        reset(self.stream);
        Err(Gone)
    }

    /// A head for pieces.
    fn begin(&self, content_type: &str) -> Result<(), Gone> {
        self.note(|act| {
            act.status = 200;
            act.did = Did::Began;
        });
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        put(self.stream, head)
    }

    fn chunk(&self, data: &[u8]) -> Result<(), Gone> {
        self.inner.sent.fetch_add(data.len() as u64, SeqCst);
        let size = format!("{:x}\r\n", data.len());
        put(self.stream, [size.as_bytes(), data, b"\r\n"].concat())
    }

    fn end(&self, tokens: Option<(u64, u64)>) -> Result<(), Gone> {
        self.note(|act| {
            act.did = Did::Answered;
            act.tokens = tokens;
        });
        let put = put(self.stream, b"0\r\n\r\n");
        put.inspect_err(|_| self.note(|act| act.did = Did::Began))
    }

    fn chat(&self, body: &Value) -> Result<(), Gone> {
        let messages = body["messages"].as_array().map_or(0, Vec::len) as u64;
        let last = &body["messages"][messages.saturating_sub(1) as usize]["content"];
        let tokens = (
            3 * messages + 7,
            1 + body["max_tokens"].as_u64().unwrap_or(1),
        );
        let message = json!({ "role": "assistant", "content": format!("{messages}:{}", last.as_str().unwrap_or_default()) });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        let usage = json!({ "prompt_tokens": tokens.0, "completion_tokens": tokens.1, "total_tokens": tokens.0 + tokens.1 });
        let answer = json!({ "object": "chat.completion", "choices": [choice], "usage": usage });
        self.json(&answer, Some(tokens))
    }

    fn stream_chat(&self, body: &Value) -> Result<(), Gone> {
        let count = body["max_tokens"].as_u64().unwrap_or(1);
        self.begin("text/event-stream")?;
        for n in 0..count {
            let choice = json!({ "index": 0, "delta": { "content": format!("{n} ") }, "finish_reason": null });
            let event = json!({ "object": "chat.completion.chunk", "choices": [choice] });
            self.chunk(format!("data: {event}\n\n").as_bytes())?;
            if n == count / 2 && self.breaks() {
                return self.break_off();
            }
            std::thread::sleep(Duration::from_millis(8));
        }
        let mut tokens = None;
        if body["stream_options"]["include_usage"] == true {
            tokens = Some((7, count));
            let usage = json!({ "prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count });
            let event = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
            self.chunk(format!("data: {event}\n\n").as_bytes())?;
        }
        self.chunk(b"data: [DONE]\n\n")?;
        self.end(tokens)
    }

    fn speak(&self, audio: &[u8]) -> Result<(), Gone> {
        self.begin("audio/mpeg")?;
        for (n, piece) in audio.chunks(16 * 1024).enumerate() {
            self.chunk(piece)?;
            if n == 1 && self.breaks() {
                return self.break_off();
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        self.end(None)
    }

    /// Sends back what it gets until the other side ends.
    fn tunnel(&self) -> Result<(), Gone> {
        self.note(|act| {
            act.status = 101;
            act.did = Did::Answered;
        });
        put(
            self.stream,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        let mut buffer = [0; 16 * 1024];
        let mut stream = self.stream;
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            self.inner.received.fetch_add(count as u64, SeqCst);
            self.inner.sent.fetch_add(count as u64, SeqCst);
            put(self.stream, &buffer[..count])?;
        }
        Err(Gone)
    }
}
