//! `handshakes`: TLS connections with one request each, new ones or resumed ones.
//!
//! Nobody's certificate is checked: what counts is what the proxy spends, and what is checked here
//! would only slow down the asking.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SignatureScheme};

use crate::args::Args;
use crate::report::{Times, quoted};
use crate::request::{self, Request};

struct Plan {
    target: SocketAddr,
    threads: usize,
    length: Duration,
    resume: bool,
    request: Vec<u8>,
}

struct Tally {
    full: u64,
    resumed: u64,
    failed: u64,
    why: Option<String>,
    /// From connecting to the end of the handshake.
    times: Times,
}

pub(crate) fn command(mut args: Args) -> Result<(), String> {
    let target = request::target(&mut args)?;
    let plan = Plan {
        target,
        threads: args.get("connections", 8)?,
        length: Duration::from_secs_f64(args.get("seconds", 5.0)?),
        resume: args.flag("resume"),
        request: Request::from_options(&mut args)?.bytes,
    };
    args.end()?;
    let start = Instant::now();
    let tally = run(&plan)?;
    crate::print(&tally.json(start.elapsed()));
    Ok(())
}

fn run(plan: &Plan) -> Result<Tally, String> {
    let config = Arc::new(config(plan.resume)?);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads = (0..plan.threads).map(|_| scope.spawn(|| one_thread(plan, &config)));
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().filter_map(|thread| thread.join().ok());
        joined.collect()
    });
    let mut all = Tally::new();
    for tally in tallies {
        all.full += tally.full;
        all.resumed += tally.resumed;
        all.failed += tally.failed;
        all.why = all.why.or(tally.why);
        all.times.add_all(&tally.times);
    }
    Ok(all)
}

fn config(resume: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = match resume {
        true => Resumption::in_memory_sessions(256),
        false => Resumption::disabled(),
    };
    Ok(config)
}

fn one_thread(plan: &Plan, config: &Arc<ClientConfig>) -> Tally {
    let (start, mut tally) = (Instant::now(), Tally::new());
    while start.elapsed() < plan.length {
        match connect(plan, config, &mut tally.times) {
            Ok(HandshakeKind::Resumed) => tally.resumed += 1,
            Ok(_) => tally.full += 1,
            Err(why) => {
                tally.failed += 1;
                tally.why.get_or_insert(why);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    tally
}

/// One connection with one request, which has to ask for its end; its answer is read to the end, as the tickets come before it.
fn connect(
    plan: &Plan,
    config: &Arc<ClientConfig>,
    times: &mut Times,
) -> Result<HandshakeKind, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let name = ServerName::try_from("bench.test").map_err(|error| told(&error))?;
    let begun = Instant::now();
    let mut socket = TcpStream::connect(plan.target).map_err(|error| told(&error))?;
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .map_err(|error| told(&error))?;
    socket.set_nodelay(true).map_err(|error| told(&error))?;
    let mut tls = ClientConnection::new(config.clone(), name).map_err(|error| told(&error))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|error| told(&error))?;
    }
    times.add(begun.elapsed().as_nanos() as u64);
    let kind = tls.handshake_kind();
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream
        .write_all(&plan.request)
        .map_err(|error| told(&error))?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // some close without a word
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(told(&error)),
        _ => {}
    }
    match answer.starts_with(b"HTTP/1.1 200") {
        true => kind.ok_or_else(|| "no handshake".to_owned()),
        false => Err(format!(
            "answered {:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(60)])
        )),
    }
}

impl Tally {
    fn new() -> Self {
        Tally {
            full: 0,
            resumed: 0,
            failed: 0,
            why: None,
            times: Times::new(),
        }
    }

    fn json(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        format!(
            r#"{{"full":{},"resumed":{},"failed":{},"why":{},"seconds":{seconds:.3},"per_second":{:.1},"latency":{}}}"#,
            self.full,
            self.resumed,
            self.failed,
            quoted(self.why.as_deref().unwrap_or("")),
            (self.full + self.resumed) as f64 / seconds,
            self.times.json()
        )
    }
}

/// Believes every certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A TLS server of as many connections as are made.
    fn server() -> SocketAddr {
        let made = rcgen::generate_simple_self_signed(vec!["bench.test".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, config) = (socket.unwrap(), config.clone());
                std::thread::spawn(move || {
                    let mut tls = rustls::ServerConnection::new(config).unwrap();
                    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                });
            }
        });
        address
    }

    #[test]
    fn connections_are_resumed_if_that_is_asked_for() {
        let plan = |resume| Plan {
            target: server(),
            threads: 1,
            length: Duration::from_millis(500),
            resume,
            request: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        };
        let new = run(&plan(false)).unwrap();
        assert!(
            new.full > 2 && new.resumed == 0 && new.failed == 0,
            "{:?}",
            new.why
        );
        let again = run(&plan(true)).unwrap();
        assert!(
            again.full < 3 && again.resumed > 2 && again.failed == 0,
            "{:?}",
            again.why
        );
    }
}
