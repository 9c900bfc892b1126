//! The admin listener: where it is, and whom it lets in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ListenerTls;
use super::server_url::is_public_name;
use crate::unit::Secret;

/// Where operators and Prometheus ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    /// What must be shown, if anything.
    pub(crate) token: Option<Secret>,
    /// Names it may be asked for by without a token, in lower case.
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: Option<ListenerTls>,
}

impl Admin {
    /// Where it is when nobody says.
    pub(crate) const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2021);

    /// At this address, for everybody who reaches it.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Admin {
            address,
            token: None,
            hosts: Vec::new(),
            tls: None,
        }
    }

    /// The token of the environment, for who sets the address there too.
    pub(crate) fn token_of(env: &dyn Fn(&str) -> Option<String>) -> Option<Secret> {
        let token = env("TRUNKLINE_ADMIN_TOKEN")?;
        let token = token.trim();
        (!token.is_empty()).then(|| Secret::new(token))
    }

    /// Whether somebody who reaches it must also show something.
    pub(crate) fn asks_who(&self) -> bool {
        self.token.is_some() || self.wants_certificate()
    }

    fn wants_certificate(&self) -> bool {
        let files = self.tls.as_ref().map(|tls| &tls.files);
        files.is_some_and(|files| files.client_ca.is_some())
    }

    /// Whether it may listen where it is to.
    ///
    /// # Errors
    /// If everybody out there could reload and drain; the message says what to add.
    pub(crate) fn may_listen(&self) -> Result<(), String> {
        if self.address.ip().is_loopback() || self.asks_who() {
            return Ok(());
        }
        Err(format!(
            "`{}` can be reached from other machines, and nothing is asked there; set a token \
             (`admin: {{ address: \"{}\", token_file: … }}` or $TRUNKLINE_ADMIN_TOKEN), or `tls` with \
             `client_ca`, or listen on 127.0.0.1",
            self.address, self.address
        ))
    }

    /// Whether a request for this `Host` may be answered without a token.
    ///
    /// A page in an operator's browser can point a name of its own at this address (DNS rebinding),
    /// and then be asked for by that name; it cannot do so with an address, nor with a name that
    /// the DNS of the internet does not know.
    pub(crate) fn answers_to(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host.as_str(),
        };
        let name = name.trim_start_matches('[').trim_end_matches([']', '.']);
        name.parse::<IpAddr>().is_ok()
            || !is_public_name(name)
            || self.hosts.iter().any(|own| own == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_internet_must_be_one_of_ours() {
        let admin = Admin {
            hosts: vec!["edge.example.com".into()],
            ..Admin::at(Admin::USUAL)
        };
        for host in [
            "127.0.0.1:2021",
            "[::1]:2021",
            "::1",
            "localhost:2021",
            "trunkline",
            "trunkline:2021",
            "edge.example.com",
            "EDGE.example.com:2021",
            "box.local",
            "203.0.113.5",
        ] {
            assert!(admin.answers_to(host), "{host}");
        }
        for host in [
            "evil.com",
            "evil.com:2021",
            "evil.com.",
            "127.0.0.1.evil.com",
            "example.com",
        ] {
            assert!(!admin.answers_to(host), "{host}");
        }
    }
}
