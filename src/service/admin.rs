//! The admin endpoints: metrics, health, readiness, status. Never on a client listener.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use tokio::sync::{mpsc, oneshot};

use super::page;
use super::standin::StandIns;
use crate::observe::status::Status;
use crate::proxy::{Edge, listen};
use crate::transform;
use crate::unit::Span;

/// A reload that is asked for: where to say how it went.
pub(crate) type Order = oneshot::Sender<Result<String, String>>;

/// The application behind the admin listener.
pub(crate) struct Admin {
    pub(crate) edge: Arc<Edge>,
    /// Where the configuration came from.
    pub(crate) config: String,
    pub(crate) listeners: Vec<String>,
    /// Where a reload is asked for.
    pub(crate) reloads: mpsc::Sender<Order>,
    /// Those of the embedded default, which can be stopped and started to see fallback.
    pub(crate) stand_ins: Arc<StandIns>,
}

const INDEX: &str = "Trunkline admin endpoints:\n\n  /          the status page, for browsers\n  /metrics   for Prometheus\n  /healthz   200 while the program runs\n  \
                     /readyz    200 while requests are taken\n  /status    pools, servers and routes as JSON\n\nWith POST:\n\n  \
                     /reload                 read the configuration again\n  \
                     /drain/POOL/SERVER      give a server no new requests (?for=10m)\n  /undrain/POOL/SERVER    give it requests again\n";

impl Admin {
    fn status(&self) -> Status {
        let now = Instant::now();
        let snapshot = self.edge.snapshot();
        let gateway = &snapshot.gateway;
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.edge.started.elapsed().as_secs(),
            ready: self.is_ready(),
            draining: self.edge.draining.load(Relaxed),
            config: self.config.clone(),
            demo: self.edge.metrics.demo.get() == 1,
            listeners: self.listeners.clone(),
            requests_in_flight: self.edge.metrics.in_flight.get(),
            log_lines_dropped: self.edge.access_log.dropped(),
            last_reload: self.edge.metrics.last_reload(),
            routes: gateway.route_status(&self.edge.metrics),
            unrouted: gateway.unrouted.counts(&self.edge.metrics),
            pools: gateway.pool_status(now),
            recent_failures: self.edge.failures.newest_first(),
        }
    }

    fn is_ready(&self) -> bool {
        !self.edge.draining.load(Relaxed) && self.edge.snapshot().gateway.is_ready(Instant::now())
    }

    fn metrics(&self) -> Vec<u8> {
        self.edge.snapshot().gateway.refresh_gauges(Instant::now());
        self.edge.metrics.exposition(self.edge.access_log.dropped())
    }

    /// Reads the configuration again; says how that went.
    async fn reload(&self) -> (StatusCode, String) {
        let (order, answer) = oneshot::channel();
        let asked = self.reloads.send(order).await.is_ok();
        match answer.await {
            Ok(Ok(done)) if asked => (StatusCode::OK, format!("{done}\n")),
            Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
            _ => {
                let stopping = "the program is stopping\n".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, stopping)
            }
        }
    }

    /// `/drain/POOL/SERVER?for=10m` and `/undrain/POOL/SERVER`.
    fn drain(&self, path: &str, query: Option<&str>) -> (StatusCode, String) {
        let (drains, name) = match path.strip_prefix("/drain/") {
            Some(name) => (true, name),
            None => (false, path.trim_start_matches("/undrain/")),
        };
        let time = match transform::path::parameter(query, "for").map(|text| text.parse::<Span>()) {
            None => None,
            Some(Ok(time)) => Some(time.0),
            Some(Err(why)) => return (StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        let snapshot = self.edge.snapshot();
        let (pool, server) = match snapshot.gateway.server_named(name) {
            Ok(found) => found,
            Err(why) => return (StatusCode::NOT_FOUND, format!("{why}\n")),
        };
        let now = Instant::now();
        let message = match (drains, time) {
            (true, Some(time)) => format!("{name} is drained for {}", Span(time)),
            (true, None) => format!("{name} is drained until it is undrained"),
            (false, _) => format!("{name} gets requests again"),
        };
        match drains {
            true => pool.drain(server, time, now),
            false => pool.undrain(server, now),
        }
        log::info!("{message}");
        let left = pool.states(now)[server].in_flight;
        (StatusCode::OK, format!("{message}; {left} in flight\n"))
    }

    /// `/standins/NAME/stop` and `/start`.
    async fn stand_in(&self, path: &str) -> (StatusCode, String) {
        let mut parts = path.split('/');
        let (name, action) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let result = match action {
            "stop" => self.stand_ins.stop(name).await,
            "start" => self.stand_ins.start(name).await,
            _ => Err("say /standins/NAME/stop or /standins/NAME/start".to_owned()),
        };
        match result {
            Ok(()) => (StatusCode::OK, format!("{name}: {action}\n")),
            Err(message) => (StatusCode::NOT_FOUND, format!("{message}\n")),
        }
    }
}

/// Whether a request is of an operator, and not of a page in an operator's browser: such a page may
/// send anything here, even under a name of its own that it has pointed at this address.
fn is_trusted(head: &RequestHeader) -> bool {
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").unwrap_or_default();
    let own_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, of)| of == host);
    let site = text("sec-fetch-site").unwrap_or("none");
    matches!(site, "none" | "same-origin") && text("origin").is_none_or(own_origin)
}

