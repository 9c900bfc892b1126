//! The commands, one file each, and what they share: finding and reading the configuration.

mod admin_client;
pub(crate) mod background;
pub(crate) mod check_config;
mod conductor;
pub(crate) mod config;
mod embedded;
pub(crate) mod healthcheck;
pub(crate) mod key;
mod listeners;
mod logger;
pub(crate) mod reference;
mod reload;
pub(crate) mod remote;
pub(crate) mod route;
pub(crate) mod serve;
pub(crate) mod source;
pub(crate) mod standin;
mod upgrade;
