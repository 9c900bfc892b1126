//! Fields of a body, replaced in place. Every byte that is not asked to change stays as it was:
//! the edits say where, and the relay splices them in while the body flows.

use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

use super::prompt;
use crate::config::kind::Fix;
use crate::config::{Fields, Pool};
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Field, Form};

/// Bytes put in the place of others. An empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) at: Range<u64>,
    pub(crate) with: Bytes,
}

/// A list of edits in the order of their places, which do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits(Vec<Edit>);

/// What becomes of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    pub(crate) edits: Edits,
    /// The voice the server is asked for, if it is not the one the client asked for.
    pub(crate) voice: Option<String>,
}

/// What makes a streamed chat tell what it used, where nothing else is said of it.
pub(crate) fn asking_for_usage() -> (&'static str, Value) {
    (
        "stream_options",
        serde_json::json!({ "include_usage": true }),
    )
}

/// What makes `body` what a route and a pool want. What `set` says is sent as written; the pool's
/// names translate what the client asked for. For audio, the fixes of the pool's kind put right what
/// its servers would refuse.
pub(crate) fn rewrite(
    body: &Body,
    fields: &Fields,
    pool: &Pool,
    operation: Option<Operation>,
    ask_usage: bool,
) -> Rewritten {
    let (hears, speaks) = (
        operation.is_some_and(Operation::hears),
        operation == Some(Operation::Speech),
    );
    let fixes = pool.kind.and_then(|kind| kind.fixes(hears, speaks));
    let fixes = fixes.unwrap_or_default();
    let mut out = Rewritten::default();
    let mut edits = Vec::new();
    let mut added: Vec<(&str, Value)> = Vec::new();
    let removed = removals(body, fields, fixes);
    if let Some(prompt) = &fields.prompt {
        let (edit, field) =
            prompt::spoken(body, prompt, operation, &|name| has_word_on(fields, name));
        edits.extend(edit);
        added.extend(field);
    }
    for (name, value) in &fields.set {
        match body.field(name) {
            Some(field) => edits.push(Edit {
                at: field.value.clone(),
                with: written(&body.form, value),
            }),
            None => added.push((name, value.clone())),
        }
    }
    for (name, value) in &fields.default {
        let given = body.field(name).is_some() || added.iter().any(|(n, _)| n == name);
        if !given && !fields.set.contains_key(name) {
            added.push((name, value.clone()));
        }
    }
    let (usage, asked) = asking_for_usage();
    let silent = body.field(usage).is_none() && !has_word_on(fields, usage);
    if ask_usage && silent && !added.iter().any(|(name, _)| *name == usage) {
        added.push((usage, asked));
    }
    for (name, text) in fixes.iter().filter_map(Fix::default) {
        let given = body.field(name).is_some() || added.iter().any(|(n, _)| *n == name);
        if !given {
            added.push((name, text.into()));
        }
    }
    for (name, names) in [("model", &pool.models), ("voice", &pool.voices)] {
        if has_word_on(fields, name) {
            continue;
        }
        if let Some(field) = body.field(name)
            && let Some(public) = &field.text
            && let Some(own) = names.translate(public, hears || speaks)
        {
            let value = Value::String(own.to_owned());
            edits.push(Edit {
                at: field.value.clone(),
                with: written(&body.form, &value),
            });
            if name == "voice" {
                out.voice = Some(own.to_owned());
            }
        }
    }
    if let Some(Value::String(set)) = fields.set.get("voice")
        && body.text("voice") != Some(set)
    {
        out.voice = Some(set.clone());
    }
    if !added.is_empty() {
        let first = removed.len() == body.fields.len();
        let with = insertion(body, &added, first);
        edits.push(Edit {
            at: body.insert_at..body.insert_at,
            with,
        });
    }
    edits.extend(taken_out(body, &removed));
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    out.edits = Edits(edits);
    out
}

/// Whether a route says what becomes of a field, whatever is in it.
fn has_word_on(fields: &Fields, name: &str) -> bool {
    fields.set.contains_key(name) || fields.remove.contains(name)
}

