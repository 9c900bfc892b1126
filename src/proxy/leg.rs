//! One attempt: connect to a server, send it the request, wait until its answer has begun.
//!
//! This leg is ours and not Pingora's pipeline: only so can the head be held until the answer has
//! really begun, the first byte have a limit of its own, and a connection survive a 429.

use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{Method, StatusCode, header};
use pingora::protocols::http::client::HttpSession;
use tokio::net::TcpStream;

use super::body::Upload;
use super::connection::{Answer, Connection, Talk};
use super::exchange::{Exchange, Stop};
use super::http1::{Bare, Upstream};
use super::peer::{PeerTemplate, Place};
use super::request::{Head, Writing};
use super::side::{Bound, Side, at_once, earliest, within};
use super::{Edge, descriptors, outcome};
use crate::config::{RetryOn, Route};
use crate::dialect::{Translated, ollama};
use crate::inspect::head::has_known_coding;
use crate::inspect::opening::Opening;
use crate::observe::metrics::PoolMetrics;
use crate::plan::{Outcome, Phase};
use crate::pool::{Lease, Pool};
use crate::reply;
use crate::transform::fields::Rewritten;
use crate::unit::TraceContext;

/// How long a server that broke off an upload is listened to for the reason.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Bytes of a translated body that are sent at once.
const BLOCK: usize = 64 * 1024;

/// Bytes of an error that tell its reason.
const REASON: usize = 4096;

/// When the rest of an error has to be here, if it is to be looked into.
fn soon() -> (Instant, Phase) {
    (Instant::now() + LAST_WORD, Phase::FirstByte)
}

/// What an attempt needs to know.
pub(super) struct Leg<'a> {
    pub(super) edge: &'a Edge,
    pub(super) x: &'a Exchange,
    pub(super) settings: &'a Route,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) metrics: &'a PoolMetrics,
    pub(super) template: &'a PeerTemplate,
    pub(super) rewritten: Rewritten,
    /// The request in the server's words, if these are not the client's.
    pub(super) words: Option<&'a Translated>,
    pub(super) target: usize,
    /// What the server is told of the trace.
    pub(super) trace: Option<TraceContext>,
    /// Somebody else can be asked, who gets half of the time that the client has left.
    pub(super) shared: bool,
    pub(super) started: Instant,
}

/// An answer that has begun.
pub(super) struct Begun {
    pub(super) head: Parts,
    pub(super) first: Option<Bytes>,
    /// Bytes that the server sent for it.
    pub(super) received: usize,
    /// Tells the rest of it, if the server speaks another dialect.
    pub(super) stream: Option<Box<ollama::Stream>>,
}

/// Why there is no answer.
pub(super) enum Failed {
    /// The server failed.
    Outcome(Outcome),
    /// The request goes no further, whoever is asked.
    Stop(Stop),
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Self {
        Failed::Outcome(outcome)
    }
}

