//! Several edges that act as one, over a real Redis.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Answer, Gateway, Request, Server, eventually};

/// A `redis-server` of this test's own; it ends with it.
struct Redis {
    address: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Redis {
    /// `None` where there is none: it is a package of the system's, and not everybody may install it.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // the port is free again for a moment; somebody else may take it, and then this is tried anew
        (0..20)
            .find_map(|_| {
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = free.local_addr().unwrap();
                drop(free);
                let child = run(address, folder.path())?;
                let started = (0..400).any(|_| {
                    std::thread::sleep(Duration::from_millis(5));
                    TcpStream::connect(address).is_ok()
                });
                started.then_some((address, child))
            })
            .map(|(address, child)| Redis {
                address,
                folder,
                child,
            })
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Again at the same place, with nothing of what it had.
    fn revive(&mut self) {
        self.child = run(self.address, self.folder.path()).unwrap();
        let address = self.address;
        eventually("it listens again", || TcpStream::connect(address).is_ok());
    }

    /// Lets it answer nobody for as long as `meanwhile` takes; what it has stays.
    fn paused(&self, meanwhile: impl FnOnce()) {
        let signal = |name: &str| {
            let pid = self.child.id().to_string();
            let sent = Command::new("kill").args([name, &pid]).status().unwrap();
            assert!(sent.success());
        };
        signal("-STOP");
        meanwhile();
        signal("-CONT");
    }

    /// What it answers to a command.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    fn state(&self) -> String {
        format!(
            "state: {{ redis: \"redis://{}/0\", timeout: 2s }}",
            self.address
        )
    }
}

fn run(address: SocketAddr, folder: &std::path::Path) -> Option<Child> {
    let port = address.port().to_string();
    Command::new("redis-server")
        .args([
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis, or the end of a test that cannot be made here.
macro_rules! redis {
    () => {
        match Redis::start() {
            Some(redis) => redis,
            None => {
                assert!(
                    std::env::var_os("TRUNKLINE_REDIS").is_none(),
                    "there should be a redis-server"
                );
                eprintln!("skipped: there is no redis-server");
                return;
            }
        }
    };
}

const KEY: &str = "tl-0123456789-abcdef";

fn config(server: &Server, key: &str, more: &str) -> String {
    format!(
        r#"
{more}
keys: [{{ name: alice, key: {KEY}, {key} }}]
prices: {{ "*": {{ request: 1 }} }}
pools: {{ a: {{ servers: ["{}"], health: false }} }}
routes: [{{ name: all, pool: a }}]
"#,
        server.url()
    )
}

fn chat() -> Request {
    Request::json("/v1/chat/completions", r#"{"model":"m","messages":[]}"#)
        .header("authorization", &format!("Bearer {KEY}"))
}

fn up(edges: &[Gateway], count: f64) {
    for edge in edges {
        eventually("the edges know each other", || {
            edge.metric("trunkline_state_up", &[]) == 1.0
                && edge.metric("trunkline_state_edges", &[]) == count
        });
    }
}

fn three(yaml: &str) -> Vec<Gateway> {
    let edges: Vec<Gateway> = (0..3).map(|_| Gateway::start(yaml)).collect();
    up(&edges, 3.0);
    edges
}

/// What `count` requests at once, spread over edges, are answered.
fn at_once(edges: &[Gateway], request: &Request, count: usize) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..count)
            .map(|n| {
                let to = edges[n % edges.len()].address;
                scope.spawn(move || request.send(to))
            })
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn good(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[test]
fn what_is_left_is_told_to_the_request() {
    let redis = redis!();
    let server = Server::named("a");
    let yaml = config(&server, "limits: { rpm: 7 }", &redis.state());
    let edges: Vec<Gateway> = (0..2).map(|_| Gateway::start(&yaml)).collect();
    up(&edges, 2.0);
    for (n, left) in ["6", "5", "4"].into_iter().enumerate() {
        let answer = edges[n % 2].send(&chat());
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
    }
}

#[test]
fn three_edges_let_as_many_through_as_one_and_go_on_alone_without_their_server() {
    let mut redis = redis!();
    let server = Server::named("a");
    let edges = three(&config(&server, "limits: { rpm: 30 }", &redis.state()));
    let started = std::time::Instant::now();
    let answers = at_once(&edges, &chat(), 60);
    // one comes back every two seconds
    let more = started.elapsed().as_secs() as usize / 2 + 1;
    assert!(
        (30..=30 + more).contains(&good(&answers)),
        "{}",
        good(&answers)
    );
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.code(), "rate_limit_exceeded");
    assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("30"));
    assert!(refused.header("retry-after").is_some());
    // killed: each has its own thirty, less what it served before
    redis.kill();
    let answers = at_once(&edges, &chat(), 90);
    let alone = good(&answers);
    assert!((55..=75).contains(&alone), "{alone}");
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 200 | 429))
    );
    for edge in &edges {
        assert_eq!(edge.metric("trunkline_state_up", &[]), 0.0);
        assert!(edge.stderr().contains("goes on alone"), "{}", edge.stderr());
    }
    // back: they are one again, without a word from anybody
    redis.revive();
    up(&edges, 3.0);
    assert!(edges[0].stderr().contains("is back"));
}

