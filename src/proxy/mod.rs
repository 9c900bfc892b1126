//! Pingora on the request path. Here bytes move; what becomes of them is decided below.
//!
//! The steps of a request stand in `receive`, in the order of the story in `lib.rs`; the first of
//! them are in `admit`. The proxy is a
//! `HttpServerApp` on Pingora's sessions and connectors and not a `ProxyHttp`: of the callbacks of
//! that trait only `request_filter` was left, as the relay is ours, and around it stood a parser's
//! error page that nobody could give our shape, nor log, nor count.

mod access;
mod account;
mod admit;
mod body;
mod bound;
mod cached;
mod connection;
mod deliver;
pub(crate) mod descriptors;
mod exchange;
mod gate;
mod head;
mod hedge;
pub(crate) mod http2;
mod left;
mod leg;
mod line;
pub(crate) mod listen;
mod lists;
mod memory;
mod mirror;
mod of_pools;
mod outcome;
pub(crate) mod peer;
mod preload;
mod relay;
mod request;
mod side;
mod slow;
mod taken;
pub(crate) mod tls;
mod tunnel;
mod usage;
mod wire;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::connectors::http::Connector;
use pingora::protocols::http::ServerSession as Session;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType};

use body::Upload;
use deliver::answer_locally;
use exchange::{Exchange, Stop};
use peer::PeerTemplate;

use crate::config::{Cors, Zone};
use crate::gateway::Gateway;
use crate::observe::access_log::AccessLog;
use crate::observe::failures::Failures;
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracer;
use crate::reply;
use crate::unit;

/// How long a client's connection may wait for its next request.
const KEEPALIVE_SECS: u64 = 60;
/// How long a client may take to make room for the next bytes of an answer.
const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// What lives as long as the program: connections, counters, logs, and the gateway of the moment.
pub(crate) struct Edge {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: AccessLog,
    pub(crate) tracer: Tracer,
    pub(crate) failures: Failures,
    /// What we write into `Via`: by it a request that comes back is known.
    via: String,
    pub(crate) started: Instant,
    /// Set when the program is about to stop.
    pub(crate) draining: AtomicBool,
    /// Says when requests have had their time and are cut.
    cut: tokio::sync::watch::Sender<bool>,
}

/// A gateway, and its servers as Pingora connects to them.
pub(crate) struct Snapshot {
    pub(crate) gateway: Gateway,
    /// By pool and server.
    pub(crate) peers: Vec<Vec<PeerTemplate>>,
}

impl Snapshot {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let peers = gateway
            .config
            .pools
            .iter()
            .map(|pool| {
                pool.servers
                    .iter()
                    .map(|server| PeerTemplate::new(pool, server, group(pool)))
                    .collect()
            })
            .collect();
        Snapshot { gateway, peers }
    }
}

/// Connections are shared by name of the pool, across reloads.
fn group(pool: &crate::config::Pool) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    (
        &pool.name,
        pool.tls.verify,
        &pool.tls.sni,
        &pool.tls.authorities,
    )
        .hash(&mut hasher);
    hasher.finish()
}

