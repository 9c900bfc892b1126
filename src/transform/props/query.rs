//! Queries: a parameter is the same one for us and for whoever decodes it by the book.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::path::{parameter, to_server, unescaped, with_parameter};
use crate::config::{Auth, Config};
use crate::fuzz::{cases, shape};

static CONFIG: LazyLock<Config> = LazyLock::new(|| super::config("", ""));

pub(crate) fn holds(data: &[u8]) -> u64 {
    let Ok(query) = std::str::from_utf8(data) else {
        return 0;
    };
    assert_eq!(unescaped(query), String::from_utf8_lossy(&decoded(query)));
    let pool = &CONFIG.pools[0];
    let target = to_server("/v1/x", Some(query), pool, &pool.servers[0], Auth::Inject);
    for pair in target
        .split_once('?')
        .map_or("", |(_, query)| query)
        .split('&')
    {
        let name = decoded(pair.split('=').next().unwrap_or_default());
        let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
        let keys = ["key", "api_key", "api-key", "apikey", "access_token"];
        assert!(!keys.contains(&name.as_str()), "{pair} is a key");
    }
    let found = parameter(Some(query), "model");
    let written = with_parameter(query, "model", "a b/é&%=+");
    assert_eq!(written.split('&').count(), query.split('&').count());
    for (before, after) in query.split('&').zip(written.split('&')) {
        let is_model = before
            .split_once('=')
            .is_some_and(|(name, _)| decoded(name) == b"model");
        assert!(is_model || before == after);
    }
    if found.is_some() {
        assert_eq!(
            parameter(Some(&written), "model").as_deref(),
            Some("a b/é&%=+")
        );
    }
    shape((
        found.is_some(),
        query.matches('&').count().min(9),
        query.matches('%').count().min(9),
    ))
}

/// RFC 3986, section 2.1.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let hex = |at: usize| (*bytes.get(at)? as char).to_digit(16);
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn parameters_are_what_the_book_says(parts in prop::collection::vec(prop::sample::select(vec![
        "model", "=", "&", "key", "API%5fkey", "mod%65l", "a", "%", "%2", "%+1", "%zz", "%C3%A9", "é", "%26", "%3D", "+",
    ]), 0..12)) {
        holds(parts.concat().as_bytes());
    }
}
