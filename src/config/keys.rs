//! The keys of clients, and what each may ask for.

use std::time::SystemTime;

use super::Zone;
use super::pattern::Pattern;

/// A key of a client. The text itself is nowhere: only its hash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) name: String,
    /// `None` if only tokens name it.
    pub(crate) hash: Option<KeyHash>,
    /// Values of a token's claim that are this key: its name, unless others are written.
    pub(crate) subjects: Vec<String>,
    /// Models it may ask for; empty for all.
    pub(crate) models: Vec<Pattern>,
    /// Names of the routes it may take; empty for all.
    pub(crate) routes: Vec<String>,
    /// Its requests stay there.
    pub(crate) zone: Option<Zone>,
    pub(crate) limits: Quota,
    /// Units it may spend in a month of UTC.
    pub(crate) budget: Option<f64>,
    /// From when on it is good no more.
    pub(crate) expires: Option<SystemTime>,
}

impl Key {
    /// One that may do everything.
    #[cfg(test)]
    pub(crate) fn plain(name: &str, hash: KeyHash) -> Self {
        Key {
            name: name.to_owned(),
            hash: Some(hash),
            subjects: vec![name.to_owned()],
            models: Vec::new(),
            routes: Vec::new(),
            zone: None,
            limits: Quota::default(),
            budget: None,
            expires: None,
        }
    }

    pub(crate) fn may_ask(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }

    pub(crate) fn may_take(&self, route: &str) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|name| name == route)
    }
}

/// A key, hashed with BLAKE3. Keys are long and random, so nothing slow is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    pub(crate) fn of(key: &[u8]) -> Self {
        KeyHash(*blake3::hash(key).as_bytes())
    }
}

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl std::str::FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("blake3:").ok_or_else(|| {
            "a hash begins with `blake3:`; `trunkline key new` makes a key and its hash".to_owned()
        })?;
        let hash = blake3::Hash::from_hex(hex.trim());
        let hash = hash.map_err(|_| "behind `blake3:` stand 64 hexadecimal digits".to_owned())?;
        Ok(KeyHash(*hash.as_bytes()))
    }
}

/// What a model costs, in units that the operator chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Price {
    /// For each request.
    pub(crate) request: f64,
    /// For a million tokens of the request.
    pub(crate) input: f64,
    /// For a million tokens of the answer.
    pub(crate) output: f64,
    /// For a million characters of text to speak.
    pub(crate) characters: f64,
    /// For a minute of audio, spoken or sent.
    pub(crate) audio_minute: f64,
}

/// How much may be asked for: in flight at once, and of the rest in a minute. `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) requests: Option<u64>,
    pub(crate) concurrent: Option<u64>,
    /// Of the request and of its answer.
    pub(crate) tokens: Option<u64>,
    /// Of text to speak.
    pub(crate) characters: Option<u64>,
    /// Of audio, spoken or sent.
    pub(crate) audio_seconds: Option<u64>,
    /// Of request bodies.
    pub(crate) bytes: Option<u64>,
}
