//! The official OpenAI SDKs, as users have them, against the real binary.
//!
//! `make test` installs them in pinned versions and says where by `TRUNKLINE_SDK`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::gateway::BINARY;
use crate::support::{Gateway, Server, eventually};

/// Where the SDKs are; without them the tests say how to get them.
fn sdk() -> PathBuf {
    let folder = std::env::var_os("TRUNKLINE_SDK").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/sdk"),
        PathBuf::from,
    );
    assert!(
        folder.join("python").exists() && folder.join("node").exists(),
        "the SDKs are not installed: run `make sdk-setup`"
    );
    folder
}

/// A stand-in as a process of its own, which can be killed.
struct StandIn {
    child: Child,
    url: String,
}

impl StandIn {
    fn start(more: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["standin", "--name", "box", "--for-seconds", "120"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = format!("http://{}", line.trim().rsplit("http://").next().unwrap());
        StandIn { child, url }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn script(name: &str, gateway: &Gateway) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sdk")
        .join(name);
    let mut command = Command::new(if name.ends_with(".py") {
        "python3"
    } else {
        "node"
    });
    command
        .arg(path)
        .env("BASE_URL", format!("http://{}/v1", gateway.address))
        .env("PYTHONPATH", sdk().join("python"))
        .env("SDK_NODE", sdk().join("node"));
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
    ] {
        command.env_remove(name);
    }
    command
}

#[track_caller]
fn drives(name: &str) {
    let boxes = [StandIn::start(&[]), StandIn::start(&[])];
    let refusing = Server::fake(|seen, wire| {
        let json = ("content-type", "application/json");
        if seen.json()["model"] == "err-401" {
            let body = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
            wire.answer(401, &[json], body);
        } else {
            let body = r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
            let headers = [
                json,
                ("retry-after", "7"),
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "1s"),
            ];
            wire.answer(429, &headers, body);
        }
        true
    });
    let gateway = Gateway::start(&format!(
        r#"
pools:
  boxes: {{ servers: [{{ url: "{}/v1", name: a }}, {{ url: "{}/v1", name: b }}], health: {{ path: /health }} }}
  refusing: {{ servers: ["{}/v1"], health: false }}
routes:
  - {{ match: {{ model: [demo-chat, demo-speech, demo-transcription, demo-embedding] }}, pool: boxes }}
  - {{ match: {{ model: [err-401, err-429] }}, pool: refusing }}
"#,
        boxes[0].url,
        boxes[1].url,
        refusing.url()
    ));
    let output = script(name, &gateway).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(
        said.lines().filter(|line| line.starts_with("ok ")).count() >= 10,
        "{said}"
    );
}

#[track_caller]
fn survives(name: &str) {
    let mut boxes = [
        StandIn::start(&["--delay", "50"]),
        StandIn::start(&["--delay", "50"]),
    ];
    let gateway = Gateway::start(&format!(
        r#"
pools: {{ boxes: {{ servers: [{{ url: "{}/v1", name: a }}, {{ url: "{}/v1", name: b }}], health: {{ path: /health }} }} }}
routes: [{{ match: {{ model: demo-chat }}, pool: boxes }}]
"#,
        boxes[0].url, boxes[1].url
    ));
    let mut child = script(name, &gateway)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.trim() == "started"));
    // in the middle of the next requests
    std::thread::sleep(Duration::from_millis(20));
    let _ = boxes[0].child.kill();
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("done 60 ok 60 failed 0") || line.contains("ok 60 failed 0")),
        "{rest:?}"
    );
    let failed: f64 = gateway.metric("trunkline_attempts_total", &[("server", "a")])
        - gateway.metric(
            "trunkline_attempts_total",
            &[("server", "a"), ("result", "ok")],
        );
    assert!(failed >= 1.0, "the dead server was met");
}

#[test]
fn python_is_served() {
    drives("drive.py");
}

#[test]
fn node_is_served() {
    drives("drive.mjs");
}

#[test]
fn python_survives_a_server_that_is_killed() {
    survives("killed.py");
}

#[test]
fn node_survives_a_server_that_is_killed() {
    survives("killed.mjs");
}

#[track_caller]
fn talks_to_ollama(name: &str) {
    let ollama = super::ollama::fake();
    let gateway = Gateway::start(&format!(
        "pools: {{ box: {{ kind: ollama-native, servers: ['{}'], health: false }} }}\n\
         routes: [{{ match: {{ path: /v1/models }}, pool: box }}, {{ pool: box }}]",
        ollama.url()
    ));
    let output = script(name, &gateway).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        said.lines().filter(|l| l.starts_with("ok ")).count(),
        6,
        "{said}"
    );
}

#[test]
fn python_talks_to_a_native_ollama() {
    talks_to_ollama("ollama.py");
}

#[test]
fn node_talks_to_a_native_ollama() {
    talks_to_ollama("ollama.mjs");
}

#[test]
fn python_has_a_conversation() {
    let server = super::memory::echo();
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: false }} }}\n\
         routes: [{{ pool: a, memory: {{ by: header x-session-id }} }}]",
        server.url()
    ));
    let output = script("memory.py", &gateway).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("ok ").count(), 3, "{said}");
}

#[track_caller]
fn asks_for_models(name: &str) {
    let server = Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/v1/models" => {
                wire.json(r#"{"data":[{"id":"org/big","created":7},{"id":"llama3","created":7}]}"#)
            }
            _ => wire.answer(404, &[], ""),
        }
        true
    });
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ box: {{ servers: ['{}'] }} }}\n\
         routes: [{{ match: {{ path: /v1/chat/completions }}, pool: box }}]",
        server.url()
    ));
    eventually("the models are listed", || {
        gateway.get("/v1/models/llama3").status == 200
    });
    let output = script(name, &gateway).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("ok ").count(), 3, "{said}");
}

#[test]
fn python_asks_for_models() {
    asks_for_models("models.py");
}

#[test]
fn node_asks_for_models() {
    asks_for_models("models.mjs");
}
