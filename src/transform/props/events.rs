//! Events that are left out: those and nothing else, wherever the stream is cut.

use proptest::prelude::*;

use super::super::events::WithoutUsage;
use crate::fuzz::{cases, pieces, shape};

fn filtered(pieces: &[&[u8]]) -> Vec<u8> {
    let mut filter = WithoutUsage::default();
    let mut out: Vec<u8> = pieces.iter().flat_map(|piece| filter.feed(piece)).collect();
    out.extend(filter.finish());
    out
}

pub(crate) fn holds(data: &[u8]) -> u64 {
    let out = filtered(&[data]);
    assert_eq!(
        out,
        filtered(&pieces(data)),
        "how it is cut must not matter"
    );
    // what goes are whole events, and all of them tell of usage
    let (mut from, mut left) = (data, &out[..]);
    let mut gone = 0;
    while !from.is_empty() {
        let end = (1..from.len()).find(|n| from[n - 1] == b'\n' && blank(&from[*n..]) > 0);
        let end = end.map_or(from.len(), |n| n + blank(&from[n..]));
        let (event, rest) = from.split_at(end);
        match left.strip_prefix(event) {
            Some(behind) => left = behind,
            None => {
                let text = std::str::from_utf8(event).expect("JSON is text");
                let json = text.trim().strip_prefix("data:").expect("it has data");
                let value: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
                assert!(value["usage"].is_object() && value["choices"] == serde_json::json!([]));
                gone += 1;
            }
        }
        from = rest;
    }
    assert_eq!(left, b"");
    shape((gone.min(5), out.len().min(64)))
}

fn blank(text: &[u8]) -> usize {
    match text {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn only_events_of_usage_go(parts in prop::collection::vec(prop::sample::select(vec![
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}", "data:{\"choices\":[],\"usage\":null}",
        "data: {\"choices\":[{}],\"usage\":{}}", "data: [DONE]", ": ping", "event: x", "\n", "\r\n", "\n\n", "\n\n",
        "\r\n\r\n", "\r", "data: {\"choices\":[],", "data: \"usage\":{}}",
    ]), 0..14)) {
        holds(parts.concat().as_bytes());
    }
}
