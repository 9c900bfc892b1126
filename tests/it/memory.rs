//! The memory of a route: what is said in a session is put before its next words.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Request, Seen, Server, Wire, eventually};

const CHAT: &str = "/v1/chat/completions";
const EVENTS: &str = "text/event-stream";

/// Answers each request with `a` and what was last said to it; streams in pieces that end anywhere.
pub fn echo() -> Server {
    Server::fake(|seen, wire| {
        let last = seen.json()["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        let text = format!("a:{}", last.as_str().unwrap_or("-"));
        if seen.json()["stream"] == true {
            stream(wire, &text);
        } else {
            whole(
                wire,
                json!({ "role": "assistant", "content": text, "refusal": null }),
            );
        }
        true
    })
}

fn whole(wire: &mut Wire, message: Value) {
    let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
    wire.json(&json!({ "object": "chat.completion", "choices": [choice] }).to_string());
}

fn event(delta: Value) -> String {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": null });
    format!("data: {}\n\n", json!({ "choices": [choice] }))
}

fn stream(wire: &mut Wire, text: &str) {
    let mut events = event(json!({ "role": "assistant", "content": "" }));
    for letter in text.chars() {
        events += &event(json!({ "content": letter }));
    }
    events += "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    wire.chunked(EVENTS);
    for piece in events.as_bytes().chunks(23) {
        wire.chunk(piece);
    }
    wire.end();
}

fn config(server: &Server, memory: &str, route: &str) -> String {
    format!(
        "pools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ name: r, pool: a, memory: {memory}, {route} }}]\n",
        server.url()
    )
}

fn by_header(server: &Server) -> Gateway {
    Gateway::start(&config(server, "{ by: header x-session-id }", ""))
}

fn user(words: &str) -> Value {
    json!({ "role": "user", "content": words })
}

fn assistant(words: &str) -> Value {
    json!({ "role": "assistant", "content": words })
}

fn asks(session: &str, messages: &Value) -> Request {
    let body = json!({ "model": "m", "messages": messages }).to_string();
    Request::json(CHAT, &body).header("x-session-id", session)
}

fn says(session: &str, words: &str) -> Request {
    asks(session, &json!([user(words)]))
}

fn streams(session: &str, words: &str) -> Request {
    let body = json!({ "model": "m", "stream": true, "messages": [user(words)] }).to_string();
    Request::json(CHAT, &body).header("x-session-id", session)
}

/// What was said to a server, in one line: `s`ystem, `u`ser, `a`ssistant, `t`ool.
fn told(seen: &Seen) -> String {
    let all = seen.json()["messages"].as_array().unwrap().clone();
    let word = |message: &Value| {
        let role = message["role"].as_str().unwrap()[..1].to_owned();
        match message["tool_calls"][0]["id"].as_str() {
            Some(id) => format!("{role}({id})"),
            None => format!("{role}[{}]", message["content"].as_str().unwrap_or("-")),
        }
    };
    all.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn last(server: &Server) -> String {
    told(server.seen().last().unwrap())
}

fn added(answer: &Answer) -> (u16, &str, &str) {
    let header = |name: &str| answer.header(name).unwrap_or("-");
    (
        answer.status,
        header("x-memory"),
        header("x-memory-dropped"),
    )
}

#[test]
fn a_session_goes_on_where_it_was() {
    let server = echo();
    let gateway = by_header(&server);
    assert_eq!(added(&gateway.send(&says("s", "1"))), (200, "0", "-"));
    assert_eq!(added(&gateway.send(&says("s", "2"))), (200, "2", "-"));
    assert_eq!(last(&server), "u[1] a[a:1] u[2]");
    assert_eq!(added(&gateway.send(&says("s", "3"))), (200, "4", "-"));
    assert_eq!(last(&server), "u[1] a[a:1] u[2] a[a:2] u[3]");
    // what servers refuse of each other is not among it
    let message = server.seen()[2].json()["messages"][1].clone();
    assert_eq!(message, assistant("a:1"));
    assert_eq!(gateway.metric("trunkline_sessions", &[]), 1.0);
    assert!(gateway.metric("trunkline_session_bytes", &[]) > 0.0);
}

#[test]
fn a_streamed_answer_is_remembered_too() {
    let server = echo();
    let gateway = by_header(&server);
    let answer = gateway.send(&streams("s", "é\n\"1\""));
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(added(&gateway.send(&streams("s", "2"))), (200, "2", "-"));
    assert_eq!(last(&server), "u[é\n\"1\"] a[a:é\n\"1\"] u[2]");
    gateway.send(&says("s", "3"));
    assert_eq!(last(&server), "u[é\n\"1\"] a[a:é\n\"1\"] u[2] a[a:2] u[3]");
}

#[test]
fn sessions_callers_and_requests_without_a_session_are_apart() {
    let server = echo();
    let gateway = by_header(&server);
    gateway.send(&says("s", "1"));
    gateway.send(&says("s", "1").header("authorization", "Bearer a"));
    for (request, expected) in [
        (says("t", "2"), "0"),
        (says("S", "2"), "0"),
        (says("s", "2").header("authorization", "Bearer b"), "0"),
        (says("s", "2").header("x-api-key", "a"), "0"),
        (says("s", "2").header("x-data-zone", "home"), "0"),
        (says("s", "2").header("authorization", "Bearer a"), "2"),
        (says("s", "2"), "2"),
        (says("", "2"), "-"),
        (
            Request::json(CHAT, r#"{"messages":[{"role":"user","content":"x"}]}"#),
            "-",
        ),
    ] {
        assert_eq!(added(&gateway.send(&request)), (200, expected, "-"));
    }
    let long = gateway.send(&says(&"x".repeat(257), "1"));
    assert_eq!(
        (long.status, long.code().as_str()),
        (400, "invalid_request")
    );
    assert!(long.text().contains("x-session-id"), "{}", long.text());
    assert_eq!(gateway.send(&says(&"x".repeat(256), "1")).status, 200);
}

#[test]
fn a_key_is_a_caller_wherever_it_is_shown() {
    let server = echo();
    let keys = "keys: [{ name: alice, key: sk-alice-0123456789 }, { name: bob, key: sk-bob-0123456789 }]\n";
    let yaml = config(&server, "{ by: header x-session-id }", "");
    let gateway = Gateway::start(&format!("{keys}{yaml}"));
    let alice = says("s", "1").header("authorization", "Bearer sk-alice-0123456789");
    gateway.send(&alice);
    let elsewhere = says("s", "2").header("x-api-key", "sk-alice-0123456789");
    assert_eq!(added(&gateway.send(&elsewhere)), (200, "2", "-"));
    let bob = says("s", "2").header("authorization", "Bearer sk-bob-0123456789");
    assert_eq!(added(&gateway.send(&bob)), (200, "0", "-"));
    assert_eq!(last(&server), "u[2]");
}

#[test]
fn the_user_of_the_body_may_name_the_session() {
    let server = echo();
    let gateway = Gateway::start(&config(&server, "{ by: user }", ""));
    let ask = |who: Value| {
        let body = json!({ "user": who, "messages": [user("hi")] }).to_string();
        gateway.post(CHAT, &body)
    };
    ask(json!("ann"));
    assert_eq!(added(&ask(json!("ann"))), (200, "2", "-"));
    assert_eq!(server.seen()[1].json()["user"], "ann");
    assert_eq!(added(&ask(json!("ben"))), (200, "0", "-"));
    assert_eq!(added(&ask(json!(7))), (200, "-", "-"));
    for length in [257, 5000] {
        assert_eq!(ask(json!("x".repeat(length))).status, 400);
    }
}

#[test]
fn instructions_stay_first_and_every_other_byte_stays() {
    let server = echo();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompt.txt"), "be kind").unwrap();
    let prompt = "system_prompt_file: prompt.txt";
    let yaml = config(&server, "{ by: header x-session-id }", prompt);
    let gateway = Gateway::start_in(folder, &yaml, &[]);
    gateway.send(&says("s", "1"));
    gateway.send(&says("s", "2"));
    assert_eq!(last(&server), "s[be kind] u[1] a[a:1] u[2]");
    let gateway = by_header(&server);
    gateway.send(&asks(
        "s",
        &json!([{ "role": "developer", "content": "d" }, user("1")]),
    ));
    let body = r#"{ "x" : 1.50, "messages" : [ {"role":"system","content":"s"} , { "content":"\u0032", "role":"user" } ] ,"n":1}"#;
    gateway.send(&Request::json(CHAT, body).header("x-session-id", "s"));
    let before = r#"{"content":"1","role":"user"},{"role":"assistant","content":"a:1"},"#;
    let expected = body.replace(r#"{ "content""#, &format!(r#"{before}{{ "content""#));
    assert_eq!(
        String::from_utf8_lossy(&server.seen().last().unwrap().body),
        expected
    );
    // the client's bytes are what is remembered
    gateway.send(&says("s", "3").chunked(10));
    let got = server.seen().last().unwrap().text();
    assert!(
        got.contains(r#"{ "content":"\u0032", "role":"user" },"#),
        "{got}"
    );
    assert_eq!(last(&server), "u[1] a[a:1] u[2] a[a:2] u[3]");
}

#[test]
fn calls_of_tools_are_remembered_with_their_results() {
    let calls = Mutex::new(0);
    let server = Server::fake(move |seen, wire| {
        let streamed = seen.json()["stream"] == true;
        let messages = seen.json()["messages"].clone();
        let said = messages.as_array().unwrap().last().unwrap().clone();
        if said["content"] != "call" {
            whole(wire, assistant("ok"));
            return true;
        }
        let mut n = calls.lock().unwrap();
        *n += 1;
        let call = |arguments: &str| json!({ "index": 0, "id": format!("c{n}"), "type": "function", "function": { "name": "f", "arguments": arguments } });
        if streamed {
            wire.chunked(EVENTS);
            let more = json!({ "index": 0, "function": { "arguments": "1}" } });
            wire.chunk(event(json!({ "tool_calls": [call("{\"x\":")] })));
            wire.chunk(event(json!({ "tool_calls": [more] })));
            wire.chunk("data: [DONE]\n\n");
            wire.end();
        } else {
            let call = call("{\"x\":1}");
            whole(
                wire,
                json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
            );
        }
        true
    });
    let gateway = by_header(&server);
    gateway.send(&says("s", "hi"));
    let result = |n: u8| json!({ "role": "tool", "tool_call_id": format!("c{n}"), "content": "r" });
    for (n, request) in [(1, says("s", "call")), (2, streams("s", "call"))] {
        gateway.send(&request);
        gateway.send(&asks("s", &json!([result(n)])));
        let got = last(&server);
        assert!(got.ends_with(&format!("u[call] a(c{n}) t[r]")), "{got}");
        let messages = server.seen().last().unwrap().json()["messages"].clone();
        let call = messages
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .nth(1)
            .unwrap()
            .clone();
        assert_eq!(call["tool_calls"][0]["function"]["arguments"], "{\"x\":1}");
    }
    // the loops of SDKs send the call back themselves
    gateway.send(&says("s", "call"));
    let call = json!({ "role": "assistant", "tool_calls": [{ "id": "c3", "type": "function", "function": { "name": "f", "arguments": "{\"x\":1}" } }] });
    let answer = gateway.send(&asks("s", &json!([user("call"), call, result(3)])));
    assert_eq!(added(&answer), (200, "10", "-"));
    let got = last(&server);
    assert!(
        got.starts_with("u[hi] a[ok] u[call] a(c1) t[r] a[ok]"),
        "{got}"
    );
    assert!(got.ends_with("a[ok] u[call] a(c3) t[r]"), "{got}");
    // a call that nobody answers is not told again
    gateway.send(&says("s", "call"));
    let answer = gateway.send(&says("s", "never mind"));
    assert_eq!(added(&answer), (200, "14", "-"));
    assert!(last(&server).ends_with("t[r] a[ok] u[never mind]"));
}

#[test]
fn a_client_that_keeps_its_history_gets_nothing_twice() {
    let server = echo();
    let gateway = by_header(&server);
    gateway.send(&says("s", "1"));
    let own = json!([user("1"), assistant("a:1"), user("2")]);
    assert_eq!(added(&gateway.send(&asks("s", &own))), (200, "0", "-"));
    assert_eq!(last(&server), "u[1] a[a:1] u[2]");
    gateway.send(&says("s", "3"));
    assert_eq!(last(&server), "u[1] a[a:1] u[2] a[a:2] u[3]");
    let other = json!([user("x"), assistant("y"), user("z")]);
    assert_eq!(added(&gateway.send(&asks("s", &other))), (200, "0", "-"));
    assert_eq!(last(&server), "u[x] a[y] u[z]");
    gateway.send(&says("s", "4"));
    assert_eq!(last(&server), "u[x] a[y] u[z] a[a:z] u[4]");
}

#[test]
fn a_session_is_forgotten_when_nothing_is_said() {
    let server = echo();
    let gateway = Gateway::start(&config(
        &server,
        "{ by: header x-session-id, ttl: 300ms }",
        "",
    ));
    gateway.send(&says("s", "1"));
    eventually("it is over", || {
        gateway.metric("trunkline_sessions", &[]) == 0.0
    });
    assert_eq!(added(&gateway.send(&says("s", "2"))), (200, "0", "-"));
}

#[test]
fn what_is_too_much_goes_from_the_oldest_and_is_told() {
    let server = echo();
    let memory = "{ by: header x-session-id, messages: 4, bytes: 300B }";
    let gateway = Gateway::start(&config(&server, memory, ""));
    for (words, expected) in [
        ("1", ("0", "-")),
        ("2", ("2", "-")),
        ("3", ("4", "-")),
        ("4", ("4", "2")),
    ] {
        let answer = gateway.send(&says("s", words));
        assert_eq!(added(&answer), (200, expected.0, expected.1), "{words}");
    }
    assert_eq!(last(&server), "u[2] a[a:2] u[3] a[a:3] u[4]");
    // one that fits in no way is not kept; those before it are
    let long = "x".repeat(400);
    gateway.send(&says("s", &long));
    assert_eq!(added(&gateway.send(&streams("s", &long))), (200, "4", "6"));
    assert_eq!(added(&gateway.send(&says("s", "5"))), (200, "4", "8"));
    assert_eq!(last(&server), "u[3] a[a:3] u[4] a[a:4] u[5]");
    // bytes are a bound of their own
    let half = "y".repeat(60);
    gateway.send(&says("t", &half));
    gateway.send(&says("t", &half));
    assert_eq!(added(&gateway.send(&says("t", "1"))), (200, "2", "2"));
    assert_eq!(
        gateway.metric("trunkline_session_messages_dropped_total", &[]),
        12.0
    );
}

#[test]
fn all_sessions_together_have_a_bound() {
    let server = echo();
    let yaml = config(&server, "{ by: header x-session-id, bytes: 1KiB }", "");
    let gateway = Gateway::start(&format!("{yaml}sessions: {{ memory: 4KiB }}\n"));
    for n in 0..10 {
        gateway.send(&says(&format!("s{n}"), "hi"));
    }
    assert!(gateway.metric("trunkline_session_bytes", &[]) <= 4096.0);
    let held = gateway.metric("trunkline_sessions", &[]);
    assert_eq!(
        gateway.metric("trunkline_session_evictions_total", &[]),
        10.0 - held
    );
    assert_eq!(added(&gateway.send(&says("s9", "x"))), (200, "2", "-"));
    assert_eq!(added(&gateway.send(&says("s0", "x"))), (200, "0", "-"));
}

#[test]
fn answers_that_did_not_end_well_are_not_remembered() {
    let server = Server::fake(|seen, wire| {
        let json = ("content-type", "application/json");
        let said = seen.json()["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        match said.as_str().unwrap() {
            "500" => wire.answer(500, &[json], "{}"),
            "400" => wire.answer(
                400,
                &[json],
                r#"{"choices":[{"message":{"content":"no"}}]}"#,
            ),
            "201" => wire.answer(
                201,
                &[json],
                r#"{"choices":[{"message":{"content":"no"}}]}"#,
            ),
            "packed" => wire.answer(
                200,
                &[json, ("content-encoding", "br")],
                r#"{"choices":[{"message":{"content":"no"}}]}"#,
            ),
            "text" => wire.answer(200, &[("content-type", "text/plain")], "hello"),
            "filtered" => wire.json(
                r#"{"choices":[{"message":{"content":"no"},"finish_reason":"content_filter"}]}"#,
            ),
            "short" => {
                wire.raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"choices\":[{\"message\":{\"content\":\"no\"}}]}");
                return false;
            }
            "broken" => {
                wire.chunked(EVENTS);
                wire.chunk(event(json!({ "content": "no" })));
                return false;
            }
            "failed" => {
                wire.chunked(EVENTS);
                wire.chunk(event(json!({ "content": "no" })));
                wire.chunk("data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n");
                wire.end();
            }
            _ => whole(wire, assistant("yes")),
        }
        true
    });
    let gateway = by_header(&server);
    gateway.send(&says("s", "1"));
    for kind in [
        "500", "400", "201", "packed", "text", "filtered", "short", "broken", "failed",
    ] {
        gateway.send(&says("s", kind));
        assert_eq!(added(&gateway.send(&says("s", "1"))).0, 200);
        let got = last(&server);
        assert!(!got.contains(kind) && !got.contains("no"), "{kind}: {got}");
    }
    let seen = server.seen();
    let all = seen
        .iter()
        .all(|seen| seen.header("accept-encoding") == Some("identity"));
    assert!(all, "what is packed cannot be remembered");
}

#[test]
fn a_client_that_leaves_is_not_remembered_and_one_that_had_all_is() {
    let server = Server::fake(|seen, wire| {
        let said = last_word(seen);
        wire.chunked(EVENTS);
        wire.chunk(event(json!({ "content": "yes" })));
        if said == "all" {
            wire.chunk("data: [DONE]\n\n");
        }
        if said != "3" {
            wire.wait_for_close();
            return false;
        }
        wire.end();
        true
    });
    let gateway = by_header(&server);
    for (words, until) in [("part", "yes"), ("all", "[DONE]")] {
        let mut stream = crate::support::client::connect(gateway.address);
        std::io::Write::write_all(&mut stream, &streams("s", words).bytes()).unwrap();
        let mut got = String::new();
        while !got.contains(until) {
            let mut piece = [0; 1000];
            let n = std::io::Read::read(&mut stream, &mut piece).unwrap();
            got.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    }
    assert_eq!(gateway.access_log(2).len(), 2);
    gateway.send(&streams("s", "3"));
    assert_eq!(last(&server), "u[all] a[yes] u[3]");
}

fn last_word(seen: &Seen) -> String {
    let messages = seen.json()["messages"].clone();
    let last = messages.as_array().unwrap().last().unwrap()["content"].clone();
    last.as_str().unwrap_or_default().to_owned()
}

#[test]
fn two_requests_at_once_are_remembered_one_behind_the_other() {
    let (gate, held) = channel::<()>();
    let (held, waiting) = (Mutex::new(held), AtomicUsize::new(0));
    let server = Server::fake(move |seen, wire| {
        let words = last_word(seen);
        if words != "3" {
            waiting.fetch_add(1, SeqCst);
            held.lock().unwrap().recv().unwrap();
        }
        stream(wire, &format!("a:{words}"));
        true
    });
    let gateway = by_header(&server);
    let both = ["1", "2"].map(|words| gateway.send_aside(&streams("s", words)));
    eventually("both ask", || server.count() == 2);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    for answer in both {
        assert_eq!(added(&answer.join().unwrap()), (200, "0", "-"));
    }
    assert_eq!(added(&gateway.send(&streams("s", "3"))), (200, "4", "-"));
    let got = last(&server);
    let orders = [
        "u[1] a[a:1] u[2] a[a:2] u[3]",
        "u[2] a[a:2] u[1] a[a:1] u[3]",
    ];
    assert!(orders.contains(&got.as_str()), "{got}");
}

#[test]
fn the_next_pool_and_one_with_words_of_its_own_are_told_as_well() {
    let first = Server::fake(|seen, wire| {
        match last_word(seen).as_str() {
            "1" => whole(wire, assistant("a:1")),
            _ => wire.answer(503, &[], ""),
        }
        true
    });
    let second = Server::fake(|seen, wire| {
        match last_word(seen).as_str() {
            "2" => whole(wire, assistant("a:2")),
            _ => wire.answer(503, &[], ""),
        }
        true
    });
    let ollama = Server::fake(|seen, wire| {
        let message = r#""message":{"role":"assistant","content":"a:3"}"#;
        let model = r#""model":"m","created_at":"2026-01-01T00:00:00Z""#;
        match seen.json()["stream"] == true {
            true => {
                wire.chunked("application/x-ndjson");
                wire.chunk(format!("{{{model},{message},\"done\":false}}\n"));
                wire.chunk(format!("{{{model},\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done\":true,\"done_reason\":\"stop\"}}\n"));
                wire.end();
            }
            false => wire.json(&format!(
                "{{{model},{message},\"done\":true,\"done_reason\":\"stop\"}}"
            )),
        }
        true
    });
    let gateway = Gateway::start(&format!(
        "pools:\n  a: {{ servers: ['{}'], health: false }}\n  b: {{ servers: ['{}'], health: false }}\n  c: {{ kind: ollama-native, servers: ['{}'], health: false }}\n\
         routes: [{{ pool: a, fallback: [b, c], memory: {{ by: header x-session-id }}, retry: {{ attempts: 1 }} }}]\n",
        first.url(),
        second.url(),
        ollama.url()
    ));
    gateway.send(&says("s", "1"));
    assert_eq!(added(&gateway.send(&says("s", "2"))), (200, "2", "-"));
    assert_eq!(last(&first), "u[1] a[a:1] u[2]");
    assert_eq!(last(&second), "u[1] a[a:1] u[2]");
    for (n, request) in [(4, says("s", "3")), (6, streams("s", "4"))] {
        let answer = gateway.send(&request);
        assert_eq!(
            added(&answer),
            (200, n.to_string().as_str(), "-"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(last(&ollama), "u[1] a[a:1] u[2] a[a:2] u[3] a[a:3] u[4]");
    gateway.send(&says("s", "5"));
    assert!(
        last(&ollama).ends_with("u[4] a[a:3] u[5]"),
        "{}",
        last(&ollama)
    );
}

#[test]
fn a_reload_keeps_sessions_and_no_other_endpoint_has_any() {
    let server = echo();
    let gateway = by_header(&server);
    gateway.send(&says("s", "1"));
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    let text = text.replace("name: r,", "name: r, max_body: 1MiB,");
    std::fs::write(
        gateway.config_path(),
        format!("{text}sessions: {{ memory: 1MiB }}\n"),
    )
    .unwrap();
    let answer = Request::new("POST", "/reload").send(gateway.admin);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(added(&gateway.send(&says("s", "2"))), (200, "2", "-"));
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    for path in ["/v1/responses", "/v1/completions", "/v1/other"] {
        let request = Request::json(path, body).header("x-session-id", "s");
        assert_eq!(added(&gateway.send(&request)), (200, "-", "-"), "{path}");
        assert_eq!(last(&server), "u[x]");
    }
}

#[test]
fn what_is_no_list_of_messages_passes_as_it_is() {
    let server = Server::named("a");
    let gateway = by_header(&server);
    for messages in [
        "[]",
        "7",
        "[7]",
        r#"[{"role":"system","content":"s"}]"#,
        "null",
    ] {
        let body = format!(r#"{{"messages": {messages} }}"#);
        let answer = gateway.send(&Request::json(CHAT, &body).header("x-session-id", "s"));
        assert_eq!(added(&answer), (200, "-", "-"), "{messages}");
        assert_eq!(server.seen().last().unwrap().body, body.as_bytes());
    }
}

#[test]
fn without_a_memory_nothing_is_said_of_one() {
    let server = echo();
    let yaml = config(&server, "{ by: user }", "");
    let gateway = Gateway::start(&yaml.replace("memory: { by: user },", ""));
    for _ in 0..2 {
        assert_eq!(added(&gateway.send(&says("s", "1"))), (200, "-", "-"));
    }
    assert_eq!(last(&server), "u[1]");
    let metrics = gateway.ask_admin("/metrics").text();
    assert!(!metrics.contains("trunkline_session"));
}
