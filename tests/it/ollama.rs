//! `kind: ollama-native`: clients speak OpenAI's API, servers Ollama's own. The fake Ollama replays
//! what a real one sent, see `ollama/README.md`.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};

use crate::support::client::connect;
use crate::support::gateway::BINARY;
use crate::support::{Answer, Gateway, Request, Seen, Server, Wire, eventually};

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("ollama/", $name))
    };
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
const NDJSON: &str = "application/x-ndjson";
const NO_MODEL: &str = "nonexistent-model-12345";

/// An Ollama that answers as a real one did.
pub fn fake() -> Server {
    Server::fake(|seen, wire| {
        replay(seen, wire);
        true
    })
}

fn replay(seen: &Seen, wire: &mut Wire) {
    match seen.target.as_str() {
        "/api/version" => return wire.answer(200, &[JSON], r#"{"version":"0.13.5"}"#),
        "/api/ps" => return wire.answer(200, &[JSON], r#"{"models":[]}"#),
        "/api/tags" => return wire.answer(200, &[JSON], recorded!("tags.json")),
        _ => {}
    }
    let asked = seen.json();
    let stream = asked["stream"] == true;
    let has = |what: &Value| what.as_array().is_some_and(|list| !list.is_empty());
    let images = asked["messages"]
        .as_array()
        .is_some_and(|all| all.iter().any(|m| has(&m["images"])));
    match (seen.target.as_str(), asked["model"].as_str().unwrap()) {
        (_, NO_MODEL) => wire.answer(404, &[JSON], recorded!("error-404.json")),
        ("/api/embed", "chat-only") => wire.answer(501, &[JSON], recorded!("error-501.json")),
        ("/api/embed", _) => wire.answer(200, &[JSON], recorded!("embed.json")),
        ("/api/generate", _) if stream => lines(wire, recorded!("generate-stream.ndjson")),
        ("/api/generate", _) => wire.answer(200, &[JSON], recorded!("generate.json")),
        (_, _) if asked["think"] == "low" => wire.answer(400, &[JSON], recorded!("error-400.json")),
        (_, "thinker") if stream => lines(wire, recorded!("chat-thinking-stream.ndjson")),
        (_, "thinker") => wire.answer(200, &[JSON], recorded!("chat-thinking.json")),
        (_, _) if has(&asked["tools"]) && stream => {
            lines(wire, recorded!("chat-tools-stream.ndjson"))
        }
        (_, _) if has(&asked["tools"]) => wire.answer(200, &[JSON], recorded!("chat-tools.json")),
        (_, _) if images => wire.answer(200, &[JSON], recorded!("chat-image.json")),
        ("/api/chat", _) if stream => lines(wire, recorded!("chat-stream.ndjson")),
        ("/api/chat", _) => wire.answer(200, &[JSON], recorded!("chat.json")),
        _ => wire.answer(404, &[("content-type", "text/plain")], "404 page not found"),
    }
}

/// A stream in pieces that end anywhere.
fn lines(wire: &mut Wire, text: &str) {
    wire.chunked(NDJSON);
    for piece in text.as_bytes().chunks(37) {
        wire.chunk(piece);
    }
    wire.end();
}

/// One that says these lines and then ends, or is cut.
fn saying(said: &'static str, whole: bool) -> Server {
    Server::fake(move |_, wire| {
        wire.chunked(NDJSON);
        if !said.is_empty() {
            wire.chunk(said);
        }
        if whole {
            wire.end();
        }
        whole
    })
}

fn gateway(ollama: &Server, more: &str) -> Gateway {
    Gateway::start(&format!(
        "pools: {{ box: {{ kind: ollama-native, servers: [{{ url: '{}/v1', name: s }}], health: false, {more} }} }}\n\
         routes: [{{ match: {{ path: /v1/models }}, pool: box }}, {{ name: r, match: {{ path: '/v1/*' }}, pool: box }}]",
        ollama.url()
    ))
}

/// Pools `first` and `second` of these kinds.
fn fallback(first: (&str, &str), second: (&str, &str), route: &str) -> Gateway {
    let pool = |name: &str, (kind, url): (&str, &str)| {
        let kind = if kind.is_empty() {
            String::new()
        } else {
            format!("kind: {kind}, ")
        };
        format!(
            "{name}: {{ {kind}servers: [{{ url: '{url}', name: s }}], health: false, eject: false, models: {{ public: {name}-model }} }}"
        )
    };
    Gateway::start(&format!(
        "pools: {{ {}, {} }}\nroutes: [{{ name: r, pool: first, fallback: [second], {route} }}]",
        pool("first", first),
        pool("second", second)
    ))
}

fn chat(more: Value) -> Request {
    let mut body = json!({ "model": "public", "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Request::json("/v1/chat/completions", &body.to_string())
}

/// The events of a stream that ended well.
#[track_caller]
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    let text = text
        .strip_suffix("data: [DONE]\n\n")
        .unwrap_or_else(|| panic!("{text}"));
    text.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

#[test]
fn a_chat_goes_there_in_ollamas_words_and_comes_back_in_openais() {
    let ollama = fake();
    let gateway = gateway(&ollama, "models: { public: 'llama3.1' }");
    let request =
        chat(json!({ "max_tokens": 5, "options": { "num_ctx": 4096 }, "keep_alive": "1h" }));
    let request = request
        .header("authorization", "Bearer sk-client")
        .header("accept-encoding", "gzip");
    let answer = gateway.send(&request);
    let reply = answer.json();
    assert_eq!(answer.status, 200, "{reply}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-backend"), Some("box/s"));
    assert_eq!(
        (&reply["object"], &reply["model"]),
        (&json!("chat.completion"), &json!("public"))
    );
    assert_eq!(
        reply["choices"][0]["message"]["content"],
        "{\"age\": 22, \"available\": false}"
    );
    assert_eq!(reply["usage"]["total_tokens"], 46);
    let seen = &ollama.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/api/chat")
    );
    assert_eq!(
        seen.json(),
        json!({
            "model": "llama3.1",
            "messages": [{ "role": "user", "content": "Hi" }],
            "stream": false,
            "keep_alive": "1h",
            "options": { "num_ctx": 4096, "num_predict": 5, "temperature": 1.0, "top_p": 1.0 },
        })
    );
    assert_eq!(
        (seen.header("authorization"), seen.header("accept-encoding")),
        (None, None)
    );
    assert_eq!(
        seen.header("host"),
        Some(ollama.address.to_string().as_str())
    );
    let line = &gateway.access_log(1)[0];
    assert_eq!(
        (&line["tokens_in"], &line["tokens_out"]),
        (&json!(34), &json!(12))
    );
    assert_eq!(line["bytes_out"], answer.body.len());
}

#[test]
fn a_stream_becomes_events_and_its_tokens_are_counted_unasked() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    let answer = gateway.send(&chat(json!({ "stream": true })));
    let all = events(&answer);
    let text: String = all
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(
        text.starts_with("Why did the OpenTelemetry agent go to therapy?"),
        "{text}"
    );
    assert_eq!(all[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(all.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(!answer.text().contains("usage"));
    let asked = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let all = events(&gateway.send(&chat(asked)));
    assert_eq!(all.last().unwrap()["usage"]["total_tokens"], 67);
    for line in gateway.access_log(2) {
        assert_eq!(
            (&line["tokens_in"], &line["tokens_out"]),
            (&json!(17), &json!(50))
        );
        assert_eq!(
            (&line["stream"], &line["termination"]),
            (&json!(true), &json!("complete"))
        );
    }
    let first = "trunkline_time_to_first_token_seconds_count";
    assert_eq!(gateway.metric(first, &[("operation", "chat")]), 2.0);
    let received = gateway.metric(
        "trunkline_upstream_bytes_total",
        &[("direction", "received")],
    );
    assert_eq!(received, 2.0 * recorded!("chat-stream.ndjson").len() as f64);
    // the connection is kept
    assert_eq!(ollama.seen()[1].connection, 0);
}

#[test]
fn calls_of_tools_and_thinking_come_back() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    let tools = json!([{ "type": "function", "function": { "name": "get_weather" } }]);
    let reply = gateway.send(&chat(json!({ "tools": tools }))).json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
        .as_str()
        .unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert_eq!(
        arguments,
        json!({ "format": "celsius", "location": "Paris, FR" })
    );
    let all = events(&gateway.send(&chat(json!({ "tools": tools, "stream": true }))));
    assert_eq!(
        all[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"],
        "get_weather"
    );
    assert_eq!(all[1]["choices"][0]["finish_reason"], "tool_calls");
    let thinker = |stream: bool| chat(json!({ "model": "thinker", "stream": stream }));
    let reply = gateway.send(&thinker(false)).json();
    assert!(reply["choices"][0]["message"]["reasoning"].is_string());
    let all = events(&gateway.send(&thinker(true)));
    assert_eq!(all[0]["choices"][0]["delta"]["reasoning"], "Okay");
    assert_eq!(all.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn large_images_go_there_as_they_are() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    // beyond what memory holds of a body
    let image = "iVBORw0KGgo".repeat(200_000);
    let content = json!([
        { "type": "text", "text": "What is this?" },
        { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{image}") } },
    ]);
    let messages = json!({ "messages": [{ "role": "user", "content": content }] });
    let reply = gateway.send(&chat(messages)).json();
    let text = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("cute, little pig"), "{text}");
    let said = &ollama.seen()[0].json()["messages"][0];
    assert_eq!(
        (&said["content"], &said["images"]),
        (&json!("What is this?"), &json!([image]))
    );
    let larger = "A".repeat(33 << 20);
    let refused = gateway.post(
        "/v1/completions",
        &json!({ "model": "m", "prompt": larger }).to_string(),
    );
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (413, "body_too_large")
    );
}

#[test]
fn completions_embeddings_and_models_are_served() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    let reply = gateway
        .post(
            "/v1/completions",
            r#"{"model":"m","prompt":"def","suffix":"end"}"#,
        )
        .json();
    assert!(
        reply["choices"][0]["text"]
            .as_str()
            .unwrap()
            .contains("compute_gcd")
    );
    let all = events(&gateway.post(
        "/v1/completions",
        r#"{"model":"m","prompt":"x","stream":true}"#,
    ));
    assert_eq!(all[0]["choices"][0]["text"], "A");
    let embed = |format: &str| {
        let body = json!({ "model": "m", "input": ["a", "b"], "encoding_format": format });
        gateway.post("/v1/embeddings", &body.to_string())
    };
    assert_eq!(
        embed("float").json()["data"][1]["embedding"][0],
        -0.009_802_707_5
    );
    assert_eq!(
        embed("base64").json()["data"][0]["embedding"]
            .as_str()
            .unwrap()
            .len(),
        56
    );
    let models = gateway.get("/v1/models");
    assert_eq!(models.json()["data"][1]["id"], "llama3.2:latest");
    let targets: Vec<String> = ollama.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(
        targets,
        [
            "/api/generate",
            "/api/generate",
            "/api/embed",
            "/api/embed",
            "/api/tags"
        ]
    );
    assert_eq!(ollama.seen()[4].body, b"");
}

#[test]
fn errors_come_back_in_openais_shape() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    for stream in [false, true] {
        let answer = gateway.send(&chat(json!({ "model": NO_MODEL, "stream": stream })));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "model_not_found")
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error = &answer.json()["error"];
        assert_eq!(
            error["message"],
            "model 'nonexistent-model-12345' not found"
        );
        assert_eq!(
            (&error["type"], &error["param"]),
            (&json!("invalid_request_error"), &json!("model"))
        );
    }
    let answer = gateway.send(&chat(json!({ "reasoning_effort": "low" })));
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("think value")
    );
    let answer = gateway.post("/v1/embeddings", r#"{"model":"chat-only","input":"a"}"#);
    assert_eq!(
        (answer.status, &answer.json()["error"]["type"]),
        (501, &json!("server_error"))
    );
}

#[test]
fn what_has_no_words_is_refused_before_anybody_is_asked() {
    let ollama = fake();
    let gateway = gateway(&ollama, "");
    let image =
        json!([{ "type": "image_url", "image_url": { "url": "https://example.com/a.png" } }]);
    let answer = gateway.send(&chat(
        json!({ "messages": [{ "role": "user", "content": image }] }),
    ));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "invalid_request")
    );
    let error = &answer.json()["error"];
    assert_eq!(error["param"], "messages");
    assert!(
        error["message"].as_str().unwrap().contains("`data:` URL"),
        "{error}"
    );
    assert_eq!(answer.header("x-backend"), Some("local"));
    let broken = gateway.post("/v1/chat/completions", "{");
    assert_eq!(
        (broken.status, broken.code().as_str()),
        (400, "invalid_json")
    );
    for request in [
        Request::json("/v1/audio/speech", r#"{"input":"x"}"#),
        Request::json("/v1/responses", r#"{"model":"m"}"#),
        Request::get("/v1/chat/completions"),
        Request::json("/v1/models", "{}"),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "no_route"),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains("`box`"), "{}", answer.text());
    }
    assert_eq!(ollama.count(), 0);
}

