//! The requests, and what of their answers counts as good.

use serde_json::{Value, json};

use super::choose::{self, Choice};
use super::target::Target;
use super::{Endpoint, Failure, Options, Outcome, Told, audio};
use crate::command::client::{Answer, Fault, Request};
use crate::command::models_in;
use crate::command::progress;
use crate::unit::printable;

/// What is said. Whisper hears it right, and it takes few seconds.
const SENTENCE: &str = "Hello from Trunkline. One, two, three.";
const QUESTION: &str = "Say hello in one short sentence.";
const BOUNDARY: &str = "trunkline-check-endpoints";

/// A proxy that answers.
pub(super) struct Tries<'a> {
    options: &'a Options,
    target: &'a Target,
    /// The models the proxy lists.
    listed: Vec<String>,
}

/// A request in the making.
struct Ask {
    endpoint: Endpoint,
    model: String,
    voice: Option<String>,
    content_type: String,
    body: Vec<u8>,
}

impl<'a> Tries<'a> {
    /// Asks what models there are.
    ///
    /// # Errors
    /// If nobody answers there at all.
    pub(super) fn begin(options: &'a Options, target: &'a Target) -> Result<Self, String> {
        let request = Request {
            method: "GET",
            path: format!("{}/v1/models", target.prefix),
            headers: target.headers.clone(),
            body: Vec::new(),
        };
        let origin = target.client.origin();
        let listed = match target.client.send(&request) {
            Ok(answer) => models_in(&answer.body),
            Err(Fault::Refused) => {
                return Err(format!(
                    "nothing listens at {origin}; start it with `trunkline run`"
                ));
            }
            Err(Fault::Other(why)) => return Err(format!("{origin}: {why}")),
        };
        Ok(Tries {
            options,
            target,
            listed,
        })
    }

