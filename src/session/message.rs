//! A message of a conversation: its text as it goes to servers, and what decides about it.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Most messages of a request that are looked into.
const MOST: usize = 4096;

/// One message, system messages aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// A JSON object; empty if it is too large to be kept.
    pub(crate) text: Bytes,
    /// Of the text, in bytes, whether it is here or not.
    pub(super) size: u64,
    pub(super) role: Role,
    /// Of what it says, however that is written.
    mark: u64,
    /// The ids of the tool calls it asks for.
    pub(super) asks: Vec<String>,
    /// The id of the tool call it answers.
    pub(super) answers: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    User,
    Assistant,
    Tool,
    Other,
}

pub(crate) type Messages = Vec<Arc<Message>>;

/// What a client says in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// At least one.
    pub(crate) messages: Messages,
    /// Where the first of them begins in its list, in bytes.
    pub(crate) at: u64,
}

/// A list as it is written. It is short: of nothing else can so much be made from so few bytes.
struct Raws<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Raws<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Few;

        impl<'de> Visitor<'de> for Few {
            type Value = Raws<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST} messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raws<'de>, A::Error> {
                let mut raws = Vec::new();
                while let Some(raw) = list.next_element()? {
                    if raws.len() == MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    raws.push(raw);
                }
                Ok(Raws(raws))
            }
        }

        deserializer.deserialize_seq(Few)
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
struct Call<'a> {
    id: Option<String>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl Fields<'_> {
    fn is_instruction(&self) -> bool {
        matches!(self.role.as_ref(), "system" | "developer")
    }
}

impl Message {
    /// Reads a message; `None` if it is none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let fields = serde_json::from_str(text).ok()?;
        Some(Self::new(text, fields, true))
    }

    /// One of the assistant that is too large to be kept, with its size.
    pub(super) fn too_large(size: u64) -> Self {
        Message {
            text: Bytes::new(),
            size,
            role: Role::Assistant,
            mark: 0,
            asks: Vec::new(),
            answers: None,
        }
    }

    fn new(text: &str, fields: Fields<'_>, keep: bool) -> Self {
        let role = match fields.role.as_ref() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            _ => Role::Other,
        };
        let mark = mark(role, &fields);
        let calls = fields.tool_calls.unwrap_or_default();
        Message {
            text: match keep {
                true => Bytes::copy_from_slice(text.as_bytes()),
                false => Bytes::new(),
            },
            size: text.len() as u64,
            role,
            mark,
            asks: calls.into_iter().filter_map(|call| call.id).collect(),
            answers: fields.tool_call_id,
        }
    }

    /// Whether both say the same, be it written in another way: SDKs leave out what is null.
    pub(super) fn says_as(&self, other: &Message) -> bool {
        self.mark == other.mark
    }
}

fn mark(role: Role, fields: &Fields<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let content = fields.content.map(plain).filter(|text| text != "\"\"");
    (role, content, &fields.tool_call_id).hash(&mut hasher);
    for call in fields.tool_calls.iter().flatten() {
        let function = call.function.as_ref();
        let name = function.and_then(|function| function.name.as_ref());
        let arguments = function.and_then(|function| function.arguments);
        (&call.id, name, arguments.map(plain)).hash(&mut hasher);
    }
    hasher.finish()
}

/// A value without the freedom that JSON leaves to who writes it.
fn plain(raw: &RawValue) -> String {
    let value = serde_json::from_str::<Value>(raw.get());
    value.map_or_else(|_| raw.get().to_owned(), |value| value.to_string())
}

fn fields(raw: &RawValue) -> Option<Fields<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// Reads what a client says: the JSON list `messages`, without system and developer messages. Of
/// what is more than `most` bytes from the end, the text is not kept. `None` if nothing is said, or
/// if it is no list of messages.
pub(crate) fn said(list: &[u8], most: u64) -> Option<Said> {
    let Raws(raws) = serde_json::from_slice(list).ok()?;
    let fields: Option<Vec<Fields<'_>>> = raws.iter().copied().map(fields).collect();
    let mut at = None;
    let mut size = 0;
    let mut messages = Messages::new();
    for (raw, fields) in raws.iter().zip(fields?).rev() {
        if fields.is_instruction() {
            continue;
        }
        let text = raw.get();
        size += text.len() as u64;
        messages.push(Arc::new(Message::new(text, fields, size <= most)));
        // both are parts of the same list
        at = Some(text.as_ptr() as u64 - list.as_ptr() as u64);
    }
    messages.reverse();
    Some(Said { messages, at: at? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(said: &Said) -> Vec<&str> {
        let texts = said.messages.iter().map(|message| &message.text);
        texts.map(|t| std::str::from_utf8(t).unwrap()).collect()
    }

    #[test]
    fn what_is_said_begins_behind_the_instructions_and_keeps_its_bytes() {
        let list = r#"[ {"role":"system","content":"s"}, {"role":"developer","content":"d"} ,
            { "role" : "user", "content":"\u00e9" },{"role":"system","content":"t"},{"role":"user","content":[{"type":"text"}]}]"#;
        let said = said(list.as_bytes(), 1000).unwrap();
        assert_eq!(
            texts(&said),
            [
                r#"{ "role" : "user", "content":"\u00e9" }"#,
                r#"{"role":"user","content":[{"type":"text"}]}"#
            ]
        );
        assert!(list[said.at as usize..].starts_with("{ \"role\" : \"user\""));
    }

    #[test]
    fn what_is_no_list_of_messages_is_left_to_the_server() {
        for list in [
            "[]",
            "[1]",
            "{}",
            "[{\"content\":\"x\"}]",
            "[{\"role\":\"system\",\"content\":\"x\"}]",
            "[{\"role\":\"user\",\"role\":\"system\"}]",
            "[{\"role\":\"assistant\",\"tool_calls\":{}}]",
            &format!("[{}1]", r#"{"role":"user","content":"x"},"#.repeat(MOST)),
        ] {
            assert_eq!(said(list.as_bytes(), 1000), None, "{list}");
        }
    }

    #[test]
    fn of_what_is_too_long_only_the_end_is_kept() {
        let list = r#"[{"role":"user","content":"1"},{"role":"assistant","content":"2"},{"role":"user","content":"3"}]"#;
        let said = said(list.as_bytes(), 70).unwrap();
        let expected = [
            "",
            r#"{"role":"assistant","content":"2"}"#,
            r#"{"role":"user","content":"3"}"#,
        ];
        assert_eq!(texts(&said), expected);
        assert_eq!(said.messages[0].size, 29);
    }

    #[test]
    fn the_same_words_are_known_however_they_are_written() {
        let read = |text: &str| Message::read(text).unwrap();
        let own = read(r#"{"role":"assistant","content":"h\u00e9"}"#);
        assert!(own.says_as(&read(
            r#"{ "content": "hé", "refusal": null, "annotations": [], "role": "assistant" }"#
        )));
        assert!(!own.says_as(&read(r#"{"role":"user","content":"hé"}"#)));
        assert!(!own.says_as(&read(r#"{"role":"assistant","content":"he"}"#)));
        let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]}"#;
        let again = r#"{"role":"assistant","tool_calls":[{"type":"function","function":{"arguments":"{}","name":"f"},"id":"a"}]}"#;
        assert!(read(call).says_as(&read(again)));
        assert!(!read(call).says_as(&read(&again.replace("\"a\"", "\"b\""))));
        assert!(Message::read(r#"{"role":"user","content":"\ud800"}"#).is_some());
    }
}
