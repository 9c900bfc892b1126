//! The commands, one file each, and what they share: finding and reading the configuration.

pub(crate) mod check_config;
pub(crate) mod completions;
pub(crate) mod config;
mod embedded;
pub(crate) mod healthcheck;
mod logger;
pub(crate) mod man;
pub(crate) mod reference;
mod reload;
pub(crate) mod remote;
pub(crate) mod route;
pub(crate) mod serve;
pub(crate) mod source;
pub(crate) mod standin;
