//! Who asks, what they may ask for, and how much of it: keys and limits.
//!
//! Keys, requests and requests in flight are looked at before a byte of the body is read. What only
//! the body or the answer tells is reserved as well as it can be known, and settled at the end.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::Proxy;
use super::exchange::{Exchange, Stop};
use crate::config::{Key, Zone};
use crate::inspect::Body;
use crate::inspect::endpoint::Operation;
use crate::keyring::Denied;
use crate::limit::{self, Exceeded, Meter, Pass, Unit};
use crate::observe::metrics::Metrics;
use crate::observe::record::{Cached, Record};
use crate::reply;

/// Bytes of text that make a token, about (OpenAI's help pages, "What are tokens").
const BYTES_PER_TOKEN: u64 = 4;

/// What a request has taken of its limits. Given back or settled when it ends.
#[derive(Default)]
pub(super) struct Taken {
    meters: Vec<(Scope, Meter)>,
    _passes: Vec<Pass>,
    /// What was reserved of each unit.
    reserved: Vec<(Unit, u64)>,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Address,
    Key,
    Route,
}

impl Scope {
    /// As metrics and messages name it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Scope::Address => "address",
            Scope::Key => "key",
            Scope::Route => "route",
        }
    }
}

impl Proxy {
    /// Lets a request in, by its head alone.
    pub(super) fn let_in(&self, head: &RequestHeader, x: &mut Exchange) -> Result<(), Stop> {
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        // first, so that nobody tries keys for long
        let address = x.record.client;
        let of_address = address.and_then(|address| gateway.limits.address(address, x.started));
        if let Some(meter) = of_address {
            x.enter(Scope::Address, meter, &self.edge.metrics)?;
        }
        let keys = &gateway.config.keys;
        let own = matches!(x.record.path.as_str(), "/" | "/health");
        if gateway.keyring.is_open() || own {
            return Ok(());
        }
        let found = gateway.keyring.find(keys, &head.headers, SystemTime::now());
        let key = found.map_err(|denied| self.denied(denied))?;
        x.record.key = Some(keys[key].name.clone());
        x.home |= keys[key].zone == Some(Zone::Home);
        x.key = Some(key);
        self.look_at_budget(x, &keys[key])?;
        let meter = gateway.limits.key(key);
        match meter.limits_something() {
            true => x.enter(Scope::Key, meter.clone(), &self.edge.metrics),
            false => Ok(()),
        }
    }

    /// Whether a key has something left to spend; the answer says how much.
    fn look_at_budget(&self, x: &mut Exchange, key: &Key) -> Result<(), Stop> {
        let Some(budget) = key.budget else {
            return Ok(());
        };
        let month = limit::month(SystemTime::now());
        let spent = x.snapshot.gateway.limits.ledger.spent(&month, &key.name);
        let left = format!("{:.6}", (budget - spent).max(0.0));
        let value = HeaderValue::from_str(&left).expect("digits are valid");
        let name = HeaderName::from_static("x-budget-remaining");
        x.answer_headers.push((name, value));
        match spent < budget {
            true => Ok(()),
            false => Err(reply::budget_spent(&month).into()),
        }
    }

    fn denied(&self, denied: Denied) -> reply::Reply {
        let (label, reply) = match denied {
            Denied::Missing => ("missing", reply::api_key_missing()),
            Denied::Unknown => ("unknown", reply::invalid_api_key()),
            Denied::Expired => ("expired", reply::api_key_expired()),
            Denied::Token(refusal) => (refusal.label(), reply::token_refused(refusal)),
        };
        self.edge
            .metrics
            .keys_refused
            .with_label_values(&[label])
            .inc();
        reply
    }

    /// Whether the body has to be read for who asks, or for a limit of it.
    pub(super) fn must_understand(&self, x: &Exchange) -> bool {
        let wants = |unit| x.taken.limits(unit);
        let operation = x.operation;
        x.key(|key| !key.models.is_empty() || key.budget.is_some())
            || (wants(Unit::Tokens) && operation.is_some_and(Operation::has_model))
            || (wants(Unit::Characters) && operation == Some(Operation::Speech))
            || (wants(Unit::AudioSeconds) && operation.is_some_and(Operation::hears))
    }

