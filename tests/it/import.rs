//! `trunkline import`: what other programs' files become, and what is said of the rest.

use std::path::{Path, PathBuf};

use crate::support::tls::Pair;
use crate::support::typed::{Typed, bare, run, typed};

/// A key that must not be seen again.
const CANARY: &str = "sk-planted-canary-1234567890";

fn migrating(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/migrating")
        .join(file)
}

/// Imports a file, and checks that what comes out can be served and that no key is in it.
#[track_caller]
fn import(from: &str, text: &str) -> (tempfile::TempDir, Typed) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("before"), text).unwrap();
    let done = typed(folder.path(), &["import", from, "before"]);
    let Pair { cert, key, .. } = Pair::new();
    std::fs::write(folder.path().join("edge.pem"), cert + &key).unwrap();
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    for said in [&done.stdout, &done.stderr] {
        assert!(!said.contains("planted"), "a key was printed:\n{said}");
    }
    std::fs::write(folder.path().join("trunkline.yaml"), &done.stdout).unwrap();
    let checked = with_keys(folder.path(), &["check-config"]);
    assert_eq!(checked.code, 0, "{}\n{}", checked.stderr, done.stdout);
    for line in done.stdout.lines() {
        assert!(line.chars().count() <= 110, "too wide: {line}");
    }
    (folder, done)
}

fn with_keys(folder: &Path, arguments: &[&str]) -> Typed {
    let mut command = bare(folder, arguments);
    for name in [
        "OPENAI_API_KEY",
        "LITELLM_MASTER_KEY",
        "GROQ_API_KEY",
        "ANTHROPIC_API_KEY",
        "CHAT_API_KEY",
        "PRIVATE_API_KEY",
        "TOKEN_OF_MINE",
    ] {
        command.env(name, "set");
    }
    run(&mut command)
}

/// What of an explained route does not depend on how pools are called.
#[track_caller]
fn explained(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let told = with_keys(folder, &[&["route", "POST"], arguments].concat());
    assert!(
        told.stdout.contains("request"),
        "{}{}",
        told.stdout,
        told.stderr
    );
    let lines = told.stdout.lines().map(str::trim);
    let kept = lines.filter(|line| line.starts_with("http") || line.contains("becomes"));
    kept.map(str::to_owned).collect()
}

/// The file that people wrote by hand and the one that is made say the same of requests.
#[track_caller]
fn same_as_by_hand(folder: &Path, after: &str, requests: &[&[&str]]) {
    let by_hand = tempfile::tempdir().unwrap();
    std::fs::copy(migrating(after), by_hand.path().join("trunkline.yaml")).unwrap();
    for request in requests {
        let expected = explained(by_hand.path(), request);
        assert!(!expected.is_empty(), "{request:?}");
        assert_eq!(explained(folder, request), expected, "{request:?}");
    }
}

#[test]
fn the_litellm_guide_is_what_import_makes_of_it() {
    let text = std::fs::read_to_string(migrating("litellm/before.yaml")).unwrap();
    let (folder, done) = import("litellm", &text);
    let chat = "/v1/chat/completions";
    let requests: &[&[&str]] = &[
        &[chat, "--model", "gpt-4o"],
        &[chat, "--model", "llama"],
        &["/v1/audio/transcriptions", "--model", "whisper-1"],
        &["/v1/audio/speech", "--model", "tts-1", "--voice", "af_sky"],
    ];
    same_as_by_hand(folder.path(), "litellm/after.yaml", requests);
    for part in [
        "listen: 127.0.0.1:4000",
        "balance: least_in_flight",
        "eject: { after: 3, for: 30s }",
        "timeouts: { total: 120s }",
        "retry: { attempts: 3 }",
        "api_key: \"${OPENAI_API_KEY}\"",
    ] {
        assert!(done.stdout.contains(part), "{part} not in\n{}", done.stdout);
    }
    assert_eq!(done.stderr, "", "nothing is left out");
}

#[test]
fn the_haproxy_guide_is_what_import_makes_of_it() {
    let text = std::fs::read_to_string(migrating("haproxy/before.cfg")).unwrap();
    let (folder, done) = import("haproxy", &text);
    let requests: &[&[&str]] = &[
        &["/v1/audio/transcriptions", "--model", "whisper-1"],
        &["/v1/chat/completions", "--model", "llama3"],
        &["/v1/audio/speech", "--model", "tts-1", "--voice", "nova"],
        &["/v1/audio/voices"],
        &["/v1/embeddings", "--model", "text-embedding-3-small"],
    ];
    same_as_by_hand(folder.path(), "haproxy/after.yaml", requests);
    for part in [
        "backup: true",
        "connect: 10s",
        "kind: whisper.cpp",
        "name: the-rest",
    ] {
        assert!(done.stdout.contains(part), "{part} not in\n{}", done.stdout);
    }
}

