//! What stands in the place of `trace` in a program built without traces: nothing is made, kept or
//! sent, and a trace context goes on as it came.

use std::time::Instant;

use super::metrics::Metrics;
use super::record::Record;
use crate::config::{Pool, Server, Tracing};
use crate::unit::TraceContext;

pub(crate) struct Tracer;

#[derive(Debug, Default)]
pub(crate) struct RequestSpan;

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptSpan;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndedAttempt;

impl Tracer {
    pub(crate) fn new(_: Option<&Tracing>, _: &Metrics) -> Self {
        Tracer
    }

    pub(crate) fn begin(
        &self,
        caller: Option<TraceContext>,
        _: Instant,
    ) -> (TraceContext, RequestSpan) {
        let context = caller.unwrap_or_else(|| TraceContext::fresh(true));
        (context, RequestSpan)
    }

    pub(crate) fn finish(&self, _: &mut Record) {}
}

impl RequestSpan {
    pub(crate) fn attempt(&self) -> AttemptSpan {
        AttemptSpan
    }

    pub(crate) fn answered(&mut self, _: Option<&[u8]>) {}
}

impl AttemptSpan {
    pub(crate) fn context(self, request: Option<TraceContext>) -> Option<TraceContext> {
        request
    }

    pub(crate) fn end(
        self,
        _: &Pool,
        _: &Server,
        _: impl FnOnce() -> Option<String>,
    ) -> EndedAttempt {
        EndedAttempt
    }
}
