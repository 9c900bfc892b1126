//! Asks the identity provider for its keys: at the start, again and again, and when a token names a
//! key that nobody knows. Never while a request waits.
//!
//! When it is due and what an answer changes, `keyring` knows; here is how it is asked. Redirects
//! are not followed: where the keys are, the configuration says and nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, header};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, OkOrErr, Result};

use super::dial::dial;
use crate::config::jwks::JwkSet;
use crate::config::jwt::JwksUrl;
use crate::gateway::Gateway;
use crate::keyring::Identities;
use crate::observe::metrics::Metrics;
use crate::proxy::Edge;

/// How often it is looked whether the provider is to be asked.
const TICK: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a start, or a reload with another URL, waits for the first keys.
const START_TIME: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 1024 * 1024;

/// Finds the keys that a gateway begins with.
pub(crate) async fn start(gateway: &Gateway, connector: &Connector, metrics: &Metrics) {
    let Some(identities) = gateway.keyring.identities() else {
        return;
    };
    let keys = identities.keys();
    if keys == 0 {
        // what was told elsewhere counts no more
        metrics.forget_jwks();
    }
    match identities.url() {
        None => metrics.keys_of_provider("file", keys),
        Some(url) if keys == 0 && identities.is_due(Instant::now()) => {
            let asked = ask(identities, url, connector, metrics);
            if tokio::time::timeout(START_TIME, asked).await.is_err() {
                log::warn!(
                    "{url} has not told its keys in {START_TIME:?}; tokens are refused until it does"
                );
            }
        }
        Some(_) => {}
    }
}

/// Asks for as long as the program runs.
pub(crate) async fn keep_asking(edge: Arc<Edge>) {
    loop {
        tokio::time::sleep(TICK).await;
        let snapshot = edge.snapshot();
        let identities = snapshot.gateway.keyring.identities();
        if let Some(identities) = identities
            && let Some(url) = identities.url()
            && identities.is_due(Instant::now())
        {
            ask(identities, url, &edge.connector, &edge.metrics).await;
        }
    }
}

async fn ask(identities: &Identities, url: &JwksUrl, connector: &Connector, metrics: &Metrics) {
    let told = match tokio::time::timeout(PATIENCE, get(connector, url)).await {
        Ok(Ok(body)) => JwkSet::parse(&body),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no whole answer in {PATIENCE:?}")),
    };
    let now = Instant::now();
    let set = match told {
        Ok(set) => set,
        Err(why) => {
            metrics.asked_for_keys(None);
            if identities.heard_nothing(now) {
                let meanwhile = match identities.keys() {
                    0 => "tokens are refused until it does",
                    _ => "those it told before are still good",
                };
                log::warn!(
                    "{url} does not tell the keys of the identity provider, and {meanwhile}: {why}"
                );
            }
            return;
        }
    };
    let keys = set.keys.len();
    for remark in &set.remarks {
        log::debug!("{url}: {remark}");
    }
    metrics.asked_for_keys(Some(keys));
    let heard = identities.heard(set, now);
    if heard.changed {
        log::info!("{url} has {keys} keys that verify tokens");
    } else if heard.again {
        log::info!("{url} tells the keys of the identity provider again");
    }
}

async fn get(connector: &Connector, url: &JwksUrl) -> Result<Vec<u8>> {
    let mut session = dial(connector, &url.server, PATIENCE / 4).await?;
    session.write_request_header(Box::new(head(url))).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map(|head| head.status.as_u16());
    let status = status.or_err(ErrorType::InvalidHTTPHeader, "an answer without a head")?;
    match status {
        200 => {}
        300..400 => {
            let why = "it is somewhere else, and redirects are not followed; write the final URL";
            return Error::e_explain(ErrorType::HTTPStatus(status), why);
        }
        _ => return Error::e_explain(ErrorType::HTTPStatus(status), "not a good status"),
    }
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST {
            return Error::e_explain(ErrorType::ReadError, "its answer is larger than 1MiB");
        }
    }
    Ok(body)
}

fn head(url: &JwksUrl) -> RequestHeader {
    let mut head = RequestHeader::build_no_case("GET", url.target.as_bytes(), Some(4))
        .expect("the path of a URL can be asked for");
    let agent = concat!("trunkline/", env!("CARGO_PKG_VERSION"), " (keys)");
    let authority = HeaderValue::from_str(&url.server.authority());
    let own = [
        (
            header::HOST,
            authority.expect("a host can stand in a header"),
        ),
        (header::USER_AGENT, HeaderValue::from_static(agent)),
        (header::ACCEPT, HeaderValue::from_static("application/json")),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    for (name, value) in own {
        let _ = head.insert_header(name, value);
    }
    head
}
