//! The configuration changed and servers drained while requests and streams are under way.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::client::connect;
use crate::support::gateway::BINARY;
use crate::support::{Answer, Gateway, Request, Server, eventually};

fn order(gateway: &Gateway, target: &str) -> Answer {
    Request::new("POST", target).send(gateway.admin)
}

/// Writes another configuration; the parts that only a restart changes stay.
fn rewrite(gateway: &Gateway, yaml: &str) {
    let fixed = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nlog: { access: access.log, level: debug, format: json }\n";
    std::fs::write(gateway.config_path(), format!("{fixed}{yaml}")).unwrap();
}

fn routed(servers: &str, more: &str) -> String {
    format!(
        "pools: {{ a: {{ servers: [{servers}], health: false, {more} }} }}\nroutes: [{{ name: all, pool: a }}]\n"
    )
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("trunkline_config_reloads_total", &[("result", result)])
}

/// Answers when it is told to.
fn waiting(go: &Arc<AtomicBool>) -> Server {
    let go = go.clone();
    Server::fake(move |_, wire| {
        while !go.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.json(r#"{"served_by":"waiting"}"#);
        true
    })
}

#[test]
fn the_admin_listener_reloads_and_tells_what_is_wrong_with_a_bad_file() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    let quoted = |server: &Server| format!("'{}'", server.url());
    let gateway = Gateway::start(&routed(&quoted(&old), ""));
    rewrite(&gateway, &routed(&quoted(&new), ""));
    let answer = order(&gateway, "/reload");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.get("/v1/x").json()["served_by"], "new");
    rewrite(&gateway, &routed("'htp://x'", "balanc: random"));
    let answer = order(&gateway, "/reload");
    assert_eq!(answer.status, 422);
    for part in ["unknown key `balanc`", "did you mean `balance`?", ":4:"] {
        assert!(
            answer.text().contains(part),
            "{part} not in {}",
            answer.text()
        );
    }
    assert_eq!(gateway.get("/v1/x").json()["served_by"], "new");
    let last = "trunkline_config_last_reload_successful";
    assert_eq!(gateway.metric(last, &[]), 0.0);
    assert!(
        gateway
            .stderr()
            .contains("the configuration before stays in service")
    );
    assert_eq!(gateway.ask_admin("/reload").status, 405);
}

#[test]
fn a_file_that_changes_is_taken_up_by_itself_and_so_is_a_key_file() {
    let server = Server::named("a");
    let gateway = Gateway::start(&routed(&format!("'{}'", server.url()), ""));
    std::fs::write(gateway.folder.path().join("key"), "sk-one").unwrap();
    rewrite(
        &gateway,
        &routed(&format!("'{}'", server.url()), "api_key_file: key"),
    );
    eventually("the file is read again", || {
        reloads(&gateway, "success") == 2.0
    });
    gateway.get("/v1/x");
    let sent = || {
        server
            .seen()
            .pop()
            .unwrap()
            .header("authorization")
            .map(str::to_owned)
    };
    assert_eq!(sent().as_deref(), Some("Bearer sk-one"));
    std::fs::write(gateway.folder.path().join("key"), "sk-two").unwrap();
    eventually("the key is read again", || {
        reloads(&gateway, "success") == 3.0
    });
    gateway.get("/v1/x");
    assert_eq!(sent().as_deref(), Some("Bearer sk-two"));
    // a bad one is told of once and not every second
    rewrite(&gateway, "pools: {}\n");
    eventually("the bad file is refused", || {
        reloads(&gateway, "failure") == 1.0
    });
    rewrite(&gateway, &routed(&format!("'{}'", server.url()), ""));
    eventually("it is mended", || reloads(&gateway, "success") == 4.0);
    assert_eq!(reloads(&gateway, "failure"), 1.0);
}

