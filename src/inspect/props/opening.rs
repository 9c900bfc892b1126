//! The beginning of an answer: it comes with the same byte however the answer is cut.

use proptest::prelude::*;

use super::super::opening::Opening;
use crate::fuzz::{cases, pieces, shape};

const TYPES: &[Option<&str>] = &[
    Some("text/event-stream; charset=utf-8"),
    Some("audio/mpeg"),
    Some("application/json"),
    None,
];

/// The first byte says of what type the answer is, and how much sound is wanted.
pub(crate) fn holds(data: &[u8]) -> u64 {
    let Some((&choice, data)) = data.split_first() else {
        return 0;
    };
    let kind = TYPES[usize::from(choice) % TYPES.len()];
    let min = u64::from(choice >> 2);
    let mut byte_by_byte = Opening::new(kind, min);
    let begins = data.chunks(1).position(|byte| byte_by_byte.feed(byte));
    let mut whole = Opening::new(kind, min);
    assert_eq!(whole.feed(data), begins.is_some());
    let mut cut = Opening::new(kind, min);
    let mut fed = 0;
    for piece in pieces(data) {
        fed += piece.len();
        let begun = cut.feed(piece);
        assert_eq!(
            begun,
            begins.is_some_and(|at| at < fed),
            "behind {fed} bytes"
        );
        assert_eq!(begun, cut.has_begun());
    }
    if kind == TYPES[0] && data.len() < 60_000 {
        assert_eq!(begins, first_event(data), "the first event ends there");
    }
    shape((begins.map(|at| at.min(64)), choice & 3))
}

/// Where the first event ends that has data, as the HTML standard reads a stream (section 9.2.6).
fn first_event(data: &[u8]) -> Option<usize> {
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let skipped = data.len() - text.len();
    let (mut at, mut has_data) = (0, false);
    while let Some(end) = memchr::memchr2(b'\r', b'\n', &text[at..]) {
        let line = &text[at..at + end];
        at += end + 1;
        if line.is_empty() && has_data {
            return Some(skipped + at - 1);
        }
        let name = line.split(|byte| *byte == b':').next();
        has_data |= name == Some(b"data");
        if text[at - 1] == b'\r' && text.get(at) == Some(&b'\n') {
            at += 1;
        }
    }
    None
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn it_begins_with_the_same_byte_however_it_is_cut(
        choice in any::<u8>(),
        lines in prop::collection::vec(prop::sample::select(vec![
            "data", "data:", "data: x", " data: x", "\u{feff}", "event: a", ": ping", "database: 1", "\n", "\r", "\r\n", "\n\n",
        ]), 0..12)
    ) {
        holds(&[&[choice][..], lines.concat().as_bytes()].concat());
    }
}
