//! Local replies: the answers Trunkline makes itself. The only place an error becomes a status.
//!
//! Every constructor is named after what the client learns. Errors have OpenAI's shape, with a
//! type by which SDKs decide whether to try again: `invalid_request_error` only where the request
//! is at fault.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::inspect::BodyError;
use crate::inspect::head::Refused;
use crate::keyring::Refusal;
use crate::limit::{Exceeded, Short, Unit};
use crate::plan::{Outcome, Phase};
use crate::unit::{Size, printable};

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// The error code, or what was answered: a metric label with few values.
    pub(crate) code: &'static str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) is_error: bool,
}

/// Every code there is, for the metric.
pub(crate) const CODES: &[&str] = &[
    "welcome",
    "healthy",
    "models",
    "voices",
    "list",
    "preflight",
    "invalid_json",
    "invalid_multipart",
    "invalid_request",
    "no_route",
    "model_not_found",
    "id_not_found",
    "body_too_large",
    "uri_too_long",
    "headers_too_large",
    "expectation_failed",
    "method_not_allowed",
    "request_timeout",
    "request_too_slow",
    "invalid_api_key",
    "api_key_expired",
    "invalid_token",
    "token_expired",
    "token_not_allowed",
    "identity_provider_unavailable",
    "model_not_allowed",
    "route_not_allowed",
    "rate_limit_exceeded",
    "insufficient_quota",
    "queue_full",
    "queue_timeout",
    "internal_error",
    "loop_detected",
    "upstream_unreachable",
    "upstream_reset",
    "upstream_invalid",
    "upstream_timeout",
    "no_server_available",
];

fn error(status: StatusCode, code: &'static str, message: &str, param: Option<&str>) -> Reply {
    let kind = match status {
        status if status.is_server_error() => "server_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ => "invalid_request_error",
    };
    let body =
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } });
    let mut reply = plain(status, code, "application/json", body.to_string());
    reply.is_error = true;
    reply
}

fn plain(
    status: StatusCode,
    code: &'static str,
    content_type: &'static str,
    body: String,
) -> Reply {
    Reply {
        status,
        code,
        headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static(content_type))],
        body: body.into(),
        is_error: false,
    }
}

// === the request is at fault ===

pub(crate) fn invalid_request(message: &str) -> Reply {
    error(StatusCode::BAD_REQUEST, "invalid_request", message, None)
}

/// A head that is refused before anything is made of it.
pub(crate) fn head_refused(refused: Refused) -> Reply {
    match refused {
        Refused::Ambiguous(why) => invalid_request(&format!("The request is ambiguous: {why}.")),
        Refused::Headers(limits) => headers_too_large(limits.fields, limits.bytes),
        Refused::Uri(limit) => uri_too_long(limit),
        Refused::Expectation => error(
            StatusCode::EXPECTATION_FAILED,
            "expectation_failed",
            "The only expectation that is met is `100-continue`.",
            None,
        ),
        Refused::Method => {
            let mut reply = error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "CONNECT is not for this proxy, and TRACE would show what servers are sent.",
                None,
            );
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            reply.headers.push((header::ALLOW, allowed));
            reply
        }
    }
}

/// `bytes`: of all fields together.
pub(crate) fn headers_too_large(fields: usize, bytes: usize) -> Reply {
    let message = format!(
        "The request has more than {fields} headers, or more than {} in them.",
        Size(bytes as u64)
    );
    error(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        &message,
        None,
    )
}

/// `limit` in bytes.
pub(crate) fn uri_too_long(limit: usize) -> Reply {
    let message = format!(
        "Path and query are longer than the limit of {} ({limit} bytes).",
        Size(limit as u64)
    );
    error(StatusCode::URI_TOO_LONG, "uri_too_long", &message, None)
}

pub(crate) fn invalid_body(broken: &BodyError) -> Reply {
    let code = match broken {
        BodyError::Json(_) => "invalid_json",
        BodyError::Multipart(_) => "invalid_multipart",
    };
    error(
        StatusCode::BAD_REQUEST,
        code,
        &format!("The request body can't be read: {broken}."),
        None,
    )
}

