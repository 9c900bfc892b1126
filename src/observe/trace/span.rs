//! From finished requests to spans, with the attributes of OpenTelemetry's conventions for HTTP and
//! for generative AI.
//!
//! Names, numbers and words of ours only: no body, no header but `user-agent`, no query.

use std::time::{Instant, SystemTime};

use memchr::memmem;

use super::otlp::{
    Attributes, CLIENT, Event, ExportRequest, LONGEST, Resource, ResourceSpans, SERVER, Scope,
    ScopeSpans, Span, Status, Value, nanoseconds, shortened,
};
use super::{Ended, Request, spans_of};
use crate::config::Tracing;
use crate::observe::record::{AttemptNote, Record, Termination};

/// Bytes of an answer that are searched for the name of its model.
const OPENING: usize = 4096;

/// Spans on their way to a collector.
pub(crate) struct Batch {
    /// The body of the request.
    pub(crate) json: String,
    pub(crate) spans: usize,
}

impl Batch {
    pub(crate) fn of(records: &[Record], settings: &Tracing) -> Self {
        let own = [
            ("service.name", settings.service_name.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let told = settings.attributes.iter();
        let told = told.filter(|(key, _)| own.iter().all(|(own, _)| own != key));
        let told = told.map(|(key, value)| (key.as_str(), value.as_str()));
        let mut resource = Attributes::default();
        for (key, value) in own.into_iter().chain(told) {
            resource.text(key, value);
        }
        let resource_spans = ResourceSpans {
            resource: Resource {
                attributes: resource,
            },
            scope_spans: [ScopeSpans {
                scope: Scope {
                    name: "trunkline",
                    version: env!("CARGO_PKG_VERSION"),
                },
                spans: records.iter().flat_map(spans).collect(),
            }],
        };
        let request = ExportRequest {
            resource_spans: [resource_spans],
        };
        Batch {
            json: serde_json::to_string(&request).expect("text and numbers can be written"),
            spans: records.iter().map(spans_of).sum(),
        }
    }
}

/// The span of a request, and those of its attempts.
fn spans(record: &Record) -> Vec<Span<'_>> {
    let (Some(request), Some(context)) = (&record.span.0, record.trace) else {
        return Vec::new();
    };
    let trace = Trace {
        record,
        request,
        id: context.trace_id(),
        span: context.span_id(),
    };
    let attempts = record.attempts.iter().enumerate();
    let attempts = attempts.filter_map(|(n, note)| trace.attempt(n, note));
    std::iter::once(trace.server()).chain(attempts).collect()
}

/// A request that is told.
struct Trace<'a> {
    record: &'a Record,
    request: &'a Request,
    id: String,
    /// That of the request.
    span: String,
}