#[test]
fn servers_that_stay_keep_their_slots_and_their_health() {
    let go = Arc::new(AtomicBool::new(false));
    let busy = waiting(&go);
    let sick = Server::failing(503);
    let servers = format!(
        "{{ url: '{}', name: busy, slots: 1 }}, {{ url: '{}', name: sick, slots: 1 }}",
        busy.url(),
        sick.url()
    );
    let yaml = |size: u32| {
        routed(&servers, &format!("queue: {{ size: {size} }}")).replace(
            "health: false",
            "health: { path: /sick, interval: 10s, fall: 1, expect: [200, 503] }",
        )
    };
    // only `sick` fails its probe at first
    let probed = yaml(8).replace("expect: [200, 503]", "expect: 200, timeout: 100ms");
    let gateway = Gateway::start(&probed);
    eventually("both are down: one says 503, one says nothing", || {
        gateway.metric("trunkline_server_up", &[]) == 0.0
    });
    rewrite(&gateway, &probed.replace("size: 8", "size: 9"));
    assert_eq!(order(&gateway, "/reload").status, 200);
    assert_eq!(
        gateway.metric("trunkline_server_up", &[]),
        0.0,
        "still down"
    );
    go.store(true, SeqCst);

    let go = Arc::new(AtomicBool::new(false));
    let busy = waiting(&go);
    let one = |size: u32| {
        routed(
            &format!("{{ url: '{}', slots: 1 }}", busy.url()),
            &format!("queue: {{ size: {size} }}"),
        )
    };
    let gateway = Gateway::start(&one(8));
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| gateway.get("/v1/x"));
        eventually("the slot is taken", || busy.count() == 1);
        rewrite(&gateway, &one(9));
        assert_eq!(order(&gateway, "/reload").status, 200);
        let second = scope.spawn(|| gateway.get("/v1/x"));
        eventually("the second waits", || {
            gateway.metric("trunkline_queue_depth", &[]) == 1.0
        });
        assert_eq!(busy.count(), 1, "one at a time, also over a reload");
        go.store(true, SeqCst);
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!((first.status, second.status), (200, 200));
}

/// A stream of 20 events over some two seconds.
fn streaming() -> Server {
    Server::fake(|seen, wire| {
        if !seen.target.contains("stream") {
            wire.json("{}");
            return true;
        }
        wire.chunked("text/event-stream");
        for n in 0..20 {
            wire.chunk(format!("data: {{\"n\":{n}}}\n\n"));
            std::thread::sleep(Duration::from_millis(100));
        }
        wire.chunk("data: [DONE]\n\n");
        wire.end();
        true
    })
}

/// Reads streams, or asks again and again on a kept connection, until it is over; counts failures.
fn client(gateway: SocketAddr, stream: bool, over: &AtomicBool, failed: &AtomicUsize) -> usize {
    let request = match stream {
        true => Request::json("/v1/chat/completions?stream", "{}"),
        false => Request::json("/v1/chat/completions", "{}"),
    };
    let mut connection = connect(gateway);
    let mut count = 0;
    while !over.load(SeqCst) {
        let answer = request.send_on(&mut connection);
        let whole = !stream || answer.text().ends_with("data: [DONE]\n\n");
        if answer.status != 200 || !answer.whole || !whole {
            failed.fetch_add(1, SeqCst);
        }
        count += 1;
    }
    count
}

#[test]
fn a_hundred_reloads_under_streams_and_requests_lose_nothing() {
    let (one, two) = (streaming(), streaming());
    let yaml = |n: usize| {
        let servers = format!(
            "{{ url: '{}', name: one, weight: {} }}, {{ url: '{}', name: two }}",
            one.url(),
            1 + n % 3,
            two.url()
        );
        routed(&servers, &format!("eject: {{ after: {} }}", 3 + n % 2))
    };
    let gateway = Gateway::start(&yaml(0));
    let (over, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = std::time::Instant::now();
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..216)
            .map(|n| {
                let (over, failed, to) = (&over, &failed, gateway.address);
                scope.spawn(move || client(to, n < 200, over, failed))
            })
            .collect();
        for n in 1..=100 {
            rewrite(&gateway, &yaml(n));
            let answer = order(&gateway, "/reload");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        over.store(true, SeqCst);
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "100 reloads in {seconds:.1} s, {answered} requests, {:.0} a second",
        answered as f64 / seconds
    );
    assert_eq!(failed.load(SeqCst), 0, "of {answered}");
    assert!(reloads(&gateway, "success") >= 101.0);
    assert_eq!(gateway.access_log(answered).len(), answered);
    assert_eq!(gateway.metric("trunkline_upstream_in_flight", &[]), 0.0);
}

