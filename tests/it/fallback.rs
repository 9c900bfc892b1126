//! What happens when a server fails before the first byte of its answer: the next one answers, and
//! the client sees one whole 200.

use std::time::Duration;

use crate::support::tls::TlsServer;
use crate::support::{BlackHole, Gateway, Request, Server, form};

/// A gateway whose first pool is at this URL and whose second is `good`.
fn before(url: &str, good: &Server, pool: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
pools:
  bad: {{ servers: ["{url}"], health: false, {pool} }}
  good: {{ servers: ["{}"], health: false }}
routes: [{{ name: r, pool: bad, fallback: [good], {route} }}]
"#,
        good.url()
    ))
}

/// The request falls back, within the time, whatever its body.
#[track_caller]
fn falls_back(bad: &Server, pool: &str, route: &str, limit: Duration, result: &str) {
    let good = Server::named("good");
    let gateway = before(&bad.url(), &good, &format!("eject: false, {pool}"), route);
    let big = format!("{{\"input\":\"{}\"}}", "x".repeat(200_000));
    for request in [
        Request::json("/v1/audio/speech", r#"{"input":"x"}"#),
        Request::json("/v1/audio/speech", &big),
        Request::json("/v1/audio/speech", &big).chunked(5000),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.whole);
        assert_eq!(answer.json()["served_by"], "good");
        assert_eq!(answer.header("x-backend"), Some("good/127.0.0.1"));
        let attempts = answer.header("x-attempts").unwrap();
        assert!(
            attempts.starts_with(&format!("bad/127.0.0.1={result},good/127.0.0.1=200")),
            "{attempts}"
        );
        assert!(answer.took < limit, "{:?}", answer.took);
    }
    assert_eq!(
        good.seen()[1].body,
        big.as_bytes(),
        "the whole body was sent again"
    );
    assert_eq!(good.seen()[2].body, big.as_bytes());
    assert_eq!(
        gateway.metric(
            "trunkline_fallbacks_total",
            &[("from", "bad"), ("to", "good")]
        ),
        3.0
    );
}

const SOON: Duration = Duration::from_millis(1500);

#[test]
fn a_refused_connection() {
    let good = Server::named("good");
    let gateway = before(
        &format!("http://{}", Server::refused()),
        &good,
        "eject: false",
        "",
    );
    let answer = gateway.post("/v1/audio/speech", "{}");
    assert_eq!(answer.json()["served_by"], "good");
    assert!(
        answer
            .header("x-attempts")
            .unwrap()
            .contains("=connect_error")
    );
}

#[test]
fn a_black_hole_costs_the_connect_timeout() {
    let hole = BlackHole::new();
    let good = Server::named("good");
    let gateway = before(&hole.url(), &good, "timeouts: { connect: 300ms }", "");
    let answer = gateway.post("/v1/audio/speech", "{}");
    assert_eq!(answer.json()["served_by"], "good");
    assert!(
        (280..900).contains(&answer.took.as_millis()),
        "{:?}",
        answer.took
    );
    assert!(
        answer
            .header("x-attempts")
            .unwrap()
            .contains("=connect_timeout")
    );
}

