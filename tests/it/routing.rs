//! Which server a request reaches, and in which form.

use crate::support::{Gateway, Request, Server, form};

#[test]
fn the_first_written_route_that_matches_wins() {
    let (speech, llama, rest) = (
        Server::named("speech"),
        Server::named("llama"),
        Server::named("rest"),
    );
    let gateway = Gateway::start(&format!(
        r#"
pools:
  speech: {{ servers: ["{}/v1"] }}
  llama: {{ servers: ["{}/v1"] }}
  rest: {{ servers: ["{}/v1"] }}
routes:
  - {{ match: {{ path: /v1/audio/speech }}, pool: speech }}
  - {{ match: {{ path: /v1/chat/completions, model: "llama*" }}, pool: llama }}
  - {{ match: {{ path: "/v1/*" }}, pool: rest }}
"#,
        speech.url(),
        llama.url(),
        rest.url()
    ));
    // openai-python sends messages before model
    for (path, body, expected) in [
        ("/v1/audio/speech", r#"{"input":"x"}"#, "speech"),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"\"model\":\"gpt\""}],"model":"llama3"}"#,
            "llama",
        ),
        ("/v1/chat/completions", r#"{"model":"gpt-4"}"#, "rest"),
        ("/chat/completions", r#"{"model":"llama3"}"#, "llama"),
        ("/v1/embeddings", r#"{"model":"llama3"}"#, "rest"),
    ] {
        let answer = gateway.post(path, body);
        assert_eq!(
            (answer.status, answer.json()["served_by"].as_str()),
            (200, Some(expected)),
            "{path} {body}"
        );
        assert!(answer.header("x-backend").unwrap().starts_with(expected));
    }
    assert_eq!(llama.seen()[0].target, "/v1/chat/completions");
}

#[test]
fn the_path_of_a_servers_url_replaces_the_version() {
    let server = Server::named("groq");
    let gateway = Gateway::start(&format!(
        "pools: {{ groq: {{ servers: ['{}/openai/v1'] }} }}\nroutes: [{{ pool: groq }}]",
        server.url()
    ));
    gateway.post("/v1/chat/completions?a=1", "{}");
    gateway.post("/chat/completions", "{}");
    let targets: Vec<String> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(
        targets,
        [
            "/openai/v1/chat/completions?a=1",
            "/openai/v1/chat/completions"
        ]
    );
    assert_eq!(
        server.seen()[0].header("host"),
        Some(server.address.to_string().as_str())
    );
}

#[test]
fn fields_are_rewritten_in_place_and_every_other_byte_stays() {
    let server = Server::named("kokoro");
    let gateway = Gateway::start(&format!(
        r#"
pools: {{ kokoro: {{ kind: kokoro, servers: ["{}/v1"], models: {{ tts-1: kokoro }}, voices: {{ nova: af_nova, "*": af_heart }} }} }}
routes: [{{ pool: kokoro, default: {{ speed: 1.25 }} }}]
"#,
        server.url()
    ));
    let body = "{\"input\":\"a\\u00e9 \\\"model\\\":\\\"tts-1\\\"\",\n \"model\" : \"tts-1\",\"voice\":\"ballad\"  }";
    assert_eq!(gateway.post("/v1/audio/speech", body).status, 200);
    let expected = "{\"input\":\"a\\u00e9 \\\"model\\\":\\\"tts-1\\\"\",\n \"model\" : \"kokoro\",\"voice\":\"af_heart\"  ,\"speed\":1.25}";
    let seen = server.seen().remove(0);
    assert_eq!(String::from_utf8_lossy(&seen.body), expected);
    assert_eq!(
        seen.header("content-length"),
        Some(expected.len().to_string().as_str())
    );
}

#[test]
fn a_form_is_routed_and_rewritten_with_its_model_before_or_behind_the_file() {
    let server = Server::named("whisper");
    let gateway = Gateway::start(&format!(
        r#"
pools: {{ w: {{ kind: whisper.cpp, servers: ["{}"], models: {{ whisper-1: large-v3 }} }} }}
routes: [{{ match: {{ path: /v1/audio/transcriptions, model: "whisper*" }}, pool: w }}]
"#,
        server.url()
    ));
    let audio: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    for (file_first, chunked) in [(false, false), (true, false), (false, true), (true, true)] {
        let fields = [("model", "whisper-1"), ("response_format", "json")];
        let (content_type, body) = form(&fields, &audio, file_first);
        let mut request = Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(body);
        if chunked {
            request = request.chunked(7919);
        }
        assert_eq!(gateway.send(&request).status, 200);
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.target, "/inference");
        let fields = [("model", "large-v3"), ("response_format", "json")];
        assert!(
            seen.body == form(&fields, &audio, file_first).1,
            "file_first={file_first} chunked={chunked}"
        );
        assert!(
            seen.header("content-length").is_some(),
            "whisper.cpp always gets a length"
        );
        assert_eq!(
            seen.header("connection"),
            Some("close"),
            "and no kept connection"
        );
    }
}

#[test]
fn voice_header_host_method_and_size_decide() {
    let [voice, header, host, big, rest] =
        ["voice", "header", "host", "big", "rest"].map(Server::named);
    let pools: Vec<String> = [
        ("voice", &voice),
        ("header", &header),
        ("host", &host),
        ("big", &big),
        ("rest", &rest),
    ]
    .iter()
    .map(|(name, server)| format!("  {name}: {{ servers: ['{}'] }}", server.url()))
    .collect();
    let gateway = Gateway::start(&format!(
        r#"
pools:
{}
routes:
  - {{ match: {{ path: /v1/audio/speech, voice: ["af_*"] }}, pool: voice }}
  - {{ match: {{ headers: {{ x-tier: gold }} }}, pool: header }}
  - {{ match: {{ host: "*.voice.test" }}, pool: host }}
  - {{ match: {{ path: /v1/files, body_larger_than: 1KiB }}, pool: big }}
  - {{ match: {{ method: [POST, GET] }}, pool: rest }}
"#,
        pools.join("\n")
    ));
    let served = |request: Request| {
        gateway.send(&request).json()["served_by"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let speech = |voice: &str| {
        Request::json(
            "/v1/audio/speech",
            &format!("{{\"input\":\"x\",\"voice\":\"{voice}\"}}"),
        )
    };
    assert_eq!(served(speech("af_sky")), "voice");
    assert_eq!(served(speech("nova")), "rest");
    assert_eq!(served(speech("nova").header("x-tier", "gold")), "header");
    let host_request = Request::new("POST", "/v1/x").header("x-tier", "none");
    assert_eq!(served(host_request), "rest");
    assert_eq!(
        served(Request::json(
            "/v1/files",
            &format!("{{\"a\":\"{}\"}}", "x".repeat(2000))
        )),
        "big"
    );
    assert_eq!(
        served(
            Request::json("/v1/files", &format!("{{\"a\":\"{}\"}}", "x".repeat(2000))).chunked(100)
        ),
        "big"
    );
    assert_eq!(served(Request::json("/v1/files", "{}")), "rest");
    // a body that is neither JSON nor a form has no model and may be anything
    let binary = Request::new("POST", "/v1/uploads/1/parts")
        .header("content-type", "application/octet-stream");
    assert_eq!(served(binary.body([0u8, 255, 10].to_vec())), "rest");
    assert_eq!(
        gateway.send(&Request::new("DELETE", "/v1/files/1")).code(),
        "no_route"
    );
}

#[test]
fn weights_and_backups_share_the_load_as_written() {
    let [a, b, backup] = ["a", "b", "backup"].map(Server::named);
    let gateway = Gateway::start(&format!(
        r#"
pools:
  p:
    servers:
      - {{ url: "{}", name: a, weight: 3 }}
      - {{ url: "{}", name: b }}
      - {{ url: "{}", name: c, backup: true }}
routes: [{{ pool: p }}]
"#,
        a.url(),
        b.url(),
        backup.url()
    ));
    for _ in 0..20 {
        assert_eq!(gateway.post("/v1/x", "{}").status, 200);
    }
    assert_eq!((a.count(), b.count(), backup.count()), (15, 5, 0));
}

#[test]
fn bad_requests_are_refused_in_openais_shape_and_nothing_is_sent() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ match: {{ path: /v1/chat/completions, model: 'gpt*' }}, pool: a, max_body: 1KiB }}]",
        server.url()
    ));
    let chat = |body: &str| Request::json("/v1/chat/completions", body);
    let big = format!("{{\"model\":\"gpt\",\"x\":\"{}\"}}", "y".repeat(2000));
    for (request, status, code) in [
        (chat("{"), 400, "invalid_json"),
        (chat("[]"), 400, "invalid_json"),
        (chat(""), 404, "model_not_found"),
        (chat(r#"{"model":"a","model":"gpt"}"#), 400, "invalid_json"),
        (
            chat(r#"{"model":"a","mod\u0065l":"gpt"}"#),
            400,
            "invalid_json",
        ),
        (chat(r#"{"model":"claude"}"#), 404, "model_not_found"),
        (chat(&big), 413, "body_too_large"),
        (chat(&big).chunked(100), 413, "body_too_large"),
        (
            chat("--x").header("content-type", "multipart/form-data; boundary=x"),
            400,
            "invalid_request",
        ),
        (
            Request::new("POST", "/v1/chat/completions")
                .header("content-type", "multipart/form-data; boundary=x")
                .body("--y"),
            400,
            "invalid_multipart",
        ),
        (Request::get("/v1/nothing"), 404, "no_route"),
        (
            Request::get("/v1/../v1/chat/completions"),
            400,
            "invalid_request",
        ),
        (Request::get("/v1/%2e%2e/chat"), 400, "invalid_request"),
        (
            Request::get("/v1//chat/completions"),
            400,
            "invalid_request",
        ),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{}",
            answer.text()
        );
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert_eq!(answer.header("x-backend"), Some("local"));
        assert!(answer.header("x-request-id").is_some());
    }
    let unknown = gateway.post("/v1/chat/completions", r#"{"model":"claude"}"#);
    assert_eq!(unknown.json()["error"]["param"], "model");
    assert_eq!(server.count(), 0);
}

#[test]
fn the_connection_is_kept_after_a_bad_request() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ match: {{ model: 'gpt*' }}, pool: a }}]",
        server.url()
    ));
    let mut stream = crate::support::client::connect(gateway.address);
    assert_eq!(Request::json("/v1/x", "{").send_on(&mut stream).status, 400);
    assert_eq!(
        Request::json("/v1/x", "{\"model\":\"gpt\"}")
            .send_on(&mut stream)
            .status,
        200
    );
}

