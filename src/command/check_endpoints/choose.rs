//! Which model and voice to ask for, when nobody says.
//!
//! Routes name patterns (`llama*`), and a pattern is no model. So the routes of the configuration
//! are gone through as a request would, and a box at home says what it has. Without a
//! configuration, what the proxy lists must do.

use std::time::Duration;

use http::Method;

use super::Endpoint;
use super::target::Target;
use crate::command::client::{Client, Request, Trust};
use crate::command::models_in;
use crate::config::kind::Kind;
use crate::config::pattern::Pattern;
use crate::config::{Config, Names, Pool, Route, ServerUrl, Zone};
use crate::service::discover::{self, Role};

/// How long a box may take to list its models.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names that stand for a pattern nobody knows a model of, the likeliest first.
const CHATS: &[&str] = &[
    "gpt-4o-mini",
    "gpt-4o",
    "llama3.2",
    "llama3.1",
    "llama3",
    "llama-3.1-8b-instant",
    "qwen3",
    "qwen2.5",
    "gemma3",
    "mistral",
    "phi4",
    "deepseek-chat",
    "claude-3-5-haiku-latest",
];
const SPEECHES: &[&str] = &["tts-1", "gpt-4o-mini-tts", "kokoro"];
const TRANSCRIPTIONS: &[&str] = &["whisper-1", "whisper-large-v3-turbo", "whisper-large-v3"];
const VOICES: &[&str] = &["alloy", "nova", "af_sky", "af_heart", "am_adam", "bf_emma"];

/// What to ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) model: String,
    /// For speech.
    pub(super) voice: String,
}

/// `listed`: the models of the proxy's own list.
pub(super) fn choose(endpoint: Endpoint, listed: &[String], target: &Target) -> Choice {
    let by_route = target.config.as_ref();
    let by_route = by_route.and_then(|config| by_routes(endpoint, config, &ask_box));
    let model = by_route.as_ref().map(|(model, _)| model.clone());
    let model = model.or_else(|| by_list(endpoint, listed));
    // the embedded default routes chat to what it found, and lists no names of that
    let model = model.or_else(|| match endpoint {
        Endpoint::Chat if target.bare => found_chat(),
        _ => None,
    });
    Choice {
        model: model.unwrap_or_else(|| usual(endpoint)[0].to_owned()),
        voice: by_route.map_or_else(|| VOICES[0].to_owned(), |(_, voice)| voice),
    }
}

fn usual(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::Chat => CHATS,
        Endpoint::Speech => SPEECHES,
        Endpoint::Transcription => TRANSCRIPTIONS,
    }
}

/// Whether a model is for this, as far as its name tells.
fn suits(endpoint: Endpoint, model: &str) -> bool {
    const SPEAKS: &[&str] = &["tts", "kokoro", "speech", "piper", "orpheus", "voice"];
    const HEARS: &[&str] = &["whisper", "transcri", "parakeet", "canary"];
    const NEITHER: &[&str] = &[
        "embed",
        "rerank",
        "moderation",
        "dall-e",
        "image",
        "bge-",
        "realtime",
        "clip",
    ];
    let model = model.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| model.contains(part));
    match endpoint {
        Endpoint::Chat => !has(SPEAKS) && !has(HEARS) && !has(NEITHER),
        Endpoint::Speech => has(SPEAKS) && !has(HEARS),
        Endpoint::Transcription => has(HEARS),
    }
}

/// By the first route that could take it.
fn by_routes(
    endpoint: Endpoint,
    config: &Config,
    ask: &dyn Fn(&ServerUrl) -> Vec<String>,
) -> Option<(String, String)> {
    config.routes.iter().find_map(|route| {
        let conditions = &route.conditions;
        let paths = &conditions.paths;
        let here = paths.is_empty() || paths.iter().any(|path| path.matches(endpoint.path()));
        let plain = conditions.headers.is_empty()
            && conditions.hosts.is_empty()
            && conditions.body_larger_than.is_none()
            && (conditions.methods.is_empty() || conditions.methods.contains(&Method::POST));
        if !here || !plain {
            return None;
        }
        let pool = config.pool(route.targets.first()?.pool);
        let model = model_for(endpoint, route, pool, ask)?;
        Some((model, voice_for(route, &pool.voices)))
    })
}

