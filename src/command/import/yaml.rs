//! A draft as YAML, the way people write it: what fits stands on one line.

use std::fmt::Write;

use super::draft::{Draft, Listener, Map, Pool, Route, Server, Yaml};

/// A map that is longer gets a line for each key.
const WIDTH: usize = 100;

/// The whole file. `program` and `file`: what it was made of.
pub(super) fn write(draft: &Draft, program: &str, file: &str) -> String {
    let file = crate::unit::printable(file);
    let mut out = format!(
        "# Made of {file} by `trunkline import {program}`.\n\
         # Try it: `trunkline check-config`, `trunkline route POST /v1/audio/speech --model tts-1`.\n"
    );
    for (title, lines) in [
        ("Not carried over, or different now:", &draft.warnings),
        ("To do:", &draft.todos),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(out, "#\n# {title}");
        }
        for line in lines {
            comment(&mut out, "# - ", "#   ", line);
        }
    }
    out.push('\n');
    listeners(&mut out, &draft.listeners);
    out.push_str("pools:\n");
    for pool in &draft.pools {
        write_pool(&mut out, pool);
    }
    out.push_str("routes:\n");
    for route in &draft.routes {
        write_route(&mut out, route);
    }
    if !draft.keys.is_empty() {
        let _ = writeln!(out, "keys:");
    }
    for key in &draft.keys {
        let _ = writeln!(out, "  - {}", flow(key));
    }
    if !draft.limits.is_empty() {
        let _ = writeln!(out, "limits: {}", flow_map(&draft.limits));
    }
    out
}

/// Text in comments, broken between words.
fn comment(out: &mut String, first: &str, rest: &str, text: &str) {
    let mut line = first.to_owned();
    let mut bare = true;
    for word in text.split_whitespace() {
        if !bare && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = rest.to_owned();
            bare = true;
        }
        if !bare {
            line.push(' ');
        }
        line.push_str(&crate::unit::printable(word));
        bare = false;
    }
    let _ = writeln!(out, "{line}");
}

fn listeners(out: &mut String, listeners: &[Listener]) {
    if listeners.iter().all(|listener| listener.tls.is_none()) {
        let all: Vec<Yaml> = listeners.iter().map(|l| Yaml::plain(&l.address)).collect();
        let all = match all.as_slice() {
            [] => return,
            [one] => one.clone(),
            _ => Yaml::List(all.clone()),
        };
        let _ = writeln!(out, "listen: {}", flow(&all));
        return;
    }
    out.push_str("listeners:\n");
    for listener in listeners {
        let mut map = Map::default();
        map.set("address", Yaml::text(&listener.address));
        if let Some((cert, key)) = &listener.tls {
            map.set_in("tls", "cert", Yaml::text(cert));
            map.set_in("tls", "key", Yaml::text(key));
        }
        let _ = writeln!(out, "  - {}", flow_map(&map));
    }
}

fn write_pool(out: &mut String, pool: &Pool) {
    if let Some(text) = &pool.comment {
        comment(out, "  # ", "  # ", text);
    }
    let mut map = Map::default();
    if let Some(kind) = pool.kind {
        map.set("kind", Yaml::plain(kind));
    }
    map.set(
        "servers",
        Yaml::List(pool.servers.iter().map(server).collect()),
    );
    map.0.extend(pool.settings.0.iter().cloned());
    let name = scalar(&pool.name);
    let line = format!("  {name}: {}", flow_map(&map));
    if line.chars().count() <= WIDTH {
        let _ = writeln!(out, "{line}");
        return;
    }
    let _ = writeln!(out, "  {name}:");
    block(out, "    ", &map);
}

fn server(server: &Server) -> Yaml {
    if server.settings.is_empty() {
        return server.url.clone();
    }
    let mut map = Map::default();
    map.set("url", server.url.clone());
    map.0.extend(server.settings.0.iter().cloned());
    Yaml::Map(map)
}

fn write_route(out: &mut String, route: &Route) {
    if let Some(text) = &route.comment {
        comment(out, "  # ", "  # ", text);
    }
    let mut map = Map::default();
    if let Some(name) = &route.name {
        map.set("name", Yaml::text(name));
    }
    if !route.conditions.is_empty() {
        map.set("match", Yaml::Map(route.conditions.clone()));
    }
    map.set("pool", Yaml::text(&route.pool));
    if !route.fallback.is_empty() {
        map.set("fallback", Yaml::List(route.fallback.clone()));
    }
    map.0.extend(route.settings.0.iter().cloned());
    let line = format!("  - {}", flow_map(&map));
    if line.chars().count() <= WIDTH {
        let _ = writeln!(out, "{line}");
        return;
    }
    let mut lines = String::new();
    block(&mut lines, "    ", &map);
    out.push_str("  - ");
    out.push_str(lines.trim_start());
}

/// A key on each line; a list that is too long for one has an entry on each.
fn block(out: &mut String, indent: &str, map: &Map) {
    for (name, value) in &map.0 {
        let line = format!("{indent}{}: {}", key(name), flow(value));
        match value {
            Yaml::List(entries) if line.chars().count() > WIDTH => {
                let _ = writeln!(out, "{indent}{}:", key(name));
                for entry in entries {
                    let _ = writeln!(out, "{indent}  - {}", flow(entry));
                }
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
}

fn flow(value: &Yaml) -> String {
    match value {
        Yaml::Text(text) => scalar(text),
        Yaml::Plain(word) => word.clone(),
        Yaml::Variable(name) => format!("\"${{{name}}}\""),
        Yaml::List(entries) => {
            let entries: Vec<String> = entries.iter().map(flow).collect();
            format!("[{}]", entries.join(", "))
        }
        Yaml::Map(map) => flow_map(map),
    }
}

fn flow_map(map: &Map) -> String {
    let pairs = map.0.iter();
    let pairs = pairs.map(|(name, value)| format!("{}: {}", key(name), flow(value)));
    format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
}

/// `on` is a key of ours, and no truth in YAML 1.2.
fn key(name: &str) -> String {
    match name {
        "on" => name.to_owned(),
        name => scalar(name),
    }
}

/// Plain where YAML cannot take it for anything else; `${` of others is no reference of ours.
fn scalar(text: &str) -> String {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let lower = text.to_ascii_lowercase();
    let word = matches!(
        lower.as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    match first && !word && text.chars().all(plain) {
        true => text.to_owned(),
        // JSON's strings are YAML's
        false => serde_json::Value::from(text.replace("${", "$${")).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_quoted_where_yaml_would_read_something_else() {
        for (text, written) in [
            ("tts-1", "tts-1"),
            ("/v1/audio/speech", "/v1/audio/speech"),
            ("llama3.1:8b", "\"llama3.1:8b\""),
            ("gpt-*", "\"gpt-*\""),
            ("no", "\"no\""),
            ("3", "\"3\""),
            ("", "\"\""),
            ("a\n# b", "\"a\\n# b\""),
            ("${HOME}", "\"$${HOME}\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn a_note_cannot_leave_its_comment() {
        let mut out = String::new();
        comment(&mut out, "# - ", "#   ", "one\npools: {}\r\n \u{1b}[2J two");
        assert!(out.lines().all(|line| line.starts_with('#')), "{out}");
        assert!(!out.contains('\u{1b}'));
    }
}
