//! Answers that come piece by piece: passed on at once, never spliced, cancelled when the client
//! leaves.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, atomic::AtomicUsize, atomic::Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::{Gateway, Request, Server, eventually};

fn gateway(servers: &[&Server], pool: &str, route: &str) -> Gateway {
    let urls: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(n, s)| format!("{{ url: '{}', name: s{n} }}", s.url()))
        .collect();
    Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{}], health: false, {pool} }} }}\nroutes: [{{ name: r, pool: a, {route} }}]",
        urls.join(", ")
    ))
}

/// A server that sends a piece each time the test says so.
fn stepped(content_type: &'static str) -> (Server, Sender<&'static str>) {
    let (sender, receiver): (_, Receiver<&str>) = channel();
    let receiver = Mutex::new(receiver);
    let server = Server::fake(move |_, wire| {
        wire.chunked(content_type);
        while let Ok(piece) = receiver.lock().unwrap().recv() {
            match piece {
                "end" => {
                    wire.end();
                    return true;
                }
                "cut" => return false,
                piece => wire.chunk(piece),
            }
        }
        false
    });
    (server, sender)
}

/// Reads until this text has come.
#[track_caller]
fn read_until(stream: &mut std::net::TcpStream, text: &str) -> String {
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(text) {
        let n = stream.read(&mut piece).unwrap();
        assert!(
            n > 0,
            "ended before {text:?}: {}",
            String::from_utf8_lossy(&got)
        );
        got.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

const STREAM: &str = r#"{"model":"x","stream":true}"#;

#[test]
fn every_piece_is_passed_on_before_the_next_one_comes() {
    let (server, say) = stepped("text/event-stream");
    let gateway = gateway(&[&server], "", "");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/chat/completions", STREAM).bytes())
        .unwrap();
    for word in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        say.send(word).unwrap();
        // the server says nothing more until this has arrived
        read_until(&mut stream, word);
    }
    say.send("data: [DONE]\n\n").unwrap();
    say.send("end").unwrap();
    read_until(&mut stream, "0\r\n\r\n");
    let log = gateway.access_log(1).remove(0);
    assert_eq!(
        (log["termination"].as_str(), log["status"].as_u64()),
        (Some("complete"), Some(200))
    );
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_event_and_no_done() {
    for (pool, end, code) in [
        ("", "cut", "upstream_reset"),
        ("timeouts: { idle: 200ms }", "", "upstream_timeout"),
    ] {
        let (server, say) = stepped("text/event-stream");
        let spare = Server::named("spare");
        let gateway = gateway(&[&server, &spare], pool, "");
        let mut stream = connect(gateway.address);
        stream
            .write_all(&Request::json("/v1/chat/completions", STREAM).bytes())
            .unwrap();
        say.send("data: {\"n\":1}\n\n").unwrap();
        if !end.is_empty() {
            read_until(&mut stream, "data: {\"n\":1}");
            say.send(end).unwrap();
            let rest = read_until(&mut stream, "0\r\n\r\n");
            assert!(
                rest.contains(&format!("\"code\":\"{code}\"")) && !rest.contains("[DONE]"),
                "{rest}"
            );
        } else {
            let answer = read_answer(&mut stream, false, Instant::now());
            assert!(
                answer.whole && answer.text().contains(&format!("\"code\":\"{code}\"")),
                "{}",
                answer.text()
            );
            assert!(answer.text().contains("timeouts.idle"));
        }
        assert_eq!(
            spare.count(),
            0,
            "nothing is asked again after the first byte"
        );
        let log = gateway.access_log(1).remove(0);
        assert_eq!(
            log["termination"],
            if end.is_empty() {
                "timeout"
            } else {
                "upstream_abort"
            }
        );
    }
}

#[test]
fn audio_that_breaks_is_cut_so_that_nobody_takes_it_for_whole() {
    for stall in [false, true] {
        let server = Server::fake(move |_, wire| {
            wire.chunked("audio/mpeg");
            wire.chunk([7; 1000]);
            if stall {
                wire.wait_for_close();
            }
            false
        });
        let spare = Server::named("spare");
        let gateway = gateway(&[&server, &spare], "timeouts: { idle: 200ms }", "");
        let answer = gateway.post("/v1/audio/speech", "{}");
        assert_eq!(
            (answer.status, answer.body.len(), answer.whole),
            (200, 1000, false)
        );
    }
    // with a length
    let server = Server::fake(|_, wire| {
        wire.raw("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 5000\r\n\r\nabc");
        false
    });
    let answer = gateway(&[&server], "", "").post("/v1/audio/speech", "{}");
    assert_eq!((answer.body.len(), answer.whole), (3, false));
    // a chunk that is none
    let server = Server::fake(|_, wire| {
        wire.chunked("audio/mpeg");
        wire.chunk("abc");
        wire.raw("zzz\r\nabc");
        false
    });
    let answer = gateway(&[&server], "", "").post("/v1/audio/speech", "{}");
    assert_eq!((answer.text().as_str(), answer.whole), ("abc", false));
}

/// A server that streams until its connection breaks, and counts how often it noticed.
fn endless(noticed: Arc<AtomicUsize>) -> Server {
    Server::fake(move |_, wire| {
        wire.chunked("text/event-stream");
        wire.chunk("data: x\n\n");
        if wire.wait_for_close() {
            noticed.fetch_add(1, SeqCst);
        }
        false
    })
}

#[test]
fn a_client_that_leaves_cancels_the_server_at_once() {
    let noticed: Arc<AtomicUsize> = Arc::default();
    let server = endless(noticed.clone());
    let silent_noticed = noticed.clone();
    let silent = Server::fake(move |_, wire| {
        if wire.wait_for_close() {
            silent_noticed.fetch_add(1, SeqCst);
        }
        false
    });
    for (n, server) in [&server, &silent].into_iter().enumerate() {
        let gateway = gateway(&[server], "", "");
        let mut stream = connect(gateway.address);
        stream
            .write_all(&Request::json("/v1/chat/completions", STREAM).bytes())
            .unwrap();
        if n == 0 {
            read_until(&mut stream, "data: x");
        } else {
            eventually("the server is asked", || server.count() == 1);
        }
        drop(stream);
        let left = Instant::now();
        eventually("the server notices", || noticed.load(SeqCst) == n + 1);
        assert!(
            left.elapsed() < Duration::from_millis(500),
            "{:?}",
            left.elapsed()
        );
        let log = gateway.access_log(1).remove(0);
        assert_eq!(log["termination"], "client_abort");
        assert_eq!(
            gateway.metric(
                "trunkline_terminations_total",
                &[("reason", "client_abort")]
            ),
            1.0
        );
        assert_eq!(gateway.metric("trunkline_upstream_in_flight", &[]), 0.0);
        assert_eq!(gateway.metric("trunkline_requests_in_flight", &[]), 0.0);
    }
}

#[test]
fn a_client_that_leaves_while_the_server_does_not_read_is_noticed() {
    // accepts, and reads nothing of a body that is larger than all buffers in between
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, accepted) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = sender.send(stream);
        }
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['http://{address}'], health: false }} }}\nroutes: [{{ match: {{ model: m }}, pool: a }}]"
    ));
    let body = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "y".repeat(30_000_000));
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/x", &body).bytes())
        .unwrap();
    let held = accepted.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(stream);
    let left = Instant::now();
    let log = gateway.access_log(1).remove(0);
    assert_eq!(log["termination"], "client_abort");
    assert!(
        left.elapsed() < Duration::from_secs(2),
        "{:?}",
        left.elapsed()
    );
    drop(held);
}

