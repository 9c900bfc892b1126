//! Imports point down: a folder uses lower rows only, never its own row.

use std::fs;
use std::path::{Path, PathBuf};

/// The rows, lowest first. `main.rs` and `lib.rs` hold only the list of modules.
const ROWS: &[&[&str]] = &[
    &["unit"],
    &["config"],
    &["inspect"],
    &[
        "transform",
        "dialect",
        "route",
        "pool",
        "keyring",
        "limit",
        "cache",
        "session",
    ],
    &["plan", "catalogue", "affinity", "state"],
    &["reply", "observe"],
    &["gateway"],
    &["proxy"],
    &["service"],
    &["command", "cli"],
];

/// Only these may know Pingora, tokio or the clock of async code.
const ADAPTERS: &[&str] = &["state", "proxy", "service", "command"];

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// What is wrong with a line of a module, if something is.
fn violation(module: &str, line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with("//") {
        return None;
    }
    let own = row(module)?;
    let mut rest = line;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        let used: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if used == module {
            continue;
        }
        match row(&used) {
            // the command line and its commands call each other
            Some(_)
                if matches!(
                    (module, used.as_str()),
                    ("command", "cli") | ("cli", "command")
                ) => {}
            Some(lower) if lower < own => {}
            Some(_) => return Some(format!("{module} may not use {used}")),
            None => return Some(format!("{used} has no row")),
        }
    }
    let adapter = ADAPTERS.contains(&module);
    if !adapter && module != "pool" && line.contains("pingora::") {
        return Some(format!("{module} may not know Pingora"));
    }
    // a queue hands slots over through a channel, which needs no runtime; so do flights
    let channel = matches!(module, "pool" | "cache") && line.contains("tokio::sync::");
    if !adapter && !channel && line.contains("tokio::") {
        return Some(format!("{module} may not know tokio"));
    }
    None
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&src).unwrap();
        // unit tests may build what they need
        let of_tests = |part: &Path| {
            ["tests.rs", "props.rs", "props", "fuzz"]
                .iter()
                .any(|name| part.ends_with(name))
        };
        if inside.ancestors().any(of_tests) {
            continue;
        }
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        let module = first.trim_end_matches(".rs");
        if matches!(module, "main" | "lib") {
            continue;
        }
        assert!(row(module).is_some(), "{module} has no row in this test");
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        for (n, line) in code.lines().enumerate() {
            if let Some(what) = violation(module, line) {
                wrong.push(format!("src/{}:{}: {what}", inside.display(), n + 1));
            }
        }
    }
    assert!(files.len() > 30, "the sources were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_violation_is_found() {
    assert_eq!(
        violation("route", "use crate::plan::Plan;"),
        Some("route may not use plan".into())
    );
    assert_eq!(
        violation("route", "use crate::pool::Pool;"),
        Some("route may not use pool".into())
    );
    assert_eq!(
        violation("plan", "use tokio::time;"),
        Some("plan may not know tokio".into())
    );
    assert_eq!(
        violation("plan", "use crate::{route, unit};"),
        Some(" has no row".into())
    );
    assert_eq!(violation("plan", "use crate::pool::Pool;"), None);
}
