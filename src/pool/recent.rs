//! The last few durations of something, for medians and percentiles.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The last `N` durations, in microseconds; up to 71 minutes each.
#[derive(Debug)]
pub(crate) struct Recent<const N: usize> {
    ring: [AtomicU32; N],
    count: AtomicUsize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Recent {
            ring: [const { AtomicU32::new(0) }; N],
            count: AtomicUsize::new(0),
        }
    }
}

impl<const N: usize> Recent<N> {
    pub(crate) fn push(&self, duration: Duration) {
        let n = self.count.fetch_add(1, Relaxed);
        let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        self.ring[n % N].store(micros, Relaxed);
    }

    /// The duration that `percent` of them do not pass; `None` with fewer than `least`.
    pub(crate) fn percentile(&self, percent: usize, least: usize) -> Option<Duration> {
        if self.count.load(Relaxed).min(N) < least.max(1) {
            return None;
        }
        let mut all = Durations::default();
        all.add(self);
        all.percentile(percent)
    }

    pub(crate) fn clear(&self) {
        self.count.store(0, Relaxed);
    }
}

/// Durations of one or more of these, in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Vec<u32>);

impl Durations {
    pub(super) fn add<const N: usize>(&mut self, recent: &Recent<N>) {
        let count = recent.count.load(Relaxed).min(N);
        let all = recent.ring[..count].iter();
        self.0.extend(all.map(|micros| micros.load(Relaxed)));
    }

    /// The duration that `percent` of them do not pass; `None` without any.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut all = self.0.clone();
        let rank = (all.len() * percent).div_ceil(100).max(1) - 1;
        let (_, value, _) = (rank < all.len()).then(|| all.select_nth_unstable(rank))?;
        Some(Duration::from_micros(u64::from(*value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_ones() {
        let recent: Recent<100> = Recent::default();
        assert_eq!(recent.percentile(50, 1), None);
        for n in 1..=150 {
            recent.push(Duration::from_millis(n));
        }
        // 51 to 150 are left
        assert_eq!(recent.percentile(50, 10), Some(Duration::from_millis(100)));
        assert_eq!(recent.percentile(95, 10), Some(Duration::from_millis(145)));
        assert_eq!(recent.percentile(95, 101), None);
    }
}
