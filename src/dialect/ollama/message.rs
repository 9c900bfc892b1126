//! The messages of a chat, from OpenAI's words to Ollama's.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::Refused;

/// The kinds of images Ollama's own compatibility layer takes.
const IMAGES: &[&str] = &[
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
];

/// A text, borrowed where it has no escapes: an image has megabytes and none.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A message as the client has it.
#[derive(Deserialize)]
pub(super) struct Given<'a> {
    role: String,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    name: Option<String>,
    #[serde(borrow)]
    tool_calls: Option<Vec<GivenCall<'a>>>,
    tool_call_id: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct GivenCall<'a> {
    id: Option<String>,
    #[serde(borrow)]
    function: GivenFunction<'a>,
}

#[derive(Deserialize)]
struct GivenFunction<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Text<'a>,
}

/// A message as Ollama has it.
#[derive(Serialize)]
pub(super) struct Said<'a> {
    role: &'a str,
    content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<SaidCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
struct SaidCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    function: SaidFunction<'a>,
}

#[derive(Serialize)]
struct SaidFunction<'a> {
    name: &'a str,
    arguments: Box<RawValue>,
}

pub(super) fn messages<'a>(all: &'a [Given<'a>]) -> Result<Vec<Said<'a>>, Refused> {
    all.iter().map(|given| message(given, all)).collect()
}

fn message<'a>(given: &'a Given<'a>, all: &'a [Given<'a>]) -> Result<Said<'a>, Refused> {
    let answers = given.role == "tool";
    let thought = given.reasoning.as_deref();
    let mut said = Said {
        role: match given.role.as_str() {
            // no template of a model knows this role
            "developer" => "system",
            role => role,
        },
        content: String::new(),
        images: Vec::new(),
        thinking: thought.or(given.reasoning_content.as_deref()),
        tool_calls: calls(given.tool_calls.as_deref().unwrap_or_default())?,
        tool_name: match given.name.as_deref() {
            Some(name) if answers => Some(name),
            _ => given.tool_call_id.as_deref().and_then(|id| called(all, id)),
        },
        tool_call_id: given.tool_call_id.as_deref(),
    };
    if let Some(content) = given.content {
        said.take(content)?;
    }
    Ok(said)
}

/// The tool that was called by this id; the last one, should ids repeat.
fn called<'a>(all: &'a [Given<'a>], id: &str) -> Option<&'a str> {
    let calls = all
        .iter()
        .rev()
        .filter_map(|given| given.tool_calls.as_ref());
    calls
        .flatten()
        .find(|call| call.id.as_deref() == Some(id))
        .map(|call| call.function.name.as_str())
}

/// Arguments are an object here and its text there.
fn calls<'a>(given: &'a [GivenCall<'a>]) -> Result<Vec<SaidCall<'a>>, Refused> {
    let broken = |name: &str| {
        let message = format!("the arguments of the call of `{name}` are not a JSON object");
        Refused::new("messages", message)
    };
    let said = given.iter().map(|call| {
        let name = call.function.name.as_str();
        let arguments = call.function.arguments.map_or("", RawValue::get);
        let arguments = match serde_json::from_str::<Text<'_>>(arguments) {
            Ok(text) => text.0,
            Err(_) => Cow::Borrowed(arguments),
        };
        // models without arguments to give write nothing
        let arguments = match arguments.trim() {
            "" | "null" => "{}",
            object if object.starts_with('{') => object,
            _ => return Err(broken(name)),
        };
        let arguments = RawValue::from_string(arguments.to_owned());
        Ok(SaidCall {
            id: call.id.as_deref(),
            function: SaidFunction {
                name,
                arguments: arguments.map_err(|_| broken(name))?,
            },
        })
    });
    said.collect()
}

impl<'a> Said<'a> {
    /// Takes the content: a text, or parts of which the texts become one.
    fn take(&mut self, content: &'a RawValue) -> Result<(), Refused> {
        if let Ok(text) = serde_json::from_str::<Text<'a>>(content.get()) {
            self.content = text.0.into_owned();
            return Ok(());
        }
        let parts: Vec<Part<'a>> = serde_json::from_str(content.get()).map_err(|_| {
            let message = "the content of a message is a text or a list of parts";
            Refused::new("messages", message)
        })?;
        let mut texts: Vec<String> = Vec::new();
        for part in parts {
            match (part.kind.as_str(), part.image_url) {
                ("text", _) => texts.extend(part.text),
                ("refusal", _) => texts.extend(part.refusal),
                ("image_url", Some(url)) => self.images.push(image(url)?),
                (other, _) => {
                    let message = format!("Ollama has no words for content of type `{other}`");
                    return Err(Refused::new("messages", message));
                }
            }
        }
        self.content = texts.join("\n");
        Ok(())
    }
}

/// The data of an image in a URL.
fn image<'a>(url: &'a RawValue) -> Result<Cow<'a, str>, Refused> {
    let refused = |message: &str| Refused::new("messages", message);
    let object = serde_json::from_str::<ImageUrl<'a>>(url.get()).map(|image| image.url);
    let text = object.or_else(|_| serde_json::from_str::<Text<'a>>(url.get()));
    let Ok(Text(url)) = text else {
        return Err(refused("an `image_url` has no `url`"));
    };
    if url.starts_with("http:") || url.starts_with("https:") {
        return Err(refused(
            "Ollama does not fetch images: send the image itself, as a `data:` URL",
        ));
    }
    let Some(prefix) = IMAGES.iter().find(|prefix| url.starts_with(**prefix)) else {
        return Err(refused(
            "an image is a `data:` URL of a JPEG, PNG or WebP in base64",
        ));
    };
    Ok(match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[prefix.len()..]),
        Cow::Owned(url) => Cow::Owned(url[prefix.len()..].to_owned()),
    })
}
