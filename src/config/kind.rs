//! Kinds: what software a server runs, and what that means. One row each, with its source.
//!
//! A kind only fills in defaults; the file may override each of them. The facts come from runs
//! and from the sources of the servers, named in the rows.

use schemars::JsonSchema;

use super::voices;
use crate::unit::{Size, Span};

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
    // through its own API, and not its OpenAI endpoints
    #[serde(rename = "ollama-native")]
    OllamaNative,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    LmStudio,
    Kokoro,
    #[serde(rename = "whisper.cpp")]
    WhisperCpp,
    Speaches,
    LocalAi,
}

/// What happens to a request when a server still loads its model.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Warming {
    /// It waits for that server, as long as `timeouts.first_byte` allows.
    Wait,
    /// The next server is asked.
    #[default]
    Skip,
}

/// How software says that it still loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loading {
    /// It does not.
    Silent,
    /// It loads before it listens, so that connections are refused.
    Refuses,
    /// It answers 503 and says so.
    Answers503,
    /// It takes the request and answers when the model is there; `GET /api/ps` lists the models
    /// that are.
    AnswersLate,
}

/// The words its servers take and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Those of the clients: nothing is translated.
    OpenAi,
    /// Ollama's own API.
    Ollama,
}

/// What is put right in a body on its way to servers that would refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// A field that only other software knows is taken out.
    Remove(&'static str),
    /// A field is taken out if it has this value.
    RemoveIf(&'static str, &'static str),
    /// A text field is added where it is absent.
    Default(&'static str, &'static str),
}

/// openai-python types/audio/speech_create_params.py for the voices. Uploads: "Maximum
/// content size limit (26214400) exceeded" is its 413. `language` is an ISO 639-1 code
/// or absent, never `auto`
const OPENAI: &Traits = &Traits {
    voices: voices::OPENAI,
    models: &["tts-*", "gpt-*", "whisper-1"],
    model_map: &[
        ("*okoro*", "tts-1"),
        (WHISPERS[0], "whisper-1"),
        (WHISPERS[1], "whisper-1"),
        (WHISPERS[2], "whisper-1"),
    ],
    speech: KOKORO_ONLY,
    transcription: &[
        Fix::RemoveIf("language", "auto"),
        Fix::Default("model", "whisper-1"),
    ],
    max_upload: Some(Size::mib(25)),
    ..CLOUD
};

/// console.groq.com/docs/speech-to-text: 25 MB, two models, ISO 639-1 languages
const GROQ: &Traits = &Traits {
    models: &["whisper-large-v3*", "distil-whisper-*"],
    model_map: &[
        (WHISPERS[0], "whisper-large-v3-turbo"),
        (WHISPERS[1], "whisper-large-v3-turbo"),
        (WHISPERS[2], "whisper-large-v3-turbo"),
    ],
    transcription: &[
        Fix::RemoveIf("language", "auto"),
        Fix::Default("model", "whisper-large-v3-turbo"),
    ],
    max_upload: Some(Size::mib(25)),
    ..CLOUD
};

/// vllm/entrypoints: GET /health is 200, or 503 when the engine is dead; uvicorn; it
/// listens when the model is loaded; VLLM_MAX_AUDIO_CLIP_FILESIZE_MB is 25
const VLLM: &Traits = &Traits {
    health_path: Some("/health"),
    loading: Loading::Refuses,
    max_upload: Some(Size::mib(25)),
    ..LOCAL
};

/// litellm/proxy: /health calls every model, /health/liveliness calls none
const LITELLM: &Traits = &Traits {
    health_path: Some("/health/liveliness"),
    ..LOCAL
};

/// ollama server/routes.go: / says "Ollama is running"; a cold model loads inside the
/// request, for up to 5 minutes
const OLLAMA: &Traits = &Traits {
    health_path: Some("/api/version"),
    loading: Loading::AnswersLate,
    ..LOCAL
};

