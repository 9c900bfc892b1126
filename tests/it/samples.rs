//! Every file of conf/ is parsed, explained and served: its servers are replaced by fake ones, and
//! requests go through the real binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::gateway::BINARY;
use crate::support::{Answer, Gateway, Request, Seen, Server, form};

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

/// A sample with a fake server in the place of each of its hosts.
struct Sample {
    gateway: Gateway,
    servers: BTreeMap<String, Server>,
}

impl Sample {
    #[track_caller]
    fn start(name: &str) -> Self {
        Self::start_with(name, |_| None)
    }

    /// `fake` may make a server for a host; the others say their own name.
    #[track_caller]
    fn start_with(name: &str, fake: impl Fn(&str) -> Option<Server>) -> Self {
        let text = std::fs::read_to_string(conf().join(name)).unwrap();
        let mut servers = BTreeMap::new();
        let mut out = String::new();
        for line in text.lines() {
            let mut line = line.to_owned();
            if line.trim_start().starts_with('#') {
                continue;
            }
            for scheme in ["http://", "https://"] {
                let mut from = 0;
                while let Some(at) = line[from..].find(scheme).map(|at| at + from) {
                    let start = at + scheme.len();
                    let rest = &line[start..];
                    let end = start
                        + rest
                            .find(|c: char| !c.is_ascii_alphanumeric() && !".:-".contains(c))
                            .unwrap_or(rest.len());
                    let host = line[start..end].to_owned();
                    let server = servers.entry(host.clone()).or_insert_with(|| {
                        let named: &'static str = host.clone().leak();
                        fake(&host).unwrap_or_else(|| Server::named(named))
                    });
                    let url = format!("http://{}", server.address);
                    line.replace_range(at..end, &url);
                    from = at + url.len();
                }
            }
            for key in ["listen: ", "admin: ", "address: "] {
                if let Some(at) = line.find(key) {
                    line.replace_range(at + key.len().., "127.0.0.1:0");
                }
            }
            out.push_str(&line);
            out.push('\n');
        }
        if !out.contains("admin:") {
            out.push_str("admin: 127.0.0.1:0\n");
        }
        if !out.contains("\nlog:") {
            out.push_str("log: { access: access.log }\n");
        } else {
            out = out.replace("access: stdout", "access: access.log");
        }
        let gateway = Gateway::start_with(
            &out,
            &[
                ("OPENAI_API_KEY", "sk-openai"),
                ("ANTHROPIC_API_KEY", "sk-anthropic"),
                ("GROQ_API_KEY", "sk-groq"),
            ],
        );
        Sample { gateway, servers }
    }

    #[track_caller]
    fn server(&self, host: &str) -> &Server {
        self.servers
            .get(host)
            .unwrap_or_else(|| panic!("no {host} in {:?}", self.servers.keys()))
    }

    #[track_caller]
    fn last(&self, host: &str) -> Seen {
        self.server(host)
            .seen()
            .pop()
            .unwrap_or_else(|| panic!("{host} was not asked"))
    }

