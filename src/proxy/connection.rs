//! A connection to a server, and the answer that comes on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::response::Parts;
use pingora::protocols::http::client::HttpSession;

use super::Edge;
use super::http1::Upstream;
use super::peer::Place;
use super::request::Head;
use crate::config::Keepalive;
use crate::dialect::{Broken, ollama};
use crate::pool::{Lease, Member, Pool};

/// Longest body of an unwanted answer that is read so that its connection can be used again.
const DISCARD: usize = 16 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_millis(50);

/// What is spoken with a server.
pub(super) enum Talk {
    Http1(Box<Upstream>),
    Http2(Box<HttpSession>),
}

impl Talk {
    /// Sends a head. In HTTP/1.1 it waits for the first piece of the body if one `follows`.
    pub(super) async fn begin(&mut self, head: Head, follows: bool) -> pingora::Result<()> {
        match (self, head) {
            (Talk::Http1(talk), Head::Http1(opening)) => talk.begin(opening, follows).await,
            (Talk::Http2(talk), Head::Http2(head)) => talk.write_request_header(head).await,
            _ => unreachable!("a head is written for the connection it goes out on"),
        }
    }

    /// Sends a piece of the body; in HTTP/1.1 it may wait for the next one if that `follows`.
    pub(super) async fn write_body(&mut self, piece: Bytes, follows: bool) -> pingora::Result<()> {
        match self {
            Talk::Http1(talk) => talk.write_body(&piece, follows).await,
            Talk::Http2(talk) => talk.write_request_body(piece, false).await,
        }
    }

    /// Ends the request.
    pub(super) async fn finish(&mut self) -> pingora::Result<()> {
        match self {
            Talk::Http1(talk) => talk.finish().await,
            Talk::Http2(talk) => talk.finish_request_body().await,
        }
    }

    /// Reads the next head of an answer.
    pub(super) async fn read_head(&mut self) -> pingora::Result<()> {
        match self {
            Talk::Http1(talk) => talk.read_head().await,
            Talk::Http2(talk) => talk.read_response_header().await,
        }
    }

    /// The head that was read last.
    pub(super) fn head(&self) -> Option<&Parts> {
        match self {
            Talk::Http1(talk) => talk.head(),
            Talk::Http2(talk) => talk.response_header().map(AsRef::as_ref),
        }
    }

    /// The same, for good.
    pub(super) fn take_head(&mut self) -> Option<Parts> {
        match self {
            Talk::Http1(talk) => talk.take_head(),
            Talk::Http2(talk) => talk.response_header().cloned().map(Parts::from),
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub(super) async fn read_body(&mut self) -> pingora::Result<Option<Bytes>> {
        match self {
            Talk::Http1(talk) => talk.read_body().await,
            Talk::Http2(talk) => talk.read_response_body().await,
        }
    }

    /// Whether all of the answer was read.
    pub(super) fn is_over(&mut self) -> bool {
        match self {
            Talk::Http1(talk) => talk.is_over(),
            Talk::Http2(talk) => talk.response_done(),
        }
    }
}

/// A connection to a server, with what is needed to give it back.
pub(super) struct Connection {
    pub(super) talk: Talk,
    pub(super) place: Arc<Place>,
    pub(super) reused: bool,
    /// How long it took to make it; `None` if it was kept.
    pub(super) made_in: Option<Duration>,
    /// The whole request went out, so that another may follow on it.
    pub(super) request_done: bool,
    /// A head came back.
    pub(super) answered: bool,
    pub(super) keepalive: Option<Keepalive>,
}

/// The head of an answer and the first piece of its body, with the connection they came on.
pub(super) struct Answer {
    pub(super) head: Parts,
    /// `None` if the answer has no body.
    pub(super) first: Option<Bytes>,
    /// Bytes that the server sent for it.
    pub(super) received: usize,
    /// Tells the rest of it, if the server speaks another dialect.
    pub(super) stream: Option<Box<ollama::Stream>>,
    /// Why the rest cannot be told.
    pub(super) broken: Option<Broken>,
    pub(super) connection: Connection,
    pub(super) pool: Arc<Pool>,
    pub(super) member: Arc<Member>,
    /// Pool and server, as the client is told.
    pub(super) backend: HeaderValue,
    /// The server's slot; given back early if the answer is only kept in case nobody does better.
    pub(super) lease: Option<Lease>,
    pub(super) target: usize,
    /// The voice the server was asked for, if it is another than the client asked for.
    pub(super) voice: Option<String>,
    /// Everything must be over by then.
    pub(super) deadline: Option<Instant>,
}

impl Connection {
    pub(super) fn is_h2(&self) -> bool {
        matches!(self.talk, Talk::Http2(_))
    }

    /// Gives it back now for other requests, if it is in a state for that.
    pub(super) fn release(self, edge: &Edge, now: Instant) {
        let Some(keepalive) = self.keepalive.filter(|_| self.request_done) else {
            return;
        };
        match self.talk {
            // servers that close after 100 requests do it without a word
            Talk::Http1(talk) if talk.is_reusable() && talk.uses() < keepalive.requests => {
                // not to the last moment: the request would cross its end on the way
                let promised = talk.promised().map(|promised| promised * 9 / 10);
                let idle = promised.map_or(keepalive.idle, |promised| promised.min(keepalive.idle));
                self.place.shelf.put(talk, now + idle);
            }
            Talk::Http1(_) => {}
            // many requests share one
            Talk::Http2(session) => {
                let connector = edge.connector.clone();
                tokio::spawn(async move {
                    connector
                        .release_http_session(*session, &self.place.peer, Some(keepalive.idle))
                        .await;
                });
            }
        }
    }

    /// How long the handshake took, if this is a new connection with TLS.
    pub(super) fn tls_handshake(&self) -> Option<Duration> {
        match &self.talk {
            Talk::Http1(talk) => talk.tls_handshake(),
            Talk::Http2(session) => {
                let layers = &session.digest()?.timing_digest;
                layers.get(1)?.as_ref()?.establishment_duration
            }
        }
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// Whether all of its body is read, and told as far as it can be.
    pub(super) fn is_over(&mut self) -> bool {
        self.broken.is_none() && self.connection.talk.is_over()
    }

    /// Whether it decides what becomes of a server that was ejected.
    pub(super) fn is_trial(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_trial)
    }

    /// Throws an answer away that nobody wants, but keeps its connection if that is cheap.
    pub(super) async fn discard(mut self, edge: Arc<Edge>) {
        let mut length = self.first.as_ref().map_or(0, Bytes::len);
        let rest = async {
            while !self.connection.talk.is_over() {
                match self.connection.talk.read_body().await {
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
            self.connection.release(&edge, Instant::now());
        }
    }
}
