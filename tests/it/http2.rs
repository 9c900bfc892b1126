//! HTTP/2 from clients: what holds for HTTP/1 holds for it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::client::connect as connect_plain;
use crate::support::gateway::routed_to;
use crate::support::http2::WINDOW;
use crate::support::{Gateway, Http2, Server, eventually};

#[track_caller]
fn h2c(server: SocketAddr, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\n{}{rest}",
        routed_to(server)
    ))
}

#[test]
fn http2_and_http1_share_a_port_with_h2c() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "");
    assert_eq!(
        Http2::plain(gateway.address)
            .ask("GET", "/v1/x", &[], b"")
            .status,
        200
    );
    gateway.access_log(1);
    assert_eq!(gateway.get("/v1/x").status, 200);
    gateway.access_log(2);
    // what is shorter than the preface of HTTP/2 must not wait for more
    let mut short = connect_plain(gateway.address);
    short.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    short.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    let log = gateway.access_log(3);
    assert_eq!(
        (&log[0]["protocol"], &log[0]["tls"]),
        (&"HTTP/2".into(), &serde_json::Value::Null)
    );
    assert_eq!(log[1]["protocol"], "HTTP/1.1");
    assert_eq!(server.seen()[0].header("x-forwarded-proto"), Some("http"));
}

#[test]
fn the_authority_is_the_host() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\npools:\n  a: {{ servers: [\"{}\"] }}\n  b: {{ servers: [\"{}\"] }}\nroutes: [{{ match: {{ host: b.test }}, pool: b }}, {{ pool: a }}]\n",
        a.url(),
        b.url()
    ));
    let client = Http2::plain(gateway.address);
    let cookies = [("cookie", "x=1"), ("cookie", "y=2")];
    client
        .open_at("b.test:8443", "GET", "/v1/x", &cookies, true)
        .finish();
    client.open_at("c.test", "GET", "/v1/x", &[], true).finish();
    assert_eq!((a.count(), b.count()), (1, 1));
    let seen = &b.seen()[0];
    assert_eq!(seen.header("x-forwarded-host"), Some("b.test"));
    assert_eq!(seen.header("host"), Some(b.address.to_string().as_str()));
}

#[test]
fn ambiguous_paths_are_refused_over_http2_too() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    for path in ["/v1//x", "/v1/../x", "/v1/%2e%2e/x", "/v1%2fx", "/v1;a/x"] {
        let answer = client.ask("GET", path, &[], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_request"),
            "{path}"
        );
    }
    assert_eq!(client.ask("GET", "/v1/%61?b=c", &[], b"").status, 200);
    assert_eq!(
        (server.count(), server.seen()[0].target.as_str()),
        (1, "/v1/a?b=c")
    );
}

