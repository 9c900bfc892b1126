//! `limits`: what clients may have, and how slow they may be. Each limit with what is refused, what
//! is served beside it, and where that is counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::gateway::{BINARY, routed_to};
use crate::support::{Gateway, Http2, Request, Server, eventually};

fn with(server: &Server, limits: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\nlimits: {{ {limits} }}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        server.url()
    ))
}

fn rejected(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(
        "trunkline_connections_rejected_total",
        &[("reason", reason)],
    )
}

fn answered(gateway: &Gateway, code: &str) -> f64 {
    gateway.metric("trunkline_local_replies_total", &[("code", code)])
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 10]), Ok(0) | Err(_))
}

/// A connection that was used, so that it is known to be accepted.
fn used(gateway: &Gateway) -> TcpStream {
    let mut stream = connect(gateway.address);
    let answer = Request::json("/v1/x", "{}").send_on(&mut stream);
    assert_eq!(answer.status, 200);
    stream
}

#[test]
fn an_address_has_so_many_connections_and_others_are_served() {
    let server = Server::named("a");
    let gateway = with(&server, "connections_per_ip: 3");
    let mut held: Vec<TcpStream> = (0..3).map(|_| used(&gateway)).collect();
    assert!(is_closed(&mut connect(gateway.address)));
    // the fourth is another's
    let from: std::net::SocketAddr = "127.0.0.2:0".parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&gateway.address.into()).unwrap();
    let mut other: TcpStream = socket.into();
    assert_eq!(Request::json("/v1/x", "{}").send_on(&mut other).status, 200);
    assert!(rejected(&gateway, "connections_per_ip") >= 1.0);
    held.pop();
    eventually("there is room again", || {
        gateway.post("/v1/x", "{}").status == 200
    });
}

#[test]
fn this_machine_has_as_many_as_it_likes_unless_the_file_says_a_number() {
    let server = Server::named("a");
    let gateway = with(&server, "connections: 1000");
    let held: Vec<TcpStream> = (0..300).map(|_| connect(gateway.address)).collect();
    used(&gateway);
    assert_eq!(rejected(&gateway, "connections_per_ip"), 0.0);
    drop(held);
}

#[test]
fn too_many_headers_or_too_large_ones_are_answered_431() {
    let server = Server::named("a");
    let gateway = with(&server, "max_headers: 10, max_header_size: 2KiB");
    let long = "y".repeat(2100);
    let many = |count: usize| {
        (0..count).fold(Request::json("/v1/x", "{}"), |request, n| {
            request.header(&format!("x-{n}"), "y")
        })
    };
    let (fits, many, huge) = (many(7), many(8), many(300));
    let large = Request::json("/v1/x", "{}").header("x-a", &long);
    let near = Request::json("/v1/x", "{}").header("x-a", &"y".repeat(960_000));
    let larger = Request::json("/v1/x", "{}").header("x-a", &"y".repeat(1_100_000));
    assert_eq!(gateway.send(&fits).status, 200);
    for (what, request) in [
        ("many", many),
        ("huge", huge),
        ("large", large),
        ("near", near),
        ("larger", larger),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (431, "headers_too_large"),
            "{what}"
        );
    }
    let client = Http2::plain(gateway.address);
    let answer = client.ask("GET", "/v1/x", &[("x-a", &long)], b"");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (431, "headers_too_large")
    );
    // the table of HTTP/2 has its own, larger bound: no body, but the same status
    let answer = client.ask("GET", "/v1/x", &[("x-a", &"y".repeat(40_000))], b"");
    assert_eq!(answer.status, 431);
    assert_eq!(client.ask("GET", "/v1/x", &[], b"").status, 200);
    assert_eq!(
        (server.count(), answered(&gateway, "headers_too_large")),
        (2, 6.0)
    );
}

#[test]
fn a_target_that_is_too_long_is_answered_414() {
    let server = Server::named("a");
    let gateway = with(&server, "max_uri: 1KiB");
    let of = |length: usize| format!("/v1/x?{}", "y".repeat(length - 6));
    assert_eq!(gateway.get(&of(1024)).status, 200);
    for length in [1025, 20_000, 70_000] {
        let answer = gateway.get(&of(length));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (414, "uri_too_long"),
            "{length}"
        );
    }
    let client = Http2::plain(gateway.address);
    let answer = client.ask("GET", &of(1025), &[], b"");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (414, "uri_too_long")
    );
    assert_eq!(client.ask("GET", &of(1024), &[], b"").status, 200);
    assert_eq!(
        (server.count(), answered(&gateway, "uri_too_long")),
        (2, 4.0)
    );
    let counted = gateway.metric("trunkline_requests_total", &[("code", "414")]);
    assert_eq!(counted, 4.0, "under a status of its own");
}

