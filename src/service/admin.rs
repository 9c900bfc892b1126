//! The admin endpoints: metrics, health, readiness, status. Never on a client listener.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use tokio::sync::{mpsc, oneshot};

use super::access::{self, Denial};
use super::page;
use super::standin::StandIns;
use crate::config::Level;
use crate::limit;
use crate::observe::status::Status;
use crate::proxy::{Edge, listen};
use crate::transform;
use crate::unit::Span;

/// Something the whole program is to do, and where to say how it went.
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) done: oneshot::Sender<Result<String, String>>,
}

/// What the program may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Read the configuration again.
    Reload,
    /// Let the program that is installed now take over.
    Upgrade,
    /// Open log files anew.
    ReopenLogs,
    /// Show messages of this level, `None` for the configured one; for so long, if that is said.
    LogLevel(Option<Level>, Option<Duration>),
}

/// The application behind the admin listener.
pub(crate) struct Admin {
    pub(crate) edge: Arc<Edge>,
    /// Where the configuration came from.
    pub(crate) config: String,
    pub(crate) listeners: Arc<ArcSwap<Vec<String>>>,
    /// Where the whole program is asked for something.
    pub(crate) orders: mpsc::Sender<Order>,
    /// Those of the embedded default, which can be stopped and started to see fallback.
    pub(crate) stand_ins: Arc<StandIns>,
}

const INDEX: &str = "Trunkline admin endpoints:\n\n  /          the status page, for browsers\n  /metrics   for Prometheus\n  /healthz   200 while the program runs\n  \
                     /readyz    200 while requests are taken\n  /status    pools, servers and routes as JSON\n\nWith POST:\n\n  \
                     /reload                 read the configuration again\n  /upgrade                let the program installed now take over\n  \
                     /logs/reopen            open the access log anew\n  /logs/level             show messages of ?level=debug (&for=10m)\n  \
                     /drain/POOL/SERVER      give a server no new requests (?for=10m)\n  /undrain/POOL/SERVER    give it requests again\n  \
                     /cache/clear            forget all answers that are kept\n";

const CLEAR_CACHE: &str = "/cache/clear";

