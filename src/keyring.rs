//! The keys of clients: found by their hash, however many there are, or named by a token.

mod identities;
#[cfg(test)]
pub(crate) mod props;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use subtle::ConstantTimeEq;

use crate::config::jwt::Jwt;
use crate::config::{Key, KeyHash};

pub(crate) use identities::Identities;
pub(crate) use token::Refusal;

/// Header fields in which a key may come, besides `Authorization: Bearer`.
const FIELDS: &[&str] = &["api-key", "x-api-key"];

/// All keys.
#[derive(Default)]
pub(crate) struct Keyring {
    /// By the first half of their hashes.
    by_hash: HashMap<[u8; 16], usize>,
    /// By what tokens call them; empty if no token is taken.
    by_subject: HashMap<String, usize>,
    identities: Option<Arc<Identities>>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It shows no key.
    Missing,
    /// It shows one that is none of ours.
    Unknown,
    Expired,
    /// It shows a token that is not good.
    Token(Refusal),
}

impl Keyring {
    /// `before`: of the configuration that this one follows.
    pub(crate) fn new(keys: &[Key], jwt: Option<&Jwt>, before: Option<&Keyring>) -> Self {
        let identities = Identities::new(jwt, before.and_then(|old| old.identities.as_ref()));
        let entries = || keys.iter().enumerate();
        let subjects = entries().filter(|_| identities.is_some());
        Keyring {
            by_hash: entries()
                .filter_map(|(n, key)| Some((half(key.hash.as_ref()?), n)))
                .collect(),
            by_subject: subjects
                .flat_map(|(n, key)| key.subjects.iter().map(move |name| (name.clone(), n)))
                .collect(),
            identities,
        }
    }

    /// Whether clients need no key.
    pub(crate) fn is_open(&self) -> bool {
        self.by_hash.is_empty() && self.identities.is_none()
    }

    /// Whom tokens stand for, if they stand for somebody.
    pub(crate) fn identities(&self) -> Option<&Arc<Identities>> {
        self.identities.as_ref()
    }

    /// Whether a credential, as a header carries it, is one of the keys, or a token that our clients
    /// show.
    pub(crate) fn knows(&self, keys: &[Key], credential: &[u8]) -> bool {
        if self.is_open() {
            return false;
        }
        let credential = credential.trim_ascii();
        let bare = bearer(credential).unwrap_or(credential);
        let of_ours = |identities: &Arc<Identities>| identities.are_of(bare);
        self.look_up(keys, &KeyHash::of(bare)).is_some()
            || self.identities.as_ref().is_some_and(of_ours)
    }

    /// The half that is looked up tells nothing of a key; all of it is compared in constant time.
    fn look_up(&self, keys: &[Key], hash: &KeyHash) -> Option<usize> {
        let found = self.by_hash.get(&half(hash)).copied()?;
        let own = keys[found].hash.as_ref()?;
        bool::from(hash.0.ct_eq(&own.0)).then_some(found)
    }

    /// The key that a credential is, or names.
    fn of(&self, keys: &[Key], shown: &[u8], now: SystemTime) -> Result<usize, Denied> {
        let hash = KeyHash::of(shown);
        let found = match (self.look_up(keys, &hash), &self.identities) {
            (Some(found), _) => found,
            (None, None) => return Err(Denied::Unknown),
            (None, Some(identities)) => {
                let subject = identities.subject(shown, &hash, now);
                let subject = subject.ok_or(Denied::Unknown)?.map_err(Denied::Token)?;
                let named = self.by_subject.get(&*subject).copied();
                named.ok_or(Denied::Token(Refusal::Nobody))?
            }
        };
        match keys[found].expires.is_some_and(|end| end <= now) {
            true => Err(Denied::Expired),
            false => Ok(found),
        }
    }

    /// The index of the key that a request shows.
    ///
    /// # Errors
    /// If it shows none that is good today.
    pub(crate) fn find(
        &self,
        keys: &[Key],
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<usize, Denied> {
        let mut denied = Denied::Missing;
        for shown in shown(headers) {
            match self.of(keys, shown, now) {
                Ok(n) => return Ok(n),
                Err(Denied::Unknown) if denied != Denied::Missing => {}
                Err(why) => denied = why,
            }
        }
        Err(denied)
    }
}

fn half(hash: &KeyHash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.0[..16]);
    half
}

/// What a request shows that may be a key.
fn shown(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = |name: &'static str| headers.get_all(name).iter().map(|value| value.as_bytes());
    let bearer = values("authorization").filter_map(bearer);
    let plain = FIELDS.iter().flat_map(move |name| values(name));
    // browsers cannot set headers on a WebSocket (OpenAI's API reference, "Realtime")
    let protocols = values("sec-websocket-protocol").flat_map(|value| value.split(|b| *b == b','));
    let protocols =
        protocols.filter_map(|one| after(one.trim_ascii(), b"openai-insecure-api-key."));
    bearer
        .chain(plain.map(<[u8]>::trim_ascii))
        .chain(protocols)
        .filter(|shown| !shown.is_empty())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    after(value.trim_ascii(), b"bearer ").map(<[u8]>::trim_ascii)
}

/// What stands behind a prefix, in whatever case that is.
fn after<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn keys(texts: &[&str]) -> Vec<Key> {
        let keys = texts.iter();
        keys.map(|text| Key::plain(text, KeyHash::of(text.as_bytes())))
            .collect()
    }

    fn find(keys: &[Key], entries: &[(&'static str, &str)]) -> Result<usize, Denied> {
        let headers = entries.iter();
        let headers: HeaderMap = headers
            .map(|(name, value)| {
                (
                    name.parse::<http::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                )
            })
            .collect();
        Keyring::new(keys, None, None).find(keys, &headers, SystemTime::now())
    }

    #[test]
    fn a_key_is_found_where_clients_put_it() {
        let keys = keys(&["one", "two"]);
        assert_eq!(find(&keys, &[("authorization", "Bearer two")]), Ok(1));
        assert_eq!(find(&keys, &[("authorization", "bearer  one ")]), Ok(0));
        assert_eq!(find(&keys, &[("api-key", "one")]), Ok(0));
        assert_eq!(find(&keys, &[("x-api-key", "two")]), Ok(1));
        // a key of the service behind may stand beside ours
        let both = [
            ("authorization", "Bearer sk-of-openai"),
            ("x-api-key", "two"),
        ];
        assert_eq!(find(&keys, &both), Ok(1));
    }

    #[test]
    fn who_shows_nothing_good_is_told_why() {
        let mut keys = keys(&["one", "old"]);
        keys[1].expires = Some(SystemTime::now() - Duration::from_secs(1));
        assert_eq!(find(&keys, &[]), Err(Denied::Missing));
        assert_eq!(
            find(&keys, &[("authorization", "Basic b25l")]),
            Err(Denied::Missing)
        );
        assert_eq!(
            find(&keys, &[("authorization", "Bearer ")]),
            Err(Denied::Missing)
        );
        for wrong in ["Bearer on", "Bearer one1", "Bearer ONE"] {
            assert_eq!(
                find(&keys, &[("authorization", wrong)]),
                Err(Denied::Unknown),
                "{wrong}"
            );
        }
        assert_eq!(
            find(&keys, &[("authorization", "Bearer old")]),
            Err(Denied::Expired)
        );
    }
}