fn run(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(BINARY)
        .args(arguments)
        .env("TRUNKLINE_ADMIN", gateway.admin.to_string())
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_drained_server_gets_nothing_new_until_it_is_undrained() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let servers = format!(
        "{{ url: '{}', name: one }}, {{ url: '{}', name: two }}",
        a.url(),
        b.url()
    );
    let gateway = Gateway::start(&routed(&servers, ""));
    let (code, told, _) = run(&gateway, &["drain", "a/one"]);
    assert_eq!(
        (code, told.contains("until it is undrained")),
        (0, true),
        "{told}"
    );
    (0..6).for_each(|_| assert_eq!(gateway.get("/v1/x").json()["served_by"], "b"));
    let labels = [("pool", "a"), ("server", "one")];
    assert_eq!(gateway.metric("trunkline_server_drained", &labels), 1.0);
    // kept over a reload that changes the pool
    rewrite(&gateway, &routed(&servers, "balance: random"));
    assert_eq!(run(&gateway, &["reload"]).0, 0);
    (0..6).for_each(|_| assert_eq!(gateway.get("/v1/x").json()["served_by"], "b"));
    let (code, table, _) = run(&gateway, &["status"]);
    assert_eq!(code, 0);
    let line = table
        .lines()
        .find(|line| line.starts_with("a/one"))
        .unwrap();
    assert!(line.contains("drained"), "{table}");
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    assert_eq!(run(&gateway, &["undrain", "a/one"]).0, 0);
    eventually("it is asked again", || {
        gateway.get("/v1/x").json()["served_by"] == "a"
    });
    // for a while
    assert_eq!(run(&gateway, &["drain", "a/two", "--for", "300ms"]).0, 0);
    assert_eq!(gateway.get("/v1/x").json()["served_by"], "a");
    eventually("the time is over", || {
        gateway.get("/v1/x").json()["served_by"] == "b"
    });
}

