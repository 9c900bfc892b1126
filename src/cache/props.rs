//! Answers outside of this program: what was changed is refused, or it is the same.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::Stored;
use super::format::{decode, encode};
use crate::fuzz::{Dice, cases, shape};

fn sample() -> Stored {
    let header = |name, value| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let headers = vec![
        header("content-type", "audio/mpeg"),
        header("x-model", "a: b"),
    ];
    Stored::new(headers, Bytes::from_static(b"body"))
}

/// Any bytes, and what is changed in good ones: places, and the bytes that are put there.
pub(crate) fn stored(data: &[u8]) -> u64 {
    let read = decode(Bytes::copy_from_slice(data), 1 << 20);
    let kind = read.map(|_| ()).map_err(|why| why.to_string());
    let good = encode(&sample());
    let mut bytes = good.clone();
    let mut dice = Dice::new(data);
    while !dice.is_over() {
        let at = usize::from(dice.byte()) % (bytes.len() + 1);
        match dice.below(3) {
            0 => bytes.insert(at, dice.byte()),
            1 if at < bytes.len() => bytes[at] = dice.byte(),
            2 => bytes.truncate(at.max(40)),
            _ => {}
        }
    }
    let changed = decode(Bytes::from(bytes.clone()), 1 << 20);
    assert_eq!(changed.is_ok(), bytes == good);
    if let Ok(read) = changed {
        assert_eq!((read.headers, read.body), (sample().headers, sample().body));
    }
    shape((kind, bytes.len().min(200)))
}

fn value() -> impl Strategy<Value = HeaderValue> {
    prop::collection::vec(any::<u8>(), 0..20)
        .prop_filter_map("no value", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn what_was_changed_is_refused(data in prop::collection::vec(any::<u8>(), 0..12)) {
        stored(&data);
    }

    #[test]
    fn what_was_written_is_read_back(
        headers in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", value()), 0..5), body in prop::collection::vec(any::<u8>(), 0..60)
    ) {
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (HeaderName::try_from(name).expect("it is a name"), value))
            .collect();
        let one = Stored::new(headers, Bytes::from(body));
        let read = decode(Bytes::from(encode(&one)), 1 << 20).expect("it is whole");
        prop_assert_eq!((read.headers, read.body), (one.headers, one.body));
    }
}
