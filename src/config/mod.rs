//! The configuration, checked: names resolved, defaults filled in, secrets read, values parsed.
//!
//! `file` is what was written, `resolve` makes this out of it and reports every problem as data.
//! Nothing here is an `Option` that means "not decided yet".

mod admin;
pub(crate) mod affinity;
mod certificate;
mod conditions;
pub(crate) mod file;
pub(crate) mod jwks;
pub(crate) mod jwt;
mod keys;
pub(crate) mod kind;
pub(crate) mod pattern;
pub(crate) mod problem;
mod resolve;
mod server_url;
pub(crate) mod sieve;
mod tls;
pub(crate) mod tree;
mod voices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

pub(crate) use admin::Admin;
pub(crate) use certificate::{Certificate, CertificateFiles, certificates_in};
pub(crate) use conditions::{Naming, Shadowing};
pub(crate) use file::{
    Auth, Balance, Cost, Format, HashBy, HedgeAfter, Level, Priority, RetryOn, SessionBy,
    TlsVersion, Zone,
};
pub(crate) use keys::{Key, KeyHash, Price, Quota};
use kind::{Dialect, Kind, Loading, Warming};
pub(crate) use pattern::Pattern;
use problem::Problem;
pub(crate) use server_url::ServerUrl;
pub(crate) use tls::Tls;

use crate::unit::{Fraction, Secret};

/// Largest body that is translated, as it has to be in memory for that.
const MOST_TRANSLATED: u64 = 32 * 1024 * 1024;

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listeners: Vec<Listener>,
    /// Where the admin endpoints listen, if anywhere.
    pub(crate) admin: Option<Admin>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) routes: Vec<Route>,
    /// Of clients; empty if nobody needs one.
    pub(crate) keys: Vec<Key>,
    /// What is asked of tokens that stand for keys; `None` if none do.
    pub(crate) jwt: Option<jwt::Jwt>,
    /// Of models; the first that matches counts.
    pub(crate) prices: Vec<(Pattern, Price)>,
    /// Where it is kept what keys have spent, if some have budgets.
    pub(crate) budget_file: Option<PathBuf>,
    pub(crate) cache: Cache,
    /// What several edges share; `None` for one that is alone.
    pub(crate) state: Option<State>,
    pub(crate) sessions: Sessions,
    /// What ids are signed with; `None` for a random secret.
    pub(crate) affinity_secret: Option<Secret>,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) shutdown: Shutdown,
    /// Where spans go; `None` for no traces.
    pub(crate) tracing: Option<Tracing>,
    /// Files it was read from besides its own: keys and certificates.
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<ListenerTls>,
    /// HTTP/2 is spoken without TLS to clients that begin with it.
    pub(crate) h2c: bool,
    pub(crate) cors: Option<Cors>,
}

/// TLS on a listener. The certificate itself is no part of it: that may change at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerTls {
    pub(crate) files: CertificateFiles,
    pub(crate) min_version: TlsVersion,
}

/// Origins whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cors {
    Any,
    Listed(Vec<String>),
}

/// Which pool of a [`Config`]; only `resolve` makes one, so it always names a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PoolId(pub(crate) usize);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) kind: Option<Kind>,
    pub(crate) servers: Vec<Server>,
    pub(crate) balance: Balance,
    pub(crate) health: Health,
    pub(crate) eject: Option<Eject>,
    pub(crate) timeouts: Timeouts,
    pub(crate) keepalive: Option<Keepalive>,
    /// How often its servers are asked for their models and voices; `None` for never.
    pub(crate) listing: Option<Duration>,
    pub(crate) tls: Tls,
    /// What holds for servers that say nothing of their own.
    pub(crate) auth: Auth,
    /// The file says so; else it is the default.
    pub(crate) auth_written: bool,
    /// The file has a key for it, be it an empty one.
    pub(crate) key_written: bool,
    pub(crate) headers: HeaderRules,
    pub(crate) models: Names,
    pub(crate) voices: Names,
    /// Where requests wait for a slot; nobody waits if no server has a bound.
    pub(crate) queue: Queue,
    pub(crate) warming: Warming,
    /// At least 1.
    pub(crate) min_first_bytes: u64,
    pub(crate) zone: Zone,
    pub(crate) cost: Cost,
    /// Largest request body in bytes the servers take, whatever it asks for.
    pub(crate) max_body: Option<u64>,
    pub(crate) limits: Quota,
    pub(crate) http2: bool,
}