#[test]
fn what_is_in_flight_at_one_edge_counts_at_the_others_and_ends_with_it() {
    let redis = redis!();
    let (server, load) = Server::held("a");
    let yaml = config(&server, "limits: { concurrent: 2 }", &redis.state());
    let mut edges = three(&yaml);
    let first: Vec<_> = (0..2).map(|n| edges[n].send_aside(&chat())).collect();
    eventually("both are in flight", || load.now() == 2);
    let refused = edges[2].send(&chat());
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "rate_limit_exceeded")
    );
    load.release(1);
    let third = edges[2].send_aside(&chat());
    let mut last = Some(third);
    eventually("a place came free", || {
        if load.now() == 2 {
            return true;
        }
        if last.as_ref().is_some_and(|one| one.is_finished()) {
            last = Some(edges[2].send_aside(&chat()));
        }
        false
    });
    // an edge that is killed takes what it had with it
    let pid = edges[2].pid();
    drop(edges.pop());
    assert!(pid > 0);
    eventually("what it had in flight is free", || {
        let asked = edges[0].send_aside(&chat());
        let before = load.now();
        eventually("it is answered or in flight", || {
            asked.is_finished() || load.now() > before
        });
        !asked.is_finished()
    });
    load.release_all();
    drop((first, last));
}

#[test]
fn who_asks_again_with_the_answer_in_hand_is_not_in_the_way_of_itself() {
    let redis = redis!();
    let server = Server::named("a");
    let edges = three(&config(
        &server,
        "limits: { concurrent: 1 }",
        &redis.state(),
    ));
    for n in 0..60 {
        assert_eq!(edges[n % 3].send(&chat()).status, 200, "{n}");
        assert_eq!(edges[n % 3].send(&chat()).status, 200, "{n}");
    }
}

#[test]
fn what_is_spent_at_one_edge_is_spent_at_all_once() {
    let mut redis = redis!();
    let server = Server::named("a");
    let edges = three(&config(
        &server,
        "budget: 20",
        &format!("budgets: {{ file: spending.json }}\n{}", redis.state()),
    ));
    let left = |edge: &Gateway| -> f64 {
        let answer = edge.get("/v1/models");
        drop(answer);
        let asked = edge.send(&Request::get("/v1/models").header("x-api-key", KEY));
        asked.header("x-budget-remaining").unwrap().parse().unwrap()
    };
    (0..6).for_each(|n| assert_eq!(edges[n % 3].send(&chat()).status, 200));
    for edge in &edges {
        eventually("it knows of the others", || left(edge) == 14.0);
    }
    // spent while nobody could be told
    redis.kill();
    eventually("it is noticed", || {
        edges[0].metric("trunkline_state_up", &[]) == 0.0
    });
    (0..3).for_each(|_| assert_eq!(edges[0].send(&chat()).status, 200));
    assert_eq!(left(&edges[0]), 11.0);
    redis.revive();
    up(&edges, 3.0);
    eventually("it is told later", || left(&edges[1]) <= 17.0);
}

