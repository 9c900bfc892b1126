//! Ejection: which evidence from traffic takes a server out for a while.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Pool;
use super::member::Member;
use crate::config;

/// First-byte times a server must have before it is called slow.
const ENOUGH: usize = 8;
/// What is faster than this is never called slow, whatever the others do.
const FAST: Duration = Duration::from_millis(50);
/// Longest time a server may ask to be left alone.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How a server did in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Good,
    Bad,
    /// It says nothing about the server.
    Neutral,
}

/// Why a server was ejected; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Failures in a row, or one on trial.
    Failures,
    /// Too large a share of failures.
    Rate,
    /// First bytes far slower than those of the others.
    Slow,
    /// Another edge has ejected it.
    Elsewhere,
}

impl Evidence {
    pub(crate) const ALL: &'static [Evidence] = &[
        Evidence::Failures,
        Evidence::Rate,
        Evidence::Slow,
        Evidence::Elsewhere,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Evidence::Failures => "failures",
            Evidence::Rate => "rate",
            Evidence::Slow => "slow",
            Evidence::Elsewhere => "elsewhere",
        }
    }
}

/// A server that was ejected just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    pub(crate) duration: Duration,
    pub(crate) evidence: Evidence,
}

impl Pool {
    /// Notes how an attempt went, which may have been the `trial` of a member; says whether the member is ejected for it. Never the last one
    /// available, and never more than the pool's share.
    pub(crate) fn observe(
        &self,
        member: &Member,
        conduct: Conduct,
        trial: bool,
        now: Instant,
    ) -> Option<Ejection> {
        let Some(eject) = self.config.eject else {
            member.forgive();
            return None;
        };
        let now = self.clock(now);
        let good = match conduct {
            Conduct::Good => true,
            Conduct::Bad => false,
            Conduct::Neutral => return None,
        };
        let was_on_trial = member.is_on_trial();
        // what began before it was ejected says nothing about how it is now
        if was_on_trial && !trial {
            return None;
        }
        let failures = member.count(good, now);
        let evidence = if failures >= eject.after || (was_on_trial && !good) {
            Evidence::Failures
        } else if !good && self.fails_often(member, now) {
            Evidence::Rate
        } else if good && self.is_slow(member) {
            Evidence::Slow
        } else {
            return None;
        };
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.may_lose(member, now).then(|| Ejection {
            duration: member.eject(eject.duration, now),
            evidence,
        })
    }

    /// Ejects the member with this address for as long as another edge does, under the same bounds as
    /// if it had been found out here; says which server that is.
    pub(crate) fn follow(
        &self,
        address: SocketAddr,
        left: Duration,
        now: Instant,
    ) -> Option<usize> {
        self.config.eject?;
        let now = self.clock(now);
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let roster = self.roster.load();
        let mut members = roster.members.iter();
        let member = members.find(|member| member.address() == address)?;
        if !self.may_lose(member, now) {
            return None;
        }
        member.eject_until(now + left);
        Some(member.server)
    }

    /// Whether one more member may be ejected, and this one is not yet: never the last one
    /// available, and never more than the pool's share.
    fn may_lose(&self, member: &Member, now: Duration) -> bool {
        let Some(eject) = self.config.eject else {
            return false;
        };
        let roster = self.roster.load();
        let members = &roster.members;
        let is_out = |m: &Member| m.is_ejected(now) || m.is_on_trial();
        let others = || members.iter().filter(|m| !std::ptr::eq(m.as_ref(), member));
        let ejected = others().filter(|m| is_out(m)).count();
        // one on trial serves one request at a time, so it is nobody to rely on
        let others = others()
            .filter(|m| m.is_available(now) && !m.is_on_trial())
            .count();
        let share = members.len() * usize::from(eject.max_percent) / 100;
        !member.is_ejected(now) && ejected < share && others > 0
    }

    fn fails_often(&self, member: &Member, now: Duration) -> bool {
        let Some((eject, rate)) = self.config.eject.and_then(|e| Some((e, e.rate?))) else {
            return false;
        };
        let (all, failed) = member.state.attempts.counts(now);
        all >= u64::from(eject.min_requests) && failed * 100 >= all * u64::from(rate)
    }

    /// Whether a member's first bytes come far later than is usual at the others.
    fn is_slow(&self, member: &Member) -> bool {
        let Some(times) = self.config.eject.and_then(|eject| eject.slow) else {
            return false;
        };
        let Some(own) = member.state.first_bytes.percentile(50, ENOUGH) else {
            return false;
        };
        let roster = self.roster.load();
        let mut others: Vec<Duration> = roster
            .members
            .iter()
            .filter(|other| !std::ptr::eq(other.as_ref(), member))
            .filter_map(|other| other.state.first_bytes.percentile(50, ENOUGH))
            .collect();
        others.sort_unstable();
        let Some(median) = others.get(others.len() / 2) else {
            return false;
        };
        own > FAST && own > *median * times
    }

    /// Notes that a trial begins well: others need not wait until its stream has ended.
    pub(crate) fn trial_goes_well(&self, member: &Member) {
        member.forgive();
    }

    /// Notes how long the first byte of an answer took.
    pub(crate) fn took(&self, member: &Member, first_byte: Duration) {
        member.state.first_bytes.push(first_byte);
        self.first_bytes.push(first_byte);
    }

    /// The time that all but one in twenty of the pool's answers begin within; `None` while too
    /// few are known.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.first_bytes.percentile(95, 20)
    }

    /// Leaves a member alone for so long, as it asked for.
    pub(crate) fn rest(&self, member: &Member, pause: Duration, now: Instant) {
        member.rest(self.clock(now) + pause.min(LONGEST_REST));
    }

    /// The same for all members of some servers.
    pub(crate) fn rest_all(
        &self,
        some: impl Fn(&config::Server) -> bool,
        pause: Duration,
        now: Instant,
    ) {
        for member in &self.roster.load().members {
            if some(self.server(member)) {
                self.rest(member, pause, now);
            }
        }
    }

    /// Notes that a member still loads, and when to ask it again.
    pub(crate) fn warm(&self, member: &Member, pause: Duration, now: Instant) {
        member.warm(self.clock(now) + pause.min(LONGEST_REST));
    }
}
