//! One attempt: connect to a server, send it the request, wait for the first byte of its answer.
//!
//! This leg is ours and not Pingora's pipeline: only so can the head be held until the first
//! body byte, the first byte have a limit of its own, and a connection survive a 429.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;

use super::body::Upload;
use super::exchange::{Exchange, Stop};
use super::peer::PeerTemplate;
use super::{Edge, outcome};
use crate::config::{RetryOn, Route};
use crate::observe::metrics::PoolMetrics;
use crate::plan::{Outcome, Phase};
use crate::pool::{Lease, Pool};
use crate::transform::fields::Edits;
use crate::transform::{headers, path};

/// Longest body of an unwanted answer that is read so that its connection can be used again.
const DISCARD: usize = 16 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_millis(50);

/// How long a server that broke off an upload is listened to for the reason.
const LAST_WORD: Duration = Duration::from_millis(100);

/// What an attempt needs to know.
pub(super) struct Leg<'a> {
    pub(super) edge: &'a Edge,
    pub(super) settings: &'a Route,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) metrics: &'a PoolMetrics,
    pub(super) template: &'a PeerTemplate,
    pub(super) edits: &'a Edits,
    pub(super) started: Instant,
}

/// Why there is no answer.
pub(super) enum Failed {
    /// The server failed.
    Outcome(Outcome),
    /// The request goes no further, whoever is asked.
    Stop(Stop),
}

impl Failed {
    pub(super) fn into_stop(self) -> Stop {
        match self {
            Failed::Stop(stop) => stop,
            Failed::Outcome(_) => Stop::Cut,
        }
    }
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Self {
        Failed::Outcome(outcome)
    }
}

/// The head of an answer and the first piece of its body, with the connection they came on.
pub(super) struct Answer {
    pub(super) head: ResponseHeader,
    /// `None` if the answer has no body.
    pub(super) first: Option<Bytes>,
    pub(super) connection: Connection,
    pub(super) pool: Arc<Pool>,
    pub(super) lease: Lease,
    pub(super) target: usize,
    /// Everything must be over by then.
    pub(super) deadline: Option<Instant>,
}

/// A connection to a server, with what is needed to give it back.
pub(super) struct Connection {
    pub(super) session: HttpSession,
    peer: HttpPeer,
    reused: bool,
    /// The whole request went out, so that another may follow on it.
    request_done: bool,
    /// A head came back.
    answered: bool,
    keepalive: Option<crate::config::Keepalive>,
}

impl Connection {
    /// Gives it back for other requests, if it is in a state for that.
    pub(super) async fn release(mut self, edge: &Edge) {
        let Some(keepalive) = self.keepalive.filter(|_| self.request_done) else {
            return;
        };
        if edge.uses.count(&self.session) >= keepalive.requests {
            return;
        }
        if let HttpSession::H1(h1) = &mut self.session {
            h1.respect_keepalive();
        }
        edge.connector
            .release_http_session(self.session, &self.peer, Some(keepalive.idle))
            .await;
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(super) fn of(self, target: usize) -> Self {
        Answer { target, ..self }
    }

    /// Throws an answer away that nobody wants, but keeps its connection if that is cheap.
    pub(super) async fn discard(mut self, edge: Arc<Edge>) {
        let mut length = self.first.as_ref().map_or(0, Bytes::len);
        let rest = async {
            while !self.connection.session.response_done() {
                match self.connection.session.read_response_body().await {
                    Ok(Some(chunk)) => length += chunk.len(),
                    Ok(None) => break,
                    Err(_) => return false,
                }
                if length > DISCARD {
                    return false;
                }
            }
            true
        };
        if let Ok(true) = tokio::time::timeout(DISCARD_TIME, rest).await {
            self.connection.release(&edge).await;
        }
    }
}

impl Leg<'_> {
    /// Asks the server. A kept connection that turns out to be dead is no failure of the server:
    /// most close theirs after 5 s without a word. Then a fresh one is made.
    pub(super) async fn ask(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        lease: Lease,
    ) -> Result<Answer, Failed> {
        let mut fresh = false;
        loop {
            let mut connection = self.connect(x, &lease, fresh).await?;
            match self
                .exchange(&mut connection, session, x, upload, &lease)
                .await
            {
                Err(Failed::Outcome(Outcome::Reset))
                    if connection.reused && !connection.answered && !fresh && self.may_resend() =>
                {
                    fresh = true;
                }
                Err(failed) => return Err(failed),
                Ok((head, first)) => {
                    return Ok(Answer {
                        head,
                        first,
                        connection,
                        pool: self.pool.clone(),
                        lease,
                        target: 0,
                        deadline: self.total(x),
                    });
                }
            }
        }
    }

