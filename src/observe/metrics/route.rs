//! What is counted of a route. Each series is made when it is first needed.

use std::sync::{Arc, OnceLock};

use prometheus::core::{MetricVec, MetricVecBuilder};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Metrics, STATUSES, sum};
use crate::config::Route;
use crate::inspect::endpoint::Operation;
use crate::observe::record::{Cached, Termination};
use crate::observe::status::RouteCounts;

/// The families with a series, or some, for each route.
pub(super) struct RouteFamilies {
    pub(super) requests: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) request_bytes: IntCounterVec,
    pub(super) response_bytes: IntCounterVec,
    pub(super) terminations: IntCounterVec,
    pub(super) budget_exhausted: IntCounterVec,
    pub(super) time_to_first: HistogramVec,
    pub(super) tokens: IntCounterVec,
    pub(super) audio_bytes: IntCounterVec,
    pub(super) characters: IntCounterVec,
    pub(super) hedges: IntCounterVec,
    pub(super) budget_left: IntGaugeVec,
    pub(super) cache_requests: IntCounterVec,
    pub(super) audio_seconds: prometheus::CounterVec,
    pub(super) real_time_factor: HistogramVec,
}

/// The handles of one route.
pub(crate) struct RouteMetrics {
    families: Arc<RouteFamilies>,
    name: Arc<str>,
    pub(crate) decided: IntCounter,
    pub(crate) request_bytes: RouteCounter,
    pub(crate) response_bytes: RouteCounter,
    pub(crate) budget_exhausted: RouteCounter,
    pub(crate) hedges_started: RouteCounter,
    pub(crate) hedges_won: RouteCounter,
    pub(crate) tokens_in: RouteCounter,
    pub(crate) tokens_out: RouteCounter,
    pub(crate) audio_in: RouteCounter,
    pub(crate) audio_out: RouteCounter,
    pub(crate) characters: RouteCounter,
    /// In the order of [`Termination::ALL`].
    terminations: Handles<IntCounter>,
    /// In the order of [`Cached::ALL`]; empty if the route keeps no answers.
    cached: Handles<IntCounter>,
    /// Present if the route has a budget.
    budget_left: Option<IntGauge>,
    /// One for each target, in order, and one for local replies.
    answers: Box<[AnswerMetrics]>,
    /// One for each operation, in the order of [`Operation::ALL`].
    time_to_first: Handles<Histogram>,
    /// Seconds of audio and real-time factor: heard, spoken.
    heard: AudioMetrics,
    spoken: AudioMetrics,
}

/// Handles that are there once they were needed.
type Handles<T> = Box<[OnceLock<T>]>;

fn none_of<T>(count: usize) -> Handles<T> {
    std::iter::repeat_with(OnceLock::new).take(count).collect()
}

/// A counter of a route.
pub(crate) struct RouteCounter {
    family: IntCounterVec,
    route: Arc<str>,
    /// The value of the second label, if there is one.
    label: Option<&'static str>,
    made: OnceLock<IntCounter>,
}

impl RouteCounter {
    fn series(&self) -> &IntCounter {
        let make = || match self.label {
            Some(label) => self.family.with_label_values(&[&self.route, label]),
            None => self.family.with_label_values(&[&*self.route]),
        };
        self.made.get_or_init(make)
    }

    pub(crate) fn inc(&self) {
        self.series().inc();
    }

    pub(crate) fn inc_by(&self, n: u64) {
        // nothing is no reason to begin
        if n > 0 {
            self.series().inc_by(n);
        }
    }
}

#[derive(Default)]
struct AudioMetrics {
    seconds: OnceLock<prometheus::Counter>,
    factor: OnceLock<Histogram>,
}

struct AnswerMetrics {
    /// The pool that answered, or `local`.
    pool: Box<str>,
    duration: OnceLock<Histogram>,
    /// In the order of [`STATUSES`], then `other`.
    requests: OnceLock<Handles<IntCounter>>,
}

