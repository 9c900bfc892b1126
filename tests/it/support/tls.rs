//! A TLS server with a certificate of its own making, certificates for others, and a client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

/// A certificate for `localhost` and 127.0.0.1 with its key; it is its own authority.
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Pair {
    pub fn new() -> Self {
        Self::until(4000)
    }

    /// One that expired at the end of this year, or will.
    pub fn until(year: i32) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut wanted = rcgen::CertificateParams::new(names).unwrap();
        wanted.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = wanted.self_signed(&key).unwrap();
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().clone(),
        }
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.cert).unwrap();
        std::fs::write(folder.join("key.pem"), &self.key).unwrap();
    }

    /// What a client has that trusts only this certificate.
    pub fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        protocols: &[&str],
    ) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A blocking TLS connection, its handshake done.
pub type Secure = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

pub fn connect(to: SocketAddr, config: Arc<rustls::ClientConfig>) -> std::io::Result<Secure> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = super::client::connect(to);
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(rustls::StreamOwned::new(connection, stream))
}

/// A server that answers one request per connection with `served_by: tls`.
pub struct TlsServer {
    pub address: SocketAddr,
    /// Its certificate, as PEM; it is its own authority.
    pub pem: String,
    /// Requests that came through a finished handshake.
    pub requests: Arc<AtomicUsize>,
}

impl TlsServer {
    /// With a certificate for these names.
    pub fn start(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<AtomicUsize> = Arc::default();
        let counter = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, counter) = (config.clone(), counter.clone());
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    let mut tls = rustls::StreamOwned::new(connection, stream);
                    let mut request = Vec::new();
                    let mut piece = [0; 4096];
                    // the whole request: what is left unread when the connection closes resets it
                    while !is_whole(&request) {
                        match tls.read(&mut piece) {
                            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                            _ => return,
                        }
                    }
                    counter.fetch_add(1, SeqCst);
                    let body = "{\"served_by\":\"tls\"}";
                    let _ = write!(
                        tls,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = tls.flush();
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                });
            }
        });
        TlsServer {
            address,
            pem: made.cert.pem(),
            requests,
        }
    }
}

/// Whether a request is here with its body, which has a length.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")?
            .trim()
            .parse()
            .ok()
    });
    body.len() >= length.unwrap_or(0)
}
