//! The gateway: all that a request needs, built whole from a configuration and replaced whole.
//!
//! A request holds on to the gateway it began with, so a new configuration never changes one
//! midway. Pools that stay as they were are handed on with their health and counters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::affinity::Affinity;
use crate::cache::Cache;
use crate::cache::key::RouteKey;
use crate::catalogue::{self, Catalogue, Wants};
use crate::config::kind::Dialect;
use crate::config::{self, Config, PoolId, Zone};
use crate::inspect::Body;
use crate::inspect::endpoint::Operation;
use crate::keyring::Keyring;
use crate::limit::{Limits, Unit};
use crate::observe::metrics::{Metrics, PoolMetrics, RouteMetrics};
use crate::observe::status::{FirstByte, PoolStatus, RouteStatus, ServerStatus};
use crate::plan::Budget;
use crate::pool::{Pool, Watch};
use crate::reply::{self, Reply};
use crate::route::{Head, Known, Lookup, RouteTable};
use crate::session::Sessions;
use crate::state::State;
use crate::transform::fields::{self, Rewritten};
use crate::transform::path;

/// The running form of a [`Config`].
pub(crate) struct Gateway {
    pub(crate) config: Config,
    table: RouteTable,
    /// In bytes, of all routes.
    largest_body: u64,
    pub(crate) keyring: Keyring,
    pub(crate) limits: Limits,
    pub(crate) pools: Vec<Arc<Pool>>,
    budgets: Vec<Option<Budget>>,
    /// In the order of the routes.
    pub(crate) route_metrics: Vec<RouteMetrics>,
    pub(crate) unrouted: RouteMetrics,
    /// In the order of the pools.
    pub(crate) pool_metrics: Vec<PoolMetrics>,
    /// What may be asked for by name.
    catalogue: ArcSwap<Catalogue>,
    /// What is asked of servers, in the order of the pools.
    pub(crate) wants: Vec<Wants>,
    /// `None` if no route keeps answers.
    pub(crate) cache: Option<Arc<Cache>>,
    /// In the order of the routes.
    cache_keys: Vec<Option<RouteKey>>,
    /// What it shares with other edges.
    pub(crate) state: Option<Arc<State>>,
    /// `None` if no route has a memory.
    pub(crate) sessions: Option<Arc<Sessions>>,
    /// Whose ids are whose.
    affinity: ArcSwap<Affinity>,
}

impl Gateway {
    /// Builds a gateway. Pools of `old` whose settings stayed the same are taken over; the others
    /// are made, with `watch` to find and probe their servers.
    pub(crate) fn build(
        config: Config,
        old: Option<&Gateway>,
        metrics: &Metrics,
        now: Instant,
        watch: &dyn Fn(&config::Pool, usize) -> Watch,
    ) -> Self {
        let pools: Vec<Arc<Pool>> = config
            .pools
            .iter()
            .map(|settings| {
                let kept =
                    old.and_then(|old| old.pools.iter().find(|pool| pool.config == *settings));
                let before = || {
                    let old = old?.pools.iter();
                    old.clone().find(|pool| pool.config.name == settings.name)
                };
                kept.cloned().unwrap_or_else(|| {
                    let watch = |n| watch(settings, n);
                    let before = before().map(|pool| &**pool);
                    Arc::new(Pool::new(settings.clone(), now, watch, before))
                })
            })
            .collect();
        Gateway {
            table: RouteTable::new(&config.routes),
            largest_body: {
                let all = config.routes.iter().map(|route| route.max_body);
                all.max().unwrap_or(u64::MAX)
            },
            keyring: Keyring::new(
                &config.keys,
                config.jwt.as_ref(),
                old.map(|old| &old.keyring),
            ),
            limits: Limits::new(&config, old.map(|old| (&old.config, &old.limits))),
            budgets: config
                .routes
                .iter()
                .map(|route| route.retry.budget.map(|share| Budget::new(share, now)))
                .collect(),
            route_metrics: config
                .routes
                .iter()
                .map(|route| metrics.route(&config, route))
                .collect(),
            unrouted: metrics.unrouted(),
            pool_metrics: pools.iter().map(|pool| metrics.pool(pool)).collect(),
            catalogue: ArcSwap::from_pointee(Catalogue::new(&config, &pools, now)),
            wants: catalogue::wants(&config),
            cache: keeping(&config, old, metrics),
            state: sharing(&config, old, metrics),
            sessions: remembering(&config, old, metrics),
            cache_keys: config
                .routes
                .iter()
                .map(|route| route.cache.map(|_| RouteKey::new(&config, route)))
                .collect(),
            affinity: {
                let before = old.map(|old| old.affinity.load_full());
                ArcSwap::from_pointee(Affinity::new(&config, before.as_deref()))
            },
            pools,
            config,
        }
    }

