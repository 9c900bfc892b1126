//! Answers that are kept for who asks the same again.
//!
//! Says whether an answer is there, on its way, or to be fetched; it fetches nothing itself. What
//! makes two requests the same stands in `key`, who waits for whom in `flight`, what is kept and
//! what goes in `memory`, and in `disk` for speech, which is worth it: others stay off disks.

mod disk;
mod flight;
pub(crate) mod format;
pub(crate) mod key;
mod memory;
#[cfg(test)]
pub(crate) mod props;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prometheus::{IntCounter, IntGauge};

pub(crate) use flight::{Begun, First, Follower, Next};

use crate::config;
use crate::inspect::endpoint::Operation;
use disk::Disk;
use flight::Flight;
use key::{Key, Question};
use memory::Memory;

/// Headers of an answer that are kept with it; the others are about the one request.
const KEPT_HEADERS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "openai-model",
    "vary",
    "x-voice",
];

pub(crate) type Headers = Vec<(HeaderName, HeaderValue)>;

/// An answer with status 200, whole.
pub(crate) struct Stored {
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    since: Instant,
    /// How old it was then.
    before: Duration,
}

/// On what terms answers are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How old an answer may be.
    pub(crate) ttl: Duration,
    /// In bytes.
    pub(crate) max_object: u64,
    /// Also on disk, if there is one.
    pub(crate) disk: bool,
}

/// What is counted of a place where answers are kept.
#[derive(Clone)]
pub(crate) struct Tier {
    pub(crate) bytes: IntGauge,
    pub(crate) evictions: IntCounter,
}

impl Tier {
    /// Counts by differences: after a reload another store may count there too.
    fn tell(&self, told: &mut u64, bytes: u64) {
        self.bytes.add(bytes as i64 - *told as i64);
        *told = bytes;
    }
}

/// All that is kept, and all that is on its way.
pub(crate) struct Cache {
    pub(crate) settings: config::Cache,
    memory: Memory,
    disk: Option<Disk>,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    /// Grows each time all is forgotten: what was on its way then is not kept.
    generation: AtomicU64,
}

/// What there is for a request.
pub(crate) enum Found {
    Hit(Arc<Stored>),
    /// Somebody is asking for it.
    Follow(Follower),
    /// Nobody is: this one is to ask, for all who come meanwhile.
    Lead(Box<Lead>),
}

/// Who asks a server, and tells the cache what is answered.
pub(crate) struct Lead {
    cache: Arc<Cache>,
    key: Key,
    flight: Arc<Flight>,
    /// Others may find it.
    listed: bool,
    terms: Terms,
    generation: u64,
    /// It takes pieces.
    begun: bool,
    /// What it takes may be kept.
    keeps: bool,
}

impl Stored {
    fn new(headers: Headers, body: Bytes) -> Self {
        Self::aged(headers, body, Duration::ZERO)
    }

    fn aged(headers: Headers, body: Bytes, age: Duration) -> Self {
        Stored {
            headers,
            body,
            since: Instant::now(),
            before: age,
        }
    }

    pub(crate) fn age(&self) -> Duration {
        self.before.saturating_add(self.since.elapsed())
    }
}

impl Cache {
    /// Without its disk, if there should be one and it cannot be used: that is no reason not to
    /// serve.
    pub(crate) fn new(settings: config::Cache, tier: &dyn Fn(&str) -> Tier) -> Arc<Self> {
        let disk = settings.disk.as_ref().and_then(|disk| {
            let opened = Disk::open(disk, tier("disk"));
            let path = disk.path.display();
            opened
                .inspect_err(|error| log::error!("no answers are kept in {path}: {error}"))
                .ok()
        });
        Arc::new(Cache {
            memory: Memory::new(settings.memory, tier("memory")),
            disk,
            settings,
            flights: Mutex::default(),
            generation: AtomicU64::new(0),
        })
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is in memory, or on its way.
    pub(crate) fn look(self: &Arc<Self>, key: Key, terms: Terms) -> Found {
        if let Some(stored) = self.fresh(&key, terms.ttl) {
            return Found::Hit(stored);
        }
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            return Found::Follow(flight.join());
        }
        // who led may have come home in between
        if let Some(stored) = self.fresh(&key, terms.ttl) {
            return Found::Hit(stored);
        }
        let lead = self.lead(key, terms, true);
        flights.insert(key, lead.flight.clone());
        Found::Lead(Box::new(lead))
    }

