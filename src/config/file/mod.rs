//! The configuration as written: what the YAML may say, before anything is checked or filled in.
//!
//! These types are also the source of the JSON Schema. Every key is optional unless its comment
//! says otherwise; absent means "use the default", which `resolve` knows.

mod forms;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

pub(crate) use forms::{List, OrFalse, Ordered, RetryOn, ServerList};

use super::kind::Kind;
use crate::unit::{Percent, Size, Span};

/// A whole file.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// Addresses clients connect to, `IP:PORT`. Default `127.0.0.1:2020`.
    pub(crate) listen: List<String>,
    /// The same with options for each address; `listen` is the short form.
    pub(crate) listeners: Vec<Listener>,
    /// Address of `/metrics`, `/healthz`, `/readyz` and `/status`; `off` for none. Default
    /// `127.0.0.1:2021`.
    pub(crate) admin: Option<String>,
    /// Required. The pools of interchangeable servers, by name.
    pub(crate) pools: Ordered<Pool>,
    /// Required. The routes; the first match wins.
    pub(crate) routes: Vec<Route>,
    /// Bounds on what clients may do.
    pub(crate) limits: Limits,
    /// What is logged, and where.
    pub(crate) log: Log,
    /// How the program stops.
    pub(crate) shutdown: Shutdown,
}

/// One address clients connect to.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Required. `IP:PORT`.
    pub(crate) address: String,
    /// Browsers of these origins may call.
    pub(crate) cors: Option<Cors>,
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
    /// How a server is chosen. Default `round_robin`.
    pub(crate) balance: Option<Balance>,
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
    /// This pool's names for public model names; `*` is the default.
    pub(crate) models: BTreeMap<String, String>,
    /// This pool's names for public voices; `*` is the default.
    pub(crate) voices: BTreeMap<String, String>,
}

/// How a server of a pool is chosen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Balance {
    /// In turn, in proportion to `weight`.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight for its `weight`.
    LeastInFlight,
    /// Any, in proportion to `weight`.
    Random,
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
pub(crate) struct Route {
    /// Its name in logs and metrics. Default: made from its path or model.
    pub(crate) name: Option<String>,
    /// All conditions must hold; none means every request.
    #[serde(rename = "match", default)]
    pub(crate) conditions: Match,
    /// Required. The pool tried first.
    pub(crate) pool: String,
    /// Body fields replaced in place.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Value>,
    /// Body fields added where absent.
    #[serde(default)]
    pub(crate) default: BTreeMap<String, Value>,
    /// When another server of the pool is tried.
    #[serde(default)]
    pub(crate) retry: Retry,
    /// The pools tried next, in order.
    #[serde(default)]
    pub(crate) fallback: Vec<Fallback>,
    /// Largest request body. Default: that of `limits`.
    pub(crate) max_body: Option<Size>,
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
    /// Retries and fallbacks may be at most this share of the route's requests (ten are always
    /// allowed). Default: no such bound.
    pub(crate) budget: Option<Percent>,
}

/// A pool tried after the others; with body fields of its own.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) pool: String,
    pub(crate) set: BTreeMap<String, Value>,
    pub(crate) default: BTreeMap<String, Value>,
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
}

/// Bounds on what clients may do.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Connections open at once on all client listeners. Default 10000.
    pub(crate) connections: Option<u32>,
    /// Time a request head may take from its first chance to arrive. Default 10s.
    pub(crate) header_timeout: Option<Span>,
    /// Time between two chunks of a request body. Default 60s.
    pub(crate) body_timeout: Option<Span>,
    /// Largest request body. Default 100MiB.
    pub(crate) max_body: Option<Size>,
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