    /// Goes on with the ids of a program before, or with those of other edges.
    pub(crate) fn take_over_ids(&self, before: &Affinity) {
        let affinity = Affinity::new(&self.config, Some(before));
        self.affinity.store(Arc::new(affinity));
    }

    /// Whose ids are whose.
    pub(crate) fn affinity(&self) -> arc_swap::Guard<Arc<Affinity>> {
        self.affinity.load()
    }

    pub(crate) fn find(&self, head: &Head<'_>, known: Known<'_>) -> Lookup {
        self.table.find(&self.config.routes, head, known)
    }

    /// The route of a request whose path names an object. Such requests name no model: if the route
    /// that was found does not reach the maker, or none was, one before it may that asks for a model.
    pub(crate) fn led_back(&self, head: &Head<'_>, found: Lookup) -> Lookup {
        let Some(maker) = self.affinity().maker_in(head.path) else {
            return found;
        };
        let reaches = |n: usize| {
            let route = &self.config.routes[n];
            route.affinity && route.targets.iter().any(|t| t.pool == maker.pool)
        };
        if let Lookup::Found(n) = found
            && reaches(n)
        {
            return found;
        }
        let routes = &self.config.routes;
        let other = self.table.find_without_fields(routes, head, &reaches);
        other.map_or(found, Lookup::Found)
    }

    pub(crate) fn budget(&self, route: usize) -> Option<&Budget> {
        self.budgets[route].as_ref()
    }

    /// What answers of a route are kept by, if it keeps them.
    pub(crate) fn cache_key(&self, route: usize) -> Option<&RouteKey> {
        self.cache_keys[route].as_ref()
    }

    pub(crate) fn pool(&self, id: PoolId) -> &Arc<Pool> {
        &self.pools[id.0]
    }

    /// The pools of a route that may be asked; with `home`, only those at home.
    pub(crate) fn reachable(&self, route: usize, home: bool) -> Vec<&Arc<Pool>> {
        self.reached(route, home).collect()
    }

    fn reached(&self, route: usize, home: bool) -> impl Iterator<Item = &Arc<Pool>> {
        let targets = self.config.routes[route].targets.iter();
        targets
            .map(|target| self.pool(target.pool))
            .filter(move |pool| !home || pool.config.zone == Zone::Home)
    }

    /// Their names, for people.
    pub(crate) fn pool_names(&self, route: usize, home: bool) -> String {
        let pools = self.reachable(route, home);
        let names: Vec<_> = pools
            .iter()
            .map(|pool| format!("`{}`", pool.config.name))
            .collect();
        names.join(", ")
    }

    /// The refusal of a body of this length, if nobody takes it whom a route may ask. `audio`: it
    /// is an upload of audio.
    pub(crate) fn too_large(
        &self,
        route: usize,
        home: bool,
        audio: bool,
        length: u64,
    ) -> Option<Reply> {
        let home = home || self.config.routes[route].zone == Some(Zone::Home);
        let mut limits = self
            .reached(route, home)
            .map(|pool| pool.config.largest_body(audio));
        // one without a limit takes it
        let most = limits.try_fold(None, |most: Option<u64>, limit| {
            limit.map(|limit| most.max(Some(limit)))
        });
        let largest = most??;
        let too_large = length > largest;
        too_large.then(|| reply::too_large_for(largest, &self.pool_names(route, home)))
    }

