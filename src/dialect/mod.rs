//! Servers that speak another dialect than OpenAI's: what a request is in their words, and what
//! their answer is in ours.
//!
//! Pure: from bytes to bytes. The relay asks for the words of the server whose turn it is, so that
//! one request may go to servers of several dialects; most have none, and none of this runs.

pub(crate) mod ollama;
#[cfg(test)]
pub(crate) mod props;

use bytes::Bytes;

/// A request that cannot be said in a dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) message: String,
    /// The field it is about, for OpenAI's `param`.
    pub(crate) param: Option<&'static str>,
}

/// A request in the words of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translated {
    /// `None`: it has none.
    pub(crate) body: Option<Bytes>,
    pub(crate) expected: Expected,
}

/// What the answer has to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) form: Form,
    /// The model as the client calls it.
    pub(crate) model: String,
    /// Events, and not one object.
    pub(crate) stream: bool,
    /// Events that end with the number of tokens.
    pub(crate) usage: bool,
    /// Embeddings as base64, and not as numbers.
    pub(crate) base64: bool,
}

/// The forms an answer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Chat,
    Completion,
    Embeddings,
    Models,
}

/// What tells one answer from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Letters and digits, some 32 of them.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

/// Why an answer cannot be told, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The server says so itself.
    #[error("{0}")]
    Said(String),
    /// It speaks something else.
    #[error("{0}")]
    Garbled(String),
    #[error("it ended before it was done")]
    Cut,
}

/// Tokens of an answer, as its server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl Refused {
    fn new(param: &'static str, message: impl Into<String>) -> Self {
        Refused {
            message: message.into(),
            param: Some(param),
        }
    }
}

impl Broken {
    fn garbled(error: &serde_json::Error) -> Self {
        Broken::Garbled(format!("its answer is not Ollama's JSON: {error}"))
    }
}