pub(crate) fn no_route(method: &str, path: &str) -> Reply {
    let message = format!("No route takes {method} {}.", printable(path));
    error(StatusCode::NOT_FOUND, "no_route", &message, None)
}

pub(crate) fn model_not_found(model: Option<&str>) -> Reply {
    let message = match model {
        Some(model) => format!(
            "The model `{}` is not served here. GET /v1/models lists those that are.",
            printable(model)
        ),
        None => "The request names no `model`, and none is served here by default.".to_owned(),
    };
    error(
        StatusCode::NOT_FOUND,
        "model_not_found",
        &message,
        Some("model"),
    )
}

/// An id was made up, or comes from somewhere else.
pub(crate) fn id_not_found() -> Reply {
    let message = "No object has this id here: it was not handed out by this proxy, or by one with the same `affinity` secret.";
    final_word(error(StatusCode::NOT_FOUND, "id_not_found", message, None))
}

/// What it names lives on a server that is not asked here.
pub(crate) fn maker_not_here() -> Reply {
    let message = "The server that made this id is not among those that this request can go to, and no other one knows it.";
    final_word(error(StatusCode::NOT_FOUND, "id_not_found", message, None))
}

pub(crate) fn several_makers() -> Reply {
    let message = "The ids in this request were made by different servers, and none of these knows them all. Upload what belongs together in one go, or refer to one of them at a time.";
    final_word(invalid_request(message))
}

/// The list does not go on behind an object that is not there.
pub(crate) fn cursor_not_found() -> Reply {
    let message = "The object that `after` names is not there any more; begin the list anew.";
    let status = StatusCode::NOT_FOUND;
    final_word(error(status, "id_not_found", message, Some("after")))
}

/// `limit` in bytes.
pub(crate) fn body_too_large(limit: u64) -> Reply {
    let message = format!(
        "The request body is larger than the limit of {} ({limit} bytes).",
        Size(limit)
    );
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        &message,
        None,
    )
}

/// Nobody of a route takes a body of this size. `limit` in bytes.
pub(crate) fn too_large_for(limit: u64, pools: &str) -> Reply {
    let message = format!(
        "The request body is larger than the {} ({limit} bytes) that the servers of {pools} take.",
        Size(limit)
    );
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        &message,
        None,
    )
}

pub(crate) fn request_timeout() -> Reply {
    error(
        StatusCode::REQUEST_TIMEOUT,
        "request_timeout",
        "The request body did not arrive in time.",
        None,
    )
}

/// `limit` in bytes a second.
pub(crate) fn too_slow(limit: u64) -> Reply {
    let message = format!("The request body came slower than {limit} bytes a second.");
    error(
        StatusCode::REQUEST_TIMEOUT,
        "request_too_slow",
        &message,
        None,
    )
}

/// Nothing can be opened any more, which is no server's fault.
pub(crate) fn exhausted() -> Reply {
    let mut reply = error(
        StatusCode::SERVICE_UNAVAILABLE,
        "no_server_available",
        "The proxy has no descriptors left for another connection.",
        None,
    );
    let again = HeaderValue::from_static("1");
    reply.headers.push((header::RETRY_AFTER, again));
    reply
}

/// The servers of a route speak another dialect, which has no words for this request.
pub(crate) fn not_said(why: &str, param: Option<&str>, pools: &str) -> Reply {
    let why = printable(why);
    let message = format!("This request cannot be put to {pools}: {why}.");
    error(StatusCode::BAD_REQUEST, "invalid_request", &message, param)
}

/// They have no such endpoint at all.
pub(crate) fn not_served(method: &str, path: &str, pools: &str) -> Reply {
    let message = format!(
        "The servers of {pools} have no {method} {}.",
        printable(path)
    );
    error(StatusCode::NOT_FOUND, "no_route", &message, None)
}

// === who asks may not ===

pub(crate) fn api_key_missing() -> Reply {
    let message = "This proxy asks for an API key: send it as `Authorization: Bearer KEY` (in the SDKs, `api_key`).";
    no_key("invalid_api_key", message)
}

pub(crate) fn invalid_api_key() -> Reply {
    no_key("invalid_api_key", "This API key is not known here.")
}

