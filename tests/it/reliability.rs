//! What the other files leave of the table in docs/faults.md, and that the table is true.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{connect, read_answer};
use crate::support::gateway::routed_to;
use crate::support::{Gateway, Request, Server, eventually};

/// One pool behind another, both without probes.
fn with_spare(first: &Server, second: &Server, route: &str) -> Gateway {
    Gateway::start(&format!(
        "pools:\n  a: {{ servers: ['{}'], health: false, eject: false }}\n  b: {{ servers: ['{}'], health: false, eject: false }}\nroutes: [{{ pool: a, fallback: [b], {route} }}]\n",
        first.url(),
        second.url()
    ))
}

fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let (mut rows, mut named, mut missing) = (0, 0, Vec::new());
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let tests = row
            .trim_end_matches([' ', '|'])
            .rsplit(" | ")
            .next()
            .unwrap();
        if tests == "test" || tests.starts_with("---") {
            continue;
        }
        rows += 1;
        let before = named;
        for name in tests.split('`').filter(|name| name.contains("::")) {
            named += 1;
            let (module, test) = name.rsplit_once("::").unwrap();
            let path = module.replace("::", "/");
            let places = [
                format!("tests/it/{path}.rs"),
                format!("tests/it/{path}/mod.rs"),
                format!("src/{path}.rs"),
                format!("src/{path}/mod.rs"),
            ];
            let mut texts = places
                .iter()
                .filter_map(|place| std::fs::read_to_string(root.join(place)).ok());
            let line = format!("fn {test}()");
            let is_test = |text: String| {
                text.find(&line)
                    .is_some_and(|at| text[..at].trim_end().ends_with("#[test]"))
            };
            if !texts.any(is_test) {
                missing.push(name.to_owned());
            }
        }
        assert!(named > before, "no test in the row {row}");
    }
    assert!(
        rows > 40 && named > 60,
        "{rows} rows, {named} tests: the table was not read"
    );
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

// ---- servers ----

#[test]
fn heads_that_make_no_sense_fall_back_or_are_one_502() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\nok",
        "y".repeat(1_100_000)
    );
    let many: String = (0..300).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\nok");
    for head in [
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/3.7 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx-a: b\rc\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: foo\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        &long,
        &many,
    ] {
        let text = head.to_owned();
        let bad = Server::fake(move |_, wire| {
            wire.raw(&text);
            false
        });
        let good = Server::named("good");
        let gateway = with_spare(&bad, &good, "");
        let answer = gateway.post("/v1/audio/speech", "{}");
        let served = answer.status == 200 && answer.text().contains("good") && answer.whole;
        let what = &head[..head.len().min(80)];
        assert!(
            served || answer.status == 502,
            "{what:?}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(good.count() <= 1);
    }
}

#[test]
fn a_server_that_flaps_loses_no_request() {
    let count = AtomicUsize::new(0);
    let flapping = Server::fake(move |_, wire| {
        let up = (count.fetch_add(1, SeqCst) / 5).is_multiple_of(2);
        if up {
            wire.json("{\"served_by\":\"flapping\"}");
        }
        up
    });
    let good = Server::named("good");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}', '{}'], health: {{ interval: 50ms, rise: 1, fall: 1 }}, eject: {{ after: 3, for: 100ms }} }} }}\nroutes: [{{ pool: a }}]",
        flapping.url(),
        good.url()
    ));
    for n in 0..200 {
        assert_eq!(gateway.post("/v1/x", "{}").status, 200, "request {n}");
    }
}

#[test]
fn trailers_of_an_answer_break_nothing() {
    let server = Server::fake(|seen, wire| {
        if seen.target == "/v1/trailers" {
            wire.chunked("text/plain");
            wire.chunk("hello");
            wire.raw("0\r\nx-checksum: 1\r\ncontent-length: 7\r\n\r\n");
        } else {
            wire.json("{\"honest\":true}");
        }
        true
    });
    let gateway = Gateway::start(&routed_to(server.address));
    for _ in 0..10 {
        let first = gateway.get("/v1/trailers");
        assert_eq!((first.text().as_str(), first.whole), ("hello", true));
        assert_eq!(gateway.get("/v1/next").text(), "{\"honest\":true}");
    }
}