#[test]
fn a_certificate_that_is_not_trusted_gets_no_byte_of_the_request() {
    let tls = TlsServer::start(&["localhost"]);
    let good = Server::named("good");
    let gateway = before(
        &format!("https://localhost:{}", tls.address.port()),
        &good,
        "api_key: sk-secret",
        "",
    );
    let answer = gateway.post("/v1/audio/speech", "{}");
    assert_eq!(answer.json()["served_by"], "good");
    assert!(answer.header("x-attempts").unwrap().contains("=tls_error"));
    assert_eq!(tls.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_certificate_for_another_name_is_not_trusted() {
    let tls = TlsServer::start(&["other.test"]);
    let good = Server::named("good");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &tls.pem).unwrap();
    let pool = format!("tls: {{ ca_file: '{}' }}", ca.display());
    let gateway = before(
        &format!("https://localhost:{}", tls.address.port()),
        &good,
        &pool,
        "",
    );
    assert!(
        gateway
            .post("/v1/audio/speech", "{}")
            .header("x-attempts")
            .unwrap()
            .contains("=tls_error")
    );
}

#[test]
fn a_trusted_certificate_serves_and_so_does_an_unchecked_one() {
    let tls = TlsServer::start(&["localhost"]);
    let good = Server::named("good");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &tls.pem).unwrap();
    let url = format!("https://localhost:{}", tls.address.port());
    for pool in [
        format!("tls: {{ ca_file: '{}' }}", ca.display()),
        "tls: { verify: false }".into(),
    ] {
        let gateway = before(&url, &good, &pool, "");
        let answer = gateway.post("/v1/audio/speech", "{}");
        assert_eq!(
            answer.json()["served_by"],
            "tls",
            "{pool}: {:?}",
            answer.header("x-attempts")
        );
    }
    assert_eq!(good.count(), 0);
}

#[test]
fn a_server_that_speaks_no_tls() {
    let good = Server::named("good");
    let plain = Server::named("plain");
    let gateway = before(
        &format!("https://{}", plain.address),
        &good,
        "timeouts: { connect: 500ms }",
        "",
    );
    let answer = gateway.post("/v1/audio/speech", "{}");
    assert_eq!(answer.json()["served_by"], "good");
    assert_eq!(plain.count(), 0);
}

#[test]
fn a_close_or_reset_before_the_head() {
    falls_back(&Server::fake(|_, _| false), "", "", SOON, "reset");
    falls_back(
        &Server::fake(|_, wire| {
            wire.reset();
            false
        }),
        "",
        "",
        SOON,
        "reset",
    );
}

#[test]
fn half_a_status_line_or_half_the_headers() {
    falls_back(&Server::raw(b"HTTP/1.1 20"), "", "", SOON, "reset");
    falls_back(
        &Server::raw(b"HTTP/1.1 200 OK\r\ncontent-ty"),
        "",
        "",
        SOON,
        "reset",
    );
}

#[test]
fn what_is_not_http() {
    for garbage in [
        &b"ICY 200 OK\r\n\r\n"[..],
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad\0name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: junk\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let bad = Server::raw(garbage);
        let good = Server::named("good");
        let gateway = before(&bad.url(), &good, "eject: false", "");
        let answer = gateway.post("/v1/audio/speech", "{}");
        assert_eq!(
            (answer.status, answer.json()["served_by"].as_str()),
            (200, Some("good")),
            "{}",
            String::from_utf8_lossy(garbage)
        );
    }
}

#[test]
fn every_status_of_the_list_with_every_body() {
    for status in [429, 500, 502, 503, 504] {
        let on = "retry: { on: [429, 500, 502, 503, 504] }";
        falls_back(&Server::failing(status), "", on, SOON, &status.to_string());
    }
}

#[test]
fn a_503_before_the_upload_was_read() {
    // answers at the head and closes while 5 MB are still coming
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream
                .write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let good = Server::named("good");
    let gateway = before(&format!("http://{address}"), &good, "eject: false", "");
    let body = vec![b'x'; 5_000_000];
    for chunked in [false, true] {
        let mut request = Request::new("POST", "/v1/files").body(body.clone());
        if chunked {
            request = request.chunked(60_000);
        }
        let answer = gateway.send(&request);
        assert_eq!(
            (answer.status, answer.json()["served_by"].as_str()),
            (200, Some("good")),
            "{:?}",
            answer.header("x-attempts")
        );
        assert!(good.seen().pop().unwrap().body == body);
    }
}

