//! The plan of a request: which server is next, until one answers or none is left.
//!
//! It holds the whole decision, so that whoever moves bytes only asks `next` and reports. What it
//! knows of time is what it is told; what takes time (to wait for a slot, or for a model to be
//! loaded) it only names.

mod budget;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use budget::Budget;
pub(crate) use verdict::{Outcome, Phase, Verdict, judge};

use crate::config::kind::{Loading, Warming};
use crate::config::{Auth, Balance, Cost, HashBy, PoolId, Route, Server, Zone};
use crate::pool::{Lease, Member, Pick, Pool, Wanted};

/// Longest pause between two retries, in times of `retry.backoff`.
const MOST_BACKOFF: u32 = 10;

/// What a plan is made over: the route, its pools, and what of the request matters.
pub(crate) struct Terrain<'a> {
    pub(crate) route: &'a Route,
    /// Those of the gateway the route belongs to.
    pub(crate) pools: &'a [Arc<Pool>],
    pub(crate) budget: Option<&'a Budget>,
    /// Only pools at home may be asked.
    pub(crate) home: bool,
    /// Length of the body, if it is known by now.
    pub(crate) length: Option<u64>,
    /// All of the body is here.
    pub(crate) complete: bool,
    /// The body is an upload of audio.
    pub(crate) audio: bool,
    /// What the request is hashed by.
    pub(crate) hash: &'a dyn Fn(&HashBy) -> u64,
    /// Whether the servers of a target can be asked in their own words.
    pub(crate) wording: &'a dyn Fn(usize) -> Wording,
    /// The model that a target is asked for.
    pub(crate) model: &'a dyn Fn(usize) -> Option<String>,
    /// The only server that can be asked: pool and index.
    pub(crate) pinned: Option<(PoolId, usize)>,
    pub(crate) now: Instant,
}

/// How far a request is in the dialect of a target's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    /// It is, or they speak the client's.
    Ready,
    /// It has to be translated first.
    Wanted,
    /// It cannot be said there.
    Impossible,
}

/// What comes next.
pub(crate) enum Next {
    /// The server to ask. It becomes an attempt with [`Plan::granted`], unless the limits of its pool
    /// have no room for one: then the pool is to be passed over.
    Server(Lease),
    /// The rest of the body is to be read before a server is chosen.
    ReadBody,
    /// The request is to be put into the words of the target's servers.
    Translate { target: usize },
    /// All slots of the target's pool are taken; one may wait for one, or `pass`.
    Queue { target: usize },
    /// The servers of the target's pool are loading; one may wait and `try_again`, or `pass`.
    Warm { target: usize },
}

/// What is tried next.
pub(crate) struct Attempt {
    /// The index of the route's target: its pool or those that share its place, then the fallbacks.
    pub(crate) target: usize,
    pub(crate) lease: Lease,
    /// What kind of step led here.
    pub(crate) step: Step,
    /// To be waited before it.
    pub(crate) pause: Duration,
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
    /// Beside one that still runs.
    Hedge,
}

/// Why nothing is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Every server there is was tried, or may not be asked now.
    Servers,
    /// The route's retry budget is used up.
    Budget,
    /// No attempt was made, and this is the first reason why.
    Passed(Refusal),
}

/// Why a pool was passed over that has servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    QueueFull,
    QueueTimeout,
    /// It loads for longer than is waited for it.
    Warming,
    /// The body is larger than its servers take.
    TooLarge,
    /// The request must stay at home.
    Zone,
    /// Its servers have no words for the request.
    Wordless,
    /// As much as may be was asked of it.
    Limited,
    /// It does not have the only server that can be asked.
    Elsewhere,
}

/// The order in which the servers of a route are tried for one request.
pub(crate) struct Plan {
    /// The target that is tried first; those before it come after it.
    first: usize,
    /// How many targets it is done with.
    step: usize,
    tried: Vec<Arc<Member>>,
    /// Attempts in the current pool.
    in_pool: u32,
    /// Its backup had its turn beyond the attempts.
    backup_asked: bool,
    /// The target of the last attempt.
    last: Option<usize>,
    /// Why pools were passed over.
    passed: Option<Refusal>,
    /// Targets in whose line there is no place, or that were waited for in vain.
    crowded: Vec<usize>,
    /// Accounts that have nothing left.
    spent: Vec<Account>,
    /// What the attempt before answered.
    answered: Option<u16>,
    /// The next attempt repeats one that met a server too early; it is no retry.
    again: bool,
    /// Nobody else is left: servers that asked to be spared are asked too.
    desperate: bool,
    /// Targets whose servers should load their model, as others serve meanwhile.
    cold: Vec<usize>,
}

