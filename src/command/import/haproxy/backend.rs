//! A backend becomes a pool.

use super::server::{self, Read};
use super::words::{Line, Section, is_credential, is_forwarded};
use crate::command::import::boxes;
use crate::command::import::draft::{Draft, Map, Pool, Server, Yaml, variable};
use crate::config::ServerUrl;
use crate::config::kind::Kind;

/// What is understood, or passed over, in a backend.
pub(super) const KNOWN: &[&str] = &[
    "server",
    "server-template",
    "balance",
    "http-check",
    "retries",
    "retry-on",
    "default-server",
    "cookie",
];

/// What a backend says, line by line.
#[derive(Default)]
struct Reading {
    servers: Vec<(Server, Read)>,
    settings: Map,
    /// Path and statuses of health checks.
    probe: Option<String>,
    expect: Vec<String>,
    /// Paths are rewritten to whisper.cpp's own.
    inference: bool,
    /// Comes instead of `/v1`.
    path: Option<String>,
}

/// `None` if it has no server.
pub(super) fn pool(section: &Section, name: &str, draft: &mut Draft) -> Option<Pool> {
    let mut reading = Reading::default();
    for (own, key) in [
        ("connect", "connect"),
        ("server", "idle"),
        ("tunnel", "tunnel"),
    ] {
        if let Some(time) = section.timeout(own) {
            reading.settings.set_in("timeouts", key, Yaml::plain(time));
        }
    }
    if section.timeout("server").is_some() {
        draft.warn(
            "`timeout server` bounds the silence within an answer (`timeouts.idle`); the first byte may \
             take as long as the kind of box allows, as models have to load",
        );
    }
    if let Some(time) = section.timeout("queue") {
        reading
            .settings
            .set_in("queue", "timeout", Yaml::plain(time));
    }
    for line in &section.lines {
        reading.line(section, name, line, draft);
    }
    (!reading.servers.is_empty()).then(|| reading.pool(name, draft))
}

impl Reading {
    fn line(&mut self, section: &Section, name: &str, line: &Line, draft: &mut Draft) {
        let front = section.kind == "listen";
        match line.word(0) {
            "server" | "server-template" => {
                let defaults = section.last("default-server");
                match server::read(line, defaults) {
                    Ok(read) => self.servers.push(read),
                    Err(why) => {
                        draft.warn(format!("line {}: `{}` {why}", line.number, line.shown()))
                    }
                }
            }
            "balance" => self.balance(line, draft),
            "option" if line.is(1, "httpchk") => {
                // `option httpchk [METHOD] URI [VERSION]`
                let uri = line.words[2..].iter().find(|word| word.starts_with('/'));
                self.probe = Some(uri.map_or("/".to_owned(), String::clone));
            }
            "http-check" if line.is(1, "send") => {
                if let Some(uri) = line.after("uri") {
                    self.probe = Some(uri.to_owned());
                }
            }
            "http-check" if line.is(1, "expect") => {
                let statuses = line.after("status").unwrap_or_default().split(',');
                let statuses = statuses.filter(|status| status.parse::<u16>().is_ok());
                self.expect = statuses.map(str::to_owned).collect();
            }
            "http-request" => self.request_rule(name, line, draft),
            "http-response" | "http-after-response" if !front => {
                let own = ["x-request-id", "x-backend", "x-server"];
                if !own.contains(&line.word(2).to_ascii_lowercase().as_str()) {
                    unsaid(
                        line,
                        "is left out; answers are passed on as they are",
                        draft,
                    );
                }
            }
            "default_backend" => {}
            word if KNOWN.contains(&word) || super::SILENT.contains(&word) || front => {}
            "stick-table" | "stick" => {
                unsaid(
                    line,
                    "has no counterpart; `balance: hash` keeps clients at their server",
                    draft,
                );
            }
            _ => unsaid(line, "has no counterpart", draft),
        }
    }

