//! Listeners: connections are accepted here, counted, bounded, and handed to Pingora.
//!
//! The accept loop is ours: Pingora's own waits half a minute for a port that is taken, cannot
//! say which port 0 became, and has no limit on connections nor on how long a request head takes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

pub(crate) use super::gate::Gate;

use super::descriptors::{Spare, are_exhausted};
use super::gate::Full;
use super::http1::Bare;
use super::tls::Tls;
use crate::observe::metrics::Metrics;

/// How long to wait when nobody can be accepted, instead of asking without end.
const PAUSE: Duration = Duration::from_millis(50);

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

/// A socket that listens. It stays open while its listener is replaced by another one.
pub(crate) struct Socket {
    inner: std::net::TcpListener,
    /// The address it really has.
    pub(crate) address: SocketAddr,
}

impl Socket {
    /// Binds `address`.
    ///
    /// # Errors
    /// If it is taken, or not ours to take.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // a port whose last connections are still fading away may be taken again
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Self::of(socket.listen(BACKLOG)?.into_std()?)
    }

    /// Takes over one that listens already.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn of(inner: std::net::TcpListener) -> io::Result<Self> {
        inner.set_nonblocking(true)?;
        let address = inner.local_addr()?;
        Ok(Socket { inner, address })
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Self::of(self.inner.try_clone()?)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.inner.into()
    }
}

/// What is done with connections.
#[async_trait]
pub(crate) trait Serves: Send + Sync + 'static {
    /// Serves one until it ends, or until it is idle and `stop` says so.
    async fn serve(&self, bare: Bare, client: SocketAddr, stop: watch::Receiver<bool>);
}

/// An application of Pingora's, such as the admin endpoints.
pub(crate) struct App<A>(pub(crate) Arc<A>);

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Serves for App<A> {
    async fn serve(&self, bare: Bare, client: SocketAddr, stop: watch::Receiver<bool>) {
        let mut stream = Some(with_address(bare, client));
        while let Some(open) = stream {
            stream = self.0.process_new(open, &stop).await;
        }
    }
}

/// A connection as Pingora knows it.
pub(super) fn with_address(bare: Bare, client: SocketAddr) -> Stream {
    match bare {
        Bare::Tcp(tcp) => Box::new(layer(tcp, client)),
        Bare::Layered(stream) => stream,
    }
}

fn layer(tcp: tokio::net::TcpStream, client: SocketAddr) -> TcpStream {
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    let _ = digest.peer_addr.set(Some(client.into()));
    let mut stream = TcpStream::from(tcp);
    stream.set_socket_digest(digest);
    stream
}

/// What accepts connections at a socket.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    open: IntGauge,
    accepted: IntCounter,
    refused: IntCounter,
    of_address: IntCounter,
    exhausted: IntCounter,
    late: IntCounter,
}

impl Listener {
    /// Accepts connections at `socket`, with TLS if there is some.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn new(
        socket: &Socket,
        tls: Option<Arc<Tls>>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let label = socket.address.to_string();
        let rejected = |reason| {
            metrics
                .connections_rejected
                .with_label_values(&[label.as_str(), reason])
        };
        Ok(Listener {
            open: metrics.connections.with_label_values(&[&label]),
            accepted: metrics.connections_total.with_label_values(&[&label]),
            refused: rejected("connections"),
            of_address: rejected("connections_per_ip"),
            exhausted: rejected("descriptors"),
            late: rejected("header_timeout"),
            socket: TcpListener::from_std(socket.again()?.inner)?,
            address: socket.address,
            tls,
            metrics: metrics.clone(),
        })
    }

    async fn not_accepted(&self, error: &io::Error, spare: &mut Spare) {
        if !are_exhausted(error) {
            log::warn!("{}: a connection was not accepted: {error}", self.address);
            return tokio::time::sleep(PAUSE).await;
        }
        self.metrics.descriptors.note("a client was turned away");
        match spare.turn_away(&self.socket).await {
            true => self.exhausted.inc(),
            false => tokio::time::sleep(PAUSE).await,
        }
    }

    /// Accepts connections for `app` until `stops` says so.
    pub(crate) async fn serve<A>(self, app: Arc<A>, gate: Arc<Gate>, mut stops: Stops)
    where
        A: Serves,
    {
        let mut spare = Spare::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stops.accepting.wait_for(|stop| *stop) => break,
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.not_accepted(&error, &mut spare).await;
                    continue;
                }
            };
            self.accepted.inc();
            let pass = match gate.enter(from.ip(), &self.open) {
                Ok(pass) => pass,
                Err(full) => {
                    match full {
                        Full::Altogether => self.refused.inc(),
                        Full::OfAddress => self.of_address.inc(),
                    }
                    continue;
                }
            };
            let (app, late) = (app.clone(), self.late.clone());
            let stop = stops.connections.clone();
            let tls = self.tls.clone();
            tokio::spawn(async move {
                if !connection(app, (socket, from), tls, &pass.gate, stop).await {
                    late.inc();
                }
            });
        }
        drop(self.socket);
    }
}

/// How a listener is ended: first it accepts nobody any more, then idle connections are closed, and
/// those with a request finish it on their own.
#[derive(Clone)]
pub(crate) struct Stops {
    pub(crate) accepting: watch::Receiver<bool>,
    pub(crate) connections: watch::Receiver<bool>,
}

/// Serves one connection; says `false` if it was cut for want of a request head, of which the TLS
/// handshake is a part.
async fn connection<A>(
    app: Arc<A>,
    (socket, client): (tokio::net::TcpStream, SocketAddr),
    tls: Option<Arc<Tls>>,
    gate: &Gate,
    stop: watch::Receiver<bool>,
) -> bool
where
    A: Serves,
{
    let _ = socket.set_nodelay(true);
    // to ask the kernel by; the connection outlives it
    let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
    let waiting = Arc::new(Waiting {
        start: Instant::now(),
        since: AtomicU64::new(1),
        served: AtomicUsize::new(0),
    });
    let serving = async {
        let bare = match &tls {
            Some(tls) => {
                let stream = layer(socket, client);
                let Some(accepted) = tls.accept(stream).await else {
                    return;
                };
                Bare::Layered(accepted)
            }
            None => Bare::Tcp(socket),
        };
        app.serve(bare, client, stop).await;
    };
    let serving = WAITING.scope(waiting.clone(), serving);
    let Some(header_timeout) = gate.header_timeout() else {
        serving.await;
        return true;
    };
    tokio::select! {
        biased;
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