    /// `retry: { on: [] }` means once, whatever happens.
    fn may_resend(&self) -> bool {
        self.settings.retry.on.contains(&RetryOn::Reset)
    }

    fn total(&self, x: &Exchange) -> Option<Instant> {
        self.pool
            .config
            .timeouts
            .total
            .map(|total| x.started + total)
    }

    async fn connect(
        &self,
        x: &mut Exchange,
        lease: &Lease,
        fresh: bool,
    ) -> Result<Connection, Failed> {
        let peer = self.template.at(lease.address(), fresh);
        let started = Instant::now();
        let bound = self.bound(x, self.pool.config.timeouts.connect, Phase::Connect);
        let connecting = self.edge.connector.get_http_session(&peer);
        let (session, reused) = match within(bound, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                let outcome = outcome::of_connecting(&error);
                // nobody mends a certificate that is not heard of
                let level = match outcome {
                    Outcome::TlsFailed => log::Level::Warn,
                    _ => log::Level::Debug,
                };
                let (pool, server) = (&self.pool.config.name, &self.pool.server(lease).name);
                log::log!(
                    level,
                    "pool {pool}: server {server} ({}): {error}",
                    lease.address()
                );
                return Err(outcome.into());
            }
            Err(phase) => return Err(Outcome::TimedOut(phase).into()),
        };
        let server = &self.metrics.servers[lease.server];
        if reused {
            server.reused.inc();
        } else {
            server.connected.inc();
            x.record.times.connect = started.elapsed();
            self.metrics
                .connect
                .observe(started.elapsed().as_secs_f64());
            if let Some(handshake) = tls_handshake(&session) {
                self.metrics.tls.observe(handshake.as_secs_f64());
            }
        }
        let keepalive = self.pool.config.keepalive;
        // whichever way it was made, it can serve others
        let peer = if fresh {
            self.template.at(lease.address(), false)
        } else {
            peer
        };
        Ok(Connection {
            session,
            peer,
            reused,
            request_done: false,
            answered: false,
            keepalive,
        })
    }

    /// Sends the request and waits for the answer's head and first piece.
    async fn exchange(
        &self,
        connection: &mut Connection,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        lease: &Lease,
    ) -> Result<(ResponseHeader, Option<Bytes>), Failed> {
        let sending = Instant::now();
        connection
            .session
            .set_write_timeout(self.pool.config.timeouts.idle);
        let head = self.request_head(session, x, upload, lease);
        let sent = self.send(connection, head, session, upload, lease).await;
        match sent {
            Ok(()) => {}
            Err(Failed::Outcome(_)) if connection.answered => {}
            // it may have answered before it stopped to listen: a 413 or a 503 is worth more
            // than the broken pipe it left
            Err(Failed::Outcome(broken)) => {
                let soon = (Some(Instant::now() + LAST_WORD), Phase::FirstByte);
                match within(soon, connection.session.read_response_header()).await {
                    Ok(Ok(())) => connection.answered = true,
                    _ => return Err(broken.into()),
                }
            }
            Err(stop) => return Err(stop),
        }
        self.metrics.send.observe(sending.elapsed().as_secs_f64());
        let waiting = Instant::now();
        let bound = self.bound(x, self.pool.config.timeouts.first_byte, Phase::FirstByte);
        let head = self
            .response_head(connection, session, upload, bound)
            .await?;
        let first = self
            .first_piece(connection, session, x, upload, bound, &head)
            .await?;
        self.metrics.wait.observe(waiting.elapsed().as_secs_f64());
        self.metrics.servers[lease.server]
            .first_byte
            .observe(self.started.elapsed().as_secs_f64());
        Ok((head, first))
    }

    fn request_head(
        &self,
        session: &Session,
        x: &Exchange,
        upload: &Upload,
        lease: &Lease,
    ) -> RequestHeader {
        let client = session.req_header();
        let server = self.pool.server(lease);
        let target = path::to_server(
            &x.record.path,
            client.uri.query(),
            &self.pool.config,
            server,
        );
        let hop = headers::Hop {
            request_id: &x.record.request_id,
            traceparent: &x.record.traceparent,
            via: &self.edge.via,
            client: x.record.client,
            host: super::head::host(client),
            secure: x.record.tls.is_some(),
        };
        let sent = headers::to_server(&client.headers, &self.pool.config, server, &hop);
        let mut head = RequestHeader::build_no_case(
            client.method.clone(),
            target.as_bytes(),
            Some(sent.len() + 4),
        )
        .expect("a path in normal form and a method that came in can go out");
        let authority = HeaderValue::from_str(&self.template.authority);
        set(
            &mut head,
            header::HOST,
            authority.expect("the host of a URL can stand in a header"),
        );
        for (name, value) in sent {
            let _ = head.append_header(name, value);
        }
        match upload.length() {
            // whisper.cpp waits ten minutes for the body of a POST that does not say it has none
            Some(0)
                if matches!(
                    client.method,
                    Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
                ) => {}
            Some(length) => set(
                &mut head,
                header::CONTENT_LENGTH,
                self.edits.length(length).into(),
            ),
            None => set(
                &mut head,
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            ),
        }
        if self.pool.config.keepalive.is_none() {
            set(
                &mut head,
                header::CONNECTION,
                HeaderValue::from_static("close"),
            );
        }
        head
    }

    /// Sends head and body. A refusal that comes before the body is out ends that early.
    async fn send(
        &self,
        connection: &mut Connection,
        head: RequestHeader,
        session: &mut Session,
        upload: &mut Upload,
        lease: &Lease,
    ) -> Result<(), Failed> {
        let up = &mut connection.session;
        let broken = |error: Box<pingora::Error>| Failed::Outcome(outcome::of_talking(&error));
        up.write_request_header(Box::new(head))
            .await
            .map_err(broken)?;
        let mut offset = 0;
        while let Some(piece) = upload.next(session, offset).await.map_err(Failed::Stop)? {
            let start = offset;
            offset += piece.len() as u64;
            for piece in self.edits.splice(start, piece) {
                self.metrics.servers[lease.server]
                    .bytes_sent
                    .inc_by(piece.len() as u64);
                let writing = up.write_request_body(piece, false);
                let written = while_client_stays(self.edge, session, upload.is_complete(), writing);
                written.await?.map_err(broken)?;
            }
            // a server that refuses an upload says so before it has all of it
            let more = !upload.is_complete() || offset < upload.received();
            if more && !connection.answered {
                let read = tokio::select! {
                    biased;
                    read = up.read_response_header() => read.is_ok(),
                    () = std::future::ready(()) => false,
                };
                let status = up
                    .response_header()
                    .map_or(StatusCode::CONTINUE, |head| head.status);
                connection.answered = read && !status.is_informational();
                if connection.answered && !status.is_success() {
                    return Ok(());
                }
            }
        }
        up.finish_request_body().await.map_err(broken)?;
        connection.request_done = true;
        Ok(())
    }

    /// Waits for the head, past any interim ones.
    async fn response_head(
        &self,
        connection: &mut Connection,
        session: &mut Session,
        upload: &Upload,
        bound: Bound,
    ) -> Result<ResponseHeader, Failed> {
        let mut read = connection.answered;
        loop {
            if !read {
                let reading = connection.session.read_response_header();
                wait(self.edge, session, upload, bound, reading).await?;
            }
            read = false;
            let head = connection
                .session
                .response_header()
                .ok_or(Outcome::Invalid)?;
            match head.status {
                // we asked for no other protocol
                StatusCode::SWITCHING_PROTOCOLS => return Err(Outcome::Invalid.into()),
                status if status.is_informational() => {}
                _ => {
                    connection.answered = true;
                    return Ok(connection
                        .session
                        .response_header()
                        .cloned()
                        .ok_or(Outcome::Invalid)?);
                }
            }
        }
    }

    /// Waits for the first piece of the body, if there is to be one.
    async fn first_piece(
        &self,
        connection: &mut Connection,
        session: &mut Session,
        x: &Exchange,
        upload: &Upload,
        bound: Bound,
        head: &ResponseHeader,
    ) -> Result<Option<Bytes>, Failed> {
        let bodyless = session.req_header().method == Method::HEAD
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        if bodyless {
            return Ok(None);
        }
        loop {
            let reading = connection.session.read_response_body();
            // an error behind the head: what it was worth is lost either way
            match wait(self.edge, session, upload, bound, reading).await? {
                Some(piece) if piece.is_empty() => {}
                Some(piece) => return Ok(Some(piece)),
                None => {
                    let promised =
                        head.status.is_success() && x.operation.is_some_and(|o| o.always_answers());
                    return if promised {
                        Err(Outcome::Empty.into())
                    } else {
                        Ok(None)
                    };
                }
            }
        }
    }

    /// The first of a phase's own limit, the route's per try and the pool's for all.
    fn bound(&self, x: &Exchange, own: Option<Duration>, phase: Phase) -> Bound {
        let own = own.map(|limit| (Instant::now() + limit, phase));
        // from now on, not from the start: the time a client takes to send its body is its own
        let per_try = self
            .settings
            .retry
            .per_try_timeout
            .map(|limit| (Instant::now() + limit, Phase::PerTry));
        let total = self.total(x).map(|at| (at, Phase::Total));
        let first = [own, per_try, total]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at);
        (
            first.map(|(at, _)| at),
            first.map_or(phase, |(_, phase)| phase),
        )
    }
}

