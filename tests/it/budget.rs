//! A route's retry budget, and the pauses between retries.

use std::time::{Duration, Instant};

use crate::support::{Gateway, Request, Server};

fn gateway(servers: &[&Server], route: &str) -> Gateway {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false, eject: false }} }}\nroutes: [{{ name: r, pool: a, {route} }}]",
        urls.join("', '")
    ))
}

fn left(gateway: &Gateway) -> f64 {
    gateway.metric("trunkline_retry_budget_left", &[("route", "r")])
}

fn exhausted(gateway: &Gateway) -> f64 {
    gateway.metric("trunkline_retry_budget_exhausted_total", &[("route", "r")])
}

#[test]
fn retries_are_a_share_of_the_requests_of_the_last_seconds_and_ten_more() {
    let servers = [503, 503].map(Server::failing);
    let gateway = gateway(&servers.each_ref(), "retry: { budget: 50% }");
    assert_eq!(left(&gateway), 10.0);
    let started = Instant::now();
    let retries = || gateway.metric("trunkline_retries_total", &[("route", "r")]);
    let mut sent = 0.0;
    while exhausted(&gateway) == 0.0 {
        assert_eq!(gateway.post("/v1/x", "{}").status, 503);
        sent += 1.0;
        if started.elapsed() < Duration::from_secs(5) {
            // nothing has left the window yet
            let expected = (10.0_f64 + (sent / 2.0_f64).floor() - retries()).max(0.0);
            assert_eq!(left(&gateway), expected, "after {sent} requests");
        }
    }
    assert_eq!(left(&gateway), 0.0);
    let asked = servers.iter().map(Server::count).sum::<usize>() as f64;
    assert_eq!(asked, sent + retries(), "every attempt was counted");
    // what was is forgotten within the window of ten seconds
    let end = Instant::now() + Duration::from_secs(30);
    while left(&gateway) < 10.0 {
        assert!(Instant::now() < end, "{} are left", left(&gateway));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() > Duration::from_secs(8));
    let before = retries();
    gateway.post("/v1/x", "{}");
    assert_eq!((retries(), left(&gateway)), (before + 1.0, 9.0));
}

#[test]
fn without_a_budget_there_is_none_to_tell_of() {
    let servers = [503, 503].map(Server::failing);
    let gateway = gateway(&servers.each_ref(), "");
    for _ in 0..15 {
        gateway.post("/v1/x", "{}");
    }
    assert_eq!(servers.iter().map(Server::count).sum::<usize>(), 30);
    let text = gateway.ask_admin("/metrics").text();
    assert!(!text.contains("trunkline_retry_budget_left{"));
}

#[test]
fn the_first_retry_comes_at_once_and_later_ones_after_a_pause() {
    let good = Server::named("good");
    let bad = [503, 503].map(Server::failing);
    let once = gateway(&[&bad[0], &good], "retry: { backoff: 60s }");
    let answer = once.post("/v1/x", "{}");
    assert_eq!(answer.status, 200);
    assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
    assert_eq!(answer.header("x-attempts").unwrap().matches('=').count(), 2);
    // anything between nothing and 400 ms before the third: all of ten short is not credible
    let twice = gateway(&[&bad[0], &bad[1], &good], "retry: { backoff: 400ms }");
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let mut one = None;
        while one.is_none() {
            // in turn: only every third request meets both bad ones first
            let answer = twice.send(&Request::json("/v1/x", "{}"));
            assert_eq!(answer.status, 200);
            let attempts = answer
                .header("x-attempts")
                .map(|text| text.matches('=').count());
            one = (attempts == Some(3)).then_some(answer.took);
        }
        longest = longest.max(one.unwrap());
    }
    assert!(longest > Duration::from_millis(40), "{longest:?}");
}
