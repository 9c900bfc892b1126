//! JSON bodies: what the scanner finds is what serde_json and Python find, wherever it is cut.

use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::json::Scanner as JsonScanner;
use super::super::{Body, Field, KEPT_VALUE, MAX_FIELDS, Scanner, Shape};
use super::{kind_of, scanned};
use crate::fuzz::{Reader, cases, pieces, shape};

static PYTHON: Reader = Reader::new();

fn scan(pieces: &[&[u8]]) -> Result<Body, super::super::BodyError> {
    scanned(Scanner::Json(Box::<JsonScanner>::default()), pieces)
}

/// An object as serde_json reads it: its fields in their order, and all of them.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(All)
    }
}

pub(crate) fn holds(data: &[u8]) -> u64 {
    let found = scan(&[data]);
    assert_eq!(found, scan(&pieces(data)), "how it is cut must not matter");
    let pairs = serde_json::from_slice::<Pairs<'_>>(data).ok();
    match (&found, &pairs) {
        (Ok(body), Some(pairs)) => agree(body, &pairs.0, data),
        (Ok(_), None) => assert!(is_left_to_servers(data), "serde_json refuses it"),
        (Err(why), Some(pairs)) => {
            assert!(is_refused(&pairs.0, data), "serde_json reads it: {why}");
        }
        (Err(_), None) => {}
    }
    match found {
        Ok(body) => {
            let fields = body.fields.iter();
            shape(
                fields
                    .map(|f| (f.text.is_some(), f.shape as u8))
                    .collect::<Vec<_>>(),
            )
        }
        Err(why) => shape((kind_of(&why), pairs.is_some())),
    }
}

fn agree(body: &Body, pairs: &[(String, &RawValue)], data: &[u8]) {
    assert_eq!(body.fields.len(), pairs.len());
    let mut before = 0;
    for (field, (name, raw)) in body.fields.iter().zip(pairs) {
        assert_eq!(&field.name, name);
        same_value(field, raw.get(), data);
        assert!(before < field.whole.start && field.whole.start < field.value.start);
        assert_eq!(data[field.whole.start as usize], b'"');
        assert_eq!(field.whole.end, field.value.end);
        before = field.whole.end;
    }
    assert_eq!(&data[body.insert_at as usize..].trim_ascii_end(), b"}");
}

fn same_value(field: &Field, raw: &str, data: &[u8]) {
    let value = &data[field.value.start as usize..field.value.end as usize];
    assert_eq!(String::from_utf8_lossy(value), raw);
    let text = serde_json::from_str::<String>(raw);
    let text = text.ok().filter(|_| raw.len() - 2 <= KEPT_VALUE);
    assert_eq!(field.text, text, "of {}", field.name);
    assert_eq!(field.is_true, raw == "true");
    let expected = match raw.as_bytes()[0] {
        b'"' => Shape::Text,
        b'[' if raw[1..].trim_ascii() == "]" => Shape::EmptyList,
        b'[' => Shape::List,
        b'n' => Shape::Null,
        _ => Shape::Other,
    };
    assert_eq!(field.shape, expected);
}

/// What is wrong only inside of values that decide nothing: their servers judge it.
fn is_left_to_servers(data: &[u8]) -> bool {
    let control = |b: &u8| *b < 0x20;
    std::str::from_utf8(data).is_err() || data.iter().any(control)
}

/// What serde_json would read, and nobody else reads in the same way.
fn is_refused(pairs: &[(String, &RawValue)], data: &[u8]) -> bool {
    let twice = (1..pairs.len()).any(|n| pairs[..n].iter().any(|(name, _)| *name == pairs[n].0));
    let known = ["model", "voice", "stream"];
    let spelled = |name: &str| {
        known
            .iter()
            .any(|k| name != *k && name.eq_ignore_ascii_case(k))
    };
    let undecodable = |name: &str, raw: &RawValue| {
        matches!(name, "model" | "voice")
            && raw.get().starts_with('"')
            && serde_json::from_str::<String>(raw.get()).is_err()
    };
    twice
        || pairs.len() > MAX_FIELDS
        || depth(data) > 512
        || pairs.iter().any(|(name, raw)| {
            // an escape has up to six bytes for one
            name.len() > 600 || spelled(name) || undecodable(name, raw)
        })
}

