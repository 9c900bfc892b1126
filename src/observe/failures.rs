//! The requests of late that went badly or needed more than one attempt, for whoever looks.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::record::{Record, Termination};
use crate::unit::printable;

/// How many are kept.
const KEPT: usize = 50;
/// How much of a path is kept, in characters: a client may send kilobytes of it.
const LONGEST_PATH: usize = 200;

/// The last requests worth looking at. Names and numbers, never keys.
#[derive(Default)]
pub(crate) struct Failures(Mutex<VecDeque<FailureNote>>);

/// What is kept of one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailureNote {
    ts: String,
    request_id: String,
    method: String,
    /// Without the query, which may hold keys.
    path: String,
    route: Option<String>,
    /// 0 if none was sent.
    status: u16,
    termination: &'static str,
    /// Why Trunkline answered itself, if it did.
    local: Option<&'static str>,
    /// As in `x-attempts`.
    attempts: Vec<String>,
    duration_ms: f64,
}

impl Failures {
    /// Keeps a finished request if it is one to look at. One that went well at its first attempt
    /// takes no lock.
    pub(crate) fn note(&self, record: &Record) {
        if !is_telling(record) {
            return;
        }
        let note = FailureNote::of(record);
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.truncate(KEPT - 1);
        notes.push_front(note);
    }

    /// Those that are kept, newest first.
    pub(crate) fn newest_first(&self) -> Vec<FailureNote> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().cloned().collect()
    }
}

fn is_telling(record: &Record) -> bool {
    record.status >= 500
        || (record.local.is_some() && record.status >= 400)
        || record.attempts.len() > 1
        || matches!(
            record.termination,
            Termination::UpstreamAbort | Termination::Timeout
        )
}

impl FailureNote {
    fn of(record: &Record) -> Self {
        let mut path: String = record.path.chars().take(LONGEST_PATH).collect();
        if path.len() < record.path.len() {
            path.push('…');
        }
        FailureNote {
            ts: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            request_id: printable(&record.request_id),
            method: printable(&record.method),
            path: printable(&path),
            route: record.route.clone(),
            status: record.status,
            termination: record.termination.label(),
            local: record.local,
            attempts: record.attempts.iter().map(ToString::to_string).collect(),
            duration_ms: (record.times.total.as_secs_f64() * 1e4).round() / 10.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::AttemptNote;

    fn record(status: u16, termination: Termination, attempts: usize) -> Record {
        let attempt = AttemptNote {
            pool: "a".into(),
            server: "s".into(),
            result: "200".into(),
            ..AttemptNote::default()
        };
        Record {
            status,
            termination,
            attempts: vec![attempt; attempts],
            ..Record::default()
        }
    }

    #[test]
    fn only_what_went_badly_or_took_several_attempts_is_kept() {
        let local = |status| Record {
            local: Some("x"),
            ..record(status, Termination::Rejected, 0)
        };
        for (record, kept) in [
            (record(200, Termination::Complete, 1), false),
            (record(404, Termination::Complete, 1), false),
            (record(0, Termination::ClientAbort, 1), false),
            (local(200), false),
            (local(401), true),
            (record(200, Termination::Complete, 2), true),
            (record(503, Termination::Complete, 1), true),
            (record(200, Termination::UpstreamAbort, 1), true),
            (record(200, Termination::Timeout, 1), true),
        ] {
            let failures = Failures::default();
            failures.note(&record);
            assert_eq!(failures.newest_first().len() == 1, kept, "{record:?}");
        }
    }

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let failures = Failures::default();
        for n in 0..120 {
            failures.note(&Record {
                request_id: n.to_string(),
                path: format!("/{}\u{1b}", "x".repeat(n)),
                ..record(502, Termination::Complete, 1)
            });
        }
        let kept = failures.newest_first();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].request_id, "119");
        assert_eq!(kept[KEPT - 1].request_id, "70");
        assert!(!kept[0].path.contains('\u{1b}'));
    }

    #[test]
    fn a_path_of_any_length_takes_little_room() {
        let failures = Failures::default();
        failures.note(&Record {
            path: "/ä".repeat(9000),
            ..record(502, Termination::Complete, 1)
        });
        assert_eq!(failures.newest_first()[0].path.chars().count(), 201);
    }
}
