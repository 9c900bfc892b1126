//! What may be asked for by name: models and voices, as the file names them and as the servers of
//! the pools report them.
//!
//! A reported name is listed only if a request with it gets to that pool, and gets there under that
//! name. Only the pool that a route tries first counts: what just a fallback has is asked for
//! when the first one fails, and that is no promise to a client.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use serde_json::{Map, Value, json};

use crate::config::kind::Dialect;
use crate::config::{Config, Naming, PoolId, Route, Shadowing, Target, Zone};
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) models: bool,
    pub(crate) voices: bool,
}

impl Wants {
    const ALL: Wants = Wants {
        models: true,
        voices: true,
    };
}

impl Catalogue {
    /// `pools` are those of the configuration, in its order.
    pub(crate) fn new(config: &Config, pools: &[Arc<Pool>], now: Instant) -> Self {
        let owners: Vec<Arc<str>> = pools
            .iter()
            .map(|p| p.config.name.as_str().into())
            .collect();
        let mut catalogue = Catalogue::default();
        let mut reported = Reported::new(config, pools, now);
        for (n, route) in config.routes.iter().enumerate() {
            let Some(first) = route.targets.first() else {
                continue;
            };
            catalogue.written_models(config, route, &owners[first.pool.0], &owners);
            for target in route.firsts() {
                let owner = &owners[target.pool.0];
                for model in reported.models(n, target) {
                    note(&mut catalogue.models, model.id, owner, model.facts);
                }
                for voice in reported.voices(n, target) {
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

    /// How many models and voices are listed as those of each pool that has some.
    pub(crate) fn counts(&self) -> HashMap<&str, (usize, usize)> {
        let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
        for listed in self.models.values() {
            counts.entry(&listed.owner).or_default().0 += 1;
        }
        for listed in self.voices.values() {
            counts.entry(&listed.owner).or_default().1 += 1;
        }
        counts
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

/// What is worth asking each pool for, in their order: what some route sends there.
pub(crate) fn wants(config: &Config) -> Vec<Wants> {
    let mut sent = vec![Wants::default(); config.pools.len()];
    for route in &config.routes {
        // most have nothing to tell that is not known by then
        let all = |first: &Target| sent[first.pool.0] == Wants::ALL;
        if route.firsts().iter().all(all) {
            continue;
        }
        let (models, voices) = (takes_models(route), takes_voices(route));
        for first in route.firsts() {
            let wants = &mut sent[first.pool.0];
            wants.models |= models && keeps(first, "model");
            wants.voices |= voices && keeps(first, "voice");
        }
    }
    let asked = config.pools.iter().zip(sent).map(|(pool, sent)| {
        let lists_models = pool.kind.is_none_or(|kind| kind.traits().lists_models);
        let speaks = !pool.is_cloud() && pool.dialect() == Dialect::OpenAi;
        Wants {
            models: lists_models && sent.models,
            voices: speaks && sent.voices,
        }
    });
    asked.collect()
}

/// Whether a server may be asked: one on the internet only under a key of its own, so that nobody
/// is asked who did not ask for it, nor with what a client brought.
pub(crate) fn may_ask(config: &crate::config::Pool, server: usize) -> bool {
    let at_home = config.zone == Zone::Home && !config.is_cloud();
    at_home || config.servers[server].key.is_some()
}

/// What the pools of a configuration report, each asked once.
struct Reported<'a> {
    config: &'a Config,
    pools: &'a [Arc<Pool>],
    now: Instant,
    shadowing: Shadowing,
    /// By pool: all that is told under the name that it was asked for.
    models: HashMap<PoolId, Arc<Vec<Model>>>,
    voices: HashMap<PoolId, Arc<Vec<String>>>,
}

impl<'a> Reported<'a> {
    fn new(config: &'a Config, pools: &'a [Arc<Pool>], now: Instant) -> Self {
        Reported {
            config,
            pools,
            now,
            shadowing: Shadowing::of(&config.routes),
            models: HashMap::new(),
            voices: HashMap::new(),
        }
    }

    /// The models that the servers of a first pool of route `n` report, and that get there.
    fn models(&mut self, n: usize, target: &Target) -> Vec<Model> {
        let route = &self.config.routes[n];
        let listing = self.pools[target.pool.0].config.listing;
        if listing.is_none() || !keeps(target, "model") || !takes_models(route) {
            return Vec::new();
        }
        let all = self.models_of(target.pool);
        let reached = all.iter().filter(|model| {
            let naming = Naming {
                model: Some(&model.id),
                voice: None,
            };
            self.reaches(n, naming)
        });
        reached.take(MOST).cloned().collect()
    }

    /// The models of a pool that have no other name there, each once.
    fn models_of(&mut self, id: PoolId) -> Arc<Vec<Model>> {
        if let Some(known) = self.models.get(&id) {
            return known.clone();
        }
        let pool = &self.pools[id.0];
        let lists = pool
            .config
            .listing
            .map(|interval| pool.reports.models(interval, self.now));
        let (mut all, mut places) = (Vec::<Model>::new(), HashMap::<&str, usize>::new());
        let lists = lists.unwrap_or_default();
        for model in lists.iter().flat_map(|list| list.iter()) {
            let at = *places.entry(&model.id).or_insert(all.len());
            match all.get_mut(at) {
                // who names it again may tell more of it
                Some(known) if known.facts.is_empty() => known.facts.clone_from(&model.facts),
                Some(_) => {}
                None => all.push(model.clone()),
            }
        }
        all.retain(|model| pool.config.models.translate(&model.id, false).is_none());
        let all = Arc::new(all);
        self.models.insert(id, all.clone());
        all
    }

    /// The voices of a first pool of route `n` that get there: those of the file and of its kind,
    /// and those that its servers report.
    fn voices(&mut self, n: usize, target: &Target) -> Vec<String> {
        let route = &self.config.routes[n];
        if !keeps(target, "voice") || !takes_voices(route) {
            return Vec::new();
        }
        let asked = route.conditions.voices.iter().filter_map(|p| p.exact());
        let all = self.voices_of(target.pool);
        let names = asked.chain(all.iter().map(String::as_str));
        let reached = names.filter(|name| {
            let naming = Naming {
                model: None,
                voice: Some(name),
            };
            self.reaches(n, naming)
        });
        reached.map(str::to_owned).collect()
    }

    /// The voices of a pool, each once.
    fn voices_of(&mut self, id: PoolId) -> Arc<Vec<String>> {
        if let Some(known) = self.voices.get(&id) {
            return known.clone();
        }
        let settings = &self.pools[id.0].config;
        let mapped = settings.voices.exact.keys().map(String::as_str);
        let kind = settings.kind.map_or(&[][..], |kind| kind.public_voices());
        let written = mapped.chain(kind.iter().copied()).map(str::to_owned);
        let reports = &self.pools[id.0].reports;
        let lists = settings
            .listing
            .map(|interval| reports.voices(interval, self.now));
        let lists = lists.unwrap_or_default();
        let told = lists.iter().flat_map(|list| list.iter());
        let mut seen = HashSet::new();
        let own = told
            .filter(|name| seen.insert(name.as_str()))
            .filter(|name| settings.voices.translate(name, true).is_none());
        let all: Vec<String> = written.chain(own.take(MOST).cloned()).collect();
        let all = Arc::new(all);
        self.voices.insert(id, all.clone());
        all
    }

    /// Whether requests with this name get to route `n`, and not all to one before it.
    fn reaches(&self, n: usize, naming: Naming<'_>) -> bool {
        let routes = &self.config.routes;
        let lost = |later| self.shadowing.first(routes, n, later, naming).is_some();
        let route = &routes[n].conditions;
        match route.unknown_model {
            true => (routes[..n].iter().map(|route| &route.conditions))
                .any(|other| !other.allows(naming) && !lost(other)),
            false => route.allows(naming) && !lost(route),
        }
    }
}

/// Whether the client's word stands in a field.
fn keeps(target: &Target, field: &str) -> bool {
    !target.fields.set.contains_key(field)
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
