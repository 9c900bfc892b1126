//! Budgets of keys: spent by price, kept over restarts and reloads, shared in a file.

use std::path::Path;

use crate::support::{Gateway, Request, Server, eventually};

const KEY: &str = "tl-0123456789-abcdef";

/// A server whose every answer has used 1000 and 500 tokens.
fn chatting() -> Server {
    Server::fake(|_, wire| {
        wire.json(r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":500}}"#);
        true
    })
}

fn with_budget(server: &Server, file: &Path, budget: &str) -> String {
    format!(
        r#"
keys: [{{ name: alice, key: {KEY}, budget: {budget} }}, {{ name: bob, key: tl-bob-9876543210 }}]
prices:
  gpt-cheap: {{ input: 100 }}
  "gpt-*": {{ input: 1000, output: 2000 }}
  "tts-*": {{ characters: 10000 }}
budgets: {{ file: {} }}
pools: {{ a: {{ servers: ["{}"], health: false }} }}
routes: [{{ pool: a }}]
"#,
        file.display(),
        server.url()
    )
}

fn chat(model: &str) -> Request {
    Request::json(
        "/v1/chat/completions",
        &format!(r#"{{"model":"{model}","messages":[]}}"#),
    )
    .header("x-api-key", KEY)
}

fn spent(gateway: &Gateway) -> f64 {
    gateway.metric("trunkline_key_spent", &[("key", "alice")])
}

fn is_about(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn a_budget_is_spent_by_price_told_and_kept_over_a_restart() {
    let server = chatting();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/spending.json");
    let mut gateway = Gateway::start(&with_budget(&server, &file, "5"));
    // 1000 tokens at 1000 a million, and 500 at 2000
    let answer = gateway.send(&chat("gpt-large"));
    assert_eq!(
        (answer.status, answer.header("x-budget-remaining")),
        (200, Some("5.000000"))
    );
    eventually("it costs 2", || is_about(spent(&gateway), 2.0));
    assert_eq!(
        gateway.metric("trunkline_key_budget", &[("key", "alice")]),
        5.0
    );
    // the first price that knows the model, and none for what has none
    gateway.send(&chat("gpt-cheap"));
    gateway.send(&chat("llama"));
    eventually("it costs 0.1", || is_about(spent(&gateway), 2.1));
    let say = Request::json(
        "/v1/audio/speech",
        r#"{"model":"tts-1","input":"0123456789","voice":"nova"}"#,
    );
    gateway.send(&say.header("x-api-key", KEY));
    eventually("ten characters cost 0.1", || is_about(spent(&gateway), 2.2));
    let left = gateway.send(&chat("llama"));
    assert_eq!(left.header("x-budget-remaining"), Some("2.800000"));
    gateway.signal("TERM");
    assert_eq!(gateway.wait(std::time::Duration::from_secs(10)), 0);
    // and after a restart
    let gateway = Gateway::start(&with_budget(&server, &file, "4"));
    assert!(is_about(spent(&gateway), 2.2), "{}", spent(&gateway));
    gateway.send(&chat("gpt-large"));
    eventually("it is over", || is_about(spent(&gateway), 4.2));
    let count = server.count();
    let refused = gateway.send(&chat("llama"));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "insufficient_quota")
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(refused.header("x-budget-remaining"), Some("0.000000"));
    assert_eq!(server.count(), count);
    // others have theirs, and more of it may be given without a restart
    let bob = Request::json(
        "/v1/chat/completions",
        r#"{"model":"gpt-large","messages":[]}"#,
    );
    let bob = gateway.send(&bob.header("x-api-key", "tl-bob-9876543210"));
    assert_eq!((bob.status, bob.header("x-budget-remaining")), (200, None));
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    std::fs::write(
        gateway.config_path(),
        text.replace("budget: 4", "budget: 10"),
    )
    .unwrap();
    assert_eq!(
        Request::new("POST", "/reload").send(gateway.admin).status,
        200
    );
    let again = gateway.send(&chat("llama"));
    assert_eq!(
        (again.status, again.header("x-budget-remaining")),
        (200, Some("5.800000"))
    );
}

#[test]
fn a_budget_that_comes_with_a_reload_is_kept_like_any_other() {
    let server = chatting();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let with = with_budget(&server, &file, "5");
    let gateway = Gateway::start(&with.replace(", budget: 5", ""));
    assert_eq!(
        gateway
            .send(&chat("gpt-large"))
            .header("x-budget-remaining"),
        None
    );
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    let text = text.replace(&format!("key: {KEY}"), &format!("key: {KEY}, budget: 5"));
    std::fs::write(gateway.config_path(), text).unwrap();
    assert_eq!(
        Request::new("POST", "/reload").send(gateway.admin).status,
        200
    );
    gateway.send(&chat("gpt-large"));
    eventually("it is written", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|spent| {
            let months = spent
                .as_object()
                .unwrap()
                .values()
                .cloned()
                .collect::<Vec<_>>();
            months
                .iter()
                .any(|month| is_about(month["alice"].as_f64().unwrap_or(0.0), 2.0))
        })
    });
}

