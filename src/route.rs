//! The route table: which route takes a request. The first match in the order of the file wins.
//!
//! A route may ask for something of the body before it was read; then the answer is "read on",
//! and the same question is asked again with the body's fields at hand.

use std::collections::HashMap;

use http::{HeaderMap, Method};

use crate::config::pattern::Pattern;
use crate::config::{Match, Route};
use crate::inspect::{Body, endpoint};

/// What a head says about a request.
pub(crate) struct Head<'a> {
    /// In canonical form.
    pub(crate) path: &'a str,
    pub(crate) method: &'a Method,
    /// Without port.
    pub(crate) host: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// What is known about the body by now.
#[derive(Clone, Copy)]
pub(crate) enum Known<'a> {
    /// Only the length, if the head tells it.
    Length(Option<u64>),
    /// All of it; fields if it has a form we read.
    All { length: u64, body: Option<&'a Body> },
}

/// The answer of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The index of the route.
    Found(usize),
    /// A route that may match asks for something of the body; whether it asks for fields (or only
    /// for the length).
    ReadBody { fields: bool },
    /// None matches; whether one would have, had the model been another.
    Missing { model: bool },
}

/// The routes, indexed by their exact paths, so that a long table costs no more than a short one.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// For each path that routes name without a star: their indices, in order.
    exact: HashMap<String, Vec<usize>>,
    /// The routes with a pattern or no path, in order.
    open: Vec<usize>,
    /// The route for models that no other takes.
    rest: Option<usize>,
    /// The paths with a pattern, or beside one, as written.
    patterns: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    /// Everything known fits, but for the model.
    NotTheModel,
    NeedsFields,
    NeedsLength,
}

impl RouteTable {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut exact: HashMap<String, Vec<usize>> = HashMap::new();
        let (mut open, mut rest, mut patterns) = (Vec::new(), None, Vec::new());
        for (n, route) in routes.iter().enumerate() {
            if route.conditions.unknown_model {
                rest = Some(n);
                continue;
            }
            let paths = &route.conditions.paths;
            if paths.is_empty() || paths.iter().any(|path| path.exact().is_none()) {
                open.push(n);
                patterns.extend(paths.iter().map(ToString::to_string));
                continue;
            }
            for path in paths.iter().filter_map(Pattern::exact) {
                let routes = exact
                    .entry(endpoint::canonical(path.to_owned()))
                    .or_default();
                if routes.last() != Some(&n) {
                    routes.push(n);
                }
            }
        }
        RouteTable {
            exact,
            open,
            rest,
            patterns,
        }
    }

    /// The first of `routes` (those the table was made from) that takes the request.
    pub(crate) fn find(&self, routes: &[Route], head: &Head<'_>, known: Known<'_>) -> Lookup {
        let mut model = false;
        let unversioned = endpoint::unversioned(head.path);
        for n in self.candidates(head.path) {
            match fit(&routes[n].conditions, head, unversioned, known) {
                Fit::Yes => return Lookup::Found(n),
                Fit::NeedsFields => return Lookup::ReadBody { fields: true },
                Fit::NeedsLength => return Lookup::ReadBody { fields: false },
                Fit::NotTheModel => model = true,
                Fit::No => {}
            }
        }
        // what has no model is not among them
        match self.rest.filter(|_| model && head.path.starts_with("/v1/")) {
            Some(rest) => Lookup::Found(rest),
            None => Lookup::Missing { model },
        }
    }

    /// The first of `routes` that takes the request but for what it asks of the body, and `may` be
    /// taken; none behind the first that asks for nothing, as that takes all the rest.
    pub(crate) fn find_without_fields(
        &self,
        routes: &[Route],
        head: &Head<'_>,
        may: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let unversioned = endpoint::unversioned(head.path);
        for n in self.candidates(head.path) {
            let known = Known::Length(Some(1));
            match fit(&routes[n].conditions, head, unversioned, known) {
                Fit::Yes | Fit::NeedsFields if may(n) => return Some(n),
                Fit::Yes => return None,
                _ => {}
            }
        }
        None
    }

    /// Whether a route names this path itself, or what begins with it, and not just a pattern that
    /// it happens to fit.
    pub(crate) fn names(&self, path: &str) -> bool {
        self.exact.contains_key(path) || (path.starts_with("/v1/") && self.names_below(path))
    }

    /// Whether a route has a pattern that begins with this path.
    pub(crate) fn names_below(&self, path: &str) -> bool {
        let unversioned = path.strip_prefix("/v1").unwrap_or(path);
        let begins = |p: &String| p.starts_with(path) || p.starts_with(unversioned);
        self.patterns.iter().any(begins)
    }

    /// The routes whose path may fit, in the order of the file.
    fn candidates<'a>(&'a self, path: &str) -> impl Iterator<Item = usize> + 'a {
        let exact = self.exact.get(path).map_or(&[][..], Vec::as_slice);
        let (mut exact, mut open) = (
            exact.iter().copied().peekable(),
            self.open.iter().copied().peekable(),
        );
        std::iter::from_fn(move || match (exact.peek(), open.peek()) {
            (Some(a), Some(b)) if a < b => exact.next(),
            (Some(_), None) => exact.next(),
            _ => open.next(),
        })
    }
}