#[test]
fn litellm_says_what_it_could_not_carry_over() {
    let text = format!(
        "model_list:\n\
         - {{ model_name: gpt, litellm_params: {{ model: azure/gpt, api_base: 'https://x.openai.azure.com', api_key: {CANARY} }} }}\n\
         - {{ model_name: claude, litellm_params: {{ model: claude-3-5-haiku, api_key: {CANARY}, rpm: 6 }} }}\n\
         - {{ model_name: fast, litellm_params: {{ model: groq/llama-3.1-8b-instant }} }}\n\
         - {{ model_name: fast, litellm_params: {{ model: openai/gpt-4o-mini }} }}\n\
         - {{ model_name: smart, litellm_params: {{ model: openai/gpt-4o }} }}\n\
         - {{ model_name: private, litellm_params: {{ model: hosted_vllm/qwen, api_base: 'http://gpu-a:9000/v1', api_key: {CANARY}, order: 2, weight: 2, rpm: 10, tpm: 1000 }} }}\n\
         - {{ model_name: private, litellm_params: {{ model: hosted_vllm/qwen, api_base: 'http://gpu-b:9000/v1', api_key: os.environ/TOKEN_OF_MINE, max_parallel_requests: 4 }}, model_info: {{ rpm: 20 }} }}\n\
         - {{ model_name: '*', litellm_params: {{ model: 'openai/*' }} }}\n\
         - {{ model_name: 'bedrock/*', litellm_params: {{ model: 'bedrock/*' }} }}\n\
         router_settings: {{ model_group_alias: {{ gpt-4: smart }}, fallbacks: [{{ smart: [fast, claude, gpt] }}], redis_password: {CANARY} }}\n\
         general_settings: {{ master_key: {CANARY}, database_url: 'postgres://u:{CANARY}@h/d' }}\n\
         environment_variables: {{ SOME_KEY: {CANARY} }}\n\
         litellm_settings: {{ callbacks: [prometheus, langfuse], num_retries: 2 }}\n"
    );
    let (folder, done) = import("litellm", &text);
    for part in [
        "the provider `azure` does not speak OpenAI's API",
        "the provider `bedrock`",
        "only some of its entries have `tpm`",
        "tried in order and not balanced",
        "`router_settings.redis_password` has no counterpart",
        "as LITELLM_MASTER_KEY",
        "there is no database",
        "langfuse",
        "its fallback `gpt` could not be carried over",
        "as ANTHROPIC_API_KEY",
        "as PRIVATE_API_KEY",
        "SOME_KEY",
    ] {
        assert!(done.stderr.contains(part), "{part} not in\n{}", done.stderr);
        let first = part.split_whitespace().next().unwrap();
        assert!(
            done.stdout.contains(first),
            "{part} is no comment of\n{}",
            done.stdout
        );
    }
    assert!(!done.stderr.contains("prometheus"));
    // who had to show a key must not be let in without one
    let keys = "keys:\n  - { name: master, key: \"${LITELLM_MASTER_KEY}\" }\n";
    assert!(done.stdout.contains(keys), "{}", done.stdout);
    let chat = |model: &str| explained(folder.path(), &["/v1/chat/completions", "--model", model]);
    assert_eq!(
        chat("gpt-4"),
        [
            "https://api.openai.com/v1/chat/completions",
            "model: \"gpt-4\" becomes \"gpt-4o\"",
            "https://api.groq.com/openai/v1/chat/completions",
            "model: \"gpt-4\" becomes \"llama-3.1-8b-instant\"",
            "https://api.openai.com/v1/chat/completions",
            "model: \"gpt-4\" becomes \"gpt-4o-mini\"",
            "https://api.anthropic.com/v1/chat/completions",
            "model: \"gpt-4\" becomes \"claude-3-5-haiku\"",
        ]
    );
    assert_eq!(chat("o3"), ["https://api.openai.com/v1/chat/completions"]);
    let shown = with_keys(folder.path(), &["config", "show"]).stdout;
    assert!(
        shown.contains("slots: 4") && shown.contains("backup: true"),
        "{shown}"
    );
    // limits of entries are one of their pool
    for limit in ["limits: { rpm: 6 }", "limits: { rpm: 30 }"] {
        assert!(done.stdout.contains(limit), "{limit}\n{}", done.stdout);
    }
}

