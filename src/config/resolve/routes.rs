//! Routes: conditions, pools in order, what is retried.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use http::Method;

use super::super::file::{self, OrFalse, RetryOn};
use super::super::pattern::Pattern;
use super::super::problem::Severity;
use super::super::tree;
use super::super::tree::at;
use super::super::{
    Cache, Cost, Disk, Fields, Hedge, Match, Naming, Pool, Retry, Route, RouteCache, Shadowing,
    Target, Zone,
};
use super::Resolver;
use super::targets::Targets;
use crate::unit::{Size, Span};

/// Retried if the file does not say: what tells nothing about the request itself.
const RETRY_ON: &[RetryOn] = &[
    RetryOn::Connect,
    RetryOn::Reset,
    RetryOn::Timeout,
    RetryOn::Status(429),
    RetryOn::Status(502),
    RetryOn::Status(503),
    RetryOn::Status(504),
];

impl Resolver<'_> {
    pub(super) fn routes(
        &mut self,
        routes: &[file::Route],
        pools: &[Pool],
        default_max_body: u64,
    ) -> Vec<Route> {
        if routes.is_empty() && !self.damaged {
            self.error(
                at!["routes"],
                "no route is defined; add at least one under `routes:`",
            );
        }
        let mut names: HashMap<String, usize> = HashMap::new();
        let (mut shadowing, mut numbers) = (Shadowing::default(), HashMap::new());
        let mut out: Vec<Route> = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let here = at!["routes", n];
            let conditions = self.conditions(&here.then("match"), &route.conditions);
            let name = match &route.name {
                Some(name) => {
                    self.name(here.then("name"), "route", name);
                    if let Some(first) = names.get(name) {
                        let message =
                            format!("two routes are called `{name}`: the first is routes[{first}]");
                        self.error(here.then("name"), message);
                    }
                    name.clone()
                }
                None => free_name(base_name(&conditions), &names, &mut numbers),
            };
            names.insert(name.clone(), n);
            if let Some(earlier) = shadowing.first(&out, n, &conditions, Naming::default()) {
                let message = format!(
                    "route `{name}` never matches: `{}` before it takes all its requests",
                    out[earlier].name
                );
                self.warn(here.then("match"), message);
            }
            shadowing.add(n, &conditions);
            let Targets { targets, split } = self.targets(&here, route, pools);
            self.zone(&here, &name, route, &targets, pools);
            self.wordless(&here, &name, &conditions, &targets, pools);
            let hedge = self.hedge(&here, route, &targets, pools);
            let cache = self.route_cache(&here, route);
            let mirror = self.mirror(&here, route, &targets, pools);
            let memory = self.memory(&here, route, &conditions);
            out.push(Route {
                name,
                conditions,
                targets,
                split,
                mirror,
                retry: self.retry(&here.then("retry"), &route.retry),
                max_body: route.max_body.map_or(default_max_body, |size| size.0),
                priority: route.priority,
                limits: super::keys::quota(&route.limits),
                zone: route.zone,
                hedge,
                cache,
                memory,
                affinity: route.affinity.unwrap_or(true),
            });
        }
        out
    }

    /// The route behind all others, for requests that only their model kept from those.
    pub(super) fn unknown_model(
        &mut self,
        pool: &str,
        routes: &[Route],
        pools: &[Pool],
        max_body: u64,
    ) -> Option<Route> {
        let here = at!["unknown_model"];
        let pool = self.pool_id(here.clone(), pool, pools)?;
        let any = Naming {
            model: Some(""),
            voice: None,
        };
        let takes_all = |other: &Match, of: &Match| other.shadows(of, any);
        let without: Vec<&Match> = (routes.iter().map(|route| &route.conditions))
            .filter(|conditions| conditions.models.is_empty())
            .collect();
        let misses = |route: &Route| {
            let conditions = &route.conditions;
            !conditions.models.is_empty() && !without.iter().any(|o| takes_all(o, conditions))
        };
        if !self.damaged && !routes.iter().any(misses) {
            let message = "no request ever gets there: where a route asks for a model, another takes the rest";
            self.warn(here.clone(), message);
        }
        let names = routes.iter().map(|route| (route.name.clone(), 0)).collect();
        let conditions = Match {
            unknown_model: true,
            ..Match::default()
        };
        let target = Target {
            pool,
            fields: Fields::default(),
            withhold: false,
        };
        let name = free_name("unknown_model".to_owned(), &names, &mut HashMap::new());
        Some(Route {
            conditions,
            retry: self.retry(&here, &file::Retry::default()),
            max_body,
            ..Route::bare(name, vec![target])
        })
    }

    fn conditions(&mut self, here: &tree::Path, conditions: &file::Match) -> Match {
        // an empty text is no condition
        let patterns = |list: &file::List<String>| -> Vec<Pattern> {
            let texts = list.0.iter().filter(|text| !text.is_empty());
            texts.map(|text| Pattern::new(text)).collect()
        };
        let mut paths = Vec::new();
        for (n, path) in conditions.path.0.iter().enumerate() {
            if !path.starts_with('/') && !path.starts_with('*') {
                self.error(
                    here.then("path").then(n),
                    format!("`{path}` is not a path; it starts with `/`"),
                );
            }
            paths.push(Pattern::new(path));
        }
        let mut methods = Vec::new();
        for (n, method) in conditions.method.0.iter().enumerate() {
            let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
            let upper = method.to_ascii_uppercase();
            match known.contains(&upper.as_str()) {
                true => methods.extend(Method::from_bytes(upper.as_bytes())),
                false => self.error(
                    here.then("method").then(n),
                    format!("`{method}` is not an HTTP method"),
                ),
            }
        }
        let mut headers = Vec::new();
        for (name, values) in &conditions.headers {
            let parsed = name
                .parse()
                .map_err(|_| format!("`{name}` is not a header name"));
            if let Some(name) = self.check(here.then("headers").then(name), parsed) {
                headers.push((name, patterns(values)));
            }
        }
        Match {
            paths,
            methods,
            hosts: patterns(&file::List(
                conditions
                    .host
                    .0
                    .iter()
                    .map(|host| host.to_ascii_lowercase())
                    .collect(),
            )),
            models: patterns(&conditions.model),
            voices: patterns(&conditions.voice),
            headers,
            body_larger_than: conditions.body_larger_than.map(|size| size.0),
            unknown_model: false,
        }
    }

    fn retry(&mut self, here: &tree::Path, retry: &file::Retry) -> Retry {
        if retry.attempts == Some(0) {
            self.error(
                here.then("attempts"),
                "`attempts` counts the first try too, so it is at least 1",
            );
        }
        Retry {
            on: retry
                .on
                .as_ref()
                .map_or_else(|| RETRY_ON.to_vec(), |on| on.0.clone()),
            attempts: retry.attempts.unwrap_or(3).max(1),
            per_try_timeout: retry.per_try_timeout.and_then(Span::limit),
            budget: retry.budget.map(|share| share.0),
            backoff: retry
                .backoff
                .map_or(Duration::from_millis(25), |span| span.0),
        }
    }

    /// A route that stays at home must not lead nowhere, nor seem to have a fallback that it has
    /// not.
    fn zone(
        &mut self,
        here: &tree::Path,
        name: &str,
        route: &file::Route,
        targets: &[Target],
        pools: &[Pool],
    ) {
        if route.zone != Some(Zone::Home) {
            return;
        }
        let away = |target: &Target| pools[target.pool.0].zone != Zone::Home;
        if !targets.is_empty() && targets.iter().all(away) {
            let message = format!(
                "route `{name}` stays at home, but every pool of it is in the cloud: it could never answer"
            );
            self.error(here.then("zone"), message);
            return;
        }
        for target in targets.iter().filter(|target| away(target)) {
            let message = format!(
                "route `{name}` stays at home, so it never asks pool `{}`, which is in the cloud",
                pools[target.pool.0].name
            );
            self.warn(here.then("zone"), message);
        }
    }

    /// Servers with a dialect of their own have few endpoints; a route of others never asks them.
    fn wordless(
        &mut self,
        here: &tree::Path,
        name: &str,
        conditions: &Match,
        targets: &[Target],
        pools: &[Pool],
    ) {
        let wordless = |target: &Target| {
            let served = pools[target.pool.0].served();
            let asked = |path: &str| conditions.paths.iter().any(|p| p.matches(path));
            let none = |served: &[&str]| !served.iter().any(|path| asked(path));
            !conditions.paths.is_empty() && served.is_some_and(|served| none(&served))
        };
        if !targets.is_empty() && targets.iter().all(wordless) {
            let message = format!("no server of route `{name}` has any of these endpoints");
            let served = pools[targets[0].pool.0].served().unwrap_or_default();
            let help = format!("they have {}", served.join(", "));
            let place = here.then("match").then("path");
            self.report(Severity::Error, place, message, Some(help));
            return;
        }
        for target in targets.iter().filter(|target| wordless(target)) {
            let message = format!(
                "route `{name}` never asks pool `{}`, whose servers have none of these endpoints",
                pools[target.pool.0].name
            );
            self.warn(here.then("match").then("path"), message);
        }
    }

    fn hedge(
        &mut self,
        here: &tree::Path,
        route: &file::Route,
        targets: &[Target],
        pools: &[Pool],
    ) -> Option<Hedge> {
        let Some(OrFalse::On(hedge)) = &route.hedge else {
            return None;
        };
        let here = here.then("hedge");
        let free = |target: &Target| {
            let pool = &pools[target.pool.0];
            let stays = route.zone != Some(Zone::Home) || pool.zone == Zone::Home;
            stays && (hedge.paid || pool.cost == Cost::Free)
        };
        let others: usize = targets
            .iter()
            .filter(|target| free(target))
            .map(|target| pools[target.pool.0].servers.len())
            .sum();
        let first_is_free = targets.first().is_some_and(free);
        if others < if first_is_free { 2 } else { 1 } && !targets.is_empty() && !self.damaged {
            let message =
                "no second server can ever be asked: the route has no other one that costs nothing";
            let help =
                "add a server or a fallback, or allow those that cost money with `paid: true`"
                    .to_owned();
            self.report(
                Severity::Warning,
                here.clone(),
                message.to_owned(),
                Some(help),
            );
        }
        if route.retry.budget.is_none() {
            self.warn(
                here,
                "without `retry.budget` nothing bounds how many requests are sent twice; 10% is a good share",
            );
        }
        Some(Hedge {
            after: hedge.after.unwrap_or_default(),
            paid: hedge.paid,
            max_characters: u64::from(hedge.max_characters.unwrap_or(1000)),
            max_body: hedge.max_body.unwrap_or(Size::mib(1)).0,
        })
    }

    fn route_cache(&mut self, here: &tree::Path, route: &file::Route) -> Option<RouteCache> {
        let cache = route.cache.as_ref()?.0.as_ref()?;
        let ttl = cache.ttl.unwrap_or(Span::secs(24 * 3600)).0;
        if ttl.is_zero() {
            let message = "nothing is kept for no time; leave `cache` out for no cache";
            self.error(here.then("cache").then("ttl"), message);
        }
        Some(RouteCache {
            ttl,
            max_object: cache.max_object.unwrap_or(Size::mib(4)).0,
            shared: cache.shared,
            chat: cache.chat,
        })
    }

    /// What is kept has to fit somewhere.
    pub(super) fn cache(&mut self, file: &file::File, routes: &[Route]) -> Cache {
        let disk = file.cache.disk.as_ref();
        let cache = Cache {
            memory: file.cache.memory.unwrap_or(Size::mib(256)).0,
            disk: disk.map(|disk| Disk {
                path: self.folder.join(&disk.path),
                size: disk.size.unwrap_or(Size::mib(1024)).0,
            }),
        };
        if disk.is_some_and(|disk| disk.path.is_empty()) {
            self.error(at!["cache", "disk", "path"], "`path` names no folder");
        }
        for (n, route) in routes.iter().enumerate() {
            if let Some(own) = &route.cache
                && own.max_object > cache.memory
            {
                let message = format!(
                    "`max_object` of route `{}` is more than all of `cache.memory`",
                    route.name
                );
                self.warn(at!["routes", n, "cache"], message);
            }
        }
        cache
    }

    pub(super) fn unused(&mut self, pools: &[Pool], file: &file::File) {
        let routes = &file.routes;
        // which pool was meant there nobody knows
        let leads = |route: &file::Route| route.pool.is_some() || !route.split.is_empty();
        if self.damaged || !routes.iter().all(leads) {
            return;
        }
        let named = |route: &file::Route| -> Vec<String> {
            let names = route.pool.iter();
            let names = names.chain(route.split.iter().map(|share| &share.pool));
            let names = names.chain(route.fallback.iter().map(|fallback| &fallback.pool));
            let names = names.chain(route.mirror.iter().map(|mirror| &mirror.pool));
            names.cloned().collect()
        };
        let used: HashSet<String> = routes.iter().flat_map(named).collect();
        for pool in pools {
            let rest = file.unknown_model.as_ref() == Some(&pool.name);
            if !routes.is_empty() && !rest && !used.contains(&pool.name) {
                self.warn(
                    at!["pools", &pool.name],
                    format!("pool `{}` is used by no route", pool.name),
                );
            }
        }
    }
}

