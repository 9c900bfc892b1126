//! What happened: one record a request, written once to the access log and the metrics.

pub(crate) mod access_log;
pub(crate) mod failures;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod status;
pub(crate) mod usage;
