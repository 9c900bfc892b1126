use super::*;
use crate::config;
use crate::inspect::Scanner;

const ROUTES: &str = r#"
  - { name: big, match: { path: /v1/audio/transcriptions, body_larger_than: 25MiB }, pool: a }
  - { name: speech, match: { path: [/v1/audio/speech], voice: "af_*" }, pool: a }
  - { name: gold, match: { path: "/v1/*", headers: { x-tier: gold } }, pool: a }
  - { name: llama, match: { path: /chat/completions, model: "llama*" }, pool: a }
  - { name: gpt, match: { path: /v1/chat/completions, model: [gpt-4, "gpt-5*"] }, pool: a }
  - { name: reads, match: { path: "/v1/*", method: [GET, HEAD] }, pool: a }
  - { name: voices, match: { path: "/audio/voic*" }, pool: a }
  - { name: host, match: { host: "*.example.com" }, pool: a }
"#;

fn look(method: &str, path: &str, headers: &[(&'static str, &str)], known: Known<'_>) -> String {
    let text = format!("pools: {{ a: {{ servers: ['http://h:1'] }} }}\nroutes:{ROUTES}");
    let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let map: HeaderMap = headers
        .iter()
        .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
        .collect();
    let head = Head {
        path,
        method: &method.parse().unwrap(),
        host: map.get("host").and_then(|host| host.to_str().ok()),
        headers: &map,
    };
    match RouteTable::new(&config.routes).find(&config.routes, &head, known) {
        Lookup::Found(n) => config.routes[n].name.clone(),
        Lookup::ReadBody { fields } => format!("read fields={fields}"),
        Lookup::Missing { model } => format!("missing model={model}"),
    }
}

fn with_body(path: &str, text: &str) -> String {
    let mut scanner = Scanner::new(&HeaderMap::new()).unwrap();
    scanner.feed(text.as_bytes()).unwrap();
    let body = scanner.finish().unwrap();
    let length = text.len() as u64;
    look(
        "POST",
        path,
        &[],
        Known::All {
            length,
            body: Some(&body),
        },
    )
}

#[test]
fn the_body_is_asked_for_only_if_a_route_that_may_match_needs_it() {
    let unread = Known::Length(Some(10));
    assert_eq!(
        look("POST", "/v1/audio/speech", &[], unread),
        "read fields=true"
    );
    assert_eq!(
        look(
            "POST",
            "/v1/chat/completions",
            &[("x-tier", "gold")],
            unread
        ),
        "gold"
    );
    assert_eq!(
        look("GET", "/v1/files", &[], Known::Length(Some(0))),
        "reads"
    );
    assert_eq!(
        look("POST", "/v1/audio/transcriptions", &[], Known::Length(None)),
        "read fields=false"
    );
    assert_eq!(
        look(
            "POST",
            "/v1/audio/transcriptions",
            &[],
            Known::Length(Some(26 << 20))
        ),
        "big"
    );
    assert_eq!(
        look(
            "POST",
            "/v1/audio/transcriptions",
            &[],
            Known::Length(Some(25 << 20))
        ),
        "missing model=false"
    );
}

#[test]
fn the_first_written_route_that_fits_wins() {
    assert_eq!(
        with_body("/v1/chat/completions", r#"{"model":"llama3"}"#),
        "llama"
    );
    assert_eq!(
        with_body("/v1/chat/completions", r#"{"model":"gpt-5-mini"}"#),
        "gpt"
    );
    assert_eq!(
        with_body("/v1/audio/speech", r#"{"voice":"af_sky"}"#),
        "speech"
    );
    assert_eq!(
        look("PUT", "/v1/audio/voices", &[], Known::Length(Some(0))),
        "voices"
    );
    assert_eq!(
        look(
            "GET",
            "/x",
            &[("host", "a.example.com")],
            Known::Length(Some(0))
        ),
        "host"
    );
}

#[test]
fn a_missing_route_tells_whether_the_model_was_at_fault() {
    assert_eq!(
        with_body("/v1/chat/completions", r#"{"model":"claude"}"#),
        "missing model=true"
    );
    assert_eq!(
        with_body("/v1/chat/completions", r#"{}"#),
        "missing model=true"
    );
    assert_eq!(
        with_body("/v1/audio/speech", r#"{"voice":"nova"}"#),
        "missing model=false"
    );
    assert_eq!(
        with_body("/v1/embeddings", r#"{"model":"x"}"#),
        "missing model=false"
    );
}