impl RouteMetrics {
    /// `pools` of its targets, in order; `all`: all series are made now.
    pub(super) fn new<'a>(
        families: Arc<RouteFamilies>,
        route: &Route,
        pools: impl Iterator<Item = &'a str>,
        decided: IntCounter,
        all: bool,
    ) -> Self {
        let name: Arc<str> = route.name.as_str().into();
        let counter = |family: &IntCounterVec, label| RouteCounter {
            family: family.clone(),
            route: name.clone(),
            label,
            made: OnceLock::new(),
        };
        let of = &families;
        let answers = pools.chain(["local"]).map(|pool| AnswerMetrics {
            pool: pool.into(),
            duration: OnceLock::new(),
            requests: OnceLock::new(),
        });
        let budget = route.retry.budget;
        let metrics = RouteMetrics {
            decided,
            request_bytes: counter(&of.request_bytes, None),
            response_bytes: counter(&of.response_bytes, None),
            budget_exhausted: counter(&of.budget_exhausted, None),
            hedges_started: counter(&of.hedges, Some("started")),
            hedges_won: counter(&of.hedges, Some("won")),
            tokens_in: counter(&of.tokens, Some("input")),
            tokens_out: counter(&of.tokens, Some("output")),
            audio_in: counter(&of.audio_bytes, Some("in")),
            audio_out: counter(&of.audio_bytes, Some("out")),
            characters: counter(&of.characters, None),
            terminations: none_of(Termination::ALL.len()),
            cached: none_of(route.cache.map_or(0, |_| Cached::ALL.len())),
            budget_left: budget.map(|_| of.budget_left.with_label_values(&[&*name])),
            answers: answers.collect(),
            time_to_first: none_of(Operation::ALL.len()),
            heard: AudioMetrics::default(),
            spoken: AudioMetrics::default(),
            families,
            name,
        };
        if all {
            metrics.make_all();
        }
        metrics
    }

    fn make_all(&self) {
        for counter in [
            &self.request_bytes,
            &self.response_bytes,
            &self.budget_exhausted,
            &self.hedges_started,
            &self.hedges_won,
            &self.tokens_in,
            &self.tokens_out,
            &self.audio_in,
            &self.audio_out,
            &self.characters,
        ] {
            counter.series();
        }
        for n in 0..self.terminations.len() {
            self.termination(n);
        }
        for n in 0..self.cached.len() {
            self.kept(n);
        }
        for n in 0..self.time_to_first.len() {
            self.time_to_first(n);
        }
        for answers in &self.answers {
            self.duration(answers);
            for n in 0..=STATUSES.len() {
                self.status(answers, n);
            }
        }
        self.seconds(Operation::Speech);
        self.factor(Operation::Speech);
        self.seconds(Operation::Transcription);
        self.factor(Operation::Transcription);
    }

    /// The handle in its place, made if it is needed for the first time.
    fn made<'a, B: MetricVecBuilder>(
        &self,
        place: &'a OnceLock<B::M>,
        family: &MetricVec<B>,
        labels: &[&str],
    ) -> &'a B::M {
        place.get_or_init(|| match labels {
            [one] => family.with_label_values(&[&*self.name, one]),
            [one, two] => family.with_label_values(&[&*self.name, one, two]),
            _ => family.with_label_values(&[&*self.name]),
        })
    }

    fn termination(&self, n: usize) -> &IntCounter {
        let label = Termination::ALL[n].label();
        let family = &self.families.terminations;
        self.made(&self.terminations[n], family, &[label])
    }

    fn kept(&self, n: usize) -> &IntCounter {
        let (family, label) = (&self.families.cache_requests, Cached::ALL[n].label());
        self.made(&self.cached[n], family, &[label])
    }

    fn time_to_first(&self, n: usize) -> &Histogram {
        let (family, label) = (&self.families.time_to_first, Operation::ALL[n].label());
        self.made(&self.time_to_first[n], family, &[label])
    }

    fn duration<'a>(&self, answers: &'a AnswerMetrics) -> &'a Histogram {
        let family = &self.families.duration;
        self.made(&answers.duration, family, &[&answers.pool])
    }

    fn status<'a>(&self, answers: &'a AnswerMetrics, n: usize) -> &'a IntCounter {
        let all = (answers.requests).get_or_init(|| none_of(STATUSES.len() + 1));
        let family = &self.families.requests;
        if let Some(made) = all[n].get() {
            return made;
        }
        let known = STATUSES.get(n).map(u16::to_string);
        let code = known.as_deref().unwrap_or("other");
        self.made(&all[n], family, &[&answers.pool, code])
    }

    fn audio(&self, operation: Operation) -> (&AudioMetrics, &'static str, &'static str) {
        match operation {
            Operation::Speech => (&self.spoken, "out", Operation::Speech.label()),
            _ => (&self.heard, "in", Operation::Transcription.label()),
        }
    }

    fn seconds(&self, operation: Operation) -> &prometheus::Counter {
        let (audio, direction, _) = self.audio(operation);
        self.made(&audio.seconds, &self.families.audio_seconds, &[direction])
    }

    fn factor(&self, operation: Operation) -> &Histogram {
        let (audio, _, label) = self.audio(operation);
        self.made(&audio.factor, &self.families.real_time_factor, &[label])
    }
}

