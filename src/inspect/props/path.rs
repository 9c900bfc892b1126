//! Paths: what is let through has one meaning.

use proptest::prelude::*;

use super::super::path::normalise;
use crate::fuzz::{cases, shape};

pub(crate) fn holds(data: &[u8]) -> u64 {
    let Ok(path) = std::str::from_utf8(data) else {
        return 0;
    };
    let normal = match normalise(path) {
        Ok(normal) => normal,
        Err(why) => return shape(why.to_string()),
    };
    assert_eq!(
        normalise(&normal).as_ref(),
        Ok(&normal),
        "it is normal already"
    );
    assert!(
        normal.starts_with('/') && !normal.contains("//"),
        "{normal}"
    );
    assert!(
        normal
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"\\;#".contains(&b)),
        "{normal}"
    );
    assert!(
        normal.split('/').all(|part| part != "." && part != ".."),
        "{normal}"
    );
    for escaped in ["%2F", "%5C", "%3B", "%2E", "%00"] {
        assert!(!normal.to_ascii_uppercase().contains(escaped), "{normal}");
    }
    assert_eq!(
        unescaped(path.as_bytes()),
        unescaped(normal.as_bytes()),
        "it means something else"
    );
    shape((
        normal.len().min(40),
        normal.matches('%').count(),
        normal.matches('/').count(),
    ))
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let hex = path
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value.filter(|_| path[at] == b'%') {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn what_is_let_through_has_one_meaning(
        parts in prop::collection::vec(prop::sample::select(vec![
            "/", "v1", "models", "/v1/models/", "a", ".", "..", "%2e", "%2F", "%2f", "%5c", "%25", "%c3%a9", "%20",
            "%", "%4", "%0a", ";", "\\", "#", "?", "é", " ", "%61", "%252e", "*",
        ]), 0..9)
    ) {
        holds(format!("/{}", parts.concat()).as_bytes());
        holds(parts.concat().as_bytes());
    }
}