/// Who is billed: the holder of a key, or the client at one service.
#[derive(Clone, PartialEq, Eq)]
enum Account {
    Key(String),
    Client(String),
}

fn account(server: &Server) -> Option<Account> {
    match (&server.key, server.auth) {
        (Some(key), _) => Some(Account::Key(key.expose().to_owned())),
        (None, Auth::Passthrough) => Some(Account::Client(server.url.host.clone())),
        (None, _) => None,
    }
}

impl Plan {
    /// One that begins with a target of the route, and goes on with the others in their order.
    pub(crate) fn beginning_with(first: usize) -> Self {
        Plan {
            first,
            step: 0,
            tried: Vec::new(),
            in_pool: 0,
            backup_asked: false,
            last: None,
            passed: None,
            crowded: Vec::new(),
            spent: Vec::new(),
            answered: None,
            again: false,
            desperate: false,
            cold: Vec::new(),
        }
    }

    /// The targets from a step on, in the order in which they are tried.
    fn targets_from(&self, step: usize, route: &Route) -> impl Iterator<Item = usize> + use<> {
        let first = self.first;
        (step..route.targets.len()).map(move |step| at(step, first))
    }

    /// What comes next.
    pub(crate) fn next(&mut self, on: &Terrain<'_>) -> Result<Next, Spent> {
        loop {
            while self.step < on.route.targets.len() {
                let target = self.target();
                let pool = &on.pools[on.route.targets[target].pool.0];
                if self.crowded.contains(&target) {
                    self.move_on();
                    continue;
                }
                if let Some(refusal) = bars(target, on) {
                    self.pass(refusal);
                    continue;
                }
                if needs_body(pool, on) {
                    return Ok(Next::ReadBody);
                }
                if (on.wording)(target) == Wording::Wanted {
                    return Ok(Next::Translate { target });
                }
                if self.would_be_cold(pool, on) {
                    // to be asked all the same if nobody else is left
                    self.cold.push(target);
                    self.move_on();
                    continue;
                }
                match self.pick(pool, on) {
                    Pick::Server(lease) => return Ok(Next::Server(lease)),
                    Pick::Busy => return Ok(Next::Queue { target }),
                    Pick::Warming => return Ok(Next::Warm { target }),
                    Pick::Nobody => self.move_on(),
                }
            }
            // a server that asked for a pause is better than none at all
            if self.last.is_some() || self.desperate {
                return Err(self.end());
            }
            self.desperate = true;
            self.step = 0;
        }
    }

    fn end(&self) -> Spent {
        match (self.last, self.passed) {
            (None, Some(refusal)) => Spent::Passed(refusal),
            _ => Spent::Servers,
        }
    }

    fn pick(&self, pool: &Arc<Pool>, on: &Terrain<'_>) -> Pick {
        self.asking(self.target(), pool, on, |wanted| {
            if self.in_pool < on.route.retry.attempts {
                pool.pick(wanted, on.route.priority, on.now)
            } else if !self.backup_asked {
                // as many backups as there are would be a way around the bound; one is what they
                // are for
                pool.last_resort(wanted, on.now)
            } else {
                Pick::Nobody
            }
        })
    }

    /// The target it is at.
    pub(crate) fn target(&self) -> usize {
        at(self.step, self.first)
    }

