use super::*;
use crate::config;
use crate::inspect::listing;
use crate::pool::Report;
use crate::pool::tests::pools_of;

/// What is listed when each pool's first server reports these models and voices.
fn listed(yaml: &str, reports: &[(&str, &str, &str)]) -> Catalogue {
    let (config, problems) = config::read(yaml, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let now = Instant::now();
    let pools = pools_of(&config, now);
    for (pool, models, voices) in reports {
        let pool = pools.iter().find(|p| p.config.name == *pool).unwrap();
        let words = |text: &str| json!(text.split_whitespace().collect::<Vec<_>>()).to_string();
        let report = Report {
            models: listing::models(words(models).as_bytes()),
            voices: listing::voices(words(voices).as_bytes()),
        };
        pool.reports
            .heard(0, report, now, std::time::Duration::ZERO);
    }
    Catalogue::new(&config, &pools, now)
}

fn models(yaml: &str, reports: &[(&str, &str, &str)]) -> String {
    let list = listed(yaml, reports).models(&|_| true);
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

fn voices(yaml: &str, reports: &[(&str, &str, &str)]) -> String {
    let list = listed(yaml, reports).voices(true).unwrap_or_default();
    let entries = list["voices"].as_array().into_iter().flatten();
    let all: Vec<&str> = entries.filter_map(Value::as_str).collect();
    all.join(" ")
}

const POOLS: &str =
    "pools: { a: { servers: ['http://127.0.0.1:1'] }, b: { servers: ['http://127.0.0.1:2'] } }\n";

fn routes(routes: &str) -> String {
    format!("{POOLS}routes: [{routes}]")
}

#[test]
fn a_reported_model_is_listed_where_its_requests_get_to_its_pool() {
    let both = [("a", "llama3 qwen3", ""), ("b", "gpt-4o llama3", "")];
    let check = |text: &str, expected: &str| assert_eq!(models(&routes(text), &both), expected);
    check(
        "{ pool: a }, { match: { path: /x }, pool: b }",
        "llama3=a qwen3=a",
    );
    check(
        "{ match: { model: 'llama*' }, pool: a }, { pool: b }",
        "gpt-4o=b llama*=a llama3=a",
    );
    check("{ pool: a, fallback: [b] }", "llama3=a qwen3=a");
    check(
        "{ match: { path: /v1/audio/voices }, pool: a }, { match: { method: GET }, pool: b }",
        "",
    );
    check(
        "{ match: { path: /chat/completions }, pool: b }",
        "gpt-4o=b llama3=b",
    );
    check(
        "{ match: { path: '/v1/chat/*' }, pool: a, set: { model: x } }",
        "",
    );
    check(
        "{ match: { model: [gpt-4o, '*'] }, pool: a }",
        "gpt-4o=a llama3=a qwen3=a",
    );
}

#[test]
fn what_the_pool_renames_is_listed_under_its_public_name() {
    let yaml = "pools: { a: { servers: ['http://127.0.0.1:1'], models: { tts-1: kokoro, '*': kokoro } } }\n\
                routes: [{ pool: a }]";
    assert_eq!(
        models(yaml, &[("a", "kokoro other", "")]),
        "kokoro=a tts-1=a"
    );
}

#[test]
fn models_that_no_route_takes_are_listed_if_there_is_a_pool_for_them() {
    let chosen = "{ match: { path: /v1/chat/completions, model: 'llama*' }, pool: a }";
    let reports = [("a", "llama3 qwen3", ""), ("b", "llama4 gpt-4o", "")];
    let yaml = format!("unknown_model: b\n{}", routes(chosen));
    assert_eq!(models(&yaml, &reports), "gpt-4o=b llama*=a llama3=a");
    let all_taken = format!("unknown_model: b\n{}", routes("{ pool: a }"));
    assert_eq!(models(&all_taken, &reports), "llama3=a qwen3=a");
}

#[test]
fn an_entry_keeps_what_the_owner_says_of_it() {
    let list = listed(
        &routes("{ match: { model: m }, pool: a }"),
        &[("a", "m", "")],
    );
    let expected = json!({ "id": "m", "object": "model", "created": 0, "owned_by": "a" });
    assert_eq!(list.model("m", &|_| true), Some(expected));
    assert_eq!(
        list.model("m", &|id| id != "m"),
        None,
        "not for this client"
    );
    assert_eq!(list.models(&|_| false)["data"], json!([]));
    assert_eq!(list.counts().get("a"), Some(&(1, 0)));
}

#[test]
fn voices_are_those_of_the_file_the_kind_and_the_servers() {
    let yaml = "pools: { a: { servers: ['http://127.0.0.1:1'], voices: { nova: af_nova } }, \
                k: { kind: kokoro, servers: ['http://127.0.0.1:2'] } }\n\
                routes: [{ match: { path: /v1/audio/speech, voice: ['n*', x] }, pool: a }, \
                { match: { path: /v1/audio/speech }, pool: k }]";
    let reports = [("a", "", "x y nancy"), ("k", "", "af_sky alloy")];
    assert_eq!(
        voices(yaml, &reports),
        "af_sky alloy ash ballad cedar coral echo fable marin nancy nova onyx sage shimmer verse x"
    );
    let silent = "pools: { a: { servers: ['http://127.0.0.1:1'] } }\nroutes: [{ pool: a }]";
    assert_eq!(voices(silent, &[]), "");
    assert_eq!(listed(silent, &[]).voices(false), None);
}

#[test]
fn a_service_is_asked_only_with_a_key_of_its_own() {
    let yaml = "pools:\n  a: { kind: openai, servers: ['https://api.openai.com/v1'] }\n  \
                b: { kind: openai, servers: ['https://api.openai.com/v1'], api_key: '${K:-k}' }\n  \
                c: { servers: ['https://llm.example.com/v1'] }\n  d: { servers: ['http://127.0.0.1:1'] }\n  \
                e: { kind: whisper.cpp, servers: ['http://127.0.0.1:2'] }\nroutes: [{ pool: a }, { pool: b }, \
                { pool: c }, { pool: d }, { pool: e }]";
    let (config, problems) = config::read(yaml, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let asked: Vec<bool> = config.pools.iter().map(|pool| may_ask(pool, 0)).collect();
    assert_eq!(asked, [false, true, false, true, true]);
    let wants = wants(&config);
    assert_eq!((wants[1].models, wants[1].voices), (true, false));
    assert_eq!((wants[3].models, wants[3].voices), (true, true));
    assert!(!wants[4].models, "whisper.cpp has no list");
}
