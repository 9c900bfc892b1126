//! The route table: which route takes a request. The first match in the order of the file wins.
//!
//! A route may ask for something of the body before it was read; then the answer is "read on",
//! and the same question is asked again with the body's fields at hand.
//!
//! No request walks the routes. Those that ask for the same but for models and voices have one shape:
//! shapes are found by their paths, hosts and headers, and routes of a shape by model and voice.

mod shape;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use http::{HeaderMap, HeaderName, Method};

use crate::config::Route;
use crate::config::pattern::Pattern;
use crate::config::sieve::Sieve;
use crate::inspect::{Body, endpoint};
use shape::{Fit, Request, Shape};

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

/// The routes, indexed so that a long table costs no more than a short one.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// In the order of their first routes.
    shapes: Vec<Shape>,
    /// Shapes by [`PATH`], [`HOST`], and then [`RouteTable::headers`].
    by_head: Sieve,
    /// The headers that routes ask for.
    headers: Vec<HeaderName>,
    asks_for_host: bool,
    /// The route for models that no other takes.
    rest: Option<usize>,
    /// The canonical paths that routes name without a star.
    named: HashSet<String>,
    /// The paths with a pattern, or beside one, as written; sorted.
    patterns: Vec<String>,
}

const PATH: usize = 0;
const HOST: usize = 1;
/// The first of the headers.
const HEADERS: usize = 2;

impl RouteTable {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut table = RouteTable {
            shapes: Vec::new(),
            by_head: Sieve::default(),
            headers: Vec::new(),
            asks_for_host: false,
            rest: None,
            named: HashSet::new(),
            patterns: Vec::new(),
        };
        let mut known = HashMap::new();
        for (n, route) in routes.iter().enumerate() {
            let conditions = &route.conditions;
            if conditions.unknown_model {
                table.rest = Some(n);
                continue;
            }
            table.note_paths(&conditions.paths);
            let n = u32::try_from(n).expect("nobody writes so many routes");
            let shape = *known.entry(shape::key(conditions)).or_insert_with(|| {
                table.shapes.push(Shape::new(n));
                table.shapes.len() - 1
            });
            table.shapes[shape].add(n, conditions);
        }
        for (n, shape) in table.shapes.iter_mut().enumerate() {
            shape.finish(routes);
            let conditions = &routes[shape.first as usize].conditions;
            table.asks_for_host |= !conditions.hosts.is_empty();
            let mut kinds = vec![
                (PATH, conditions.paths.as_slice()),
                (HOST, conditions.hosts.as_slice()),
            ];
            for (name, patterns) in &conditions.headers {
                let known = table.headers.iter().position(|known| known == name);
                let kind = known.unwrap_or_else(|| {
                    table.headers.push(name.clone());
                    table.headers.len() - 1
                });
                kinds.push((HEADERS + kind, patterns.as_slice()));
            }
            table.by_head.add(n as u32, &kinds);
        }
        table.patterns.sort_unstable();
        table
    }

    fn note_paths(&mut self, paths: &[Pattern]) {
        if paths.iter().any(|path| path.exact().is_none()) {
            self.patterns.extend(paths.iter().map(ToString::to_string));
            return;
        }
        let exact = paths.iter().filter_map(Pattern::exact);
        self.named
            .extend(exact.map(|path| endpoint::canonical(path.to_owned())));
    }

    /// The first of `routes` (those the table was made from) that takes the request.
    pub(crate) fn find(&self, routes: &[Route], head: &Head<'_>, known: Known<'_>) -> Lookup {
        let request = self.request(head);
        let (mut best, mut model) = (None::<(u32, Lookup)>, false);
        self.candidates(&request, &mut |shapes| {
            for shape in shapes.iter().map(|n| &self.shapes[*n as usize]) {
                let bound = best.map_or(u32::MAX, |(n, _)| n);
                if shape.first >= bound {
                    break;
                }
                match shape.find(routes, &request, known, bound) {
                    Fit::Yes(n) => best = Some((n, Lookup::Found(n as usize))),
                    Fit::Needs { fields } => {
                        best = Some((shape.first, Lookup::ReadBody { fields }));
                    }
                    Fit::NotTheModel => model = true,
                    Fit::No => {}
                }
            }
        });
        // what has no model is not among them
        let rest = || self.rest.filter(|_| model && head.path.starts_with("/v1/"));
        match best {
            Some((_, found)) => found,
            None => rest().map_or(Lookup::Missing { model }, Lookup::Found),
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
        let (request, known) = (self.request(head), Known::Length(Some(1)));
        let mut fitting: Vec<u32> = Vec::new();
        self.candidates(&request, &mut |shapes| {
            let fits = |shape: &&Shape| {
                let fit = shape.find(routes, &request, known, u32::MAX);
                matches!(fit, Fit::Yes(_) | Fit::Needs { fields: true })
            };
            let shapes = shapes.iter().map(|n| &self.shapes[*n as usize]);
            let members = shapes.filter(|shape| fits(shape)).flat_map(Shape::members);
            fitting.extend(members);
        });
        fitting.sort_unstable();
        let asks = |n: usize| routes[n].conditions.asks_for_fields();
        let mut fitting = fitting.into_iter().map(|n| n as usize);
        let found = fitting.find(|n| may(*n) || !asks(*n));
        found.filter(|n| may(*n))
    }

    /// Whether a route names this path itself, or what begins with it, and not just a pattern that
    /// it happens to fit.
    pub(crate) fn names(&self, path: &str) -> bool {
        self.named.contains(path) || (path.starts_with("/v1/") && self.names_below(path))
    }

    /// Whether a route has a pattern that begins with this path.
    pub(crate) fn names_below(&self, path: &str) -> bool {
        let begins = |path: &str| {
            let at = self.patterns.partition_point(|p| p.as_str() < path);
            self.patterns.get(at).is_some_and(|p| p.starts_with(path))
        };
        begins(path) || begins(path.strip_prefix("/v1").unwrap_or(path))
    }

    fn request<'a>(&self, head: &'a Head<'a>) -> Request<'a> {
        let lower = |host: &'a str| match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        Request {
            head,
            unversioned: endpoint::unversioned(head.path),
            host: head.host.filter(|_| self.asks_for_host).map(lower),
        }
    }

    /// Visits lists of the shapes whose head may fit, each in order; some shapes more than once.
    fn candidates(&self, request: &Request<'_>, visit: &mut dyn FnMut(&[u32])) {
        self.by_head.rest(visit);
        self.by_head.matching(PATH, request.head.path, visit);
        if let Some(path) = request.unversioned {
            self.by_head.matching(PATH, path, visit);
        }
        if let Some(host) = &request.host {
            self.by_head.matching(HOST, host, visit);
        }
        for (n, name) in self.headers.iter().enumerate() {
            if let Some(value) = request.header(name) {
                self.by_head.matching(HEADERS + n, value, visit);
            }
        }
    }
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