    /// Calls `ask` with what this request wants of the pool of a target.
    pub(crate) fn asking<T>(
        &self,
        target: usize,
        pool: &Pool,
        on: &Terrain<'_>,
        ask: impl FnOnce(&Wanted<'_>) -> T,
    ) -> T {
        let model = match pool.config.loading() {
            Loading::AnswersLate => (on.model)(target),
            _ => None,
        };
        let banned: Vec<usize> = match self.spent.is_empty() {
            true => Vec::new(),
            false => (0..pool.config.servers.len())
                .filter(|n| {
                    account(&pool.config.servers[*n]).is_some_and(|a| self.spent.contains(&a))
                })
                .collect(),
        };
        ask(&Wanted {
            tried: &self.tried,
            banned: &banned,
            hash: match &pool.config.balance {
                Balance::Hash(by) => (on.hash)(by),
                _ => 0,
            },
            model: model.as_deref(),
            desperate: self.desperate,
            only: on.pinned.map(|(_, server)| server),
        })
    }

    /// Makes an attempt of a lease that was picked or waited for.
    pub(crate) fn granted(&mut self, lease: Lease, on: &Terrain<'_>) -> Result<Attempt, Spent> {
        let again = std::mem::take(&mut self.again);
        let target = self.target();
        let step = match self.last {
            None if self.step == 0 || on.pinned.is_some() => Step::First,
            // the pools before had nobody to ask; that too is a fallback, but no second try
            None => Step::Fallback { from: self.first },
            Some(last) if last == target => Step::Retry,
            Some(last) => Step::Fallback { from: last },
        };
        let pays = self.last.is_some() && !again;
        if pays && on.budget.is_some_and(|b| !b.withdraw(on.now)) {
            return Err(Spent::Budget);
        }
        self.backup_asked |= self.in_pool >= on.route.retry.attempts;
        self.in_pool += 1;
        self.last = Some(target);
        self.tried.push(lease.member().clone());
        let pause = match step {
            Step::Retry if !again => backoff(on.route.retry.backoff, self.in_pool),
            _ => Duration::ZERO,
        };
        Ok(Attempt {
            target,
            lease,
            step,
            pause,
        })
    }

    /// A server to ask beside the one that is being asked, if the budget has one left: of the same
    /// pool, else of the next. `paid`: one that costs money will do.
    pub(crate) fn second(&mut self, on: &Terrain<'_>, paid: bool) -> Option<Attempt> {
        if on.pinned.is_some() {
            return None;
        }
        for target in self.targets_from(self.step, on.route) {
            let pool = &on.pools[on.route.targets[target].pool.0];
            let costs = pool.config.cost == Cost::Paid && !paid;
            // nor is there time to find words now
            let silent = (on.wording)(target) != Wording::Ready;
            if costs || silent || bars(target, on).is_some() {
                continue;
            }
            let pick = self.asking(target, pool, on, |wanted| {
                pool.pick(wanted, on.route.priority, on.now)
            });
            let Pick::Server(lease) = pick else { continue };
            if on.budget.is_some_and(|b| !b.withdraw(on.now)) {
                return None;
            }
            self.in_pool += u32::from(target == self.target());
            self.tried.push(lease.member().clone());
            return Some(Attempt {
                target,
                lease,
                step: Step::Hedge,
                pause: Duration::ZERO,
            });
        }
        None
    }

    /// Passes the current pool over.
    pub(crate) fn pass(&mut self, why: Refusal) {
        // a queue says more about what could be done than what the file rules out
        let says = |why: Refusal| match why {
            Refusal::Elsewhere => 0,
            Refusal::Zone => 1,
            Refusal::TooLarge | Refusal::Wordless => 2,
            Refusal::Limited | Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Warming => 3,
        };
        if self.passed.is_none_or(|passed| says(passed) < says(why)) {
            self.passed = Some(why);
        }
        let waited = matches!(
            why,
            Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Warming | Refusal::Limited
        );
        if waited {
            self.crowded.push(self.target());
        }
        self.move_on();
    }

    fn move_on(&mut self) {
        self.step += 1;
        self.in_pool = 0;
        self.backup_asked = false;
        self.again = false;
    }

    /// Lets the servers of the current pool be asked once more that were only not ready.
    pub(crate) fn try_again(&mut self, pool: &Pool, now: Instant) {
        let before = self.tried.len();
        self.tried.retain(|member| !pool.still_loads(member, now));
        let again = (before - self.tried.len()) as u32;
        self.in_pool = self.in_pool.saturating_sub(again);
        self.again = again > 0;
    }

    /// Notes the answer of an attempt; says whether the request itself seems to be what fails: the
    /// same server error from two servers, which says nothing about either of them.
    pub(crate) fn is_poison(&mut self, outcome: Outcome) -> bool {
        let answered = match outcome {
            // the others speak of the server: of its state, of what it has, of who may ask it
            Outcome::Answered(status @ (400 | 413 | 415 | 422 | 500 | 501)) => Some(status),
            _ => None,
        };
        let alike = answered.is_some() && self.answered == answered;
        self.answered = answered;
        alike
    }

    /// Notes that the account of a server has nothing left: no server with the same one is asked.
    pub(crate) fn account_is_spent(&mut self, server: &Server) {
        self.spent.extend(account(server));
    }

    /// Whether somebody else could be asked if the current attempt fails.
    pub(crate) fn could_go_on(&self, on: &Terrain<'_>) -> bool {
        let mut rest = self.targets_from(self.step, on.route);
        rest.any(|target| {
            let pool = &on.pools[on.route.targets[target].pool.0];
            let attempts_left = target != self.target() || self.in_pool < on.route.retry.attempts;
            bars(target, on).is_none()
                && attempts_left
                && self.asking(target, pool, on, |wanted| {
                    pool.is_worth_waiting(wanted, on.now)
                })
        })
    }

    /// Whether a pool behind the current one could be asked.
    pub(crate) fn has_another_pool(&self, on: &Terrain<'_>) -> bool {
        let mut rest = self.targets_from(self.step + 1, on.route);
        rest.any(|target| {
            let pool = &on.pools[on.route.targets[target].pool.0];
            bars(target, on).is_none() && pool.is_available(on.now)
        })
    }

    /// A pool that skips requests while its servers load, and would have to load for this one.
    fn would_be_cold(&self, pool: &Arc<Pool>, on: &Terrain<'_>) -> bool {
        let settings = &pool.config;
        settings.loading() == Loading::AnswersLate
            && settings.warming == Warming::Skip
            && !self.desperate
            && self.last.is_none()
            && (on.model)(self.target()).is_some_and(|model| pool.is_cold(&model, on.now))
            && self.has_another_pool(on)
    }

    /// Targets whose servers should load their model now; each is told once.
    pub(crate) fn take_cold(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.cold)
    }
}

