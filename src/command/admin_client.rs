//! How commands ask the admin endpoints of a running program: where its configuration says they
//! are, with the token that is in it, over TLS to nobody but the one who has its certificate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::client::{Client, Fault, Identity, Request, Trust};
use crate::cli::Remote;
use crate::command::source::{self, Source};
use crate::config::{Admin, ServerUrl, certificates_in};
use crate::unit::Secret;

/// Where a running program is asked, and what it is shown.
pub(super) struct AdminClient {
    pub(super) address: SocketAddr,
    token: Option<Secret>,
    /// With TLS: whom to believe.
    trust: Option<Trust>,
    identity: Option<Identity>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl AdminClient {
    /// By what was typed, else by the configuration file.
    ///
    /// # Errors
    /// If the program has no admin endpoints, or the file that would tell cannot be read.
    pub(super) fn find(remote: &Remote) -> Result<Self, String> {
        let admin = match source::find(remote.config.as_deref()) {
            Ok(Some(source)) => match source.load().0 {
                Some(config) => Some(config.admin.ok_or(source.name)),
                // a file that is being mended still tells where the program of before listens
                None => written(&source)?.map(Ok),
            },
            Ok(None) => None,
            // who says the address needs no file
            Err(_) if remote.admin.is_some() && remote.config.is_none() => None,
            Err(why) => return Err(why),
        };
        let admin = match (admin, remote.admin) {
            (Some(Ok(admin)), _) => admin,
            (Some(Err(_)) | None, Some(address)) => Admin::at(address),
            (Some(Err(name)), None) => {
                return Err(format!("{name} says `admin: off`: there is nothing to ask"));
            }
            (None, None) => Admin::at(Admin::USUAL),
        };
        let of_environment = || Admin::token_of(&|name| std::env::var(name).ok());
        let trust = match &admin.tls {
            // whoever signed it: nobody else has it
            Some(tls) => Some(Trust::Exactly(
                certificates_in(&tls.files.cert)?.swap_remove(0),
            )),
            None => None,
        };
        let identity = match (&remote.cert, &remote.key) {
            (Some(cert), Some(key)) => Some(Identity::read(cert, key)?),
            _ => None,
        };
        Ok(AdminClient {
            address: reachable(remote.admin.unwrap_or(admin.address)),
            token: admin.token.or_else(of_environment),
            trust,
            identity,
        })
    }

    /// Asks, and waits so long for the answer.
    ///
    /// # Errors
    /// If nobody answers, or something that is no Trunkline.
    pub(super) fn ask(
        self,
        method: &'static str,
        target: &str,
        patience: Duration,
    ) -> Result<Answer, String> {
        let address = self.address;
        let url = ServerUrl {
            tls: self.trust.is_some(),
            host: address.ip().to_string(),
            port: address.port(),
            path: String::new(),
        };
        let token = self.token.as_ref().map(|token| {
            let bearer = format!("Bearer {}", token.expose());
            ("authorization".to_owned(), bearer)
        });
        let request = Request {
            method,
            path: target.to_owned(),
            headers: token.into_iter().collect(),
            body: Vec::new(),
        };
        let client = Client::new(url, self.trust.unwrap_or(Trust::System), patience);
        match client.showing(self.identity).send(&request) {
            Ok(answer) => Ok(Answer {
                status: answer.status,
                body: String::from_utf8_lossy(&answer.body).into_owned(),
            }),
            Err(Fault::Refused) => Err(format!("nobody answers at {address}: connection refused")),
            Err(Fault::Other(why)) => {
                Err(format!("{address} does not answer as a Trunkline: {why}"))
            }
        }
    }
}

/// What a file says of the admin endpoints that cannot be used for something else in it.
///
/// # Errors
/// If that cannot be used either, and is needed.
fn written(source: &Source) -> Result<Option<Admin>, String> {
    let file: serde_yaml::Value = serde_yaml::from_str(&source.text).unwrap_or_default();
    let Some(admin) = file.get("admin") else {
        return Ok(None);
    };
    // read as always, token and certificate too, in a file where nothing else can be wrong
    let alone = serde_json::json!({
        "admin": admin,
        "pools": { "a": { "servers": ["http://127.0.0.1:1"] } },
        "routes": [{ "pool": "a" }],
    });
    let alone = Source {
        name: source.name.clone(),
        text: alone.to_string(),
        folder: source.folder.clone(),
    };
    if let Some(config) = alone.load().0 {
        return Ok(config.admin);
    }
    if admin.get("tls").is_some() {
        let name = &source.name;
        return Err(format!(
            "nobody can be asked with what {name} says of `admin`; `trunkline check-config` tells why"
        ));
    }
    let address = admin.as_str().or_else(|| admin.get("address")?.as_str());
    Ok(address
        .and_then(|address| address.parse().ok())
        .map(Admin::at))
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
