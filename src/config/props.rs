//! Patterns: a star stands for any run of characters, and nothing else is special. What shadows a
//! route is found as if all before it were walked.

use proptest::prelude::*;

use super::{Match, Naming, Pattern, Route, Shadowing};
use crate::fuzz::{cases, shape};

/// Three lines: a pattern, another one, and a text.
pub(crate) fn pattern(data: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(data) else {
        return 0;
    };
    let mut lines = text.splitn(3, '\n').map(short);
    let mut line = || lines.next().unwrap_or_default();
    let (one, other, text) = (line(), line(), line());
    let (first, second) = (Pattern::new(one), Pattern::new(other));
    let found = first.matches(text);
    assert_eq!(found, naive(one, text), "{one:?} on {text:?}");
    assert_eq!(
        second.matches(text),
        naive(other, text),
        "{other:?} on {text:?}"
    );
    let covers = first.covers(&second);
    if covers && second.matches(text) {
        assert!(found, "{one:?} covers {other:?}, but for {text:?}");
    }
    assert_eq!(first.to_string(), one);
    shape((
        found,
        covers,
        one.matches('*').count().min(5),
        text.len().min(20),
    ))
}

/// The naive matcher takes its time.
fn short(line: &str) -> &str {
    let end = line.char_indices().nth(30).map_or(line.len(), |(at, _)| at);
    &line[..end]
}

fn naive(pattern: &str, text: &str) -> bool {
    // one row of a table: which ends of the text are reached
    let mut reached: Vec<bool> = vec![false; text.len() + 1];
    reached[0] = true;
    for c in pattern.chars() {
        if c == '*' {
            let first = reached.iter().position(|r| *r).unwrap_or(reached.len());
            reached[first..].fill(true);
            continue;
        }
        let mut next = vec![false; text.len() + 1];
        for (at, own) in text.char_indices() {
            next[at + own.len_utf8()] |= reached[at] && own == c;
        }
        reached = next;
    }
    reached[text.len()]
}

fn some(most: usize) -> impl Strategy<Value = Vec<Pattern>> {
    const NAMES: &[&str] = &["a", "b", "ab", "a*", "ab*", "*b", "a*b", "*a*", "*", "é*"];
    let one = proptest::sample::select(NAMES).prop_map(Pattern::new);
    proptest::collection::vec(one, 0..=most)
}

fn route() -> impl Strategy<Value = Route> {
    let texts = (some(2), some(1), some(2), some(1));
    (texts, 0..5_u64, 0..8_u8).prop_map(|((paths, hosts, models, voices), larger, header)| {
        let mut route = Route::bare("r".to_owned(), Vec::new());
        let name = http::HeaderName::from_static("x-a");
        route.conditions = Match {
            paths,
            hosts,
            models,
            voices,
            headers: (header == 0)
                .then_some((name, Vec::new()))
                .into_iter()
                .collect(),
            body_larger_than: Some(larger).filter(|larger| *larger > 2),
            ..Match::default()
        };
        route
    })
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn what_shadows_a_route_is_the_first_that_does(
        routes in proptest::collection::vec(route(), 0..40),
        model in proptest::option::of("[abé]{0,3}"),
        voice in proptest::option::of("[abé]{0,3}"),
    ) {
        let all = Shadowing::of(&routes);
        let names = [Naming::default(), Naming { model: model.as_deref(), voice: voice.as_deref() }];
        for (n, later) in routes.iter().map(|route| &route.conditions).enumerate() {
            for naming in names {
                let mut before = routes[..n].iter();
                let walked = before.position(|other| other.conditions.shadows(later, naming));
                assert_eq!(all.first(&routes, n, later, naming), walked);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_star_is_any_run_and_covering_is_certain(one in "[ab*é]{0,6}", other in "[ab*é]{0,6}", text in "[abé]{0,8}") {
        pattern(format!("{one}\n{other}\n{text}").as_bytes());
    }
}
