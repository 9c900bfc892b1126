//! Boxes on this machine: which of the usual ports answer, and the configuration that follows.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::ask;
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
    const ALL: [Role; 3] = [Role::Speech, Role::Transcription, Role::Chat];

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
    /// Of the configuration; `None` for a whisper.cpp that serves OpenAI's path itself.
    pub(crate) kind: Option<&'static str>,
    pub(crate) port: u16,
    pub(crate) roles: &'static [Role],
}

/// Asks the usual ports, leaving out our own.
pub(crate) async fn scan(own_ports: &[u16]) -> Vec<Found> {
    let ports = [8880, 2022, 8080, 11434, 8000, 1234, 4000];
    let mut asking = tokio::task::JoinSet::new();
    for (n, port) in ports
        .into_iter()
        .filter(|port| !own_ports.contains(port))
        .enumerate()
    {
        asking.spawn(async move { (n, identify(port).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(n, _)| *n);
    found.into_iter().filter_map(|(_, found)| found).collect()
}

/// What listens on a port. Nothing that is asked costs a token.
async fn identify(port: u16) -> Option<Found> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let get = |path: &'static str| ask::get(address, path, PROBE);
    let good = |answer: Option<(u16, String)>| {
        answer
            .filter(|(status, _)| *status == 200)
            .map(|(_, body)| body)
    };
    let found = |pool, kind, roles| {
        Some(Found {
            pool,
            kind: Some(kind),
            port,
            roles,
        })
    };
    match port {
        8880 => {
            good(get("/health").await)?;
            good(get("/v1/audio/voices").await)?;
            found("kokoro", "kokoro", &[Role::Speech])
        }
        2022 | 8080 => {
            let health = good(get("/health").await)?;
            health.contains("ok").then_some(())?;
            match good(get("/v1/models").await) {
                Some(_) => found("llama-cpp", "llama.cpp", &[Role::Chat]),
                None => found("whisper", "whisper.cpp", &[Role::Transcription]),
            }
        }
        11434 => {
            good(get("/api/version").await)?;
            found("ollama", "ollama", &[Role::Chat])
        }
        8000 => {
            let health = good(get("/health").await)?;
            good(get("/v1/models").await)?;
            match health.contains("message") {
                true => found("speaches", "speaches", &[Role::Speech, Role::Transcription]),
                false => found("vllm", "vllm", &[Role::Chat]),
            }
        }
        1234 => {
            good(get("/v1/models").await)?;
            found("lmstudio", "lmstudio", &[Role::Chat])
        }
        4000 => {
            good(get("/health/liveliness").await)?;
            found("litellm", "litellm", &[Role::Chat])
        }
        _ => None,
    }
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
    for f in found {
        let kind = f
            .kind
            .map_or(String::new(), |kind| format!("kind: {kind}, "));
        let path = if f.kind == Some("whisper.cpp") {
            ""
        } else {
            "/v1"
        };
        let _ = writeln!(
            text,
            "  {}: {{ {kind}servers: [\"http://127.0.0.1:{}{path}\"] }}",
            f.pool, f.port
        );
    }
    for role in Role::ALL {
        let servers: Vec<String> = stand_ins
            .iter()
            .filter(|s| s.role == role)
            .map(|s| format!("{{ url: \"http://{}\", name: {} }}", s.address, s.name))
            .collect();
        if !servers.is_empty() {
            let word = role.word();
            let _ = writeln!(
                text,
                "  demo-{word}:\n    servers: [{}]\n    health: {{ path: /health, interval: 1s }}\n    \
                 models: {{ demo-{word}: demo-{word}, \"*\": demo-{word} }}",
                servers.join(", ")
            );
        }
    }
    text.push_str("routes:\n");
    let pool_for = |role: Role| {
        let real = found
            .iter()
            .find(|f| f.roles.contains(&role))
            .map(|f| f.pool.to_owned());
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
        let chats = found
            .iter()
            .filter(|f| role == Role::Chat && f.roles.contains(&role));
        let fallback: Vec<&str> = chats.skip(1).map(|f| f.pool).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_is_found_makes_a_file_that_loads() {
        let found = [
            Found {
                pool: "kokoro",
                kind: Some("kokoro"),
                port: 8880,
                roles: &[Role::Speech],
            },
            Found {
                pool: "ollama",
                kind: Some("ollama"),
                port: 11434,
                roles: &[Role::Chat],
            },
            Found {
                pool: "vllm",
                kind: Some("vllm"),
                port: 8000,
                roles: &[Role::Chat],
            },
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
        assert!(!text.contains("openai.com"), "nothing that is paid for");
    }
}
