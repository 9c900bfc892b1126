//! Boxes on this machine: which of the usual ports answer, and the configuration that follows.

mod software;

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::standin::StandIns;

/// How long a box may take to say what it is.
const PROBE: Duration = Duration::from_millis(400);

/// What a box can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Speech,
    Transcription,
    Chat,
}

impl Role {
    pub(crate) const ALL: [Role; 3] = [Role::Speech, Role::Transcription, Role::Chat];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Speech => "speech",
            Role::Transcription => "transcription",
            Role::Chat => "chat",
        }
    }
}

/// A box that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pool: &'static str,
    /// Of the configuration; `None` for software that no kind describes.
    pub(crate) kind: Option<&'static str>,
    /// What else the pool must say.
    pub(crate) settings: &'static [&'static str],
    /// As it was named; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) roles: &'static [Role],
}

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) address: SocketAddr,
}

/// The ports that boxes usually have.
pub(crate) const PORTS: [u16; 7] = [8880, 2022, 8080, 11434, 8000, 1234, 4000];

/// Asks the usual ports of this machine, leaving out our own.
pub(crate) async fn scan(own_ports: &[u16]) -> Vec<Found> {
    let ports = PORTS.into_iter().filter(|port| !own_ports.contains(port));
    let places = ports.map(|port| Place {
        host: "127.0.0.1".into(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
    });
    look(places.collect(), PROBE).await
}

/// Asks all places at once; what is found comes in their order. `limit`: for each question.
pub(crate) async fn look(places: Vec<Place>, limit: Duration) -> Vec<Found> {
    let mut asking = tokio::task::JoinSet::new();
    for (n, Place { host, address }) in places.into_iter().enumerate() {
        asking.spawn(async move {
            let software = software::identify(address, limit).await?;
            let found = Found {
                pool: software.pool,
                kind: software.kind,
                settings: software.settings,
                host,
                port: address.port(),
                roles: software.roles,
            };
            Some((n, found))
        });
    }
    let mut found: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    found.sort_by_key(|(n, _)| *n);
    found.into_iter().map(|(_, found)| found).collect()
}

/// Boxes that can stand in for each other.
pub(crate) struct Group {
    pub(crate) pool: &'static str,
    pub(crate) kind: Option<&'static str>,
    pub(crate) settings: &'static [&'static str],
    pub(crate) roles: &'static [Role],
    /// Of the servers.
    pub(crate) urls: Vec<String>,
}

/// Those of one software together, in the order they were found. What has a pool's name and other
/// settings gets a name of its own.
pub(crate) fn groups(found: &[Found]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for f in found {
        let host = match f.host.contains(':') {
            true => format!("[{}]", f.host),
            false => f.host.clone(),
        };
        let path = if f.kind == Some("whisper.cpp") {
            ""
        } else {
            "/v1"
        };
        let url = format!("http://{host}:{}{path}", f.port);
        let same = |g: &&mut Group| (g.pool, g.kind) == (f.pool, f.kind);
        let (pool, kind) = (f.pool, f.kind);
        match groups.iter_mut().find(same) {
            Some(group) => group.urls.push(url),
            None => groups.push(Group {
                pool,
                kind,
                settings: f.settings,
                roles: f.roles,
                urls: vec![url],
            }),
        }
    }
    for n in 1..groups.len() {
        if groups[..n].iter().any(|g| g.pool == groups[n].pool) {
            groups[n].pool = match groups[n].kind {
                Some(_) => "whisper-cpp",
                None => "whisper-openai",
            };
        }
    }
    groups
}

/// The roles that nothing was found for.
pub(crate) fn missing(found: &[Found]) -> Vec<Role> {
    Role::ALL
        .into_iter()
        .filter(|role| !found.iter().any(|f| f.roles.contains(role)))
        .collect()
}

