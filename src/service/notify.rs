//! Tells systemd how the program does: ready, reloading, stopping, alive, and a line for people.
//!
//! The protocol is a datagram of `KEY=value` lines to the socket that `$NOTIFY_SOCKET` names
//! (`man 3 sd_notify`). The crates for it add a dependency and no knowledge to these few lines.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::proxy::Edge;

/// How often the line for people is brought up to date when there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The way to the service manager, to nobody if none started this program; and to who else waits
/// until it is ready.
#[derive(Clone, Default)]
pub(crate) struct Notify {
    manager: Option<Arc<Manager>>,
    waiting: Option<Arc<Manager>>,
}

struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it waits for a sign of life before it kills us.
    watchdog: Option<Duration>,
}

impl Notify {
    /// By the variables that systemd sets, and by another one that names who else waits.
    pub(crate) fn from_environment(waiting: &'static str) -> Self {
        let variable = |name| std::env::var(name).ok();
        let open = |name, watchdog| {
            let path = variable(name)?;
            match Manager::new(&path, watchdog) {
                Ok(manager) => Some(Arc::new(manager)),
                Err(error) => {
                    log::warn!("${name} names {path}, which cannot be used: {error}");
                    None
                }
            }
        };
        Notify {
            manager: open("NOTIFY_SOCKET", watchdog(&variable)),
            waiting: open(waiting, None),
        }
    }

    /// Requests are taken. Also what ends a reload, whether it changed anything or not.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
        if let Some(waiting) = &self.waiting {
            waiting.tell("READY=1");
        }
    }

    /// Another process goes on from here.
    pub(crate) fn replaced_by(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    pub(crate) fn reloading(&self) {
        self.tell("RELOADING=1");
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing what is in flight");
    }

    /// Sends signs of life until the program ends.
    ///
    /// Each comes from a task of the runtime that serves the requests, after it has asked every
    /// pool for its state under the locks that requests take: a runtime whose workers hang, or a
    /// lock that nobody gives back, ends the signs of life, and systemd starts us again.
    pub(crate) async fn keep_alive(self, edge: Arc<Edge>) {
        let Some(manager) = &self.manager else { return };
        // three chances before the watchdog bites
        let interval = manager
            .watchdog
            .map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
        let alive = manager.watchdog.map_or("", |_| "WATCHDOG=1\n");
        loop {
            let about = about(&edge);
            if edge.draining.load(Relaxed) {
                self.tell(alive);
            } else {
                self.tell(&format!("{alive}STATUS={about}"));
            }
            tokio::time::sleep(interval).await;
        }
    }

    fn tell(&self, text: &str) {
        if let Some(manager) = self.manager.as_ref().filter(|_| !text.is_empty()) {
            manager.tell(text);
        }
    }
}

impl Manager {
    fn new(path: &str, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        // a manager that does not read must not hold up a worker
        socket.set_nonblocking(true)?;
        Ok(Manager {
            socket,
            address,
            watchdog,
        })
    }

    /// What cannot be told is not worth ending for.
    fn tell(&self, text: &str) {
        let sent = self.socket.send_to_addr(text.as_bytes(), &self.address);
        if let Err(error) = sent {
            log::debug!("the service manager could not be told {text:?}: {error}");
        }
    }
}

/// How long the watchdog waits, if it waits for this process.
fn watchdog(variable: &impl Fn(&'static str) -> Option<String>) -> Option<Duration> {
    let ours = |pid: String| pid == std::process::id().to_string();
    if !variable("WATCHDOG_PID").is_none_or(ours) {
        return None;
    }
    let limit = variable("WATCHDOG_USEC")?.parse().ok()?;
    Some(Duration::from_micros(limit)).filter(|limit| !limit.is_zero())
}

/// The line of `systemctl status`.
fn about(edge: &Edge) -> String {
    let snapshot = edge.snapshot();
    let pools = snapshot.gateway.pool_status(Instant::now());
    let servers = || pools.iter().flat_map(|pool| &pool.servers);
    format!(
        "routes: {}, servers up: {} of {}, requests in flight: {}",
        snapshot.gateway.config.routes.len(),
        servers().filter(|server| server.state == "up").count(),
        servers().count(),
        edge.metrics.in_flight.get()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let limit = |pid: Option<&str>, limit: Option<&str>| {
            watchdog(&|name| match name {
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => limit.map(str::to_owned),
            })
        };
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(limit(None, Some("1000000")), second);
        assert_eq!(limit(Some(&own), Some("1000000")), second);
        assert_eq!(limit(Some("1"), Some("1000000")), None);
        assert_eq!(limit(None, None), None);
        assert_eq!(limit(None, Some("0")), None);
        assert_eq!(limit(None, Some("soon")), None);
    }
}
