//! Clients of all kinds, each of which knows what it asked for and says how it ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::caller::{Caller, Head, Piece};
use super::kinds::Kind;
use super::ledger::{End, Ledger, Outcome};

pub const KEY: &str = "sk-soak-may-ask-everything";
pub const LIMITED: [&str; 2] = ["sk-soak-may-ask-often", "sk-soak-may-ask-for-much"];
/// An answer that takes longer hangs, whatever the fault; what the machine stood still comes on top.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all clients look at.
pub struct Stage {
    pub plain: SocketAddr,
    pub secure: SocketAddr,
    pub trust: Arc<rustls::ClientConfig>,
    /// The same for HTTP/2.
    pub trust2: Arc<rustls::ClientConfig>,
    pub ledger: Arc<Ledger>,
    pub over: AtomicBool,
    /// Requests that never became one: half of a head.
    pub unnamed: AtomicU64,
    /// Refused by a limit.
    pub limited: AtomicU64,
    /// By how much sleeps of 10 ms were too long so far, in milliseconds: what the machine stood still.
    pub late: AtomicU64,
    /// Connections that were made.
    pub connections: AtomicU64,
    pub seed: u64,
}

/// What came of a request.
pub struct Got {
    pub status: u16,
    pub body: Vec<u8>,
    pub end: End,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn is_good(&self) -> bool {
        self.status == 200 && self.end == End::Whole
    }
}

/// How a client takes its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Whole,
    /// Waits between the pieces.
    Slowly,
    /// Leaves after so many pieces.
    Pieces(usize),
    /// Leaves after so long, whatever came.
    Leaves(Duration),
}

pub struct Client<'a> {
    pub(super) stage: &'a Stage,
    pub(super) random: fastrand::Rng,
    /// The connection that may be used again.
    pub(super) caller: Option<Caller>,
    /// Speaks TLS where it can.
    secure: bool,
    /// Bytes of the body that was sent last.
    pub(super) sent: u64,
}

/// The code of an error, if a body is one.
pub fn code(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body["error"]["code"].as_str();
    code.unwrap_or_default().to_owned()
}

/// An event stream that did not end as it should have.
pub fn is_cut(content_type: &str, body: &[u8]) -> bool {
    content_type.starts_with("text/event-stream") && !body.ends_with(b"data: [DONE]\n\n")
}

/// The body of a chat.
pub fn chat(model: &str, words: &str, random: &mut fastrand::Rng, stream: bool) -> String {
    let count = random.u32(2..25);
    json!({ "messages": [{ "role": "user", "content": words }], "model": model,
        "max_tokens": count, "seed": random.u32(..100), "stream": stream })
    .to_string()
}

impl<'a> Client<'a> {
    pub fn new(stage: &'a Stage, number: u64) -> Self {
        Client {
            stage,
            random: fastrand::Rng::with_seed(stage.seed.wrapping_add(number)),
            caller: None,
            sent: 0,
            secure: number.is_multiple_of(6),
        }
    }

    /// Asks one thing after the other until it is over.
    pub fn run(mut self) {
        while !self.stage.over.load(SeqCst) {
            let kind = Kind::any(&mut self.random);
            self.act(kind);
            if self.random.u32(..5) == 0 {
                self.caller = None;
            }
            let pause = Duration::from_millis(self.random.u64(20..420));
            std::thread::sleep(pause);
        }
    }

    fn act(&mut self, kind: Kind) {
        match kind {
            Kind::Chat | Kind::Solo => self.chat(kind),
            Kind::Stream | Kind::Cancel => self.stream(kind),
            Kind::Gone => self.gone(),
            Kind::Speech | Kind::Slow | Kind::Kept => self.speech(kind),
            Kind::Upload | Kind::HalfUpload | Kind::TooLarge => self.upload(kind),
            Kind::Embed | Kind::Limited | Kind::WrongKey => self.embed(kind),
            Kind::Nowhere => {
                let body = json!({ "model": "unheard-of", "messages": [] }).to_string();
                self.ask(kind, "POST", "/v1/chat/completions", &body, Manner::Whole);
            }
            Kind::BadBody => self.bad_body(),
            Kind::BadHead => self.bad_head(),
            Kind::HalfHead => self.half_head(),
            Kind::Talk => self.talk(),
            Kind::Remember => self.remember(),
            Kind::Respond => self.respond(),
            Kind::Models => drop(self.ask(kind, "GET", "/v1/models", "", Manner::Whole)),
        }
    }

    /// The connection of before, if it still is one, or a new one.
    pub(super) fn caller(&mut self, plain: bool) -> Caller {
        match self.caller.take() {
            Some(caller) if !(plain && caller.tls) => caller,
            _ if self.secure && !plain => {
                self.stage.connections.fetch_add(1, SeqCst);
                let caller = Caller::secure(self.stage.secure, self.stage.trust.clone());
                caller.unwrap()
            }
            _ => self.connect(),
        }
    }