#[test]
fn silence_costs_the_first_byte_timeout_and_so_does_a_dripping_head() {
    let silent = Server::fake(|_, wire| {
        wire.wait_for_close();
        false
    });
    falls_back(
        &silent,
        "timeouts: { first_byte: 300ms }",
        "",
        SOON,
        "timeout",
    );
    let dripping = Server::fake(|_, wire| {
        for byte in b"HTTP/1.1 200 OK\r\nx-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n" {
            wire.raw([*byte]);
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    falls_back(
        &dripping,
        "timeouts: { first_byte: 300ms }",
        "",
        SOON,
        "timeout",
    );
    let silent = Server::fake(|_, wire| {
        wire.wait_for_close();
        false
    });
    falls_back(
        &silent,
        "",
        "retry: { per_try_timeout: 300ms }",
        SOON,
        "timeout",
    );
}

#[test]
fn a_200_and_then_nothing() {
    // Kokoro-FastAPI says 200 before it has said a word
    falls_back(
        &Server::fake(|_, wire| {
            wire.chunked("audio/mpeg");
            false
        }),
        "",
        "",
        SOON,
        "reset",
    );
    falls_back(
        &Server::fake(|_, wire| {
            wire.chunked("audio/mpeg");
            wire.end();
            true
        }),
        "",
        "",
        SOON,
        "empty",
    );
    falls_back(
        &Server::fake(|_, wire| {
            wire.chunked("audio/mpeg");
            wire.reset();
            false
        }),
        "",
        "",
        SOON,
        "reset",
    );
    falls_back(
        &Server::fake(|_, wire| {
            wire.answer(200, &[], "");
            true
        }),
        "",
        "",
        SOON,
        "empty",
    );
    let stalls = Server::fake(|_, wire| {
        wire.chunked("audio/mpeg");
        wire.wait_for_close();
        false
    });
    falls_back(
        &stalls,
        "timeouts: { first_byte: 300ms }",
        "",
        SOON,
        "timeout",
    );
}

#[test]
fn the_clients_own_errors_pass_through_and_nobody_else_is_asked() {
    for status in [400, 401, 404, 422] {
        let (bad, good) = (Server::failing(status), Server::named("good"));
        let gateway = before(&bad.url(), &good, "", "");
        let answer = gateway.post("/v1/audio/speech", "{}");
        assert_eq!(answer.status, status);
        assert_eq!(
            answer.json()["error"]["message"],
            format!("upstream says {status}")
        );
        assert_eq!(
            (answer.header("x-backend"), answer.header("x-should-retry")),
            (Some("bad/127.0.0.1"), None)
        );
        assert_eq!(good.count(), 0);
    }
}

#[test]
fn the_last_servers_own_error_passes_through_and_says_not_to_try_again() {
    let (first, second) = (Server::failing(503), Server::failing(502));
    let gateway = before(&first.url(), &second, "", "");
    let answer = gateway.post("/v1/audio/speech", "{}");
    assert_eq!(
        (answer.status, answer.header("x-should-retry")),
        (502, Some("false"))
    );
    assert_eq!(answer.json()["error"]["message"], "upstream says 502");
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[test]
fn a_429_alone_passes_with_its_headers_so_that_the_sdk_can_wait() {
    let busy = Server::fake(|_, wire| {
        let headers = [
            ("retry-after", "7"),
            ("retry-after-ms", "7000"),
            ("x-ratelimit-remaining-requests", "0"),
        ];
        wire.answer(429, &headers, "{\"error\":{\"message\":\"slow down\"}}");
        true
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ pool: a }}]",
        busy.url()
    ));
    let answer = gateway.post("/v1/chat/completions", "{}");
    assert_eq!(
        (
            answer.status,
            answer.header("retry-after"),
            answer.header("retry-after-ms")
        ),
        (429, Some("7"), Some("7000"))
    );
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(answer.header("x-should-retry"), None);
}

#[test]
fn what_nobody_answers_is_said_in_openais_shape() {
    let refused = format!("http://{}", Server::refused());
    let silent = Server::fake(|_, wire| {
        wire.wait_for_close();
        false
    });
    let closes = Server::fake(|_, _| false);
    let empty = Server::fake(|_, wire| {
        wire.answer(200, &[], "");
        true
    });
    for (url, pool, status, code) in [
        (refused.clone(), "", 502, "upstream_unreachable"),
        (
            silent.url(),
            "timeouts: { first_byte: 200ms }",
            504,
            "upstream_timeout",
        ),
        (closes.url(), "", 502, "upstream_reset"),
        (empty.url(), "", 502, "upstream_invalid"),
    ] {
        let gateway = Gateway::start(&format!(
            "pools: {{ a: {{ servers: ['{url}'], health: false, {pool} }} }}\nroutes: [{{ pool: a }}]"
        ));
        let answer = gateway.post("/v1/chat/completions", "{}");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{}",
            answer.text()
        );
        assert_eq!(answer.json()["error"]["type"], "server_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert!(answer.took < SOON);
    }
}

#[test]
fn a_sick_server_is_not_asked_and_a_well_one_is_again() {
    let sick = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let flag = sick.clone();
    let server = Server::fake(move |seen, wire| {
        let down = seen.target == "/health" && flag.load(std::sync::atomic::Ordering::SeqCst);
        wire.answer(if down { 503 } else { 200 }, &[], "{}");
        true
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: {{ path: /health, interval: 50ms, rise: 1, fall: 2 }} }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    crate::support::eventually("the server is down", || {
        gateway.metric("trunkline_server_up", &[]) == 0.0
    });
    let before = server.count();
    let answer = gateway.post("/v1/x", "{}");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "no_server_available")
    );
    assert!(answer.header("retry-after").is_some());
    assert!(
        answer.took < Duration::from_millis(500),
        "at once, not after timeouts"
    );
    assert_eq!(gateway.ask_admin("/readyz").status, 503);
    assert_eq!(server.count(), before);
    sick.store(false, std::sync::atomic::Ordering::SeqCst);
    crate::support::eventually("it serves again", || {
        gateway.post("/v1/x", "{}").status == 200
    });
    assert_eq!(
        gateway.metric("trunkline_server_transitions_total", &[("to", "up")]),
        1.0
    );
}