/// Where requests wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) size: usize,
    /// `None` is no limit.
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) url: ServerUrl,
    /// 1 to 1000.
    pub(crate) weight: u32,
    pub(crate) backup: bool,
    /// Requests it works on at once; `None` for as many as come.
    pub(crate) slots: Option<u32>,
    pub(crate) auth: Auth,
    /// The key to inject; present exactly when `auth` is `inject`.
    pub(crate) key: Option<Secret>,
}

/// How a server's health is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Off,
    On {
        /// `None`: a connection is enough.
        path: Option<String>,
        interval: Duration,
        timeout: Duration,
        rise: u32,
        fall: u32,
        expect: Vec<u16>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eject {
    pub(crate) after: u32,
    pub(crate) duration: Duration,
    pub(crate) max_percent: u8,
    /// Percent of failed attempts within `window`; `None` for no such rule.
    pub(crate) rate: Option<u8>,
    pub(crate) window: Duration,
    pub(crate) min_requests: u32,
    /// How many times the median of the other servers' first-byte times.
    pub(crate) slow: Option<u32>,
}

/// Limits of the phases of an attempt; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) total: Option<Duration>,
    pub(crate) tunnel: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) requests: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderRules {
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    pub(crate) remove: Vec<HeaderName>,
}

/// A pool's own names for public ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// From the public name to this pool's.
    pub(crate) exact: BTreeMap<String, String>,
    /// For a name that is neither mapped nor known.
    pub(crate) default: Option<String>,
    /// Names the servers know by themselves.
    pub(crate) known: Vec<Pattern>,
    /// What the kind of the servers brings along, for audio.
    pub(crate) by_kind: ByKind,
}

/// Names that a kind brings along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ByKind {
    #[default]
    Nothing,
    /// Names the servers know by themselves, and by pattern what others become; the first that
    /// fits.
    Models {
        known: Vec<Pattern>,
        map: Vec<(Pattern, &'static str)>,
    },
    Voices(Kind),
}

#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) conditions: Match,
    /// The pool tried first, or those that share its place, then the fallbacks.
    pub(crate) targets: Vec<Target>,
    /// The weights of the first targets if they share the requests; else empty.
    pub(crate) split: Vec<u32>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) retry: Retry,
    /// Largest request body in bytes.
    pub(crate) max_body: u64,
    pub(crate) priority: Priority,
    pub(crate) limits: Quota,
    /// No pool outside of this zone is asked.
    pub(crate) zone: Option<Zone>,
    pub(crate) hedge: Option<Hedge>,
    pub(crate) cache: Option<RouteCache>,
    pub(crate) memory: Option<Memory>,
    /// Ids lead back to the server that made them, if there are several.
    pub(crate) affinity: bool,
}

/// What is remembered of the chats of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) by: SessionBy,
    pub(crate) bounds: SessionBounds,
}

/// How much is remembered of a session, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionBounds {
    /// 2 to 1000.
    pub(crate) messages: usize,
    /// At most 4 MiB.
    pub(crate) bytes: u64,
    /// Since something was said in it.
    pub(crate) ttl: Duration,
}

/// Where conversations are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// In bytes, for all of them.
    pub(crate) memory: u64,
}

impl Route {
    /// The pool tried first, or those that share its place.
    pub(crate) fn firsts(&self) -> &[Target] {
        let count = self.split.len().max(1);
        &self.targets[..count.min(self.targets.len())]
    }

