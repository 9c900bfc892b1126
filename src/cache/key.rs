//! What makes two requests the same: the key an answer is kept under.
//!
//! All of the request counts: what is not known to make no difference makes one. Of a JSON body
//! the order of keys, spaces and escapes do not count; of a form the boundary and the names of
//! files do not. A key is SHA-256 of all that, so nobody can make two requests meet that differ.
//!
//! The key is over the request as its route sees it, not as a pool gets it: the cache is asked
//! before a pool is chosen, and that choice changes from one request to the next. What the route
//! and its pools make of a request goes into the key as a whole, so that another `set` or another
//! voice is another key.

use http::{HeaderMap, HeaderName};
use ring::digest::{Context, SHA256};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::{Config, Route};
use crate::inspect::endpoint::Operation;

/// SHA-256 of something.
pub(crate) type Digest = [u8; 32];

/// What an answer is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) Digest);

/// Who asks, so far as answers are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// One of these credentials.
    Own(Digest),
    /// Anybody: the route shares its answers.
    Any,
}

/// Headers that change no answer: they are about the connection, the software or the one request,
/// or they never reach a server. Each other one counts, as a server may heed it.
const NEUTRAL: &[&str] = &[
    "baggage",
    "cache-control",
    "connection",
    "content-length",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "pragma",
    "priority",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-correlation-id",
    "x-data-zone",
    "x-real-ip",
    "x-request-id",
];
/// The same by how they begin: OpenAI's SDKs, browsers, balancers.
const NEUTRAL_STARTS: &[&str] = &["x-stainless-", "sec-", "x-forwarded-", "cf-"];
/// Audio is not negotiated: its format stands in the body.
const NEUTRAL_TO_SPEECH: &[&str] = &["accept", "accept-encoding", "accept-language"];

/// Hashes parts, each with its length, so that no two lists of parts are one text.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn new(what: &str) -> Self {
        let mut hasher = Hasher(Context::new(&SHA256));
        hasher.part(what.as_bytes());
        hasher
    }

    pub(crate) fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// More of a part whose length was or will be told.
    pub(crate) fn more(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

/// What a route and its pools make of requests.
#[derive(Clone, Debug)]
pub(crate) struct RouteKey {
    rules: Digest,
    /// Fields that the route sets for all of its pools: what the client says there is nothing.
    fixed: Vec<String>,
    /// It sets the temperature, to 0.
    cold: bool,
}

impl RouteKey {
    pub(crate) fn new(config: &Config, route: &Route) -> Self {
        let mut rules = Hasher::new("route");
        rules.part(route.name.as_bytes());
        for target in &route.targets {
            let pool = config.pool(target.pool);
            rules.part(b"pool").part(pool.name.as_bytes());
            rules.part(format!("{:?}", pool.kind).as_bytes());
            for fields in [&target.fields.set, &target.fields.default] {
                rules.part(&(fields.len() as u64).to_le_bytes());
                for (name, value) in fields {
                    rules.part(name.as_bytes());
                    rules.part(value.to_string().as_bytes());
                }
            }
            rules.part(format!("{:?} {:?}", pool.models, pool.voices).as_bytes());
        }
        let sets = || route.targets.iter().map(|target| &target.fields.set);
        let first = sets().next();
        let everywhere =
            |name: &str| sets().all(|set| set.get(name) == first.and_then(|f| f.get(name)));
        let fixed = first.into_iter().flat_map(|set| set.keys());
        let fixed: Vec<String> = fixed.filter(|name| everywhere(name)).cloned().collect();
        let is_zero = |value: &serde_json::Value| value.as_f64() == Some(0.0);
        RouteKey {
            rules: rules.finish(),
            cold: fixed.iter().any(|name| name == "temperature")
                && first.is_some_and(|set| set.get("temperature").is_some_and(is_zero)),
            fixed,
        }
    }

    /// What a JSON body says. `None` if it cannot be told exactly, or if it is chat whose next
    /// answer may well be another (`any_chat`: that makes no difference).
    pub(crate) fn json(&self, body: &[u8], operation: Operation, any_chat: bool) -> Option<Digest> {
        let mut fields = serde_json::from_slice::<Object>(body).ok()?.0;
        if matches!(operation, Operation::Chat | Operation::Completion) {
            let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            let cold = match self.fixed.iter().any(|name| name == "temperature") {
                true => self.cold,
                false => field("temperature").is_some_and(Canonical::is_zero),
            };
            // what is to be stored at the server is not asked for its answer alone
            let stored = field("store").is_some_and(|store| store.0 == b"true");
            if stored || !(cold || any_chat) {
                return None;
            }
        }
        // of speech these only say how the same bytes are sent
        let framing = |name: &str, value: &Canonical| match name {
            "stream" => matches!(value.0.as_slice(), b"true" | b"false"),
            "stream_format" => value.0 == b"\"audio",
            _ => false,
        };
        let spoken = operation == Operation::Speech;
        fields.retain(|(name, value)| {
            let tells_nothing = self.fixed.contains(name) || (spoken && framing(name, value));
            !tells_nothing
        });
        Some(object(fields))
    }

    /// What a form says: its parts by name, each as the digest of its bytes.
    pub(crate) fn form(&self, mut parts: Vec<(&str, Digest)>) -> Digest {
        parts.retain(|(name, _)| !self.fixed.iter().any(|fixed| fixed == name));
        // those of one name stay in their order
        parts.sort_by_key(|(name, _)| *name);
        let mut hasher = Hasher::new("form");
        for (name, digest) in parts {
            hasher.part(name.as_bytes()).part(&digest);
        }
        hasher.finish()
    }
}

/// A request, but for its body.
pub(crate) struct Question<'a> {
    pub(crate) route: &'a RouteKey,
    pub(crate) caller: Caller,
    pub(crate) operation: Operation,
    /// In canonical form.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    /// Headers that say who asks.
    pub(crate) credentials: &'static [&'static str],
    /// The body is a form, which says how it is written in its own type.
    pub(crate) form: bool,
    /// Only pools at home may be asked.
    pub(crate) home: bool,
    /// Servers answer for themselves which pages may read what they say.
    pub(crate) origins: bool,
}