#[test]
fn a_server_that_fails_in_a_row_is_ejected_and_comes_back() {
    let (bad, good) = (Server::failing(503), Server::named("good"));
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: bad }}, {{ url: '{}', name: good }}], health: false, eject: {{ after: 2, for: 1h }} }} }}\nroutes: [{{ pool: a }}]",
        bad.url(),
        good.url()
    ));
    for _ in 0..20 {
        assert_eq!(gateway.post("/v1/x", "{}").status, 200);
    }
    assert_eq!(bad.count(), 2, "asked until it had failed twice");
    assert_eq!(
        gateway.metric("trunkline_ejections_total", &[("server", "bad")]),
        1.0
    );
    assert_eq!(
        gateway.metric("trunkline_server_ejected", &[("server", "bad")]),
        1.0
    );
}

#[test]
fn connections_that_servers_closed_in_the_meantime_fail_nobody() {
    // closes each connection behind its first answer, without a word
    let server = Server::fake(|_, wire| {
        wire.json("{\"served_by\":\"a\"}");
        false
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false, keepalive: {{ idle: 60s }} }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    for n in 0..60 {
        let request = if n % 2 == 0 {
            Request::json("/v1/x", "{}")
        } else {
            Request::get("/v1/x")
        };
        assert_eq!(gateway.send(&request).status, 200, "request {n}");
    }
    assert_eq!(server.count(), 60);
}

#[test]
fn connections_are_kept_for_as_many_requests_as_the_file_says() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false, keepalive: {{ requests: 4 }} }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    // on one connection of ours: a request starts when the one before is over, to its last step
    let mut stream = crate::support::client::connect(gateway.address);
    for _ in 0..12 {
        assert_eq!(
            Request::json("/v1/x", "{}").send_on(&mut stream).status,
            200
        );
    }
    let mut per_connection = std::collections::BTreeMap::new();
    for seen in server.seen() {
        *per_connection.entry(seen.connection).or_insert(0) += 1;
    }
    assert_eq!(
        per_connection.values().copied().collect::<Vec<_>>(),
        [4, 4, 4]
    );
}

