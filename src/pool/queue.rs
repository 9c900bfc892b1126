//! Where requests wait for a slot: first come, first served, those of people before those of
//! batches.
//!
//! A slot that becomes free is handed to the first one that may use it, never left for whoever
//! comes next. So nobody overtakes, and a request that leaves the line in any way leaves nothing
//! behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::member::{Lease, Member};
use super::{Pool, Wanted};
use crate::config::Priority;

/// The line in front of a pool.
pub(super) struct Queue {
    lines: Mutex<[VecDeque<Waiter>; 2]>,
    /// How many wait in each line: realtime, batch.
    waiting: [AtomicUsize; 2],
    next_id: AtomicU64,
    size: usize,
}

/// Somebody who waits.
struct Waiter {
    id: u64,
    wanted: Owned,
    hand: oneshot::Sender<Lease>,
}

/// A [`Wanted`] that outlives the call.
struct Owned {
    tried: Vec<Arc<Member>>,
    banned: Vec<usize>,
    hash: u64,
    model: Option<String>,
    desperate: bool,
    only: Option<usize>,
}

impl Owned {
    fn as_wanted(&self) -> Wanted<'_> {
        Wanted {
            tried: &self.tried,
            banned: &self.banned,
            hash: self.hash,
            model: self.model.as_deref(),
            desperate: self.desperate,
            only: self.only,
        }
    }
}

/// A place in the line; it is given up when this is dropped.
pub(crate) struct Ticket {
    pool: Arc<Pool>,
    id: u64,
    class: usize,
    hand: oneshot::Receiver<Lease>,
}

impl Ticket {
    /// Waits for a slot. Does not end by itself if none becomes free.
    pub(crate) async fn granted(&mut self) -> Option<Lease> {
        (&mut self.hand).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut lines = self.pool.queue.lines();
        let line = &mut lines[self.class];
        let left = line
            .iter()
            .position(|waiter| waiter.id == self.id)
            .and_then(|n| line.remove(n));
        self.pool.queue.count(&lines);
        drop(lines);
        // a slot that was handed over and not taken goes on to the next with its lease
        drop(left);
    }
}

impl Queue {
    pub(super) fn new(size: usize) -> Self {
        Queue {
            lines: Mutex::default(),
            waiting: Default::default(),
            next_id: AtomicU64::new(0),
            size,
        }
    }

    fn lines(&self) -> MutexGuard<'_, [VecDeque<Waiter>; 2]> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, lines: &[VecDeque<Waiter>; 2]) {
        for (count, line) in self.waiting.iter().zip(lines) {
            count.store(line.len(), Relaxed);
        }
    }

    /// How many wait: realtime, batch.
    pub(super) fn waiting(&self) -> [usize; 2] {
        [self.waiting[0].load(Relaxed), self.waiting[1].load(Relaxed)]
    }

    /// How many are before one that comes now.
    pub(super) fn ahead(&self, priority: Priority) -> usize {
        self.waiting()[..=class(priority)].iter().sum()
    }

    /// Puts somebody in line. `None` if it is full; for a realtime request, the last batch request
    /// gives its place up.
    pub(super) fn join(
        &self,
        pool: &Arc<Pool>,
        wanted: &Wanted<'_>,
        priority: Priority,
    ) -> Option<Ticket> {
        let class = class(priority);
        let mut lines = self.lines();
        let mut displaced = None;
        if lines[0].len() + lines[1].len() >= self.size {
            displaced = (class == 0 && self.size > 0)
                .then(|| lines[1].pop_back())
                .flatten();
            displaced.as_ref()?;
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let (hand, receiver) = oneshot::channel();
        lines[class].push_back(Waiter {
            id,
            wanted: Owned {
                tried: wanted.tried.to_vec(),
                banned: wanted.banned.to_vec(),
                hash: wanted.hash,
                model: wanted.model.map(str::to_owned),
                desperate: wanted.desperate,
                only: wanted.only,
            },
            hand,
        });
        self.count(&lines);
        drop(lines);
        // who was displaced sees its hand dropped
        drop(displaced);
        Some(Ticket {
            pool: pool.clone(),
            id,
            class,
            hand: receiver,
        })
    }

    /// Hands free slots to those who wait, in order; then `last` may look for what is left, before
    /// anybody else gets in line.
    pub(super) fn serve<T>(
        &self,
        free: impl Fn(&Wanted<'_>) -> Option<Lease>,
        last: impl FnOnce() -> T,
    ) -> T {
        loop {
            let mut lines = self.lines();
            let found = lines.iter().enumerate().find_map(|(class, line)| {
                line.iter()
                    .enumerate()
                    .find_map(|(n, waiter)| Some((class, n, free(&waiter.wanted.as_wanted())?)))
            });
            let Some((class, n, lease)) = found else {
                return last();
            };
            let waiter = lines[class].remove(n).expect("found above");
            self.count(&lines);
            drop(lines);
            // one who left meanwhile gives the lease back, and so to the next
            drop(waiter.hand.send(lease));
        }
    }
}

fn class(priority: Priority) -> usize {
    match priority {
        Priority::Realtime => 0,
        Priority::Batch => 1,
    }
}
