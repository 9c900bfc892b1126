//! What runs beside the requests: probes, the admin endpoints, stand-ins, the search for boxes on
//! this machine, and word to the service manager.

mod access;
pub(crate) mod admin;
pub(crate) mod ask;
pub(crate) mod discover;
pub(crate) mod notify;
mod page;
pub(crate) mod probe;
pub(crate) mod standin;
