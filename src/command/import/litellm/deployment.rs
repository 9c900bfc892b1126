//! One entry of a `model_list`: who is asked, for which model, with which key.

use serde_yaml::Value;

use super::super::boxes;
use super::super::draft::{Draft, Map, Server, Yaml, variable};
use super::providers::{self, Provider};
use super::settings::duration;
use crate::config::ServerUrl;

/// Keys that are none: boxes at home take any.
const NO_KEYS: &[&str] = &[
    "",
    "none",
    "null",
    "empty",
    "anything",
    "any",
    "x",
    "xxx",
    "sk-1234",
    "1234",
    "ollama",
    "lm-studio",
    "vllm",
    "local",
    "sk-xxx",
];

/// A server for a model.
pub(super) struct Deployment {
    pub(super) name: String,
    /// What the server calls the model; may be a pattern.
    pub(super) upstream: String,
    pub(super) kind: Option<&'static str>,
    pub(super) server: Server,
    pub(super) key: Option<Yaml>,
    /// Of its pool.
    pub(super) settings: Map,
    /// In the order of [`LIMITS`].
    pub(super) limits: [Option<u64>; LIMITS.len()],
    pub(super) comment: Option<String>,
}

/// What may be asked in a minute; called the same there and here.
pub(super) const LIMITS: [&str; 2] = ["rpm", "tpm"];

impl Deployment {
    /// `None` if it cannot be carried over, which is noted.
    pub(super) fn read(n: usize, entry: &Value, draft: &mut Draft) -> Option<Self> {
        let Some(name) = entry.get("model_name").and_then(Value::as_str) else {
            draft.warn(format!("model_list[{n}] has no `model_name`"));
            return None;
        };
        let nothing = Value::Null;
        let params = entry.get("litellm_params").unwrap_or(&nothing);
        let Some(model) = params.get("model").and_then(Value::as_str) else {
            draft.warn(format!("model `{name}` has no `litellm_params.model`"));
            return None;
        };
        let (provider, upstream) = providers::find(name, model, params, draft)?;
        let (url, parsed) = url(name, params, provider, draft)?;
        let public = parsed.as_ref().is_some_and(ServerUrl::is_public);
        let audio = entry.get("model_info").and_then(|info| info.get("mode"));
        let audio = audio.and_then(Value::as_str).unwrap_or_default();
        let kind = kind(provider, parsed.as_ref(), audio);
        let mut settings = Map::default();
        if public && !boxes::is_service(kind) {
            boxes::abroad(&mut settings);
        }
        for (key, own) in [("timeout", "total"), ("stream_timeout", "first_byte")] {
            if let Some(time) = params.get(key).and_then(duration) {
                settings.set_in("timeouts", own, Yaml::plain(time));
            }
        }
        let comment = matches!(provider.prefix, "anthropic" | "gemini").then(|| {
            format!(
                "{}: its own endpoint for clients of OpenAI's API",
                provider.prefix
            )
        });
        unsaid(name, params, draft);
        Some(Deployment {
            name: name.to_owned(),
            upstream,
            kind,
            key: key(name, params, provider, public, draft),
            server: Server {
                url,
                settings: of_server(params),
            },
            settings,
            limits: LIMITS.map(|limit| {
                let info = entry.get("model_info").and_then(|info| info.get(limit));
                let limit = params.get(limit).or(info).and_then(Value::as_u64);
                limit.filter(|limit| *limit > 0)
            }),
            comment,
        })
    }
}

fn text<'a>(params: &'a Value, name: &str) -> Option<&'a str> {
    params.get(name).and_then(Value::as_str)
}

