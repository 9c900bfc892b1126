//! What clients do, each thing in its own way.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{spoken, sum};
use super::clients::{Client, KEY, Manner, chat, code};
use super::kinds::Kind;
use super::ledger::{End, Outcome};
use crate::support::form;

impl Client<'_> {
    pub(super) fn chat(&mut self, kind: Kind) {
        let model = match kind {
            Kind::Solo => "beta",
            _ => "alpha",
        };
        let words = format!("w{}", self.random.u64(..));
        let body = chat(model, &words, &mut self.random, false);
        let got = self.ask(kind, "POST", "/v1/chat/completions", &body, Manner::Whole);
        let said = &got.json()["choices"][0]["message"]["content"];
        if got.is_good() && *said != format!("1:{words}") {
            self.wrong(kind, &got);
        }
    }

    pub(super) fn stream(&mut self, kind: Kind) {
        let mut body = chat("alpha", "go on", &mut self.random, true);
        let tells = self.random.bool();
        if tells {
            body = body.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
        }
        let manner = match kind {
            Kind::Cancel => Manner::Pieces(self.random.usize(1..8)),
            _ => Manner::Whole,
        };
        let got = self.ask(kind, "POST", "/v1/chat/completions", &body, manner);
        let text = String::from_utf8_lossy(&got.body);
        let asked: Value = serde_json::from_str(&body).unwrap();
        let whole = (text.matches("\"delta\"").count() as u64)
            == asked["max_tokens"].as_u64().unwrap()
            && text.contains("\"usage\"") == tells;
        if got.is_good() && !whole {
            self.wrong(kind, &got);
        }
    }

    pub(super) fn gone(&mut self) {
        let stream = self.random.bool();
        let body = chat("alpha", "never mind", &mut self.random, stream);
        let leaves = Manner::Leaves(Duration::from_millis(self.random.u64(1..80)));
        self.ask(Kind::Gone, "POST", "/v1/chat/completions", &body, leaves);
    }

    pub(super) fn speech(&mut self, kind: Kind) {
        let (model, text) = match kind {
            // some are asked for again and again, others once
            Kind::Kept => (
                "kept",
                format!("say number {} again. ", self.random.u32(..400).pow(2) / 400),
            ),
            Kind::Slow => (
                "tts-1",
                "slowly, ".repeat(40) + &self.random.u64(..).to_string(),
            ),
            _ => (
                "tts-1",
                "hello ".repeat(self.random.usize(1..30)) + &self.random.u64(..).to_string(),
            ),
        };
        let body =
            json!({ "model": model, "input": text, "voice": "v", "seed": self.random.u32(..100) })
                .to_string();
        let manner = match kind {
            Kind::Slow => Manner::Slowly,
            _ => Manner::Whole,
        };
        let got = self.ask(kind, "POST", "/v1/audio/speech", &body, manner);
        if got.is_good() && got.body != spoken(&text, 200 * text.len()) {
            self.wrong(kind, &got);
        }
    }

    /// 10 KB to 5 MB, mostly small.
    pub(super) fn upload(&mut self, kind: Kind) {
        let length = (10_000.0 * 500f64.powf(self.random.f64())) as usize;
        let file: Vec<u8> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
        let first = self.random.bool();
        let (content_type, body) = form(&[("model", "whisper-1")], &file, first);
        let id = self.stage.ledger.new_id();
        let told = match kind {
            Kind::TooLarge => 200_000_000,
            _ => body.len(),
        };
        let path = "/v1/audio/transcriptions";
        let head = self.head("POST", path, &id, KEY, &content_type, told) + "\r\n";
        self.sent = body.len() as u64;
        let mut caller = self.caller(true);
        if kind == Kind::TooLarge {
            let _ = caller.write(head.as_bytes());
            self.take(kind, &id, caller, Manner::Whole);
            // what was announced never comes
            self.caller = None;
            return;
        }
        if kind == Kind::HalfUpload {
            let _ = caller.write(&[head.as_bytes(), &body[..body.len() / 2]].concat());
            let leaves = Manner::Leaves(Duration::from_millis(self.random.u64(1..50)));
            self.take(kind, &id, caller, leaves);
            return;
        }
        // an early refusal may come while it is sent
        let sender = caller.writer();
        let bytes = [head.as_bytes(), &body].concat();
        let writing = std::thread::spawn(move || {
            use std::io::Write;
            let _ = (&sender).write_all(&bytes);
        });
        let got = self.take(kind, &id, caller, Manner::Whole);
        let _ = writing.join();
        if got.is_good() && got.json()["text"] != sum(&body) {
            self.wrong(kind, &got);
        }
    }

    pub(super) fn embed(&mut self, kind: Kind) {
        let words = format!("w{}", self.random.u64(..));
        let body = json!({ "model": "e", "input": words, "seed": self.random.u32(..20) });
        let got = self.ask(
            kind,
            "POST",
            "/v1/embeddings",
            &body.to_string(),
            Manner::Whole,
        );
        if got.is_good() && got.json()["echo"] != words {
            self.wrong(kind, &got);
        }
    }

    pub(super) fn bad_body(&mut self) {
        let bodies = [
            r#"{"model":"#,
            r#"{"model":"alpha","messages":[],"model":"beta"}"#,
            "[1, 2, 3]",
            "nonsense",
        ];
        let body = bodies[self.random.usize(..bodies.len())];
        self.ask(
            Kind::BadBody,
            "POST",
            "/v1/chat/completions",
            body,
            Manner::Whole,
        );
    }

    pub(super) fn bad_head(&mut self) {
        let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(20_000));
        let many = format!(
            "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
            "x-many: 1\r\n".repeat(200)
        );
        let heads = [
            "NONSENSE\r\n\r\n",
            "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nbad name: x\r\n\r\n",
            &long,
            &many,
        ];
        let head = heads[self.random.usize(..heads.len())];
        let mut caller = self.connect();
        let _ = caller.write(head.as_bytes());
        let Some(head_of_it) = caller.head() else {
            let start: String = head.chars().take(40).collect();
            self.stage.ledger.wrong(format!("no answer to {start:?}"));
            return;
        };
        let (body, end) = self.body(&mut caller, &head_of_it, Manner::Whole);
        let id = head_of_it.header("x-request-id").unwrap_or_default();
        let outcome = Outcome {
            kind: Kind::BadHead,
            end,
            status: head_of_it.status,
            sent: 0,
            bytes: body.len() as u64,
            code: code(&body),
        };
        self.stage.ledger.ended(id.to_owned(), outcome);
    }

    pub(super) fn half_head(&mut self) {
        let mut caller = self.connect();
        let _ = caller.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-requ");
        std::thread::sleep(Duration::from_millis(self.random.u64(1..50)));
        caller.leave();
        self.stage.unnamed.fetch_add(1, SeqCst);
    }

    /// A WebSocket, whose bytes come back.
    pub(super) fn talk(&mut self) {
        let id = self.stage.ledger.new_id();
        let mut caller = self.caller(true);
        let ask = format!(
            "GET /v1/realtime?model=live HTTP/1.1\r\nhost: edge.test\r\nx-request-id: {id}\r\nauthorization: Bearer {KEY}\r\n\
             connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let _ = caller.write(ask.as_bytes());
        let ended = |status, bytes, end| {
            let (kind, code) = (Kind::Talk, String::new());
            let outcome = Outcome {
                kind,
                end,
                status,
                sent: bytes,
                bytes,
                code,
            };
            self.stage.ledger.ended(id.clone(), outcome);
        };
        let status = caller.head().map_or(0, |head| head.status);
        if status != 101 {
            return ended(status, 0, End::Broken);
        }
        let mut bytes = 0;
        for _ in 0..self.random.u32(1..20) {
            let length = self.random.usize(1..20_000);
            let said: Vec<u8> = std::iter::repeat_with(|| self.random.u8(..))
                .take(length)
                .collect();
            let _ = caller.write(&said);
            if caller.exactly(length).as_ref() != Some(&said) {
                return ended(status, bytes, End::Broken);
            }
            bytes += length as u64;
            std::thread::sleep(Duration::from_millis(self.random.u64(1..60)));
        }
        if self.random.u32(..4) == 0 {
            caller.reset();
            return ended(status, bytes, End::Left);
        }
        let _ = caller.writer().shutdown(std::net::Shutdown::Write);
        let end = match caller.exactly(1) {
            None => End::Whole,
            Some(_) => End::Broken,
        };
        ended(status, bytes, end);
    }

    /// A conversation, of which only the last words are sent.
    pub(super) fn remember(&mut self) {
        let session = format!("x-session-id: s{}\r\n", self.random.u64(..));
        for turn in 0..self.random.u64(2..6) {
            let words = format!("w{}", self.random.u64(..));
            let body = chat("gamma", &words, &mut self.random, false);
            let path = "/v1/chat/completions";
            let got = self.ask_as(
                Kind::Remember,
                "POST",
                path,
                &body,
                Manner::Whole,
                KEY,
                &session,
            );
            let said = &got.json()["choices"][0]["message"]["content"];
            if *said != format!("{}:{words}", 2 * turn + 1) {
                self.wrong(Kind::Remember, &got);
            }
        }
    }

    /// A response, and the same once more by its id.
    pub(super) fn respond(&mut self) {
        let body = json!({ "model": "r", "input": "hello" }).to_string();
        let made = self.ask(Kind::Respond, "POST", "/v1/responses", &body, Manner::Whole);
        let Some(id) = made.json()["id"].as_str().map(str::to_owned) else {
            return self.wrong(Kind::Respond, &made);
        };
        let path = format!("/v1/responses/{id}");
        let again = self.ask(Kind::Respond, "GET", &path, "", Manner::Whole);
        if again.json()["served_by"] != made.json()["served_by"] || again.json()["id"] != id {
            self.wrong(Kind::Respond, &again);
        }
    }
}
