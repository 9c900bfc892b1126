//! `trunkline discover`: what a box is known by, and a file that can be served.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::typed::{Typed, typed};
use crate::support::{Gateway, Server};

/// Answers paths with bodies, others with 404.
fn speaking(paths: &'static [(&'static str, &'static str)]) -> Server {
    Server::fake(move |seen, wire| {
        let path = format!("{} {}", seen.method, seen.target);
        match paths.iter().find(|(known, _)| *known == path) {
            Some((_, body)) => wire.json(body),
            None => wire.answer(404, &[], ""),
        }
        true
    })
}

const MODELS: &str = r#"{"object":"list","data":[{"id":"llama3.2:3b"},{"id":"odd\"${NAME}*"}]}"#;

fn kokoro() -> Server {
    speaking(&[
        ("GET /health", r#"{"status":"healthy"}"#),
        ("GET /v1/audio/voices", r#"{"voices":["af_sky"]}"#),
    ])
}

fn whisper() -> Server {
    speaking(&[("GET /health", r#"{"status":"ok"}"#)])
}

fn ollama() -> Server {
    speaking(&[
        ("GET /api/version", r#"{"version":"0.12.0"}"#),
        ("GET /v1/models", MODELS),
    ])
}

fn discover(servers: &[&Server], more: &[&str]) -> (tempfile::TempDir, Typed) {
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<String> = servers.iter().map(|s| s.address.to_string()).collect();
    let mut arguments = vec!["discover", "--timeout", "10s"];
    for host in &hosts {
        arguments.extend(["--host", host]);
    }
    arguments.extend(more);
    let found = typed(folder.path(), &arguments);
    (folder, found)
}

#[test]
fn what_is_printed_passes_the_check_and_routes() {
    let (tts, stt, llm) = (kokoro(), whisper(), ollama());
    let (folder, found) = discover(&[&tts, &stt, &llm], &[]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert_eq!(
        found.stderr.matches("found  ").count(),
        3,
        "{}",
        found.stderr
    );
    std::fs::write(folder.path().join("trunkline.yaml"), &found.stdout).unwrap();
    let checked = typed(folder.path(), &["check-config", "-W"]);
    assert_eq!(checked.code, 0, "{}\n{}", checked.stderr, found.stdout);
    for (path, pool, server) in [
        ("/v1/audio/speech", "kokoro", &tts),
        ("/v1/audio/voices", "kokoro", &tts),
        ("/v1/audio/transcriptions", "whisper", &stt),
        ("/v1/chat/completions", "ollama", &llm),
    ] {
        let routed = typed(folder.path(), &["route", "POST", path]);
        let expected = format!("pool      {pool}: 127.0.0.1");
        assert!(
            routed.stdout.contains(&expected),
            "{path}: {}",
            routed.stdout
        );
        assert!(routed.stdout.contains(&server.address.to_string()));
    }
}

#[test]
fn boxes_of_one_software_are_one_pool_and_models_decide_between_others() {
    let vllm = Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/health" => wire.answer(200, &[], ""),
            "/v1/models" => wire.json(r#"{"object":"list","data":[{"id":"Qwen/Qwen3-8B"}]}"#),
            _ => wire.answer(404, &[], ""),
        }
        true
    });
    let (one, two, llm) = (kokoro(), kokoro(), ollama());
    let (folder, found) = discover(&[&one, &two, &llm, &vllm], &[]);
    std::fs::write(folder.path().join("trunkline.yaml"), &found.stdout).unwrap();
    let checked = typed(folder.path(), &["check-config", "-W"]);
    assert_eq!(checked.code, 0, "{}\n{}", checked.stderr, found.stdout);
    assert_eq!(found.stdout.matches("  kokoro:").count(), 1);
    let chat = ["route", "POST", "/v1/chat/completions", "--model"];
    for (model, pool) in [
        ("Qwen/Qwen3-8B", "vllm"),
        ("llama3.2:3b", "ollama"),
        ("odd\"${NAME}*", "ollama"),
        ("unknown", "ollama"),
    ] {
        let routed = typed(folder.path(), &[&chat[..], &[model]].concat());
        let expected = format!("pool      {pool}: ");
        assert!(
            routed.stdout.contains(&expected),
            "{model}: {}",
            routed.stdout
        );
    }
    assert!(
        found
            .stdout
            .contains("# nothing was found for transcription")
    );
}

#[test]
fn each_software_is_known_by_what_it_says() {
    for (server, kind) in [
        (
            speaking(&[("GET /health/liveliness", "\"I'm alive!\"")]),
            "litellm",
        ),
        (
            speaking(&[
                ("GET /health", r#"{"status":"ok"}"#),
                ("GET /v1/models", MODELS),
            ]),
            "llama.cpp",
        ),
        (
            speaking(&[
                ("GET /health", r#"{"message":"OK"}"#),
                ("GET /v1/models", MODELS),
            ]),
            "speaches",
        ),
        (
            speaking(&[("GET /readyz", "OK"), ("GET /v1/models", MODELS)]),
            "localai",
        ),
    ] {
        let (_, found) = discover(&[&server], &["--format", "json"]);
        assert_eq!(found.json()["found"][0]["kind"], kind, "{}", found.stdout);
    }
}

#[test]
fn litellm_is_not_asked_what_costs_tokens() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let server = Server::fake(|seen, wire| {
        ASKED.fetch_or(seen.target == "/health", SeqCst);
        wire.json("\"I'm alive!\"");
        true
    });
    let (_, found) = discover(&[&server], &["--format", "json"]);
    assert_eq!(found.json()["found"][0]["kind"], "litellm");
    assert!(!ASKED.load(SeqCst), "its /health calls every model");
}

#[test]
fn a_whisper_with_openais_path_is_not_asked_for_another() {
    let server = speaking(&[
        ("GET /health", r#"{"status":"ok"}"#),
        ("OPTIONS /v1/audio/transcriptions", ""),
    ]);
    let (folder, found) = discover(&[&server], &[]);
    std::fs::write(folder.path().join("trunkline.yaml"), &found.stdout).unwrap();
    let routed = typed(
        folder.path(),
        &["route", "POST", "/v1/audio/transcriptions"],
    );
    let url = format!("{}/v1/audio/transcriptions", server.url());
    assert!(routed.stdout.contains(&url), "{}", routed.stdout);
    let shown = typed(folder.path(), &["config", "show"]);
    assert!(shown.stdout.contains("slots: 1"), "{}", shown.stdout);
}

#[test]
fn nothing_is_no_box() {
    let trunkline = Gateway::start(
        "pools: { a: { servers: ['http://127.0.0.1:9'], health: false } }\nroutes: [{ match: { path: /v1/chat/completions }, pool: a }]\n",
    );
    let folder = tempfile::tempdir().unwrap();
    let own = trunkline.address.to_string();
    let refused = Server::refused().to_string();
    let found = typed(
        folder.path(),
        &["discover", "--host", &own, "--host", &refused],
    );
    assert_eq!(
        (found.code, found.stdout.as_str()),
        (1, ""),
        "{}",
        found.stderr
    );
    assert_eq!(
        found.stderr.matches("none   for").count(),
        3,
        "{}",
        found.stderr
    );
    let unknown = typed(folder.path(), &["discover", "--host", "nobody.invalid"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("nobody.invalid"),
        "{}",
        unknown.stderr
    );
}
