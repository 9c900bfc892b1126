//! The head of an answer in HTTP/1, and where the body behind it ends (RFC 9112, section 6.3).

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, response};

use super::framing;

/// Fields in a head at most: some ten times what servers send.
const FIELDS: usize = 256;

/// The bytes are no answer, or one that can be read in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked,
    /// Where the connection ends.
    Close,
}

/// Reads a head. Values share the memory of `bytes`. `None` if it does not end in there.
///
/// # Errors
/// [`Unreadable`], also where lengths contradict each other.
pub(crate) fn parse(bytes: &Bytes) -> Result<Option<(response::Parts, usize)>, Unreadable> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut read = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // what Pingora forgives servers as well
    parser
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    let status = parser.parse_response_with_uninit_headers(&mut read, bytes, &mut fields);
    let length = match status.map_err(|_| Unreadable)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut headers = HeaderMap::with_capacity(read.headers.len());
    for field in read.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Unreadable)?;
        headers.append(name, value(bytes, field.value)?);
    }
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = StatusCode::from_u16(read.code.ok_or(Unreadable)?).map_err(|_| Unreadable)?;
    head.version = match read.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    head.headers = headers;
    one_length(&mut head.headers)?;
    Ok(Some((head, length)))
}

/// A value without its line breaks, which mean a space (RFC 9112, section 5.2).
fn value(bytes: &Bytes, raw: &[u8]) -> Result<HeaderValue, Unreadable> {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let value = match raw.iter().any(is_break) {
        false => HeaderValue::from_maybe_shared(bytes.slice_ref(raw)),
        true => {
            let words = raw.split(is_break).map(<[u8]>::trim_ascii);
            let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
            HeaderValue::from_bytes(&words.join(&b' '))
        }
    };
    value.map_err(|_| Unreadable)
}

/// Leaves one length, or none beside chunks, which have the last word.
fn one_length(headers: &mut HeaderMap) -> Result<(), Unreadable> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
        return Ok(());
    }
    let length = framing::length(headers).map_err(|_| Unreadable)?;
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let once = lines
        .next()
        .is_none_or(|line| !line.as_bytes().contains(&b','));
    if let (Some(length), false) = (length, once && lines.next().is_none()) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Where the body ends that stands behind a head, which answers a HEAD request or not.
pub(crate) fn framing(head: &response::Parts, to_head: bool) -> Framing {
    match head.status.as_u16() {
        101 => return Framing::Close,
        100..200 | 204 | 304 => return Framing::Length(0),
        _ if to_head => return Framing::Length(0),
        _ => {}
    }
    match framing::ends_in_chunks(&head.headers) {
        Some(true) => return Framing::Chunked,
        Some(false) => return Framing::Close,
        None => {}
    }
    match framing::length(&head.headers) {
        Ok(Some(length)) => Framing::Length(length),
        _ => Framing::Close,
    }
}

/// Whether the connection may be used again behind this answer, as far as its head says.
pub(crate) fn keeps_alive(head: &response::Parts) -> bool {
    let says = |option| framing::connection_says(&head.headers, option);
    match head.version {
        Version::HTTP_11 => !says("close"),
        // chunks are unknown to HTTP/1.0: who sends them there may mean anything (RFC 9112, 6.1)
        _ => says("keep-alive") && !head.headers.contains_key(header::TRANSFER_ENCODING),
    }
}

/// How long the server says that it keeps the connection (`Keep-Alive: timeout=5`, as node and
/// uvicorn do).
pub(crate) fn promised(head: &response::Parts) -> Option<Duration> {
    let said = head.headers.get("keep-alive")?.to_str().ok()?;
    let mut words = said.split(',').map(str::trim);
    let seconds = words.find_map(|word| word.strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(response::Parts, usize)>, Unreadable> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn framed(text: &str) -> Framing {
        framing(&read(text).unwrap().unwrap().0, false)
    }

    #[test]
    fn a_head_is_read_when_all_of_it_is_here() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: 1\r\nx-a: 2\r\n\r\nbody";
        for cut in 0..text.len() - 4 {
            assert!(read(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let (head, length) = read(text).unwrap().unwrap();
        assert_eq!((head.status, length), (StatusCode::OK, text.len() - 4));
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
        assert_eq!(head.headers["content-type"], "text/plain");
    }

    #[test]
    fn where_a_body_ends_is_said_once_or_not_at_all() {
        let of = |lines: &str| read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
        for twofold in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: +5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
        ] {
            assert_eq!(of(twofold).map(drop), Err(Unreadable), "{twofold}");
        }
        let (same, _) = of("content-length: 5, 5\r\ncontent-length: 5\r\n")
            .unwrap()
            .unwrap();
        let lengths: Vec<_> = same
            .headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .collect();
        assert_eq!(lengths, ["5"]);
    }

    #[test]
    fn chunks_have_the_last_word_and_no_length_beside_them() {
        let text =
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
        let (head, _) = read(text).unwrap().unwrap();
        assert_eq!(framing(&head, false), Framing::Chunked);
        assert!(!head.headers.contains_key(header::CONTENT_LENGTH));
        let odd = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n";
        assert_eq!(framed(odd), Framing::Close);
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for status in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
            assert_eq!(framed(&text), Framing::Length(0), "{status}");
        }
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let (head, _) = read(text).unwrap().unwrap();
        assert_eq!(framing(&head, true), Framing::Length(0));
        assert_eq!(framing(&head, false), Framing::Length(5));
        assert_eq!(framed("HTTP/1.1 200 OK\r\n\r\n"), Framing::Close);
    }

    #[test]
    fn a_folded_value_is_one_line() {
        let text = "HTTP/1.1 200 OK\r\nx-a: one\r\n  two\r\n\r\n";
        let (head, _) = read(text).unwrap().unwrap();
        assert_eq!(head.headers["x-a"], "one two");
    }

    #[test]
    fn a_server_may_say_how_long_it_keeps_a_connection() {
        let of = |line: &str| {
            let text = format!("HTTP/1.1 200 OK\r\n{line}\r\n");
            promised(&read(&text).unwrap().unwrap().0)
        };
        assert_eq!(
            of("keep-alive: timeout=5, max=100\r\n"),
            Some(Duration::from_secs(5))
        );
        assert_eq!(
            of("keep-alive: max=100, timeout=72\r\n"),
            Some(Duration::from_secs(72))
        );
        assert_eq!(of("keep-alive: timeout=soon\r\n"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_connection_is_kept_as_its_version_says() {
        let keeps = |text: &str| keeps_alive(&read(text).unwrap().unwrap().0);
        assert!(keeps("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nconnection: foo, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\n\r\n"));
        assert!(keeps("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\n\r\n"));
        let chunks =
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(!keeps(chunks));
    }
}
