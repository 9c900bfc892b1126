//! HTTP/2 frame by frame: what no proper client sends, and floods of what one may.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::Strict;
use crate::support::client::connect;
use crate::support::{Gateway, Http2};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Fields as literals without a table (RFC 7541, section 6.2.2).
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            match text.len() {
                length @ ..127 => out.push(length as u8),
                length => {
                    out.push(127);
                    let mut rest = length - 127;
                    while rest >= 128 {
                        out.push(rest as u8 | 128);
                        rest >>= 7;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const PLAIN: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    (":path", "/v1/x"),
];

struct Raw(TcpStream);

/// How a stream or its connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Status(u16),
    Reset,
    GoAway,
    Closed,
    Silence,
}

impl Raw {
    fn open(gateway: &Gateway) -> Self {
        let mut stream = connect(gateway.address);
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut raw = Raw(stream);
        raw.send(&frame(SETTINGS, 0, 0, &[]));
        raw
    }

    /// Whether it could be sent.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, payload))
    }

    /// What becomes of stream 1.
    fn end(&mut self) -> End {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            match self.frame() {
                // the status is the first field, from the static table or a literal with its name
                Some((HEADERS, 1, payload)) => return End::Status(status(&payload)),
                Some((RST_STREAM, 1, _)) => return End::Reset,
                Some((GOAWAY, ..)) => return End::GoAway,
                Some(_) => {}
                None => match self.0.peek(&mut [0]) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        return End::Silence;
                    }
                    _ => return End::Closed,
                },
            }
        }
        End::Silence
    }
}

fn status(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block.iter().find(|b| **b & 0xe0 != 0x20) {
        Some(index @ 0x88..=0x8e) => known[usize::from(index - 0x88)],
        // a literal, packed or plain; whatever it is, it is not 200
        _ => 499,
    }
}

fn gateway(server: &Strict) -> Gateway {
    super::gateway(server)
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut all = PLAIN.to_vec();
    all.extend_from_slice(more);
    all
}

fn without(name: &str, more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut all = PLAIN.to_vec();
    all.retain(|(n, _)| *n != name);
    all.extend_from_slice(more);
    all
}

#[test]
fn what_http2_forbids_reaches_no_server() {
    let server = Strict::start();
    let gateway = gateway(&server);
    let heads = [
        with(&[("connection", "close")]),
        with(&[("keep-alive", "x")]),
        with(&[("proxy-connection", "x")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("te", "gzip")]),
        with(&[("Content-Type", "x")]),
        with(&[("x a", "b")]),
        with(&[("x:a", "b")]),
        with(&[("x\r\na", "b")]),
        with(&[("x-a", "b\r\nx-b: c")]),
        with(&[("x-a", "b\0c")]),
        with(&[("x-a", "b\nc")]),
        with(&[("", "b")]),
        with(&[("host", "y")]),
        with(&[("host", "x"), ("host", "x")]),
        with(&[(":method", "GET")]),
        with(&[(":path", "/v1/y")]),
        with(&[(":authority", "y")]),
        with(&[(":scheme", "https")]),
        with(&[(":status", "200")]),
        with(&[(":odd", "1")]),
        with(&[("x-a", "b"), (":path", "/v1/y")]),
        with(&[("content-length", "3"), ("content-length", "4")]),
        with(&[("content-length", "+0")]),
        with(&[("content-length", "x")]),
        with(&[("expect", "coffee")]),
        with(&[("content-type", "a/b"), ("content-type", "c/d")]),
        without(":method", &[]),
        without(":path", &[]),
        without(":scheme", &[]),
        without(":authority", &[]),
        without(":authority", &[("host", "x y")]),
        without(":authority", &[(":authority", "a@x")]),
        without(":authority", &[(":authority", "x/y")]),
        without(":path", &[(":path", "")]),
        without(":path", &[(":path", "v1/x")]),
        without(":path", &[(":path", "http://y/v1/x")]),
        without(":path", &[(":path", "/v1/x HTTP/1.1\r\nhost: y")]),
        without(":path", &[(":path", "/v1/x y")]),
        without(":path", &[(":path", "/v1//x")]),
        without(":path", &[(":path", "*")]),
        without(":method", &[(":method", "GET /v1/y HTTP/1.1")]),
        without(":method", &[(":method", "TRACE")]),
        without(":method", &[(":method", "CONNECT")]),
        without(":method", &[(":method", "")]),
    ];
    for head in &heads {
        let mut client = Raw::open(&gateway);
        let flags = END_HEADERS | END_STREAM;
        client.send(&frame(HEADERS, flags, 1, &fields(head)));
        let end = client.end();
        let refused = matches!(
            end,
            End::Status(400..) | End::Reset | End::GoAway | End::Closed
        );
        let kept = server.take();
        assert!(
            refused,
            "{head:?}: {end:?}, the server got {:?}",
            kept.requests
        );
        assert!(
            kept.requests.is_empty() && kept.faults.is_empty(),
            "{head:?}: {:?} {:?}",
            kept.requests,
            kept.faults
        );
    }
    // and one that is proper
    let mut client = Raw::open(&gateway);
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(PLAIN)));
    assert_eq!(client.end(), End::Status(200));
}

