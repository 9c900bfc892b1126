//! A request, from OpenAI's words to Ollama's.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use super::super::{Expected, Form, Refused, Translated};
use super::message::{self, Said};
use crate::inspect::endpoint::Operation;

/// What chats and completions have in common.
#[derive(Deserialize)]
struct Common<'a> {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u64>,
    max_tokens: Option<Number>,
    max_completion_tokens: Option<Number>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    seed: Option<Number>,
    stop: Option<Value>,
    frequency_penalty: Option<Number>,
    presence_penalty: Option<Number>,
    reasoning_effort: Option<String>,
    reasoning: Option<Reasoning>,
    top_logprobs: Option<u64>,
    // what OpenAI does not have, and the SDKs send as `extra_body`
    options: Option<Map<String, Value>>,
    think: Option<Value>,
    #[serde(borrow)]
    keep_alive: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

/// What only chats have. Read apart from the rest: a flattened struct could not keep the bytes of
/// its values.
#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow, default)]
    messages: Vec<message::Given<'a>>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    tool_choice: Option<Value>,
    #[serde(borrow)]
    functions: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<ResponseFormat<'a>>,
    logprobs: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    json_schema: Option<JsonSchema<'a>>,
}

#[derive(Deserialize)]
struct JsonSchema<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Completion {
    prompt: Option<Value>,
    suffix: Option<String>,
    echo: Option<bool>,
    logprobs: Option<u64>,
}

#[derive(Deserialize)]
struct Embeddings<'a> {
    model: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    dimensions: Option<u64>,
    encoding_format: Option<String>,
    truncate: Option<bool>,
    options: Option<Map<String, Value>>,
    #[serde(borrow)]
    keep_alive: Option<&'a RawValue>,
}

/// `POST /api/chat`
#[derive(Serialize)]
struct AskChat<'a> {
    model: &'a str,
    messages: Vec<Said<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Cow<'a, RawValue>>,
    #[serde(flatten)]
    rest: Rest<'a>,
}

/// `POST /api/generate`
#[derive(Serialize)]
struct AskCompletion<'a> {
    model: &'a str,
    prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<String>,
    #[serde(flatten)]
    rest: Rest<'a>,
}

#[derive(Serialize)]
struct Rest<'a> {
    /// Always said: Ollama streams unless it is told not to.
    stream: bool,
    options: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u64>,
}

/// What `body` is in Ollama's words. `public`: the model as the client calls it; in the body it
/// has the server's name already.
pub(crate) fn request(
    operation: Operation,
    body: &[u8],
    public: Option<&str>,
) -> Result<Translated, Refused> {
    match operation {
        Operation::Chat => chat(body, public),
        Operation::Completion => completion(body, public),
        Operation::Embedding => embeddings(body, public),
        Operation::Models => Ok(Translated {
            body: None,
            expected: Expected {
                form: Form::Models,
                model: String::new(),
                stream: false,
                usage: false,
                base64: false,
            },
        }),
        _ => Err(Refused {
            message: "Ollama has no such endpoint".into(),
            param: None,
        }),
    }
}

fn chat(body: &[u8], public: Option<&str>) -> Result<Translated, Refused> {
    let common: Common<'_> = read(body)?;
    let chat: Chat<'_> = read(body)?;
    if chat.messages.is_empty() {
        // Ollama would load the model and say nothing
        return Err(Refused::new("messages", "there are no messages"));
    }
    if chat.functions.is_some() {
        let message = "`functions` is not known to Ollama; `tools` is";
        return Err(Refused::new("functions", message));
    }
    let unwanted = chat.tool_choice.as_ref().is_some_and(|c| *c == "none");
    let ask = AskChat {
        model: named(common.model.as_deref())?,
        messages: message::messages(&chat.messages)?,
        tools: chat.tools.filter(|_| !unwanted),
        format: chat.response_format.and_then(format),
        rest: common.rest(chat.logprobs)?,
    };
    Ok(translated(&ask, common.expects(Form::Chat, public)))
}

