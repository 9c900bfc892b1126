//! What keys have spent this month, in the operator's own units, and what things cost.
//!
//! The ledger holds what the file said when it was last read, and what came since. Writing adds the
//! latter to whatever the file says by then, so that two programs may share it: the one before and
//! the one after an upgrade do.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::config::{Pattern, Price};

/// A month, as `2026-11`, in UTC.
pub(crate) fn month(now: SystemTime) -> String {
    let mut text = humantime::format_rfc3339_seconds(now).to_string();
    text.truncate("2026-11".len());
    text
}

/// What a request used, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) characters: u64,
    pub(crate) audio_seconds: f64,
}

/// What it costs by the first price that knows the model.
pub(crate) fn cost(prices: &[(Pattern, Price)], model: &str, usage: &Usage) -> f64 {
    let price = prices.iter().find(|(pattern, _)| pattern.matches(model));
    let Some((_, price)) = price else { return 0.0 };
    let millions = |n: u64, price: f64| n as f64 / 1e6 * price;
    price.request
        + millions(usage.input, price.input)
        + millions(usage.output, price.output)
        + millions(usage.characters, price.characters)
        + usage.audio_seconds / 60.0 * price.audio_minute
}

/// Units by month and key.
pub(crate) type Spent = BTreeMap<String, BTreeMap<String, f64>>;

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    written: Spent,
    since: Spent,
    /// What other edges are to be told, if there are any.
    shared: Option<Shared>,
}

/// What several edges have spent together.
#[derive(Debug, Default)]
struct Shared {
    /// As they told it last.
    told: Spent,
    /// What they were not told yet.
    owed: Spent,
    /// What is on its way, under a name by which it counts once.
    sent: Option<Delivery>,
}

/// What was spent here and is to be told to the others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) name: String,
    pub(crate) spent: Spent,
}

fn add(spent: &mut Spent, month: &str, key: &str, units: f64) {
    let page = spent.entry(month.to_owned()).or_default();
    *page.entry(key.to_owned()).or_default() += units;
}

fn of(spent: &Spent, month: &str, key: &str) -> f64 {
    let page = spent.get(month);
    page.and_then(|page| page.get(key)).copied().unwrap_or(0.0)
}

/// Months that are kept: this one and the two before, for who wants to look.
const MONTHS: usize = 3;