/// The target of a step.
fn at(step: usize, first: usize) -> usize {
    match step {
        0 => first,
        step if step <= first => step - 1,
        step => step,
    }
}

/// Why a request may not go to a target at all.
fn bars(target: usize, on: &Terrain<'_>) -> Option<Refusal> {
    let id = on.route.targets[target].pool;
    if on.pinned.is_some_and(|(pool, _)| pool != id) {
        return Some(Refusal::Elsewhere);
    }
    let pool = &on.pools[id.0].config;
    if (on.wording)(target) == Wording::Impossible {
        return Some(Refusal::Wordless);
    }
    if on.home && pool.zone != Zone::Home {
        return Some(Refusal::Zone);
    }
    let limit = pool.largest_body(on.audio)?;
    on.length
        .is_some_and(|length| length > limit)
        .then_some(Refusal::TooLarge)
}

/// Whether a pool needs all of the body before one of its servers is chosen: a slot is not to be
/// taken for as long as a client sends, and a body that tells no
/// length may be larger than the servers take.
fn needs_body(pool: &Pool, on: &Terrain<'_>) -> bool {
    let settings = &pool.config;
    let may_be_too_large = on.length.is_none() && settings.largest_body(on.audio).is_some();
    !on.complete
        && (settings.buffers_uploads() || settings.has_slots() || may_be_too_large)
        && pool.is_available(on.now)
}

/// The pause before the `n`th attempt in one pool: none before the first retry, which goes to
/// another server; then anything up to a bound that doubles, so that those who failed together do
/// not come back together.
fn backoff(base: Duration, n: u32) -> Duration {
    match n {
        0..=2 => Duration::ZERO,
        n => (base * (1 << (n - 3).min(8)).min(MOST_BACKOFF)).mul_f64(fastrand::f64()),
    }
}

#[cfg(test)]
pub(crate) mod props;
#[cfg(test)]
mod tests;
