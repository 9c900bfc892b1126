//! What may be asked for by name: models and voices, of the file and of the servers.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::gateway::BINARY;
use crate::support::http2_server::{Http2Server, Reply};
use crate::support::tls::TlsServer;
use crate::support::{Gateway, Place, Request, Seen, Server, Wire, eventually};

/// What a server says it has; tests change it while it runs.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<(String, String)>>);

impl Shelf {
    fn of(models: &[&str]) -> Self {
        let shelf = Shelf::default();
        shelf.put(models);
        shelf
    }

    fn put(&self, models: &[&str]) {
        let data: Vec<_> = models
            .iter()
            .map(|id| json!({ "id": id, "created": 7 }))
            .collect();
        self.0.lock().unwrap().0 = json!({ "object": "list", "data": data }).to_string();
    }

    fn speaks(self, voices: &str) -> Self {
        self.0.lock().unwrap().1 = voices.to_owned();
        self
    }

    fn serve(&self) -> Server {
        let shelf = self.clone();
        Server::fake(move |seen, wire| shelf.answer(seen, wire))
    }

    fn answer(&self, seen: &Seen, wire: &mut Wire) -> bool {
        let (models, voices) = self.0.lock().unwrap().clone();
        match seen.target.as_str() {
            "/v1/models" => wire.json(&models),
            "/v1/audio/voices" if !voices.is_empty() => wire.json(&voices),
            "/v1/audio/voices" => wire.answer(404, &[], "{\"detail\":\"Not Found\"}"),
            target => wire.json(&json!({ "served": target }).to_string()),
        }
        true
    }
}

/// The names that are listed, with their owners.
fn models(gateway: &Gateway) -> String {
    let list = gateway.get("/v1/models").json();
    let entries = list["data"].as_array().unwrap().iter();
    let all: Vec<String> = entries
        .map(|m| {
            format!(
                "{}={}",
                m["id"].as_str().unwrap(),
                m["owned_by"].as_str().unwrap()
            )
        })
        .collect();
    all.join(" ")
}

#[track_caller]
fn come_to_be(gateway: &Gateway, expected: &str) {
    eventually(expected, || {
        let now = models(gateway);
        now == expected
    });
}

#[test]
fn what_servers_report_is_listed_beside_what_the_file_names() {
    let (one, two) = (
        Shelf::of(&["llama3", "qwen3"]),
        Shelf::of(&["org/big", "llama3", "é x"]),
    );
    let (one, two) = (one.serve(), two.serve());
    let gateway = Gateway::start(&format!(
        "list_models: {{ interval: 60s }}\npools:\n  ollama: {{ servers: ['{}'], models: {{ gpt-4: llama3 }} }}\n  \
         vllm: {{ servers: ['{}/v1'] }}\nroutes:\n  - {{ match: {{ model: ['llama*', gpt-4] }}, pool: ollama }}\n  \
         - {{ pool: vllm }}\n",
        one.url(),
        two.url()
    ));
    come_to_be(
        &gateway,
        "gpt-4=ollama llama*=ollama llama3=ollama org/big=vllm é x=vllm",
    );
    let entry = gateway.get("/v1/models/org/big").json();
    let expected = json!({ "id": "org/big", "object": "model", "created": 7, "owned_by": "vllm" });
    assert_eq!(entry, expected);
    for same in [
        "/v1/models/org%2Fbig",
        "/models/org/big",
        "/v1/models/org%2fbi%67",
    ] {
        assert_eq!(gateway.get(same).json(), expected, "{same}");
    }
    assert_eq!(gateway.get("/v1/models/%C3%A9%20x").json()["id"], "é x");
    let head = gateway.send(&Request::new("HEAD", "/v1/models"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    // the pool behind the last route may have more than it tells
    assert_eq!(
        gateway.get("/v1/models/other").json()["served"],
        "/v1/models/other"
    );
    let listed = |pool| {
        gateway.metric(
            "trunkline_names_listed",
            &[("pool", pool), ("what", "models")],
        )
    };
    assert_eq!((listed("ollama"), listed("vllm")), (3.0, 2.0));
}

#[test]
fn an_unknown_model_has_no_entry() {
    let server = Shelf::of(&["a"]).serve();
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ a: {{ servers: ['{}'] }} }}\n\
         routes: [{{ match: {{ path: /v1/chat/completions }}, pool: a }}]",
        server.url()
    ));
    come_to_be(&gateway, "a=a");
    let answer = gateway.get("/v1/models/org/none");
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"]),
        (404, &json!("model_not_found"))
    );
    assert!(error["message"].as_str().unwrap().contains("`org/none`"));
}

