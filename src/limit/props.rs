//! Allowances: whatever is taken and when, a minute gives what it may and no more.

use std::time::Duration;

use proptest::prelude::*;

use super::bucket::{Bucket, Short};
use crate::fuzz::{Dice, cases, shape};

const LIMITS: &[u64] = &[1, 7, 60, 1000, 200_000, 90_000_000];
const MINUTE: u128 = 60_000_000_000;

/// A byte that chooses the limit, then steps of three: what, how much, and how much later.
pub(crate) fn holds(data: &[u8]) -> u64 {
    let mut dice = Dice::new(data);
    let limit = LIMITS[dice.below(LIMITS.len())];
    let bucket = Bucket::default();
    let mut now = Duration::from_secs(1000);
    let mut taken: Vec<(u128, u64)> = Vec::new();
    let (mut refused, mut steps) = (0, 0);
    // what is given back or charged is not the bucket's own decision
    let mut plain = true;
    while !dice.is_over() && steps < 300 {
        steps += 1;
        let what = dice.byte();
        let n = u64::from(dice.byte()) * limit / [1, 100, 200, 2550][usize::from(what >> 6)];
        now += Duration::from_millis(u64::from(dice.byte()).pow(2));
        match what & 0x0f {
            0 => {
                bucket.give_back(limit, n);
                plain = false;
            }
            1 => {
                bucket.charge(limit, n, now);
                plain = false;
            }
            _ => match bucket.take(limit, n, now) {
                Ok(_) => taken.push((now.as_nanos(), n)),
                Err(Short::Never) => assert!(n > limit),
                Err(Short::Wait(wait)) => {
                    refused += 1;
                    assert!(!wait.is_zero());
                    if what & 0x10 != 0 {
                        let almost = now + wait - Duration::from_nanos(1);
                        assert!(
                            bucket.take(limit, n, almost).is_err(),
                            "it was there earlier"
                        );
                        now += wait;
                        assert!(
                            bucket.take(limit, n, now).is_ok(),
                            "it was not there in time"
                        );
                        taken.push((now.as_nanos(), n));
                    }
                }
            },
        }
        let left = bucket.left(limit, now);
        assert!(left.remaining <= limit);
        assert_eq!(left.reset.is_zero(), bucket.is_whole(now));
        if what & 0x20 != 0 && left.remaining > 0 {
            assert!(
                bucket.take(limit, left.remaining, now).is_ok(),
                "it says so itself"
            );
            taken.push((now.as_nanos(), left.remaining));
        }
    }
    if plain {
        bounded(&taken, limit);
    }
    shape((limit, taken.len(), refused))
}

/// From any moment on: what had gathered, and what comes back meanwhile. Costs are rounded down to
/// nanoseconds, each of them.
fn bounded(taken: &[(u128, u64)], limit: u64) {
    for (n, (start, _)) in taken.iter().enumerate() {
        let mut sum = 0_u128;
        for (count, (at, amount)) in taken[n..].iter().enumerate() {
            sum += u128::from(*amount);
            let time = MINUTE + (at - start) + count as u128 + 1;
            assert!(
                sum * MINUTE <= u128::from(limit) * time,
                "{sum} of {limit} within {} ns",
                at - start
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_minute_gives_what_it_may(data in prop::collection::vec(any::<u8>(), 0..300)) {
        holds(&data);
    }
}