    /// Whether who asks may take this route with this model, and how much is left for it.
    pub(super) fn let_through(
        &self,
        x: &mut Exchange,
        route: usize,
        length: Option<u64>,
        body: Option<&Body>,
    ) -> Result<(), Stop> {
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        let settings = &gateway.config.routes[route];
        if x.key(|key| !key.may_take(&settings.name)) {
            return Err(reply::route_not_allowed(&settings.name).into());
        }
        let model = x.record.model.as_deref();
        let may_ask = |key: &Key| match model {
            Some(model) => key.may_ask(model),
            // a body that names none may mean any
            None => key.models.is_empty() || length == Some(0),
        };
        if x.key(|key| !may_ask(key)) {
            return Err(reply::model_not_allowed(model).into());
        }
        let meter = gateway.limits.route(route);
        if meter.limits_something() {
            x.enter(Scope::Route, meter.clone(), &self.edge.metrics)?;
        }
        let counts = x.taken.limits(Unit::Tokens) || x.key(|key| key.budget.is_some());
        x.asks_usage = counts && streams_without_usage(x.operation, body);
        if x.taken.meters.is_empty() {
            return Ok(());
        }
        for (unit, n) in wanted(x, length) {
            x.reserve(unit, n, &self.edge.metrics)?;
        }
        x.tell_what_is_left();
        Ok(())
    }
}

/// What is asked of one limit. An estimate is no reason to refuse for good: it asks for what there
/// is, at most.
fn asked(meter: &Meter, unit: Unit, n: u64) -> u64 {
    match unit {
        Unit::Tokens => meter.at_most(unit, n),
        _ => n,
    }
}

/// Whether an answer will not tell what it used unless it is asked to.
fn streams_without_usage(operation: Option<Operation>, body: Option<&Body>) -> bool {
    let chat = matches!(operation, Some(Operation::Chat | Operation::Completion));
    chat && body.is_some_and(|body| {
        let streams = body.field("stream").is_some_and(|field| field.is_true);
        streams && body.field("stream_options").is_none()
    })
}

/// What a request takes, as far as it is known by now.
fn wanted(x: &Exchange, length: Option<u64>) -> Vec<(Unit, u64)> {
    let mut wanted = vec![(Unit::Bytes, length.unwrap_or(0))];
    let hears = x.operation.is_some_and(Operation::hears);
    let speaks = x.operation == Some(Operation::Speech);
    if x.operation.is_some_and(Operation::has_model) && !hears && !speaks {
        let tokens = length.unwrap_or(0) / BYTES_PER_TOKEN;
        wanted.push((Unit::Tokens, tokens.max(1)));
    }
    if speaks {
        wanted.push((Unit::Characters, x.record.characters.unwrap_or(0)));
    }
    if hears || speaks {
        // how long the speech will be nobody knows: one second is the ticket
        let seconds = x.record.audio.map_or(1, whole_seconds);
        wanted.push((Unit::AudioSeconds, seconds));
    }
    wanted
}

fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

impl Taken {
    fn limits(&self, unit: Unit) -> bool {
        self.meters.iter().any(|(_, meter)| meter.limits(unit))
    }
}

impl Exchange {
    /// Whether something holds of the key that was shown; if none was, nothing does.
    fn key(&self, holds: impl FnOnce(&Key) -> bool) -> bool {
        self.key
            .is_some_and(|key| holds(&self.snapshot.gateway.config.keys[key]))
    }

    /// Whether a model may be asked for with the key that was shown, if one was.
    pub(super) fn may_ask(&self, model: &str) -> bool {
        !self.key(|key| !key.may_ask(model))
    }

    fn enter(&mut self, scope: Scope, meter: Meter, metrics: &Metrics) -> Result<(), Stop> {
        let entered = meter.enter(self.started);
        self.taken.meters.push((scope, meter));
        match entered {
            Ok(pass) => {
                self.taken._passes.push(pass);
                Ok(())
            }
            Err(exceeded) => Err(self.refused(scope, exceeded, metrics)),
        }
    }

    /// Takes so much of every limit there is, or of none.
    fn reserve(&mut self, unit: Unit, n: u64, metrics: &Metrics) -> Result<(), Stop> {
        for (at, (scope, meter)) in self.taken.meters.iter().enumerate() {
            if let Err(exceeded) = meter.take(unit, asked(meter, unit, n), self.started) {
                for (_, before) in &self.taken.meters[..at] {
                    before.settle(unit, asked(before, unit, n), 0, self.started);
                }
                let scope = *scope;
                return Err(self.refused(scope, exceeded, metrics));
            }
        }
        self.taken.reserved.push((unit, n));
        Ok(())
    }

    fn refused(&mut self, scope: Scope, exceeded: Exceeded, metrics: &Metrics) -> Stop {
        let labels = [scope.label(), exceeded.unit.label()];
        metrics.rate_limited.with_label_values(&labels).inc();
        self.tell_what_is_left();
        reply::rate_limited(scope.label(), &exceeded).into()
    }