#[test]
fn each_attempt_is_made_in_its_own_dialect() {
    let original =
        r#"{ "stream":false, "messages":[{"role":"user","content":"Hi"}] , "model":"public" }"#;
    let request = Request::json("/v1/chat/completions", original);
    // from Ollama to OpenAI, which gets every byte as it was but for the model
    let (down, openai) = (Server::failing(503), Server::named("openai"));
    let gateway = fallback(("ollama-native", &down.url()), ("", &openai.url()), "");
    let answer = gateway.send(&request);
    assert_eq!(answer.json()["served_by"], "openai");
    assert_eq!(
        answer.header("x-attempts"),
        Some("first/s=503,second/s=200")
    );
    assert_eq!(down.seen()[0].target, "/api/chat");
    assert_eq!(down.seen()[0].json()["model"], "first-model");
    let got = &openai.seen()[0];
    assert_eq!(got.target, "/v1/chat/completions");
    assert_eq!(
        String::from_utf8_lossy(&got.body),
        original.replace("public", "second-model")
    );
    // and back
    let (down, ollama) = (Server::failing(503), fake());
    let gateway = fallback(("", &down.url()), ("ollama-native", &ollama.url()), "");
    let answer = gateway.send(&request);
    assert_eq!(
        (&answer.json()["object"], &answer.json()["model"]),
        (&json!("chat.completion"), &json!("public"))
    );
    assert_eq!(ollama.seen()[0].json()["model"], "second-model");
    assert_eq!(
        String::from_utf8_lossy(&down.seen()[0].body),
        original.replace("public", "first-model")
    );
    // nobody is left: the last error is told, in OpenAI's shape
    let (down, ollama) = (
        Server::failing(503),
        Server::fake(|_, wire| {
            wire.answer(
                503,
                &[JSON],
                r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#,
            );
            true
        }),
    );
    let gateway = fallback(("", &down.url()), ("ollama-native", &ollama.url()), "");
    let answer = gateway.send(&request);
    assert_eq!(
        (answer.status, answer.header("x-should-retry")),
        (503, Some("false"))
    );
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("server busy")
    );
}

