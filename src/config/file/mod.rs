//! The configuration as written: what the YAML may say, before anything is checked or filled in.
//!
//! These types are also the source of the JSON Schema. Every key is optional unless its comment
//! says otherwise; absent means "use the default", which `resolve` knows.

mod forms;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

pub(crate) use forms::{List, OrFalse, Ordered, RetryOn, ServerList, Switch};

use super::kind::{Kind, Warming};
use crate::unit::{Fraction, Percent, Size, Span};

/// A whole file.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// Addresses clients connect to, `IP:PORT`. Default `127.0.0.1:2020`.
    pub(crate) listen: List<String>,
    /// The same with options for each address; `listen` is the short form.
    pub(crate) listeners: Vec<Listener>,
    /// Where operators and Prometheus ask: an address, or a map with one; `off` for none. Default
    /// `127.0.0.1:2021`.
    pub(crate) admin: Option<Admin>,
    /// Required. The pools of interchangeable servers, by name.
    pub(crate) pools: Ordered<Pool>,
    /// Required. The routes; the first match wins.
    pub(crate) routes: Vec<Route>,
    /// Keys of clients. With any, clients must show one; default: none, and nobody is asked.
    pub(crate) keys: Vec<Key>,
    /// Tokens of an identity provider, shown in the place of keys. Default: none are taken.
    pub(crate) jwt: Option<Jwt>,
    /// What models cost, by pattern; the first that matches counts. In units of your own, such as
    /// dollars.
    pub(crate) prices: Ordered<Price>,
    /// Where it is kept what keys have spent of their budgets.
    pub(crate) budgets: Budgets,
    /// Pool that gets requests whose model no route takes, where the routes choose by model.
    /// Default: they are answered with 404.
    pub(crate) unknown_model: Option<String>,
    /// How often servers are asked for their models and voices, which `GET /v1/models` and
    /// `GET /v1/audio/voices` tell; `false` for never.
    pub(crate) list_models: Option<OrFalse<ListModels>>,
    /// Where answers are kept for routes with `cache`.
    pub(crate) cache: Cache,
    /// What several edges share. Default: each is alone.
    pub(crate) state: Option<State>,
    /// Where conversations are kept for routes with `memory`.
    pub(crate) sessions: Sessions,
    /// How ids of files, batches, responses and the like lead back to the server that made them,
    /// where a route reaches several.
    pub(crate) affinity: Affinity,
    /// Bounds on what clients may do.
    pub(crate) limits: Limits,
    /// What is logged, and where.
    pub(crate) log: Log,
    /// How the program stops.
    pub(crate) shutdown: Shutdown,
    /// OpenTelemetry traces, in a program built with `--features otlp`. Default: none.
    pub(crate) tracing: Option<Tracing>,
}

/// One address clients connect to.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Required. `IP:PORT`.
    pub(crate) address: String,
    /// Clients connect with TLS, and speak HTTP/2 or HTTP/1.1 as they like.
    pub(crate) tls: Option<ListenerTls>,
    /// Without TLS: HTTP/2 is spoken to clients that begin with it. Default `false`.
    #[serde(default)]
    pub(crate) h2c: bool,
    /// Browsers of these origins may call.
    pub(crate) cors: Option<Cors>,
}

/// Where operators and Prometheus ask: `/metrics`, `/status`, the status page, reload and drain.
#[derive(Debug, Default)]
pub(crate) struct Admin {
    pub(crate) address: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) hosts: List<String>,
    pub(crate) tls: Option<ListenerTls>,
}

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(rename = "Admin", deny_unknown_fields)]
struct AdminMap {
    /// `IP:PORT`. Default `127.0.0.1:2021`. Outside loopback it needs a token or `tls` with
    /// `client_ca`.
    address: Option<String>,
    /// What must be shown as `Authorization: Bearer`, or as the password of any user by a browser.
    /// `/healthz` and `/readyz` need none. Default `$TRUNKLINE_ADMIN_TOKEN`, else none.
    token: Option<String>,
    /// File that holds the token.
    token_file: Option<String>,
    /// Names by which it may be asked for without a token, besides addresses and names that only
    /// a home network knows.
    #[serde(default)]
    hosts: List<String>,
    /// It is asked with TLS. With `client_ca` a client certificate is as good as the token.
    tls: Option<ListenerTls>,
}