    /// Whether a route may change fields of the body, or must know them, so that it has to be read.
    pub(crate) fn rewrites(&self, route: usize, operation: Option<Operation>) -> bool {
        let route = &self.config.routes[route];
        let speech = operation == Some(Operation::Speech);
        let keeps = route.cache.is_some() && operation.is_some_and(Operation::may_be_kept);
        let remembers = route.memory.is_some() && operation == Some(Operation::Chat);
        if keeps || remembers || (speech && route.hedge.is_some()) {
            return true;
        }
        let copied = route.mirror.iter().flat_map(|mirror| &mirror.route.targets);
        route.targets.iter().chain(copied).any(|target| {
            let pool = self.config.pool(target.pool);
            let by_kind = pool.kind.is_some_and(|kind| {
                let fixes = kind.fixes(operation.is_some_and(Operation::hears), speech);
                fixes.is_some_and(|fixes| {
                    !fixes.is_empty()
                        || !kind.traits().model_map.is_empty()
                        || (speech && kind.has_own_voices())
                })
            });
            by_kind
                || pool.dialect() != Dialect::OpenAi
                || (pool.asks_for_models() && operation.is_some_and(Operation::has_model))
                || target.fields != config::Fields::default()
                || !pool.models.is_empty()
                || !pool.voices.is_empty()
        })
    }

    /// Whether so much of something may be asked for in a minute on a route, or of a pool of it.
    pub(crate) fn limits_on(&self, route: usize, unit: Unit) -> bool {
        let mut targets = self.config.routes[route].targets.iter();
        self.limits.route(route).limits(unit)
            || targets.any(|target| self.limits.pool(target.pool).limits(unit))
    }

    /// The largest body that any route takes, in bytes.
    pub(crate) fn largest_body(&self) -> u64 {
        self.largest_body
    }

    /// What becomes of a body on its way to a target of a route.
    pub(crate) fn rewrite(
        &self,
        target: &config::Target,
        body: &Body,
        operation: Option<Operation>,
        ask_usage: bool,
    ) -> Rewritten {
        let pool = self.config.pool(target.pool);
        fields::rewrite(body, &target.fields, pool, operation, ask_usage)
    }

    /// The model that a target is asked for when the client asks for `public`; `audio`: to hear or
    /// to speak.
    pub(crate) fn own_model(
        &self,
        target: &config::Target,
        public: Option<&str>,
        audio: bool,
    ) -> Option<String> {
        if let Some(set) = target.fields.set.get("model") {
            return set.as_str().map(str::to_owned);
        }
        let public = public?;
        let own = self
            .config
            .pool(target.pool)
            .models
            .translate(public, audio);
        Some(own.unwrap_or(public).to_owned())
    }

    /// Lists anew what may be asked for by name.
    pub(crate) fn recatalogue(&self, now: Instant) {
        let catalogue = Catalogue::new(&self.config, &self.pools, now);
        let counts = catalogue.counts();
        for (metrics, pool) in self.pool_metrics.iter().zip(&self.pools) {
            let count = counts.get(pool.config.name.as_str());
            metrics.listed(count.copied().unwrap_or_default());
        }
        self.catalogue.store(Arc::new(catalogue));
    }

