//! TLS on a listener: handshakes, and a certificate that is read again when its files change.
//!
//! The files are polled and not watched: a folder that is mounted into a container gives no sign
//! when a file in it is replaced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as TcpStream;
use prometheus::IntCounter;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;

use crate::config::{Certificate, ListenerTls, TlsVersion};
use crate::observe::metrics::{Metrics, TlsMetrics};

/// The TLS of one listener.
pub(crate) struct Tls {
    settings: ListenerTls,
    listener: String,
    acceptor: ArcSwap<Acceptor>,
    audience: Audience,
    seen: Mutex<Seen>,
    metrics: TlsMetrics,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Who has no certificate where one is asked for is refused.
    Clients,
    /// They are served all the same; what they may ask for is decided by request. They speak
    /// HTTP/1.1.
    Operators,
}

/// What the files held when they were looked at, by their fingerprints.
struct Seen {
    /// In service, or refused and told of.
    settled: u64,
    /// Found broken the last time, but perhaps only half written.
    doubtful: Option<u64>,
}

impl Tls {
    /// Reads the certificate. `listener` is the address, as metrics and log lines name it.
    ///
    /// # Errors
    /// What is wrong with the files, in words.
    pub(crate) fn new(
        settings: ListenerTls,
        listener: String,
        audience: Audience,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let content = settings.files.read();
        let settled = content.fingerprint();
        let certificate = content.certificate().map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            faults.join("; ")
        })?;
        let metrics = metrics.tls(&listener);
        metrics.expiry.set(certificate.expires);
        Ok(Tls {
            acceptor: ArcSwap::from_pointee(acceptor(&certificate, settings.min_version, audience)),
            audience,
            settings,
            listener,
            seen: Mutex::new(Seen {
                settled,
                doubtful: None,
            }),
            metrics,
        })
    }

    /// The handshake. `None` if it failed, which is counted.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<Stream> {
        let started = Instant::now();
        let unfinished = Unfinished(Some(&self.metrics.timeout));
        let accepted = self.acceptor.load_full().tls_handshake(stream).await;
        unfinished.done();
        match accepted {
            Ok(stream) => {
                let seconds = started.elapsed().as_secs_f64();
                self.metrics.handshake.observe(seconds);
                Some(Box::new(stream))
            }
            Err(error) => {
                let text = error.to_string();
                log::debug!("{}: {text}", self.listener);
                self.metrics.failed(reason(&text));
                None
            }
        }
    }

    /// Looks at the files, and puts a new certificate into service. A bad pair changes nothing;
    /// it is told of once, and not at first sight unless `certain`: who replaces two files writes
    /// one after the other.
    pub(crate) fn refresh(&self, certain: bool) {
        let content = self.settings.files.read();
        let print = content.fingerprint();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if print == seen.settled {
            seen.doubtful = None;
            return;
        }
        match content.certificate() {
            Ok(certificate) => {
                let acceptor = acceptor(&certificate, self.settings.min_version, self.audience);
                self.metrics.expiry.set(certificate.expires);
                self.acceptor.store(Arc::new(acceptor));
                log::info!("{}: the new certificate is in service", self.listener);
                if let Some(warning) = certificate.out_of_date() {
                    log::warn!("{}: {warning}", self.listener);
                }
            }
            Err(_) if !certain && seen.doubtful != Some(print) => {
                seen.doubtful = Some(print);
                return;
            }
            Err(faults) => {
                for fault in faults {
                    log::error!(
                        "{}: {fault}; the certificate before stays in service",
                        self.listener
                    );
                }
            }
        }
        seen.settled = print;
        seen.doubtful = None;
    }
}

/// Looks at all of them, on a thread that may wait for a disk.
pub(crate) async fn refresh(all: &[Arc<Tls>], certain: bool) {
    let all = all.to_vec();
    let looking = move || all.iter().for_each(|tls| tls.refresh(certain));
    let _ = tokio::task::spawn_blocking(looking).await;
}

/// Each certificate gets a fresh one: with the old key its sessions cannot be resumed any more.
fn acceptor(certificate: &Certificate, min_version: TlsVersion, audience: Audience) -> Acceptor {
    let versions: &[_] = match min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("ring has suites for both versions");
    let verifier = certificate.client_roots.clone().map(|roots| {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let verifier = match audience {
            Audience::Clients => verifier,
            Audience::Operators => verifier.allow_unauthenticated(),
        };
        verifier.build().expect("there is an authority")
    });
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())));
    config.alpn_protocols = match audience {
        Audience::Clients => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Audience::Operators => vec![b"http/1.1".to_vec()],
    };
    // the default remembers 256 sessions; tickets leave remembering to the clients
    if let Ok(ticketer) = ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Acceptor::from_server_config(Arc::new(config))
}

/// Counts a handshake that is given up from outside before it was done.
struct Unfinished<'a>(Option<&'a IntCounter>);

impl Unfinished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(counter) = self.0 {
            counter.inc();
        }
    }
}

/// One of [`TlsMetrics::REASONS`]. Pingora keeps only the text of what rustls says.
fn reason(text: &str) -> &'static str {
    const SIGNS: &[(&str, &str)] = &[
        ("InvalidContentType", "not_tls"),
        ("peer is incompatible", "incompatible"),
        ("any known protocol", "incompatible"),
        ("received fatal alert", "refused_by_client"),
        ("eof", "closed"),
        ("reset by peer", "closed"),
        ("Broken pipe", "closed"),
    ];
    let found = SIGNS.iter().find(|(sign, _)| text.contains(sign));
    found.map_or("other", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

    #[test]
    fn reasons_are_read_from_what_rustls_says_today() {
        let incompatible = PeerIncompatible::SupportedVersionsExtensionRequired;
        for (error, expected) in [
            (Error::from(InvalidMessage::InvalidContentType), "not_tls"),
            (Error::from(incompatible), "incompatible"),
            (Error::NoApplicationProtocol, "incompatible"),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "refused_by_client",
            ),
            (Error::DecryptError, "other"),
        ] {
            assert_eq!(reason(&error.to_string()), expected);
            assert!(TlsMetrics::REASONS.contains(&expected));
        }
    }
}
