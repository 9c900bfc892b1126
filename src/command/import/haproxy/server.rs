//! A `server` line.

use super::words::{Line, duration};
use crate::command::import::boxes;
use crate::command::import::draft::{self, Map, Server, Yaml};
use crate::config::ServerUrl;

/// What a line says beyond the server's own settings.
pub(super) struct Read {
    pub(super) url: ServerUrl,
    /// Of the pool's `tls`.
    pub(super) tls: Map,
    pub(super) unverified: bool,
    pub(super) http2: bool,
    /// Of the pool's `health`.
    pub(super) checks: Map,
}

/// `defaults`: the `default-server` line before it.
///
/// # Errors
/// Why it is left out.
pub(super) fn read(line: &Line, defaults: Option<&Line>) -> Result<(Server, Read), String> {
    let (name, address) = match line.is(0, "server-template") {
        // a name with many addresses is one server, which is looked up again and again
        true => (line.word(1), line.word(3)),
        false => (line.word(1), line.word(2)),
    };
    // what the line says itself comes first
    let mut whole = line.clone();
    whole.words.extend(
        defaults
            .into_iter()
            .flat_map(|line| line.words[1..].to_vec()),
    );
    let says = |word: &str| whole.has(word) && !line.has(&format!("no-{word}"));
    if let Some(why) = left_out(&whole) {
        return Err(format!("is left out: {why}"));
    }
    let tls = says("ssl");
    let address = address
        .trim_start_matches("ipv4@")
        .trim_start_matches("ipv6@");
    if address.contains('@') || address.starts_with('/') {
        return Err("is left out: it has no host and port".to_owned());
    }
    let scheme = if tls { "https" } else { "http" };
    let url = ServerUrl::parse(&format!("{scheme}://{address}"));
    let url = url.map_err(|why| format!("is left out: {why}"))?;
    let http2 = [whole.after("proto"), whole.after("alpn")];
    let read = Read {
        tls: if tls {
            tls_settings(&whole, &url)
        } else {
            Map::default()
        },
        unverified: tls && whole.after("verify") == Some("none"),
        http2: http2
            .into_iter()
            .flatten()
            .any(|spoken| spoken.starts_with("h2")),
        checks: check_times(&whole),
        url,
    };
    let mut server = boxes::server("");
    server.settings = settings(name, &read.url, &whole);
    Ok((server, read))
}

fn left_out(line: &Line) -> Option<&'static str> {
    if line.has("disabled") {
        return Some("it is disabled");
    }
    if line.after("weight") == Some("0") {
        return Some("its weight is 0");
    }
    let proxied = line.has("send-proxy") || line.has("send-proxy-v2");
    proxied.then_some("the PROXY protocol is not spoken to servers")
}

/// HAProxy's names are its own; those that are more than the host's are kept.
fn settings(name: &str, url: &ServerUrl, line: &Line) -> Map {
    let mut settings = Map::default();
    if !url.host.starts_with(name) || name.is_empty() {
        settings.set("name", Yaml::text(draft::name(name)));
    }
    let number = |word: &str| line.after(word).and_then(|n| n.parse::<u32>().ok());
    if let Some(weight) = number("weight") {
        settings.set("weight", Yaml::plain(weight));
    }
    if let Some(slots) = number("maxconn") {
        settings.set("slots", Yaml::plain(slots.max(1)));
    }
    if line.has("backup") && !line.has("no-backup") {
        settings.set("backup", Yaml::plain(true));
    }
    settings
}

fn tls_settings(line: &Line, url: &ServerUrl) -> Map {
    let mut settings = Map::default();
    if let Some(sni) = line.after("sni") {
        let name = sni.trim_start_matches("str(").trim_end_matches(')');
        if name != url.host && !name.contains('(') {
            settings.set("sni", Yaml::text(name));
        }
    }
    if let Some(file) = line.after("ca-file").filter(|file| !file.starts_with('@')) {
        settings.set("ca_file", Yaml::text(file));
    }
    if let Some(file) = line.after("crt") {
        settings.set("client_cert", Yaml::text(file));
        settings.set("client_key", Yaml::text(file));
    }
    settings
}

/// Times of checks, as `health` has them.
fn check_times(line: &Line) -> Map {
    let mut checks = Map::default();
    for (word, key) in [("inter", "interval"), ("fall", "fall"), ("rise", "rise")] {
        let Some(value) = line.after(word) else {
            continue;
        };
        match key {
            "interval" => checks
                .0
                .extend(duration(value).map(|t| (key.to_owned(), Yaml::plain(t)))),
            _ => checks.set(key, Yaml::plain(value)),
        }
    }
    checks
}
