//! Keys reach the servers they are for, and nothing else.

use std::io::{Read, Write};

use crate::support::client::connect;
use crate::support::typed::typed;
use crate::support::{Gateway, Request, Server, eventually};

const CLIENT: &str = "sk-client-canary";
const POOL_A: &str = "sk-pool-a-canary";
const POOL_B: &str = "sk-pool-b-canary";

fn with_keys(request: Request) -> Request {
    [
        ("authorization", format!("Bearer {CLIENT}")),
        ("x-api-key", CLIENT.into()),
        ("api-key", CLIENT.into()),
        ("x-goog-api-key", CLIENT.into()),
        ("x_api_key", CLIENT.into()),
        ("proxy-authorization", format!("Basic {CLIENT}")),
        ("x-auth-token", CLIENT.into()),
        ("ocp-apim-subscription-key", CLIENT.into()),
        ("cookie", format!("session={CLIENT}")),
        ("connection", "keep-alive, x-nominated".into()),
        ("x-nominated", CLIENT.into()),
    ]
    .iter()
    .fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}

#[test]
fn each_pool_gets_its_own_key_and_never_anothers() {
    let (a, b, local) = (
        Server::failing(503),
        Server::failing(503),
        Server::named("local"),
    );
    let gateway = Gateway::start_with(
        &format!(
            r#"
pools:
  a: {{ kind: openai, servers: ["{}/v1"], api_key: "${{KEY_A}}" }}
  b: {{ kind: openai, servers: ["{}/v1"], api_key: "${{KEY_B}}" }}
  local: {{ kind: kokoro, servers: ["{}/v1"], health: false }}
routes: [{{ pool: a, fallback: [b, local] }}]
"#,
            a.url(),
            b.url(),
            local.url()
        ),
        &[("KEY_A", POOL_A), ("KEY_B", POOL_B)],
    );
    let target = format!("/v1/audio/speech?key={CLIENT}&api_key={CLIENT}&keep=1");
    let answer = gateway.send(&with_keys(Request::json(&target, "{}")));
    assert_eq!(answer.json()["served_by"], "local");
    let [to_a, to_b, to_local] = [&a, &b, &local].map(|server| server.seen().remove(0).text());
    for (text, own) in [
        (&to_a, Some(POOL_A)),
        (&to_b, Some(POOL_B)),
        (&to_local, None),
    ] {
        for key in [CLIENT, POOL_A, POOL_B] {
            let times = text.matches(key).count();
            assert_eq!(times, usize::from(own == Some(key)), "{key} in\n{text}");
        }
        assert!(text.contains("keep=1"));
    }
    assert!(to_a.contains(&format!("authorization: Bearer {POOL_A}")));
}

#[test]
fn without_a_key_the_cloud_gets_the_clients_and_a_local_box_none() {
    let (cloud, local) = (Server::named("cloud"), Server::named("local"));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  cloud: {{ kind: openai, servers: ["{}/v1"], health: false }}
  local: {{ servers: ["{}/v1"], health: false }}
routes:
  - {{ match: {{ path: /v1/audio/speech }}, pool: local }}
  - {{ pool: cloud }}
"#,
        cloud.url(),
        local.url()
    ));
    gateway.send(&with_keys(Request::json("/v1/chat/completions", "{}")));
    gateway.send(&with_keys(Request::json("/v1/audio/speech", "{}")));
    let to_cloud = cloud.seen().remove(0);
    assert_eq!(
        to_cloud.header("authorization"),
        Some(format!("Bearer {CLIENT}").as_str())
    );
    for name in ["cookie", "x-nominated", "proxy-authorization", "x_api_key"] {
        assert_eq!(to_cloud.header(name), None, "{name}");
    }
    assert_eq!(
        to_cloud.header("x-forwarded-for"),
        None,
        "the cloud learns nothing of this network"
    );
    let to_local = local.seen().remove(0);
    assert!(!to_local.text().contains(CLIENT), "{}", to_local.text());
    assert_eq!(to_local.header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn servers_of_one_pool_can_want_different_keys() {
    let (cloud, local) = (Server::named("cloud"), Server::named("local"));
    let gateway = Gateway::start_with(
        &format!(
            "pools: {{ p: {{ servers: [{{ url: '{}', name: cloud, api_key: '${{KEY}}' }}, {{ url: '{}', name: local }}], health: false }} }}\nroutes: [{{ pool: p }}]",
            cloud.url(),
            local.url()
        ),
        &[("KEY", POOL_A)],
    );
    for _ in 0..4 {
        gateway.send(&with_keys(Request::json("/v1/x", "{}")));
    }
    assert!(
        cloud
            .seen()
            .iter()
            .all(|seen| seen.header("authorization") == Some(&format!("Bearer {POOL_A}")))
    );
    assert!(
        local
            .seen()
            .iter()
            .all(|seen| !seen.text().contains("canary"))
    );
}

/// Plants keys, goes every way a request can go, and looks into everything that comes out.
#[test]
fn no_secret_is_in_a_log_a_metric_a_status_an_error_or_what_a_command_prints() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, format!("{POOL_B}\n")).unwrap();
    let echoing = Server::fake(|seen, wire| {
        // repeats its key in a header, as some do when they refuse it
        let key = seen.header("authorization").unwrap_or_default().to_owned();
        wire.answer(
            401,
            &[("x-debug", &key), ("content-type", "application/json")],
            "{\"error\":{\"message\":\"no\"}}",
        );
        true
    });
    let refused = Server::refused();
    let yaml = format!(
        r#"
pools:
  a: {{ kind: openai, servers: ["{}/v1"], api_key: "${{KEY_A}}", headers: {{ set: {{ x-team: "sk-header-canary" }} }} }}
  b: {{ kind: openai, servers: ["http://{refused}/v1"], api_key_file: "{}" }}
routes:
  - {{ match: {{ path: /v1/embeddings }}, pool: b }}
  - {{ match: {{ path: /v1/chat/completions, model: "gpt*" }}, pool: a }}
"#,
        echoing.url(),
        key_file.display()
    );
    let gateway = Gateway::start_with(&yaml, &[("KEY_A", POOL_A)]);
    let mut out = Vec::new();
    for request in [
        Request::json("/v1/chat/completions", r#"{"model":"gpt-4"}"#),
        Request::json(
            "/v1/chat/completions",
            &format!(r#"{{"model":"gpt-4","key":"{CLIENT}""#),
        ),
        Request::json("/v1/embeddings", "{}"),
        Request::json("/v1/nothing", "{}"),
        Request::get("/v1/models"),
        Request::get("/"),
    ] {
        let answer = gateway.send(&with_keys(request));
        out.push(format!("{:?} {}", answer.headers, answer.text()));
    }
    for path in ["/status", "/metrics", "/healthz", "/readyz", "/"] {
        out.push(gateway.ask_admin(path).text());
    }
    gateway.access_log(6);
    out.push(std::fs::read_to_string(gateway.access_log_path()).unwrap());
    out.push(gateway.stderr());
    for arguments in [
        &["config", "show"][..],
        &["check-config"],
        &["check-config", "--format", "json"],
        &["route", "POST", "/v1/chat/completions", "--model", "gpt-4"],
    ] {
        let output = std::process::Command::new(crate::support::gateway::BINARY)
            .args(arguments)
            .arg("--config")
            .arg(gateway.config_path())
            .env("KEY_A", POOL_A)
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.is_empty(), "{arguments:?}");
        out.push(text);
    }
    for text in &out {
        // the file itself holds one, and check-config may show that line
        for key in [CLIENT, POOL_A, POOL_B] {
            assert!(!text.contains(key), "{key} in {text}");
        }
    }
    assert!(
        echoing.seen()[0].text().contains(POOL_A),
        "the keys were really in use"
    );
}

