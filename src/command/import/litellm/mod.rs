//! LiteLLM's config.yaml: a `model_list`, and settings of its router.
//!
//! LiteLLM routes by the name of the model and nothing else. Entries of one name are one pool;
//! those that ask a service under different names share it.

mod deployment;
mod providers;
mod settings;

use serde_yaml::Value;

use super::draft::{Draft, Listener, Map, Pool, Route, Yaml};
use deployment::{Deployment, LIMITS};
use settings::Settings;

/// Where LiteLLM listens by itself.
const USUAL: &str = "127.0.0.1:4000";

pub(super) fn read(text: &str) -> Result<Draft, String> {
    let file: Value = serde_yaml::from_str(text).map_err(|e| format!("it is no YAML: {e}"))?;
    let Some(list) = file.get("model_list").and_then(Value::as_sequence) else {
        return Err("it has no `model_list`".to_owned());
    };
    let mut draft = Draft {
        listeners: vec![Listener {
            address: USUAL.to_owned(),
            tls: None,
        }],
        ..Draft::default()
    };
    let settings = Settings::read(&file, &mut draft);
    let entries = list.iter().enumerate();
    let deployments: Vec<Deployment> = entries
        .filter_map(|(n, entry)| Deployment::read(n, entry, &mut draft))
        .collect();
    let lanes = lanes(deployments);
    let mut import = Import {
        draft,
        settings,
        pools: Vec::new(),
    };
    for lane in lanes {
        import.lane(lane);
    }
    import.routes();
    Ok(import.draft)
}

/// Deployments of one name that ask for the same model: they can stand in for each other.
struct Lane {
    name: String,
    deployments: Vec<Deployment>,
}

fn lanes(deployments: Vec<Deployment>) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for deployment in deployments {
        let same = |lane: &&mut Lane| {
            let first = &lane.deployments[0];
            lane.name == deployment.name
                && first.upstream == deployment.upstream
                && first.kind == deployment.kind
        };
        match lanes.iter_mut().find(same) {
            Some(lane) => lane.deployments.push(deployment),
            None => lanes.push(Lane {
                name: deployment.name.clone(),
                deployments: vec![deployment],
            }),
        }
    }
    lanes
}

/// Where a model is to be had: the pool, and its name there; `None` for the name it came with.
#[derive(Clone, PartialEq)]
struct Home {
    model: String,
    pool: String,
    upstream: Option<String>,
}

struct Import {
    draft: Draft,
    settings: Settings,
    /// In the order of the file; a model may have several.
    pools: Vec<Home>,
}

impl Import {
    fn lane(&mut self, lane: Lane) {
        let first = &lane.deployments[0];
        if first.upstream.contains('*') && first.upstream != lane.name {
            self.draft.warn(format!(
                "model `{}` is left out: its names would have to become those of `{}`, and a pattern \
                 is not rewritten",
                lane.name, first.upstream
            ));
            return;
        }
        let mut pool = Pool {
            kind: first.kind,
            comment: first.comment.clone(),
            settings: first.settings.clone(),
            ..Pool::default()
        };
        let keys: Vec<&Option<Yaml>> = lane.deployments.iter().map(|d| &d.key).collect();
        let shared = keys.iter().all(|key| *key == keys[0]);
        for deployment in &lane.deployments {
            let mut server = deployment.server.clone();
            match &deployment.key {
                Some(key) if !shared => server.settings.set("api_key", key.clone()),
                _ => {}
            }
            pool.servers.push(server);
        }
        if let (true, Some(key)) = (shared, keys[0]) {
            pool.settings.set("api_key", key.clone());
        }
        weigh(&mut pool);
        self.limit(&mut pool, &lane);
        self.settings.of_pool(&mut pool);
        let upstream = Some(first.upstream.clone());
        let upstream =
            upstream.filter(|upstream| *upstream != lane.name && !upstream.contains('*'));
        let wanted = match pool.kind {
            Some(kind) if super::boxes::is_service(pool.kind) => kind.to_owned(),
            _ => lane.name.clone(),
        };
        let name = self.pool(pool, &wanted, &lane.name, upstream.as_deref());
        self.pools.push(Home {
            model: lane.name,
            pool: name,
            upstream,
        });
    }

    /// Limits are those of an entry there, and of a pool here.
    fn limit(&mut self, pool: &mut Pool, lane: &Lane) {
        for (n, name) in LIMITS.into_iter().enumerate() {
            let each = || lane.deployments.iter().map(|one| one.limits[n]);
            if let Some(sum) = each().sum::<Option<u64>>() {
                pool.settings.set_in("limits", name, Yaml::plain(sum));
            } else if each().any(|one| one.is_some()) {
                self.draft.warn(format!(
                    "model `{}`: only some of its entries have `{name}`, and a limit is one of a whole \
                     pool, so it is left out",
                    lane.name
                ));
            }
        }
    }

    /// A pool with these servers, perhaps one that is there; its name.
    fn pool(
        &mut self,
        mut pool: Pool,
        wanted: &str,
        model: &str,
        upstream: Option<&str>,
    ) -> String {
        let already = |other: &Pool| {
            self.pools
                .iter()
                .any(|h| h.pool == other.name && h.model == model)
        };
        let position = self.draft.pools.iter().position(|other| {
            // two models that share a limit would have half of it each
            other.kind == pool.kind
                && pool.settings.get("limits").is_none()
                && other.servers == pool.servers
                && without(&other.settings, "models") == without(&pool.settings, "models")
                && !already(other)
        });
        let n = position.unwrap_or_else(|| {
            pool.name = self.draft.free_name(wanted);
            self.draft.pools.push(pool);
            self.draft.pools.len() - 1
        });
        let pool = &mut self.draft.pools[n];
        if let Some(upstream) = upstream {
            pool.settings.set_in("models", model, Yaml::text(upstream));
        }
        pool.name.clone()
    }

