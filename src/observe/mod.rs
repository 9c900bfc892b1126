//! What happened: one record a request, written once to the access log and the metrics.

pub(crate) mod access_log;
#[cfg(feature = "counted")]
mod allocations;
mod exhausted;
pub(crate) mod failures;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod status;
#[cfg(not(feature = "otlp"))]
#[path = "no_trace.rs"]
pub(crate) mod trace;
#[cfg(feature = "otlp")]
pub(crate) mod trace;
pub(crate) mod usage;