impl Edge {
    pub(crate) fn new(
        snapshot: Snapshot,
        connector: Arc<Connector>,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
    ) -> Self {
        let tracer = Tracer::new(snapshot.gateway.config.tracing.as_ref(), &metrics);
        Edge {
            snapshot: ArcSwap::from_pointee(snapshot),
            connector,
            metrics,
            access_log,
            tracer,
            failures: Failures::default(),
            via: format!("1.1 trunkline-{}", &unit::new_request_id()[..12]),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            cut: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The gateway of the moment.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Ends all requests that are still served, each with its line in the log.
    pub(crate) fn cut_requests(&self) {
        self.cut.send_replace(true);
    }

    /// Puts another gateway into service. Requests that began with the old one keep it.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

/// The proxy on one listener.
pub(crate) struct Proxy {
    pub(crate) edge: Arc<Edge>,
    pub(crate) listener: String,
    pub(crate) cors: Option<Cors>,
}

impl Proxy {
    /// admit, understand, route, remember, plan, relay. Any step may stop the request.
    async fn receive(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<(), Stop> {
        self.admit(session, x)?;
        let (route, body) = self.route(session, x, upload).await?;
        x.route = Some(route);
        let snapshot = x.snapshot.clone();
        let settings = &snapshot.gateway.config.routes[route];
        x.record.route = Some(settings.name.clone());
        x.home |= settings.zone == Some(Zone::Home);
        x.metrics().decided.inc();
        let body = body.as_ref();
        if bound::concerns(x, route) {
            Box::pin(bound::bind(&self.edge, session, x, route, upload)).await?;
        }
        if settings.cache.is_some()
            && Box::pin(cached::served(&self.edge, session, x, route, upload, body)).await?
        {
            return Ok(());
        }
        if settings.memory.is_some() {
            Box::pin(memory::recall(session, x, route, upload, body)).await?;
        }
        let relayed = relay::relay(&self.edge, session, x, route, upload, body).await;
        cached::ended(x, &relayed);
        relayed
    }
}

/// Whether the answer must have no body. Asks the record: a request that was refused has no head.
fn is_head(x: &Exchange) -> bool {
    x.record.method == "HEAD"
}

#[async_trait]
impl HttpServerApp for Proxy {
    /// One request on a connection; hands the connection back if another may follow.
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: Session,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut stopping = shutdown.clone();
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            // nothing was asked yet: an idle connection ends here
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        };
        listen::busy();
        let stopping = *shutdown.borrow();
        let served = match read {
            Ok(true) => {
                let (mut x, served) = self.serve(&mut session, stopping).await;
                let Err(Stop::Upgraded(answer)) = served else {
                    self.finish(&mut x);
                    listen::idle();
                    return self.end(session, served).await;
                };
                Box::pin(tunnel::run(&self.edge, session, &mut x, *answer)).await;
                self.finish(&mut x);
                return None;
            }
            Err(error) if *error.etype() == ErrorType::InvalidHTTPHeader => {
                self.refuse(&mut session, &error).await
            }
            // the client closed, or broke off
            Ok(false) | Err(_) => return None,
        };
        listen::idle();
        self.end(session, served).await
    }
}

impl Proxy {
    /// Serves one request; an error means that the connection must end without a proper end of the
    /// answer, or that it goes on as a tunnel.
    async fn serve(&self, session: &mut Session, stopping: bool) -> (Exchange, Result<(), Stop>) {
        let mut x = Exchange::new(self.edge.snapshot(), &self.edge.metrics.in_flight);
        let limits = &x.snapshot.gateway.config.limits;
        // who stops takes no further request; each client learns it from its answer
        let goes_on = !stopping
            && !self.edge.draining.load(Relaxed)
            && head::keeps_alive(session.req_header());
        session.set_keepalive(goes_on.then_some(KEEPALIVE_SECS));
        // reading a body has limits of its own
        session.set_read_timeout(None);
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        // the watch for a client that leaves must not trip over its next request
        session.set_pipelining_enabled(true);
        let mut upload = Upload::new(session, limits);
        let served = self.receive(session, &mut x, &mut upload).await;
        x.record.bytes_in = upload.received();
        let served = match served {
            Err(Stop::Answer(reply)) => {
                self.count_local(reply.code);
                answer_locally(session, &mut x, *reply, Some(&upload)).await
            }
            Ok(()) => {
                upload.linger(session).await;
                Ok(())
            }
            other => other,
        };
        (x, served)
    }

    /// Counts a request that is over.
    fn finish(&self, x: &mut Exchange) {
        x.finish();
        x.count_key(&self.edge.metrics);
        self.edge.access_log.write(&x.record);
        self.edge.failures.note(&x.record);
        self.edge.tracer.finish(&mut x.record);
    }

    /// Ends a connection, or hands it back for its next request.
    async fn end(
        &self,
        mut session: Session,
        served: Result<(), Stop>,
    ) -> Option<ReusedHttpStream> {
        if served.is_err() {
            // of HTTP/2 only the stream ends: dropped, it is reset behind its head, while a
            // shutdown would throw even that away if it is still queued
            if !session.is_http2() {
                session.shutdown().await;
            }
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }

    /// Answers what is no request: it has no method and no path to tell of, but it was here.
    async fn refuse(&self, session: &mut Session, error: &Error) -> Result<(), Stop> {
        let mut x = Exchange::new(self.edge.snapshot(), &self.edge.metrics.in_flight);
        let address = session
            .client_addr()
            .and_then(|addr| addr.as_inet())
            .map(|addr| addr.ip());
        x.record.client = address;
        x.record.listener.clone_from(&self.listener);
        x.take_request_id(unit::new_request_id());
        session.set_keepalive(None);
        let limits = x.snapshot.gateway.config.limits.head;
        let reply = match head::too_much(error, limits) {
            Some(refused) => reply::head_refused(refused),
            None => reply::invalid_request("This is no HTTP request that can be understood."),
        };
        self.count_local(reply.code);
        let answered = answer_locally(session, &mut x, reply, None).await;
        self.finish(&mut x);
        answered
    }

    fn count_local(&self, code: &str) {
        self.edge
            .metrics
            .local_replies
            .with_label_values(&[code])
            .inc();
    }
}