    fn balance(&mut self, line: &Line, draft: &mut Draft) {
        let rule = line.words[1..].join(" ");
        let rule = match rule.as_str() {
            "roundrobin" | "static-rr" => return,
            "leastconn" => Yaml::plain("least_in_flight"),
            "random" | "random(2)" => Yaml::plain("power_of_two"),
            "source" => hash("client_ip"),
            rule => match rule
                .strip_prefix("hdr(")
                .or_else(|| rule.strip_prefix("hash req.hdr("))
            {
                Some(rest) => hash(&format!("header {}", rest.trim_end_matches(')'))),
                None => return unsaid(line, "has no counterpart; it is round robin now", draft),
            },
        };
        self.settings.set("balance", rule);
    }

    fn request_rule(&mut self, name: &str, line: &Line, draft: &mut Draft) {
        let (header, value) = (line.word(2).to_ascii_lowercase(), line.word(3));
        match line.word(1) {
            "set-path" if line.is(2, "/inference") => self.inference = true,
            "set-path" => match line.word(2).strip_suffix("%[path]") {
                Some(prefix) => self.path = Some(format!("{prefix}/v1")),
                None => unsaid(line, "has no counterpart", draft),
            },
            "replace-path" => match replaced(line.word(2), value) {
                Some(path) => self.path = Some(path),
                None => unsaid(line, "has no counterpart", draft),
            },
            "set-header" | "add-header" if header == "host" || is_forwarded(&header) => {}
            "set-header" if is_credential(&header) => self.credential(name, &header, value, draft),
            "del-header" if header == "authorization" => {
                self.settings.set("auth", Yaml::plain("none"));
            }
            "del-header" if is_forwarded(&header) => {}
            "del-header" => {
                let removed = match self.settings.get("headers") {
                    Some(Yaml::Map(map)) => map.get("remove").cloned(),
                    _ => None,
                };
                let mut removed = match removed {
                    Some(Yaml::List(all)) => all,
                    _ => Vec::new(),
                };
                removed.push(Yaml::text(header));
                self.settings
                    .set_in("headers", "remove", Yaml::List(removed));
            }
            "set-header" if !line.is_conditional() && !value.contains('%') => {
                let mut headers = match self.settings.get("headers") {
                    Some(Yaml::Map(map)) => map.clone(),
                    _ => Map::default(),
                };
                headers.set_in("set", &header, Yaml::text(value));
                self.settings.set("headers", Yaml::Map(headers));
            }
            _ => unsaid(line, "has no counterpart", draft),
        }
    }

    /// The key a backend sends; as a variable, and never as it stands in the file.
    fn credential(&mut self, name: &str, header: &str, value: &str, draft: &mut Draft) {
        if value.contains("req.hdr(") || value.contains("hdr(authorization)") {
            self.settings.set("auth", Yaml::plain("passthrough"));
            return;
        }
        let named = value.split_once("env(").map(|(_, rest)| rest);
        let named = named.or_else(|| value.split_once("${").map(|(_, rest)| rest));
        let named = named.and_then(|rest| rest.split([')', '}', ',', '-']).next());
        let named = named.map(|name| name.trim_matches(['\'', '"']).to_owned());
        let variable = named.unwrap_or_else(|| {
            let variable = variable(name);
            draft.todo(format!(
                "the key of backend `{name}` stood in the file and is not printed: put it into the \
                 environment as {variable}, or into a file that `api_key_file` names"
            ));
            variable
        });
        match header {
            "authorization" => self.settings.set("api_key", Yaml::Variable(variable)),
            header => {
                let mut headers = Map::default();
                headers.set_in("set", header, Yaml::Variable(variable));
                self.settings.set("headers", Yaml::Map(headers));
            }
        }
    }