impl Ledger {
    pub(crate) fn add(&self, month: &str, key: &str, units: f64) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut pages.since, month, key, units);
        if let Some(shared) = &mut pages.shared {
            add(&mut shared.owed, month, key, units);
        }
    }

    /// What a key has spent in a month.
    pub(crate) fn spent(&self, month: &str, key: &str) -> f64 {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = of(&pages.written, month, key) + of(&pages.since, month, key);
        let Some(shared) = &pages.shared else {
            return here;
        };
        let sent = shared.sent.as_ref();
        let sent = sent.map_or(0.0, |sent| of(&sent.spent, month, key));
        let everywhere = of(&shared.told, month, key) + of(&shared.owed, month, key) + sent;
        // whoever keeps the sum may have lost it
        here.max(everywhere)
    }

    /// What the other edges are to be told: the same again until they have heard it. From the first
    /// call on it is noted for them. `name` makes names.
    pub(crate) fn delivery(&self, name: impl FnOnce() -> String) -> Option<Delivery> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = pages.shared.get_or_insert_default();
        if shared.sent.is_none() && !shared.owed.is_empty() {
            let spent = std::mem::take(&mut shared.owed);
            let name = name();
            shared.sent = Some(Delivery { name, spent });
        }
        shared.sent.clone()
    }

    /// They have heard a delivery, if there was one, and told what all have spent.
    pub(crate) fn delivered(&self, name: Option<&str>, told: Spent) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = pages.shared.get_or_insert_default();
        if shared.sent.as_ref().map(|sent| sent.name.as_str()) == name {
            shared.sent = None;
        }
        shared.told = told;
    }

    /// Adds what came since the last time to what a file says now: the text to write, or `None` if
    /// nothing came. The text must be written, or given back with [`Ledger::not_written`].
    pub(crate) fn bring_forward(&self, file: Spent) -> Option<Spent> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = std::mem::take(&mut pages.since);
        let nothing = since.is_empty();
        pages.written = file;
        for (month, page) in since {
            let written = pages.written.entry(month).or_default();
            for (key, units) in page {
                *written.entry(key).or_default() += units;
            }
        }
        while pages.written.len() > MONTHS {
            pages.written.pop_first();
        }
        (!nothing).then(|| pages.written.clone())
    }

    /// What was to be written over `file` was not: it is owed again.
    pub(crate) fn not_written(&self, file: &Spent) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let brought = std::mem::replace(&mut pages.written, file.clone());
        for (month, page) in brought {
            for (key, units) in page {
                let before = file.get(&month).and_then(|page| page.get(&key)).copied();
                let more = units - before.unwrap_or(0.0);
                if more > 0.0 {
                    let since = pages.since.entry(month.clone()).or_default();
                    *since.entry(key).or_default() += more;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn page(month: &str, key: &str, units: f64) -> Spent {
        Spent::from([(month.to_owned(), BTreeMap::from([(key.to_owned(), units)]))])
    }

    #[test]
    fn months_are_those_of_utc() {
        assert_eq!(
            month(UNIX_EPOCH + Duration::from_secs(1_794_095_999)),
            "2026-11"
        );
        assert_eq!(month(UNIX_EPOCH), "1970-01");
    }

    #[test]
    fn the_first_price_that_knows_a_model_counts() {
        let price = |input| Price {
            input,
            ..Price::default()
        };
        let prices = [
            (Pattern::new("gpt-4o-mini*"), price(1.0)),
            (Pattern::new("gpt-*"), price(10.0)),
        ];
        let usage = Usage {
            input: 2_000_000,
            ..Usage::default()
        };
        assert_eq!(cost(&prices, "gpt-4o-mini", &usage), 2.0);
        assert_eq!(cost(&prices, "gpt-5", &usage), 20.0);
        assert_eq!(cost(&prices, "llama3", &usage), 0.0);
        let speech = Price {
            characters: 15.0,
            audio_minute: 0.6,
            request: 1.0,
            ..Price::default()
        };
        let usage = Usage {
            characters: 1_000_000,
            audio_seconds: 30.0,
            ..Usage::default()
        };
        assert_eq!(cost(&[(Pattern::new("*"), speech)], "tts-1", &usage), 16.3);
    }

    #[test]
    fn two_programs_add_to_one_file() {
        let (one, two) = (Ledger::default(), Ledger::default());
        one.add("2026-11", "alice", 3.0);
        two.add("2026-11", "alice", 4.0);
        let file = one.bring_forward(Spent::new()).unwrap();
        let file = two.bring_forward(file).unwrap();
        assert_eq!(file, page("2026-11", "alice", 7.0));
        assert_eq!(two.spent("2026-11", "alice"), 7.0);
        assert_eq!(
            one.bring_forward(file),
            None,
            "nothing new, but it knows of the other's"
        );
        assert_eq!(one.spent("2026-11", "alice"), 7.0);
        assert_eq!(one.spent("2026-12", "alice"), 0.0);
    }

    #[test]
    fn other_edges_are_told_once_and_what_they_spent_counts() {
        let ledger = Ledger::default();
        let month = "2026-11";
        assert_eq!(ledger.delivery(|| "first".into()), None);
        ledger.add(month, "alice", 3.0);
        let first = ledger.delivery(|| "first".into()).unwrap();
        assert_eq!(first.spent, page(month, "alice", 3.0));
        ledger.add(month, "alice", 2.0);
        assert_eq!(ledger.spent(month, "alice"), 5.0);
        let again = ledger.delivery(|| "second".into()).unwrap();
        assert_eq!(again, first, "until it was heard");
        ledger.delivered(Some("first"), page(month, "alice", 10.0));
        assert_eq!(ledger.spent(month, "alice"), 12.0);
        let second = ledger.delivery(|| "second".into()).unwrap();
        assert_eq!(second.spent, page(month, "alice", 2.0));
        ledger.delivered(Some("second"), page(month, "alice", 12.0));
        assert_eq!(ledger.delivery(|| "third".into()), None);
        // who kept the sum lost it: what was spent here is known
        ledger.delivered(None, Spent::new());
        assert_eq!(ledger.spent(month, "alice"), 5.0);
    }

    #[test]
    fn what_could_not_be_written_is_not_forgotten() {
        let ledger = Ledger::default();
        ledger.add("2026-11", "alice", 3.0);
        let file = page("2026-11", "alice", 1.0);
        assert!(ledger.bring_forward(file.clone()).is_some());
        ledger.not_written(&file);
        assert_eq!(ledger.spent("2026-11", "alice"), 4.0);
        let written = ledger.bring_forward(file).unwrap();
        assert_eq!(written, page("2026-11", "alice", 4.0));
    }

    #[test]
    fn old_months_go() {
        let ledger = Ledger::default();
        for month in ["2026-08", "2026-09", "2026-10", "2026-11"] {
            ledger.add(month, "a", 1.0);
        }
        let kept = ledger.bring_forward(Spent::new()).unwrap();
        assert_eq!(
            kept.keys().collect::<Vec<_>>(),
            ["2026-09", "2026-10", "2026-11"]
        );
    }
}
