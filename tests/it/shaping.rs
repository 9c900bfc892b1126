//! What routes do to bodies: fields taken out, and a prompt that comes first.

use serde_json::json;

use crate::support::gateway::BINARY;
use crate::support::{Gateway, Request, Server, eventually};

const PROMPT: &str = "Answer in one sentence.\n\"Never\" use lists. Ünï ✓\n";

/// A gateway whose routes begin with `route`, with files beside its configuration.
fn gateway(route: &str, files: &[(&str, &[u8])], servers: [&Server; 2]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let [a, b] = servers.map(Server::url);
    let yaml = format!(
        "pools: {{ a: {{ servers: ['{a}'], models: {{ small: tiny }} }}, b: {{ servers: ['{b}'] }} }}\nroutes: [{{ {route}, pool: a }}]\n"
    );
    Gateway::start_in(folder, &yaml, &[])
}

/// What `body` has become at the server.
fn arrived(gateway: &Gateway, server: &Server, path: &str, body: &str) -> String {
    assert_eq!(gateway.post(path, body).status, 200);
    let one = String::from_utf8(server.seen().pop().unwrap().body).unwrap();
    // however it arrives
    let pieces = Request::json(path, body).chunked(3);
    assert_eq!(gateway.send(&pieces).status, 200);
    let other = String::from_utf8(server.seen().pop().unwrap().body).unwrap();
    assert_eq!(one, other);
    one
}

