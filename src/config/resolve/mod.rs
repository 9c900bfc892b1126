//! From the file as written to the checked configuration. Reports every problem, decides every
//! default.

mod admin;
mod affinity;
mod fields;
mod jwt;
mod keys;
mod limits;
mod listeners;
mod memory;
mod pools;
mod routes;
mod state;
mod targets;
mod tracing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;

use super::file::File;
use super::problem::{Problem, Severity};
use super::tree::{self, Tree, at};
use super::{AccessLog, Config, Log, Pool, Shutdown};
use crate::unit::{Secret, Size, Span};

pub(super) fn resolve(
    file: File,
    tree: &Tree,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let mut resolver = Resolver {
        tree,
        folder,
        env,
        edge_keys: !file.keys.is_empty() || file.jwt.is_some(),
        files: Vec::new(),
        damaged: problems.iter().any(Problem::is_error),
        problems,
    };
    let listeners = resolver.listeners(&file);
    let admin = resolver.admin(&file, &listeners);
    let usual = Some(Duration::from_secs(60));
    let listing = resolver.listing(&at![], file.list_models.as_ref(), usual);
    let pools: Vec<Pool> = file
        .pools
        .0
        .iter()
        .map(|(name, pool)| resolver.pool(name, pool, &listeners, listing))
        .collect();
    if pools.is_empty() && !resolver.damaged {
        resolver.error(
            at!["pools"],
            "no pool is defined; add at least one under `pools:`",
        );
    }
    let default_max_body = file.limits.max_body.unwrap_or(Size::mib(100)).0;
    let mut routes = resolver.routes(&file.routes, &pools, default_max_body);
    if let Some(pool) = &file.unknown_model {
        routes.extend(resolver.unknown_model(pool, &routes, &pools, default_max_body));
    }
    resolver.unused(&pools, &file);
    let keys = resolver.keys(&file, &routes);
    let jwt = resolver.jwt(&file);
    let cache = resolver.cache(&file, &routes);
    let sessions = resolver.sessions(&file, &routes);
    let affinity_secret = resolver.affinity(&file, &routes, &pools);
    let tracing = resolver.tracing(&file);
    let state = file.state.as_ref();
    let state = state.and_then(|state| resolver.state(state));
    let seconds = |span: Option<Span>, default| span.unwrap_or(Span::secs(default)).0;
    Some(Config {
        listeners,
        admin,
        pools,
        routes,
        prices: resolver.prices(&file.prices),
        budget_file: resolver.budget_file(&file, &keys),
        keys,
        jwt,
        cache,
        state,
        sessions,
        affinity_secret,
        limits: resolver.limits(&file.limits),
        log: Log {
            level: file.log.level.unwrap_or_default(),
            format: file.log.format,
            access: match file.log.access.as_deref() {
                None | Some("stdout") => AccessLog::Stdout,
                Some("stderr") => AccessLog::Stderr,
                Some("off" | "false") => AccessLog::Off,
                Some(path) => AccessLog::File(folder.join(path)),
            },
        },
        shutdown: Shutdown {
            drain: seconds(file.shutdown.drain, 0),
            grace: seconds(file.shutdown.grace, 60),
        },
        tracing,
        files: resolver.files,
    })
}

struct Resolver<'a> {
    tree: &'a Tree,
    folder: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Clients show keys of ours.
    edge_keys: bool,
    /// Files that were read.
    files: Vec<PathBuf>,
    /// Parts of the file could not be read, so what is absent may only be missing for that.
    damaged: bool,
    problems: &'a mut Vec<Problem>,
}

// === impl Resolver: reporting ===

impl Resolver<'_> {
    fn report(
        &mut self,
        severity: Severity,
        path: tree::Path,
        message: String,
        help: Option<String>,
    ) {
        let span = self.tree.span(&path);
        // the value of a variable may be a secret in the wrong place
        let message = match self
            .tree
            .expanded(&path)
            .map(str::trim)
            .filter(|value| !value.is_empty())
        {
            Some(value) => message.replace(value, "${…}"),
            None => message,
        };
        self.problems.push(Problem {
            severity,
            message,
            help,
            span,
            path: path.to_string(),
        });
    }

    fn error(&mut self, path: tree::Path, message: impl Into<String>) {
        self.report(Severity::Error, path, message.into(), None);
    }

    fn warn(&mut self, path: tree::Path, message: impl Into<String>) {
        self.report(Severity::Warning, path, message.into(), None);
    }

    /// A parsed value, or a noted problem.
    fn check<T>(&mut self, path: tree::Path, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(path, message)).ok()
    }

    /// Names go into headers, labels and log lines.
    fn name(&mut self, path: tree::Path, what: &str, name: &str) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let message = format!("`{name}` cannot be the name of a {what}");
            let help = "use 1 to 64 letters, digits, `-`, `_`, `.` or `:`".to_owned();
            self.report(Severity::Error, path, message, Some(help));
        }
    }
}

// === impl Resolver: secrets ===

impl Resolver<'_> {
    /// A secret that is written here or read from a file, under one of these two names; an empty
    /// one is none. It must fit into a header.
    fn secret(
        &mut self,
        here: &tree::Path,
        [name, file_name]: [&str; 2],
        written: Option<&String>,
        file: Option<&String>,
    ) -> Option<Secret> {
        self.files.extend(file.map(|file| self.folder.join(file)));
        let from_file = file.and_then(|file| {
            let read = std::fs::read_to_string(self.folder.join(file))
                .map_err(|e| format!("`{file}` cannot be read: {e}"));
            self.check(here.then(file_name), read)
        });
        if written.is_some() && file.is_some() {
            self.error(
                here.then(file_name),
                format!("`{name}` and `{file_name}` exclude each other"),
            );
        }
        let text = written.cloned().or(from_file);
        let text = text.map(|text| text.trim().to_owned());
        let text = text.filter(|text| !text.is_empty())?;
        if HeaderValue::from_str(&text).is_err() {
            self.error(
                here.then(name),
                "it holds characters that no header can carry",
            );
        }
        // an address without a password is none
        let is_address = text.contains("://") && !text.contains('@');
        if written.is_some() && !is_address && self.tree.expanded(&here.then(name)).is_none() {
            let message = format!(
                "a secret stands in the file in plain text; `${{VARIABLE}}` or `{file_name}` keeps it out"
            );
            self.warn(here.then(name), message);
        }
        Some(Secret::new(text))
    }
}
