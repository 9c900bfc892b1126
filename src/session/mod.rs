//! What was said in sessions, for routes with `memory`.
//!
//! A session is found by a key that holds whose it is, so that nobody reads another's. What a
//! message is stands in `message`, how an answer becomes one in `answer`, what goes together and what
//! has to go in `history`. Asks nobody and waits for nobody.

mod answer;
mod history;
mod message;
#[cfg(test)]
pub(crate) mod props;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;
use prometheus::{IntCounter, IntGauge};
use serde_json::value::RawValue;

pub(crate) use answer::Hearing;
pub(crate) use history::front;
use message::Message;
pub(crate) use message::{Messages, Said, said};

use crate::config::SessionBounds;

/// What a session costs besides its messages: tables, lists and allocations.
const OVERHEAD: u64 = 512;
/// The same of a message besides its text.
const PER_MESSAGE: u64 = 256;

/// SHA-256 of whose session it is, and of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 32]);

/// What is counted of sessions.
#[derive(Clone)]
pub(crate) struct Counts {
    pub(crate) sessions: IntGauge,
    pub(crate) bytes: IntGauge,
    /// Sessions that made room for others.
    pub(crate) evicted: IntCounter,
    /// Messages beyond the bounds of their sessions.
    pub(crate) dropped: IntCounter,
}

/// What is remembered of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) messages: Messages,
    /// Messages of it that were too much, so far.
    pub(crate) dropped: u64,
}

/// A session as other edges are told of it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    messages: Vec<Box<RawValue>>,
    dropped: u64,
}

impl Remembered {
    /// Adds what was said; says how many messages were too much for the bounds now.
    pub(crate) fn join(&mut self, said: Messages, bounds: &SessionBounds) -> u64 {
        let (dropped, replaced) = history::join(&mut self.messages, said, bounds);
        self.dropped = match replaced {
            true => dropped,
            false => self.dropped + dropped,
        };
        dropped
    }

    /// As text for other edges.
    pub(crate) fn told(&self) -> String {
        let texts = self.messages.iter().map(|message| message.text.to_vec());
        let texts = texts.filter_map(|text| String::from_utf8(text).ok());
        let told = Told {
            messages: texts
                .filter_map(|text| RawValue::from_string(text).ok())
                .collect(),
            dropped: self.dropped,
        };
        serde_json::to_string(&told).unwrap_or_default()
    }

    /// From such a text; `None` if it is none.
    pub(crate) fn heard(text: &str) -> Option<Self> {
        let told: Told = serde_json::from_str(text).ok()?;
        let messages = told.messages.iter().map(|text| Message::read(text.get()));
        Some(Remembered {
            messages: messages
                .map(|one| one.map(Arc::new))
                .collect::<Option<_>>()?,
            dropped: told.dropped,
        })
    }
}

/// All sessions, by what was asked for last. The bound is in bytes, over all of them.
pub(crate) struct Sessions {
    kept: Mutex<Kept>,
    limit: AtomicU64,
    counts: Counts,
}

struct Kept {
    sessions: LruCache<Key, Session>,
    bytes: u64,
    /// What the gauges were told: others may count there too.
    told: (i64, i64),
}

struct Session {
    remembered: Remembered,
    /// What was said here and other edges were not told, one request after the other.
    untold: Vec<Messages>,
    bytes: u64,
    until: Instant,
}

impl Session {
    fn new(now: Instant) -> Self {
        Session {
            remembered: Remembered::default(),
            untold: Vec::new(),
            bytes: 0,
            until: now,
        }
    }
}

impl Kept {
    fn take(&mut self, key: &Key) -> Option<Session> {
        let session = self.sessions.pop(key)?;
        self.bytes -= session.bytes;
        Some(session)
    }

    fn take_oldest(&mut self) -> Option<Session> {
        let (_, session) = self.sessions.pop_lru()?;
        self.bytes -= session.bytes;
        Some(session)
    }

    /// Takes out those that are over, as far as no other was used before them.
    fn take_ended(&mut self, now: Instant, gone: &mut Vec<Session>) {
        let over = |session: &Session| session.until <= now;
        while self
            .sessions
            .peek_lru()
            .is_some_and(|(_, session)| over(session))
        {
            gone.extend(self.take_oldest());
        }
    }

    fn tell(&mut self, counts: &Counts) {
        let now = (self.sessions.len() as i64, self.bytes as i64);
        counts.sessions.add(now.0 - self.told.0);
        counts.bytes.add(now.1 - self.told.1);
        self.told = now;
    }
}

