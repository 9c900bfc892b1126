//! A plain HTTP/1.1 client for commands: one connection a request, http or https, nothing kept.
//!
//! It shows what a tool of the user's would see; Pingora's connector has pools and retries that
//! would hide it.

mod tls;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::config::ServerUrl;

pub(super) use tls::{Identity, Trust};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Whom to ask, and how long.
pub(super) struct Client {
    /// Scheme, host and port, as shown and as asked.
    url: ServerUrl,
    trust: Trust,
    /// Shown to whoever asks for one.
    identity: Option<Identity>,
    /// For a whole answer.
    patience: Duration,
}

/// What is asked.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case, in the order of arrival.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Until the first byte of the body, or the end of an answer without one.
    pub(super) first_byte: Duration,
    pub(super) took: Duration,
}

/// Why nothing came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody listens there.
    Refused,
    Other(String),
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        let (_, value) = all.find(|(own, _)| own == name)?;
        Some(value)
    }
}

impl Client {
    pub(super) fn new(url: ServerUrl, trust: Trust, patience: Duration) -> Self {
        Client {
            url,
            trust,
            identity: None,
            patience,
        }
    }

    /// The same with a certificate to show.
    pub(super) fn showing(self, identity: Option<Identity>) -> Self {
        Client { identity, ..self }
    }

    /// `http://host:port`, as people write it.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.url.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.url.authority())
    }

    /// Sends a request and reads the whole answer.
    pub(super) fn send(&self, request: &Request) -> Result<Answer, Fault> {
        let started = Instant::now();
        let socket = self.connect()?;
        let _ = socket.set_nodelay(true);
        let deadline = started + self.patience;
        let clock = socket
            .try_clone()
            .map_err(|e| Fault::Other(e.to_string()))?;
        let limit = wire::Limit {
            socket: &clock,
            deadline,
        };
        let head = self.head(request);
        let exchanged = if self.url.tls {
            let stream = tls::connect(socket, &self.url.host, &self.trust, self.identity.as_ref());
            let mut stream = stream.map_err(Fault::Other)?;
            wire::exchange(&mut stream, &limit, &head, &request.body)
        } else {
            let mut stream = socket;
            wire::exchange(&mut stream, &limit, &head, &request.body)
        };
        let received = exchanged.map_err(|error| Fault::Other(self.explain(&error)))?;
        Ok(Answer {
            status: received.status,
            headers: received.headers,
            body: received.body,
            first_byte: received.began - started,
            took: started.elapsed(),
        })
    }

    fn connect(&self) -> Result<TcpStream, Fault> {
        let (host, port) = (self.url.host.as_str(), self.url.port);
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|e| Fault::Other(format!("the name `{host}` cannot be looked up: {e}")))?
            .collect();
        let mut fault = Fault::Other(format!("the name `{host}` has no address"));
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fault = Fault::Refused;
                }
                Err(error) => fault = Fault::Other(format!("{address}: {error}")),
            }
        }
        Err(fault)
    }

    fn head(&self, request: &Request) -> Vec<u8> {
        let Request { method, path, .. } = request;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nuser-agent: trunkline/{}\r\naccept: */*\r\nconnection: close\r\n",
            env!("CARGO_PKG_VERSION")
        );
        // a `Host` that was typed is meant
        let named = request.headers.iter().any(|(name, _)| name == "host");
        if !named {
            head.push_str(&format!("host: {}\r\n", self.url.authority()));
        }
        if *method != "GET" {
            head.push_str(&format!("content-length: {}\r\n", request.body.len()));
        }
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn explain(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
                "no whole answer in {}",
                humantime::format_duration(self.patience)
            ),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the connection broke before the answer was whole".to_owned()
            }
            _ => error.to_string(),
        }
    }
}
