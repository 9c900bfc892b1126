//! Fields of a body: what is not asked to change stays byte for byte, and what comes out says what was
//! asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::fields::{Edits, asking_for_usage, rewrite};
use crate::config::{Config, Fields, Pool, SystemPrompt};
use crate::fuzz::{cases, pieces, shape};
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Scanner};

const PROMPT: &str = "Be \\\"brief\\\",\\nand kind.";

static CONFIGS: LazyLock<Vec<Config>> = LazyLock::new(|| {
    let mut all = vec![
        super::config("", ""),
        super::config(
            "models: { gpt-4o: own, '*': rest }, voices: { ash: af_\"x }",
            "",
        ),
        super::config(
            "",
            "set: { model: x, temperature: 0.5, input: '\"é\\' }, default: { max_tokens: 7, stop: null }",
        ),
        super::config(
            "models: { a: b }",
            "remove: [stream, tools, model, a, b], default: { n: 2, user: z }",
        ),
        super::config(
            "",
            "remove: [stream, stream_options, a, input], set: { voice: v, messages: [] }",
        ),
        super::config("kind: openai", ""),
        super::config("kind: kokoro", "default: { stream: true }"),
        super::config("kind: groq", "remove: [a]"),
    ];
    for (n, config) in all.iter_mut().enumerate() {
        if n % 2 == 0 {
            config.routes[0].targets[0].fields.prompt = Some(SystemPrompt {
                file: "prompt.txt".into(),
                escaped: Arc::from(PROMPT),
            });
        }
    }
    all
});

const OPERATIONS: &[Option<Operation>] = &[
    Some(Operation::Chat),
    Some(Operation::Response),
    Some(Operation::Speech),
    Some(Operation::Transcription),
    None,
];

fn scan(form: bool, data: &[u8]) -> Option<Body> {
    let mut headers = HeaderMap::new();
    if form {
        let kind = "multipart/form-data; boundary=XX";
        headers.insert("content-type", kind.parse().expect("it is a value"));
    }
    let mut scanner = Scanner::new(&headers).expect("it has a boundary");
    scanner.feed(data).ok()?;
    scanner.finish().ok()
}

/// The first two bytes choose what is asked for, and of what.
pub(crate) fn holds(data: &[u8]) -> u64 {
    let [choice, of, data @ ..] = data else {
        return 0;
    };
    let config = &CONFIGS[usize::from(*choice) % CONFIGS.len()];
    let operation = OPERATIONS[usize::from(*of) % OPERATIONS.len()];
    let (form, usage) = (of & 0x80 != 0, of & 0x40 != 0);
    let Some(body) = scan(form, data) else {
        return 1;
    };
    let (fields, pool) = (&config.routes[0].targets[0].fields, &config.pools[0]);
    let usage = usage && body.field("stream_options").is_none();
    let edits = rewrite(&body, fields, pool, operation, usage).edits;
    let out = applied(&edits, data);
    spliced(&edits, data, &out);
    if body.fields.len() > 1000 {
        return 2;
    }
    let again = scan(form, &out).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&out)));
    if form {
        same_parts(&body, &again, data, &out, fields, pool);
    } else if let (Some(before), Some(after)) = (read(data), read(&out)) {
        same_fields(&before, &after, fields, pool, operation, usage);
    }
    shape((choice, of, edits.all().len(), body.fields.len().min(8)))
}

/// The body with the edits in their places, which are in order and apart.
fn applied(edits: &Edits, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    for edit in edits.all() {
        let (start, end) = (edit.at.start as usize, edit.at.end as usize);
        out.extend_from_slice(&data[at..start]);
        out.extend_from_slice(&edit.with);
        at = end;
    }
    out.extend_from_slice(&data[at..]);
    out
}

fn spliced(edits: &Edits, data: &[u8], expected: &[u8]) {
    assert_eq!(edits.length(data.len() as u64), expected.len() as u64);
    let mut out = Vec::new();
    let mut at = 0;
    for piece in pieces(data).into_iter().filter(|piece| !piece.is_empty()) {
        for part in edits.splice(at, Bytes::copy_from_slice(piece)) {
            assert!(!part.is_empty(), "an empty piece ends a body");
            out.extend_from_slice(&part);
        }
        at += piece.len() as u64;
    }
    assert_eq!(out, expected, "how it is cut must not matter");
}

type Raws = BTreeMap<String, Box<RawValue>>;

fn read(data: &[u8]) -> Option<Raws> {
    serde_json::from_slice(data).ok()
}

