//! The configuration as written: what the YAML may say, before anything is checked or filled in.
//!
//! These types are also the source of the JSON Schema. Every key is optional unless its comment
//! says otherwise; absent means "use the default", which `resolve` knows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

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
    /// Clients connect with TLS, and speak HTTP/2 or HTTP/1.1 as they like.
    pub(crate) tls: Option<ListenerTls>,
    /// Without TLS: HTTP/2 is spoken to clients that begin with it. Default `false`.
    #[serde(default)]
    pub(crate) h2c: bool,
    /// Browsers of these origins may call.
    pub(crate) cors: Option<Cors>,
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

// === impl List ===

/// A list in which one value may stand alone.
#[derive(Clone, Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(List)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
    }
}

// === impl Ordered ===

/// A map that keeps the order of the file.
#[derive(Debug)]
pub(crate) struct Ordered<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<BTreeMap<String, T>>()
    }
}

// === impl OrFalse ===

/// Something that `false` switches off.
#[derive(Debug)]
pub(crate) enum OrFalse<T> {
    Off,
    On(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrFalse<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapOrFalse<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MapOrFalse<T> {
            type Value = OrFalse<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map or `false`")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<OrFalse<T>, E> {
                match on {
                    false => Ok(OrFalse::Off),
                    true => Err(E::invalid_type(de::Unexpected::Bool(true), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OrFalse<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OrFalse::On)
            }
        }

        deserializer.deserialize_any(MapOrFalse(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OrFalse<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrFalse", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [on, { "const": false }] })
    }
}

// === impl Server, Fallback: a scalar or a map ===

/// Reads a `T` from its short form, a scalar, or from its map `M`.
struct Short<T, M>(&'static str, fn(String) -> T, PhantomData<M>);

impl<'de, T, M: Deserialize<'de> + Into<T>> Visitor<'de> for Short<T, M> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok((self.1)(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        M::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

/// The servers of a pool: URLs and maps.
#[derive(Debug, Default)]
pub(crate) struct ServerList(pub(crate) Vec<Server>);

struct ServerEntry(Server);

impl From<Server> for ServerEntry {
    fn from(server: Server) -> Self {
        ServerEntry(server)
    }
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let from_url = |url| {
            ServerEntry(Server {
                url,
                ..Server::default()
            })
        };
        deserializer.deserialize_any(Short::<_, Server>(
            "a URL or a map with `url`",
            from_url,
            PhantomData,
        ))
    }
}

impl<'de> Deserialize<'de> for ServerList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Servers;

        impl<'de> Visitor<'de> for Servers {
            type Value = ServerList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of servers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ServerList, A::Error> {
                let mut servers = Vec::new();
                while let Some(ServerEntry(server)) = seq.next_element()? {
                    servers.push(server);
                }
                Ok(ServerList(servers))
            }
        }

        deserializer.deserialize_seq(Servers)
    }
}

impl JsonSchema for ServerList {
    fn schema_name() -> Cow<'static, str> {
        "Servers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<Server>();
        let url = json_schema!({ "type": "string" });
        json_schema!({ "anyOf": [url, { "type": "array", "items": { "anyOf": [url, map] } }] })
    }
}

impl From<FallbackMap> for Fallback {
    fn from(map: FallbackMap) -> Self {
        Fallback {
            pool: map.pool,
            set: map.set,
            default: map.default,
        }
    }
}

impl<'de> Deserialize<'de> for Fallback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let from_name = |pool| Fallback {
            pool,
            set: BTreeMap::new(),
            default: BTreeMap::new(),
        };
        let short = Short::<_, FallbackMap>(
            "the name of a pool or a map with `pool`",
            from_name,
            PhantomData,
        );
        deserializer.deserialize_any(short)
    }
}

impl JsonSchema for Fallback {
    fn schema_name() -> Cow<'static, str> {
        "Fallback".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<FallbackMap>();
        json_schema!({ "anyOf": [{ "type": "string" }, map] })
    }
}

// === impl RetryOn ===

/// A reason to try another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryOn {
    /// No connection, or no TLS on it.
    Connect,
    /// The connection broke, or what came is not an answer.
    Reset,
    /// A limit of `timeouts` passed.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "connect" => Ok(RetryOn::Connect),
            "reset" => Ok(RetryOn::Reset),
            "timeout" => Ok(RetryOn::Timeout),
            other => match other.parse() {
                Ok(status @ 400..=599) => Ok(RetryOn::Status(status)),
                _ => Err(de::Error::custom(format!(
                    "`{other}` is not a reason to retry; write `connect`, `reset`, `timeout` or a status from 400 to 599"
                ))),
            },
        }
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["connect", "reset", "timeout"] },
            { "type": "integer", "minimum": 400, "maximum": 599 },
        ] })
    }
}
