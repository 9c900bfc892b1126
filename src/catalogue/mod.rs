//! What may be asked for by name: models and voices, as the file names them and as the servers of
//! the pools report them.
//!
//! A reported name is listed only if a request with it gets to that pool, and gets there under that
//! name. Only the pool that a route tries first counts: what just a fallback has is asked for
//! when the first one fails, and that is no promise to a client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use serde_json::{Map, Value, json};

use crate::config::kind::Dialect;
use crate::config::{Config, Naming, PoolId, Route, Target, Zone};
use crate::inspect::endpoint::{self, Operation};
use crate::inspect::listing::{MOST, Model};
use crate::pool::Pool;

/// The names, sorted.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    models: BTreeMap<String, Listed>,
    voices: BTreeMap<String, Listed>,
}

#[derive(Debug)]
struct Listed {
    /// The name of the pool.
    owner: Arc<str>,
    facts: Map<String, Value>,
}

/// What the servers of a pool are worth asking for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) models: bool,
    pub(crate) voices: bool,
}

impl Catalogue {
    /// `pools` are those of the configuration, in its order.
    pub(crate) fn new(config: &Config, pools: &[Arc<Pool>], now: Instant) -> Self {
        let owners: Vec<Arc<str>> = pools
            .iter()
            .map(|p| p.config.name.as_str().into())
            .collect();
        let mut catalogue = Catalogue::default();
        for (n, route) in config.routes.iter().enumerate() {
            let Some(first) = route.targets.first() else {
                continue;
            };
            catalogue.written_models(config, route, &owners[first.pool.0], &owners);
            for target in route.firsts() {
                let (pool, owner) = (&pools[target.pool.0], &owners[target.pool.0]);
                for model in reported_models(&config.routes, n, target, pool, now) {
                    note(&mut catalogue.models, model.id, owner, model.facts);
                }
                for voice in voices(&config.routes, n, target, pool, now) {
                    note(&mut catalogue.voices, voice, owner, Map::new());
                }
            }
        }
        catalogue
    }

    /// The names that a route matches, and those that its pools have names of their own for. A
    /// pattern is listed as it is written.
    fn written_models(
        &mut self,
        config: &Config,
        route: &Route,
        first: &Arc<str>,
        owners: &[Arc<str>],
    ) {
        for pattern in &route.conditions.models {
            let name = pattern.to_string();
            if name != "*" {
                note(&mut self.models, name, first, Map::new());
            }
        }
        for target in &route.targets {
            for name in config.pool(target.pool).models.exact.keys() {
                note(
                    &mut self.models,
                    name.clone(),
                    &owners[target.pool.0],
                    Map::new(),
                );
            }
        }
    }

    /// The list of models as OpenAI writes it, of those that `may` be told.
    pub(crate) fn models(&self, may: &dyn Fn(&str) -> bool) -> Value {
        let told = self.models.iter().filter(|(id, _)| may(id));
        let data: Vec<Value> = told.map(|(id, listed)| entry(id, listed)).collect();
        json!({ "object": "list", "data": data })
    }

    /// One of them.
    pub(crate) fn model(&self, id: &str, may: &dyn Fn(&str) -> bool) -> Option<Value> {
        let listed = self.models.get(id).filter(|_| may(id))?;
        Some(entry(id, listed))
    }

    /// The list of voices as Kokoro-FastAPI writes it, or as it wrote it once; `None` if there are
    /// none.
    pub(crate) fn voices(&self, legacy: bool) -> Option<Value> {
        let voices = self.voices.iter().map(|(id, listed)| match legacy {
            true => json!(id),
            false => json!({ "id": id, "name": id, "owned_by": &*listed.owner }),
        });
        let voices: Vec<Value> = voices.collect();
        (!voices.is_empty()).then(|| json!({ "voices": voices }))
    }

    /// How many models and voices are listed as those of a pool.
    pub(crate) fn counts(&self, pool: &str) -> (usize, usize) {
        let of = |names: &BTreeMap<String, Listed>| {
            let owners = names.values().map(|listed| &*listed.owner);
            owners.filter(|owner| *owner == pool).count()
        };
        (of(&self.models), of(&self.voices))
    }
}

fn entry(id: &str, listed: &Listed) -> Value {
    let mut entry = json!({ "id": id, "object": "model", "created": 0 });
    if let Some(fields) = entry.as_object_mut() {
        fields.extend(listed.facts.clone());
        fields.insert("owned_by".into(), (&*listed.owner).into());
    }
    entry
}

/// Lists a name; the first who names it owns it, and may tell more of it later.
fn note(
    names: &mut BTreeMap<String, Listed>,
    name: String,
    owner: &Arc<str>,
    facts: Map<String, Value>,
) {
    let listed = names.entry(name).or_insert_with(|| Listed {
        owner: owner.clone(),
        facts: Map::new(),
    });
    if listed.owner == *owner && listed.facts.is_empty() {
        listed.facts = facts;
    }
}

