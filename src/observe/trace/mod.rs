//! Traces: which requests are traced, and their records on the way to the exporter.
//!
//! A request only draws its ids and, at its end, puts its record into a bounded queue; whoever
//! empties that queue makes spans of it. What does not fit is dropped and counted.

mod otlp;
mod span;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use prometheus::{IntCounter, IntCounterVec};

use super::metrics::Metrics;
use super::record::Record;
use crate::config::kind::Kind;
use crate::config::{Pool, Server, Tracing};
use crate::unit::{Fraction, TraceContext};

pub(crate) use span::Batch;

/// Requests that may wait for the exporter: at 2 KB each, 4 MB in the worst case.
const QUEUE: usize = 2048;

/// Decides what is traced, and holds what is finished until it is exported.
pub(crate) struct Tracer(Option<Queue>);

struct Queue {
    sample: Fraction,
    waiting: Mutex<VecDeque<Record>>,
    exported: IntCounter,
    dropped: IntCounterVec,
}

/// Why a span was not exported; a metric label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lost {
    /// The exporter is slower than requests come.
    QueueFull,
    /// The collector could not be asked, or was busy for too long.
    Unreachable,
    /// The collector does not want it.
    Refused,
}

/// What a traced request knows besides its record; nothing if it is not traced.
#[derive(Debug, Default)]
pub(crate) struct RequestSpan(Option<Box<Request>>);

#[derive(Debug)]
struct Request {
    /// The span of the caller.
    parent: Option<u64>,
    started: Instant,
    /// The same on the clock of the wall.
    began: SystemTime,
    /// As the answer names it.
    model: Option<String>,
}

/// A span of an attempt that is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptSpan(Option<(u64, Instant)>);

/// What an attempt knows besides its note.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndedAttempt(Option<Box<Ended>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    span: u64,
    started: Instant,
    /// When it failed, or when its answer had begun.
    settled: Instant,
    host: String,
    port: u16,
    kind: Option<Kind>,
    /// As this server is asked for it.
    model: Option<String>,
}

impl Tracer {
    pub(crate) fn new(settings: Option<&Tracing>, metrics: &Metrics) -> Self {
        Tracer(settings.map(|settings| {
            let (exported, dropped) = metrics.spans();
            Queue {
                sample: settings.sample,
                waiting: Mutex::default(),
                exported,
                dropped,
            }
        }))
    }

    /// What a request that has arrived belongs to: the trace of its caller, who has decided whether
    /// it is kept, or one of its own.
    pub(crate) fn begin(
        &self,
        caller: Option<TraceContext>,
        started: Instant,
    ) -> (TraceContext, RequestSpan) {
        let Some(queue) = &self.0 else {
            let context = caller.unwrap_or_else(|| TraceContext::fresh(true));
            return (context, RequestSpan(None));
        };
        let context = match caller {
            Some(caller) if caller.is_sampled() => caller.with_span(fastrand::u64(1..)),
            Some(caller) => caller,
            None => TraceContext::fresh(queue.sample.draw()),
        };
        let request = context.is_sampled().then(|| Request {
            parent: caller.map(|caller| caller.span),
            started,
            began: SystemTime::now() - started.elapsed(),
            model: None,
        });
        (context, RequestSpan(request.map(Box::new)))
    }

    /// Takes the record of a finished request, if it is traced.
    pub(crate) fn finish(&self, record: &mut Record) {
        let (Some(queue), true) = (&self.0, record.span.0.is_some()) else {
            return;
        };
        let record = std::mem::take(record);
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < QUEUE {
            waiting.push_back(record);
        } else {
            drop(waiting);
            self.lost(spans_of(&record), Lost::QueueFull);
        }
    }

    /// The oldest records, `most` of them.
    pub(crate) fn take(&self, most: usize) -> Vec<Record> {
        let Some(queue) = &self.0 else {
            return Vec::new();
        };
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.min(waiting.len());
        waiting.drain(..count).collect()
    }

    /// Counts spans that the collector has.
    pub(crate) fn exported(&self, spans: usize) {
        if let Some(queue) = &self.0 {
            queue.exported.inc_by(spans as u64);
        }
    }

    /// Counts spans that nobody will see.
    pub(crate) fn lost(&self, spans: usize, why: Lost) {
        if let Some(queue) = &self.0 {
            let why = queue.dropped.with_label_values(&[why.label()]);
            why.inc_by(spans as u64);
        }
    }
}

