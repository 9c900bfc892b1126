//! What a request takes of the limits it is under, and what becomes of it when the request ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::exchange::{Exchange, Stop};
use super::of_pools::OfPools;
use crate::inspect::endpoint::Operation;
use crate::limit::{self, Exceeded, Left, Meter, Pass, Short, Unit};
use crate::observe::metrics::Metrics;
use crate::observe::record::{Cached, Record};
use crate::observe::usage::Usage;
use crate::reply;
use crate::state::{Claim, Granted, Refused, State};

/// Bytes of text that make a token, about (OpenAI's help pages, "What are tokens").
pub(super) const BYTES_PER_TOKEN: u64 = 4;

/// By when all edges know of a request that has ended.
const JUST_ENDED: Duration = Duration::from_millis(20);

/// What a request has taken of its limits. Given back or settled when it ends.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) meters: Vec<(Scope, Meter)>,
    passes: Vec<Pass>,
    /// What was reserved of each unit.
    reserved: Vec<(Unit, u64)>,
    /// What was taken of pools; two attempts may be made at once.
    pub(super) pools: Mutex<OfPools>,
    /// What was taken of the limits that all edges share.
    pub(super) shared: Option<Box<OfAll>>,
}

/// What was taken of the limits of all edges.
pub(super) struct OfAll {
    state: Arc<State>,
    edge: Arc<str>,
    claims: Vec<Claim>,
    pub(super) left: Vec<(Unit, Left)>,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Address,
    Key,
    Pool,
    Route,
}

impl Scope {
    /// As metrics and messages name it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Scope::Address => "address",
            Scope::Key => "key",
            Scope::Pool => "pool",
            Scope::Route => "route",
        }
    }
}

impl Taken {
    pub(super) fn is_limited(&self) -> bool {
        !self.meters.is_empty()
    }

    pub(super) fn limits(&self, unit: Unit) -> bool {
        self.meters.iter().any(|(_, meter)| meter.limits(unit))
    }
}

/// What a request claims of a meter at all edges: itself, its place among those in flight, and
/// what was reserved.
pub(super) fn claim(
    whose: &str,
    meter: &Meter,
    reserved: impl Iterator<Item = (Unit, u64)>,
    claims: &mut Vec<Claim>,
) {
    let itself = [(Unit::Requests, 1), (Unit::Concurrent, 1)];
    for (unit, n) in itself.into_iter().chain(reserved) {
        if let Some(limit) = meter.allowed(unit).filter(|_| n > 0) {
            claims.push(Claim {
                whose: whose.to_owned(),
                unit,
                limit,
                n,
            });
        }
    }
}

/// Takes claims at all edges; `None` if there is nothing to share, or nobody to ask.
pub(super) async fn of_all(
    state: &Arc<State>,
    claims: Vec<Claim>,
) -> Result<Option<Box<OfAll>>, (usize, Exceeded)> {
    if claims.is_empty() {
        return Ok(None);
    }
    let mut taken = state.take(&claims).await;
    if let Some(Err(refused)) = &taken
        && claims[refused.claim].unit == Unit::Concurrent
    {
        // what has just ended, here or at another edge, may not be told yet
        state.wake.notify_one();
        tokio::time::sleep(JUST_ENDED).await;
        taken = state.take(&claims).await;
    }
    match taken {
        None => Ok(None),
        Some(Ok(Granted { edge, left })) => Ok(Some(Box::new(OfAll {
            state: state.clone(),
            edge,
            claims,
            left,
        }))),
        Some(Err(Refused { claim: n, wait })) => {
            let claim = &claims[n];
            let exceeded = Exceeded {
                unit: claim.unit,
                limit: claim.limit,
                asked: claim.n,
                short: Short::Wait(wait),
            };
            Err((n, exceeded))
        }
    }
}

impl OfAll {
    /// It is in flight no more.
    fn leave(&mut self) {
        let (left, rest) = std::mem::take(&mut self.claims)
            .into_iter()
            .partition(|claim| claim.unit == Unit::Concurrent);
        self.claims = rest;
        let left: Vec<Claim> = left;
        for claim in left {
            self.state.settle(&self.edge, claim, 0);
        }
    }