#[test]
fn redirects_go_to_the_client_and_not_to_their_target() {
    let target = Server::named("target");
    let to = format!("{}/v1/x", target.url());
    let server = Server::fake(move |seen, wire| {
        let status = seen.target.rsplit('/').next().unwrap().parse().unwrap();
        wire.answer(status, &[("location", &to)], "");
        true
    });
    let gateway = with_spare(&server, &target, "");
    for status in [301, 302, 303, 307, 308] {
        let answer = gateway.post(&format!("/v1/{status}"), "{}");
        assert_eq!(answer.status, status);
        assert!(answer.header("location").is_some());
    }
    assert_eq!(target.count(), 0);
}

#[test]
fn a_key_that_a_server_repeats_is_masked_in_its_headers() {
    let server = Server::fake(|seen, wire| {
        let key = seen.header("authorization").unwrap_or("none").to_owned();
        wire.answer(
            401,
            &[
                ("x-debug", &key),
                ("www-authenticate", &format!("Bearer realm=\"{key}\"")),
            ],
            "{}",
        );
        true
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false, api_key: sk-pool-canary }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let answer = gateway.post("/v1/x", "{}");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("x-debug"), Some("[redacted]"));
    assert!(
        answer
            .headers
            .iter()
            .all(|(_, value)| !value.contains("canary")),
        "{:?}",
        answer.headers
    );
}

// ---- clients ----

