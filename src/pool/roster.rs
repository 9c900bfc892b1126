//! The members of a pool at one moment, and whose turn it is among them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use pingora::lb::Backend;

use super::Wanted;
use super::member::{Drain, Member, State};
use super::ring::Ring;
use super::turns::Turns;
use crate::config::{self, Balance};

/// The members of a pool at one moment.
#[derive(Default)]
pub(super) struct Roster {
    pub(super) members: Vec<Arc<Member>>,
    primaries: Tier,
    backups: Tier,
}

/// What was known of an address of a server before a reload.
pub(super) struct Known {
    /// Its name.
    server: String,
    backend: Backend,
    state: Arc<State>,
}

/// Members of equal rank.
#[derive(Default)]
struct Tier {
    turns: Turns,
    /// Empty unless the pool balances by hash.
    ring: Ring,
}

/// Who is next.
pub(super) enum Choice {
    /// By index.
    Member(usize),
    /// Somebody could be asked, but has no free slot.
    Busy,
    Nobody,
}

/// Whether a request may go to a member at all.
pub(super) fn allows(wanted: &Wanted<'_>, member: &Arc<Member>) -> bool {
    let only = wanted.only.is_none_or(|only| only == member.server);
    let banned = wanted.banned.contains(&member.server);
    only && !banned && !wanted.tried.iter().any(|t| Arc::ptr_eq(t, member))
}

/// Whether a member is in a state to be asked, or is the only one that will do.
pub(super) fn is_askable(wanted: &Wanted<'_>, member: &Member, now: Duration) -> bool {
    wanted.only.is_some() || member.may_be_asked(now, wanted.desperate)
}

impl Roster {
    /// What is known of each address, for the pool that comes after this one.
    pub(super) fn known(&self, pool: &config::Pool) -> Vec<Known> {
        let members = self.members.iter();
        members
            .map(|member| Known {
                server: pool.servers[member.server].name.clone(),
                backend: member.backend.clone(),
                state: member.state.clone(),
            })
            .collect()
    }

    /// The roster after the addresses of one server were found again.
    pub(super) fn with(
        &self,
        pool: &config::Pool,
        server: usize,
        backends: &BTreeSet<Backend>,
        known: &[Known],
        drained: &Arc<Drain>,
    ) -> Self {
        let settings = &pool.servers[server];
        let window = pool.eject.map_or(Duration::from_secs(30), |e| e.window);
        let mut members: Vec<Arc<Member>> = self
            .members
            .iter()
            .filter(|member| member.server != server)
            .cloned()
            .collect();
        for backend in backends {
            let kept = self
                .members
                .iter()
                .find(|member| member.server == server && member.backend == *backend);
            members.push(kept.cloned().unwrap_or_else(|| {
                let known = known
                    .iter()
                    .find(|known| known.server == settings.name && known.backend == *backend)
                    .map(|known| known.state.clone());
                Arc::new(Member::new(
                    server,
                    settings,
                    window,
                    backend.clone(),
                    drained.clone(),
                    known,
                ))
            }));
            // what a pool with another rule decided does not hold
            if let (None, Some(member)) = (pool.eject, members.last()) {
                member.forgive();
            }
        }
        members.sort_by_key(|member| member.server);
        let tier = |backup: bool| {
            let mine = || {
                members.iter().enumerate().filter_map(|(n, member)| {
                    let settings = &pool.servers[member.server];
                    (settings.backup == backup).then_some((n, member, settings))
                })
            };
            let ring = match pool.balance {
                Balance::Hash(_) => Ring::new(mine().map(|(n, member, settings)| {
                    let identity = format!("{} {}", settings.name, member.address());
                    (n, identity, settings.weight)
                })),
                _ => Ring::default(),
            };
            Tier {
                turns: Turns::new(mine().map(|(n, _, settings)| (n, settings.weight))),
                ring,
            }
        };
        let (primaries, backups) = (tier(false), tier(true));
        Roster {
            members,
            primaries,
            backups,
        }
    }

    /// Who is next by the pool's rule: an available primary, else an available backup. A server
    /// that has the model in memory is before one that has not.
    pub(super) fn choose(
        &self,
        balance: &Balance,
        turn: &AtomicUsize,
        wanted: &Wanted<'_>,
        now: Duration,
    ) -> Choice {
        let askable = |n: &usize| {
            let member = &self.members[*n];
            allows(wanted, member) && is_askable(wanted, member, now)
        };
        let free = |n: &usize| askable(n) && self.members[*n].has_room();
        let has_model = |n: &usize| {
            wanted
                .model
                .is_some_and(|model| self.members[*n].has_model(model) == Some(true))
        };
        for tier in [&self.primaries, &self.backups] {
            let some = tier.turns.members().any(|n| askable(&n));
            if !some {
                continue;
            }
            let warm = wanted.model.and_then(|_| {
                self.by_rule(tier, balance, turn, wanted.hash, |n| {
                    free(n) && has_model(n)
                })
            });
            let chosen = warm.or_else(|| self.by_rule(tier, balance, turn, wanted.hash, free));
            return chosen.map_or(Choice::Busy, Choice::Member);
        }
        Choice::Nobody
    }

    fn by_rule(
        &self,
        tier: &Tier,
        balance: &Balance,
        turn: &AtomicUsize,
        hash: u64,
        free: impl Fn(&usize) -> bool,
    ) -> Option<usize> {
        let in_flight = |n: usize| self.members[n].in_flight();
        match balance {
            Balance::RoundRobin => tier.turns.next(turn, free),
            Balance::Random => tier.turns.random(free),
            Balance::LeastInFlight => tier.turns.least(turn, free, in_flight),
            Balance::PowerOfTwo => tier.turns.better_of_two(free, in_flight),
            Balance::Hash(_) => tier.ring.next(hash, free, in_flight),
        }
    }

    /// Whether a primary could be asked.
    pub(super) fn has_primary_left(&self, wanted: &Wanted<'_>, now: Duration) -> bool {
        self.primaries.turns.members().any(|n| {
            let member = &self.members[n];
            allows(wanted, member) && is_askable(wanted, member, now)
        })
    }

    /// Whether a server that may be asked otherwise is loading its model.
    pub(super) fn somebody_warms(&self, wanted: &Wanted<'_>, now: Duration) -> bool {
        self.members
            .iter()
            .filter(|member| wanted.only.is_none_or(|only| only == member.server))
            .any(|member| !wanted.banned.contains(&member.server) && member.is_warming(now))
    }
}
