//! How commands ask the admin endpoints of a running program: where its configuration says they
//! are, with the token that is in it, over TLS to nobody but the one who has its certificate.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pki_types::pem::PemObject;
use pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::cli::Remote;
use crate::command::source::{self, Source};
use crate::config::{Admin, ListenerTls};
use crate::unit::Secret;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Where a running program is asked, and what it is shown.
pub(super) struct AdminClient {
    pub(super) address: SocketAddr,
    token: Option<Secret>,
    tls: Option<Arc<ClientConfig>>,
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
        let tls = admin
            .tls
            .as_ref()
            .map(|tls| client(tls, remote))
            .transpose()?;
        Ok(AdminClient {
            address: reachable(remote.admin.unwrap_or(admin.address)),
            token: admin.token.or_else(of_environment),
            tls,
        })
    }

    /// Asks, and waits so long for the answer.
    ///
    /// # Errors
    /// If nobody answers, or something that is no Trunkline.
    pub(super) fn ask(
        &self,
        method: &str,
        target: &str,
        patience: Duration,
    ) -> Result<Answer, String> {
        let address = self.address;
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                format!("{address} did not answer in {} s", patience.as_secs())
            }
            _ => format!("nobody answers at {address}: {e}"),
        };
        let stream = TcpStream::connect_timeout(&address, CONNECT.min(patience)).map_err(failed)?;
        stream.set_read_timeout(Some(patience)).map_err(failed)?;
        let token = self
            .token
            .as_ref()
            .map(|token| format!("authorization: Bearer {}\r\n", token.expose()));
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {address}\r\n{}connection: close\r\ncontent-length: 0\r\n\r\n",
            token.unwrap_or_default()
        );
        let answer = match &self.tls {
            None => exchange(stream, &head),
            Some(tls) => {
                let connection = ClientConnection::new(tls.clone(), ServerName::from(address.ip()));
                let connection = connection.map_err(|e| e.to_string())?;
                exchange(StreamOwned::new(connection, stream), &head)
            }
        };
        parsed(&answer.map_err(failed)?)
            .ok_or_else(|| format!("what answers at {address} is no Trunkline"))
    }
}

fn exchange(mut stream: impl Read + Write, head: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // TLS that ends without saying so; the length tells whether all is there
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(answer),
        read => read.map(|_| answer),
    }
}

fn parsed(answer: &[u8]) -> Option<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.1 ")?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
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

/// TLS to the program that has the certificate of the file, whoever signed it; with a certificate
/// of ours where one was named.
fn client(tls: &ListenerTls, remote: &Remote) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let leaf = certificates(&tls.files.cert)?.swap_remove(0);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { leaf, provider }));
    let config = match (&remote.cert, &remote.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("no private key can be read from {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, key)
                .map_err(|e| format!("{} cannot be shown: {e}", cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = |file: &Path| file.display().to_string();
    let read = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| format!("no certificate can be read from {}: {e}", name(file)))?;
    match read.is_empty() {
        true => Err(format!("{} holds no certificate", name(file))),
        false => Ok(read),
    }
}

/// Takes one certificate for good, and no other.
#[derive(Debug)]
struct Pinned {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.leaf {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