    /// An answer of our own for a path, if it has one: the welcome page, `/health`, the models and
    /// the voices. `may` says of which models this client is told.
    pub(crate) fn own_endpoint(
        &self,
        head: &Head<'_>,
        query: Option<&str>,
        html: bool,
        may: &dyn Fn(&str) -> bool,
    ) -> Option<Reply> {
        if !matches!(head.method.as_str(), "GET" | "HEAD") || self.table.names(head.path) {
            return None;
        }
        let catalogue = self.catalogue.load();
        let is_routed = || matches!(self.find(head, Known::Length(Some(0))), Lookup::Found(_));
        if let Some(id) = head.path.strip_prefix("/v1/models/") {
            if self.table.names_below("/v1/models") {
                return None;
            }
            let id = path::unescaped(id);
            return match catalogue.model(&id, may) {
                Some(model) => Some(reply::listed("models", &model)),
                // a pool that does not tell what it has may have it
                None => (!is_routed()).then(|| reply::model_not_found(Some(&id))),
            };
        }
        match head.path {
            "/health" => Some(reply::healthy()),
            "/v1/models" => Some(reply::listed("models", &catalogue.models(may))),
            "/v1/audio/voices" => {
                let legacy = path::parameter(query, "legacy");
                let legacy = legacy.is_some_and(|legacy| matches!(legacy.as_str(), "true" | "1"));
                let voices = catalogue.voices(legacy)?;
                Some(reply::listed("voices", &voices))
            }
            path if !path.starts_with("/v1/") => {
                (!is_routed()).then(|| reply::welcome(html, &self.endpoints()))
            }
            _ => None,
        }
    }

    fn endpoints(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let written = self.config.routes.iter();
        for route in written.filter(|route| !route.conditions.unknown_model) {
            let paths = route.conditions.paths.iter().map(ToString::to_string);
            let models: Vec<String> = route
                .conditions
                .models
                .iter()
                .map(ToString::to_string)
                .collect();
            let suffix = match models.as_slice() {
                [] => String::new(),
                models => format!("  (model {})", models.join(", ")),
            };
            if route.conditions.paths.is_empty() {
                all.push(format!("any path{suffix}"));
            }
            all.extend(paths.map(|path| format!("{path}{suffix}")));
        }
        all.push("/v1/models".into());
        all.push("/health".into());
        let mut seen = std::collections::HashSet::new();
        all.retain(|line| seen.insert(line.clone()));
        all
    }

    /// Whether some server of some pool could be asked now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.pools.iter().any(|pool| pool.is_available(now))
    }

    /// Takes the gauges of pools and servers back that `next` does not have.
    pub(crate) fn retire(&self, next: &Gateway, metrics: &Metrics) {
        let names = next
            .config
            .pools
            .iter()
            .map(|pool| (pool.name.as_str(), pool));
        let pools: HashMap<&str, &config::Pool> = names.collect();
        if next.keyring.identities().is_none() {
            metrics.forget_jwks();
        }
        for pool in &self.config.pools {
            let same = pools.get(pool.name.as_str());
            if same.is_none() {
                metrics.forget_pool(&pool.name);
            }
            let servers = same.into_iter().flat_map(|same| &same.servers);
            let kept: HashSet<&str> = servers.map(|server| server.name.as_str()).collect();
            let gone = pool.servers.iter().map(|server| server.name.as_str());
            for server in gone.filter(|server| !kept.contains(server)) {
                metrics.forget_server(&pool.name, server);
            }
        }
    }

    /// The servers, with their full names.
    fn servers(&self) -> impl Iterator<Item = (String, &Arc<Pool>, usize)> {
        self.pools.iter().flat_map(|pool| {
            let servers = pool.config.servers.iter().enumerate();
            servers.map(move |(n, server)| {
                let name = format!("{}/{}", pool.config.name, server.name);
                (name, pool, n)
            })
        })
    }

    /// The server with this full name, `POOL/SERVER`.
    ///
    /// # Errors
    /// If there is none; the message lists those there are.
    pub(crate) fn server_named(&self, name: &str) -> Result<(&Arc<Pool>, usize), String> {
        let found = self.servers().find(|(full, ..)| full == name);
        found.map(|(_, pool, n)| (pool, n)).ok_or_else(|| {
            let known: Vec<String> = self.servers().map(|(full, ..)| full).collect();
            let name = crate::unit::printable(name);
            format!(
                "there is no server `{name}`; there are {}",
                known.join(", ")
            )
        })
    }

    /// The servers that are drained by hand, and for how much longer; `None`: until they are
    /// undrained.
    pub(crate) fn drained(&self, now: Instant) -> Vec<(String, Option<Duration>)> {
        self.servers()
            .filter_map(|(name, pool, n)| Some((name, pool.drained_for(n, now)?)))
            .collect()
    }

    /// Brings the gauges of all pools up to date.
    pub(crate) fn refresh_gauges(&self, now: Instant) {
        for (metrics, pool) in self.pool_metrics.iter().zip(&self.pools) {
            metrics.refresh(pool, now);
        }
        if let Some(sessions) = &self.sessions {
            sessions.sweep(now);
        }
        for (metrics, budget) in self.route_metrics.iter().zip(&self.budgets) {
            if let Some(budget) = budget {
                metrics.budget_has_left(budget.left(now));
            }
        }
    }

    pub(crate) fn route_status(&self, metrics: &Metrics) -> Vec<RouteStatus> {
        let pools = |route: &config::Route| {
            route
                .targets
                .iter()
                .map(|target| self.config.pool(target.pool).name.clone())
                .collect()
        };
        let routes = self.config.routes.iter();
        routes
            .zip(&self.route_metrics)
            .map(|(route, own)| RouteStatus {
                name: route.name.clone(),
                pools: pools(route),
                counts: own.counts(metrics),
            })
            .collect()
    }

    pub(crate) fn pool_status(&self, now: Instant) -> Vec<PoolStatus> {
        self.pools
            .iter()
            .zip(&self.pool_metrics)
            .map(|(pool, metrics)| PoolStatus {
                name: pool.config.name.clone(),
                kind: pool.config.kind,
                balance: pool.config.balance.clone(),
                auth: pool.config.auth,
                tls_verified: pool.config.tls.verify,
                available: pool.is_available(now),
                zone: pool.config.zone,
                cost: pool.config.cost,
                waiting: pool.waiting().iter().sum(),
                first_byte_ms: FirstByte::of(&pool.first_bytes()),
                servers: server_status(pool, metrics, now),
            })
            .collect()
    }
}