// === what gets where ===

/// What is worth asking a pool for: what some route sends there.
pub(crate) fn wants(config: &Config, id: PoolId) -> Wants {
    let pool = config.pool(id);
    let sent = |field: &str, leads: &dyn Fn(&Route) -> bool| {
        config.routes.iter().any(|route| {
            let mut firsts = route.firsts().iter();
            firsts.any(|first| first.pool == id && keeps(first, field)) && leads(route)
        })
    };
    let lists_models = pool.kind.is_none_or(|kind| kind.traits().lists_models);
    let speaks = !pool.is_cloud() && pool.dialect() == Dialect::OpenAi;
    Wants {
        models: lists_models && sent("model", &takes_models),
        voices: speaks && sent("voice", &takes_voices),
    }
}

/// Whether a server may be asked: one on the internet only under a key of its own, so that nobody
/// is asked who did not ask for it, nor with what a client brought.
pub(crate) fn may_ask(config: &crate::config::Pool, server: usize) -> bool {
    let at_home = config.zone == Zone::Home && !config.is_cloud();
    at_home || config.servers[server].key.is_some()
}

/// The models that the servers of a first pool of route `n` report, and that get there.
fn reported_models(
    routes: &[Route],
    n: usize,
    target: &Target,
    pool: &Pool,
    now: Instant,
) -> Vec<Model> {
    let route = &routes[n];
    let Some(interval) = pool.config.listing else {
        return Vec::new();
    };
    if !takes_models(route) || !keeps(target, "model") {
        return Vec::new();
    }
    let lists = pool.reports.models(interval, now);
    let all = lists.iter().flat_map(|list| list.iter());
    let reached = all.filter(|model| {
        let naming = Naming {
            model: Some(&model.id),
            voice: None,
        };
        let renamed = pool.config.models.translate(&model.id, false).is_some();
        !renamed && reaches(routes, n, naming)
    });
    reached.take(MOST).cloned().collect()
}

/// The voices of a first pool of route `n` that get there: those of the file and of its kind, and
/// those that its servers report.
fn voices(routes: &[Route], n: usize, target: &Target, pool: &Pool, now: Instant) -> Vec<String> {
    let route = &routes[n];
    if !takes_voices(route) || !keeps(target, "voice") {
        return Vec::new();
    }
    let asked = route.conditions.voices.iter().filter_map(|p| p.exact());
    let mapped = pool.config.voices.exact.keys().map(String::as_str);
    let kind = pool
        .config
        .kind
        .map_or(&[][..], |kind| kind.public_voices());
    let mut names: Vec<String> = asked
        .chain(mapped)
        .chain(kind.iter().copied())
        .map(str::to_owned)
        .collect();
    if let Some(interval) = pool.config.listing {
        let lists = pool.reports.voices(interval, now);
        let all = lists.iter().flat_map(|list| list.iter());
        let own = all.filter(|name| pool.config.voices.translate(name, true).is_none());
        names.extend(own.take(MOST).cloned());
    }
    names.retain(|name| {
        let naming = Naming {
            model: None,
            voice: Some(name),
        };
        reaches(routes, n, naming)
    });
    names
}

/// Whether the client's word stands in a field.
fn keeps(target: &Target, field: &str) -> bool {
    !target.fields.set.contains_key(field)
}

/// Whether requests with this name get to route `n`, and not all to one before it.
fn reaches(routes: &[Route], n: usize, naming: Naming<'_>) -> bool {
    let route = &routes[n].conditions;
    let before = || routes[..n].iter().map(|route| &route.conditions);
    let lost = |later| before().any(|earlier| earlier.shadows(later, naming));
    match route.unknown_model {
        true => before().any(|other| !other.allows(naming) && !lost(other)),
        false => route.allows(naming) && !lost(route),
    }
}

fn takes_models(route: &Route) -> bool {
    use Operation::{Models, Other, Voices};
    let named = |operation| !matches!(operation, Models | Voices | Other);
    // who asks for a model has them, be its path one that nobody knows
    !route.conditions.models.is_empty() || takes(route, &named)
}

fn takes_voices(route: &Route) -> bool {
    !route.conditions.unknown_model && takes(route, &|operation| operation == Operation::Speech)
}

/// Whether a route takes requests for one of these operations.
fn takes(route: &Route, wanted: &dyn Fn(Operation) -> bool) -> bool {
    let conditions = &route.conditions;
    let any_path = conditions.paths.is_empty();
    let path = any_path
        || endpoint::paths(wanted).any(|below| {
            let whole = format!("/v1{below}");
            let fits = |path: &str| conditions.paths.iter().any(|p| p.matches(path));
            fits(&whole) || fits(below)
        });
    path && (conditions.methods.is_empty() || conditions.methods.contains(&Method::POST))
}

#[cfg(test)]
mod tests;
