//! The URL of a server.

use std::fmt;
use std::net::IpAddr;

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

    /// Whether the host stands on the internet, as far as its name or address tells.
    pub(crate) fn is_public(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => {
                // 100.64.0.0/10 (RFC 6598) is what Tailscale gives out
                let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
                !(ip.is_loopback()
                    || ip.is_private()
                    || ip.is_link_local()
                    || ip.is_unspecified()
                    || shared)
            }
            Ok(IpAddr::V6(ip)) => {
                !(ip.is_loopback()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
                    || ip.is_unspecified())
            }
            Err(_) => is_public_name(&self.host),
        }
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

/// Whether the DNS of the internet may know a name, which is in lower case.
pub(super) fn is_public_name(name: &str) -> bool {
    /// Domains that no public name ends with (RFC 6761, RFC 6762, RFC 8375, ICANN's
    /// `internal`), and what people and clusters use at home.
    const AT_HOME: &[&str] = &[
        "local",
        "internal",
        "lan",
        "home",
        "home.arpa",
        "localhost",
        "localdomain",
        "test",
        "ts.net",
        "svc",
    ];
    let at_home = |domain: &str| {
        let rest = name.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    name.contains('.') && !AT_HOME.iter().any(|domain| at_home(domain))
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
    fn what_stands_on_the_internet_is_told_from_what_stands_at_home() {
        let public = |url: &str| ServerUrl::parse(url).unwrap().is_public();
        for url in [
            "https://api.openai.com/v1",
            "http://1.1.1.1:1",
            "http://[2606:4700::1]:80",
        ] {
            assert!(public(url), "{url}");
        }
        for url in [
            "http://gpu-a:8880",
            "http://localhost",
            "http://mac.local",
            "http://kokoro.voice.svc",
            "http://box.tail1234.ts.net",
            "http://10.1.2.3",
            "http://192.168.1.5:1",
            "http://100.101.102.103",
            "http://[fd00::1]:1",
            "http://127.0.0.1:1",
        ] {
            assert!(!public(url), "{url}");
        }
    }

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
