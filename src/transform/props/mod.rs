//! What has to hold of everything that is changed on its way.

pub(crate) mod events;
pub(crate) mod headers;
pub(crate) mod query;
pub(crate) mod rewrite;

use crate::config::{self, Config};

/// A configuration with one pool and one route.
fn config(pool: &str, route: &str) -> Config {
    let text = format!(
        "pools: {{ a: {{ servers: ['http://h:1'], {pool} }} }}\nroutes: [{{ pool: a, {route} }}]"
    );
    let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
    config.unwrap_or_else(|| panic!("{problems:?}"))
}
