//! What stand-ins say.

use std::io;

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::http1::{Request, Wire};
use super::{Knobs, StandIn};
use crate::inspect::{Body, Scanner};

/// Longest JSON body that is looked into; a longer one is only measured.
const MAX_JSON: usize = 64 * 1024 * 1024;
/// Bytes kept of an upload, to find the head of its audio.
const UPLOAD_HEAD: usize = 64 * 1024;
/// Of Kokoro and of OpenAI's `pcm`: 24 kHz, 16 bit, mono.
const SAMPLE_RATE: u32 = 24_000;
/// Speech takes about a minute for 900 characters.
const SECONDS_PER_CHARACTER: f64 = 0.066;
/// Voices on offer.
const VOICES: &[&str] = &["demo-low", "demo-middle", "demo-high"];

/// A request's body, as far as it is kept.
pub(super) struct Heard {
    length: u64,
    kept: BytesMut,
    limit: usize,
    scanner: Option<Scanner>,
}

impl Heard {
    pub(super) fn new(request: &Request) -> Self {
        let scanner = Scanner::new(&request.headers).ok();
        let form = matches!(scanner, Some(Scanner::Multipart(_)));
        Heard {
            length: 0,
            kept: BytesMut::new(),
            limit: if form { UPLOAD_HEAD } else { MAX_JSON },
            scanner: scanner.filter(|_| form),
        }
    }

    pub(super) fn take(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        let room = self.limit.saturating_sub(self.kept.len()).min(piece.len());
        self.kept.put_slice(&piece[..room]);
        if let Some(scanner) = &mut self.scanner
            && scanner.feed(piece).is_err()
        {
            self.scanner = None;
        }
    }
}

