//! What a run found, as JSON: times in microseconds with one decimal.

use hdrhistogram::Histogram;

use crate::clock::{MICROSECOND, SECOND};

/// Nanoseconds, to three digits, up to an hour.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Times(Histogram::new_with_max(3600 * SECOND, 3).expect("bounds that the crate takes"))
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds.max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / MICROSECOND as f64
    }

    pub(crate) fn add_all(&mut self, other: &Times) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn json(&self) -> String {
        let of = |share| self.quantile(share);
        format!(
            r#"{{"count":{},"mean":{:.1},"p50":{:.1},"p90":{:.1},"p99":{:.1},"p999":{:.1},"max":{:.1}}}"#,
            self.count(),
            self.0.mean() / MICROSECOND as f64,
            of(0.5),
            of(0.9),
            of(0.99),
            of(0.999),
            of(1.0)
        )
    }
}

/// Requests without a good answer, by what became of them.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Failures {
    /// No connection was made.
    pub(crate) connect: u64,
    /// The connection broke or ended before the answer did.
    pub(crate) closed: u64,
    pub(crate) timeout: u64,
    /// The answer was not 200.
    pub(crate) status: u64,
    /// What came was not HTTP, or not what was asked for.
    pub(crate) wrong: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Failure {
    Connect,
    Closed,
    Timeout,
    Status,
    Wrong,
}

impl Failures {
    pub(crate) fn add(&mut self, failure: Failure) {
        *match failure {
            Failure::Connect => &mut self.connect,
            Failure::Closed => &mut self.closed,
            Failure::Timeout => &mut self.timeout,
            Failure::Status => &mut self.status,
            Failure::Wrong => &mut self.wrong,
        } += 1;
    }

    pub(crate) fn all(&self) -> u64 {
        self.connect + self.closed + self.timeout + self.status + self.wrong
    }

    pub(crate) fn json(&self) -> String {
        format!(
            r#"{{"all":{},"connect":{},"closed":{},"timeout":{},"status":{},"wrong":{}}}"#,
            self.all(),
            self.connect,
            self.closed,
            self.timeout,
            self.status,
            self.wrong
        )
    }
}

/// A text as JSON.
pub(crate) fn quoted(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| match c {
        '"' | '\\' => vec!['\\', c],
        c if c.is_control() => vec![' '],
        c => vec![c],
    });
    format!("\"{}\"", escaped.collect::<String>())
}
