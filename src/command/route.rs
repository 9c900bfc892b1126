//! `trunkline route`: explains what a request would get. Sends nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::cli::{FAILED, OK, Route as Options};
use crate::command::source;
use crate::config::{Auth, Config, Pool, Route, Zone};
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Scanner, endpoint, path};
use crate::route::{Head, Known, Lookup, RouteTable};
use crate::transform::{fields, path as target_path};
use crate::unit::{Size, Span};

/// Explains; says with which code to exit.
pub(crate) fn run(options: &Options) -> u8 {
    let none = "name one with --config";
    let (_, config) = match source::require(options.config.as_deref(), none) {
        Ok(found) => found,
        Err(code) => return code,
    };
    match explain(&config, options) {
        Ok((text, found)) => {
            print!("{text}");
            if found { OK } else { FAILED }
        }
        Err(message) => {
            eprintln!("trunkline: {message}");
            2
        }
    }
}

fn explain(config: &Config, options: &Options) -> Result<(String, bool), String> {
    let (path, query) = options
        .path
        .split_once('?')
        .map_or((options.path.as_str(), None), |(p, q)| (p, Some(q)));
    let path = endpoint::canonical(path::normalise(path).map_err(|e| e.to_string())?);
    let method: Method = options
        .method
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| "not an HTTP method".to_owned())?;
    let headers = headers(&options.headers)?;
    let size = options
        .body_size
        .as_ref()
        .map(|text| text.parse::<Size>())
        .transpose()?
        .map(|size| size.0);
    let text = body_text(options);
    let mut scanner = Scanner::new(&HeaderMap::new()).map_err(|e| e.to_string())?;
    scanner.feed(&text).map_err(|e| e.to_string())?;
    let body = scanner.finish().map_err(|e| e.to_string())?;
    let host = headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .map(str::to_ascii_lowercase);
    let head = Head {
        path: &path,
        method: &method,
        host: host.as_deref(),
        headers: &headers,
    };
    let known = Known::All {
        length: size.unwrap_or(text.len() as u64),
        body: Some(&body),
    };
    let table = RouteTable::new(&config.routes);
    let unread = table.find(
        &config.routes,
        &head,
        Known::Length(size.or(Some(text.len() as u64))),
    );
    let mut out = format!("request   {method} {path}");
    for (name, value) in [("model", &options.model), ("voice", &options.voice)] {
        if let Some(value) = value {
            out.push_str(&format!("  {name} {value}"));
        }
    }
    out.push('\n');
    let reads = matches!(method, Method::GET | Method::HEAD) && !table.names(&path);
    let own = ["/health", "/v1/models", "/v1/audio/voices"];
    if reads && own.contains(&path.as_str()) {
        out.push_str("answered  by Trunkline itself, as no route names this path\n");
        return Ok((out, true));
    }
    match table.find(&config.routes, &head, known) {
        Lookup::Found(n) => {
            let route = &config.routes[n];
            if route.conditions.unknown_model {
                out.push_str(
                    "route     none takes this model; `unknown_model` has a pool for it\n",
                );
            }
            let read = match unread {
                Lookup::ReadBody { .. } => " (the body is read to decide)",
                _ => "",
            };
            if !route.conditions.unknown_model {
                out.push_str(&format!(
                    "route     {}, the {} written{read}\n",
                    route.name,
                    ordinal(n + 1)
                ));
            }
            let length = size.unwrap_or(text.len() as u64);
            let home = route.zone == Some(Zone::Home)
                || headers
                    .get("x-data-zone")
                    .is_some_and(|zone| zone == "home");
            let asked = Asked {
                path: &path,
                query,
                body: &body,
                text: &text,
                length,
                home,
            };
            plan(&mut out, config, route, &asked);
            Ok((out, true))
        }
        Lookup::Missing { model: true } => {
            out.push_str(
                "route     none: 404 model_not_found, as only the model matches no route\n",
            );
            Ok((out, false))
        }
        _ => {
            out.push_str("route     none: 404 no_route\n");
            Ok((out, false))
        }
    }
}

/// The request that is explained.
struct Asked<'a> {
    path: &'a str,
    query: Option<&'a str>,
    body: &'a Body,
    text: &'a Bytes,
    length: u64,
    /// It stays at home.
    home: bool,
}

/// Why a pool is not asked at all.
fn passed_over(pool: &Pool, asked: &Asked<'_>) -> Option<String> {
    if asked.home && pool.zone == Zone::Cloud {
        return Some("never: it is in the cloud, and the request stays at home".to_owned());
    }
    let audio = endpoint::operation(asked.path).is_some_and(Operation::hears);
    let limit = pool.largest_body(audio)?;
    (asked.length > limit).then(|| format!("never: it takes at most {}", Size(limit)))
}

