//! Where clients and operators connect.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::super::certificate::{CertificateFiles, Fault};
use super::super::file::{self, File};
use super::super::tree::{self, at};
use super::super::{Cors, Listener, ListenerTls};
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, file: &File) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for (n, address) in file.listen.0.iter().enumerate() {
            let parsed = parse_address(address);
            if let Some(address) = self.check(at!["listen", n], parsed) {
                listeners.push(Listener::plain(address));
            }
        }
        for (n, listener) in file.listeners.iter().enumerate() {
            let parsed = parse_address(&listener.address);
            let cors = listener.cors.as_ref().map(|cors| self.cors(n, cors));
            let here = at!["listeners", n, "tls"];
            let tls = listener
                .tls
                .as_ref()
                .map(|tls| self.listener_tls(&here, tls));
            if tls.is_some() && listener.h2c {
                self.error(
                    at!["listeners", n, "h2c"],
                    "`h2c` is HTTP/2 without TLS; with `tls` clients choose HTTP/2 anyway, so remove it",
                );
            }
            if let Some(address) = self.check(at!["listeners", n, "address"], parsed) {
                listeners.push(Listener {
                    address,
                    tls,
                    h2c: listener.h2c,
                    cors,
                });
            }
        }
        if file.listen.0.is_empty() && file.listeners.is_empty() {
            listeners.push(Listener::plain(SocketAddr::from(([127, 0, 0, 1], 2020))));
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

    /// Reads the certificate, so that a bad one is known before anything listens; the listener
    /// reads it again when it starts, and whenever the files change.
    pub(super) fn listener_tls(
        &mut self,
        here: &tree::Path,
        tls: &file::ListenerTls,
    ) -> ListenerTls {
        let files = CertificateFiles {
            cert: self.folder.join(&tls.cert),
            key: self.folder.join(&tls.key),
            client_ca: tls.client_ca.as_ref().map(|file| self.folder.join(file)),
        };
        match files.read().certificate() {
            Ok(certificate) => {
                if let Some(warning) = certificate.out_of_date() {
                    self.warn(here.then("cert"), warning);
                }
            }
            Err(faults) => {
                for fault in faults {
                    match fault {
                        Fault::Cert(why) => self.error(here.then("cert"), why),
                        Fault::Key(why) => self.error(here.then("key"), why),
                        Fault::ClientCa(why) => self.error(here.then("client_ca"), why),
                    }
                }
            }
        }
        ListenerTls {
            files,
            min_version: tls.min_version.unwrap_or_default(),
        }
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
}

impl Listener {
    /// What `listen` stands for.
    fn plain(address: SocketAddr) -> Self {
        Listener {
            address,
            tls: None,
            h2c: false,
            cors: None,
        }
    }
}

pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
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

pub(super) fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
