//! How tries went, for people and for programs.

use std::io::IsTerminal;

use serde_json::{Map, Value, json};

use super::{Outcome, Told};
use crate::command::client::Client;

/// Columns of a terminal that nobody made wider.
const WIDTH: usize = 80;
/// Where what is said about an endpoint begins.
const INDENT: usize = 15;

/// In 80 columns.
pub(super) fn text(outcomes: &[Outcome], verbose: bool) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    for outcome in outcomes {
        let (word, code) = match &outcome.result {
            Ok(_) => ("ok", "32"),
            Err(_) => ("FAILED", "31"),
        };
        let painted = match colour {
            true => format!("\x1b[{code}m{word:6}\x1b[0m"),
            false => format!("{word:6}"),
        };
        let name = outcome.endpoint.word();
        let rest = outcome.answer.as_ref().map(answered).unwrap_or_default();
        out.push_str(format!("{name:INDENT$}{painted}  {rest}").trim_end());
        out.push('\n');
        let asked = match &outcome.voice {
            Some(voice) => format!("{}, voice {voice},", outcome.model),
            None => outcome.model.clone(),
        };
        match &outcome.result {
            Ok(said) => paragraph(&mut out, &shortened(&format!("{asked} {said}"))),
            Err(failure) => {
                paragraph(&mut out, &failure.message);
                if let Some(attempts) = outcome.answer.as_ref().and_then(|a| a.attempts.as_ref()) {
                    let tried = attempts.replace(',', ", ");
                    paragraph(&mut out, &format!("tried: {tried}"));
                }
                if let Some(hint) = &failure.hint {
                    paragraph(&mut out, &format!("hint: {hint}"));
                }
            }
        }
        if verbose {
            headers(&mut out, outcome);
        }
    }
    out
}

fn answered(told: &Told) -> String {
    let backend = told.backend.as_deref();
    let backend = backend.unwrap_or("(no x-backend: is this Trunkline?)");
    let took = told.took.as_secs_f64();
    let took = match took < 1.0 {
        true => format!("{:.0} ms", took * 1000.0),
        false => format!("{took:.1} s"),
    };
    format!("{}  {took:>7}  {backend}", told.status)
}

fn headers(out: &mut String, outcome: &Outcome) {
    for (name, value) in &outcome.sent {
        out.push_str(&format!("{:INDENT$}> {name}: {value}\n", ""));
    }
    let received = outcome.answer.iter().flat_map(|told| &told.headers);
    for (name, value) in received {
        out.push_str(&format!("{:INDENT$}< {name}: {value}\n", ""));
    }
}

/// What fits into two lines.
fn shortened(text: &str) -> String {
    let room = 2 * (WIDTH - INDENT) - 12;
    match text.char_indices().nth(room) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Breaks lines between words.
fn paragraph(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        match column {
            0 => {
                out.push_str(&" ".repeat(INDENT));
                column = INDENT;
            }
            _ => {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

pub(super) fn json(client: &Client, outcomes: &[Outcome], verbose: bool) -> String {
    let ok = outcomes.iter().all(|outcome| outcome.result.is_ok());
    let all: Vec<Value> = outcomes.iter().map(|o| one(o, verbose)).collect();
    let whole = json!({ "url": client.origin(), "ok": ok, "endpoints": all });
    format!("{whole:#}")
}

/// When there is nobody to ask.
pub(super) fn unreachable(client: &Client, message: &str) -> String {
    let whole = json!({ "url": client.origin(), "ok": false, "error": message, "endpoints": [] });
    format!("{whole:#}")
}

fn one(outcome: &Outcome, verbose: bool) -> Value {
    let told = outcome.answer.as_ref();
    let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    let mut entry = json!({
        "endpoint": outcome.endpoint.word(),
        "path": outcome.endpoint.path(),
        "ok": outcome.result.is_ok(),
        "model": outcome.model,
        "voice": outcome.voice,
        "status": told.map(|t| t.status),
        "backend": told.and_then(|t| t.backend.clone()),
        "attempts": told.and_then(|t| t.attempts.clone()),
        "request_id": told.and_then(|t| t.request_id.clone()),
        "first_byte_ms": told.map(|t| milliseconds(t.first_byte)),
        "duration_ms": told.map(|t| milliseconds(t.took)),
        "result": outcome.result.as_ref().ok(),
        "error": outcome.result.as_ref().err().map(|f| f.message.clone()),
        "hint": outcome.result.as_ref().err().and_then(|f| f.hint.clone()),
    });
    if verbose {
        entry["request_headers"] = object(&outcome.sent);
        entry["response_headers"] = told.map_or(Value::Null, |t| object(&t.headers));
    }
    entry
}

fn object(headers: &[(String, String)]) -> Value {
    let pairs = headers
        .iter()
        .map(|(n, v)| (n.clone(), Value::from(v.as_str())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_stay_within_80_columns() {
        let mut out = String::new();
        paragraph(&mut out, &"some words ".repeat(30));
        assert!(out.lines().count() > 4);
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(
            out.lines()
                .all(|line| line.starts_with(&" ".repeat(INDENT)))
        );
        assert!(shortened(&"ä".repeat(500)).chars().count() < 130);
    }
}
