//! Who asks, what they may ask for, and how much of it: keys and limits.
//!
//! Keys, requests and requests in flight are looked at before a byte of the body is read. What only
//! the body or the answer tells is reserved as well as it can be known, and settled at the end.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::Proxy;
use super::exchange::{Exchange, Stop};
use super::taken::{Scope, wanted};
use super::usage::tells_if_asked;
use crate::config::{Key, Zone};
use crate::inspect::Body;
use crate::inspect::endpoint::Operation;
use crate::keyring::Denied;
use crate::limit::{self, Unit};
use crate::observe::metrics::Metrics;
use crate::reply;

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

    /// Whether the body has to be read for who asks, or for a limit of it, or of the route where
    /// that is known.
    pub(super) fn must_understand(&self, x: &Exchange, route: Option<usize>) -> bool {
        let gateway = &x.snapshot.gateway;
        let of_route = |unit| route.is_some_and(|route| gateway.limits_on(route, unit));
        let wants = |unit| x.taken.limits(unit) || of_route(unit);
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
        let counts = x.taken.limits(Unit::Tokens)
            || gateway.limits_on(route, Unit::Tokens)
            || x.key(|key| key.budget.is_some());
        if counts {
            x.counting = Some(Box::default());
            x.asks_usage = body.is_some_and(|body| {
                tells_if_asked(x.operation, body) && body.field("stream_options").is_none()
            });
        }
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
}