#[test]
fn closing_right_behind_done_is_no_abort() {
    let (server, say) = stepped("text/event-stream");
    let gateway = gateway(&[&server], "", "");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/chat/completions", STREAM).bytes())
        .unwrap();
    say.send("data: [DONE]\n\n").unwrap();
    read_until(&mut stream, "[DONE]");
    drop(stream);
    assert_eq!(gateway.access_log(1)[0]["termination"], "complete");
}

#[test]
fn the_end_of_one_answer_never_reaches_the_next() {
    // more bytes than its length, bodies where there must be none, all on connections that are kept
    let server = Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/v1/long" => wire.raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"),
            "/v1/204" => wire.raw("HTTP/1.1 204 No Content\r\n\r\nforged"),
            "/v1/304" => wire.raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nforged"),
            "/v1/head" => wire.raw("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"),
            _ => wire.json("{\"honest\":true}"),
        }
        true
    });
    let gateway = gateway(&[&server], "", "");
    for (method, target, body) in [
        ("POST", "/v1/long", "ok"),
        ("GET", "/v1/204", ""),
        ("GET", "/v1/304", ""),
        ("HEAD", "/v1/head", ""),
    ] {
        let first = gateway.send(&Request::new(method, target));
        assert_eq!(first.text(), body, "{target}");
        let next = gateway.get("/v1/next");
        assert_eq!(next.text(), "{\"honest\":true}", "behind {target}");
    }
}

#[test]
fn interim_answers_vanish_and_old_answers_are_whole() {
    let server = Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/v1/103" => wire.raw("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            "/v1/old" => wire.raw("HTTP/1.0 200 OK\r\ncontent-type: audio/wav\r\n\r\nold audio"),
            _ => wire.raw("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end"),
        }
        seen.target == "/v1/103"
    });
    let gateway = gateway(&[&server], "", "");
    for (target, body) in [
        ("/v1/103", "ok"),
        ("/v1/old", "old audio"),
        ("/v1/close", "until the end"),
    ] {
        let answer = gateway.get(target);
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.whole),
            (200, body, true),
            "{target}"
        );
    }
}

