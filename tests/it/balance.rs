//! Who of a pool is asked, seen from outside: by load, by lot, or always the same one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

use crate::support::{Answer, Gateway, Load, Request, Server, eventually};

/// A pool of these servers, named `s0`, `s1` and so on.
fn gateway(servers: &[&Server], pool: &str) -> Gateway {
    let servers: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(n, server)| format!("{{ url: '{}', name: s{n} }}", server.url()))
        .collect();
    Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{}], {pool} }} }}\nroutes: [{{ pool: a }}]",
        servers.join(", ")
    ))
}

/// Sends one request after the other, each when the one before has reached its server.
fn pile_up(gateway: &Gateway, loads: &[&Load], request: &Request, count: usize) -> Waiting {
    let now = || loads.iter().map(|load| load.now()).sum::<usize>();
    let before = now();
    (1..=count)
        .map(|n| {
            let answer = gateway.send_aside(request);
            eventually("it has arrived", || now() == before + n);
            answer
        })
        .collect()
}

type Waiting = Vec<JoinHandle<Answer>>;

fn all_are_served(waiting: Waiting) {
    for answer in waiting {
        assert_eq!(answer.join().unwrap().status, 200);
    }
}

#[test]
fn least_in_flight_asks_whoever_has_the_least_to_do() {
    let ((a, load_a), (b, load_b)) = (Server::held("a"), Server::held("b"));
    let gateway = gateway(&[&a, &b], "balance: least_in_flight, health: false");
    let request = Request::get("/v1/x");
    let mut waiting = pile_up(&gateway, &[&load_a, &load_b], &request, 6);
    assert_eq!((load_a.now(), load_b.now()), (3, 3));
    load_a.release(2);
    eventually("two are answered", || {
        gateway.metric("trunkline_upstream_in_flight", &[]) == 4.0
    });
    waiting.extend(pile_up(&gateway, &[&load_a, &load_b], &request, 2));
    assert_eq!((load_a.now(), load_b.now()), (3, 3));
    [load_a, load_b].iter().for_each(|load| load.release_all());
    all_are_served(waiting);
}

#[test]
fn power_of_two_is_nearly_as_even() {
    let held = [(); 3].map(|()| Server::held("x"));
    let servers: Vec<&Server> = held.iter().map(|(server, _)| server).collect();
    let loads: Vec<&Load> = held.iter().map(|(_, load)| load.as_ref()).collect();
    let gateway = gateway(&servers, "balance: power_of_two, health: false");
    let waiting = pile_up(&gateway, &loads, &Request::get("/v1/x"), 30);
    let counts: Vec<usize> = loads.iter().map(|load| load.now()).collect();
    assert!(counts.iter().all(|n| (6..=14).contains(n)), "{counts:?}");
    loads.iter().for_each(|load| load.release_all());
    all_are_served(waiting);
}

#[test]
fn random_follows_the_weights() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: a }}, {{ url: '{}', name: b, weight: 3 }}], balance: random, health: false }} }}\nroutes: [{{ pool: a }}]",
        a.url(),
        b.url()
    ));
    let mut served = Vec::new();
    for _ in 0..200 {
        served.push(gateway.get("/v1/x").text());
    }
    // a quarter of 200 is 50, within five standard deviations
    assert!((20..=80).contains(&a.count()), "{} of 200", a.count());
    let turns = served.windows(2).filter(|two| two[0] != two[1]).count();
    assert!((40..=120).contains(&turns), "in no order: {turns} changes");
}

