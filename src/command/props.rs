//! Configurations: whatever is written, it is read or refused with reasons that stand somewhere.

use std::path::Path;

use proptest::prelude::*;

use super::config::effective;
use super::import;
use crate::config;
use crate::config::problem::Lines;
use crate::fuzz::{cases, shape};

fn variable(name: &str) -> Option<String> {
    (name == "A").then(|| "a: b".to_owned())
}

fn nowhere() -> &'static Path {
    Path::new("/nowhere/at/all")
}

pub(crate) fn config(data: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(data) else {
        return 0;
    };
    let masked = config::without_secrets(text);
    assert_eq!(masked.len(), text.len());
    let (read, problems) = config::read(text, nowhere(), &variable);
    let errors = problems.iter().filter(|problem| problem.is_error());
    assert_eq!(
        read.is_none(),
        errors.count() > 0,
        "refused without a reason, or read in spite of one"
    );
    let lines = Lines::of(text);
    for problem in &problems {
        let (start, end) = (problem.span.start, problem.span.end);
        assert!(
            start <= end && text.get(start..end).is_some(),
            "{problem:?}"
        );
        assert!(!problem.message.is_empty());
        assert!(!problem.render("file", &lines, false).is_empty());
        let _ = problem.locate("file", &lines);
    }
    let Some(read) = read else {
        let messages = problems
            .iter()
            .map(|p| p.message.chars().take(20).collect::<String>());
        return shape(messages.take(6).collect::<Vec<_>>());
    };
    let shown = effective(&read);
    // line breaks of YAML 1.1, which serde_yaml writes as such, and of no other reader
    if text.contains(['\u{85}', '\u{2028}', '\u{2029}']) || text.contains("\\") {
        return 1;
    }
    let again = serde_yaml::to_string(&shown).expect("it can be written");
    let (read_again, problems) = config::read(&again, nowhere(), &variable);
    let read_again = read_again.unwrap_or_else(|| panic!("{problems:?} in\n{again}"));
    assert_eq!(
        effective(&read_again),
        shown,
        "it says something else when it is read back"
    );
    shape(again)
}

/// A byte that chooses the program, and its file.
pub(crate) fn import(data: &[u8]) -> u64 {
    let Some((choice, text)) = data.split_first() else {
        return 0;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return 1;
    };
    match import::written(usize::from(*choice), text) {
        Ok(yaml) => {
            // it may not start, but it is YAML that says where it does not fit
            let (_, problems) = config::read(&yaml, nowhere(), &|_| Some("x".to_owned()));
            let syntax = problems.iter().find(|p| p.message.contains("not YAML"));
            assert!(syntax.is_none(), "{syntax:?} in\n{yaml}");
            shape((choice % 3, problems.len(), yaml.lines().count().min(50)))
        }
        Err(why) => shape(why.chars().take(30).collect::<String>()),
    }
}

fn line() -> impl Strategy<Value = String> {
    let keys = vec![
        "pools",
        "a",
        "b",
        "servers",
        "url",
        "routes",
        "pool",
        "match",
        "model",
        "path",
        "fallback",
        "retry",
        "attempts",
        "keys",
        "name",
        "key",
        "limits",
        "kind",
        "models",
        "'*'",
        "set",
        "timeouts",
        "balance",
        "<<",
        "admin",
        "listeners",
        "log",
        "prices",
        "cache",
        "unknown_model",
        "x",
        "? a",
        "&x k",
        "jwt",
        "tracing",
    ];
    let values = vec![
        "",
        " a",
        " b",
        " http://h:1",
        " ['http://h:1', 'http://h:2']",
        " [a]",
        " [{ pool: a }]",
        " {}",
        " 10s",
        " 5m",
        " 50%",
        " 1",
        " -1",
        " 99999999999999999999",
        " ${A}",
        " ${B}",
        " ${B:-c}",
        " ${",
        " 'é",
        " |\n  x",
        " *x",
        " &x [a]",
        " true",
        " null",
        " ollama",
        " \"\\ud800\"",
        " off",
        " 0.5",
        " 0x10",
        " .inf",
        " 1GiB",
        " { servers: [http://h:1] }",
        " least_busy",
        " 127.0.0.1:0",
        " [{ url: http://h:3, backup: true }]",
    ];
    let indent = prop::sample::select(vec!["", "", "  ", "    ", "      ", "  - ", "- ", "\t"]);
    (
        indent,
        prop::sample::select(keys),
        prop::sample::select(values),
    )
        .prop_map(|(indent, key, value)| format!("{indent}{key}:{value}\n"))
}

const GOOD: &str = include_str!("../../conf/trunkline.yaml");

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn whatever_is_written_is_read_or_refused_with_reasons(lines in prop::collection::vec(line(), 0..14)) {
        config(lines.concat().as_bytes());
    }

    #[test]
    fn the_example_with_a_line_that_is_wrong_is_refused_where_it_is(
        at in any::<prop::sample::Index>(), line in line(), over in any::<bool>()
    ) {
        let mut lines: Vec<&str> = GOOD.split_inclusive('\n').collect();
        let at = at.index(lines.len());
        match over {
            true => lines[at] = &line,
            false => lines.insert(at, &line),
        }
        config(lines.concat().as_bytes());
    }
}