    /// Corrects what was taken by what was used of it.
    pub(super) fn settle(mut self, used: impl Fn(Unit, u64) -> u64) {
        for claim in std::mem::take(&mut self.claims) {
            let used = match claim.unit {
                Unit::Concurrent => 0,
                unit => used(unit, claim.n),
            };
            self.state.settle(&self.edge, claim, used);
        }
    }
}

/// Whoever was to use it is gone.
impl Drop for OfAll {
    fn drop(&mut self) {
        for claim in std::mem::take(&mut self.claims) {
            self.state.settle(&self.edge, claim, 0);
        }
    }
}

/// What is asked of one limit. An estimate is no reason to refuse for good: it asks for what there
/// is, at most.
pub(super) fn asked(meter: &Meter, unit: Unit, n: u64) -> u64 {
    match unit {
        Unit::Tokens => meter.at_most(unit, n),
        _ => n,
    }
}

/// What a request takes, as far as it is known by now.
pub(super) fn wanted(x: &Exchange, length: Option<u64>) -> Vec<(Unit, u64)> {
    let mut wanted = vec![(Unit::Bytes, length.unwrap_or(0))];
    let hears = x.operation.is_some_and(Operation::hears);
    let speaks = x.operation == Some(Operation::Speech);
    if x.operation.is_some_and(Operation::has_model) && !hears && !speaks {
        let tokens = length.unwrap_or(0) / BYTES_PER_TOKEN;
        wanted.push((Unit::Tokens, tokens.max(1)));
    }
    if speaks {
        wanted.push((Unit::Characters, x.record.characters.unwrap_or(0)));
    }
    if hears || speaks {
        // how long the speech will be nobody knows: one second is the ticket
        let seconds = x.record.audio.map_or(1, whole_seconds);
        wanted.push((Unit::AudioSeconds, seconds));
    }
    wanted
}

fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

impl Exchange {
    pub(super) fn enter(
        &mut self,
        scope: Scope,
        meter: Meter,
        metrics: &Metrics,
    ) -> Result<(), Stop> {
        let entered = meter.enter(self.started);
        self.taken.meters.push((scope, meter));
        match entered {
            Ok(pass) => {
                self.taken.passes.push(pass);
                Ok(())
            }
            Err(exceeded) => Err(self.refused(scope, exceeded, metrics)),
        }
    }

    /// Takes so much of every limit there is, or of none.
    pub(super) fn reserve(&mut self, unit: Unit, n: u64, metrics: &Metrics) -> Result<(), Stop> {
        for (at, (scope, meter)) in self.taken.meters.iter().enumerate() {
            if let Err(exceeded) = meter.take(unit, asked(meter, unit, n), self.started) {
                for (_, before) in &self.taken.meters[..at] {
                    before.settle(unit, asked(before, unit, n), 0, self.started);
                }
                let scope = *scope;
                return Err(self.refused(scope, exceeded, metrics));
            }
        }
        self.taken.reserved.push((unit, n));
        Ok(())
    }

    fn refused(&mut self, scope: Scope, exceeded: Exceeded, metrics: &Metrics) -> Stop {
        let labels = [scope.label(), exceeded.unit.label()];
        metrics.rate_limited.with_label_values(&labels).inc();
        self.tell_what_is_left();
        reply::rate_limited(scope.label(), &exceeded).into()
    }

