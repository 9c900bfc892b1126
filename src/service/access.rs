//! Who may ask the admin endpoints.
//!
//! Whoever reaches a loopback address may, and whoever shows the token or a certificate. A page in
//! an operator's browser may not, whatever name it gives this address.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use crate::config::Admin;

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// It comes from a page of another origin.
    Origin,
    /// It asks for a name that is none of ours.
    Host,
    /// It shows no token, or another one.
    Token,
}

impl Denial {
    /// As metrics name it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Denial::Origin => "origin",
            Denial::Host => "host",
            Denial::Token => "token",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Denial::Origin => StatusCode::FORBIDDEN,
            // RFC 9110, 15.5.20: not the server this name is for
            Denial::Host => StatusCode::MISDIRECTED_REQUEST,
            Denial::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Denial::Origin => "pages of other origins may not ask here\n",
            Denial::Host => {
                "this name is not known here; ask by the address, or add the name to admin.hosts\n"
            }
            Denial::Token => {
                "show the admin token as `Authorization: Bearer TOKEN` (browsers: as the password), or a client certificate where admin.tls has a client_ca\n"
            }
        }
    }
}

/// Whether a request may be answered. `open`: it asks only whether the program is well;
/// `certificate`: the client has shown one that was verified.
pub(super) fn check(
    admin: &Admin,
    headers: &HeaderMap,
    open: bool,
    certificate: bool,
) -> Result<(), Denial> {
    if !is_same_origin(headers) {
        return Err(Denial::Origin);
    }
    if open || certificate {
        return Ok(());
    }
    if let Some(token) = &admin.token {
        return match shown(headers).is_some_and(|shown| is_same(&shown, token.expose())) {
            true => Ok(()),
            false => Err(Denial::Token),
        };
    }
    if admin.asks_who() {
        return Err(Denial::Token);
    }
    let host = headers
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or("?.?"));
    match host.is_none_or(|host| admin.answers_to(host)) {
        true => Ok(()),
        false => Err(Denial::Host),
    }
}

/// Whether it is no page of another origin that asks, as far as the browser tells.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").unwrap_or_default();
    let own_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, of)| of == host);
    let site = text("sec-fetch-site").unwrap_or("none");
    matches!(site, "none" | "same-origin") && text("origin").is_none_or(own_origin)
}

/// Whether somebody has gone to an address, and it is not a page that asks.
pub(super) fn is_typed(headers: &HeaderMap) -> bool {
    let mode = headers.get("sec-fetch-mode");
    mode.is_none_or(|mode| mode == "navigate")
}

/// The token that a request shows, as a bearer or as the password that a browser asked for.
fn shown(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    pair.split_once(':')
        .map(|(_, password)| password.to_owned())
}

/// In a time that tells nothing of where they differ.
fn is_same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Secret;

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let entries = entries.iter();
        entries
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    fn asked(admin: &Admin, entries: &[(&'static str, &str)]) -> Result<(), Denial> {
        check(admin, &headers(entries), false, false)
    }

    #[test]
    fn the_token_is_shown_as_a_bearer_or_as_a_password() {
        let admin = Admin {
            token: Some(Secret::new("s3cret")),
            ..Admin::at(Admin::USUAL)
        };
        let basic = format!("Basic {}", BASE64_STANDARD.encode("anna:s3cret"));
        for good in ["Bearer s3cret", "bearer s3cret", basic.as_str()] {
            // with it any name will do: a page of somebody else does not know it
            let entries = [("host", "edge.example.com"), ("authorization", good)];
            assert_eq!(asked(&admin, &entries), Ok(()), "{good}");
        }
        for bad in [
            "Bearer s3cre",
            "Bearer s3cret1",
            "Bearer",
            "Basic s3cret",
            "s3cret",
            "",
        ] {
            assert_eq!(
                asked(&admin, &[("authorization", bad)]),
                Err(Denial::Token),
                "{bad}"
            );
        }
        assert_eq!(asked(&admin, &[]), Err(Denial::Token));
        assert_eq!(
            check(&admin, &headers(&[]), true, false),
            Ok(()),
            "is it well?"
        );
        assert_eq!(
            check(&admin, &headers(&[]), false, true),
            Ok(()),
            "a certificate"
        );
    }

    #[test]
    fn pages_of_others_are_refused_whatever_name_they_ask_by() {
        let admin = Admin::at(Admin::USUAL);
        let own = [("host", "127.0.0.1:2021")];
        assert_eq!(asked(&admin, &own), Ok(()));
        assert_eq!(
            asked(&admin, &[("host", "evil.com:2021")]),
            Err(Denial::Host)
        );
        let from = |origin| [("host", "127.0.0.1:2021"), ("origin", origin)];
        assert_eq!(asked(&admin, &from("http://127.0.0.1:2021")), Ok(()));
        assert_eq!(asked(&admin, &from("http://evil.com")), Err(Denial::Origin));
        assert_eq!(
            asked(&admin, &[("sec-fetch-site", "cross-site")]),
            Err(Denial::Origin)
        );
    }
}