#[test]
fn a_list_follows_its_server_and_outlives_it_for_a_while() {
    let shelf = Shelf::of(&["old"]);
    let server = shelf.serve();
    let gateway = Gateway::start(&format!(
        "list_models: {{ interval: 300ms }}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    come_to_be(&gateway, "old=a");
    shelf.put(&["new", "newer"]);
    come_to_be(&gateway, "new=a newer=a");
    let failed = || gateway.metric("trunkline_server_lists_total", &[("result", "failed")]);
    let before = failed();
    server.kill();
    eventually("it was asked in vain", || failed() > before + 1.0);
    assert_eq!(models(&gateway), "new=a newer=a");
    come_to_be(&gateway, "");
}

#[test]
fn a_server_that_comes_up_is_asked_at_once() {
    let place = Place::new();
    let gateway = Gateway::start(&format!(
        "list_models: {{ interval: 1h }}\npools: {{ a: {{ servers: ['{}'], health: {{ tcp: true, interval: 20ms, fall: 1, rise: 1 }} }} }}\n\
         routes: [{{ pool: a }}]",
        place.url()
    ));
    eventually("it is down", || {
        gateway.metric("trunkline_server_transitions_total", &[("to", "down")]) > 0.0
    });
    let shelf = Shelf::of(&["late"]);
    let _server = place.serve(move |seen, wire| shelf.answer(seen, wire));
    come_to_be(&gateway, "late=a");
}

#[test]
fn a_reload_brings_the_models_of_a_new_pool_and_keeps_the_others() {
    let (one, two) = (Shelf::of(&["one"]).serve(), Shelf::of(&["two"]).serve());
    let yaml = |pools: &str, routes: &str| {
        format!(
            "list_models: {{ interval: 1h }}\npools:\n  a: {{ servers: ['{}'] }}\n{pools}routes:\n{routes}",
            one.url()
        )
    };
    let gateway = Gateway::start(&yaml("", "  - { pool: a }\n"));
    come_to_be(&gateway, "one=a");
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    let text = text.replace(
        "routes:",
        &format!(
            "  b: {{ servers: ['{}'] }}\nroutes:\n  - {{ match: {{ model: 't*' }}, pool: b }}",
            two.url()
        ),
    );
    std::fs::write(gateway.config_path(), text).unwrap();
    gateway.signal("HUP");
    come_to_be(&gateway, "one=a t*=b two=b");
    assert_eq!(
        one.asked_for_lists()
            .iter()
            .filter(|s| s.target == "/v1/models")
            .count(),
        1
    );
}

#[test]
fn hostile_lists_do_no_harm() {
    let many: Vec<String> = (0..10_000).map(|n| format!("m{n:05}")).collect();
    let bodies = [
        json!({ "data": many }).to_string(),
        format!("{{\"data\":[{{\"id\":\"huge\",\"x\":\"{}\"}}]}}", "x".repeat(2 << 20)),
        "<html>not a list</html>".to_owned(),
        "[".repeat(100_000),
        r#"{"data":[{"id":"a\nb"},{"id":"\u001b[2J"},{"id":7},{"id":""},null,{"id":"good","root":"/srv"}]}"#.to_owned(),
    ];
    let servers: Vec<Server> = bodies
        .into_iter()
        .map(|body| {
            Server::fake(move |seen, wire| {
                if seen.target == "/v1/models" {
                    wire.json(&body);
                }
                seen.target == "/v1/models"
            })
        })
        .collect();
    let pools: String = servers
        .iter()
        .enumerate()
        .map(|(n, server)| format!("  p{n}: {{ servers: ['{}'] }}\n", server.url()))
        .collect();
    let routes: String = (0..servers.len())
        .map(|n| format!("  - {{ match: {{ path: ['/v1/chat/completions', '/p{n}'], host: h{n} }}, pool: p{n} }}\n"))
        .collect();
    let gateway = Gateway::start(&format!(
        "list_models: {{ interval: 1h }}\npools:\n{pools}routes:\n{routes}"
    ));
    eventually("all were asked", || {
        gateway.metric("trunkline_server_lists_total", &[]) >= 5.0
    });
    let of = |pool: &str| {
        gateway.metric(
            "trunkline_names_listed",
            &[("pool", pool), ("what", "models")],
        )
    };
    eventually("what is good is listed", || {
        (of("p0"), of("p4")) == (2000.0, 1.0)
    });
    assert_eq!((of("p1"), of("p2"), of("p3")), (0.0, 0.0, 0.0));
    let list = gateway.get("/v1/models").text();
    assert!(list.contains("good") && !list.contains("huge") && !list.contains("/srv"));
    assert!(!list.contains("\\n") && !list.contains("u001b"));
}

#[test]
fn each_server_is_asked_with_its_pools_key_and_the_cloud_without_one_never() {
    let shelf = Shelf::of(&["m"]);
    let [own, keyless, home, box_] = [0, 1, 2, 3].map(|_| shelf.serve());
    let gateway = Gateway::start_with(
        &format!(
            r#"
list_models: {{ interval: 100ms }}
pools:
  own: {{ kind: openai, servers: ["{}/v1"], api_key: "${{KEY_A}}" }}
  keyless: {{ kind: openai, servers: ["{}/v1"] }}
  home: {{ servers: ["{}/v1"], auth: passthrough, headers: {{ set: {{ x-team: voice }} }} }}
  quiet: {{ servers: ["{}"], list_models: false }}
routes:
  - {{ match: {{ path: /v1/chat/completions, host: a }}, pool: own, fallback: [keyless] }}
  - {{ match: {{ path: /v1/chat/completions, host: b }}, pool: keyless }}
  - {{ match: {{ path: /v1/chat/completions, host: c }}, pool: home }}
  - {{ match: {{ path: /v1/chat/completions }}, pool: quiet }}
"#,
            own.url(),
            keyless.url(),
            home.url(),
            box_.url()
        ),
        &[("KEY_A", "sk-pool-a")],
    );
    // a client's key is nobody's to ask with
    gateway.send(
        &Request::json("/v1/chat/completions", "{}").header("authorization", "Bearer sk-client"),
    );
    eventually("both were asked again", || {
        own.asked_for_lists().len() > 2 && home.asked_for_lists().len() > 2
    });
    for seen in own.asked_for_lists() {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-pool-a"));
    }
    for seen in home.asked_for_lists() {
        assert_eq!(
            (seen.header("authorization"), seen.header("x-team")),
            (None, Some("voice"))
        );
        assert!(!seen.text().contains("sk-"), "{}", seen.text());
    }
    assert_eq!(
        (
            keyless.asked_for_lists().len(),
            box_.asked_for_lists().len()
        ),
        (0, 0)
    );
    assert!(!gateway.stderr().contains("sk-"));
}

#[test]
fn a_native_ollama_tells_in_its_own_words() {
    let ollama = super::ollama::fake();
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ box: {{ kind: ollama-native, servers: ['{}'], health: false }} }}\nroutes: [{{ pool: box }}]",
        ollama.url()
    ));
    eventually("its models are listed", || {
        models(&gateway).contains("llama3.2:latest=box")
    });
    assert!(
        ollama
            .asked_for_lists()
            .iter()
            .all(|seen| seen.target == "/api/tags")
    );
}

