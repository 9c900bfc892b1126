//! Connections to servers that wait for their next request.
//!
//! A shelf for each server at each of its addresses, shared across reloads. What is taken is the
//! one that was used last; a look at it costs no system call, as the runtime knows already what the
//! server sent or closed. What nobody takes in time is closed by a sweep each second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http1::Upstream;

/// How often connections are looked through for those that ended.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections that are kept for all servers.
pub(crate) struct Shelves {
    /// Kept at most.
    limit: usize,
    count: Arc<AtomicUsize>,
    /// By what tells connections apart: address, TLS, pool.
    shelves: Mutex<HashMap<u64, Arc<Shelf>>>,
}

/// Those to one server.
pub(super) struct Shelf {
    limit: usize,
    count: Arc<AtomicUsize>,
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    connection: Box<Upstream>,
    until: Instant,
}

impl Shelves {
    /// Keeps at most `limit` connections.
    pub(crate) fn new(limit: usize) -> Self {
        Shelves {
            limit,
            count: Arc::default(),
            shelves: Mutex::default(),
        }
    }

    pub(super) fn shelf(&self, key: u64) -> Arc<Shelf> {
        let mut shelves = locked(&self.shelves);
        let shelf = shelves.entry(key).or_insert_with(|| {
            Arc::new(Shelf {
                limit: self.limit,
                count: self.count.clone(),
                kept: Mutex::default(),
            })
        });
        shelf.clone()
    }

    /// Closes connections whose time is over, for as long as the program runs.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            locked(&self.shelves).retain(|_, shelf| {
                shelf.sweep(now);
                // a server that no configuration names any more
                Arc::strong_count(shelf) > 1 || !locked(&shelf.kept).is_empty()
            });
        }
    }
}

impl Shelf {
    /// The connection that was used last, if there is one that lives.
    pub(super) fn take(&self) -> Option<Box<Upstream>> {
        loop {
            let mut kept = locked(&self.kept).pop()?;
            self.count.fetch_sub(1, Relaxed);
            if kept.until > Instant::now() && kept.connection.is_silent() {
                return Some(kept.connection);
            }
        }
    }

    /// Keeps a connection, until then at most.
    pub(super) fn put(&self, connection: Box<Upstream>, until: Instant) {
        // by one or two too many, if several come at once
        if self.count.load(Relaxed) >= self.limit {
            return;
        }
        self.count.fetch_add(1, Relaxed);
        locked(&self.kept).push(Kept { connection, until });
    }

    fn sweep(&self, now: Instant) {
        let mut kept = locked(&self.kept);
        let before = kept.len();
        kept.retain_mut(|one| one.until > now && one.connection.is_silent());
        let gone = before - kept.len();
        drop(kept);
        self.count.fetch_sub(gone, Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
