//! haproxy.cfg: frontends with their rules become listeners and routes, backends become pools.
//!
//! What only keeps HAProxy itself going (logging, buffers, forwarded headers) is passed over in
//! silence; every other line that is not understood is noted with its number.

mod backend;
mod conditions;
mod retries;
mod server;
mod words;

use std::collections::BTreeMap;

use super::draft::{Draft, Listener, Map, Route, Yaml, name};
use conditions::{Acls, Conjunction};
use words::{Line, Section};

/// What has no counterpart because it is how things are here, or nobody's request notices.
const SILENT: &[&str] = &[
    "log",
    "log-format",
    "log-tag",
    "mode",
    "maxconn",
    "unique-id-format",
    "unique-id-header",
    "capture",
    "errorfile",
    "errorfiles",
    "description",
    "id",
    "enabled",
    "backlog",
    "fullconn",
    "no",
    "default-server",
    "hash-type",
    "http-reuse",
    "load-server-state-from-file",
    "guid",
    "monitor-uri",
    "option",
    "timeout",
];

pub(super) fn read(text: &str) -> Result<Draft, String> {
    let sections = words::sections(text)?;
    let mut import = Import {
        draft: Draft::default(),
        backends: BTreeMap::new(),
        names: Vec::new(),
        everywhere: Map::default(),
    };
    let proxies = sections.iter().filter(|section| section.is_proxy());
    let proxies: Vec<&Section> = proxies
        .filter(|section| !import.is_left_out(section))
        .collect();
    let with_servers = |section: &&&Section| matches!(section.kind.as_str(), "backend" | "listen");
    for section in proxies.iter().filter(with_servers) {
        import
            .backends
            .insert(section.name.clone(), (*section).clone());
    }
    let fronts: Vec<&Section> = proxies
        .into_iter()
        .filter(|section| section.kind != "backend")
        .collect();
    if fronts.is_empty() {
        return Err("it has no frontend".to_owned());
    }
    if fronts.len() > 1 {
        import.draft.warn(
            "all listeners share the routes; the rules of several frontends stand behind each other",
        );
    }
    for section in fronts {
        import.frontend(section);
    }
    import.global(&sections);
    let used = |name: &String| {
        import
            .draft
            .pools
            .iter()
            .any(|pool| pool.name == self::name(name))
    };
    let unused: Vec<String> = import
        .backends
        .keys()
        .filter(|name| !used(name))
        .cloned()
        .collect();
    for name in unused {
        import
            .draft
            .warn(format!("backend `{name}` is left out: no rule uses it"));
    }
    Ok(import.draft)
}

struct Import {
    draft: Draft,
    /// By name, as far as they were not made into pools yet.
    backends: BTreeMap<String, Section>,
    /// Of routes.
    names: Vec<String>,
    /// Headers that frontends set on every request.
    everywhere: Map,
}

impl Import {
    /// TCP and statistics.
    fn is_left_out(&mut self, section: &Section) -> bool {
        let Section { kind, name, .. } = section;
        if section.last("mode").is_some_and(|line| line.is(1, "tcp")) {
            self.draft.warn(format!(
                "{kind} `{name}` is left out: it is TCP and not HTTP"
            ));
            return true;
        }
        let stats = section.lines.iter().any(|line| {
            (line.is(0, "stats") && (line.is(1, "enable") || line.is(1, "uri")))
                || line.has("prometheus-exporter")
        });
        let serves = section
            .lines
            .iter()
            .any(|line| line.is(0, "server") || line.is(0, "use_backend"));
        if stats && !serves {
            self.draft.warn(format!(
                "{kind} `{name}` is left out: status page, /status and /metrics are on the admin listener"
            ));
        }
        stats && !serves
    }

    fn global(&mut self, sections: &[Section]) {
        let most =
            |section: &Section| -> Option<u64> { section.last("maxconn")?.word(1).parse().ok() };
        let fronts = sections
            .iter()
            .filter(|s| matches!(s.kind.as_str(), "global" | "frontend" | "listen"));
        if let Some(most) = fronts.filter_map(most).max() {
            self.draft
                .limits
                .set("connections", Yaml::plain(most.max(1)));
        }
    }

    fn frontend(&mut self, section: &Section) {
        for (key, own) in [
            ("client", "body_timeout"),
            ("http-request", "header_timeout"),
        ] {
            if let Some(time) = section.timeout(key) {
                self.draft.limits.set(own, Yaml::plain(time));
            }
        }
        let mut acls = Acls::default();
        for line in &section.lines {
            match line.word(0) {
                "acl" => acls.define(line),
                "bind" => self.bind(line),
                "http-request" => self.request_rule(section, line, &mut acls),
                "http-response" | "http-after-response" => self.response_rule(line),
                "use_backend" => self.use_backend(line, &acls),
                "default_backend" => {}
                word if backend::KNOWN.contains(&word) => {}
                word if SILENT.contains(&word) => {}
                _ => self.unsaid(line, "has no counterpart"),
            }
        }
        let last = section
            .last("default_backend")
            .map(|line| line.word(1).to_owned());
        let own = (section.kind == "listen" && section.has("server")).then(|| section.name.clone());
        if let Some(last) = last.or(own) {
            let mut all = Map::default();
            all.set("path", Yaml::text("/v1/*"));
            self.route(&last, "the-rest", all);
        }
        if !self.everywhere.is_empty() {
            for pool in &mut self.draft.pools {
                for (key, value) in &self.everywhere.0 {
                    let mut headers = match pool.settings.get("headers") {
                        Some(Yaml::Map(map)) => map.clone(),
                        _ => Map::default(),
                    };
                    headers.set_in("set", key, value.clone());
                    pool.settings.set("headers", Yaml::Map(headers));
                }
            }
        }
    }

