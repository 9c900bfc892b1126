//! Every hop is counted and every request logged, and both agree with what the servers saw.

use std::process::Command;

use crate::support::{Gateway, Request, Server, form};

fn three_ways() -> (Server, Server, Gateway) {
    let chat = Server::fake(|seen, wire| {
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        if text.contains("\"stream\":true") {
            wire.chunked("text/event-stream");
            wire.chunk("data: {\"choices\":[]}\n\n");
            wire.chunk("data: {\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":22}}\n\ndata: [DONE]\n\n");
            wire.end();
        } else {
            wire.json("{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}");
        }
        true
    });
    let bad = Server::failing(503);
    let gateway = Gateway::start(&format!(
        r#"
pools:
  bad: {{ servers: [{{ url: "{}", name: b }}], health: false, eject: false }}
  chat: {{ servers: [{{ url: "{}", name: c }}], health: false }}
routes:
  - {{ name: speech, match: {{ path: /v1/audio/speech, model: "tts*" }}, pool: bad, fallback: [chat] }}
  - {{ name: chat, match: {{ path: "/v1/*" }}, pool: chat }}
"#,
        bad.url(),
        chat.url()
    ));
    (bad, chat, gateway)
}

/// A metric's name, labels and value.
type Series<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

#[test]
fn counts_agree_with_the_servers_own() {
    let (bad, chat, gateway) = three_ways();
    for _ in 0..5 {
        gateway.post("/v1/chat/completions", r#"{"model":"m"}"#);
        gateway.post("/v1/chat/completions", r#"{"model":"m","stream":true}"#);
        gateway.post(
            "/v1/audio/speech",
            r#"{"model":"tts-1","input":"Grüße","voice":"nova"}"#,
        );
        gateway.post("/v1/audio/speech", r#"{"model":"other"}"#);
    }
    let (content_type, body) = form(&[("model", "w")], &[1; 5000], false);
    gateway.send(
        &Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(body.clone()),
    );
    let logged = gateway.access_log(21);
    assert_eq!(logged.len(), 21, "one line a request");
    assert_eq!((bad.count(), chat.count()), (5, 21));
    let listener = gateway.address.to_string();
    let expected: [Series<'_>; 16] = [
        ("trunkline_requests_total", &[], 21),
        (
            "trunkline_requests_total",
            &[("route", "speech"), ("pool", "chat"), ("code", "200")],
            5,
        ),
        (
            "trunkline_attempts_total",
            &[("server", "b"), ("result", "5xx")],
            bad.count(),
        ),
        (
            "trunkline_attempts_total",
            &[("server", "c"), ("result", "ok")],
            chat.count(),
        ),
        (
            "trunkline_fallbacks_total",
            &[("from", "bad"), ("to", "chat"), ("reason", "5xx")],
            5,
        ),
        (
            "trunkline_terminations_total",
            &[("reason", "complete")],
            21,
        ),
        (
            "trunkline_tokens_total",
            &[("route", "chat"), ("type", "input")],
            5 * (3 + 11) + 6 * 3,
        ),
        ("trunkline_tts_characters_total", &[("route", "speech")], 25),
        (
            "trunkline_audio_bytes_total",
            &[("direction", "in")],
            body.len(),
        ),
        ("trunkline_route_decisions_total", &[("by", "model")], 5),
        ("trunkline_body_peek_total", &[("result", "found")], 10),
        ("trunkline_request_duration_seconds_count", &[], 21),
        ("trunkline_overhead_seconds_count", &[], 21),
        ("trunkline_first_byte_seconds_count", &[("server", "c")], 21),
        // one for each attempt, new or reused
        ("trunkline_upstream_connections_total", &[], 26),
        (
            "trunkline_connections_total",
            &[("listener", &listener)],
            21,
        ),
    ];
    for (name, labels, value) in expected {
        assert_eq!(
            gateway.metric(name, labels),
            value as f64,
            "{name} {labels:?}"
        );
    }
    assert!(
        gateway.metric(
            "trunkline_upstream_connections_total",
            &[("reused", "true")]
        ) > 10.0
    );
}

#[test]
fn a_line_of_the_log_tells_the_whole_way() {
    let (_bad, _chat, gateway) = three_ways();
    let request = Request::json(
        "/v1/audio/speech?secret=1",
        r#"{"model":"tts-1","input":"Hallo","voice":"nova"}"#,
    )
    .header("user-agent", "test/1 (x)")
    .header("x-request-id", "id-7");
    gateway.send(&request);
    let line = gateway.access_log(1).remove(0);
    for (key, value) in [
        ("request_id", "id-7"),
        ("method", "POST"),
        ("path", "/v1/audio/speech"),
        ("route", "speech"),
        ("pool", "chat"),
        ("server", "c"),
        ("model", "tts-1"),
        ("voice", "nova"),
        ("operation", "text_to_speech"),
        ("termination", "complete"),
        ("client", "127.0.0.1"),
        ("protocol", "HTTP/1.1"),
        ("user_agent", "test/1 (x)"),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert_eq!(
        line["attempts"],
        serde_json::json!(["bad/b=503", "chat/c=200"])
    );
    assert_eq!(
        (line["status"].as_u64(), line["characters"].as_u64()),
        (Some(200), Some(5))
    );
    assert!(
        line["dur_ms"]["total"].as_f64().unwrap() > 0.0
            && line["dur_ms"]["first_byte"].as_f64().unwrap() > 0.0
    );
    assert!(line["trace_id"].as_str().unwrap().len() == 32);
    assert!(!line.to_string().contains("secret"));
}

#[test]
fn hostile_names_make_no_series() {
    let (_bad, _chat, gateway) = three_ways();
    let before = gateway.ask_admin("/metrics").text().lines().count();
    for n in 0..200 {
        gateway.post(
            "/v1/chat/completions",
            &format!(r#"{{"model":"m{n}\n\"x"}}"#),
        );
        gateway.post(
            "/v1/audio/speech",
            &format!(r#"{{"model":"tts{n}","voice":"v{n}"}}"#),
        );
        gateway.get(&format!("/x{n}"));
    }
    let after = gateway.ask_admin("/metrics").text().lines().count();
    assert!(
        after.abs_diff(before) < 120,
        "{before} lines became {after}"
    );
}

#[test]
fn status_shows_pools_servers_and_routes() {
    let (_bad, _chat, gateway) = three_ways();
    let status = gateway.ask_admin("/status").json();
    assert_eq!(status["pools"][0]["servers"][0]["name"], "b");
    assert_eq!(status["pools"][0]["servers"][0]["state"], "up");
    assert_eq!(
        status["routes"][0]["pools"],
        serde_json::json!(["bad", "chat"])
    );
    assert_eq!(
        (status["ready"].as_bool(), status["draining"].as_bool()),
        (Some(true), Some(false))
    );
    assert_eq!(status["listeners"][0], gateway.address.to_string());
}

#[test]
fn admin_endpoints_are_not_on_a_client_listener() {
    let (_bad, _chat, gateway) = three_ways();
    for path in ["/metrics", "/status", "/readyz", "/healthz"] {
        let answer = gateway.get(path);
        assert!(
            answer.text().contains("one address in front"),
            "{path} gives the welcome page: {}",
            answer.text()
        );
    }
    assert_eq!(gateway.ask_admin("/healthz").text(), "ok\n");
    assert_eq!(gateway.ask_admin("/nothing").status, 404);
}

#[test]
fn a_real_promtool_finds_nothing_to_complain_about() {
    let (_bad, _chat, gateway) = three_ways();
    gateway.post("/v1/chat/completions", "{}");
    let text = gateway.ask_admin("/metrics").text();
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
    else {
        // without promtool: the rules that matter most, by hand
        let families: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        assert!(families.len() > 20);
        for family in families {
            let (name, kind) = family.split_once(' ').unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{family}");
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "{name} has no help"
            );
        }
        return;
    };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