    /// One that asks its targets once, for everything.
    pub(crate) fn bare(name: String, targets: Vec<Target>) -> Self {
        Route {
            name,
            conditions: Match::default(),
            targets,
            split: Vec::new(),
            mirror: None,
            retry: Retry {
                on: Vec::new(),
                attempts: 1,
                per_try_timeout: None,
                budget: None,
                backoff: Duration::ZERO,
            },
            max_body: u64::MAX,
            priority: Priority::default(),
            limits: Quota::default(),
            zone: None,
            hedge: None,
            cache: None,
            memory: None,
            affinity: true,
        }
    }
}

/// Where copies of a route's requests go.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    /// Of the requests, 0 to 1.
    pub(crate) share: f64,
    /// The route of the copies, whose only target is asked once.
    pub(crate) route: Box<Route>,
}

/// Which answers of a route are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteCache {
    pub(crate) ttl: Duration,
    /// In bytes.
    pub(crate) max_object: u64,
    /// Whatever the caller's key.
    pub(crate) shared: bool,
    /// Chat whatever its temperature.
    pub(crate) chat: bool,
}

/// Where answers are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cache {
    /// In bytes.
    pub(crate) memory: u64,
    /// Where speech outlives the program.
    pub(crate) disk: Option<Disk>,
}

/// What several edges share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The URL, which may hold a password.
    pub(crate) redis: Secret,
    pub(crate) prefix: String,
    pub(crate) timeout: Duration,
}

/// A folder for answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// In bytes.
    pub(crate) size: u64,
}

/// When a second server is asked before the first has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hedge {
    pub(crate) after: HedgeAfter,
    pub(crate) paid: bool,
    pub(crate) max_characters: u64,
    /// In bytes.
    pub(crate) max_body: u64,
}

/// The conditions of a route; an empty list is no condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Match {
    pub(crate) paths: Vec<Pattern>,
    pub(crate) methods: Vec<Method>,
    pub(crate) hosts: Vec<Pattern>,
    pub(crate) models: Vec<Pattern>,
    pub(crate) voices: Vec<Pattern>,
    pub(crate) headers: Vec<(HeaderName, Vec<Pattern>)>,
    /// In bytes.
    pub(crate) body_larger_than: Option<u64>,
    /// It takes what only its model kept from the other routes, and nothing else.
    pub(crate) unknown_model: bool,
}

/// A pool and the body fields sent to it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) pool: PoolId,
    pub(crate) fields: Fields,
    /// The client's credentials are meant for another service that this route asks before.
    pub(crate) withhold: bool,
}

/// Body fields a route sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    /// Replaced, or added where absent.
    pub(crate) set: BTreeMap<String, Value>,
    /// Added where absent.
    pub(crate) default: BTreeMap<String, Value>,
    /// Taken out; none of the others.
    pub(crate) remove: BTreeSet<String>,
    pub(crate) prompt: Option<SystemPrompt>,
}

/// What a model is told before the client's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemPrompt {
    pub(crate) file: PathBuf,
    /// As JSON writes it, without the quotes around it.
    pub(crate) escaped: Arc<str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) on: Vec<RetryOn>,
    /// Servers tried in one pool, at least 1.
    pub(crate) attempts: u32,
    pub(crate) per_try_timeout: Option<Duration>,
    /// Percent of the route's requests.
    pub(crate) budget: Option<u8>,
    /// Longest pause before the second retry.
    pub(crate) backoff: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) connections_per_ip: PerAddress,
    /// `None` is no limit.
    pub(crate) header_timeout: Option<Duration>,
    /// `None` is no limit.
    pub(crate) body_timeout: Option<Duration>,
    /// In bytes a second; 0 is no limit.
    pub(crate) min_rate: u64,
    pub(crate) head: HeadLimits,
    /// Of each address.
    pub(crate) per_ip: Quota,
}

/// Connections that one address may have open at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerAddress {
    /// 0 is no limit.
    pub(crate) most: usize,
    /// It holds for this machine too.
    pub(crate) loopback: bool,
}