#[test]
fn a_server_of_http2_is_asked_in_http2_and_with_its_key() {
    let server = Http2Server::answering(|_| {
        let list = r#"{"data":[{"id":"m"}]}"#;
        Reply::Pieces(200, "application/json", vec![list.into()])
    });
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ a: {{ servers: ['http://{}/v1'], http2: true, health: false, api_key: sk-pool }} }}\n\
         routes: [{{ match: {{ path: /v1/chat/completions }}, pool: a }}]",
        server.address
    ));
    come_to_be(&gateway, "m=a");
    let got = server.got().pop().unwrap();
    assert_eq!(got.uri, format!("http://{}/v1/models", server.address));
    let key = ("authorization".to_owned(), "Bearer sk-pool".to_owned());
    assert!(got.headers.contains(&key));
}

#[test]
fn a_server_of_tls_that_knows_only_http1_is_asked_in_that() {
    let server = TlsServer::start(&["localhost"]);
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, &server.pem).unwrap();
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ a: {{ servers: ['https://localhost:{}'], http2: true, tls: {{ ca_file: '{}' }}, health: {{ path: /x, interval: 20ms }} }} }}\n\
         routes: [{{ match: {{ path: /v1/chat/completions }}, pool: a }}]",
        server.address.port(),
        authority.display()
    ));
    // it answers, if not with a list
    eventually("it was asked", || {
        gateway.stderr().contains("this is no list of names")
    });
    eventually("it is probed", || {
        gateway.metric("trunkline_health_checks_total", &[("result", "ok")]) >= 3.0
    });
}