/// The places of the fields that are taken out, in order.
fn removals(body: &Body, fields: &Fields, fixes: &[Fix]) -> Vec<usize> {
    let goes = |field: &Field| {
        !fields.set.contains_key(&field.name)
            && (fields.remove.contains(&field.name)
                || fixes.iter().any(|fix| match fix {
                    Fix::Remove(name) => field.name == *name,
                    Fix::RemoveIf(name, value) => {
                        field.name == *name && field.text.as_deref() == Some(*value)
                    }
                    Fix::Default(..) => false,
                }))
    };
    let all = body.fields.iter().enumerate();
    all.filter(|(_, field)| goes(field))
        .map(|(n, _)| n)
        .collect()
}

/// The edits that take fields out, in JSON with one of the commas beside each.
fn taken_out(body: &Body, removed: &[usize]) -> Vec<Edit> {
    let cut = |at: Range<u64>| Edit {
        at,
        with: Bytes::new(),
    };
    let fields = &body.fields;
    if body.form != Form::Json {
        return removed
            .iter()
            .map(|n| cut(fields[*n].whole.clone()))
            .collect();
    }
    // those behind the last field that stays go with the comma before them
    let last_kept = (0..fields.len()).rev().find(|n| !removed.contains(n));
    let mut edits: Vec<Edit> = removed
        .iter()
        .filter(|n| last_kept.is_some_and(|last| **n < last))
        .map(|n| cut(fields[*n].whole.start..fields[*n + 1].whole.start))
        .collect();
    if let Some(last) = removed.last().filter(|n| **n + 1 == fields.len()) {
        let start = last_kept.map_or(fields[0].whole.start, |n| fields[n].whole.end);
        edits.push(cut(start..fields[*last].whole.end));
    }
    edits
}

fn written(form: &Form, value: &Value) -> Bytes {
    match (form, value) {
        (Form::Multipart { .. }, Value::String(text)) => text.clone().into(),
        _ => value.to_string().into(),
    }
}

/// `first`: no field stands before these.
fn insertion(body: &Body, added: &[(&str, Value)], mut first: bool) -> Bytes {
    let mut out = String::new();
    match &body.form {
        Form::Json => {
            for (name, value) in added {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                out.push_str(&format!("{}:{value}", Value::from(*name)));
            }
        }
        Form::Multipart { boundary } => {
            for (name, value) in added {
                let value = written(&body.form, value);
                let value = String::from_utf8_lossy(&value);
                out.push_str(&format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                ));
            }
        }
    }
    out.into()
}

impl Edits {
    #[cfg(test)]
    pub(super) fn all(&self) -> &[Edit] {
        &self.0
    }

    /// Adds those of others, which do not touch each other, that touch none of these.
    pub(crate) fn add(&mut self, others: &[Edit]) {
        let own = self.0.len();
        for edit in others {
            let apart = |own: &Edit| own.at.end <= edit.at.start || edit.at.end <= own.at.start;
            if self.0[..own].iter().all(apart) {
                self.0.push(edit.clone());
            }
        }
        self.0.sort_by_key(|edit| (edit.at.start, edit.at.end));
    }

    /// The length of a body of `length` bytes after the edits.
    pub(crate) fn length(&self, length: u64) -> u64 {
        self.0.iter().fold(length, |length, edit| {
            length - (edit.at.end - edit.at.start) + edit.with.len() as u64
        })
    }

    /// Adds an insertion, behind others at its place; none where something else is put in the place
    /// of all around it.
    pub(crate) fn insert(&mut self, at: u64, with: Bytes) {
        let edits = &mut self.0;
        if edits
            .iter()
            .any(|edit| edit.at.start < at && at < edit.at.end)
        {
            return;
        }
        let place = edits.partition_point(|edit| edit.at.start <= at);
        edits.insert(place, Edit { at: at..at, with });
    }