/// How large the head of a request may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadLimits {
    /// Header fields, at most 256.
    pub(crate) fields: usize,
    /// Of all fields in bytes, at most 512 KiB.
    pub(crate) bytes: usize,
    /// Of path and query in bytes, at most 64 KiB.
    pub(crate) uri: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: Level,
    /// `None`: text on a terminal, else JSON.
    pub(crate) format: Option<Format>,
    pub(crate) access: AccessLog,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    #[default]
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shutdown {
    pub(crate) drain: Duration,
    pub(crate) grace: Duration,
}

/// Where spans go, and of how many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracing {
    /// With its path.
    pub(crate) endpoint: ServerUrl,
    /// What the collector wants besides, such as a key.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Share of the requests that are traced if no caller has decided.
    pub(crate) sample: Fraction,
    pub(crate) service_name: String,
    /// What else is said of this service.
    pub(crate) attributes: Vec<(String, String)>,
}

/// Reads `text`. `folder` is where relative paths in it start; `env` answers `${VAR}`. The
/// configuration is there exactly when no problem is an error.
pub(crate) fn read(
    text: &str,
    folder: &std::path::Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Option<Config>, Vec<Problem>) {
    let mut problems = Vec::new();
    let config = tree::Tree::parse(text, env, &mut problems).and_then(|tree| {
        let file: file::File = tree.read(&mut problems)?;
        resolve::resolve(file, &tree, folder, env, &mut problems)
    });
    problems.sort_by_key(|p| (p.span.start, p.span.end));
    let broken = problems.iter().any(Problem::is_error);
    (config.filter(|_| !broken), problems)
}