// === voices ===

fn voices(gateway: &Gateway, target: &str) -> Vec<String> {
    let list = gateway.get(target).json();
    let entries = list["voices"].as_array().into_iter().flatten();
    entries
        .map(|voice| voice["id"].as_str().or(voice.as_str()).unwrap().to_owned())
        .collect()
}

#[test]
fn voices_of_the_pools_and_their_mappings_are_one_list() {
    let new = Shelf::of(&[])
        .speaks(r#"{"voices":[{"id":"af_sky","name":"Sky"},{"id":"af_bella","name":"Bella"}]}"#);
    let old = Shelf::of(&[]).speaks(r#"{"voices":["af_sky","piper_ann"]}"#);
    let (new, old) = (new.serve(), old.serve());
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools:\n  new: {{ servers: ['{}/v1'], voices: {{ nova: af_sky }} }}\n  old: {{ servers: ['{}/v1'] }}\n\
         routes:\n  - {{ match: {{ path: /v1/audio/speech, voice: ['af_*', nova] }}, pool: new, fallback: [old] }}\n  \
         - {{ match: {{ path: '/v1/*' }}, pool: old }}\n",
        new.url(),
        old.url()
    ));
    let all = ["af_bella", "af_sky", "nova", "piper_ann"];
    eventually("all are listed", || {
        voices(&gateway, "/v1/audio/voices") == all
    });
    let list = gateway.get("/audio/voices").json();
    assert_eq!(
        list["voices"][1],
        json!({ "id": "af_sky", "name": "af_sky", "owned_by": "new" })
    );
    let legacy = gateway.get("/v1/audio/voices?legacy=true").json();
    assert_eq!(legacy, json!({ "voices": all }));
    assert_eq!(
        gateway.get("/v1/audio/voices").header("x-backend"),
        Some("local")
    );
}

