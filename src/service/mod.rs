//! What runs beside the requests: probes, the admin endpoints, stand-ins, and the search for
//! boxes on this machine.

pub(crate) mod admin;
pub(crate) mod ask;
pub(crate) mod discover;
mod page;
pub(crate) mod probe;
pub(crate) mod standin;