/// Longest word of a path or model that names a route, in bytes: with a number behind it, it is still
/// a name that the file may have.
const LONGEST_WORD: usize = 48;

/// A name for a route that was given none: the last word of its path, else its model.
fn base_name(conditions: &Match) -> String {
    let word = |pattern: &Pattern| {
        let text = pattern.to_string();
        let word = text
            .rsplit('/')
            .find(|part| part.bytes().any(|b| b.is_ascii_alphanumeric()) && *part != "v1")?;
        let plain: String = word
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let word = plain.trim_matches('-');
        let word = &word[..word.len().min(LONGEST_WORD)];
        Some(word.to_owned()).filter(|word| !word.is_empty())
    };
    conditions
        .paths
        .iter()
        .find_map(word)
        .or_else(|| conditions.models.iter().find_map(word))
        .unwrap_or_else(|| "default".to_owned())
}

/// `numbers`: up to which numbers the names with a base are taken, as far as it was looked.
fn free_name(
    base: String,
    taken: &HashMap<String, usize>,
    numbers: &mut HashMap<String, usize>,
) -> String {
    if !taken.contains_key(&base) {
        return base;
    }
    let number = numbers.entry(base.clone()).or_insert(1);
    loop {
        *number += 1;
        let name = format!("{base}-{number}");
        if !taken.contains_key(&name) {
            return name;
        }
    }
}
