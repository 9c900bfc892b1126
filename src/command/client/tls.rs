//! TLS of the client: whom it believes.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki_types::pem::PemObject;
use pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

/// Which certificates are believed.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those of the system's authorities.
    System,
    /// Those of the authorities in a PEM file.
    File(PathBuf),
    /// This one, whatever it says: it is in the files of the listener that is asked.
    Exactly(CertificateDer<'static>),
    Anything,
}

/// Begins TLS on a connection; the handshake comes with the first byte.
///
/// # Errors
/// If the authorities cannot be read, or the name cannot be asked for.
pub(super) fn connect(
    socket: TcpStream,
    host: &str,
    trust: &Trust,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| format!("`{host}` is no name that TLS knows"))?;
    let connection = ClientConnection::new(Arc::new(config(trust)?), name);
    let connection = connection.map_err(|e| e.to_string())?;
    Ok(StreamOwned::new(connection, socket))
}

fn config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let pinned = match trust {
        Trust::System => {
            let roots = system_roots()?;
            return Ok(builder.with_root_certificates(roots).with_no_client_auth());
        }
        Trust::File(path) => {
            let roots = roots_of(path)?;
            return Ok(builder.with_root_certificates(roots).with_no_client_auth());
        }
        Trust::Exactly(certificate) => Some(certificate.clone()),
        Trust::Anything => None,
    };
    let verifier = Arc::new(Known { provider, pinned });
    let builder = builder.dangerous();
    let config = builder.with_custom_certificate_verifier(verifier);
    Ok(config.with_no_client_auth())
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = pingora::tls::load_native_certs();
    let found = found.map_err(|e| format!("the system's certificates cannot be read: {e}"))?;
    roots.add_parsable_certificates(found);
    Ok(roots)
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let unreadable = |e: &dyn std::fmt::Display| {
        format!("no certificate can be read from `{}`: {e}", path.display())
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))?;
    for certificate in found {
        let certificate = certificate.map_err(|e| unreadable(&e))?;
        roots.add(certificate).map_err(|e| unreadable(&e))?;
    }
    match roots.is_empty() {
        true => Err(unreadable(&"it holds none")),
        false => Ok(roots),
    }
}

/// Believes one certificate, or any; that its owner is there is checked in both cases.
#[derive(Debug)]
struct Known {
    provider: Arc<CryptoProvider>,
    pinned: Option<CertificateDer<'static>>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.pinned {
            Some(pinned) if pinned != shown => Err(Error::General(
                "another certificate is shown than the configuration names".to_owned(),
            )),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
