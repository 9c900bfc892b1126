//! TLS towards servers: which authorities to trust, whose certificate to show.

use std::path::Path;

use pki_types::PrivateKeyDer;
use pki_types::pem::PemObject;

use super::file;
use super::problem::Problem;
use super::tree::Tree;
use crate::unit::Secret;

/// How `https://` servers of a pool are connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) verify: bool,
    /// Name to ask for and to check instead of the URL's host.
    pub(crate) sni: Option<String>,
    /// Authorities to trust instead of the system's, as DER; empty for the system's.
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) identity: Option<Identity>,
    /// The files these came from, as they are written: authorities, certificate, key.
    pub(crate) files: [Option<String>; 3],
}

/// A certificate of ours, with its chain, leaf first, as DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: PrivateKey,
}

/// A private key, as DER. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PrivateKey(pub(crate) Vec<u8>);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&Secret::new(""), f)
    }
}

/// Reads the files named under `tls`; every problem is noted at its own key.
pub(super) fn resolve(
    tls: &file::Tls,
    at: &super::tree::Path,
    tree: &Tree,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> Tls {
    let mut wrong = |key: &str, message: String| {
        let path = at.then(key);
        problems.push(Problem {
            severity: super::problem::Severity::Error,
            message,
            help: None,
            span: tree.span(&path),
            path: path.to_string(),
        });
    };
    let mut authorities = Vec::new();
    if let Some(file) = tls.ca_file.as_ref().filter(|file| !file.is_empty()) {
        match certificates(&folder.join(file)) {
            Ok(found) => authorities = found,
            Err(reason) => wrong("ca_file", reason),
        }
    }
    let given = |file: &Option<String>| file.clone().filter(|file| !file.is_empty());
    let identity = match (given(&tls.client_cert), given(&tls.client_key)) {
        (None, None) => None,
        (Some(_), None) => {
            wrong(
                "client_cert",
                "`client_cert` needs `client_key` beside it".into(),
            );
            None
        }
        (None, Some(_)) => {
            wrong(
                "client_key",
                "`client_key` needs `client_cert` beside it".into(),
            );
            None
        }
        (Some(cert), Some(key)) => {
            let chain =
                certificates(&folder.join(cert)).map_err(|reason| wrong("client_cert", reason));
            let key = PrivateKeyDer::from_pem_file(folder.join(&key)).map_err(|e| {
                wrong(
                    "client_key",
                    format!("no private key can be read from `{key}`: {e}"),
                )
            });
            match (chain, key) {
                (Ok(chain), Ok(key)) => Some(Identity {
                    chain,
                    key: PrivateKey(key.secret_der().to_vec()),
                }),
                _ => None,
            }
        }
    };
    Tls {
        verify: tls.verify.unwrap_or(true),
        sni: given(&tls.sni),
        authorities,
        identity,
        files: [
            given(&tls.ca_file),
            given(&tls.client_cert),
            given(&tls.client_key),
        ],
    }
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let found = super::certificate::certificates_in(file)?;
    for der in &found {
        let name = file.display();
        x509_parser::parse_x509_certificate(der)
            .map_err(|e| format!("`{name}` holds something that is no certificate: {e}"))?;
    }
    Ok(found.into_iter().map(|der| der.to_vec()).collect())
}
