//! Suffixes: they come and go without a trace, and nobody makes one.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::sign::{SUFFIX, Signature};
use super::{Affinity, BodyIds, Maker, Reader, Signer};
use crate::config::{self, PoolId};
use crate::fuzz::{Dice, cases, pieces, shape};

static AFFINITY: LazyLock<Affinity> = LazyLock::new(|| {
    let text = "pools: { a: { servers: ['http://h:1', 'http://h:2'] } }\nroutes: [{ pool: a }]\naffinity: { secret: 0123456789abcdef0123456789abcdef }";
    let (config, problems) = config::read(text, std::path::Path::new("."), &|_| None);
    Affinity::new(&config.unwrap_or_else(|| panic!("{problems:?}")), None)
});

/// A byte that says whether it is a stream, and an answer.
pub(crate) fn marker(data: &[u8]) -> u64 {
    let Some((&kind, data)) = data.split_first() else {
        return 0;
    };
    let events = kind & 1 == 1;
    let maker = Maker {
        pool: PoolId(0),
        server: 1,
    };
    let mark = |pieces: &[&[u8]]| -> Vec<u8> {
        let mut marker = AFFINITY.marker(maker, events);
        let marked = pieces
            .iter()
            .map(|piece| marker.mark(Bytes::copy_from_slice(piece)));
        marked.collect::<Vec<_>>().concat()
    };
    let marked = mark(&[data]);
    assert_eq!(marked, mark(&pieces(data)), "how it is cut must not matter");
    let count = without_suffixes(data, &marked);
    if !events {
        comes_back(data, &marked, maker, count);
    }
    shape((events, count.min(30)))
}

/// Every other byte stays; says how many suffixes there are.
fn without_suffixes(data: &[u8], marked: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    for byte in data {
        if marked[at] != *byte {
            assert!(
                marked[at..].starts_with(b"_tl_"),
                "no suffix was put in at {at}"
            );
            assert_eq!(*byte, b'"', "a suffix stands at the end of a text");
            at += SUFFIX;
            count += 1;
        }
        assert_eq!(marked[at], *byte);
        at += 1;
    }
    assert_eq!(at, marked.len());
    count
}

/// What was marked is read back to what it was, and leads to its maker.
fn comes_back(data: &[u8], marked: &[u8], maker: Maker, count: usize) {
    if memchr::memmem::find(data, b"_tl_").is_some() {
        return;
    }
    let mut ids = BodyIds::default();
    pieces(marked).iter().for_each(|piece| ids.feed(piece));
    let mut reader = Reader::new(&AFFINITY, 0);
    assert_eq!(reader.body(ids), Ok(()));
    let asked = reader.finish();
    assert_eq!(
        asked.edits.len(),
        count,
        "an id was marked and is not known again"
    );
    let mut out = Vec::new();
    let mut at = 0;
    for edit in &asked.edits {
        out.extend_from_slice(&marked[at..edit.at.start as usize]);
        at = edit.at.end as usize;
    }
    out.extend_from_slice(&marked[at..]);
    assert_eq!(out, data);
    assert!(asked.pinned.is_none_or(|pinned| pinned == maker));
}

/// The length of an id, and what is changed in it: places, and the bytes that are put there.
pub(crate) fn signature(data: &[u8]) -> u64 {
    let signer = Signer::new(b"a secret");
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(
            !matches!(signer.read(text), Signature::Good { .. }),
            "somebody made one"
        );
        let path = format!("/v1/files/{text}");
        let mut reader = Reader::new(&AFFINITY, 0);
        let _ = reader.target(&path, Some(text));
        assert_eq!(reader.finish().pinned, None);
    }
    let mut dice = Dice::new(data);
    let id = format!("file-{}", "a".repeat(dice.below(40)));
    let tag = signer.tag("a", "b");
    let signed = format!("{id}{}", signer.suffix(id.as_bytes(), tag));
    assert_eq!(signer.read(&signed), Signature::Good { id: &id, tag });
    let mut bytes = signed.clone().into_bytes();
    while !dice.is_over() {
        let at = usize::from(dice.byte()) % (bytes.len() + 1);
        match dice.below(3) {
            0 => bytes.insert(at, dice.byte()),
            1 if at < bytes.len() => bytes[at] = dice.byte(),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => {}
        }
    }
    let Ok(changed) = String::from_utf8(bytes) else {
        return 1;
    };
    let good = matches!(signer.read(&changed), Signature::Good { .. });
    assert_eq!(good, changed == signed, "{changed}");
    shape((good, changed.len().min(100)))
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn ids_are_marked_and_read_back(kind in any::<u8>(), parts in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"id\":", "\"file_id\":", "\"resp_1\"", "\"msg_2\"", "\"file-3\"", "\"x\"", "\"metadata\":",
        "\"file_ids\":", "\\", "\"", "data:", "\n", "\r\n", "1", "\"type\":", "\"item_ids\":[\"msg_1\",\"rs_2\"]", "\"output\":[{",
    ]), 0..24)) {
        marker(&[&[kind], parts.concat().as_bytes()].concat());
    }

    #[test]
    fn ids_of_any_length_are_marked_and_read_back(length in 1..300_usize) {
        marker(format!("\0{{\"id\":\"resp_{}\"}}", "a".repeat(length)).as_bytes());
    }

    #[test]
    fn whatever_is_changed_is_refused(data in prop::collection::vec(any::<u8>(), 0..12)) {
        signature(&data);
    }
}
