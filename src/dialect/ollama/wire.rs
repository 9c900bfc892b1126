//! What Ollama sends, and what of OpenAI's is made of it (api/types.go; openai/openai.go).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::{Broken, Tokens};

/// One object of an answer to a chat or a completion: the whole answer, or a piece of it.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    pub(super) created_at: Option<String>,
    /// Of a chat.
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
    /// Of a completion.
    pub(super) response: Option<String>,
    #[serde(default)]
    pub(super) done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    #[serde(borrow)]
    pub(super) logprobs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Message<'a> {
    pub(super) content: Option<String>,
    pub(super) thinking: Option<String>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<Called<'a>>>,
}

#[derive(Deserialize)]
pub(super) struct Called<'a> {
    id: Option<String>,
    #[serde(borrow)]
    function: CalledFunction<'a>,
}

#[derive(Deserialize)]
struct CalledFunction<'a> {
    #[serde(default)]
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// A call of a tool as OpenAI has it.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    /// Only in pieces of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    r#type: &'static str,
    function: ToolFunction<'a>,
}

#[derive(Serialize)]
struct ToolFunction<'a> {
    name: &'a str,
    /// The text of an object.
    arguments: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    content: &'a RawValue,
}

impl<'a> Line<'a> {
    pub(super) fn read(text: &'a [u8]) -> Result<Self, Broken> {
        let line: Line<'a> = serde_json::from_slice(text).map_err(|e| Broken::garbled(&e))?;
        match line.error {
            Some(error) => Err(Broken::Said(worded(error))),
            None => Ok(line),
        }
    }

    pub(super) fn tokens(&self) -> Tokens {
        Tokens {
            input: self.prompt_eval_count.unwrap_or(0),
            output: self.eval_count.unwrap_or(0),
        }
    }

    /// Why it ended. Only `stop` and `length` are reasons of OpenAI's; the others say that a model
    /// was loaded or unloaded.
    pub(super) fn finish_reason(&self, called: bool) -> &'static str {
        match self.done_reason.as_deref() {
            _ if called => "tool_calls",
            Some("length") => "length",
            _ => "stop",
        }
    }

    pub(super) fn logprobs(&self) -> Option<Logprobs<'a>> {
        self.logprobs.map(|content| Logprobs { content })
    }
}

/// An error is a text; what stands in front of Ollama may make it something else.
fn worded(error: &RawValue) -> String {
    let value: serde_json::Value = serde_json::from_str(error.get()).unwrap_or_default();
    let text = value.as_str().or(value["message"].as_str());
    text.unwrap_or(error.get()).to_owned()
}

impl Called<'_> {
    /// `id`: of the answer, for servers that give their calls none (before 0.12). OpenAI takes 40
    /// characters, should the conversation go on there.
    pub(super) fn told(&self, n: usize, id: &str, indexed: bool) -> ToolCall<'_> {
        let own = self.id.as_deref().filter(|id| !id.is_empty());
        let made = || format!("call_{}_{n}", &id[..id.len().min(24)]);
        ToolCall {
            index: indexed.then_some(n),
            id: own.map_or_else(made, str::to_owned),
            r#type: "function",
            function: ToolFunction {
                name: &self.function.name,
                arguments: match self.function.arguments.map(RawValue::get) {
                    None | Some("null") => "{}",
                    Some(text) => text,
                },
            },
        }
    }
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        Usage {
            prompt_tokens: tokens.input,
            completion_tokens: tokens.output,
            total_tokens: tokens.input.saturating_add(tokens.output),
        }
    }
}

/// Seconds since 1970 of a moment as Go writes it (RFC 3339, with any fraction and zone).
pub(super) fn seconds(moment: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| moment.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = moment
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    // days before a date, with years that begin in March (howardhinnant.github.io/date_algorithms)
    let years = if month <= 2 { year - 1 } else { year };
    let days_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + days_of_year - 719_468;
    let at = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    u64::try_from(at).ok()
}
