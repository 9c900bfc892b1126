//! How often a request asks for memory. Only in a build that counts it: `make allocations`.

use std::io::Write;
use std::time::Instant;

use crate::support::client::{connect, read_answer};
use crate::support::{Gateway, Request, Server};

/// Requests that are counted.
const REQUESTS: u32 = 1000;

/// What one request costs on a kept connection with this body, behind those before it.
fn each(gateway: &Gateway, path: &str, body: &str) -> f64 {
    let mut stream = connect(gateway.address);
    let bytes = Request::json(path, body).bytes();
    let mut ask = |count: u32| {
        for _ in 0..count {
            stream.write_all(&bytes).unwrap();
            assert_eq!(read_answer(&mut stream, false, Instant::now()).status, 200);
        }
    };
    let counted = || gateway.metric("trunkline_allocations_total", &[]);
    ask(100);
    // what it takes to tell is not the requests'
    let (first, before) = (counted(), counted());
    ask(REQUESTS);
    let after = counted();
    ((after - before) - (before - first)) / f64::from(REQUESTS)
}

#[test]
fn a_small_request_asks_for_memory_so_often() {
    let server = Server::named("a");
    let text = format!(
        "pools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes:\n  - {{ match: {{ path: /v1/plain }}, pool: a }}\n  - {{ match: {{ model: 'm*' }}, pool: a }}\n",
        server.url()
    );
    let gateway = Gateway::start(&text);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"m1"}}"#,
        "x".repeat(900)
    );
    let plain = each(&gateway, "/v1/plain", &body);
    let by_model = each(&gateway, "/v1/chat/completions", &body);
    println!("allocations per request: {plain:.1} by path, {by_model:.1} by model");
    // ten above what was counted when this was written
    assert!(plain < 75.0, "{plain} by path");
    assert!(by_model < 90.0, "{by_model} by model");
}
