//! Whether every reader takes a request head for the same.
//!
//! The parsers on the way of a request differ in what they forgive. What one reads as a header and
//! another as part of a value, what one counts by its length and another by its chunks, is how a
//! request is hidden in another. So what has no single meaning is refused, even where a relay that
//! writes its own head could pass on one reading: a proxy in front may have decided on the other.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use crate::config::HeadLimits;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It can be read in more than one way.
    Ambiguous(&'static str),
    /// More fields than this, or more bytes in them.
    Headers(HeadLimits),
    /// A target of more bytes than this.
    Uri(usize),
    /// It expects what nobody does.
    Expectation,
    /// TRACE, whose answer would hold the head as its server got it, with the key that is not the
    /// client's; or CONNECT, which is for proxies of another kind.
    Method,
}

/// Fields of which there is one, or readers choose.
const SINGLE: &[HeaderName] = &[
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::HOST,
    header::AUTHORIZATION,
    header::EXPECT,
    header::UPGRADE,
];

/// Looks at a head. `target` is what it asks for as it was written, `raw` its bytes if it came in
/// HTTP/1.
pub(crate) fn check(
    head: &Parts,
    target: &[u8],
    raw: Option<&[u8]>,
    limits: HeadLimits,
) -> Result<(), Refused> {
    let headers = &head.headers;
    if target.len() > limits.uri {
        return Err(Refused::Uri(limits.uri));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if headers.len() > limits.fields || bytes > limits.bytes {
        return Err(Refused::Headers(limits));
    }
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(Refused::Method);
    }
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refused::Ambiguous(
            "its target holds bytes that must be escaped",
        ));
    }
    if headers.len() != headers.keys_len()
        && SINGLE
            .iter()
            .any(|name| headers.get_all(name).iter().nth(1).is_some())
    {
        return Err(Refused::Ambiguous(
            "a header that stands for one thing is there twice",
        ));
    }
    if raw.is_some_and(ends_a_line_with_lf_alone) {
        return Err(Refused::Ambiguous("a line of its head ends without CR"));
    }
    framing(headers, raw)?;
    let host = match headers.get(header::HOST) {
        Some(host) => host.as_bytes(),
        None => head
            .uri
            .authority()
            .map_or(&b""[..], |a| a.as_str().as_bytes()),
    };
    // HTTP/1.0 needs none
    if !(is_host(host) || host.is_empty() && head.version == Version::HTTP_10) {
        return Err(Refused::Ambiguous(
            "it names no host, or none that can be one",
        ));
    }
    match headers.get(header::EXPECT).map(HeaderValue::as_bytes) {
        Some(expected) if !expected.eq_ignore_ascii_case(b"100-continue") => {
            Err(Refused::Expectation)
        }
        _ => Ok(()),
    }
}

/// How long the body is, is said once and plainly.
fn framing(headers: &HeaderMap, raw: Option<&[u8]>) -> Result<(), Refused> {
    if let Some(length) = headers.get(header::CONTENT_LENGTH) {
        let length = length.as_bytes();
        // 18 digits are less than any parser's largest number
        if length.is_empty() || length.len() > 18 || !length.iter().all(u8::is_ascii_digit) {
            return Err(Refused::Ambiguous("its Content-Length is not one number"));
        }
    }
    let Some(coding) = headers.get(header::TRANSFER_ENCODING) else {
        return Ok(());
    };
    // Pingora takes any list that ends in `chunked`, and what comes before would be lost
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Refused::Ambiguous(
            "the only Transfer-Encoding taken is `chunked`",
        ));
    }
    // the parsed head has no length beside the chunks any more, but it was there
    match raw.is_some_and(|raw| has_field(raw, b"content-length")) {
        true => Err(Refused::Ambiguous(
            "it has both a Content-Length and a Transfer-Encoding",
        )),
        false => Ok(()),
    }
}

/// Whether an answer's body can be told from what is around it: Pingora reads one of a coding that
/// it does not know as if there were none.
pub(crate) fn has_known_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| {
        let coding = coding.as_bytes();
        let known = [&b"chunked"[..], b"identity"];
        known.iter().any(|known| coding.eq_ignore_ascii_case(known)) && codings.next().is_none()
    })
}

fn ends_a_line_with_lf_alone(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
}

/// Whether a raw head has a field of this name, in lower case.
fn has_field(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').any(|line| {
        let end = memchr::memchr(b':', line).unwrap_or(0);
        line[..end].trim_ascii().eq_ignore_ascii_case(name)
    })
}