fn backend(gateway: &Gateway, request: &Request) -> String {
    let answer = gateway.send(request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-backend").unwrap().to_owned()
}

fn different(backends: &[String]) -> usize {
    let mut backends = backends.to_vec();
    backends.sort_unstable();
    backends.dedup();
    backends.len()
}

#[test]
fn a_header_meets_the_same_server_until_that_one_is_gone_and_again_when_it_is_back() {
    let sick = Arc::new(AtomicBool::new(false));
    let flag = sick.clone();
    let third = Server::fake(move |seen, wire| {
        let down = seen.target == "/health" && flag.load(SeqCst);
        wire.answer(if down { 503 } else { 200 }, &[], "{}");
        true
    });
    let (first, second) = (Server::named("a"), Server::named("b"));
    let gateway = gateway(
        &[&first, &second, &third],
        "balance: { hash: { by: header x-session-id } }, health: { path: /health, interval: 50ms, fall: 1, rise: 1 }",
    );
    let ask = |n: usize| {
        let request = Request::json("/v1/x", "{}").header("x-session-id", &format!("session-{n}"));
        backend(&gateway, &request)
    };
    let up = |count: f64| {
        eventually(&format!("{count} are up"), || {
            gateway.metric("trunkline_server_up", &[]) == count
        });
    };
    up(3.0);
    let homes: Vec<String> = (0..40).map(ask).collect();
    assert_eq!(different(&homes), 3, "{homes:?}");
    assert_eq!(homes, (0..40).map(ask).collect::<Vec<_>>());
    sick.store(true, SeqCst);
    up(2.0);
    let moved: Vec<String> = (0..40).map(ask).collect();
    for (home, moved) in homes.iter().zip(&moved) {
        assert!(moved == home || home == "a/s2", "{home} to {moved}");
        assert_ne!(moved, "a/s2");
    }
    assert_eq!(moved, (0..40).map(ask).collect::<Vec<_>>());
    sick.store(false, SeqCst);
    up(3.0);
    assert_eq!(homes, (0..40).map(ask).collect::<Vec<_>>());
}

#[test]
fn a_key_meets_the_same_server_whatever_header_it_comes_in() {
    let servers = ["a", "b", "c"].map(Server::named);
    let gateway = gateway(
        &servers.each_ref(),
        "balance: { hash: { by: key } }, health: false",
    );
    for (header, prefix) in [("authorization", "Bearer "), ("x-api-key", "")] {
        let ask = |n: usize| {
            let request = Request::get("/v1/x").header(header, &format!("{prefix}key-{n}"));
            backend(&gateway, &request)
        };
        let homes: Vec<String> = (0..30).map(ask).collect();
        assert_eq!(different(&homes), 3, "{header}: {homes:?}");
        assert_eq!(homes, (0..30).map(ask).collect::<Vec<_>>());
    }
    let without: Vec<String> = (0..10)
        .map(|_| backend(&gateway, &Request::get("/v1/x")))
        .collect();
    assert_eq!(different(&without), 1, "by the address then");
    for seen in servers.iter().flat_map(Server::seen) {
        assert_eq!(seen.header("authorization"), None);
    }
}

/// Sends a request from this address.
fn send_from(address: &str, gateway: &Gateway) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&gateway.address.into()).unwrap();
    let answer = Request::get("/v1/x").send_on(&mut socket.into());
    answer.header("x-backend").unwrap().to_owned()
}

#[test]
fn a_client_meets_the_same_server_on_every_connection() {
    let servers = ["a", "b", "c"].map(Server::named);
    for balance in ["{ hash: { by: client_ip } }", "{ hash: client_ip }", "hash"] {
        let pool = format!("balance: {balance}, health: false");
        let gateway = gateway(&servers.each_ref(), &pool);
        let ask = |n: usize| send_from(&format!("127.0.0.{}", n + 2), &gateway);
        let homes: Vec<String> = (0..20).map(ask).collect();
        assert!(different(&homes) >= 2, "{homes:?}");
        assert_eq!(homes, (0..20).map(ask).collect::<Vec<_>>());
    }
}

#[test]
fn one_busy_session_spills_over_and_comes_back() {
    let ((a, load_a), (b, load_b)) = (Server::held("a"), Server::held("b"));
    let gateway = gateway(
        &[&a, &b],
        "balance: { hash: { by: header x-session-id } }, health: false",
    );
    let request = Request::get("/v1/x").header("x-session-id", "busy");
    let waiting = pile_up(&gateway, &[&load_a, &load_b], &request, 10);
    let counts = [load_a.now(), load_b.now()];
    assert!(counts.iter().all(|n| (3..=7).contains(n)), "{counts:?}");
    let home = if counts[0] > counts[1] {
        "a/s0"
    } else {
        "a/s1"
    };
    [load_a, load_b].iter().for_each(|load| load.release_all());
    all_are_served(waiting);
    eventually("nothing is in flight", || {
        gateway.metric("trunkline_upstream_in_flight", &[]) == 0.0
    });
    let later: Vec<String> = (0..5).map(|_| backend(&gateway, &request)).collect();
    assert_eq!(different(&later), 1);
    assert!(counts[0] == counts[1] || later[0] == home);
}
