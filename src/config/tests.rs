use std::path::Path;

use super::problem::Problem;
use super::*;

const SMALLEST: &str = r#"
listen: 127.0.0.1:2020
pools:
  kokoro:  { kind: kokoro,      servers: ["http://gpu-a:8880/v1", "http://gpu-b:8880/v1"] }
  whisper: { kind: whisper.cpp, servers: ["http://gpu-a:2022"] }
  ollama:  { kind: ollama,      servers: ["http://gpu-b:11434/v1"] }
  openai:  { kind: openai,      servers: ["https://api.openai.com/v1"], api_key: "${OPENAI_API_KEY:-}" }
routes:
  - { match: { path: ["/v1/audio/speech", "/v1/audio/voices"] }, pool: kokoro,  fallback: [openai] }
  - { match: { path: "/v1/audio/transcriptions" },               pool: whisper, fallback: [openai] }
  - { match: { path: "/v1/chat/completions", model: "llama*" },  pool: ollama,  fallback: [openai] }
  - { match: { path: "/v1/*" },                                  pool: openai }
"#;

fn read_with(text: &str, env: &[(&str, &str)]) -> (Option<Config>, Vec<Problem>) {
    let env = |name: &str| {
        env.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    };
    read(text, Path::new("."), &env)
}

fn good(text: &str) -> Config {
    let (config, problems) = read_with(text, &[]);
    config.unwrap_or_else(|| panic!("{problems:#?}"))
}

/// The messages of every problem, each with its place.
fn problems(text: &str) -> Vec<String> {
    let (_, problems) = read_with(text, &[("CANARY", "sk-canary")]);
    problems
        .iter()
        .map(|p| {
            format!(
                "{}: {}{}",
                p.path,
                p.message,
                p.help.as_ref().map_or(String::new(), |h| format!(" ({h})"))
            )
        })
        .collect()
}

fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    for part in expected {
        assert!(
            found.iter().any(|line| line.contains(part)),
            "{part:?} not in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

/// A whole file around one pool and one route.
fn around(pool: &str, route: &str) -> String {
    format!(
        "pools:\n  a: {{ servers: ['http://h:1'], {pool} }}\nroutes:\n  - {{ pool: a, {route} }}\n"
    )
}

#[test]
fn the_smallest_file_is_read_with_every_default() {
    let config = good(SMALLEST);
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:2020");
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:2021");
    let kokoro = &config.pools[0];
    assert_eq!(
        kokoro
            .servers
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["gpu-a", "gpu-b"]
    );
    assert_eq!(kokoro.auth, Auth::None);
    assert!(matches!(&kokoro.health, Health::On { path: Some(path), .. } if path == "/health"));
    assert_eq!(config.pools[1].keepalive, None);
    assert_eq!(
        config.pools[3].auth,
        Auth::Passthrough,
        "an empty key is no key"
    );
    let names: Vec<_> = config.routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["speech", "transcriptions", "completions", "default"]
    );
    assert_eq!(config.routes[0].targets.len(), 2);
    assert_eq!(config.routes[0].retry.attempts, 3);
    assert_eq!(config.routes[0].max_body, 100 * 1024 * 1024);
}

#[test]
fn every_problem_of_a_file_is_found_in_one_run() {
    let text = r#"
lisen: 127.0.0.1:1
pools:
  kokoro: { kind: kokro, servers: ["http://a:1"], timeouts: { conect: 1s, idle: 5 } }
  kokoro: { servers: [] }
  b: { servers: ["a:1"], api_key: "${UNSET_KEY}" }
routes:
  - { match: { path: "/v1/x" }, pool: kokroo, fallback: [{ pol: b }] }
  - { pool: b, retry: { on: [conect, 503] } }
"#;
    check(
        text,
        &[
            "lisen: unknown key `lisen` (did you mean `listen`?)",
            "pools.kokoro.kind: `kokro` is not known here (did you mean `kokoro`?)",
            "pools.kokoro.timeouts.conect: unknown key `conect` (did you mean `connect`?)",
            "pools.kokoro.timeouts.idle: `5` has no unit",
            "kokoro: `kokoro` is here twice (the first one is on line 4",
            "`UNSET_KEY` is not set (set it, or write `${UNSET_KEY:-}`",
            "routes[0].fallback[0].pol: unknown key `pol` (did you mean `pool`?)",
            "routes[1].retry.on[0]: `conect` is not a reason to retry",
            "pools.b.servers[0]: `a:1` has no scheme; write `http://a:1`",
            "routes[0].pool: pool `kokroo` is not defined (did you mean `kokoro`?)",
        ],
    );
}

#[test]
fn a_missing_required_key_is_named_once() {
    check(
        "pools: { a: { servers: ['http://h:1'] } }\nroutes:\n  - { match: { path: /v1/x } }\n",
        &["routes[0]: `pool` is missing here"],
    );
    // the wrong value of a required key is one problem, not two
    check(
        "pools: { a: { servers: [{ url: [x] }] } }\nroutes: [{ pool: a }]\n",
        &["pools.a.servers[0].url: expected a string, found a list"],
    );
}

#[test]
fn syntax_errors_point_at_their_place() {
    for (text, part) in [
        ("pools: [", "this is not YAML"),
        ("a: b: c", "this is not YAML"),
        ("--- {}\n--- {}", "second YAML document"),
    ] {
        let found = problems(text);
        assert!(found[0].contains(part), "{text:?}: {found:?}");
    }
}

#[test]
fn an_empty_file_says_what_is_needed() {
    check("", &["no pool is defined", "no route is defined"]);
}

#[test]
fn a_variable_can_not_inject_yaml_and_is_never_repeated() {
    let text = around("api_key: '${KEY}'", "");
    let (config, _) = read_with(&text, &[("KEY", "k\n  evil: { servers: [] }")]);
    assert!(config.is_none(), "a line break can not stand in a header");
    let (config, _) = read_with(&text, &[("KEY", "k: [1, 2]")]);
    assert_eq!(
        config.unwrap().pools[0].servers[0]
            .key
            .as_ref()
            .unwrap()
            .expose(),
        "k: [1, 2]"
    );
    let found = problems(&around(
        "timeouts: { connect: '${CANARY}' }, weight: '${CANARY}'",
        "",
    ));
    assert!(
        found.iter().all(|line| !line.contains("canary")),
        "{found:?}"
    );
}

#[test]
fn variables_have_defaults_messages_and_an_escape() {
    let key = |text: &str| {
        let (config, problems) = read_with(
            &around(&format!("api_key: '{text}'"), ""),
            &[("SET", "x"), ("EMPTY", "")],
        );
        config
            .map(|c| {
                c.pools[0].servers[0]
                    .key
                    .as_ref()
                    .map(|k| k.expose().to_owned())
            })
            .ok_or(problems)
    };
    assert_eq!(key("${SET}").unwrap().unwrap(), "x");
    assert_eq!(key("${UNSET:-y}").unwrap().unwrap(), "y");
    assert_eq!(key("${EMPTY:-y}").unwrap().unwrap(), "y");
    assert_eq!(key("$${SET}").unwrap().unwrap(), "${SET}");
    assert!(
        key("${UNSET:?get one at example.com}").unwrap_err()[0]
            .message
            .contains("get one at example.com")
    );
    assert!(key("${SET").unwrap_err()[0].message.contains("closing"));
    assert!(
        key("${}").unwrap_err()[0]
            .message
            .contains("does not name a variable")
    );
}

#[test]
fn anchors_and_merges_are_understood_and_bombs_are_not() {
    let config = good(
        "x: &d { connect: 7s }\npools:\n  a: { servers: ['http://h:1'], timeouts: { <<: *d, idle: 3s } }\nroutes: [{ pool: a }]\n"
            .replace("x: &d { connect: 7s }\npools:", "pools:")
            .replace("timeouts: { <<: *d, idle: 3s }", "timeouts: &d { connect: 7s }")
            .replace("routes:", "  b: { servers: ['http://h:2'], timeouts: { <<: *d, idle: 3s } }\nroutes:")
            .as_str(),
    );
    let b = &config.pools[1].timeouts;
    assert_eq!(
        (b.connect, b.idle),
        (Some(Duration::from_secs(7)), Some(Duration::from_secs(3)))
    );
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..10 {
        let refs = vec![format!("*a{}", n - 1); 10].join(",");
        bomb += &format!("a{n}: &a{n} [{refs}]\n");
    }
    assert!(problems(&bomb)[0].contains("is this the right file?"));
}

#[test]
fn a_file_that_names_the_proxy_itself_is_refused() {
    for (listen, url) in [
        ("127.0.0.1:2020", "http://127.0.0.1:2020/v1"),
        ("127.0.0.1:2020", "http://localhost:2020"),
        ("0.0.0.0:2020", "http://127.0.0.1:2020"),
        ("192.168.0.5:80", "http://192.168.0.5"),
    ] {
        let text = format!(
            "listen: '{listen}'\npools: {{ a: {{ servers: ['{url}'] }} }}\nroutes: [{{ pool: a }}]"
        );
        check(&text, &["is this proxy itself"]);
    }
}

#[test]
fn credentials_follow_the_pool() {
    let auth = |pool: &str| {
        let pool = good(&around(pool, "")).pools.remove(0);
        (
            pool.auth,
            pool.servers[0]
                .key
                .as_ref()
                .map(|key| key.expose().to_owned()),
        )
    };
    assert_eq!(auth("kind: openai"), (Auth::Passthrough, None));
    assert_eq!(auth("kind: ollama"), (Auth::None, None));
    assert_eq!(
        auth("kind: openai, api_key: k"),
        (Auth::Inject, Some("k".into()))
    );
    assert_eq!(
        auth("kind: openai, api_key: k, auth: none"),
        (Auth::None, None)
    );
    check(
        &around("auth: inject", ""),
        &["`auth: inject` needs `api_key`"],
    );
}

#[test]
fn what_runs_but_is_probably_wrong_is_a_warning() {
    let text = r#"
pools:
  a: { servers: ["http://h:1", "http://h:1"], tls: { verify: false }, api_key: plain }
  unused: { servers: ["http://h:3"] }
routes:
  - { match: { path: "/v1/*" }, pool: a }
  - { name: never, match: { path: /v1/audio/speech, model: "tts-*" }, pool: a }
"#;
    let (_, found) = read_with(text, &[]);
    let warnings: Vec<_> = found
        .iter()
        .filter(|p| !p.is_error())
        .map(|p| p.message.as_str())
        .collect();
    for part in [
        "is in pool `a` twice",
        "certificates are not checked",
        "plain text",
        "used by no route",
        "`never` never matches",
    ] {
        assert!(
            warnings.iter().any(|w| w.contains(part)),
            "{part} not in {warnings:#?}"
        );
    }
}

#[test]
fn admin_endpoints_that_others_can_reach_ask_for_something() {
    let with = |admin: &str, env: &[(&str, &str)]| {
        let (config, problems) = read_with(&format!("admin: {admin}\n{}", around("", "")), env);
        let messages: Vec<String> = problems.into_iter().map(|p| p.message).collect();
        (config.and_then(|config| config.admin), messages)
    };
    for open in ["0.0.0.0:9", "{ address: '192.168.1.5:9' }", "':9'"] {
        let (admin, problems) = with(open, &[]);
        assert!(admin.is_none(), "{open}");
        assert!(problems[0].contains("set a token"), "{problems:?}");
    }
    let (admin, _) = with("{ address: '0.0.0.0:9', token: s3cret }", &[]);
    assert_eq!(admin.unwrap().token.unwrap().expose(), "s3cret");
    let (admin, problems) = with("0.0.0.0:9", &[("TRUNKLINE_ADMIN_TOKEN", "of-env")]);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(admin.unwrap().token.unwrap().expose(), "of-env");
    let (admin, _) = with("{ token: '${T}' }", &[("T", "t")]);
    assert_eq!(admin.unwrap().address.to_string(), "127.0.0.1:2021");
    assert!(with("off", &[]).0.is_none() && with("false", &[]).0.is_none());
}

#[test]
fn planned_keys_say_so_instead_of_being_ignored() {
    check(
        &around("trusted_proxies: [10.0.0.1]", ""),
        &["unknown key `trusted_proxies` (this key is planned"],
    );
}

#[test]
fn memory_is_for_chats_and_within_bounds() {
    let memory = |memory: &str| around("", &format!("memory: {memory}"));
    let route = good(&memory("{ by: header X-Session-Id }"))
        .routes
        .remove(0);
    let found = route.memory.unwrap();
    assert_eq!(found.by.to_string(), "header x-session-id");
    let bounds = found.bounds;
    assert_eq!((bounds.messages, bounds.bytes), (20, 64 * 1024));
    assert_eq!(bounds.ttl, Duration::from_secs(3600));
    for (text, problem) in [
        ("{ messages: 20 }", "`by`"),
        ("{ by: ip }", "routes[0].memory.by: `ip` names no session"),
        ("{ by: header a b }", "`a b` is not a header name"),
        ("{ by: user, messages: 1 }", "routes[0].memory.messages: "),
        (
            "{ by: user, messages: 1001 }",
            "routes[0].memory.messages: ",
        ),
        ("{ by: user, bytes: 5MiB }", "routes[0].memory.bytes: "),
        ("{ by: user, bytes: 0B }", "routes[0].memory.bytes: "),
        ("{ by: user, ttl: 0s }", "routes[0].memory.ttl: "),
        (
            "{ by: user }, cache: true",
            "`memory` and `cache` exclude each other",
        ),
    ] {
        check(&memory(text), &[problem]);
    }
    good(&memory("{ by: user }, cache: false"));
    let elsewhere = around("", "match: { path: /v1/audio/* }, memory: { by: user }");
    let (_, problems) = read_with(&elsewhere, &[]);
    let message = &problems[0].message;
    assert!(message.contains("nothing is ever remembered"), "{message}");
}

#[test]
fn names_are_translated_and_known_ones_left_alone() {
    let config = good(&around(
        "kind: kokoro, voices: { nova: af_nova, '*': af_heart }, models: { tts-1: kokoro }",
        "",
    ));
    let (models, voices) = (&config.pools[0].models, &config.pools[0].voices);
    assert_eq!(voices.translate("nova", true), Some("af_nova"));
    assert_eq!(voices.translate("ballad", true), Some("af_heart"));
    assert_eq!(
        voices.translate("af_sky", true),
        None,
        "kokoro knows this one"
    );
    assert_eq!(models.translate("tts-1", true), Some("kokoro"));
    assert_eq!(
        models.translate("tts-1-hd", true),
        None,
        "no default is set"
    );
}

#[test]
fn the_fields_of_a_fallback_stand_on_those_of_the_route() {
    let text = r#"
pools: { a: { servers: ["http://h:1"] }, b: { servers: ["http://h:2"] } }
routes:
  - { pool: a, set: { model: x, speed: 1.5 }, fallback: [{ pool: b, set: { model: y } }] }
"#;
    let targets = good(text).routes.remove(0).targets;
    assert_eq!(targets[0].fields.set["model"], "x");
    assert_eq!(targets[1].fields.set["model"], "y");
    assert_eq!(targets[1].fields.set["speed"], 1.5);
}

#[test]
fn servers_of_one_pool_may_want_different_credentials() {
    let text = r#"
pools:
  mixed:
    servers:
      - { url: "https://api.openai.com/v1", api_key: "${KEY}" }
      - { url: "http://kokoro:8880/v1" }
      - { url: "https://other.example/v1", auth: passthrough }
routes: [{ pool: mixed }]
"#;
    let (config, _) = read_with(text, &[("KEY", "sk-1")]);
    let auth: Vec<Auth> = config.unwrap().pools[0]
        .servers
        .iter()
        .map(|s| s.auth)
        .collect();
    assert_eq!(auth, [Auth::Inject, Auth::None, Auth::Passthrough]);
}

#[test]
fn an_empty_condition_is_none() {
    let conditions = good(&around(
        "",
        "match: { host: '', model: ['', 'x*'], voice: '' }",
    ))
    .routes
    .remove(0)
    .conditions;
    assert!(conditions.hosts.is_empty() && conditions.voices.is_empty());
    assert_eq!(conditions.models.len(), 1);
}

#[test]
fn what_a_collector_wants_is_a_secret() {
    let text = "tracing: { headers: { x-key: sk-canary }, otlp: 'http://h:1' }";
    let shown = without_secrets(text);
    assert!(
        !shown.contains("canary") && shown.contains("http://h:1"),
        "{shown}"
    );
    #[cfg(feature = "otlp")]
    {
        let config = good(&format!("{SMALLEST}{text}\n"));
        assert!(!format!("{config:?}").contains("canary"));
        let tracing = config.tracing.unwrap();
        assert_eq!(tracing.endpoint.to_string(), "http://h:1/v1/traces");
        assert_eq!(tracing.sample.to_string(), "5%");
        assert_eq!(tracing.headers[0].1, "sk-canary");
    }
}

#[cfg(feature = "otlp")]
#[test]
fn a_collector_that_cannot_be_is_told_of() {
    let with = |tracing: &str| format!("{SMALLEST}tracing: {tracing}\n");
    check(
        &with("{ otlp: 'gpu-a:4318' }"),
        &["tracing.otlp: `gpu-a:4318`"],
    );
    check(
        &with("{ otlp: 'http://h:4317' }"),
        &["tracing.otlp: 4317 is the port of OTLP over gRPC"],
    );
    check(
        &with("{ headers: { host: x } }"),
        &["tracing.headers.host: `host` is written"],
    );
    check(
        &with("{ sample: 101% }"),
        &["tracing.sample: `101%` is not a share"],
    );
    let (config, problems) = read_with(&with("{}"), &[("OTEL_TRACES_SAMPLER_ARG", "much")]);
    assert!(config.is_none());
    assert!(
        problems[0].message.contains("OTEL_TRACES_SAMPLER_ARG"),
        "{problems:?}"
    );
}

#[test]
fn a_route_named_after_a_long_path_has_a_name_that_the_file_may_have() {
    let long = "a".repeat(100);
    let route = format!("{{ match: {{ path: /v1/{long} }}, pool: a }}");
    let text = format!("pools: {{ a: {{ servers: ['http://h:1'] }} }}\nroutes: [{route}, {route}]");
    for route in good(&text).routes {
        let named = text.replace("{ match", &format!("{{ name: {}, match", route.name));
        let refused = problems(&named);
        assert!(
            !refused.iter().any(|p| p.contains("cannot be the name")),
            "{refused:?}"
        );
    }
}

#[test]
fn a_state_is_waited_for_briefly_and_its_address_is_a_secret_only_with_a_password() {
    let problems = |state: &str| -> Vec<String> {
        let (_, problems) = read_with(&format!("state: {{ {state} }}\n{}", around("", "")), &[]);
        problems.into_iter().map(|p| p.message).collect()
    };
    let none: [String; 0] = [];
    assert_eq!(problems("redis: 'redis://h:6379/0', timeout: 5s"), none);
    assert!(problems("redis: 'redis://:pw@h:6379/0'")[0].contains("plain text"));
    let long = problems("redis: 'redis://h:6379/0', timeout: 6s");
    assert!(long[0].contains("at most 5s"), "{long:?}");
}