#[test]
fn what_one_pool_has_no_words_for_goes_to_the_next() {
    let (ollama, openai) = (fake(), Server::named("openai"));
    let gateway = fallback(("ollama-native", &ollama.url()), ("", &openai.url()), "");
    for request in [
        chat(json!({ "n": 2 })),
        Request::json("/v1/responses", r#"{"model":"public"}"#),
        Request::json("/v1/audio/speech", r#"{"input":"x"}"#),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(answer.json()["served_by"], "openai", "{}", answer.text());
    }
    assert_eq!(ollama.count(), 0);
    // who would take it is only down
    let gateway = fallback(
        ("ollama-native", &ollama.url()),
        ("", &format!("http://{}", Server::refused())),
        "",
    );
    let answer = gateway.send(&chat(json!({ "n": 2 })));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_unreachable")
    );
}

#[test]
fn an_answer_that_has_not_begun_is_somebody_elses_turn() {
    const EMPTY: &str =
        "\n{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n";
    for (server, attempt) in [
        (saying("", true), "empty"),
        (saying(EMPTY, true), "reset"),
        (saying(EMPTY, false), "reset"),
        (saying("<html>\n", true), "invalid"),
        (
            saying("{\"error\":\"runner has terminated\"}\n", true),
            "500",
        ),
    ] {
        let openai = Server::named("openai");
        let route = "retry: { on: [connect, reset, timeout, 500] }";
        let gateway = fallback(("ollama-native", &server.url()), ("", &openai.url()), route);
        let answer = gateway.send(&chat(json!({ "stream": true })));
        assert_eq!(answer.json()["served_by"], "openai");
        let attempts = format!("first/s={attempt},second/s=200");
        assert_eq!(answer.header("x-attempts"), Some(attempts.as_str()));
    }
    // one in a single piece too
    let openai = Server::named("openai");
    let cut = Server::fake(|_, wire| {
        wire.raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"message\":{");
        false
    });
    let gateway = fallback(("ollama-native", &cut.url()), ("", &openai.url()), "");
    assert_eq!(gateway.send(&chat(json!({}))).json()["served_by"], "openai");
}