fn depth(data: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in data {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => depth += 1,
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// What decides has to be read alike by Python, of which most servers are made.
pub(crate) fn holds_in_python(data: &[u8]) -> u64 {
    let found = scan(&[data]);
    let Some(answer) = PYTHON.ask("json", data) else {
        return 0;
    };
    let Ok(body) = found else {
        return shape(answer.is_array());
    };
    let Value::Array(pairs) = answer else {
        let why = answer["error"].as_str().unwrap_or_default();
        let deep = why.starts_with("RecursionError");
        let long = why.contains("integer string conversion");
        assert!(
            is_left_to_servers(data) || deep || long,
            "Python refuses it: {why}"
        );
        return shape(why);
    };
    assert_eq!(body.fields.len(), pairs.len());
    for (field, pair) in body.fields.iter().zip(&pairs) {
        assert_eq!(pair[0], *field.name);
        if let Some(text) = &field.text {
            assert_eq!(pair[1], **text, "of {}", field.name);
        }
    }
    shape(pairs.len())
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")]
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ -~]{0,6}".prop_map(|plain| plain.replace(['"', '\\'], "")),
        Just("é😀\u{2028}".to_owned()),
        (0_u32..0x1_0000).prop_map(|code| format!("\\u{code:04x}")),
        prop::sample::select(vec![
            "\\\"",
            "\\\\",
            "\\/",
            "\\n",
            "\\ud83d\\ude00",
            "\\ud83d",
            "\u{1}",
            "\\x"
        ])
        .prop_map(str::to_owned),
        Just("x".repeat(4090)),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn key() -> impl Strategy<Value = String> {
    let known = vec![
        "\"model\"",
        "\"voice\"",
        "\"stream\"",
        "\"input\"",
        "\"mod\\u0065l\"",
        "\"MODEL\"",
        "\"\"",
    ];
    prop_oneof![
        3 => prop::sample::select(known).prop_map(str::to_owned),
        2 => "\"[a-z]{1,8}\"",
        1 => text(),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let word = vec![
        "true",
        "false",
        "null",
        "0",
        "-0",
        "-0.5e-7",
        "1E+400",
        "123456789012345678901234567890",
        "01",
        "1.",
        "NaN",
        "tru",
        "[]",
        "{}",
        "[ ]",
    ];
    let leaf = prop_oneof![3 => text(), 3 => prop::sample::select(word).prop_map(str::to_owned)];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec((key(), inner), 0..4).prop_map(|all| {
                let all: Vec<String> = all.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                format!("{{{}}}", all.join(" ,"))
            }),
        ]
    })
}

/// Objects, most of them whole.
pub(crate) fn object() -> impl Strategy<Value = String> {
    let pair = (space(), key(), space(), value(), space());
    let pairs = prop::collection::vec(pair, 0..7);
    (space(), pairs, space()).prop_map(|(before, pairs, behind)| {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(a, key, b, value, c)| format!("{a}{key}{b}:{b}{value}{c}"))
            .collect();
        format!("{before}{{{}}}{behind}", pairs.join(","))
    })
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn fields_are_those_that_other_readers_find(text in object()) {
        holds(text.as_bytes());
        holds_in_python(text.as_bytes());
    }

    #[test]
    fn a_byte_that_is_wrong_changes_nothing_about_that(
        text in object(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut data = text.into_bytes();
        let at = at.index(data.len());
        data[at] = byte;
        holds(&data);
        holds_in_python(&data);
    }
}

#[test]
fn bombs_are_as_deep_as_they_seem() {
    for levels in [120, 511, 512, 513, 5000] {
        holds(
            format!(
                "{{\"a\":{}{}}}",
                "[".repeat(levels - 1),
                "]".repeat(levels - 1)
            )
            .as_bytes(),
        );
        holds(
            format!(
                "{{\"a\":{}1{}}}",
                "{\"b\":".repeat(levels - 1),
                "}".repeat(levels - 1)
            )
            .as_bytes(),
        );
    }
}
