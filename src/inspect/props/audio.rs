//! Audio: parts and lengths depend on the bytes, and not on how they were cut.

use std::time::Duration;

use proptest::prelude::*;

use super::super::audio::AudioMeter;
use super::super::container::{Part, Walker, samples};
use crate::fuzz::{cases, pieces, shape};

/// The parts of a file as text, with sound that goes on put together.
fn parts(pieces: &[&[u8]]) -> (Vec<String>, u64) {
    let mut walker = Walker::default();
    let mut out: Vec<String> = Vec::new();
    let mut sound: Vec<u8> = Vec::new();
    let mut all = 0;
    for piece in pieces {
        walker.feed(piece, |part| match part {
            Part::Sound(bytes) => {
                sound.extend_from_slice(bytes);
                all += bytes.len() as u64;
            }
            part => {
                let before = std::mem::take(&mut sound);
                out.push(format!("{:x} {part:?}", shape(before)));
            }
        });
    }
    out.push(format!("{:x}", shape(sound)));
    (out, all)
}

fn duration(pieces: &[&[u8]], pcm: Option<u32>) -> Option<Duration> {
    let mut meter = AudioMeter::new(pcm);
    pieces.iter().for_each(|piece| meter.feed(piece));
    meter.duration()
}

pub(crate) fn holds(data: &[u8]) -> u64 {
    let cut = pieces(data);
    let (whole, sound) = parts(&[data]);
    assert_eq!(whole, parts(&cut).0, "how it is cut must not matter");
    assert!(
        sound <= data.len() as u64,
        "there is more sound than there are bytes"
    );
    for pcm in [None, Some(48_000)] {
        assert_eq!(duration(&[data], pcm), duration(&cut, pcm));
    }
    let known = duration(&[data], None).is_some();
    let kinds: Vec<&str> = whole
        .iter()
        .filter_map(|part| part.split(' ').nth(1))
        .take(8)
        .collect();
    shape((kinds, known, sound > 0))
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        (any::<u32>(), 0..40_usize).prop_map(|(size, n)| samples::wav(size, &vec![1; n])),
        (0..300_usize, any::<bool>()).prop_map(|(n, footer)| samples::id3(n, footer)),
        (any::<u32>(), 0..1_u64 << 36, 0..50_usize).prop_map(|(r, s, n)| samples::flac(
            r & 0xf_ffff,
            s,
            n
        )),
        (
            any::<u8>(),
            any::<u64>(),
            any::<u32>(),
            prop::collection::vec(any::<u8>(), 0..600)
        )
            .prop_map(|(flags, granule, serial, content)| samples::ogg_page(
                flags, granule, serial, &content
            )),
        any::<u16>().prop_map(|skipped| samples::opus_headers(1, skipped)),
        any::<u32>().prop_map(samples::vorbis_headers),
        (0..9_usize).prop_map(samples::mp3),
        (0..50_usize).prop_map(samples::mp4),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(one, 0..4).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn files_of_every_kind_are_measured_alike_however_they_are_cut(
        mut file in file(), at in any::<prop::sample::Index>(), byte in any::<Option<u8>>()
    ) {
        if let (Some(byte), false) = (byte, file.is_empty()) {
            let at = at.index(file.len());
            file[at] = byte;
        }
        holds(&file);
    }
}
