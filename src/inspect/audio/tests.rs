use std::time::Duration;

use super::AudioMeter;
use crate::inspect::container::samples::{
    self, FIRST, NO_GRANULE, flac, id3, mp3, mp4, ogg_page, opus_headers, vorbis_headers, wav,
};

fn measured(pcm: Option<u32>, file: &[u8]) -> Option<Duration> {
    let mut meter = AudioMeter::new(pcm);
    meter.feed(file);
    meter.duration()
}

fn millis(file: &[u8]) -> Option<u128> {
    measured(None, file).map(|duration| duration.as_millis())
}

#[test]
fn wav_is_as_long_as_what_came_unless_less_was_announced() {
    let samples = [0; 8_000];
    for (size, expected) in [
        (8_000, 500),
        // streamed: the writer did not know
        (0, 500),
        (0xffff_ffff, 500),
        // the stream broke
        (32_000, 500),
        // something stands behind the samples
        (4_000, 250),
    ] {
        assert_eq!(millis(&wav(size, &samples)), Some(expected), "{size}");
    }
    assert_eq!(millis(&wav(0, b"")), Some(0));
    assert_eq!(millis(&wav(0, b"")[..20]), None);
}

#[test]
fn wav_without_a_rate_has_no_length() {
    let mut file = wav(100, &[0; 100]);
    let at = file.windows(4).position(|four| four == b"fmt ").unwrap();
    file[at + 16..at + 20].fill(0);
    assert_eq!(millis(&file), None);
}

#[test]
fn flac_says_its_length_or_has_none() {
    assert_eq!(millis(&flac(24_000, 36_000, 10)), Some(1_500));
    // streamed
    assert_eq!(millis(&flac(24_000, 0, 10_000)), None);
    assert_eq!(millis(&flac(0, 36_000, 10)), None);
    // more samples than 32 bits can count
    assert_eq!(
        measured(None, &flac(96_000, 1 << 35, 0)),
        Some(Duration::from_nanos((1 << 35) * 1_000_000 / 96))
    );
}

#[test]
fn mp3_without_a_tag_is_as_long_as_its_frames() {
    assert_eq!(millis(&mp3(50)), Some(1_200));
    assert_eq!(millis(&[id3(1_000, false), mp3(50)].concat()), Some(1_200));
    assert_eq!(millis(&[id3(200, true), mp3(50)].concat()), Some(1_200));
    // the bit rate of half of them is 128 instead of 64, their length the double
    let mut fast = mp3(2);
    fast[2] = 0xc4;
    fast[192] = 0;
    assert_eq!(millis(&[mp3(50), fast.repeat(50)].concat()), Some(2_400));
    // ID3v1 at the end, and a second file behind it
    let tail = [b"TAG".to_vec(), vec![b' '; 125]].concat();
    let whole = [mp3(50), tail].concat();
    assert_eq!(millis(&whole), Some(1_200));
    assert_eq!(millis(&[whole.clone(), whole].concat()), Some(2_400));
}

#[test]
fn mp3_of_every_version_is_understood() {
    // 128 kbit/s; the frame takes samples / rate seconds
    for (head, length, micros) in [
        // MPEG 1, 44.1 kHz, with and without padding
        ([0xff, 0xfb, 0x90, 0x00], 417, 26_122),
        ([0xff, 0xfb, 0x92, 0x00], 418, 26_122),
        // MPEG 1, 48 kHz
        ([0xff, 0xfb, 0x94, 0x00], 384, 24_000),
        // MPEG 2, 22.05 kHz
        ([0xff, 0xf3, 0xc0, 0x00], 417, 26_122),
        // MPEG 2.5, 8 kHz
        ([0xff, 0xe3, 0xc8, 0x00], 1_152, 72_000),
    ] {
        let mut frame = head.to_vec();
        frame.resize(length, 0);
        let duration = measured(None, &frame.repeat(100)).unwrap();
        let expected = Duration::from_micros(micros * 100);
        assert!(
            duration.abs_diff(expected) < Duration::from_micros(100),
            "{head:?}"
        );
    }
}

