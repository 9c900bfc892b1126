//! What the attempts of a request take of the limits of pools.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::exchange::Exchange;
use super::taken::{OfAll, Scope, asked, claim, of_all, wanted};
use crate::config::PoolId;
use crate::limit::{Exceeded, Meter, Pass, Unit};
use crate::observe::metrics::Metrics;
use crate::state::State;

#[derive(Default)]
pub(super) struct OfPools {
    /// For each attempt at a pool that has limits.
    attempts: Vec<OfPool>,
    /// Why one was passed over.
    exceeded: Option<Exceeded>,
}

struct OfPool {
    pool: PoolId,
    meter: Meter,
    reserved: Vec<(Unit, u64)>,
    pass: Option<Pass>,
    shared: Option<Box<OfAll>>,
}

/// A place at a pool, and what was taken of its limits.
type Reserved = (Pass, Vec<(Unit, u64)>);

fn give_back(meter: &Meter, reserved: Vec<(Unit, u64)>, now: Instant) {
    for (unit, n) in reserved {
        meter.settle(unit, n, 0, now);
    }
}

impl OfPools {
    /// Leaves them all; what is to be told to other edges of it.
    pub(super) fn leave(&mut self) -> impl Iterator<Item = &mut Box<OfAll>> {
        self.attempts.iter_mut().filter_map(|attempt| {
            attempt.pass = None;
            attempt.shared.as_mut()
        })
    }
}

impl Exchange {
    /// Takes what an attempt at a pool takes of the pool's limits; says whether there was as much.
    pub(super) async fn take_of_pool(
        &self,
        pool: PoolId,
        length: Option<u64>,
        metrics: &Metrics,
    ) -> bool {
        let gateway = &self.snapshot.gateway;
        let meter = gateway.limits.pool(pool);
        if !meter.limits_something() {
            return true;
        }
        let taken = match self.reserve_of_pool(meter, length) {
            Ok(taken) => match &gateway.state {
                Some(state) => Box::pin(self.share_pool(state, pool, meter, taken)).await,
                None => Ok((taken, None)),
            },
            Err(exceeded) => Err(exceeded),
        };
        let mut pools = self.of_pools();
        match taken {
            Ok(((pass, reserved), shared)) => {
                pools.attempts.push(OfPool {
                    pool,
                    meter: meter.clone(),
                    reserved,
                    pass: Some(pass),
                    shared,
                });
                true
            }
            Err(exceeded) => {
                let labels = [Scope::Pool.label(), exceeded.unit.label()];
                metrics.rate_limited.with_label_values(&labels).inc();
                pools.exceeded = Some(exceeded);
                false
            }
        }
    }

    fn of_pools(&self) -> MutexGuard<'_, OfPools> {
        let pools = self.taken.pools.lock();
        pools.unwrap_or_else(PoisonError::into_inner)
    }

    /// All that an attempt takes of a meter, or nothing.
    fn reserve_of_pool(&self, meter: &Meter, length: Option<u64>) -> Result<Reserved, Exceeded> {
        let pass = meter.enter(self.started)?;
        let mut reserved = vec![(Unit::Requests, 1)];
        for (unit, n) in wanted(self, length) {
            let n = asked(meter, unit, n);
            if let Err(exceeded) = meter.take(unit, n, self.started) {
                give_back(meter, reserved, self.started);
                return Err(exceeded);
            }
            reserved.push((unit, n));
        }
        Ok((pass, reserved))
    }

    /// The same of the limit that all edges share, or nothing of either.
    async fn share_pool(
        &self,
        state: &Arc<State>,
        pool: PoolId,
        meter: &Meter,
        taken: Reserved,
    ) -> Result<(Reserved, Option<Box<OfAll>>), Exceeded> {
        let name = &self.snapshot.gateway.config.pool(pool).name;
        let whose = format!("{}:{name}", Scope::Pool.label());
        let mut claims = Vec::new();
        let by_minute = taken.1.iter().copied();
        let by_minute = by_minute.filter(|(unit, _)| *unit != Unit::Requests);
        claim(&whose, meter, by_minute, &mut claims);
        // a race of two servers may end before its answer is here, and what it took has to come back
        let state = state.clone();
        let asked = tokio::spawn(async move { of_all(&state, claims).await });
        match asked.await.unwrap_or(Ok(None)) {
            Ok(shared) => Ok((taken, shared)),
            Err((_, exceeded)) => {
                give_back(meter, taken.1, self.started);
                Err(exceeded)
            }
        }
    }

    /// An attempt at a pool is over, and its answer is not the one that counts.
    pub(super) fn left_pool(&self, pool: PoolId) {
        let used = |unit, n| match unit {
            Unit::Requests | Unit::Bytes => n,
            _ => 0,
        };
        let mut pools = self.of_pools();
        let mut attempts = pools.attempts.iter_mut();
        if let Some(attempt) = attempts.find(|one| one.pool == pool && one.pass.is_some()) {
            attempt.pass = None;
            for (unit, n) in attempt.reserved.drain(..) {
                let used = used(unit, n);
                attempt.meter.settle(unit, n, used, self.started);
            }
            if let Some(shared) = attempt.shared.take() {
                shared.settle(used);
            }
        }
    }

    /// The limit of a pool that kept the request from it.
    pub(super) fn exceeded_of_pool(&self) -> Option<Exceeded> {
        self.of_pools().exceeded
    }

    pub(super) fn settle_pools(&self, pools: Mutex<OfPools>) {
        let pools = pools.into_inner().unwrap_or_else(PoisonError::into_inner);
        for attempt in pools.attempts {
            for (unit, reserved) in attempt.reserved {
                let used = self.used(unit, reserved);
                attempt.meter.settle(unit, reserved, used, self.started);
            }
            if let Some(shared) = attempt.shared {
                shared.settle(|unit, n| self.used(unit, n));
            }
        }
    }
}