#[test]
fn a_body_that_drips_is_given_up_and_a_slow_one_is_served() {
    let server = Server::named("a");
    let gateway = with(&server, "min_rate: 100B, body_timeout: 1s");
    let sending = |piece: &'static [u8], length: usize| {
        let mut stream = connect(gateway.address);
        let head = format!("POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            for _ in 0..length / piece.len() {
                if writer.write_all(piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let started = Instant::now();
        std::thread::spawn(move || read_answer(&mut stream, false, started))
    };
    // never a second without a byte: `body_timeout` alone would wait for ten
    let (drips, honest) = (sending(b"a", 100), sending(&[b'a'; 40], 40 * 25));
    let answer = drips.join().unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_too_slow")
    );
    assert!(
        answer.took > Duration::from_millis(900),
        "{:?}",
        answer.took
    );
    assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);
    assert_eq!(honest.join().unwrap().status, 200);
    assert_eq!(answered(&gateway, "request_too_slow"), 1.0);
}

#[test]
fn a_dripping_upload_over_http2_is_given_up_too() {
    let server = Server::named("a");
    let gateway = with(&server, "min_rate: 100B, body_timeout: 500ms");
    let client = Http2::plain(gateway.address);
    let mut exchange = client.open("POST", "/v1/x", &[("content-length", "100")], false);
    for _ in 0..20 {
        exchange.send(b"a", false);
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = exchange.finish();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_too_slow")
    );
}

/// Says something, is silent for longer than any pace allows, and goes on.
fn pausing() -> Server {
    Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        for _ in 0..3 {
            wire.chunk("data: {}\n\n");
            std::thread::sleep(Duration::from_millis(700));
        }
        wire.end();
        true
    })
}

#[test]
fn who_waits_for_a_server_is_not_slow() {
    let server = pausing();
    let gateway = with(&server, "min_rate: 10KiB, body_timeout: 300ms");
    let answer = gateway.post("/v1/chat/completions", "{}");
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(gateway.access_log(1)[0]["termination"], "complete");
}

/// More than the sockets between hold.
fn large() -> Server {
    Server::fake(|_, wire| {
        wire.chunked("audio/wav");
        let piece = vec![1; 64 * 1024];
        for _ in 0..1000 {
            wire.chunk(&piece);
        }
        wire.end();
        false
    })
}

#[test]
fn readers_that_stop_are_cut_and_their_servers_free() {
    let server = large();
    let gateway = with(&server, "min_rate: 1MiB, body_timeout: 500ms");
    let readers: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(gateway.address);
            let ask = Request::json("/v1/audio/speech", "{}").bytes();
            stream.write_all(&ask).unwrap();
            stream
        })
        .collect();
    let slow = || gateway.metric("trunkline_terminations_total", &[("reason", "slow_client")]);
    eventually("all are cut", || slow() == 50.0);
    assert_eq!(gateway.metric("trunkline_upstream_in_flight", &[]), 0.0);
    assert!(
        gateway
            .access_log(50)
            .iter()
            .all(|line| line["termination"] == "slow_client")
    );
    drop(readers);
}

#[test]
fn a_reader_over_http2_that_stops_is_cut_alone() {
    let server = large();
    let gateway = with(&server, "min_rate: 1MiB, body_timeout: 500ms");
    let client = Http2::plain(gateway.address);
    let mut stopped = client.open("POST", "/v1/audio/speech", &[], true);
    stopped.head();
    eventually("it is cut", || {
        gateway.metric("trunkline_terminations_total", &[("reason", "slow_client")]) == 1.0
    });
    assert_eq!(client.ask("GET", "/health", &[], b"").status, 200);
}

/// Answers pile up where nobody reads them; the wait for the head of one had no end.
#[test]
fn who_asks_on_and_on_and_reads_nothing_is_cut() {
    let server = Server::fake(|_, wire| {
        wire.answer(200, &[("x-large", &"y".repeat(30_000))], "");
        true
    });
    let gateway = with(&server, "min_rate: 1MiB, body_timeout: 500ms");
    let mut stream = connect(gateway.address);
    let ask = Request::json("/v1/x", "{}").bytes();
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let started = Instant::now();
    while stream.write_all(&ask).is_ok() && started.elapsed() < Duration::from_secs(20) {}
    let slow = || gateway.metric("trunkline_terminations_total", &[("reason", "slow_client")]);
    eventually("it is cut", || slow() >= 1.0);
}

