//! A connection to a server, and the answer that comes on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;

use super::Edge;
use super::wire::Wire;
use crate::config::Keepalive;
use crate::dialect::{Broken, ollama};
use crate::pool::{Lease, Member, Pool};

/// Longest body of an unwanted answer that is read so that its connection can be used again.
const DISCARD: usize = 16 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_millis(50);

/// A connection to a server, with what is needed to give it back.
pub(super) struct Connection {
    pub(super) session: HttpSession,
    pub(super) peer: Arc<HttpPeer>,
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
    pub(super) head: ResponseHeader,
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
        matches!(self.session, HttpSession::H2(_))
    }

    /// Gives it back for other requests, if it is in a state for that.
    pub(super) async fn release(mut self, edge: &Edge) {
        let Some(keepalive) = self.keepalive.filter(|_| self.request_done) else {
            return;
        };
        // servers that close after 100 requests do it without a word; of HTTP/2 many share one
        let wire = Wire::of(self.session.stream());
        if wire.is_some_and(|wire| wire.count_use() >= keepalive.requests) {
            return;
        }
        if let HttpSession::H1(h1) = &mut self.session {
            h1.respect_keepalive();
        }
        edge.connector
            .release_http_session(self.session, &*self.peer, Some(keepalive.idle))
            .await;
    }

    /// How long the handshake took, if this is a new connection with TLS.
    pub(super) fn tls_handshake(&self) -> Option<Duration> {
        let layers = &self.session.digest()?.timing_digest;
        layers.get(1)?.as_ref()?.establishment_duration
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// Whether all of its body is read, and told as far as it can be.
    pub(super) fn is_over(&mut self) -> bool {
        self.broken.is_none() && self.connection.session.response_done()
    }

    /// Whether it decides what becomes of a server that was ejected.
    pub(super) fn is_trial(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_trial)
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
