//! That the system has no descriptors left: counted each time, told once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// How often the log says so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct Exhausted {
    count: IntCounter,
    told: Mutex<Option<Instant>>,
}

impl Exhausted {
    pub(crate) fn new(count: IntCounter) -> Self {
        Exhausted {
            count,
            told: Mutex::default(),
        }
    }

    /// `what` could not be done for that.
    pub(crate) fn note(&self, what: &str) {
        self.count.inc();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= SAY_AGAIN) {
            *told = Some(Instant::now());
            log::warn!(
                "the descriptors are used up: {what}; fewer `limits.connections`, or more of them (`LimitNOFILE=` of systemd, `ulimit -n`), prevent that"
            );
        }
    }
}
