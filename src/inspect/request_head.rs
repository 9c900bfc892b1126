//! The head of a request in HTTP/1, read as it stands. What of it is let through is for
//! [`super::head`] to say.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::framing;

/// Fields in a head at most, whatever is allowed: the parser has no room for more.
const FIELDS: usize = 256;

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Broken,
    /// More fields than there is room for.
    Fields,
}

/// A head. Its values share the memory it was read into.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    /// As it was written.
    pub(crate) target: Bytes,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// Bytes of the head, with the empty line behind it.
    pub(crate) length: usize,
}

/// Where the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// Reads a head; `None` if it does not end in there.
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn parse(bytes: &Bytes) -> Result<Option<RequestHead>, Unreadable> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut read = httparse::Request::new(&mut []);
    let length = match read.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Unreadable::Fields),
        Err(_) => return Err(Unreadable::Broken),
    };
    let (Some(method), Some(target)) = (read.method, read.path) else {
        return Err(Unreadable::Broken);
    };
    let mut headers = HeaderMap::with_capacity(read.headers.len());
    for field in read.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Unreadable::Broken)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| Unreadable::Broken)?;
        headers.append(name, value);
    }
    Ok(Some(RequestHead {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| Unreadable::Broken)?,
        target: bytes.slice_ref(target.as_bytes()),
        version: match read.version {
            Some(1) => Version::HTTP_11,
            _ => Version::HTTP_10,
        },
        headers,
        length,
    }))
}

impl RequestHead {
    /// Where the body ends (RFC 9112, section 6.3).
    ///
    /// # Errors
    /// If that cannot be told, so that the next request could begin anywhere.
    pub(crate) fn framing(&self) -> Result<Framing, Unreadable> {
        if let Some(chunked) = framing::ends_in_chunks(&self.headers) {
            // HTTP/1.0 knows no chunks
            return match chunked && self.version == Version::HTTP_11 {
                true => Ok(Framing::Chunked),
                false => Err(Unreadable::Broken),
            };
        }
        let length = framing::length(&self.headers).map_err(|_| Unreadable::Broken)?;
        Ok(Framing::Length(length.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<RequestHead>, Unreadable> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn framed(lines: &str) -> Result<Framing, Unreadable> {
        let text = format!("POST /v1 HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
        read(&text).unwrap().unwrap().framing()
    }

    #[test]
    fn a_head_is_read_when_all_of_it_is_here() {
        let text = "POST /v1/x?y HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n{}";
        for cut in 0..text.len() - 2 {
            assert!(read(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let head = read(text).unwrap().unwrap();
        assert_eq!((&head.method, head.length), (&Method::POST, text.len() - 2));
        assert_eq!(&head.target[..], b"/v1/x?y");
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "hello\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\na b: c\r\n\r\n",
        ] {
            assert_eq!(read(text).map(|_| ()), Err(Unreadable::Broken), "{text}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1));
        assert_eq!(read(&many).map(|_| ()), Err(Unreadable::Fields));
    }

    #[test]
    fn a_body_has_one_end_or_the_request_is_refused() {
        assert_eq!(framed(""), Ok(Framing::Length(0)));
        assert_eq!(framed("content-length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(
            framed("transfer-encoding: gzip, Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        for twofold in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: +5\r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: chunked, gzip\r\n",
        ] {
            assert_eq!(framed(twofold), Err(Unreadable::Broken), "{twofold}");
        }
        let old = read("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(old.unwrap().unwrap().framing(), Err(Unreadable::Broken));
    }
}
