//! One allowance per minute, exact and without a lock.
//!
//! The generic cell rate algorithm (ITU-T I.371): all that is kept is the moment at which the
//! allowance will be whole again. Taking something moves it further away, time brings it closer,
//! and what would move it further than a minute is not given.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What allowances are counted over.
const MINUTE: u64 = 60_000_000_000;

/// What is left of an allowance. Times are nanoseconds since an epoch that the caller chooses.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

/// An allowance after something was taken, or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until it is whole again.
    pub(crate) reset: Duration,
}

impl Left {
    /// So much of a minute's allowance is there when it takes so long to be whole again.
    pub(crate) fn missing(limit: u64, missing: Duration) -> Self {
        left(limit, nanos(missing), 0)
    }
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// There is enough in so long.
    Wait(Duration),
    /// More than there is in a whole minute.
    Never,
}

/// The time that `n` of `limit` a minute stand for.
fn cost(n: u64, limit: u64) -> u64 {
    let nanos = u128::from(n) * u128::from(MINUTE) / u128::from(limit.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Bucket {
    /// Takes `n` of `limit` a minute.
    ///
    /// # Errors
    /// If there is not that much; then nothing is taken.
    pub(crate) fn take(&self, limit: u64, n: u64, now: Duration) -> Result<Left, Short> {
        let (now, cost) = (nanos(now), cost(n, limit));
        if n > limit {
            return Err(Short::Never);
        }
        let mut whole = self.0.load(Relaxed);
        loop {
            let next = whole.max(now).saturating_add(cost);
            if next - now > MINUTE {
                return Err(Short::Wait(Duration::from_nanos(next - now - MINUTE)));
            }
            match self.0.compare_exchange_weak(whole, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(left(limit, next, now)),
                Err(other) => whole = other,
            }
        }
    }

    /// Takes `n` although there may be less: it was used.
    pub(crate) fn charge(&self, limit: u64, n: u64, now: Duration) {
        let (now, cost) = (nanos(now), cost(n, limit));
        let next = |whole: u64| Some(whole.max(now).saturating_add(cost));
        let _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }

    /// Gives back `n` that was taken and not used.
    pub(crate) fn give_back(&self, limit: u64, n: u64) {
        let cost = cost(n, limit);
        let next = |whole: u64| Some(whole.saturating_sub(cost));
        let _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }

    pub(crate) fn left(&self, limit: u64, now: Duration) -> Left {
        let now = nanos(now);
        left(limit, self.0.load(Relaxed).max(now), now)
    }

    /// Whether nothing is missing.
    pub(crate) fn is_whole(&self, now: Duration) -> bool {
        self.0.load(Relaxed) <= nanos(now)
    }
}

fn left(limit: u64, whole: u64, now: u64) -> Left {
    let missing = whole - now;
    let free = u128::from(MINUTE.saturating_sub(missing));
    let remaining = free * u128::from(limit) / u128::from(MINUTE);
    Left {
        limit,
        remaining: remaining as u64,
        reset: Duration::from_nanos(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1000);

    #[test]
    fn a_minute_gives_its_allowance_and_no_more() {
        for limit in [1, 7, 60, 600, 200_000] {
            let bucket = Bucket::default();
            for n in 1..=limit {
                let left = bucket.take(limit, 1, T).unwrap();
                assert!(
                    left.remaining.abs_diff(limit - n) <= 1,
                    "{left:?} after {n}"
                );
            }
            assert!(
                matches!(bucket.take(limit, 1, T), Err(Short::Wait(_))),
                "{limit}"
            );
            // one more comes back after its share of the minute
            let share = Duration::from_nanos(cost(1, limit));
            assert!(bucket.take(limit, 1, T + share).is_ok());
            assert!(bucket.take(limit, 1, T + share).is_err());
        }
    }

    #[test]
    fn the_wait_is_how_long_it_takes() {
        let bucket = Bucket::default();
        bucket.take(60, 60, T).unwrap();
        assert_eq!(
            bucket.take(60, 5, T),
            Err(Short::Wait(Duration::from_secs(5)))
        );
        assert!(bucket.take(60, 5, T + Duration::from_secs(5)).is_ok());
        assert_eq!(bucket.take(60, 61, T), Err(Short::Never));
    }

    #[test]
    fn what_was_not_used_comes_back_and_what_was_is_charged() {
        let bucket = Bucket::default();
        bucket.take(100, 50, T).unwrap();
        bucket.give_back(100, 30);
        assert_eq!(bucket.left(100, T).remaining, 80);
        bucket.charge(100, 200, T);
        assert_eq!(bucket.left(100, T).remaining, 0);
        assert!(matches!(bucket.take(100, 1, T), Err(Short::Wait(_))));
        // more than was ever taken cannot be given back: the allowance is whole and no more
        bucket.give_back(100, 1000);
        assert!(bucket.is_whole(T));
        assert_eq!(bucket.left(100, T).remaining, 100);
    }

    #[test]
    fn threads_together_get_exactly_what_there_is() {
        let bucket = Bucket::default();
        let given: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| (0..1000).filter(|_| bucket.take(500, 1, T).is_ok()).count())
                })
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(given, 500);
    }
}
