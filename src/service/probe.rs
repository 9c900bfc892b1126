//! Finds the addresses of servers and probes them, again and again, off the request path.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OkOrErr, OrErr, Result};
use prometheus::{Histogram, IntCounter};

use crate::config::kind::{Loading, Warming};
use crate::config::{self, Health};
use crate::gateway::Gateway;
use crate::observe::metrics::Metrics;
use crate::pool::{Member, Pool, Sign, Signs, Watch};
use crate::proxy::descriptors::ran_out;
use crate::proxy::peer::PeerTemplate;

/// How often host names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// How long a resolver may take.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// How long start-up waits for host names; servers that are not found by then join later.
const START_TIME: Duration = Duration::from_secs(2);

/// Makes the parts of pools that touch the network.
pub(crate) struct Watcher {
    pub(crate) connector: Arc<Connector>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Watcher {
    /// How server `n` of a pool is found and probed.
    pub(crate) fn watch(&self, pool: &config::Pool, n: usize) -> Watch {
        let server = &pool.servers[n];
        let discovery = Resolve {
            host: server.url.host.clone(),
            port: server.url.port,
        };
        let signs = Arc::new(Signs::default());
        // a refusal may be the end of the box as well; only who waits for it gives it the benefit
        let loading = match (pool.loading(), pool.warming) {
            (Loading::Refuses, Warming::Skip) => Loading::Silent,
            (loading, _) => loading,
        };
        let check = match &pool.health {
            Health::Off => None,
            Health::On {
                path,
                timeout,
                rise,
                fall,
                expect,
                ..
            } => {
                let (good, bad, duration) = self.metrics.probes(&pool.name, &server.name);
                let template = PeerTemplate::new(pool, server, 0);
                let head =
                    |path: &str| own_head(server, &template, path, pool.http2, "health check");
                let request = path.as_deref().map(head);
                let models = (loading == Loading::AnswersLate).then(|| head("/api/ps"));
                Some(Box::new(Probe {
                    connector: self.connector.clone(),
                    template,
                    request,
                    expect: expect.clone(),
                    timeout: *timeout,
                    rise: *rise as usize,
                    fall: *fall as usize,
                    good,
                    bad,
                    duration,
                    loading,
                    models,
                    signs: signs.clone(),
                    metrics: self.metrics.clone(),
                    well: AtomicBool::new(false),
                }) as _)
            }
        };
        Watch {
            discovery: Box::new(discovery),
            check,
            signs,
        }
    }
}

/// Finds all servers once, then keeps finding and probing them for as long as their pool lives.
/// Pools that `old` had are watched already.
pub(crate) async fn start(gateway: &Gateway, old: Option<&Gateway>, metrics: &Arc<Metrics>) {
    let is_new = |pool: &Arc<Pool>| {
        !old.is_some_and(|old| old.pools.iter().any(|kept| Arc::ptr_eq(kept, pool)))
    };
    let new: Vec<_> = gateway
        .pools
        .iter()
        .filter(|pool| is_new(pool))
        .cloned()
        .collect();
    let mut first = tokio::task::JoinSet::new();
    for pool in &new {
        for server in 0..pool.config.servers.len() {
            let pool = pool.clone();
            first.spawn(async move { find(&pool, server, true).await });
        }
    }
    let _ = tokio::time::timeout(START_TIME, first.join_all()).await;
    for pool in new {
        for server in 0..pool.config.servers.len() {
            tokio::spawn(keep_watching(
                Arc::downgrade(&pool),
                server,
                metrics.clone(),
            ));
        }
    }
}

async fn keep_watching(pool: std::sync::Weak<Pool>, server: usize, metrics: Arc<Metrics>) {
    let mut resolved = Instant::now();
    let has_addresses = |pool: Arc<Pool>| !pool.addresses(server).is_empty();
    let mut found = pool.upgrade().is_some_and(has_addresses);
    loop {
        // one that was replaced lives on with its requests, but another looks after its servers
        let Some(pool) = pool.upgrade().filter(|pool| !pool.is_retired()) else {
            return;
        };
        if resolved.elapsed() >= RESOLVE_EVERY || !found {
            found = find(&pool, server, found).await;
            resolved = Instant::now();
        }
        let mut probes = tokio::task::JoinSet::new();
        for member in pool.addresses(server) {
            probes.spawn(probe(pool.clone(), member, metrics.clone()));
        }
        probes.join_all().await;
        let interval = match &pool.config.health {
            Health::On { interval, .. } => *interval,
            Health::Off => RESOLVE_EVERY,
        };
        drop(pool);
        // a little apart, so that a hundred servers are not all probed in the same millisecond
        let spread = interval.mul_f64(0.95 + 0.1 * fastrand::f64());
        tokio::time::sleep(spread).await;
    }
}

async fn probe(pool: Arc<Pool>, member: Arc<Member>, metrics: Arc<Metrics>) {
    if !pool.probe(&member).await {
        return;
    }
    let name = &pool.server(&member).name;
    let healthy = member.is_healthy();
    let state = if healthy { "up" } else { "down" };
    log::info!(
        "pool {}: server {name} ({}) is {state}",
        pool.config.name,
        member.address()
    );
    metrics.changed_health(&pool.config.name, name, healthy);
}

/// Resolves a server; says whether that worked, and complains when it stops to.
async fn find(pool: &Pool, server: usize, worked: bool) -> bool {
    let result = pool.discover(server).await;
    if let (Err(error), true) = (&result, worked) {
        let name = &pool.config.servers[server].name;
        log::warn!(
            "pool {}: server {name} cannot be found: {error}",
            pool.config.name
        );
    }
    result.is_ok()
}

/// The addresses of a host name.
struct Resolve {
    host: String,
    port: u16,
}

#[async_trait]
impl ServiceDiscovery for Resolve {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = tokio::time::timeout(RESOLVE_TIME, looking)
            .await
            .or_err_with(ErrorType::ConnectTimedout, || {
                format!("no answer for the name {}", self.host)
            })?
            .or_err_with(ErrorType::ConnectError, || {
                format!("the name {} does not resolve", self.host)
            })?;
        let found: Vec<SocketAddr> = found.collect();
        // `localhost` is both ::1 and 127.0.0.1, and most boxes listen on one of them
        let v4_only = found.iter().any(SocketAddr::is_ipv4);
        let backends = found
            .into_iter()
            .filter(|address| address.is_ipv4() || !v4_only)
            .map(|address| Backend {
                addr: address.into(),
                weight: 1,
                ext: pingora::lb::Extensions::new(),
            })
            .collect();
        Ok((backends, HashMap::new()))
    }
}

