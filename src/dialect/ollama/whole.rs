//! An answer in one piece, and an error, from Ollama's words to OpenAI's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::{Broken, Expected, Form, Stamp, Tokens};
use super::wire::{Line, Logprobs, ToolCall, Usage, seconds};

#[derive(Serialize)]
struct Reply<'a, C: Serialize> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: [C; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    /// Null beside calls of tools, as OpenAI has it.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

/// Numbers of 32 bits on both sides: what passes through one of 64 has more digits than were sent.
#[derive(Deserialize)]
struct Embedded {
    embeddings: Vec<Vec<f32>>,
    prompt_eval_count: Option<u64>,
}

#[derive(Serialize)]
struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: EmbeddingUsage,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Numbers<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct EmbeddingUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

#[derive(Deserialize)]
struct Tags {
    models: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    modified_at: Option<String>,
}

/// A good answer that came whole.
pub(crate) fn whole(expected: &Expected, stamp: &Stamp, body: &[u8]) -> Result<Vec<u8>, Broken> {
    match expected.form {
        Form::Chat | Form::Completion => answer(expected, stamp, body),
        Form::Embeddings => embeddings(expected, body),
        Form::Models => models(body),
    }
}

fn answer(expected: &Expected, stamp: &Stamp, body: &[u8]) -> Result<Vec<u8>, Broken> {
    let line = Line::read(body)?;
    let tokens = line.tokens();
    let created = line.created_at.as_deref().and_then(seconds);
    let (prefix, object) = match expected.form {
        Form::Completion => ("cmpl", "text_completion"),
        _ => ("chatcmpl", "chat.completion"),
    };
    let missing = || Broken::Garbled("its answer has no message".into());
    let head = (
        format!("{prefix}-{}", stamp.id),
        created.unwrap_or(stamp.now),
    );
    if expected.form == Form::Completion {
        let choice = TextChoice {
            index: 0,
            text: line.response.as_deref().ok_or_else(missing)?,
            logprobs: line.logprobs(),
            finish_reason: line.finish_reason(false),
        };
        return Ok(reply(head, object, expected, choice, tokens));
    }
    let message = line.message.as_ref().ok_or_else(missing)?;
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    let calls: Vec<_> = calls
        .iter()
        .enumerate()
        .map(|(n, call)| call.told(n, &stamp.id, false))
        .collect();
    let content = message.content.as_deref().unwrap_or_default();
    let choice = Choice {
        index: 0,
        logprobs: line.logprobs(),
        finish_reason: line.finish_reason(!calls.is_empty()),
        message: Message {
            role: "assistant",
            content: Some(content).filter(|text| !text.is_empty() || calls.is_empty()),
            reasoning: message.thinking.as_deref().filter(|text| !text.is_empty()),
            tool_calls: calls,
        },
    };
    Ok(reply(head, object, expected, choice, tokens))
}

fn reply<C: Serialize>(
    (id, created): (String, u64),
    object: &'static str,
    expected: &Expected,
    choice: C,
    tokens: Tokens,
) -> Vec<u8> {
    written(&Reply {
        id,
        object,
        created,
        model: &expected.model,
        system_fingerprint: "fp_ollama",
        choices: [choice],
        usage: tokens.into(),
    })
}

fn embeddings(expected: &Expected, body: &[u8]) -> Result<Vec<u8>, Broken> {
    let embedded: Embedded = match serde_json::from_slice(body) {
        Ok(embedded) => embedded,
        // it may say why it has none
        Err(error) => {
            let said = Line::read(body)
                .err()
                .filter(|e| matches!(e, Broken::Said(_)));
            return Err(said.unwrap_or_else(|| Broken::garbled(&error)));
        }
    };
    let tokens = embedded.prompt_eval_count.unwrap_or(0);
    let numbers = |floats: &'_ [f32]| -> String {
        let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
        STANDARD.encode(bytes)
    };
    let data = embedded.embeddings.iter().enumerate();
    let list = EmbeddingList {
        object: "list",
        data: data
            .map(|(index, floats)| Embedding {
                object: "embedding",
                index,
                embedding: match expected.base64 {
                    true => Numbers::Base64(numbers(floats)),
                    false => Numbers::Floats(floats),
                },
            })
            .collect(),
        model: &expected.model,
        usage: EmbeddingUsage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    Ok(written(&list))
}

fn models(body: &[u8]) -> Result<Vec<u8>, Broken> {
    let tags: Tags = serde_json::from_slice(body).map_err(|e| Broken::garbled(&e))?;
    let data: Vec<_> = tags
        .models
        .unwrap_or_default()
        .iter()
        .map(|tag| {
            let created = tag.modified_at.as_deref().and_then(seconds).unwrap_or(0);
            // `[host/][namespace/]model[:tag]` (types/model/name.go)
            let owner = tag.name.rsplit('/').nth(1).unwrap_or("library");
            json!({ "id": tag.name, "object": "model", "created": created, "owned_by": owner })
        })
        .collect();
    Ok(written(&json!({ "object": "list", "data": data })))
}

/// The body of an answer that is an error, whatever of it is Ollama's.
pub(crate) fn error(status: u16, body: &[u8]) -> Vec<u8> {
    match Line::read(body) {
        Err(Broken::Said(message)) => said(status, &message),
        _ => {
            let text = String::from_utf8_lossy(body);
            // the beginning of somebody's page will do
            let text: String = text.trim().chars().take(500).collect();
            match text.is_empty() {
                true => said(
                    status,
                    &format!("Ollama answered {status} and said nothing."),
                ),
                false => said(status, &text),
            }
        }
    }
}

/// An error in OpenAI's shape, with what SDKs decide by.
pub(crate) fn said(status: u16, message: &str) -> Vec<u8> {
    let kind = match status {
        500.. => "server_error",
        429 => "rate_limit_error",
        _ => "invalid_request_error",
    };
    // "model 'x' not found", "model \"x\" not found, try pulling it first"
    let (code, param) = match status {
        404 if message.contains("model") => (Some("model_not_found"), Some("model")),
        400 if message.contains("context length") => (Some("context_length_exceeded"), None),
        _ => (None, None),
    };
    written(&json!({
        "error": { "message": message, "type": kind, "param": param, "code": code }
    }))
}

fn written(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).expect("what was made of JSON can be written as JSON")
}