/// ollama docs/api.md: its own API, which has `options` such as `num_ctx`, `keep_alive` and `think`,
/// and nothing but these endpoints to offer for OpenAI's
const OLLAMA_NATIVE: &Traits = &Traits {
    dialect: Dialect::Ollama,
    paths: &[
        ("/v1/chat/completions", "/api/chat"),
        ("/v1/completions", "/api/generate"),
        ("/v1/embeddings", "/api/embed"),
        ("/v1/models", "/api/tags"),
    ],
    ..*OLLAMA
};

/// llama.cpp tools/server: 503 while it loads a model, then 200; 100 MiB a body
const LLAMA_CPP: &Traits = &Traits {
    health_path: Some("/health"),
    loading: Loading::Answers503,
    max_upload: Some(Size::mib(100)),
    ..LOCAL
};

/// lmstudio.ai/docs: the model list is the cheapest thing it answers
const LM_STUDIO: &Traits = &Traits {
    health_path: Some("/v1/models"),
    ..LOCAL
};

/// Kokoro-FastAPI api/src/main.py: synthesis runs on the event loop, /health took 4.8 s
/// during one request, so a probe may take 12 s; voices are two letters and a name
const KOKORO: &Traits = &Traits {
    health_path: Some("/health"),
    health_timeout: Span::secs(12),
    first_byte: Span::secs(30),
    loading: Loading::Refuses,
    // schemas.py: every other model is a 400
    models: &["tts-1", "tts-1-hd", "kokoro", "gpt-4o-mini-tts"],
    model_map: &[("tts-*", "kokoro"), ("gpt-*-tts*", "kokoro")],
    voices: &[
        "af_*", "am_*", "bf_*", "bm_*", "ef_*", "em_*", "ff_*", "hf_*", "hm_*", "if_*", "im_*",
        "jf_*", "jm_*", "pf_*", "pm_*", "zf_*", "zm_*",
    ],
    ..LOCAL
};

/// whisper.cpp examples/server/server.cpp: every open connection and half-sent upload
/// holds one of its few threads; POST /inference unless started otherwise
const WHISPER_CPP: &Traits = &Traits {
    health_path: Some("/health"),
    health_timeout: Span::secs(6),
    keepalive: false,
    first_byte: Span::secs(120),
    buffer_upload: true,
    slots: Some(1),
    loading: Loading::Refuses,
    // 404, and each connection holds a thread
    lists_models: false,
    paths: &[("/v1/audio/transcriptions", "/inference")],
    ..LOCAL
};

/// speaches src/speaches: public, 200 also while no model is loaded
const SPEACHES: &Traits = &Traits {
    health_path: Some("/health"),
    ..LOCAL
};

/// LocalAI core/http: /healthz is public; a cold model answers 503; 15 MB an upload
const LOCALAI: &Traits = &Traits {
    health_path: Some("/healthz"),
    loading: Loading::Answers503,
    max_upload: Some(Size::mib(15)),
    ..LOCAL
};

impl Fix {
    /// The field it adds, and the text in it.
    pub(crate) fn default(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Fix::Default(name, text) => Some((name, text)),
            _ => None,
        }
    }
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
    /// What its servers speak. With another dialect than OpenAI's, they have nothing but `paths`.
    pub(crate) dialect: Dialect,
    /// Whether it lists its models.
    pub(crate) lists_models: bool,
    /// Paths the server has under another name.
    pub(crate) paths: &'static [(&'static str, &'static str)],
    /// Patterns of the voices it knows by itself.
    pub(crate) voices: &'static [&'static str],
    /// Patterns of the audio models it knows by itself.
    pub(crate) models: &'static [&'static str],
    /// Its own names for audio models of others, by pattern; the first that fits.
    pub(crate) model_map: &'static [(&'static str, &'static str)],
    /// What is put right in requests for speech.
    pub(crate) speech: &'static [Fix],
    /// What is put right in uploads of audio.
    pub(crate) transcription: &'static [Fix],
    /// Requests one server works on at once; `None` for as many as come.
    pub(crate) slots: Option<u32>,
    /// How it says that it still loads.
    pub(crate) loading: Loading,
    /// Largest upload of audio it takes.
    pub(crate) max_upload: Option<Size>,
}

