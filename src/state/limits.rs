//! Limits over all edges.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{GONE, SCRIPTS, State};
use crate::limit::{Left, Unit};

/// Corrections that are kept for the server at most. What is older is of a minute that is over.
const MOST: usize = 100_000;
/// Corrections that are sent at once.
const AT_ONCE: usize = 500;

/// What a request takes of one limit.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Whose limit it is, such as `key:alice`.
    pub(crate) whose: String,
    pub(crate) unit: Unit,
    /// In a minute, or at once.
    pub(crate) limit: u64,
    pub(crate) n: u64,
}

/// Claims that were granted.
pub(crate) struct Granted {
    /// The edge as which they were taken.
    pub(crate) edge: Arc<str>,
    /// What is left, for claims of what comes by the minute.
    pub(crate) left: Vec<(Unit, Left)>,
}

/// The claim that was not, and the time to wait.
pub(crate) struct Refused {
    pub(crate) claim: usize,
    pub(crate) wait: Duration,
}

/// What is still to be told.
#[derive(Default)]
pub(super) struct Outbox {
    corrections: VecDeque<Correction>,
    /// Servers, and for how long they are ejected.
    ejections: Vec<(String, Duration)>,
}

struct Correction {
    edge: Arc<str>,
    claim: Claim,
    more: i64,
}

fn form(unit: Unit) -> &'static str {
    match unit {
        Unit::Concurrent => "in_flight",
        _ => "by_minute",
    }
}

impl State {
    fn limit_key(&self, claim: &Claim) -> String {
        self.key(format_args!("limit:{}:{}", claim.whose, claim.unit.label()))
    }

    /// Takes all claims of the limits that all edges share, or none. `None` if the server is away.
    pub(crate) async fn take(&self, claims: &[Claim]) -> Option<Result<Granted, Refused>> {
        let connected = self.connected.load_full()?;
        let mut call = SCRIPTS.take.key(self.key(format_args!("edges")));
        for claim in claims {
            call.key(self.limit_key(claim));
        }
        call.arg(&*connected.edge).arg(GONE.as_millis() as u64);
        for claim in claims {
            call.arg(form(claim.unit)).arg(claim.limit).arg(claim.n);
        }
        let asking = async |mut on| call.invoke_async::<Vec<i64>>(&mut on).await;
        let answer = self.ask(&connected, "take", asking).await?;
        let (first, rest) = answer.split_first()?;
        if let Ok(claim) = usize::try_from(*first) {
            let wait = rest.first().copied().unwrap_or_default();
            let wait = Duration::from_micros(u64::try_from(wait).unwrap_or_default());
            return Some(Err(Refused { claim, wait }));
        }
        let missing = rest
            .iter()
            .map(|micros| u64::try_from(*micros).unwrap_or_default());
        let left = claims.iter().zip(missing);
        let left = left.filter(|(claim, _)| claim.unit != Unit::Concurrent);
        Some(Ok(Granted {
            edge: connected.edge.clone(),
            left: left
                .map(|(claim, micros)| {
                    let missing = Duration::from_micros(micros);
                    (claim.unit, Left::missing(claim.limit, missing))
                })
                .collect(),
        }))
    }

    /// Corrects a claim that was granted by what was used.
    pub(crate) fn settle(&self, edge: &Arc<str>, claim: Claim, used: u64) {
        let more =
            i64::try_from(used).unwrap_or(i64::MAX) - i64::try_from(claim.n).unwrap_or(i64::MAX);
        if more == 0 {
            return;
        }
        let mut outbox = self.outbox();
        if outbox.corrections.len() >= MOST {
            outbox.corrections.pop_front();
        }
        outbox.corrections.push_back(Correction {
            edge: edge.clone(),
            claim,
            more,
        });
        drop(outbox);
        self.wake.notify_one();
    }

    /// Tells the others that a server is ejected.
    pub(crate) fn eject(&self, server: String, duration: Duration) {
        self.outbox().ejections.push((server, duration));
        self.wake.notify_one();
    }

    /// Tells the server what is still to be told.
    pub(crate) async fn post(&self) {
        let Some(connected) = self.connected.load_full() else {
            return;
        };
        let ejections = std::mem::take(&mut self.outbox().ejections);
        for (server, duration) in ejections {
            let mut call = SCRIPTS.eject.key(self.key(format_args!("ejected")));
            call.arg(&*connected.edge).arg(server);
            call.arg(duration.as_millis() as u64);
            let asking = async |mut on| call.invoke_async::<i64>(&mut on).await;
            self.ask(&connected, "eject", asking).await;
        }
        loop {
            let corrections: Vec<Correction> = {
                let mut outbox = self.outbox();
                let count = outbox.corrections.len().min(AT_ONCE);
                outbox.corrections.drain(..count).collect()
            };
            // what was in flight as another edge went with it
            let still =
                |one: &Correction| one.claim.unit != Unit::Concurrent || one.edge == connected.edge;
            let corrections: Vec<_> = corrections.into_iter().filter(still).collect();
            if corrections.is_empty() && self.outbox().corrections.is_empty() {
                return;
            }
            let Some(first) = corrections.first() else {
                continue;
            };
            let mut call = SCRIPTS.settle.key(self.limit_key(&first.claim));
            for one in &corrections[1..] {
                call.key(self.limit_key(&one.claim));
            }
            call.arg(&*connected.edge);
            for one in &corrections {
                call.arg(form(one.claim.unit))
                    .arg(one.claim.limit)
                    .arg(one.more);
            }
            let asking = async |mut on| call.invoke_async::<i64>(&mut on).await;
            if self.ask(&connected, "settle", asking).await.is_none() {
                return;
            }
        }
    }
}