#[test]
fn request_ids_are_kept_or_made_and_the_servers_own_moves_aside() {
    let server = Server::fake(|_, wire| {
        wire.answer(
            200,
            &[
                ("x-request-id", "req-theirs"),
                ("openai-processing-ms", "12"),
            ],
            "{}",
        );
        true
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let kept = gateway.send(
        &Request::json("/v1/x", "{}")
            .header("x-request-id", "mine-1")
            .header("traceparent", trace),
    );
    assert_eq!(kept.header("x-request-id"), Some("mine-1"));
    assert_eq!(kept.header("x-upstream-request-id"), Some("req-theirs"));
    assert_eq!(kept.header("openai-processing-ms"), Some("12"));
    let made = gateway.send(&Request::json("/v1/x", "{}").header("x-request-id", "bad id!"));
    assert_eq!(made.header("x-request-id").map(str::len), Some(32));
    let seen = server.seen();
    assert_eq!(
        (
            seen[0].header("x-request-id"),
            seen[0].header("traceparent")
        ),
        (Some("mine-1"), Some(trace))
    );
    assert_eq!(seen[1].header("x-request-id"), made.header("x-request-id"));
    assert!(seen[1].header("traceparent").is_some());
}

#[test]
fn a_request_that_comes_back_is_answered_508() {
    // a server that leads back to the proxy under a name the file does not show
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let back = listener.local_addr().unwrap();
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['http://{back}'] }} }}\nroutes: [{{ pool: a }}]"
    ));
    let to = gateway.address;
    let _bridge = Server::on(listener, move |seen, wire| {
        let mut request = Request::new(&seen.method, &seen.target).body(seen.body.clone());
        for (name, value) in seen
            .headers
            .iter()
            .filter(|(n, _)| n != "host" && n != "content-length")
        {
            request = request.header(name, value);
        }
        let answer = request.send(to);
        wire.answer(
            answer.status,
            &[("content-type", "application/json")],
            &answer.body,
        );
        true
    });
    let answer = gateway.post("/v1/x", "{}");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (508, "loop_detected")
    );
}