/// How a listener proves who it is. The files are read again when they change.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerTls {
    /// Required. PEM file of the certificate, with the chain behind it.
    pub(crate) cert: String,
    /// Required. PEM file of its private key.
    pub(crate) key: String,
    /// Oldest version of TLS that is spoken. Default `1.2`.
    pub(crate) min_version: Option<TlsVersion>,
    /// PEM file of authorities. Clients must show a certificate of one of them.
    pub(crate) client_ca: Option<String>,
}

/// A version of TLS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
pub(crate) enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// Which web pages may call from a browser.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cors {
    /// Required. Origins such as `https://app.example.com`, or `*` for all.
    pub(crate) origins: List<String>,
}

/// Interchangeable servers with one balancing rule.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pool {
    /// What software the servers run; fills in defaults.
    pub(crate) kind: Option<Kind>,
    /// Required. The servers: a URL each, or a map.
    pub(crate) servers: ServerList,
    /// How a server is chosen: `round_robin`, `least_in_flight`, `power_of_two`, `random`, `hash`
    /// or `{ hash: client_ip | key | "header NAME" }`. Default `round_robin`.
    pub(crate) balance: Option<Balance>,
    /// Requests each server works on at once, where the server says nothing of its own; the others
    /// wait in the queue. Default: the kind's, else no bound.
    pub(crate) slots: Option<u32>,
    /// Where requests wait for a slot.
    pub(crate) queue: Queue,
    /// What happens to a request when a server still loads its model: it waits there, or skips to
    /// the next one. Default `skip`, for Ollama `wait`.
    pub(crate) warming: Option<Warming>,
    /// Bytes of audio, behind any container header, by which a spoken answer counts as begun.
    /// Default 1.
    pub(crate) min_first_bytes: Option<u32>,
    /// Where the servers stand: `home`, or in the `cloud`. Default: `cloud` for cloud kinds.
    pub(crate) zone: Option<Zone>,
    /// Whether somebody bills each request. Default: `paid` for cloud kinds.
    pub(crate) cost: Option<Cost>,
    /// Largest request body the servers take. Larger ones go to the next pool. Default: the
    /// kind's limit for uploads of audio, 32 MiB for `ollama-native`, else none.
    pub(crate) max_body: Option<Size>,
    /// How much its servers are asked for, by all clients together. What is beyond goes to the next
    /// pool of its route.
    pub(crate) limits: Quota,
    /// Speak HTTP/2 to the servers: by agreement over TLS, by prior knowledge without. Default
    /// `false`.
    pub(crate) http2: bool,
    /// The active health check, or `false` for none. Default: the kind's, else `{ tcp: true }`.
    pub(crate) health: Option<OrFalse<Health>>,
    /// When failures of real traffic take a server out, or `false` for never.
    pub(crate) eject: Option<OrFalse<Eject>>,
    pub(crate) timeouts: Timeouts,
    /// Reuse of connections to servers, or `false` for none.
    pub(crate) keepalive: Option<OrFalse<Keepalive>>,
    pub(crate) tls: Tls,
    /// The key the servers want, sent as `Authorization: Bearer`.
    pub(crate) api_key: Option<String>,
    /// A file that holds the key.
    pub(crate) api_key_file: Option<String>,
    /// What becomes of the client's credentials. Default: `inject` with a key; else `passthrough`
    /// for cloud kinds; else `none`.
    pub(crate) auth: Option<Auth>,
    /// Request headers set or removed on the way to the servers.
    pub(crate) headers: Headers,
    /// How often the servers are asked for their models and voices, or `false` for never. Default:
    /// that of the file.
    pub(crate) list_models: Option<OrFalse<ListModels>>,
    /// This pool's names for public model names; `*` is the default.
    pub(crate) models: BTreeMap<String, String>,
    /// This pool's names for public voices; `*` is the default.
    pub(crate) voices: BTreeMap<String, String>,
}

/// How a server of a pool is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// In turn, in proportion to `weight`.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight for its `weight`.
    LeastInFlight,
    /// The better one of two that were drawn in proportion to `weight`.
    PowerOfTwo,
    /// Any, in proportion to `weight`.
    Random,
    /// The same one for the same value, unless it is much busier than the others.
    Hash(HashBy),
}

