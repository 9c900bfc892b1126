//! Answers in memory, by what was asked for last. The bound is in bytes and exact.
//!
//! One lock for all: it is held for a look into a table and a move in a list, some 100 ns beside
//! the 20 µs and more of a request, and it keeps the order and the bound exact. What is thrown
//! out is freed behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{Key, Stored, Tier};

/// What an entry costs besides its bytes: tables, lists and allocations.
const OVERHEAD: u64 = 512;

pub(super) struct Memory {
    kept: Mutex<Kept>,
    limit: u64,
    tier: Tier,
}

struct Kept {
    answers: LruCache<Key, Arc<Stored>>,
    bytes: u64,
    told: u64,
}

impl Kept {
    fn tell(&mut self, tier: &Tier) {
        tier.tell(&mut self.told, self.bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.clear();
    }
}

fn size(stored: &Stored) -> u64 {
    let headers = stored.headers.iter();
    let headers: usize = headers.map(|(n, v)| n.as_str().len() + v.len() + 64).sum();
    (stored.body.len() + headers) as u64 + OVERHEAD
}

impl Memory {
    pub(super) fn new(limit: u64, tier: Tier) -> Self {
        Memory {
            kept: Mutex::new(Kept {
                answers: LruCache::unbounded(),
                bytes: 0,
                told: 0,
            }),
            limit,
            tier,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.kept().answers.get(key).cloned()
    }

    /// Keeps an answer, in the place of those that nobody asked for longest.
    pub(super) fn put(&self, key: Key, stored: Arc<Stored>) {
        let own = size(&stored);
        if own > self.limit {
            return;
        }
        let mut gone = Vec::new();
        let mut evicted = 0;
        {
            let mut kept = self.kept();
            kept.bytes += own;
            if let Some(before) = kept.answers.put(key, stored) {
                kept.bytes -= size(&before);
                gone.push(before);
            }
            while kept.bytes > self.limit
                && let Some((_, oldest)) = kept.answers.pop_lru()
            {
                kept.bytes -= size(&oldest);
                gone.push(oldest);
                evicted += 1;
            }
            kept.tell(&self.tier);
        }
        self.tier.evictions.inc_by(evicted);
        drop(gone);
    }

    /// Forgets all; says how many they were.
    pub(super) fn clear(&self) -> usize {
        let mut kept = self.kept();
        let all = std::mem::replace(&mut kept.answers, LruCache::unbounded());
        kept.bytes = 0;
        kept.tell(&self.tier);
        drop(kept);
        all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prometheus::{IntCounter, IntGauge};

    fn memory(limit: u64) -> Memory {
        let tier = Tier {
            bytes: IntGauge::new("bytes", "-").unwrap(),
            evictions: IntCounter::new("evictions", "-").unwrap(),
        };
        Memory::new(limit, tier)
    }

    fn answer(bytes: usize) -> Arc<Stored> {
        Arc::new(Stored::new(Vec::new(), Bytes::from(vec![0; bytes])))
    }

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    #[test]
    fn the_bound_holds_and_what_was_asked_for_longest_ago_goes_first() {
        let memory = memory(3 * (1000 + OVERHEAD));
        for n in 0..3 {
            memory.put(key(n), answer(1000));
        }
        assert!(memory.get(&key(0)).is_some());
        memory.put(key(3), answer(1000));
        assert!(memory.get(&key(1)).is_none(), "nobody asked for it since");
        assert!(memory.get(&key(0)).is_some() && memory.get(&key(2)).is_some());
        assert_eq!(memory.tier.evictions.get(), 1);
        assert_eq!(memory.tier.bytes.get(), 3 * (1000 + OVERHEAD as i64));
    }

    #[test]
    fn a_replaced_answer_is_counted_once_and_one_too_large_not_at_all() {
        let memory = memory(5000);
        memory.put(key(1), answer(1000));
        memory.put(key(1), answer(2000));
        assert_eq!(memory.tier.bytes.get(), 2000 + OVERHEAD as i64);
        memory.put(key(2), answer(5000));
        assert!(memory.get(&key(2)).is_none() && memory.get(&key(1)).is_some());
        assert_eq!((memory.clear(), memory.tier.bytes.get()), (1, 0));
    }
}