fn model_for(
    endpoint: Endpoint,
    route: &Route,
    pool: &Pool,
    ask: &dyn Fn(&ServerUrl) -> Vec<String>,
) -> Option<String> {
    let wanted = &route.conditions.models;
    let fits = |name: &str| {
        (wanted.is_empty() || wanted.iter().any(|pattern| pattern.matches(name)))
            && suits(endpoint, name)
    };
    let written = wanted.iter().filter_map(Pattern::exact);
    let mapped = pool.models.exact.keys().map(String::as_str);
    if let Some(name) = written.chain(mapped).find(|name| fits(name)) {
        return Some(name.to_owned());
    }
    if pool.models.default.is_some() && wanted.is_empty() {
        return Some(usual(endpoint)[0].to_owned());
    }
    let known = by_kind(endpoint, pool.kind);
    if let Some(name) = known.iter().find(|name| fits(name)) {
        return Some((*name).to_owned());
    }
    // a service in the cloud would want a key
    let at_home = pool.servers.iter().filter(|_| pool.zone == Zone::Home);
    let mut had = at_home.flat_map(|server| ask(&server.url));
    if let Some(name) = had.find(|name| fits(name)) {
        return Some(name);
    }
    // a route of another purpose: its patterns tell
    let mut usual = usual(endpoint).iter();
    if let Some(name) = usual.find(|name| fits(name)) {
        return Some((*name).to_owned());
    }
    let stripped = wanted.iter().map(without_stars);
    let mut stripped = stripped.filter(|name| !name.is_empty() && suits(endpoint, name));
    stripped.next()
}

/// Names that the software takes, whatever it has loaded.
fn by_kind(endpoint: Endpoint, kind: Option<Kind>) -> &'static [&'static str] {
    match (endpoint, kind) {
        (Endpoint::Speech, Some(Kind::Kokoro | Kind::OpenAi)) => SPEECHES,
        (Endpoint::Transcription, Some(Kind::WhisperCpp | Kind::OpenAi | Kind::Groq)) => {
            TRANSCRIPTIONS
        }
        (Endpoint::Chat, Some(Kind::OpenAi)) => CHATS,
        (Endpoint::Chat, Some(Kind::Groq)) => &["llama-3.1-8b-instant"],
        _ => &[],
    }
}

fn voice_for(route: &Route, own: &Names) -> String {
    let wanted = &route.conditions.voices;
    let fits = |name: &str| wanted.is_empty() || wanted.iter().any(|p| p.matches(name));
    let written = wanted.iter().filter_map(Pattern::exact);
    let mapped = own.exact.keys().map(String::as_str);
    let mut known = written.chain(mapped).chain(VOICES.iter().copied());
    match (known.find(|name| fits(name)), wanted.first()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(pattern)) => without_stars(pattern),
        (None, None) => VOICES[0].to_owned(),
    }
}

fn without_stars(pattern: &Pattern) -> String {
    let text = pattern.to_string().replace('*', "");
    text.trim_matches(['-', '_', ':', '/', '.']).to_owned()
}

/// By the proxy's own list of names and patterns.
fn by_list(endpoint: Endpoint, listed: &[String]) -> Option<String> {
    let names = listed.iter().filter(|name| !name.contains('*'));
    let suiting: Vec<&String> = names.filter(|name| suits(endpoint, name)).collect();
    let usual = usual(endpoint);
    if let Some(name) = suiting.iter().find(|name| usual.contains(&name.as_str())) {
        return Some((*name).clone());
    }
    if let Some(name) = suiting.first() {
        return Some((*name).clone());
    }
    let patterns: Vec<Pattern> = listed.iter().map(|name| Pattern::new(name)).collect();
    let mut likely = usual.iter();
    if let Some(name) = likely.find(|name| patterns.iter().any(|p| p.matches(name))) {
        return Some((*name).to_owned());
    }
    let stripped = patterns.iter().map(without_stars);
    let mut stripped = stripped.filter(|name| !name.is_empty() && suits(endpoint, name));
    stripped.next()
}

/// The models of a box.
fn ask_box(url: &ServerUrl) -> Vec<String> {
    let prefix = match url.path.as_str() {
        "" => "/v1",
        path => path,
    };
    let request = Request {
        method: "GET",
        path: format!("{prefix}/models"),
        headers: Vec::new(),
        body: Vec::new(),
    };
    let client = Client::new(url.clone(), Trust::System, PATIENCE);
    let answer = client.send(&request);
    answer.map_or_else(|_| Vec::new(), |answer| models_in(&answer.body))
}