/// As it is written, and what it is if no variable stands for it.
fn url(
    name: &str,
    params: &Value,
    provider: &Provider,
    draft: &mut Draft,
) -> Option<(Yaml, Option<ServerUrl>)> {
    let base = text(params, "api_base").or_else(|| text(params, "base_url"));
    if let Some(variable) = base.and_then(|base| base.strip_prefix("os.environ/")) {
        return Some((Yaml::Variable(variable.to_owned()), None));
    }
    let Some(base) = base.or(provider.url) else {
        draft.warn(format!("model `{name}` has no `api_base`"));
        return None;
    };
    let mut base = base.trim_end_matches('/').to_owned();
    for path in [
        "/chat/completions",
        "/audio/speech",
        "/audio/transcriptions",
        "/embeddings",
    ] {
        base = base.trim_end_matches(path).to_owned();
    }
    match ServerUrl::parse(&base) {
        Ok(parsed) => {
            // LiteLLM speaks Ollama's own API, at the root
            if provider.kind == Some("ollama") && parsed.path.is_empty() {
                base.push_str("/v1");
            }
            Some((Yaml::text(base), Some(parsed)))
        }
        Err(why) => {
            draft.warn(format!("model `{name}`: {why}"));
            None
        }
    }
}

/// The prefix `openai` only says how a server is spoken to, not what it is.
fn kind(provider: &Provider, url: Option<&ServerUrl>, mode: &str) -> Option<&'static str> {
    let Some(url) = url else {
        return provider.kind.filter(|kind| !boxes::is_service(Some(kind)));
    };
    match provider.kind {
        Some(kind) if !boxes::is_service(Some(kind)) => Some(kind),
        _ => match boxes::kind(url) {
            None if url.port == 8000 && mode.starts_with("audio") => Some("speaches"),
            None if url.port == 8000 && !url.is_public() => Some("vllm"),
            kind => kind,
        },
    }
}

/// A key becomes a variable; one that stands in the file is not printed.
fn key(
    name: &str,
    params: &Value,
    provider: &Provider,
    public: bool,
    draft: &mut Draft,
) -> Option<Yaml> {
    let Some(key) = text(params, "api_key") else {
        // at another address than the provider's own, LiteLLM's default key is a stray one
        let own = text(params, "api_base")
            .or_else(|| text(params, "base_url"))
            .is_none();
        let variable = provider.variable.filter(|_| own)?;
        return Some(Yaml::Variable(variable.to_owned()));
    };
    if let Some(variable) = key.strip_prefix("os.environ/") {
        return Some(Yaml::Variable(variable.to_owned()));
    }
    let lower = key.to_ascii_lowercase();
    let word = |word: &&str| lower.contains(word);
    let spoken = ["dummy", "fake", "not-needed", "no-key", "not-used"]
        .iter()
        .any(word);
    if spoken || NO_KEYS.contains(&lower.as_str()) {
        return None;
    }
    let variable = match provider.variable {
        Some(variable) if public => variable.to_owned(),
        _ => variable(name),
    };
    draft.todo(format!(
        "the key of model `{name}` stood in the file and is not printed: put it into the \
         environment as {variable}, or into a file that `api_key_file` names"
    ));
    Some(Yaml::Variable(variable))
}

fn of_server(params: &Value) -> Map {
    let mut settings = Map::default();
    if let Some(weight) = params.get("weight").and_then(Value::as_f64) {
        settings.set("weight", Yaml::plain(weight));
    }
    if let Some(slots) = params.get("max_parallel_requests").and_then(Value::as_u64) {
        settings.set("slots", Yaml::plain(slots.max(1)));
    }
    if params
        .get("order")
        .and_then(Value::as_u64)
        .is_some_and(|order| order > 1)
    {
        settings.set("backup", Yaml::plain(true));
    }
    settings
}

/// What stands in `litellm_params` and has no counterpart.
fn unsaid(name: &str, params: &Value, draft: &mut Draft) {
    const SAID: &[&str] = &[
        "model",
        "api_base",
        "base_url",
        "api_key",
        "weight",
        "max_parallel_requests",
        "order",
        "timeout",
        "stream_timeout",
        "custom_llm_provider",
        "drop_params",
        "model_info",
        LIMITS[0],
        LIMITS[1],
    ];
    let Some(map) = params.as_mapping() else {
        return;
    };
    let names = map.keys().filter_map(Value::as_str);
    let left: Vec<&str> = names.filter(|name| !SAID.contains(name)).collect();
    if !left.is_empty() {
        let left = left.join("`, `");
        draft.warn(format!(
            "model `{name}`: `{left}` of its parameters is left out"
        ));
    }
}
