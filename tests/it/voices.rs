//! Voices, models and fields that only one kind of server knows, on the first attempt and on
//! fallback.

use crate::support::{Gateway, Request, Server, form};

const OPENAI_VOICES: &[&str] = &[
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse",
    "marin", "cedar",
];

/// A box that answers with a little audio.
fn speaking() -> Server {
    Server::fake(|_, wire| {
        wire.answer(200, &[("content-type", "audio/mpeg")], b"audio");
        true
    })
}

fn kokoro_before_openai(kokoro: &str, openai: &Server) -> Gateway {
    Gateway::start(&format!(
        "pools:
  kokoro: {{ kind: kokoro, servers: ['http://{kokoro}/v1'], health: false }}
  openai: {{ kind: openai, servers: ['{}/v1'], health: false, api_key: sk-pool }}
routes: [{{ name: speech, match: {{ path: /v1/audio/speech }}, pool: kokoro, fallback: [openai] }}]",
        openai.url()
    ))
}

fn say(voice: &str, more: &str) -> Request {
    let body = format!(r#"{{"model":"tts-1","input":"hi","voice":"{voice}"{more}}}"#);
    Request::json("/v1/audio/speech", &body)
}

#[test]
fn every_voice_of_openai_becomes_one_that_kokoro_has_and_the_answer_says_so() {
    let (kokoro, openai) = (speaking(), speaking());
    let gateway = kokoro_before_openai(&kokoro.address.to_string(), &openai);
    for (n, voice) in OPENAI_VOICES.iter().enumerate() {
        let answer = gateway.send(&say(voice, ""));
        let sent = kokoro.seen()[n].json();
        let served = sent["voice"].as_str().unwrap().to_owned();
        let (kind, name) = served.split_once('_').unwrap();
        assert!(matches!(kind, "af" | "am" | "bf" | "bm") && !name.is_empty());
        assert_eq!(
            answer.header("x-voice"),
            Some(format!("{served}; requested={voice}").as_str())
        );
    }
    assert_eq!(
        gateway.metric("trunkline_voice_mappings_total", &[("pool", "kokoro")]),
        OPENAI_VOICES.len() as f64
    );
    let line = gateway.access_log(1).remove(0);
    assert_eq!(
        (&line["voice"], &line["voice_served"]),
        (&"alloy".into(), &"af_alloy".into())
    );
}

#[test]
fn a_voice_the_pool_has_stays_and_nothing_is_said() {
    let (kokoro, openai) = (speaking(), speaking());
    let gateway = kokoro_before_openai(&kokoro.address.to_string(), &openai);
    for voice in ["af_sky", "af_bella(2)+af_sky", "zf_xiaobei"] {
        let answer = gateway.send(&say(voice, ""));
        assert_eq!(answer.header("x-voice"), None, "{voice}");
        assert_eq!(kokoro.seen().last().unwrap().json()["voice"], voice);
    }
}

#[test]
fn a_fallback_gets_the_nearest_voice_and_no_field_it_would_refuse() {
    let openai = speaking();
    let gateway = kokoro_before_openai(&Server::refused().to_string(), &openai);
    let request = Request::json(
        "/v1/audio/speech",
        r#"{"stream":true,"model":"kokoro","input":"hi","voice":"bm_fable(2)+af_sky","lang_code":"a","speed":1.1,"volume_multiplier":2}"#,
    );
    let answer = gateway.send(&request);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-backend"), Some("openai/127.0.0.1"));
    assert_eq!(
        answer.header("x-voice"),
        Some("fable; requested=bm_fable(2)+af_sky")
    );
    let sent = String::from_utf8(openai.seen()[0].body.clone()).unwrap();
    assert_eq!(
        sent,
        r#"{"model":"tts-1","input":"hi","voice":"fable","speed":1.1}"#
    );
}

#[test]
fn a_voice_that_maps_nowhere_gets_the_pools_default_or_the_servers_own_400() {
    let refusing = Server::fake(|_, wire| {
        wire.answer(
            400,
            &[("content-type", "application/json")],
            r#"{"detail":{"error":"invalid_model","message":"Voice not found"}}"#,
        );
        true
    });
    let spare = speaking();
    let gateway = kokoro_before_openai(&refusing.address.to_string(), &spare);
    let answer = gateway.send(&say("darth", ""));
    assert_eq!((answer.status, answer.header("x-voice")), (400, None));
    assert!(answer.text().contains("Voice not found"));
    assert_eq!(refusing.seen()[0].json()["voice"], "darth");
    assert_eq!(spare.count(), 0);

    let kokoro = speaking();
    let gateway = Gateway::start(&format!(
        "pools: {{ k: {{ kind: kokoro, servers: ['{}/v1'], health: false, voices: {{ '*': af_heart }} }} }}\nroutes: [{{ pool: k }}]",
        kokoro.url()
    ));
    let answer = gateway.send(&say("darth", ""));
    assert_eq!(answer.header("x-voice"), Some("af_heart; requested=darth"));
}

#[test]
fn what_a_box_at_home_understands_is_put_right_for_the_cloud() {
    let openai = Server::named("openai");
    let gateway = Gateway::start(&format!(
        "pools:
  whisper: {{ kind: whisper.cpp, servers: ['http://{}'], health: false }}
  openai: {{ kind: openai, servers: ['{}/v1'], health: false, api_key: sk-pool }}
routes: [{{ pool: whisper, fallback: [openai] }}]",
        Server::refused(),
        openai.url()
    ));
    let file = [b"RIFF\r\n--not-it\r\n".as_slice(), &[7; 5000]].concat();
    for fields in [
        &[("language", "auto"), ("response_format", "text")][..],
        &[
            ("model", "large-v3"),
            ("response_format", "text"),
            ("language", "auto"),
        ],
    ] {
        let (content_type, body) = form(fields, &file, false);
        let answer = gateway.send(
            &Request::new("POST", "/v1/audio/transcriptions")
                .header("content-type", &content_type)
                .body(body),
        );
        assert_eq!(answer.status, 200);
        let seen = openai.seen().pop().unwrap();
        let text = seen.text();
        assert_eq!(seen.target, "/v1/audio/transcriptions");
        assert!(!text.contains("language"), "{text}");
        assert!(
            text.contains("name=\"model\"\r\n\r\nwhisper-1\r\n"),
            "{text}"
        );
        assert!(text.contains("name=\"response_format\"\r\n\r\ntext\r\n"));
        assert!(memchr::memmem::find(&seen.body, &file).is_some());
    }
    // a language that OpenAI knows stays
    let (content_type, body) = form(&[("model", "whisper-1"), ("language", "de")], &file, false);
    let request = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(body.clone());
    gateway.send(&request);
    assert_eq!(openai.seen().pop().unwrap().body, body);
}

/// 16 bit, one channel, so many samples a second.
fn wav(rate: u32, seconds: f64) -> Vec<u8> {
    let data = (f64::from(rate) * 2.0 * seconds) as u32;
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data).to_le_bytes());
    out.extend(b"WAVEfmt ");
    out.extend(16u32.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate * 2).to_le_bytes());
    out.extend(2u16.to_le_bytes());
    out.extend(16u16.to_le_bytes());
    out.extend(b"data");
    out.extend(data.to_le_bytes());
    out.extend(vec![1; data as usize]);
    out
}

