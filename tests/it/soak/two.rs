//! Clients that speak HTTP/2, several requests on a connection.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::json;

use super::answers::spoken;
use super::clients::{KEY, Stage, chat, code, is_cut};
use super::kinds::Kind;
use super::ledger::{End, Outcome};
use crate::support::Http2;

/// Asks one thing after the other until it is over.
pub fn run(stage: &Stage, number: u64) {
    let mut random = fastrand::Rng::with_seed(stage.seed.wrapping_add(1000 + number));
    while !stage.over.load(SeqCst) {
        stage.connections.fetch_add(1, SeqCst);
        let connection = match number % 2 {
            0 => Http2::plain(stage.plain),
            _ => Http2::tls(stage.secure, stage.trust2.clone()),
        };
        for _ in 0..random.u32(1..60) {
            if stage.over.load(SeqCst) {
                break;
            }
            act(stage, &connection, &mut random);
            std::thread::sleep(Duration::from_millis(random.u64(20..400)));
        }
    }
}

fn act(stage: &Stage, connection: &Http2, random: &mut fastrand::Rng) {
    let path = "/v1/chat/completions";
    match random.u32(..10) {
        0..3 => {
            let body = chat("alpha", "two", random, false);
            ask(stage, connection, Kind::Chat, path, &body);
        }
        3..6 => {
            let body = chat("alpha", "two", random, true);
            ask(stage, connection, Kind::Stream, path, &body);
        }
        6..8 => {
            let body = chat("alpha", "two", random, true);
            cancel(stage, connection, path, &body, random);
        }
        8 => {
            let text = format!("{} ", random.u64(..)).repeat(random.usize(1..20));
            let body = json!({ "model": "tts-1", "input": text, "voice": "v" }).to_string();
            let got = ask(stage, connection, Kind::Speech, "/v1/audio/speech", &body);
            if got.is_some_and(|got| got != spoken(&text, 200 * text.len())) {
                stage
                    .ledger
                    .wrong("another's speech over HTTP/2".to_owned());
            }
        }
        _ => {
            let body = json!({ "model": "e", "input": "two" }).to_string();
            ask(stage, connection, Kind::Embed, "/v1/embeddings", &body);
        }
    }
}

fn headers<'a>(id: &'a str, key: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("x-request-id", id),
        ("authorization", key),
        ("content-type", "application/json"),
    ]
}

fn bearer() -> String {
    format!("Bearer {KEY}")
}

/// The body, if it is a good one.
fn ask(stage: &Stage, connection: &Http2, kind: Kind, path: &str, body: &str) -> Option<Vec<u8>> {
    let id = stage.ledger.new_id();
    let key = bearer();
    let answer = connection.ask("POST", path, &headers(&id, &key), body.as_bytes());
    let content_type = answer.header("content-type").unwrap_or_default();
    let end = match answer.whole && !is_cut(content_type, &answer.body) {
        true => End::Whole,
        false => End::Broken,
    };
    let outcome = Outcome {
        kind,
        end,
        status: answer.status,
        sent: body.len() as u64,
        bytes: answer.body.len() as u64,
        code: code(&answer.body),
    };
    stage.ledger.ended(id, outcome);
    (answer.status == 200 && end == End::Whole).then_some(answer.body)
}

/// Leaves before the answer or in it; the connection stays.
fn cancel(stage: &Stage, connection: &Http2, path: &str, body: &str, random: &mut fastrand::Rng) {
    let id = stage.ledger.new_id();
    let key = bearer();
    let mut exchange = connection.open("POST", path, &headers(&id, &key), false);
    exchange.send(body.as_bytes(), true);
    if random.bool() {
        exchange.head();
        for _ in 0..random.u32(..6) {
            if !matches!(exchange.piece(), Ok(Some(_))) {
                break;
            }
        }
    } else {
        std::thread::sleep(Duration::from_millis(random.u64(1..60)));
    }
    exchange.reset();
    let (kind, code) = (Kind::Cancel, String::new());
    let outcome = Outcome {
        kind,
        end: End::Left,
        status: 0,
        sent: 0,
        bytes: 0,
        code,
    };
    stage.ledger.ended(id, outcome);
}