    /// `x-ratelimit-*`, as OpenAI writes them, of the limit that is nearest.
    fn tell_what_is_left(&mut self) {
        const NAMES: [(Unit, [&str; 3]); 2] = [
            (
                Unit::Requests,
                [
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                ],
            ),
            (
                Unit::Tokens,
                [
                    "x-ratelimit-limit-tokens",
                    "x-ratelimit-remaining-tokens",
                    "x-ratelimit-reset-tokens",
                ],
            ),
        ];
        self.answer_headers
            .retain(|(name, _)| !name.as_str().starts_with("x-ratelimit-"));
        for (unit, names) in NAMES {
            let left = self.taken.meters.iter();
            let left = left.filter_map(|(_, meter)| meter.left(unit, self.started));
            let Some(least) = left.min_by_key(|left| left.remaining) else {
                continue;
            };
            let values = [
                least.limit.to_string(),
                least.remaining.to_string(),
                go_duration(least.reset),
            ];
            for (name, value) in names.into_iter().zip(values) {
                let value = HeaderValue::from_str(&value).expect("digits and letters are valid");
                self.answer_headers
                    .push((HeaderName::from_static(name), value));
            }
        }
    }

    /// Counts the request for its key.
    pub(super) fn count_key(&self, metrics: &Metrics) {
        let (Some(key), record) = (self.record.key.as_deref(), &self.record) else {
            return;
        };
        let class = match record.status {
            status @ 100..600 => ["1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(status / 100 - 1)],
            _ => "none",
        };
        metrics.key_requests.with_label_values(&[key, class]).inc();
        let tokens = [
            ("input", record.usage.input),
            ("output", record.usage.output),
        ];
        for (kind, tokens) in tokens {
            if let Some(tokens) = tokens {
                metrics
                    .key_tokens
                    .with_label_values(&[key, kind])
                    .inc_by(tokens);
            }
        }
    }

    /// Writes down what the request has cost its key.
    fn spend(&self) {
        let gateway = &self.snapshot.gateway;
        let record = &self.record;
        let answered = was_served(record);
        let key = self.key.map(|key| &gateway.config.keys[key]);
        let Some(key) = key.filter(|key| key.budget.is_some() && answered) else {
            return;
        };
        let usage = limit::Usage {
            input: record.usage.input.unwrap_or(0),
            output: record.usage.output.unwrap_or(0),
            characters: record.characters.unwrap_or(0),
            audio_seconds: record.audio.map_or(0.0, |audio| audio.as_secs_f64()),
        };
        let model = record.model.as_deref().unwrap_or_default();
        let units = limit::cost(&gateway.config.prices, model, &usage);
        if units > 0.0 {
            let month = limit::month(SystemTime::now());
            gateway.limits.ledger.add(&month, &key.name, units);
        }
    }

    /// Corrects what was reserved by what was used.
    pub(super) fn settle(&mut self) {
        self.spend();
        let taken = std::mem::take(&mut self.taken);
        for (unit, reserved) in &taken.reserved {
            let used = self.used(*unit, *reserved);
            for (_, meter) in &taken.meters {
                let reserved = asked(meter, *unit, *reserved);
                meter.settle(*unit, reserved, used, self.started);
            }
        }
    }

    fn used(&self, unit: Unit, reserved: u64) -> u64 {
        let record = &self.record;
        let answered = was_served(record);
        match unit {
            Unit::Bytes => record.bytes_in,
            Unit::Tokens if !answered => 0,
            Unit::Tokens => match (record.usage.input, record.usage.output) {
                (None, None) => reserved,
                (input, output) => input.unwrap_or(0) + output.unwrap_or(0),
            },
            Unit::Characters | Unit::AudioSeconds if !answered => 0,
            Unit::AudioSeconds => record.audio.map_or(reserved, whole_seconds),
            _ => reserved,
        }
    }
}

/// Whether a server worked for it: what was refused, failed or kept costs nothing but its bytes.
fn was_served(record: &Record) -> bool {
    let kept = matches!(record.cache, Some(Cached::Hit | Cached::Coalesced));
    record.local.is_none() && !kept && (200..300).contains(&record.status)
}

/// As Go prints a duration, which is what OpenAI sends and SDKs read: `20ms`, `1s`, `6m0s`.
fn go_duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    match (minutes, rest) {
        (0, rest) if rest < 1000 => format!("{rest}ms"),
        (0, rest) if rest.is_multiple_of(1000) => format!("{}s", rest / 1000),
        (0, rest) => format!("{}.{:03}s", rest / 1000, rest % 1000),
        (minutes, rest) => format!("{minutes}m{}s", rest / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (milliseconds, text) in [
            (0, "0ms"),
            (20, "20ms"),
            (1000, "1s"),
            (1500, "1.500s"),
            (60_000, "1m0s"),
            (366_000, "6m6s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