    pub(super) fn run(&self, endpoints: &[Endpoint]) -> Vec<Outcome> {
        let mut spoken = None;
        let mut outcomes = Vec::new();
        for endpoint in endpoints {
            let outcome = match endpoint {
                Endpoint::Chat => self.chat(),
                Endpoint::Speech => {
                    let (outcome, audio) = self.speech();
                    spoken = audio;
                    outcome
                }
                Endpoint::Transcription => self.transcription(spoken.take()),
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    fn model(&self, endpoint: Endpoint) -> Choice {
        let typed = match endpoint {
            Endpoint::Chat => &self.options.chat_model,
            Endpoint::Speech => &self.options.speech_model,
            Endpoint::Transcription => &self.options.transcription_model,
        };
        let mut choice = choose::choose(endpoint, &self.listed, self.target);
        if let Some(model) = typed {
            choice.model = model.clone();
        }
        if let Some(voice) = &self.options.voice {
            choice.voice = voice.clone();
        }
        choice
    }

    fn chat(&self) -> Outcome {
        let model = self.model(Endpoint::Chat).model;
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": QUESTION }] });
        let ask = Ask {
            endpoint: Endpoint::Chat,
            model,
            voice: None,
            content_type: "application/json".into(),
            body: body.to_string().into_bytes(),
        };
        self.send(ask, |answer| {
            let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let message = &answer["choices"][0]["message"];
            // a model that thinks aloud may say nothing else
            let said = ["content", "reasoning_content", "reasoning"].map(|key| &message[key]);
            let said = said.into_iter().filter_map(Value::as_str);
            let said = said.map(str::trim).find(|text| !text.is_empty());
            let said = said.ok_or_else(|| Failure::new("200, but no message in it"))?;
            Ok(format!("said \"{}\"", printable(said)))
        })
    }

    fn speech(&self) -> (Outcome, Option<Vec<u8>>) {
        let choice = self.model(Endpoint::Speech);
        let body = json!({
            "model": choice.model, "voice": choice.voice,
            "input": SENTENCE, "response_format": "wav",
        });
        let ask = Ask {
            endpoint: Endpoint::Speech,
            model: choice.model,
            voice: Some(choice.voice),
            content_type: "application/json".into(),
            body: body.to_string().into_bytes(),
        };
        let mut audio = None;
        let outcome = self.send(ask, |answer| {
            let size = answer.body.len();
            let said = match audio::seconds(&answer.body) {
                Some(seconds) if seconds > 0.0 => Ok(format!(
                    "spoke {seconds:.1} s of audio, {} KiB",
                    size / 1024
                )),
                Some(_) => Err(Failure::new("200, but a WAV file without sound in it")),
                None if size == 0 => Err(Failure::new("200, but not a byte of audio")),
                None if is_text(answer) => Err(Failure::new("200, but text and no audio")),
                None => Ok(format!("spoke {} KiB that are no WAV", size / 1024)),
            };
            if said.is_ok() {
                audio = Some(answer.body.clone());
            }
            said
        });
        (outcome, audio)
    }

    /// Of what was spoken; of a tone if nothing was.
    fn transcription(&self, spoken: Option<Vec<u8>>) -> Outcome {
        let model = self.model(Endpoint::Transcription).model;
        let real = spoken.is_some();
        let audio = spoken.unwrap_or_else(audio::tone);
        let ask = Ask {
            endpoint: Endpoint::Transcription,
            body: form(&model, &audio),
            model,
            voice: None,
            content_type: format!("multipart/form-data; boundary={BOUNDARY}"),
        };
        self.send(ask, |answer| {
            let parsed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let text = parsed["text"].as_str().map(str::trim);
            match (text, real) {
                (None, _) => Err(Failure::new("200, but no `text` in it")),
                (Some(""), true) => Err(Failure::new("200, but nothing was heard in the speech")),
                (Some(""), false) => Ok("heard no words in a tone".to_owned()),
                (Some(text), _) => Ok(format!("heard \"{}\"", printable(text))),
            }
        })
    }

    fn send(&self, ask: Ask, judge: impl FnOnce(&Answer) -> Result<String, Failure>) -> Outcome {
        let mut headers = vec![("content-type".to_owned(), ask.content_type)];
        headers.extend(self.target.headers.iter().cloned());
        let request = Request {
            method: "POST",
            path: format!("{}{}", self.target.prefix, ask.endpoint.path()),
            headers,
            body: ask.body,
        };
        let waiting = progress::show(ask.endpoint.word());
        let answered = self.target.client.send(&request);
        drop(waiting);
        let sent = request.headers.into_iter().map(redact).collect();
        let (answer, result) = match answered {
            Ok(answer) => {
                let result = match answer.status {
                    200 => judge(&answer),
                    _ => Err(refusal(
                        &answer,
                        ask.endpoint,
                        &ask.model,
                        ask.voice.as_deref(),
                    )),
                };
                (Some(told(answer)), result)
            }
            Err(Fault::Refused) => (None, Err(Failure::new("nothing listens there any more"))),
            Err(Fault::Other(why)) => (None, Err(Failure::new(why))),
        };
        Outcome {
            endpoint: ask.endpoint,
            model: ask.model,
            voice: ask.voice,
            answer,
            result,
            sent,
        }
    }
}

fn told(answer: Answer) -> Told {
    let header = |name: &str| answer.header(name).map(printable);
    Told {
        status: answer.status,
        backend: header("x-backend"),
        attempts: header("x-attempts"),
        request_id: header("x-request-id"),
        first_byte: answer.first_byte,
        took: answer.took,
        headers: answer.headers.into_iter().map(redact).collect(),
    }
}

fn redact((name, value): (String, String)) -> (String, String) {
    const SECRET: &[&str] = &["authorization", "cookie", "key", "token", "secret"];
    let secret = SECRET.iter().any(|part| name.contains(part));
    let value = if secret {
        "***".to_owned()
    } else {
        printable(&value)
    };
    (name, value)
}

/// What an answer other than 200 says, and what to do about it.
fn refusal(answer: &Answer, endpoint: Endpoint, model: &str, voice: Option<&str>) -> Failure {
    let parsed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let places = [
        "/error/message",
        "/error",
        "/detail/message",
        "/detail",
        "/message",
    ];
    let said = places
        .iter()
        .find_map(|place| parsed.pointer(place)?.as_str());
    let body = String::from_utf8_lossy(&answer.body);
    let said: String = said.unwrap_or(body.trim()).chars().take(300).collect();
    let code = parsed["error"]["code"].as_str().unwrap_or_default();
    let message = match (code, said.as_str()) {
        ("", "") => answer.status.to_string(),
        ("", said) => format!("{}: {}", answer.status, printable(said)),
        (code, said) => format!("{} {}: {}", answer.status, printable(code), printable(said)),
    };
    let own = answer.header("x-backend") == Some("local");
    let word = endpoint.word();
    let hint = match answer.status {
        401 | 403 => "set OPENAI_API_KEY, or send a key with -H 'authorization: Bearer …'".into(),
        404 if own => {
            let voice = voice
                .map(|voice| format!(" --voice {voice}"))
                .unwrap_or_default();
            let path = endpoint.path();
            format!(
                "`trunkline route POST {path} --model {model}{voice}` explains; --{word}-model asks for another model"
            )
        }
        400 | 404 | 422 => format!("--{word}-model asks for another model than {model}"),
        502..=504 if own => "`trunkline status` shows who is up".to_owned(),
        _ => String::new(),
    };
    Failure {
        message,
        hint: Some(hint).filter(|hint| !hint.is_empty()),
    }
}

fn form(model: &str, audio: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in [("model", model), ("response_format", "json")] {
        let part = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"speech.wav\"\r\n\
         content-type: audio/wav\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(audio);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// Whether an answer says itself that nobody can hear it.
fn is_text(answer: &Answer) -> bool {
    let kind = answer.header("content-type").unwrap_or_default();
    kind.starts_with("text/") || kind.starts_with("application/json")
}