/// A file whose first frame says that there are `frames`.
fn mp3_with_tag(at: usize, name: &[u8], to_count: usize, frames: u32) -> Vec<u8> {
    let mut file = mp3(11);
    file[at..at + 4].copy_from_slice(name);
    file[at + 7] = 1;
    file[at + to_count..at + to_count + 4].copy_from_slice(&frames.to_be_bytes());
    file
}

#[test]
fn mp3_with_a_tag_is_as_long_as_the_tag_says() {
    for name in [b"Xing", b"Info"] {
        assert_eq!(millis(&mp3_with_tag(13, name, 8, 1_000)), Some(24_000));
        // FFmpeg fills it in at the end, too late for a stream; the tag itself is no sound
        assert_eq!(millis(&mp3_with_tag(13, name, 8, 0)), Some(240));
    }
    assert_eq!(millis(&mp3_with_tag(36, b"VBRI", 14, 1_000)), Some(24_000));
    // no count in it
    let mut uncounted = mp3_with_tag(13, b"Info", 8, 7);
    uncounted[20] = 0;
    assert_eq!(millis(&uncounted), Some(240));
}

#[test]
fn ogg_is_as_long_as_its_last_position() {
    let opus = [
        opus_headers(1, 312),
        ogg_page(0, 24_312, 1, &[0xfc; 4_000]),
        ogg_page(0, 48_312, 1, &[0xfc; 1_000]),
        // no packet ends here, and this one belongs to another stream
        ogg_page(0, NO_GRANULE, 1, &[0xfc; 255 * 255]),
        ogg_page(0, 999_999, 2, b"other"),
    ]
    .concat();
    assert_eq!(millis(&opus), Some(1_000));
    let vorbis = [vorbis_headers(22_050), ogg_page(4, 44_100, 5, b"")].concat();
    assert_eq!(millis(&vorbis), Some(2_000));
    assert_eq!(millis(&[opus, vorbis].concat()), Some(3_000));
    // a codec that is not known
    assert_eq!(millis(&ogg_page(FIRST, 0, 1, b"Speex   1.2")), None);
    assert_eq!(millis(&opus_headers(1, 312)), Some(0));
}

#[test]
fn samples_without_a_header_count_only_if_their_rate_is_known() {
    let pcm = Some(48_000);
    let half = Some(Duration::from_millis(500));
    assert_eq!(measured(pcm, &[0; 24_000]), half);
    assert_eq!(measured(None, &[0; 24_000]), None);
    assert_eq!(measured(Some(0), &[0; 24_000]), None);
    assert_eq!(measured(pcm, b""), None);
    // they begin like a frame
    let mut samples = vec![7; 24_000];
    samples[..4].copy_from_slice(&mp3(1)[..4]);
    assert_eq!(measured(pcm, &samples), half);
    assert_eq!(measured(None, &samples), None);
    // a server that did not do as it was asked
    assert_eq!(measured(pcm, &mp3(10)), Some(Duration::from_millis(240)));
    assert_eq!(measured(pcm, &wav(0, &[0; 8_000])), half);
    assert_eq!(
        measured(pcm, &[id3(50, false), vec![0; 900]].concat()),
        None
    );
}

#[test]
fn everything_else_has_no_length() {
    for file in [
        &b""[..],
        b"{\"error\":{\"message\":\"no\"}}",
        b"\x1a\x45\xdf\xa3 WebM",
        b"\xff\xf1\x50\x80 ADTS",
        b"RIFF\0\0\0\0AVI LIST",
        b"RIFF",
        b"OggS",
    ] {
        assert_eq!(millis(file), None, "{file:?}");
    }
    assert_eq!(measured(Some(48_000), &mp4(100)), None);
}

#[test]
fn the_length_does_not_depend_on_how_the_file_was_cut() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2_000 {
        let file = samples::any(&mut random);
        let pcm = random.bool().then_some(48_000);
        let mut meter = AudioMeter::new(pcm);
        samples::cut(&mut random, &file, |piece| meter.feed(piece));
        assert_eq!(meter.duration(), measured(pcm, &file));
    }
}
