//! HTTP/2 connections of clients: told from HTTP/1, bounded, closed when nobody uses them.
//!
//! The loop around a connection is ours and not Pingora's: that one waits without end for a
//! client's preface, and drops an idle connection without a word, so that a request which is
//! just on its way is lost. Each stream is served by the same code as an HTTP/1 request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{self, H2Accept, H2Options, HttpSession};
use pingora::protocols::{ALPN, Digest, Stream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http1::{Bare, Client};
use super::listen::{Serves, with_address};
use super::session::{Session, tls_version};
use super::{Proxy, listen};
use crate::config::HeadLimits;

/// Requests at once on one connection.
const STREAMS: u32 = 256;
/// Bytes that a head may have beyond its limit to be answered in our words.
const SLACK: usize = 16 * 1024;
/// Bytes that HTTP/2 counts for each header, however short (RFC 9113, section 6.5.2).
const OF_HEADER: usize = 32;
/// Bytes of a request body that may be under way unread: of one request, and of a connection.
/// The default, 64 KiB, is 1 MB/s to a client 60 ms away. The connection's is what it may cost us,
/// and as many uploads that nobody reads may stand still before they hold up the others.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// How long a connection may be without requests.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client may take to close one that it was asked to close.
const CLOSING: Duration = Duration::from_secs(5);
/// Broken requests that end a connection.
const BROKEN: usize = 32;

/// What a connection begins with if it is HTTP/2. No method of HTTP/1 is called `PRI`, and its
/// shortest request is longer than this, so nobody is kept waiting.
const SIGN: &[u8; 4] = b"PRI ";

/// How long to wait for the rest of the sign: what was looked at is still there, so that nobody
/// says when more is.
const PIECE: Duration = Duration::from_millis(5);

/// A client listener: HTTP/1, and HTTP/2 where it was negotiated or is allowed without.
pub(crate) struct Front {
    pub(crate) proxy: Arc<Proxy>,
    /// HTTP/2 is spoken without TLS to clients that begin with it.
    pub(crate) h2c: bool,
}

#[async_trait]
impl Serves for Front {
    async fn serve(&self, bare: Bare, client: SocketAddr, stop: watch::Receiver<bool>) {
        let (http2, tls) = match &bare {
            Bare::Layered(stream) => {
                let version = stream.get_ssl_digest().map(|tls| tls_version(&tls.version));
                let http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
                (http2, version)
            }
            Bare::Tcp(tcp) if self.h2c => match starts_http2(tcp, stop.clone()).await {
                Some(http2) => (http2, None),
                None => return,
            },
            Bare::Tcp(_) => (false, None),
        };
        if http2 {
            return Box::pin(serve(&self.proxy, with_address(bare, client), stop)).await;
        }
        let client = Client::new(bare, Some(client.ip()), tls);
        self.proxy.connection(client, stop).await;
    }
}

/// Looks at the first bytes and leaves them where they are. `None` if none came.
async fn starts_http2(tcp: &TcpStream, mut stop: watch::Receiver<bool>) -> Option<bool> {
    let mut first = [0; SIGN.len()];
    let looking = async {
        // the sign may come in pieces
        loop {
            let count = tcp.peek(&mut first).await.ok().filter(|count| *count > 0)?;
            if first[..count] != SIGN[..count] {
                return Some(false);
            }
            if count == SIGN.len() {
                return Some(true);
            }
            tokio::time::sleep(PIECE).await;
        }
    };
    tokio::select! {
        sign = looking => sign,
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

fn options(limits: HeadLimits) -> H2Options {
    let headers = limits.bytes + limits.uri + limits.fields * OF_HEADER + SLACK;
    let mut options = server::default_h2_options();
    options
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(headers as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    options
}

/// Serves a connection until it is closed. The first request must come in the time that a request
/// head may take, for which `listen` looks; after that it may be idle for [`IDLE`].
async fn serve(proxy: &Arc<Proxy>, stream: Stream, mut stop: watch::Receiver<bool>) {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    // it is asked for once and kept: a stream may outlive the connection, and by then its
    // descriptor may be that of another client
    let _ = digest
        .socket_digest
        .as_ref()
        .map(|socket| socket.peer_addr());
    let limits = proxy.edge.snapshot().gateway.config.limits.head;
    let mut connection = match server::handshake(stream, Some(options(limits))).await {
        Ok(connection) => connection,
        Err(error) => return log::debug!("{}: {error}", proxy.listener),
    };
    let shutdown = stop.clone();
    let mut streams = JoinSet::new();
    let mut broken = 0;
    let mut closing = false;
    loop {
        tokio::select! {
            accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(mut session))) => {
                    listen::busy();
                    join_cookies(session.req_header_mut());
                    let (proxy, stopping) = (proxy.clone(), *shutdown.borrow());
                    let session = Box::new(ServerSession::new_http2(session));
                    streams.spawn(async move {
                        let session = Session::Http2(session);
                        proxy.alone(Box::pin(proxy.one(session, Ok(()), stopping))).await;
                    });
                }
                Ok(Some(H2Accept::Rejected)) if broken < BROKEN => broken += 1,
                Ok(_) => break,
                Err(error) => {
                    log::debug!("{}: {error}", proxy.listener);
                    break;
                }
            },
            _ = streams.join_next(), if !streams.is_empty() => {}
            _ = stop.wait_for(|stop| *stop), if !closing => {
                connection.graceful_shutdown();
                closing = true;
            }
            () = tokio::time::sleep(if closing { CLOSING } else { IDLE }), if streams.is_empty() => {
                if closing {
                    break;
                }
                connection.graceful_shutdown();
                closing = true;
            }
        }
    }
    // they see by themselves that the client is gone, and write their lines
    streams.detach_all();
}

/// HTTP/2 may split a cookie over several fields, HTTP/1 may not (RFC 9113, section 8.2.3).
fn join_cookies(head: &mut RequestHeader) {
    let cookies: Vec<&[u8]> = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        let _ = head.insert_header(header::COOKIE, joined);
    }
}