    fn pool(mut self, name: &str, draft: &mut Draft) -> Pool {
        let read = self.servers.iter().map(|(_, read)| read.url.clone());
        let urls: Vec<ServerUrl> = read.collect();
        let kinds: Vec<_> = urls.iter().map(boxes::kind).collect();
        let mut kind = kinds[0].filter(|first| kinds.iter().all(|kind| *kind == Some(*first)));
        let public = urls.iter().any(ServerUrl::is_public);
        if self.inference {
            kind = Some("whisper.cpp");
        } else if kind.is_none() && urls.iter().all(|url| url.port == 2022) {
            self.settings.merge(boxes::openai_whisper());
        }
        self.tls(name, public, draft);
        if public && !boxes::is_service(kind) {
            boxes::abroad(&mut self.settings);
            draft.warn(format!(
                "pool `{name}`: the clients' keys no longer go to {}; say `auth: passthrough` if they should",
                urls[0].host
            ));
        }
        if boxes::is_service(kind) && self.settings.get("auth") == Some(&Yaml::plain("passthrough"))
        {
            // as it is by itself
            self.settings.0.retain(|(key, _)| key != "auth");
        }
        self.health(kind);
        let path = self.path.as_deref().or(match kind {
            Some("whisper.cpp" | "litellm") | None => None,
            Some(_) => Some("/v1"),
        });
        let path = path.unwrap_or_default();
        let servers = self.servers.into_iter().map(|(mut server, read)| {
            server.url = Yaml::text(format!("{}{path}", read.url));
            server
        });
        Pool {
            name: name.to_owned(),
            comment: None,
            kind,
            servers: servers.collect(),
            settings: self.settings,
        }
    }

    fn tls(&mut self, name: &str, public: bool, draft: &mut Draft) {
        for (_, read) in &self.servers {
            for (key, value) in &read.tls.0 {
                self.settings.set_in("tls", key, value.clone());
            }
        }
        if self.servers.iter().any(|(_, read)| read.http2) {
            self.settings.set("http2", Yaml::plain(true));
        }
        if !self.servers.iter().any(|(_, read)| read.unverified) {
            return;
        }
        match public {
            true => draft.warn(format!(
                "pool `{name}`: `verify none` is left out; certificates on the internet are checked \
                 from now on"
            )),
            false => self.settings.set_in("tls", "verify", Yaml::plain(false)),
        }
    }

    /// Only what is not so by itself.
    fn health(&mut self, kind: Option<&str>) {
        let known: Option<Kind> = kind.and_then(|kind| serde_json::from_value(kind.into()).ok());
        let usual = known.and_then(|kind| kind.traits().health_path);
        if let Some(path) = self
            .probe
            .take()
            .filter(|path| usual != Some(path.as_str()))
        {
            self.settings.set_in("health", "path", Yaml::text(path));
        }
        if !self.expect.is_empty() && self.expect != ["200"] {
            let expect = self.expect.iter().map(Yaml::plain).collect();
            self.settings.set_in("health", "expect", Yaml::List(expect));
        }
        let checks = self.servers.iter().map(|(_, read)| &read.checks);
        for (key, value) in checks
            .flat_map(|checks| checks.0.clone())
            .collect::<Vec<_>>()
        {
            self.settings.set_in("health", &key, value);
        }
    }
}

fn hash(by: &str) -> Yaml {
    let mut map = Map::default();
    map.set("hash", Yaml::text(by));
    Yaml::Map(map)
}

fn unsaid(line: &Line, why: &str, draft: &mut Draft) {
    draft.warn(format!("line {}: `{}` {why}", line.number, line.shown()));
}

/// What comes instead of `/v1`, if a rule of `replace-path` says no more than that.
fn replaced(expression: &str, by: &str) -> Option<String> {
    let expression = expression.trim_start_matches('^').trim_end_matches('$');
    match expression {
        "/v1/(.*)" => by.strip_suffix("/\\1").map(str::to_owned),
        "/v1(.*)" | "/v1(/.*)" => by.strip_suffix("\\1").map(str::to_owned),
        "(.*)" | "(/.*)" => by.strip_suffix("\\1").map(|prefix| format!("{prefix}/v1")),
        _ => None,
    }
}
