//! Servers that fail the way speech boxes do: what the client sees of it, who serves instead, how
//! long that takes, and that the servers, the metrics and the log tell the same story.

mod evidence;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::{
    Answer, BlackHole, Gateway, Place, Request, Scene, Server, Spot, Wire, eventually,
};

/// What has to be waited for takes no longer than this, on a machine that is busy.
const SOON: Duration = Duration::from_secs(3);

/// What a server does on the wire once it has a request; whether the connection goes on.
type Act = fn(&mut Wire) -> bool;

fn acting(act: Act) -> Server {
    Server::fake(move |_, wire| act(wire))
}

fn speech() -> Request {
    Request::json("/v1/audio/speech", r#"{"model":"tts-1","input":"x"}"#)
}

fn chat() -> Request {
    Request::json("/v1/chat/completions", r#"{"model":"m","stream":true}"#)
}

/// Takes the request and says nothing more.
fn silent(wire: &mut Wire) -> bool {
    wire.wait_for_close();
    false
}

/// The same piece again and again, until nobody listens.
fn drips(wire: &mut Wire, piece: &str) -> bool {
    while wire.0.write_all(piece.as_bytes()).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// 44 bytes that promise sound.
fn wav_header() -> Vec<u8> {
    let mut header = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    header.extend_from_slice(&24_000u32.to_le_bytes());
    header.extend_from_slice(&48_000u32.to_le_bytes());
    header.extend_from_slice(b"\x02\0\x10\0data\xff\xff\xff\xff");
    header
}

// ---- before the answer has begun: somebody else is asked ----

/// The first server fails in this way, and the second one answers: in the same pool, and in the
/// next.
#[track_caller]
fn the_next_one_answers(what: &str, request: &Request, act: Act, pool: &str, result: &str) {
    for (first, second) in [("a/bad", "a/good"), ("a/bad", "b/good")] {
        let scene = Scene::start(
            vec![
                Spot::new(first, acting(act)),
                Spot::new(second, Server::named("good")),
            ],
            &[("a", pool)],
            "",
        );
        let answer = scene.send(request);
        served_by_the_second(&scene, answer, second, &format!("{first}={result}"), what);
        assert_eq!((scene.count(first), scene.count(second)), (1, 1), "{what}");
    }
}

#[track_caller]
fn served_by_the_second(scene: &Scene, answer: Answer, second: &str, failed: &str, what: &str) {
    assert_eq!(
        (answer.status, answer.whole, answer.text().as_str()),
        (200, true, "{\"served_by\":\"good\"}"),
        "{what}: {:?}",
        answer.header("x-attempts")
    );
    assert_eq!(answer.header("x-backend"), Some(second), "{what}");
    assert_eq!(
        answer.header("x-attempts"),
        Some(format!("{failed},{second}=200").as_str()),
        "{what}"
    );
    assert!(answer.took < SOON, "{what}: {:?}", answer.took);
    scene.agrees(&[answer]);
}

#[test]
fn a_200_with_nothing_behind_it_is_another_servers_turn() {
    let cases: [(&str, Act, &str, &str); 6] = [
        (
            "the end of an old answer",
            |wire| {
                wire.raw("HTTP/1.0 200 OK\r\ncontent-type: audio/mpeg\r\n\r\n");
                false
            },
            "",
            "empty",
        ),
        (
            "a close",
            |wire| {
                wire.chunked("audio/mpeg");
                false
            },
            "",
            "reset",
        ),
        (
            "a reset",
            |wire| {
                wire.chunked("audio/mpeg");
                wire.reset();
                false
            },
            "",
            "reset",
        ),
        (
            "silence",
            |wire| {
                wire.chunked("audio/mpeg");
                silent(wire)
            },
            "timeouts: { first_byte: 300ms }",
            "timeout",
        ),
        (
            "an end",
            |wire| {
                wire.chunked("audio/mpeg");
                wire.end();
                true
            },
            "",
            "empty",
        ),
        (
            "a close, and a length that promised something",
            |wire| {
                wire.raw(
                    "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 5000\r\n\r\n",
                );
                false
            },
            "",
            "reset",
        ),
    ];
    for (what, act, pool, result) in cases {
        the_next_one_answers(what, &speech(), act, pool, result);
    }
}

#[test]
fn pings_are_no_event_and_half_an_event_is_none() {
    let cases: [(&str, Act, &str, &str); 4] = [
        (
            "pings and a close",
            |wire| {
                wire.chunked("text/event-stream");
                (0..3).for_each(|_| wire.chunk(": ping\n\n"));
                false
            },
            "",
            "reset",
        ),
        (
            "pings and an end",
            |wire| {
                wire.chunked("text/event-stream");
                (0..3).for_each(|_| wire.chunk(": ping\n\n"));
                wire.end();
                true
            },
            "",
            "empty",
        ),
        (
            "pings for ever",
            |wire| {
                wire.chunked("text/event-stream");
                drips(wire, "8\r\n: ping\n\n\r\n")
            },
            "timeouts: { first_byte: 300ms }",
            "timeout",
        ),
        (
            "half an event",
            |wire| {
                wire.chunked("text/event-stream");
                wire.chunk("data: {\"n\":");
                false
            },
            "",
            "reset",
        ),
    ];
    for (what, act, pool, result) in cases {
        the_next_one_answers(what, &chat(), act, pool, result);
    }
}

#[test]
fn the_head_of_a_container_is_no_sound_and_too_little_sound_is_none() {
    let cases: [(&str, Act, &str, &str); 4] = [
        (
            "a WAV header and a close",
            |wire| {
                wire.chunked("audio/wav");
                wire.chunk(wav_header());
                false
            },
            "",
            "reset",
        ),
        (
            "a WAV header and an end",
            |wire| {
                wire.chunked("audio/wav");
                wire.chunk(wav_header());
                wire.end();
                true
            },
            "",
            "empty",
        ),
        (
            "a WAV header and silence",
            |wire| {
                wire.chunked("audio/wav");
                wire.chunk(wav_header());
                silent(wire)
            },
            "timeouts: { first_byte: 300ms }",
            "timeout",
        ),
        (
            "less than min_first_bytes",
            |wire| {
                wire.answer(200, &[("content-type", "audio/wav")], {
                    let mut audio = wav_header();
                    audio.extend_from_slice(&[7; 199]);
                    audio
                });
                true
            },
            "min_first_bytes: 200",
            "empty",
        ),
    ];
    for (what, act, pool, result) in cases {
        the_next_one_answers(what, &speech(), act, pool, result);
    }
}

#[test]
fn enough_sound_is_passed_on_with_the_head_that_was_held() {
    let mut audio = wav_header();
    audio.extend_from_slice(&[7; 200]);
    let sent = audio.clone();
    let bad = Server::fake(move |_, wire| {
        wire.chunked("audio/wav");
        // in pieces that each say too little
        sent.chunks(50).for_each(|piece| wire.chunk(piece));
        wire.end();
        true
    });
    let spots = vec![
        Spot::new("a/x", bad),
        Spot::new("a/y", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[("a", "min_first_bytes: 200")], "");
    let answer = scene.send(&speech());
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(answer.body, audio);
    assert_eq!(answer.header("x-attempts"), None);
    scene.agrees(&[answer]);
}

#[test]
fn a_head_that_is_late_or_drips_is_given_up_at_first_byte() {
    let limit = "timeouts: { first_byte: 300ms }";
    the_next_one_answers("no head", &speech(), silent, limit, "timeout");
    let act: Act = |wire| {
        wire.raw("HTTP/1.1 200 OK\r\nx-slow: ");
        drips(wire, "a")
    };
    the_next_one_answers("a dripped head", &speech(), act, limit, "timeout");
    let act: Act = |wire| {
        wire.raw("HTTP/1.1 200 OK\r\n");
        drips(wire, "x-more: a\r\n")
    };
    the_next_one_answers("a head without an end", &speech(), act, limit, "timeout");
    let act: Act = |wire| drips(wire, "HTTP/1.1 102 Processing\r\n\r\n");
    the_next_one_answers(
        "nothing but interim heads",
        &speech(),
        act,
        limit,
        "timeout",
    );
}

#[test]
fn a_wrong_chunk_size_before_the_first_byte_is_another_servers_turn() {
    for size in ["zz", "-5", "0x5", "fffffffffffffffff"] {
        let bad = Server::fake(move |_, wire| {
            wire.chunked("audio/mpeg");
            wire.raw(format!("{size}\r\nhello\r\n0\r\n\r\n"));
            false
        });
        let spots = vec![
            Spot::new("a/bad", bad),
            Spot::new("a/good", Server::named("good")),
        ];
        let scene = Scene::start(spots, &[], "");
        let answer = scene.send(&speech());
        served_by_the_second(&scene, answer, "a/good", "a/bad=invalid", size);
    }
}

#[test]
fn who_refuses_or_takes_no_connection_is_passed_over() {
    let (hole, place) = (BlackHole::new(), Place::new());
    let limit = "timeouts: { connect: 300ms }";
    for second in ["a/good", "b/good"] {
        for (spot, result) in [
            (Spot::place("a/bad", &place), "connect_error"),
            (Spot::hole("a/bad", &hole), "connect_timeout"),
        ] {
            let spots = vec![spot, Spot::new(second, Server::named("good"))];
            let scene = Scene::start(spots, &[("a", limit)], "");
            let answer = scene.send(&speech());
            served_by_the_second(&scene, answer, second, &format!("a/bad={result}"), result);
        }
    }
}

// ---- behind its first byte: the client can see that it broke ----

/// How a broken answer looks to the client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// With an error event of this code.
    Frame(&'static str),
    Cut,
}

/// A server that begins well, waits until the client has that, and goes wrong by `act`.
fn begins(head: &'static str, first: &'static str, act: Act) -> (Server, Sender<()>) {
    let (go, heard) = channel();
    let heard: Mutex<Receiver<()>> = Mutex::new(heard);
    let server = Server::fake(move |_, wire| {
        wire.raw(head);
        wire.raw(first);
        let _ = lock(&heard).recv_timeout(Duration::from_secs(10));
        act(wire)
    });
    (server, go)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Sends a request, calls `then` when `mark` has come back, and reads the answer to its end.
#[track_caller]
fn send_until(gateway: &Gateway, request: &Request, mark: &str, then: impl FnOnce()) -> Answer {
    let started = Instant::now();
    let mut stream = connect(gateway.address);
    stream.write_all(&request.bytes()).unwrap();
    eventually(&format!("{mark} is here"), || has_come(&stream, mark));
    then();
    read_answer(&mut stream, false, started)
}

fn has_come(stream: &TcpStream, mark: &str) -> bool {
    let mut buffer = [0; 16 * 1024];
    let length = stream.peek(&mut buffer).unwrap();
    assert!(length > 0, "closed before {mark}");
    String::from_utf8_lossy(&buffer[..length]).contains(mark)
}

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "d\r\ndata: first\n\n\r\n";
const AUDIO: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n";
const SOUND: &str = "5\r\nfirst\r\n";

/// An answer that begins well and breaks: nobody else is asked, and `ends` is what the client sees.
#[track_caller]
fn breaks(
    what: &str,
    (head, first): (&'static str, &'static str),
    act: Act,
    pool: &str,
    told: (Ends, &str),
) {
    let (ends, result) = told;
    let (server, go) = begins(head, first, act);
    let spots = vec![
        Spot::new("a/bad", server),
        Spot::new("a/spare", Server::named("spare")),
        Spot::new("b/spare", Server::named("spare")),
    ];
    let scene = Scene::start(spots, &[("a", pool)], "");
    let request = if head.contains("event-stream") {
        chat()
    } else {
        speech()
    };
    let answer = send_until(&scene.gateway, &request, "first", || drop(go));
    let text = answer.text();
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("a/bad")),
        "{what}"
    );
    assert!(
        text.contains("first") && !text.contains("[DONE]"),
        "{what}: {text}"
    );
    assert!(!text.contains("spare"), "{what}: {text}");
    match ends {
        Ends::Frame(code) => {
            assert!(answer.whole, "{what}: {text}");
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            let data = last.lines().find_map(|line| line.strip_prefix("data: "));
            let event: serde_json::Value = serde_json::from_str(data.unwrap()).unwrap();
            assert_eq!(event["error"]["code"], code, "{what}: {text}");
        }
        Ends::Cut => assert!(!answer.whole, "{what}: {text}"),
    }
    assert!(answer.took < SOON, "{what}: {:?}", answer.took);
    assert_eq!(
        (scene.count("a/spare"), scene.count("b/spare")),
        (0, 0),
        "{what}"
    );
    scene.agrees(&[answer]);
    let metric = |name, label, value| scene.gateway.metric(name, &[(label, value)]);
    assert_eq!(
        metric("trunkline_attempts_total", "result", result),
        1.0,
        "{what}"
    );
    let reason = if result == "timeout" {
        "timeout"
    } else {
        "upstream_abort"
    };
    assert_eq!(
        metric("trunkline_terminations_total", "reason", reason),
        1.0,
        "{what}"
    );
}

#[test]
fn an_event_stream_that_breaks_ends_with_an_error_event() {
    let reset = (Ends::Frame("upstream_reset"), "reset");
    let late = (Ends::Frame("upstream_timeout"), "timeout");
    let cases: [(&str, Act, &str, (Ends, &str)); 6] = [
        ("a close", |_| false, "", reset),
        (
            "a reset",
            |wire| {
                wire.reset();
                false
            },
            "",
            reset,
        ),
        (
            "a wrong chunk size",
            |wire| {
                wire.raw("zz\r\ndata: second\n\n\r\n");
                silent(wire)
            },
            "",
            (Ends::Frame("upstream_reset"), "invalid"),
        ),
        ("silence", silent, "timeouts: { idle: 300ms }", late),
        (
            "a drip that is too slow",
            |wire| {
                wire.raw("1\r\n:\r\n");
                silent(wire)
            },
            "timeouts: { idle: 300ms }",
            late,
        ),
        (
            "a drip that lasts too long",
            |wire| drips(wire, "1\r\n:\r\n"),
            "timeouts: { total: 600ms }",
            late,
        ),
    ];
    for (what, act, pool, told) in cases {
        breaks(what, (EVENTS, EVENT), act, pool, told);
    }
}

#[test]
fn audio_that_breaks_is_cut() {
    let cases: [(&str, Act, &str, &str); 5] = [
        ("a close", |_| false, "", "reset"),
        (
            "a reset",
            |wire| {
                wire.reset();
                false
            },
            "",
            "reset",
        ),
        (
            "a wrong chunk size",
            |wire| {
                wire.raw("zz\r\nsecond\r\n");
                silent(wire)
            },
            "",
            "invalid",
        ),
        ("silence", silent, "timeouts: { idle: 300ms }", "timeout"),
        (
            "a drip that lasts too long",
            |wire| drips(wire, "1\r\nx\r\n"),
            "timeouts: { total: 600ms }",
            "timeout",
        ),
    ];
    for (what, act, pool, result) in cases {
        breaks(what, (AUDIO, SOUND), act, pool, (Ends::Cut, result));
    }
}

#[test]
fn a_length_that_is_not_reached_is_seen_by_the_client() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 500\r\n\r\n",
        // no room for a further event in a body of fixed length
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n",
    ] {
        let first = "data: first\n\n";
        breaks(
            "a close",
            (head, first),
            |_| false,
            "",
            (Ends::Cut, "reset"),
        );
    }
}

#[test]
fn what_comes_behind_the_length_of_an_answer_reaches_nobody() {
    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let (go, heard) = channel::<()>();
    let (done, written) = channel::<()>();
    let heard = Mutex::new(heard);
    let server = Server::fake(move |seen, wire| {
        match seen.json()["input"].as_str() {
            // with the answer, and when it was read
            Some("long") => wire.raw(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello{forged}"
            )),
            Some("late") => {
                wire.answer(200, &[], "hello");
                let _ = lock(&heard).recv_timeout(Duration::from_secs(10));
                wire.raw(forged);
                let _ = done.send(());
            }
            _ => wire.answer(200, &[], "honest"),
        }
        true
    });
    let scene = Scene::start(vec![Spot::new("a/x", server)], &[], "");
    let ask = |input: &str| {
        let body = format!("{{\"input\":\"{input}\"}}");
        scene.send(&Request::json("/v1/audio/speech", &body))
    };
    let mut answers = Vec::new();
    for input in ["long", "late"] {
        let first = ask(input);
        assert_eq!(
            (first.text().as_str(), first.whole),
            ("hello", true),
            "{input}"
        );
        if input == "late" {
            go.send(()).unwrap();
            written.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let next = ask("next");
        assert_eq!(next.text(), "honest", "behind {input}");
        answers.extend([first, next]);
    }
    scene.agrees(&answers);
}

#[test]
fn an_answer_that_is_slow_and_steady_is_whole() {
    let act: Act = |wire| {
        wire.chunked("audio/mpeg");
        for _ in 0..15 {
            wire.chunk("x");
            std::thread::sleep(Duration::from_millis(50));
        }
        wire.end();
        true
    };
    // longer than the wait for the first byte, and shorter gaps than the longest silence
    let limits = "timeouts: { first_byte: 400ms, idle: 20s }";
    let scene = Scene::start(vec![Spot::new("a/x", acting(act))], &[("a", limits)], "");
    let answer = scene.send(&speech());
    assert_eq!(
        (answer.text().as_str(), answer.whole),
        ("xxxxxxxxxxxxxxx", true)
    );
    scene.agrees(&[answer]);
}

#[test]
fn total_before_the_first_byte_ends_the_request_and_nobody_else_is_asked() {
    let spots = vec![
        Spot::new("a/bad", acting(silent)),
        Spot::new("a/spare", Server::named("spare")),
    ];
    let scene = Scene::start(spots, &[("a", "timeouts: { total: 300ms }")], "");
    let answer = scene.send(&speech());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "upstream_timeout")
    );
    assert!(
        answer.text().contains("timeouts.total"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(answer.took >= Duration::from_millis(300) && answer.took < SOON);
    assert_eq!(scene.count("a/spare"), 0);
    scene.agrees(&[answer]);
}
