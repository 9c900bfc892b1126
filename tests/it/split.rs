//! Routes of which several pools share the requests, and copies for a pool on trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::{Gateway, Request, Server, eventually};

fn chat(key: &str) -> Request {
    Request::json("/v1/chat/completions", r#"{"model":"m","messages":[]}"#)
        .header("authorization", &format!("Bearer {key}"))
}

fn shared(servers: &[&Server], route: &str) -> String {
    let pools: Vec<String> = (servers.iter().zip(["a", "b", "c"]))
        .map(|(server, name)| {
            format!(
                "  {name}: {{ servers: [\"{}\"], health: false }}",
                server.url()
            )
        })
        .collect();
    format!(
        "pools:\n{}\nroutes: [{{ name: all, {route} }}]\n",
        pools.join("\n")
    )
}

#[test]
fn pools_share_requests_by_weight_and_each_key_stays_with_one() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&shared(
        &[&a, &b],
        "split: [{ pool: a, weight: 3 }, { pool: b }]",
    ));
    for key in 0..400 {
        let key = format!("sk-{key}");
        let first = gateway.send(&chat(&key));
        assert_eq!(first.status, 200);
        let again = gateway.send(&chat(&key));
        assert_eq!(first.header("x-backend"), again.header("x-backend"));
    }
    let share = b.count() as f64 / 800.0;
    assert!((0.18..0.32).contains(&share), "{share}");
    assert_eq!(a.count() + b.count(), 800);
}

#[test]
fn the_other_pool_stands_in_for_the_one_that_fails() {
    let (a, b) = (Server::failing(503), Server::named("b"));
    let gateway = Gateway::start(&shared(
        &[&a, &b],
        "split: [{ pool: a, weight: 1 }, { pool: b, weight: 0 }]",
    ));
    let answer = gateway.send(&chat("k"));
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("b/127.0.0.1"))
    );
}

#[test]
fn each_pool_of_a_split_has_fields_of_its_own() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&shared(
        &[&a, &b],
        "set: { seed: 1 }, split: [{ pool: a, weight: 0 }, { pool: b, set: { model: other } }]",
    ));
    assert_eq!(gateway.send(&chat("k")).status, 200);
    let got = b.seen()[0].json();
    assert_eq!((&got["model"], &got["seed"]), (&"other".into(), &1.into()));
}

#[test]
fn copies_reach_the_mirror_whole_and_nobody_waits_for_it() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let a = Server::named("a");
    let slow = Server::fake(move |_, wire| {
        while !wait.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.json("{}");
        true
    });
    let gateway = Gateway::start(&shared(
        &[&a, &slow],
        "pool: a, mirror: { pool: b, set: { model: trial } }",
    ));
    let started = Instant::now();
    // larger than what is kept in memory
    let text = "x".repeat(3 << 20);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let answer = gateway.send(&Request::json("/v1/chat/completions", &body));
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("a/127.0.0.1"))
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    eventually("the copy is on its way", || slow.count() == 1);
    let copied = slow.seen()[0].json();
    assert_eq!(copied["model"], "trial");
    assert_eq!(copied["messages"][0]["content"], text.as_str());
    assert_eq!(a.seen()[0].json()["model"], "m");
    go.store(true, SeqCst);
    let labels = [("route", "all"), ("pool", "b"), ("result", "2xx")];
    eventually("it is counted", || {
        gateway.metric("trunkline_mirrored_total", &labels) == 1.0
    });
    assert_eq!(gateway.access_log(1).len(), 1, "a copy is no request");
}

#[test]
fn a_mirror_that_fails_is_counted_and_harms_nobody() {
    let a = Server::named("a");
    let gone = Server::refused();
    let yaml = format!(
        "pools: {{ a: {{ servers: [\"{}\"] }}, b: {{ servers: [\"http://{gone}\"], health: false }} }}\nroutes: [{{ name: all, pool: a, mirror: {{ pool: b }} }}]\n",
        a.url()
    );
    let gateway = Gateway::start(&yaml);
    for _ in 0..3 {
        assert_eq!(gateway.send(&chat("k")).status, 200);
    }
    let count = |result| {
        let labels = [("route", "all"), ("pool", "b"), ("result", result)];
        gateway.metric("trunkline_mirrored_total", &labels)
    };
    eventually("they are counted", || {
        count("failed") + count("skipped") == 3.0
    });
}

#[test]
fn what_stays_at_home_and_what_is_no_inference_is_not_copied() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let yaml =
        shared(&[&a, &b], "pool: a, mirror: { pool: b }").replace("b: { ", "b: { zone: cloud, ");
    let gateway = Gateway::start(&yaml);
    assert_eq!(
        gateway
            .send(&chat("k").header("x-data-zone", "home"))
            .status,
        200
    );
    let (kind, form) = crate::support::form(&[("purpose", "batch")], b"{}", true);
    let upload = Request::new("POST", "/v1/files")
        .header("content-type", &kind)
        .body(form);
    assert_eq!(gateway.send(&upload).status, 200);
    // one that is copied comes behind them
    assert_eq!(gateway.send(&chat("k")).status, 200);
    eventually("the last one is copied", || b.count() == 1);
    assert_eq!(b.seen()[0].header("x-data-zone"), None);
}

#[test]
fn a_mirror_that_costs_money_has_to_be_meant() {
    let text = "pools: { a: { servers: [\"http://127.0.0.1:9\"] }, b: { kind: openai, servers: [\"https://api.openai.com\"], api_key: k } }\nroutes: [{ pool: a, mirror: { pool: b PAID } }]\n";
    let folder = tempfile::tempdir().unwrap();
    let check = |paid: &str| {
        let file = folder.path().join("trunkline.yaml");
        std::fs::write(&file, text.replace(" PAID", paid)).unwrap();
        crate::support::typed::typed(folder.path(), &["check-config"])
    };
    let refused = check("");
    assert_eq!(refused.code, 78);
    assert!(
        refused.stderr.contains("`paid: true`"),
        "{}",
        refused.stderr
    );
    let taken = check(", paid: true");
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    assert!(
        taken.stdout.contains("copies to b (cloud)"),
        "{}",
        taken.stdout
    );
}

#[test]
fn copies_count_against_the_limits_of_their_pool_with_all_their_bytes() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let yaml = shared(&[&a, &b], "pool: a, mirror: { pool: b }")
        .replace("b: { ", "b: { limits: { bytes: 100KiB }, ");
    let gateway = Gateway::start(&yaml);
    let text = "x".repeat(60 * 1024);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let count = |result| {
        let labels = [("route", "all"), ("pool", "b"), ("result", result)];
        gateway.metric("trunkline_mirrored_total", &labels)
    };
    for n in 1..4 {
        let answer = gateway.send(&Request::json("/v1/chat/completions", &body));
        assert_eq!(answer.status, 200);
        eventually("it is counted", || {
            count("2xx") + count("skipped") == f64::from(n)
        });
    }
    assert_eq!((count("2xx"), count("skipped")), (1.0, 2.0));
}