    fn fresh(&self, key: &Key, ttl: Duration) -> Option<Arc<Stored>> {
        let stored = self.memory.get(key)?;
        (stored.age() < ttl).then_some(stored)
    }

    /// Asks for itself alone, whoever else does.
    pub(crate) fn lead_alone(self: &Arc<Self>, key: Key, terms: Terms) -> Box<Lead> {
        Box::new(self.lead(key, terms, false))
    }

    fn lead(self: &Arc<Self>, key: Key, terms: Terms, listed: bool) -> Lead {
        Lead {
            cache: self.clone(),
            key,
            flight: Flight::new(),
            listed,
            terms,
            generation: self.generation.load(Relaxed),
            begun: false,
            keeps: true,
        }
    }

    /// Forgets everything; says how many answers that were in memory and on disk. Takes the time
    /// that disks take.
    pub(crate) fn clear(&self) -> (usize, usize) {
        self.generation.fetch_add(1, Relaxed);
        let on_disk = self.disk.as_ref().map_or(0, Disk::clear);
        (self.memory.clear(), on_disk)
    }
}

impl Lead {
    /// Looks on disk, if an answer may be there; to be called where that holds up nobody.
    pub(crate) fn look_on_disk(&self) -> Option<impl FnOnce() -> Option<Stored> + Send + 'static> {
        let (cache, key, terms) = (self.cache.clone(), self.key, self.terms);
        let looks = terms.disk && cache.disk.is_some();
        looks.then_some(move || cache.disk.as_ref()?.read(key, terms.ttl, terms.max_object))
    }

    /// It was on disk, and is for all who wait.
    pub(crate) fn found(mut self, stored: Stored) -> Arc<Stored> {
        let stored = Arc::new(stored);
        self.flight.begin(Begun {
            headers: stored.headers.clone(),
            length: Some(stored.body.len() as u64),
            age: stored.age(),
        });
        self.flight.push(stored.body.clone());
        self.flight.whole();
        if self.is_of_now() {
            self.cache.memory.put(self.key, stored.clone());
        }
        self.unlist();
        stored
    }

    /// All was not forgotten meanwhile.
    fn is_of_now(&self) -> bool {
        self.generation == self.cache.generation.load(Relaxed)
    }

    /// The answer has begun, and it may be kept if it does not grow too large.
    pub(crate) fn begin(&mut self, headers: Headers, length: Option<u64>) {
        if length.is_some_and(|length| length > self.terms.max_object) {
            return self.refuse();
        }
        self.begun = true;
        let age = Duration::ZERO;
        self.flight.begin(Begun {
            headers,
            length,
            age,
        });
    }

    /// Takes the next piece of the answer.
    pub(crate) fn push(&mut self, piece: &Bytes) {
        if !self.begun {
            return;
        }
        let length = self.flight.push(piece.clone());
        if length as u64 > self.terms.max_object {
            if std::mem::take(&mut self.keeps) {
                self.unlist();
            }
            self.begun = self.flight.give_up_keeping();
        }
    }

    /// What is answered is for nobody else.
    pub(crate) fn refuse(&mut self) {
        self.begun = false;
        self.keeps = false;
        self.unlist();
        self.flight.refuse();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether somebody else reads along.
    pub(crate) fn is_followed(&self) -> bool {
        self.begun && self.flight.is_followed()
    }

    /// The answer is whole; it is kept if `sound` says so, and returned then.
    pub(crate) fn whole(mut self, sound: impl FnOnce(&Stored) -> bool) -> Option<Arc<Stored>> {
        if !self.begun {
            return None;
        }
        let mut kept = None;
        self.flight.whole();
        if self.keeps
            && self.is_of_now()
            && let Some(stored) = self.flight.stored()
            && !stored.body.is_empty()
            && sound(&stored)
        {
            let stored = Arc::new(stored);
            self.cache.memory.put(self.key, stored.clone());
            if let (Some(disk), true) = (&self.cache.disk, self.terms.disk) {
                disk.keep(self.key, stored.clone());
            }
            kept = Some(stored);
        }
        // only now: whoever finds it neither here nor there asks again
        self.unlist();
        kept
    }

    /// What it is kept under.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms
    }

    fn unlist(&mut self) {
        if !std::mem::take(&mut self.listed) {
            return;
        }
        self.cache.flights().remove(&self.key);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.unlist();
        self.flight.abandon();
    }
}