#[test]
fn an_answer_that_one_edge_keeps_is_there_for_all_and_forgotten_by_all() {
    let redis = redis!();
    let server = Server::fake(|_, wire| {
        wire.answer(200, &[("content-type", "audio/mpeg")], "RIFF and so on");
        true
    });
    let yaml = config(&server, "models: []", &redis.state())
        .replace("pool: a }]", "pool: a, cache: true }]");
    let edges = three(&yaml);
    let say = || {
        Request::json(
            "/v1/audio/speech",
            r#"{"model":"tts-1","input":"Hello","voice":"nova"}"#,
        )
        .header("x-api-key", KEY)
    };
    assert_eq!(edges[0].send(&say()).header("x-cache"), Some("miss"));
    eventually("it is on its way to the others", || {
        edges[1].send(&say()).header("x-cache") == Some("hit")
    });
    let asked = server.count();
    let answer = edges[2].send(&say());
    assert_eq!(answer.header("x-cache"), Some("hit"));
    assert_eq!(answer.body, b"RIFF and so on");
    assert_eq!(server.count(), asked);
    let cleared = Request::new("POST", "/cache/clear").send(edges[0].admin);
    assert!(
        cleared.text().contains("all that edges share"),
        "{}",
        cleared.text()
    );
    eventually("all have forgotten it", || {
        edges[1].send(&say()).header("x-cache") == Some("miss")
    });
}

#[test]
fn a_server_that_one_edge_ejects_is_left_alone_by_the_others() {
    let redis = redis!();
    let (bad, fine) = (Server::failing(500), Server::named("fine"));
    let yaml = format!(
        "{}\npools: {{ a: {{ servers: [\"{}\", \"{}\"], health: false, eject: {{ after: 3, for: 60s }} }} }}\nroutes: [{{ pool: a, retry: {{ on: [500] }} }}]\n",
        redis.state(),
        bad.url(),
        fine.url()
    );
    let edges = three(&yaml);
    let labels = [("reason", "elsewhere")];
    for _ in 0..10 {
        assert_eq!(edges[0].send(&chat()).status, 200);
    }
    for edge in &edges[1..] {
        eventually("it has heard of it", || {
            edge.metric("trunkline_ejections_total", &labels) == 1.0
        });
    }
    let before = bad.count();
    (0..10).for_each(|n| assert_eq!(edges[1 + n % 2].send(&chat()).status, 200));
    assert_eq!(bad.count(), before);
}

#[test]
fn a_pool_is_asked_by_all_edges_together_as_often_as_it_may() {
    let redis = redis!();
    let (a, b) = (Server::named("a"), Server::named("b"));
    let yaml = format!(
        "{}\npools: {{ a: {{ servers: [\"{}\"], health: false, limits: {{ rpm: 20 }} }}, b: {{ servers: [\"{}\"], health: false }} }}\nroutes: [{{ pool: a, fallback: [b] }}]\n",
        redis.state(),
        a.url(),
        b.url()
    );
    let edges = three(&yaml);
    assert_eq!(good(&at_once(&edges, &chat(), 45)), 45);
    assert!((20..=25).contains(&a.count()), "{}", a.count());
    assert_eq!(a.count() + b.count(), 45);
}