#[test]
fn an_upload_that_nobody_needs_to_read_is_passed_on_while_it_arrives() {
    let (sender, arrived) = channel::<Vec<u8>>();
    let sender = Mutex::new(sender);
    // reads raw, as the fake server would wait for the whole body
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut piece = [0; 65536];
        let mut all = Vec::new();
        while let Ok(n) = stream.read(&mut piece) {
            if n == 0 {
                return;
            }
            all.extend_from_slice(&piece[..n]);
            let _ = sender.lock().unwrap().send(all.clone());
            if all.ends_with(b"LAST") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['http://{address}'], health: false }} }}\nroutes: [{{ pool: a }}]"
    ));
    let mut stream = connect(gateway.address);
    let head = "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100004\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; 50_000]).unwrap();
    // half of it is there before the other half was sent
    while arrived.recv_timeout(Duration::from_secs(10)).unwrap().len() < 50_000 {}
    stream.write_all(&vec![b'x'; 50_000]).unwrap();
    stream.write_all(b"LAST").unwrap();
    assert_eq!(read_answer(&mut stream, false, Instant::now()).text(), "ok");
}

#[test]
fn a_100_continue_is_answered_and_the_connection_kept() {
    let server = Server::named("a");
    let gateway = gateway(&[&server], "", "");
    let mut stream = connect(gateway.address);
    for _ in 0..2 {
        stream.write_all(b"POST /v1/files HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").unwrap();
        read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"abc").unwrap();
        assert_eq!(read_answer(&mut stream, false, Instant::now()).status, 200);
    }
    assert_eq!(server.seen()[1].body, b"abc");
    assert_eq!(server.seen()[1].header("expect"), None);
}

/// Whether a client that was never asked for its body sends it is its own affair, so nobody can tell
/// what its next bytes are.
#[test]
fn a_connection_ends_behind_a_body_that_was_not_asked_for() {
    let server = Server::named("a");
    let gateway = gateway(&[&server], "", "");
    let mut stream = connect(gateway.address);
    let head =
        "POST /../x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!(
        (answer.status, answer.header("connection")),
        (400, Some("close"))
    );
    let _ = stream.write_all(b"GET /v1/next HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "");
    assert!(server.seen().is_empty());
}

#[test]
fn two_requests_sent_at_once_are_both_served() {
    let server = Server::named("a");
    let gateway = gateway(&[&server], "", "");
    let mut stream = connect(gateway.address);
    let both = [
        Request::json("/v1/one", "{}").bytes(),
        Request::json("/v1/two", "{}").bytes(),
    ]
    .concat();
    stream.write_all(&both).unwrap();
    let got = read_until(&mut stream, "served_by");
    let rest = if got.matches("served_by").count() < 2 {
        read_until(&mut stream, "served_by")
    } else {
        String::new()
    };
    assert_eq!((got + &rest).matches("200 OK").count(), 2);
}

#[test]
fn a_slow_reader_holds_up_the_server_and_not_the_memory() {
    let sent: Arc<AtomicUsize> = Arc::default();
    let counter = sent.clone();
    let server = Server::fake(move |_, wire| {
        wire.chunked("audio/wav");
        let piece = vec![1; 64 * 1024];
        for _ in 0..2000 {
            wire.chunk(&piece);
            counter.fetch_add(piece.len(), SeqCst);
        }
        wire.end();
        true
    });
    let gateway = gateway(&[&server], "timeouts: { idle: 30s }", "");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/audio/speech", "{}").bytes())
        .unwrap();
    // wait until the sockets in between are full and nothing moves any more
    let mut last = 0;
    eventually("the server is held up", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = sent.load(SeqCst);
        let stands = now == last && now > 0;
        last = now;
        stands
    });
    let held = sent.load(SeqCst);
    assert!(
        held < 32 * 1024 * 1024,
        "{held} bytes of 128 MiB were taken in"
    );
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!((answer.body.len(), answer.whole), (2000 * 64 * 1024, true));
}

/// A system call, a packet and a reader that is woken for each half of a message: who reads at once
/// would find the head alone.
#[test]
fn a_head_and_what_stands_behind_it_go_out_together() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    const BODY: &str = r#"{"model":"m","messages":[]}"#;
    let server = std::thread::spawn(move || {
        let mut halves = 0;
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 64 * 1024];
        for _ in 0..20 {
            let count = stream.read(&mut buffer).unwrap();
            halves += usize::from(!buffer[..count].ends_with(BODY.as_bytes()));
            let answer =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).unwrap();
        }
        halves
    });
    let yaml = format!(
        "pools: {{ a: {{ servers: [\"http://{address}\"], health: false }} }}\nroutes: [{{ pool: a }}]\n"
    );
    let gateway = Gateway::start(&yaml);
    let mut stream = connect(gateway.address);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut buffer = vec![0; 64 * 1024];
    let mut halves = 0;
    for _ in 0..20 {
        stream.write_all(request.as_bytes()).unwrap();
        let count = stream.read(&mut buffer).unwrap();
        halves += usize::from(!buffer[..count].ends_with(b"\r\n\r\n{}"));
    }
    drop(stream);
    assert_eq!((halves, server.join().unwrap()), (0, 0));
}
