//! What listens: opened whole or not at all, kept over reloads where nothing changed, and handed to
//! the program that takes over.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::upgrade::Inherited;
use crate::config::{self, Config};
use crate::observe::metrics::Metrics;
use crate::proxy::http2::Front;
use crate::proxy::listen::{App, Gate, Listener, Socket, Stops};
use crate::proxy::tls::{self, Audience, Tls};
use crate::proxy::{Edge, Proxy};
use crate::service::admin::Admin;

/// How often certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What a configuration wants at one address.
#[derive(Clone, PartialEq, Eq)]
enum Wanted {
    Client(config::Listener),
    Admin(config::Admin),
}

impl Wanted {
    /// As it is written: port 0 stays port 0.
    fn address(&self) -> SocketAddr {
        match self {
            Wanted::Client(listener) => listener.address,
            Wanted::Admin(admin) => admin.address,
        }
    }

    fn tls(&self) -> (Option<&config::ListenerTls>, Audience) {
        match self {
            Wanted::Client(listener) => (listener.tls.as_ref(), Audience::Clients),
            Wanted::Admin(admin) => (admin.tls.as_ref(), Audience::Operators),
        }
    }

    /// Whether one can go on as it is where the other is wanted. Tokens and names are looked up by
    /// request.
    fn is_served_like(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Client(a), Wanted::Client(b)) => a == b,
            (Wanted::Admin(a), Wanted::Admin(b)) => a.address == b.address && a.tls == b.tls,
            _ => false,
        }
    }
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let clients = config.listeners.iter().cloned().map(Wanted::Client);
    let admin = config.admin.iter().cloned().map(Wanted::Admin);
    clients.chain(admin).collect()
}

/// One address at which somebody is listened to.
struct Open {
    wanted: Wanted,
    socket: Socket,
    tls: Option<Arc<Tls>>,
    /// `None` until it is served.
    ends: Option<Ends>,
}

/// The other sides of [`Stops`].
struct Ends {
    accepting: watch::Sender<bool>,
    connections: watch::Sender<bool>,
}

/// Opened for a configuration, and not served yet.
pub(super) struct Prepared(Vec<Slot>);

enum Slot {
    /// By its place among those that are open.
    Kept(usize, Wanted),
    New(Open),
}

impl Prepared {
    /// The first address for clients, and that of the admin endpoints.
    pub(super) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let new = self.0.iter().filter_map(|slot| match slot {
            Slot::New(open) => Some((
                matches!(open.wanted, Wanted::Client(_)),
                open.socket.address,
            )),
            Slot::Kept(..) => None,
        });
        let first = |client| {
            new.clone()
                .find(|(is, _)| *is == client)
                .map(|(_, address)| address)
        };
        (first(true), first(false))
    }
}

/// Everything that listens.
#[derive(Default)]
pub(super) struct Listeners(Vec<Open>);

/// What serves connections needs.
pub(super) struct Serving<'a> {
    pub(super) edge: &'a Arc<Edge>,
    pub(super) gate: &'a Arc<Gate>,
    pub(super) admin_gate: &'a Arc<Gate>,
    pub(super) admin: &'a Arc<Admin>,
    /// Where the configuration is from, for the log.
    pub(super) source: &'a str,
}

impl Listeners {
    /// Opens what a configuration wants and is not open yet.
    ///
    /// # Errors
    /// If a port is taken or a certificate cannot be used; then nothing has changed.
    pub(super) fn prepare(
        &self,
        config: &Config,
        inherited: &mut Inherited,
        metrics: &Metrics,
    ) -> Result<Prepared, String> {
        let mut taken = vec![false; self.0.len()];
        let mut slots = Vec::new();
        for wanted in wanted(config) {
            let same = self
                .0
                .iter()
                .zip(&taken)
                .position(|(open, taken)| !taken && open.wanted.address() == wanted.address());
            if let Some(n) = same {
                taken[n] = true;
                if self.0[n].wanted.is_served_like(&wanted) {
                    slots.push(Slot::Kept(n, wanted));
                    continue;
                }
            }
            let socket = match (same, inherited.take(wanted.address())) {
                (Some(n), _) => self.0[n].socket.again().map_err(|e| e.to_string())?,
                (None, Some(socket)) => socket,
                (None, None) => self.bind(wanted.address())?,
            };
            let (settings, audience) = wanted.tls();
            let tls = settings.cloned().map(|settings| {
                Tls::new(settings, socket.address.to_string(), audience, metrics).map(Arc::new)
            });
            slots.push(Slot::New(Open {
                tls: tls.transpose()?,
                wanted,
                socket,
                ends: None,
            }));
        }
        Ok(Prepared(slots))
    }