#[test]
fn a_clients_key_for_one_service_is_not_shown_to_another_it_falls_back_to() {
    let (first, second) = (Server::failing(503), Server::named("second"));
    let yaml = |auth: &str| {
        format!(
            "pools:
  openai: {{ kind: openai, servers: ['http://{}/v1'], health: false }}
  groq: {{ kind: groq, servers: ['http://localhost:{}/v1'], health: false{auth} }}
routes: [{{ pool: openai, fallback: [groq] }}]",
            first.address,
            second.address.port()
        )
    };
    let request = Request::json("/v1/chat/completions?api_key=sk-openai-client", "{}")
        .header("authorization", "Bearer sk-openai-client");
    let gateway = Gateway::start(&yaml(""));
    assert_eq!(gateway.send(&request).status, 200);
    assert!(first.seen()[0].text().contains("sk-openai-client"));
    assert!(!second.seen()[0].text().contains("sk-openai-client"));
    assert!(
        gateway
            .stderr()
            .contains("pool `groq` gets no key in this route")
    );
    let gateway = Gateway::start(&yaml(", auth: passthrough"));
    gateway.send(&request);
    assert!(second.seen()[1].text().contains("sk-openai-client"));
}

/// Pingora writes down request heads at trace, and at debug those that it cannot read.
#[test]
fn no_key_is_in_the_log_at_its_most_talkative() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "admin: {{ address: 127.0.0.1:0, token: {POOL_B} }}\nlog: {{ access: access.log, level: trace }}\npools: {{ a: {{ kind: openai, servers: ['{}/v1'], api_key: {POOL_A} }} }}\nroutes: [{{ pool: a }}]\n",
        server.url()
    ));
    let asked = with_keys(Request::json("/v1/chat/completions", r#"{"model":"x"}"#));
    assert_eq!(gateway.send(&asked).status, 200);
    let shown = Request::get("/status").header("authorization", &format!("Bearer {POOL_B}"));
    assert_eq!(shown.send(gateway.admin).status, 200);
    for (at, key) in [(gateway.address, CLIENT), (gateway.admin, POOL_B)] {
        let mut stream = connect(at);
        let head = format!(
            "GET /status HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nno header\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    eventually("the last one is told of", || {
        gateway.stderr().contains("InvalidHTTPHeader")
    });
    let log = gateway.stderr();
    for key in [CLIENT, POOL_A, POOL_B] {
        assert!(!log.contains(key), "{log}");
    }
}

#[test]
fn what_is_refused_in_a_url_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "pools: {{ a: {{ servers: ['http://me:{POOL_A}@127.0.0.1:1/v1', \"http://127.0.0.1:1/v1?key={POOL_B}\"] }} }}\nroutes: [{{ pool: a }}]\n"
    );
    std::fs::write(folder.path().join("trunkline.yaml"), yaml).unwrap();
    let checked = typed(folder.path(), &["check-config"]);
    assert_eq!(checked.code, 78);
    for part in [
        "must not hold credentials",
        "has no query",
        "@127.0.0.1:1/v1",
    ] {
        assert!(checked.stderr.contains(part), "{}", checked.stderr);
    }
    for key in [POOL_A, POOL_B] {
        assert!(!checked.stderr.contains(key), "{}", checked.stderr);
    }
}
