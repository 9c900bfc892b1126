//! The certificate a listener shows: read with its key, held against it, looked at for its dates.
//!
//! Read when the configuration is, so that a bad pair is one problem among the others, and again
//! whenever the files change.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki_types::pem::{Error, PemObject};
use pki_types::{CertificateDer, PrivateKeyDer};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use x509_parser::time::ASN1Time;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Authorities of clients, who must show a certificate then.
    pub(crate) client_ca: Option<PathBuf>,
}

/// What the files held at one moment, or why they could not be read.
pub(crate) struct Content<'a> {
    files: &'a CertificateFiles,
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
}

/// A certificate that goes with its key.
pub(crate) struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// Whose certificates clients may show.
    pub(crate) client_roots: Option<Arc<RootCertStore>>,
    file: String,
    not_before: i64,
    /// Seconds since 1970.
    pub(crate) expires: i64,
}

/// What is wrong with a pair, by the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cert(String),
    Key(String),
    ClientCa(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Fault::Cert(why) | Fault::Key(why) | Fault::ClientCa(why)) = self;
        f.write_str(why)
    }
}

impl CertificateFiles {
    pub(crate) fn read(&self) -> Content<'_> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|e| format!("`{}` cannot be read: {e}", file.display()))
        };
        Content {
            files: self,
            cert: read(&self.cert),
            key: read(&self.key),
            client_ca: self.client_ca.as_deref().map(read),
        }
    }
}

impl Content<'_> {
    /// Tells one content from another.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.cert, &self.key, &self.client_ca).hash(&mut hasher);
        hasher.finish()
    }

    /// The certificate in it.
    ///
    /// # Errors
    /// Everything that is wrong with the two files.
    pub(crate) fn certificate(&self) -> Result<Certificate, Vec<Fault>> {
        let chain = self.chain().map_err(Fault::Cert);
        let key = self.private_key().map_err(Fault::Key);
        let roots = self.client_roots().map_err(Fault::ClientCa);
        let (chain, key, client_roots) = match (chain, key, roots) {
            (Ok(chain), Ok(key), Ok(roots)) => (chain, key, roots),
            (chain, key, roots) => {
                let faults = [chain.err(), key.err(), roots.err()];
                return Err(faults.into_iter().flatten().collect());
            }
        };
        let file = self.files.cert.display().to_string();
        let leaf = x509_parser::parse_x509_certificate(&chain[0]);
        let (_, leaf) = leaf.map_err(|e| {
            let why = format!("`{file}` holds something that is no certificate: {e}");
            vec![Fault::Cert(why)]
        })?;
        let validity = leaf.validity();
        let (not_before, expires) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let key_file = self.files.key.display();
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let key = pair.map_err(|error| {
            vec![Fault::Key(match error {
                rustls::Error::InconsistentKeys(_) => {
                    format!(
                        "the key in `{key_file}` does not belong to the certificate in `{file}`"
                    )
                }
                error => format!("the key in `{key_file}` cannot be used: {error}"),
            })]
        })?;
        Ok(Certificate {
            key: Arc::new(key),
            client_roots,
            file,
            not_before,
            expires,
        })
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        certificates(&self.cert, &self.files.cert)
    }

    fn client_roots(&self) -> Result<Option<Arc<RootCertStore>>, String> {
        let (Some(file), Some(content)) = (&self.files.client_ca, &self.client_ca) else {
            return Ok(None);
        };
        let found = certificates(content, file)?;
        let mut roots = RootCertStore::empty();
        for root in found {
            roots
                .add(root)
                .map_err(|e| format!("`{}` holds no usable authority: {e}", file.display()))?;
        }
        Ok(Some(Arc::new(roots)))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let file = self.files.key.display();
        PrivateKeyDer::from_pem_slice(self.key.as_ref().map_err(String::clone)?).map_err(
            |e| match e {
                pki_types::pem::Error::NoItemsFound => {
                    format!("`{file}` holds no private key in PEM form")
                }
                e => format!("no private key can be read from `{file}`: {e}"),
            },
        )
    }
}

impl Certificate {
    /// What is to be said about its dates, if it does not hold today.
    pub(crate) fn out_of_date(&self) -> Option<String> {
        let now = ASN1Time::now().timestamp();
        let date = |seconds: i64| {
            let seconds = std::time::Duration::from_secs(seconds.unsigned_abs());
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + seconds)
        };
        let file = &self.file;
        if now > self.expires {
            let expired = date(self.expires);
            return Some(format!(
                "the certificate in `{file}` expired on {expired}; clients will refuse it"
            ));
        }
        (now < self.not_before).then(|| {
            let begins = date(self.not_before);
            format!(
                "the certificate in `{file}` is not valid before {begins}; clients will refuse it"
            )
        })
    }
}

/// The certificates in a PEM file; at least one.
///
/// # Errors
/// If there is none, in words.
pub(crate) fn certificates_in(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    collected(CertificateDer::pem_file_iter(file), file)
}

/// The same of what a PEM file held.
fn certificates(
    content: &Result<Vec<u8>, String>,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = content.as_ref().map_err(String::clone)?;
    collected(Ok(CertificateDer::pem_slice_iter(content)), file)
}

fn collected(
    found: Result<impl Iterator<Item = Result<CertificateDer<'static>, Error>>, Error>,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = file.display();
    let found = found
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("no certificate can be read from `{file}`: {e}"))?;
    match found.is_empty() {
        true => Err(format!("`{file}` holds no certificate in PEM form")),
        false => Ok(found),
    }
}