/// Streams for ever; counts whose connection ended.
fn endless(noticed: &Arc<AtomicUsize>) -> Server {
    let noticed = noticed.clone();
    Server::fake(move |_, wire| {
        wire.chunked("text/event-stream");
        wire.chunk("data: x\n\n");
        while wire.0.write_all(b"9\r\ndata: x\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        noticed.fetch_add(1, SeqCst);
        false
    })
}

#[test]
fn a_client_that_resets_or_leaves_half_its_body_frees_the_server() {
    let noticed = Arc::default();
    let server = endless(&noticed);
    let gateway = Gateway::start(&routed_to(server.address));
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/chat/completions", "{}").bytes())
        .unwrap();
    stream.read_exact(&mut [0; 100]).unwrap();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    eventually("the server is free", || noticed.load(SeqCst) == 1);
    assert_eq!(gateway.access_log(1)[0]["termination"], "client_abort");
    // a body that is passed on while it comes
    let mut stream = connect(gateway.address);
    stream
        .write_all(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
        .unwrap();
    drop(stream);
    assert_eq!(gateway.access_log(2)[1]["termination"], "client_abort");
    assert_eq!(gateway.metric("trunkline_upstream_in_flight", &[]), 0.0);
}

/// Who sends an end while it waits is taken for gone, as most clients that do have left: the server
/// is free, and the connection does not hang.
#[test]
fn a_client_that_closes_its_half_has_left() {
    let noticed = Arc::default();
    let server = endless(&noticed);
    let gateway = Gateway::start(&routed_to(server.address));
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/chat/completions", "{}").bytes())
        .unwrap();
    eventually("it is asked", || server.count() == 1);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    eventually("the server is free", || noticed.load(SeqCst) == 1);
    assert_eq!(gateway.access_log(1)[0]["termination"], "client_abort");
}

#[test]
fn a_large_upload_to_a_server_that_reads_slowly_is_held_back() {
    const SIZE: usize = 64 * 1024 * 1024;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let got = Arc::new(AtomicUsize::new(0));
    let count = got.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, count) = (stream.unwrap(), count.clone());
            std::thread::spawn(move || {
                let mut piece = vec![0; 256 * 1024];
                let mut last = Vec::new();
                std::thread::sleep(Duration::from_millis(300));
                loop {
                    match stream.read(&mut piece) {
                        Ok(n) if n > 0 => {
                            count.fetch_add(n, SeqCst);
                            last.extend_from_slice(&piece[..n]);
                            last.drain(..last.len().saturating_sub(12));
                            if last.ends_with(b"LAST") || last.ends_with(b"LAST\r\n0\r\n\r\n") {
                                let _ = stream
                                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                                return;
                            }
                        }
                        _ => return,
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    let gateway = Gateway::start(&routed_to(address));
    assert_eq!(gateway.get("/health").status, 200);
    let before = resident(&gateway);
    let mut body = vec![b'x'; SIZE - 4];
    body.extend_from_slice(b"LAST");
    for chunked in [false, true] {
        let mut request = Request::new("POST", "/v1/files").body(body.clone());
        if chunked {
            request = request.chunked(100_000);
        }
        let sending = gateway.send_aside(&request);
        let mut most = 0;
        while !sending.is_finished() {
            most = most.max(resident(&gateway));
            std::thread::sleep(Duration::from_millis(20));
        }
        let answer = sending.join().unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "chunked: {chunked}"
        );
        let grown = most.saturating_sub(before);
        assert!(grown < 24 * 1024, "{grown} KiB, chunked: {chunked}");
    }
    assert!(got.load(SeqCst) >= 2 * SIZE);
}

#[test]
fn five_thousand_requests_sent_at_once_are_all_served_in_order() {
    let server = Server::fake(|seen, wire| {
        wire.json(&format!("\"{}\"", seen.target));
        true
    });
    let gateway = Gateway::start(&routed_to(server.address));
    let mut stream = connect(gateway.address);
    let all: String = (0..5000)
        .map(|n| format!("GET /v1/{n} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .collect();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(all.as_bytes()));
    let (mut text, mut piece, mut next) = (String::new(), [0; 65536], 0);
    while next < 5000 {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "it ended behind {next}");
        text.push_str(&String::from_utf8_lossy(&piece[..n]));
        while let Some(at) = text.find(&format!("\"/v1/{next}\"")) {
            text.drain(..at);
            next += 1;
        }
    }
    writing.join().unwrap().unwrap();
    assert_eq!(server.count(), 5000);
}

#[test]
fn a_thousand_idle_and_a_thousand_busy_connections_are_served() {
    let (server, load) = Server::held("a");
    // a thousand at once are more than its backlog: some are heard a second or three later
    let gateway = Gateway::start(&format!(
        "limits: {{ header_timeout: 60s }}\npools: {{ a: {{ servers: ['{}'], health: false, timeouts: {{ connect: 20s }} }} }}\nroutes: [{{ pool: a }}]\n",
        server.url()
    ));
    let idle: Vec<TcpStream> = (0..1000).map(|_| connect(gateway.address)).collect();
    let ask = Request::json("/v1/x", "{}").bytes();
    let mut busy: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut stream = connect(gateway.address);
            stream.write_all(&ask).unwrap();
            stream
        })
        .collect();
    eventually("all are open", || {
        gateway.metric("trunkline_connections", &[]) >= 2000.0
    });
    load.release_all();
    for stream in &mut busy {
        assert_eq!(read_answer(stream, false, Instant::now()).status, 200);
    }
    for mut stream in idle.into_iter().step_by(100) {
        assert_eq!(Request::get("/health").send_on(&mut stream).status, 200);
    }
}

// ---- ways around a route ----

/// However a path is written: it is refused, or it meets the route that is for it.
#[test]
fn no_spelling_of_a_path_leads_around_its_route() {
    let (guarded, open) = (Server::named("guarded"), Server::named("open"));
    let gateway = Gateway::start(&format!(
        "pools:\n  guarded: {{ servers: ['{}'], health: false }}\n  open: {{ servers: ['{}'], health: false }}\nroutes:\n  - {{ match: {{ path: '/v1/files/*' }}, pool: guarded }}\n  - {{ pool: open }}\n",
        guarded.url(),
        open.url()
    ));
    let spellings = [
        "/v1/files/a",
        "/v1/%66iles/a",
        "/%76%31/files/a",
        "/v1/file%73/a",
        "/v1/%46iles/a",
        "//v1/files/a",
        "/v1//files/a",
        "/v1/files//a",
        "///v1/files/a",
        "/./v1/files/a",
        "/v1/./files/a",
        "/v1/x/../files/a",
        "/v1/files/../files/a",
        "/x/../v1/files/a",
        "/../v1/files/a",
        "/v1/%2e/files/a",
        "/v1/x/%2e%2e/files/a",
        "/v1/x/%2E%2E/files/a",
        "/v1/x/.%2e/files/a",
        "/v1/x/%2e./files/a",
        "/v1%2ffiles/a",
        "/v1%2Ffiles/a",
        "/v1/files%2fa",
        "/%2fv1/files/a",
        "/v1%5cfiles/a",
        "/v1\\files/a",
        "/v1/files\\a",
        "\\v1\\files\\a",
        "/v1/x\\..\\files/a",
        "/v1;x/files/a",
        "/v1/files;x=y/a",
        "/v1/files%3bx/a",
        "/v1/x;/../files/a",
        "/v1/files%00/a",
        "/v1/files%0a/a",
        "/v1/files%20/a",
        "/v1/files%09/a",
        "/v1/%c0%aefiles/a",
        "/v1%c0%affiles/a",
        "/v1%e0%80%affiles/a",
        "/v1%252ffiles/a",
        "/v1/%2566iles/a",
        "/v1/%u0066iles/a",
        "/v1/f%69les/a?x=/v1/open",
        "/v1/open?/../files/a",
        "http://edge.test/v1/files/a",
        "http://edge.test/v1/x/../files/a",
        "http://edge.test//v1/files/a",
        "/v1/files/a#/v1/open",
    ];
    // what a server makes of a path at most: decoded as often as it likes, `\\` for `/`, cleaned
    let read = |target: &str| {
        let mut path = target.split(['?', '#']).next().unwrap().to_owned();
        for _ in 0..2 {
            let bytes = path.as_bytes();
            let (mut out, mut at) = (Vec::new(), 0);
            while at < bytes.len() {
                let escaped = (bytes[at] == b'%')
                    .then(|| path.get(at + 1..at + 3))
                    .flatten()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                out.push(escaped.unwrap_or(bytes[at]));
                at += if escaped.is_some() { 3 } else { 1 };
            }
            path = String::from_utf8_lossy(&out).replace('\\', "/");
            if !target.contains("%25") {
                break;
            }
        }
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part.split(';').next().unwrap() {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part.to_owned()),
            }
        }
        parts.join("/")
    };
    for spelling in spellings {
        let before = open.count();
        gateway.send(&Request::get(spelling));
        let slipped: Vec<String> = open.seen()[before..]
            .iter()
            .map(|seen| seen.target.clone())
            // who decodes twice reads everybody's paths wrongly
            .filter(|target| !target.contains("%25") && read(target).starts_with("v1/files/"))
            .collect();
        assert!(slipped.is_empty(), "{spelling}: {slipped:?}");
    }
    assert!(
        guarded.count() >= 4,
        "plain escapes are no reason to refuse"
    );
}

/// However a body is written: it is refused, or its server reads the model that its route was for.
#[test]
fn no_spelling_of_a_model_leads_around_its_route() {
    let (small, large) = (Server::named("small"), Server::named("large"));
    let gateway = Gateway::start(&format!(
        "pools:\n  small: {{ servers: ['{}'], health: false }}\n  large: {{ servers: ['{}'], health: false }}\nroutes:\n  - {{ match: {{ model: large }}, pool: large }}\n  - {{ match: {{ model: small }}, pool: small }}\n",
        small.url(),
        large.url()
    ));
    let deep = format!(
        "{{\"model\":\"small\",\"x\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let digits = format!("{{\"model\":\"small\",\"x\":{}}}", "9".repeat(1_000_000));
    let utf16: Vec<u8> = r#"{"model":"large"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies: Vec<Vec<u8>> = [
        r#"{"model":"small"}"#,
        r#"{"model":"small","model":"large"}"#,
        r#"{"model":"large","model":"small"}"#,
        r#"{"model":"small","mod\u0065l":"large"}"#,
        r#"{"mod\u0065l":"large","model":"small"}"#,
        r#"{"\u006d\u006f\u0064\u0065\u006c":"large"}"#,
        r#"{"model":"lar\u0067e"}"#,
        r#"{"model":"small","Model":"large"}"#,
        r#"{"model":"small","MODEL":"large"}"#,
        r#"{"model":"small","model ":"large"}"#,
        r#"{"model":"small","model\u0000":"large"}"#,
        r#"{"x":{"model":"large"},"model":"small"}"#,
        r#"{"x":"\",\"model\":\"large","model":"small"}"#,
        "\u{feff}{\"model\":\"large\"}",
        r#"{"model":"small"}{"model":"large"}"#,
        r#"{"model":"small"} x"#,
        r#"{"model":"small"},"#,
        r#"{"model":"small",}"#,
        r#"{'model':'large','x':"\"model\":\"small\""}"#,
        r#"{model:"large"}"#,
        r#"{/*"model":"small",*/"model":"large"}"#,
        "{//\n\"model\":\"large\"}",
        r#"{"model":"small","x":NaN}"#,
        r#"{"model":"small","x":Infinity}"#,
        r#"{"model":"small","x":01}"#,
        r#"{"model":"small","x":+1}"#,
        r#"{"model":"small","x":.5}"#,
        r#"{"model":"small","x":0x1}"#,
        "{\"model\":\"small\",\"x\":\"a\nb\"}",
        "{\"model\":\"small\",\"x\":\"\u{0}\"}",
        r#"{"model":"small","x":"\x41"}"#,
        r#"{"model":"small","x":"\ud800"}"#,
        r#"{"model":["small","large"]}"#,
        r#"{"model":{"small":"large"}}"#,
        r#"{"model":null}"#,
        r#"["model","small"]"#,
        r#""small""#,
        "",
        &deep,
        &digits,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        utf16,
        b"{\"model\":\"sm\xffall\"}".to_vec(),
        b"{\"model\":\"small\",\"x\":\"\xc0\xaf\"}".to_vec(),
    ])
    .collect();
    let mut served = 0;
    for body in &bodies {
        for content_type in [
            "application/json",
            "text/plain",
            "application/json; charset=utf-16",
        ] {
            let before = [small.count(), large.count()];
            let request = Request::new("POST", "/v1/chat/completions")
                .header("content-type", content_type)
                .body(body.clone());
            let answer = gateway.send(&request);
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            for ((server, name), before) in [(&small, "small"), (&large, "large")]
                .into_iter()
                .zip(before)
            {
                for seen in &server.seen()[before..] {
                    served += 1;
                    // control characters and half a pair: who takes them at all, takes them for no quote
                    let text = String::from_utf8_lossy(&seen.body)
                        .replace(|c: char| c.is_control(), " ")
                        .replace("\\ud800", "")
                        .replace(&"9".repeat(1_000_000), "9");
                    let read: Value =
                        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{shown}: {e}"));
                    assert_eq!(read["model"], name, "{shown}");
                }
            }
            assert!(
                [200, 400, 404].contains(&answer.status),
                "{shown}: {}",
                answer.status
            );
        }
    }
    assert!(served >= 5, "{served}");
}
