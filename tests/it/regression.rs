//! What was wrong once, each with a sentence about it.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::gateway::BINARY;
use crate::support::{Gateway, Request, Server, eventually};

fn one(server: &Server, pool: &str, route: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\npools: {{ a: {{ servers: ['{}'], health: false, {pool} }} }}\nroutes: [{{ pool: a, {route} }}]",
        server.url()
    ))
}

fn check(yaml: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.yaml");
    std::fs::write(&path, yaml).unwrap();
    let output = std::process::Command::new(BINARY)
        .arg("check-config")
        .arg(&path)
        .env("SECRET", "sk-canary\n")
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A health path with a space passed the check and ended the program when it was first asked.
#[test]
fn a_health_path_that_is_none_is_refused() {
    for path in ["/he alth", "health", "/a\\tb"] {
        let (code, said) = check(&format!(
            "pools: {{ a: {{ servers: ['http://h:1'], health: {{ path: \"{path}\" }} }} }}\nroutes: [{{ pool: a }}]"
        ));
        assert!(
            code == 78 && said.contains("is not a path"),
            "{path}: {said}"
        );
    }
}

/// The source line under a warning showed the key that the warning was about.
#[test]
fn a_key_is_not_shown_by_the_check_that_complains_about_it() {
    for yaml in [
        "pools: { a: { servers: ['http://h:1'], api_key: sk-canary, kindd: x } }\nroutes: [{ pool: a }]",
        "pools:\n  a:\n    servers: ['http://h:1']\n    headers: { set: { x-key: sk-canary }, remve: [] }\nroutes: [{ pool: a }]",
        "pools: { a: { servers: ['http://h:1'], api_key: sk-canary\nroutes: [{ pool: a }]",
        "pools: { a: { servers: ['${SECRET}'] } }\nroutes: [{ pool: '${SECRET}' }]",
        "pools: { a: { servers: ['http://h:1'], timeouts: { idle: '${SECRET}' } } }\nroutes: [{ pool: a }]",
    ] {
        let (_, said) = check(yaml);
        assert!(!said.is_empty() && !said.contains("canary"), "{said}");
    }
}

/// Each piece of a body was kept by itself: a megabyte in chunks of one byte took a hundred.
#[test]
fn a_body_in_crumbs_costs_what_it_weighs() {
    let server = Server::named("a");
    let gateway = one(&server, "", "match: { model: m }", "");
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    gateway.post("/v1/x", r#"{"model":"m"}"#);
    let before = resident();
    let body = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "y".repeat(900_000));
    let answer = gateway.send(&Request::json("/v1/x", &body).chunked(1));
    assert_eq!(answer.status, 200);
    assert!(server.seen().pop().unwrap().body == body.as_bytes());
    let grown = resident() - before;
    assert!(grown < 16 * 1024, "{grown} KiB");
}

/// A page of an origin that is not listed was allowed by the server's own header.
#[test]
fn the_listener_and_not_the_server_says_which_pages_may_call() {
    let server = Server::fake(|_, wire| {
        wire.answer(
            200,
            &[("access-control-allow-origin", "*"), ("vary", "accept")],
            "{}",
        );
        true
    });
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: '127.0.0.1:0', cors: {{ origins: ['https://app.example'] }} }}]\npools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let evil = gateway.send(&Request::json("/v1/x", "{}").header("origin", "https://evil.example"));
    assert_eq!(evil.header("access-control-allow-origin"), None);
    let asked = server.count();
    let preflight = Request::new("OPTIONS", "/v1/x")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    let preflight = gateway.send(&preflight);
    assert_eq!(
        (
            preflight.status,
            preflight.header("access-control-allow-origin")
        ),
        (204, None)
    );
    assert_eq!(server.count(), asked, "preflights are answered here");
    let good = gateway.send(&Request::json("/v1/x", "{}").header("origin", "https://app.example"));
    assert_eq!(
        good.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let vary: Vec<&str> = good
        .headers
        .iter()
        .filter(|(n, _)| n == "vary")
        .map(|(_, v)| v.as_str())
        .collect();
    assert_eq!(vary, ["accept", "origin"]);
}