pub(crate) fn api_key_expired() -> Reply {
    no_key(
        "api_key_expired",
        "This API key has expired; ask the operator of this proxy for another one.",
    )
}

/// A token of an identity provider is not good; nothing of it is repeated.
pub(crate) fn token_refused(refusal: Refusal) -> Reply {
    let why = match refusal {
        Refusal::NoKeys => {
            let message = "The keys of the identity provider are not known yet, so this token cannot be verified; try again in a moment.";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return error(status, "identity_provider_unavailable", message, None);
        }
        Refusal::Nobody => {
            let message = "This token is good, but whom it names has no access here; ask the operator of this proxy for it.";
            let status = StatusCode::FORBIDDEN;
            return final_word(error(status, "token_not_allowed", message, None));
        }
        Refusal::Malformed => "it cannot be read, or lacks an end (`exp`)",
        Refusal::Algorithm => "its algorithm is not accepted",
        Refusal::UnknownKey => "the identity provider has no such key",
        Refusal::Signature => "its signature is wrong",
        Refusal::Issuer => "it is of another issuer",
        Refusal::Audience => "it is meant for another audience",
        Refusal::Expired => "it has expired; get another one from the identity provider",
        Refusal::NotYet => "it is not valid yet",
    };
    let code = match refusal {
        Refusal::Expired => "token_expired",
        _ => "invalid_token",
    };
    let mut reply = no_key(code, &format!("This token is not accepted: {why}."));
    // RFC 6750, section 3.1
    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    reply
        .headers
        .retain(|(name, _)| *name != header::WWW_AUTHENTICATE);
    reply.headers.push((header::WWW_AUTHENTICATE, challenge));
    reply
}

fn no_key(code: &'static str, message: &str) -> Reply {
    let mut reply = error(StatusCode::UNAUTHORIZED, code, message, None);
    let challenge = HeaderValue::from_static("Bearer");
    reply.headers.push((header::WWW_AUTHENTICATE, challenge));
    final_word(reply)
}

pub(crate) fn model_not_allowed(model: Option<&str>) -> Reply {
    let message = match model {
        Some(model) => format!(
            "This API key may not ask for the model `{}`. GET /v1/models lists those it may.",
            printable(model)
        ),
        None => {
            "This API key may only ask for certain models, and the request names none.".to_owned()
        }
    };
    let status = StatusCode::FORBIDDEN;
    final_word(error(status, "model_not_allowed", &message, Some("model")))
}

pub(crate) fn route_not_allowed(route: &str) -> Reply {
    let message = format!("This API key may not use the route `{route}`.");
    final_word(error(
        StatusCode::FORBIDDEN,
        "route_not_allowed",
        &message,
        None,
    ))
}

/// `month`: the one that is over before there is more.
pub(crate) fn budget_spent(month: &str) -> Reply {
    let message = format!(
        "The budget of this API key for {month} is spent; it begins anew with the next month (UTC)."
    );
    let status = StatusCode::TOO_MANY_REQUESTS;
    final_word(error(status, "insufficient_quota", &message, None))
}

/// `whose`: the key, the address or the route.
pub(crate) fn rate_limited(whose: &str, exceeded: &Exceeded) -> Reply {
    let Exceeded {
        unit,
        limit,
        asked,
        short,
    } = exceeded;
    let what = match unit {
        Unit::Requests => "requests per minute",
        Unit::Concurrent => "requests at once",
        Unit::Tokens => "tokens per minute",
        Unit::Characters => "characters per minute",
        Unit::AudioSeconds => "seconds of audio per minute",
        Unit::Bytes => "bytes per minute",
    };
    let status = StatusCode::TOO_MANY_REQUESTS;
    let reply = |message: &str| error(status, "rate_limit_exceeded", message, None);
    match short {
        Short::Wait(wait) => {
            let seconds = wait.as_secs_f64();
            let message = format!(
                "Rate limit reached for this {whose}: {limit} {what}. Please try again in {seconds:.3}s."
            );
            let mut reply = try_again(reply(&message), *wait);
            let milliseconds = HeaderValue::from(wait.as_millis().max(1) as u64);
            let name = HeaderName::from_static("retry-after-ms");
            reply.headers.push((name, milliseconds));
            reply
        }
        Short::Never => {
            let message = format!(
                "This request is too large for this {whose}: it asks for {asked}, and the limit is {limit} {what}."
            );
            final_word(reply(&message))
        }
    }
}