    fn unsaid(&mut self, line: &Line, why: &str) {
        let Line { number, .. } = line;
        self.draft
            .warn(format!("line {number}: `{}` {why}", line.shown()));
    }

    fn bind(&mut self, line: &Line) {
        let crt = line.after("crt").map(str::to_owned);
        let tls = line.has("ssl").then(|| crt.unwrap_or_default());
        if tls.as_deref() == Some("") {
            self.unsaid(line, "names no certificate");
            return;
        }
        for address in line.word(1).split(',') {
            let bare = address
                .trim_start_matches("ipv4@")
                .trim_start_matches("ipv6@");
            let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
            let host = match host {
                "" | "*" => "0.0.0.0",
                "::" => "[::]",
                host => host,
            };
            let whole = format!("{host}:{port}");
            if whole.parse::<std::net::SocketAddr>().is_err() {
                self.unsaid(line, "is no IP:PORT to listen on");
                continue;
            }
            if let Some(crt) = &tls {
                // HAProxy keeps both in one file, and we read each from what it holds
                self.draft.todo(format!(
                    "see that {crt} is one PEM file, with the key in it"
                ));
            }
            self.draft.listeners.push(Listener {
                address: whole,
                tls: tls.clone().map(|crt| (crt.clone(), crt)),
            });
        }
    }

    fn request_rule(&mut self, section: &Section, line: &Line, acls: &mut Acls) {
        let (action, first) = (line.word(1), line.word(2));
        match action {
            // the one use for it that has a counterpart: what the body says decides
            action if action.starts_with("set-var(") => acls.variable(line),
            "wait-for-body" | "capture" | "set-log-level" | "track-sc0" => {}
            "return" if line.has("healthy") || line.text().contains("/health") => {}
            "return" => self.unsaid(
                line,
                "is left out; paths outside of the API have a page of their own",
            ),
            "set-header" | "add-header" if words::is_forwarded(first) => {}
            _ if section.kind == "listen" && section.has("server") => {}
            "set-header" if words::is_credential(first) => {
                self.unsaid(line, "is left out; give pools an `api_key`");
            }
            "set-header" if !line.is_conditional() && !line.word(3).contains('%') => {
                self.everywhere
                    .set(&first.to_ascii_lowercase(), Yaml::text(line.word(3)));
            }
            _ => self.unsaid(line, "has no counterpart"),
        }
    }

    fn response_rule(&mut self, line: &Line) {
        let own = ["x-request-id", "x-backend", "x-server"];
        let known = line.is(1, "set-header") || line.is(1, "add-header");
        if !known || !own.contains(&line.word(2).to_ascii_lowercase().as_str()) {
            self.unsaid(line, "is left out; answers are passed on as they are");
        }
    }

    fn use_backend(&mut self, line: &Line, acls: &Acls) {
        let target = line.word(1);
        if target.contains('%') {
            self.unsaid(
                line,
                "is left out: its pool is not known before the request",
            );
            return;
        }
        let Some(rule) = line.words.get(2..) else {
            self.unsaid(line, "is left out: it names no backend");
            return;
        };
        let conditions = match acls.conditions(rule) {
            Ok(conditions) => conditions,
            Err(why) => {
                self.unsaid(line, &format!("is left out: {why}"));
                return;
            }
        };
        let called = acls.called(rule);
        for Conjunction(conditions) in conditions {
            let called = called.as_deref().unwrap_or(target);
            self.route(target, called, conditions);
        }
    }

    /// A route to a backend, and the pool for it.
    fn route(&mut self, target: &str, called: &str, conditions: Map) {
        let Some(section) = self.backends.get(target).cloned() else {
            self.draft
                .warn(format!("backend `{target}` is used and not defined"));
            return;
        };
        let pool = name(target);
        if !self.draft.pools.iter().any(|other| other.name == pool) {
            match backend::pool(&section, &pool, &mut self.draft) {
                Some(made) => self.draft.pools.push(made),
                None => {
                    self.draft.warn(format!(
                        "backend `{target}` has no server that could be carried over"
                    ));
                    return;
                }
            }
        }
        let wanted = name(called);
        let mut free = std::iter::once(wanted.clone())
            .chain((2..).map(|n| format!("{wanted}-{n}")))
            .filter(|name| !self.names.contains(name));
        let free = free.next().expect("numbers do not end");
        self.names.push(free.clone());
        self.draft.routes.push(Route {
            name: Some(free),
            conditions,
            pool,
            settings: retries::of(&section),
            ..Route::default()
        });
    }
}