/// Any head that came while a body was being sent was taken for a refusal of it.
#[test]
fn an_interim_or_early_answer_does_not_stop_an_upload() {
    for early in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            while !all.ends_with(b"LAST") {
                let n = stream.read(&mut piece).unwrap();
                if all.is_empty() {
                    stream.write_all(early.as_bytes()).unwrap();
                }
                if n == 0 {
                    return;
                }
                all.extend_from_slice(&piece[..n]);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .unwrap();
        });
        let gateway = Gateway::start(&format!(
            "pools: {{ a: {{ servers: ['http://{address}'], health: false }} }}\nroutes: [{{ pool: a }}]"
        ));
        let mut stream = connect(gateway.address);
        stream
            .write_all(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n")
            .unwrap();
        for piece in ["AAAA", "BBBB", "LAST"] {
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        let answer = read_answer(&mut stream, false, Instant::now());
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{early:?}"
        );
    }
}

/// A good head cleared a server's failures, so one that broke every stream was never left out.
#[test]
fn a_server_that_breaks_every_stream_is_ejected() {
    let cutting = Server::fake(|_, wire| {
        wire.chunked("audio/mpeg");
        wire.chunk("abc");
        false
    });
    let good = Server::named("good");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: cutting }}, {{ url: '{}', name: good }}], health: false, eject: {{ after: 3, for: 1h }} }} }}\nroutes: [{{ pool: a }}]",
        cutting.url(),
        good.url()
    ));
    for _ in 0..12 {
        gateway.post("/v1/audio/speech", "{}");
    }
    assert_eq!(cutting.count(), 3);
    assert_eq!(
        gateway.metric(
            "trunkline_attempts_total",
            &[("server", "cutting"), ("result", "reset")]
        ),
        3.0
    );
    assert_eq!(
        gateway.metric("trunkline_attempts_total", &[("server", "cutting")]),
        3.0,
        "each counted once"
    );
}