const LOCAL: Traits = Traits {
    cloud: false,
    health_path: None,
    health_timeout: Span::secs(2),
    keepalive: true,
    first_byte: Span::secs(300),
    buffer_upload: false,
    dialect: Dialect::OpenAi,
    lists_models: true,
    paths: &[],
    voices: &[],
    models: &[],
    model_map: &[],
    speech: &[],
    transcription: &[],
    slots: None,
    loading: Loading::Silent,
    max_upload: None,
};

/// Cloud services are not probed: each probe of them would be a request, with a key or against a
/// rate limit. Real traffic tells, and a connection is enough.
const CLOUD: Traits = Traits {
    cloud: true,
    health_timeout: Span::secs(5),
    ..LOCAL
};

/// Names that local boxes have for Whisper's models.
const WHISPERS: &[&str] = &["*whisper*", "large-v*", "ggml-*"];

/// Fields that only Kokoro-FastAPI has (`api/src/structures/schemas.py`); OpenAI refuses a request
/// with a field it does not know.
const KOKORO_ONLY: &[Fix] = &[
    Fix::Remove("stream"),
    Fix::Remove("download_format"),
    Fix::Remove("return_download_link"),
    Fix::Remove("lang_code"),
    Fix::Remove("volume_multiplier"),
    Fix::Remove("normalization_options"),
];

impl Traits {
    /// What happens by default to a request when a server still loads.
    pub(crate) fn warming(&self) -> Warming {
        match self.loading {
            // nothing else would ever load the model
            Loading::AnswersLate => Warming::Wait,
            _ => Warming::Skip,
        }
    }
}

impl Kind {
    /// What is put right in a request that `hears` or `speaks`; `None` if it does neither.
    pub(crate) fn fixes(self, hears: bool, speaks: bool) -> Option<&'static [Fix]> {
        match (hears, speaks) {
            (true, _) => Some(self.traits().transcription),
            (_, true) => Some(self.traits().speech),
            _ => None,
        }
    }

    /// Whether it has voices of its own for those of others.
    pub(crate) fn has_own_voices(self) -> bool {
        matches!(self, Kind::Kokoro | Kind::OpenAi)
    }

    /// The voices that may be asked for whatever its servers say: its own, or those of others that it
    /// has stand-ins for.
    pub(crate) fn public_voices(self) -> &'static [&'static str] {
        match self.has_own_voices() {
            true => voices::OPENAI,
            false => &[],
        }
    }

    /// Its voice for one of another kind's.
    pub(crate) fn own_voice(self, voice: &str) -> Option<&'static str> {
        match self {
            Kind::Kokoro => voices::openai_to_kokoro(voice),
            Kind::OpenAi => voices::kokoro_to_openai(voice),
            _ => None,
        }
    }

    pub(crate) fn traits(self) -> &'static Traits {
        match self {
            Kind::OpenAi => OPENAI,
            Kind::Groq => GROQ,
            Kind::Together | Kind::Fireworks | Kind::OpenRouter => &CLOUD,
            Kind::Vllm => VLLM,
            Kind::LiteLlm => LITELLM,
            Kind::Ollama => OLLAMA,
            Kind::OllamaNative => OLLAMA_NATIVE,
            Kind::LlamaCpp => LLAMA_CPP,
            Kind::LmStudio => LM_STUDIO,
            Kind::Kokoro => KOKORO,
            Kind::WhisperCpp => WHISPER_CPP,
            Kind::Speaches => SPEACHES,
            Kind::LocalAi => LOCALAI,
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