/// What tells requests apart that shall meet the same server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashBy {
    ClientIp,
    /// The client's credential.
    Key,
    Header(http::HeaderName),
}

/// What tells sessions apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionBy {
    /// OpenAI's `user` in the body.
    User,
    Header(http::HeaderName),
}

/// Where servers stand.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Zone {
    #[default]
    Home,
    Cloud,
}

impl Zone {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Zone::Home => "home",
            Zone::Cloud => "cloud",
        }
    }
}

/// Whether somebody bills each request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cost {
    #[default]
    Free,
    Paid,
}

impl Cost {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Cost::Free => "free",
            Cost::Paid => "paid",
        }
    }
}

/// Who goes first when slots are scarce.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Priority {
    #[default]
    Realtime,
    Batch,
}

/// Where requests wait for a slot of a server.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Queue {
    /// Requests that may wait at once; 0 for none. Default 64.
    pub(crate) size: Option<u32>,
    /// How long one may wait before the next pool is tried. Default 30s.
    pub(crate) timeout: Option<Span>,
}

/// When a second server is asked before the first has answered.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hedge {
    /// How long the first one gets: a time, or `p95` for what all but one in twenty of the pool's
    /// answers need. Default `p95`.
    pub(crate) after: Option<HedgeAfter>,
    /// Also ask a server that costs money. Default `false`.
    pub(crate) paid: bool,
    /// Longest text to speak, in characters. Default 1000.
    pub(crate) max_characters: Option<u32>,
    /// Largest body of other requests. Default 1MiB.
    pub(crate) max_body: Option<Size>,
}

/// How long the first server of a hedged request gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HedgeAfter {
    /// The pool's 95th percentile of recent first-byte times.
    #[default]
    P95,
    Time(Span),
}

/// What becomes of the client's credentials on the way to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Auth {
    /// The pool's key replaces the client's.
    Inject,
    /// The client's goes through.
    Passthrough,
    /// Nothing goes through.
    None,
}

/// One server, with options.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// Required. `http://host:port/path`; the path replaces the client's leading `/v1`.
    pub(crate) url: String,
    /// Its name in logs and metrics. Default: the host, with the port where that is needed.
    pub(crate) name: Option<String>,
    /// Share of the requests, 1 to 1000. Default 1.
    pub(crate) weight: Option<u32>,
    /// Used only when no other server of the pool is available.
    #[serde(default)]
    pub(crate) backup: bool,
    /// Requests it works on at once. Default: that of the pool.
    pub(crate) slots: Option<u32>,
    /// The key this server wants, where the pool's servers want different ones.
    pub(crate) api_key: Option<String>,
    /// A file that holds the key.
    pub(crate) api_key_file: Option<String>,
    /// What becomes of the client's credentials here. Default: that of the pool.
    pub(crate) auth: Option<Auth>,
}

/// An active health check.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Health {
    /// Path asked with `GET`, from the root of the server. Default: the kind's, else a connection
    /// is enough.
    pub(crate) path: Option<String>,
    /// Only open a connection.
    pub(crate) tcp: Option<bool>,
    /// Time between two probes. Default 5s.
    pub(crate) interval: Option<Span>,
    /// Time a probe may take. Default: the kind's, else 2s.
    pub(crate) timeout: Option<Span>,
    /// Good probes in a row that make a server healthy. Default 2.
    pub(crate) rise: Option<u32>,
    /// Bad probes in a row that make it unhealthy. Default 3.
    pub(crate) fall: Option<u32>,
    /// Statuses that count as good. Default 200.
    pub(crate) expect: List<u16>,
}

/// When failures of real traffic take a server out for a while.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Eject {
    /// Failures in a row. Default 3.
    pub(crate) after: Option<u32>,
    /// How long. Default 10s.
    #[serde(rename = "for")]
    pub(crate) duration: Option<Span>,
    /// Never more than this share of the pool's servers at once. Default 50%.
    pub(crate) max_percent: Option<Percent>,
    /// Share of failed attempts within `window`. Default 50%; 0% for no such rule.
    pub(crate) rate: Option<Percent>,
    /// How far back `rate` looks. Default 30s.
    pub(crate) window: Option<Span>,
    /// Attempts within `window` below which `rate` says nothing. Default 20.
    pub(crate) min_requests: Option<u32>,
    /// How many times slower than the median of the pool's other servers its first bytes may be
    /// before it is ejected; at least 2. Default: no such rule.
    pub(crate) slow: Option<u32>,
}

