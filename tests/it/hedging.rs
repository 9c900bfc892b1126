//! A second server is asked when the first takes unusually long; the first good answer wins and
//! the other request is cancelled.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::client::connect;
use crate::support::{Gateway, Request, Server, eventually, form};

/// Two servers of which the first is asked first and the second only beside or after it, and a
/// third in a pool of its own behind them.
fn gateway(servers: &[&Server], pool: &str, route: &str) -> Gateway {
    let third = servers
        .get(2)
        .map_or("http://127.0.0.1:9".to_owned(), |s| s.url());
    Gateway::start(&format!(
        r#"
pools:
  a: {{ servers: [{{ url: "{}", name: s0 }}, {{ url: "{}", name: s1, backup: true }}], health: false, eject: false, {pool} }}
  b: {{ servers: [{{ url: "{third}", name: s2 }}], health: false }}
routes: [{{ name: r, pool: a, {route}{} }}]
"#,
        servers[0].url(),
        servers[1].url(),
        if servers.len() > 2 {
            ", fallback: [b]"
        } else {
            ""
        }
    ))
}

/// Answers so late with this status.
fn late(name: &'static str, milliseconds: u64, status: u16) -> Server {
    Server::fake(move |_, wire| {
        std::thread::sleep(Duration::from_millis(milliseconds));
        wire.answer(status, &[], format!("{{\"served_by\":\"{name}\"}}"));
        true
    })
}

/// Never answers; counts how often it noticed that nobody waits any more.
fn silent(noticed: &Arc<AtomicUsize>) -> Server {
    let noticed = noticed.clone();
    Server::fake(move |_, wire| {
        noticed.fetch_add(usize::from(wire.wait_for_close()), SeqCst);
        false
    })
}

