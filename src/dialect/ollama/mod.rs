//! Ollama's own API (docs/api.md), which has more to say than its OpenAI endpoints: `options` and
//! `keep_alive` are part of it.
//!
//! | OpenAI | Ollama |
//! | --- | --- |
//! | `POST /v1/chat/completions` | `POST /api/chat` |
//! | `POST /v1/completions` | `POST /api/generate` |
//! | `POST /v1/embeddings` | `POST /api/embed` |
//! | `GET /v1/models` | `GET /api/tags` |
//!
//! Where there is a choice, it is that of Ollama's own compatibility layer (openai/openai.go), so
//! that a server is the same under `kind: ollama` and `kind: ollama-native`.

mod message;
mod request;
mod stream;
mod whole;
mod wire;

pub(crate) use request::request;
pub(crate) use stream::Stream;
pub(crate) use whole::{error, said, whole};

#[cfg(test)]
mod tests;
