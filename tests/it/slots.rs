//! Slots and the line in front of them: no server gets more at once than it works on, whoever came
//! first is served first, and a request that ends in whatever way leaves nothing behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::{Answer, Gateway, Load, Request, Server, eventually, form};

const CHAT: &str = r#"{"model":"m","messages":[]}"#;

fn chat(target: &str) -> Request {
    Request::json(target, CHAT)
}

/// A pool `a` of one server with one slot, and a pool `spare`, which only `fallback: [spare]` asks.
fn gateway(server: &Server, spare: &Server, pool: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
pools:
  a: {{ servers: [{{ url: "{}", name: box }}], health: false, slots: 1, {pool} }}
  spare: {{ servers: ["{}"], health: false }}
routes:
  - {{ name: people, match: {{ path: ["/v1/chat/*", "/v1/audio/*"] }}, pool: a, {route} }}
  - {{ name: batches, match: {{ path: "/v1/batch/*" }}, pool: a, priority: batch, {route} }}
shutdown: {{ grace: 10s }}
"#,
        server.url(),
        spare.url()
    ))
}

/// Waits until so many stand in line.
#[track_caller]
fn in_line(gateway: &Gateway, count: usize) {
    eventually(&format!("{count} in line"), || {
        gateway.metric("trunkline_queue_depth", &[("pool", "a")]) == count as f64
    });
}

/// Has the slot taken, and then these in line, one behind the other.
#[track_caller]
fn line_up(gateway: &Gateway, load: &Load, targets: &[&str]) -> Vec<JoinHandle<Answer>> {
    let mut all = vec![gateway.send_aside(&chat("/v1/chat/first"))];
    eventually("the slot is taken", || load.now() == 1);
    for (n, target) in targets.iter().enumerate() {
        all.push(gateway.send_aside(&chat(target)));
        in_line(gateway, n + 1);
    }
    all
}

fn refused(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("pool", "a"), ("reason", reason)];
    gateway.metric("trunkline_queue_refused_total", &labels)
}

fn in_flight(gateway: &Gateway) -> f64 {
    gateway.metric("trunkline_upstream_in_flight", &[])
}

fn targets(server: &Server) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.target).collect()
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

#[test]
fn one_slot_means_one_request_at_a_time_and_everybody_is_served() {
    let (content_type, upload) = form(&[("model", "whisper-1")], &[1; 2000], true);
    let whisper = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(upload);
    for (pool, request) in [
        ("slots: 1", chat("/v1/chat/completions")),
        ("kind: whisper.cpp", whisper),
    ] {
        let loads: [Arc<Load>; 2] = Default::default();
        let servers = loads.clone().map(|load| {
            Server::fake(move |_, wire| {
                let turn = load.begin(wire);
                std::thread::sleep(Duration::from_millis(2));
                turn.end();
                wire.json("{}");
                true
            })
        });
        let gateway = Gateway::start(&format!(
            "pools: {{ a: {{ servers: ['{}', '{}'], health: false, {pool} }} }}\nroutes: [{{ pool: a }}]",
            servers[0].url(),
            servers[1].url()
        ));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert_eq!(gateway.send(&request).status, 200);
                    }
                });
            }
        });
        for (server, load) in servers.iter().zip(&loads) {
            assert_eq!(load.most(), 1, "{pool}");
            assert!(server.count() >= 20, "{pool}: {} of 80", server.count());
        }
        assert_eq!(servers[0].count() + servers[1].count(), 80);
        assert_eq!(gateway.metric("trunkline_server_slots", &[]), 2.0);
        let waited: Vec<f64> = (gateway.access_log(80).iter())
            .map(|line| line["dur_ms"]["queue"].as_f64().unwrap())
            .collect();
        let queued = waited.iter().filter(|time| **time > 0.0).count();
        assert!(queued > 20, "8 clients and 2 slots: {queued} of 80 waited");
        assert_eq!(
            gateway.metric(
                "trunkline_attempt_phase_seconds_count",
                &[("phase", "queue")]
            ),
            queued as f64
        );
        assert_eq!(in_flight(&gateway), 0.0);
    }
}

