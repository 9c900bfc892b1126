//! Fuzzing on a stable compiler: what reads bytes of others is fed with bytes that nobody would send.
//!
//! A target takes any bytes and panics if something does not hold. The usual run of the tests feeds
//! each with its corpus (`tests/corpus/TARGET`, made of real requests and of what once broke it);
//! `make fuzz` mutates the corpus for as long as it is told. Coverage is not measured: an input is
//! worth keeping for further mutations if its outcome has a shape that was not seen before.
//!
//! The targets stand beside the code they are about, in `props`, with the properties that proptest
//! feeds from the other side: with inputs that are nearly right.

mod mutate;
mod python;
mod run;

use std::hash::{DefaultHasher, Hash, Hasher};

pub(crate) use python::Reader;

/// What can be fuzzed.
struct Target {
    /// Also that of its folder in the corpus.
    name: &'static str,
    /// Panics if something does not hold; says what shape the outcome has.
    run: fn(&[u8]) -> u64,
}

const fn target(name: &'static str, run: fn(&[u8]) -> u64) -> Target {
    Target { name, run }
}

/// All there are.
const TARGETS: &[Target] = &[
    target("json", crate::inspect::props::json::holds),
    target("json-python", crate::inspect::props::json::holds_in_python),
    target("form", crate::inspect::props::form::holds),
    target("form-python", crate::inspect::props::form::holds_in_python),
    target("audio", crate::inspect::props::audio::holds),
    target("answer", crate::inspect::props::answer::holds),
    target("opening", crate::inspect::props::opening::holds),
    target("path", crate::inspect::props::path::holds),
    target("listing", crate::inspect::props::lists),
    target("rewrite", crate::transform::props::rewrite::holds),
    target("events", crate::transform::props::events::holds),
    target("headers", crate::transform::props::headers::holds),
    target("query", crate::transform::props::query::holds),
    target("pattern", crate::config::props::pattern),
    target("config", crate::command::props::config),
    target("import", crate::command::props::import),
    target("plan", crate::plan::props::holds),
    target("bucket", crate::limit::props::holds),
    target("history", crate::session::props::history),
    target("hearing", crate::session::props::hearing),
    target("ollama", crate::dialect::props::ollama),
    target("marker", crate::affinity::props::marker),
    target("signature", crate::affinity::props::signature),
    target("stored", crate::cache::props::stored),
    target("token", crate::keyring::props::token),
];

/// The shape of an outcome.
pub(crate) fn shape(outcome: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    outcome.hash(&mut hasher);
    hasher.finish()
}

/// `data` cut at random places, the same ones for the same data: often into single bytes, and with
/// empty pieces.
pub(crate) fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut random = fastrand::Rng::with_seed(shape(data));
    let most = *random
        .choice(&[1, 2, 3, 9, 60, 4000])
        .expect("there are some");
    let mut rest = data;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.usize(0..=most).min(rest.len()));
        out.push(piece);
        rest = behind;
    }
    out
}

/// Decisions taken from bytes: 0 when there are no more.
pub(crate) struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Dice(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// How often proptest asks: few times beside the other tests, and as `PROPTEST_CASES` says in
/// `make fuzz`. Nothing is kept of a failure: it belongs into the corpus, or into a test.
pub(crate) fn cases(few: u32) -> proptest::test_runner::Config {
    let asked = std::env::var("PROPTEST_CASES").ok();
    proptest::test_runner::Config {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(few),
        failure_persistence: None,
        ..Default::default()
    }
}