#[test]
fn a_stream_comes_piece_by_piece_over_http2() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::fake(move |_, wire| {
        wire.chunked("text/event-stream");
        for n in 0..5 {
            wire.chunk(format!("data: {n}\n\n"));
            wait.lock().unwrap().recv().unwrap();
        }
        wire.end();
        true
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let mut exchange = client.open("GET", "/v1/x", &[], true);
    assert_eq!(exchange.head().headers.get("transfer-encoding"), None);
    for n in 0..5 {
        // the server goes on only when this piece is here
        assert_eq!(exchange.piece().unwrap().unwrap(), format!("data: {n}\n\n"));
        go.send(()).unwrap();
    }
    assert!(exchange.finish().whole);
}

#[test]
fn a_reset_stream_cancels_the_server_and_nobody_else() {
    let (left, gone) = mpsc::channel();
    let server = Server::fake(move |seen, wire| {
        if seen.target == "/v1/short" {
            wire.json("{}");
            return true;
        }
        if seen.target == "/v1/streaming" {
            wire.chunked("text/event-stream");
            wire.chunk("data: 1\n\n");
        }
        assert!(wire.wait_for_close());
        left.send(Instant::now()).unwrap();
        false
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    for path in ["/v1/streaming", "/v1/waiting"] {
        let before = server.count();
        let mut exchange = client.open("GET", path, &[], true);
        match path {
            "/v1/streaming" => drop(exchange.head()),
            _ => eventually("the server has it", || server.count() > before),
        }
        let reset = Instant::now();
        exchange.reset();
        let at = gone.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(at - reset < Duration::from_secs(1), "{:?}", at - reset);
        assert_eq!(client.ask("GET", "/v1/short", &[], b"").status, 200);
    }
    let log = gateway.access_log(4);
    let aborted = log
        .iter()
        .filter(|line| line["termination"] == "client_abort");
    assert_eq!(aborted.count(), 2);
}

#[test]
fn a_cut_answer_is_a_reset_and_a_cut_event_stream_ends_with_an_error() {
    let server = Server::fake(|seen, wire| {
        let events = seen.target == "/v1/events";
        wire.chunked(if events {
            "text/event-stream"
        } else {
            "audio/mpeg"
        });
        wire.chunk("data: 1\n\n");
        false
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let audio = client.ask("GET", "/v1/audio", &[], b"");
    assert_eq!((audio.status, audio.whole), (200, false));
    let events = client.ask("GET", "/v1/events", &[], b"");
    assert_eq!((events.status, events.whole), (200, true));
    assert!(events.text().contains("upstream_reset") && !events.text().contains("[DONE]"));
}

#[test]
fn uploads_pass_with_and_without_a_length() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let upload: Vec<u8> = (0..30 << 20).map(|n: u32| (n % 251) as u8).collect();
    let length = upload.len().to_string();
    for headers in [&[("content-length", length.as_str())][..], &[]] {
        let answer = client.ask("POST", "/v1/x", headers, &upload);
        assert_eq!((answer.status, answer.whole), (200, true));
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.body == upload));
    assert_eq!(seen[0].header("content-length"), Some(length.as_str()));
    assert_eq!(seen[1].header("transfer-encoding"), Some("chunked"));
}

/// Pingora issue 935: the empty frame became a second end of the body, and the next request on
/// that connection to the server was read from behind it.
#[test]
fn an_upload_that_ends_with_an_empty_frame_ends_once() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    for n in 0..5 {
        let mut exchange = client.open("POST", "/v1/x", &[], false);
        exchange.send(b"{\"n\":", false);
        eventually("a part is under way", || server.count() == n);
        exchange.send(b"1}", true);
        assert_eq!(exchange.finish().status, 200);
        // the line is written when the connection to the server is free again
        gateway.access_log(n + 1);
    }
    let seen = server.seen();
    let connection = seen[0].connection;
    assert!(
        seen.iter()
            .all(|seen| seen.body == b"{\"n\":1}" && seen.connection == connection)
    );
}

#[test]
fn a_rejected_upload_leaves_the_connection_usable() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "limits: { max_body: 1MiB }\n");
    let client = Http2::plain(gateway.address);
    let upload = vec![7; 8 << 20];
    let length = upload.len().to_string();
    for headers in [&[("content-length", length.as_str())][..], &[]] {
        let answer = client.ask("POST", "/v1/x", headers, &upload);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "body_too_large")
        );
        assert_eq!(client.ask("GET", "/v1/x", &[], b"").status, 200);
    }
    assert_eq!(
        gateway.metric(
            "trunkline_connections_total",
            &[("listener", &gateway.address.to_string())]
        ),
        1.0
    );
}

#[test]
fn an_upload_that_stops_is_answered_408() {
    let server = Server::named("a");
    let gateway = h2c(server.address, "limits: { body_timeout: 200ms }\n");
    let client = Http2::plain(gateway.address);
    let mut stuck = client.open("POST", "/v1/x", &[("content-length", "100")], false);
    stuck.send(b"{", false);
    assert_eq!(client.ask("GET", "/v1/x", &[], b"").status, 200);
    let answer = stuck.finish();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert_eq!(client.ask("GET", "/v1/x", &[], b"").status, 200);
}

