//! Which proxy is asked: the one that was typed, or that of the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Options;
use crate::command::client::{Client, Trust};
use crate::command::{route, source};
use crate::config::{Config, Listener, ServerUrl};

/// Where a proxy listens that nobody told anything else.
const USUAL: &str = "http://127.0.0.1:2020";

/// A proxy, and what is sent along.
pub(super) struct Target {
    pub(super) client: Client,
    /// In front of `/v1`, for a proxy behind another one.
    pub(super) prefix: String,
    /// On every request, in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// Of the proxy, if its file is at hand.
    pub(super) config: Option<Config>,
    /// Nothing was configured: it may be the embedded default.
    pub(super) bare: bool,
}

/// # Errors
/// What was typed wrong.
pub(super) fn find(options: &Options) -> Result<Target, String> {
    let headers = headers(options)?;
    let trust = match (&options.ca_file, options.insecure) {
        (Some(file), _) => Some(Trust::File(file.clone())),
        (None, true) => Some(Trust::Anything),
        (None, false) => None,
    };
    if let Some(url) = &options.url {
        let mut url = ServerUrl::parse(url).map_err(|why| format!("--url: {why}"))?;
        // people paste their OPENAI_BASE_URL
        let prefix = url.path.trim_end_matches("/v1").to_owned();
        url.path.clear();
        let trust = trust.unwrap_or(Trust::System);
        let config = match &options.config {
            Some(_) => configuration(options)?,
            None => None,
        };
        return Ok(Target {
            client: Client::new(url, trust, options.timeout.0),
            prefix,
            headers,
            config,
            bare: false,
        });
    }
    let bare = source::find(options.config.as_deref())?.is_none();
    let config = configuration(options)?;
    let listener = config.as_ref().and_then(|config| config.listeners.first());
    let (url, own) = match listener {
        Some(listener) => (address(listener)?, certificate(listener)),
        None => (USUAL.to_owned(), None),
    };
    let url = ServerUrl::parse(&url)?;
    let trust = trust.or(own).unwrap_or(Trust::System);
    Ok(Target {
        client: Client::new(url, trust, options.timeout.0),
        prefix: String::new(),
        headers,
        config,
        bare,
    })
}

fn configuration(options: &Options) -> Result<Option<Config>, String> {
    let Some(source) = source::find(options.config.as_deref())? else {
        return Ok(None);
    };
    let (config, _) = source.load();
    if config.is_none() {
        eprintln!(
            "trunkline: {} has errors (see `trunkline check-config`); asking the usual address",
            source.name
        );
    }
    Ok(config)
}

/// An address that listens everywhere is asked at home.
fn address(listener: &Listener) -> Result<String, String> {
    let ip = match listener.address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    if listener.address.port() == 0 {
        return Err("the configuration leaves the port open; name the proxy with --url".into());
    }
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let address = SocketAddr::new(ip, listener.address.port());
    Ok(format!("{scheme}://{address}"))
}

/// A listener has exactly the certificate of its file, whatever name is in it.
fn certificate(listener: &Listener) -> Option<Trust> {
    let read = listener.tls.as_ref()?.files.read();
    let certificate = read.certificate().ok()?;
    let leaf = certificate.key.cert.first()?;
    Some(Trust::Exactly(leaf.clone().into_owned()))
}

fn headers(options: &Options) -> Result<Vec<(String, String)>, String> {
    let typed = route::headers(&options.headers)?;
    let mut headers: Vec<(String, String)> = typed
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let key = std::env::var("OPENAI_API_KEY").unwrap_or_default();
    let key = key.trim();
    let usable = !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
    if usable && !typed.contains_key("authorization") {
        headers.push(("authorization".into(), format!("Bearer {key}")));
    }
    Ok(headers)
}
