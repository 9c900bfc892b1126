//! Traces arrive at a collector as OpenTelemetry has them, and a collector that misbehaves costs
//! spans, never requests.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Gateway, Request, Server, eventually};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
const COUNTED: &str = "trunkline_spans_exported_total";
const DROPPED: &str = "trunkline_spans_dropped_total";

fn collector() -> Server {
    Server::fake(|_, wire| {
        wire.json("{}");
        true
    })
}

/// A span as a collector has it.
#[derive(Debug)]
struct Span {
    trace: String,
    id: String,
    parent: Option<String>,
    name: String,
    kind: u64,
    took: Duration,
    attributes: BTreeMap<String, String>,
    events: usize,
    failed: bool,
}

impl Span {
    fn of(span: &Value) -> Self {
        let text = |key: &str| span[key].as_str().map(str::to_owned);
        let moment = |key: &str| text(key).unwrap().parse::<u64>().unwrap();
        let took = moment("endTimeUnixNano") - moment("startTimeUnixNano");
        let attributes = span["attributes"].as_array().unwrap().iter();
        Span {
            trace: text("traceId").unwrap(),
            id: text("spanId").unwrap(),
            parent: text("parentSpanId"),
            name: text("name").unwrap(),
            kind: span["kind"].as_u64().unwrap(),
            took: Duration::from_nanos(took),
            attributes: attributes.map(attribute).collect(),
            events: span["events"].as_array().map_or(0, Vec::len),
            failed: span["status"]["code"] == 2,
        }
    }

    #[track_caller]
    fn says(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            let found = self.attributes.get(*key).map(String::as_str);
            assert_eq!(found, Some(*value), "{key} of {self:#?}");
        }
    }
}

fn attribute(attribute: &Value) -> (String, String) {
    let value = attribute["value"].as_object().unwrap();
    assert_eq!(value.len(), 1, "{attribute}");
    let (kind, value) = value.iter().next().unwrap();
    let value = match kind.as_str() {
        "stringValue" | "intValue" => value.as_str().unwrap().to_owned(),
        "doubleValue" => value.as_f64().unwrap().to_string(),
        _ => panic!("{kind}"),
    };
    (attribute["key"].as_str().unwrap().to_owned(), value)
}

/// What a collector got so far.
fn spans(collector: &Server) -> Vec<Span> {
    let mut spans = Vec::new();
    for seen in collector.seen() {
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str()),
            ("POST", "/v1/traces")
        );
        assert_eq!(seen.header("content-type"), Some("application/json"));
        for resource in seen.json()["resourceSpans"].as_array().unwrap() {
            for scope in resource["scopeSpans"].as_array().unwrap() {
                spans.extend(scope["spans"].as_array().unwrap().iter().map(Span::of));
            }
        }
    }
    spans
}