/// A name or an address, perhaps with a port (RFC 3986, section 3.2.2, without what no host on the
/// internet is called).
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = memchr::memchr(b']', rest) else {
                return false;
            };
            let inner = &rest[..end];
            let is_address = |b: &u8| b.is_ascii_hexdigit() || b":.".contains(b);
            if !inner.iter().all(is_address) {
                return false;
            }
            (inner, &rest[end + 1..])
        }
        None => {
            let end = memchr::memchr(b':', host).unwrap_or(host.len());
            let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
            if !host[..end].iter().all(is_name) {
                return false;
            }
            host.split_at(end)
        }
    };
    let port = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    port && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        fields: 5,
        bytes: 100,
        uri: 20,
    };

    fn checked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<(), Refused> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head, target.as_bytes(), None, LIMITS)
    }

    #[test]
    fn plain_heads_pass() {
        for fields in [
            &[("host", "x")][..],
            &[("host", "a-b.example:8443"), ("content-length", "0")],
            &[
                ("host", "[2001:db8::1]:80"),
                ("transfer-encoding", "Chunked"),
            ],
            &[("host", "x"), ("accept", "a"), ("accept", "b")],
            &[("host", "x:"), ("expect", "100-Continue")],
        ] {
            assert_eq!(checked("POST", "/v1/x", fields), Ok(()), "{fields:?}");
        }
    }

    #[test]
    fn what_has_no_single_meaning_is_refused() {
        for fields in [
            &[][..],
            &[("host", "")],
            &[("host", "a b")],
            &[("host", "a/b")],
            &[("host", "a@b")],
            &[("host", "a:b")],
            &[("host", "a:1:2")],
            &[("host", "a,b")],
            &[("host", ":80")],
            &[("host", "[::1")],
            &[("host", "[::1]x")],
            &[("host", "[evil]")],
            &[("host", "x"), ("host", "x")],
            &[("host", "x"), ("content-length", "+1")],
            &[("host", "x"), ("content-length", "1, 1")],
            &[("host", "x"), ("content-length", "")],
            &[("host", "x"), ("content-length", "0x1")],
            &[("host", "x"), ("content-length", "1000000000000000000")],
            &[
                ("host", "x"),
                ("content-length", "1"),
                ("content-length", "1"),
            ],
            &[("host", "x"), ("transfer-encoding", "gzip, chunked")],
            &[
                ("host", "x"),
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            &[
                ("host", "x"),
                ("content-type", "a/b"),
                ("content-type", "c/d"),
            ],
            &[
                ("host", "x"),
                ("authorization", "a"),
                ("authorization", "b"),
            ],
        ] {
            let refused = checked("POST", "/v1/x", fields);
            assert!(
                matches!(refused, Err(Refused::Ambiguous(_))),
                "{fields:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_is_too_much_is_told_from_what_is_unclear() {
        let host = ("host", "x");
        let long = "y".repeat(100);
        assert_eq!(
            checked("GET", &format!("/{}", "x".repeat(20)), &[host]),
            Err(Refused::Uri(20))
        );
        for fields in [
            &[host, ("a", &long)][..],
            &[
                host,
                ("a", "1"),
                ("a", "2"),
                ("a", "3"),
                ("a", "4"),
                ("a", "5"),
            ],
        ] {
            assert_eq!(checked("GET", "/", fields), Err(Refused::Headers(LIMITS)));
        }
        assert_eq!(checked("TRACE", "/", &[host]), Err(Refused::Method));
        assert_eq!(
            checked("GET", "/", &[host, ("expect", "coffee")]),
            Err(Refused::Expectation)
        );
    }

    #[test]
    fn raw_heads_show_what_their_parsed_form_hides() {
        let with = |raw: &str, fields: &[(&str, &str)]| {
            let mut request = http::Request::builder().uri("/").header("host", "x");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            check(&head, b"/", Some(raw.as_bytes()), LIMITS)
        };
        assert_eq!(with("GET / HTTP/1.1\r\nhost: x\r\n\r\n", &[]), Ok(()));
        for raw in [
            "GET / HTTP/1.1\nhost: x\r\n\r\n",
            "\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n\n",
        ] {
            assert!(with(raw, &[]).is_err(), "{raw:?}");
        }
        let both =
            "POST / HTTP/1.1\r\nhost: x\r\nContent-LENGTH: 5\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(with(both, &[("transfer-encoding", "chunked")]).is_err());
        let one = "POST / HTTP/1.1\r\nhost: x\r\nx-content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(with(one, &[("transfer-encoding", "chunked")]), Ok(()));
    }
}
