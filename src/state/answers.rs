//! Answers that all edges keep together. A failure here is no more than a miss.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use redis::AsyncCommands;

use super::{State, UNKNOWN};

/// Largest answer that is kept there, in bytes.
const LARGEST: usize = 4 * 1024 * 1024;

impl State {
    /// `None` while it is not known what the others have forgotten.
    fn answer_key(&self, key: &[u8; 32]) -> Option<String> {
        let generation = self.generation.load(Relaxed);
        if generation == UNKNOWN {
            return None;
        }
        Some(self.key(format_args!("cache:{generation}:{}", super::hex(key))))
    }

    /// The bytes that are kept under a key, if they are and the server is there.
    pub(crate) async fn answer(&self, key: &[u8; 32]) -> Option<Bytes> {
        let connected = self.connected.load_full()?;
        let mut bulk = connected.bulk.clone();
        let found: Result<Option<Vec<u8>>, _> = bulk.get(self.answer_key(key)?).await;
        let found = found.inspect_err(|error| self.bulk_failed(&connected, "answer", error));
        found.ok()?.map(Bytes::from)
    }

    /// Keeps bytes under a key for so long.
    pub(crate) async fn keep_answer(&self, key: &[u8; 32], bytes: Vec<u8>, ttl: Duration) {
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let connected = self.connected.load_full();
        let (Some(connected), Some(name)) = (connected, self.answer_key(key)) else {
            return;
        };
        if bytes.len() > LARGEST || milliseconds == 0 {
            return;
        }
        let mut bulk = connected.bulk.clone();
        let kept: Result<(), _> = bulk.pset_ex(name, bytes, milliseconds).await;
        if let Err(error) = kept {
            self.bulk_failed(&connected, "keep", &error);
        }
    }

    /// Has all edges forget what they keep; says whether they will hear of it.
    pub(crate) async fn forget_answers(&self) -> bool {
        let Some(connected) = self.connected.load_full() else {
            return false;
        };
        let name = self.key(format_args!("cache:generation"));
        let mut bulk = connected.bulk.clone();
        let forgotten: Result<u64, _> = bulk.incr(name, 1).await;
        let forgotten =
            forgotten.inspect_err(|error| self.bulk_failed(&connected, "forget", error));
        forgotten.is_ok()
    }
}