#[test]
fn whoever_came_first_is_served_first() {
    let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
    let gateway = gateway(&server, &spare, "", "");
    let names: Vec<String> = (0..8).map(|n| format!("/v1/chat/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = line_up(&gateway, &load, &names);
    load.release_all();
    for one in all {
        assert_eq!(one.join().unwrap().status, 200);
    }
    assert_eq!(targets(&server)[1..], names);
    assert_eq!(load.most(), 1);
    in_line(&gateway, 0);
}

#[test]
fn people_are_served_before_batches() {
    let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
    let gateway = gateway(&server, &spare, "", "");
    let all = line_up(
        &gateway,
        &load,
        &["/v1/batch/1", "/v1/batch/2", "/v1/chat/1", "/v1/chat/2"],
    );
    for class in ["realtime", "batch"] {
        let depth = gateway.metric("trunkline_queue_depth", &[("priority", class)]);
        assert_eq!(depth, 2.0, "{class}");
    }
    load.release_all();
    all.into_iter()
        .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    assert_eq!(
        targets(&server)[1..],
        ["/v1/chat/1", "/v1/chat/2", "/v1/batch/1", "/v1/batch/2"]
    );
}

#[test]
fn a_full_queue_answers_429_at_once_and_says_when_to_come_back() {
    let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
    let gateway = gateway(&server, &spare, "queue: { size: 1 }", "");
    let all = line_up(&gateway, &load, &["/v1/chat/1"]);
    let answer = gateway.send(&chat("/v1/chat/2"));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "queue_full"),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("x-should-retry"), Some("true"));
    assert_eq!(refused(&gateway, "full"), 1.0);
    assert_eq!(gateway.access_log(1)[0]["local"], "queue_full");
    load.release_all();
    all.into_iter()
        .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    assert_eq!(server.count(), 2);
}

#[test]
fn of_a_full_queue_the_last_batch_gives_its_place_to_people() {
    let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
    let gateway = gateway(&server, &spare, "queue: { size: 2 }", "");
    let mut all = line_up(&gateway, &load, &["/v1/batch/1", "/v1/batch/2"]);
    let last = all.pop().unwrap();
    all.push(gateway.send_aside(&chat("/v1/chat/1")));
    let displaced = last.join().unwrap();
    assert_eq!(
        (displaced.status, displaced.code().as_str()),
        (429, "queue_full")
    );
    let batch = gateway.send(&chat("/v1/batch/3"));
    assert_eq!(batch.status, 429, "a batch displaces nobody");
    load.release_all();
    all.into_iter()
        .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    assert_eq!(targets(&server)[1..], ["/v1/chat/1", "/v1/batch/1"]);
}

#[test]
fn what_a_full_queue_does_not_take_goes_to_the_fallback() {
    for pool in ["queue: { size: 1 }", "queue: { size: 0 }"] {
        let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
        let gateway = gateway(&server, &spare, pool, "fallback: [spare]");
        let waiting: &[&str] = if pool.contains('1') {
            &["/v1/chat/1"]
        } else {
            &[]
        };
        let all = line_up(&gateway, &load, waiting);
        let answer = gateway.send(&chat("/v1/chat/2"));
        assert_eq!(
            (answer.status, answer.header("x-backend")),
            (200, Some("spare/127.0.0.1"))
        );
        assert_eq!(refused(&gateway, "full"), 1.0);
        let labels = [("from", "a"), ("to", "spare"), ("reason", "unavailable")];
        assert_eq!(gateway.metric("trunkline_fallbacks_total", &labels), 1.0);
        load.release_all();
        all.into_iter()
            .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    }
}

#[test]
fn whoever_waited_long_enough_is_answered_429_or_by_the_fallback() {
    for (route, status) in [("", 429), ("fallback: [spare]", 200)] {
        let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
        let gateway = gateway(&server, &spare, "queue: { timeout: 300ms }", route);
        let first = line_up(&gateway, &load, &[]);
        let answer = gateway.send(&chat("/v1/chat/1"));
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.took >= Duration::from_millis(280), "it waited");
        if status == 429 {
            assert_eq!(answer.code(), "queue_timeout");
            assert!(answer.header("retry-after").is_some());
        } else {
            assert_eq!(answer.header("x-backend"), Some("spare/127.0.0.1"));
        }
        assert_eq!(refused(&gateway, "timeout"), 1.0, "it waited once");
        let line = gateway.access_log(1).remove(0);
        let waited = line["dur_ms"]["queue"].as_f64().unwrap();
        let total = line["dur_ms"]["total"].as_f64().unwrap();
        assert!((280.0..=total).contains(&waited), "{line}");
        assert!(line["dur_ms"]["overhead"].as_f64().unwrap() < 200.0);
        in_line(&gateway, 0);
        load.release_all();
        first
            .into_iter()
            .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    }
}

