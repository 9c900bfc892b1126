//! Pingora on the request path. Here bytes move; what becomes of them is decided below.
//!
//! The steps of a request stand in `receive`, in the order of the story in `lib.rs`. The proxy is a
//! `HttpServerApp` on Pingora's sessions and connectors and not a `ProxyHttp`: of the callbacks of
//! that trait only `request_filter` was left, as the relay is ours, and around it stood a parser's
//! error page that nobody could give our shape, nor log, nor count.

mod account;
mod body;
mod connection;
mod deliver;
mod exchange;
mod head;
mod hedge;
pub(crate) mod http2;
mod leg;
mod line;
pub(crate) mod listen;
mod outcome;
pub(crate) mod peer;
mod preload;
mod relay;
mod request;
mod side;
pub(crate) mod tls;
mod tunnel;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderName, Method, Version, header};
use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::connectors::http::Connector;
use pingora::protocols::http::ServerSession as Session;
use pingora::server::ShutdownWatch;

use body::Upload;
use deliver::answer_locally;
use exchange::{Exchange, Stop};
use peer::{PeerTemplate, Uses};

use crate::config::{Cors, Zone};
use crate::gateway::Gateway;
use crate::inspect::endpoint::{self, Operation};
use crate::inspect::{self, Body, Scanner, path};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::reply;
use crate::route::{Known, Lookup};
use crate::transform;
use crate::unit;

