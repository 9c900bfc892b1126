//! Counts of two things over the last few seconds, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts a window is cut into; the oldest part leaves at once, so its error is one part.
const PARTS: u64 = 8;
const BITS: u32 = 24;
const MOST: u64 = (1 << BITS) - 1;

/// Two counts in a sliding window. Each part is one word: when it was, and both counts.
#[derive(Debug)]
pub(crate) struct Window {
    /// Length of a part, in microseconds.
    part: u64,
    parts: [AtomicU64; PARTS as usize],
}

impl Window {
    /// `length` is at least a few microseconds.
    pub(crate) fn new(length: Duration) -> Self {
        Window {
            part: (length.as_micros() as u64 / PARTS).max(1),
            parts: Default::default(),
        }
    }

    /// Adds to both counts; `at` is counted from any fixed moment.
    pub(crate) fn add(&self, first: u64, second: u64, at: Duration) {
        let tick = self.tick(at);
        let part = &self.parts[(tick % PARTS) as usize];
        let _ = part.fetch_update(Relaxed, Relaxed, |word| {
            let (a, b) = match stamp(word) == stamp_of(tick) {
                true => counts(word),
                false => (0, 0),
            };
            Some(packed(tick, (a + first).min(MOST), (b + second).min(MOST)))
        });
    }

    /// Both counts of the window that ends at `at`.
    pub(crate) fn counts(&self, at: Duration) -> (u64, u64) {
        let now = self.tick(at);
        let oldest = now.saturating_sub(PARTS - 1);
        (oldest..=now).fold((0, 0), |sum, tick| {
            let word = self.parts[(tick % PARTS) as usize].load(Relaxed);
            match stamp(word) == stamp_of(tick) {
                true => (sum.0 + counts(word).0, sum.1 + counts(word).1),
                false => sum,
            }
        })
    }

    /// Starts again from nothing.
    pub(crate) fn clear(&self) {
        self.parts.iter().for_each(|part| part.store(0, Relaxed));
    }

    /// Never 0, which is the stamp of a part that was never written.
    fn tick(&self, at: Duration) -> u64 {
        at.as_micros() as u64 / self.part + PARTS
    }
}

/// The last 16 bits of a tick: a part is looked at within 8 ticks of its own, or it is stale.
fn stamp_of(tick: u64) -> u64 {
    tick & 0xFFFF
}

fn stamp(word: u64) -> u64 {
    word >> (2 * BITS)
}

fn counts(word: u64) -> (u64, u64) {
    ((word >> BITS) & MOST, word & MOST)
}

fn packed(tick: u64, first: u64, second: u64) -> u64 {
    stamp_of(tick) << (2 * BITS) | first << BITS | second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let window = Window::new(Duration::from_secs(8));
        let at = Duration::from_secs;
        for second in 0..8 {
            window.add(1, 2, at(second));
        }
        assert_eq!(window.counts(at(7)), (8, 16));
        assert_eq!(window.counts(at(10)), (5, 10));
        window.add(1, 0, at(10));
        assert_eq!(window.counts(at(10)), (6, 10));
        assert_eq!(window.counts(at(100)), (0, 0));
        window.add(1, 0, at(100));
        window.clear();
        assert_eq!(window.counts(at(100)), (0, 0));
    }

    #[test]
    fn counts_stop_at_their_end_and_do_not_run_into_each_other() {
        let window = Window::new(Duration::from_secs(8));
        window.add(MOST + 5, MOST + 5, Duration::ZERO);
        window.add(1, 1, Duration::ZERO);
        assert_eq!(window.counts(Duration::ZERO), (MOST, MOST));
    }
}