/// The clock of an attempt ran while the client was still sending its body.
#[test]
fn a_slow_upload_is_not_the_servers_fault() {
    let server = Server::named("a");
    let gateway = one(
        &server,
        "timeouts: { first_byte: 300ms }",
        "retry: { per_try_timeout: 300ms }",
        "",
    );
    let mut stream = connect(gateway.address);
    stream
        .write_all(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n")
        .unwrap();
    for piece in ["AA", "BB", "CC", "DD"] {
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(read_answer(&mut stream, false, Instant::now()).status, 200);
}

/// A second request on a kept connection had a minute more for its head.
#[test]
fn a_dripping_head_on_a_kept_connection_is_cut_in_time() {
    let server = Server::named("a");
    let gateway = one(&server, "", "", "limits: { header_timeout: 400ms }");
    let mut stream = connect(gateway.address);
    assert_eq!(
        Request::json("/v1/x", "{}").send_on(&mut stream).status,
        200
    );
    // waiting is fine
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(
        Request::json("/v1/x", "{}").send_on(&mut stream).status,
        200
    );
    let started = Instant::now();
    for byte in b"GET /v1/x HTTP/1.1\r\nx-drip: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        .iter()
        .cycle()
    {
        if stream.write_all(&[*byte]).is_err() || started.elapsed() > Duration::from_secs(5) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
}

/// `0s` is no limit; for heads it was no time at all.
#[test]
fn no_header_timeout_is_no_limit() {
    let server = Server::named("a");
    let gateway = one(
        &server,
        "",
        "",
        "limits: { header_timeout: 0s, body_timeout: 0s }",
    );
    let mut stream = connect(gateway.address);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        Request::json("/v1/x", "{}").send_on(&mut stream).status,
        200
    );
}

/// A request on a kept connection that died was sent again although the file forbade it.
#[test]
fn an_empty_retry_list_sends_a_request_once() {
    let server = Server::fake(|seen, wire| {
        if seen.target == "/v1/second" {
            return false;
        }
        wire.json("{}");
        true
    });
    let gateway = one(&server, "keepalive: { idle: 60s }", "retry: { on: [] }", "");
    let mut stream = connect(gateway.address);
    assert_eq!(
        Request::json("/v1/first", "{}").send_on(&mut stream).status,
        200
    );
    assert_eq!(
        Request::json("/v1/second", "{}")
            .send_on(&mut stream)
            .status,
        502
    );
    assert_eq!(
        server
            .seen()
            .iter()
            .filter(|seen| seen.target == "/v1/second")
            .count(),
        1
    );
}

/// After a reload, a pool that was gone still said that it was up.
#[test]
fn a_reload_forgets_the_state_of_servers_that_are_gone() {
    let server = Server::named("a");
    let gateway = one(&server, "", "", "");
    assert_eq!(gateway.metric("trunkline_server_up", &[("pool", "a")]), 1.0);
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    std::fs::write(
        gateway.config_path(),
        text.replace("{ a: {", "{ b: {")
            .replace("pool: a", "pool: b"),
    )
    .unwrap();
    gateway.signal("HUP");
    eventually("the new pool serves", || {
        gateway.metric("trunkline_server_up", &[("pool", "b")]) == 1.0
    });
    let metrics = gateway.ask_admin("/metrics").text();
    for name in [
        "trunkline_server_up",
        "trunkline_pool_servers_available",
        "trunkline_upstream_in_flight",
    ] {
        assert!(!metrics.contains(&format!("{name}{{pool=\"a\"")), "{name}");
    }
}

/// `gzip, chunked` went on as `chunked`, and the server read noise.
#[test]
fn a_transfer_coding_that_would_be_lost_is_refused() {
    let server = Server::named("a");
    let gateway = one(&server, "", "", "");
    let mut stream = connect(gateway.address);
    stream
        .write_all(
            b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        )
        .unwrap();
    assert_eq!(read_answer(&mut stream, false, Instant::now()).status, 400);
    assert_eq!(server.count(), 0);
}

/// Requests cut at the end of `shutdown.grace` left no line in the log, and their streams no word.
#[test]
fn what_is_cut_at_the_end_is_told_and_logged() {
    let server = Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        wire.chunk("data: {}\n\n");
        wire.wait_for_close();
        false
    });
    let mut gateway = one(&server, "", "", "shutdown: { grace: 200ms }");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/chat/completions", "{}").bytes())
        .unwrap();
    eventually("it is in flight", || server.count() == 1);
    gateway.signal("TERM");
    let answer = read_answer(&mut stream, false, Instant::now());
    assert!(
        answer.text().contains("shutdown.grace") && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
    assert_eq!(gateway.wait(Duration::from_secs(5)), 0);
    assert_eq!(gateway.access_log(1)[0]["termination"], "timeout");
}

/// What an error says was counted as audio and as a first token.
#[test]
fn errors_are_neither_audio_nor_tokens() {
    let gateway = one(&Server::failing(500), "", "", "");
    gateway.post("/v1/audio/speech", "{}");
    assert_eq!(gateway.metric("trunkline_audio_bytes_total", &[]), 0.0);
    assert_eq!(
        gateway.metric("trunkline_time_to_first_token_seconds_count", &[]),
        0.0
    );
}

/// What Pingora could not parse got its bare page, and neither a line in the log nor a count.
#[test]
fn what_is_no_request_is_answered_counted_and_logged_like_one() {
    let server = Server::named("a");
    let gateway = one(&server, "", "", "");
    let broken: &[&[u8]] = &[
        b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET /v1/x HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in broken {
        let mut stream = connect(gateway.address);
        stream.write_all(bytes).unwrap();
        let answer = read_answer(&mut stream, false, Instant::now());
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_request"),
            "{}",
            bytes.escape_ascii()
        );
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("server"), None);
    }
    assert_eq!(gateway.access_log(broken.len()).len(), broken.len());
    let counted = gateway.metric(
        "trunkline_local_replies_total",
        &[("code", "invalid_request")],
    );
    assert_eq!(counted, broken.len() as f64);
    assert_eq!(gateway.post("/v1/x", "{}").status, 200);
}

/// A scraper's kept connection was cut as if its next head were late.
#[test]
fn a_kept_connection_to_the_admin_listener_may_wait_for_its_next_scrape() {
    let server = Server::named("a");
    let gateway = one(&server, "", "", "limits: { header_timeout: 200ms }");
    let mut stream = connect(gateway.admin);
    for _ in 0..2 {
        assert_eq!(Request::get("/healthz").send_on(&mut stream).status, 200);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(Request::get("/healthz").send_on(&mut stream).status, 200);
}

/// Its connection stayed open for a minute, and who reads to the end waited as long.
#[test]
fn a_connection_of_http_1_0_ends_behind_the_answer_unless_it_is_to_stay() {
    let gateway = one(&Server::named("a"), "", "", "");
    let mut stream = connect(gateway.address);
    let keep = b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    stream.write_all(keep).unwrap();
    assert_eq!(read_answer(&mut stream, false, Instant::now()).status, 200);
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    let started = Instant::now();
    std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}