/// How long the handshake of a new connection took, if it is one with TLS.
fn tls_handshake(session: &HttpSession) -> Option<Duration> {
    let layers = &session.digest()?.timing_digest;
    layers.get(1)?.as_ref()?.establishment_duration
}

fn set(head: &mut RequestHeader, name: http::HeaderName, value: HeaderValue) {
    head.insert_header(name, value)
        .expect("one header more fits");
}

/// A moment, and what it means if it passes.
pub(super) type Bound = (Option<Instant>, Phase);

/// What `work` gives, or the phase whose limit passed. Pingora's timers are shared and precise to
/// 10 ms; one of tokio's for each wait would wake its driver each time.
async fn within<T>((at, phase): Bound, work: impl Future<Output = T>) -> Result<T, Phase> {
    match at {
        Some(at) => {
            let left = at.saturating_duration_since(Instant::now());
            pingora_timeout::timeout(left, work)
                .await
                .map_err(|_| phase)
        }
        None => Ok(work.await),
    }
}

/// What a read from the server gives, in time and while the client stays.
pub(super) async fn wait<T>(
    edge: &Edge,
    session: &mut Session,
    upload: &Upload,
    bound: Bound,
    reading: impl Future<Output = pingora::Result<T>>,
) -> Result<T, Failed> {
    let reading = within(bound, reading);
    match while_client_stays(edge, session, upload.is_complete(), reading).await? {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(outcome::of_talking(&error).into()),
        Err(phase) => Err(Outcome::TimedOut(phase).into()),
    }
}

/// What `work` gives, unless the client leaves before (then the server need not go on either), or
/// the program ends. While a body is still arriving the client is not watched; reading it tells.
async fn while_client_stays<T>(
    edge: &Edge,
    session: &mut Session,
    watch: bool,
    work: impl Future<Output = T>,
) -> Result<T, Failed> {
    let mut cut = edge.cut.subscribe();
    let left = async {
        match watch {
            true => drop(session.read_body_or_idle(true).await),
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = left => Err(Failed::Stop(Stop::ClientGone)),
        _ = cut.wait_for(|cut| *cut) => Err(Failed::Outcome(Outcome::TimedOut(Phase::Shutdown))),
    }
}
