use super::samples::{
    self, CONTINUED, FIRST, flac, id3, mp3, mp4, ogg_page, opus_headers, vorbis_headers, wav,
};
use super::{OGG_FLAC, Part, Walker};

/// All of a file that is sound.
fn sound(file: &[u8]) -> Vec<u8> {
    let mut sound = Vec::new();
    Walker::default().feed(file, |part| {
        if let Part::Sound(piece) = part {
            sound.extend_from_slice(piece);
        }
    });
    sound
}

#[test]
fn headers_are_no_sound() {
    for (name, header) in [
        ("wav", wav(0, b"")),
        ("wav of known length", wav(5, b"")),
        ("flac", flac(8_000, 0, 0)),
        ("mp4", mp4(0)),
        ("a wav behind a tag", [id3(300, true), wav(0, b"")].concat()),
    ] {
        assert_eq!(sound(&header), b"", "{name}");
        let whole = [header, b"sound".to_vec()].concat();
        assert_eq!(sound(&whole), b"sound", "{name}");
    }
    assert_eq!(sound(&[id3(300, false), mp3(3)].concat()), mp3(3));
    assert_eq!(sound(&[id3(0, true), mp3(3)].concat()), mp3(3));
}

#[test]
fn pages_of_headers_are_no_sound() {
    let flac_headers = [
        ogg_page(FIRST, 0, 1, &[OGG_FLAC, b"\x01\0\0\x02fLaC"].concat()),
        ogg_page(0, 0, 1, b"\x04 comment"),
        ogg_page(0, 0, 1, b"\x83 seek table"),
    ]
    .concat();
    for (name, headers) in [
        ("opus", opus_headers(1, 312)),
        ("vorbis", vorbis_headers(8_000)),
        ("flac", flac_headers),
    ] {
        assert_eq!(sound(&headers), b"", "{name}");
        let content = [b"\xff\xf8".to_vec(), vec![7; 900]].concat();
        let whole = [headers, ogg_page(0, 960, 1, &content)].concat();
        assert_eq!(sound(&whole), content, "{name}");
    }
    // sound that goes on from page to page, and an end without any
    let packet = vec![0xfc; 255 * 255];
    let file = [
        ogg_page(0, 960, 1, &packet),
        ogg_page(CONTINUED, 960, 1, b"rest"),
        ogg_page(4, 960, 1, b""),
    ]
    .concat();
    assert_eq!(sound(&file), [packet, b"rest".to_vec()].concat());
}

#[test]
fn what_only_looks_like_a_container_is_sound_from_its_first_byte() {
    for file in [
        &b"plain"[..],
        b"RIFF\0\0\0\0AVI LIST",
        b"OggX",
        b"ID3\xff\0\0\0\0\0\0abc",
        b"ID3\x04\0\0\0\0\0\x80abc",
        b"\0\0\0\0\0\0\0\0",
        b"\0\0\0\x20free",
    ] {
        assert_eq!(sound(file), file, "{file:?}");
    }
    assert_eq!(sound(b"\0\0\0\x07ftypabc"), b"\0\0\0\x07ftypabc");
    // no page where one should begin
    let lost = [ogg_page(FIRST, 0, 1, b"OpusHead"), vec![b'x'; 30]].concat();
    assert_eq!(sound(&lost), [b'x'; 30]);
}

#[test]
fn it_holds_one_small_header_at_most_and_does_not_care_for_cuts() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2_000 {
        let file = samples::any(&mut random);
        let mut walker = Walker::default();
        let mut pieces = Vec::new();
        samples::cut(&mut random, &file, |piece| {
            walker.feed(piece, |part| {
                if let Part::Sound(piece) = part {
                    pieces.extend_from_slice(piece);
                }
            });
            assert!(walker.held.len() <= 255);
        });
        assert_eq!(pieces, sound(&file));
    }
}
