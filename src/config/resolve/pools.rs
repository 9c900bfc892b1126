//! Pools, their servers and the defaults of their kinds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::super::file::{self, OrFalse};
use super::super::kind::Warming;
use super::super::pattern::Pattern;
use super::super::problem::Severity;
use super::super::tree::{self, at};
use super::super::{
    Auth, ByKind, Cost, Eject, HeaderRules, Health, Keepalive, Listener, Names, Pool, Queue,
    Server, ServerUrl, Timeouts, Zone, tls,
};
use super::Resolver;
use crate::unit::{Secret, Span};

/// Headers that the relay itself writes; a rule for them would be lost or do harm.
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How often servers may be asked what they have.
const LISTING: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

/// What is sent to a server in place of the client's credentials.
#[derive(Clone)]
struct Credentials {
    auth: Auth,
    key: Option<Secret>,
}

impl Resolver<'_> {
    pub(super) fn pool(
        &mut self,
        name: &str,
        pool: &file::Pool,
        listeners: &[Listener],
        listing: Option<Duration>,
    ) -> Pool {
        let here = at!["pools", name];
        self.name(here.clone(), "pool", name);
        let traits = pool.kind.map(|kind| kind.traits());
        let cloud = traits.is_some_and(|t| t.cloud);
        let pool_auth = self.pool_credentials(&here, pool, cloud);
        let slots = pool.slots.or(traits.and_then(|t| t.slots));
        let servers = self.servers(name, pool, slots, listeners, &pool_auth);
        let queue = self.queue(&here, pool, &servers);
        let is_public = servers.iter().any(|server| server.url.is_public());
        let tls = tls::resolve(
            &pool.tls,
            &here.then("tls"),
            self.tree,
            self.folder,
            self.problems,
        );
        let named = tls.files.iter().flatten();
        self.files.extend(named.map(|file| self.folder.join(file)));
        if !tls.verify {
            self.warn(
                here.then("tls").then("verify"),
                format!("pool `{name}`: certificates are not checked, so anybody on the way can read keys and audio"),
            );
        }
        let limit = |span: Option<Span>, default: Span| span.unwrap_or(default).limit();
        let first_byte = traits.map_or(Span::secs(300), |t| t.first_byte);
        Pool {
            name: name.to_owned(),
            kind: pool.kind,
            servers,
            balance: pool.balance.clone().unwrap_or_default(),
            health: self.health(&here, pool),
            eject: self.eject(&here, pool),
            timeouts: Timeouts {
                connect: limit(pool.timeouts.connect, Span::secs(if cloud { 5 } else { 1 })),
                first_byte: limit(pool.timeouts.first_byte, first_byte),
                idle: limit(pool.timeouts.idle, Span::secs(60)),
                total: limit(pool.timeouts.total, Span::secs(0)),
                tunnel: limit(pool.timeouts.tunnel, Span::secs(600)),
            },
            keepalive: match &pool.keepalive {
                Some(OrFalse::Off) => None,
                None if traits.is_some_and(|t| !t.keepalive) => None,
                None => Some(Keepalive {
                    idle: Duration::from_secs(4),
                    requests: 90,
                }),
                Some(OrFalse::On(keepalive)) => Some(Keepalive {
                    idle: keepalive.idle.unwrap_or(Span::secs(4)).0,
                    requests: keepalive.requests.unwrap_or(90).max(1),
                }),
            },
            listing: self.listing(&here, pool.list_models.as_ref(), listing),
            tls,
            auth: pool_auth.auth,
            key_written: pool.api_key.is_some() || pool.api_key_file.is_some(),
            auth_written: pool.auth.is_some() || pool.servers.0.iter().any(|s| s.auth.is_some()),
            headers: self.header_rules(&here, &pool.headers),
            models: Names {
                by_kind: ByKind::Models {
                    known: patterns(traits.map_or(&[], |t| t.models)),
                    map: mapped(traits.map_or(&[], |t| t.model_map)),
                },
                ..names(&pool.models, &[])
            },
            voices: Names {
                by_kind: pool.kind.map_or(ByKind::Nothing, ByKind::Voices),
                ..names(&pool.voices, traits.map_or(&[], |t| t.voices))
            },
            queue,
            warming: pool
                .warming
                .unwrap_or(traits.map_or(Warming::Skip, |t| t.warming())),
            min_first_bytes: u64::from(pool.min_first_bytes.unwrap_or(1).max(1)),
            // whatever software it runs: an address on the internet is not at home
            zone: pool.zone.unwrap_or(match cloud || is_public {
                true => Zone::Cloud,
                false => Zone::Home,
            }),
            cost: pool
                .cost
                .unwrap_or(if cloud { Cost::Paid } else { Cost::Free }),
            max_body: pool.max_body.map(|size| size.0),
            limits: super::keys::quota(&pool.limits),
            http2: pool.http2,
        }
    }

    /// How often servers are asked what they have; `usual` if nothing is written here.
    pub(super) fn listing(
        &mut self,
        here: &tree::Path,
        written: Option<&OrFalse<file::ListModels>>,
        usual: Option<Duration>,
    ) -> Option<Duration> {
        let interval = match written {
            None => return usual,
            Some(OrFalse::Off) => return None,
            Some(OrFalse::On(listing)) => listing.interval.unwrap_or(Span::secs(60)).0,
        };
        if !LISTING.contains(&interval) {
            let place = here.then("list_models").then("interval");
            let message = "an interval is 10ms to 24h; `list_models: false` switches it off";
            self.error(place, message);
        }
        Some(interval)
    }

    /// The queue of a pool whose servers may have slots.
    fn queue(&mut self, here: &tree::Path, pool: &file::Pool, servers: &[Server]) -> Queue {
        let written = pool.queue.size.is_some() || pool.queue.timeout.is_some();
        if written && !servers.is_empty() && servers.iter().all(|s| s.slots.is_none()) {
            let message = "nobody ever waits in this queue, as no server of the pool has `slots`";
            let help =
                "give the pool, or its servers, `slots`: how many requests one works on at once"
                    .to_owned();
            self.report(
                Severity::Warning,
                here.then("queue"),
                message.to_owned(),
                Some(help),
            );
        }
        Queue {
            size: pool.queue.size.unwrap_or(64) as usize,
            timeout: pool.queue.timeout.unwrap_or(Span::secs(30)).limit(),
        }
    }

    fn servers(
        &mut self,
        pool: &str,
        written: &file::Pool,
        slots: Option<u32>,
        listeners: &[Listener],
        pool_auth: &Credentials,
    ) -> Vec<Server> {
        let servers = &written.servers.0;
        if written.slots == Some(0) {
            self.error(at!["pools", pool, "slots"], NO_SLOTS);
        }
        let at_server = |n: usize| at!["pools", pool, "servers", n];
        if servers.is_empty() && !self.damaged {
            self.error(at!["pools", pool], format!("pool `{pool}` has no servers"));
        }
        let mut hosts: HashMap<String, usize> = HashMap::new();
        let mut resolved = Vec::new();
        for (n, server) in servers.iter().enumerate() {
            let Some(url) = self.check(at_server(n), ServerUrl::parse(&server.url)) else {
                continue;
            };
            if listeners
                .iter()
                .any(|listener| is_ourselves(&url, listener.address))
            {
                let message =
                    format!("`{url}` is this proxy itself: a request would go round in circles");
                self.error(at_server(n), message);
            }
            if !(1..=1000).contains(&server.weight.unwrap_or(1)) {
                self.error(
                    at_server(n).then("weight"),
                    "a weight is a whole number from 1 to 1000",
                );
            }
            if server.slots == Some(0) {
                self.error(at_server(n).then("slots"), NO_SLOTS);
            }
            *hosts.entry(url.host.clone()).or_default() += 1;
            resolved.push((n, server, url));
        }
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut urls: HashSet<ServerUrl> = HashSet::new();
        let mut out = Vec::new();
        for (n, server, url) in resolved {
            let name = match &server.name {
                Some(name) => name.clone(),
                None if hosts[&url.host] > 1 => format!("{}:{}", url.host, url.port),
                None => url.host.clone(),
            };
            self.name(at_server(n), "server", &name);
            if !urls.insert(url.clone()) {
                self.warn(
                    at_server(n),
                    format!(
                        "`{url}` is in pool `{pool}` twice; use `weight` to give it a larger share"
                    ),
                );
            }
            if seen.insert(name.clone(), n).is_some() {
                let message = format!("two servers of pool `{pool}` are called `{name}`");
                let help = "give each a `name` of its own".to_owned();
                self.report(Severity::Error, at_server(n), message, Some(help));
            }
            let own = self.server_credentials(&at_server(n), server, pool_auth);
            out.push(Server {
                name,
                url,
                weight: server.weight.unwrap_or(1),
                backup: server.backup,
                slots: server.slots.or(slots),
                auth: own.auth,
                key: own.key,
            });
        }
        out
    }

    fn pool_credentials(
        &mut self,
        here: &tree::Path,
        pool: &file::Pool,
        cloud: bool,
    ) -> Credentials {
        let key = self.key(here, pool.api_key.as_ref(), pool.api_key_file.as_ref());
        let auth = pool.auth.unwrap_or(match (&key, cloud) {
            (Some(_), _) => Auth::Inject,
            // what clients show is for us then
            (None, true) if !self.edge_keys => Auth::Passthrough,
            (None, _) => Auth::None,
        });
        // servers may have keys of their own
        let own = pool
            .servers
            .0
            .iter()
            .all(|s| s.api_key.is_some() || s.api_key_file.is_some());
        self.credentials(here, auth, key, own && !pool.servers.0.is_empty())
    }

    fn server_credentials(
        &mut self,
        here: &tree::Path,
        server: &file::Server,
        pool: &Credentials,
    ) -> Credentials {
        let key = self.key(here, server.api_key.as_ref(), server.api_key_file.as_ref());
        match (server.auth, key) {
            (None, None) => pool.clone(),
            (Some(Auth::Inject), None) => {
                self.credentials(here, Auth::Inject, pool.key.clone(), false)
            }
            (auth, key) => self.credentials(here, auth.unwrap_or(Auth::Inject), key, false),
        }
    }

    /// `keys_follow`: it is fine that there is no key here, as each server has one.
    fn credentials(
        &mut self,
        here: &tree::Path,
        auth: Auth,
        key: Option<Secret>,
        keys_follow: bool,
    ) -> Credentials {
        match (auth, &key) {
            (Auth::Inject, None) if !keys_follow => {
                self.error(
                    here.then("auth"),
                    "`auth: inject` needs `api_key` or `api_key_file`",
                );
            }
            (Auth::Passthrough | Auth::None, Some(_)) => {
                self.warn(here.then("auth"), "the key is not used with this `auth`");
            }
            _ => {}
        }
        Credentials {
            auth,
            key: key.filter(|_| auth == Auth::Inject),
        }
    }

    fn key(
        &mut self,
        here: &tree::Path,
        written: Option<&String>,
        file: Option<&String>,
    ) -> Option<Secret> {
        self.secret(here, ["api_key", "api_key_file"], written, file)
    }

    fn health(&mut self, here: &tree::Path, pool: &file::Pool) -> Health {
        let traits = pool.kind.map(|kind| kind.traits());
        let default = file::Health::default();
        let health = match &pool.health {
            Some(OrFalse::Off) => return Health::Off,
            Some(OrFalse::On(health)) => health,
            None => &default,
        };
        let here = here.then("health");
        let tcp = health.tcp.unwrap_or(false);
        if tcp && health.path.is_some() {
            self.error(
                here.then("tcp"),
                "`tcp: true` and `path` exclude each other",
            );
        }
        let is_path =
            |path: &str| path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if let Some(path) = health.path.as_ref().filter(|path| !is_path(path)) {
            self.error(
                here.then("path"),
                format!("`{path}` is not a path; it starts with `/` and holds no spaces"),
            );
        }
        let interval = health.interval.unwrap_or(Span::secs(5));
        if interval.0 < Duration::from_millis(10) {
            self.error(here.then("interval"), "an interval is at least 10ms");
        }
        let kind_path = traits.and_then(|t| t.health_path).map(str::to_owned);
        Health::On {
            path: health.path.clone().or(kind_path).filter(|_| !tcp),
            interval: interval.0,
            timeout: health
                .timeout
                .unwrap_or(traits.map_or(Span::secs(2), |t| t.health_timeout))
                .0,
            rise: health.rise.unwrap_or(2).max(1),
            fall: health.fall.unwrap_or(3).max(1),
            expect: match health.expect.0.as_slice() {
                [] => vec![200],
                listed => listed.to_vec(),
            },
        }
    }

    fn eject(&mut self, here: &tree::Path, pool: &file::Pool) -> Option<Eject> {
        let default = file::Eject::default();
        let eject = match &pool.eject {
            Some(OrFalse::Off) => return None,
            Some(OrFalse::On(eject)) => eject,
            None => &default,
        };
        if eject.after == Some(0) {
            self.error(
                here.then("eject").then("after"),
                "`after` is at least 1; `eject: false` switches it off",
            );
        }
        if eject.slow.is_some_and(|times| times < 2) {
            self.error(
                here.then("eject").then("slow"),
                "`slow` is how many times slower than the others a server may be, at least 2",
            );
        }
        if eject
            .window
            .is_some_and(|window| window.0 < Duration::from_secs(1))
        {
            self.error(here.then("eject").then("window"), "a window is at least 1s");
        }
        Some(Eject {
            after: eject.after.unwrap_or(3).max(1),
            duration: eject.duration.unwrap_or(Span::secs(10)).0,
            max_percent: eject.max_percent.map_or(50, |share| share.0),
            rate: match eject.rate.map_or(50, |share| share.0) {
                0 => None,
                rate => Some(rate),
            },
            window: eject.window.unwrap_or(Span::secs(30)).0,
            min_requests: eject.min_requests.unwrap_or(20).max(1),
            slow: eject.slow,
        })
    }

    fn header_rules(&mut self, here: &tree::Path, headers: &file::Headers) -> HeaderRules {
        let here = here.then("headers");
        let mut rules = HeaderRules::default();
        for (name, value) in &headers.set {
            let path = here.then("set").then(name);
            let parsed = header_name(name);
            let value = HeaderValue::from_str(value).map_err(|_| {
                format!("the value of `{name}` holds characters that no header can carry")
            });
            if let (Some(name), Some(mut value)) =
                (self.check(path.clone(), parsed), self.check(path, value))
            {
                value.set_sensitive(true);
                rules.set.push((name, value));
            }
        }
        for (n, name) in headers.remove.0.iter().enumerate() {
            rules
                .remove
                .extend(self.check(here.then("remove").then(n), header_name(name)));
        }
        rules
    }
}

