//! Tokens of an identity provider: its keys as they are now, and the tokens that were verified with
//! them.
//!
//! A token comes with every request of a conversation, so a good one is remembered by its hash until
//! it ends. What is remembered belongs to one set of keys and goes with it: a key that the provider
//! takes back is believed no longer than its set.
//!
//! Nobody is asked here. `service::jwks` asks when it is due, and says what it heard.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use lru::LruCache;

use super::token::{Good, Refusal, Token};
use crate::config::KeyHash;
use crate::config::jwks::JwkSet;
use crate::config::jwt::{Jwks, Jwt};

/// Good tokens that are remembered: some 150 bytes each.
const MOST_REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).expect("it is not zero");
/// Shortest time between two questions to a provider because a token names a key that it has not.
const DEMANDS: Duration = Duration::from_secs(30);
/// Pauses before a provider is asked again that did not answer: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Whom tokens stand for.
pub(crate) struct Identities {
    pub(crate) jwt: Jwt,
    /// `None` until the provider has told its keys.
    known: ArcSwapOption<Known>,
    /// A token named a key that is not in the set.
    wanted: AtomicBool,
    asking: Mutex<Asking>,
}

/// The keys of the moment, and the tokens they have verified.
struct Known {
    set: JwkSet,
    good: Mutex<LruCache<[u8; 32], Good>>,
}

/// When the provider was asked, and how that went.
#[derive(Clone, Copy, Debug, Default)]
struct Asking {
    last: Option<Instant>,
    /// The last time a token was the reason.
    demanded: Option<Instant>,
    /// Questions without an answer, since the last one with.
    failures: u32,
}

/// What an answer of the provider changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The keys are others than before.
    pub(crate) changed: bool,
    /// It did not answer before.
    pub(crate) again: bool,
}

impl Identities {
    /// `before`: of the configuration that this one follows. What was learned stays, as far as the
    /// same is asked.
    pub(super) fn new(jwt: Option<&Jwt>, before: Option<&Arc<Identities>>) -> Option<Arc<Self>> {
        let jwt = jwt?;
        if let Some(same) = before.filter(|before| before.jwt == *jwt) {
            return Some(same.clone());
        }
        let (set, asking) = match &jwt.jwks {
            Jwks::File(_, set) => (Some(set.clone()), Asking::default()),
            Jwks::Url { url, .. } => {
                let same = before.filter(|before| before.url() == Some(url));
                let known = same.and_then(|before| before.known.load_full());
                let asking = same.map(|before| *before.asking()).unwrap_or_default();
                (known.map(|known| known.set.clone()), asking)
            }
        };
        Some(Arc::new(Identities {
            jwt: jwt.clone(),
            known: ArcSwapOption::new(set.map(Known::new)),
            wanted: AtomicBool::new(false),
            asking: Mutex::new(asking),
        }))
    }

    /// Where the provider is asked; `None` if its keys are in a file.
    pub(crate) fn url(&self) -> Option<&crate::config::jwt::JwksUrl> {
        match &self.jwt.jwks {
            Jwks::Url { url, .. } => Some(url),
            Jwks::File(..) => None,
        }
    }

    /// Keys that are known now.
    pub(crate) fn keys(&self) -> usize {
        let known = self.known.load();
        known.as_ref().map_or(0, |known| known.set.keys.len())
    }

    /// Whether a credential is a token of this provider, good or not: those stay here.
    pub(super) fn are_of(&self, shown: &[u8]) -> bool {
        Token::of(shown).is_some_and(|token| token.may_be_of(&self.jwt.issuer))
    }

    /// The subject of a token; `None` if what is shown is no token. `hash` is its own.
    pub(super) fn subject(
        &self,
        shown: &[u8],
        hash: &KeyHash,
        now: SystemTime,
    ) -> Option<Result<Arc<str>, Refusal>> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = now.as_secs_f64();
        let known = self.known.load();
        let remembered = known.as_ref().and_then(|known| known.remembered(hash, now));
        let found = match (remembered, known.as_ref()) {
            (Some(good), _) => Ok(good),
            (None, known) => {
                let token = Token::of(shown)?;
                match known {
                    Some(known) => known.verify(&token, hash, &self.jwt, now),
                    None => Err(Refusal::NoKeys),
                }
            }
        };
        if found == Err(Refusal::UnknownKey) {
            self.wanted.store(true, Relaxed);
        }
        Some(found.and_then(|good| good.subject.ok_or(Refusal::Nobody)))
    }

    // === what service::jwks asks and tells ===

    /// Whether the provider is to be asked now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let Jwks::Url { refresh, .. } = &self.jwt.jwks else {
            return false;
        };
        let mut asking = self.asking();
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        let pause = match asking.failures {
            0 => *refresh,
            n => {
                let longer = PAUSES[0].saturating_mul(1 << (n - 1).min(16));
                longer.min(PAUSES[1]).min(*refresh)
            }
        };
        if since(asking.last).is_none_or(|since| since >= pause) {
            return true;
        }
        let may = since(asking.demanded).is_none_or(|since| since >= DEMANDS);
        let demanded = may && self.wanted.swap(false, Relaxed);
        if demanded {
            asking.demanded = Some(now);
        }
        demanded
    }

    /// The provider has told its keys.
    pub(crate) fn heard(&self, set: JwkSet, now: Instant) -> Heard {
        let mut asking = self.asking();
        let again = asking.failures > 0;
        asking.last = Some(now);
        asking.failures = 0;
        self.wanted.store(false, Relaxed);
        let known = self.known.load();
        let changed = known.as_ref().is_none_or(|known| known.set != set);
        if changed {
            self.known.store(Some(Known::new(set)));
        }
        Heard { changed, again }
    }

    /// The provider has not told its keys. Says whether that is new.
    pub(crate) fn heard_nothing(&self, now: Instant) -> bool {
        let mut asking = self.asking();
        asking.last = Some(now);
        asking.failures = asking.failures.saturating_add(1);
        asking.failures == 1
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(set: JwkSet) -> Arc<Self> {
        Arc::new(Known {
            set,
            good: Mutex::new(LruCache::new(MOST_REMEMBERED)),
        })
    }

    fn good(&self) -> MutexGuard<'_, LruCache<[u8; 32], Good>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, hash: &KeyHash, now: f64) -> Option<Good> {
        let mut good = self.good();
        let found = good.get(&hash.0)?;
        if now < found.end {
            return Some(found.clone());
        }
        good.pop(&hash.0);
        None
    }

    fn verify(
        &self,
        token: &Token<'_>,
        hash: &KeyHash,
        jwt: &Jwt,
        now: f64,
    ) -> Result<Good, Refusal> {
        let verified = token.verify(&self.set, jwt, now)?;
        self.good().put(hash.0, verified.clone());
        Ok(verified)
    }
}

#[cfg(test)]
mod tests;