/// `text` with its secrets made unreadable, byte for byte in the same places, so that lines of it
/// can be shown. References to variables stay: they are no secrets.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut mask = |range: std::ops::Range<usize>| {
        let written = text.get(range.clone()).unwrap_or_default();
        if !written.trim_matches(['"', '\'']).starts_with("${") {
            for byte in &mut bytes[range] {
                if !byte.is_ascii_whitespace() {
                    *byte = b'*';
                }
            }
        }
    };
    in_urls(text).for_each(&mut mask);
    match tree::Tree::parse(text, &|_| Some(String::new()), &mut Vec::new()) {
        Some(tree) => tree.secrets().into_iter().for_each(mask),
        // what is not YAML has no values; then everything behind the word goes
        None => {
            let words = ["api_key", "token", "key:", "secret"];
            let found = words.iter().flat_map(|word| text.match_indices(word));
            for (at, word) in found.collect::<Vec<_>>() {
                let start = at + word.len();
                let end = text[start..]
                    .find('\n')
                    .map_or(text.len(), |end| start + end);
                mask(start..end);
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Where URLs hold what they must not: names and passwords, and queries. They are refused, and the
/// line is shown.
fn in_urls(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
    const SCHEME_END: &str = "://";
    text.match_indices(SCHEME_END).flat_map(move |(at, _)| {
        let start = at + SCHEME_END.len();
        let rest = &text[start..];
        let is_over = |c: char| c.is_whitespace() || "\"',]}".contains(c);
        let url = &rest[..rest.find(is_over).unwrap_or(rest.len())];
        let authority = &url[..url.find(['/', '?']).unwrap_or(url.len())];
        let user = authority.rfind('@').map(|end| start..start + end);
        let query = url.find('?').map(|at| start + at + 1..start + url.len());
        user.into_iter().chain(query)
    })
}

/// The JSON Schema of the file format.
pub(crate) fn schema() -> Value {
    let mut schema = schemars::schema_for!(file::File).to_value();
    schema["title"] = "Trunkline configuration".into();
    schema
}

/// A hint for keys that the format will have, so that nobody looks for a typing error.
fn later(key: &str) -> Option<&'static str> {
    const LATER: &[&str] = &["trusted_proxies"];
    LATER.contains(&key).then_some(
        "this key is planned; the version you run does not have it yet, so remove it for now",
    )
}

impl Config {
    pub(crate) fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[id.0]
    }
}

impl SystemPrompt {
    fn new(file: PathBuf, text: &str) -> Self {
        let quoted = Value::from(text).to_string();
        SystemPrompt {
            file,
            escaped: quoted[1..quoted.len() - 1].into(),
        }
    }
}

impl Target {
    /// What becomes of the client's credentials at a server of its pool.
    pub(crate) fn auth(&self, server: &Server) -> Auth {
        match server.auth {
            Auth::Passthrough if self.withhold => Auth::None,
            auth => auth,
        }
    }
}

impl Pool {
    /// The hosts that get the client's credentials.
    fn trusted_hosts(&self) -> impl Iterator<Item = &str> {
        let trusted = self.servers.iter().filter(|s| s.auth == Auth::Passthrough);
        trusted.map(|server| server.url.host.as_str())
    }

    /// The path a server of this pool has for one of the API.
    pub(crate) fn own_path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let paths = self.kind.map_or(&[][..], |kind| kind.traits().paths);
        paths
            .iter()
            .find(|(public, _)| *public == path)
            .map(|(_, own)| *own)
    }

    pub(crate) fn is_cloud(&self) -> bool {
        self.kind.is_some_and(|kind| kind.traits().cloud)
    }

    /// How its software says that it still loads.
    pub(crate) fn loading(&self) -> Loading {
        self.kind.map_or(Loading::Silent, |k| k.traits().loading)
    }

    /// Whether it matters which model a request is for: some servers may have it in memory, or
    /// others serve while it is loaded.
    pub(crate) fn asks_for_models(&self) -> bool {
        self.loading() == Loading::AnswersLate
            && (self.servers.len() > 1 || self.warming == Warming::Skip)
    }

    /// The largest body in bytes its servers take; `audio` is that of an upload of audio.
    pub(crate) fn largest_body(&self, audio: bool) -> Option<u64> {
        let by_kind = self.kind.and_then(|k| k.traits().max_upload);
        let translated = (self.dialect() != Dialect::OpenAi).then_some(MOST_TRANSLATED);
        self.max_body
            .or_else(|| by_kind.filter(|_| audio).map(|size| size.0))
            .or(translated)
    }

    /// What its servers speak.
    pub(crate) fn dialect(&self) -> Dialect {
        self.kind.map_or(Dialect::OpenAi, |k| k.traits().dialect)
    }

    /// The endpoints its servers have, if a dialect of their own leaves them only some.
    pub(crate) fn served(&self) -> Option<Vec<&'static str>> {
        let traits = self.kind?.traits();
        let few = traits.dialect != Dialect::OpenAi;
        few.then(|| traits.paths.iter().map(|(path, _)| *path).collect())
    }

    /// Whether some server has a bound on what it works on at once.
    pub(crate) fn has_slots(&self) -> bool {
        self.servers.iter().any(|server| server.slots.is_some())
    }

    /// Whether an upload is read whole before a server is connected.
    pub(crate) fn buffers_uploads(&self) -> bool {
        self.kind.is_some_and(|kind| kind.traits().buffer_upload)
    }
}

impl Names {
    /// Whether the file says nothing about names.
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.default.is_none()
    }

    /// This pool's name for a public one; `None` if it stays as it is. What the file says wins over
    /// what the kind brings along, which holds for `audio` only.
    pub(crate) fn translate(&self, public: &str, audio: bool) -> Option<&str> {
        if let Some(own) = self.exact.get(public) {
            return Some(own.as_str()).filter(|own| *own != public);
        }
        let known = self.exact.values().any(|own| own == public)
            || self.known.iter().any(|pattern| pattern.matches(public));
        if known {
            return None;
        }
        let own = match (&self.default, &self.by_kind) {
            (Some(default), _) => Some(default.as_str()),
            (None, ByKind::Models { known, map }) if audio => map
                .iter()
                .filter(|_| !known.iter().any(|pattern| pattern.matches(public)))
                .find(|(pattern, _)| pattern.matches(public))
                .map(|(_, own)| *own),
            (None, ByKind::Voices(kind)) if audio => kind.own_voice(public),
            (None, _) => None,
        };
        own.filter(|own| *own != public)
    }
}

#[cfg(test)]
pub(crate) mod props;
#[cfg(test)]
mod tests;