#[test]
fn a_wait_that_would_be_too_long_is_not_begun_if_another_pool_is_free() {
    for (route, reason) in [("fallback: [spare]", "spilled"), ("", "timeout")] {
        let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
        let gateway = gateway(&server, &spare, "queue: { timeout: 250ms }", route);
        // one answer that takes a second: so much is known of the next
        let slow = gateway.send_aside(&chat("/v1/chat/slow"));
        eventually("the slot is taken", || load.now() == 1);
        let begun = Instant::now();
        eventually("a second has passed", || {
            begun.elapsed() > Duration::from_secs(1)
        });
        load.release(1);
        assert_eq!(slow.join().unwrap().status, 200);
        eventually("it is over", || in_flight(&gateway) == 0.0);
        let first = line_up(&gateway, &load, &[]);
        let answer = gateway.send(&chat("/v1/chat/1"));
        assert_eq!(answer.status, if route.is_empty() { 429 } else { 200 });
        let all: f64 = ["spilled", "timeout", "full"]
            .iter()
            .map(|reason| refused(&gateway, reason))
            .sum();
        assert_eq!((refused(&gateway, reason), all), (1.0, 1.0), "{reason}");
        if reason == "spilled" {
            let waited = &gateway.access_log(2)[1]["dur_ms"]["queue"];
            assert_eq!(waited.as_f64(), Some(0.0));
        }
        load.release_all();
        first
            .into_iter()
            .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
    }
}

#[test]
fn a_client_that_leaves_the_line_frees_its_place_at_once() {
    for with_reset in [false, true] {
        let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
        let gateway = gateway(&server, &spare, "queue: { size: 2 }", "");
        let first = line_up(&gateway, &load, &[]);
        let mut leaving = connect(gateway.address);
        leaving.write_all(&chat("/v1/chat/leaves").bytes()).unwrap();
        in_line(&gateway, 1);
        let second = gateway.send_aside(&chat("/v1/chat/stays"));
        in_line(&gateway, 2);
        let left = Instant::now();
        match with_reset {
            true => reset(leaving),
            false => drop(leaving),
        }
        in_line(&gateway, 1);
        assert!(left.elapsed() < Duration::from_secs(1), "{left:?}");
        let line = gateway.access_log(1).remove(0);
        assert_eq!(line["termination"], "client_abort");
        assert_eq!(
            (line["status"].as_u64(), line["attempts"].to_string()),
            (Some(0), "[]".to_owned())
        );
        assert!(line["dur_ms"]["queue"].as_f64().unwrap() > 0.0, "{line}");
        // its place is free
        let third = gateway.send_aside(&chat("/v1/chat/comes"));
        in_line(&gateway, 2);
        load.release_all();
        for one in first.into_iter().chain([second, third]) {
            assert_eq!(one.join().unwrap().status, 200);
        }
        assert_eq!(
            targets(&server),
            ["/v1/chat/first", "/v1/chat/stays", "/v1/chat/comes"]
        );
    }
}

#[test]
fn those_who_wait_for_a_server_that_goes_down_go_elsewhere() {
    for (route, status, code) in [("fallback: [spare]", 200, ""), ("", 502, "upstream_")] {
        let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
        let gateway = gateway(&server, &spare, "queue: { timeout: 60s }", route);
        let all = line_up(&gateway, &load, &["/v1/chat/1", "/v1/chat/2", "/v1/chat/3"]);
        let gone = Instant::now();
        server.kill();
        for one in all {
            let answer = one.join().unwrap();
            assert_eq!(answer.status, status, "{}", answer.text());
            if !code.is_empty() {
                assert!(answer.code().starts_with(code), "{}", answer.text());
            }
        }
        assert!(gone.elapsed() < Duration::from_secs(10), "not 60 s");
        in_line(&gateway, 0);
        assert_eq!(in_flight(&gateway), 0.0);
    }
}