#[test]
fn an_error_before_the_answer_is_an_error_and_no_stream() {
    let server = saying("{\"error\":\"runner has terminated\"}\n", true);
    let answer = gateway(&server, "").send(&chat(json!({ "stream": true })));
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["error"]["message"], "runner has terminated");
    assert!(answer.whole);
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_event() {
    const HI: &str = "{\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n";
    for (rest, code, why) in [
        (
            "{\"error\":\"out of memory\"}\n",
            "upstream_reset",
            "out of memory",
        ),
        ("<html>\n", "upstream_invalid", "JSON"),
        ("", "upstream_reset", "broke off"),
    ] {
        // the rest in a chunk of its own, when the answer has begun
        let (go, gone) = channel::<()>();
        let gone = Mutex::new(gone);
        let server = Server::fake(move |_, wire| {
            wire.chunked(NDJSON);
            wire.chunk(HI);
            let _ = gone.lock().unwrap().recv();
            if !rest.is_empty() {
                wire.chunk(rest);
            }
            wire.end();
            true
        });
        let gateway = gateway(&server, "");
        let (head, text) = streamed(&gateway, &go);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            text.contains("\"content\":\"Hi\"") && !text.contains("[DONE]"),
            "{text}"
        );
        let last = text
            .rsplit("data: ")
            .next()
            .unwrap()
            .lines()
            .next()
            .unwrap();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(error["error"]["code"], code, "{text}");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(why),
            "{text}"
        );
        let line = &gateway.access_log(1)[0];
        assert_eq!(
            (&line["status"], &line["termination"]),
            (&json!(200), &json!("upstream_abort"))
        );
    }
}

