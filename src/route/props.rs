//! The table answers as if all routes were walked.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;

use super::{Head, Known, Lookup, RouteTable};
use crate::config::pattern::Pattern;
use crate::config::{Match, Route};
use crate::fuzz::cases;
use crate::inspect::{Body, Scanner, endpoint};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    NotTheModel,
    NeedsFields,
    NeedsLength,
}

/// The rule itself.
fn walk(routes: &[Route], head: &Head<'_>, known: Known<'_>) -> Lookup {
    let mut model = false;
    let unversioned = endpoint::unversioned(head.path);
    for (n, route) in routes.iter().enumerate() {
        if route.conditions.unknown_model {
            continue;
        }
        match fit(&route.conditions, head, unversioned, known) {
            Fit::Yes => return Lookup::Found(n),
            Fit::NeedsFields => return Lookup::ReadBody { fields: true },
            Fit::NeedsLength => return Lookup::ReadBody { fields: false },
            Fit::NotTheModel => model = true,
            Fit::No => {}
        }
    }
    let rest = routes.iter().position(|r| r.conditions.unknown_model);
    match rest.filter(|_| model && head.path.starts_with("/v1/")) {
        Some(rest) => Lookup::Found(rest),
        None => Lookup::Missing { model },
    }
}

fn walk_without_fields(
    routes: &[Route],
    head: &Head<'_>,
    may: &dyn Fn(usize) -> bool,
) -> Option<usize> {
    let unversioned = endpoint::unversioned(head.path);
    for (n, route) in routes.iter().enumerate() {
        if route.conditions.unknown_model {
            continue;
        }
        match fit(&route.conditions, head, unversioned, Known::Length(Some(1))) {
            Fit::Yes | Fit::NeedsFields if may(n) => return Some(n),
            Fit::Yes => return None,
            _ => {}
        }
    }
    None
}

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

const PATHS: &[&str] = &[
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/audio/speech",
    "/v1/*",
    "/audio/*",
    "*/speech",
    "*",
    "/x",
];
const NAMES: &[&str] = &[
    "a", "b", "ab", "abc", "b-x", "a*", "ab*", "*c", "*-x", "a*c", "*b*", "*", "é*", "*é",
];

fn some_of(list: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<Pattern>> {
    let one = proptest::sample::select(list).prop_map(Pattern::new);
    proptest::collection::vec(one, 0..=most)
}

fn route() -> impl Strategy<Value = Route> {
    let headers = proptest::collection::vec((0..2_usize, some_of(NAMES, 2)), 0..=1);
    let fields = (some_of(NAMES, 2), some_of(NAMES, 1), 0..6_u64);
    let head = (some_of(PATHS, 2), some_of(NAMES, 1), headers, 0..4_u8);
    (head, fields).prop_map(
        |((paths, hosts, headers, method), (models, voices, larger))| {
            let names = [
                HeaderName::from_static("x-a"),
                HeaderName::from_static("x-b"),
            ];
            let headers = headers.into_iter();
            let mut route = Route::bare("r".to_owned(), Vec::new());
            route.conditions = Match {
                paths,
                hosts,
                models,
                voices,
                methods: (method == 0).then_some(Method::GET).into_iter().collect(),
                headers: headers.map(|(n, p)| (names[n].clone(), p)).collect(),
                body_larger_than: Some(larger * 10).filter(|_| larger > 3),
                unknown_model: false,
            };
            route
        },
    )
}

/// What a request says: path, host, header, model, voice, and how much of its body is known.
type Said = (
    usize,
    Option<usize>,
    Option<usize>,
    Option<usize>,
    Option<usize>,
    u8,
);

fn said() -> impl Strategy<Value = Said> {
    let name = || proptest::option::of(0..TEXTS.len());
    (0..ASKED.len(), name(), name(), name(), name(), 0..5_u8)
}

const ASKED: &[&str] = &[
    "/v1/chat/completions",
    "/v1/audio/speech",
    "/v1/audio/x",
    "/x",
    "/y",
];
const TEXTS: &[&str] = &["a", "b", "ab", "abc", "b-x", "AB", "", "éa", "aé", "axc"];

fn body(model: Option<usize>, voice: Option<usize>) -> Body {
    let mut fields = serde_json::Map::new();
    for (name, text) in [("model", model), ("voice", voice)] {
        fields.extend(text.map(|n| (name.to_owned(), TEXTS[n].into())));
    }
    let mut scanner = Scanner::new(&HeaderMap::new()).unwrap();
    let text = serde_json::to_vec(&fields).unwrap();
    scanner.feed(&text).unwrap();
    scanner.finish().unwrap()
}

fn agrees(routes: &[Route], table: &RouteTable, said: Said) {
    let (path, host, header, model, voice, part) = said;
    let mut headers = HeaderMap::new();
    if let Some(n) = header {
        let name = HeaderName::from_str(["x-a", "x-b"][n % 2]).unwrap();
        headers.insert(name, TEXTS[n].parse().unwrap());
    }
    let head = Head {
        path: ASKED[path],
        method: [&Method::GET, &Method::POST][usize::from(part) % 2],
        host: host.map(|n| TEXTS[n]),
        headers: &headers,
    };
    let body = body(model, voice);
    let known = match part {
        0 => Known::Length(None),
        1 => Known::Length(Some(0)),
        2 => Known::Length(Some(45)),
        3 => Known::All {
            length: 45,
            body: None,
        },
        _ => Known::All {
            length: 60,
            body: Some(&body),
        },
    };
    assert_eq!(
        table.find(routes, &head, known),
        walk(routes, &head, known),
        "{said:?}"
    );
    let may = |n: usize| n % 3 == usize::from(part) % 3;
    assert_eq!(
        table.find_without_fields(routes, &head, &may),
        walk_without_fields(routes, &head, &may),
        "{said:?}"
    );
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn the_first_written_route_wins_however_it_is_found(
        routes in proptest::collection::vec(route(), 0..40),
        rest in any::<bool>(),
        requests in proptest::collection::vec(said(), 1..60),
    ) {
        let mut routes = routes;
        if rest {
            let mut last = Route::bare("rest".to_owned(), Vec::new());
            last.conditions.unknown_model = true;
            routes.push(last);
        }
        let table = RouteTable::new(&routes);
        for said in requests {
            agrees(&routes, &table, said);
        }
    }

    #[test]
    fn routes_of_one_shape_are_told_apart_by_model_and_voice(
        names in proptest::collection::vec((some_of(NAMES, 2), some_of(NAMES, 2)), 0..60),
        requests in proptest::collection::vec(said(), 1..60),
    ) {
        let routes: Vec<Route> = names.into_iter().map(|(models, voices)| {
            let mut route = Route::bare("r".to_owned(), Vec::new());
            (route.conditions.models, route.conditions.voices) = (models, voices);
            route
        }).collect();
        let table = RouteTable::new(&routes);
        for said in requests {
            agrees(&routes, &table, said);
        }
    }
}