/// How long each phase of a request to a server may take; `0s` for no limit.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// Connection and TLS. Default 1s, for cloud kinds 5s.
    pub(crate) connect: Option<Span>,
    /// From the request's last byte to the first byte of the answer's body. Default: the kind's,
    /// else 300s.
    pub(crate) first_byte: Option<Span>,
    /// Between two chunks. Default 60s.
    pub(crate) idle: Option<Span>,
    /// One request with all its attempts. Default 0s.
    pub(crate) total: Option<Span>,
    /// Silence in both directions of a WebSocket. Default 10m.
    pub(crate) tunnel: Option<Span>,
}

/// How often servers are asked for their models and voices. Those on the internet are asked only
/// with a key of their pool.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListModels {
    /// Time between two questions to one server. Default 60s.
    pub(crate) interval: Option<Span>,
}

/// Reuse of connections to servers.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keepalive {
    /// How long an unused connection is kept. Default 4s, as most local servers close after 5 s.
    pub(crate) idle: Option<Span>,
    /// Requests one connection may serve. Default 90, as many local servers close after 100.
    pub(crate) requests: Option<u32>,
}

/// TLS to `https://` servers.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// Check the server's certificate. Default `true`.
    pub(crate) verify: Option<bool>,
    /// Name to ask for and to check. Default: the host of the URL.
    pub(crate) sni: Option<String>,
    /// PEM file of the authorities to trust instead of the system's.
    pub(crate) ca_file: Option<String>,
    /// PEM file of our certificate, if the server asks for one.
    pub(crate) client_cert: Option<String>,
    /// PEM file of its private key.
    pub(crate) client_key: Option<String>,
}

/// Request headers set or removed on the way to the servers.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Headers {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) remove: List<String>,
}

/// What is matched, and where it goes.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["pool"] }, { "required": ["split"] }]))]
pub(crate) struct Route {
    /// Its name in logs and metrics. Default: made from its path or model.
    pub(crate) name: Option<String>,
    /// All conditions must hold; none means every request.
    #[serde(rename = "match", default)]
    pub(crate) conditions: Match,
    /// The pool tried first. One of `pool` and `split` is required.
    pub(crate) pool: Option<String>,
    /// Pools of which one is tried first, in shares by weight: the same one for the same key, or for
    /// the same address where no key is shown. The others stand in for it, before `fallback`.
    #[serde(default)]
    pub(crate) split: Vec<Share>,
    /// A pool that gets copies of requests. Its answers are thrown away, and nobody waits for them.
    pub(crate) mirror: Option<Mirror>,
    /// Body fields replaced in place.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Value>,
    /// Body fields added where absent.
    #[serde(default)]
    pub(crate) default: BTreeMap<String, Value>,
    /// Body fields taken out.
    #[serde(default)]
    pub(crate) remove: List<String>,
    /// Text file, of at most 256 KiB, whose text comes first in chats and responses: as a system
    /// message before those of the client, and before its `instructions`. It is read again when it
    /// changes.
    pub(crate) system_prompt_file: Option<String>,
    /// When another server of the pool is tried.
    #[serde(default)]
    pub(crate) retry: Retry,
    /// The pools tried next, in order.
    #[serde(default)]
    pub(crate) fallback: Vec<Fallback>,
    /// Largest request body. Default: that of `limits`.
    pub(crate) max_body: Option<Size>,
    /// How much may be asked of this route, by all clients together.
    #[serde(default)]
    pub(crate) limits: Quota,
    /// Who goes first when slots are scarce. Default `realtime`.
    #[serde(default)]
    pub(crate) priority: Priority,
    /// `home`: no pool in the cloud is asked, not by fallback and not by a hedge either.
    #[serde(default)]
    pub(crate) zone: Option<Zone>,
    /// When a second server is asked before the first has answered. Default: never.
    #[serde(default)]
    pub(crate) hedge: Option<OrFalse<Hedge>>,
    /// Whether answers are kept for who asks the same again: `true`, or a map. Default `false`.
    #[serde(default)]
    pub(crate) cache: Option<Switch<RouteCache>>,
    /// Chats go on where they were: what was said in a session is put before the next words of its
    /// client. Default: clients send all of it themselves.
    #[serde(default)]
    pub(crate) memory: Option<Memory>,
    /// Ids of files, batches, responses and the like lead back to the server that made them, if the
    /// route reaches several. Default `true`.
    pub(crate) affinity: Option<bool>,
}