/// How long a client's connection may wait for its next request.
const KEEPALIVE_SECS: u64 = 60;
/// How long a client may take to make room for the next bytes of an answer.
const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// What lives as long as the program: connections, counters, logs, and the gateway of the moment.
pub(crate) struct Edge {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) connector: Arc<Connector>,
    uses: Uses,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: AccessLog,
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
        Edge {
            snapshot: ArcSwap::from_pointee(snapshot),
            connector,
            uses: Uses::default(),
            metrics,
            access_log,
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
    /// admit, understand, route, plan, relay. Any step may stop the request.
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
        relay::relay(&self.edge, session, x, route, upload, body.as_ref()).await
    }

    /// Who asks, for what, and may it go on: all from the head alone.
    fn admit(&self, session: &Session, x: &mut Exchange) -> Result<(), Stop> {
        let head = session.req_header();
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let record = &mut x.record;
        record.listener.clone_from(&self.listener);
        record.client = session
            .client_addr()
            .and_then(|addr| addr.as_inet())
            .map(|addr| addr.ip());
        record.method = head.method.as_str().to_owned();
        record.protocol = head::protocol(head.version);
        record.tls = head::tls_version(session);
        record.user_agent = text(header::USER_AGENT).map(str::to_owned);
        let given =
            text(HeaderName::from_static("x-request-id")).filter(|id| unit::is_request_id(id));
        let id = given.map_or_else(unit::new_request_id, str::to_owned);
        let trace = text(HeaderName::from_static("traceparent"))
            .filter(|trace| unit::is_traceparent(trace));
        record.traceparent = trace.map_or_else(unit::new_traceparent, str::to_owned);
        record.path = head.uri.path().to_owned();
        x.take_request_id(id);
        x.cors = self.cors.is_some();
        if x.cors {
            let origin = head::allowed_origin(head, self.cors.as_ref());
            x.answer_headers.extend(head::cors_headers(origin));
        }
        let normal = path::normalise(head::raw_path(head))
            .map_err(|e| reply::invalid_request(&format!("{e}.")))?;
        x.record.path = endpoint::canonical(normal);
        x.operation = endpoint::operation(&x.record.path);
        x.record.operation = x.operation.map(Operation::label);
        if head.version == Version::HTTP_11 && text(header::HOST).is_none() {
            return Err(reply::invalid_request("The request has no Host header.").into());
        }
        // Pingora takes any list that ends in `chunked`, and what comes before would be lost
        let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        if codings.any(|coding| {
            !coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
        }) {
            return Err(
                reply::invalid_request("The only Transfer-Encoding taken is `chunked`.").into(),
            );
        }
        let came_back = head.headers.get_all(header::VIA).iter().any(|via| {
            via.to_str()
                .is_ok_and(|via| via.split(',').any(|hop| hop.trim() == self.edge.via))
        });
        if came_back {
            return Err(reply::loop_detected().into());
        }
        x.upgrade = head::asks_for_websocket(head)?;
        x.home = head::stays_home(head)?;
        x.deadline = head::patience(head).map(|patience| x.started + patience);
        let asked = HeaderName::from_static("access-control-request-method");
        if x.cors && head.method == Method::OPTIONS && head.headers.contains_key(asked) {
            let headers = head.headers.get("access-control-request-headers");
            return Err(reply::preflight(headers).into());
        }
        Ok(())
    }

    /// Reads as much as the decision needs, and decides.
    async fn route(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<(usize, Option<Body>), Stop> {
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        let path = x.record.path.clone();
        let html = head::wants_html(session.req_header());
        if let Some(own) = gateway.own_endpoint(&head::asked(session.req_header(), &path), html) {
            return Err(own.into());
        }
        let find = |session: &Session, known: Known<'_>| {
            gateway.find(&head::asked(session.req_header(), &path), known)
        };
        if x.operation == Some(Operation::Realtime) && upload.length() == Some(0) {
            return Self::route_realtime(session, x, &path);
        }
        let mut lookup = find(session, Known::Length(upload.length()));
        let fields = match lookup {
            Lookup::Found(route) => {
                gateway.rewrites(route, x.operation) && upload.length() != Some(0)
            }
            Lookup::ReadBody { fields } => fields,
            Lookup::Missing { .. } => false,
        };
        let mut limit = gateway.largest_body();
        if let Lookup::Found(route) = lookup {
            limit = gateway.config.routes[route].max_body;
            let audio = x.operation.is_some_and(Operation::hears);
            let length = upload.length().unwrap_or(0);
            if let Some(refusal) = gateway.too_large(route, x.home, audio, length) {
                return Err(refusal.into());
            }
        }
        let mut body = None;
        if fields || matches!(lookup, Lookup::ReadBody { .. }) {
            body = self.understand(session, x, upload, fields, limit).await?;
            if !matches!(lookup, Lookup::Found(_)) {
                let known = Known::All {
                    length: upload.received(),
                    body: body.as_ref(),
                };
                lookup = find(session, known);
            }
            // the length decided, but the fields are to be rewritten: they pass by once more
            if let Lookup::Found(route) = lookup
                && !fields
                && gateway.rewrites(route, x.operation)
            {
                body = self.understand(session, x, upload, true, limit).await?;
            }
        }
        match lookup {
            Lookup::Found(route) => {
                upload.limit(gateway.config.routes[route].max_body)?;
                Ok((route, body))
            }
            Lookup::Missing { model: true } => Err(reply::model_not_found(
                body.as_ref().and_then(|body| body.text("model")),
            )
            .into()),
            _ => Err(reply::no_route(&x.record.method, &x.record.path).into()),
        }
    }

    /// A realtime conversation names its model in the query.
    fn route_realtime(
        session: &Session,
        x: &mut Exchange,
        path: &str,
    ) -> Result<(usize, Option<Body>), Stop> {
        let head = session.req_header();
        let model = transform::path::parameter(head.uri.query(), "model");
        let body = model.map(|model| Body::of_model(&model));
        let known = Known::All {
            length: 0,
            body: body.as_ref(),
        };
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        x.record.model = body
            .as_ref()
            .and_then(|b| b.text("model"))
            .map(str::to_owned);
        match gateway.find(&head::asked(head, path), known) {
            Lookup::Found(route) => Ok((route, None)),
            Lookup::Missing { model: true } => {
                Err(reply::model_not_found(x.record.model.as_deref()).into())
            }
            _ => Err(reply::no_route(&x.record.method, path).into()),
        }
    }

    /// Reads the body ahead, and its fields if they are wanted.
    async fn understand(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        fields: bool,
        limit: u64,
    ) -> Result<Option<Body>, Stop> {
        let peeked = |result: &str| {
            self.edge
                .metrics
                .body_peek
                .with_label_values(&[result])
                .inc()
        };
        let started = Instant::now();
        let headers = &session.req_header().headers;
        let scanner = match fields && inspect::has_fields(headers, x.operation) {
            true => Some(Scanner::new(headers).map_err(|broken| {
                peeked("invalid");
                reply::invalid_body(&broken)
            })?),
            false => None,
        };
        if let Err(stop) = upload.limit(limit) {
            peeked("too_large");
            return Err(stop);
        }
        let read = upload.read_ahead(session, scanner).await;
        x.record.times.body += started.elapsed();
        let body = read.inspect_err(|stop| {
            if let Stop::Answer(reply) = stop {
                peeked(if reply.status.as_u16() == 413 {
                    "too_large"
                } else {
                    "invalid"
                });
            }
        })?;
        if let Some(body) = &body {
            peeked(if body.text("model").is_some() {
                "found"
            } else {
                "missing"
            });
            x.record.model = body.text("model").map(str::to_owned);
            x.record.voice = body.text("voice").map(str::to_owned);
            x.record.stream = body.field("stream").is_some_and(|field| field.is_true);
            if x.operation == Some(Operation::Speech) {
                let input = body.field("input");
                x.record.characters = input.map(|input| match &input.text {
                    Some(text) => text.chars().count() as u64,
                    // a long text is only located; its bytes stand for its characters
                    None => (input.value.end - input.value.start).saturating_sub(2),
                });
            }
            if let (true, Some(file)) = (x.operation.is_some_and(Operation::hears), &body.file) {
                x.record.audio = upload.audio(file.clone()).await;
            }
        }
        Ok(body)
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
                self.refuse(&mut session).await
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
        let goes_on = !stopping && head::keeps_alive(session.req_header());
        session.set_keepalive(goes_on.then_some(KEEPALIVE_SECS));
        session.set_read_timeout(limits.body_timeout);
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        // the watch for a client that leaves must not trip over its next request
        session.set_pipelining_enabled(true);
        let mut upload = Upload::new(session, limits.body_timeout);
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
        self.edge.access_log.write(&x.record);
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
    async fn refuse(&self, session: &mut Session) -> Result<(), Stop> {
        let mut x = Exchange::new(self.edge.snapshot(), &self.edge.metrics.in_flight);
        let address = session
            .client_addr()
            .and_then(|addr| addr.as_inet())
            .map(|addr| addr.ip());
        x.record.client = address;
        x.record.listener.clone_from(&self.listener);
        x.take_request_id(unit::new_request_id());
        session.set_keepalive(None);
        let reply = reply::invalid_request("This is no HTTP request that can be understood.");
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