/// All it gets, once these are so many.
#[track_caller]
fn exported(collector: &Server, count: usize) -> Vec<Span> {
    eventually("spans arrive", || spans(collector).len() >= count);
    let spans = spans(collector);
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

fn traced(pools: &str, route: &str, tracing: &str) -> String {
    format!("pools: {{ {pools} }}\nroutes: [{{ name: r, {route} }}]\ntracing: {{ {tracing} }}\n")
}

/// One server behind a gateway that traces everything.
fn simple(server: &Server, collector: &Server) -> Gateway {
    let pools = format!("a: {{ servers: ['{}'] }}", server.url());
    let tracing = format!("otlp: '{}', sample: 100%", collector.url());
    Gateway::start(&traced(&pools, "pool: a", &tracing))
}

#[test]
fn a_request_and_its_attempts_are_spans_of_one_trace() {
    let collector = collector();
    let bad = Server::failing(503);
    let good = Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        wire.chunk("data: {\"model\":\"served-1\",\"choices\":[]}\n\n");
        wire.chunk(
            "data: {\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":22}}\n\ndata: [DONE]\n\n",
        );
        wire.end();
        true
    });
    let pools = format!(
        "bad: {{ kind: vllm, health: false, servers: [{{ url: '{}', name: b }}] }}, \
         good: {{ kind: ollama, health: false, servers: [{{ url: '{}', name: g }}], models: {{ fast: own-fast }} }}",
        bad.url(),
        good.url()
    );
    let tracing = format!(
        "otlp: '{}/', sample: 0%, headers: {{ x-key: tracing-canary }}",
        collector.url()
    );
    let gateway = Gateway::start(&traced(&pools, "pool: bad, fallback: [good]", &tracing));
    let request = Request::json(
        "/v1/chat/completions?key=query-canary",
        r#"{"model":"fast","stream":true,"messages":[{"role":"user","content":"body-canary"}]}"#,
    )
    .header("traceparent", &format!("{CALLER}-01"))
    .header("tracestate", "vendor=1")
    .header("authorization", "Bearer key-canary");
    assert_eq!(gateway.send(&request).status, 200);

    let spans = exported(&collector, 3);
    let [request, first, second] = &spans[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((request.kind, first.kind, second.kind), (2, 3, 3));
    assert_eq!(request.parent.as_deref(), Some("00f067aa0ba902b7"));
    for span in &spans {
        assert_eq!(span.trace, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(
            span.took <= request.took && span.took > Duration::ZERO,
            "{spans:#?}"
        );
    }
    for (span, server) in [(first, &bad), (second, &good)] {
        assert_eq!(span.parent.as_ref(), Some(&request.id));
        let seen = &server.seen()[0];
        let expected = format!("00-{}-{}-01", span.trace, span.id);
        assert_eq!(seen.header("traceparent"), Some(expected.as_str()));
        assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    }
    assert_eq!(request.name, "POST /v1/chat/completions");
    assert_eq!((request.events, first.events, second.events), (1, 0, 1));
    assert_eq!(
        (request.failed, first.failed, second.failed),
        (false, true, false)
    );
    let line = gateway.access_log(1).remove(0);
    assert_eq!(line["trace_id"], request.trace.as_str());
    assert_eq!(line["span_id"], request.id.as_str());
    request.says(&[
        ("url.path", "/v1/chat/completions"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "fast"),
        ("trunkline.route", "r"),
        ("trunkline.pool", "good"),
        ("trunkline.server", "g"),
        ("trunkline.attempts", "2"),
        ("trunkline.termination", "complete"),
    ]);
    first.says(&[
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("gen_ai.provider.name", "vllm"),
        ("gen_ai.request.model", "fast"),
        ("trunkline.pool", "bad"),
    ]);
    assert_eq!(second.name, "chat own-fast");
    let port = good.address.port().to_string();
    second.says(&[
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("gen_ai.provider.name", "ollama"),
        ("gen_ai.request.model", "own-fast"),
        ("gen_ai.response.model", "served-1"),
        ("gen_ai.usage.input_tokens", "11"),
        ("gen_ai.usage.output_tokens", "22"),
        ("http.request.resend_count", "1"),
    ]);
    let seen = &collector.seen()[0];
    assert_eq!(seen.header("x-key"), Some("tracing-canary"));
    assert!(
        !String::from_utf8_lossy(&seen.body).contains("canary"),
        "{}",
        seen.text()
    );
    assert!(!gateway.stderr().contains("canary"));
    eventually("they are counted", || gateway.metric(COUNTED, &[]) == 3.0);
    assert_eq!(gateway.metric(DROPPED, &[]), 0.0);
}

#[test]
fn a_caller_that_does_not_trace_is_heeded() {
    let (server, collector) = (Server::named("a"), collector());
    let gateway = simple(&server, &collector);
    let untraced = format!("{CALLER}-00");
    gateway.send(&Request::json("/v1/chat/completions", "{}").header("traceparent", &untraced));
    gateway.post("/v1/chat/completions", "{}");
    let spans = exported(&collector, 2);
    assert_ne!(
        spans[0].trace,
        &CALLER[3..35],
        "that one was not to be traced"
    );
    assert_eq!(spans[0].parent, None);
    let seen = server.seen();
    let asked: Vec<_> = seen.iter().filter(|seen| seen.method == "POST").collect();
    assert_eq!(asked[0].header("traceparent"), Some(untraced.as_str()));
    let log = gateway.access_log(2);
    assert_eq!(log[0]["trace_id"], &CALLER[3..35]);
}

#[test]
fn local_replies_are_told() {
    let collector = collector();
    let nobody = Server::refused();
    let pools = format!("a: {{ servers: [{{ url: 'http://{nobody}', name: s }}], health: false }}");
    let tracing = format!("otlp: '{}', sample: 100%", collector.url());
    let gateway = Gateway::start(&traced(&pools, "pool: a", &tracing));
    assert_eq!(gateway.post("/v1/embeddings", "{}").status, 502);
    let spans = exported(&collector, 2);
    assert!(spans[0].failed && spans[1].failed);
    spans[0].says(&[
        ("error.type", "upstream_unreachable"),
        ("trunkline.local_reply", "upstream_unreachable"),
    ]);
    spans[1].says(&[("error.type", "connect_error"), ("trunkline.server", "s")]);
}

#[test]
fn of_a_race_both_attempts_are_told() {
    let collector = collector();
    let slow = Server::fake(|_, wire| {
        wire.wait_for_close();
        false
    });
    let quick = Server::named("quick");
    let pools = format!(
        "a: {{ servers: [{{ url: '{}', name: slow }}, {{ url: '{}', name: quick, backup: true }}], health: false }}",
        slow.url(),
        quick.url()
    );
    let tracing = format!("otlp: '{}', sample: 100%", collector.url());
    let route = "pool: a, hedge: { after: 20ms }";
    let gateway = Gateway::start(&traced(&pools, route, &tracing));
    let speech = r#"{"input":"hello","voice":"v"}"#;
    assert_eq!(gateway.post("/v1/audio/speech", speech).status, 200);
    let spans = exported(&collector, 3);
    let of = |name: &str| {
        let named = |span: &&Span| span.attributes.get("trunkline.server").unwrap() == name;
        spans[1..].iter().find(named).unwrap()
    };
    let (lost, won) = (of("slow"), of("quick"));
    lost.says(&[("trunkline.result", "cancelled")]);
    assert!(!lost.failed && !won.failed);
    for (span, server) in [(lost, &slow), (won, &quick)] {
        let expected = format!("00-{}-{}-01", span.trace, span.id);
        assert_eq!(
            server.seen()[0].header("traceparent"),
            Some(expected.as_str())
        );
        assert_eq!(span.parent.as_ref(), Some(&spans[0].id));
    }
}

#[test]
fn nothing_is_lost_at_the_end() {
    let (server, collector) = (Server::named("a"), collector());
    let mut gateway = simple(&server, &collector);
    for _ in 0..50 {
        assert_eq!(gateway.post("/v1/chat/completions", "{}").status, 200);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
    assert_eq!(spans(&collector).len(), 100);
}

#[test]
fn a_collector_that_is_away_costs_spans_and_no_request() {
    let server = Server::named("a");
    let pools = format!("a: {{ servers: ['{}'] }}", server.url());
    let tracing = format!("otlp: 'http://{}', sample: 100%", Server::refused());
    let mut gateway = Gateway::start(&traced(&pools, "pool: a", &tracing));
    for _ in 0..20 {
        assert_eq!(gateway.post("/v1/chat/completions", "{}").status, 200);
    }
    eventually("they are given up and counted", || {
        gateway.metric(DROPPED, &[("reason", "unreachable")]) == 40.0
    });
    assert_eq!(gateway.metric(COUNTED, &[]), 0.0);
    assert!(gateway.stderr().contains("does not take traces"));
    gateway.signal("TERM");
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
}

#[test]
fn a_busy_collector_is_asked_again_and_one_that_refuses_is_not() {
    let server = Server::named("a");
    let times = std::sync::atomic::AtomicUsize::new(0);
    let collector = Server::fake(move |_, wire| {
        match times.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => wire.answer(503, &[], ""),
            1 => wire.json(r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"odd"}}"#),
            _ => wire.answer(400, &[], r#"{"code":3,"message":"no"}"#),
        }
        true
    });
    let gateway = simple(&server, &collector);
    gateway.post("/v1/chat/completions", "{}");
    eventually("it is asked again", || gateway.metric(COUNTED, &[]) == 1.0);
    let seen = collector.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    gateway.post("/v1/chat/completions", "{}");
    let refused = [("reason", "refused")];
    eventually("refused ones are counted", || {
        gateway.metric(DROPPED, &refused) == 3.0
    });
    assert_eq!(collector.count(), 3);
}

#[test]
fn variables_of_opentelemetry_fill_in_what_the_file_leaves_open() {
    let (server, collector) = (Server::named("a"), collector());
    let endpoint = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"),
        ("OTEL_SERVICE_NAME", "edge-7"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.0"),
    ];
    let pools = format!("a: {{ servers: ['{}'] }}", server.url());
    let text = traced(&pools, "pool: a", "");
    let gateway = Gateway::start_with(&text, &variables);
    gateway.post("/v1/chat/completions", "{}");
    exported(&collector, 2);
    let seen = collector.seen().remove(0);
    assert_eq!(seen.header("x-key"), Some("a b"));
    let resource = seen.json()["resourceSpans"][0]["resource"].clone();
    assert_eq!(
        attribute(&resource["attributes"][0]),
        ("service.name".to_owned(), "edge-7".to_owned())
    );
    // by themselves they change nothing
    let text = traced(&pools, "pool: a", "").replace("tracing: {  }", "");
    let gateway = Gateway::start_with(&text, &variables);
    gateway.post("/v1/chat/completions", "{}");
    let metrics = gateway.ask_admin("/metrics").text();
    assert!(!metrics.contains("trunkline_spans"), "nobody traces");
}
