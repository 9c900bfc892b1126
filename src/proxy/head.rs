//! What the head of a request says.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;

use super::session::Session;
use crate::config::{Cors, HeadLimits};
use crate::inspect;
use crate::inspect::framing;
use crate::inspect::head::Refused;
use crate::reply::{self, Reply};
use crate::route::Head;

const X_DATA_ZONE: HeaderName = HeaderName::from_static("x-data-zone");
const X_STAINLESS_READ_TIMEOUT: HeaderName = HeaderName::from_static("x-stainless-read-timeout");

/// Whether the head of a request means one thing, and no more of it than is allowed.
pub(super) fn check(session: &Session, limits: HeadLimits) -> Result<(), Refused> {
    let head = session.req_header();
    inspect::head::check(head, head.raw_path(), session.raw_head(), limits)
}

/// The head as the route table asks for it; `path` in canonical form.
pub(super) fn asked<'a>(head: &'a RequestHeader, path: &'a str) -> Head<'a> {
    Head {
        path,
        method: &head.method,
        host: host(head),
        headers: &head.headers,
    }
}

/// Whether the client wants its connection to be there for another request behind this one.
/// HTTP/1.0 waits for its end unless it says otherwise (RFC 9112, section 9.3).
pub(super) fn keeps_alive(head: &RequestHeader) -> bool {
    let says = |option| framing::connection_says(&head.headers, option);
    match head.version {
        Version::HTTP_10 => says("keep-alive"),
        _ => !says("close"),
    }
}

/// Whether a browser asks.
pub(super) fn wants_html(head: &RequestHeader) -> bool {
    let accept = head.headers.get(header::ACCEPT);
    accept.is_some_and(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("text/html"))
    })
}

/// The origin a page may be told it is allowed, if it is.
pub(super) fn allowed_origin(head: &RequestHeader, cors: Option<&Cors>) -> Option<HeaderValue> {
    let origin = head.headers.get(header::ORIGIN)?;
    match cors? {
        Cors::Any => Some(HeaderValue::from_static("*")),
        Cors::Listed(origins) => {
            let text = origin.to_str().ok()?.to_ascii_lowercase();
            origins.contains(&text).then(|| origin.clone())
        }
    }
}

/// What a browser is told about an answer it may read.
pub(super) fn cors_headers(origin: Option<HeaderValue>) -> Vec<(HeaderName, HeaderValue)> {
    let exposed = "x-request-id, x-upstream-request-id, x-backend, x-attempts, x-partial, x-voice, x-cache, age, x-memory, x-memory-dropped, x-should-retry, retry-after, \
                   retry-after-ms, openai-processing-ms, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
                   x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, \
                   x-ratelimit-reset-tokens";
    // also for those who may not: a cache must not hand them the answer of one who may
    let mut headers = vec![(header::VARY, HeaderValue::from_static("origin"))];
    if let Some(origin) = origin {
        headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        headers.push((
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(exposed),
        ));
    }
    headers
}

/// The host a request asks for, without port: HTTP/2 has it in `:authority`, and where both are
/// they are the same.
pub(super) fn host(head: &RequestHeader) -> Option<&str> {
    let host = match head.headers.get(header::HOST) {
        Some(host) => host.to_str().ok()?,
        None => head.uri.authority()?.as_str(),
    };
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => Some(name),
        _ => Some(host),
    }
}

/// Whether the connection is to become a WebSocket (RFC 6455, section 4.1).
pub(super) fn asks_for_websocket(head: &RequestHeader) -> Result<bool, Reply> {
    let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if !asked {
        return Ok(false);
    }
    let connection = head.headers.get_all(header::CONNECTION).iter();
    let nominated = connection
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
        });
    let framed = head.headers.contains_key(header::TRANSFER_ENCODING)
        || text(header::CONTENT_LENGTH).is_some_and(|length| length.trim() != "0");
    if head.method != Method::GET || head.version != Version::HTTP_11 || !nominated || framed {
        return Err(reply::invalid_request(
            "A WebSocket is asked for with GET in HTTP/1.1, `Connection: upgrade` and no body.",
        ));
    }
    Ok(true)
}

/// Whether the client wants its data to stay at home. A word that is not understood is refused: it
/// may have meant just that.
pub(super) fn stays_home(head: &RequestHeader) -> Result<bool, Reply> {
    let mut home = false;
    for value in head.headers.get_all(X_DATA_ZONE) {
        match value.as_bytes().trim_ascii() {
            zone if zone.eq_ignore_ascii_case(b"home") => home = true,
            zone if zone.eq_ignore_ascii_case(b"cloud") => {}
            _ => {
                let message = "`x-data-zone` is `home` or `cloud`.";
                return Err(reply::invalid_request(message));
            }
        }
    }
    Ok(home)
}

/// How long the client waits for the first byte, less what our answer needs to reach it: the
/// `x-stainless-read-timeout` of OpenAI's SDKs, in seconds.
pub(super) fn patience(head: &RequestHeader) -> Option<Duration> {
    let text = head.headers.get(X_STAINLESS_READ_TIMEOUT)?.to_str().ok()?;
    let seconds: f64 = text.trim().parse().ok()?;
    let patience = Duration::try_from_secs_f64(seconds).ok()?;
    let useful = Duration::from_millis(10)..Duration::from_secs(24 * 3600);
    useful
        .contains(&patience)
        .then(|| patience - (patience / 10).min(Duration::from_millis(500)))
}

/// The path as it was written, before any parser made something of it.
pub(super) fn raw_path(head: &RequestHeader) -> &str {
    let raw = std::str::from_utf8(head.raw_path()).unwrap_or("\\");
    let raw = match raw.find("://") {
        // absolute form
        Some(at) if !raw.starts_with('/') => raw[at + 3..]
            .find('/')
            .map_or("/", |slash| &raw[at + 3 + slash..]),
        _ => raw,
    };
    raw.split('?').next().unwrap_or(raw)
}

/// The version, as it is logged.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}
