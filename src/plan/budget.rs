//! A retry budget: retries may be a share of the requests.
//!
//! Why a share and not only a count per request: when half of the servers are down, three
//! attempts for each request triple the load on the other half, which then fall too. A share
//! bounds what retries add, whatever happens. A few are always allowed, so that a quiet edge can
//! still fall back.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Retries allowed before any request has paid for them, in thousandths.
const FLOOR: i64 = 10_000;
/// Most that is saved up, in thousandths: a quiet hour must not pay for a storm.
const CEILING: i64 = 100_000;

/// The budget of one route.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Paid in by each request, in thousandths of a retry.
    share: i64,
    balance: AtomicI64,
}

impl Budget {
    /// Of `percent` of the requests.
    pub(crate) fn new(percent: u8) -> Self {
        Budget {
            share: i64::from(percent) * 10,
            balance: AtomicI64::new(FLOOR),
        }
    }

    /// A request came.
    pub(crate) fn deposit(&self) {
        if self.balance.load(Relaxed) < CEILING {
            self.balance.fetch_add(self.share, Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&self) -> bool {
        self.balance
            .fetch_update(Relaxed, Relaxed, |balance| {
                (balance >= 1000).then_some(balance - 1000)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_more() {
        let budget = Budget::new(20);
        let retries = (0..1000)
            .filter(|_| {
                budget.deposit();
                budget.withdraw()
            })
            .count();
        assert_eq!(retries, 210);
    }
}
