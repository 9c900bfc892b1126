//! Whose turn it is, in proportion to weights.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Longest cycle of turns; heavier weights are scaled down to it.
const MAX_CYCLE: u64 = 4096;

/// A cycle in which each member comes up as often as its weight says, evenly spread: with weights
/// 5, 1, 1 it is a a b a c a a and not a a a a a b c (nginx's smooth weighted round robin).
#[derive(Debug, Default)]
pub(super) struct Turns {
    cycle: Vec<usize>,
    /// Each member once, with its weight.
    members: Vec<(usize, u32)>,
}

impl Turns {
    pub(super) fn new(members: impl Iterator<Item = (usize, u32)>) -> Self {
        let members: Vec<(usize, u32)> = members.collect();
        let divisor = members
            .iter()
            .fold(0, |d, (_, weight)| gcd(d, u64::from(*weight)))
            .max(1);
        let mut weights: Vec<u64> = members
            .iter()
            .map(|(_, w)| u64::from(*w) / divisor)
            .collect();
        let total: u64 = weights.iter().sum();
        if total > MAX_CYCLE {
            weights
                .iter_mut()
                .for_each(|w| *w = (*w * MAX_CYCLE / total).max(1));
        }
        let total: i64 = weights.iter().sum::<u64>() as i64;
        let mut credit = vec![0i64; members.len()];
        let cycle = (0..total)
            .filter_map(|_| {
                credit
                    .iter_mut()
                    .zip(&weights)
                    .for_each(|(credit, weight)| *credit += *weight as i64);
                // of equals the first, so that the file's order is the order of turns
                let best = (0..credit.len()).rev().max_by_key(|n| credit[*n])?;
                credit[best] -= total;
                Some(members[best].0)
            })
            .collect();
        Turns { cycle, members }
    }

    /// The members, each once.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|(n, _)| *n)
    }

    /// The next free member. A turn that falls on one that is not free passes to the next turn of
    /// all, not to its neighbour, so that the load of a dead server spreads over the rest.
    pub(super) fn next(&self, turn: &AtomicUsize, free: impl Fn(&usize) -> bool) -> Option<usize> {
        (0..self.cycle.len())
            .map(|_| self.cycle[turn.fetch_add(1, Relaxed) % self.cycle.len()])
            .find(&free)
            // other requests may have taken exactly the turns of the free ones
            .or_else(|| self.members.iter().map(|(n, _)| *n).find(&free))
    }

    /// Any free member, by weight.
    pub(super) fn random(&self, free: impl Fn(&usize) -> bool) -> Option<usize> {
        let total: u64 = self
            .members
            .iter()
            .filter(|(n, _)| free(n))
            .map(|(_, w)| u64::from(*w))
            .sum();
        let mut left = fastrand::u64(..total.max(1));
        self.members
            .iter()
            .filter(|(n, _)| free(n))
            .find_map(|(n, weight)| {
                let weight = u64::from(*weight);
                if left < weight {
                    return Some(*n);
                }
                left -= weight;
                None
            })
    }

    /// The less busy one, for its weight, of two that were drawn: nearly as even as asking all, and
    /// edges that do not know of each other do not all run to the same one (Mitzenmacher, 2001).
    pub(super) fn better_of_two(
        &self,
        free: impl Fn(&usize) -> bool,
        in_flight: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let first = self.random(&free)?;
        let Some(second) = self.random(|n| *n != first && free(n)) else {
            return Some(first);
        };
        let weight = |n: usize| {
            let member = self.members.iter().find(|(m, _)| *m == n);
            member.map_or(1, |(_, weight)| u64::from(*weight))
        };
        // +1: of two idle ones the heavier
        let busier = (in_flight(first) as u64 + 1) * weight(second)
            > (in_flight(second) as u64 + 1) * weight(first);
        Some(if busier { second } else { first })
    }

    /// The free member with the least in flight for its weight; of equals, each in turn.
    pub(super) fn least(
        &self,
        turn: &AtomicUsize,
        free: impl Fn(&usize) -> bool,
        in_flight: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let start = turn.fetch_add(1, Relaxed);
        let count = self.members.len();
        (0..count)
            .map(|n| self.members[(start + n) % count])
            .filter(|(n, _)| free(n))
            // a/wa < b/wb without division
            .reduce(|best, next| {
                let (a, b) = (in_flight(best.0) as u64, in_flight(next.0) as u64);
                if b * u64::from(best.1) < a * u64::from(next.1) {
                    next
                } else {
                    best
                }
            })
            .map(|(n, _)| n)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(turns: &Turns, count: usize, free: impl Fn(&usize) -> bool) -> String {
        let turn = AtomicUsize::new(0);
        (0..count)
            .filter_map(|_| turns.next(&turn, &free))
            .map(|n| (b'a' + n as u8) as char)
            .collect()
    }

    #[test]
    fn heavy_members_come_often_and_not_in_a_row() {
        assert_eq!(
            letters(&Turns::new([(0, 5), (1, 1), (2, 1)].into_iter()), 7, |_| {
                true
            }),
            "aabacaa"
        );
        assert_eq!(
            letters(&Turns::new([(0, 10), (1, 10)].into_iter()), 4, |_| true),
            "abab"
        );
        assert_eq!(
            Turns::new([(0, 1000), (1, 999), (2, 1000), (3, 1000), (4, 1000)].into_iter())
                .cycle
                .len(),
            4094
        );
    }

    #[test]
    fn the_load_of_a_dead_member_spreads_over_the_rest() {
        let turns = Turns::new([(0, 1), (1, 1), (2, 1)].into_iter());
        assert_eq!(letters(&turns, 6, |n| *n != 1), "acacac");
        assert_eq!(letters(&turns, 3, |_| false), "");
        assert_eq!(letters(&Turns::default(), 3, |_| true), "");
    }

    #[test]
    fn the_least_busy_for_its_weight_is_next() {
        let turns = Turns::new([(0, 1), (1, 3)].into_iter());
        let least = |busy: [usize; 2]| turns.least(&AtomicUsize::new(0), |_| true, |n| busy[n]);
        assert_eq!(least([1, 2]), Some(1));
        assert_eq!(least([0, 1]), Some(0));
        assert_eq!(least([1, 4]), Some(0));
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken() {
        let turns = Turns::new([(0, 1), (1, 1), (2, 1)].into_iter());
        let mut load = [0usize; 3];
        for _ in 0..300 {
            load[turns.better_of_two(|_| true, |n| load[n]).unwrap()] += 1;
        }
        assert!(load.iter().all(|n| (97..=103).contains(n)), "{load:?}");
        assert_eq!(turns.better_of_two(|n| *n == 2, |_| 0), Some(2));
        assert_eq!(turns.better_of_two(|_| false, |_| 0), None);
    }

    #[test]
    fn random_follows_the_weights() {
        let turns = Turns::new([(0, 1), (1, 9)].into_iter());
        let second = (0..2000)
            .filter(|_| turns.random(|_| true) == Some(1))
            .count();
        assert!((1650..1950).contains(&second), "{second} of 2000");
        assert_eq!(turns.random(|n| *n == 0), Some(0));
        assert_eq!(turns.random(|_| false), None);
    }
}