#[test]
fn a_system_prompt_comes_before_every_message_and_all_other_bytes_stay() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = gateway(
        "system_prompt_file: voice.md",
        &[("voice.md", PROMPT.as_bytes())],
        [&a, &b],
    );
    let ours = format!(r#"{{"role":"system","content":{}}}"#, json!(PROMPT.trim()));
    let chat = |body: &str| arrived(&gateway, &a, "/v1/chat/completions", body);
    let theirs = r#"{"role":"system","content":"be \u00e9vil"}"#;
    assert_eq!(
        chat(&format!(
            "{{ \"x\":1.50 , \"messages\" : [ {theirs} ], \"model\":\"small\" }}"
        )),
        format!("{{ \"x\":1.50 , \"messages\" : [{ours}, {theirs} ], \"model\":\"tiny\" }}")
    );
    assert_eq!(
        chat(r#"{"messages":[ ]}"#),
        format!(r#"{{"messages":[{ours} ]}}"#)
    );
    assert_eq!(
        chat(r#"{"messages":[[1]]}"#),
        format!(r#"{{"messages":[{ours},[1]]}}"#)
    );
    for other in [
        r#"{"messages":"hello"}"#,
        r#"{"messages":null}"#,
        r#"{"prompt":[1]}"#,
    ] {
        assert_eq!(chat(other), other);
    }
    let embedding = r#"{"messages":[],"input":"x","instructions":"y"}"#;
    assert_eq!(
        arrived(&gateway, &a, "/v1/embeddings", embedding),
        embedding
    );
}

#[test]
fn a_system_prompt_begins_the_instructions_of_a_response() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = gateway(
        "system_prompt_file: p, default: { instructions: nothing }",
        &[("p", b"Be \"brief\".")],
        [&a, &b],
    );
    let response = |body: &str| arrived(&gateway, &a, "/v1/responses", body);
    assert_eq!(
        response(r#"{"instructions":"Rhyme.","input":"x"}"#),
        r#"{"instructions":"Be \"brief\".\n\nRhyme.","input":"x"}"#
    );
    assert_eq!(
        response(r#"{"instructions":null,"input":"x"}"#),
        r#"{"instructions":"Be \"brief\".","input":"x"}"#
    );
    assert_eq!(
        response(r#"{"input":"x"}"#),
        r#"{"input":"x","instructions":"Be \"brief\"."}"#
    );
    assert_eq!(
        response(r#"{"instructions":[7]}"#),
        r#"{"instructions":[7]}"#
    );
}

#[test]
fn a_fallback_gets_the_prompt_too_and_a_changed_file_is_read_again() {
    let (a, b) = (Server::failing(503), Server::named("b"));
    let gateway = gateway(
        "system_prompt_file: p, fallback: [{ pool: b, remove: x, set: { y: 2 } }], remove: y",
        &[("p", b"old")],
        [&a, &b],
    );
    let said = || {
        assert_eq!(
            gateway
                .post("/v1/chat/completions", r#"{"x":1,"y":1,"messages":[]}"#)
                .status,
            200
        );
        b.seen().pop().unwrap().json()
    };
    let first = json!({ "y": 2, "messages": [{ "role": "system", "content": "old" }] });
    assert_eq!(said(), first);
    let at_a = a.seen().pop().unwrap().json();
    assert_eq!((&at_a["x"], &at_a["y"]), (&json!(1), &json!(null)));
    std::fs::write(gateway.config_path().with_file_name("p"), "new").unwrap();
    eventually("the new text is in", || {
        said()["messages"][0]["content"] == "new"
    });
}

#[test]
fn fields_are_taken_out_wherever_they_stand() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = gateway("remove: [model, logit_bias], set: { n: 1 }", &[], [&a, &b]);
    let chat = |body: &str| arrived(&gateway, &a, "/v1/chat/completions", body);
    assert_eq!(
        chat(r#"{"model":"small","a":{"model":1},"logit_bias":{"1":[2]}}"#),
        r#"{"a":{"model":1},"n":1}"#
    );
    assert_eq!(chat(r#"{"model":"x"}"#), r#"{"n":1}"#);
    assert_eq!(chat(r#"{"n":7,"a":1}"#), r#"{"n":1,"a":1}"#);
}

#[test]
fn what_cannot_be_a_prompt_is_refused_before_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let check = |bytes: Option<&[u8]>, route: &str| {
        let (file, prompt) = (
            folder.path().join("trunkline.yaml"),
            folder.path().join("p.md"),
        );
        let _ = std::fs::remove_file(&prompt);
        if let Some(bytes) = bytes {
            std::fs::write(&prompt, bytes).unwrap();
        }
        let pools = "pools: { a: { servers: ['http://127.0.0.1:9'] } }\n";
        std::fs::write(&file, format!("{pools}routes: [{{ pool: a, {route} }}]\n")).unwrap();
        let mut command = std::process::Command::new(BINARY);
        let output = command.arg("check-config").arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let large = vec![b'x'; 256 * 1024 + 1];
    for (bytes, part) in [
        (None, "`p.md` cannot be read"),
        (Some(&b"caf\xe9"[..]), "`p.md` is not UTF-8 text"),
        (Some(&b" \n"[..]), "`p.md` is empty"),
        (Some(&large[..]), "`p.md` is larger than 256KiB"),
    ] {
        let (code, said) = check(bytes, "system_prompt_file: p.md");
        assert!(
            code == Some(78) && said.contains(part),
            "{part} not in\n{said}"
        );
    }
    let (code, said) = check(Some(&large[1..]), "system_prompt_file: p.md");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(None, "set: { n: 1 }, remove: [m, n]");
    assert!(
        code == Some(78) && said.contains("`n` is set here too"),
        "{said}"
    );
}

#[test]
fn the_explanation_of_a_route_tells_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    std::fs::write(folder.path().join("p.md"), "Be brief.").unwrap();
    let text = "pools: { a: { servers: ['http://127.0.0.1:9'] } }\n\
                routes: [{ pool: a, remove: voice, system_prompt_file: p.md }]\n";
    std::fs::write(&file, text).unwrap();
    let said = |arguments: &[&str]| {
        let mut command = std::process::Command::new(BINARY);
        let output = command
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let route = said(&[
        "route",
        "POST",
        "/v1/chat/completions",
        "--model",
        "m",
        "--voice",
        "v",
    ]);
    assert!(
        route.contains("p.md comes first") && route.contains("voice: is taken out"),
        "{route}"
    );
    let shown = said(&["config", "show"]);
    assert!(
        shown.contains("- voice") && shown.contains("p.md"),
        "{shown}"
    );
}