/// Where answers are kept: as before, with all that is there, if the settings are.
fn keeping(config: &Config, old: Option<&Gateway>, metrics: &Metrics) -> Option<Arc<Cache>> {
    if config.routes.iter().all(|route| route.cache.is_none()) {
        return None;
    }
    let kept = old.and_then(|old| old.cache.as_ref());
    let kept = kept.filter(|cache| cache.settings == config.cache);
    let new = || Cache::new(config.cache.clone(), &|tier| metrics.cache_tier(tier));
    Some(kept.cloned().unwrap_or_else(new))
}

/// What is shared, over the connection there was if the settings are the same.
fn sharing(config: &Config, old: Option<&Gateway>, metrics: &Metrics) -> Option<Arc<State>> {
    let settings = config.state.as_ref()?;
    let kept = old.and_then(|old| old.state.as_ref());
    let kept = kept.filter(|state| state.settings == *settings);
    let new = || State::new(settings.clone(), metrics.state());
    Some(kept.cloned().unwrap_or_else(new))
}

/// Where conversations are kept: as before, with all that is there.
fn remembering(config: &Config, old: Option<&Gateway>, metrics: &Metrics) -> Option<Arc<Sessions>> {
    if config.routes.iter().all(|route| route.memory.is_none()) {
        return None;
    }
    let limit = config.sessions.memory;
    let kept = old.and_then(|old| old.sessions.clone());
    Some(match kept {
        Some(sessions) => {
            sessions.limit(limit);
            sessions
        }
        None => Arc::new(Sessions::new(limit, metrics.sessions())),
    })
}

fn server_status(pool: &Pool, metrics: &PoolMetrics, now: Instant) -> Vec<ServerStatus> {
    let servers = pool.config.servers.iter().zip(pool.states(now));
    servers
        .zip(&metrics.servers)
        .enumerate()
        .map(|(n, ((server, state), metrics))| ServerStatus {
            name: server.name.clone(),
            url: server.url.to_string(),
            weight: server.weight,
            backup: server.backup,
            state: state.word(),
            addresses: state.addresses,
            healthy_addresses: state.healthy,
            in_flight: state.in_flight,
            slots: server.slots,
            first_byte_ms: FirstByte::of(&pool.first_bytes_of(n)),
            counts: metrics.counts(),
        })
        .collect()
}
