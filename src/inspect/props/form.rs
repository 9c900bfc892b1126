//! Forms: what the scanner takes for a part is what Python's parser takes for one, wherever it is cut.

use proptest::prelude::*;
use serde_json::Value;

use super::super::multipart::{self, boundary};
use super::super::{Body, Field, Form, KEPT_VALUE, Scanner};
use super::{kind_of, scanned};
use crate::fuzz::{Reader, cases, pieces, shape};

static PYTHON: Reader = Reader::new();

/// The value of `Content-Type`, and behind the first line break the body.
fn split(data: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b'\n', data)?;
    let content_type = std::str::from_utf8(&data[..end]).ok()?;
    // nothing else comes in a header
    http::HeaderValue::from_str(content_type).ok()?;
    Some((content_type, &data[end + 1..]))
}

fn scanner(content_type: &str) -> Option<(Scanner, String)> {
    let boundary = boundary(content_type).ok()?;
    let scanner = Scanner::Multipart(Box::new(multipart::Scanner::new(&boundary)));
    Some((scanner, boundary))
}

pub(crate) fn holds(data: &[u8]) -> u64 {
    let Some((content_type, data)) = split(data) else {
        return 0;
    };
    let Some((one, boundary)) = scanner(content_type) else {
        return 1;
    };
    let found = scanned(one, &[data]);
    let (other, _) = scanner(content_type).expect("it was there before");
    assert_eq!(
        found,
        scanned(other, &pieces(data)),
        "how it is cut must not matter"
    );
    match found {
        Ok(body) => {
            fits(&body, data, &boundary);
            let all = in_order(&body);
            let texts = all.iter().map(|f| (f.text.is_some(), f.name.len().min(9)));
            shape(texts.collect::<Vec<_>>())
        }
        Err(why) => shape(kind_of(&why)),
    }
}

fn in_order(body: &Body) -> Vec<&Field> {
    let mut all: Vec<&Field> = body.fields.iter().chain(&body.repeated).collect();
    all.sort_by_key(|field| field.whole.start);
    all
}

/// The parts stand one behind the other, and what is in between belongs to nobody.
fn fits(body: &Body, data: &[u8], boundary: &str) {
    assert_eq!(
        body.form,
        Form::Multipart {
            boundary: boundary.to_owned()
        }
    );
    let delimiter = format!("--{boundary}");
    let mut at = 0;
    for field in in_order(body) {
        assert_eq!(field.whole.start, at);
        at = field.whole.end;
        assert_eq!(field.value.end + 2, at);
        let part = &data[field.whole.start as usize..field.whole.end as usize];
        assert!(part.starts_with(delimiter.as_bytes()) && part.ends_with(b"\r\n"));
        let value = &data[field.value.start as usize..field.value.end as usize];
        for start in memchr::memmem::find_iter(value, delimiter.as_bytes()) {
            let begins_line = start == 0 || matches!(value[start - 1], b'\r' | b'\n');
            assert!(!begins_line, "another reader sees a part there");
        }
        if let Some(text) = &field.text {
            assert_eq!(text.as_bytes(), value);
        } else {
            let is_file = body.file.is_some();
            assert!(is_file || value.len() >= KEPT_VALUE || std::str::from_utf8(value).is_err());
        }
    }
    assert!(data[at as usize..].starts_with(format!("{delimiter}--").as_bytes()));
    assert_eq!(body.insert_at, 0);
}

/// What is read as a form here is read by Python as the same one.
pub(crate) fn holds_in_python(data: &[u8]) -> u64 {
    let Some((content_type, body)) = split(data) else {
        return 0;
    };
    let Some((scanner, _)) = scanner(content_type) else {
        return 1;
    };
    let Ok(found) = scanned(scanner, &[body]) else {
        return 2;
    };
    let all = in_order(&found);
    if all.is_empty() {
        return 3;
    }
    let Some(answer) = PYTHON.ask("form", data) else {
        return 4;
    };
    let Value::Array(parts) = &answer else {
        panic!("Python reads no form: {answer}");
    };
    assert_eq!(all.len(), parts.len(), "{answer}");
    for (field, part) in all.iter().zip(parts) {
        assert_eq!(part["name"], *field.name, "{answer}");
        let value = &body[field.value.start as usize..field.value.end as usize];
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(part["data"], hex);
    }
    shape(parts.len())
}

fn part() -> impl Strategy<Value = Vec<u8>> {
    let names = vec![
        "name=\"model\"",
        "name=\"voice\"",
        "name=model",
        "NAME=\"prompt\"",
        "name=\"x[]\"",
        "name=\"file\"; filename=\"a;b.wav\"",
        "filename=\"a\\\"b\"; name=\"file\"",
        "name=\"a b\"",
        "name=\"\"",
        "name=\"é\"",
        "name=\"a\"; name*=utf-8''b",
        " name = \"a\" ",
    ];
    let more = vec![
        "",
        "\r\nContent-Type: audio/wav",
        "\r\nContent-Transfer-Encoding: binary",
        "\r\nX: y\r\nZ:",
        "\r\nX: \"\r",
        "\r\n folded",
        "\nX: y",
    ];
    let pieces = vec![
        &b"whisper-1"[..],
        b"",
        b"\r\n",
        b"\n",
        b"\r",
        b"--XX",
        b"\r\n--XX",
        b"\r\n--X",
        b"\n--XX--",
        b"\r--XX\r",
        b"--",
        b"\0\xff\xfe",
        b"RIFF",
        b"\r\n--XXY",
    ];
    let value = prop::collection::vec(prop::sample::select(pieces), 0..4);
    (
        prop::sample::select(names),
        prop::sample::select(more),
        value,
    )
        .prop_map(|(name, more, value)| {
            let head = format!("--XX\r\nContent-Disposition: form-data; {name}{more}\r\n\r\n");
            [head.as_bytes(), &value.concat(), b"\r\n"].concat()
        })
}

fn form() -> impl Strategy<Value = Vec<u8>> {
    let types = vec![
        "multipart/form-data; boundary=XX",
        "multipart/form-data; boundary=\"XX\"",
        "Multipart/Form-Data;boundary=XX;charset=utf-8",
    ];
    let begins = prop_oneof![9 => Just(""), 1 => Just("\r\n"), 1 => Just("preamble\r\n")];
    let ends = prop_oneof![
        6 => Just("--XX--\r\n"), 2 => Just("--XX--"), 1 => Just("--XX--\r\nepilogue"), 1 => Just("--XX--\n\n"), 1 => Just(""),
    ];
    let parts = prop::collection::vec(part(), 0..4);
    (prop::sample::select(types), begins, parts, ends).prop_map(|(kind, begin, parts, end)| {
        [
            kind.as_bytes(),
            b"\n",
            begin.as_bytes(),
            &parts.concat(),
            end.as_bytes(),
        ]
        .concat()
    })
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn parts_are_those_that_python_finds(data in form()) {
        holds(&data);
        holds_in_python(&data);
    }
}
