//! Where a route leads: its pool, those that share its place, those tried next, and the one that
//! gets copies.

use super::super::file;
use super::super::problem::{Severity, did_you_mean};
use super::super::tree;
use super::super::{Cost, Fields, Mirror, Pool, PoolId, Priority, Route, Target, Zone};
use super::Resolver;

/// Largest weight of a pool that shares requests.
const MOST_WEIGHT: u32 = 1_000_000;

/// The targets of a route, and the weights of those that share the first place.
#[derive(Default)]
pub(super) struct Targets {
    pub(super) targets: Vec<Target>,
    pub(super) split: Vec<u32>,
}

impl Resolver<'_> {
    pub(super) fn targets(
        &mut self,
        here: &tree::Path,
        route: &file::Route,
        pools: &[Pool],
    ) -> Targets {
        let fields = self.route_fields(here, route);
        let mut out = Targets::default();
        match (&route.pool, route.split.as_slice()) {
            (Some(pool), []) => {
                let target = self.target(here.then("pool"), pool, fields.clone(), &[], pools);
                out.targets.extend(target);
            }
            (None, [_, ..]) => out = self.split(here, route, &fields, pools),
            (Some(_), _) => self.error(
                here.then("split"),
                "a route has a `pool` or a `split`, not both: write the pool as one of the split",
            ),
            (None, []) if self.damaged => {}
            (None, []) => self.error(here.clone(), "`pool` is missing here"),
        }
        for (n, fallback) in route.fallback.iter().enumerate() {
            let place = here.then("fallback").then(n);
            let written = (&fallback.set, &fallback.default, &fallback.remove.0);
            let fields = self.fields_on(&place, &fields, written);
            let target = self.target(place, &fallback.pool, fields, &out.targets, pools);
            out.targets.extend(target);
        }
        out
    }

    fn split(
        &mut self,
        here: &tree::Path,
        route: &file::Route,
        fields: &Fields,
        pools: &[Pool],
    ) -> Targets {
        let mut out = Targets::default();
        for (n, share) in route.split.iter().enumerate() {
            let place = here.then("split").then(n);
            let weight = share.weight.unwrap_or(1);
            if weight > MOST_WEIGHT {
                let message = format!("{weight} is too much; a weight is at most {MOST_WEIGHT}");
                self.error(place.then("weight"), message);
            }
            let fields = self.fields_on(
                &place,
                fields,
                (&share.set, &share.default, &share.remove.0),
            );
            if let Some(target) = self.target(place, &share.pool, fields, &out.targets, pools) {
                out.targets.push(target);
                out.split.push(weight);
            }
        }
        if !out.split.is_empty() && out.split.iter().all(|weight| *weight == 0) {
            self.error(
                here.then("split"),
                "no pool has a share: give at least one a weight above 0",
            );
        }
        out
    }

    /// A pool that is tried after those `before`.
    fn target(
        &mut self,
        place: tree::Path,
        name: &str,
        fields: Fields,
        before: &[Target],
        pools: &[Pool],
    ) -> Option<Target> {
        let pool = self.pool_id(place.clone(), name, pools)?;
        if before.iter().any(|target| target.pool == pool) {
            let message = format!("pool `{name}` is already tried earlier in this route");
            self.error(place, message);
            return None;
        }
        let withhold = self.withhold(place, before, pool, pools);
        Some(Target {
            pool,
            fields,
            withhold,
        })
    }

    /// Where copies go.
    pub(super) fn mirror(
        &mut self,
        here: &tree::Path,
        route: &file::Route,
        targets: &[Target],
        pools: &[Pool],
    ) -> Option<Mirror> {
        let mirror = route.mirror.as_ref()?;
        let place = here.then("mirror");
        let below = targets.first().map(|target| target.fields.clone());
        let written = (&mirror.set, &mirror.default, &mirror.remove.0);
        let fields = self.fields_on(&place, &below.unwrap_or_default(), written);
        let target = self.target(place.then("pool"), &mirror.pool, fields, targets, pools)?;
        let pool = &pools[target.pool.0];
        if pool.cost == Cost::Paid && !mirror.paid {
            let message = format!(
                "pool `{}` costs money, and each copy is paid for as well: write `paid: true` if that is meant",
                pool.name
            );
            self.error(place.then("pool"), message);
        }
        if route.zone == Some(Zone::Home) && pool.zone != Zone::Home {
            let message = format!(
                "the route stays at home, so nothing may be copied to pool `{}`, which is in the cloud",
                pool.name
            );
            self.error(place.then("pool"), message);
        }
        let copies = Route {
            priority: Priority::Batch,
            zone: route.zone,
            ..Route::bare(route.name.clone().unwrap_or_default(), vec![target])
        };
        Some(Mirror {
            share: mirror.share.map_or(1.0, |share| f64::from(share.0) / 100.0),
            route: Box::new(copies),
        })
    }

    /// Whether the client's credentials are kept from a fallback, as they are meant for a service
    /// that is asked before. Only a pool whose `auth` is written gets them all the same.
    fn withhold(
        &mut self,
        place: tree::Path,
        before: &[Target],
        pool: PoolId,
        pools: &[Pool],
    ) -> bool {
        let pool = &pools[pool.0];
        let first = before
            .iter()
            .map(|target| &pools[target.pool.0])
            .find(|earlier| {
                let mut hosts = pool.trusted_hosts();
                earlier.trusted_hosts().next().is_some()
                    && hosts.any(|host| !earlier.trusted_hosts().any(|known| known == host))
            });
        let Some(first) = first.filter(|_| !pool.auth_written) else {
            return false;
        };
        // a variable that is not set here may be set where it runs
        if pool.key_written {
            return true;
        }
        let message = format!(
            "pool `{}` gets no key in this route: the client's is meant for `{}`",
            pool.name, first.name
        );
        let help = "give it an `api_key`, or write `auth: passthrough` if one key is for both";
        self.report(Severity::Warning, place, message, Some(help.to_owned()));
        true
    }

    pub(super) fn pool_id(
        &mut self,
        path: tree::Path,
        name: &str,
        pools: &[Pool],
    ) -> Option<PoolId> {
        let found = pools.iter().position(|pool| pool.name == name);
        if found.is_none() {
            let known = || pools.iter().map(|pool| pool.name.as_str());
            let help = did_you_mean(name, known())
                .unwrap_or_else(|| format!("defined: {}", known().collect::<Vec<_>>().join(", ")));
            self.report(
                Severity::Error,
                path,
                format!("pool `{name}` is not defined"),
                Some(help),
            );
        }
        found.map(PoolId)
    }
}
