//! `trunkline healthcheck`: asks the running proxy whether it is ready, for images without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::cli::{FAILED, HealthCheck, OK};
use crate::command::source;
use crate::service::ask;

/// Where admin endpoints are when nobody says.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2021);

/// Asks; 0 if the answer is good, else 1, which is all that Docker knows.
pub(crate) fn run(options: &HealthCheck) -> u8 {
    let asked = address(options).and_then(|address| ask(options, reachable(address)));
    match asked {
        Ok(answer) => {
            println!("{answer}");
            OK
        }
        Err(message) => {
            eprintln!("trunkline: {message}");
            FAILED
        }
    }
}

fn ask(options: &HealthCheck, address: SocketAddr) -> Result<String, String> {
    let path = if options.live { "/healthz" } else { "/readyz" };
    let limit = Duration::from_secs(options.timeout);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    match runtime.block_on(ask::get(address, path, limit)) {
        Some((200, body)) => Ok(body.trim().to_owned()),
        Some((status, body)) => Err(format!(
            "http://{address}{path} says {status}: {}",
            body.trim()
        )),
        None => Err(format!(
            "http://{address}{path} did not answer in {} s",
            options.timeout
        )),
    }
}

/// What was typed, else what the file says. A file that is being edited and is bad just now says
/// nothing about the proxy that runs: then only its `admin` is looked at.
fn address(options: &HealthCheck) -> Result<SocketAddr, String> {
    if let Some(address) = options.admin {
        return Ok(address);
    }
    let Some(source) = source::find(options.config.as_deref())? else {
        return Ok(DEFAULT);
    };
    match source.load().0 {
        Some(config) => config
            .admin
            .ok_or_else(|| format!("{} says `admin: off`: there is nothing to ask", source.name)),
        None => Ok(written(&source.text).unwrap_or(DEFAULT)),
    }
}

fn written(text: &str) -> Option<SocketAddr> {
    let file: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    file.get("admin")?.as_str()?.parse().ok()
}

/// An address that listens everywhere is asked at home.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
