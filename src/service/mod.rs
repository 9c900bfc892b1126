//! What runs beside the requests: probes, questions for models and for the keys of tokens, the admin
//! endpoints, stand-ins, the search for boxes on this machine, word to the service manager and to
//! other edges, and the exporter of traces.

mod access;
pub(crate) mod admin;
pub(crate) mod ask;
mod dial;
pub(crate) mod discover;
pub(crate) mod jwks;
pub(crate) mod listing;
pub(crate) mod notify;
#[cfg(feature = "otlp")]
pub(crate) mod otlp;
mod page;
pub(crate) mod probe;
pub(crate) mod sharing;
pub(crate) mod spending;
pub(crate) mod standin;