const NO_SLOTS: &str =
    "a server without slots would never be asked; leave `slots` out for no bound";

/// Whether a server's URL is one of our own listeners, as far as can be told without asking DNS.
fn is_ourselves(url: &ServerUrl, listener: SocketAddr) -> bool {
    if url.port != listener.port() || listener.port() == 0 {
        return false;
    }
    match url.host.parse::<IpAddr>() {
        Ok(ip) => {
            ip == listener.ip()
                || (listener.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
        }
        Err(_) => {
            url.host == "localhost"
                && (listener.ip().is_loopback() || listener.ip().is_unspecified())
        }
    }
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("`{text}` is not a header name"))?;
    match OWN_HEADERS.contains(&name.as_str()) {
        true => Err(format!("`{name}` is written by the proxy itself")),
        false => Ok(name),
    }
}

fn names(map: &BTreeMap<String, String>, known: &[&str]) -> Names {
    let mut exact = map.clone();
    let default = exact.remove("*");
    Names {
        exact,
        default,
        known: patterns(known),
        by_kind: ByKind::Nothing,
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text)).collect()
}

fn mapped(map: &[(&str, &'static str)]) -> Vec<(Pattern, &'static str)> {
    map.iter()
        .map(|(text, own)| (Pattern::new(text), *own))
        .collect()
}
