//! What lives on one server: the collections of the API whose objects only their maker knows.

use std::collections::HashSet;
use std::sync::LazyLock;

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

/// Paths in each collection, as they may be written.
static INSIDE: LazyLock<Vec<[String; 4]>> = LazyLock::new(|| {
    let paths = |collection: &Collection| {
        let below = format!("{}/x", collection.path);
        let unversioned = |path: &str| path.strip_prefix("/v1").unwrap_or(path).to_owned();
        let (path, other) = (collection.path, unversioned(collection.path));
        [path.to_owned(), other, unversioned(&below), below]
    };
    COLLECTIONS.iter().map(paths).collect()
});

/// The collections that a path of the conditions may be in.
pub(crate) fn taken_by(conditions: &Match) -> impl Iterator<Item = &'static str> + '_ {
    let takes = |inside: &[String; 4]| {
        let any = |path: &String| conditions.paths.iter().any(|p| p.matches(path));
        conditions.paths.is_empty() || inside.iter().any(any)
    };
    let collections = COLLECTIONS.iter().zip(INSIDE.iter());
    let taken = collections.filter(move |(_, inside)| takes(inside));
    taken.map(|(collection, _)| collection.path)
}

/// What the routes of a configuration reach, as far as it matters for objects. Routes that are alike
/// in that count once, however many they are.
pub(crate) struct Reached<'a> {
    pools: &'a [Pool],
    others: HashSet<Holding>,
}

/// What a route knows of objects.
#[derive(PartialEq, Eq, Hash)]
struct Holding {
    /// The body decides whether it is taken.
    by_fields: bool,
    /// Pools that may hold objects.
    pools: Vec<PoolId>,
    taken: Vec<&'static str>,
}

impl Holding {
    fn of(route: &Route, pools: &[Pool]) -> Self {
        let conditions = &route.conditions;
        let targets = route.targets.iter().map(|target| target.pool);
        Holding {
            by_fields: conditions.asks_for_fields() || conditions.unknown_model,
            pools: targets.filter(|pool| may_hold(&pools[pool.0])).collect(),
            taken: taken_by(conditions).collect(),
        }
    }
}

impl<'a> Reached<'a> {
    pub(crate) fn new(routes: &[Route], pools: &'a [Pool]) -> Self {
        let others = routes.iter().filter(|other| other.affinity);
        Reached {
            pools,
            others: others.map(|other| Holding::of(other, pools)).collect(),
        }
    }

    /// Whether objects of a collection may be on several servers, as far as a route knows. Where the
    /// body decides between routes, requests that come without one may mean any of theirs.
    pub(crate) fn several(&self, route: &Route) -> bool {
        if servers_of(route, self.pools) > 1 {
            return true;
        }
        let own = Holding::of(route, self.pools);
        let by_fields = route.conditions.asks_for_fields();
        let elsewhere = |other: &Holding| other.pools.iter().any(|pool| !own.pools.contains(pool));
        let meets = |other: &Holding| own.taken.iter().any(|path| other.taken.contains(path));
        !own.pools.is_empty()
            && (self.others.iter())
                .filter(|other| by_fields || other.by_fields)
                .any(|other| elsewhere(other) && meets(other))
    }
}

impl Config {
    pub(crate) fn reached(&self) -> Reached<'_> {
        Reached::new(&self.routes, &self.pools)
    }

    /// Whether some route makes ids that lead back to one of several servers.
    pub(crate) fn makes_ids(&self, reached: &Reached<'_>) -> bool {
        self.routes.iter().any(|route| {
            let makes = || taken_by(&route.conditions).next().is_some();
            route.affinity && makes() && reached.several(route)
        })
    }
}
