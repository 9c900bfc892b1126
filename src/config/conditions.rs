//! The conditions of a route: what they say of a request before one is there.

use super::pattern::Pattern;
use super::sieve::Sieve;
use super::{Match, Route};

/// What is known of the requests that are thought of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Naming<'a> {
    pub(crate) model: Option<&'a str>,
    pub(crate) voice: Option<&'a str>,
}

impl Match {
    /// Whether something of the body must be known to decide.
    pub(crate) fn asks_for_fields(&self) -> bool {
        !self.models.is_empty() || !self.voices.is_empty()
    }

    /// Whether it says nothing against a model or a voice.
    pub(crate) fn allows(&self, naming: Naming<'_>) -> bool {
        let any = |patterns: &[Pattern], name: Option<&str>| {
            let fits = |name: &str| patterns.iter().any(|p| p.matches(name));
            patterns.is_empty() || name.is_none_or(fits)
        };
        any(&self.models, naming.model) && any(&self.voices, naming.voice)
    }

    /// Whether every request that `later` takes is certainly taken by this one too; of those that
    /// name a model or a voice, if one is given.
    pub(crate) fn shadows(&self, later: &Match, naming: Naming<'_>) -> bool {
        let covers = |earlier: &[Pattern], later: &[Pattern]| {
            earlier.is_empty()
                || (!later.is_empty() && later.iter().all(|l| earlier.iter().any(|e| e.covers(l))))
        };
        let named = |earlier: &[Pattern], later: &[Pattern], name: Option<&str>| match name {
            Some(_) => true,
            None => covers(earlier, later),
        };
        self.allows(naming)
            && covers(&self.paths, &later.paths)
            && covers(&self.hosts, &later.hosts)
            && named(&self.models, &later.models, naming.model)
            && named(&self.voices, &later.voices, naming.voice)
            && self.headers.is_empty()
            && (self.methods.is_empty()
                || (!later.methods.is_empty()
                    && later.methods.iter().all(|m| self.methods.contains(m))))
            && match (self.body_larger_than, later.body_larger_than) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(earlier), Some(later)) => earlier <= later,
            }
    }
}

const PATH: usize = 0;
const HOST: usize = 1;
const MODEL: usize = 2;
const VOICE: usize = 3;

/// Finds the route that takes all that another one asks for, without walking those before it.
#[derive(Default)]
pub(crate) struct Shadowing(Sieve);

impl Shadowing {
    pub(crate) fn of(routes: &[Route]) -> Self {
        let mut all = Shadowing::default();
        (0..routes.len()).for_each(|n| all.add(n, &routes[n].conditions));
        all
    }

    /// Routes are added in their order.
    pub(crate) fn add(&mut self, n: usize, conditions: &Match) {
        // what asks for a header shadows nothing
        if conditions.headers.is_empty() {
            let kinds = [
                (PATH, conditions.paths.as_slice()),
                (HOST, conditions.hosts.as_slice()),
                (MODEL, conditions.models.as_slice()),
                (VOICE, conditions.voices.as_slice()),
            ];
            self.0.add(number(n), &kinds);
        }
    }

    /// The first of the routes before `n` that shadows `later`; see [`Match::shadows`]. All of them
    /// must have been added.
    pub(crate) fn first(
        &self,
        routes: &[Route],
        n: usize,
        later: &Match,
        naming: Naming<'_>,
    ) -> Option<usize> {
        let (mut best, none) = (number(n), number(n));
        let mut visit = |list: &[u32]| {
            let mut before = list.iter().take_while(|n| **n < best);
            let shadows = |n: &&u32| routes[**n as usize].conditions.shadows(later, naming);
            best = before.find(shadows).copied().unwrap_or(best);
        };
        self.0.rest(&mut visit);
        for (kind, patterns, name) in [
            (PATH, &later.paths, None),
            (HOST, &later.hosts, None),
            (MODEL, &later.models, naming.model),
            (VOICE, &later.voices, naming.voice),
        ] {
            match (name, patterns.first()) {
                (Some(name), _) => self.0.matching(kind, name, &mut visit),
                (None, Some(pattern)) => self.0.covering(kind, pattern, &mut visit),
                (None, None) => {}
            }
        }
        (best < none).then_some(best as usize)
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("nobody writes so many routes")
}
