//! A connection whose small writes go out together.
//!
//! Pingora writes a head and what follows it apart, and each write is a system call, a packet, and
//! a reader that is woken. Two of them for each message were a third of a small request's CPU. So
//! whoever knows that more follows at once says so: then what is written waits, a flush does
//! nothing, and all of it goes out with the next write. Nothing else waits: audio and events are
//! passed on piece by piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most.
const MOST: usize = 16 * 1024;

/// A connection to a client or a server.
#[derive(Debug)]
pub(super) struct Wire {
    inner: Stream,
    /// More follows at once.
    holds: AtomicBool,
    waiting: Vec<u8>,
    /// Requests it was used for.
    uses: AtomicU32,
}

impl Wire {
    pub(super) fn around(inner: Stream) -> Stream {
        Box::new(Wire {
            inner,
            holds: AtomicBool::new(false),
            waiting: Vec::new(),
            uses: AtomicU32::new(0),
        })
    }

    /// The one under a session.
    pub(super) fn of(stream: Option<&Stream>) -> Option<&Wire> {
        // of what is in the box, not of the box, which is a stream as well
        let inner: &dyn IO = &**stream?;
        inner.as_any().downcast_ref()
    }

    /// Says whether more follows at once.
    pub(super) fn hold(&self, holds: bool) {
        self.holds.store(holds, Relaxed);
    }

    /// Counts one more use; says how many there were.
    pub(super) fn count_use(&self) -> u32 {
        self.uses.fetch_add(1, Relaxed) + 1
    }

    fn may_wait(&self, length: usize) -> bool {
        self.holds.load(Relaxed) && self.waiting.len() + length <= MOST
    }

    /// Notes that so many bytes went out, of those that waited and then of others; says how many
    /// of the others.
    fn sent(&mut self, count: usize) -> usize {
        let old = count.min(self.waiting.len());
        self.waiting.drain(..old);
        if self.waiting.is_empty() && self.waiting.capacity() > 4 * 1024 {
            self.waiting = Vec::new();
        }
        count - old
    }

    fn poll_send_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether more follows at once on the connection under a session.
pub(super) fn hold(stream: Option<&Stream>, holds: bool) {
    if let Some(wire) = Wire::of(stream) {
        wire.hold(holds);
    }
}

/// Writes the head of an answer; with `more`, of which a piece follows at once, that goes out together
/// with it.
pub(super) async fn write_head(
    session: &mut Session,
    head: Box<ResponseHeader>,
    more: bool,
) -> pingora::Result<()> {
    hold(session.stream(), more);
    let written = session.write_response_header(head).await;
    hold(session.stream(), false);
    written
}

/// Writes the last piece of a chunked answer together with the end behind it.
pub(super) async fn write_last(session: &mut Session, piece: Bytes) -> pingora::Result<()> {
    if session.is_http2() || piece.is_empty() {
        return session.write_response_body(piece, true).await;
    }
    hold(session.stream(), true);
    let written = session.write_response_body(piece, false).await;
    hold(session.stream(), false);
    written?;
    session.write_response_body(Bytes::new(), true).await
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.may_wait(length) {
            for buf in bufs {
                self.waiting.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(length));
        }
        if self.waiting.is_empty() {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        // what waited goes first, and together with this as long as the system takes both
        let this = &mut *self;
        let mut all = [IoSlice::new(&[]); 8];
        all[0] = IoSlice::new(&this.waiting);
        let mut count = 1;
        for buf in bufs
            .iter()
            .filter(|buf| !buf.is_empty())
            .take(all.len() - 1)
        {
            all[count] = IoSlice::new(buf);
            count += 1;
        }
        let sent = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &all[..count]))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_these = this.sent(sent);
        if of_these > 0 || length == 0 {
            return Poll::Ready(Ok(of_these));
        }
        ready!(this.poll_send_waiting(cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send_waiting(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_waiting(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// === what it is asked about the connection ===

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.inner.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for Wire {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}