#[test]
fn an_edge_starts_without_its_server_and_no_request_waits_for_it() {
    let hole = crate::support::BlackHole::new();
    let server = Server::named("a");
    let state = format!(
        "state: {{ redis: \"{}\" }}",
        hole.url().replace("http", "redis")
    );
    let edge = Gateway::start(&config(&server, "limits: { rpm: 1000 }", &state));
    for _ in 0..20 {
        let started = std::time::Instant::now();
        assert_eq!(edge.send(&chat()).status, 200);
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(edge.metric("trunkline_state_up", &[]), 0.0);
}

#[test]
fn a_password_in_the_address_is_never_told() {
    let folder = tempfile::tempdir().unwrap();
    let check = |url: &str| {
        let yaml = format!(
            "state: {{ redis: \"{url}\" }}\npools: {{ a: {{ servers: [\"http://127.0.0.1:9\"] }} }}\nroutes: [{{ pool: a }}]\n"
        );
        std::fs::write(folder.path().join("trunkline.yaml"), yaml).unwrap();
        let checked = crate::support::typed::typed(folder.path(), &["check-config"]);
        let shown = crate::support::typed::typed(folder.path(), &["config", "show", "--effective"]);
        let told = [
            &checked.stdout,
            &checked.stderr,
            &shown.stdout,
            &shown.stderr,
        ]
        .map(|s| s.as_str())
        .concat();
        assert!(!told.contains("s3cret"), "{told}");
        (checked.code, checked.stderr)
    };
    assert_eq!(check("redis://:s3cret@127.0.0.1:1/0").0, 0);
    for (url, why) in [
        ("rediss://:s3cret@127.0.0.1:1/0", "stunnel"),
        (
            "redis://:s3cret@127.0.0.1:1/zero",
            "no address of a Redis server",
        ),
        ("http://:s3cret@127.0.0.1", "no address of a Redis server"),
    ] {
        let (code, told) = check(url);
        assert_eq!(code, 78);
        assert!(told.contains(why), "{told}");
    }
}

/// A server that answers how many messages it heard, and three edges that remember for it.
fn remembering(redis: &Redis) -> (Server, Vec<Gateway>) {
    let server = Server::fake(|seen, wire| {
        let messages = seen.json()["messages"].clone();
        let count = messages.as_array().map_or(0, Vec::len);
        let answer = serde_json::json!({ "choices": [{ "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": format!("heard {count}") } }] });
        wire.json(&answer.to_string());
        true
    });
    let yaml = config(&server, "models: []", &redis.state()).replace(
        "pool: a }]",
        "pool: a, memory: { by: header x-session-id } }]",
    );
    let edges = three(&yaml.replace("timeout: 2s", "timeout: 500ms"));
    (server, edges)
}