#[test]
fn those_who_wait_for_a_server_that_its_probes_find_down_do_not_wait_on() {
    // it goes on with what it has, but says that it is sick
    let (sick, load) = (Arc::new(AtomicBool::new(false)), Arc::new(Load::default()));
    let (flag, own) = (sick.clone(), load.clone());
    let server = Server::fake(move |seen, wire| {
        if seen.target == "/health" {
            wire.answer(if flag.load(SeqCst) { 503 } else { 200 }, &[], "");
            return true;
        }
        let turn = own.begin(wire);
        let wanted = turn.wait();
        turn.end();
        wire.json("{}");
        wanted
    });
    let gateway = Gateway::start(&format!(
        r#"
pools:
  a: {{ servers: ["{}"], slots: 1, queue: {{ timeout: 60s }}, health: {{ path: /health, interval: 50ms, fall: 1 }} }}
routes: [{{ pool: a }}]
"#,
        server.url()
    ));
    let mut all = line_up(&gateway, &load, &["/v1/chat/1", "/v1/chat/2"]);
    sick.store(true, SeqCst);
    for one in all.drain(1..) {
        let answer = one.join().unwrap();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "no_server_available")
        );
    }
    load.release_all();
    assert_eq!(all.remove(0).join().unwrap().status, 200);
    in_line(&gateway, 0);
}

#[test]
fn a_stop_serves_those_who_wait() {
    let ((server, load), spare) = (Server::held("a"), Server::named("spare"));
    let mut gateway = gateway(&server, &spare, "", "");
    let all = line_up(&gateway, &load, &["/v1/chat/1", "/v1/chat/2"]);
    gateway.signal("TERM");
    eventually("the listener is closed", || {
        TcpStream::connect(gateway.address).is_err()
    });
    load.release_all();
    for one in all {
        let answer = one.join().unwrap();
        assert_eq!((answer.status, answer.whole), (200, true));
    }
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
    assert_eq!(gateway.access_log(3).len(), 3);
}

#[test]
fn who_still_waits_when_grace_is_over_is_told_to_come_back() {
    let (server, load) = Server::held("a");
    let mut gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false, slots: 1 }} }}\nroutes: [{{ pool: a }}]\nshutdown: {{ grace: 300ms }}",
        server.url()
    ));
    let mut all = line_up(&gateway, &load, &["/v1/chat/1"]);
    gateway.signal("TERM");
    let waiting = all.pop().unwrap().join().unwrap();
    assert_eq!(waiting.status, 503, "{}", waiting.text());
    assert!(waiting.header("retry-after").is_some());
    assert_eq!(all.pop().unwrap().join().unwrap().status, 504);
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
    assert_eq!(gateway.access_log(2).len(), 2);
}

#[test]
fn a_slow_upload_holds_no_slot_of_a_server_that_gets_uploads_whole() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ kind: whisper.cpp, servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let (content_type, upload) = form(&[], &[1; 2000], true);
    let request = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(upload);
    let bytes = request.bytes();
    let mut slow = connect(gateway.address);
    slow.write_all(&bytes[..bytes.len() / 2]).unwrap();
    eventually("half of it is here", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 1.0
    });
    let other = gateway.send(&request);
    assert_eq!(other.status, 200);
    assert_eq!(gateway.access_log(1)[0]["dur_ms"]["queue"], 0.0);
    slow.write_all(&bytes[bytes.len() / 2..]).unwrap();
    assert_eq!(read_answer(&mut slow, false, Instant::now()).status, 200);
    assert_eq!(server.count(), 2);
}

// === no way to end a request leaves a slot behind ===

/// Clients and how many requests they send: more than there are slots, so that they wait in line,
/// and fewer, so that there is room for hedges.
const WAVES: [(u64, usize); 2] = [(24, 6_000), (7, 4_000)];

/// Waits a moment, speaks, works a moment, ends; unless nobody listens any more.
fn short_work(load: Arc<Load>, meeting: Arc<AtomicUsize>) -> Server {
    let count = AtomicUsize::new(0);
    Server::fake(move |seen, wire| {
        let turn = load.begin(wire);
        if seen.target == "/v1/chat/meet" {
            meeting.fetch_add(1, SeqCst);
            let wanted = turn.wait();
            turn.end();
            wire.json("{}");
            return wanted;
        }
        let n = count.fetch_add(1, SeqCst) as u64;
        // speech takes long enough to be hedged
        let longest = match seen.target.as_str() {
            "/v1/audio/speech" => 25_000,
            _ => 3_000,
        };
        std::thread::sleep(Duration::from_micros(n * 379 % longest));
        if !turn.is_wanted() {
            return false;
        }
        wire.chunked("text/event-stream");
        wire.chunk("data: 1\n\n");
        std::thread::sleep(Duration::from_micros(n * 757 % 3000));
        let wanted = turn.is_wanted();
        turn.end();
        wire.end();
        wanted
    })
}

