//! Requests over HTTP/1 that parsers have been seen to disagree about.

/// What has to become of a case.
pub enum Want {
    /// Nothing reaches the server, and at most one answer comes, a refusal.
    Refused,
    /// These reach it, as `METHOD TARGET BODY`.
    Forwarded(&'static [&'static str]),
    /// One or the other.
    Either(&'static [&'static str]),
}

pub struct Case {
    pub name: &'static str,
    pub bytes: &'static [u8],
    pub want: Want,
}

use Want::{Either, Forwarded, Refused};

const fn case(name: &'static str, bytes: &'static [u8], want: Want) -> Case {
    Case { name, bytes, want }
}

/// With this behind the host of a POST to `/v1/x`.
macro_rules! post {
    ($name:literal, $rest:literal, $want:expr) => {
        case(
            $name,
            concat!("POST /v1/x HTTP/1.1\r\nhost: x\r\n", $rest).as_bytes(),
            $want,
        )
    };
}

/// A chunked POST with these chunks.
macro_rules! chunks {
    ($name:literal, $chunks:literal, $want:expr) => {
        case(
            $name,
            concat!(
                "POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
                $chunks
            )
            .as_bytes(),
            $want,
        )
    };
}

/// A GET to this target, with what follows.
macro_rules! get {
    ($name:literal, $target:literal, $want:expr) => {
        case(
            $name,
            concat!("GET ", $target, " HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
            $want,
        )
    };
}

const ABC: &[&str] = &["POST /v1/x abc"];
const EMPTY: &[&str] = &["POST /v1/x "];
const GOT: &[&str] = &["GET /v1/x "];

pub const CASES: &[Case] = &[
    // ---- the length ----
    post!("a length", "content-length: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("a length in capitals", "CONTENT-LENGTH: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("a length with zeros in front", "content-length: 0003\r\n\r\nabc", Either(ABC)),
    post!("a length with space behind", "content-length: 3  \r\n\r\nabc", Forwarded(ABC)),
    post!("a length with a tab in front", "content-length:\t3\r\n\r\nabc", Forwarded(ABC)),
    post!("two equal lengths", "content-length: 3\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("two lengths", "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", Refused),
    post!("two lengths, the longer first", "content-length: 44\r\ncontent-length: 0\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    post!("a list of lengths", "content-length: 3, 3\r\n\r\nabc", Refused),
    post!("a list of two lengths", "content-length: 3, 4\r\n\r\nabcd", Refused),
    post!("a list with an empty end", "content-length: 3,\r\n\r\nabc", Refused),
    post!("a length with a plus", "content-length: +3\r\n\r\nabc", Refused),
    post!("a length with a minus", "content-length: -3\r\n\r\nabc", Refused),
    post!("a length in hexadecimal", "content-length: 0x3\r\n\r\nabc", Refused),
    post!("a length with digits behind a space", "content-length: 3 4\r\n\r\nabc", Refused),
    post!("a length with a fraction", "content-length: 3.0\r\n\r\nabc", Refused),
    post!("a length with an exponent", "content-length: 3e0\r\n\r\nabc", Refused),
    post!("a length with an underscore", "content-length: 1_0\r\n\r\n0123456789", Refused),
    post!("a length in quotes", "content-length: \"3\"\r\n\r\nabc", Refused),
    post!("a length in Arabic digits", "content-length: \u{663}\r\n\r\nabc", Refused),
    post!("a length of nothing", "content-length:\r\n\r\n", Refused),
    post!("a length with a NUL", "content-length: 3\0\r\n\r\nabc", Refused),
    post!("a length with a vertical tab", "content-length: \x0b3\r\n\r\nabc", Refused),
    post!("a length beyond 64 bits", "content-length: 18446744073709551619\r\n\r\nabc", Refused),
    post!("a length at 64 bits", "content-length: 18446744073709551615\r\n\r\nabc", Refused),
    post!("a length beyond any number", "content-length: 99999999999999999999999999999999\r\n\r\nabc", Refused),
    post!("a length with an underscore in its name", "content_length: 3\r\n\r\n", Forwarded(EMPTY)),
    post!("a length with space before the colon", "content-length : 3\r\n\r\nabc", Refused),
    post!("a length with a NUL in its name", "content\0-length: 3\r\n\r\nabc", Refused),
    post!("a length in a line that is folded", "content-length:\r\n 3\r\n\r\nabc", Refused),
    post!("a length behind a folded line", "x-a: b\r\n\tc\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("a length behind a bare LF", "x-a: b\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("a length behind a bare CR", "x-a: b\rcontent-length: 3\r\n\r\nabc", Refused),
    post!("no length and a hidden request", "\r\nGET /v1/second HTTP/1.1\r\nhost: x\r\n\r\n", Forwarded(&["POST /v1/x ", "GET /v1/second "])),
    post!("a body with a request in it", "content-length: 42\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\nx: y\r\n\r\n", Forwarded(&["POST /v1/x GET /v1/hidden HTTP/1.1\\r\\nhost: x\\r\\nx: y\\r\\n\\r\\n"])),
    // ---- length and chunks ----
    post!("length and chunks", "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    post!("chunks and length", "transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\nX", Refused),
    post!("chunks and two lengths", "content-length: 1\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks and a length that is none", "content-length: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks and a request behind", "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    post!("a length by another coding", "transfer-encoding: identity\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("chunks with a length nominated", "connection: content-length\r\ncontent-length: 3\r\n\r\nabc", Either(ABC)),
    post!("chunks nominated", "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    post!("the host nominated", "connection: host\r\ncontent-length: 3\r\n\r\nabc", Either(ABC)),
    // ---- the coding ----
    post!("chunks in capitals", "Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Forwarded(ABC)),
    post!("chunks twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    post!("chunks listed twice", "transfer-encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    post!("chunks and identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    post!("identity and chunks", "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    post!("identity, chunks", "transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("packed chunks", "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("x-chunked", "transfer-encoding: x-chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("chunkedx", "transfer-encoding: chunkedx\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks in quotes", "transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks with a comma", "transfer-encoding: chunked,\r\n\r\n0\r\n\r\n", Refused),
    post!("a comma and chunks", "transfer-encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks with a parameter", "transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks behind a vertical tab", "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks before a NUL", "transfer-encoding: chunked\0\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks before a space and a word", "transfer-encoding: chunked x\r\n\r\n0\r\n\r\n", Refused),
    post!("chunks behind a tab", "transfer-encoding:\tchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Forwarded(ABC)),
    post!("chunks before spaces", "transfer-encoding: chunked  \r\n\r\n3\r\nabc\r\n0\r\n\r\n", Forwarded(ABC)),
    post!("a coding of nothing", "transfer-encoding:\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding with space before the colon", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding with a tab before the colon", "transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding behind a space", " transfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding that is folded", "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding behind a bare LF", "x-a: b\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding behind a bare CR", "x-a: b\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding with an underscore", "transfer_encoding: chunked\r\n\r\n", Forwarded(EMPTY)),
    post!("a coding with a NUL in its name", "transfer-encoding\0: chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("a coding without a colon", "transfer-encoding chunked\r\n\r\n0\r\n\r\n", Refused),
    post!("codings that are accepted", "te: chunked, trailers\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    case("chunks in HTTP/1.0", b"POST /v1/x HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused),
    case("chunks and length in HTTP/1.0", b"POST /v1/x HTTP/1.0\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc", Refused),
    // ---- chunks ----
    chunks!("plain chunks", "3\r\nabc\r\n0\r\n\r\n", Forwarded(ABC)),
    chunks!("a size in capitals", "A\r\n0123456789\r\n0\r\n\r\n", Forwarded(&["POST /v1/x 0123456789"])),
    chunks!("a size with zeros in front", "0003\r\nabc\r\n0\r\n\r\n", Forwarded(ABC)),
    chunks!("an end of many zeros", "3\r\nabc\r\n000\r\n\r\n", Forwarded(ABC)),
    chunks!("an extension", "3;a=b\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("an extension of nothing", "3;\r\nabc\r\n0;\r\n\r\n", Either(ABC)),
    chunks!("an extension in quotes", "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("an extension with a bare LF", "3;a\n\nabc\r\n0\r\n\r\n", Refused),
    chunks!("an extension with a LF and a request", "2;\nxx\r\n4c\r\n0\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Either(&["POST /v1/x 4c"])),
    chunks!("an extension with a bare CR", "3;a\rb\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("an extension with a NUL", "3;a=\0\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("a size with space behind", "3 \r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("a size with a tab behind", "3\t\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("a size with space in front", " 3\r\nabc\r\n0\r\n\r\n", Either(ABC)),
    chunks!("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size with a minus", "-3\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size with an underscore", "1_0\r\n0123456789abcdef\r\n0\r\n\r\n", Refused),
    chunks!("a size of nothing", "\r\nabc\r\n0\r\n\r\n", Either(EMPTY)),
    chunks!("a size that is none", "xyz\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size with a comma", "3,\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size at 64 bits", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size of 63 bits", "7fffffffffffffff\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size of 32 bits over", "100000003\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size that ends in LF", "3\nabc\r\n0\r\n\r\n", Refused),
    chunks!("a size that ends in CR", "3\rabc\r\n0\r\n\r\n", Refused),
    chunks!("data that ends in LF", "3\r\nabc\n0\r\n\r\n", Refused),
    chunks!("data that ends in CR", "3\r\nabc\r0\r\n\r\n", Refused),
    chunks!("data that is too long", "3\r\nabcd\r\n0\r\n\r\n", Refused),
    chunks!("data that is too short", "5\r\nabc\r\n0\r\n\r\n", Refused),
    chunks!("an end of LF", "3\r\nabc\r\n0\n\n", Refused),
    chunks!("an end without its last line", "3\r\nabc\r\n0\r\n", Refused),
    chunks!("an end that is CR alone", "3\r\nabc\r\n0\r\n\r", Refused),
    chunks!("a body without an end", "3\r\nabc\r\n", Refused),
    chunks!("a trailer", "3\r\nabc\r\n0\r\nx-a: b\r\n\r\n", Either(ABC)),
    chunks!("a trailer with a length", "3\r\nabc\r\n0\r\ncontent-length: 10\r\n\r\n", Either(ABC)),
    chunks!("a trailer with a host and a coding", "3\r\nabc\r\n0\r\nhost: y\r\ntransfer-encoding: chunked\r\n\r\n", Either(ABC)),
    chunks!("a trailer with LF", "3\r\nabc\r\n0\r\nx-a: b\n\n", Refused),
    chunks!("a trailer that looks like a request", "3\r\nabc\r\n0\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Either(ABC)),
    chunks!("a request behind the end", "3\r\nabc\r\n0\r\n\r\nGET /v1/second HTTP/1.1\r\nhost: x\r\n\r\n", Forwarded(&["POST /v1/x abc", "GET /v1/second "])),
    // ---- lines and names ----
    case("LF everywhere", b"GET /v1/x HTTP/1.1\nhost: x\n\n", Refused),
    case("a request line that ends in LF", b"GET /v1/x HTTP/1.1\nhost: x\r\n\r\n", Refused),
    case("a last line that ends in LF", b"GET /v1/x HTTP/1.1\r\nhost: x\r\n\n", Refused),
    case("a header that ends in LF", b"GET /v1/x HTTP/1.1\r\nhost: x\nx-a: b\r\n\r\n", Refused),
    case("empty lines in front", b"\r\n\r\nGET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Either(GOT)),
    case("an empty LF line in front", b"\nGET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    post!("a NUL in a value", "x-a: b\0c\r\n\r\n", Refused),
    post!("a CR in a value", "x-a: b\rc\r\n\r\n", Refused),
    post!("a bell in a value", "x-a: b\x07c\r\n\r\n", Refused),
    post!("a DEL in a value", "x-a: b\x7fc\r\n\r\n", Refused),
    post!("a folded value", "x-a: b\r\n c\r\n\r\n", Refused),
    post!("a line of a space", "x-a: b\r\n \r\n\r\n", Refused),
    post!("space before a colon", "x-a : b\r\n\r\n", Refused),
    post!("a name of nothing", ": b\r\n\r\n", Refused),
    post!("a line without a colon", "x-a\r\n\r\n", Refused),
    post!("a name with a slash", "x/a: b\r\n\r\n", Refused),
    post!("a name with a bracket", "x(a: b\r\n\r\n", Refused),
    post!("a name with a byte of Latin 1", "x\u{e4}: b\r\n\r\n", Refused),
    post!("a name with an underscore", "x_real_ip: 6.6.6.6\r\n\r\n", Forwarded(EMPTY)),
    post!("hop headers", "connection: keep-alive, x-a, te\r\nx-a: b\r\nkeep-alive: 5\r\nproxy-connection: x\r\nte: trailers\r\ntrailer: x\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("an address of one's own", "x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("two types", "content-type: application/json\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("two keys", "authorization: Bearer a\r\nauthorization: Bearer b\r\ncontent-length: 3\r\n\r\nabc", Refused),
    // ---- host ----
    case("no host", b"GET /v1/x HTTP/1.1\r\n\r\n", Refused),
    case("a host of nothing", b"GET /v1/x HTTP/1.1\r\nhost:\r\n\r\n", Refused),
    case("no host in HTTP/1.0", b"GET /v1/x HTTP/1.0\r\n\r\n", Forwarded(GOT)),
    case("two hosts", b"GET /v1/x HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", Refused),
    case("two equal hosts", b"GET /v1/x HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", Refused),
    case("a host with a user", b"GET /v1/x HTTP/1.1\r\nhost: a@x\r\n\r\n", Refused),
    case("a host with a path", b"GET /v1/x HTTP/1.1\r\nhost: x/y\r\n\r\n", Refused),
    case("a host with a query", b"GET /v1/x HTTP/1.1\r\nhost: x?y\r\n\r\n", Refused),
    case("a host with a fragment", b"GET /v1/x HTTP/1.1\r\nhost: x#y\r\n\r\n", Refused),
    case("a host with a backslash", b"GET /v1/x HTTP/1.1\r\nhost: x\\y\r\n\r\n", Refused),
    case("a host with a comma", b"GET /v1/x HTTP/1.1\r\nhost: x,y\r\n\r\n", Refused),
    case("a host with a space", b"GET /v1/x HTTP/1.1\r\nhost: x y\r\n\r\n", Refused),
    case("a host with two ports", b"GET /v1/x HTTP/1.1\r\nhost: x:1:2\r\n\r\n", Refused),
    case("a host with a port that is none", b"GET /v1/x HTTP/1.1\r\nhost: x:y\r\n\r\n", Refused),
    case("a host that is a port", b"GET /v1/x HTTP/1.1\r\nhost: :80\r\n\r\n", Refused),
    case("a host with a NUL", b"GET /v1/x HTTP/1.1\r\nhost: x\0\r\n\r\n", Refused),
    case("a host with UTF-8", "GET /v1/x HTTP/1.1\r\nhost: \u{fc}x\r\n\r\n".as_bytes(), Refused),
    case("a host with an escape", b"GET /v1/x HTTP/1.1\r\nhost: %78\r\n\r\n", Refused),
    case("a host that is folded", b"GET /v1/x HTTP/1.1\r\nhost:\r\n x\r\n\r\n", Refused),
    case("half an address", b"GET /v1/x HTTP/1.1\r\nhost: [::1\r\n\r\n", Refused),
    case("an address", b"GET /v1/x HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", Forwarded(GOT)),
    // ---- targets ----
    get!("absolute form", "http://x/v1/x", Forwarded(GOT)),
    get!("absolute form with another host", "http://y/v1/x", Refused),
    get!("absolute form with a user", "http://a@x/v1/x", Refused),
    get!("absolute form of a file", "file:///v1/x", Refused),
    get!("absolute form without a path", "http://x", Either(&["GET / "])),
    get!("an authority", "x:80", Refused),
    get!("a star", "*", Refused),
    get!("no slash", "v1/x", Refused),
    get!("a query without a path", "?a=b", Refused),
    get!("two slashes", "//v1/x", Refused),
    get!("a backslash", "/v1\\\\x", Refused),
    get!("a fragment", "/v1/x#y", Either(GOT)),
    get!("a NUL", "/v1/\0x", Refused),
    get!("a tab", "/v1/\tx", Refused),
    get!("a space", "/v1/x y", Either(&["GET /v1/x%20y "])),
    get!("a version in the target", "/v1/x HTTP/1.1", Either(&["GET /v1/x%20HTTP/1.1 "])),
    get!("an escaped line end", "/v1/x%0d%0ahost:%20y", Refused),
    get!("an escaped line end in the query", "/v1/x?a=%0d%0ahost:%20y", Forwarded(&["GET /v1/x?a=%0d%0ahost:%20y "])),
    get!("UTF-8 in the path", "/v1/\u{fc}", Refused),
    get!("UTF-8 in the query", "/v1/x?a=\u{fc}", Either(&["GET /v1/x?a=%C3%BC "])),
    get!("an overlong slash", "/v1%c0%afx", Either(&["GET /v1%C0%AFx "])),
    // ---- methods and versions ----
    case("a method in small letters", b"get /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Either(&["get /v1/x "])),
    case("a method of its own", b"BREW /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Either(&["BREW /v1/x "])),
    case("a method with odd bytes", b"GE\x01T /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("a method with a colon", b"GET: /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("a method with UTF-8", "G\u{c9}T /v1/x HTTP/1.1\r\nhost: x\r\n\r\n".as_bytes(), Refused),
    case("a method of nothing", b" /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("two spaces behind a method", b"GET  /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Either(GOT)),
    case("a tab behind a method", b"GET\t/v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("TRACE", b"TRACE /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("CONNECT", b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", Refused),
    case("CONNECT with a path", b"CONNECT /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused),
    case("HTTP/0.9", b"GET /v1/x\r\n", Refused),
    case("HTTP/0.9 with a version", b"GET /v1/x HTTP/0.9\r\n\r\n", Refused),
    case("HTTP/1.2", b"GET /v1/x HTTP/1.2\r\nhost: x\r\n\r\n", Refused),
    case("HTTP/2.0", b"GET /v1/x HTTP/2.0\r\nhost: x\r\n\r\n", Refused),
    case("HTTP/11", b"GET /v1/x HTTP/11\r\nhost: x\r\n\r\n", Refused),
    case("http/1.1", b"GET /v1/x http/1.1\r\nhost: x\r\n\r\n", Refused),
    case("HTTP/1.1 and space", b"GET /v1/x HTTP/1.1 \r\nhost: x\r\n\r\n", Refused),
    case("a body in HTTP/1.0", b"POST /v1/x HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    case("a body without a length in HTTP/1.0", b"POST /v1/x HTTP/1.0\r\n\r\nabc", Either(EMPTY)),
    case("a second request in HTTP/1.0", b"GET /v1/x HTTP/1.0\r\n\r\nGET /v1/hidden HTTP/1.0\r\n\r\n", Forwarded(GOT)),
    case("a second request behind a close", b"GET /v1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Forwarded(GOT)),
    // ---- bodies where none are usual ----
    case("GET with a body", b"GET /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", Forwarded(&["GET /v1/x abc"])),
    case("GET with chunks", b"GET /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Forwarded(&["GET /v1/x abc"])),
    case("HEAD with a body", b"HEAD /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", Forwarded(&["HEAD /v1/x abc"])),
    case("OPTIONS with a body", b"OPTIONS /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", Forwarded(&["OPTIONS /v1/x abc"])),
    case("DELETE with a body", b"DELETE /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", Forwarded(&["DELETE /v1/x abc"])),
    // ---- upgrades and expectations ----
    post!("an upgrade to h2c", "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncontent-length: 3\r\n\r\nabc", Either(ABC)),
    post!("an upgrade to what nobody knows", "upgrade: foo\r\nconnection: upgrade\r\ncontent-length: 3\r\n\r\nabc", Either(ABC)),
    post!("a WebSocket with POST", "upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("two upgrades", "upgrade: websocket\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 3\r\n\r\nabc", Refused),
    case("a WebSocket with a body", b"GET /v1/x HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 40\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n", Refused),
    post!("100-continue", "expect: 100-continue\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("100-Continue", "expect: 100-Continue\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
    post!("another expectation", "expect: 200-ok\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("an expectation of more", "expect: 100-continue, x\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("two expectations", "expect: 100-continue\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc", Refused),
    post!("an expectation without a body", "expect: 100-continue\r\ncontent-length: 0\r\n\r\n", Forwarded(EMPTY)),
    case("100-continue in HTTP/1.0", b"POST /v1/x HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc", Forwarded(ABC)),
];
