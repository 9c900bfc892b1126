//! Where clients and operators connect.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::super::file::{self, File};
use super::super::tree::at;
use super::super::{Cors, Listener};
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, file: &File) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for (n, address) in file.listen.0.iter().enumerate() {
            let parsed = parse_address(address);
            if let Some(address) = self.check(at!["listen", n], parsed) {
                listeners.push(Listener {
                    address,
                    cors: None,
                });
            }
        }
        for (n, listener) in file.listeners.iter().enumerate() {
            let parsed = parse_address(&listener.address);
            let cors = listener.cors.as_ref().map(|cors| self.cors(n, cors));
            if let Some(address) = self.check(at!["listeners", n, "address"], parsed) {
                listeners.push(Listener { address, cors });
            }
        }
        if file.listen.0.is_empty() && file.listeners.is_empty() {
            listeners.push(Listener {
                address: SocketAddr::from(([127, 0, 0, 1], 2020)),
                cors: None,
            });
        }
        let mut seen = HashSet::new();
        for listener in &listeners {
            if listener.address.port() != 0 && !seen.insert(listener.address) {
                self.error(
                    at!["listen"],
                    format!("`{}` is listened on twice", listener.address),
                );
            }
        }
        listeners
    }

    fn cors(&mut self, n: usize, cors: &file::Cors) -> Cors {
        if cors.origins.0.iter().any(|origin| origin == "*") {
            return Cors::Any;
        }
        for (m, origin) in cors.origins.0.iter().enumerate() {
            let valid = origin.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains('/')
            });
            if !valid {
                let message = format!(
                    "`{origin}` is not an origin; write scheme, host and port only, such as `https://app.example.com`"
                );
                self.error(at!["listeners", n, "cors", "origins", m], message);
            }
        }
        Cors::Listed(
            cors.origins
                .0
                .iter()
                .map(|origin| origin.to_ascii_lowercase())
                .collect(),
        )
    }

    pub(super) fn admin(&mut self, file: &File, listeners: &[Listener]) -> Option<SocketAddr> {
        let address = match file.admin.as_deref() {
            Some("off" | "false") => return None,
            Some(address) => self.check(at!["admin"], parse_address(address))?,
            None => SocketAddr::from(([127, 0, 0, 1], 2021)),
        };
        if address.port() != 0 && listeners.iter().any(|l| same_socket(l.address, address)) {
            self.error(at!["admin"], format!("`{address}` is a client listener; the admin endpoints need an address of their own"));
        }
        if !address.ip().is_loopback() {
            self.warn(at!["admin"], format!("`{address}` can be reached from other machines, and the admin endpoints ask for no key"));
        }
        Some(address)
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text
        .rsplit(':')
        .next()
        .filter(|port| port.parse::<u16>().is_ok());
    match (text.rsplit_once(':').map(|(host, _)| host), port) {
        (Some("localhost"), Some(port)) => Ok(SocketAddr::from((
            [127, 0, 0, 1],
            port.parse().expect("checked above"),
        ))),
        (Some("" | "*"), Some(port)) => Ok(SocketAddr::from((
            [0, 0, 0, 0],
            port.parse().expect("checked above"),
        ))),
        (None, Some(port)) => Err(format!(
            "`{text}` has no address; write `127.0.0.1:{port}`, or `0.0.0.0:{port}` for all"
        )),
        _ => Err(format!(
            "`{text}` is not an address; write `IP:PORT`, such as `127.0.0.1:2020`"
        )),
    }
}

fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
