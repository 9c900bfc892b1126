//! `trunkline check-endpoints`: the round trip as a user sees it.

use crate::support::tls::Pair;
use crate::support::typed::{Typed, bare, run, typed};
use crate::support::{Gateway, Server};

fn check(gateway: &Gateway, more: &[&str]) -> Typed {
    let url = format!("http://{}", gateway.address);
    let arguments = [&["check-endpoints", "--url", &url], more].concat();
    typed(gateway.folder.path(), &arguments)
}

/// A Kokoro, a whisper.cpp and an Ollama in one; says what it was asked for.
fn box_of_all() -> Server {
    Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/v1/models" => {
                wire.json(r#"{"data":[{"id":"nomic-embed-text"},{"id":"llama3.1:8b"}]}"#)
            }
            "/v1/chat/completions" => {
                let model = seen.json()["model"].as_str().unwrap().to_owned();
                wire.json(&format!(
                    r#"{{"choices":[{{"message":{{"content":"Hello, says {model}"}}}}]}}"#
                ));
            }
            "/v1/audio/speech" => {
                let sound = [b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0".to_vec(), vec![1; 32_000]].concat();
                wire.answer(200, &[("content-type", "audio/wav")], sound);
            }
            "/inference" => {
                let heard = seen.body.windows(4).any(|w| w == b"RIFF");
                wire.json(&format!(r#"{{"text":" Heard it: {heard}\n"}}"#));
            }
            _ => wire.json("{}"),
        }
        true
    })
}

fn at_home(server: &Server) -> String {
    let url = server.url();
    format!(
        "pools:\n  kokoro: {{ kind: kokoro, servers: [{{ url: \"{url}/v1\", name: gpu-a }}], health: false }}\n  \
         whisper: {{ kind: whisper.cpp, servers: [{{ url: \"{url}\", name: gpu-a }}], health: false }}\n  \
         ollama: {{ kind: ollama, servers: [{{ url: \"{url}/v1\", name: gpu-b }}], health: false }}\n\
         routes:\n  - {{ match: {{ path: /v1/audio/speech }}, pool: kokoro }}\n  \
         - {{ match: {{ path: /v1/audio/transcriptions }}, pool: whisper }}\n  \
         - {{ match: {{ path: /v1/chat/completions, model: 'llama*' }}, pool: ollama }}\n"
    )
}

#[test]
fn the_embedded_default_passes_at_once() {
    let gateway = Gateway::without_file();
    let all = check(&gateway, &["--format", "json"]).json();
    assert_eq!(all["ok"], true, "{all:#}");
    let served: Vec<&str> = all["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["endpoint"].as_str().unwrap())
        .collect();
    assert_eq!(served, ["chat", "speech", "transcription"]);
    let text = check(&gateway, &[]);
    text.fits_80_columns();
    assert_eq!(text.code, 0);
    assert_eq!(text.stdout.matches("ok  ").count(), 3, "{}", text.stdout);
    let alias = typed(
        gateway.folder.path(),
        &[
            "test-endpoints",
            "--url",
            &format!("http://{}/v1", gateway.address),
        ],
    );
    assert_eq!(alias.code, 0, "{}", alias.stderr);
}

#[test]
fn what_is_spoken_is_transcribed_and_patterns_become_models_of_the_boxes() {
    let server = box_of_all();
    let gateway = Gateway::start(&at_home(&server));
    // the file says where the proxy listens, as it does when both are on one machine
    let fixed = format!("listen: {}\n{}", gateway.address, at_home(&server));
    std::fs::write(gateway.folder.path().join("here.yaml"), fixed).unwrap();
    let mut command = bare(
        gateway.folder.path(),
        &["check-endpoints", "-c", "here.yaml"],
    );
    let text = run(command.env("OPENAI_API_KEY", "sk-planted-canary"));
    assert_eq!(text.code, 0, "{}{}", text.stdout, text.stderr);
    for part in [
        "kokoro/gpu-a",
        "whisper/gpu-a",
        "ollama/gpu-b",
        "llama3.1:8b said \"Hello, says llama3.1:8b\"",
        "tts-1, voice alloy, spoke 1.0 s of audio",
        "heard \"Heard it: true\"",
    ] {
        assert!(text.stdout.contains(part), "{part} not in\n{}", text.stdout);
    }
    text.fits_80_columns();
    // a box at home gets no key, and the model list was asked for without one
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| !seen.text().contains("sk-planted"))
    );
}

#[test]
fn headers_go_along_and_are_shown_without_their_secrets() {
    let server = box_of_all();
    let yaml = at_home(&server).replace("pool: ollama", "pool: ollama, zone: home");
    let gateway = Gateway::start(&yaml);
    let url = format!("http://{}", gateway.address);
    let mut command = bare(
        gateway.folder.path(),
        &[
            "check-endpoints",
            "--url",
            &url,
            "-v",
            "-H",
            "X-Tag: private",
            "--only",
            "chat",
        ],
    );
    let text = run(command.env("OPENAI_API_KEY", "sk-planted-canary"));
    assert_eq!(text.code, 0, "{}{}", text.stdout, text.stderr);
    for part in [
        "> x-tag: private",
        "> authorization: ***",
        "< x-request-id: ",
    ] {
        assert!(text.stdout.contains(part), "{part} not in\n{}", text.stdout);
    }
    assert!(!text.stdout.contains("sk-planted"));
    let asked = server.seen().pop().unwrap();
    assert_eq!(asked.header("x-tag"), Some("private"));
    assert!(asked.json()["model"].as_str().unwrap().starts_with("llama"));
}