/// The order of a schema's properties is that of the answer, so its bytes stay.
fn format(asked: ResponseFormat<'_>) -> Option<Cow<'_, RawValue>> {
    match asked.kind.as_str() {
        "json_object" => {
            let json = RawValue::from_string("\"json\"".to_owned());
            Some(Cow::Owned(json.expect("a text in quotes is JSON")))
        }
        "json_schema" => asked.json_schema?.schema.map(Cow::Borrowed),
        _ => None,
    }
}

fn completion(body: &[u8], public: Option<&str>) -> Result<Translated, Refused> {
    let common: Common<'_> = read(body)?;
    let completion: Completion = read(body)?;
    if completion.echo == Some(true) {
        return Err(Refused::new("echo", "Ollama does not repeat the prompt"));
    }
    let prompt = match completion.prompt {
        Some(Value::String(prompt)) => prompt,
        Some(Value::Array(list)) if list.len() == 1 && list[0].is_string() => {
            list[0].as_str().map(str::to_owned).unwrap_or_default()
        }
        _ => {
            let message = "Ollama takes one prompt, as text";
            return Err(Refused::new("prompt", message));
        }
    };
    let mut rest = common.rest(completion.logprobs.map(|n| n > 0))?;
    rest.top_logprobs = completion.logprobs.filter(|n| *n > 0);
    let ask = AskCompletion {
        model: named(common.model.as_deref())?,
        prompt,
        suffix: completion.suffix.filter(|suffix| !suffix.is_empty()),
        rest,
    };
    Ok(translated(&ask, common.expects(Form::Completion, public)))
}

fn embeddings(body: &[u8], public: Option<&str>) -> Result<Translated, Refused> {
    let asked: Embeddings<'_> = read(body)?;
    let texts = || {
        let text = asked.input?;
        let one = serde_json::from_str::<message::Text<'_>>(text.get()).map(|_| 1);
        let list = || serde_json::from_str::<Vec<message::Text<'_>>>(text.get());
        one.or_else(|_| list().map(|list| list.len())).ok()
    };
    if texts().is_none_or(|count| count == 0) {
        let message = "Ollama takes text, or a list of texts, and no tokens";
        return Err(Refused::new("input", message));
    }
    let format = asked.encoding_format.as_deref().unwrap_or("float");
    let base64 = format.eq_ignore_ascii_case("base64");
    if !base64 && !format.eq_ignore_ascii_case("float") {
        let message = format!("`{format}` is neither `float` nor `base64`");
        return Err(Refused::new("encoding_format", message));
    }
    let model = named(asked.model.as_deref())?;
    let mut ask = json!({ "model": model, "input": asked.input });
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            ask[name] = value;
        }
    };
    add("dimensions", asked.dimensions.map(Value::from));
    add("truncate", asked.truncate.map(Value::from));
    add("options", asked.options.map(Value::from));
    add("keep_alive", asked.keep_alive.map(|v| json!(v)));
    let expected = Expected {
        form: Form::Embeddings,
        model: public.unwrap_or(model).to_owned(),
        stream: false,
        usage: false,
        base64,
    };
    Ok(translated(&ask, expected))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused {
        message: error.to_string(),
        param: None,
    })
}

fn named(model: Option<&str>) -> Result<&str, Refused> {
    let given = model.filter(|model| !model.is_empty());
    given.ok_or_else(|| Refused::new("model", "it names no `model`"))
}

fn translated(ask: &impl Serialize, expected: Expected) -> Translated {
    let body = serde_json::to_vec(ask).expect("what was read as JSON can be written as JSON");
    Translated {
        body: Some(body.into()),
        expected,
    }
}

impl<'a> Common<'a> {
    fn expects(&self, form: Form, public: Option<&str>) -> Expected {
        let own = self.model.as_deref().unwrap_or_default();
        let options = self.stream_options.as_ref();
        Expected {
            form,
            model: public.unwrap_or(own).to_owned(),
            stream: self.stream == Some(true),
            usage: options.is_some_and(|options| options.include_usage == Some(true)),
            base64: false,
        }
    }

    fn rest(&self, logprobs: Option<bool>) -> Result<Rest<'a>, Refused> {
        if self.n.is_some_and(|n| n > 1) {
            return Err(Refused::new("n", "Ollama gives one answer at a time"));
        }
        Ok(Rest {
            stream: self.stream == Some(true),
            options: self.options()?,
            think: self.think()?,
            keep_alive: self.keep_alive,
            logprobs: logprobs.filter(|wanted| *wanted),
            top_logprobs: self.top_logprobs.filter(|_| logprobs == Some(true)),
        })
    }

    /// Ollama's own `options`, and over them what OpenAI has a field for. Where nobody says
    /// anything, randomness is OpenAI's and not the model file's: so does Ollama.
    fn options(&self) -> Result<Map<String, Value>, Refused> {
        let mut options = self.options.clone().unwrap_or_default();
        let length = self.max_completion_tokens.as_ref();
        let given = [
            ("num_predict", length.or(self.max_tokens.as_ref())),
            ("temperature", self.temperature.as_ref()),
            ("top_p", self.top_p.as_ref()),
            ("seed", self.seed.as_ref()),
            ("frequency_penalty", self.frequency_penalty.as_ref()),
            ("presence_penalty", self.presence_penalty.as_ref()),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                options.insert(name.to_owned(), Value::Number(value.clone()));
            }
        }
        match &self.stop {
            None => {}
            Some(Value::String(one)) => {
                options.insert("stop".into(), json!([one]));
            }
            Some(list @ Value::Array(all)) if all.iter().all(Value::is_string) => {
                options.insert("stop".into(), list.clone());
            }
            Some(_) => {
                let message = "`stop` is a text or a list of texts";
                return Err(Refused::new("stop", message));
            }
        }
        for name in ["temperature", "top_p"] {
            options.entry(name).or_insert_with(|| json!(1.0));
        }
        Ok(options)
    }

    /// How much it is to think: Ollama's own field, or OpenAI's.
    fn think(&self) -> Result<Option<Value>, Refused> {
        if self.think.is_some() {
            return Ok(self.think.clone());
        }
        let nested = self.reasoning.as_ref().and_then(|r| r.effort.as_deref());
        let effort = nested.or(self.reasoning_effort.as_deref());
        Ok(match effort {
            None | Some("") => None,
            Some("none") => Some(json!(false)),
            // Ollama knows three levels (api/types.go, ThinkValue)
            Some("minimal") => Some(json!("low")),
            Some("xhigh") => Some(json!("high")),
            Some(level @ ("low" | "medium" | "high")) => Some(json!(level)),
            Some(other) => {
                let message = format!("`{other}` is no level of reasoning that Ollama knows");
                return Err(Refused::new("reasoning_effort", message));
            }
        })
    }
}