// === we or the servers are ===

/// Something of ours failed, such as a full disk; the log says what.
pub(crate) fn internal_error(message: &str) -> Reply {
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        message,
        None,
    )
}

pub(crate) fn loop_detected() -> Reply {
    let message =
        "This request has passed through this proxy before: one of its servers leads back to it.";
    error(StatusCode::LOOP_DETECTED, "loop_detected", message, None)
}

/// `back_in`: when one may be asked again, as far as that is known.
pub(crate) fn no_server_available(pools: &str, back_in: Duration) -> Reply {
    let message =
        format!("No server is available: every server of {pools} is down, ejected or drained.");
    let reply = unavailable(&message);
    final_word(come_back(reply, back_in))
}

/// `server` is the only one that knows an id.
pub(crate) fn maker_is_down(server: &str) -> Reply {
    let message = format!(
        "`{server}`, the server that made this id, is not available, and no other one knows it."
    );
    try_again(unavailable(&message), Duration::from_secs(1))
}

/// No server told its list.
pub(crate) fn list_failed(pools: &str) -> Reply {
    let message = format!("No server of {pools} told its list.");
    error(StatusCode::BAD_GATEWAY, "upstream_invalid", &message, None)
}

/// A list of several servers. `missing`: those that did not answer.
pub(crate) fn list(body: Bytes, missing: &str) -> Reply {
    let mut reply = plain(StatusCode::OK, "list", "application/json", String::new());
    reply.body = body;
    if let Ok(missing) = HeaderValue::from_str(missing)
        && !missing.is_empty()
    {
        let name = HeaderName::from_static("x-partial");
        reply.headers.push((name, missing));
    }
    reply
}

/// What a server said instead of a list.
pub(crate) fn no_list(status: StatusCode, content_type: Option<HeaderValue>, body: Bytes) -> Reply {
    let mut reply = plain(status, "list", "application/json", String::new());
    reply.body = body;
    if let Some(content_type) = content_type {
        reply.headers[0].1 = content_type;
    }
    reply.is_error = true;
    reply
}

/// The pools that could serve this request are not at home, and it must stay there.
pub(crate) fn nobody_at_home(pools: &str) -> Reply {
    let message = format!(
        "No server is available: this request must stay at home, and {pools} is in the cloud."
    );
    final_word(unavailable(&message))
}

/// Servers load their model for longer than was waited.
pub(crate) fn still_loading(pools: &str) -> Reply {
    let message = format!("No server is available yet: those of {pools} are loading their model.");
    try_again(unavailable(&message), Duration::from_secs(5))
}

/// The program is about to end.
pub(crate) fn stopping() -> Reply {
    try_again(
        unavailable("The proxy is stopping."),
        Duration::from_secs(1),
    )
}

fn unavailable(message: &str) -> Reply {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    error(status, "no_server_available", message, None)
}

/// `wait`: how long one in line waits, as far as that is known.
pub(crate) fn queue_full(pools: &str, wait: Duration) -> Reply {
    let message = format!(
        "Every server of {pools} is busy, and as many requests wait for one as may (`queue.size`)."
    );
    let reply = error(StatusCode::TOO_MANY_REQUESTS, "queue_full", &message, None);
    try_again(reply, wait)
}

/// `wait`: how long one in line waits, as far as that is known.
pub(crate) fn queue_timeout(pools: &str, wait: Duration) -> Reply {
    let message =
        format!("Every server of {pools} is busy, and none became free within `queue.timeout`.");
    let status = StatusCode::TOO_MANY_REQUESTS;
    let reply = error(status, "queue_timeout", &message, None);
    try_again(reply, wait)
}

/// Asks to come back in so long, in whole seconds.
fn come_back(mut reply: Reply, after: Duration) -> Reply {
    let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
    reply.headers.push((header::RETRY_AFTER, seconds.into()));
    reply
}

