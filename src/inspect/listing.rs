//! Lists of models and voices, as the many servers write them. What is no name, too long or too
//! much is left out, as the lists are handed on to clients.

use serde_json::{Map, Value};

/// Names that are taken from one list.
pub(crate) const MOST: usize = 2000;
/// Longest name, in bytes.
const LONGEST: usize = 256;
/// Longest text beside a name, in bytes.
const LONGEST_FACT: usize = 64;

/// What may stand beside a name: when it was made, and how much it takes and gives (OpenRouter and
/// Together, Groq, vLLM, LM Studio and Mistral, speaches). Not among them is what tells about the
/// box, as vLLM's `root` does.
const FACTS: &[&str] = &[
    "created",
    "context_length",
    "context_window",
    "max_model_len",
    "max_context_length",
    "max_completion_tokens",
    "type",
    "task",
];

/// A model that a server has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) id: String,
    /// What the server says of it, as far as clients may like to know.
    pub(crate) facts: Map<String, Value>,
}

/// The models of an answer to `GET /v1/models`; `None` if it is no list.
pub(crate) fn models(body: &[u8]) -> Option<Vec<Model>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    // Together's list has nothing around it
    let list = ["data", "models"]
        .into_iter()
        .find_map(|key| answer.get(key));
    let list = list.unwrap_or(&answer).as_array()?;
    let models = list.iter().filter_map(|entry| {
        Some(Model {
            id: name(entry, &["id", "name"])?,
            facts: facts(entry),
        })
    });
    Some(models.take(MOST).collect())
}

/// The voices of an answer to `GET /v1/audio/voices`; `None` if it is no list. Kokoro-FastAPI wrote
/// names, and now writes objects with `id`; others list them by model, or as the keys of a map.
pub(crate) fn voices(body: &[u8]) -> Option<Vec<String>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let list = ["voices", "data"]
        .into_iter()
        .find_map(|key| answer.get(key));
    let list = list.unwrap_or(&answer);
    let mut found = Vec::new();
    match list {
        Value::Array(entries) => entries.iter().for_each(|entry| heard(entry, &mut found)),
        Value::Object(map) if answer.get("voices").is_some() => {
            found.extend(map.keys().filter(|key| is_name(key)).cloned());
        }
        _ => return None,
    }
    found.truncate(MOST);
    Some(found)
}

fn heard(entry: &Value, found: &mut Vec<String>) {
    match entry.get("voices").and_then(Value::as_array) {
        Some(of_a_model) => {
            let names = of_a_model.iter();
            found.extend(names.filter_map(|voice| name(voice, VOICE_NAMES)));
        }
        None => found.extend(name(entry, VOICE_NAMES)),
    }
}

const VOICE_NAMES: &[&str] = &["id", "voice_id", "name"];

/// The name of an entry: a text, or that under the first of these keys.
fn name(entry: &Value, keys: &[&str]) -> Option<String> {
    let name = match entry {
        Value::String(name) => name,
        _ => keys.iter().find_map(|key| entry.get(key)?.as_str())?,
    };
    is_name(name).then(|| name.to_owned())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
}

fn facts(entry: &Value) -> Map<String, Value> {
    let told = FACTS.iter().filter_map(|key| Some((*key, entry.get(key)?)));
    let small = told.filter(|(key, value)| match value {
        Value::Number(number) => *key != "created" || number.is_u64(),
        Value::String(text) => *key != "created" && text.len() <= LONGEST_FACT && is_name(text),
        _ => false,
    });
    small
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ids(body: &Value) -> Vec<String> {
        let models = models(body.to_string().as_bytes()).unwrap();
        models.into_iter().map(|model| model.id).collect()
    }

    fn heard(body: &Value) -> Option<Vec<String>> {
        voices(body.to_string().as_bytes())
    }

    #[test]
    fn models_are_read_in_all_their_forms() {
        for body in [
            json!({ "object": "list", "data": [{ "id": "a" }, { "id": "b" }] }),
            json!([{ "id": "a" }, { "id": "b" }]),
            json!({ "models": [{ "name": "a" }, "b"] }),
        ] {
            assert_eq!(ids(&body), ["a", "b"], "{body}");
        }
        for junk in ["", "{", "{}", "7", "null", "{\"data\":{}}", "<html>"] {
            assert_eq!(models(junk.as_bytes()), None, "{junk}");
        }
    }

    #[test]
    fn what_helps_a_client_is_kept_and_what_tells_about_the_box_is_not() {
        let body = json!({ "data": [{
            "id": "m", "created": 7, "max_model_len": 4096, "root": "/srv/models/m",
            "type": "x".repeat(65), "task": "a\u{1b}[2J", "context_length": [1], "owned_by": "me",
        }] });
        let facts = models(body.to_string().as_bytes()).unwrap().remove(0).facts;
        assert_eq!(
            Value::from(facts),
            json!({ "created": 7, "max_model_len": 4096 })
        );
        let body = json!({ "data": [{ "id": "m", "created": "yesterday" }] });
        assert!(
            models(body.to_string().as_bytes()).unwrap()[0]
                .facts
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_name_is_left_out_and_so_is_what_is_too_much() {
        let long = "x".repeat(257);
        let body = json!({ "data": ["a\nb", "\u{7f}", "", long, 7, null, {}, { "id": 7 }, "ok"] });
        assert_eq!(ids(&body), ["ok"]);
        let many: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        assert_eq!(ids(&json!({ "data": many })).len(), MOST);
        assert_eq!(heard(&json!({ "voices": many })).unwrap().len(), MOST);
    }

    #[test]
    fn voices_are_read_in_all_their_forms() {
        for body in [
            json!({ "voices": ["a", "b"] }),
            json!({ "voices": [{ "id": "a", "name": "A" }, { "id": "b", "name": "B" }] }),
            json!({ "voices": [{ "name": "a", "voice_id": "a" }, "b"] }),
            json!({ "data": [{ "id": "model", "voices": ["a", { "name": "b" }] }] }),
            json!({ "voices": { "a": {}, "b": null } }),
            json!(["a", "b"]),
        ] {
            assert_eq!(heard(&body).unwrap(), ["a", "b"], "{body}");
        }
        assert_eq!(heard(&json!({ "detail": "Not Found" })), None);
        assert_eq!(heard(&json!("a")), None);
    }
}