/// `unversioned` is the path as it may be written too.
fn fit(conditions: &Match, head: &Head<'_>, unversioned: Option<&str>, known: Known<'_>) -> Fit {
    let any = |patterns: &[Pattern], text: Option<&str>| {
        patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| p.matches(text)))
    };
    let header =
        |name: &http::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let host = || head.host.map(str::to_ascii_lowercase);
    let path = conditions.paths.is_empty()
        || conditions
            .paths
            .iter()
            .any(|pattern| match pattern.exact() {
                Some(exact) => head.path == exact || unversioned == Some(exact),
                None => {
                    pattern.matches(head.path)
                        || unversioned.is_some_and(|path| pattern.matches(path))
                }
            });
    if !path
        || !(conditions.methods.is_empty() || conditions.methods.contains(head.method))
        || !(conditions.hosts.is_empty() || any(&conditions.hosts, host().as_deref()))
        || !conditions
            .headers
            .iter()
            .all(|(name, patterns)| any(patterns, header(name)))
    {
        return Fit::No;
    }
    if let Some(bound) = conditions.body_larger_than {
        match known {
            Known::Length(Some(length)) | Known::All { length, .. } if length <= bound => {
                return Fit::No;
            }
            Known::Length(None) => return Fit::NeedsLength,
            _ => {}
        }
    }
    if !conditions.asks_for_fields() {
        return Fit::Yes;
    }
    let body = match known {
        Known::Length(Some(0)) => None,
        Known::Length(_) => return Fit::NeedsFields,
        Known::All { body, .. } => body,
    };
    let text = |name| body.and_then(|body| body.text(name));
    match (
        any(&conditions.voices, text("voice")),
        any(&conditions.models, text("model")),
    ) {
        (true, true) => Fit::Yes,
        (true, false) => Fit::NotTheModel,
        (false, _) => Fit::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::inspect::Scanner;

    const ROUTES: &str = r#"
  - { name: big, match: { path: /v1/audio/transcriptions, body_larger_than: 25MiB }, pool: a }
  - { name: speech, match: { path: [/v1/audio/speech], voice: "af_*" }, pool: a }
  - { name: gold, match: { path: "/v1/*", headers: { x-tier: gold } }, pool: a }
  - { name: llama, match: { path: /chat/completions, model: "llama*" }, pool: a }
  - { name: gpt, match: { path: /v1/chat/completions, model: [gpt-4, "gpt-5*"] }, pool: a }
  - { name: reads, match: { path: "/v1/*", method: [GET, HEAD] }, pool: a }
  - { name: voices, match: { path: "/audio/voic*" }, pool: a }
  - { name: host, match: { host: "*.example.com" }, pool: a }
"#;

    fn look(
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        known: Known<'_>,
    ) -> String {
        let text = format!("pools: {{ a: {{ servers: ['http://h:1'] }} }}\nroutes:{ROUTES}");
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        let config = config.unwrap_or_else(|| panic!("{problems:?}"));
        let map: HeaderMap = headers
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
            .collect();
        let head = Head {
            path,
            method: &method.parse().unwrap(),
            host: map.get("host").and_then(|host| host.to_str().ok()),
            headers: &map,
        };
        match RouteTable::new(&config.routes).find(&config.routes, &head, known) {
            Lookup::Found(n) => config.routes[n].name.clone(),
            Lookup::ReadBody { fields } => format!("read fields={fields}"),
            Lookup::Missing { model } => format!("missing model={model}"),
        }
    }

    fn with_body(path: &str, text: &str) -> String {
        let mut scanner = Scanner::new(&HeaderMap::new()).unwrap();
        scanner.feed(text.as_bytes()).unwrap();
        let body = scanner.finish().unwrap();
        let length = text.len() as u64;
        look(
            "POST",
            path,
            &[],
            Known::All {
                length,
                body: Some(&body),
            },
        )
    }

    #[test]
    fn the_body_is_asked_for_only_if_a_route_that_may_match_needs_it() {
        let unread = Known::Length(Some(10));
        assert_eq!(
            look("POST", "/v1/audio/speech", &[], unread),
            "read fields=true"
        );
        assert_eq!(
            look(
                "POST",
                "/v1/chat/completions",
                &[("x-tier", "gold")],
                unread
            ),
            "gold"
        );
        assert_eq!(
            look("GET", "/v1/files", &[], Known::Length(Some(0))),
            "reads"
        );
        assert_eq!(
            look("POST", "/v1/audio/transcriptions", &[], Known::Length(None)),
            "read fields=false"
        );
        assert_eq!(
            look(
                "POST",
                "/v1/audio/transcriptions",
                &[],
                Known::Length(Some(26 << 20))
            ),
            "big"
        );
        assert_eq!(
            look(
                "POST",
                "/v1/audio/transcriptions",
                &[],
                Known::Length(Some(25 << 20))
            ),
            "missing model=false"
        );
    }

    #[test]
    fn the_first_written_route_that_fits_wins() {
        assert_eq!(
            with_body("/v1/chat/completions", r#"{"model":"llama3"}"#),
            "llama"
        );
        assert_eq!(
            with_body("/v1/chat/completions", r#"{"model":"gpt-5-mini"}"#),
            "gpt"
        );
        assert_eq!(
            with_body("/v1/audio/speech", r#"{"voice":"af_sky"}"#),
            "speech"
        );
        assert_eq!(
            look("PUT", "/v1/audio/voices", &[], Known::Length(Some(0))),
            "voices"
        );
        assert_eq!(
            look(
                "GET",
                "/x",
                &[("host", "a.example.com")],
                Known::Length(Some(0))
            ),
            "host"
        );
    }

    #[test]
    fn a_missing_route_tells_whether_the_model_was_at_fault() {
        assert_eq!(
            with_body("/v1/chat/completions", r#"{"model":"claude"}"#),
            "missing model=true"
        );
        assert_eq!(
            with_body("/v1/chat/completions", r#"{}"#),
            "missing model=true"
        );
        assert_eq!(
            with_body("/v1/audio/speech", r#"{"voice":"nova"}"#),
            "missing model=false"
        );
        assert_eq!(
            with_body("/v1/embeddings", r#"{"model":"x"}"#),
            "missing model=false"
        );
    }
}
