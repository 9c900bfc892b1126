use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracer;
use crate::observe::usage::Usage;

const CONFIG: &str = "
pools:
  box: { servers: ['http://gpu-a:8880'] }
  cloud: { kind: openai, servers: ['https://api.openai.com/v1'] }
routes: [{ pool: box, fallback: [cloud] }]
tracing: { sample: 100%, service_name: edge }
";

/// A request that failed at a box and was answered by a service.
fn record() -> (Record, Tracing) {
    let variables = |name: &str| {
        let attributes = "deployment.environment=home,service.name=other";
        (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| attributes.to_owned())
    };
    let (config, problems) = crate::config::read(CONFIG, Path::new("."), &variables);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let settings = config.tracing.clone().unwrap();
    let tracer = Tracer::new(Some(&settings), &Metrics::new(&[]));
    let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse();
    let (trace, mut span) = tracer.begin(caller.ok(), Instant::now());
    span.answered(Some(br#"{"id":"x", "model": "gpt-4o-2024", "choices":[]}"#));
    let attempts = [
        ("box", "connect_error", None),
        ("cloud", "200", Some("gpt-4o")),
    ];
    let attempts = attempts.map(|(pool, result, model)| {
        let config = config.pools.iter().find(|p| p.name == pool).unwrap();
        let own = || model.map(str::to_owned);
        AttemptNote {
            pool: pool.into(),
            server: "s".into(),
            result: result.into(),
            span: span.attempt().end(config, &config.servers[0], own),
        }
    });
    let mut record = Record {
        request_id: "id-1".into(),
        trace: Some(trace),
        span,
        listener: "127.0.0.1:2020".into(),
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        protocol: "HTTP/1.1",
        operation: Some("chat"),
        model: Some("best".into()),
        route: Some("r".into()),
        server: Some(("cloud".into(), "s".into())),
        status: 200,
        termination: Termination::Complete,
        attempts: attempts.to_vec(),
        usage: Usage {
            input: Some(7),
            output: Some(9),
        },
        ..Record::default()
    };
    record.times.total = Duration::from_secs(2);
    record.times.first_byte = Some(Duration::from_secs(1));
    (record, settings)
}

fn exported(record: Record, settings: &Tracing) -> (Value, Vec<Value>) {
    let batch = Batch::of(&[record], settings);
    let request: Value = serde_json::from_str(&batch.json).unwrap();
    let resource = &request["resourceSpans"][0];
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), batch.spans);
    (resource["resource"].clone(), spans.clone())
}

fn attribute<'a>(of: &'a Value, key: &str) -> &'a Value {
    let all = of["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == key);
    found.map_or(&Value::Null, |attribute| &attribute["value"])
}

#[track_caller]
fn check(span: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(attribute(span, key), value, "{key} of {span:#}");
    }
}

fn text(text: &str) -> Value {
    json!({ "stringValue": text })
}

#[test]
fn a_request_becomes_a_span_with_its_attempts_below() {
    let (record, settings) = record();
    let (resource, spans) = exported(record, &settings);
    check(
        &resource,
        &[
            ("service.name", text("edge")),
            ("deployment.environment", text("home")),
        ],
    );
    let [server, failed, answered] = &spans[..] else {
        panic!("{spans:#?}");
    };
    for span in &spans {
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
        let moment = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(moment("startTimeUnixNano") <= moment("endTimeUnixNano"));
    }
    assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(failed["parentSpanId"], server["spanId"]);
    assert_eq!(answered["parentSpanId"], server["spanId"]);
    assert_ne!(failed["spanId"], answered["spanId"]);
    assert_eq!(server["name"], "POST /v1/chat/completions");
    assert_eq!((&server["kind"], &answered["kind"]), (&json!(2), &json!(3)));
    assert_eq!(answered["name"], "chat gpt-4o");
    assert_eq!(failed["name"], "chat");
    assert_eq!(server["events"][0]["name"], "first_byte");
    assert_eq!(failed["status"]["code"], 2);
    assert_eq!(answered["status"], json!({}));
    check(
        server,
        &[
            ("http.request.method", text("POST")),
            ("http.response.status_code", json!({ "intValue": "200" })),
            ("server.port", json!({ "intValue": "2020" })),
            ("gen_ai.request.model", text("best")),
            ("trunkline.route", text("r")),
            ("trunkline.pool", text("cloud")),
            ("error.type", Value::Null),
            ("gen_ai.usage.input_tokens", Value::Null),
        ],
    );
    check(
        failed,
        &[
            ("server.address", text("gpu-a")),
            ("server.port", json!({ "intValue": "8880" })),
            ("error.type", text("connect_error")),
            ("gen_ai.provider.name", Value::Null),
            ("gen_ai.usage.input_tokens", Value::Null),
        ],
    );
    check(
        answered,
        &[
            ("server.address", text("api.openai.com")),
            ("gen_ai.operation.name", text("chat")),
            ("gen_ai.provider.name", text("openai")),
            ("gen_ai.request.model", text("gpt-4o")),
            ("gen_ai.response.model", text("gpt-4o-2024")),
            ("gen_ai.usage.input_tokens", json!({ "intValue": "7" })),
            ("gen_ai.usage.output_tokens", json!({ "intValue": "9" })),
            ("http.request.resend_count", json!({ "intValue": "1" })),
        ],
    );
}

#[test]
fn a_local_reply_and_a_broken_answer_are_errors() {
    let (mut local, settings) = record();
    (local.server, local.status, local.local) = (None, 502, Some("upstream_unreachable"));
    let (_, spans) = exported(local, &settings);
    check(
        &spans[0],
        &[
            ("error.type", text("upstream_unreachable")),
            ("trunkline.local_reply", text("upstream_unreachable")),
        ],
    );
    let (mut broken, settings) = record();
    broken.termination = Termination::UpstreamAbort;
    let (_, spans) = exported(broken, &settings);
    let errors: Vec<_> = spans.iter().map(|s| attribute(s, "error.type")).collect();
    let abort = text("upstream_abort");
    assert_eq!(errors, [&abort, &text("connect_error"), &abort]);
}

#[test]
fn what_a_client_invents_makes_no_name_and_no_long_text() {
    let (mut record, settings) = record();
    record.method = "FROBNICATE".into();
    record.path = format!("/v1/{}", "x".repeat(5000));
    record.operation = Some("other");
    let (_, spans) = exported(record, &settings);
    assert_eq!(spans[0]["name"], "HTTP");
    let path = attribute(&spans[0], "url.path")["stringValue"]
        .as_str()
        .unwrap();
    assert_eq!(path.len(), LONGEST);
    check(
        &spans[0],
        &[
            ("http.request.method", text("_OTHER")),
            ("http.route", Value::Null),
        ],
    );
}

#[test]
fn the_model_of_an_answer_is_found_in_any_form_and_not_in_what_it_says() {
    for (answer, model) in [
        (r#"{"id":1,"model":"m-1","x":2}"#, Some("m-1")),
        ("data: {\"id\":1, \"model\" : \"m-1\"}\n\n", Some("m-1")),
        (
            r#"{"content":"say \"model\":\"no\"","model":"m-1"}"#,
            Some("m-1"),
        ),
        (r#"{"model":null}"#, None),
        (r#"{"model":"cut o"#, None),
        ("RIFF....WAVE", None),
    ] {
        assert_eq!(model_of(answer.as_bytes()).as_deref(), model, "{answer}");
    }
}
