//! Listeners: connections are accepted here, counted, bounded, and handed to Pingora.
//!
//! The accept loop is ours: Pingora's own waits half a minute for a port that is taken, cannot
//! say which port 0 became, and has no limit on connections nor on how long a request head takes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use super::tls::Tls;
use crate::observe::metrics::Metrics;

/// How long to wait when the system has no descriptors left, instead of asking without end.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted: what the system allows at most by default. With less, a
/// burst of clients runs into SYN retransmissions and waits for seconds.
const BACKLOG: u32 = 4096;

tokio::task_local! {
    static WAITING: Arc<Waiting>;
}

/// Since when a connection waits for a request head: milliseconds after `start`, plus one; zero
/// while a request is served.
struct Waiting {
    start: Instant,
    since: AtomicU64,
    /// Requests served so far.
    served: AtomicUsize,
}

/// A request head is here.
pub(crate) fn busy() {
    let _ = WAITING.try_with(|waiting| waiting.since.store(0, Relaxed));
}

/// A request is done; the next may come.
pub(crate) fn idle() {
    let _ = WAITING.try_with(|waiting| {
        waiting.served.fetch_add(1, Relaxed);
        waiting
            .since
            .store(waiting.start.elapsed().as_millis() as u64 + 1, Relaxed);
    });
}

/// What bounds the connections of all client listeners together.
pub(crate) struct Gate {
    pub(crate) max_connections: usize,
    /// `None` for no limit.
    pub(crate) header_timeout: Option<Duration>,
    open: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(max_connections: usize, header_timeout: Option<Duration>) -> Arc<Self> {
        Arc::new(Gate {
            max_connections,
            header_timeout,
            open: AtomicUsize::new(0),
        })
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// One place less in a gate, until it is dropped.
struct Pass(Arc<Gate>, IntGauge);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.1.dec();
    }
}

/// A bound listener.
pub(crate) struct Listener {
    socket: TcpListener,
    /// The address it really has.
    pub(crate) address: SocketAddr,
    tls: Option<Arc<Tls>>,
    open: IntGauge,
    accepted: IntCounter,
    refused: IntCounter,
    late: IntCounter,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// If it is taken, or not ours to take.
    pub(crate) async fn bind(address: SocketAddr, metrics: &Metrics) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // a port whose last connections are still fading away may be taken again
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        let label = address.to_string();
        let rejected = |reason| {
            metrics
                .connections_rejected
                .with_label_values(&[label.as_str(), reason])
        };
        Ok(Listener {
            open: metrics.connections.with_label_values(&[&label]),
            accepted: metrics.connections_total.with_label_values(&[&label]),
            refused: rejected("connections"),
            late: rejected("header_timeout"),
            socket,
            address,
            tls: None,
        })
    }

    /// The same with TLS.
    pub(crate) fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Listener { tls, ..self }
    }

    /// Accepts connections for `app` until `stop` says so; then none is accepted any more, idle
    /// ones are closed, and those with a request finish it on their own.
    pub(crate) async fn serve<A>(
        self,
        app: Arc<A>,
        gate: Arc<Gate>,
        mut stop: watch::Receiver<bool>,
    ) where
        A: ServerApp + Send + Sync + 'static,
    {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    log::warn!(
                        "{}: a connection could not be accepted: {error}",
                        self.address
                    );
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            self.accepted.inc();
            if gate.open.fetch_add(1, Relaxed) >= gate.max_connections {
                gate.open.fetch_sub(1, Relaxed);
                self.refused.inc();
                continue;
            }
            self.open.inc();
            let pass = Pass(gate.clone(), self.open.clone());
            let (app, late, stop) = (app.clone(), self.late.clone(), stop.clone());
            let tls = self.tls.clone();
            tokio::spawn(async move {
                if !connection(app, socket, tls, &pass.0, stop).await {
                    late.inc();
                }
            });
        }
        drop(self.socket);
        app.cleanup().await;
    }
}

/// Serves one connection; says `false` if it was cut for want of a request head, of which the TLS
/// handshake is a part.
async fn connection<A>(
    app: Arc<A>,
    socket: tokio::net::TcpStream,
    tls: Option<Arc<Tls>>,
    gate: &Gate,
    stop: watch::Receiver<bool>,
) -> bool
where
    A: ServerApp + Send + Sync + 'static,
{
    let _ = socket.set_nodelay(true);
    let descriptor = socket.as_raw_fd();
    let mut stream = TcpStream::from(socket);
    stream.set_socket_digest(SocketDigest::from_raw_fd(descriptor));
    // a second one to ask the kernel by; the connection outlives both
    let digest = SocketDigest::from_raw_fd(descriptor);
    let waiting = Arc::new(Waiting {
        start: Instant::now(),
        since: AtomicU64::new(1),
        served: AtomicUsize::new(0),
    });
    let serving = async {
        let mut stream: Option<Stream> = match &tls {
            Some(tls) => tls.accept(stream).await,
            None => Some(Box::new(stream)),
        };
        while let Some(open) = stream {
            stream = app.process_new(open, &stop).await;
        }
    };
    let serving = WAITING.scope(waiting.clone(), serving);
    let Some(header_timeout) = gate.header_timeout else {
        serving.await;
        return true;
    };
    tokio::select! {
        () = serving => true,
        () = too_late(&waiting, &digest, header_timeout) => false,
    }
}

/// Resolves when a request head has taken too long: from the connection's start, and behind a
/// request from the first byte that comes, which a kept connection may wait for longer. Only the
/// kernel knows of bytes that make no whole head yet, so it is asked how many there were.
async fn too_late(waiting: &Waiting, digest: &SocketDigest, header_timeout: Duration) {
    let look = (header_timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let received = || digest.tcp_info().map_or(0, |info| info.tcpi_bytes_received);
    // for the wait of this `since`: bytes when it began, and when the first more were seen
    let mut idle: Option<(u64, u64, Option<Instant>)> = None;
    loop {
        let since = waiting.since.load(Relaxed);
        if since == 0 {
            tokio::time::sleep(look).await;
            continue;
        }
        let begun = match waiting.served.load(Relaxed) {
            0 => Some(waiting.start),
            _ => {
                let (bytes, first) = match idle {
                    Some((wait, bytes, first)) if wait == since => (bytes, first),
                    _ => (received(), None),
                };
                let first = first.or_else(|| (received() > bytes).then(Instant::now));
                idle = Some((since, bytes, first));
                first
            }
        };
        if begun.is_some_and(|begun| begun.elapsed() >= header_timeout) {
            return;
        }
        tokio::time::sleep(look).await;
    }
}
