//! The plan of a request: which server is next, until one answers or none is left.
//!
//! It holds the whole decision, so that whoever moves bytes only asks `next` and reports.

mod budget;
mod verdict;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use budget::Budget;
pub(crate) use verdict::{Outcome, Phase, Verdict, judge};

use crate::config::Route;
use crate::pool::{Lease, Member, Pool};

/// What is tried next.
pub(crate) struct Attempt {
    /// The index of the route's target: 0 is its pool, then the fallbacks.
    pub(crate) target: usize,
    pub(crate) lease: Lease,
    /// What kind of step led here.
    pub(crate) step: Step,
}

/// How an attempt relates to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    First,
    /// Another server of the same pool.
    Retry,
    /// Another pool; from which target.
    Fallback {
        from: usize,
    },
}

/// Why nothing is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Every server there is was tried, or may not be asked now.
    Servers,
    /// The route's retry budget is used up.
    Budget,
}

/// The order in which the servers of a route are tried for one request.
pub(crate) struct Plan {
    target: usize,
    tried: Vec<Arc<Member>>,
    /// Attempts in the current pool.
    in_pool: u32,
    /// The target of the last attempt.
    last: Option<usize>,
}

impl Plan {
    pub(crate) fn new() -> Self {
        Plan {
            target: 0,
            tried: Vec::new(),
            in_pool: 0,
            last: None,
        }
    }

    /// The next attempt. `pools` are those of the gateway the route belongs to.
    pub(crate) fn next(
        &mut self,
        route: &Route,
        pools: &[Arc<Pool>],
        budget: Option<&Budget>,
        now: Instant,
    ) -> Result<Attempt, Spent> {
        while let Some(target) = route.targets.get(self.target) {
            let pool = &pools[target.pool.0];
            let lease = match self.in_pool < route.retry.attempts {
                true => pool.pick(&self.tried, now),
                // as many backups as there are would be a way around the bound; one is what they
                // are for
                false if self.in_pool == route.retry.attempts => pool.last_resort(&self.tried, now),
                false => None,
            };
            let Some(lease) = lease else {
                self.target += 1;
                self.in_pool = 0;
                continue;
            };
            let step = match self.last {
                None if self.target == 0 => Step::First,
                // the pools before had nobody to ask; that too is a fallback, but no second try
                None => Step::Fallback { from: 0 },
                Some(last) if last == self.target => Step::Retry,
                Some(last) => Step::Fallback { from: last },
            };
            if self.last.is_some() && budget.is_some_and(|budget| !budget.withdraw()) {
                return Err(Spent::Budget);
            }
            self.in_pool += 1;
            self.last = Some(self.target);
            self.tried.push(lease.member().clone());
            return Ok(Attempt {
                target: self.target,
                lease,
                step,
            });
        }
        Err(Spent::Servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::pool::tests::pools_of;

    fn walk(text: &str) -> Vec<String> {
        let (config, problems) = config::read(text, std::path::Path::new("."), &|_| None);
        let config = config.unwrap_or_else(|| panic!("{problems:?}"));
        let now = Instant::now();
        let pools = pools_of(&config, now);
        let budget = config.routes[0].retry.budget.map(Budget::new);
        let mut plan = Plan::new();
        std::iter::from_fn(|| {
            plan.next(&config.routes[0], &pools, budget.as_ref(), now)
                .ok()
        })
        .map(|attempt| {
            let pool = &pools[config.routes[0].targets[attempt.target].pool.0];
            format!(
                "{}/{} {:?}",
                pool.config.name,
                pool.server(&attempt.lease).name,
                attempt.step
            )
        })
        .collect()
    }

    const POOLS: &str = r#"
pools:
  a: { servers: [{ url: "http://1.1.1.1:1", name: x }, { url: "http://1.1.1.1:2", name: y }, { url: "http://1.1.1.1:3", name: z }] }
  b: { servers: [{ url: "http://1.1.1.1:4", name: x }] }
"#;

    #[test]
    fn servers_in_turn_then_the_next_pool_and_none_twice() {
        assert_eq!(
            walk(&format!("{POOLS}\nroutes: [{{ pool: a, fallback: [b] }}]")),
            [
                "a/x First",
                "a/y Retry",
                "a/z Retry",
                "b/x Fallback { from: 0 }"
            ]
        );
    }

    #[test]
    fn attempts_bound_each_pool_and_not_the_way_to_the_next() {
        assert_eq!(
            walk(&format!(
                "{POOLS}\nroutes: [{{ pool: a, fallback: [b], retry: {{ attempts: 1 }} }}]"
            )),
            ["a/x First", "b/x Fallback { from: 0 }"]
        );
    }

    #[test]
    fn one_backup_is_asked_when_the_attempts_went_to_every_primary() {
        let pools = r#"
pools:
  a: { servers: [{ url: "http://1.1.1.1:1", name: x }, { url: "http://1.1.1.1:2", name: y }, { url: "http://1.1.1.1:3", name: z, backup: true }, { url: "http://1.1.1.1:4", name: zz, backup: true }] }
"#;
        let walk = |attempts: u32| {
            walk(&format!(
                "{pools}\nroutes: [{{ pool: a, retry: {{ attempts: {attempts} }} }}]"
            ))
        };
        assert_eq!(walk(2), ["a/x First", "a/y Retry", "a/z Retry"]);
        assert_eq!(walk(1), ["a/x First"], "a primary was left");
    }

    #[test]
    fn a_spent_budget_ends_the_plan() {
        let (config, _) = config::read(
            &format!("{POOLS}\nroutes: [{{ pool: a, fallback: [b], retry: {{ budget: 0% }} }}]"),
            std::path::Path::new("."),
            &|_| None,
        );
        let config = config.unwrap();
        let now = Instant::now();
        let pools = pools_of(&config, now);
        let budget = Budget::new(0);
        while budget.withdraw() {}
        let mut plan = Plan::new();
        let mut next = || {
            plan.next(&config.routes[0], &pools, Some(&budget), now)
                .map(|a| a.target)
        };
        assert_eq!(next(), Ok(0), "the first try is no retry");
        assert_eq!(next(), Err(Spent::Budget));
    }
}