/// A stand-in for a role, by name and address.
pub(crate) struct StandInAt {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// Two stand-ins for each role.
pub(crate) async fn start_stand_ins(
    roles: &[Role],
    all: &StandIns,
) -> std::io::Result<Vec<StandInAt>> {
    let mut started = Vec::new();
    for role in roles {
        for n in 1..=2 {
            let name = format!("demo-{}-{n}", role.word());
            let address = all.add(&name).await?;
            started.push(StandInAt {
                role: *role,
                name,
                address,
            });
        }
    }
    Ok(started)
}

/// The configuration for what was found, with stand-ins for the rest. A user may paste it.
pub(crate) fn configuration(
    listen: &str,
    admin: &str,
    found: &[Found],
    stand_ins: &[StandInAt],
) -> String {
    let mut text = format!("listen: {listen}\nadmin: {admin}\npools:\n");
    let groups = groups(found);
    for group in &groups {
        let kind = group.kind.map(|kind| format!("kind: {kind}"));
        let urls: Vec<String> = group.urls.iter().map(|url| format!("\"{url}\"")).collect();
        let settings = group.settings.iter().map(|line| (*line).to_owned());
        let mut parts: Vec<String> = kind.into_iter().chain(settings).collect();
        parts.push(format!("servers: [{}]", urls.join(", ")));
        let _ = writeln!(text, "  {}: {{ {} }}", group.pool, parts.join(", "));
    }
    for role in Role::ALL {
        text.push_str(&demo_pool(role, stand_ins));
    }
    text.push_str("routes:\n");
    let pool_for = |role: Role| {
        let real = groups
            .iter()
            .find(|g| g.roles.contains(&role))
            .map(|g| g.pool.to_owned());
        real.unwrap_or_else(|| format!("demo-{}", role.word()))
    };
    let paths = [
        (Role::Speech, "[/v1/audio/speech, /v1/audio/voices]"),
        (
            Role::Transcription,
            "[/v1/audio/transcriptions, /v1/audio/translations]",
        ),
        (Role::Chat, "\"/v1/*\""),
    ];
    for (role, path) in paths {
        let chats = groups
            .iter()
            .filter(|g| role == Role::Chat && g.roles.contains(&role));
        let fallback: Vec<&str> = chats.skip(1).map(|g| g.pool).collect();
        let _ = writeln!(
            text,
            "  - {{ name: {}, match: {{ path: {path} }}, pool: {}, fallback: [{}] }}",
            role.word(),
            pool_for(role),
            fallback.join(", ")
        );
    }
    text
}

/// The pool of the stand-ins for a role, if it has any.
fn demo_pool(role: Role, stand_ins: &[StandInAt]) -> String {
    let servers: Vec<String> = stand_ins
        .iter()
        .filter(|s| s.role == role)
        .map(|s| format!("{{ url: \"http://{}\", name: {} }}", s.address, s.name))
        .collect();
    if servers.is_empty() {
        return String::new();
    }
    let word = role.word();
    format!(
        "  demo-{word}:\n    servers: [{}]\n    health: {{ path: /health, interval: 1s }}\n    \
         models: {{ demo-{word}: demo-{word}, \"*\": demo-{word} }}\n",
        servers.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::software::{KOKORO, OLLAMA, Software, VLLM, WHISPER, WHISPER_OPENAI};
    use super::*;
    use crate::config;

    #[test]
    fn what_is_found_makes_a_file_that_loads() {
        let at = |software: Software, host: &str, port| Found {
            pool: software.pool,
            kind: software.kind,
            settings: software.settings,
            host: host.to_owned(),
            port,
            roles: software.roles,
        };
        let found = [
            at(KOKORO, "127.0.0.1", 8880),
            at(OLLAMA, "127.0.0.1", 11434),
            at(VLLM, "127.0.0.1", 8000),
            at(KOKORO, "gpu-b", 8880),
        ];
        assert_eq!(missing(&found), [Role::Transcription]);
        let stand_ins: Vec<StandInAt> = (1..=2)
            .map(|n| StandInAt {
                role: Role::Transcription,
                name: format!("demo-transcription-{n}"),
                address: SocketAddr::from(([127, 0, 0, 1], 40_000 + n)),
            })
            .collect();
        let text = configuration("127.0.0.1:2020", "127.0.0.1:2021", &found, &stand_ins);
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        assert!(problems.is_empty(), "{problems:?}\n{text}");
        let config = config.unwrap();
        assert_eq!(config.pools.len(), 4);
        assert_eq!(
            config.routes[2].targets.len(),
            2,
            "the second chat box is a fallback"
        );
        assert_eq!(
            config.pools[0].servers.len(),
            2,
            "one pool for both Kokoros"
        );
        assert!(!text.contains("openai.com"), "nothing that is paid for");
    }

    #[test]
    fn two_ways_of_whisper_are_two_pools() {
        let found = [(WHISPER_OPENAI, 2022), (WHISPER, 8080)].map(|(software, port)| Found {
            pool: software.pool,
            kind: software.kind,
            settings: software.settings,
            host: "127.0.0.1".to_owned(),
            port,
            roles: software.roles,
        });
        let text = configuration("127.0.0.1:2020", "127.0.0.1:2021", &found, &[]);
        let text = text.replace("pool: demo-speech", "pool: whisper");
        let text = text.replace("pool: demo-chat", "pool: whisper");
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        let config = config.unwrap_or_else(|| panic!("{problems:?}\n{text}"));
        let kinds: Vec<_> = config
            .pools
            .iter()
            .map(|pool| pool.kind.is_some())
            .collect();
        assert_eq!(kinds, [false, true]);
        assert_eq!(config.pools[0].servers[0].slots, Some(1));
    }
}