#[test]
fn each_failure_says_why_and_what_to_do() {
    let server = Server::fake(|seen, wire| {
        match seen.target.as_str() {
            "/v1/chat/completions" => wire.answer(
                404,
                &[("content-type", "application/json")],
                r#"{"error":{"message":"model \"x\" not found, try pulling it first"}}"#,
            ),
            "/v1/audio/speech" => wire.answer(200, &[("content-type", "audio/wav")], ""),
            _ => wire.json(r#"{"text":""}"#),
        }
        true
    });
    let refused = Server::refused();
    let yaml = format!(
        "pools:\n  a: {{ servers: [{{ url: \"{}/v1\", name: one }}], health: false }}\n  \
         b: {{ servers: [{{ url: \"http://{refused}\", name: two }}], health: false }}\n\
         routes:\n  - {{ match: {{ path: [/v1/audio/speech, /v1/chat/completions] }}, pool: a }}\n  \
         - {{ match: {{ path: /v1/audio/transcriptions }}, pool: b }}\n",
        server.url()
    );
    let gateway = Gateway::start(&yaml);
    let text = check(&gateway, &["--chat-model", "x"]);
    assert_eq!(text.code, 1);
    text.fits_80_columns();
    let said = text.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "chat FAILED 404",
        "try pulling it first",
        "--chat-model asks for another model than x",
        "speech FAILED",
        "transcription FAILED 502",
        "upstream_unreachable",
        "`trunkline status` shows who is up",
    ] {
        assert!(said.contains(part), "{part} not in\n{}", text.stdout);
    }
    let all = check(&gateway, &["--only", "chat", "--format", "json"]);
    assert_eq!((all.code, all.json()["ok"].as_bool()), (1, Some(false)));
    let unrouted = Gateway::start(&yaml.replace("/v1/chat/completions", "/v1/none"));
    let text = check(&unrouted, &["--only", "chat"]);
    let said = text.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("404 no_route") && said.contains("trunkline route POST /v1/chat"),
        "{said}"
    );
}

#[test]
fn nobody_there_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", Server::refused());
    let arguments = ["check-endpoints", "--url", &url];
    let nobody = typed(folder.path(), &arguments);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (1, ""));
    let expected = format!("nothing listens at {url}; start it with `trunkline run`");
    assert!(nobody.stderr.contains(&expected), "{}", nobody.stderr);
    let json = typed(
        folder.path(),
        &[&arguments[..], &["--format", "json"]].concat(),
    );
    assert_eq!(json.json()["error"], expected);
    for wrong in [
        &["check-endpoints", "--url", "127.0.0.1:2020"][..],
        &["check-endpoints", "-H", "nonsense"],
        &["check-endpoints", "--only", "images"],
        &["check-endpoints", "--timeout", "5"],
    ] {
        let typed = typed(folder.path(), wrong);
        assert_eq!((typed.code, typed.stdout.as_str()), (2, ""), "{wrong:?}");
    }
}

#[test]
fn a_listener_with_tls_is_known_by_its_own_certificate() {
    let folder = tempfile::tempdir().unwrap();
    Pair::new().write(folder.path());
    let server = box_of_all();
    let listener = |address: &str| {
        format!(
            "listeners: [{{ address: \"{address}\", tls: {{ cert: cert.pem, key: key.pem }} }}]\n{}",
            at_home(&server)
        )
    };
    let gateway = Gateway::start_in(folder, &listener("127.0.0.1:0"), &[]);
    let folder = gateway.folder.path();
    let fixed = listener(&gateway.address.to_string());
    std::fs::write(folder.join("here.yaml"), fixed).unwrap();
    let by_file = typed(folder, &["check-endpoints", "-c", "here.yaml"]);
    assert_eq!(by_file.code, 0, "{}{}", by_file.stdout, by_file.stderr);
    let url = format!("https://{}", gateway.address);
    let trusted = typed(
        folder,
        &["check-endpoints", "--url", &url, "--ca-file", "cert.pem"],
    );
    assert_eq!(trusted.code, 0, "{}{}", trusted.stdout, trusted.stderr);
    let strange = typed(folder, &["check-endpoints", "--url", &url]);
    assert_eq!(strange.code, 1);
    assert!(strange.stderr.contains("certificate"), "{}", strange.stderr);
    let insecure = typed(folder, &["check-endpoints", "--url", &url, "--insecure"]);
    assert_eq!(insecure.code, 0, "{}{}", insecure.stdout, insecure.stderr);
}