    /// One route a model; those that differ in nothing else become one.
    fn routes(&mut self) {
        let mut models: Vec<String> = Vec::new();
        for home in &self.pools {
            if !models.contains(&home.model) {
                models.push(home.model.clone());
            }
        }
        // LiteLLM takes exact names before patterns, and longer patterns before shorter ones
        models.sort_by_key(|model| match model.contains('*') {
            false => (false, 0),
            true => (true, usize::MAX - model.len()),
        });
        let mut routes: Vec<(Vec<String>, Route)> = Vec::new();
        for model in models {
            let route = self.route(&model);
            let mut names = vec![model.clone()];
            names.extend(self.aliases(&model, &route.pool));
            let same = |(_, other): &&mut (Vec<String>, Route)| *other == route;
            let merged = !model.contains('*');
            match routes.iter_mut().find(same).filter(|_| merged) {
                Some((all, _)) => all.extend(names),
                None => routes.push((names, route)),
            }
        }
        self.draft.routes = routes
            .into_iter()
            .map(|(names, mut route)| {
                route.conditions.set("model", Yaml::texts(&names));
                route
            })
            .collect();
    }

    fn route(&mut self, model: &str) -> Route {
        let own: Vec<Home> = self
            .pools
            .iter()
            .filter(|h| h.model == model)
            .cloned()
            .collect();
        let mut route = Route {
            pool: own[0].pool.clone(),
            settings: self.settings.of_route(),
            ..Route::default()
        };
        if own.len() > 1 {
            self.draft.warn(format!(
                "model `{model}`: its entries ask for different models, so they are tried in order and not balanced"
            ));
        }
        let mut tried = vec![own[0].pool.clone()];
        for home in &own[1..] {
            self.fall_back(&mut route, &mut tried, home, None);
        }
        for name in self.settings.fallbacks(model) {
            let homes: Vec<Home> = self
                .pools
                .iter()
                .filter(|h| h.model == name)
                .cloned()
                .collect();
            if homes.is_empty() {
                self.draft.warn(format!(
                    "model `{model}`: its fallback `{name}` could not be carried over"
                ));
            }
            for home in homes {
                let own = home.upstream.clone().unwrap_or_else(|| name.clone());
                self.fall_back(&mut route, &mut tried, &home, Some(own));
            }
        }
        route
    }

    /// A route tries a pool once; for another model of the same one there has to be a second.
    fn fall_back(
        &mut self,
        route: &mut Route,
        tried: &mut Vec<String>,
        home: &Home,
        as_model: Option<String>,
    ) {
        let mut pool = home.pool.clone();
        if tried.contains(&pool) {
            let found = self.draft.pools.iter().find(|other| other.name == pool);
            let mut copy = found.expect("homes name pools").clone();
            let wanted = super::draft::name(&format!("{pool}-{}", home.model));
            let there = self.draft.pools.iter().any(|other| other.name == wanted);
            if !there {
                copy.name.clone_from(&wanted);
                copy.comment =
                    Some("the same once more, for fallbacks to another model".to_owned());
                self.draft.pools.push(copy);
            }
            pool = wanted;
            if tried.contains(&pool) {
                return;
            }
        }
        tried.push(pool.clone());
        route
            .fallback
            .push(match as_model.filter(|name| !name.contains('*')) {
                None => Yaml::text(pool),
                Some(name) => {
                    let mut map = Map::default();
                    map.set("pool", Yaml::text(pool));
                    map.set_in("set", "model", Yaml::text(name));
                    Yaml::Map(map)
                }
            });
    }

    /// Other names of a model; the pool has to know what they mean.
    fn aliases(&mut self, model: &str, pool: &str) -> Vec<String> {
        let aliases = self.settings.aliases(model);
        let home = self
            .pools
            .iter()
            .find(|h| h.model == model && h.pool == pool);
        let own = home.and_then(|home| home.upstream.clone());
        let own = own.unwrap_or_else(|| model.to_owned());
        let mut pools = self.draft.pools.iter_mut();
        if let Some(pool) = pools.find(|other| other.name == pool) {
            for alias in &aliases {
                pool.settings.set_in("models", alias, Yaml::text(&own));
            }
        }
        aliases
    }
}

fn without(map: &Map, key: &str) -> Map {
    map.0
        .iter()
        .filter(|(own, _)| own != key)
        .cloned()
        .collect()
}

/// Weights are 1 to 1000 here, and any number there; one server has none.
fn weigh(pool: &mut Pool) {
    if let [server] = pool.servers.as_mut_slice() {
        server.settings.0.retain(|(key, _)| key != "weight");
    }
    let weight = |server: &super::draft::Server| match server.settings.get("weight") {
        Some(Yaml::Plain(number)) => number.parse::<f64>().ok(),
        _ => None,
    };
    let largest = pool.servers.iter().filter_map(weight).fold(0.0, f64::max);
    if largest == 0.0 {
        return;
    }
    let whole = pool
        .servers
        .iter()
        .filter_map(weight)
        .all(|w| w.fract() == 0.0);
    let scale = if whole && largest <= 1000.0 {
        1.0
    } else {
        100.0 / largest
    };
    for server in &mut pool.servers {
        let own = weight(server).unwrap_or(1.0) * scale;
        let own = own.round().clamp(1.0, 1000.0);
        server.settings.set("weight", Yaml::plain(own));
    }
}
