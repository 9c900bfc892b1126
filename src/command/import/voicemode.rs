//! voice-mode's environment: lists of base URLs that it tries in order, for speech and for
//! transcription.
//!
//! Neighbours in a list that run the same software become a pool with backups; the next kind
//! becomes a fallback, where voices and models are translated.

use std::collections::BTreeMap;

use super::boxes;
use super::draft::{Draft, Listener, Map, Pool, Route, Yaml};
use crate::config::ServerUrl;

const LISTEN: &str = "127.0.0.1:2020";

/// A list of base URLs, and what voice-mode takes when nobody says.
struct Role {
    names: &'static [&'static str],
    usual: &'static str,
    route: &'static str,
    paths: &'static [&'static str],
    pool: &'static str,
}

const ROLES: [Role; 2] = [
    Role {
        names: &[
            "VOICEMODE_TTS_BASE_URLS",
            "VOICEMODE_TTS_BASE_URL",
            "TTS_BASE_URL",
        ],
        usual: "http://127.0.0.1:8880/v1,https://api.openai.com/v1",
        route: "speech",
        paths: &["/v1/audio/speech", "/v1/audio/voices"],
        pool: "tts",
    },
    Role {
        names: &[
            "VOICEMODE_STT_BASE_URLS",
            "VOICEMODE_STT_BASE_URL",
            "STT_BASE_URL",
        ],
        usual: "http://127.0.0.1:2022/v1,https://api.openai.com/v1",
        route: "transcription",
        paths: &["/v1/audio/transcriptions"],
        pool: "stt",
    },
];

pub(super) fn read(text: &str) -> Result<Draft, String> {
    let variables = variables(text)?;
    if !variables
        .keys()
        .any(|name| name.starts_with("VOICEMODE_") || name.ends_with("_BASE_URL"))
    {
        return Err("it has no line `VOICEMODE_…=`; is it a voicemode.env?".to_owned());
    }
    let mut draft = Draft {
        listeners: vec![Listener {
            address: LISTEN.to_owned(),
            tls: None,
        }],
        ..Draft::default()
    };
    let key = match variables.get("OPENAI_API_KEY").map(String::as_str) {
        None | Some("") => None,
        Some(key) if key.contains("dummy") => None,
        Some(_) => {
            draft.todo(
                "the key in OPENAI_API_KEY is not printed: put it into the environment of Trunkline, \
                 or into a file that `api_key_file` names",
            );
            Some(Yaml::Variable("OPENAI_API_KEY".to_owned()))
        }
    };
    for role in &ROLES {
        let found = role.names.iter().find_map(|name| variables.get(*name));
        let urls = match found.map(|urls| urls.trim()) {
            Some(urls) if !urls.is_empty() => urls,
            _ => {
                draft.warn(format!(
                    "{} is not set; these are voice-mode's own: {}",
                    role.names[0], role.usual
                ));
                role.usual
            }
        };
        add(role, urls, key.as_ref(), &mut draft);
    }
    if !draft.routes.is_empty() {
        draft.todo(format!(
            "in voicemode.env: VOICEMODE_TTS_BASE_URLS=http://{LISTEN}/v1 and \
             VOICEMODE_STT_BASE_URLS=http://{LISTEN}/v1; voices and models stay there"
        ));
    }
    Ok(draft)
}

/// `NAME=value` lines, as a shell reads them.
fn variables(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("line {} is no `NAME=value`", n + 1));
        };
        let value = value.trim();
        let quoted = ['"', '\'']
            .into_iter()
            .find(|quote| value.starts_with(*quote));
        let value = match quoted {
            Some(quote) => value[1..].split(quote).next().unwrap_or_default(),
            None => value.split(" #").next().unwrap_or_default().trim_end(),
        };
        variables.insert(name.trim().to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// The pools of a list, in its order.
fn pools(role: &Role, urls: &str, key: Option<&Yaml>, draft: &mut Draft) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for text in urls
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let url = match ServerUrl::parse(text) {
            Ok(url) => url,
            Err(why) => {
                draft.warn(format!("{}: {why}", role.names[0]));
                continue;
            }
        };
        if url.port == 2020 && matches!(url.host.as_str(), "127.0.0.1" | "localhost") {
            draft.warn(format!("{text} is left out: there is Trunkline itself"));
            continue;
        }
        let mut server = boxes::server(text.trim_end_matches('/'));
        let pool = pool(role, &url, key);
        match pools.last_mut() {
            Some(last) if last.kind == pool.kind && last.settings == pool.settings => {
                server.settings.set("backup", Yaml::plain(true));
                last.servers.push(server);
            }
            _ => pools.push(Pool {
                servers: vec![server],
                ..pool
            }),
        }
    }
    pools
}

/// The pools of a list, and the route to them.
fn add(role: &Role, urls: &str, key: Option<&Yaml>, draft: &mut Draft) {
    let pools = pools(role, urls, key, draft);
    // the cloud serves both lists from one pool
    let names: Vec<String> = pools
        .into_iter()
        .map(|mut pool| {
            let same = |other: &&Pool| {
                (other.kind, &other.servers, &other.settings)
                    == (pool.kind, &pool.servers, &pool.settings)
            };
            if let Some(other) = draft.pools.iter().find(same) {
                return other.name.clone();
            }
            pool.name = draft.free_name(&pool.name);
            draft.pools.push(pool.clone());
            pool.name
        })
        .collect();
    let Some((first, rest)) = names.split_first() else {
        return;
    };
    let mut conditions = Map::default();
    let paths: Vec<String> = role.paths.iter().map(|path| (*path).to_owned()).collect();
    conditions.set("path", Yaml::texts(&paths));
    draft.routes.push(Route {
        name: Some(role.route.to_owned()),
        conditions,
        pool: first.clone(),
        fallback: rest.iter().map(Yaml::text).collect(),
        ..Route::default()
    });
}

/// What a box runs, by its address; that is how voice-mode tells too.
fn pool(role: &Role, url: &ServerUrl, key: Option<&Yaml>) -> Pool {
    let kind = boxes::kind(url);
    let mut pool = Pool {
        name: kind.unwrap_or(role.pool).to_owned(),
        kind,
        ..Pool::default()
    };
    if kind == Some("openai")
        && let Some(key) = key
    {
        pool.settings.set("api_key", key.clone());
    }
    if kind.is_none() && url.port == 2022 {
        pool.name = "whisper".to_owned();
        pool.comment = Some("whisper.cpp as voice-mode starts it, with OpenAI's path; for one without `--inference-path`, `kind: whisper.cpp` is all".to_owned());
        pool.settings = boxes::openai_whisper();
    }
    if kind.is_none() && url.is_public() {
        boxes::abroad(&mut pool.settings);
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        let text = "# a comment\n\nexport A=\"x,y\" # why\n B = 'z' \nC=w # and\nD=http://h/#x\n";
        let read = variables(text).unwrap();
        let all: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            all,
            [("A", "x,y"), ("B", "z"), ("C", "w"), ("D", "http://h/#x")]
        );
        assert!(variables("what is this").is_err());
    }
}