#[test]
fn a_length_that_is_not_the_bodys_makes_no_whole_request() {
    let server = Strict::start();
    let gateway = gateway(&server);
    for (length, body) in [("5", "abc"), ("1", "abc"), ("0", "abc"), ("3", "")] {
        let mut client = Raw::open(&gateway);
        let mut head = PLAIN.to_vec();
        head.push(("content-length", length));
        client.send(&frame(HEADERS, END_HEADERS, 1, &fields(&head)));
        client.send(&frame(DATA, END_STREAM, 1, body.as_bytes()));
        let end = client.end();
        assert_ne!(end, End::Status(200), "{length} {body}");
        let kept = server.take();
        assert!(
            kept.requests.is_empty() && kept.faults.is_empty(),
            "{:?}",
            kept.requests
        );
    }
}

/// A second client is served while, and after, one does this.
#[track_caller]
fn others_are_served(gateway: &Gateway, what: &str) {
    let started = Instant::now();
    let answer = Http2::plain(gateway.address).ask("GET", "/v1/other", &[], b"");
    assert_eq!(answer.status, 200, "{what}");
    assert!(started.elapsed() < Duration::from_secs(5), "{what}");
}

fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn floods_end_their_connection_or_cost_little() {
    let server = Strict::start();
    let gateway = gateway(&server);
    others_are_served(&gateway, "before");
    let before = resident(&gateway);
    let head = fields(PLAIN);
    // in each, what is sent again and again, by the number of the stream
    let reset = |n: u32| {
        let stream = 2 * n + 1;
        let mut all = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        all.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        all
    };
    let flood =
        |what: &str, must_end: bool, count: u32, first: &[u8], make: &dyn Fn(u32) -> Vec<u8>| {
            let mut client = Raw::open(&gateway);
            client.send(first);
            let started = Instant::now();
            let mut ended = false;
            for n in 0..count {
                if !client.send(&make(n)) {
                    ended = true;
                    break;
                }
                if started.elapsed() > Duration::from_secs(10) {
                    break;
                }
            }
            if !ended {
                ended = matches!(client.end(), End::GoAway | End::Closed);
            }
            assert!(ended || !must_end, "{what}: the connection goes on");
            others_are_served(&gateway, what);
        };
    flood("rapid resets", true, 20_000, &[], &reset);
    let open = frame(HEADERS, END_STREAM, 1, &head);
    let more = fields(&[(
        "x-more",
        "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    )]);
    flood("a head without an end", true, 100_000, &open, &|_| {
        frame(CONTINUATION, 0, 1, &more)
    });
    flood("a head of empty frames", true, 200_000, &open, &|_| {
        frame(CONTINUATION, 0, 1, &[])
    });
    flood(
        "pings nobody reads the answers of",
        false,
        200_000,
        &[],
        &|_| frame(PING, 0, 0, &[0; 8]),
    );
    flood(
        "settings nobody reads the answers of",
        false,
        200_000,
        &[],
        &|_| frame(SETTINGS, 0, 0, &[]),
    );
    // one entry of the table, named again and again: each byte becomes 4 KB
    let mut bomb = vec![0x40, 1, b'a', 127];
    let mut rest = 3900 - 127;
    while rest >= 128 {
        bomb.push(rest as u8 | 128);
        rest >>= 7;
    }
    bomb.push(rest as u8);
    bomb.extend(vec![b'b'; 3900]);
    let mut start = head.clone();
    start.extend_from_slice(&bomb);
    start.extend(vec![0xbe; 10_000]);
    flood("a bomb of names", false, 200, &[], &|n| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * n + 1,
            if n == 0 { &start } else { &head },
        )
    });
    // a window of all there is
    let window = frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    flood("a huge window", false, 1, &window, &|_| {
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)
    });
    let kept = server.take();
    assert_eq!(kept.faults, Vec::<String>::new());
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown < 96 * 1024, "{grown} KiB");
    assert!(!gateway.stderr().contains("panicked"));
}