impl Admin {
    fn status(&self) -> Status {
        let now = Instant::now();
        let snapshot = self.edge.snapshot();
        let gateway = &snapshot.gateway;
        Status {
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            uptime_seconds: self.edge.started.elapsed().as_secs(),
            ready: self.is_ready(),
            draining: self.edge.draining.load(Relaxed),
            config: self.config.clone(),
            demo: self.edge.metrics.demo.get() == 1,
            listeners: self.listeners.load().to_vec(),
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
        let snapshot = self.edge.snapshot();
        snapshot.gateway.refresh_gauges(Instant::now());
        let month = limit::month(SystemTime::now());
        let ledger = &snapshot.gateway.limits.ledger;
        for (key, budget) in snapshot
            .gateway
            .config
            .keys
            .iter()
            .filter_map(|key| Some((&key.name, key.budget?)))
        {
            let spent = ledger.spent(&month, key);
            self.edge.metrics.budget(key, budget, spent);
        }
        self.edge.metrics.exposition(self.edge.access_log.dropped())
    }

    /// Has the whole program do something; says how that went.
    async fn order(&self, what: What) -> (StatusCode, String) {
        let (done, answer) = oneshot::channel();
        let asked = self.orders.send(Order { what, done }).await.is_ok();
        match answer.await {
            Ok(Ok(done)) if asked => (StatusCode::OK, format!("{done}\n")),
            Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
            _ => {
                let stopping =
                    "the program is stopping, or another one has just taken over: ask again\n"
                        .to_owned();
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

    async fn clear_cache(&self) -> (StatusCode, String) {
        let snapshot = self.edge.snapshot();
        let Some(cache) = &snapshot.gateway.cache else {
            let none = "no route keeps answers\n".to_owned();
            return (StatusCode::NOT_FOUND, none);
        };
        let cache = cache.clone();
        let cleared = tokio::task::spawn_blocking(move || cache.clear()).await;
        let (memory, disk) = cleared.unwrap_or_default();
        let mut message = format!("{memory} answers in memory and {disk} on disk are forgotten");
        if let Some(state) = &snapshot.gateway.state {
            message.push_str(match state.forget_answers().await {
                true => ", and all that edges share",
                false => "; those that edges share are not, as their server is away",
            });
        }
        log::info!("{message}");
        (StatusCode::OK, format!("{message}\n"))
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

const TEXT: &str = "text/plain; charset=utf-8";

/// An answer in the making: status, type of the body, body.
type Said = (StatusCode, &'static str, Vec<u8>);

fn text((status, message): (StatusCode, String)) -> Said {
    (status, TEXT, message.into_bytes())
}

/// Whether a path only asks how the program is, for who has no token.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// What a `POST` to a path asks the whole program for, if it does.
///
/// # Errors
/// If what it says of it cannot be understood.
fn what(path: &str, query: Option<&str>) -> Option<Result<What, String>> {
    match path {
        "/reload" => Some(Ok(What::Reload)),
        "/upgrade" => Some(Ok(What::Upgrade)),
        "/logs/reopen" => Some(Ok(What::ReopenLogs)),
        "/logs/level" => Some(log_level(query)),
        _ => None,
    }
}

/// `level=debug&for=10m`; without a level the configured one.
fn log_level(query: Option<&str>) -> Result<What, String> {
    let given = |name| transform::path::parameter(query, name);
    let level = given("level")
        .map(|level| level.parse::<Level>())
        .transpose()?;
    let time = given("for").map(|time| time.parse::<Span>()).transpose()?;
    Ok(What::LogLevel(level, time.map(|time| time.0)))
}

/// Whether a path changes something.
fn is_order(path: &str) -> bool {
    what(path, None).is_some()
        || path == CLEAR_CACHE
        || path.starts_with("/drain/")
        || path.starts_with("/undrain/")
}

impl Admin {
    /// Whether a request may be answered.
    fn admit(&self, session: &ServerSession) -> Result<(), Denial> {
        let snapshot = self.edge.snapshot();
        let Some(admin) = &snapshot.gateway.config.admin else {
            // the listener is about to end, and with it what it asked for
            return Err(Denial::Token);
        };
        let head = session.req_header();
        let digest = session
            .digest()
            .and_then(|digest| digest.ssl_digest.as_ref());
        let certificate = digest.is_some_and(|tls| !tls.cert_digest.is_empty());
        access::check(admin, &head.headers, is_open(head.uri.path()), certificate)
    }

    /// `typed`: a person has gone there, so that a browser may ask them.
    fn denied(&self, denial: Denial, typed: bool) -> Response<Vec<u8>> {
        let metrics = &self.edge.metrics.admin_rejected;
        metrics.with_label_values(&[denial.label()]).inc();
        let mut response = Response::builder()
            .status(denial.status())
            .header(header::CONTENT_TYPE, TEXT)
            .header(header::CONTENT_LENGTH, denial.message().len());
        if denial == Denial::Token {
            let challenge = match typed {
                true => "Basic realm=\"trunkline\", charset=\"UTF-8\"",
                false => "Bearer realm=\"trunkline\"",
            };
            response = response.header(header::WWW_AUTHENTICATE, challenge);
        }
        response
            .body(denial.message().into())
            .expect("fixed headers are valid")
    }

    async fn answer(&self, method: &str, path: &str, query: Option<&str>) -> Said {
        match (method, path) {
            ("GET" | "HEAD", _) => self.look(path),
            ("POST", path) if path.starts_with("/drain/") || path.starts_with("/undrain/") => {
                text(self.drain(path, query))
            }
            ("POST", CLEAR_CACHE) => text(self.clear_cache().await),
            ("POST", path) if path.starts_with("/standins/") => {
                text(self.stand_in(&path["/standins/".len()..]).await)
            }
            ("POST", path) => match what(path, query) {
                Some(Ok(what)) => text(self.order(what).await),
                Some(Err(why)) => text((StatusCode::BAD_REQUEST, format!("{why}\n"))),
                None => text((StatusCode::NOT_FOUND, INDEX.to_owned())),
            },
            _ => text((StatusCode::NOT_FOUND, INDEX.to_owned())),
        }
    }

    fn look(&self, path: &str) -> Said {
        match path {
            "/" => text((StatusCode::OK, INDEX.to_owned())),
            "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", self.metrics()),
            "/healthz" => text((StatusCode::OK, "ok\n".to_owned())),
            "/readyz" if self.is_ready() => text((StatusCode::OK, "ready\n".to_owned())),
            "/readyz" => {
                let reason = match self.edge.draining.load(Relaxed) {
                    true => "draining\n",
                    false => "no server of any pool is available\n",
                };
                text((StatusCode::SERVICE_UNAVAILABLE, reason.to_owned()))
            }
            "/status" => {
                let status = serde_json::to_vec_pretty(&self.status());
                let status = status.expect("names and numbers can be written");
                (StatusCode::OK, "application/json", status)
            }
            path if is_order(path) => {
                let message = "ask for this with POST\n".to_owned();
                text((StatusCode::METHOD_NOT_ALLOWED, message))
            }
            _ => text((StatusCode::NOT_FOUND, INDEX.to_owned())),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        listen::busy();
        let admitted = self.admit(session);
        let head = session.req_header();
        let (method, path) = (head.method.as_str(), head.uri.path());
        // the page itself tells nothing, and asks for the token
        if path == "/" && matches!(method, "GET" | "HEAD") && page::is_for(&head.headers) {
            listen::idle();
            return page::answer(method == "HEAD");
        }
        if let Err(denial) = admitted {
            listen::idle();
            return self.denied(denial, access::is_typed(&head.headers));
        }
        let (status, content_type, body) = self.answer(method, path, head.uri.query()).await;
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