    /// Takes of the limits that all edges share what was taken of this one's.
    pub(super) async fn take_of_all(&mut self, metrics: &Metrics) -> Result<(), Stop> {
        let Some(state) = self.snapshot.gateway.state.clone() else {
            return Ok(());
        };
        let (mut scopes, mut claims) = (Vec::new(), Vec::new());
        for (scope, meter) in &self.taken.meters {
            let reserved = self.taken.reserved.iter();
            let reserved = reserved.map(|(unit, n)| (*unit, asked(meter, *unit, *n)));
            let before = claims.len();
            claim(&self.whose(*scope), meter, reserved, &mut claims);
            scopes.resize(scopes.len() + claims.len() - before, *scope);
        }
        match of_all(&state, claims).await {
            Ok(shared) => {
                self.taken.shared = shared;
                self.tell_what_is_left();
                Ok(())
            }
            Err((n, exceeded)) => {
                for (_, meter) in &self.taken.meters {
                    meter.settle(Unit::Requests, 1, 0, self.started);
                }
                Err(self.refused(scopes[n], exceeded, metrics))
            }
        }
    }

    /// Whose limit it is, under a name that is the same at all edges.
    fn whose(&self, scope: Scope) -> String {
        let name = match scope {
            Scope::Address => self
                .record
                .client
                .map(|one| limit::network(one).to_string()),
            Scope::Key => self.record.key.clone(),
            Scope::Route | Scope::Pool => {
                let routes = &self.snapshot.gateway.config.routes;
                self.route.map(|route| routes[route].name.clone())
            }
        };
        format!("{}:{}", scope.label(), name.unwrap_or_default())
    }

    /// Writes down what the request has cost its key.
    fn spend(&self) {
        let gateway = &self.snapshot.gateway;
        let record = &self.record;
        let answered = was_served(record);
        let key = self.key.map(|key| &gateway.config.keys[key]);
        let Some(key) = key.filter(|key| key.budget.is_some() && answered) else {
            return;
        };
        let tokens = self.usage();
        let usage = limit::Usage {
            input: tokens.input.unwrap_or(0),
            output: tokens.output.unwrap_or(0),
            characters: record.characters.unwrap_or(0),
            audio_seconds: record.audio.map_or(0.0, |audio| audio.as_secs_f64()),
        };
        let model = record.model.as_deref().unwrap_or_default();
        let units = limit::cost(&gateway.config.prices, model, &usage);
        if units > 0.0 {
            let month = limit::month(SystemTime::now());
            gateway.limits.ledger.add(&month, &key.name, units);
        }
    }

    /// All of the answer is here: when the client has it, it may ask again at once, and is not to be
    /// in the way of itself.
    pub(super) fn leave(&mut self) {
        let taken = &mut self.taken;
        taken.passes.clear();
        let pools = taken.pools.get_mut();
        let pools = pools.unwrap_or_else(PoisonError::into_inner);
        let shared = pools.leave().chain(&mut taken.shared);
        shared.for_each(|shared| shared.leave());
    }

    /// Corrects what was reserved by what was used.
    pub(super) fn settle(&mut self) {
        self.spend();
        let taken = std::mem::take(&mut self.taken);
        self.settle_pools(taken.pools);
        if let Some(shared) = taken.shared {
            shared.settle(|unit, n| self.used(unit, n));
        }
        for (unit, reserved) in &taken.reserved {
            for (_, meter) in &taken.meters {
                let reserved = asked(meter, *unit, *reserved);
                let used = self.used(*unit, reserved);
                meter.settle(*unit, reserved, used, self.started);
            }
        }
    }

    pub(super) fn used(&self, unit: Unit, reserved: u64) -> u64 {
        let record = &self.record;
        let answered = was_served(record);
        match unit {
            Unit::Bytes => record.bytes_in,
            Unit::Tokens if !answered => 0,
            Unit::Tokens => match self.usage() {
                Usage {
                    input: None,
                    output: None,
                } => reserved,
                Usage { input, output } => input.unwrap_or(0) + output.unwrap_or(0),
            },
            Unit::Characters | Unit::AudioSeconds if !answered => 0,
            Unit::AudioSeconds => record.audio.map_or(reserved, whole_seconds),
            _ => reserved,
        }
    }
}

/// Whether a server worked for it: what was refused, failed or kept costs nothing but its bytes.
fn was_served(record: &Record) -> bool {
    let kept = matches!(record.cache, Some(Cached::Hit | Cached::Coalesced));
    let well = matches!(record.status, 101 | 200..300);
    record.local.is_none() && !kept && well
}
