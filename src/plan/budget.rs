//! A retry budget: retries may be a share of the requests.
//!
//! Why a share and not only a count per request: when half of the servers are down, three
//! attempts for each request triple the load on the other half, which then fall too. A share
//! bounds what retries add, whatever happens. A few are always allowed, so that a quiet edge can
//! still fall back. Both are counted over a sliding window: a quiet hour does not pay for a storm.

use std::time::{Duration, Instant};

use crate::pool::Window;

/// How far back requests and retries are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Retries within the window that are allowed whatever the share.
const FLOOR: u64 = 10;

/// The budget of one route.
#[derive(Debug)]
pub(crate) struct Budget {
    percent: u64,
    /// Requests and retries.
    counts: Window,
    epoch: Instant,
}

impl Budget {
    /// Of `percent` of the requests.
    pub(crate) fn new(percent: u8, now: Instant) -> Self {
        Budget {
            percent: u64::from(percent),
            counts: Window::new(WINDOW),
            epoch: now,
        }
    }

    /// A request came.
    pub(crate) fn deposit(&self, now: Instant) {
        self.counts.add(1, 0, self.clock(now));
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let some = self.left(now) > 0;
        if some {
            self.counts.add(0, 1, self.clock(now));
        }
        some
    }

    /// Retries that are left now.
    pub(crate) fn left(&self, now: Instant) -> u64 {
        let (requests, retries) = self.counts.counts(self.clock(now));
        (FLOOR + requests * self.percent / 100).saturating_sub(retries)
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_more() {
        let now = Instant::now();
        let budget = Budget::new(20, now);
        let retries = (0..1000)
            .filter(|_| {
                budget.deposit(now);
                budget.withdraw(now)
            })
            .count();
        assert_eq!(retries, 210);
        let later = now + Duration::from_secs(60);
        assert_eq!(budget.left(later), 10, "an old storm is forgotten");
        budget.deposit(later);
        assert_eq!(budget.left(later), 10);
    }
}