/// Answers one request.
pub(super) async fn answer(
    wire: &mut Wire,
    request: &Request,
    heard: Heard,
    me: &StandIn,
) -> io::Result<()> {
    if !me.knobs.delay.is_zero() {
        tokio::time::sleep(me.knobs.delay).await;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(status) = me.knobs.status.filter(|_| path != "/health") {
        return wire
            .whole(
                status,
                "application/json",
                error("asked to fail", "stand_in").as_bytes(),
            )
            .await;
    }
    match (request.method.as_str(), path) {
        ("POST", "/v1/audio/speech") => speech(wire, &heard, &me.knobs).await,
        ("POST", "/v1/audio/transcriptions" | "/v1/audio/translations" | "/inference") => {
            transcription(wire, heard, me).await
        }
        ("POST", "/v1/chat/completions") => chat(wire, &heard, me).await,
        ("POST", "/v1/embeddings") => embeddings(wire, &heard).await,
        ("GET", "/v1/audio/voices") => json_body(wire, &json!({ "voices": VOICES })).await,
        ("GET", "/v1/models") => {
            let model = |id: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": me.name });
            let data = ["demo-speech", "demo-transcription", "demo-chat"].map(model);
            json_body(wire, &json!({ "object": "list", "data": data })).await
        }
        ("GET", "/health" | "/") => json_body(wire, &json!({ "status": "healthy" })).await,
        _ => {
            wire.whole(
                404,
                "application/json",
                error("a stand-in has no such path", "not_found").as_bytes(),
            )
            .await
        }
    }
}

async fn json_body(wire: &mut Wire, body: &Value) -> io::Result<()> {
    wire.whole(200, "application/json", body.to_string().as_bytes())
        .await
}

fn error(message: &str, code: &str) -> String {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": code } }).to_string()
}

fn parse(heard: &Heard) -> Result<Value, String> {
    serde_json::from_slice(&heard.kept)
        .map_err(|e| error(&format!("not JSON: {e}"), "invalid_json"))
}

/// A tone as long as the text would take to say, streamed in quarters of a second.
async fn speech(wire: &mut Wire, heard: &Heard, knobs: &Knobs) -> io::Result<()> {
    let request = match parse(heard) {
        Ok(request) => request,
        Err(body) => return wire.whole(400, "application/json", body.as_bytes()).await,
    };
    let characters = request["input"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .count();
    let seconds = (characters as f64 * SECONDS_PER_CHARACTER).max(0.25);
    let pitch = match request["voice"].as_str().unwrap_or_default() {
        "demo-low" => 220.0,
        "demo-high" => 660.0,
        _ => 440.0,
    };
    let (content_type, audio) = match request["response_format"].as_str().unwrap_or("mp3") {
        "wav" => ("audio/wav", wav(seconds, pitch)),
        "pcm" => ("audio/pcm", pcm(seconds, pitch)),
        "mp3" => ("audio/mpeg", mp3(seconds)),
        other => {
            let body = error(
                &format!("a stand-in speaks mp3, wav and pcm, not {other}"),
                "invalid_format",
            );
            return wire.whole(400, "application/json", body.as_bytes()).await;
        }
    };
    wire.head(200, content_type, None).await?;
    for piece in audio.chunks((SAMPLE_RATE / 2) as usize) {
        wire.chunk(piece).await?;
        pause(knobs).await;
    }
    wire.chunk(b"").await
}

async fn pause(knobs: &Knobs) {
    if !knobs.gap.is_zero() {
        tokio::time::sleep(knobs.gap).await;
    }
}

fn pcm(seconds: f64, pitch: f64) -> Vec<u8> {
    let samples = (seconds * f64::from(SAMPLE_RATE)) as usize;
    (0..samples)
        .flat_map(|n| {
            let phase = n as f64 / f64::from(SAMPLE_RATE) * pitch * std::f64::consts::TAU;
            ((phase.sin() * 8000.0) as i16).to_le_bytes()
        })
        .collect()
}

fn wav(seconds: f64, pitch: f64) -> Vec<u8> {
    let data = pcm(seconds, pitch);
    let mut out = Vec::with_capacity(data.len() + 44);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&16u32.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&SAMPLE_RATE.to_le_bytes());
    out.extend_from_slice(&(SAMPLE_RATE * 2).to_le_bytes());
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&16u16.to_le_bytes());
    out.extend_from_slice(b"data");
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// Frames of silence, of the right length: MPEG-1 layer III, 128 kbit/s, 44.1 kHz, each of 417
/// bytes and 26.1 ms.
fn mp3(seconds: f64) -> Vec<u8> {
    let mut frame = vec![0u8; 417];
    frame[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0x64]);
    frame.repeat((seconds * 44_100.0 / 1152.0).ceil() as usize)
}

async fn transcription(wire: &mut Wire, heard: Heard, me: &StandIn) -> io::Result<()> {
    let form: Option<Body> = heard.scanner.and_then(|scanner| scanner.finish().ok());
    let Some((form, file)) = form
        .as_ref()
        .and_then(|form| Some((form, form.field("file")?)))
    else {
        let body = error(
            "a multipart form with a `file` is needed",
            "invalid_multipart",
        );
        return wire.whole(400, "application/json", body.as_bytes()).await;
    };
    let bytes = file.value.end - file.value.start;
    let head = heard
        .kept
        .get(file.value.start as usize..)
        .unwrap_or_default();
    let seconds = wav_seconds(head, bytes);
    let length = seconds.map_or_else(
        || "an unknown time".to_owned(),
        |s| format!("{s:.1} seconds"),
    );
    let text = format!(
        "[demo stand-in {}] received {bytes} bytes, {length} of audio",
        me.name
    );
    match form.text("response_format") {
        Some("text") => {
            wire.whole(
                200,
                "text/plain; charset=utf-8",
                format!("{text}\n").as_bytes(),
            )
            .await
        }
        Some("verbose_json") => {
            let whole = json!({ "task": "transcribe", "language": "english", "duration": seconds.unwrap_or(0.0), "text": text, "segments": [] });
            json_body(wire, &whole).await
        }
        _ => json_body(wire, &json!({ "text": text })).await,
    }
}