fn speech() -> Request {
    Request::json("/v1/audio/speech", r#"{"input":"hello","voice":"v"}"#)
}

fn hedges(gateway: &Gateway) -> (f64, f64) {
    let count = |result: &str| {
        let labels = [("route", "r"), ("result", result)];
        gateway.metric("trunkline_hedges_total", &labels)
    };
    (count("started"), count("won"))
}

fn attempts(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("trunkline_attempts_total", &[("result", result)])
}

#[track_caller]
fn nothing_is_left(gateway: &Gateway) {
    eventually("nothing is in flight", || {
        gateway.metric("trunkline_upstream_in_flight", &[]) == 0.0
    });
}

const HEDGE: &str = "hedge: { after: 50ms }";

#[test]
fn nobody_is_asked_twice_unless_the_file_says_so() {
    let (slow, fast) = (late("slow", 300, 200), Server::named("fast"));
    for route in ["", "hedge: false"] {
        let gateway = gateway(&[&slow, &fast], "", route);
        let answer = gateway.send(&speech());
        assert_eq!(answer.json()["served_by"], "slow");
        assert_eq!(answer.header("x-attempts"), None);
        assert_eq!((fast.count(), hedges(&gateway)), (0, (0.0, 0.0)));
    }
}

#[test]
fn the_second_answers_and_the_first_is_cancelled() {
    let (content_type, upload) = form(&[("model", "whisper-1")], &[1; 5000], true);
    for request in [
        speech(),
        Request::json("/v1/embeddings", r#"{"model":"m","input":"hello"}"#),
        Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(upload),
    ] {
        let noticed: Arc<AtomicUsize> = Arc::default();
        let (first, fast) = (silent(&noticed), Server::named("fast"));
        let gateway = gateway(&[&first, &fast], "slots: 1", "hedge: { after: 100ms }");
        let answer = gateway.send(&request);
        assert_eq!((answer.status, answer.whole), (200, true));
        assert_eq!(answer.json()["served_by"], "fast");
        assert!(
            answer.took >= Duration::from_millis(90),
            "the first had its time"
        );
        assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
        assert_eq!(
            (answer.header("x-backend"), answer.header("x-attempts")),
            (Some("a/s1"), Some("a/s0=cancelled,a/s1=200"))
        );
        eventually("the first notices", || noticed.load(SeqCst) == 1);
        nothing_is_left(&gateway);
        assert_eq!(hedges(&gateway), (1.0, 1.0));
        assert_eq!(
            (attempts(&gateway, "cancelled"), attempts(&gateway, "ok")),
            (1.0, 1.0)
        );
        assert_eq!(first.seen()[0].body, fast.seen()[0].body);
        assert_eq!((first.count(), fast.count()), (1, 1));
        let line = gateway.access_log(1).remove(0);
        assert_eq!(
            line["attempts"].to_string(),
            r#"["a/s0=cancelled","a/s1=200"]"#
        );
    }
}

#[test]
fn nobody_else_is_asked_if_the_first_answers_in_time() {
    let servers = ["a", "b"].map(Server::named);
    let gateway = gateway(&servers.each_ref(), "", "hedge: { after: 20s }");
    for _ in 0..10 {
        let answer = gateway.send(&speech());
        assert_eq!(answer.json()["served_by"], "a");
        assert_eq!(answer.header("x-attempts"), None);
    }
    assert_eq!((servers[1].count(), hedges(&gateway)), (0, (0.0, 0.0)));
}

#[test]
fn what_is_long_or_no_such_call_is_asked_once() {
    let text = |characters: usize| {
        format!(
            "{{\"input\":\"{}\",\"voice\":\"v\"}}",
            "é".repeat(characters)
        )
    };
    let large = format!("{{\"input\":\"{}\"}}", "x".repeat(1 << 20));
    for (hedge, request) in [
        ("", Request::json("/v1/chat/completions", "{}")),
        ("", Request::json("/v1/completions", "{}")),
        ("", Request::get("/v1/audio/voices")),
        ("", Request::json("/v1/audio/speech", &text(1001))),
        (", max_characters: 4", speech()),
        ("", Request::json("/v1/embeddings", &large)),
        (
            ", max_body: 10B",
            Request::json("/v1/embeddings", "{\"input\":\"hello\"}"),
        ),
    ] {
        let (slow, fast) = (late("slow", 250, 200), Server::named("fast"));
        let gateway = gateway(
            &[&slow, &fast],
            "",
            &format!("hedge: {{ after: 20ms{hedge} }}"),
        );
        let answer = gateway.send(&request);
        assert_eq!(answer.json()["served_by"], "slow", "{hedge}");
        assert_eq!((fast.count(), hedges(&gateway)), (0, (0.0, 0.0)));
    }
    let (slow, fast) = (late("slow", 2000, 200), Server::named("fast"));
    let gateway = gateway(&[&slow, &fast], "", "hedge: { after: 20ms }");
    let answer = gateway.send(&Request::json("/v1/audio/speech", &text(1000)));
    assert_eq!(
        answer.json()["served_by"],
        "fast",
        "1000 characters are not long"
    );
}

#[test]
fn hedges_stay_within_the_budget_of_retries() {
    let (slow, fast) = (late("slow", 400, 200), Server::named("fast"));
    let gateway = gateway(
        &[&slow, &fast],
        "",
        "hedge: { after: 20ms }, retry: { budget: 0% }",
    );
    let served = |_| gateway.send(&speech()).json()["served_by"].to_string();
    let served: Vec<String> = (0..12).map(served).collect();
    let by_fast = served.iter().filter(|name| name.contains("fast")).count();
    assert_eq!(by_fast, 10, "the floor of ten: {served:?}");
    assert_eq!((hedges(&gateway), fast.count()), ((10.0, 10.0), 10));
}

#[test]
fn a_pool_that_costs_money_is_asked_beside_another_only_if_the_file_says_so() {
    for (paid, served_by) in [(false, "slow"), (true, "cloud")] {
        let (slow, cloud) = (late("slow", 1500, 200), Server::named("cloud"));
        let gateway = Gateway::start(&format!(
            r#"
pools:
  a: {{ servers: ["{}"], health: false }}
  cloud: {{ servers: ["{}"], health: false, cost: paid }}
routes: [{{ name: r, pool: a, fallback: [cloud], hedge: {{ after: 50ms, paid: {paid} }} }}]
"#,
            slow.url(),
            cloud.url()
        ));
        let answer = gateway.send(&speech());
        assert_eq!(answer.json()["served_by"], served_by);
        assert_eq!(cloud.count(), usize::from(paid));
        assert_eq!(hedges(&gateway).0, f64::from(u8::from(paid)));
    }
}

#[test]
fn the_time_is_learned_from_twenty_answers() {
    let pause = Arc::new(AtomicUsize::new(0));
    let own = pause.clone();
    let learned = Server::fake(move |_, wire| {
        std::thread::sleep(Duration::from_millis(own.load(SeqCst) as u64));
        wire.json("{\"served_by\":\"learned\"}");
        true
    });
    let fast = Server::named("fast");
    let gateway = gateway(&[&learned, &fast], "", "hedge: { after: p95 }");
    for _ in 0..19 {
        gateway.send(&speech());
    }
    pause.store(700, SeqCst);
    let answer = gateway.send(&speech());
    assert_eq!(
        answer.json()["served_by"],
        "learned",
        "nineteen are too few"
    );
    assert_eq!(hedges(&gateway), (0.0, 0.0));
    pause.store(5000, SeqCst);
    let answer = gateway.send(&speech());
    assert_eq!(answer.json()["served_by"], "fast");
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    assert_eq!(hedges(&gateway), (1.0, 1.0));
}

#[test]
fn one_of_the_two_may_fail() {
    for (first, second, attempts, won) in [
        ((300, 503), (900, 200), "a/s0=503,a/s1=200", 1.0),
        ((900, 200), (0, 503), "a/s1=503,a/s0=200", 0.0),
    ] {
        let servers = [late("s0", first.0, first.1), late("s1", second.0, second.1)];
        let gateway = gateway(&servers.each_ref(), "", HEDGE);
        let answer = gateway.send(&speech());
        assert_eq!(
            (answer.status, answer.header("x-attempts")),
            (200, Some(attempts))
        );
        assert_eq!(hedges(&gateway), (1.0, won));
        assert_eq!((servers[0].count(), servers[1].count()), (1, 1));
        nothing_is_left(&gateway);
    }
}

#[test]
fn when_both_fail_the_next_is_asked_and_at_last_the_error_told() {
    let (first, second) = (late("s0", 300, 503), late("s1", 0, 502));
    let third = Server::named("third");
    let with_third = gateway(&[&first, &second, &third], "", HEDGE);
    let answer = with_third.send(&speech());
    assert_eq!(
        (answer.status, answer.header("x-attempts")),
        (200, Some("a/s1=502,a/s0=503,b/s2=200"))
    );
    let alone = gateway(&[&first, &second], "", HEDGE);
    let answer = alone.send(&speech());
    assert_eq!(
        (answer.status, answer.header("x-attempts")),
        (503, Some("a/s1=502,a/s0=503"))
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    nothing_is_left(&alone);
}

#[test]
fn a_request_that_fails_alike_at_both_is_itself_at_fault() {
    let (first, second) = (late("s0", 200, 500), late("s1", 0, 500));
    let third = Server::named("third");
    let gateway = gateway(
        &[&first, &second, &third],
        "",
        "hedge: { after: 50ms }, retry: { on: [500] }",
    );
    let answer = gateway.send(&speech());
    assert_eq!((answer.status, third.count()), (500, 0));
}

#[test]
fn a_client_that_leaves_cancels_both() {
    let noticed: Arc<AtomicUsize> = Arc::default();
    let servers = [silent(&noticed), silent(&noticed)];
    let gateway = gateway(&servers.each_ref(), "", HEDGE);
    let mut stream = connect(gateway.address);
    stream.write_all(&speech().bytes()).unwrap();
    eventually("both are asked", || servers.iter().all(|s| s.count() == 1));
    drop(stream);
    eventually("both notice", || noticed.load(SeqCst) == 2);
    nothing_is_left(&gateway);
    let line = gateway.access_log(1).remove(0);
    assert_eq!(line["termination"], "client_abort");
    assert_eq!(
        line["attempts"].to_string(),
        r#"["a/s0=cancelled","a/s1=cancelled"]"#
    );
    assert_eq!(attempts(&gateway, "cancelled"), 2.0);
}

#[test]
fn a_cancelled_server_can_be_asked_again_at_once() {
    let stalls = Arc::new(AtomicBool::new(true));
    let own = stalls.clone();
    let first = Server::fake(move |_, wire| {
        if own.load(SeqCst) {
            wire.wait_for_close();
            return false;
        }
        wire.json("{\"served_by\":\"first\"}");
        true
    });
    let fast = Server::named("fast");
    let gateway = gateway(&[&first, &fast], "slots: 1", "hedge: { after: 300ms }");
    assert_eq!(gateway.send(&speech()).json()["served_by"], "fast");
    stalls.store(false, SeqCst);
    nothing_is_left(&gateway);
    assert_eq!(gateway.send(&speech()).json()["served_by"], "first");
    let waited = gateway.metric(
        "trunkline_attempt_phase_seconds_count",
        &[("phase", "queue")],
    );
    assert_eq!(waited, 0.0);
}

#[test]
fn a_refusal_by_the_second_does_not_end_the_firsts_work() {
    for refusal in [401, 404, 500] {
        let (slow, refusing) = (late("slow", 400, 200), late("refusing", 0, refusal));
        let gateway = gateway(&[&slow, &refusing], "", "hedge: { after: 50ms }");
        let answer = gateway.send(&speech());
        assert_eq!(
            (answer.status, answer.json()["served_by"].as_str()),
            (200, Some("slow")),
            "{refusal}"
        );
        assert_eq!(hedges(&gateway), (1.0, 0.0));
        nothing_is_left(&gateway);
    }
}
