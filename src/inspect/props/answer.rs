//! What a server sends in HTTP/1: a head is the same whatever stands behind it, a body the same
//! however it arrives, and sizes are what another reader takes them for.

use bytes::Bytes;
use http::header;
use proptest::prelude::*;

use super::super::answer_head::{Framing, framing, parse};
use super::super::chunks::{Chunks, Garbled};
use crate::fuzz::{cases, pieces, shape};

pub(crate) fn holds(data: &[u8]) -> u64 {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(Some((head, length))) = parse(&bytes) else {
        return shape(("no head", in_chunks(data)));
    };
    let (again, same) = parse(&bytes.slice(..length))
        .expect("it was read before")
        .expect("it ends there");
    assert_eq!((&again.headers, same), (&head.headers, length));
    assert!(
        !matches!(parse(&bytes.slice(..length - 1)), Ok(Some(_))),
        "a head ends once"
    );
    let lengths = head.headers.get_all(header::CONTENT_LENGTH).iter().count();
    let coded = head.headers.contains_key(header::TRANSFER_ENCODING);
    assert!(
        lengths <= usize::from(!coded),
        "there is one end of the body"
    );
    for value in head.headers.values() {
        let broken = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(broken), "{value:?}");
    }
    let framing = framing(&head, false);
    let body = match framing {
        Framing::Chunked => in_chunks(&data[length..]),
        _ => None,
    };
    shape((
        head.status.as_u16() / 100,
        head.headers.len().min(9),
        framing == Framing::Close,
        body,
    ))
}

/// Reads a body at once, in pieces, and its first size with another reader; says how that ended.
fn in_chunks(data: &[u8]) -> Option<(bool, usize)> {
    let read = |parts: &[&[u8]]| {
        let (mut chunks, mut out, mut used) = (Chunks::new(), Vec::new(), 0);
        for part in parts {
            used += chunks.feed(part, &mut out)?;
        }
        Ok::<_, Garbled>((out, used, chunks.is_over()))
    };
    let whole = read(&[data]);
    let parts = pieces(data);
    assert_eq!(read(&parts), whole, "cut into {parts:?}");
    let (out, used, over) = whole.ok()?;
    assert!(out.len() <= used && (over || used == data.len()));
    if let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(data) {
        let body = &data[start..];
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        assert!(out.len() >= size.min(body.len()), "a chunk of {size}");
        assert_eq!(out[..size.min(body.len())], body[..size.min(body.len())]);
    }
    Some((over, out.len().min(16)))
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_body_comes_out_of_its_chunks_as_it_went_in(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut sent = Vec::new();
        for part in &parts {
            sent.extend_from_slice(format!("{:X};x=y\r\n", part.len()).as_bytes());
            sent.extend_from_slice(part);
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(b"0\r\n\r\n");
        let length = sent.len();
        sent.extend_from_slice(&rest);
        let (mut chunks, mut out) = (Chunks::new(), Vec::new());
        prop_assert_eq!(chunks.feed(&sent, &mut out), Ok(length));
        prop_assert!(chunks.is_over());
        prop_assert_eq!(out, parts.concat());
        holds(&sent);
    }
}
