//! Kinds: what software a server runs, and what that means. One row each, with its source.
//!
//! A kind only fills in defaults; the file may override each of them. The facts come from runs
//! and from the sources of the servers, named in the rows.

use schemars::JsonSchema;

use crate::unit::Span;

/// What software the servers of a pool run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    OpenAi,
    Groq,
    Together,
    Fireworks,
    OpenRouter,
    Vllm,
    LiteLlm,
    Ollama,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    LmStudio,
    Kokoro,
    #[serde(rename = "whisper.cpp")]
    WhisperCpp,
    Speaches,
    LocalAi,
}

/// What a kind fills in.
#[derive(Debug)]
pub(crate) struct Traits {
    /// A service somebody else runs and bills: credentials pass through to it by default.
    pub(crate) cloud: bool,
    /// Path of the health probe, asked with `GET` as `HEAD` is refused by several; never one that
    /// costs tokens. `None`: a connection is enough.
    pub(crate) health_path: Option<&'static str>,
    /// Time a probe may take: long enough for a box that is busy and well.
    pub(crate) health_timeout: Span,
    /// Whether connections are reused.
    pub(crate) keepalive: bool,
    /// Longest silence before the first byte of an answer.
    pub(crate) first_byte: Span,
    /// The whole upload is read before the server is connected, so that a slow client does not
    /// hold a thread of it.
    pub(crate) buffer_upload: bool,
    /// Paths the server has under another name.
    pub(crate) paths: &'static [(&'static str, &'static str)],
    /// Patterns of the voices it knows by itself.
    pub(crate) voices: &'static [&'static str],
}

const LOCAL: Traits = Traits {
    cloud: false,
    health_path: None,
    health_timeout: Span::secs(2),
    keepalive: true,
    first_byte: Span::secs(300),
    buffer_upload: false,
    paths: &[],
    voices: &[],
};

/// Cloud services are not probed: each probe of them would be a request, with a key or against a
/// rate limit. Real traffic tells, and a connection is enough.
const CLOUD: Traits = Traits {
    cloud: true,
    health_timeout: Span::secs(5),
    ..LOCAL
};

/// OpenAI's voices (openai-python `types/audio/speech_create_params.py`, 2026-11).
pub(crate) const OPENAI_VOICES: &[&str] = &[
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse",
    "marin", "cedar",
];

impl Kind {
    pub(crate) fn traits(self) -> &'static Traits {
        match self {
            // openai-python types/audio/speech_create_params.py for the voices
            Kind::OpenAi => {
                const {
                    &Traits {
                        voices: OPENAI_VOICES,
                        ..CLOUD
                    }
                }
            }
            Kind::Groq | Kind::Together | Kind::Fireworks | Kind::OpenRouter => &CLOUD,
            // vllm/entrypoints: GET /health is 200, or 503 when the engine is dead; uvicorn
            Kind::Vllm => {
                const {
                    &Traits {
                        health_path: Some("/health"),
                        ..LOCAL
                    }
                }
            }
            // litellm/proxy: /health calls every model, /health/liveliness calls none
            Kind::LiteLlm => {
                const {
                    &Traits {
                        health_path: Some("/health/liveliness"),
                        ..LOCAL
                    }
                }
            }
            // ollama server/routes.go: / says "Ollama is running"; a cold model loads inside the
            // request, for up to 5 minutes
            Kind::Ollama => {
                const {
                    &Traits {
                        health_path: Some("/api/version"),
                        ..LOCAL
                    }
                }
            }
            // llama.cpp tools/server: 503 while it loads a model, then 200
            Kind::LlamaCpp => {
                const {
                    &Traits {
                        health_path: Some("/health"),
                        ..LOCAL
                    }
                }
            }
            // lmstudio.ai/docs: the model list is the cheapest thing it answers
            Kind::LmStudio => {
                const {
                    &Traits {
                        health_path: Some("/v1/models"),
                        ..LOCAL
                    }
                }
            }
            // Kokoro-FastAPI api/src/main.py: synthesis runs on the event loop, /health took 4.8 s
            // during one request, so a probe may take 12 s; voices are two letters and a name
            Kind::Kokoro => {
                const {
                    &Traits {
                        health_path: Some("/health"),
                        health_timeout: Span::secs(12),
                        first_byte: Span::secs(30),
                        voices: &[
                            "af_*", "am_*", "bf_*", "bm_*", "ef_*", "em_*", "ff_*", "hf_*", "hm_*",
                            "if_*", "im_*", "jf_*", "jm_*", "pf_*", "pm_*", "zf_*", "zm_*",
                        ],
                        ..LOCAL
                    }
                }
            }
            // whisper.cpp examples/server/server.cpp: every open connection and half-sent upload
            // holds one of its few threads; POST /inference unless started otherwise
            Kind::WhisperCpp => {
                const {
                    &Traits {
                        health_path: Some("/health"),
                        health_timeout: Span::secs(6),
                        keepalive: false,
                        first_byte: Span::secs(120),
                        buffer_upload: true,
                        paths: &[("/v1/audio/transcriptions", "/inference")],
                        ..LOCAL
                    }
                }
            }
            // speaches src/speaches: public, 200 also while no model is loaded
            Kind::Speaches => {
                const {
                    &Traits {
                        health_path: Some("/health"),
                        ..LOCAL
                    }
                }
            }
            // LocalAI core/http: /healthz is public; a cold model answers 503
            Kind::LocalAi => {
                const {
                    &Traits {
                        health_path: Some("/healthz"),
                        ..LOCAL
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_probe_costs_tokens_and_clouds_are_only_connected_to() {
        for kind in [
            Kind::OpenAi,
            Kind::Groq,
            Kind::Together,
            Kind::Fireworks,
            Kind::OpenRouter,
        ] {
            assert!(kind.traits().cloud);
            assert_eq!(kind.traits().health_path, None);
        }
        // LiteLLM's /health calls every model it has
        assert_ne!(Kind::LiteLlm.traits().health_path, Some("/health"));
    }

    #[test]
    fn a_busy_kokoro_is_not_taken_for_a_dead_one() {
        assert!(Kind::Kokoro.traits().health_timeout > Span::secs(10));
    }
}
