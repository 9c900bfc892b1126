//! A WebSocket, once both sides agreed to speak it: bytes in both directions, until one side ends
//! or both fall silent. It holds its server's slot as long as it lives.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::response::Parts;
use pingora::protocols::Stream;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Edge;
use super::connection::{Answer, Talk};
use super::deliver::switching_head;
use super::exchange::Exchange;
use super::session::Session;
use super::side::pause;
use crate::observe::record::Termination;

/// Bytes on their way in one direction at most.
const BUFFER: usize = 16 * 1024;
/// How long the other side may take to end as well.
const FAREWELL: Duration = Duration::from_secs(5);

/// Since when a tunnel is silent, in milliseconds after its start.
struct Silence {
    start: Instant,
    since: AtomicU64,
}

impl Silence {
    fn broken(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.since.store(now, Relaxed);
    }

    /// Ends when nothing was said for `limit`.
    async fn lasts(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let end = Duration::from_millis(self.since.load(Relaxed)) + limit;
            match end.checked_sub(self.start.elapsed()) {
                Some(left) if !left.is_zero() => pause(left).await,
                _ => return,
            }
        }
    }
}

/// Tells the client that the server agreed, and passes bytes on from then.
pub(super) async fn run(edge: &Arc<Edge>, session: Session, x: &mut Exchange, mut answer: Answer) {
    let head = switching_head(x, &mut answer);
    let silence = Silence {
        start: Instant::now(),
        since: AtomicU64::new(0),
    };
    let limit = answer.pool.config.timeouts.tunnel;
    let route = x.route.expect("a relayed request has a route");
    let snapshot = x.snapshot.clone();
    let pool = snapshot.gateway.config.routes[route].targets[answer.target].pool;
    let server = &snapshot.gateway.pool_metrics[pool.0].servers[answer.member.server];
    let Some(streams) = streams(session, head, answer.connection.talk).await else {
        return;
    };
    let (asked, early) = (streams.asked, streams.early);
    x.first_byte();
    let (mut from_client, mut to_client) = tokio::io::split(streams.client);
    let (mut from_server, mut to_server) = tokio::io::split(streams.upstream);
    let sent = AtomicU64::new(asked.len() as u64);
    let received = AtomicU64::new(early.len() as u64);
    let up = Flow {
        bytes: &sent,
        metric: &server.bytes_sent,
        silence: &silence,
    };
    let down = Flow {
        bytes: &received,
        metric: &server.bytes_received,
        silence: &silence,
    };
    let mut cut = edge.cut.subscribe();
    let both = async {
        if write(&mut to_client, &early).await.is_err() {
            return Termination::ClientAbort;
        }
        if write(&mut to_server, &asked).await.is_err() {
            return Termination::UpstreamAbort;
        }
        let mut up = pin!(up.copy(&mut from_client, &mut to_server));
        let mut down = pin!(down.copy(&mut from_server, &mut to_client));
        tokio::select! {
            ended = &mut up => {
                // the server may still have something to say to that, and be in the middle of it
                let _ = tokio::time::timeout(FAREWELL, down).await;
                if ended.is_ok() { Termination::Complete } else { Termination::ClientAbort }
            }
            ended = &mut down => {
                if ended.is_ok() { Termination::Complete } else { Termination::UpstreamAbort }
            }
        }
    };
    x.record.termination = tokio::select! {
        ended = both => ended,
        () = silence.lasts(limit) => Termination::Timeout,
        _ = cut.wait_for(|cut| *cut) => Termination::Timeout,
    };
    x.record.bytes_in = sent.load(Relaxed);
    x.record.bytes_out = received.load(Relaxed);
    let _ = to_client.shutdown().await;
}

/// The bare connections of both sides.
struct Streams {
    client: Stream,
    upstream: Stream,
    /// What the client said already behind its request.
    asked: Bytes,
    /// What the server said already behind its head.
    early: Vec<u8>,
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// The bare connections of both sides, and what the server has said already behind its head.
async fn streams(mut session: Session, head: Parts, upstream: Talk) -> Option<Streams> {
    let Talk::Http1(upstream) = upstream else {
        return None;
    };
    session.write_head(&head, false).await.ok()?;
    let Session::Http1(client) = session else {
        return None;
    };
    let (client, asked) = client.into_inner();
    let (upstream, early) = upstream.into_inner();
    Some(Streams {
        client,
        upstream,
        asked,
        early,
    })
}

/// One direction.
struct Flow<'a> {
    bytes: &'a AtomicU64,
    metric: &'a IntCounter,
    silence: &'a Silence,
}

impl Flow<'_> {
    /// Passes bytes on until `from` ends.
    async fn copy(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            self.silence.broken();
            write(to, &buffer[..count]).await?;
            self.silence.broken();
            self.bytes.fetch_add(count as u64, Relaxed);
            self.metric.inc_by(count as u64);
        }
    }
}
