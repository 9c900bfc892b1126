//! WebSockets: tunnels that are routed, balanced and failed over like requests, and bounded by
//! their silences.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::client::connect;
use crate::support::server::{Seen, Wire};
use crate::support::{Gateway, Request, Server, eventually};

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: realtime\r\n\r\n";

/// Agrees, and sends back what it gets until the other side ends.
fn echo(wire: &mut Wire) {
    let mut buffer = [0; 65536];
    while let Ok(count) = wire.0.read(&mut buffer) {
        if count == 0 {
            break;
        }
        wire.raw(&buffer[..count]);
    }
}

fn echoing() -> Server {
    Server::fake(|_, wire| {
        wire.raw(AGREED);
        echo(wire);
        false
    })
}

fn ask(target: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let request = Request::get(target)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = more.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    request.bytes()
}

/// The head of the answer; the connection stands behind it then.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

fn open(gateway: &Gateway, target: &str, more: &[(&str, &str)]) -> (TcpStream, String) {
    let mut stream = connect(gateway.address);
    stream.write_all(&ask(target, more)).unwrap();
    let head = head(&mut stream);
    (stream, head)
}

fn exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    stream.read_exact(&mut out).unwrap();
    out
}

fn gateway(server: &Server, more: &str) -> Gateway {
    Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}/v1'], health: false, {more} }} }}\nroutes: [{{ name: talk, match: {{ path: /v1/realtime }}, pool: a }}]",
        server.url()
    ))
}

#[test]
fn bytes_pass_in_both_directions_and_are_counted() {
    let server = echoing();
    let gateway = gateway(&server, "slots: 1");
    let (mut stream, head) = open(&gateway, "/v1/realtime?model=gpt-realtime", &[]);
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for part in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "x-backend: a/127.0.0.1",
        "x-request-id: ",
    ] {
        assert!(head.contains(part), "{part} not in {head}");
    }
    let seen = &server.seen()[0];
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("connection"), Some("upgrade"));
    assert_eq!(
        seen.header("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    assert_eq!(
        gateway.metric("trunkline_upstream_in_flight", &[("pool", "a")]),
        1.0
    );
    // more than all buffers on the way hold, so that neither direction may wait for the other
    let data: Vec<u8> = (0..4_000_000u32).map(|n| n as u8).collect();
    let (mut writer, sent) = (stream.try_clone().unwrap(), data.clone());
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    assert_eq!(exactly(&mut stream, data.len()), data);
    writing.join().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        stream.read(&mut [0; 10]).unwrap(),
        0,
        "the end is passed on too"
    );
    let line = gateway.access_log(1).remove(0);
    assert_eq!(
        (&line["status"], &line["termination"]),
        (&101.into(), &"complete".into())
    );
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&4_000_000.into(), &4_000_000.into())
    );
    assert_eq!(line["operation"], "realtime");
    assert_eq!(
        gateway.metric("trunkline_upstream_in_flight", &[("pool", "a")]),
        0.0
    );
}

#[test]
fn what_a_server_says_together_with_its_head_is_not_lost() {
    let server = Server::fake(|_, wire| {
        wire.raw([AGREED.as_bytes(), b"hello"].concat());
        echo(wire);
        false
    });
    let gateway = gateway(&server, "");
    for _ in 0..50 {
        let (mut stream, _) = open(&gateway, "/v1/realtime", &[]);
        assert_eq!(exactly(&mut stream, 5), b"hello");
        stream.write_all(b"there").unwrap();
        assert_eq!(exactly(&mut stream, 5), b"there");
    }
}

#[test]
fn the_key_of_a_browser_goes_no_further_than_here() {
    const OFFER: &str = "realtime, openai-insecure-api-key.sk-canary, openai-beta.realtime-v1";
    let offered = [
        ("sec-websocket-protocol", OFFER),
        ("authorization", "Bearer sk-canary"),
    ];
    let server = echoing();
    let home = gateway(&server, "");
    open(&home, "/v1/realtime?api_key=sk-canary", &offered);
    let seen = server.seen().pop().unwrap();
    assert!(!seen.text().contains("sk-canary"), "{}", seen.text());
    assert_eq!(
        seen.header("sec-websocket-protocol"),
        Some("realtime, openai-beta.realtime-v1")
    );
    let with_key = gateway(&server, "kind: openai, api_key: sk-pool");
    open(&with_key, "/v1/realtime", &offered);
    let seen = server.seen().pop().unwrap();
    assert!(!seen.text().contains("sk-canary"), "{}", seen.text());
    assert_eq!(seen.header("authorization"), Some("Bearer sk-pool"));
    let through = gateway(&server, "auth: passthrough");
    open(&through, "/v1/realtime", &offered);
    assert_eq!(
        server
            .seen()
            .pop()
            .unwrap()
            .header("sec-websocket-protocol"),
        Some(OFFER)
    );
}

