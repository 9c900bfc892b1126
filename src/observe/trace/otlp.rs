//! What OTLP calls things, in its JSON form
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Longest text of an attribute, in characters: a client may send kilobytes of it.
pub(super) const LONGEST: usize = 256;

pub(super) const SERVER: u8 = 2;
pub(super) const CLIENT: u8 = 3;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportRequest<'a> {
    pub(super) resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResourceSpans<'a> {
    pub(super) resource: Resource<'a>,
    pub(super) scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
pub(super) struct Resource<'a> {
    pub(super) attributes: Attributes<'a>,
}

#[derive(Serialize)]
pub(super) struct ScopeSpans<'a> {
    pub(super) scope: Scope,
    pub(super) spans: Vec<Span<'a>>,
}

#[derive(Serialize)]
pub(super) struct Scope {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span<'a> {
    pub(super) trace_id: String,
    pub(super) span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_span_id: Option<String>,
    pub(super) name: String,
    pub(super) kind: u8,
    #[serde(rename = "startTimeUnixNano")]
    pub(super) start: String,
    #[serde(rename = "endTimeUnixNano")]
    pub(super) end: String,
    pub(super) attributes: Attributes<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) events: Vec<Event>,
    pub(super) status: Status,
}

#[derive(Serialize)]
pub(super) struct Event {
    #[serde(rename = "timeUnixNano")]
    time: String,
    pub(super) name: &'static str,
}

impl Event {
    pub(super) fn first_byte(at: SystemTime) -> Self {
        Event {
            time: nanoseconds(at),
            name: "first_byte",
        }
    }
}

#[derive(Serialize)]
pub(super) struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
}

impl Status {
    /// Unset, or an error.
    pub(super) fn of(error: bool) -> Self {
        Status {
            code: error.then_some(2),
        }
    }
}

#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Attributes<'a>(Vec<Attribute<'a>>);

#[derive(Serialize)]
pub(super) struct Attribute<'a> {
    key: &'a str,
    value: Value,
}

/// 64 bits are text in the JSON of Protobuf.
#[derive(Serialize)]
pub(super) enum Value {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "doubleValue")]
    Float(f64),
}

impl Value {
    pub(super) fn int(number: u64) -> Self {
        Value::Int(number.to_string())
    }
}

impl<'a> Attributes<'a> {
    pub(super) fn extend(&mut self, key: &'a str, value: Option<Value>) {
        self.0.extend(value.map(|value| Attribute { key, value }));
    }

    pub(super) fn text(&mut self, key: &'a str, text: &str) {
        self.extend(key, Some(Value::Text(shortened(text))));
    }

    pub(super) fn optional(&mut self, key: &'a str, text: Option<&str>) {
        self.extend(key, text.map(|text| Value::Text(shortened(text))));
    }

    pub(super) fn int(&mut self, key: &'a str, number: u64) {
        self.extend(key, Some(Value::int(number)));
    }

    pub(super) fn milliseconds(&mut self, key: &'a str, time: Duration) {
        let rounded = (time.as_secs_f64() * 1e6).round() / 1e3;
        self.extend(key, Some(Value::Float(rounded)));
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

pub(super) fn nanoseconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}