/// One request, and one of the ways to end it. Says whether it was served.
fn some_end(random: &mut fastrand::Rng, to: SocketAddr) -> bool {
    let request = match random.u8(..4) {
        // asked twice, as the route hedges
        0 => Request::json("/v1/audio/speech", r#"{"input":"hello","voice":"x"}"#),
        1 => Request::json("/v1/batch/x", CHAT),
        _ => chat("/v1/chat/completions"),
    };
    let mut stream = connect(to);
    match random.u8(..5) {
        0 => return request.send_on(&mut stream).status == 200,
        // in mid-upload
        1 => {
            let bytes = request.bytes();
            let _ = stream.write_all(&bytes[..random.usize(1..bytes.len())]);
            std::thread::sleep(Duration::from_micros(random.u64(..2000)));
        }
        // in mid-stream
        2 => {
            let _ = stream.write_all(&request.bytes());
            let _ = stream.read(&mut [0; 400]);
        }
        // in line, or before the first byte
        _ => {
            let _ = stream.write_all(&request.bytes());
            std::thread::sleep(Duration::from_micros(random.u64(..6000)));
        }
    }
    if random.bool() {
        reset(stream);
    }
    false
}

#[test]
fn ten_thousand_requests_that_end_in_every_way_leave_no_slot_taken() {
    let loads: [Arc<Load>; 3] = Default::default();
    let meeting: Arc<AtomicUsize> = Arc::default();
    let servers = (loads.clone()).map(|load| short_work(load, meeting.clone()));
    let urls = servers.each_ref().map(Server::url).join("', '");
    let gateway = Gateway::start(&format!(
        r#"
pools: {{ a: {{ servers: ['{urls}'], slots: 4, balance: least_in_flight, health: false, eject: false }} }}
routes:
  - {{ match: {{ path: /v1/audio/speech }}, pool: a, hedge: {{ after: 1ms }} }}
  - {{ match: {{ path: "/v1/batch/*" }}, pool: a, priority: batch }}
  - {{ pool: a }}
"#
    ));
    let served = AtomicUsize::new(0);
    for (clients, requests) in WAVES {
        let left = AtomicUsize::new(requests);
        std::thread::scope(|scope| {
            for seed in 0..clients {
                let (left, served, to) = (&left, &served, gateway.address);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let one_more = || left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                    while one_more().is_ok() {
                        served.fetch_add(usize::from(some_end(&mut random, to)), SeqCst);
                    }
                });
            }
        });
    }
    eventually("nobody is in line and no slot is taken", || {
        gateway.metric("trunkline_queue_depth", &[]) == 0.0
            && in_flight(&gateway) == 0.0
            && gateway.metric("trunkline_requests_in_flight", &[]) == 0.0
    });
    for load in &loads {
        assert!(load.most() <= 4, "{} at once at a server of 4", load.most());
        eventually("the server has nothing left", || load.now() == 0);
    }
    check_that_every_way_was_taken(&gateway, served.load(SeqCst));
    // and every slot can be had at once
    let all: Vec<_> = (0..12)
        .map(|_| gateway.send_aside(&chat("/v1/chat/meet")))
        .collect();
    eventually("twelve are at work at once", || {
        meeting.load(SeqCst) == 12 && loads.iter().all(|load| load.now() == 4)
    });
    loads.iter().for_each(|load| load.release_all());
    all.into_iter()
        .for_each(|one| assert_eq!(one.join().unwrap().status, 200));
}

fn check_that_every_way_was_taken(gateway: &Gateway, served: usize) {
    let phase =
        |phase: &str| gateway.metric("trunkline_attempt_phase_seconds_count", &[("phase", phase)]);
    let ended =
        |reason: &str| gateway.metric("trunkline_terminations_total", &[("reason", reason)]);
    assert!(served > 1500, "{served} served");
    assert!(ended("client_abort") > 3000.0, "{}", ended("client_abort"));
    assert!(ended("complete") >= served as f64);
    assert!(phase("queue") > 1000.0, "{} in line", phase("queue"));
    let hedges = gateway.metric("trunkline_hedges_total", &[("result", "started")]);
    assert!(hedges > 50.0, "{hedges} hedges");
    // what was begun ended in some way, or was half a head
    let lines = gateway.access_log(1).len();
    assert!((5_000..=10_000).contains(&lines), "{lines} lines");
}
