//! The request path. Here bytes move; what becomes of them is decided below.
//!
//! The steps of a request stand in `receive`, in the order of the story in `lib.rs`; the first of
//! them are in `admit`. HTTP/1 is spoken by `http1` to both sides; TLS, HTTP/2 and what connects to
//! servers with those are Pingora's. Of its `ProxyHttp` nothing is used: the relay is ours, as only
//! so an answer can be held until it has begun, and of the callbacks only `request_filter` was left.

mod access;
mod account;
mod admit;
mod alarm;
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
mod http1;
pub(crate) mod http2;
pub(crate) mod idle;
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
mod session;
mod side;
mod slow;
mod taken;
pub(crate) mod tls;
mod tunnel;
mod usage;
mod words;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::connectors::http::Connector;
use tokio::sync::watch;

use alarm::Signal;
use body::Upload;
use deliver::answer_locally;
use exchange::{Exchange, Stop};
use http1::{Client, NoRequest};
use idle::Shelves;
use peer::PeerTemplate;
use session::Session;

use crate::config::{Cors, Zone};
use crate::gateway::Gateway;
use crate::inspect::head::Refused;
use crate::observe::access_log::AccessLog;
use crate::observe::failures::Failures;
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracer;
use crate::reply;
use crate::unit;

/// How long a client's connection may wait for its next request.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What lives as long as the program: connections, counters, logs, and the gateway of the moment.
pub(crate) struct Edge {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) connector: Arc<Connector>,
    /// Connections to servers, beside those of the connector, which are of HTTP/2 and of others'.
    pub(crate) shelves: Arc<Shelves>,
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
    cut: watch::Sender<bool>,
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
        shelves: Arc<Shelves>,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
    ) -> Self {
        let tracer = Tracer::new(snapshot.gateway.config.tracing.as_ref(), &metrics);
        Edge {
            snapshot: ArcSwap::from_pointee(snapshot),
            connector,
            shelves,
            metrics,
            access_log,
            tracer,
            failures: Failures::default(),
            via: format!("1.1 trunkline-{}", &unit::new_request_id()[..12]),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
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

/// The head of the next request. There is none once the program stops: nothing was asked yet, so an
/// idle connection ends there.
async fn next_request(
    client: &mut Client,
    idle: Option<Duration>,
    stop: &Signal,
) -> Result<(), NoRequest> {
    let mut reading = pin!(client.read_request(idle));
    poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Pending if stop.is_up() => Poll::Ready(Err(NoRequest::Gone)),
        read => read,
    })
    .await
}

/// Whether the answer must have no body. Asks the record: a request that was refused has no head.
fn is_head(x: &Exchange) -> bool {
    x.record.method == "HEAD"
}

impl Proxy {
    /// Serves the requests of a connection of HTTP/1, one after the other.
    async fn connection(&self, client: Client, stop: watch::Receiver<bool>) {
        let stop = Signal::new(stop);
        let cut = Signal::new(self.edge.cut.subscribe());
        let requests = Box::pin(self.requests(client, stop.clone()));
        alarm::watched(stop, cut, requests).await;
    }

    /// Serves what has a task of its own: a stream of HTTP/2.
    async fn alone<F: Future>(&self, serving: Pin<Box<F>>) -> F::Output {
        let cut = Signal::new(self.edge.cut.subscribe());
        alarm::watched(cut.clone(), cut, serving).await
    }

    async fn requests(&self, client: Client, stop: Signal) {
        let mut session = Session::Http1(Box::new(client));
        let mut idle = None;
        loop {
            let Session::Http1(client) = &mut session else {
                return;
            };
            let read = next_request(client, idle, &stop).await;
            if read == Err(NoRequest::Gone) {
                return;
            }
            listen::busy();
            let Some(kept) = self.one(session, read, stop.is_up()).await else {
                return;
            };
            session = kept;
            idle = Some(KEEPALIVE);
        }
    }

    /// Serves one request; hands the connection back if another may follow.
    async fn one(
        &self,
        mut session: Session,
        read: Result<(), NoRequest>,
        stopping: bool,
    ) -> Option<Session> {
        let served = match read {
            Ok(()) => {
                let mut x = Exchange::new(self.edge.snapshot(), &self.edge.metrics.in_flight);
                let served = self.serve(&mut session, &mut x, stopping).await;
                if let Err(Stop::Upgraded(answer)) = served {
                    Box::pin(tunnel::run(&self.edge, session, &mut x, *answer)).await;
                    self.finish(&mut x);
                    return None;
                }
                self.finish(&mut x);
                served
            }
            Err(broken) => self.refuse(&mut session, broken).await,
        };
        listen::idle();
        match session {
            Session::Http1(client) if served.is_ok() && client.is_reusable() => {
                Some(Session::Http1(client))
            }
            Session::Http1(mut client) => {
                client.shutdown().await;
                None
            }
            // only the stream ends: dropped, it is reset behind its head, while a shutdown would
            // throw even that away if it is still queued
            Session::Http2(session) if served.is_ok() => {
                let _ = session.finish().await;
                None
            }
            Session::Http2(_) => None,
        }
    }

    /// Serves one request; an error means that the connection must end without a proper end of the
    /// answer, or that it goes on as a tunnel.
    async fn serve(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        stopping: bool,
    ) -> Result<(), Stop> {
        let limits = &x.snapshot.gateway.config.limits;
        // who stops takes no further request; each client learns it from its answer
        let goes_on = !stopping
            && !self.edge.draining.load(Relaxed)
            && head::keeps_alive(session.req_header());
        session.set_keepalive(goes_on);
        session.begin();
        let mut upload = Upload::new(session, limits);
        let served = self.receive(session, x, &mut upload).await;
        x.record.bytes_in = upload.received();
        match served {
            Err(Stop::Answer(reply)) => {
                self.count_local(reply.code);
                answer_locally(session, x, *reply, Some(&upload)).await
            }
            Ok(()) => {
                upload.linger(session).await;
                Ok(())
            }
            other => other,
        }
    }

    /// Counts a request that is over.
    fn finish(&self, x: &mut Exchange) {
        x.finish();
        x.count_key(&self.edge.metrics);
        self.edge.access_log.write(&x.record);
        self.edge.failures.note(&x.record);
        self.edge.tracer.finish(&mut x.record);
    }

    /// Answers what is no request: it has no method and no path to tell of, but it was here.
    async fn refuse(&self, session: &mut Session, broken: NoRequest) -> Result<(), Stop> {
        let mut x = Exchange::new(self.edge.snapshot(), &self.edge.metrics.in_flight);
        x.record.client = session.client();
        x.record.listener.clone_from(&self.listener);
        x.take_request_id(unit::new_request_id());
        session.set_keepalive(false);
        let limits = x.snapshot.gateway.config.limits.head;
        let reply = match broken {
            NoRequest::TooMuch => reply::head_refused(Refused::Headers(limits)),
            NoRequest::Target => reply::head_refused(Refused::Uri(limits.uri)),
            NoRequest::Broken | NoRequest::Gone => {
                reply::invalid_request("This is no HTTP request that can be understood.")
            }
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