/// One kind of probe of one server.
struct Probe {
    connector: Arc<Connector>,
    template: PeerTemplate,
    /// `None`: a connection is enough.
    request: Option<RequestHeader>,
    expect: Vec<u16>,
    timeout: Duration,
    rise: usize,
    fall: usize,
    good: IntCounter,
    bad: IntCounter,
    duration: Histogram,
    /// How the server says that it loads.
    loading: Loading,
    /// How it is asked for the models it has in memory, if it tells.
    models: Option<RequestHeader>,
    signs: Arc<Signs>,
    metrics: Arc<Metrics>,
    /// How the last probe went that could be made.
    well: AtomicBool,
}

/// The head of a request of our own, on a connection of its own.
pub(super) fn own_head(
    server: &config::Server,
    template: &PeerTemplate,
    path: &str,
    http2: bool,
    purpose: &str,
) -> RequestHeader {
    let mut head = RequestHeader::build_no_case("GET", path.as_bytes(), Some(5))
        .expect("a checked path is valid");
    let mut set = |name, value: &str| {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            let _ = head.insert_header(name, value);
        }
    };
    set(header::HOST, &template.authority);
    set(
        header::USER_AGENT,
        &format!("trunkline/{} ({purpose})", env!("CARGO_PKG_VERSION")),
    );
    // HTTP/2 has no such header
    if !http2 {
        set(header::CONNECTION, "close");
    }
    if let Some(key) = &server.key {
        set(header::AUTHORIZATION, &format!("Bearer {}", key.expose()));
    }
    head
}