/// What becomes of each field, said with serde_json's values.
fn same_fields(
    before: &Raws,
    after: &Raws,
    fields: &Fields,
    pool: &Pool,
    operation: Option<Operation>,
    usage: bool,
) {
    let text = |name: &str| serde_json::from_str::<String>(before.get(name)?.get()).ok();
    let audio = matches!(
        operation,
        Some(Operation::Speech | Operation::Transcription)
    );
    for (name, raw) in after {
        let now: Value = serde_json::from_str(raw.get()).unwrap_or_default();
        let prompted = match operation {
            Some(Operation::Chat) => name == "messages",
            Some(Operation::Response) => name == "instructions",
            _ => false,
        };
        let translated = match name.as_str() {
            "model" => text(name)
                .and_then(|public| pool.models.translate(&public, audio).map(str::to_owned)),
            "voice" => text(name)
                .and_then(|public| pool.voices.translate(&public, audio).map(str::to_owned)),
            _ => None,
        };
        match before.get(name) {
            _ if fields.set.contains_key(name) => assert_eq!(now, fields.set[name], "{name}"),
            Some(_) if fields.remove.contains(name) => {
                panic!("{name} was to be taken out");
            }
            Some(_) if prompted && fields.prompt.is_some() => {
                prompt_before(name, before[name].get(), raw.get())
            }
            Some(_) if translated.as_ref().is_some_and(|own| now == **own) => {}
            Some(raw_before) => assert_eq!(raw_before.get(), raw.get(), "{name}"),
            None if fields.default.contains_key(name) => assert_eq!(now, fields.default[name]),
            None if usage && name == "stream_options" && !fields.remove.contains(name) => {
                assert_eq!(now, asking_for_usage().1)
            }
            None if prompted && fields.prompt.is_some() => {
                assert_eq!(now, "Be \"brief\",\nand kind.")
            }
            None => assert!(pool.kind.is_some(), "{name} comes from nowhere"),
        }
    }
    let expected = before
        .keys()
        .chain(fields.set.keys())
        .chain(fields.default.keys());
    for name in expected {
        let gone = !fields.set.contains_key(name) && fields.remove.contains(name);
        assert!(
            after.contains_key(name) || gone || pool.kind.is_some(),
            "{name} is lost"
        );
    }
}

fn prompt_before(name: &str, before: &str, after: &str) {
    const SAID: &str = "Be \"brief\",\nand kind.";
    let Ok(old) = serde_json::from_str::<Value>(before) else {
        return;
    };
    let new: Value = serde_json::from_str(after).expect("it was good before");
    match (name, old) {
        ("messages", Value::Array(old)) => {
            assert_eq!(new[0], json!({ "role": "system", "content": SAID }));
            assert_eq!(new.as_array().map(|new| &new[1..]), Some(&old[..]));
        }
        ("instructions", Value::String(old)) => assert_eq!(new, format!("{SAID}\n\n{old}")),
        ("instructions", Value::Null) => assert_eq!(new, SAID),
        // it is refused by the server
        _ => assert_eq!(before, after),
    }
}

/// The parts of a form that nothing is said of are the same.
fn same_parts(before: &Body, after: &Body, data: &[u8], out: &[u8], fields: &Fields, pool: &Pool) {
    let of = |body: &Body, data: &[u8], name: &str| {
        let field = body.field(name)?;
        Some(data[field.whole.start as usize..field.whole.end as usize].to_vec())
    };
    assert_eq!(before.repeated.len(), after.repeated.len());
    for field in &before.fields {
        let name = field.name.as_str();
        let named = fields.set.contains_key(name) || fields.remove.contains(name);
        if !named && !matches!(name, "model" | "voice") && pool.kind.is_none() {
            assert_eq!(of(before, data, name), of(after, out, name), "{name}");
        }
    }
    for (name, value) in &fields.set {
        let written = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(after.text(name), Some(written.as_str()));
    }
    for name in &fields.remove {
        assert!(
            after.field(name).is_none() || fields.set.contains_key(name),
            "{name}"
        );
    }
}

fn body() -> impl Strategy<Value = String> {
    let names = vec![
        "model",
        "voice",
        "stream",
        "input",
        "messages",
        "instructions",
        "tools",
        "a",
        "b",
        "n",
        "temperature",
        "max_tokens",
        "stream_options",
        "lang_code",
        "speed",
    ];
    let values = vec![
        "\"gpt-4o\"",
        "\"ash\"",
        "\"a\"",
        "true",
        "null",
        "[]",
        "[ ]",
        "[ 1 ]",
        "{ }",
        "\"\"",
        "1.50",
        "[{\"role\":\"user\",\"content\":\"\\u00e9\"}]",
        "{\"model\":\"x\"}",
    ];
    let space = prop::sample::select(vec!["", "", "", " ", "\r\n\t"]);
    let field = (
        space,
        prop::sample::select(names),
        prop::sample::select(values),
    );
    prop::collection::vec(field, 0..8).prop_map(|mut all| {
        let mut seen = Vec::new();
        all.retain(|(_, name, _)| {
            !seen.contains(name) && {
                seen.push(*name);
                true
            }
        });
        let all: Vec<String> = all
            .iter()
            .map(|(s, name, value)| format!("{s}\"{name}\"{s}:{value}{s}"))
            .collect();
        format!("{{{}}}", all.join(","))
    })
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn every_other_byte_stays_and_the_rest_says_what_was_asked_for(
        choice in any::<u8>(), of in 0..128_u8, body in body()
    ) {
        holds(&[&[choice, of], body.as_bytes()].concat());
    }

    #[test]
    fn forms_keep_their_other_parts(
        choice in any::<u8>(), of in 128_u8..,
        names in prop::sample::subsequence(vec!["model", "voice", "stream", "a", "b", "file", "x[]"], 0..7)
    ) {
        let part = |name: &&str| {
            let file = if *name == "file" { "; filename=\"a\"" } else { "" };
            format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\nash\r\n")
        };
        let parts: String = names.iter().map(part).collect();
        holds(&[&[choice, of], parts.as_bytes(), b"--XX--\r\n"].concat());
    }
}
