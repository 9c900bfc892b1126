use super::{ENOUGH, LINE_START, Opening};
use crate::inspect::container::samples::{
    self, FIRST, flac, id3, mp3, mp4, ogg_page, vorbis_headers, wav,
};

/// The number of bytes after which an answer has begun; `None` if it has not.
fn begins(content_type: Option<&str>, min: u64, answer: &[u8]) -> Option<usize> {
    let mut opening = Opening::new(content_type, min);
    let at = answer.iter().position(|byte| {
        let begun = opening.feed(std::slice::from_ref(byte));
        assert_eq!(begun, opening.has_begun());
        begun
    })?;
    Some(at + 1)
}

fn stream(text: &str) -> Option<usize> {
    begins(Some("text/event-stream"), 1, text.as_bytes())
}

#[test]
fn an_event_stream_begins_with_its_first_whole_event() {
    for (text, whole) in [
        ("data: {}\n\n", true),
        ("data: {}\r\n\r\n", true),
        ("data: {}\r\r", true),
        ("data: {}\r\n\n", true),
        ("data:\n\n", true),
        ("data\n\n", true),
        ("event: message\nid: 7\ndata: a\ndata: b\n\n", true),
        ("data: a\nretry: 9\n\n", true),
        ("data: a\n: ping\n\n", true),
        (": ping\n\n: ping\n\ndata: [DONE]\n\n", true),
        ("event: ping\n\ndata: a\n\n", true),
        ("\u{feff}data: a\n\n", true),
        ("\u{feff}\n\n\ndata: a\n\n", true),
        ("", false),
        ("\n\n\n", false),
        ("\r\n\r\n", false),
        (":\n\n:\n\n", false),
        (": data: a\n\n", false),
        ("event: ping\n\n", false),
        ("id: 1\nretry: 5\n\n", false),
        ("data: {}", false),
        ("data: {}\n", false),
        ("data: {}\r\n", false),
        ("dat: a\n\n", false),
        ("database: a\n\n", false),
        ("Data: a\n\n", false),
        (" data: a\n\n", false),
        ("data : a\n\n", false),
        ("\u{feff}\u{feff}data: a\n\n", false),
        ("\n\u{feff}data: a\n\n", false),
        ("\u{feff}", false),
    ] {
        assert_eq!(stream(text).is_some(), whole, "{text:?}");
    }
    // not a byte later than it must
    assert_eq!(stream("data: {}\n\ndata: {}\n\n"), Some(10));
    assert_eq!(stream("data: {}\r\n\r\nx"), Some(11));
    assert_eq!(stream("data: {}\r\rx"), Some(10));
}

#[test]
fn audio_begins_behind_the_headers_of_its_container() {
    let opus = [
        ogg_page(FIRST, 0, 1, b"OpusHead\x01\x01\0\0"),
        ogg_page(0, 0, 1, b"OpusTags and who made it"),
    ]
    .concat();
    for (name, header, decided) in [
        ("wav", wav(0xffff_ffff, b""), 1),
        ("wav without sizes", wav(0, b""), 1),
        ("flac", flac(24_000, 0, 0), 1),
        ("mp3 with a tag", id3(5_000, true), 1),
        ("mp4", mp4(0), 1),
        // a page that is longer than what tells its kind
        ("opus", opus, 28 + 16),
        ("vorbis", vorbis_headers(24_000), 28 + 16),
    ] {
        assert_eq!(begins(Some("audio/wav"), 1, &header), None, "{name}");
        let sound = match name {
            "opus" => ogg_page(0, 960, 1, &[0xfc; 50]),
            "vorbis" => ogg_page(0, 960, 5, &[0; 50]),
            _ => vec![b'x'; 50],
        };
        let at = begins(Some("audio/wav"), 1, &[header.clone(), sound].concat());
        assert_eq!(at, Some(header.len() + decided), "{name}");
    }
}

#[test]
fn so_many_bytes_of_sound_are_waited_for_as_were_asked() {
    let answer = wav(0, &[0; 500]);
    let header = answer.len() - 500;
    for (min, bytes) in [(0, 1), (1, 1), (2, 2), (500, 500)] {
        let at = begins(Some("audio/wav"), min, &answer);
        assert_eq!(at, Some(header + bytes), "{min}");
    }
    assert_eq!(begins(Some("audio/wav"), 501, &answer), None);
    // raw samples and frames have no header
    assert_eq!(begins(Some("audio/pcm"), 480, &[7; 900]), Some(480));
    assert_eq!(begins(Some("audio/mpeg"), 100, &mp3(2)), Some(100));
    assert_eq!(begins(Some("audio/aac"), 1, b"\xff\xf1\x50\x80"), Some(1));
    // silence may be the start of a box until it is too long for that
    assert_eq!(begins(Some("audio/pcm"), 1, &[0; 900]), Some(5));
}

#[test]
fn the_form_follows_the_content_type_or_else_the_bytes() {
    let header = wav(0, b"");
    for audio in [
        None,
        Some(""),
        Some("audio/mpeg"),
        Some("AUDIO/WAV"),
        Some(" audio/l16; rate=24000"),
        Some("application/octet-stream"),
        Some("Application/Octet-Stream ; x=y"),
    ] {
        assert_eq!(begins(audio, 1, &header), None, "{audio:?}");
        assert_eq!(begins(audio, 1, b"{\"error\""), Some(1), "{audio:?}");
    }
    for events in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        assert_eq!(begins(Some(events), 1, b": ping\n\n"), None, "{events}");
    }
    for plain in ["application/json", "text/plain", "text/event-streams"] {
        assert_eq!(begins(Some(plain), 9_000, &header), Some(1), "{plain}");
    }
}

#[test]
fn nothing_fed_is_nothing_begun() {
    for content_type in [None, Some("text/event-stream"), Some("application/json")] {
        let mut opening = Opening::new(content_type, 1);
        assert!(!opening.feed(b""));
        assert!(!opening.has_begun());
    }
}

#[test]
fn it_does_not_wait_for_ever() {
    let enough = usize::try_from(ENOUGH).unwrap();
    let pings = b": ping\n\n".repeat(10_000);
    assert_eq!(begins(Some("text/event-stream"), 1, &pings), Some(enough));
    assert_eq!(begins(None, 1, &id3(100_000, false)), Some(enough));
    assert_eq!(begins(None, u64::MAX, &vec![1; 100_000]), Some(enough));
}

#[test]
fn an_event_stream_is_told_alike_however_it_is_cut_and_hardly_held() {
    let pieces = [
        "data", ":", "data: x", "\r", "\n", "\r\n", "\n\n", "\u{feff}", " ", "event: e", "long ",
    ];
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..5_000 {
        let text: String = (0..random.usize(..9))
            .filter_map(|_| random.choice(pieces))
            .collect();
        let mut opening = Opening::new(Some("text/event-stream"), 1);
        samples::cut(&mut random, text.as_bytes(), |piece| {
            opening.feed(piece);
        });
        assert_eq!(opening.has_begun(), stream(&text).is_some(), "{text:?}");
        if let super::Form::Events(events) = opening.form {
            assert!(events.line.len() <= LINE_START);
        }
    }
}

#[test]
fn audio_is_told_alike_however_it_is_cut() {
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..1_000 {
        let answer = samples::any(&mut random);
        let min = random.u64(..3_000);
        let mut opening = Opening::new(None, min);
        samples::cut(&mut random, &answer, |piece| {
            opening.feed(piece);
        });
        assert_eq!(opening.has_begun(), begins(None, min, &answer).is_some());
    }
}