#[test]
fn the_model_in_the_query_decides_and_is_translated() {
    let (local, cloud) = (echoing(), echoing());
    let gateway = Gateway::start(&format!(
        "pools:
  local: {{ servers: ['{}'], health: false, models: {{ gpt-realtime: my/voice }} }}
  cloud: {{ servers: ['{}/v1'], health: false }}
routes:
  - {{ match: {{ path: /v1/realtime, model: 'gpt-*' }}, pool: local }}
  - {{ match: {{ path: /v1/realtime, model: other }}, pool: cloud }}",
        local.url(),
        cloud.url()
    ));
    open(&gateway, "/v1/realtime?a=1&model=gpt%2Drealtime", &[]);
    assert_eq!(local.seen()[0].target, "/v1/realtime?a=1&model=my/voice");
    open(&gateway, "/v1/realtime?model=other", &[]);
    assert_eq!(cloud.seen()[0].target, "/v1/realtime?model=other");
    let (_, head) = open(&gateway, "/v1/realtime?model=none", &[]);
    assert!(head.starts_with("http/1.1 404"), "{head}");
}

#[test]
fn another_server_takes_over_before_the_agreement_and_a_refusal_passes_through() {
    let good = echoing();
    let yaml = |first: &str| {
        format!(
            "pools: {{ a: {{ servers: ['http://{first}', '{}'], health: false }} }}\nroutes: [{{ pool: a }}]",
            good.url()
        )
    };
    let failing = Server::failing(503);
    for first in [Server::refused().to_string(), failing.address.to_string()] {
        let gateway = Gateway::start(&yaml(&first));
        let (mut stream, head) = open(&gateway, "/v1/realtime", &[]);
        assert!(head.starts_with("http/1.1 101"), "{head}");
        stream.write_all(b"x").unwrap();
        assert_eq!(exactly(&mut stream, 1), b"x");
    }
    let refusing = Server::failing(403);
    let gateway = gateway(&refusing, "");
    let (_, head) = open(&gateway, "/v1/realtime", &[]);
    assert!(head.starts_with("http/1.1 403"), "{head}");
    assert!(head.contains("x-backend: a/127.0.0.1"), "{head}");
}

#[test]
fn silence_ends_a_conversation_and_its_length_does_not() {
    let server = echoing();
    let gateway = gateway(
        &server,
        "timeouts: { tunnel: 300ms, total: 100ms, idle: 100ms, first_byte: 10s }",
    );
    let (mut stream, _) = open(&gateway, "/v1/realtime", &[]);
    let end = std::time::Instant::now() + Duration::from_millis(900);
    while std::time::Instant::now() < end {
        stream.write_all(b"x").unwrap();
        assert_eq!(exactly(&mut stream, 1), b"x");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0, "cut by silence");
    assert_eq!(gateway.access_log(1)[0]["termination"], "timeout");
}

#[test]
fn whoever_leaves_ends_it_for_the_other_and_frees_the_slot() {
    let server = echoing();
    let gateway = gateway(&server, "slots: 1, queue: { timeout: 5s }");
    for reset in [false, true] {
        let (stream, head) = open(&gateway, "/v1/realtime", &[]);
        assert!(head.starts_with("http/1.1 101"), "{head}");
        if reset {
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        eventually("the slot is free", || {
            gateway.metric("trunkline_upstream_in_flight", &[("pool", "a")]) == 0.0
        });
    }
    let leaving = Server::fake(|_: &Seen, wire| {
        wire.raw(AGREED);
        wire.raw("bye");
        false
    });
    let gateway = self::gateway(&leaving, "");
    let (mut stream, _) = open(&gateway, "/v1/realtime", &[]);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
    assert_eq!(gateway.access_log(1)[0]["termination"], "complete");
}

#[test]
fn a_stop_ends_conversations_after_their_grace() {
    let server = echoing();
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ grace: 200ms }}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let (mut stream, _) = open(&gateway, "/v1/realtime", &[]);
    gateway.signal("TERM");
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    assert_eq!(gateway.wait(Duration::from_secs(5)), 0);
    assert_eq!(gateway.access_log(1)[0]["status"], 101);
}

#[test]
fn what_is_no_proper_request_for_a_websocket_is_refused() {
    let server = echoing();
    let gateway = gateway(&server, "");
    let post = Request::json("/v1/realtime", "{}")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let unconnected = Request::get("/v1/realtime").header("upgrade", "websocket");
    for request in [post, unconnected] {
        let answer = gateway.send(&request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_request")
        );
    }
    assert_eq!(server.count(), 0);
    // a server that agrees to what nobody asked for
    let answer = gateway.get("/v1/realtime");
    assert_eq!(answer.status, 502);
}
