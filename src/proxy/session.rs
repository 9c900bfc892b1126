//! A request and its answer, in whichever version of HTTP the client speaks.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

use super::http1::Client;

/// How long a client may take to make room for the next bytes of an answer.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// One request of a client.
pub(super) enum Session {
    Http1(Box<Client>),
    /// A stream among others, as Pingora tells it.
    Http2(Box<ServerSession>),
}

impl Session {
    /// The client's address.
    pub(super) fn client(&self) -> Option<IpAddr> {
        match self {
            Session::Http1(client) => client.address(),
            Session::Http2(session) => Some(session.client_addr()?.as_inet()?.ip()),
        }
    }

    /// The version of TLS that the client came with.
    pub(super) fn tls(&self) -> Option<&'static str> {
        match self {
            Session::Http1(client) => client.tls(),
            Session::Http2(session) => Some(tls_version(
                session.digest()?.ssl_digest.as_ref()?.version.as_ref(),
            )),
        }
    }

    pub(super) fn req_header(&self) -> &RequestHeader {
        match self {
            Session::Http1(client) => client.req_header(),
            Session::Http2(session) => session.req_header(),
        }
    }

    /// The bytes of a head that came in HTTP/1.
    pub(super) fn raw_head(&self) -> Option<&[u8]> {
        match self {
            Session::Http1(client) => Some(client.raw_head()),
            Session::Http2(_) => None,
        }
    }

    /// Says whether the client's connection may be used again behind this request.
    pub(super) fn set_keepalive(&mut self, keeps: bool) {
        match self {
            Session::Http1(client) => client.set_keepalive(keeps),
            // it has a clock of its own, and other requests
            Session::Http2(session) => session.set_keepalive(keeps.then_some(60)),
        }
    }

    /// Prepares for a request that is here: its body has limits of its own.
    pub(super) fn begin(&mut self) {
        if let Session::Http2(session) = self {
            session.set_read_timeout(None);
            session.set_write_timeout(Some(WRITE_TIMEOUT));
        }
    }

    /// Whether the request has no body.
    pub(super) fn is_body_empty(&mut self) -> bool {
        match self {
            Session::Http1(client) => client.is_body_done(),
            Session::Http2(session) => session.is_body_empty(),
        }
    }

    /// Whether all of the body was read.
    pub(super) fn is_body_done(&mut self) -> bool {
        match self {
            Session::Http1(client) => client.is_body_done(),
            Session::Http2(session) => session.is_body_done(),
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn read_body(&mut self) -> pingora::Result<Option<Bytes>> {
        match self {
            Session::Http1(client) => client.read_body().await,
            Session::Http2(session) => session.read_request_body().await,
        }
    }

    /// Throws away what is left of the body.
    pub(super) async fn drain_body(&mut self) -> pingora::Result<()> {
        match self {
            Session::Http1(client) => {
                while client.read_body().await?.is_some() {}
                Ok(())
            }
            Session::Http2(session) => session.drain_request_body().await,
        }
    }

    /// Asks for the body of a client that waits to be asked.
    pub(super) async fn write_continue(&mut self) -> pingora::Result<()> {
        match self {
            Session::Http1(client) => client.write_continue().await,
            Session::Http2(session) => session.write_continue_response().await,
        }
    }

    /// Ends when the client is gone; for when all of its body is here.
    pub(super) async fn leaves(&mut self) {
        match self {
            Session::Http1(client) => client.leaves().await,
            Session::Http2(session) => drop(session.read_body_or_idle(true).await),
        }
    }

    /// Sends the head of an answer; in HTTP/1, if a piece of it `follows` at once, together with that.
    pub(super) async fn write_head(&mut self, head: &Parts, follows: bool) -> pingora::Result<()> {
        match self {
            Session::Http1(client) => client.write_head(head, follows).await,
            Session::Http2(session) => {
                session
                    .write_response_header(Box::new(head.clone().into()))
                    .await
            }
        }
    }

    /// Sends a piece of the answer, with its end if this is the `last` one.
    pub(super) async fn write_body(&mut self, piece: Bytes, last: bool) -> pingora::Result<()> {
        match self {
            Session::Http1(client) => client.write_body(&piece, last).await,
            Session::Http2(session) => session.write_response_body(piece, last).await,
        }
    }
}

/// A version of TLS as it is logged, from how Pingora calls it.
pub(super) fn tls_version(version: &str) -> &'static str {
    match version {
        "TLSv1_2" => "TLSv1.2",
        "TLSv1_3" => "TLSv1.3",
        _ => "TLS",
    }
}