#[test]
fn a_hundred_streams_share_a_connection() {
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (now, top) = (inside.clone(), most.clone());
    let server = Server::fake(move |seen, wire| {
        top.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        wait.lock().unwrap().recv().unwrap();
        wire.json(&format!("{{\"path\":\"{}\"}}", seen.target));
        true
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let open: Vec<_> = (0..100)
        .map(|n| client.open("GET", &format!("/v1/{n}"), &[], true))
        .collect();
    eventually("all are at the server", || inside.load(SeqCst) == 100);
    for _ in 0..100 {
        go.send(()).unwrap();
    }
    for (n, exchange) in open.into_iter().enumerate() {
        assert_eq!(exchange.finish().json()["path"], format!("/v1/{n}"));
    }
    assert_eq!(most.load(SeqCst), 100);
}

#[test]
fn a_slow_reader_holds_the_server_back() {
    let (blocked, at) = mpsc::channel();
    let server = Server::fake(move |_, wire| {
        wire.chunked("audio/wav");
        wire.0
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
        let mut sent = 0;
        while sent < 256 << 20 && wire.0.write_all(&chunk).is_ok() {
            sent += 0x10000;
        }
        blocked.send(sent).unwrap();
        false
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let mut exchange = client.open("GET", "/v1/x", &[], true);
    exchange.head();
    let sent = at.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(
        sent < 64 << 20,
        "{sent} bytes went ahead of a reader that takes {WINDOW}"
    );
    let mut read = 0;
    while let Ok(Some(piece)) = exchange.piece() {
        read += piece.len();
    }
    assert!(read >= WINDOW as usize);
}

#[test]
fn a_reset_frees_a_server_that_is_held_back() {
    let (blocked, full) = mpsc::channel();
    let (left, gone) = mpsc::channel();
    let server = Server::fake(move |_, wire| {
        wire.chunked("audio/wav");
        let limit = Some(Duration::from_millis(300));
        wire.0.set_write_timeout(limit).unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
        while wire.0.write_all(&chunk).is_ok() {}
        blocked.send(()).unwrap();
        left.send(wire.wait_for_close()).unwrap();
        false
    });
    let gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let mut exchange = client.open("GET", "/v1/x", &[], true);
    exchange.head();
    full.recv_timeout(Duration::from_secs(20)).unwrap();
    exchange.reset();
    assert!(gone.recv_timeout(Duration::from_secs(10)).unwrap());
    assert_eq!(gateway.access_log(1)[0]["client"], "127.0.0.1");
}

#[test]
fn header_timeout_does_not_cut_an_open_http2_stream() {
    let server = Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        for _ in 0..4 {
            wire.chunk("data: x\n\n");
            std::thread::sleep(Duration::from_millis(150));
        }
        wire.end();
        true
    });
    let gateway = h2c(server.address, "limits: { header_timeout: 100ms }\n");
    let client = Http2::plain(gateway.address);
    for _ in 0..2 {
        let answer = client.ask("GET", "/v1/x", &[], b"");
        assert!(answer.whole && answer.took > Duration::from_millis(500));
    }
    // without a request it is cut
    let idle = Http2::plain(gateway.address);
    let _ = idle.wait_for_close();
    let rejected = "trunkline_connections_rejected_total";
    eventually("it is counted", || {
        gateway.metric(rejected, &[("reason", "header_timeout")]) == 1.0
    });
}

#[test]
fn at_the_end_open_streams_finish_and_the_connection_is_closed_in_good_order() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::fake(move |_, wire| {
        wire.chunked("text/event-stream");
        wire.chunk("data: 1\n\n");
        wait.lock().unwrap().recv().unwrap();
        wire.end();
        true
    });
    let mut gateway = h2c(server.address, "");
    let client = Http2::plain(gateway.address);
    let mut exchange = client.open("GET", "/v1/x", &[], true);
    exchange.head();
    gateway.signal("TERM");
    eventually("it stops", || gateway.stderr().contains("stopping"));
    go.send(()).unwrap();
    assert!(exchange.finish().whole);
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
}