    pub(super) fn connect(&self) -> Caller {
        self.stage.connections.fetch_add(1, SeqCst);
        Caller::plain(self.stage.plain)
    }

    pub(super) fn head(
        &self,
        method: &str,
        target: &str,
        id: &str,
        key: &str,
        kind: &str,
        length: usize,
    ) -> String {
        format!(
            "{method} {target} HTTP/1.1\r\nhost: edge.test\r\nx-request-id: {id}\r\nauthorization: Bearer {key}\r\n\
             content-type: {kind}\r\ncontent-length: {length}\r\n"
        )
    }

    pub(super) fn ask(
        &mut self,
        kind: Kind,
        method: &str,
        target: &str,
        body: &str,
        manner: Manner,
    ) -> Got {
        let key = match kind {
            Kind::Limited => LIMITED[self.random.usize(..2)],
            Kind::WrongKey => "sk-soak-nobody",
            _ => KEY,
        };
        self.ask_as(kind, method, target, body, manner, key, "")
    }

    #[expect(clippy::too_many_arguments, reason = "a request, with all it has")]
    pub(super) fn ask_as(
        &mut self,
        kind: Kind,
        method: &str,
        target: &str,
        body: &str,
        manner: Manner,
        key: &str,
        more: &str,
    ) -> Got {
        let id = self.stage.ledger.new_id();
        let head = self.head(method, target, &id, key, "application/json", body.len());
        self.sent = body.len() as u64;
        let mut caller = self.caller(false);
        let written = caller.write(format!("{head}{more}\r\n{body}").as_bytes());
        if written.is_err() {
            let what = format!("{id} {kind:?}: the connection broke while it was sent");
            self.stage.ledger.wrong(what);
        }
        self.take(kind, &id, caller, manner)
    }

    /// Reads the answer, and says how it ended.
    pub(super) fn take(&mut self, kind: Kind, id: &str, caller: Caller, manner: Manner) -> Got {
        let (begun, late) = (Instant::now(), self.stage.late.load(SeqCst));
        let got = self.taken(kind, id, caller, manner);
        let took = begun.elapsed();
        let late = self.stage.late.load(SeqCst) - late;
        if took > PATIENCE + Duration::from_millis(late) {
            let (status, length) = (got.status, got.body.len());
            let what = format!("{id} {kind:?} took {took:?}: {status}, {length} bytes");
            self.stage.ledger.wrong(what);
        }
        got
    }

    fn taken(&mut self, kind: Kind, id: &str, mut caller: Caller, manner: Manner) -> Got {
        let sent = self.sent;
        let ended = |status, body: &[u8], end| {
            let outcome = Outcome {
                kind,
                end,
                status,
                sent,
                bytes: body.len() as u64,
                code: code(body),
            };
            if outcome.code == "rate_limit_exceeded" {
                self.stage.limited.fetch_add(1, SeqCst);
            }
            self.stage.ledger.ended(id.to_owned(), outcome);
        };
        let got = |status, body, end| Got { status, body, end };
        if let Manner::Leaves(after) = manner {
            std::thread::sleep(after);
            match self.random.bool() {
                true => caller.reset(),
                false => caller.leave(),
            }
            ended(0, &[], End::Left);
            return got(0, Vec::new(), End::Left);
        }
        let Some(head) = caller.head() else {
            let what = format!("{id} {kind:?}: no answer");
            self.stage.ledger.wrong(what);
            ended(0, &[], End::Broken);
            return got(0, Vec::new(), End::Broken);
        };
        let (body, end) = self.body(&mut caller, &head, manner);
        ended(head.status, &body, end);
        if end == End::Whole && head.header("connection") != Some("close") {
            self.caller = Some(caller);
        }
        got(head.status, body, end)
    }

    pub(super) fn body(
        &mut self,
        caller: &mut Caller,
        head: &Head,
        manner: Manner,
    ) -> (Vec<u8>, End) {
        let mut body = Vec::new();
        let mut pieces = 0;
        loop {
            match caller.piece() {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::Broken => return (body, End::Broken),
                Piece::End => break,
            }
            pieces += 1;
            match manner {
                Manner::Pieces(most) if pieces >= most => return (body, End::Left),
                Manner::Slowly => std::thread::sleep(Duration::from_millis(self.random.u64(5..40))),
                _ => {}
            }
        }
        let content_type = head.header("content-type").unwrap_or_default();
        match is_cut(content_type, &body) {
            true => (body, End::Broken),
            false => (body, End::Whole),
        }
    }

    /// What came is not what was asked for.
    pub(super) fn wrong(&self, kind: Kind, got: &Got) {
        let text: String = String::from_utf8_lossy(&got.body)
            .chars()
            .take(300)
            .collect();
        let ledger = &self.stage.ledger;
        ledger.wrong(format!("{kind:?}: {} {text}", got.status));
    }
}
