//! The admin endpoints: metrics, health, readiness, status. Never on a client listener.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use super::page;
use super::standin::StandIns;
use crate::observe::status::Status;
use crate::proxy::{Edge, listen};

/// The application behind the admin listener.
pub(crate) struct Admin {
    pub(crate) edge: Arc<Edge>,
    /// Where the configuration came from.
    pub(crate) config: String,
    pub(crate) listeners: Vec<String>,
    /// Those of the embedded default, which can be stopped and started to see fallback.
    pub(crate) stand_ins: Arc<StandIns>,
}

const INDEX: &str = "Trunkline admin endpoints:\n\n  /          the status page, for browsers\n  /metrics   for Prometheus\n  /healthz   200 while the program runs\n  \
                     /readyz    200 while requests are taken\n  /status    pools, servers and routes as JSON\n";

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

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        listen::busy();
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let text = "text/plain; charset=utf-8";
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
