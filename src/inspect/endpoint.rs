//! The endpoints: the operations of the OpenAI API that Trunkline knows by name.

/// What an endpoint does; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    Completion,
    Response,
    Embedding,
    Speech,
    Transcription,
    Translation,
    Image,
    Moderation,
    Rerank,
    Models,
    Voices,
    /// Speech both ways, over a WebSocket.
    Realtime,
    /// Everything else under `/v1`.
    Other,
}

/// The endpoints by their path below `/v1` (API reference, 2026-11; `voices` is Kokoro-FastAPI's,
/// `rerank` vLLM's).
const ENDPOINTS: &[(&str, Operation)] = &[
    ("/chat/completions", Operation::Chat),
    ("/completions", Operation::Completion),
    ("/responses", Operation::Response),
    ("/embeddings", Operation::Embedding),
    ("/audio/speech", Operation::Speech),
    ("/audio/transcriptions", Operation::Transcription),
    ("/audio/translations", Operation::Translation),
    ("/audio/voices", Operation::Voices),
    ("/images/generations", Operation::Image),
    ("/images/edits", Operation::Image),
    ("/images/variations", Operation::Image),
    ("/moderations", Operation::Moderation),
    ("/rerank", Operation::Rerank),
    ("/realtime", Operation::Realtime),
    ("/models", Operation::Models),
    ("/files", Operation::Other),
    ("/batches", Operation::Other),
    ("/uploads", Operation::Other),
    ("/vector_stores", Operation::Other),
    ("/fine_tuning/jobs", Operation::Other),
    ("/assistants", Operation::Other),
    ("/threads", Operation::Other),
];

/// `path` as the API writes it: known endpoints are also taken without `/v1`, from clients whose
/// base URL lacks it.
pub(crate) fn canonical(path: String) -> String {
    if path.starts_with("/v1/") || path == "/v1" {
        return path;
    }
    match is_known(&path) {
        true => format!("/v1{path}"),
        false => path,
    }
}

fn is_known(path: &str) -> bool {
    ENDPOINTS.iter().any(|(endpoint, _)| {
        path.strip_prefix(endpoint)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The path without `/v1` that [`canonical`] makes this one of, if there is one.
pub(crate) fn unversioned(path: &str) -> Option<&str> {
    path.strip_prefix("/v1")
        .filter(|path| is_known(path) && !path.starts_with("/v1"))
}

/// The paths of operations, below `/v1`.
pub(crate) fn paths(wanted: &dyn Fn(Operation) -> bool) -> impl Iterator<Item = &'static str> {
    let known = ENDPOINTS
        .iter()
        .filter(move |(_, operation)| wanted(*operation));
    known.map(|(path, _)| *path)
}

/// What a canonical path asks for; `None` outside the API.
pub(crate) fn operation(path: &str) -> Option<Operation> {
    let below = path.strip_prefix("/v1")?;
    if !below.starts_with('/') {
        return None;
    }
    let named = ENDPOINTS
        .iter()
        .find(|(endpoint, _)| *endpoint == below.trim_end_matches('/'));
    Some(named.map_or(Operation::Other, |(_, operation)| *operation))
}

impl Operation {
    pub(crate) const ALL: &'static [Operation] = &[
        Operation::Chat,
        Operation::Completion,
        Operation::Response,
        Operation::Embedding,
        Operation::Speech,
        Operation::Transcription,
        Operation::Translation,
        Operation::Image,
        Operation::Moderation,
        Operation::Rerank,
        Operation::Models,
        Operation::Voices,
        Operation::Realtime,
        Operation::Other,
    ];

    /// The label for it; those of OpenTelemetry's GenAI conventions where they have one.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::Completion => "text_completion",
            Operation::Response => "responses",
            Operation::Embedding => "embeddings",
            Operation::Speech => "text_to_speech",
            Operation::Transcription => "speech_to_text",
            Operation::Translation => "speech_translation",
            Operation::Image => "image",
            Operation::Moderation => "moderation",
            Operation::Rerank => "rerank",
            Operation::Models => "models",
            Operation::Voices => "voices",
            Operation::Realtime => "realtime",
            Operation::Other => "other",
        }
    }

    /// Whether it is a question to a language model, which its body names.
    pub(crate) fn has_model(self) -> bool {
        use Operation::{Chat, Completion, Embedding, Response};
        matches!(self, Chat | Completion | Embedding | Response)
    }

    /// Whether it takes audio.
    pub(crate) fn hears(self) -> bool {
        matches!(self, Operation::Transcription | Operation::Translation)
    }

    /// Whether the same question has the same answer, as far as its endpoint tells.
    pub(crate) fn may_be_kept(self) -> bool {
        use Operation::{Chat, Completion, Embedding, Speech};
        self.hears() || matches!(self, Chat | Completion | Embedding | Speech)
    }

    /// Whether a good answer always has a body, so that an empty one is a failure.
    pub(crate) fn always_answers(self) -> bool {
        !matches!(self, Operation::Other | Operation::Realtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_endpoints_are_taken_without_their_version() {
        for (path, canonical_path) in [
            ("/chat/completions", "/v1/chat/completions"),
            ("/models/llama3", "/v1/models/llama3"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/modelsx", "/modelsx"),
            ("/", "/"),
            ("/favicon.ico", "/favicon.ico"),
        ] {
            assert_eq!(canonical(path.into()), canonical_path);
        }
    }

    #[test]
    fn paths_outside_the_api_have_no_operation() {
        assert_eq!(operation("/v1/audio/speech"), Some(Operation::Speech));
        assert_eq!(operation("/v1/whatever"), Some(Operation::Other));
        assert_eq!(operation("/v1"), None);
        assert_eq!(operation("/v1beta/x"), None);
        assert_eq!(operation("/"), None);
    }
}