    fn bind(&self, address: SocketAddr) -> Result<Socket, String> {
        Socket::bind(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let port = address.port();
                let ours = self.0.iter().find(|open| open.socket.address.port() == port);
                match ours {
                    Some(open) => format!(
                        "{address} overlaps {}, which is served now; this change needs a stop and a start",
                        open.socket.address
                    ),
                    None => format!(
                        "{address} is taken by another program; `ss -ltnp 'sport = :{port}'` names it, and --listen or --admin picks another"
                    ),
                }
            }
            _ => format!("{address} cannot be listened on: {error}"),
        })
    }

    /// Serves what was prepared, and ends what is not wanted any more: its idle connections are
    /// closed, its requests are finished.
    ///
    /// # Errors
    /// If no descriptor is left for one; the others are served.
    pub(super) fn serve(
        &mut self,
        prepared: Prepared,
        serving: &Serving<'_>,
    ) -> Result<(), String> {
        let mut before: Vec<Option<Open>> =
            std::mem::take(&mut self.0).into_iter().map(Some).collect();
        let mut result = Ok(());
        for slot in prepared.0 {
            let open = match slot {
                Slot::Kept(n, wanted) => before[n].take().map(|open| Open { wanted, ..open }),
                Slot::New(open) => match open.serve(serving) {
                    Ok(open) => Some(open),
                    Err(why) => {
                        result = Err(why);
                        None
                    }
                },
            };
            self.0.extend(open);
        }
        for open in before.into_iter().flatten() {
            if !self
                .0
                .iter()
                .any(|new| new.socket.address == open.socket.address)
            {
                log::info!("no longer listening on {}", open.socket.address);
            }
            Connections(open.stop_accepting().into_iter().collect()).end();
        }
        let clients = self
            .0
            .iter()
            .filter(|open| matches!(open.wanted, Wanted::Client(_)));
        let addresses = clients.map(|open| open.socket.address.to_string());
        serving.admin.listeners.store(Arc::new(addresses.collect()));
        result
    }

    /// The certificates in use.
    pub(super) fn certificates(&self) -> Vec<Arc<Tls>> {
        self.0.iter().filter_map(|open| open.tls.clone()).collect()
    }

    /// Accepts nobody any more, or no more clients while operators are still listened to. The
    /// sockets are closed; connections stay until they are ended.
    pub(super) fn stop_accepting(&mut self, operators_too: bool) -> Connections {
        let goes = |open: &mut Open| operators_too || matches!(open.wanted, Wanted::Client(_));
        let ended = self.0.extract_if(.., goes);
        Connections(ended.filter_map(Open::stop_accepting).collect())
    }

    /// All of them once more, as they are written, for another process.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(super) fn for_another(&self) -> std::io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let one = |open: &Open| Ok((open.wanted.address(), open.socket.again()?.into()));
        self.0.iter().map(one).collect()
    }
}

/// Connections that were accepted at sockets that are closed.
pub(super) struct Connections(Vec<watch::Sender<bool>>);

impl Connections {
    /// Closes those that are idle, and the others behind their answer.
    pub(super) fn end(self) {
        for end in self.0 {
            end.send_replace(true);
        }
    }
}

impl Open {
    fn serve(self, serving: &Serving<'_>) -> Result<Open, String> {
        let (edge, address) = (serving.edge, self.socket.address);
        let listener = Listener::new(&self.socket, self.tls.clone(), &edge.metrics)
            .map_err(|error| format!("{address} cannot be listened on: {error}"))?;
        let (accepting, end_accepting) = watch::channel(false);
        let (connections, end_connections) = watch::channel(false);
        let stops = Stops {
            accepting: end_accepting,
            connections: end_connections,
        };
        let scheme = self.tls.as_ref().map_or("http", |_| "https");
        match &self.wanted {
            Wanted::Client(settings) => {
                log::info!("listening on {scheme}://{address} with {}", serving.source);
                let front = front(edge, address, settings.clone());
                tokio::spawn(listener.serve(front, serving.gate.clone(), stops));
            }
            Wanted::Admin(_) => {
                log::info!("admin endpoints on {scheme}://{address}");
                let gate = serving.admin_gate.clone();
                let admin = Arc::new(App(serving.admin.clone()));
                tokio::spawn(listener.serve(admin, gate, stops));
            }
        }
        let ends = Ends {
            accepting,
            connections,
        };
        Ok(Open {
            ends: Some(ends),
            ..self
        })
    }

    fn stop_accepting(self) -> Option<watch::Sender<bool>> {
        let ends = self.ends?;
        ends.accepting.send_replace(true);
        Some(ends.connections)
    }
}

/// What serves the connections of a client listener.
fn front(edge: &Arc<Edge>, address: SocketAddr, settings: config::Listener) -> Arc<Front> {
    let proxy = Proxy {
        edge: edge.clone(),
        listener: address.to_string(),
        cors: settings.cors,
    };
    Arc::new(Front {
        proxy: Arc::new(proxy),
        h2c: settings.h2c,
    })
}

/// Looks after certificates until the program ends.
pub(super) async fn watch_certificates(listeners: Arc<std::sync::Mutex<Listeners>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let all = lock(&listeners).certificates();
        tls::refresh(&all, false).await;
    }
}

pub(super) fn lock(
    listeners: &std::sync::Mutex<Listeners>,
) -> std::sync::MutexGuard<'_, Listeners> {
    listeners
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