impl<'a> Trace<'a> {
    fn server(&self) -> Span<'a> {
        let (record, request) = (self.record, self.request);
        let broke_off = matches!(
            record.termination,
            Termination::UpstreamAbort | Termination::Timeout
        );
        let error = match record.local {
            Some(code) if record.status >= 500 => Some(code.to_owned()),
            _ if broke_off => Some(record.termination.label().to_owned()),
            _ => (record.status >= 500).then(|| record.status.to_string()),
        };
        let mut attributes = self.of_http();
        attributes.optional("error.type", error.as_deref());
        self.tell_way(&mut attributes);
        let first_byte = record.times.first_byte.map(|first| request.began + first);
        let name = method(&record.method).unwrap_or("HTTP");
        Span {
            trace_id: self.id.clone(),
            span_id: self.span.clone(),
            parent_span_id: request.parent.map(|parent| format!("{parent:016x}")),
            name: match self.route() {
                Some(route) => format!("{name} {route}"),
                None => name.to_owned(),
            },
            kind: SERVER,
            start: nanoseconds(request.began),
            end: nanoseconds(self.end()),
            attributes,
            events: first_byte.map(Event::first_byte).into_iter().collect(),
            status: Status::of(error.is_some()),
        }
    }

    /// What the conventions for HTTP servers ask for.
    fn of_http(&self) -> Attributes<'a> {
        let record = self.record;
        let mut attributes = Attributes::default();
        let method = method(&record.method).unwrap_or("_OTHER");
        attributes.text("http.request.method", method);
        attributes.text("url.path", &record.path);
        let scheme = if record.tls.is_some() {
            "https"
        } else {
            "http"
        };
        attributes.text("url.scheme", scheme);
        attributes.optional("http.route", self.route());
        if let Some((address, port)) = record.listener.rsplit_once(':') {
            attributes.text("server.address", address.trim_matches(['[', ']']));
            attributes.extend("server.port", port.parse().ok().map(Value::int));
        }
        let version = record.protocol.strip_prefix("HTTP/");
        attributes.optional("network.protocol.version", version);
        attributes.optional("user_agent.original", record.user_agent.as_deref());
        if record.status > 0 {
            attributes.int("http.response.status_code", u64::from(record.status));
        }
        attributes
    }

    /// What was asked for, and how it went: the words of the access log.
    fn tell_way(&self, attributes: &mut Attributes<'a>) {
        let record = self.record;
        attributes.optional("gen_ai.operation.name", record.operation);
        attributes.optional("gen_ai.request.model", record.model.as_deref());
        attributes.text("trunkline.request_id", &record.request_id);
        attributes.optional("trunkline.route", record.route.as_deref());
        if let Some((pool, server)) = &record.server {
            attributes.text("trunkline.pool", pool);
            attributes.text("trunkline.server", server);
        }
        attributes.optional("trunkline.local_reply", record.local);
        attributes.text("trunkline.termination", record.termination.label());
        attributes.int("trunkline.attempts", record.attempts.len() as u64);
        attributes.milliseconds("trunkline.body_ms", record.times.body);
        attributes.milliseconds("trunkline.queue_ms", record.times.queue);
    }

    /// The path, if it is one of those we know and not one that a client made up.
    fn route(&self) -> Option<&'a str> {
        let operation = self.record.operation?;
        (operation != "other").then_some(self.record.path.as_str())
    }

    fn end(&self) -> SystemTime {
        self.request.began + self.record.times.total
    }

    /// The moment on the clock of the wall.
    fn at(&self, moment: Instant) -> SystemTime {
        self.request.began + moment.saturating_duration_since(self.request.started)
    }

    fn attempt(&self, n: usize, note: &'a AttemptNote) -> Option<Span<'a>> {
        let ended = note.span.0.as_deref()?;
        let record = self.record;
        // who answers is the last one that was asked
        let answers = record.server.is_some() && n + 1 == record.attempts.len();
        let status: Option<u16> = note.result.parse().ok();
        let broke_off = matches!(
            record.termination,
            Termination::UpstreamAbort | Termination::Timeout
        );
        let error = match status {
            Some(..400) => (answers && broke_off).then(|| record.termination.label()),
            // whoever lost a race did nothing wrong
            None if note.result == "cancelled" => None,
            _ => Some(&*note.result),
        };
        let mut attributes = self.of_genai(ended, answers);
        let method = method(&record.method).unwrap_or("_OTHER");
        attributes.text("http.request.method", method);
        let status = status.map(|status| Value::int(u64::from(status)));
        attributes.extend("http.response.status_code", status);
        let resent = (n > 0).then(|| Value::int(n as u64));
        attributes.extend("http.request.resend_count", resent);
        attributes.optional("error.type", error);
        attributes.optional("trunkline.route", record.route.as_deref());
        attributes.text("trunkline.pool", &note.pool);
        attributes.text("trunkline.server", &note.server);
        attributes.text("trunkline.result", &note.result);
        let settled = self.at(ended.settled);
        let end = if answers {
            self.end().max(settled)
        } else {
            settled
        };
        let first_byte = answers.then(|| Event::first_byte(settled));
        let what = record.operation.unwrap_or("ask");
        Some(Span {
            trace_id: self.id.clone(),
            span_id: format!("{:016x}", ended.span),
            parent_span_id: Some(self.span.clone()),
            name: match &ended.model {
                Some(model) => format!("{what} {}", shortened(model)),
                None => what.to_owned(),
            },
            kind: CLIENT,
            start: nanoseconds(self.at(ended.started)),
            end: nanoseconds(end),
            attributes,
            events: first_byte.into_iter().collect(),
            status: Status::of(error.is_some()),
        })
    }

    /// What the conventions for clients of models ask for. Tokens stand here and not at the request
    /// too, where whoever adds them up would count them twice.
    fn of_genai(&self, ended: &'a Ended, answers: bool) -> Attributes<'a> {
        let mut attributes = Attributes::default();
        attributes.optional("gen_ai.operation.name", self.record.operation);
        let provider = ended.kind.map(|kind| serde_json::json!(kind));
        let provider = provider.as_ref().and_then(serde_json::Value::as_str);
        attributes.optional("gen_ai.provider.name", provider);
        attributes.optional("gen_ai.request.model", ended.model.as_deref());
        if answers {
            let usage = self.record.usage;
            attributes.optional("gen_ai.response.model", self.request.model.as_deref());
            attributes.extend("gen_ai.usage.input_tokens", usage.input.map(Value::int));
            attributes.extend("gen_ai.usage.output_tokens", usage.output.map(Value::int));
        }
        attributes.text("server.address", &ended.host);
        attributes.int("server.port", u64::from(ended.port));
        attributes
    }
}

/// The methods that may be told apart; a client may invent others without end.
fn method(text: &str) -> Option<&str> {
    const KNOWN: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.contains(&text).then_some(text)
}

/// The model that an answer says it is of. In text that a model wrote the quotes are escaped, so it
/// cannot be taken for the field.
pub(super) fn model_of(answer: &[u8]) -> Option<String> {
    let opening = &answer[..answer.len().min(OPENING)];
    let at = memmem::find(opening, b"\"model\"")?;
    let rest = opening[at + b"\"model\"".len()..].trim_ascii_start();
    let rest = rest.strip_prefix(b":")?.trim_ascii_start();
    let name = rest.strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', name)?;
    let name = std::str::from_utf8(&name[..end]).ok()?;
    (name.len() <= LONGEST && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
