//! The first minute: no file, and the first curl works.

use std::process::Command;

use crate::support::gateway::BINARY;
use crate::support::{Gateway, Request, Server, eventually, form};

#[test]
fn without_a_file_speech_transcription_and_chat_are_answered() {
    let gateway = Gateway::without_file();
    let speech = gateway.post("/v1/audio/speech", r#"{"model":"tts-1","input":"Hello there, how are you?","voice":"nova","response_format":"wav"}"#);
    assert_eq!(
        (speech.status, speech.header("content-type")),
        (200, Some("audio/wav"))
    );
    assert_eq!(
        (&speech.body[..4], &speech.body[8..12]),
        (&b"RIFF"[..], &b"WAVE"[..])
    );
    let seconds = (speech.body.len() - 44) as f64 / 48_000.0;
    assert!(
        (1.5..1.8).contains(&seconds),
        "25 characters take {seconds} s"
    );
    let mp3 = gateway.post(
        "/v1/audio/speech",
        r#"{"model":"tts-1","input":"Hello","voice":"nova"}"#,
    );
    assert_eq!(
        (mp3.header("content-type"), &mp3.body[..2]),
        (Some("audio/mpeg"), &[0xff, 0xfb][..])
    );
    let (content_type, body) = form(&[("model", "whisper-1")], &speech.body, true);
    let heard = gateway.send(
        &Request::new("POST", "/v1/audio/transcriptions")
            .header("content-type", &content_type)
            .body(body),
    );
    assert!(
        heard.json()["text"]
            .as_str()
            .unwrap()
            .contains(&format!("received {} bytes", speech.body.len()))
    );
    let chat = gateway.post(
        "/v1/chat/completions",
        r#"{"messages":[{"role":"user","content":"ping"}],"model":"gpt-4"}"#,
    );
    assert!(
        chat.json()["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .contains("ping")
    );
    let stream = gateway.post(
        "/v1/chat/completions",
        r#"{"messages":[{"role":"user","content":"ping"}],"stream":true}"#,
    );
    assert!(
        stream.text().ends_with("data: [DONE]\n\n") && stream.text().matches("data: ").count() > 5
    );
    for answer in [&speech, &heard, &chat, &stream] {
        assert!(answer.header("x-backend").unwrap().starts_with("demo-"));
        assert_eq!(answer.header("x-trunkline-demo"), Some("true"));
    }
    let models = gateway.get("/v1/models").text();
    assert!(models.contains("demo-chat") && models.contains("demo-speech"));
    let said = gateway.stderr();
    for part in [
        "No configuration file",
        "warning: stand-ins",
        "export OPENAI_BASE_URL=http://127.0.0.1:",
        "curl http://127.0.0.1:",
    ] {
        assert!(said.contains(part), "{part} not in\n{said}");
    }
    assert!(!said.contains("openai.com"));
    assert_eq!(gateway.metric("trunkline_demo_mode", &[]), 1.0);
}

#[test]
fn stopping_a_stand_in_shows_fallback_and_starting_it_brings_it_back() {
    let gateway = Gateway::without_file();
    let served = || {
        gateway
            .post("/v1/chat/completions", "{}")
            .header("x-backend")
            .unwrap()
            .to_owned()
    };
    let all: std::collections::BTreeSet<String> = (0..4).map(|_| served()).collect();
    assert_eq!(all.len(), 2, "balanced over both");
    let control = |what: &str| {
        Request::new("POST", &format!("/standins/demo-chat-1/{what}"))
            .send(gateway.admin)
            .status
    };
    assert_eq!(control("stop"), 200);
    for _ in 0..10 {
        assert_eq!(served(), "demo-chat/demo-chat-2");
    }
    assert_eq!(control("start"), 200);
    eventually("it is back", || served() == "demo-chat/demo-chat-1");
    assert_eq!(
        Request::new("POST", "/standins/nobody/stop")
            .send(gateway.admin)
            .status,
        404
    );
}

#[test]
fn a_broken_stand_in_is_as_broken_as_asked() {
    let mut child = Command::new(BINARY)
        .args([
            "standin",
            "--name",
            "x",
            "--cut",
            "1000",
            "--for-seconds",
            "20",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let address = line
        .trim()
        .rsplit("http://")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let answer =
        Request::json("/v1/audio/speech", r#"{"input":"some text to speak"}"#).send(address);
    assert!(!answer.whole && answer.body.len() <= 1000);
    let _ = child.kill();
    let _ = child.wait();
    // and nobody confuses it with a server that was never there
    assert!(std::net::TcpStream::connect(Server::refused()).is_err());
}
