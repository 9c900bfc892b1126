//! Tokens of an identity provider: whom they are from, and whom they must be for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::ServerUrl;
use super::jwks::JwkSet;

/// What is asked of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwt {
    pub(crate) jwks: Jwks,
    /// Exactly its `iss`.
    pub(crate) issuer: String,
    /// One of these is in its `aud`; at least one.
    pub(crate) audience: Vec<String>,
    /// The claim whose value names a key.
    pub(crate) claim: String,
    /// By how much clocks may differ.
    pub(crate) leeway: Duration,
}

/// Where the provider's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Jwks {
    /// Read with the configuration.
    File(PathBuf, JwkSet),
    Url {
        url: JwksUrl,
        /// How often it is asked.
        refresh: Duration,
    },
}

/// Where a provider publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwksUrl {
    pub(crate) server: ServerUrl,
    /// The path as written: some providers have a slash at the end, and mean it.
    pub(crate) target: String,
}

impl JwksUrl {
    /// Whether this is meant for a URL, and no file.
    pub(crate) fn is_one(text: &str) -> bool {
        text.contains("://")
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// If nobody can be asked there, or whoever is on the way could put keys of their own in.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let server = ServerUrl::parse(text)?;
        if !server.tls && !is_loopback(&server.host) {
            return Err(format!(
                "whoever is between here and `{}` could change the keys on their way; write `https://`, or take a file",
                server.host
            ));
        }
        let uri: http::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let target = uri.path().to_owned();
        Ok(JwksUrl { server, target })
    }
}

impl std::fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.server.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.server.authority(), self.target)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_last_slash() {
        for (text, target) in [
            ("https://id.example.com/jwks/", "/jwks/"),
            ("https://id.example.com", "/"),
            ("http://127.0.0.1:8080/jwks.json", "/jwks.json"),
            ("http://[::1]/jwks.json", "/jwks.json"),
            ("http://localhost/jwks.json", "/jwks.json"),
        ] {
            let url = JwksUrl::parse(text).unwrap();
            assert_eq!(url.target, target);
            assert_eq!(
                url.to_string().trim_end_matches('/'),
                text.trim_end_matches('/')
            );
        }
    }

    #[test]
    fn keys_do_not_come_over_a_wire_that_anybody_can_write_on() {
        for url in ["http://id.example.com/jwks", "http://10.0.0.1/jwks"] {
            let error = JwksUrl::parse(url).unwrap_err();
            assert!(error.contains("`https://`"), "{error}");
        }
    }
}