#[test]
fn limits_that_make_no_sense_are_refused_with_a_place() {
    for (limits, said) in [
        ("max_headers: 0", "`max_headers` is 1 to 256, not 0"),
        ("max_headers: 257", "`max_headers` is 1 to 256, not 257"),
        (
            "max_header_size: 100B",
            "`max_header_size` is 1KiB to 512KiB",
        ),
        ("max_uri: 1MiB", "`max_uri` is 1KiB to 64KiB, not 1MiB"),
        ("min_rate: fast", "`fast` is not a size"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.yaml");
        let text = format!("limits: {{ {limits} }}\n{}", routed_to(Server::refused()));
        std::fs::write(&file, text).unwrap();
        let output = Command::new(BINARY)
            .arg("check-config")
            .arg(&file)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{limits}: {told}");
        assert!(
            told.contains(said) && told.contains(":1:"),
            "{limits}: {told}"
        );
    }
}

/// With so few descriptors that they run out.
fn starved(server: &Server, descriptors: u32, limits: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\nadmin: 127.0.0.1:0\nlog: {{ access: access.log, format: json, level: debug }}\nlist_models: false\nlimits: {{ {limits} }}\npools: {{ a: {{ servers: ['{}'], keepalive: false, eject: {{ after: 3, for: 1h }}, health: {{ interval: 100ms, fall: 2 }} }} }}\nroutes: [{{ pool: a }}]\n",
        server.url()
    );
    std::fs::write(&file, &text).unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "ulimit -n {descriptors}; exec '{BINARY}' --config '{}'",
        file.display()
    ));
    Gateway::run(command, folder, &text)
}

#[test]
fn fewer_descriptors_than_connections_bound_these_and_are_told_of() {
    let server = Server::named("a");
    let gateway = starved(&server, 100, "connections: 1000");
    assert!(
        gateway.stderr().contains("is enough for 25 connections"),
        "{}",
        gateway.stderr()
    );
    let mut held: Vec<TcpStream> = (0..25).map(|_| used(&gateway)).collect();
    let over = (0..40)
        .filter(|_| is_closed(&mut connect(gateway.address)))
        .count();
    assert_eq!(over, 40, "each is refused at once");
    // those that are here have what they need
    for stream in &mut held {
        assert_eq!(Request::json("/v1/x", "{}").send_on(stream).status, 200);
    }
    assert_eq!(rejected(&gateway, "connections"), 40.0);
    drop(held);
    eventually("it recovers", || gateway.post("/v1/x", "{}").status == 200);
}

#[test]
fn without_descriptors_nobody_waits_no_server_is_blamed_and_all_recovers() {
    let (server, load) = Server::held("a");
    let gateway = starved(&server, 100, "connections: 1000");
    // streams of one connection, each with a connection to the server: more than there are
    let client = Http2::plain(gateway.address);
    let streams: Vec<_> = (0..120)
        .map(|_| client.open("POST", "/v1/x", &[], true))
        .collect();
    eventually("there are none left", || {
        gateway.stderr().contains("descriptors are used up")
    });
    // who comes now is refused, and does not wait
    let started = Instant::now();
    eventually("it is turned away", || {
        is_closed(&mut connect(gateway.address))
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    load.release_all();
    let statuses: Vec<u16> = streams
        .into_iter()
        .map(|stream| stream.finish().status)
        .collect();
    let count = |status| statuses.iter().filter(|s| **s == status).count();
    assert_eq!(count(200) + count(503), 120, "{statuses:?}");
    assert!(count(200) >= 20 && count(503) >= 1, "{statuses:?}");
    eventually("it recovers", || {
        Http2::plain(gateway.address)
            .ask("POST", "/v1/x", &[], b"{}")
            .status
            == 200
    });
    assert_eq!(
        gateway.metric("trunkline_ejections_total", &[]),
        0.0,
        "no server is at fault"
    );
    assert_eq!(gateway.metric("trunkline_server_up", &[("pool", "a")]), 1.0);
    assert!(gateway.metric("trunkline_descriptors_exhausted_total", &[]) >= 1.0);
    // the log says so, and not once for each
    let told = gateway.stderr().matches("descriptors are used up").count();
    assert!((1..=3).contains(&told), "{told}: {}", gateway.stderr());
    let used = || {
        std::fs::read_dir(format!("/proc/{}/fd", gateway.pid()))
            .unwrap()
            .count()
    };
    drop(client);
    eventually("they are given back", || used() < 50);
}
