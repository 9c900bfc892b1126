//! What software a server runs, by its address: all that files of other programs tell.

use super::draft::{Map, Server, Yaml};
use crate::config::ServerUrl;

/// What hosts are known by.
const SERVICES: &[(&str, &str)] = &[
    ("api.openai.com", "openai"),
    ("api.groq.com", "groq"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("api.fireworks.ai", "fireworks"),
    ("openrouter.ai", "openrouter"),
];

/// What ports are known by.
const PORTS: &[(u16, &str)] = &[
    (8880, "kokoro"),
    (11434, "ollama"),
    (1234, "lmstudio"),
    (4000, "litellm"),
];

/// The kind of a server, if its address tells.
pub(super) fn kind(url: &ServerUrl) -> Option<&'static str> {
    let host = url.host.as_str();
    let service = SERVICES.iter().find(|(known, _)| *known == host);
    let port = PORTS.iter().find(|(port, _)| *port == url.port);
    match service {
        Some((_, kind)) => Some(kind),
        None => port.filter(|_| !url.tls).map(|(_, kind)| *kind),
    }
}

/// Whether the kind is a service that wants a key.
pub(super) fn is_service(kind: Option<&str>) -> bool {
    kind.is_some_and(|kind| SERVICES.iter().any(|(_, known)| *known == kind))
}

/// The settings of a whisper.cpp whose path is OpenAI's; its kind would ask for `/inference`.
pub(super) fn openai_whisper() -> Map {
    let mut settings = Map::default();
    settings.set("slots", Yaml::plain(1));
    settings.set("keepalive", Yaml::plain(false));
    settings.set_in("health", "path", Yaml::text("/health"));
    settings.set_in("health", "timeout", Yaml::plain("6s"));
    settings.set_in("timeouts", "first_byte", Yaml::plain("120s"));
    settings
}

/// A server of a service that somebody else runs, and that no kind describes.
pub(super) fn abroad(settings: &mut Map) {
    settings.set("zone", Yaml::plain("cloud"));
    settings.set("cost", Yaml::plain("paid"));
}

pub(super) fn server(url: impl Into<String>) -> Server {
    Server {
        url: Yaml::text(url),
        settings: Map::default(),
    }
}
