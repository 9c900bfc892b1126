//! TLS of the client: whom it believes.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki_types::pem::PemObject;
use pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

use crate::config::certificates_in;

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

/// A certificate to show, leaf first, and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Self, String> {
        let read = PrivateKeyDer::from_pem_file(key);
        Ok(Identity {
            chain: certificates_in(cert)?,
            key: read
                .map_err(|e| format!("no private key can be read from `{}`: {e}", key.display()))?,
        })
    }
}

/// Begins TLS on a connection; the handshake comes with the first byte.
///
/// # Errors
/// If the authorities cannot be read, or the name cannot be asked for.
pub(super) fn connect(
    socket: TcpStream,
    host: &str,
    trust: &Trust,
    identity: Option<&Identity>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| format!("`{host}` is no name that TLS knows"))?;
    let connection = ClientConnection::new(Arc::new(config(trust, identity)?), name);
    let connection = connection.map_err(|e| e.to_string())?;
    Ok(StreamOwned::new(connection, socket))
}

fn config(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let known = |pinned| Arc::new(Known { provider, pinned });
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::File(path) => builder.with_root_certificates(roots_of(path)?),
        Trust::Exactly(certificate) => builder
            .dangerous()
            .with_custom_certificate_verifier(known(Some(certificate.clone()))),
        Trust::Anything => builder
            .dangerous()
            .with_custom_certificate_verifier(known(None)),
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { chain, key }) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|e| format!("the client certificate cannot be shown: {e}")),
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = pingora::tls::load_native_certs();
    let found = found.map_err(|e| format!("the system's certificates cannot be read: {e}"))?;
    roots.add_parsable_certificates(found);
    Ok(roots)
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        let added = roots.add(certificate);
        added.map_err(|e| format!("`{}` holds no usable authority: {e}", path.display()))?;
    }
    Ok(roots)
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