#[test]
fn how_long_audio_plays_is_counted_where_its_header_tells() {
    let whisper = Server::named("whisper");
    let kokoro = Server::fake(|_, wire| {
        wire.answer(200, &[("content-type", "audio/wav")], wav(24_000, 1.5));
        true
    });
    let gateway = Gateway::start(&format!(
        "pools:
  whisper: {{ servers: ['{}'], health: false }}
  kokoro: {{ kind: kokoro, servers: ['{}/v1'], health: false }}
routes:
  - {{ name: stt, match: {{ path: /v1/audio/transcriptions, model: whisper-1 }}, pool: whisper }}
  - {{ name: tts, match: {{ path: /v1/audio/speech }}, pool: kokoro }}",
        whisper.url(),
        kokoro.url()
    ));
    let (content_type, body) = form(&[("model", "whisper-1")], &wav(16_000, 2.25), true);
    let heard = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(body);
    assert_eq!(gateway.send(&heard).status, 200);
    assert_eq!(gateway.send(&say("af_sky", "")).status, 200);
    let log = gateway.access_log(2);
    assert_eq!(
        (&log[0]["audio_s"], &log[1]["audio_s"]),
        (&2.25.into(), &1.5.into())
    );
    for (route, direction, seconds) in [("stt", "in", 2.25), ("tts", "out", 1.5)] {
        let labels = [("route", route), ("direction", direction)];
        assert_eq!(
            gateway.metric("trunkline_audio_seconds_total", &labels),
            seconds
        );
        let factor = [("route", route)];
        assert_eq!(
            gateway.metric("trunkline_real_time_factor_count", &factor),
            1.0
        );
        assert!(gateway.metric("trunkline_real_time_factor_sum", &factor) < 2.0);
    }
}