    /// Applies the edits to the piece of the body that starts at `offset`. Called for one piece
    /// after the other; a replacement goes out with the piece that holds its first byte, an
    /// insertion with the piece that holds the byte behind it.
    pub(crate) fn splice(&self, offset: u64, piece: Bytes) -> Vec<Bytes> {
        let end = offset + piece.len() as u64;
        let touches = |edit: &&Edit| {
            edit.at.start < end
                && (edit.at.end > offset || edit.at.is_empty() && edit.at.start >= offset)
        };
        if !self.0.iter().any(|edit| touches(&edit)) {
            return vec![piece];
        }
        let slice =
            |from: u64, to: u64| piece.slice((from - offset) as usize..(to - offset) as usize);
        let mut out = Vec::new();
        let mut at = offset;
        for edit in self.0.iter().filter(touches) {
            if edit.at.start > at {
                out.push(slice(at, edit.at.start));
            }
            // an empty piece would be the end of a chunked body
            if edit.at.start >= offset && !edit.with.is_empty() {
                out.push(edit.with.clone());
            }
            at = at.max(edit.at.end.min(end));
        }
        if at < end {
            out.push(slice(at, end));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::inspect::Scanner;
    use http::HeaderMap;

    fn route(pool: &str, route: &str) -> config::Config {
        let text = format!(
            "pools: {{ a: {{ servers: ['http://h:1'], {pool} }} }}\nroutes: [{{ pool: a, {route} }}]"
        );
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        config.unwrap_or_else(|| panic!("{problems:?}"))
    }

    fn scan(headers: &HeaderMap, text: &[u8]) -> Body {
        let mut scanner = Scanner::new(headers).unwrap();
        scanner.feed(text).unwrap();
        scanner.finish().unwrap()
    }

    /// The body after the edits, which must not depend on how it was cut into pieces.
    fn rewrite(config: &config::Config, headers: &HeaderMap, text: &[u8]) -> String {
        let edits = super::rewrite(
            &scan(headers, text),
            &config.routes[0].targets[0].fields,
            &config.pools[0],
            Some(Operation::Speech),
            false,
        )
        .edits;
        let whole = edits.splice(0, Bytes::copy_from_slice(text)).concat();
        for size in 1..text.len() {
            let mut cut = Vec::new();
            for (n, piece) in text.chunks(size).enumerate() {
                cut.extend(edits.splice((n * size) as u64, Bytes::copy_from_slice(piece)));
            }
            assert_eq!(cut.concat(), whole, "in pieces of {size}");
        }
        assert_eq!(edits.length(text.len() as u64), whole.len() as u64);
        String::from_utf8(whole).unwrap()
    }

    fn json(pool: &str, fields: &str, text: &str) -> String {
        rewrite(&route(pool, fields), &HeaderMap::new(), text.as_bytes())
    }

    #[test]
    fn a_value_is_replaced_and_every_other_byte_stays() {
        assert_eq!(
            json(
                "models: { tts-1: kokoro }",
                "",
                "{ \"input\":\"a\\u00e9\" ,\t\"model\" : \"tts-1\" , \"x\":1.50 }"
            ),
            "{ \"input\":\"a\\u00e9\" ,\t\"model\" : \"kokoro\" , \"x\":1.50 }"
        );
        assert_eq!(
            json(
                "",
                "set: { model: kokoro-v0.87, speed: 1.5 }",
                r#"{"speed":1,"model":{"a":[1]}}"#
            ),
            r#"{"speed":1.5,"model":"kokoro-v0.87"}"#
        );
    }

    #[test]
    fn absent_fields_are_added_before_the_end() {
        assert_eq!(
            json("", "default: { max_tokens: 1024 }", r#"{"a":1}"#),
            r#"{"a":1,"max_tokens":1024}"#
        );
        assert_eq!(
            json("", "default: { max_tokens: 1024 }", r#"{"max_tokens":5}"#),
            r#"{"max_tokens":5}"#
        );
        assert_eq!(
            json("", "set: { model: x }, default: { n: 2 }", "{ }"),
            r#"{ "model":"x","n":2}"#
        );
    }

    #[test]
    fn what_the_route_sets_is_not_translated() {
        assert_eq!(
            json(
                "models: { '*': z }",
                "set: { model: y }",
                r#"{"model":"x"}"#
            ),
            r#"{"model":"y"}"#
        );
        assert_eq!(
            json(
                "kind: kokoro, voices: { '*': af_heart }",
                "",
                r#"{"voice":"ballad"}"#
            ),
            r#"{"voice":"af_heart"}"#
        );
        assert_eq!(
            json(
                "kind: kokoro, voices: { '*': af_heart }",
                "",
                r#"{"voice":"bf_emma"}"#
            ),
            r#"{"voice":"bf_emma"}"#
        );
    }

    #[test]
    fn usage_is_not_asked_for_where_the_route_takes_it_out() {
        let asked = |fields: &str| {
            let text = br#"{"stream":true}"#;
            let config = route("", fields);
            let fields = &config.routes[0].targets[0].fields;
            let body = scan(&HeaderMap::new(), text);
            let operation = Some(Operation::Chat);
            let edits = super::rewrite(&body, fields, &config.pools[0], operation, true).edits;
            edits.length(text.len() as u64) > text.len() as u64
        };
        assert!(asked(""));
        assert!(!asked("remove: [stream_options]"));
    }

    #[test]
    fn forms_are_edited_part_by_part() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            "multipart/form-data; boundary=B".parse().unwrap(),
        );
        let part = |name: &str, value: &str| {
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let file = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\x01\x02\r\n\r\n";
        let body = format!("{file}{}--B--\r\n", part("model", "whisper-1"));
        let config = route("models: { whisper-1: large-v3 }", "set: { language: en }");
        assert_eq!(
            rewrite(&config, &headers, body.as_bytes()),
            format!(
                "{}{file}{}--B--\r\n",
                part("language", "en"),
                part("model", "large-v3")
            )
        );
    }

    #[test]
    fn fields_that_a_service_does_not_know_are_taken_out_with_their_commas() {
        let openai = |text: &str| json("kind: openai", "", text);
        assert_eq!(
            openai(r#"{"stream":true,"input":"a" , "lang_code":"a", "volume_multiplier":1}"#),
            r#"{"input":"a" }"#.replace(" }", "}")
        );
        assert_eq!(
            openai(r#"{"input":"a","stream":true,"speed":2}"#),
            r#"{"input":"a","speed":2}"#
        );
        assert_eq!(openai(r#"{ "stream":true,"lang_code":"a" }"#), "{  }");
        assert_eq!(
            json(
                "kind: openai",
                "default: { speed: 1 }",
                r#"{"stream":true,"lang_code":"a"}"#
            ),
            r#"{"speed":1}"#
        );
        assert_eq!(
            json(
                "kind: openai",
                "set: { stream: false }",
                r#"{"stream":true}"#
            ),
            r#"{"stream":false}"#,
            "what the route sets is sent as written"
        );
    }

    #[test]
    fn parts_of_a_form_are_taken_out_and_missing_ones_added() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            "multipart/form-data; boundary=B".parse().unwrap(),
        );
        let part = |name: &str, value: &str| {
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let file = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\x01\x02\r\n";
        let config = route("kind: openai", "");
        let fixed = |body: String| {
            let scanned = scan(&headers, body.as_bytes());
            let operation = Some(Operation::Transcription);
            let rewritten = super::rewrite(
                &scanned,
                &Fields::default(),
                &config.pools[0],
                operation,
                false,
            );
            let out = rewritten.edits.splice(0, body.clone().into()).concat();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            fixed(format!("{}{file}--B--\r\n", part("language", "auto"))),
            format!("{}{file}--B--\r\n", part("model", "whisper-1"))
        );
        assert_eq!(
            fixed(format!(
                "{file}{}{}--B--\r\n",
                part("model", "large-v3"),
                part("language", "auto")
            )),
            format!("{file}{}--B--\r\n", part("model", "whisper-1"))
        );
        let plain = format!(
            "{}{}{file}--B--\r\n",
            part("model", "whisper-1"),
            part("language", "de")
        );
        assert_eq!(fixed(plain.clone()), plain);
    }

    #[test]
    fn without_rules_nothing_changes() {
        let text = r#"{"model":"x"}"#;
        let config = route("", "");
        let body = scan(&HeaderMap::new(), text.as_bytes());
        let rewritten = super::rewrite(&body, &Fields::default(), &config.pools[0], None, false);
        assert_eq!(rewritten, Rewritten::default());
    }
}
