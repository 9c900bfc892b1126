//! Asking a server to load a model while others serve: only so does a server that loads models on
//! demand ever become ready for a pool that does not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::http::RequestHeader;
use pingora::{Error, ErrorType};

use super::Edge;
use super::peer::PeerTemplate;
use super::relay::Ground;
use crate::config::{Priority, Server};
use crate::pool::{Lease, Wanted};

/// How long loading may take: Ollama's own limit (`OLLAMA_LOAD_TIMEOUT`).
const LOAD_TIME: Duration = Duration::from_secs(300);

/// How long after one model was loaded, or not, another is.
const AGAIN: Duration = Duration::from_secs(5);

/// Has the model loaded that a target is asked for, unless that is under way already.
pub(super) fn preload(ground: &Ground<'_>, target: usize) {
    let gateway = ground.gateway();
    let pool = gateway.pool(ground.settings.targets[target].pool).clone();
    let public = ground.body.and_then(|body| body.text("model"));
    let Some(model) = gateway.own_model(&ground.settings.targets[target], public, false) else {
        return;
    };
    let Some(loading) = pool.begin_load() else {
        return;
    };
    let pick = pool.pick(&Wanted::default(), Priority::Batch, Instant::now());
    // a trial is for a request, by whose end the server is judged
    let Some(lease) = pick.into_lease().filter(|lease| !lease.is_trial()) else {
        return;
    };
    let id = ground.settings.targets[target].pool.0;
    let template = ground.snapshot.peers[id][lease.server].clone();
    let edge = ground.edge.clone();
    tokio::spawn(async move {
        log::info!("pool {}: loading a model", pool.config.name);
        let load = load(&edge, &template, &lease, pool.server(&lease), &model);
        match tokio::time::timeout(LOAD_TIME, load).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("pool {}: no model was loaded: {error}", pool.config.name),
            Err(_) => log::warn!("pool {}: loading a model took too long", pool.config.name),
        }
        drop(lease);
        // one that failed is not tried again with the very next request
        tokio::time::sleep(AGAIN).await;
        drop(loading);
    });
}

/// `POST /api/generate` without a prompt loads a model and answers when it is there (Ollama
/// docs/api.md, "Load a model").
async fn load(
    edge: &Arc<Edge>,
    template: &PeerTemplate,
    lease: &Lease,
    server: &Server,
    model: &str,
) -> pingora::Result<()> {
    let peer = template.at(lease.address(), true, true);
    let (mut session, _) = edge.connector.get_http_session(&peer).await?;
    let body = serde_json::json!({ "model": model, "stream": false }).to_string();
    let root = server.url.path.trim_end_matches("/v1");
    let path = format!("{root}/api/generate");
    let mut head = RequestHeader::build("POST", path.as_bytes(), Some(5))?;
    if let Some(key) = &server.key {
        head.insert_header("authorization", format!("Bearer {}", key.expose()))?;
    }
    head.insert_header("host", template.authority.as_str())?;
    head.insert_header("content-type", "application/json")?;
    head.insert_header("content-length", body.len().to_string())?;
    head.insert_header("connection", "close")?;
    session.write_request_header(Box::new(head)).await?;
    session.write_request_body(body.into(), true).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    match session.response_header().map(|head| head.status.as_u16()) {
        Some(200) => Ok(()),
        status => Error::e_explain(
            ErrorType::HTTPStatus(status.unwrap_or_default()),
            "the server does not load it",
        ),
    }
}
