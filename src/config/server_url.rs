//! The URL of a server.

use std::fmt;

use http::Uri;

/// `http://host:port/path`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerUrl {
    pub(crate) tls: bool,
    /// A name or an address; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Replaces the client's leading `/v1`; empty for a URL without a path, which keeps it.
    pub(crate) path: String,
}

impl ServerUrl {
    /// Reads a URL; the error says what is wrong and how it should look.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => {
                return Err(format!(
                    "a server is reached by http or https, not by `{other}`"
                ));
            }
            None => return Err(format!("`{text}` has no scheme; write `http://{text}`")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| format!("`{text}` names no host"))?;
        if authority.as_str().contains('@') {
            return Err("a URL must not hold credentials; use `api_key` or `headers`".into());
        }
        if uri.query().is_some() {
            return Err("a server's URL has no query".into());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() || authority.port_u16() == Some(0) {
            return Err(format!("`{text}` names no host and port to connect to"));
        }
        Ok(ServerUrl {
            tls,
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `host:port` as in a `Host` header: without the port of the scheme, with brackets around an
    /// IPv6 address.
    pub(crate) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        match (self.host.contains(':'), self.port == default) {
            (false, true) => self.host.clone(),
            (true, true) => format!("[{}]", self.host),
            (false, false) => format!("{}:{}", self.host, self.port),
            (true, false) => format!("[{}]:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        for (text, shown) in [
            ("http://gpu-a:8880/v1", "http://gpu-a:8880/v1"),
            (
                "https://api.groq.com/openai/v1/",
                "https://api.groq.com/openai/v1",
            ),
            ("http://GPU-A:80", "http://gpu-a"),
            ("http://[::1]:8880", "http://[::1]:8880"),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_server_is_refused_with_the_way_out() {
        for (text, part) in [
            ("gpu-a:8880", "scheme"),
            ("ftp://gpu-a", "http or https"),
            ("http://user:pw@gpu-a", "api_key"),
            ("http://gpu-a/v1?x=1", "no query"),
            ("http://", "not a URL"),
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