#[test]
fn a_route_that_names_the_voices_takes_them_and_so_does_any_if_we_know_none() {
    let server = Shelf::of(&[]).speaks(r#"{"voices":["a"]}"#).serve();
    for (listing, path) in [
        ("{}", "[/v1/audio/speech, /v1/audio/voices]"),
        ("{}", "[/v1/audio/speech, '/v1/audio/voices*']"),
        ("false", "'/v1/audio/*'"),
    ] {
        let gateway = Gateway::start(&format!(
            "list_models: {listing}\npools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ match: {{ path: {path} }}, pool: a }}]",
            server.url()
        ));
        let answer = gateway.get("/v1/audio/voices");
        assert_eq!(answer.text(), r#"{"voices":["a"]}"#, "{path}");
        assert_ne!(answer.header("x-backend"), Some("local"));
    }
}

#[test]
fn a_kokoro_that_is_down_is_still_known_by_the_names_it_stands_in_for() {
    let gateway = Gateway::start(&format!(
        "list_models: {{}}\npools: {{ k: {{ kind: kokoro, servers: ['http://{}'] }} }}\n\
         routes: [{{ match: {{ path: /v1/audio/speech }}, pool: k }}]",
        Server::refused()
    ));
    let names = voices(&gateway, "/v1/audio/voices");
    assert!(
        names.contains(&"nova".to_owned()) && names.len() == 13,
        "{names:?}"
    );
}

// === a pool for models that no route takes ===

fn two_pools(a: &Server, b: &Server) -> String {
    format!(
        "unknown_model: b\npools: {{ a: {{ servers: ['{}'] }}, b: {{ servers: ['{}'], models: {{ '*': small }} }} }}\n\
         routes: [{{ match: {{ path: /v1/chat/completions, model: 'llama*' }}, pool: a }}]\n",
        a.url(),
        b.url()
    )
}

#[test]
fn a_model_that_no_route_takes_goes_to_the_pool_for_it() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&two_pools(&a, &b));
    let ask = |path: &str, body: &str| gateway.post(path, body);
    let chat = "/v1/chat/completions";
    assert_eq!(ask(chat, r#"{"model":"llama3"}"#).json()["served_by"], "a");
    let answer = ask(chat, r#"{"model":"gpt-9"}"#);
    assert_eq!(answer.json()["served_by"], "b");
    assert_eq!(
        b.seen().last().unwrap().json()["model"],
        "small",
        "with the pool's names"
    );
    assert_eq!(ask(chat, "{}").json()["served_by"], "b");
    // what no route takes for another reason stays unserved
    let other = ask("/v1/embeddings", r#"{"model":"gpt-9"}"#);
    assert_eq!(
        (other.status, &other.json()["error"]["code"]),
        (404, &json!("no_route"))
    );
    assert!(gateway.get("/").text().contains("OPENAI_BASE_URL"));
    assert!(!gateway.get("/").text().contains("any path"));
    let log = gateway.access_log(4);
    assert_eq!(log[1]["route"], "unknown_model");
}

#[test]
fn the_pool_for_unknown_models_is_checked_and_explained() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    let run = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(BINARY);
        let output = command
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let good = two_pools(&a, &b);
    let asked = ["route", "POST", "/v1/chat/completions", "--model", "gpt-9"];
    let (code, said) = run(&good, &asked);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("none takes this model; `unknown_model` has a pool for it"),
        "{said}"
    );
    assert!(said.contains("pool      b"), "{said}");
    let (code, said) = run(
        &good.replace("unknown_model: b", "unknown_model: bb"),
        &asked,
    );
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("pool `bb` is not defined"), "{said}");
    for wrong in ["1ms", "25h"] {
        let text = format!("list_models: {{ interval: {wrong} }}\n{good}");
        let (code, said) = run(&text, &asked);
        assert!(
            code == Some(78) && said.contains("an interval is 10ms to 24h"),
            "{said}"
        );
    }
    let (_, said) = run(&good, &["config", "show"]);
    assert!(said.contains("unknown_model: b"), "{said}");
    let no_model = good.replace(", model: 'llama*'", "");
    let (_, said) = run(&no_model, &asked);
    assert!(said.contains("no request ever gets there"), "{said}");
}