/// Reads a stream: its beginning, then lets the server go on, then all of the rest.
#[track_caller]
fn streamed(gateway: &Gateway, go: &Sender<()>) -> (String, String) {
    let mut stream = connect(gateway.address);
    let request = chat(json!({ "stream": true })).header("connection", "close");
    stream.write_all(&request.bytes()).unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&got).contains("\"Hi\"") {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "ended early: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&piece[..n]);
    }
    go.send(()).unwrap();
    let _ = stream.read_to_end(&mut got);
    let text = String::from_utf8_lossy(&got).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_server_that_has_the_model_is_asked() {
    let with = |name: &'static str| {
        Server::fake(move |seen, wire| {
            match seen.target.as_str() {
                "/api/ps" => wire.answer(
                    200,
                    &[JSON],
                    json!({ "models": [{ "name": name }] }).to_string(),
                ),
                _ => replay(seen, wire),
            }
            true
        })
    };
    let (cold, warm) = (with("other:latest"), with("llama3:latest"));
    let gateway = Gateway::start(&format!(
        "pools: {{ box: {{ kind: ollama-native, servers: [{{ url: '{}', name: cold }}, {{ url: '{}', name: warm }}], health: {{ interval: 20ms }} }} }}\n\
         routes: [{{ pool: box }}]",
        cold.url(),
        warm.url()
    ));
    eventually("both were asked what they have", || {
        [&cold, &warm].iter().all(|s| {
            s.seen()
                .iter()
                .filter(|seen| seen.target == "/api/ps")
                .count()
                > 1
        })
    });
    for _ in 0..4 {
        let answer = gateway.send(&chat(json!({ "model": "llama3" })));
        assert_eq!(answer.header("x-backend"), Some("box/warm"));
    }
    assert!(cold.seen().iter().all(|seen| seen.method == "GET"));
}

#[test]
fn a_route_that_could_never_work_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    let check = |route: &str| {
        let pools = "pools: { box: { kind: ollama-native, servers: ['http://h:11434'] }, openai: { servers: ['http://i:1'] } }";
        std::fs::write(
            &file,
            format!("{pools}\nroutes: [{{ name: r, {route} }}]\n"),
        )
        .unwrap();
        let output = Command::new(BINARY)
            .arg("check-config")
            .arg(&file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = check("match: { path: /v1/audio/speech }, pool: box");
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("no server of route `r` has any of these endpoints"),
        "{said}"
    );
    assert!(
        said.contains("/v1/chat/completions, /v1/completions"),
        "{said}"
    );
    let (code, said) = check("match: { path: '/v1/audio/*' }, pool: box, fallback: [openai]");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("never asks pool `box`"), "{said}");
    let (code, said) = check("match: { path: '/v1/chat/*' }, pool: box");
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("never asks"), "{said}");
}