/// The length of a WAV file by its head.
fn wav_seconds(head: &[u8], bytes: u64) -> Option<f64> {
    if head.get(..4)? != b"RIFF" || head.get(8..12)? != b"WAVE" {
        return None;
    }
    let rate = u32::from_le_bytes(head.get(28..32)?.try_into().ok()?);
    (rate > 0).then(|| bytes.saturating_sub(44) as f64 / f64::from(rate))
}

async fn chat(wire: &mut Wire, heard: &Heard, me: &StandIn) -> io::Result<()> {
    let request = match parse(heard) {
        Ok(request) => request,
        Err(body) => return wire.whole(400, "application/json", body.as_bytes()).await,
    };
    let asked = request["messages"]
        .as_array()
        .and_then(|all| all.last())
        .and_then(|m| m["content"].as_str());
    let asked: String = asked.unwrap_or_default().chars().take(200).collect();
    let said = format!("This is {}, a stand-in that only repeats: {asked}", me.name);
    let model = request["model"].as_str().unwrap_or("demo-chat");
    let usage = json!({ "prompt_tokens": heard.length / 4, "completion_tokens": said.len() / 4, "total_tokens": heard.length / 4 + said.len() as u64 / 4 });
    if request["stream"] != json!(true) {
        let whole = json!({
            "id": "chatcmpl-demo", "object": "chat.completion", "created": 0, "model": model, "usage": usage,
            "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": said } }],
        });
        return json_body(wire, &whole).await;
    }
    wire.head(200, "text/event-stream; charset=utf-8", None)
        .await?;
    let event = |choices: Value, usage: &Value| {
        let event = json!({ "id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices, "usage": usage });
        format!("data: {event}\n\n")
    };
    let words: Vec<&str> = said.split_inclusive(' ').collect();
    for n in 0..me.knobs.chunks.unwrap_or(words.len()) {
        let delta = json!([{ "index": 0, "delta": { "role": "assistant", "content": words[n % words.len()] }, "finish_reason": null }]);
        wire.chunk(event(delta, &Value::Null).as_bytes()).await?;
        pause(&me.knobs).await;
    }
    let last = json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]);
    let mut end = event(last, &Value::Null);
    if request["stream_options"]["include_usage"] == json!(true) {
        end.push_str(&event(json!([]), &usage));
    }
    end.push_str("data: [DONE]\n\n");
    wire.chunk(end.as_bytes()).await?;
    wire.chunk(b"").await
}

/// Eight numbers that depend on the text and mean nothing.
async fn embeddings(wire: &mut Wire, heard: &Heard) -> io::Result<()> {
    let request = match parse(heard) {
        Ok(request) => request,
        Err(body) => return wire.whole(400, "application/json", body.as_bytes()).await,
    };
    let inputs = match &request["input"] {
        Value::Array(all) if !all.iter().all(Value::is_number) => all.clone(),
        one => vec![one.clone()],
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let numbers: Vec<f32> = (0..8u32)
                .map(|n| {
                    let sum = input
                        .to_string()
                        .bytes()
                        .fold(n, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
                    (sum % 1000) as f32 / 1000.0
                })
                .collect();
            let embedding = match request["encoding_format"].as_str() {
                Some("base64") => {
                    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
                    base64(&bytes).into()
                }
                _ => json!(numbers),
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let tokens = heard.length / 4;
    let whole = json!({ "object": "list", "data": data, "model": request["model"], "usage": { "prompt_tokens": tokens, "total_tokens": tokens } });
    json_body(wire, &whole).await
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for n in 0..4 {
            match n <= three.len() {
                true => out.push(ALPHABET[(bits >> (18 - 6 * n) & 63) as usize] as char),
                false => out.push('='),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_is_as_long_as_it_says() {
        let file = wav(1.5, 440.0);
        assert_eq!(file.len(), 44 + 72_000);
        assert_eq!(wav_seconds(&file, file.len() as u64), Some(1.5));
        assert_eq!(mp3(1.0).len() % 417, 0);
        assert_eq!(wav_seconds(b"ID3", 3), None);
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
