//! Pools at work: which server is next, and which are not asked at all.
//!
//! Each server's addresses are a `Backends` of pingora-load-balancing: discovered again and again
//! (a name may come to mean other boxes), probed, and marked healthy or not by its thresholds.
//! What stands here is what that crate has no word for: backups behind primaries, requests in
//! flight, ejection by evidence from traffic, and turns that survive a change of members. Its own
//! selection is not used: it takes two servers with one address (two names behind one balancer)
//! for the same, and gives a server of weight 3 three turns in a row.

mod member;
mod turns;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::lb::{Backend, Backends};

use crate::config::{self, Balance};
pub(crate) use member::{Lease, Member};
use turns::Turns;

/// How the addresses of a server are found, and how they are probed.
pub(crate) struct Watch {
    pub(crate) discovery: Box<dyn ServiceDiscovery + Send + Sync>,
    pub(crate) check: Option<Box<dyn HealthCheck + Send + Sync>>,
}

/// A pool at work.
pub(crate) struct Pool {
    pub(crate) config: config::Pool,
    /// One for each server of the configuration, in its order.
    servers: Vec<Backends>,
    roster: ArcSwap<Roster>,
    turn: AtomicUsize,
    /// The zero of the clock that ejections are kept in.
    epoch: Instant,
}

/// The members of a pool at one moment.
#[derive(Default)]
struct Roster {
    members: Vec<Arc<Member>>,
    primaries: Turns,
    backups: Turns,
}

/// A member whose health changed.
pub(crate) struct Transition {
    pub(crate) member: Arc<Member>,
    pub(crate) healthy: bool,
}

/// How a server of the configuration is doing, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerState {
    pub(crate) addresses: usize,
    pub(crate) healthy: usize,
    pub(crate) ejected: usize,
    pub(crate) in_flight: usize,
}

impl Pool {
    pub(crate) fn new(config: config::Pool, now: Instant, watch: impl Fn(usize) -> Watch) -> Self {
        let servers = (0..config.servers.len())
            .map(|n| {
                let watch = watch(n);
                let mut backends = Backends::new(watch.discovery);
                if let Some(check) = watch.check {
                    backends.set_health_check(check);
                }
                backends
            })
            .collect();
        Pool {
            config,
            servers,
            roster: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            epoch: now,
        }
    }

    /// Finds the addresses of one server again. Members that stay keep their state.
    pub(crate) async fn discover(&self, server: usize) -> Result<(), String> {
        let mut changed = None;
        let found = self.servers[server]
            .update(|backends| changed = Some(backends))
            .await;
        if let Some(backends) = changed {
            self.enrol(server, &backends);
        }
        found.map_err(|e| e.to_string())
    }

    /// Runs one probe of each address of a server; says whose health changed by it.
    pub(crate) async fn probe(&self, server: usize) -> Vec<Transition> {
        self.servers[server].run_health_check(true).await;
        let roster = self.roster.load();
        roster
            .members
            .iter()
            .filter(|member| member.server == server)
            .filter_map(|member| {
                let healthy = self.servers[server].ready(&member.backend);
                let flipped = member.set_healthy(healthy);
                flipped.then(|| Transition {
                    member: member.clone(),
                    healthy,
                })
            })
            .collect()
    }

    fn enrol(&self, server: usize, backends: &BTreeSet<Backend>) {
        let settings = &self.config.servers[server];
        self.roster.rcu(|old| {
            let mut members: Vec<Arc<Member>> = old
                .members
                .iter()
                .filter(|member| member.server != server)
                .cloned()
                .collect();
            for backend in backends {
                let kept = old
                    .members
                    .iter()
                    .find(|member| member.server == server && member.backend == *backend);
                members.push(
                    kept.cloned()
                        .unwrap_or_else(|| Arc::new(Member::new(server, backend.clone()))),
                );
            }
            members.sort_by_key(|member| member.server);
            let turns = |backup: bool| {
                Turns::new(members.iter().enumerate().filter_map(|(n, member)| {
                    let settings = &self.config.servers[member.server];
                    (settings.backup == backup).then_some((n, settings.weight))
                }))
            };
            let (primaries, backups) = (turns(false), turns(true));
            Roster {
                members,
                primaries,
                backups,
            }
        });
        log::debug!(
            "pool {}: {} has {} addresses",
            self.config.name,
            settings.name,
            backends.len()
        );
    }

    /// The next server, by the pool's rule: an available primary, else an available backup; never
    /// one that was `tried`.
    pub(crate) fn pick(&self, tried: &[Arc<Member>], now: Instant) -> Option<Lease> {
        let roster = self.roster.load();
        let now = self.clock(now);
        let free = |n: &usize| {
            let member = &roster.members[*n];
            member.is_available(now) && !tried.iter().any(|t| Arc::ptr_eq(t, member))
        };
        let choose = |turns: &Turns| match self.config.balance {
            Balance::RoundRobin => turns.next(&self.turn, free),
            Balance::Random => turns.random(free),
            Balance::LeastInFlight => {
                turns.least(&self.turn, free, |n| roster.members[n].in_flight())
            }
        };
        let chosen = choose(&roster.primaries).or_else(|| choose(&roster.backups))?;
        Some(Lease::new(roster.members[chosen].clone()))
    }

    /// A backup, if every primary was `tried` or is not available: what a pool still has to offer
    /// when a request has had its attempts.
    pub(crate) fn last_resort(&self, tried: &[Arc<Member>], now: Instant) -> Option<Lease> {
        let lease = self.pick(tried, now)?;
        self.server(&lease).backup.then_some(lease)
    }

    /// Whether some server could be asked now.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        let now = self.clock(now);
        self.roster
            .load()
            .members
            .iter()
            .any(|member| member.is_available(now))
    }

    /// Notes how an attempt went; says for how long the member is ejected, if this was one failure
    /// too many. Never the last one available, and never more than the pool's share.
    pub(crate) fn observe(&self, member: &Member, good: bool, now: Instant) -> Option<Duration> {
        let eject = self.config.eject?;
        let failures = member.count(good);
        if failures < eject.after {
            return None;
        }
        let now = self.clock(now);
        let roster = self.roster.load();
        let ejected = roster.members.iter().filter(|m| m.is_ejected(now)).count();
        let available = roster
            .members
            .iter()
            .filter(|m| m.is_available(now))
            .count();
        let share = roster.members.len() * usize::from(eject.max_percent) / 100;
        if member.is_ejected(now) || ejected >= share || available <= 1 {
            return None;
        }
        member.eject(now + eject.duration, eject.after);
        Some(eject.duration)
    }

    /// How each server of the configuration is doing, in its order.
    pub(crate) fn states(&self, now: Instant) -> Vec<ServerState> {
        let now = self.clock(now);
        let mut states = vec![ServerState::default(); self.config.servers.len()];
        for member in &self.roster.load().members {
            let state = &mut states[member.server];
            state.addresses += 1;
            state.healthy += usize::from(member.is_healthy());
            state.ejected += usize::from(member.is_ejected(now));
            state.in_flight += member.in_flight();
        }
        states
    }

    pub(crate) fn server(&self, member: &Member) -> &config::Server {
        &self.config.servers[member.server]
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.config.name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