/// Whether an answer with this head may be kept: its server does not forbid it, it is nobody's
/// session, and the key tells apart what it varies by.
pub(crate) fn may_be_kept(answer: &HeaderMap, question: &Question<'_>) -> bool {
    let words = |name: HeaderName| {
        let values = answer.get_all(name).iter();
        let texts = values.map(|value| value.to_str().unwrap_or("*"));
        texts.flat_map(|text| text.split(',')).map(str::trim)
    };
    let forbidden = words(header::CACHE_CONTROL).any(|word| {
        let word = word.split('=').next().unwrap_or(word).trim();
        word.eq_ignore_ascii_case("no-store") || word.eq_ignore_ascii_case("private")
    });
    let varies = words(header::VARY).any(|name| !name.is_empty() && !question.tells(name));
    let content_type = answer.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let content_type = String::from_utf8_lossy(content_type.unwrap_or_default()).to_lowercase();
    let events = content_type.starts_with("text/event-stream");
    let spoken = question.operation == Operation::Speech;
    // what is no audio says that something went wrong; what is packed is not for everybody
    let odd = spoken
        && (answer.contains_key(header::CONTENT_ENCODING)
            || content_type.contains("json")
            || (content_type.starts_with("text/") && !events));
    !(forbidden || varies || odd || answer.contains_key(header::SET_COOKIE))
}

/// What of an answer's headers is kept with it.
pub(crate) fn kept_headers(answer: &HeaderMap) -> Headers {
    let kept = answer
        .iter()
        .filter(|(name, _)| KEPT_HEADERS.contains(&name.as_str()));
    kept.map(|(n, v)| (n.clone(), v.clone())).collect()
}

pub(crate) fn is_event_stream(headers: &Headers) -> bool {
    headers.iter().any(|(name, value)| {
        let value = value.as_bytes().to_ascii_lowercase();
        *name == header::CONTENT_TYPE && value.starts_with(b"text/event-stream")
    })
}

/// Whether an answer that ended well says nothing else inside: an event stream has its last event,
/// and none that is an error. One that is packed cannot be looked into.
pub(crate) fn is_sound(stored: &Stored) -> bool {
    if !is_event_stream(&stored.headers) {
        return true;
    }
    let packed = stored
        .headers
        .iter()
        .any(|(name, _)| *name == header::CONTENT_ENCODING);
    let has = |text: &str| memchr::memmem::find(&stored.body, text.as_bytes()).is_some();
    let ended = ["data: [DONE]", "speech.audio.done", "transcript.text.done"];
    let failed = ["data: {\"error\"", "data:{\"error\"", "event: error"];
    !packed && ended.into_iter().any(has) && !failed.into_iter().any(has)
}

/// What a client says of caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Answers that are this old at most; `None` for whatever the route keeps.
    Cached(Option<Duration>),
    /// A new answer, which may be kept.
    Fresh,
    /// Nothing of it is to be kept.
    NoStore,
}

impl Wish {
    pub(crate) fn of(client: &HeaderMap) -> Self {
        let mut wish = Wish::Cached(None);
        let values = client.get_all(header::CACHE_CONTROL).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for word in texts.flat_map(|text| text.split(',')) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => return Wish::NoStore,
                "no-cache" => wish = Wish::Fresh,
                "max-age" if matches!(wish, Wish::Cached(_)) => {
                    let age = value.trim().trim_matches('"').parse().unwrap_or(0);
                    wish = match age {
                        0 => Wish::Fresh,
                        age => Wish::Cached(Some(Duration::from_secs(age))),
                    };
                }
                _ => {}
            }
        }
        wish
    }
}

#[cfg(test)]
mod tests;