fn plan(out: &mut String, config: &Config, route: &Route, asked: &Asked<'_>) {
    let Asked {
        path,
        query,
        body,
        text,
        ..
    } = *asked;
    for (n, target) in route.targets.iter().enumerate() {
        let pool = config.pool(target.pool);
        let role = match route.split.get(n) {
            Some(weight) => format!("split {weight}"),
            None if n == 0 => "pool".to_owned(),
            None => "fallback".to_owned(),
        };
        let servers: Vec<String> = pool
            .servers
            .iter()
            .map(|s| format!("{}{}", s.name, if s.backup { " (backup)" } else { "" }))
            .collect();
        out.push_str(&format!(
            "{role:<10}{}: {}\n",
            pool.name,
            servers.join(", ")
        ));
        if let Some(why) = passed_over(pool, asked) {
            out.push_str(&format!("          {why}\n"));
            continue;
        }
        if let Some(server) = pool.servers.first() {
            let target_path =
                target_path::to_server(path, query, pool, server, target.auth(server));
            let scheme = if server.url.tls { "https" } else { "http" };
            out.push_str(&format!(
                "          {scheme}://{}{target_path}\n",
                server.url.authority()
            ));
        }
        let operation = endpoint::operation(path);
        let rewritten = fields::rewrite(body, &target.fields, pool, operation, false);
        let edited = rewritten.edits.splice(0, text.clone()).concat();
        let prompt = target.fields.prompt.as_ref();
        if let (Some(prompt), Some(Operation::Chat | Operation::Response)) = (prompt, operation) {
            let file = prompt.file.display();
            out.push_str(&format!("          the text of {file} comes first\n"));
        }
        for change in changes(text, &edited) {
            out.push_str(&format!("          {change}\n"));
        }
        // servers of one pool may differ
        let mut told: Vec<&str> = pool
            .servers
            .iter()
            .map(|s| credentials(target.auth(s)))
            .collect();
        told.dedup();
        out.push_str(&format!("          credentials: {}\n", told.join("; or ")));
        let first_byte = pool
            .timeouts
            .first_byte
            .map_or("never".to_owned(), |d| Span(d).to_string());
        out.push_str(&format!(
            "          gives up after: first byte {first_byte}\n"
        ));
    }
    let on: Vec<String> = route
        .retry
        .on
        .iter()
        .map(|on| format!("{on:?}").to_lowercase())
        .collect();
    let on = on.join(", ").replace("status(", "").replace(')', "");
    out.push_str(&format!(
        "retry     on {on}; at most {} servers of a pool\n",
        route.retry.attempts
    ));
}

fn credentials(auth: Auth) -> &'static str {
    match auth {
        Auth::Inject => "the configured key replaces the client's",
        Auth::Passthrough => "the client's go through",
        Auth::None => "none go through",
    }
}

/// What became of each field.
fn changes(before: &[u8], after: &[u8]) -> Vec<String> {
    let parse =
        |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    let (before, after) = (parse(before), parse(after));
    let gone = before.as_object().into_iter().flatten();
    let gone = gone
        .filter(|(name, _)| after.get(name.as_str()).is_none())
        .map(|(name, _)| format!("{name}: is taken out"));
    let fields = after.as_object().into_iter().flatten();
    let changed = fields
        .filter(|(name, value)| before.get(name.as_str()) != Some(value))
        .map(|(name, value)| match before.get(name) {
            Some(old) => format!("{name}: {old} becomes {value}"),
            None => format!("{name}: {value} is added"),
        });
    changed.chain(gone).collect()
}

/// A body with what was named.
fn body_text(options: &Options) -> Bytes {
    let mut fields = serde_json::Map::new();
    for (name, value) in [("model", &options.model), ("voice", &options.voice)] {
        if let Some(value) = value {
            fields.insert(name.into(), value.clone().into());
        }
    }
    serde_json::Value::from(fields).to_string().into()
}

/// Headers as they are typed.
pub(super) fn headers(given: &[String]) -> Result<HeaderMap, String> {
    given
        .iter()
        .map(|line| {
            let wrong = || format!("`{line}` is not a header; write `name: value`");
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            Ok((
                name,
                HeaderValue::from_str(value.trim()).map_err(|_| wrong())?,
            ))
        })
        .collect()
}

fn ordinal(n: usize) -> String {
    let suffix = match (n % 10, n % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}
