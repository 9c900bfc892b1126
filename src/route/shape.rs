//! Routes that ask for the same, but for models and voices.

use std::borrow::Cow;

use http::{HeaderName, Method};

use super::{Head, Known};
use crate::config::pattern::Pattern;
use crate::config::sieve::Sieve;
use crate::config::{Match, Route};

/// So few routes are walked.
const FEW: usize = 8;

const MODEL: usize = 0;
const VOICE: usize = 1;

/// A head, with what is made of it once.
pub(super) struct Request<'a> {
    pub(super) head: &'a Head<'a>,
    /// The path as it may be written too.
    pub(super) unversioned: Option<&'a str>,
    /// In lower case; only if some route asks for it.
    pub(super) host: Option<Cow<'a, str>>,
}

impl Request<'_> {
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.head
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    }
}

/// Whether a shape takes a request.
pub(super) enum Fit {
    /// With the first of its routes.
    Yes(u32),
    No,
    /// Everything fits, but for the model.
    NotTheModel,
    /// Fields of the body, or only its length.
    Needs {
        fields: bool,
    },
}

/// What two routes of one shape have in common.
pub(super) type Key<'a> = (
    &'a [Pattern],
    &'a [Method],
    &'a [Pattern],
    &'a [(HeaderName, Vec<Pattern>)],
    Option<u64>,
    bool,
);

pub(super) fn key(conditions: &Match) -> Key<'_> {
    (
        &conditions.paths,
        &conditions.methods,
        &conditions.hosts,
        &conditions.headers,
        conditions.body_larger_than,
        conditions.asks_for_fields(),
    )
}

#[derive(Debug)]
pub(super) struct Shape {
    /// The first of its routes.
    pub(super) first: u32,
    /// All its routes, in order, if they ask for models or voices.
    asking: Vec<u32>,
    /// The same by [`MODEL`] and [`VOICE`], if they are many.
    by_fields: Option<Box<Sieve>>,
}

impl Shape {
    pub(super) fn new(first: u32) -> Self {
        Shape {
            first,
            asking: Vec::new(),
            by_fields: None,
        }
    }

    /// One more route, behind the others.
    pub(super) fn add(&mut self, n: u32, conditions: &Match) {
        // where nothing is asked the first takes all
        if conditions.asks_for_fields() {
            self.asking.push(n);
        }
    }

    /// Indexes its routes, once all are there.
    pub(super) fn finish(&mut self, routes: &[Route]) {
        if self.asking.len() <= FEW {
            return;
        }
        let mut sieve = Sieve::default();
        for n in &self.asking {
            let conditions = &routes[*n as usize].conditions;
            let kinds = [
                (MODEL, conditions.models.as_slice()),
                (VOICE, conditions.voices.as_slice()),
            ];
            sieve.add(*n, &kinds);
        }
        self.by_fields = Some(Box::new(sieve));
    }

    /// Its routes that may be taken, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = u32> + '_ {
        let only = self.asking.is_empty().then_some(self.first);
        self.asking.iter().copied().chain(only)
    }

    /// The first of its routes that takes a request, if that is before `bound`.
    pub(super) fn find(
        &self,
        routes: &[Route],
        request: &Request<'_>,
        known: Known<'_>,
        bound: u32,
    ) -> Fit {
        let conditions = &routes[self.first as usize].conditions;
        if !fits_head(conditions, request) {
            return Fit::No;
        }
        if let Some(least) = conditions.body_larger_than {
            match known {
                Known::Length(Some(length)) | Known::All { length, .. } if length <= least => {
                    return Fit::No;
                }
                Known::Length(None) => return Fit::Needs { fields: false },
                _ => {}
            }
        }
        if self.asking.is_empty() {
            return Fit::Yes(self.first);
        }
        let body = match known {
            Known::Length(Some(0)) => None,
            Known::Length(_) => return Fit::Needs { fields: true },
            Known::All { body, .. } => body,
        };
        let text = |name| body.and_then(|body| body.text(name));
        self.named(routes, text("model"), text("voice"), bound)
    }

    fn named(&self, routes: &[Route], model: Option<&str>, voice: Option<&str>, bound: u32) -> Fit {
        let conditions = |n: u32| &routes[n as usize].conditions;
        let mut best = bound;
        self.candidates(model, voice, &mut |members| {
            let before = members.iter().take_while(|n| **n < best);
            let mut fitting = before.filter(|n| {
                let of = conditions(**n);
                any(&of.models, model) && any(&of.voices, voice)
            });
            best = fitting.next().copied().unwrap_or(best);
        });
        let but_for_model = || {
            self.asking
                .iter()
                .any(|n| any(&conditions(*n).voices, voice))
        };
        match best < bound {
            true => Fit::Yes(best),
            // where something was found before nobody asks
            false if bound == u32::MAX && but_for_model() => Fit::NotTheModel,
            false => Fit::No,
        }
    }

    /// Visits lists of the routes that may fit, each in order.
    fn candidates(&self, model: Option<&str>, voice: Option<&str>, visit: &mut dyn FnMut(&[u32])) {
        let Some(sieve) = &self.by_fields else {
            return visit(&self.asking);
        };
        sieve.rest(visit);
        for (kind, text) in [(MODEL, model), (VOICE, voice)] {
            if let Some(text) = text {
                sieve.matching(kind, text, visit);
            }
        }
    }
}

fn any(patterns: &[Pattern], text: Option<&str>) -> bool {
    patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| p.matches(text)))
}

fn fits_head(conditions: &Match, request: &Request<'_>) -> bool {
    let path = |pattern: &Pattern| {
        let unversioned = request.unversioned;
        pattern.matches(request.head.path) || unversioned.is_some_and(|path| pattern.matches(path))
    };
    (conditions.paths.is_empty() || conditions.paths.iter().any(path))
        && (conditions.methods.is_empty() || conditions.methods.contains(request.head.method))
        && any(&conditions.hosts, request.host.as_deref())
        && conditions
            .headers
            .iter()
            .all(|(name, patterns)| any(patterns, request.header(name)))
}
