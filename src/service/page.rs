//! The status page: one file within the program, which asks `/status` and nobody else.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Response, header};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

const PAGE: &str = include_str!("page.html");

/// What a browser may do with the page: run its one script, use its one style sheet, ask us.
/// Hashes and not nonces, as the page is the same for everybody; `trusted-types` sees to it that
/// no name of a server can ever become markup.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag| format!("'sha256-{}'", BASE64_STANDARD.encode(sha256(content(tag))));
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style")
    )
});

/// Whether whoever asks is a browser.
pub(super) fn is_for(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    accepts
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/html"))
}

/// The page; to a `HEAD` without its body.
pub(super) fn answer(head_only: bool) -> Response<Vec<u8>> {
    let body = if head_only { "" } else { PAGE };
    Response::builder()
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CONTENT_LENGTH, PAGE.len())
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::VARY, "accept")
        .header(header::CONTENT_SECURITY_POLICY, POLICY.as_str())
        .header(header::X_FRAME_OPTIONS, "DENY")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .body(body.as_bytes().to_vec())
        .expect("fixed headers are valid")
}

/// What stands within the page's only element of this name.
fn content(tag: &str) -> &'static str {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let start = PAGE.find(&open).map_or(0, |at| at + open.len());
    let end = PAGE.rfind(&close).unwrap_or(PAGE.len());
    &PAGE[start..end]
}

fn sha256(text: &str) -> impl AsRef<[u8]> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    let suite = suite.expect("a suite of TLS 1.3 is one");
    suite.common.hash_provider.hash(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_as_browsers_expect_them() {
        assert_eq!(
            BASE64_STANDARD.encode(sha256("")),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }

    #[test]
    fn the_page_has_one_script_and_one_style_sheet_and_loads_nothing() {
        for tag in ["<script", "<style"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        for loading in [" src=", "@import", "url(", "innerHTML", " style=", "eval("] {
            assert!(!PAGE.contains(loading), "{loading}");
        }
    }

    #[test]
    fn only_who_asks_for_html_gets_the_page() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("*/*", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(is_for(&headers), expected, "{accept}");
        }
        assert!(!is_for(&HeaderMap::new()));
    }
}
