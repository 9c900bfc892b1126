//! Fields of a body, replaced in place. Every byte that is not asked to change stays as it was:
//! the edits say where, and the relay splices them in while the body flows.

use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

use crate::config::{Fields, Pool};
use crate::inspect::{Body, Form};

/// Bytes put in the place of others. An empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) at: Range<u64>,
    pub(crate) with: Bytes,
}

/// A list of edits in the order of their places, which do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits(Vec<Edit>);

/// The edits that make `body` what a route and a pool want. What `set` says is sent as written;
/// the pool's names translate what the client asked for.
pub(crate) fn edits(body: &Body, fields: &Fields, pool: &Pool) -> Edits {
    let mut edits = Vec::new();
    let mut added: Vec<(&str, &Value)> = Vec::new();
    for (name, value) in &fields.set {
        match body.field(name) {
            Some(field) => edits.push(Edit {
                at: field.value.clone(),
                with: written(&body.form, value),
            }),
            None => added.push((name, value)),
        }
    }
    for (name, value) in &fields.default {
        if body.field(name).is_none() && !fields.set.contains_key(name) {
            added.push((name, value));
        }
    }
    for (name, names) in [("model", &pool.models), ("voice", &pool.voices)] {
        if fields.set.contains_key(name) {
            continue;
        }
        if let Some(field) = body.field(name)
            && let Some(public) = &field.text
            && let Some(own) = names.translate(public)
        {
            let value = Value::String(own.to_owned());
            edits.push(Edit {
                at: field.value.clone(),
                with: written(&body.form, &value),
            });
        }
    }
    if !added.is_empty() {
        let with = insertion(body, &added);
        edits.push(Edit {
            at: body.insert_at..body.insert_at,
            with,
        });
    }
    edits.sort_by_key(|edit| edit.at.start);
    Edits(edits)
}

fn written(form: &Form, value: &Value) -> Bytes {
    match (form, value) {
        (Form::Multipart { .. }, Value::String(text)) => text.clone().into(),
        _ => value.to_string().into(),
    }
}

fn insertion(body: &Body, added: &[(&str, &Value)]) -> Bytes {
    let mut out = String::new();
    match &body.form {
        Form::Json => {
            let mut first = body.fields.is_empty();
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
    /// The length of a body of `length` bytes after the edits.
    pub(crate) fn length(&self, length: u64) -> u64 {
        self.0.iter().fold(length, |length, edit| {
            length - (edit.at.end - edit.at.start) + edit.with.len() as u64
        })
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
            if edit.at.start >= offset {
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
        let edits = edits(
            &scan(headers, text),
            &config.routes[0].targets[0].fields,
            &config.pools[0],
        );
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
    fn without_rules_nothing_changes() {
        let text = r#"{"model":"x"}"#;
        let config = route("", "");
        let edits = edits(
            &scan(&HeaderMap::new(), text.as_bytes()),
            &Fields::default(),
            &config.pools[0],
        );
        assert_eq!(edits, Edits::default());
    }
}