fn forbidden() -> Response<Vec<u8>> {
    let message = b"pages of other origins may not ask here\n".to_vec();
    Response::builder()
        .status(StatusCode::FORBIDDEN)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(header::CONTENT_LENGTH, message.len())
        .body(message)
        .expect("fixed headers are valid")
}

/// Whether a path changes something.
fn is_order(path: &str) -> bool {
    path == "/reload" || path.starts_with("/drain/") || path.starts_with("/undrain/")
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        listen::busy();
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let text = "text/plain; charset=utf-8";
        if !is_trusted(head) {
            listen::idle();
            return forbidden();
        }
        let (status, content_type, body) = match (method.as_str(), path.as_str()) {
            ("GET" | "HEAD", "/metrics") => {
                (StatusCode::OK, "text/plain; version=0.0.4", self.metrics())
            }
            ("GET" | "HEAD", "/healthz") => (StatusCode::OK, text, b"ok\n".to_vec()),
            ("GET" | "HEAD", "/readyz") if self.is_ready() => {
                (StatusCode::OK, text, b"ready\n".to_vec())
            }
            ("GET" | "HEAD", "/readyz") => {
                let reason = match self.edge.draining.load(Relaxed) {
                    true => "draining\n",
                    false => "no server of any pool is available\n",
                };
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    text,
                    reason.as_bytes().to_vec(),
                )
            }
            ("GET" | "HEAD", "/status") => {
                let status = serde_json::to_vec_pretty(&self.status())
                    .expect("names and numbers can be written");
                (StatusCode::OK, "application/json", status)
            }
            ("GET" | "HEAD", "/") if page::is_for(&head.headers) => {
                listen::idle();
                return page::answer(method == "HEAD");
            }
            ("GET" | "HEAD", "/") => (StatusCode::OK, text, INDEX.as_bytes().to_vec()),
            ("POST", "/reload") => {
                let (status, message) = self.reload().await;
                (status, text, message.into_bytes())
            }
            ("POST", path) if path.starts_with("/drain/") || path.starts_with("/undrain/") => {
                let (status, message) = self.drain(path, head.uri.query());
                (status, text, message.into_bytes())
            }
            ("GET" | "HEAD", path) if is_order(path) => (
                StatusCode::METHOD_NOT_ALLOWED,
                text,
                b"ask for this with POST\n".to_vec(),
            ),
            ("POST", path) if path.starts_with("/standins/") => {
                let (status, message) = self.stand_in(&path["/standins/".len()..]).await;
                (status, text, message.into_bytes())
            }
            _ => (StatusCode::NOT_FOUND, text, INDEX.as_bytes().to_vec()),
        };
        // a scraper's kept connection may wait for its next scrape
        listen::idle();
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::CONTENT_LENGTH, body.len())
            .header(header::CACHE_CONTROL, "no-store")
            .body(if method == "HEAD" { Vec::new() } else { body })
            .expect("fixed headers are valid")
    }
}