/// The same, where it will likely help.
fn try_again(reply: Reply, after: Duration) -> Reply {
    let mut reply = come_back(reply, after);
    reply.headers.push((
        HeaderName::from_static("x-should-retry"),
        HeaderValue::from_static("true"),
    ));
    reply
}

/// The whole plan failed; `last` is how its last attempt ended, at `server` of `pool`.
pub(crate) fn plan_failed(last: Outcome, pool: &str, server: &str) -> Reply {
    let place = format!("`{server}` of pool `{pool}`");
    let (status, code, message) = match last {
        Outcome::ConnectFailed => (
            502,
            "upstream_unreachable",
            format!("{place} can't be connected to."),
        ),
        Outcome::TlsFailed => (
            502,
            "upstream_unreachable",
            format!("{place} offers no TLS that can be trusted."),
        ),
        Outcome::Reset | Outcome::Answered(_) | Outcome::Loading | Outcome::NoQuota => (
            502,
            "upstream_reset",
            format!("{place} closed the connection before it answered."),
        ),
        Outcome::Empty => (
            502,
            "upstream_invalid",
            format!("{place} answered with nothing in it."),
        ),
        Outcome::Invalid => (
            502,
            "upstream_invalid",
            format!("{place} did not answer in HTTP."),
        ),
        Outcome::TimedOut(phase) => (504, "upstream_timeout", format!("{place} {}.", late(phase))),
    };
    let status = StatusCode::from_u16(status).expect("502 and 504 are statuses");
    final_word(error(status, code, &message, None))
}

/// What a server did too slowly, naming the limit that passed.
pub(crate) fn late(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "did not accept the connection within timeouts.connect",
        Phase::Send => "did not take the request within timeouts.idle",
        Phase::FirstByte => "sent no first byte within timeouts.first_byte",
        Phase::Idle => "fell silent for longer than timeouts.idle",
        Phase::PerTry => "sent no first byte within retry.per_try_timeout",
        Phase::Share | Phase::Client => {
            "sent no first byte within the time that the client gives (x-stainless-read-timeout)"
        }
        Phase::Total => "was not done within timeouts.total",
        Phase::Shutdown => "was not done within shutdown.grace, and the proxy is stopping",
    }
}

/// Every server there is was asked: the SDKs retry by themselves and would triple the load.
fn final_word(mut reply: Reply) -> Reply {
    reply.headers.push((
        HeaderName::from_static("x-should-retry"),
        HeaderValue::from_static("false"),
    ));
    reply
}

/// The frame that ends an event stream that cannot go on; no `[DONE]` follows.
pub(crate) fn stream_error(code: &str, message: &str) -> Bytes {
    let error = json!({ "error": { "message": message, "type": "server_error", "param": null, "code": code } });
    format!("\n\ndata: {error}\n\n").into()
}

// === answers of our own ===

pub(crate) fn healthy() -> Reply {
    plain(
        StatusCode::OK,
        "healthy",
        "text/plain; charset=utf-8",
        "healthy\n".into(),
    )
}

/// A list of models, one of them, or a list of voices.
pub(crate) fn listed(code: &'static str, list: &serde_json::Value) -> Reply {
    plain(StatusCode::OK, code, "application/json", list.to_string())
}

/// The page at `/`: HTML for browsers, text for everybody else.
pub(crate) fn welcome(html: bool, endpoints: &[String]) -> Reply {
    if !html {
        let mut text = String::from(
            "Trunkline: one address in front of your voice and LLM servers.\n\nServed here:\n",
        );
        for endpoint in endpoints {
            text.push_str(&format!("  {endpoint}\n"));
        }
        text.push_str("\nSet OPENAI_BASE_URL to this address with /v1 behind it.\n");
        return plain(StatusCode::OK, "welcome", "text/plain; charset=utf-8", text);
    }
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let items: String = endpoints
        .iter()
        .map(|e| format!("<li><code>{}</code></li>", escape(e)))
        .collect();
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Trunkline</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em;\
         color-scheme:light dark}}code{{font-size:.95em}}</style><h1>Trunkline</h1>\
         <p>One address in front of your voice and LLM servers. Served here:</p><ul>{items}</ul>\
         <p>Set <code>OPENAI_BASE_URL</code> to this address with <code>/v1</code> behind it.</p></html>\n"
    );
    plain(StatusCode::OK, "welcome", "text/html; charset=utf-8", page)
}