impl Question<'_> {
    /// The key with a body that says this.
    pub(crate) fn key(&self, body: Digest) -> Key {
        let mut hasher = Hasher::new("trunkline cache 1");
        match self.caller {
            Caller::Own(digest) => hasher.part(b"own").part(&digest),
            Caller::Any => hasher.part(b"any"),
        };
        hasher.part(&self.route.rules);
        hasher.part(self.operation.label().as_bytes());
        hasher.part(self.path.as_bytes());
        hasher.part(match self.query {
            Some(_) => b"?",
            None => b"",
        });
        hasher.part(self.query.unwrap_or_default().as_bytes());
        hasher.part(&[u8::from(self.home)]);
        let mut names: Vec<&str> = self.headers.keys().map(HeaderName::as_str).collect();
        names.retain(|name| self.counts(name));
        names.sort_unstable();
        for name in names {
            let values = self.headers.get_all(name);
            hasher.part(name.as_bytes());
            hasher.part(&(values.iter().count() as u64).to_le_bytes());
            for value in values {
                hasher.part(value.as_bytes());
            }
        }
        hasher.part(&body);
        Key(hasher.finish())
    }

    /// Whether a header makes another request of it; the name in lower case.
    fn counts(&self, name: &str) -> bool {
        let spoken = self.operation == Operation::Speech;
        let neutral = NEUTRAL.contains(&name)
            || NEUTRAL_STARTS.iter().any(|start| name.starts_with(start))
            || self.credentials.contains(&name)
            || (spoken && NEUTRAL_TO_SPEECH.contains(&name))
            || (self.form && name == "content-type")
            || (!self.origins && name == "origin");
        !neutral
    }

    /// Whether answers that vary by this header are told apart by the key.
    pub(crate) fn tells(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let whose = self.credentials.contains(&name.as_str());
        match whose {
            true => self.caller != Caller::Any,
            // what a listener says of that itself is not kept
            false => name != "*" && (self.counts(&name) || name == "origin"),
        }
    }
}

/// A JSON value in its one form: a scalar as text, with a mark in front of strings, anything larger
/// as its digest.
struct Canonical(Vec<u8>);

/// The fields of an object.
struct Object(Vec<(String, Canonical)>);

impl Canonical {
    fn is_zero(&self) -> bool {
        let text = std::str::from_utf8(&self.0).unwrap_or_default();
        text.parse::<f64>() == Ok(0.0)
    }
}

fn object(mut fields: Vec<(String, Canonical)>) -> Digest {
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hasher = Hasher::new("object");
    for (name, value) in fields {
        hasher.part(name.as_bytes()).part(&value.0);
    }
    hasher.finish()
}

/// Reads any value.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Canonical;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Canonical, E> {
        Ok(Canonical(b"null".to_vec()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string().into_bytes()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string().into_bytes()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string().into_bytes()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Canonical, E> {
        // servers with integers of any length would tell two of these apart
        if value.abs() >= (1u64 << 53) as f64 {
            return Err(E::custom("a number that is not exact"));
        }
        Ok(Canonical(format!("{value:?}").into_bytes()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Canonical, E> {
        Ok(Canonical([b"\"", value.as_bytes()].concat()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Canonical, A::Error> {
        let mut hasher = Hasher::new("array");
        while let Some(value) = seq.next_element::<Canonical>()? {
            hasher.part(&value.0);
        }
        Ok(Canonical([b"[", hasher.finish().as_slice()].concat()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Canonical, A::Error> {
        let fields = entries(map)?;
        Ok(Canonical([b"{", object(fields).as_slice()].concat()))
    }
}

fn entries<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<(String, Canonical)>, A::Error> {
    let mut fields = Vec::new();
    while let Some(entry) = map.next_entry()? {
        fields.push(entry);
    }
    Ok(fields)
}

impl<'de> Deserialize<'de> for Canonical {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
                entries(map).map(Object)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests;
