//! Consistent hashing with bounded load: the same value meets the same member, a member that comes
//! or goes moves only its own share, and nobody is buried by one busy value.
//!
//! The bound is that of "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam,
//! 2016), as in HAProxy's `hash-balance-factor`.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Points of the heaviest member. With 160, shares differ by some 8 %.
const POINTS: u64 = 160;
/// How much more than its share a member may have in flight, in percent.
const BOUND: u64 = 125;
/// What any member may have in flight: a share of next to nothing is less than one, and a request
/// that is just ending must not move the next one of its session.
const LEAST: u64 = 2;

/// The members on a ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// By place on the ring.
    points: Vec<(u64, usize)>,
    /// Each member with its weight.
    members: Vec<(usize, u64)>,
}

/// Where a value stands on a ring. The same in every edge that runs the same binary.
pub(crate) fn place(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Ring {
    /// Of members by their index, their identity and their weight.
    pub(super) fn new(members: impl Iterator<Item = (usize, String, u32)>) -> Self {
        let members: Vec<_> = members.collect();
        let heaviest = members.iter().map(|(_, _, w)| u64::from(*w)).max();
        let heaviest = heaviest.unwrap_or(1).max(1);
        let mut points: Vec<(u64, usize)> = members
            .iter()
            .flat_map(|(n, identity, weight)| {
                let count = (u64::from(*weight) * POINTS / heaviest).max(1);
                (0..count).map(move |point| (place(&(identity, point)), *n))
            })
            .collect();
        points.sort_unstable();
        Ring {
            points,
            members: members
                .iter()
                .map(|(n, _, weight)| (*n, u64::from(*weight)))
                .collect(),
        }
    }

    /// The free member that `value` meets: the next one on the ring that has not much more than its
    /// share in flight.
    pub(super) fn next(
        &self,
        value: u64,
        free: impl Fn(&usize) -> bool,
        in_flight: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let candidates: Vec<_> = self.members.iter().filter(|(n, _)| free(n)).collect();
        let weights: u64 = candidates.iter().map(|(_, weight)| *weight).sum();
        let busy: u64 = candidates.iter().map(|(n, _)| in_flight(*n) as u64).sum();
        let within = |n: usize| {
            let weight = candidates.iter().find(|(m, _)| *m == n).map(|(_, w)| *w);
            weight.is_some_and(|weight| {
                let bound = ((busy + 1) * weight * BOUND).div_ceil(weights * 100);
                (in_flight(n) as u64) < bound.max(LEAST)
            })
        };
        let start = self.points.partition_point(|(place, _)| *place < value);
        let walk = || {
            let (behind, ahead) = self.points.split_at(start);
            ahead.iter().chain(behind).map(|(_, n)| *n)
        };
        walk()
            .find(|n| within(*n))
            .or_else(|| walk().find(|n| free(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(count: usize) -> Ring {
        Ring::new((0..count).map(|n| (n, format!("server-{n}"), 1)))
    }

    #[test]
    fn a_value_keeps_its_member_and_moves_only_when_that_one_is_gone() {
        let ring = ring(5);
        let all = |_: &usize| true;
        let mut moved = 0;
        for value in 0..1000 {
            let home = ring.next(place(&value), all, |_| 0).unwrap();
            assert_eq!(ring.next(place(&value), all, |_| 0), Some(home));
            let other = ring.next(place(&value), |n| *n != 3, |_| 0).unwrap();
            moved += usize::from(other != home);
            assert!(
                other == home || home == 3,
                "only those of the lost one move"
            );
        }
        assert!(
            (120..280).contains(&moved),
            "{moved} of 1000 were at home there"
        );
    }

    #[test]
    fn one_busy_value_spills_over_instead_of_burying_its_member() {
        let ring = ring(4);
        let mut load = [0; 4];
        for _ in 0..100 {
            let n = ring.next(place("hot"), |_| true, |n| load[n]).unwrap();
            load[n] += 1;
        }
        assert!(load.iter().all(|n| *n <= 32), "{load:?}");
    }

    #[test]
    fn shares_follow_the_weights() {
        let ring = Ring::new([(0, "a".into(), 1), (1, "b".into(), 4)].into_iter());
        let heavy = (0..2000)
            .filter(|n| ring.next(place(n), |_| true, |_| 0) == Some(1))
            .count();
        assert!((1450..1750).contains(&heavy), "{heavy} of 2000");
        assert_eq!(Ring::default().next(1, |_| true, |_| 0), None);
    }
}