/// The answer to a browser that asks whether it may call; the listener adds the origin if it may.
pub(crate) fn preflight(asked_headers: Option<&HeaderValue>) -> Reply {
    let mut reply = plain(
        StatusCode::NO_CONTENT,
        "preflight",
        "text/plain",
        String::new(),
    );
    let fixed = HeaderValue::from_static;
    reply.headers = vec![
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            fixed("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, fixed("86400")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked_headers
                .cloned()
                .unwrap_or_else(|| fixed("authorization, content-type")),
        ),
    ];
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(reply: &Reply) -> serde_json::Value {
        serde_json::from_slice(&reply.body).unwrap()
    }

    #[test]
    fn errors_have_openais_shape_and_an_honest_type() {
        let all = [
            invalid_request("x"),
            invalid_body(&BodyError::Json("x".into())),
            no_route("POST", "/v1/x"),
            model_not_found(Some("m")),
            body_too_large(1 << 20),
            loop_detected(),
            no_server_available("`a`", Duration::ZERO),
            nobody_at_home("`a`"),
            still_loading("`a`"),
            stopping(),
            queue_full("`a`", Duration::ZERO),
            queue_timeout("`a`", Duration::ZERO),
            too_large_for(25 << 20, "`a`"),
            not_said("x", Some("n"), "`a`"),
            not_served("POST", "/v1/x", "`a`"),
            plan_failed(Outcome::ConnectFailed, "a", "b"),
            plan_failed(Outcome::TimedOut(Phase::FirstByte), "a", "b"),
        ];
        for reply in all {
            let error = &parsed(&reply)["error"];
            let kind = match reply.status.as_u16() {
                500.. => "server_error",
                429 => "rate_limit_error",
                _ => "invalid_request_error",
            };
            assert_eq!(error["type"], kind);
            assert_eq!(error["code"], reply.code);
            assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
            assert!(error.get("param").is_some());
            assert!(CODES.contains(&reply.code), "{}", reply.code);
        }
    }

    #[test]
    fn an_exhausted_plan_tells_sdks_not_to_try_again() {
        let reply = plan_failed(Outcome::TimedOut(Phase::FirstByte), "kokoro", "gpu-a");
        assert_eq!(reply.status, 504);
        assert!(
            reply
                .headers
                .iter()
                .any(|(n, v)| n == "x-should-retry" && v == "false")
        );
        assert!(
            parsed(&reply)["error"]["message"]
                .as_str()
                .unwrap()
                .contains("timeouts.first_byte")
        );
        assert!(
            !model_not_found(None)
                .headers
                .iter()
                .any(|(n, _)| n == "x-should-retry")
        );
    }

    #[test]
    fn who_is_told_to_come_back_is_told_when() {
        let header = |reply: &Reply, name: &str| {
            let found = reply.headers.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        for reply in [
            queue_full("`a`", Duration::ZERO),
            queue_timeout("`a`", Duration::ZERO),
            still_loading("`a`"),
        ] {
            assert_eq!(header(&reply, "x-should-retry").as_deref(), Some("true"));
            assert!(header(&reply, "retry-after").is_some());
        }
        let reply = no_server_available("`a`", Duration::from_millis(2300));
        assert_eq!(header(&reply, "retry-after").as_deref(), Some("3"));
        assert_eq!(header(&reply, "x-should-retry").as_deref(), Some("false"));
    }

    #[test]
    fn names_from_outside_can_not_forge_lines_or_tags() {
        let reply = model_not_found(Some("a\nb\u{1b}[2J"));
        assert!(
            parsed(&reply)["error"]["message"]
                .as_str()
                .unwrap()
                .contains("a\\nb\\u{1b}[2J")
        );
        let page = welcome(true, &["<script>".into()]);
        assert!(!String::from_utf8_lossy(&page.body).contains("<script>"));
    }
}