    /// Who served a request.
    #[track_caller]
    fn served(&self, request: &Request) -> String {
        let answer = self.gateway.send(request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["served_by"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn speech(model: &str, voice: &str) -> Request {
    Request::json(
        "/v1/audio/speech",
        &format!(r#"{{"model":"{model}","input":"Hello","voice":"{voice}"}}"#),
    )
    .header("authorization", "Bearer sk-client")
}

fn chat(model: &str) -> Request {
    Request::json(
        "/v1/chat/completions",
        &format!(r#"{{"messages":[],"model":"{model}"}}"#),
    )
    .header("authorization", "Bearer sk-client")
}

fn transcription() -> Request {
    let (content_type, body) = form(&[("model", "whisper-1")], &[1; 2000], true);
    Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(body)
}

#[track_caller]
fn explained(file: &str, arguments: &[&str], expected: &str) {
    let output = std::process::Command::new(BINARY)
        .arg("route")
        .args(arguments)
        .arg("--config")
        .arg(conf().join(file))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains(expected),
        "{expected} not in\n{text}"
    );
}

const OPENAI: &str = "api.openai.com";

#[test]
fn every_sample_is_good_and_fits_the_schema() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../conf/trunkline.schema.json")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(conf()).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let output = std::process::Command::new(BINARY)
            .args(["check-config", "-W"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=./trunkline.schema.json\n"),
            "{}",
            path.display()
        );
        let value: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        count += 1;
    }
    assert_eq!(count, 11);
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../conf/trunkline.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for bad in [
        "{ pools: { a: { servers: [x], kindd: kokoro } } }",
        "{ pools: { a: { servers: [x], kind: kokro } } }",
        "{ pools: { a: { timeouts: { idle: 5 parsecs! } } } }",
        "{ routes: [{ match: {} }] }",
        "{ routes: [{ pool: a, retry: { on: [conect] } }] }",
        "{ routes: [{ pool: a, fallback: [{ set: {} }] }] }",
    ] {
        let value: serde_json::Value = serde_yaml::from_str(bad).unwrap();
        assert!(!validator.is_valid(&value), "{bad}");
    }
}

#[test]
fn minimal() {
    let sample = Sample::start("minimal.yaml");
    assert!(
        ["gpu-a:8880", "gpu-b:8880"].contains(&sample.served(&speech("tts-1", "nova")).as_str())
    );
    assert_eq!(sample.served(&transcription()), "gpu-a:2022");
    assert_eq!(sample.last("gpu-a:2022").target, "/inference");
    assert_eq!(sample.served(&chat("llama3")), "gpu-b:11434");
    assert_eq!(sample.served(&chat("gpt-4o")), OPENAI);
    assert_eq!(
        sample.last(OPENAI).header("authorization"),
        Some("Bearer sk-openai")
    );
    assert!(!sample.last("gpu-b:11434").text().contains("sk-"));
    explained(
        "minimal.yaml",
        &["POST", "/v1/chat/completions", "--model", "llama3"],
        "ollama: gpu-b",
    );
}

#[test]
fn nginx_style_fallback() {
    for status in [200, 502, 503, 504, 500, 0] {
        let sample = Sample::start_with("nginx-fallback.yaml", |host| {
            (host == OPENAI).then(|| match status {
                200 => Server::named(OPENAI),
                0 => Server::fake(|_, _| false),
                status => Server::failing(status),
            })
        });
        let answer = sample.gateway.send(&speech("tts-1-hd", "nova"));
        match status {
            200 => assert_eq!(answer.json()["served_by"], OPENAI),
            500 => assert_eq!(answer.status, 500, "not in the list"),
            _ => {
                assert_eq!(answer.json()["served_by"], "127.0.0.1:8880", "{status}");
                let seen = sample.last("127.0.0.1:8880");
                assert_eq!(
                    (seen.json()["model"].as_str(), seen.json()["voice"].as_str()),
                    (Some("kokoro"), Some("af_nova"))
                );
                assert!(!seen.text().contains("sk-"), "{}", seen.text());
            }
        }
    }
    explained(
        "nginx-fallback.yaml",
        &["POST", "/v1/audio/speech", "--voice", "ballad"],
        "\"ballad\" becomes \"af_heart\"",
    );
}

#[test]
fn cost_optimised() {
    let sample = Sample::start("cost-optimised.yaml");
    assert_eq!(sample.served(&speech("tts-1", "af_sky")), "127.0.0.1:8880");
    assert!(!sample.last("127.0.0.1:8880").text().contains("sk-client"));
    assert_eq!(sample.served(&speech("tts-1-hd", "nova")), OPENAI);
    assert_eq!(
        sample.last(OPENAI).header("authorization"),
        Some("Bearer sk-client")
    );
    assert_eq!(sample.served(&chat("gpt-4o")), OPENAI);
    explained(
        "cost-optimised.yaml",
        &["POST", "/v1/audio/speech", "--model", "tts-1"],
        "none go through",
    );
}

#[test]
fn by_voice() {
    let sample = Sample::start("by-voice.yaml");
    assert_eq!(sample.served(&speech("tts-1", "af_sky")), "127.0.0.1:8880");
    let seen = sample.last("127.0.0.1:8880");
    assert_eq!(
        String::from_utf8_lossy(&seen.body),
        r#"{"model":"kokoro-v0.87","input":"Hello","voice":"af_sky"}"#
    );
    assert_eq!(sample.served(&speech("tts-1", "nova")), OPENAI);
    assert_eq!(sample.last(OPENAI).json()["model"], "tts-1");
    explained(
        "by-voice.yaml",
        &[
            "POST",
            "/v1/audio/speech",
            "--voice",
            "af_sky",
            "--model",
            "tts-1",
        ],
        "becomes \"kokoro-v0.87\"",
    );
}

#[test]
fn voice_at_home() {
    let sample = Sample::start("voice-at-home.yaml");
    let gpu = ["gpu-a:8880", "gpu-b:8880"];
    assert!(gpu.contains(&sample.served(&speech("tts-1", "nova")).as_str()));
    let private = || transcription().header("x-tag", "private");
    assert!(sample.served(&private()).ends_with(":2022"));
    gpu.iter().for_each(|host| sample.server(host).kill());
    let answer = sample.gateway.send(&speech("tts-1", "af_sky"));
    assert_eq!(answer.header("x-backend"), Some("openai/127.0.0.1"));
    assert_eq!(answer.header("x-voice"), Some("nova; requested=af_sky"));
    for host in ["gpu-a:2022", "gpu-b:2022"] {
        sample.server(host).kill();
    }
    assert_eq!(sample.served(&transcription()), OPENAI);
    let asked = sample.server(OPENAI).count();
    assert!(sample.gateway.send(&private()).status >= 500);
    assert_eq!(sample.server(OPENAI).count(), asked, "it stays at home");
    explained(
        "voice-at-home.yaml",
        &["POST", "/v1/audio/speech", "--voice", "verse"],
        "becomes \"am_puck\"",
    );
}

#[test]
fn load_balancer() {
    let sample = Sample::start("load-balancer.yaml");
    for _ in 0..9 {
        sample.served(&speech("tts-1", "nova"));
    }
    let counts = [OPENAI, "kokoro-1:8880", "kokoro-2:8880", "kokoro-3:8880"]
        .map(|host| sample.server(host).count());
    assert_eq!(counts, [3, 3, 3, 0]);
    assert_eq!(
        sample.last(OPENAI).header("authorization"),
        Some("Bearer sk-openai")
    );
    assert!(!sample.last("kokoro-1:8880").text().contains("sk-"));
    for host in [OPENAI, "kokoro-1:8880", "kokoro-2:8880"] {
        sample.server(host).kill();
    }
    assert_eq!(
        sample.served(&speech("tts-1", "nova")),
        "kokoro-3:8880",
        "the backup"
    );
    let shown = std::process::Command::new(BINARY)
        .args(["config", "show", "-c"])
        .arg(conf().join("load-balancer.yaml"))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "connect: 5s",
        "first_byte: 50s",
        "header_timeout: 50s",
        "path: /health",
    ] {
        assert!(shown.contains(part), "{part} not in {shown}");
    }
}

#[test]
fn path_router() {
    let sample = Sample::start("path-router.yaml");
    let get = |target: &str| Request::get(target);
    for (request, expected) in [
        (transcription(), "127.0.0.1:2022"),
        (chat("anything"), "127.0.0.1:11434"),
        (speech("tts-1", "nova"), "127.0.0.1:8880"),
        (get("/v1/audio/voices"), "127.0.0.1:8880"),
        (get("/v1/models"), "127.0.0.1:11434"),
        (Request::json("/v1/embeddings", "{}"), OPENAI),
        (Request::json("/v1/moderations", "{}"), OPENAI),
    ] {
        assert_eq!(sample.served(&request), expected);
    }
    assert!(
        std::fs::read_to_string(conf().join("path-router.yaml"))
            .unwrap()
            .contains("listen: 127.0.0.1:2020")
    );
    explained(
        "path-router.yaml",
        &["GET", "/v1/audio/voices"],
        "voices, the 4th written",
    );
}

#[test]
fn by_model() {
    let sample = Sample::start("by-model.yaml");
    for (model, expected) in [
        ("gpt-4o", OPENAI),
        ("o3", OPENAI),
        ("claude-opus-4", "api.anthropic.com"),
        ("llama-3", "127.0.0.1:11434"),
        ("mistral", "127.0.0.1:8080"),
    ] {
        assert_eq!(sample.served(&chat(model)), expected, "{model}");
    }
    assert_eq!(
        sample.last("api.anthropic.com").header("authorization"),
        Some("Bearer sk-anthropic")
    );
    let embed = |model: &str| {
        Request::json(
            "/v1/embeddings",
            &format!(r#"{{"input":"x","model":"{model}"}}"#),
        )
    };
    assert_eq!(sample.served(&embed("text-embedding-3-small")), OPENAI);
    assert_eq!(sample.served(&embed("nomic-embed-text")), "127.0.0.1:11434");
    let models: Answer = sample.gateway.get("/v1/models");
    for id in [
        "gpt-*",
        "o3",
        "claude-*",
        "llama-*",
        "nomic-embed-text",
        "text-embedding-3-small",
    ] {
        assert!(
            models.text().contains(&format!("\"id\":\"{id}\"")),
            "{id} not in {}",
            models.text()
        );
    }
    explained(
        "by-model.yaml",
        &["POST", "/v1/chat/completions", "--model", "claude-opus-4"],
        "https://api.anthropic.com/v1/chat/completions",
    );
}

#[test]
fn providers_by_their_base_urls() {
    let sample = Sample::start("providers.yaml");
    for (provider, host, target) in [
        ("groq", "api.groq.com", "/openai/v1/chat/completions"),
        ("together", "api.together.xyz", "/v1/chat/completions"),
        (
            "fireworks",
            "api.fireworks.ai",
            "/inference/v1/chat/completions",
        ),
        ("openrouter", "openrouter.ai", "/api/v1/chat/completions"),
        ("vllm", "gpu-a:8000", "/v1/chat/completions"),
        ("litellm", "gpu-a:4000", "/v1/chat/completions"),
        ("ollama", "gpu-b:11434", "/v1/chat/completions"),
        ("none", OPENAI, "/v1/chat/completions"),
    ] {
        assert_eq!(
            sample.served(&chat("m").header("x-provider", provider)),
            host
        );
        let seen = sample.last(host);
        assert_eq!(seen.target, target);
        assert_eq!(
            seen.header("host"),
            Some(sample.server(host).address.to_string().as_str())
        );
    }
    assert_eq!(
        sample.last("api.groq.com").header("authorization"),
        Some("Bearer sk-groq")
    );
    assert_eq!(
        sample.last("api.together.xyz").header("authorization"),
        Some("Bearer sk-client"),
        "no key: the client's"
    );
    assert_eq!(sample.last("gpu-b:11434").header("authorization"), None);
    explained(
        "providers.yaml",
        &[
            "POST",
            "/v1/chat/completions",
            "-H",
            "x-provider: fireworks",
        ],
        "https://api.fireworks.ai/inference/v1/chat/completions",
    );
}

#[test]
fn litellm_model_list() {
    let sample = Sample::start("litellm-model-list.yaml");
    let hosts: std::collections::BTreeSet<String> =
        (0..4).map(|_| sample.served(&chat("chat"))).collect();
    assert_eq!(hosts.len(), 2, "{hosts:?}");
    assert_eq!(sample.last("gpu-a:11434").json()["model"], "llama3.1:8b");
    assert_eq!(sample.served(&chat("gpt-4o")), OPENAI);
    let (content_type, body) = form(&[("model", "whisper")], &[1; 100], false);
    sample.served(
        &Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(body),
    );
    assert!(sample.last("gpu-a:8000").text().contains("whisper-1"));
    sample.server("gpu-a:11434").kill();
    sample.server("gpu-b:11434").kill();
    assert_eq!(sample.served(&chat("chat")), OPENAI);
    assert_eq!(sample.last(OPENAI).json()["model"], "gpt-4o");
    assert_eq!(
        sample.gateway.send(&chat("other")).code(),
        "model_not_found"
    );
    explained(
        "litellm-model-list.yaml",
        &["POST", "/v1/chat/completions", "--model", "chat"],
        "\"chat\" becomes \"llama3.1:8b\"",
    );
}

#[test]
fn the_commented_sample_is_a_manual_that_works() {
    let sample = Sample::start("trunkline.yaml");
    assert!(
        ["gpu-a:8880", "gpu-b:8880"].contains(&sample.served(&speech("tts-1", "nova")).as_str())
    );
    assert_eq!(sample.served(&transcription()), "gpu-a:2022");
    let (content_type, body) = form(&[], &vec![1; 26 << 20], false);
    let long = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(body);
    assert_eq!(
        sample.gateway.send(&long).header("x-backend"),
        Some("whisper/127.0.0.1")
    );
    assert_eq!(
        sample.gateway.access_log(3)[2]["route"],
        "long-transcriptions"
    );
    // every key of the schema is explained
    let text = std::fs::read_to_string(conf().join("trunkline.yaml")).unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../conf/trunkline.schema.json")).unwrap();
    let mut keys = std::collections::BTreeSet::new();
    fn collect(value: &serde_json::Value, keys: &mut std::collections::BTreeSet<String>) {
        if let Some(properties) = value.get("properties").and_then(|p| p.as_object()) {
            keys.extend(properties.keys().cloned());
        }
        match value {
            serde_json::Value::Object(map) => map.values().for_each(|v| collect(v, keys)),
            serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, keys)),
            _ => {}
        }
    }
    collect(&schema, &mut keys);
    assert!(keys.len() > 50);
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| !text.contains(&format!("{key}:")) && !text.contains(&format!("`{key}")))
        .collect();
    assert!(
        missing.is_empty(),
        "not in conf/trunkline.yaml: {missing:?}"
    );
}

/// A guide's file after the move, which is good as it is.
#[track_caller]
fn moved_from(program: &str) -> Sample {
    let file = format!("../docs/migrating/{program}/after.yaml");
    let output = std::process::Command::new(BINARY)
        .args(["check-config", "-W"])
        .arg(conf().join(&file))
        .env_remove("OPENAI_API_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    Sample::start(&file)
}

#[test]
fn who_comes_from_haproxy_is_served_as_before() {
    let sample = moved_from("haproxy");
    assert_eq!(sample.served(&transcription()), "whisper-box:2022");
    assert_eq!(sample.last("whisper-box:2022").target, "/inference");
    assert_eq!(sample.served(&chat("any")), "ollama-box:11434");
    let moderation = Request::json("/v1/moderations", "{}");
    let moderation = moderation.header("authorization", "Bearer sk-client");
    assert_eq!(sample.served(&moderation), OPENAI);
    let key = sample.last(OPENAI);
    assert_eq!(key.header("authorization"), Some("Bearer sk-client"));
    let served = |_| sample.served(&speech("tts-1", "nova"));
    let by: std::collections::BTreeSet<String> = (0..4).map(served).collect();
    assert!(by.iter().eq(["kokoro-a:8880", "kokoro-b:8880"]), "{by:?}");
    for host in ["kokoro-a:8880", "kokoro-b:8880"] {
        sample.server(host).kill();
    }
    assert_eq!(served(0), "kokoro-c:8880");
    assert_eq!(sample.gateway.get("/health").text(), "healthy\n");
}

#[test]
fn who_comes_from_litellm_is_served_as_before() {
    let sample = moved_from("litellm");
    let gpus = ["gpu-a:11434", "gpu-b:11434"];
    assert!(gpus.contains(&sample.served(&chat("llama")).as_str()));
    let mut seen = gpus.iter().flat_map(|host| sample.server(host).seen());
    let asked = seen.find(|seen| seen.method == "POST");
    assert_eq!(asked.unwrap().json()["model"], "llama3.1:8b");
    assert_eq!(sample.served(&chat("gpt-4o")), OPENAI);
    assert_eq!(sample.served(&transcription()), "gpu-a:8000");
    assert_eq!(sample.served(&speech("tts-1", "nova")), "gpu-a:8880");
    assert_eq!(sample.last("gpu-a:8880").json()["model"], "kokoro");
    for host in gpus {
        sample.server(host).kill();
    }
    assert_eq!(sample.served(&chat("llama")), OPENAI);
    assert_eq!(sample.last(OPENAI).json()["model"], "gpt-4o");
}

#[test]
fn who_comes_from_nginx_is_served_as_before() {
    let sample = moved_from("nginx");
    let gpus = ["gpu-a:8880", "gpu-b:8880"];
    let served = || sample.served(&speech("tts-1", "nova"));
    assert!(gpus.contains(&served().as_str()));
    for host in gpus {
        sample.server(host).kill();
    }
    assert_eq!(served(), "mac-mini:8880");
    assert_eq!(sample.served(&transcription()), "gpu-a:2022");
    assert_eq!(sample.served(&chat("any")), OPENAI);
    let key = sample.last(OPENAI);
    assert_eq!(key.header("authorization"), Some("Bearer sk-openai"));
}
