//! Keys of clients: who gets in, what each may ask for, and that no key goes further.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::client::{connect, read_answer};
use crate::support::gateway::BINARY;
use crate::support::{Gateway, Request, Server, form};

const ALICE: &str = "tl-alice-0123456789-canary";
const BOB: &str = "tl-bob-0123456789-canary";

fn hash(key: &str) -> String {
    let mut child = Command::new(BINARY)
        .args(["key", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(key.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Alice may ask for some models on one route, Bob for everything.
fn with_keys(server: &Server, more: &str) -> String {
    format!(
        r#"
keys:
  - {{ name: alice, hash: "{}", models: ["tts-*", "gpt-small"], routes: [speech, chat] }}
  - {{ name: bob, key_file: bob.key }}
  - {{ name: carol, hash: "{}", expires: 2020-01-01 }}
pools:
  a: {{ servers: [{{ url: "{}", name: one }}], health: false{more} }}
routes:
  - {{ name: speech, match: {{ path: /v1/audio/speech }}, pool: a }}
  - {{ name: chat, match: {{ path: /v1/chat/completions }}, pool: a }}
  - {{ name: rest, match: {{ path: "/v1/*" }}, pool: a }}
"#,
        hash(ALICE),
        hash("tl-carol-0123456789"),
        server.url()
    )
}

fn start(server: &Server, more: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bob.key"), format!("{BOB}\n")).unwrap();
    Gateway::start_in(folder, &with_keys(server, more), &[])
}

fn chat(model: &str) -> Request {
    Request::json(
        "/v1/chat/completions",
        &format!(r#"{{"messages":[],"model":"{model}"}}"#),
    )
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

#[test]
fn only_good_keys_get_in_wherever_clients_put_them() {
    let server = Server::named("a");
    let gateway = start(&server, "");
    for header in ["api-key", "x-api-key"] {
        let request = chat("any").header(header, BOB);
        assert_eq!(gateway.send(&request).status, 200, "{header}");
    }
    assert_eq!(gateway.send(&by(chat("any"), BOB)).status, 200);
    for (request, code, part) in [
        (chat("any"), "invalid_api_key", "asks for an API key"),
        (by(chat("any"), "tl-wrong"), "invalid_api_key", "not known"),
        (
            by(chat("any"), "tl-carol-0123456789"),
            "api_key_expired",
            "has expired",
        ),
    ] {
        let answer = gateway.send(&request);
        assert_eq!((answer.status, answer.code().as_str()), (401, code));
        assert!(answer.text().contains(part), "{}", answer.text());
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.count(), 3);
    // whether it is there, anybody may ask
    assert_eq!(gateway.get("/health").status, 200);
    assert_eq!(gateway.get("/v1/models").status, 401);
    let refused =
        |reason| gateway.metric("trunkline_api_keys_refused_total", &[("reason", reason)]);
    assert_eq!(
        (refused("missing"), refused("unknown"), refused("expired")),
        (2.0, 1.0, 1.0)
    );
    let asked = [("key", "bob"), ("code", "2xx")];
    assert_eq!(gateway.metric("trunkline_key_requests_total", &asked), 3.0);
}

#[test]
fn a_key_that_is_refused_costs_no_byte_of_its_body() {
    let server = Server::named("a");
    let gateway = start(&server, "");
    let mut stream = connect(gateway.address);
    // 100 MB are announced, and none of them comes
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer tl-wrong\r\ncontent-length: 100000000\r\n\r\n"
    )
    .unwrap();
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_api_key")
    );
    assert_eq!(server.count(), 0);
}

#[test]
fn a_key_asks_only_for_its_models_and_takes_only_its_routes() {
    let server = Server::named("a");
    let gateway = start(&server, "");
    let ask = |request: Request| gateway.send(&by(request, ALICE));
    assert_eq!(ask(chat("gpt-small")).status, 200);
    let speech = |model: &str| {
        Request::json(
            "/v1/audio/speech",
            &format!(r#"{{"input":"x","model":"{model}"}}"#),
        )
    };
    assert_eq!(ask(speech("tts-1")).status, 200);
    for (request, status, code) in [
        (chat("gpt-large"), 403, "model_not_allowed"),
        // a body that names none could mean any
        (
            Request::json("/v1/chat/completions", r#"{"messages":[]}"#),
            403,
            "model_not_allowed",
        ),
        (
            Request::json("/v1/embeddings", r#"{"input":"x","model":"tts-1"}"#),
            403,
            "route_not_allowed",
        ),
        // one name is enough to route by, and two are a way around
        (
            Request::json(
                "/v1/chat/completions",
                r#"{"model":"tts-1","model":"gpt-large"}"#,
            ),
            400,
            "invalid_json",
        ),
    ] {
        let answer = ask(request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{}",
            answer.text()
        );
    }
    assert_eq!(server.count(), 2);
    // forms too, wherever the model stands in them
    for file_first in [false, true] {
        let (content_type, body) = form(&[("model", "whisper-1")], b"RIFF", file_first);
        let request = Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(body);
        assert_eq!(ask(request).code(), "route_not_allowed");
    }
}

#[test]
fn a_key_is_told_of_the_models_it_may_ask_for() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        r#"
keys:
  - {{ name: alice, hash: "{}", models: ["tts-*"] }}
  - {{ name: bob, hash: "{}" }}
pools: {{ a: {{ servers: ["{}"], health: false }} }}
routes: [{{ match: {{ model: [tts-1, gpt-small] }}, pool: a }}]
"#,
        hash(ALICE),
        hash(BOB),
        server.url()
    ));
    let told = |key: &str, path: &str| gateway.send(&by(Request::get(path), key));
    let names = |key: &str| {
        let list = told(key, "/v1/models").json();
        let models = list["data"].as_array().unwrap().clone();
        models
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(ALICE), ["tts-1"]);
    assert_eq!(names(BOB).len(), 2);
    assert_eq!(told(BOB, "/v1/models/gpt-small").status, 200);
    assert_eq!(told(ALICE, "/v1/models/gpt-small").status, 404);
}

#[test]
fn no_key_of_ours_goes_further_or_is_told_to_anybody() {
    let server = Server::named("a");
    let gateway = start(&server, ", auth: passthrough");
    let both = by(chat("any"), "sk-of-the-client").header("x-api-key", BOB);
    assert_eq!(gateway.send(&both).status, 200);
    let seen = server.seen().pop().unwrap();
    assert_eq!(
        seen.header("authorization"),
        Some("Bearer sk-of-the-client")
    );
    assert_eq!(seen.header("x-api-key"), None);
    assert_eq!(gateway.send(&by(chat("any"), BOB)).status, 200);
    assert_eq!(server.seen().pop().unwrap().header("authorization"), None);
    gateway.send(&by(chat("any"), ALICE));
    let line = gateway.access_log(3);
    assert_eq!(line[0]["key"], "bob");
    let shown = Command::new(BINARY)
        .args(["config", "show", "-c"])
        .arg(gateway.config_path())
        .output()
        .unwrap();
    for text in [
        serde_json::to_string(&line).unwrap(),
        gateway.ask_admin("/metrics").text(),
        gateway.ask_admin("/status").text(),
        gateway.stderr(),
        String::from_utf8(shown.stdout).unwrap(),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn a_key_that_stays_home_is_not_served_by_the_cloud() {
    let (home, cloud) = (Server::failing(503), Server::named("cloud"));
    let gateway = Gateway::start(&format!(
        r#"
keys:
  - {{ name: alice, hash: "{}", zone: home }}
  - {{ name: bob, hash: "{}" }}
pools:
  home: {{ servers: ["{}"], health: false, eject: false }}
  cloud: {{ servers: ["{}"], health: false, zone: cloud }}
routes: [{{ pool: home, fallback: [cloud] }}]
"#,
        hash(ALICE),
        hash(BOB),
        home.url(),
        cloud.url()
    ));
    assert_eq!(
        gateway.send(&by(chat("x"), BOB)).json()["served_by"],
        "cloud"
    );
    assert_eq!(gateway.send(&by(chat("x"), ALICE)).status, 503);
    assert_eq!(cloud.count(), 1);
}

#[test]
fn new_keys_are_long_different_and_good() {
    let make = || {
        let output = Command::new(BINARY)
            .args(["key", "new", "dora", "--format", "json"])
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (one, two) = (make(), make());
    assert_ne!(one["key"], two["key"]);
    let key = one["key"].as_str().unwrap();
    assert!(key.starts_with("tl-") && key.len() > 40);
    assert_eq!(one["hash"], hash(key).as_str());
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "keys: [{{ name: dora, hash: \"{}\" }}]\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        hash(key),
        server.url()
    ));
    assert_eq!(gateway.send(&by(chat("x"), key)).status, 200);
}

#[test]
fn what_is_wrong_with_keys_is_said_with_its_place() {
    let check = |keys: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trunkline.yaml");
        let rest = "pools: { a: { servers: ['http://h:1'] } }\nroutes: [{ name: all, pool: a }]\n";
        std::fs::write(&file, format!("keys:\n{keys}{rest}")).unwrap();
        let output = Command::new(BINARY)
            .arg("check-config")
            .arg(&file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(said).unwrap(),
        )
    };
    let good = hash(ALICE);
    for (keys, part) in [
        (
            "  - { name: a }\n",
            "needs one of `hash`, `key_file` and `key`",
        ),
        (
            "  - { name: a, hash: 'sha256:00' }\n",
            "begins with `blake3:`",
        ),
        (
            "  - { name: a, hash: 'blake3:00' }\n",
            "64 hexadecimal digits",
        ),
        ("  - { name: a, key_file: gone }\n", "`gone` cannot be read"),
        (
            "  - { name: a, hash: HASH }\n  - { name: a, hash: HASH }\n",
            "two keys are called `a`",
        ),
        (
            "  - { name: a, hash: HASH }\n  - { name: b, hash: HASH }\n",
            "same key as `a`",
        ),
        (
            "  - { name: a, hash: HASH, routes: [al] }\n",
            "route `al` is not defined",
        ),
        (
            "  - { name: a, hash: HASH, expires: tomorrow }\n",
            "is no date",
        ),
        (
            "  - { name: a, hash: HASH, limits: { rpn: 1 } }\n",
            "did you mean `rpm`?",
        ),
    ] {
        let (code, said) = check(&keys.replace("HASH", &format!("'{good}'")));
        assert_eq!((code, said.contains(part)), (78, true), "{keys}: {said}");
    }
    let (code, said) = check("  - { name: a, key: hunter2-canary }\n");
    assert_eq!((code, said.contains("plain text")), (0, true), "{said}");
    assert!(!said.contains("canary"), "{said}");
}
