//! Answers that are kept: for whom, how long, and what never is.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::support::{Answer, Gateway, Request, Server, eventually, form};

/// A box whose answers all differ: each tells how many there were before.
fn counting() -> Server {
    let count = AtomicUsize::new(0);
    Server::fake(move |_, wire| {
        let n = count.fetch_add(1, SeqCst);
        wire.answer(200, &[("content-type", "audio/mpeg")], format!("audio {n}"));
        true
    })
}

fn config(server: &Server, route: &str) -> String {
    format!(
        "pools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ name: r, pool: a, {route} }}]\n",
        server.url()
    )
}

fn keeping(server: &Server, cache: &str) -> Gateway {
    Gateway::start(&config(server, &format!("cache: {cache}")))
}

fn say(text: &str) -> Request {
    let body = format!(r#"{{"model":"tts-1","voice":"nova","input":"{text}"}}"#);
    Request::json("/v1/audio/speech", &body)
}

fn told(answer: &Answer) -> (&str, String) {
    (answer.header("x-cache").unwrap_or("-"), answer.text())
}

fn requests(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("trunkline_cache_requests_total", &[("result", result)])
}

#[test]
fn the_same_is_asked_for_once() {
    let server = counting();
    let gateway = keeping(&server, "true");
    let first = gateway.send(&say("hi"));
    assert_eq!(told(&first), ("miss", "audio 0".to_owned()));
    assert_eq!(first.header("x-backend").unwrap(), "a/127.0.0.1");
    let second = gateway.send(&say("hi").header("x-request-id", "mine"));
    assert_eq!(told(&second), ("hit", "audio 0".to_owned()));
    assert_eq!(second.header("x-backend"), Some("cache"));
    assert_eq!(second.header("content-type"), Some("audio/mpeg"));
    assert_eq!(second.header("x-request-id"), Some("mine"));
    let age: u64 = second.header("age").unwrap().parse().unwrap();
    assert!(age < 60);
    assert_eq!(
        told(&gateway.send(&say("ho"))),
        ("miss", "audio 1".to_owned())
    );
    assert_eq!(server.seen().len(), 2);
    let log = gateway.access_log(3);
    // a line is written behind its answer, when the next one may be on its way already
    let of = |cache: &'static str| log.iter().filter(move |line| line["cache"] == cache);
    assert_eq!((of("miss").count(), of("hit").count()), (2, 1));
    let hit = of("hit").next().unwrap();
    assert_eq!(hit["termination"], "complete");
    assert!(hit["attempts"].as_array().unwrap().is_empty());
    assert_eq!(
        (requests(&gateway, "hit"), requests(&gateway, "miss")),
        (1.0, 2.0)
    );
    assert_eq!(gateway.metric("trunkline_attempts_total", &[]), 2.0);
    assert!(gateway.metric("trunkline_cache_bytes", &[("tier", "memory")]) > 0.0);
}

#[test]
fn order_and_spaces_of_the_request_make_no_difference_and_all_else_does() {
    let server = counting();
    let gateway = keeping(&server, "true");
    let ask = |body: &str| told(&gateway.post("/v1/audio/speech", body)).0.to_owned();
    assert_eq!(
        ask(r#"{"model":"m","input":"a","x":{"b":1,"c":2}}"#),
        "miss"
    );
    assert_eq!(
        ask(r#"{ "x": {"c":2, "b":1}, "input":"\u0061","model":"m" }"#),
        "hit"
    );
    assert_eq!(
        ask(r#"{"model":"m","input":"a","x":{"b":1,"c":2},"stream":true}"#),
        "hit"
    );
    for other in [
        r#"{"model":"n","input":"a","x":{"b":1,"c":2}}"#,
        r#"{"model":"m","input":"A","x":{"b":1,"c":2}}"#,
        r#"{"model":"m","input":"a","x":{"b":1,"c":3}}"#,
        r#"{"model":"m","input":"a","x":{"b":1,"c":2},"y":null}"#,
        r#"{"model":"m","input":"a","x":{"b":1,"c":2},"stream_format":"sse"}"#,
    ] {
        assert_eq!(ask(other), "miss", "{other}");
    }
    let elsewhere = Request::json("/v1/audio/speech?x=1", r#"{"model":"n","input":"a"}"#);
    assert_eq!(told(&gateway.send(&elsewhere)).0, "miss");
}

#[test]
fn two_callers_never_see_each_others_answers() {
    let server = counting();
    let gateway = keeping(&server, "true");
    let mut seen = Vec::new();
    for (name, value) in [
        ("authorization", "Bearer sk-a"),
        ("authorization", "Bearer sk-b"),
        ("authorization", "Bearer SK-A"),
        ("x-api-key", "sk-a"),
        ("api-key", "sk-a"),
        ("user-agent", "nothing is shown"),
    ] {
        let request = say("hi").header(name, value);
        let answer = gateway.send(&request);
        assert_eq!(answer.header("x-cache"), Some("miss"), "{name}: {value}");
        assert!(!seen.contains(&answer.body));
        seen.push(answer.body);
        assert_eq!(
            told(&gateway.send(&request)).1.as_bytes(),
            seen.last().unwrap()
        );
    }
    assert_eq!(server.seen().len(), seen.len());
    // nor while one of them is still being answered
    let (gate, server) = gated();
    let gateway = keeping(&server, "true");
    let both: Vec<_> = ["Bearer a", "Bearer b"]
        .map(|key| gateway.send_aside(&say("hi").header("authorization", key)))
        .into();
    eventually("both ask", || server.seen().len() == 2);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    for answer in both {
        assert_eq!(answer.join().unwrap().header("x-cache"), Some("miss"));
    }
}

#[test]
fn a_shared_answer_serves_every_caller() {
    let server = counting();
    let gateway = keeping(&server, "{ shared: true }");
    for (n, key) in ["Bearer a", "Bearer b", ""].iter().enumerate() {
        let answer = gateway.send(&say("hi").header("authorization", key));
        let expected = if n == 0 { "miss" } else { "hit" };
        assert_eq!(told(&answer), (expected, "audio 0".to_owned()));
    }
    // what another one makes of it with a header of the server's own is not for all
    let odd = gateway.send(&say("hi").header("x-raw-response", "1"));
    assert_eq!(told(&odd), ("miss", "audio 1".to_owned()));
}

#[test]
fn without_the_key_nothing_is_said_of_a_cache() {
    let server = counting();
    let gateway = keeping(&server, "false");
    for _ in 0..2 {
        assert_eq!(gateway.send(&say("hi")).header("x-cache"), None);
    }
    assert_eq!(server.seen().len(), 2);
    assert!(gateway.access_log(2)[0].get("cache").is_none());
    assert_eq!(
        gateway
            .ask_admin("/metrics")
            .text()
            .matches("trunkline_cache")
            .count(),
        0
    );
}

#[test]
fn an_answer_is_served_until_it_is_too_old() {
    let server = counting();
    let gateway = keeping(&server, "{ ttl: 300ms }");
    assert_eq!(told(&gateway.send(&say("hi"))).1, "audio 0");
    eventually("a new one", || {
        told(&gateway.send(&say("hi"))).1 == "audio 1"
    });
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn clients_may_want_a_new_answer_or_none_kept() {
    let server = counting();
    let gateway = keeping(&server, "true");
    let ask = |word: &str| {
        let answer = gateway.send(&say("hi").header("cache-control", word));
        let (cache, text) = told(&answer);
        format!("{cache}: {text}")
    };
    assert_eq!(ask("no-store"), "bypass: audio 0");
    assert_eq!(ask("max-age=600"), "miss: audio 1");
    assert_eq!(ask("no-store"), "bypass: audio 2");
    assert_eq!(ask("max-age=600"), "hit: audio 1");
    assert_eq!(ask("no-cache"), "miss: audio 3");
    assert_eq!(ask("public"), "hit: audio 3");
    assert_eq!(ask("max-age=0"), "miss: audio 4");
    assert_eq!(ask("x"), "hit: audio 4");
    assert_eq!(requests(&gateway, "bypass"), 2.0);
}

#[test]
fn what_is_no_good_answer_is_never_kept() {
    let server = Server::fake(|seen, wire| {
        let what = seen.json()["input"].as_str().unwrap().to_owned();
        let audio = ("content-type", "audio/mpeg");
        match what.as_str() {
            "500" => wire.answer(500, &[audio], "x"),
            "404" => wire.answer(404, &[audio], "x"),
            "201" => wire.answer(201, &[audio], "x"),
            "cookie" => wire.answer(200, &[audio, ("set-cookie", "a=b")], "x"),
            "no-store" => wire.answer(200, &[audio, ("cache-control", "no-store")], "x"),
            "private" => wire.answer(200, &[audio, ("cache-control", "private, max-age=60")], "x"),
            "vary" => wire.answer(200, &[audio, ("vary", "user-agent")], "x"),
            "json" => wire.answer(200, &[("content-type", "application/json")], r#"{"a":1}"#),
            "short" => {
                wire.raw("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 100\r\n\r\nshort");
                return false;
            }
            "cut" => {
                wire.chunked("audio/mpeg");
                wire.chunk("cut");
                return false;
            }
            _ => {
                wire.raw("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n\r\nuntil the end");
                return false;
            }
        }
        true
    });
    let gateway = keeping(&server, "true");
    let kinds = [
        "500", "404", "201", "cookie", "no-store", "private", "vary", "json", "short", "cut", "end",
    ];
    for kind in kinds {
        let before = server.seen().len();
        for _ in 0..2 {
            assert_eq!(
                gateway.send(&say(kind)).header("x-cache"),
                Some("miss"),
                "{kind}"
            );
        }
        assert!(server.seen().len() >= before + 2, "{kind}");
    }
    assert_eq!(gateway.metric("trunkline_cache_bytes", &[]), 0.0);
}

#[test]
fn an_answer_too_large_passes_whole_and_is_not_kept() {
    let server = Server::fake(|seen, wire| {
        let large = vec![b'x'; 3_000_000];
        if seen.json()["input"] == "chunks" {
            wire.chunked("audio/mpeg");
            large.chunks(65_536).for_each(|chunk| wire.chunk(chunk));
            wire.end();
        } else {
            wire.answer(200, &[("content-type", "audio/mpeg")], large);
        }
        true
    });
    let gateway = keeping(&server, "{ max_object: 1MiB }");
    for text in ["chunks", "length"] {
        for _ in 0..2 {
            let answer = gateway.send(&say(text));
            assert_eq!(
                (answer.header("x-cache"), answer.body.len()),
                (Some("miss"), 3_000_000)
            );
            assert!(answer.whole);
        }
    }
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn memory_is_bounded_and_the_oldest_goes_first() {
    let server = Server::fake(|_, wire| {
        wire.answer(200, &[("content-type", "audio/mpeg")], vec![0; 300_000]);
        true
    });
    let yaml = config(&server, "cache: true");
    let gateway = Gateway::start(&format!("{yaml}cache: {{ memory: 1MiB }}\n"));
    for text in ["1", "2", "3", "4", "5"] {
        gateway.send(&say(text));
    }
    assert!(gateway.metric("trunkline_cache_bytes", &[]) <= 1_048_576.0);
    assert_eq!(
        gateway.metric("trunkline_cache_evictions_total", &[("tier", "memory")]),
        2.0
    );
    assert_eq!(told(&gateway.send(&say("5"))).0, "hit");
    assert_eq!(told(&gateway.send(&say("1"))).0, "miss");
}

#[test]
fn transcriptions_are_known_by_what_the_file_holds() {
    let server = Server::fake(|_, wire| {
        wire.json(r#"{"text":"hi"}"#);
        true
    });
    let gateway = keeping(&server, "true");
    let ask = |fields: &[(&str, &str)], file: &[u8], boundary: &str, first: bool| {
        let (_, body) = form(fields, file, first);
        let body = String::from_utf8(body)
            .unwrap()
            .replace("BOUNDARY", boundary);
        let request = Request::new("POST", "/v1/audio/transcriptions")
            .header(
                "content-type",
                &format!("multipart/form-data; boundary={boundary}"),
            )
            .body(body);
        told(&gateway.send(&request)).0.to_owned()
    };
    let model = ("model", "whisper-1");
    let word = ("timestamp_granularities[]", "word");
    let file = vec![b'a'; 2_000_000];
    assert_eq!(ask(&[model], &file, "one", false), "miss");
    assert_eq!(ask(&[model], &file, "two", true), "hit");
    assert_eq!(ask(&[model], &file[1..], "two", false), "miss");
    assert_eq!(ask(&[model, word], &file, "two", false), "miss");
    assert_eq!(ask(&[word, model], &file, "three", false), "hit");
    assert_eq!(ask(&[("model", "whisper-2")], &file, "two", false), "miss");
}

#[test]
fn chat_is_kept_only_where_the_next_answer_would_be_the_same() {
    let server = Server::fake(|seen, wire| {
        if seen.json()["stream"] == true {
            wire.chunked("text/event-stream");
            wire.chunk("data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n");
            if seen.json()["user"] != "no end" {
                wire.chunk("data: [DONE]\n\n");
            }
            wire.end();
        } else {
            wire.json(r#"{"choices":[]}"#);
        }
        true
    });
    let gateway = keeping(&server, "true");
    let ask = |gateway: &Gateway, more: &str| {
        let body = format!(r#"{{"model":"m","messages":[]{more}}}"#);
        let request = Request::json("/v1/chat/completions", &body);
        [(), ()]
            .map(|()| told(&gateway.send(&request)).0.to_owned())
            .join(" ")
    };
    assert_eq!(ask(&gateway, ""), "bypass bypass");
    assert_eq!(ask(&gateway, r#","temperature":0.7"#), "bypass bypass");
    assert_eq!(ask(&gateway, r#","temperature":0"#), "miss hit");
    assert_eq!(
        ask(&gateway, r#","temperature":0,"stream":true"#),
        "miss hit"
    );
    assert_eq!(
        ask(
            &gateway,
            r#","temperature":0,"stream":true,"user":"no end""#
        ),
        "miss miss"
    );
    let all = keeping(&server, "{ chat: true }");
    assert_eq!(ask(&all, r#","temperature":0.7"#), "miss hit");
    let body = r#"{"model":"m","temperature":0,"messages":[],"stream":true}"#;
    let kept = gateway.post("/v1/chat/completions", body);
    assert_eq!(kept.header("content-type"), Some("text/event-stream"));
    assert!(kept.text().ends_with("data: [DONE]\n\n"));
}

/// A box that answers when it is told to.
fn gated() -> (Sender<()>, Server) {
    let (open, gate): (Sender<()>, Receiver<()>) = channel();
    let gate = Mutex::new(gate);
    let count = AtomicUsize::new(0);
    let server = Server::fake(move |_, wire| {
        let n = count.fetch_add(1, SeqCst);
        let _ = gate.lock().unwrap().recv();
        wire.answer(200, &[("content-type", "audio/mpeg")], format!("audio {n}"));
        true
    });
    (open, server)
}

#[test]
fn many_who_ask_the_same_at_once_are_one_request() {
    let (gate, server) = gated();
    let gateway = keeping(&server, "true");
    let all: Vec<_> = (0..50).map(|_| gateway.send_aside(&say("hi"))).collect();
    eventually("all of them are there", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 50.0
    });
    gate.send(()).unwrap();
    let answers: Vec<Answer> = all
        .into_iter()
        .map(|answer| answer.join().unwrap())
        .collect();
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.text() == "audio 0")
    );
    assert_eq!(server.seen().len(), 1);
    let (hits, misses) = (
        requests(&gateway, "coalesced") + requests(&gateway, "hit"),
        requests(&gateway, "miss"),
    );
    assert_eq!((hits, misses), (49.0, 1.0));
}

/// A box that sends a piece each time it is told to, and ends its answer when nobody tells it any
/// more; the word says how it ends.
fn streaming(how: &'static str) -> (Sender<&'static str>, Server) {
    let (say, words) = channel();
    let words = Mutex::new(words);
    let server = Server::fake(move |_, wire| {
        wire.chunked("audio/mpeg");
        wire.chunk("begin ");
        for word in words.lock().unwrap().iter() {
            wire.chunk(word);
        }
        if how == "whole" {
            wire.end();
        }
        how == "whole"
    });
    (say, server)
}

/// Waits for a piece of a body.
fn read_until(stream: &mut std::net::TcpStream, mark: &str) {
    use std::io::Read;
    let mut text = String::new();
    while !text.contains(mark) {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "{mark} is not in {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
}

fn begin(gateway: &Gateway, request: &Request) -> std::net::TcpStream {
    use std::io::Write;
    let mut stream = crate::support::client::connect(gateway.address);
    stream.write_all(&request.bytes()).unwrap();
    stream
}

#[test]
fn who_waits_reads_along_and_outlasts_a_leader_that_leaves() {
    let (words, server) = streaming("whole");
    let gateway = keeping(&server, "true");
    let mut leader = begin(&gateway, &say("hi"));
    read_until(&mut leader, "begin ");
    let mut follower = begin(&gateway, &say("hi"));
    read_until(&mut follower, "begin ");
    words.send("middle ").unwrap();
    read_until(&mut follower, "middle ");
    drop(leader);
    words.send("more ").unwrap();
    read_until(&mut follower, "more ");
    drop(words);
    read_until(&mut follower, "0\r\n\r\n");
    assert_eq!(
        told(&gateway.send(&say("hi"))),
        ("hit", "begin middle more ".to_owned())
    );
    assert_eq!(server.seen().len(), 1);
    let log = gateway.access_log(3);
    let ends = |cache: &str| {
        let line = log.iter().find(|line| line["cache"] == cache).unwrap();
        line["termination"].as_str().unwrap().to_owned()
    };
    assert_eq!(ends("miss"), "client_abort");
    assert_eq!(ends("coalesced"), "complete");
}

#[test]
fn a_leader_that_leaves_before_its_answer_hands_over_to_one_of_the_others() {
    let (gate, server) = gated();
    let gateway = keeping(&server, "true");
    let leader = begin(&gateway, &say("hi"));
    eventually("it is asked", || server.seen().len() == 1);
    let others: Vec<_> = (0..10).map(|_| gateway.send_aside(&say("hi"))).collect();
    eventually("all wait", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 11.0
    });
    drop(leader);
    eventually("one of them asks", || server.seen().len() == 2);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    for other in others {
        assert_eq!(other.join().unwrap().text(), "audio 1");
    }
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn who_waited_for_a_leader_that_failed_asks_itself() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (open, gate): (Sender<()>, Receiver<()>) = channel();
    let (gate, count) = (Mutex::new(gate), asked.clone());
    let server = Server::fake(move |_, wire| {
        if count.fetch_add(1, SeqCst) == 0 {
            let _ = gate.lock().unwrap().recv();
            wire.answer(400, &[("content-type", "application/json")], "{}");
        } else {
            wire.answer(200, &[("content-type", "audio/mpeg")], "audio");
        }
        true
    });
    let gateway = keeping(&server, "true");
    let leader = gateway.send_aside(&say("hi"));
    eventually("it is asked", || asked.load(SeqCst) == 1);
    let others: Vec<_> = (0..5).map(|_| gateway.send_aside(&say("hi"))).collect();
    eventually("all wait", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 6.0
    });
    open.send(()).unwrap();
    assert_eq!(leader.join().unwrap().status, 400);
    for other in others {
        let answer = other.join().unwrap();
        assert_eq!((answer.status, answer.text()), (200, "audio".to_owned()));
    }
    // who came in only behind the failure may have found what another one got
    assert!((2..=6).contains(&asked.load(SeqCst)));
    assert_eq!(told(&gateway.send(&say("hi"))).0, "hit");
}

#[test]
fn an_answer_that_breaks_off_is_whole_for_nobody() {
    let (words, server) = streaming("cut");
    let gateway = keeping(&server, "true");
    let leader = gateway.send_aside(&say("hi"));
    eventually("it is asked", || server.seen().len() == 1);
    let mut follower = begin(&gateway, &say("hi"));
    read_until(&mut follower, "begin ");
    drop(words);
    let rest = {
        use std::io::Read;
        let mut rest = Vec::new();
        let _ = follower.read_to_end(&mut rest);
        rest
    };
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"));
    assert!(!leader.join().unwrap().whole);
    assert_eq!(told(&gateway.send(&say("hi"))).0, "miss");
    let log = gateway.access_log(3);
    assert!(
        log.iter()
            .all(|line| line["termination"] == "upstream_abort"),
        "{log:?}"
    );
}

#[test]
fn a_client_of_http2_gets_the_same_answer() {
    let server = counting();
    let yaml = config(&server, "cache: true");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: '127.0.0.1:0', h2c: true }}]\n{yaml}"
    ));
    assert_eq!(told(&gateway.send(&say("hi"))).0, "miss");
    let client = crate::support::Http2::plain(gateway.address);
    let body = br#"{"model":"tts-1","voice":"nova","input":"hi"}"#;
    let json = [("content-type", "application/json")];
    let answer = client.ask("POST", "/v1/audio/speech", &json, body);
    assert_eq!(told(&answer), ("hit", "audio 0".to_owned()));
}

#[test]
fn a_reload_keeps_what_is_kept_and_another_rule_is_another_key() {
    let server = counting();
    let gateway = keeping(&server, "true");
    gateway.send(&say("hi"));
    let write = |more: &str| {
        let text = std::fs::read_to_string(gateway.config_path()).unwrap();
        std::fs::write(
            gateway.config_path(),
            text.replace("name: r,", &format!("name: r, {more},")),
        )
        .unwrap();
        let answer = Request::new("POST", "/reload").send(gateway.admin);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    write("max_body: 1MiB");
    assert_eq!(
        told(&gateway.send(&say("hi"))),
        ("hit", "audio 0".to_owned())
    );
    write("default: { speed: 1.5 }");
    assert_eq!(
        told(&gateway.send(&say("hi"))),
        ("miss", "audio 1".to_owned())
    );
}

#[test]
fn an_operator_can_have_it_all_forgotten() {
    let server = counting();
    let gateway = keeping(&server, "true");
    gateway.send(&say("hi"));
    let clear = |what: &[&str]| {
        let run = std::process::Command::new(crate::support::gateway::BINARY)
            .args(what)
            .args(["--admin", &gateway.admin.to_string()])
            .output()
            .unwrap();
        String::from_utf8(run.stdout).unwrap()
    };
    assert_eq!(
        clear(&["cache", "clear"]),
        "1 answers in memory and 0 on disk are forgotten\n"
    );
    assert_eq!(
        told(&gateway.send(&say("hi"))),
        ("miss", "audio 1".to_owned())
    );
    assert_eq!(gateway.ask_admin("/cache/clear").status, 405);
}

#[test]
fn what_does_not_fit_is_said() {
    let server = counting();
    let yaml = config(&server, "cache: { ttl: 0s, max_object: 1GiB }");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    std::fs::write(&file, yaml).unwrap();
    let run = std::process::Command::new(crate::support::gateway::BINARY)
        .arg("check-config")
        .arg(&file)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    assert!(said.contains("nothing is kept for no time"), "{said}");
    assert!(said.contains("more than all of `cache.memory`"), "{said}");
}

/// A gateway that keeps speech in a folder of the test's.
fn on_disk(server: &Server, folder: &std::path::Path) -> Gateway {
    let disk = folder.join("cache").display().to_string();
    let yaml = config(server, "cache: true");
    Gateway::start(&format!(
        "{yaml}cache: {{ disk: {{ path: '{disk}', size: 1MiB }} }}\n"
    ))
}

/// The files of answers in a folder.
fn kept_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let inside = |folder: &std::path::Path| {
        let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let folders = inside(&folder.join("cache"));
    folders.iter().flat_map(|folder| inside(folder)).collect()
}

#[test]
fn speech_on_disk_outlives_the_program_and_nothing_else_goes_there() {
    let (server, folder) = (counting(), tempfile::tempdir().unwrap());
    let first = on_disk(&server, folder.path());
    let chat = Request::json("/v1/chat/completions", r#"{"model":"m","temperature":0}"#);
    assert_eq!(told(&first.send(&chat)).1, "audio 0");
    assert_eq!(told(&first.send(&say("hi"))).1, "audio 1");
    eventually("it is written", || kept_files(folder.path()).len() == 1);
    eventually("it is counted", || {
        first.metric("trunkline_cache_bytes", &[("tier", "disk")]) > 0.0
    });
    drop(first);
    let second = on_disk(&server, folder.path());
    let other = say("hi").header("authorization", "Bearer other");
    assert_eq!(told(&second.send(&other)), ("miss", "audio 2".to_owned()));
    let answer = second.send(&say("hi"));
    assert_eq!(told(&answer), ("hit", "audio 1".to_owned()));
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
    assert_eq!(told(&second.send(&chat)), ("miss", "audio 3".to_owned()));
    eventually("both are there", || kept_files(folder.path()).len() == 2);
    let answer = Request::new("POST", "/cache/clear").send(second.admin);
    assert_eq!(
        answer.text(),
        "3 answers in memory and 2 on disk are forgotten\n"
    );
    assert!(kept_files(folder.path()).is_empty());
}

#[test]
fn a_file_that_was_cut_or_changed_is_no_answer() {
    let (server, folder) = (counting(), tempfile::tempdir().unwrap());
    for n in 0..2 {
        let gateway = on_disk(&server, folder.path());
        let expected = ("miss", format!("audio {n}"));
        assert_eq!(told(&gateway.send(&say("hi"))), expected);
        eventually("it is written", || kept_files(folder.path()).len() == 1);
        drop(gateway);
        let file = kept_files(folder.path()).remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        match n {
            0 => drop(bytes.pop()),
            _ => *bytes.last_mut().unwrap() ^= 1,
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(
        told(&on_disk(&server, folder.path()).send(&say("hi"))).0,
        "miss"
    );
}

#[test]
fn the_disk_is_bounded_too() {
    let server = Server::fake(|_, wire| {
        wire.answer(200, &[("content-type", "audio/mpeg")], vec![0; 300_000]);
        true
    });
    let folder = tempfile::tempdir().unwrap();
    let gateway = on_disk(&server, folder.path());
    for text in ["1", "2", "3", "4", "5"] {
        gateway.send(&say(text));
    }
    eventually("two had to go", || {
        gateway.metric("trunkline_cache_evictions_total", &[("tier", "disk")]) == 2.0
    });
    assert_eq!(kept_files(folder.path()).len(), 3);
}

#[test]
fn a_disk_that_cannot_be_used_costs_no_answer() {
    let (server, folder) = (counting(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("cache"), "no folder").unwrap();
    let gateway = on_disk(&server, folder.path());
    assert!(gateway.stderr().contains("no answers are kept in"));
    assert_eq!(told(&gateway.send(&say("hi"))).0, "miss");
    assert_eq!(told(&gateway.send(&say("hi"))).0, "hit");
}
