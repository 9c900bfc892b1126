//! `trunkline check-config`: every problem of a file at once.

use crate::cli::{BAD_CONFIG, CheckConfig, FAILED, OK, Output};
use crate::command::source::{self, Source};
use crate::config::problem::{Lines, Problem};
use crate::config::{Config, Cost, Route, Zone};

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
    let checked: Vec<(Source, Option<Config>, Vec<Problem>)> = sources
        .into_iter()
        .map(|source| {
            let (config, problems) = source.load();
            (source, config, problems)
        })
        .collect();
    let bad = |problem: &Problem| problem.is_error() || options.deny_warnings;
    let failed = checked
        .iter()
        .any(|(_, _, problems)| problems.iter().any(bad));
    match options.format {
        Output::Json => {
            let all: Vec<_> = checked
                .iter()
                .flat_map(|(source, _, problems)| {
                    let lines = Lines::of(&source.text);
                    let located = problems.iter().map(|p| p.locate(&source.name, &lines));
                    located.collect::<Vec<_>>()
                })
                .collect();
            println!(
                "{}",
                serde_json::to_string_pretty(&all).expect("problems can be written")
            );
        }
        Output::Text => {
            for (source, config, problems) in &checked {
                source.explain(problems, "nothing was started");
                if !problems.iter().any(bad) && !options.quiet {
                    let warnings = match problems.len() {
                        0 => String::new(),
                        1 => ", 1 warning".to_owned(),
                        n => format!(", {n} warnings"),
                    };
                    println!("{}: ok{warnings}", source.name);
                    if let Some(config) = config {
                        print!("{}", reach(config));
                    }
                }
            }
        }
    }
    if failed { BAD_CONFIG } else { OK }
}

/// Which pools each route can reach, in the order they are tried: what leaves the house, and what
/// costs money.
fn reach(config: &Config) -> String {
    let width = config.routes.iter().map(|route| route.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |route: &Route| format!("  {:width$}  {}\n", route.name, pools(config, route));
    config.routes.iter().map(line).collect()
}

fn pools(config: &Config, route: &Route) -> String {
    let (mut reached, mut never) = (Vec::new(), Vec::new());
    for target in &route.targets {
        let pool = config.pool(target.pool);
        if route.zone == Some(Zone::Home) && pool.zone != Zone::Home {
            never.push(pool.name.as_str());
            continue;
        }
        let cost = match pool.cost {
            Cost::Free => "",
            Cost::Paid => ", paid",
        };
        reached.push(format!("{} ({}{cost})", pool.name, pool.zone.label()));
    }
    let mut text = reached.join(", then ");
    if !route.split.is_empty() {
        let parts: Vec<String> = route.split.iter().map(ToString::to_string).collect();
        text.push_str(&format!("; split {}", parts.join(":")));
    }
    if let Some(mirror) = &route.mirror {
        let pool = config.pool(mirror.route.targets[0].pool);
        text.push_str(&format!(
            "; copies to {} ({})",
            pool.name,
            pool.zone.label()
        ));
    }
    if route.zone == Some(Zone::Home) {
        text.push_str("; stays at home");
    }
    if !never.is_empty() {
        text.push_str(&format!(", never {}", never.join(", ")));
    }
    text
}