fn found_chat() -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let found = runtime.block_on(discover::scan(&[2020, 2021]));
    let mut chats = found.iter().filter(|f| f.roles.contains(&Role::Chat));
    let url = ServerUrl::parse(&format!("http://127.0.0.1:{}/v1", chats.next()?.port)).ok()?;
    let mut names = ask_box(&url).into_iter();
    names.find(|name| suits(Endpoint::Chat, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn by_file(yaml: &str, boxes: &[&str]) -> Vec<Option<(String, String)>> {
        let (config, problems) = config::read(yaml, std::path::Path::new("."), &|_| None);
        let config = config.unwrap_or_else(|| panic!("{problems:?}"));
        let ask = |_: &ServerUrl| boxes.iter().map(|name| (*name).to_owned()).collect();
        let all = Endpoint::ALL.iter();
        all.map(|endpoint| by_routes(*endpoint, &config, &ask))
            .collect()
    }

    fn chosen(model: &str, voice: &str) -> Option<(String, String)> {
        Some((model.to_owned(), voice.to_owned()))
    }

    const SMALLEST: &str = r#"
pools:
  kokoro:  { kind: kokoro,      servers: ["http://gpu-a:8880/v1"] }
  whisper: { kind: whisper.cpp, servers: ["http://gpu-a:2022"] }
  ollama:  { kind: ollama,      servers: ["http://gpu-b:11434/v1"] }
  openai:  { kind: openai,      servers: ["https://api.openai.com/v1"] }
routes:
  - { match: { path: ["/v1/audio/speech"] }, pool: kokoro,  fallback: [openai] }
  - { match: { path: "/v1/audio/transcriptions" }, pool: whisper, fallback: [openai] }
  - { match: { path: "/v1/chat/completions", model: "llama*" }, pool: ollama,  fallback: [openai] }
  - { match: { path: "/v1/*" }, pool: openai }
"#;

    #[test]
    fn a_pattern_becomes_a_model_that_the_box_has() {
        let found = by_file(SMALLEST, &["nomic-embed-text", "qwen3:8b", "llama3.1:8b"]);
        assert_eq!(found[0], chosen("llama3.1:8b", "alloy"));
        assert_eq!(found[1], chosen("tts-1", "alloy"));
        assert_eq!(found[2], chosen("whisper-1", "alloy"));
    }

    #[test]
    fn a_box_that_is_down_leaves_a_likely_name() {
        assert_eq!(by_file(SMALLEST, &[])[0], chosen("llama3.2", "alloy"));
    }

    #[test]
    fn written_names_and_voices_come_first() {
        let yaml = "pools: { a: { servers: ['http://a:1/v1'], models: { chat: x } } }\n\
                    routes: [{ match: { model: [embed-1, my-chat] }, pool: a }, \
                             { match: { path: /v1/audio/speech, voice: 'af_*', model: 'my-tts*' }, pool: a }]\n";
        let found = by_file(yaml, &[]);
        assert_eq!(found[0], chosen("my-chat", "alloy"));
        assert_eq!(found[1], chosen("my-tts", "af_sky"));
    }

    #[test]
    fn without_a_file_the_list_must_do() {
        let listed = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let demo = listed(&["demo-speech", "demo-transcription", "demo-chat"]);
        for (endpoint, model) in [
            (Endpoint::Chat, "demo-chat"),
            (Endpoint::Speech, "demo-speech"),
            (Endpoint::Transcription, "demo-transcription"),
        ] {
            assert_eq!(by_list(endpoint, &demo).as_deref(), Some(model));
        }
        let patterns = listed(&["tts-*", "llama*"]);
        assert_eq!(
            by_list(Endpoint::Chat, &patterns).as_deref(),
            Some("llama3.2")
        );
        assert_eq!(
            by_list(Endpoint::Speech, &patterns).as_deref(),
            Some("tts-1")
        );
        assert_eq!(by_list(Endpoint::Transcription, &patterns), None);
        let strange = listed(&["zephyr-*"]);
        assert_eq!(by_list(Endpoint::Chat, &strange).as_deref(), Some("zephyr"));
    }
}