/// What is remembered of the chats of a route.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// Required. What names a session: `header NAME`, or `user` for that field of the body. Each
    /// caller has sessions of its own.
    pub(crate) by: SessionBy,
    /// The last messages that are remembered of a session, 2 to 1000. Default 20.
    pub(crate) messages: Option<u32>,
    /// How long a session is remembered in which nothing is said. Default 1h.
    pub(crate) ttl: Option<Span>,
    /// What the messages of a session may take, at most 4MiB. Default 64KiB.
    pub(crate) bytes: Option<Size>,
}

/// Where conversations are kept.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sessions {
    /// Memory for all sessions; that in which nothing was said for longest goes first. Default
    /// 64MiB.
    pub(crate) memory: Option<Size>,
}

/// Which answers of a route are kept: speech, embeddings, transcriptions, and chat with
/// `temperature: 0`.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RouteCache {
    /// How long an answer is served again. Default 24h.
    pub(crate) ttl: Option<Span>,
    /// Largest answer that is kept. Default 4MiB.
    pub(crate) max_object: Option<Size>,
    /// One answer serves whoever asks for it, whatever their keys. Default `false`: each key sees
    /// its own answers only.
    pub(crate) shared: bool,
    /// Keep answers of chat whatever their `temperature`. Default `false`.
    pub(crate) chat: bool,
}

/// Where answers are kept.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    /// Memory for answers; what was not asked for longest goes first. Default 256MiB.
    pub(crate) memory: Option<Size>,
    /// Speech is kept on disk too, where it outlives the program. Default: in memory only.
    pub(crate) disk: Option<Disk>,
}

/// A Redis or Valkey server by which several edges act as one: they share limits, budgets, the answers
/// of `cache`, and ejections. While it is away each goes on alone.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `unix:///PATH`. One of `redis` and
    /// `redis_file` is required.
    pub(crate) redis: Option<String>,
    /// File that holds it.
    pub(crate) redis_file: Option<String>,
    /// What the names of its keys start with: edges of one prefix are one. Default `trunkline`.
    pub(crate) prefix: Option<String>,
    /// How long it may take to answer before it counts as away, 5s at most. Default 100ms.
    pub(crate) timeout: Option<Span>,
}

/// How ids lead back to the server that made them.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Affinity {
    /// What ids are signed with, at least 16 characters; the same on all instances that share
    /// clients. Default: a random one, so that ids lead nowhere after a restart.
    pub(crate) secret: Option<String>,
    /// The same in a file.
    pub(crate) secret_file: Option<String>,
}

/// A folder for answers.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Disk {
    /// Required. The folder; it is made if need be, and should hold nothing else.
    pub(crate) path: String,
    /// What the answers there may take; what was not asked for longest goes first. Default 1GiB.
    pub(crate) size: Option<Size>,
}

/// The conditions of a route.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Match {
    /// Paths; `*` stands for any run of characters.
    pub(crate) path: List<String>,
    /// HTTP methods.
    pub(crate) method: List<String>,
    /// Host names of the request, without port.
    pub(crate) host: List<String>,
    /// Patterns for the `model` of the body.
    pub(crate) model: List<String>,
    /// Patterns for the `voice` of the body.
    pub(crate) voice: List<String>,
    /// Patterns for headers, by name.
    pub(crate) headers: BTreeMap<String, List<String>>,
    /// Only bodies larger than this.
    pub(crate) body_larger_than: Option<Size>,
}

/// When another server is tried.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retry {
    /// `connect`, `reset`, `timeout` and statuses. Default: connect, reset, timeout, 429, 502,
    /// 503, 504.
    pub(crate) on: Option<List<RetryOn>>,
    /// Servers tried in one pool, and a backup if none of the others is left. Default 3.
    pub(crate) attempts: Option<u32>,
    /// Time one attempt may take until the first byte of its answer. Default 0s.
    pub(crate) per_try_timeout: Option<Span>,
    /// Retries, fallbacks and hedges may be at most this share of the route's requests of the
    /// last 10 s (ten are always allowed). Default: no such bound.
    pub(crate) budget: Option<Percent>,
    /// Longest pause before the second retry; before each further one it doubles, up to ten
    /// times this. The first retry comes at once. Default 25ms.
    pub(crate) backoff: Option<Span>,
}