#[test]
fn what_fails_costs_nothing_and_streams_cost_what_they_used() {
    let failing = Server::failing(500);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let gateway = Gateway::start(&with_budget(&failing, &file, "5"));
    gateway.send(&chat("gpt-large"));
    assert_eq!(gateway.access_log(1).len(), 1);
    assert_eq!(spent(&gateway), 0.0);
    drop(gateway);
    let streaming = Server::fake(|seen, wire| {
        assert_eq!(seen.json()["stream_options"]["include_usage"], true);
        wire.chunked("text/event-stream");
        wire.chunk("data: {\"choices\":[{\"delta\":{}}]}\n\n");
        wire.chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":500}}\n\n");
        wire.chunk("data: [DONE]\n\n");
        wire.end();
        true
    });
    let gateway = Gateway::start(&with_budget(&streaming, &file, "5"));
    let body = r#"{"model":"gpt-large","stream":true,"messages":[]}"#;
    let answer =
        gateway.send(&Request::json("/v1/chat/completions", body).header("x-api-key", KEY));
    assert!(
        answer.whole && !answer.text().contains("usage"),
        "{}",
        answer.text()
    );
    eventually("it costs 2", || is_about(spent(&gateway), 2.0));
}

#[test]
fn two_programs_share_a_file_and_a_broken_one_is_refused() {
    let server = chatting();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let one = Gateway::start(&with_budget(&server, &file, "100"));
    let two = Gateway::start(&with_budget(&server, &file, "100"));
    for _ in 0..3 {
        one.send(&chat("gpt-large"));
        two.send(&chat("gpt-large"));
    }
    eventually("each knows what the other spent", || {
        is_about(spent(&one), 12.0) && is_about(spent(&two), 12.0)
    });
    drop((one, two));
    std::fs::write(&file, "{\"2026-11\": 7}").unwrap();
    let config = folder.path().join("trunkline.yaml");
    let yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{}",
        with_budget(&server, &file, "100")
    );
    std::fs::write(&config, yaml).unwrap();
    let output = std::process::Command::new(crate::support::gateway::BINARY)
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), said.contains("budgets are kept in")),
        (Some(1), true),
        "{said}"
    );
}

/// Streams `events` events, and tells what they used only if `tells`.
fn streaming(events: usize, tells: bool) -> Server {
    Server::fake(move |seen, wire| {
        let asked = seen.json()["stream_options"]["include_usage"] == true;
        wire.chunked("text/event-stream");
        for _ in 0..events {
            wire.chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n");
        }
        if asked && tells {
            wire.chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":500}}\n\n");
        }
        wire.chunk("data: [DONE]\n\n");
        wire.end();
        true
    })
}

#[test]
fn nobody_keeps_quiet_about_what_is_used() {
    let server = streaming(1, true);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let gateway = Gateway::start(&with_budget(&server, &file, "100"));
    let quiet = [
        "null",
        "{}",
        r#"{"include_usage":false}"#,
        r#"{"include_obfuscation":false}"#,
    ];
    for (n, options) in quiet.iter().enumerate() {
        let body = format!(
            r#"{{"model":"gpt-large","stream_options":{options},"stream":true,"messages":[]}}"#
        );
        let request = Request::json("/v1/chat/completions", &body).header("x-api-key", KEY);
        let answer = gateway.send(&request.header("accept-encoding", "gzip, br"));
        assert!(
            answer.whole && !answer.text().contains("usage"),
            "{options}: {}",
            answer.text()
        );
        eventually("it costs 2", || {
            is_about(spent(&gateway), 2.0 * (n + 1) as f64)
        });
        // what is packed would tell nothing
        let sent = server.seen().pop().unwrap();
        assert_eq!(sent.header("accept-encoding"), Some("identity"));
        assert_eq!(sent.json()["stream_options"]["include_usage"], true);
    }
    let sent = server.seen().pop().unwrap().json();
    assert_eq!(sent["stream_options"]["include_obfuscation"], false);
    // nor is an answer in one piece packed
    gateway.send(&chat("gpt-large").header("accept-encoding", "gzip"));
    let sent = server.seen().pop().unwrap();
    assert_eq!(sent.header("accept-encoding"), Some("identity"));
}

#[test]
fn a_stream_that_never_tells_costs_what_was_heard_of_it() {
    let server = streaming(500, false);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let gateway = Gateway::start(&with_budget(&server, &file, "100"));
    let text = "y".repeat(4000);
    let body = format!(
        r#"{{"model":"gpt-large","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    let request = Request::json("/v1/chat/completions", &body).header("x-api-key", KEY);
    assert_eq!(gateway.send(&request).status, 200);
    // some 1000 tokens at 1000 a million, and 500 at 2000
    eventually("it costs about 2", || (1.9..2.1).contains(&spent(&gateway)));
    // a client that leaves in the middle pays for what it had
    let held = Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        for _ in 0..500 {
            wire.chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n");
        }
        wire.wait_for_close();
        false
    });
    let file = folder.path().join("other.json");
    let gateway = Gateway::start(&with_budget(&held, &file, "100"));
    let mut stream = crate::support::client::connect(gateway.address);
    std::io::Write::write_all(&mut stream, &request.bytes()).unwrap();
    let mut heard = 0;
    let mut piece = [0; 4096];
    while heard < 500 * 50 {
        heard += std::io::Read::read(&mut stream, &mut piece).unwrap();
    }
    drop(stream);
    eventually("it is charged", || (1.5..2.1).contains(&spent(&gateway)));
}

#[test]
fn a_conversation_over_a_websocket_costs_its_request() {
    let server = Server::fake(|_, wire| {
        wire.raw(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
        );
        wire.wait_for_close();
        false
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spending.json");
    let yaml = with_budget(&server, &file, "5").replace("output: 2000", "request: 3");
    let gateway = Gateway::start(&yaml);
    let request = Request::get("/v1/realtime?model=gpt-realtime")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("x-api-key", KEY);
    let mut stream = crate::support::client::connect(gateway.address);
    std::io::Write::write_all(&mut stream, &request.bytes()).unwrap();
    eventually("it is open", || server.count() == 1);
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    drop(stream);
    eventually("it is charged", || is_about(spent(&gateway), 3.0));
}