/// Sends a request of our own on a fresh connection, and reads the head of the answer.
pub(super) async fn send(
    connector: &Connector,
    template: &PeerTemplate,
    address: SocketAddr,
    mut head: RequestHeader,
) -> Result<HttpSession> {
    // never a kept connection: that one exists does not say that another can be made
    let peer = template.at(address, true, false);
    let (mut session, _) = connector.get_http_session(&peer).await?;
    // what was agreed on is known only now
    if matches!(session, HttpSession::H2(_)) {
        let target = head.uri.path_and_query().map(ToString::to_string);
        head.remove_header(&header::HOST);
        template.address(&mut head, target.as_deref().unwrap_or("/"));
    }
    session.write_request_header(Box::new(head)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    Ok(session)
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> Result<()> {
        let started = Instant::now();
        let result = match tokio::time::timeout(self.timeout, self.ask(target)).await {
            Ok(result) => result,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the probe took too long"),
        };
        // that we can open nothing says nothing about the server
        if let Err(error) = &result
            && ran_out(error)
        {
            self.metrics
                .descriptors
                .note("a server could not be probed");
            return if self.well.load(Relaxed) {
                Ok(())
            } else {
                result
            };
        }
        self.well.store(result.is_ok(), Relaxed);
        self.duration.observe(started.elapsed().as_secs_f64());
        let loading = result.as_ref().is_err_and(|error| {
            matches!(
                (self.loading, error.etype()),
                (Loading::Answers503, ErrorType::HTTPStatus(503))
                    | (Loading::Refuses, ErrorType::ConnectRefused)
            )
        });
        let models = match (&self.models, &result) {
            (Some(request), Ok(())) => {
                let asking = self.loaded_models(target, request);
                let asked = tokio::time::timeout(self.timeout, asking).await;
                asked.ok().and_then(Result::ok)
            }
            _ => None,
        };
        self.signs.set(address(target), Sign { loading, models });
        match &result {
            Ok(()) => self.good.inc(),
            Err(error) => {
                self.bad.inc();
                log::debug!("probe of {}: {error}", target.addr);
            }
        }
        result
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.rise } else { self.fall }
    }
}

/// Longest list of models that is read, in bytes.
const MODELS: usize = 256 * 1024;

fn address(target: &Backend) -> SocketAddr {
    *target
        .addr
        .as_inet()
        .expect("discovery finds IP addresses only")
}

impl Probe {
    async fn ask(&self, target: &Backend) -> Result<()> {
        let Some(request) = &self.request else {
            return tokio::net::TcpStream::connect(address(target))
                .await
                .map(drop)
                .or_err(ErrorType::ConnectError, "no connection");
        };
        let session = self.get(target, request).await?;
        let status = session
            .response_header()
            .map_or(0, |head| head.status.as_u16());
        if !self.expect.contains(&status) {
            return Error::e_explain(
                ErrorType::HTTPStatus(status),
                "not a status that was expected",
            );
        }
        Ok(())
    }

    async fn get(&self, target: &Backend, request: &RequestHeader) -> Result<HttpSession> {
        let head = request.clone();
        send(&self.connector, &self.template, address(target), head).await
    }

    /// The models a server has in memory (Ollama docs/api.md, "List Running Models").
    async fn loaded_models(
        &self,
        target: &Backend,
        request: &RequestHeader,
    ) -> Result<Vec<String>> {
        let mut session = self.get(target, request).await?;
        let mut body = Vec::new();
        while let Some(piece) = session.read_response_body().await? {
            body.extend_from_slice(&piece);
            if body.len() > MODELS {
                return Error::e_explain(ErrorType::ReadError, "the list of models is too long");
            }
        }
        let list: serde_json::Value = serde_json::from_slice(&body)
            .or_err(ErrorType::ReadError, "the list of models is not JSON")?;
        let models = list["models"].as_array();
        let models = models
            .or_err(ErrorType::ReadError, "there is no list of models")?
            .iter();
        Ok(models
            .filter_map(|model| model["name"].as_str().or(model["model"].as_str()))
            .map(str::to_owned)
            .collect())
    }
}
