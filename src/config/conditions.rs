//! The conditions of a route: what they say of a request before one is there.

use super::Match;
use super::pattern::Pattern;

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
