//! What the servers of a pool say they have, and when they are asked again.
//!
//! Somebody else asks: this is the book. A list is kept while its server does not answer, until
//! nobody would believe it any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::inspect::listing::Model;

/// So many intervals a list is believed.
const BELIEVED: u32 = 10;

/// How long a server that said nothing is left alone, doubled each time.
const FIRST_AGAIN: Duration = Duration::from_millis(500);

/// What a server has; `None` is what it did not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) models: Option<Vec<Model>>,
    pub(crate) voices: Option<Vec<String>>,
}

/// The book of a pool, with a page for each server of its configuration.
pub(crate) struct Reports(Mutex<Vec<Page>>);

#[derive(Clone)]
struct Page {
    models: Heard<Model>,
    voices: Heard<String>,
    /// When it is asked again; `None` while it is.
    due: Option<Instant>,
    was_up: bool,
    /// Questions in a row that it did not answer.
    failures: u32,
}

/// A list, and when it was heard.
type Heard<T> = Option<(Instant, Arc<Vec<T>>)>;

impl Reports {
    pub(super) fn new(servers: usize, now: Instant) -> Self {
        let page = Page {
            models: None,
            voices: None,
            due: Some(now),
            was_up: true,
            failures: 0,
        };
        Reports(Mutex::new(vec![page; servers]))
    }

    /// Begins with what was heard from the same server before.
    pub(super) fn take_over(&self, server: usize, old: &Reports, before: usize) {
        let before = old.pages()[before].clone();
        let page = &mut self.pages()[server];
        (page.models, page.voices) = (before.models, before.voices);
    }

    /// Whether it is time to ask a server, which is at once when it has come up. Whoever is told so
    /// asks, and calls [`Reports::heard`] with what came of it.
    pub(crate) fn is_due(&self, server: usize, up: bool, now: Instant) -> bool {
        let page = &mut self.pages()[server];
        let came_up = up && !page.was_up;
        page.was_up = up;
        let due = up && page.due.is_some_and(|due| came_up || due <= now);
        if due {
            page.due = None;
        }
        due
    }

    /// Writes down what a server said. What it did not say stays as it was; if it said nothing at
    /// all it is asked sooner than after the `interval`, for the first times.
    pub(crate) fn heard(&self, server: usize, report: Report, now: Instant, interval: Duration) {
        let page = &mut self.pages()[server];
        let silent = report.models.is_none() && report.voices.is_none();
        page.failures = if silent { page.failures + 1 } else { 0 };
        let sooner = FIRST_AGAIN.saturating_mul(1 << page.failures.min(20));
        let wait = if silent {
            sooner.min(interval)
        } else {
            interval
        };
        page.due = Some(now + wait);
        if let Some(models) = report.models {
            page.models = Some((now, Arc::new(models)));
        }
        if let Some(voices) = report.voices {
            page.voices = Some((now, Arc::new(voices)));
        }
    }

    /// The lists of models that are believed, in the order of the servers.
    pub(crate) fn models(&self, interval: Duration, now: Instant) -> Vec<Arc<Vec<Model>>> {
        let pages = self.pages();
        let lists = pages.iter().filter_map(|page| page.models.clone());
        believed(lists, interval, now)
    }

    /// The same of voices.
    pub(crate) fn voices(&self, interval: Duration, now: Instant) -> Vec<Arc<Vec<String>>> {
        let pages = self.pages();
        let lists = pages.iter().filter_map(|page| page.voices.clone());
        believed(lists, interval, now)
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Vec<Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn believed<T>(
    lists: impl Iterator<Item = (Instant, Arc<Vec<T>>)>,
    interval: Duration,
    now: Instant,
) -> Vec<Arc<Vec<T>>> {
    let fresh = lists.filter(|(at, _)| now.duration_since(*at) <= interval * BELIEVED);
    fresh.map(|(_, list)| list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn spoken(voice: &str) -> Report {
        Report {
            models: None,
            voices: Some(vec![voice.to_owned()]),
        }
    }

    #[test]
    fn a_server_is_asked_when_its_time_has_come_or_it_has_come_up() {
        let now = Instant::now();
        let reports = Reports::new(1, now);
        assert!(reports.is_due(0, true, now));
        assert!(!reports.is_due(0, true, now + MINUTE), "it is being asked");
        reports.heard(0, spoken("a"), now, MINUTE);
        assert!(!reports.is_due(0, true, now + MINUTE / 2));
        assert!(!reports.is_due(0, false, now + MINUTE / 2), "it is down");
        assert!(reports.is_due(0, true, now + MINUTE / 2), "it came up");
        reports.heard(0, spoken("a"), now, MINUTE);
        assert!(!reports.is_due(0, false, now + MINUTE), "nobody is there");
    }

    #[test]
    fn who_says_nothing_is_asked_again_soon_and_then_as_usual() {
        let now = Instant::now();
        let reports = Reports::new(1, now);
        let second = Duration::from_secs(1);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(reports.is_due(0, true, now + MINUTE));
            reports.heard(0, Report::default(), now, MINUTE);
            assert!(!reports.is_due(0, true, now + second * wait - second / 2));
        }
    }

    #[test]
    fn a_list_is_kept_for_a_while_when_its_server_says_nothing() {
        let now = Instant::now();
        let reports = Reports::new(2, now);
        reports.heard(1, spoken("b"), now, MINUTE);
        reports.heard(0, spoken("a"), now, MINUTE);
        reports.heard(0, Report::default(), now + MINUTE, MINUTE);
        let voices = |now| reports.voices(MINUTE, now).concat_names();
        assert_eq!(voices(now + 10 * MINUTE), ["a", "b"]);
        assert!(voices(now + 11 * MINUTE).is_empty());
    }

    trait Names {
        fn concat_names(self) -> Vec<String>;
    }

    impl Names for Vec<Arc<Vec<String>>> {
        fn concat_names(self) -> Vec<String> {
            self.iter().flat_map(|list| list.to_vec()).collect()
        }
    }
}
