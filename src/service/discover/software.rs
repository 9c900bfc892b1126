//! What software a box runs, by what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use super::Role;
use crate::service::ask;

/// What a box of some software can do, and what its pool is called.
pub(super) struct Software {
    pub(super) pool: &'static str,
    pub(super) kind: Option<&'static str>,
    pub(super) settings: &'static [&'static str],
    pub(super) roles: &'static [Role],
}

pub(super) const KOKORO: Software = Software::of("kokoro", "kokoro", &[Role::Speech]);
pub(super) const WHISPER: Software = Software::of("whisper", "whisper.cpp", &[Role::Transcription]);
const LLAMA: Software = Software::of("llama-cpp", "llama.cpp", &[Role::Chat]);
pub(super) const OLLAMA: Software = Software::of("ollama", "ollama", &[Role::Chat]);
pub(super) const VLLM: Software = Software::of("vllm", "vllm", &[Role::Chat]);
const LMSTUDIO: Software = Software::of("lmstudio", "lmstudio", &[Role::Chat]);
const LITELLM: Software = Software::of("litellm", "litellm", &[Role::Chat]);
const LOCALAI: Software = Software::of("localai", "localai", &Role::ALL);
const SPEACHES: Software =
    Software::of("speaches", "speaches", &[Role::Speech, Role::Transcription]);
/// whisper.cpp that was started with OpenAI's path (`--inference-path`), as voice-mode does; the
/// kind would ask for `/inference`, which it does not have then.
pub(super) const WHISPER_OPENAI: Software = Software {
    kind: None,
    // what the kind says besides the path
    settings: &[
        "slots: 1",
        "keepalive: false",
        "health: { path: /health, timeout: 6s }",
        "timeouts: { first_byte: 120s }",
    ],
    ..WHISPER
};

impl Software {
    const fn of(pool: &'static str, kind: &'static str, roles: &'static [Role]) -> Self {
        Software {
            pool,
            kind: Some(kind),
            settings: &[],
            roles,
        }
    }
}

/// What listens at an address. Nothing that is asked costs a token: LiteLLM is asked first, whose
/// `/health` calls every model it has.
pub(super) async fn identify(address: SocketAddr, limit: Duration) -> Option<Software> {
    let get = |path: &'static str| ask::get(address, path, limit);
    let good = |answer: Option<(u16, String)>| {
        let (_, body) = answer.filter(|(status, _)| *status == 200)?;
        Some(body)
    };
    let field = |body: &str, name: &str| -> Option<String> {
        let parsed: serde_json::Value = serde_json::from_str(body).ok()?;
        parsed.get(name)?.as_str().map(str::to_owned)
    };
    // nobody who answers nothing is asked on
    let liveliness = get("/health/liveliness").await?;
    if liveliness.1.contains("alive") {
        return Some(LITELLM);
    }
    let (status, health) = get("/health").await?;
    let has_models = async || {
        let models = good(get("/v1/models").await);
        models.is_some_and(|body| body.contains("\"data\""))
    };
    if status == 503 && health.contains("Loading model") {
        return Some(LLAMA);
    }
    if status == 200 && field(&health, "error").is_none() {
        let (status, message) = (field(&health, "status"), field(&health, "message"));
        match (status.as_deref(), message.as_deref()) {
            // JSON, so it is not one of ours
            (Some("healthy"), _) if good(get("/v1/audio/voices").await).is_some() => {
                return Some(KOKORO);
            }
            (Some("ok"), _) if has_models().await => return Some(LLAMA),
            (Some("ok"), _) => {
                let path = "/v1/audio/transcriptions";
                let own = ask::ask(address, "OPTIONS", path, limit).await;
                let openai = good(own).is_some();
                return Some(if openai { WHISPER_OPENAI } else { WHISPER });
            }
            (_, Some("OK")) if has_models().await => return Some(SPEACHES),
            _ if health.trim().is_empty() && has_models().await => return Some(VLLM),
            _ => {}
        }
    }
    let version = good(get("/api/version").await);
    if version.is_some_and(|body| field(&body, "version").is_some()) {
        return Some(OLLAMA);
    }
    let readyz = good(get("/readyz").await);
    if readyz.is_some_and(|body| body.trim() == "OK") && has_models().await {
        return Some(LOCALAI);
    }
    // of nothing else than LM Studio can be said what it is by its port alone
    (address.port() == 1234 && has_models().await).then_some(LMSTUDIO)
}