/// What the server answers to words in a session.
fn say(edge: &Gateway, words: &str) -> String {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let request = Request::json("/v1/chat/completions", &body)
        .header("x-api-key", KEY)
        .header("x-session-id", "kitchen");
    let answer = edge.send(&request);
    answer.json()["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn what_was_said_while_the_server_was_away_is_told_when_it_is_back() {
    let redis = redis!();
    let (server, edges) = remembering(&redis);
    assert_eq!(say(&edges[0], "one"), "heard 1");
    assert_eq!(say(&edges[0], "two"), "heard 3");
    redis.paused(|| {
        eventually("it is missed", || {
            edges[0].metric("trunkline_state_up", &[]) == 0.0
        });
        assert_eq!(say(&edges[0], "three"), "heard 5");
        assert_eq!(say(&edges[0], "four"), "heard 7");
    });
    up(&edges, 3.0);
    // it has what was said before, and this edge the rest
    assert_eq!(say(&edges[0], "five"), "heard 9");
    assert_eq!(say(&edges[1], "six"), "heard 11");
    assert_eq!(say(&edges[0], "seven"), "heard 13");
    let sent = server.seen().pop().unwrap().json();
    let said = sent["messages"].as_array().unwrap().iter().step_by(2);
    let said: Vec<_> = said
        .map(|one| one["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        said,
        ["one", "two", "three", "four", "five", "six", "seven"]
    );
}

#[test]
fn a_race_that_nobody_waits_for_leaves_nothing_in_flight_at_the_other_edges() {
    let redis = redis!();
    let (first, load) = Server::held("first");
    let (second, other) = Server::held("second");
    let yaml = format!(
        r#"
{}
pools:
  a: {{ servers: [{{ url: "{}" }}, {{ url: "{}", backup: true }}], health: false, limits: {{ concurrent: 2 }} }}
routes: [{{ name: all, pool: a, retry: {{ budget: 100% }}, hedge: {{ after: 400ms }} }}]
"#,
        redis.state(),
        first.url(),
        second.url()
    );
    let edges: Vec<Gateway> = (0..2).map(|_| Gateway::start(&yaml)).collect();
    up(&edges, 2.0);
    let speech = Request::json("/v1/audio/speech", r#"{"input":"hello","voice":"v"}"#);
    let mut stream = crate::support::client::connect(edges[0].address);
    stream.write_all(&speech.bytes()).unwrap();
    eventually("the first is asked", || load.now() == 1);
    // the second one's place is asked for, and the answer is not here when the client leaves
    redis.paused(|| {
        std::thread::sleep(Duration::from_millis(700));
        drop(stream);
        let aborted = &edges[0].access_log(1)[0]["termination"];
        assert_eq!(aborted, "client_abort");
    });
    up(&edges, 2.0);
    let failures = edges[0].metric("trunkline_state_failures_total", &[]);
    assert_eq!(failures, 0.0, "it was back in time");
    eventually("both places are free", || {
        redis.ask("HGETALL trunkline:limit:pool:a:concurrent") == "*0\r\n"
    });
    drop((load, other));
}

#[test]
fn a_connection_that_the_server_closes_is_made_anew() {
    let redis = redis!();
    let (_server, edges) = remembering(&redis);
    assert_eq!(say(&edges[0], "one"), "heard 1");
    assert_eq!(say(&edges[1], "two"), "heard 3");
    // it closes what is idle, as many are set up to: of two connections the one for what is large
    assert_eq!(redis.ask("CONFIG SET timeout 2"), "+OK\r\n");
    eventually("only those that say something are there", || {
        redis.ask("CLIENT LIST").matches(" addr=").count() == edges.len() + 1
    });
    assert_eq!(redis.ask("CONFIG SET timeout 0"), "+OK\r\n");
    edges.iter().for_each(|edge| _ = say(edge, "?"));
    up(&edges, 3.0);
    let told = say(&edges[0], "three");
    let count = |told: &str| told.strip_prefix("heard ").unwrap().parse::<u32>().unwrap();
    // with what it could not tell while it was cut off
    let next = say(&edges[2], "four");
    assert!(count(&next) >= count(&told) + 2, "{told}, {next}");
}

#[test]
fn a_conversation_goes_on_at_whichever_edge_is_asked() {
    let mut redis = redis!();
    let (server, edges) = remembering(&redis);
    // no wait in between: it is told before the client has its answer
    for turn in 0..6 {
        assert_eq!(
            say(&edges[turn % 3], "hello"),
            format!("heard {}", 2 * turn + 1)
        );
    }
    let sent = server.seen().pop().unwrap().json();
    assert_eq!(sent["messages"][1]["content"], "heard 1");
    // two at once: both are there afterwards
    std::thread::scope(|scope| {
        scope.spawn(|| say(&edges[0], "left"));
        scope.spawn(|| say(&edges[1], "right"));
    });
    assert_eq!(say(&edges[2], "hello"), "heard 17");
    // without the server each goes on with what it knows
    redis.kill();
    assert_eq!(say(&edges[2], "hello"), "heard 19");
}

#[test]
fn an_id_that_one_edge_handed_out_leads_back_from_all() {
    let redis = redis!();
    let maker = |name: &'static str| {
        Server::fake(move |seen, wire| {
            wire.json(&format!(
                r#"{{"id":"file-{name}","object":"file","path":"{}"}}"#,
                seen.target
            ));
            true
        })
    };
    let (a, b) = (maker("a"), maker("b"));
    let yaml = format!(
        "{}\npools: {{ a: {{ servers: [\"{}\", \"{}\"], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        redis.state(),
        a.url(),
        b.url()
    );
    let edges = three(&yaml);
    for round in 0..6 {
        let (kind, form) = crate::support::form(&[("purpose", "batch")], b"{}", true);
        let upload = Request::new("POST", "/v1/files")
            .header("content-type", &kind)
            .body(form);
        let made = edges[round % 3].send(&upload).json();
        let id = made["id"].as_str().unwrap().to_owned();
        assert!(id.len() > "file-a".len(), "{id}");
        for edge in &edges {
            let found = edge.get(&format!("/v1/files/{id}"));
            assert_eq!(found.status, 200, "{}", found.text());
            // the same server gave it the same name
            assert_eq!(found.json()["id"], id.as_str());
        }
    }
}