#[test]
fn haproxy_says_what_it_could_not_carry_over() {
    let text = format!(
        r#"
global
    maxconn 4096
userlist people
    user admin insecure-password {CANARY}
defaults
    mode http
    timeout connect 5000
    retries 2
    retry-on conn-failure 503
frontend edge
    bind :2020,127.0.0.1:8080
    bind *:2443 ssl crt edge.pem alpn h2,http/1.1
    acl internal src 10.0.0.0/8
    acl llama req.body,json_query('$.model') -m beg llama
    acl gold hdr(x-tier) -i gold
    http-request deny if !internal
    http-request auth realm edge if !internal
    use_backend chat if llama gold or METH_GET llama
    use_backend other if !llama
    use_backend nowhere if gold
    default_backend cloud
backend chat
    balance leastconn
    http-request set-header Authorization "Bearer {CANARY}"
    http-request set-header X-Team blue
    default-server inter 2s fall 2 maxconn 8
    server a gpu-a:11434 check weight 3
    server b gpu-b:11434 check backup
    server c gpu-c:11434 disabled
    stick-table type ip size 1m
backend cloud
    http-request replace-path /v1/(.*) /openai/v1/\1
    http-request set-header Authorization "Bearer %[env(GROQ_API_KEY)]"
    server groq api.groq.com:443 ssl verify none sni str(api.groq.com)
backend unused
    server x y:1
listen stats
    bind :9999
    stats enable
    stats auth admin:{CANARY}
listen db
    mode tcp
    server pg db:5432
"#
    );
    let (folder, done) = import("haproxy", &text);
    for part in [
        "listen `db` is left out: it is TCP",
        "listen `stats` is left out",
        "line 17: `http-request deny if !internal` has no counterpart",
        "`use_backend other if !llama` is left out: a route matches what is",
        "backend `nowhere` is used and not defined",
        "backend `unused` is left out",
        "server c gpu-c:11434 disabled",
        "`verify none` is left out",
        "environment as CHAT_API_KEY",
        "balance: hash",
        "edge.pem",
    ] {
        assert!(done.stderr.contains(part), "{part} not in\n{}", done.stderr);
    }
    let chat = [
        "/v1/chat/completions",
        "--model",
        "llama3",
        "-H",
        "x-tier: gold",
    ];
    assert_eq!(
        explained(folder.path(), &chat),
        ["http://gpu-a:11434/v1/chat/completions"]
    );
    let rest = ["/v1/audio/speech", "--model", "tts"];
    assert_eq!(
        explained(folder.path(), &rest),
        ["https://api.groq.com/openai/v1/audio/speech"]
    );
    for part in [
        "connections: 4096",
        "address: \"0.0.0.0:2443\"",
        "balance: least_in_flight",
        "set: { x-team: blue }",
        "health: { interval: 2s, fall: 2 }",
        "retry: { on: [connect, 503], attempts: 3 }",
        "slots: 8",
    ] {
        assert!(done.stdout.contains(part), "{part} not in\n{}", done.stdout);
    }
}

#[test]
fn voice_mode_keeps_its_order() {
    let text = format!(
        "# mine\nexport VOICEMODE_TTS_BASE_URLS=\"http://studio:8880/v1,http://127.0.0.1:8880/v1,https://api.openai.com/v1\"\n\
         VOICEMODE_STT_BASE_URLS=http://127.0.0.1:2022/v1, http://localhost:2020/v1\nVOICEMODE_VOICES=af_sky\nOPENAI_API_KEY={CANARY}\n"
    );
    let (folder, done) = import("voicemode", &text);
    assert_eq!(
        explained(folder.path(), &["/v1/audio/speech", "--voice", "af_sky"]),
        [
            "http://studio:8880/v1/audio/speech",
            "https://api.openai.com/v1/audio/speech",
            "voice: \"af_sky\" becomes \"nova\"",
        ]
    );
    // as voice-mode starts it, whisper.cpp has OpenAI's path
    assert_eq!(
        explained(folder.path(), &["/v1/audio/transcriptions"]),
        ["http://127.0.0.1:2022/v1/audio/transcriptions"]
    );
    assert!(done.stdout.contains("backup: true"));
    assert!(
        done.stderr.contains("there is Trunkline itself"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr
            .contains("VOICEMODE_TTS_BASE_URLS=http://127.0.0.1:2020/v1")
    );
}

#[test]
fn what_is_nothing_of_the_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (from, text, reason) in [
        ("litellm", "a: b\n", "it has no `model_list`"),
        ("litellm", "a: [b\n", "it is no YAML"),
        ("litellm", "model_list: []\n", "it names no server"),
        (
            "litellm",
            "model_list: [{ model_name: a, litellm_params: { model: bedrock/x } }]\n",
            "the provider `bedrock`",
        ),
        ("haproxy", "server {\n}\n", "stands in no section"),
        ("haproxy", "", "it is empty"),
        ("haproxy", "backend a\n  server a b:1\n", "no frontend"),
        ("voicemode", "what\n", "line 1 is no `NAME=value`"),
        ("voicemode", "HOME=/root\n", "no line `VOICEMODE_"),
    ] {
        std::fs::write(folder.path().join("before"), text).unwrap();
        let done = typed(folder.path(), &["import", from, "before"]);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{from}: {text}");
        assert!(
            done.stderr.contains(reason),
            "{reason} not in {}",
            done.stderr
        );
    }
    assert_eq!(typed(folder.path(), &["import", "litellm", "none"]).code, 1);
    assert_eq!(typed(folder.path(), &["import", "envoy", "before"]).code, 2);
}