impl Sessions {
    /// `limit` in bytes.
    pub(crate) fn new(limit: u64, counts: Counts) -> Self {
        Sessions {
            kept: Mutex::new(Kept {
                sessions: LruCache::unbounded(),
                bytes: 0,
                told: (0, 0),
            }),
            limit: AtomicU64::new(limit),
            counts,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets another bound, in bytes; it holds from the next thing that is said.
    pub(crate) fn limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// What is remembered of a session; nothing if there is none.
    pub(crate) fn load(&self, key: &Key, now: Instant) -> Remembered {
        let mut kept = self.kept();
        let found = kept.sessions.get(key).filter(|found| found.until > now);
        found
            .map(|found| found.remembered.clone())
            .unwrap_or_default()
    }

    /// What of a session other edges were not told; `None` if nothing is known of it here.
    pub(crate) fn untold(&self, key: &Key) -> Option<Vec<Messages>> {
        let kept = self.kept();
        kept.sessions.peek(key).map(|found| found.untold.clone())
    }

    /// Adds what was said, all of it or nothing: questions and, at the end, the answer.
    pub(crate) fn append(&self, key: Key, said: Messages, bounds: &SessionBounds, now: Instant) {
        let join = |session: &mut Session| session.remembered.join(said, bounds);
        self.change(key, bounds, now, join);
    }

    /// The same, and notes that other edges are to be told.
    pub(crate) fn append_untold(
        &self,
        key: Key,
        said: Messages,
        bounds: &SessionBounds,
        now: Instant,
    ) {
        self.change(key, bounds, now, |session| {
            session.untold.push(said.clone());
            let dropped = session.remembered.join(said, bounds);
            // what was dropped here need not be told either
            let most = session.remembered.messages.len();
            while session.untold.len() > 1
                && session.untold.iter().map(Vec::len).sum::<usize>() > most
            {
                session.untold.remove(0);
            }
            dropped
        });
    }

    /// Knows from now on what others know of a session, who were told what was said in the first
    /// `told` requests that they did not know of.
    pub(crate) fn replace(
        &self,
        key: Key,
        known: Remembered,
        told: usize,
        bounds: &SessionBounds,
        now: Instant,
    ) {
        self.change(key, bounds, now, |session| {
            let before = session.remembered.dropped;
            session.remembered = known;
            session.untold.drain(..told.min(session.untold.len()));
            for said in session.untold.clone() {
                session.remembered.join(said, bounds);
            }
            session.remembered.dropped.saturating_sub(before)
        });
    }

    /// Changes a session; `change` says how many messages were dropped by it.
    fn change(
        &self,
        key: Key,
        bounds: &SessionBounds,
        now: Instant,
        change: impl FnOnce(&mut Session) -> u64,
    ) {
        // freed when nobody waits for it
        let mut gone = Vec::new();
        let mut evicted = 0;
        let mut kept = self.kept();
        kept.take_ended(now, &mut gone);
        let before = kept.take(&key).filter(|session| session.until > now);
        let mut session = before.unwrap_or_else(|| Session::new(now));
        let dropped = change(&mut session);
        let remembered = &session.remembered;
        if !remembered.messages.is_empty() || remembered.dropped > 0 {
            let sizes = remembered.messages.iter().map(|m| m.size + PER_MESSAGE);
            session.bytes = OVERHEAD + sizes.sum::<u64>();
            session.until = now + bounds.ttl;
            kept.bytes += session.bytes;
            kept.sessions.put(key, session);
        }
        while kept.bytes > self.limit.load(Relaxed)
            && let Some(oldest) = kept.take_oldest()
        {
            gone.push(oldest);
            evicted += 1;
        }
        kept.tell(&self.counts);
        drop(kept);
        self.counts.evicted.inc_by(evicted);
        self.counts.dropped.inc_by(dropped);
    }

    /// Forgets those that are over, which nobody else would while nothing is said.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut kept = self.kept();
        kept.take_ended(now, &mut gone);
        kept.tell(&self.counts);
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let mut kept = self.kept();
        kept.sessions.clear();
        kept.bytes = 0;
        kept.tell(&self.counts);
    }
}

/// The messages as they stand in a list, each with the comma behind it.
pub(crate) fn listed(messages: &[Arc<Message>]) -> bytes::Bytes {
    let length = messages.iter().map(|message| message.text.len() + 1).sum();
    let mut out = Vec::with_capacity(length);
    for message in messages {
        out.extend_from_slice(&message.text);
        out.push(b',');
    }
    out.into()
}

#[cfg(test)]
mod tests;