/// How many spans a record becomes.
fn spans_of(record: &Record) -> usize {
    1 + record.attempts.len()
}

impl Lost {
    fn label(self) -> &'static str {
        match self {
            Lost::QueueFull => "queue_full",
            Lost::Unreachable => "unreachable",
            Lost::Refused => "refused",
        }
    }
}

impl RequestSpan {
    /// A span for an attempt that begins.
    pub(crate) fn attempt(&self) -> AttemptSpan {
        let traced = self.0.is_some();
        AttemptSpan(traced.then(|| (fastrand::u64(1..), Instant::now())))
    }

    /// Reads off an answer what it says of itself; `first` is the first piece of its body.
    pub(crate) fn answered(&mut self, first: Option<&[u8]>) {
        if let (Some(request), Some(first)) = (&mut self.0, first) {
            request.model = span::model_of(first);
        }
    }
}

impl AttemptSpan {
    /// What the server is told: its own spans belong below that of the attempt.
    pub(crate) fn context(self, request: Option<TraceContext>) -> Option<TraceContext> {
        match self.0 {
            Some((span, _)) => request.map(|request| request.with_span(span)),
            None => request,
        }
    }

    /// Notes who was asked. `model` is the server's own name for the model.
    pub(crate) fn end(
        self,
        pool: &Pool,
        server: &Server,
        model: impl FnOnce() -> Option<String>,
    ) -> EndedAttempt {
        let ended = self.0.map(|(span, started)| Ended {
            span,
            started,
            settled: Instant::now(),
            host: server.url.host.clone(),
            port: server.url.port,
            kind: pool.kind,
            model: model(),
        });
        EndedAttempt(ended.map(Box::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: &str) -> Tracer {
        let text = format!(
            "pools: {{ a: {{ servers: ['http://h:1'] }} }}\nroutes: [{{ pool: a }}]\ntracing: {{ sample: {sample} }}"
        );
        let (config, problems) = crate::config::read(&text, std::path::Path::new("."), &|_| None);
        let config = config.unwrap_or_else(|| panic!("{problems:?}"));
        Tracer::new(config.tracing.as_ref(), &Metrics::new(&[]))
    }

    fn finished(tracer: &Tracer, caller: Option<TraceContext>) -> Option<Record> {
        let (trace, span) = tracer.begin(caller, Instant::now());
        let mut record = Record {
            trace: Some(trace),
            span,
            ..Record::default()
        };
        tracer.finish(&mut record);
        tracer.take(usize::MAX).pop()
    }

    #[test]
    fn the_caller_decides_what_is_traced_and_else_chance_does() {
        let (sampled, not) = (TraceContext::fresh(true), TraceContext::fresh(false));
        for (sample, caller, traced) in [
            ("0%", None, false),
            ("100%", None, true),
            ("0%", Some(sampled), true),
            ("100%", Some(not), false),
        ] {
            let record = finished(&tracer(sample), caller);
            assert_eq!(record.is_some(), traced, "{sample} {caller:?}");
            let Some(record) = record else { continue };
            let (own, parent) = (record.trace, record.span.0.and_then(|span| span.parent));
            assert_eq!(parent, caller.map(|caller| caller.span));
            assert_ne!(own.map(|own| own.span), parent);
            let same = caller.is_none_or(|caller| own.is_some_and(|o| o.trace == caller.trace));
            assert!(same);
        }
    }

    #[test]
    fn what_is_not_traced_goes_on_as_it_came() {
        let caller = TraceContext::fresh(false);
        let (context, span) = tracer("100%").begin(Some(caller), Instant::now());
        assert_eq!(context, caller);
        assert_eq!(span.attempt().context(Some(context)), Some(caller));
    }

    #[test]
    fn a_full_queue_holds_up_nobody_and_every_lost_span_is_counted() {
        let tracer = tracer("100%");
        for _ in 0..QUEUE + 10 {
            let (trace, span) = tracer.begin(None, Instant::now());
            tracer.finish(&mut Record {
                trace: Some(trace),
                span,
                attempts: vec![super::super::record::AttemptNote::default()],
                ..Record::default()
            });
        }
        let queue = tracer.0.as_ref().unwrap();
        let lost = queue.dropped.with_label_values(&["queue_full"]).get();
        assert_eq!(lost, 2 * 10);
        assert_eq!(tracer.take(100).len(), 100);
        assert_eq!(tracer.take(usize::MAX).len(), QUEUE - 100);
    }
}
