//! One address of a server: is it healthy, is it ejected, how busy is it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pingora::lb::Backend;

/// One address of a server. Times are counted from the pool's epoch.
pub(crate) struct Member {
    /// The index of the server in the pool's configuration.
    pub(crate) server: usize,
    pub(super) backend: Backend,
    healthy: AtomicBool,
    in_flight: AtomicUsize,
    /// Failed attempts in a row.
    failures: AtomicU32,
    /// In microseconds; 0 for never.
    ejected_until: AtomicU64,
}

impl Member {
    pub(super) fn new(server: usize, backend: Backend) -> Self {
        Member {
            server,
            backend,
            // as in pingora-load-balancing, until probes say otherwise
            healthy: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *self
            .backend
            .addr
            .as_inet()
            .expect("discovery finds IP addresses only")
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_until.load(Relaxed) > now.as_micros() as u64
    }

    /// May be asked.
    pub(super) fn is_available(&self, now: Duration) -> bool {
        self.is_healthy() && !self.is_ejected(now)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Says whether this changed something. A server that its probes find well again is not held
    /// to what it did before.
    pub(super) fn set_healthy(&self, healthy: bool) -> bool {
        let flipped = self.healthy.swap(healthy, Relaxed) != healthy;
        if flipped && healthy {
            self.failures.store(0, Relaxed);
            self.ejected_until.store(0, Relaxed);
        }
        flipped
    }

    /// Counts an attempt; says how many failed in a row by now.
    pub(super) fn count(&self, good: bool) -> u32 {
        if good {
            self.failures.store(0, Relaxed);
            return 0;
        }
        self.failures.fetch_add(1, Relaxed) + 1
    }

    /// Ejects until then. The first attempt after that is a trial: one more failure is enough.
    pub(super) fn eject(&self, until: Duration, after: u32) {
        self.failures.store(after - 1, Relaxed);
        self.ejected_until.store(until.as_micros() as u64, Relaxed);
    }
}

/// A member while a request is with it; its place is free again when this is dropped, whatever
/// way the request ends.
pub(crate) struct Lease(Arc<Member>);

impl Lease {
    pub(super) fn new(member: Arc<Member>) -> Self {
        member.in_flight.fetch_add(1, Relaxed);
        Lease(member)
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Deref for Lease {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