/// A pool tried after the others; with body fields of its own.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) pool: String,
    pub(crate) set: BTreeMap<String, Value>,
    pub(crate) default: BTreeMap<String, Value>,
    pub(crate) remove: List<String>,
}

/// A pool that shares requests with others; with body fields of its own.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    /// Required. Its name.
    pub(crate) pool: String,
    /// Its share, in relation to the weights of the others: 0 to 1000000. With 0 it only stands in
    /// for them. Default 1.
    pub(crate) weight: Option<u32>,
    /// Body fields replaced in place.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Value>,
    /// Body fields added where absent.
    #[serde(default)]
    pub(crate) default: BTreeMap<String, Value>,
    /// Body fields taken out.
    #[serde(default)]
    pub(crate) remove: List<String>,
}

/// A pool that gets copies of requests: inference only, as what is kept on a server would be kept
/// twice.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    /// Required. Its name.
    pub(crate) pool: String,
    /// How many of the requests are copied. Default 100%.
    pub(crate) share: Option<Percent>,
    /// Copy them although the pool costs money. Default `false`: then such a pool is an error.
    #[serde(default)]
    pub(crate) paid: bool,
    /// Body fields replaced in place.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Value>,
    /// Body fields added where absent.
    #[serde(default)]
    pub(crate) default: BTreeMap<String, Value>,
    /// Body fields taken out.
    #[serde(default)]
    pub(crate) remove: List<String>,
}

/// The long form of a fallback.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FallbackMap {
    pool: String,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    #[serde(default)]
    default: BTreeMap<String, Value>,
    #[serde(default)]
    remove: List<String>,
}

/// A key of a client, which shows it as `Authorization: Bearer`, `api-key` or `x-api-key`. It never
/// leaves this proxy.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Required. Its name in logs and metrics.
    pub(crate) name: String,
    /// Its hash, `blake3:` and 64 digits, as `trunkline key new` prints it. One of `hash`, `key_file`
    /// and `key` is required, but with `jwt`: then tokens alone may name it.
    pub(crate) hash: Option<String>,
    /// File that holds the key.
    pub(crate) key_file: Option<String>,
    /// The key itself.
    pub(crate) key: Option<String>,
    /// With `jwt`: the values of the claim that are this key. Default: its name.
    #[serde(default)]
    pub(crate) subjects: List<String>,
    /// Models it may ask for. Default: all.
    #[serde(default)]
    pub(crate) models: List<String>,
    /// Routes it may take, by name. Default: all.
    #[serde(default)]
    pub(crate) routes: List<String>,
    /// `home`: its requests are served by pools at home only.
    pub(crate) zone: Option<Zone>,
    /// How much it may ask for.
    #[serde(default)]
    pub(crate) limits: Quota,
    /// Units it may spend in a month (UTC), by `prices`. Default: no end.
    pub(crate) budget: Option<f64>,
    /// A day, which is the first one it is not good on, or a moment of RFC 3339. Default: never.
    pub(crate) expires: Option<String>,
}

/// Tokens (JWT) of an identity provider. One that is good stands for a key of `keys`, with all that
/// holds for that; it never leaves this proxy.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    /// Required. The provider's public keys (JWKS): a file, or the `https://` URL that the provider
    /// calls `jwks_uri`.
    pub(crate) jwks: String,
    /// Required. The `iss` of its tokens, to the letter.
    pub(crate) issuer: String,
    /// Required. The `aud` of tokens that are meant for this proxy; one of several is enough.
    pub(crate) audience: List<String>,
    /// The claim whose value names a key of `keys`. Default `sub`.
    pub(crate) claim: Option<String>,
    /// How often a URL is asked for its keys. Default 10m.
    pub(crate) refresh: Option<Span>,
    /// By how much the clocks of the provider and of this machine may differ. Default 30s.
    pub(crate) leeway: Option<Span>,
}

/// What a model costs. What is left out costs nothing.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Price {
    /// For each request.
    pub(crate) request: f64,
    /// For a million tokens of requests.
    pub(crate) input: f64,
    /// For a million tokens of answers.
    pub(crate) output: f64,
    /// For a million characters of text to speak.
    pub(crate) characters: f64,
    /// For a minute of audio, spoken or sent.
    pub(crate) audio_minute: f64,
}