#[test]
fn orders_that_make_no_sense_are_told_so() {
    let server = Server::named("a");
    let gateway = Gateway::start(&routed(
        &format!("{{ url: '{}', name: one }}", server.url()),
        "",
    ));
    let (code, _, said) = run(&gateway, &["drain", "a/oen"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("there is no server `a/oen`; there are a/one"),
        "{said}"
    );
    let (code, _, said) = run(&gateway, &["drain", "a/one", "--for", "10"]);
    assert_eq!(code, 1);
    assert!(said.contains("has no unit"), "{said}");
    rewrite(&gateway, "nonsense: 1\n");
    let (code, _, said) = run(&gateway, &["reload"]);
    assert_eq!(code, 1);
    assert!(said.contains("unknown key `nonsense`"), "{said}");
    let json = run(&gateway, &["status", "--format", "json"]).1;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pools"][0]["servers"][0]["name"], "one");
    let nobody = Server::refused().to_string();
    let output = Command::new(BINARY)
        .args(["status", "--admin", &nobody])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_page_in_an_operators_browser_cannot_give_orders() {
    let server = Server::named("a");
    let yaml = routed(&format!("{{ url: '{}', name: one }}", server.url()), "");
    let gateway = Gateway::start(&yaml);
    let post = || Request::new("POST", "/drain/a/one");
    let own = format!("http://{}", "edge.test");
    for (request, status) in [
        (post().header("origin", "https://evil.example"), 403),
        (post().header("origin", "null"), 403),
        (post().header("sec-fetch-site", "cross-site"), 403),
        (
            Request::get("/status").header("origin", "https://evil.example"),
            403,
        ),
        (Request::get("/status").header("origin", &own), 200),
        (
            Request::get("/status").header("sec-fetch-site", "same-origin"),
            200,
        ),
        (post(), 200),
    ] {
        assert_eq!(request.send(gateway.admin).status, status);
    }
}

/// An address that nobody listens on just now.
fn free() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

#[test]
fn listeners_come_and_go_with_the_configuration() {
    let server = Server::named("a");
    let routes = routed(&format!("'{}'", server.url()), "");
    let gateway = Gateway::start(&routes);
    let write = |listen: &str, rest: &str| {
        let text = format!("listen: {listen}\nadmin: 127.0.0.1:0\n{rest}\n{routes}");
        std::fs::write(gateway.config_path(), text).unwrap();
    };
    let (more, ask) = (free(), Request::json("/v1/x", "{}"));
    let mut kept = connect(gateway.address);
    assert_eq!(ask.send_on(&mut kept).status, 200);
    write(
        &format!("['127.0.0.1:0', '{more}']"),
        "log: { access: access.log, level: debug, format: json }",
    );
    assert_eq!(order(&gateway, "/reload").status, 200);
    assert_eq!(ask.send(more).status, 200);
    assert_eq!(
        ask.send_on(&mut kept).status,
        200,
        "what stays is not touched"
    );
    let listeners = gateway.ask_admin("/status").json()["listeners"].clone();
    assert_eq!(
        listeners,
        serde_json::json!([gateway.address.to_string(), more.to_string()])
    );
    // and away again; the limits and the log go along
    write(
        "127.0.0.1:0",
        "limits: { connections: 1 }\nlog: { access: other.log, format: text }",
    );
    let answer = order(&gateway, "/reload");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(std::net::TcpStream::connect(more).is_err());
    assert_eq!(ask.send_on(&mut kept).status, 200);
    let other = gateway.folder.path().join("other.log");
    eventually("the line is in the other file", || {
        std::fs::read_to_string(&other).is_ok_and(|text| text.contains("-> a/"))
    });
    let mut second = connect(gateway.address);
    let closed = std::io::Read::read(&mut second, &mut [0]);
    assert_eq!(closed.unwrap_or(0), 0, "one connection is all there may be");
}

#[test]
fn a_reload_that_cannot_listen_changes_nothing() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    let routes = |server: &Server| routed(&format!("'{}'", server.url()), "");
    let gateway = Gateway::start(&routes(&old));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap(), taken).0;
    let somebody = std::net::TcpListener::bind(taken).unwrap();
    let write = |first: &str| {
        let text = format!("{first}\nadmin: 127.0.0.1:0\n{}", routes(&new));
        std::fs::write(gateway.config_path(), text).unwrap();
    };
    write(&format!("listen: ['127.0.0.1:0', '{taken}']"));
    let answer = order(&gateway, "/reload");
    assert_eq!(answer.status, 422);
    assert!(
        answer
            .text()
            .contains("is taken by another program; `ss -ltnp"),
        "{}",
        answer.text()
    );
    assert_eq!(gateway.get("/v1/x").json()["served_by"], "old");
    assert_eq!(reloads(&gateway, "failure"), 1.0);
    drop(somebody);
    // certificates that are not there, or do not go together
    write("listeners: [{ address: '127.0.0.1:0', tls: { cert: gone.pem, key: gone.pem } }]");
    let answer = order(&gateway, "/reload");
    assert_eq!(
        (
            answer.status,
            answer.text().contains("gone.pem` cannot be read")
        ),
        (422, true)
    );
    let (one, other) = (
        crate::support::tls::Pair::new(),
        crate::support::tls::Pair::new(),
    );
    one.write(gateway.folder.path());
    std::fs::write(gateway.folder.path().join("key.pem"), &other.key).unwrap();
    write("listeners: [{ address: '127.0.0.1:0', tls: { cert: cert.pem, key: key.pem } }]");
    let answer = order(&gateway, "/reload");
    assert_eq!(
        (answer.status, answer.text().contains("does not belong to")),
        (422, true)
    );
    assert_eq!(gateway.get("/v1/x").json()["served_by"], "old");
    // the pair is mended, and the listener speaks TLS from now on
    std::fs::write(gateway.folder.path().join("key.pem"), &one.key).unwrap();
    assert_eq!(order(&gateway, "/reload").status, 200);
    let mut secure =
        crate::support::tls::connect(gateway.address, one.client(rustls::ALL_VERSIONS, &[]))
            .unwrap();
    use std::io::{Read, Write};
    write!(
        secure,
        "GET /v1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    let _ = secure.read_to_string(&mut text);
    assert!(
        text.contains("\"served_by\":\"new\"") || text.contains("new"),
        "{text}"
    );
}

#[test]
fn another_token_counts_from_the_next_request_on() {
    let server = Server::named("a");
    let routes = routed(&format!("'{}'", server.url()), "");
    let gateway = Gateway::start(&format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: '127.0.0.1:0', token: one }}\n{routes}"
    ));
    let with = |token: &str, method: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        Request::new(method, path)
            .header("authorization", &bearer)
            .send(gateway.admin)
            .status
    };
    assert_eq!(
        (with("one", "GET", "/status"), with("two", "GET", "/status")),
        (200, 401)
    );
    let text =
        format!("listen: 127.0.0.1:0\nadmin: {{ address: '127.0.0.1:0', token: two }}\n{routes}");
    std::fs::write(gateway.config_path(), text).unwrap();
    assert_eq!(with("one", "POST", "/reload"), 200);
    assert_eq!(
        (with("one", "GET", "/status"), with("two", "GET", "/status")),
        (401, 200)
    );
}
