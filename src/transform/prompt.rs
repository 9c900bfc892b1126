//! A system prompt, put before what the client says: as a message before its first one, or at the
//! beginning of its instructions.

use std::ops::Range;

use serde_json::Value;

use super::fields::Edit;
use crate::config::SystemPrompt;
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Field, Form, Shape};

/// How a body is made to say the prompt first: by an edit, or by another field. `settled` says of
/// which fields the route has said already what becomes of them. What is no message and no text
/// stays as it is: its server refuses it.
pub(super) fn spoken(
    body: &Body,
    prompt: &SystemPrompt,
    operation: Option<Operation>,
    settled: &dyn Fn(&str) -> bool,
) -> (Option<Edit>, Option<(&'static str, Value)>) {
    let name = match operation {
        Some(Operation::Chat) => "messages",
        Some(Operation::Response) => "instructions",
        _ => return (None, None),
    };
    if body.form != Form::Json || settled(name) {
        return (None, None);
    }
    match body.field(name) {
        Some(field) if name == "messages" => (message(field, prompt), None),
        Some(field) => (instruction(field, prompt), None),
        None if name == "messages" => (None, None),
        None => (None, Some((name, unescaped(prompt)))),
    }
}

fn message(field: &Field, prompt: &SystemPrompt) -> Option<Edit> {
    let comma = match field.shape {
        Shape::EmptyList => "",
        Shape::List => ",",
        Shape::Text | Shape::Null | Shape::Other => return None,
    };
    let text = &prompt.escaped;
    let with = format!("{{\"role\":\"system\",\"content\":\"{text}\"}}{comma}");
    Some(Edit {
        at: inside(field),
        with: with.into(),
    })
}

fn instruction(field: &Field, prompt: &SystemPrompt) -> Option<Edit> {
    let text = &prompt.escaped;
    let (at, with) = match field.shape {
        Shape::Text => (inside(field), format!("{text}\\n\\n")),
        Shape::Null => (field.value.clone(), format!("\"{text}\"")),
        Shape::EmptyList | Shape::List | Shape::Other => return None,
    };
    Some(Edit {
        at,
        with: with.into(),
    })
}

/// The place behind the first byte of a value, its bracket or its quote.
fn inside(field: &Field) -> Range<u64> {
    let at = field.value.start + 1;
    at..at
}

fn unescaped(prompt: &SystemPrompt) -> Value {
    serde_json::from_str(&format!("\"{}\"", prompt.escaped)).unwrap_or_default()
}
