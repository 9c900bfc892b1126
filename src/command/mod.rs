//! The commands, one file each, and what they share: finding and reading the configuration.

mod admin_client;
pub(crate) mod background;
pub(crate) mod check_config;
pub(crate) mod check_endpoints;
mod client;
pub(crate) mod completions;
mod conductor;
pub(crate) mod config;
pub(crate) mod discover;
mod embedded;
pub(crate) mod healthcheck;
pub(crate) mod import;
pub(crate) mod key;
mod listeners;
mod logger;
pub(crate) mod man;
mod progress;
#[cfg(test)]
pub(crate) mod props;
pub(crate) mod reference;
mod reload;
pub(crate) mod remote;
pub(crate) mod route;
pub(crate) mod serve;
pub(crate) mod source;
pub(crate) mod standin;
pub(crate) mod top;
mod upgrade;

/// The ids in an answer to `/v1/models`.
fn models_in(body: &[u8]) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let models = list["data"].as_array().into_iter().flatten();
    let ids = models.filter_map(|model| model["id"].as_str());
    ids.map(str::to_owned).collect()
}
