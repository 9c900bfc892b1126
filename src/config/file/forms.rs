//! Keys that can be written in more than one form: a value or a list, a scalar or a map, `false`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{
    Admin, AdminMap, Balance, Fallback, FallbackMap, HashBy, HedgeAfter, Server, SessionBy,
};
use crate::unit::Span;
use serde::ser::SerializeMap;

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

// === impl Switch ===

/// Something that `true` switches on as it is by default, a map on as it says, and `false` off.
#[derive(Debug)]
pub(crate) struct Switch<T>(pub(crate) Option<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapOrBool<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for MapOrBool<T> {
            type Value = Switch<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false` or a map")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
                Ok(Switch(on.then(T::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|on| Switch(Some(on)))
            }
        }

        deserializer.deserialize_any(MapOrBool(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Switch", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, on] })
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
            remove: map.remove,
        }
    }
}

impl<'de> Deserialize<'de> for Fallback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let from_name = |pool| Fallback {
            pool,
            set: BTreeMap::new(),
            default: BTreeMap::new(),
            remove: List::default(),
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

impl From<AdminMap> for Admin {
    fn from(map: AdminMap) -> Self {
        let AdminMap {
            address,
            token,
            token_file,
            hosts,
            tls,
        } = map;
        Admin {
            address,
            token,
            token_file,
            hosts,
            tls,
        }
    }
}

impl<'de> Deserialize<'de> for Admin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let from_address = |address| Admin {
            address: Some(address),
            ..Admin::default()
        };
        let short = Short::<_, AdminMap>(
            "an address, `off`, or a map with `address`",
            from_address,
            PhantomData,
        );
        deserializer.deserialize_any(short)
    }
}

impl JsonSchema for Admin {
    fn schema_name() -> Cow<'static, str> {
        "AdminOrAddress".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<AdminMap>();
        json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }, map] })
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

// === impl Balance, HedgeAfter ===

const BALANCES: &[&str] = &[
    "round_robin",
    "least_in_flight",
    "power_of_two",
    "random",
    "hash",
];

impl Balance {
    /// The word for it in the file.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Balance::RoundRobin => "round_robin",
            Balance::LeastInFlight => "least_in_flight",
            Balance::PowerOfTwo => "power_of_two",
            Balance::Random => "random",
            Balance::Hash(_) => "hash",
        }
    }
}

impl serde::Serialize for Balance {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Balance::Hash(by) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("hash", &by.to_string())?;
                map.end()
            }
            other => serializer.serialize_str(other.word()),
        }
    }
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashBy::ClientIp => f.write_str("client_ip"),
            HashBy::Key => f.write_str("key"),
            HashBy::Header(name) => write!(f, "header {name}"),
        }
    }
}

impl std::str::FromStr for HashBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "client_ip" => Ok(HashBy::ClientIp),
            None if text == "key" => Ok(HashBy::Key),
            Some(("header", name)) => name
                .trim()
                .parse()
                .map(HashBy::Header)
                .map_err(|_| format!("`{name}` is not a header name")),
            _ => Err(format!(
                "`{text}` is nothing to hash by; write `client_ip`, `key` or `header NAME`"
            )),
        }
    }
}

/// The map form of `balance`.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HashMapForm {
    /// Required. `client_ip`, `key` or `header NAME`.
    hash: HashByForm,
}

/// What to hash by: as it is, or behind the word `by`.
struct HashByForm(String);

#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ByForm {
    by: String,
}

impl From<ByForm> for HashByForm {
    fn from(form: ByForm) -> Self {
        HashByForm(form.by)
    }
}

impl<'de> Deserialize<'de> for HashByForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let short = Short::<_, ByForm>(
            "`client_ip`, `key` or `header NAME`",
            HashByForm,
            PhantomData,
        );
        deserializer.deserialize_any(short)
    }
}

impl JsonSchema for HashByForm {
    fn schema_name() -> Cow<'static, str> {
        "HashBy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<ByForm>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^(client_ip|key|header .+)$" }, map] })
    }
}

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrMap;

        impl<'de> Visitor<'de> for WordOrMap {
            type Value = Balance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule such as `round_robin`, or `{ hash: client_ip }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Balance, E> {
                match text {
                    "round_robin" => Ok(Balance::RoundRobin),
                    "least_in_flight" => Ok(Balance::LeastInFlight),
                    "power_of_two" => Ok(Balance::PowerOfTwo),
                    "random" => Ok(Balance::Random),
                    "hash" => Ok(Balance::Hash(HashBy::ClientIp)),
                    other => Err(E::unknown_variant(other, BALANCES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Balance, A::Error> {
                let form = HashMapForm::deserialize(MapAccessDeserializer::new(map))?;
                let by = form.hash.0.parse().map_err(de::Error::custom)?;
                Ok(Balance::Hash(by))
            }
        }

        deserializer.deserialize_any(WordOrMap)
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<HashMapForm>();
        json_schema!({ "anyOf": [{ "enum": BALANCES }, map] })
    }
}

impl fmt::Display for SessionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionBy::User => f.write_str("user"),
            SessionBy::Header(name) => write!(f, "header {name}"),
        }
    }
}

impl<'de> Deserialize<'de> for SessionBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(' ') {
            None if text == "user" => Ok(SessionBy::User),
            Some(("header", name)) => name
                .trim()
                .parse()
                .map(SessionBy::Header)
                .map_err(|_| de::Error::custom(format!("`{name}` is not a header name"))),
            _ => Err(de::Error::custom(format!(
                "`{text}` names no session; write `header NAME`, or `user` for that field of the body"
            ))),
        }
    }
}

impl JsonSchema for SessionBy {
    fn schema_name() -> Cow<'static, str> {
        "SessionBy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(user|header .+)$" })
    }
}

impl<'de> Deserialize<'de> for HedgeAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "p95" => Ok(HedgeAfter::P95),
            other => other.parse().map(HedgeAfter::Time).map_err(|_| {
                de::Error::custom(format!(
                    "`{other}` is no time to wait; write `p95`, or a time such as `300ms`"
                ))
            }),
        }
    }
}

impl JsonSchema for HedgeAfter {
    fn schema_name() -> Cow<'static, str> {
        "HedgeAfter".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = generator.subschema_for::<Span>();
        json_schema!({ "anyOf": [{ "const": "p95" }, span] })
    }
}