impl RouteMetrics {
    /// Counts an answer. `target` is the route's target that answered; `None` for a local reply.
    pub(crate) fn answered(&self, target: Option<usize>, status: u16, seconds: f64) {
        let local = self.answers.len() - 1;
        let answers = &self.answers[target.unwrap_or(local).min(local)];
        let code = STATUSES
            .iter()
            .position(|s| *s == status)
            .unwrap_or(STATUSES.len());
        self.status(answers, code).inc();
        self.duration(answers).observe(seconds);
    }

    pub(crate) fn terminated(&self, how: Termination) {
        let n = Termination::ALL
            .iter()
            .position(|t| *t == how)
            .expect("ALL has every termination");
        self.termination(n).inc();
    }

    pub(crate) fn cached(&self, result: Cached) {
        let n = Cached::ALL.iter().position(|c| *c == result);
        if let Some(n) = n.filter(|n| *n < self.cached.len()) {
            self.kept(n).inc();
        }
    }

    pub(crate) fn first(&self, operation: Operation, seconds: f64) {
        let n = Operation::ALL
            .iter()
            .position(|o| *o == operation)
            .expect("ALL has every operation");
        self.time_to_first(n).observe(seconds);
    }

    /// The sums of what was counted. `metrics` are those that these handles are of.
    pub(crate) fn counts(&self, metrics: &Metrics) -> RouteCounts {
        let mut counts = RouteCounts {
            retries: sum(&metrics.retries, "route", &self.name),
            fallbacks: sum(&metrics.fallbacks, "route", &self.name),
            ..RouteCounts::default()
        };
        let local = self.answers.len() - 1;
        for (n, answers) in self.answers.iter().enumerate() {
            let least = if n == local { 400 } else { 500 };
            let statuses = STATUSES.iter().map(Some).chain([None]);
            let requests = answers.requests.get().into_iter().flatten();
            for (status, counter) in statuses.zip(requests) {
                let count = counter.get().map_or(0, IntCounter::get);
                counts.requests += count;
                if status.is_some_and(|status| *status >= least) {
                    counts.errors += count;
                }
            }
        }
        counts
    }

    /// Counts audio of so many seconds that took so long.
    pub(crate) fn played(&self, operation: Operation, audio: f64, took: f64) {
        self.seconds(operation).inc_by(audio);
        if audio > 0.0 {
            self.factor(operation).observe(took / audio);
        }
    }

    /// Brings the gauge of the retry budget up to date.
    pub(crate) fn budget_has_left(&self, retries: u64) {
        if let Some(gauge) = &self.budget_left {
            gauge.set(i64::try_from(retries).unwrap_or(i64::MAX));
        }
    }
}
