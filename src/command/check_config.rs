//! `trunkline check-config`: every problem of a file at once.

use crate::cli::{BAD_CONFIG, CheckConfig, FAILED, OK, Output};
use crate::command::source::{self, Source};
use crate::config::problem::Problem;

/// Checks the files; says with which code to exit.
pub(crate) fn run(options: &CheckConfig) -> u8 {
    let asked: Vec<Option<&std::path::Path>> = match options.files.as_slice() {
        [] => vec![options.config.as_deref()],
        files => files.iter().map(|file| Some(file.as_path())).collect(),
    };
    let mut sources = Vec::new();
    for path in asked {
        match source::find(path) {
            Ok(Some(source)) => sources.push(source),
            Ok(None) => {
                eprintln!("trunkline: there is no configuration file to check; name one");
                return FAILED;
            }
            Err(message) => {
                eprintln!("trunkline: {message}");
                return BAD_CONFIG;
            }
        }
    }
    let checked: Vec<(Source, Vec<Problem>)> = sources
        .into_iter()
        .map(|s| {
            let found = s.load().1;
            (s, found)
        })
        .collect();
    let bad = |problem: &Problem| problem.is_error() || options.deny_warnings;
    let failed = checked.iter().any(|(_, problems)| problems.iter().any(bad));
    match options.format {
        Output::Json => {
            let all: Vec<_> = checked
                .iter()
                .flat_map(|(source, problems)| {
                    problems
                        .iter()
                        .map(|p| p.locate(&source.name, &source.text))
                })
                .collect();
            println!(
                "{}",
                serde_json::to_string_pretty(&all).expect("problems can be written")
            );
        }
        Output::Text => {
            for (source, problems) in &checked {
                source.explain(problems);
                if !problems.iter().any(bad) && !options.quiet {
                    let warnings = match problems.len() {
                        0 => String::new(),
                        1 => ", 1 warning".to_owned(),
                        n => format!(", {n} warnings"),
                    };
                    println!("{}: ok{warnings}", source.name);
                }
            }
        }
    }
    if failed { BAD_CONFIG } else { OK }
}
