//! What Trunkline answers itself: welcome page, health, models, CORS.

use crate::support::{Gateway, Request, Server};

fn gateway(server: &Server) -> Gateway {
    Gateway::start(&format!(
        r#"
listeners: [{{ address: "127.0.0.1:0", cors: {{ origins: ["https://app.example.com"] }} }}]
pools:
  openai: {{ servers: ["{0}"], models: {{ tts-1: kokoro }} }}
  local: {{ servers: ["{0}"] }}
routes:
  - {{ match: {{ path: /v1/chat/completions, model: ["gpt-*", o3] }}, pool: openai }}
  - {{ match: {{ path: "/v1/audio/*" }}, pool: local }}
"#,
        server.url()
    ))
}

#[test]
fn the_welcome_page_lists_what_is_served() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let text = gateway.get("/");
    assert!(
        text.header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    for part in [
        "/v1/chat/completions  (model gpt-*, o3)",
        "/v1/audio/*",
        "OPENAI_BASE_URL",
    ] {
        assert!(text.text().contains(part), "{part} not in {}", text.text());
    }
    let html = gateway.send(&Request::get("/").header("accept", "text/html,*/*"));
    assert!(
        html.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(html.text().contains("<h1>Trunkline</h1>"));
    let head = gateway.send(&Request::new("HEAD", "/"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(server.count(), 0);
}

#[test]
fn health_is_answered_without_a_server() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let health = gateway.get("/health");
    assert_eq!(
        (
            health.status,
            health.text().trim(),
            health.header("x-backend")
        ),
        (200, "healthy", Some("local"))
    );
}

#[test]
fn models_are_the_public_names_that_can_be_routed() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let list = gateway.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["gpt-*", "o3", "tts-1"]);
    assert_eq!(list["data"][1]["owned_by"], "openai");
    assert_eq!(gateway.get("/models").json(), list, "also without /v1");
    assert_eq!(gateway.get("/v1/models/o3").json()["id"], "o3");
    assert_eq!(gateway.get("/v1/models/nothing").status, 404);
}

#[test]
fn a_route_that_names_an_own_endpoint_takes_it() {
    let server = Server::named("theirs");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'] }} }}\nroutes: [{{ match: {{ path: [/v1/models, /health] }}, pool: a }}]",
        server.url()
    ));
    assert_eq!(gateway.get("/v1/models").json()["served_by"], "theirs");
    assert_eq!(gateway.get("/health").json()["served_by"], "theirs");
}

#[test]
fn browsers_of_listed_origins_may_call_and_others_may_not() {
    let server = Server::fake(|_, wire| {
        wire.answer(
            200,
            &[
                ("access-control-allow-origin", ""),
                ("content-type", "application/json"),
            ],
            "{}",
        );
        true
    });
    let gateway = gateway(&server);
    let origin = "https://app.example.com";
    let preflight = |origin: &str| {
        gateway.send(
            &Request::new("OPTIONS", "/v1/chat/completions")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header(
                    "access-control-request-headers",
                    "authorization, content-type, x-stainless-os",
                ),
        )
    };
    let allowed = preflight(origin);
    assert_eq!(
        (
            allowed.status,
            allowed.header("access-control-allow-origin")
        ),
        (204, Some(origin))
    );
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        Some("authorization, content-type, x-stainless-os")
    );
    assert!(
        allowed
            .header("access-control-allow-methods")
            .unwrap()
            .contains("POST")
    );
    assert_eq!(
        preflight("https://evil.example.com").header("access-control-allow-origin"),
        None
    );
    let call = |origin: &str| {
        gateway.send(
            &Request::json("/v1/chat/completions", r#"{"model":"o3"}"#).header("origin", origin),
        )
    };
    let answer = call(origin);
    let origins: Vec<_> = answer
        .headers
        .iter()
        .filter(|(n, _)| n == "access-control-allow-origin")
        .collect();
    assert_eq!(origins.len(), 1, "one, and ours: {origins:?}");
    assert_eq!(origins[0].1, origin);
    assert!(
        answer
            .header("access-control-expose-headers")
            .unwrap()
            .contains("x-request-id")
    );
    let refused =
        gateway.send(&Request::json("/v1/chat/completions", "{").header("origin", origin));
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (400, Some(origin)),
        "errors can be read too"
    );
}