/// Where budgets are kept.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Budgets {
    /// A file, read at the start and written every 2 s; several programs on a machine may share it.
    /// Default: `spending.json` in `$STATE_DIRECTORY`, else in the state folder of the user.
    pub(crate) file: Option<String>,
}

/// How much may be asked for. What is left out is not limited.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Quota {
    /// Requests in a minute.
    pub(crate) rpm: Option<u64>,
    /// Tokens in a minute, of requests and answers.
    pub(crate) tpm: Option<u64>,
    /// Requests in flight at once.
    pub(crate) concurrent: Option<u64>,
    /// Characters of text to speak, in a minute.
    pub(crate) characters: Option<u64>,
    /// Seconds of audio, spoken or sent, in a minute.
    pub(crate) audio_seconds: Option<u64>,
    /// Size of request bodies, in a minute.
    pub(crate) bytes: Option<Size>,
}

/// Bounds on what clients may do.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Connections open at once on all client listeners. Default 10000.
    pub(crate) connections: Option<u32>,
    /// Connections open at once from one address; an IPv6 network of 64 bits counts as one, 0 is no
    /// limit. Default 256, but not for this machine itself, where another proxy may stand in front.
    pub(crate) connections_per_ip: Option<u32>,
    /// Time a request head may take from its first chance to arrive. Default 10s.
    pub(crate) header_timeout: Option<Span>,
    /// Time between two chunks of a request body. Default 60s.
    pub(crate) body_timeout: Option<Span>,
    /// Least that a client sends of a body, or takes of an answer, in each second that is waited for
    /// it, on average over `body_timeout`; 0 is no limit. Default 100B.
    pub(crate) min_rate: Option<Size>,
    /// Largest request body. Default 100MiB.
    pub(crate) max_body: Option<Size>,
    /// Most header fields of a request, 1 to 256. Default 128.
    pub(crate) max_headers: Option<u32>,
    /// Size of all header fields of a request together, 1KiB to 512KiB. Default 64KiB.
    pub(crate) max_header_size: Option<Size>,
    /// Size of path and query of a request, 1KiB to 64KiB. Default 16KiB.
    pub(crate) max_uri: Option<Size>,
    /// How much each address may ask for; an IPv6 network of 64 bits counts as one.
    pub(crate) per_ip: Quota,
}

/// What is logged, and where.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// What of the program's own messages is shown. Default `info`.
    pub(crate) level: Option<Level>,
    /// `json`, or `text` for people. Default: `text` on a terminal.
    pub(crate) format: Option<Format>,
    /// Where one line a request goes: `stdout`, `stderr`, `off` or a file. Default `stdout`.
    pub(crate) access: Option<String>,
}

/// A level of the program's own messages.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
        <Level as serde::Deserialize>::deserialize(names)
            .map_err(|_| format!("`{text}` is no level; say error, warn, info, debug or trace"))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        serde::Serialize::serialize(self, f)
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Json,
    Text,
}

/// How the program stops.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Shutdown {
    /// Time `/readyz` says no before the listeners close. Default 0s.
    pub(crate) drain: Option<Span>,
    /// Time requests in flight may take after that. Default 60s.
    pub(crate) grace: Option<Span>,
}

/// OpenTelemetry traces: a span for each request and one for each attempt. What is left out is
/// taken from the variables of OpenTelemetry; they do nothing without this key.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tracing {
    /// A collector that takes OTLP over HTTP; `/v1/traces` is added. Default:
    /// `$OTEL_EXPORTER_OTLP_ENDPOINT`, else `http://localhost:4318`.
    pub(crate) otlp: Option<String>,
    /// Share of the requests that are traced; a caller that sends `traceparent` decides itself.
    /// Default: `$OTEL_TRACES_SAMPLER_ARG` (a number from 0 to 1), else 5%.
    pub(crate) sample: Option<Fraction>,
    /// Headers the collector wants, such as a key. Default: `$OTEL_EXPORTER_OTLP_HEADERS`.
    pub(crate) headers: BTreeMap<String, String>,
    /// Default: `$OTEL_SERVICE_NAME`, else `trunkline`.
    pub(crate) service_name: Option<String>,
}
