//! What lives on one server: the collections of the API whose objects only their maker knows.

use super::kind::Kind;
use super::{Config, Match, Pool, PoolId, Route};

/// A collection of objects.
pub(crate) struct Collection {
    pub(crate) path: &'static str,
    /// How `GET` on it lists, if it does.
    pub(crate) list: Option<List>,
}

/// How a collection is listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    /// Objects on a page if `limit` does not say.
    pub(crate) limit: usize,
    pub(crate) most: usize,
    /// Newest first if `order` does not say.
    pub(crate) descending: bool,
}

const USUAL: Option<List> = Some(List {
    limit: 20,
    most: 100,
    descending: true,
});

/// The collections (API reference, 2026-11).
pub(crate) const COLLECTIONS: &[Collection] = &[
    collection(
        "/v1/files",
        Some(List {
            limit: 10_000,
            most: 10_000,
            descending: true,
        }),
    ),
    collection("/v1/batches", USUAL),
    collection("/v1/fine_tuning/jobs", USUAL),
    collection("/v1/fine_tuning/checkpoints", None),
    collection("/v1/vector_stores", USUAL),
    collection("/v1/assistants", USUAL),
    collection("/v1/containers", USUAL),
    collection("/v1/videos", USUAL),
    collection(
        "/v1/evals",
        Some(List {
            limit: 20,
            most: 100,
            descending: false,
        }),
    ),
    collection("/v1/uploads", None),
    collection("/v1/threads", None),
    collection("/v1/responses", None),
    collection("/v1/conversations", None),
    collection("/v1/realtime", None),
];

const fn collection(path: &'static str, list: Option<List>) -> Collection {
    Collection { path, list }
}

/// The collection that a canonical path is in, if it is in one.
pub(crate) fn collection_of(path: &str) -> Option<&'static Collection> {
    COLLECTIONS.iter().find(|collection| {
        let rest = path.strip_prefix(collection.path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Whether the servers of a pool may hold such objects. Those that only speak or hear do not, nor
/// is there a word for them in Ollama's own API.
pub(crate) fn may_hold(pool: &Pool) -> bool {
    let none = [Kind::Kokoro, Kind::WhisperCpp, Kind::OllamaNative];
    !pool.kind.is_some_and(|kind| none.contains(&kind))
}

/// How many servers a route reaches that may hold objects.
fn servers_of(route: &Route, pools: &[Pool]) -> usize {
    let pools = route.targets.iter().map(|target| &pools[target.pool.0]);
    let holding = pools.filter(|pool| may_hold(pool));
    holding.map(|pool| pool.servers.len()).sum()
}

/// The collections that a path of the conditions may be in.
pub(crate) fn taken_by(conditions: &Match) -> impl Iterator<Item = &'static str> + '_ {
    let takes = |collection: &&Collection| {
        let below = format!("{}/x", collection.path);
        let unversioned = |path: &str| path.strip_prefix("/v1").unwrap_or(path).to_owned();
        let paths = [collection.path, &below].map(|path| [path.to_owned(), unversioned(path)]);
        let mut paths = paths.into_iter().flatten();
        conditions.paths.is_empty()
            || paths.any(|path| conditions.paths.iter().any(|p| p.matches(&path)))
    };
    let collections = COLLECTIONS.iter().filter(takes);
    collections.map(|collection| collection.path)
}

/// Whether objects of a collection may be on several servers, as far as a route knows. Where the
/// body decides between routes, requests that come without one may mean any of theirs.
pub(crate) fn reaches_several(route: &Route, routes: &[Route], pools_of: &[Pool]) -> bool {
    if servers_of(route, pools_of) > 1 {
        return true;
    }
    let by_fields = |route: &Route| route.conditions.asks_for_fields();
    let holding = |route: &Route| -> Vec<PoolId> {
        let pools = route.targets.iter().map(|target| target.pool);
        pools.filter(|pool| may_hold(&pools_of[pool.0])).collect()
    };
    let own = holding(route);
    let others = routes.iter().filter(|other| other.affinity);
    let elsewhere = |other: &Route| holding(other).iter().any(|pool| !own.contains(pool));
    !own.is_empty()
        && others
            .filter(|other| by_fields(route) || by_fields(other) || other.conditions.unknown_model)
            .any(|other| elsewhere(other) && meets(&route.conditions, &other.conditions))
}

/// Whether both may take requests for one collection.
fn meets(conditions: &Match, other: &Match) -> bool {
    let of_other: Vec<_> = taken_by(other).collect();
    taken_by(conditions).any(|path| of_other.contains(&path))
}

impl Config {
    pub(crate) fn reaches_several(&self, route: &Route) -> bool {
        reaches_several(route, &self.routes, &self.pools)
    }

    /// Whether some route makes ids that lead back to one of several servers.
    pub(crate) fn makes_ids(&self) -> bool {
        self.routes.iter().any(|route| {
            let makes = || taken_by(&route.conditions).next().is_some();
            route.affinity && makes() && self.reaches_several(route)
        })
    }
}
