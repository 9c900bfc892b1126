//! Small audio files, put together by hand.

/// WAV, 8 kHz, 16 bit, mono, with a chunk of odd length before its samples.
pub(crate) fn wav(size: u32, samples: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\xff\xff\xff\xffWAVE".to_vec();
    file.extend(b"LIST\x03\0\0\0abc\0");
    file.extend(b"fmt \x12\0\0\0\x01\0\x01\0");
    file.extend(8_000u32.to_le_bytes());
    file.extend(16_000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0\0\0");
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(samples);
    file
}

/// An ID3v2.4 tag.
pub(crate) fn id3(length: usize, footer: bool) -> Vec<u8> {
    let mut tag = b"ID3\x04\0".to_vec();
    tag.push(if footer { 0x10 } else { 0 });
    for shift in [21, 14, 7, 0] {
        tag.push((length >> shift & 0x7f) as u8);
    }
    tag.resize(tag.len() + length + if footer { 10 } else { 0 }, b'x');
    tag
}

/// FLAC with a description, a comment and nothing but zeros for sound.
pub(crate) fn flac(rate: u32, samples: u64, sound: usize) -> Vec<u8> {
    let mut file = b"fLaC\0\0\0\x22".to_vec();
    file.extend([0; 10]);
    // one channel, 16 bits
    let packed = u64::from(rate) << 44 | 15 << 36 | samples;
    file.extend(packed.to_be_bytes());
    file.extend([0; 16]);
    file.extend(b"\x84\0\x01\x2c");
    file.resize(file.len() + 300, b'c');
    file.resize(file.len() + sound, 0);
    file
}

pub(crate) const CONTINUED: u8 = 1;
pub(crate) const FIRST: u8 = 2;
pub(crate) const NO_GRANULE: u64 = u64::MAX;

/// A page of Ogg with one packet in it, which goes on in the next page if `content` fills all of
/// its 255 segments.
pub(crate) fn ogg_page(flags: u8, granule: u64, serial: u32, content: &[u8]) -> Vec<u8> {
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend(granule.to_le_bytes());
    page.extend(serial.to_le_bytes());
    page.extend([0; 8]);
    let mut laces: Vec<u8> = content.chunks(255).map(|part| part.len() as u8).collect();
    if content.len().is_multiple_of(255) && laces.len() < 255 {
        laces.push(0);
    }
    page.push(laces.len() as u8);
    page.extend(laces);
    page.extend(content);
    page
}

/// The two headers of Opus; the second fills a page and goes on in another.
pub(crate) fn opus_headers(serial: u32, skipped: u16) -> Vec<u8> {
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend(skipped.to_le_bytes());
    head.extend([0; 7]);
    let mut tags = b"OpusTags".to_vec();
    tags.resize(255 * 255, b't');
    [
        ogg_page(FIRST, 0, serial, &head),
        ogg_page(0, NO_GRANULE, serial, &tags),
        ogg_page(CONTINUED, 0, serial, b"the rest of the tags"),
    ]
    .concat()
}

/// The three headers of Vorbis, the last two on one page.
pub(crate) fn vorbis_headers(rate: u32) -> Vec<u8> {
    let mut head = b"\x01vorbis\0\0\0\0\x01".to_vec();
    head.extend(rate.to_le_bytes());
    head.extend([0; 14]);
    let mut rest = b"\x03vorbis comment".to_vec();
    rest.extend(b"\x05vorbis setup");
    [ogg_page(FIRST, 0, 5, &head), ogg_page(0, 0, 5, &rest)].concat()
}

/// Frames of MP3, MPEG 2, 24 kHz, mono, 64 kbit/s: 192 bytes and 24 ms each.
pub(crate) fn mp3(frames: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xf3, 0x84, 0xc0];
    frame.resize(192, 0);
    frame.repeat(frames)
}

/// MP4 with its index before its sound.
pub(crate) fn mp4(sound: usize) -> Vec<u8> {
    let mut file = b"\0\0\0\x10ftypM4A \0\0\0\0".to_vec();
    file.extend(b"\0\0\0\x0cmoovinfo");
    file.extend(b"\0\0\0\x01free\0\0\0\0\0\0\0\x14long");
    file.extend(b"\0\0\0\0mdat");
    file.resize(file.len() + sound, 1);
    file
}

/// Runs `check` with a file cut into random pieces, often of one or two bytes.
pub(crate) fn cut<'a>(
    random: &mut fastrand::Rng,
    mut file: &'a [u8],
    mut feed: impl FnMut(&'a [u8]),
) {
    while !file.is_empty() {
        let most = *random.choice(&[2, 2, 40, 5_000]).unwrap();
        let (piece, rest) = file.split_at(random.usize(..=most).min(file.len()));
        feed(piece);
        file = rest;
    }
}

/// Files of every kind, some whole and some with errors.
pub(crate) fn any(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = random.usize(..3_000);
    let mut file = match random.u8(..10) {
        0 => wav(random.u32(..4_000), &vec![1; length]),
        1 => [id3(length, random.bool()), mp3(9)].concat(),
        2 => mp3(random.usize(..30)),
        3 => flac(24_000, random.u64(..100_000), length),
        4 => {
            let sound = ogg_page(0, 48_312, 1, &vec![0xfc; length]);
            [opus_headers(1, 312), sound].concat()
        }
        5 => [vorbis_headers(22_050), ogg_page(0, 44_100, 5, b"sound")].concat(),
        6 => mp4(length),
        7 => [id3(length, false), wav(0, b"abcd")].concat(),
        8 => vec![0; length],
        _ => (0..length).map(|_| random.u8(..)).collect(),
    };
    if random.bool() && !file.is_empty() {
        for _ in 0..random.usize(..6) {
            let at = random.usize(..file.len().min(400));
            file[at] = random.u8(..);
        }
        file.truncate(random.usize(..=file.len()));
    }
    file
}