#[test]
fn large_bodies_are_sent_again_whole_for_every_kind_of_failure() {
    let json = format!(
        "{{\"messages\":[{{\"content\":\"{}\"}}],\"model\":\"gpt\"}}",
        "x".repeat(30_000_000)
    );
    let audio: Vec<u8> = (0..25_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let (content_type, upload) = form(&[("model", "whisper-1")], &audio, true);
    let requests = [
        ("30 MB JSON", Request::json("/v1/chat/completions", &json)),
        (
            "100 MB form",
            Request::new("POST", "/v1/audio/transcriptions")
                .header("content-type", &content_type)
                .body(upload),
        ),
    ];
    let silent = || {
        Server::fake(|_, wire| {
            wire.wait_for_close();
            false
        })
    };
    let failing: [(&str, Server); 8] = [
        ("429", Server::failing(429)),
        ("500", Server::failing(500)),
        ("502", Server::failing(502)),
        ("503", Server::failing(503)),
        ("504", Server::failing(504)),
        ("timeout", silent()),
        (
            "reset",
            Server::fake(|_, wire| {
                wire.reset();
                false
            }),
        ),
        (
            "empty",
            Server::fake(|_, wire| {
                wire.chunked("audio/mpeg");
                wire.end();
                true
            }),
        ),
    ];
    let untrusted = TlsServer::start(&["localhost"]);
    let good = Server::named("good");
    for (failure, bad) in &failing {
        let gateway = Gateway::start(&format!(
            r#"
pools:
  refused: {{ servers: ["http://{}"], health: false }}
  untrusted: {{ servers: ["https://localhost:{}"], health: false }}
  bad: {{ servers: ["{}"], health: false, timeouts: {{ first_byte: 6s }} }}
  good: {{ servers: ["{}"], health: false, models: {{ gpt: llama, whisper-1: large }} }}
routes:
  - pool: refused
    fallback: [untrusted, bad, good]
    retry: {{ on: [connect, reset, timeout, 429, 500, 502, 503, 504] }}
    max_body: 120MiB
"#,
            Server::refused(),
            untrusted.address.port(),
            bad.url(),
            good.url()
        ));
        for (what, request) in &requests {
            let answer = gateway.send(request);
            assert_eq!(
                (answer.status, answer.json()["served_by"].as_str()),
                (200, Some("good")),
                "{what} {failure}"
            );
            let attempts = answer.header("x-attempts").unwrap();
            let expected =
                format!("=connect_error,untrusted/localhost=tls_error,bad/127.0.0.1={failure},");
            assert!(attempts.contains(&expected), "{attempts}");
            let body = good.seen().pop().unwrap().body;
            let sent = request.bytes();
            assert!(
                body.len().abs_diff(sent.len()) < 1000,
                "{what} {failure}: {} bytes",
                body.len()
            );
            match *what {
                "30 MB JSON" => assert!(
                    body.ends_with(b"\"model\":\"llama\"}")
                        && body[..100] == json.as_bytes()[..100]
                ),
                _ => assert!(body == form(&[("model", "large")], &audio, true).1),
            }
        }
    }
}

#[test]
fn retries_stay_within_the_routes_budget() {
    let (bad, good) = (Server::failing(503), Server::named("good"));
    let gateway = before(&bad.url(), &good, "eject: false", "retry: { budget: 0% }");
    let statuses: Vec<u16> = (0..20)
        .map(|_| gateway.post("/v1/audio/speech", "{}").status)
        .collect();
    assert_eq!(
        statuses.iter().filter(|s| **s == 200).count(),
        10,
        "the floor of ten: {statuses:?}"
    );
    assert_eq!(
        gateway.metric("trunkline_retry_budget_exhausted_total", &[("route", "r")]),
        10.0
    );
}