impl Leg<'_> {
    /// Asks the server. A kept connection that turns out to be dead is no failure of the server:
    /// most close theirs after 5 s without a word. Then a fresh one is made.
    pub(super) async fn ask(
        &self,
        mut side: Side<'_>,
        lease: Lease,
    ) -> Result<Box<Answer>, Failed> {
        let mut fresh = false;
        loop {
            let mut connection = self.connect(&mut side, &lease, fresh).await?;
            match self.exchange(&mut connection, &mut side, &lease).await {
                Err(Failed::Outcome(Outcome::Reset))
                    if connection.reused && !connection.answered && !fresh && self.may_resend() =>
                {
                    fresh = true;
                }
                Err(failed) => return Err(failed),
                Ok(begun) => {
                    return Ok(Box::new(Answer {
                        head: begun.head,
                        first: begun.first,
                        received: begun.received,
                        stream: begun.stream,
                        broken: None,
                        connection,
                        pool: self.pool.clone(),
                        member: lease.member().clone(),
                        backend: self.template.backend.clone(),
                        lease: Some(lease),
                        target: self.target,
                        voice: self.rewritten.voice.clone(),
                        deadline: self.total(),
                    }));
                }
            }
        }
    }

    /// `retry: { on: [] }` means once, whatever happens.
    fn may_resend(&self) -> bool {
        self.settings.retry.on.contains(&RetryOn::Reset)
    }

    fn total(&self) -> Option<Instant> {
        // a conversation is bounded by its silences
        let total = self.pool.config.timeouts.total.filter(|_| !self.x.upgrade);
        total.map(|total| self.x.started + total)
    }

    async fn connect(
        &self,
        side: &mut Side<'_>,
        lease: &Lease,
        fresh: bool,
    ) -> Result<Connection, Failed> {
        let place = self.template.place(lease.address(), &self.edge.shelves);
        let kept = match fresh {
            true => None,
            false => place.shelf.take(),
        };
        let (talk, made_in) = match kept {
            Some(kept) => (Talk::Http1(kept), None),
            // on the heap, as it is large and most requests need none
            None => Box::pin(self.make(side, lease, &place, fresh)).await?,
        };
        let connection = Connection {
            talk,
            place,
            reused: made_in.is_none(),
            made_in,
            request_done: false,
            answered: false,
            keepalive: self.pool.config.keepalive.filter(|_| !self.x.upgrade),
        };
        self.count(&connection, lease);
        Ok(connection)
    }

    /// Makes a new connection, or takes part in one of HTTP/2; says how long it took to make it.
    async fn make(
        &self,
        side: &mut Side<'_>,
        lease: &Lease,
        place: &Place,
        fresh: bool,
    ) -> Result<(Talk, Option<Duration>), Failed> {
        let started = Instant::now();
        let bound = self.bound(
            self.pool.config.timeouts.connect,
            Phase::Connect,
            side.upload(),
            started,
        );
        let (talk, reused) = if self.template.is_plain(self.x.upgrade) {
            let connecting = pin!(TcpStream::connect(place.address));
            let connecting = within(bound, connecting);
            match side.during(self.edge, connecting).await? {
                Ok(Ok(tcp)) => {
                    // heads and pieces go out when they are written
                    let _ = tcp.set_nodelay(true);
                    (Talk::Http1(Box::new(Upstream::new(Bare::Tcp(tcp)))), false)
                }
                Ok(Err(error)) if descriptors::are_exhausted(&error) => {
                    return Err(self.exhausted());
                }
                Ok(Err(error)) => {
                    return Err(self.unconnected(lease, Outcome::ConnectFailed, &error));
                }
                Err(phase) => return Err(Outcome::TimedOut(phase).into()),
            }
        } else {
            let peer = self.template.at(place.address, fresh, self.x.upgrade);
            let connecting = pin!(self.edge.connector.get_http_session(&peer));
            let connecting = within(bound, connecting);
            match side.during(self.edge, connecting).await? {
                Ok(Ok((HttpSession::H1(session), _))) => {
                    let layered = Upstream::new(Bare::Layered(session.into_inner()));
                    (Talk::Http1(Box::new(layered)), false)
                }
                Ok(Ok((session, reused))) => (Talk::Http2(Box::new(session)), reused),
                Ok(Err(error)) if descriptors::ran_out(&error) => return Err(self.exhausted()),
                Ok(Err(error)) => {
                    return Err(self.unconnected(lease, outcome::of_connecting(&error), &error));
                }
                Err(phase) => return Err(Outcome::TimedOut(phase).into()),
            }
        };
        Ok((talk, (!reused).then(|| started.elapsed())))
    }

    fn exhausted(&self) -> Failed {
        let exhausted = &self.edge.metrics.descriptors;
        exhausted.note("a server could not be connected");
        Failed::Stop(reply::exhausted().into())
    }

    fn unconnected(&self, lease: &Lease, outcome: Outcome, error: &dyn Display) -> Failed {
        // nobody mends a certificate that is not heard of
        let level = match outcome {
            Outcome::TlsFailed => log::Level::Warn,
            _ => log::Level::Debug,
        };
        let (pool, server) = (&self.pool.config.name, &self.pool.server(lease).name);
        let address = lease.address();
        log::log!(level, "pool {pool}: server {server} ({address}): {error}");
        outcome.into()
    }

    fn count(&self, connection: &Connection, lease: &Lease) {
        let server = &self.metrics.servers[lease.server];
        let Some(made_in) = connection.made_in else {
            server.reused.inc();
            return;
        };
        server.connected.inc();
        self.metrics.connect.observe(made_in.as_secs_f64());
        if let Some(handshake) = connection.tls_handshake() {
            self.metrics.tls.observe(handshake.as_secs_f64());
        }
    }

    /// Sends the request and waits for the answer's head and first piece.
    async fn exchange(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        lease: &Lease,
    ) -> Result<Begun, Failed> {
        let sending = Instant::now();
        if let Talk::Http2(session) = &mut connection.talk {
            session.set_write_timeout(self.pool.config.timeouts.idle);
        }
        let writing = Writing {
            edge: self.edge,
            x: self.x,
            trace: self.trace,
            pool: &self.pool.config,
            server: self.pool.server(lease),
            auth: self.settings.targets[self.target].auth(self.pool.server(lease)),
            template: self.template,
            edits: &self.rewritten.edits,
            length: self.length(side.upload()),
            translated: self.words.is_some(),
            http2: connection.is_h2(),
        };
        let head = writing.head(side.head());
        match self.send(connection, head, side, lease).await {
            Ok(()) => {}
            Err(Failed::Outcome(_)) if connection.answered => {}
            // it may have answered before it stopped to listen: a 413 or a 503 is worth more
            // than the broken pipe it left
            Err(Failed::Outcome(broken)) => {
                let soon = (Some(Instant::now() + LAST_WORD), Phase::FirstByte);
                match within(soon, connection.talk.read_head()).await {
                    Ok(Ok(())) => connection.answered = true,
                    _ => return Err(broken.into()),
                }
            }
            Err(stop) => return Err(stop),
        }
        let waiting = Instant::now();
        self.metrics.send.observe((waiting - sending).as_secs_f64());
        let bound = self.bound(
            self.pool.config.timeouts.first_byte,
            Phase::FirstByte,
            side.upload(),
            waiting,
        );
        let head = self.response_head(connection, side, bound).await?;
        let begun = match self.words {
            Some(words) => {
                self.first_words(connection, side, bound, head, words)
                    .await?
            }
            None => {
                let first = self.first_piece(connection, side, bound, &head).await?;
                Begun {
                    head,
                    received: first.as_ref().map_or(0, Bytes::len),
                    first,
                    stream: None,
                }
            }
        };
        let now = Instant::now();
        self.metrics.wait.observe((now - waiting).as_secs_f64());
        self.metrics.servers[lease.server]
            .first_byte
            .observe((now - self.started).as_secs_f64());
        if begun.head.status.is_success() {
            self.pool.took(lease, now - waiting);
        }
        Ok(begun)
    }

    /// The length of the body that is sent, before its edits, if it is known.
    fn length(&self, upload: &Upload) -> Option<u64> {
        match self.words {
            Some(words) => Some(words.body.as_ref().map_or(0, Bytes::len) as u64),
            None => upload.length(),
        }
    }

    /// Whether there is a piece of the body already, which can go out with the head.
    fn has_begun(&self, upload: &Upload) -> bool {
        match self.words {
            Some(words) => words.body.as_ref().is_some_and(|body| !body.is_empty()),
            None => upload.received() > 0,
        }
    }

    /// The piece of the body that starts at `offset`; `None` at its end.
    async fn piece(&self, side: &mut Side<'_>, offset: u64) -> Result<Option<Bytes>, Stop> {
        let Some(words) = self.words else {
            return side.next(offset).await;
        };
        let offset = offset as usize;
        let body = words.body.as_ref().filter(|body| offset < body.len());
        Ok(body.map(|body| body.slice(offset..body.len().min(offset + BLOCK))))
    }

    /// Sends head and body. A refusal that comes before the body is out ends that early.
    async fn send(
        &self,
        connection: &mut Connection,
        head: Head,
        side: &mut Side<'_>,
        lease: &Lease,
    ) -> Result<(), Failed> {
        let h2 = connection.is_h2();
        let mut first = match self.words {
            Some(_) => None,
            None => side.at_hand().await.map_err(Failed::Stop)?,
        };
        let follows = first.is_some() || self.has_begun(side.upload());
        self.sent(side, connection.talk.begin(head, follows))
            .await?;
        let sized = self.length(side.upload()).is_some();
        let mut offset = 0;
        loop {
            let next = match first.take() {
                Some(piece) => Some(piece),
                None => self.piece(side, offset).await.map_err(Failed::Stop)?,
            };
            let Some(piece) = next else { break };
            let start = offset;
            offset += piece.len() as u64;
            let mut pieces = self.rewritten.edits.splice(start, piece).into_iter();
            while let Some(piece) = pieces.next() {
                self.metrics.servers[lease.server]
                    .bytes_sent
                    .inc_by(piece.len() as u64);
                let follows = pieces.len() > 0 || (!sized && self.is_last(side.upload(), offset));
                self.sent(side, connection.talk.write_body(piece, follows))
                    .await?;
            }
            // a server that refuses an upload says so before it has all of it
            let upload = side.upload();
            let more = !upload.is_complete() || self.length(upload).is_some_and(|n| offset < n);
            // half a read of an HTTP/2 head cannot be taken up again
            if more && !connection.answered && !h2 {
                let read = tokio::select! {
                    biased;
                    read = connection.talk.read_head() => read.is_ok(),
                    () = std::future::ready(()) => false,
                };
                let status = (connection.talk)
                    .head()
                    .map_or(StatusCode::CONTINUE, |head| head.status);
                connection.answered = read && !status.is_informational();
                if connection.answered && !status.is_success() {
                    return Ok(());
                }
            }
        }
        self.sent(side, connection.talk.finish()).await?;
        connection.request_done = true;
        Ok(())
    }

    /// Whether nothing follows behind the first `offset` bytes.
    fn is_last(&self, upload: &Upload, offset: u64) -> bool {
        upload.is_complete() && offset >= upload.received()
    }

    /// What is being sent, in time and while the client stays.
    async fn sent(
        &self,
        side: &mut Side<'_>,
        sending: impl Future<Output = pingora::Result<()>>,
    ) -> Result<(), Failed> {
        let mut sending = pin!(sending);
        let broken = |error: Box<pingora::Error>| Failed::Outcome(outcome::of_talking(&error));
        // the system takes most of what it is given at once
        if let Some(sent) = at_once(sending.as_mut()).await {
            return sent.map_err(broken);
        }
        let idle = self.pool.config.timeouts.idle;
        let bound = self.bound(idle, Phase::Send, side.upload(), Instant::now());
        match side.during(self.edge, within(bound, sending)).await? {
            Ok(sent) => sent.map_err(broken),
            Err(phase) => Err(Outcome::TimedOut(phase).into()),
        }
    }

    /// Waits for the head, past any interim ones.
    async fn response_head(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        bound: Bound,
    ) -> Result<Parts, Failed> {
        let mut read = connection.answered;
        loop {
            if !read {
                let reading = pin!(connection.talk.read_head());
                side.wait(self.edge, bound, reading).await?;
            }
            read = false;
            let head = connection.talk.head().ok_or(Outcome::Invalid)?;
            match head.status {
                StatusCode::SWITCHING_PROTOCOLS if self.x.upgrade => {}
                // we asked for no other protocol
                StatusCode::SWITCHING_PROTOCOLS => return Err(Outcome::Invalid.into()),
                status if status.is_informational() => continue,
                _ if !has_known_coding(&head.headers) => return Err(Outcome::Invalid.into()),
                _ => {}
            }
            connection.answered = true;
            return Ok(connection.talk.take_head().ok_or(Outcome::Invalid)?);
        }
    }

    /// Waits until the body has begun, if there is to be one: for its first event, for audio
    /// behind the head of its container, else for its first byte.
    async fn first_piece(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        bound: Bound,
        head: &Parts,
    ) -> Result<Option<Bytes>, Failed> {
        let bodyless = side.head().method == Method::HEAD
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
            );
        if bodyless {
            return Ok(None);
        }
        let promised =
            head.status.is_success() && self.x.operation.is_some_and(|o| o.always_answers());
        let mut opening = promised.then(|| {
            let content_type = head.headers.get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            Opening::new(content_type, self.pool.config.min_first_bytes)
        });
        let mut held = BytesMut::new();
        // these say why, and what follows depends on it
        let looked_into = matches!(head.status.as_u16(), 429 | 503);
        loop {
            let done = connection.talk.is_over();
            if looked_into && !held.is_empty() && (done || held.len() >= REASON) {
                return Ok(Some(held.freeze()));
            }
            let bound = match looked_into && !held.is_empty() {
                true => earliest(&[bound.0.map(|at| (at, bound.1)), Some(soon())], bound.1),
                false => bound,
            };
            let reading = pin!(connection.talk.read_body());
            let read = match side.wait(self.edge, bound, reading).await {
                Err(Failed::Outcome(Outcome::TimedOut(_))) if !held.is_empty() && looked_into => {
                    return Ok(Some(held.freeze()));
                }
                // an error behind the head: what it was worth is lost either way
                read => read?,
            };
            match read {
                Some(piece) if looked_into => held.extend_from_slice(&piece),
                None if looked_into && !held.is_empty() => return Ok(Some(held.freeze())),
                Some(piece) if piece.is_empty() => {}
                Some(piece) => {
                    let begun = opening.as_mut().is_none_or(|opening| opening.feed(&piece));
                    match (begun, held.is_empty()) {
                        (true, true) => return Ok(Some(piece)),
                        (begun, _) => {
                            held.extend_from_slice(&piece);
                            if begun {
                                return Ok(Some(held.freeze()));
                            }
                        }
                    }
                }
                None if promised => return Err(Outcome::Empty.into()),
                None => return Ok(None),
            }
        }
    }

    /// When the answer has to have begun, as the client waits no longer.
    fn patience(&self, upload: &Upload) -> Option<(Instant, Phase)> {
        let deadline = self.x.deadline(upload)?;
        let since = self.started.max(upload.completed()?);
        Some(match self.shared {
            true => (
                since + deadline.saturating_duration_since(since) / 2,
                Phase::Share,
            ),
            false => (deadline, Phase::Client),
        })
    }

    /// The first of a phase's own limit, the route's per try, both from `now` on, the pool's for all
    /// and the client's patience.
    fn bound(&self, own: Option<Duration>, phase: Phase, upload: &Upload, now: Instant) -> Bound {
        let own = own.map(|limit| (now + limit, phase));
        // from now on, not from the start: the time a client takes to send its body is its own
        let per_try = self.settings.retry.per_try_timeout;
        let per_try = per_try.map(|limit| (now + limit, Phase::PerTry));
        let total = self.total().map(|at| (at, Phase::Total));
        earliest(&[own, per_try, total, self.patience(upload)], phase)
    }
}
