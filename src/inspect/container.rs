//! Audio containers: what of a file is header and what is sound, told while it flows past.
//!
//! Knows WAV, ID3v2, FLAC, Ogg and the boxes of MP4, as far as their headers reach. Holds at most
//! one small header at a time and counts its way over the rest; whatever bytes come, the parts
//! depend on them alone and not on how they were cut. What has no known container is all sound.

use std::mem;

/// One part of an audio file, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// From here on there is no container: raw samples, frames of MP3 or ADTS, or no audio at all.
    Bare {
        /// An ID3 tag stood before.
        tagged: bool,
    },
    WavFormat {
        bytes_per_second: u32,
    },
    /// The samples begin; `size` is in bytes, and 0 or 0xFFFF_FFFF where it was not known.
    WavData {
        size: u32,
    },
    /// `samples` is 0 where it was not known.
    FlacInfo {
        rate: u32,
        samples: u64,
    },
    OggPage {
        /// The first page of a stream.
        first: bool,
        serial: u32,
        /// Position at the end of the page in the codec's samples; `u64::MAX` for none.
        granule: u64,
        /// The first bytes of its content, up to [`OGG_START`].
        start: &'a [u8],
    },
    /// A piece of the sound itself.
    Sound(&'a [u8]),
}

/// So much of a page tells a header packet, and in one of Opus or Vorbis what its times mean.
const OGG_START: usize = 16;
/// Flags of an Ogg page (RFC 3533, section 6).
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
/// How packets begin that are headers (RFC 7845, section 5; Vorbis I, section 4.2).
const OGG_HEADERS: &[&[u8]] = &[
    b"OpusHead",
    b"OpusTags",
    b"\x01vorbis",
    b"\x03vorbis",
    b"\x05vorbis",
    OGG_FLAC,
];
/// Behind it come FLAC's metadata blocks, each a packet, which no frame's 0xFF begins
/// (xiph.org/flac/ogg_mapping.html).
const OGG_FLAC: &[u8] = b"\x7fFLAC";

/// Takes a file in pieces and tells its parts.
#[derive(Debug)]
pub(super) struct Walker {
    state: State,
    /// The header being collected.
    held: Vec<u8>,
    /// So many bytes are passed before the state goes on,
    ahead: u64,
    /// and these are sound.
    sounding: bool,
    /// An ID3 tag was there.
    tagged: bool,
    ogg: Ogg,
}

/// Which header comes next.
#[derive(Clone, Copy, Debug)]
enum State {
    /// No container is ruled out or certain by the bytes held, so one more is needed.
    Sniff(usize),
    WavChunk,
    WavFormat {
        /// Bytes of the chunk behind what is read of it.
        rest: u64,
    },
    FlacBlock,
    FlacInfo {
        last: bool,
    },
    OggHead,
    OggLacing(Page),
    OggStart {
        page: Page,
        /// Bytes of content.
        length: u16,
        /// Its last packet goes on in the next page.
        unfinished: bool,
    },
    Box,
    /// A box whose size has 64 bits.
    LargeBox {
        sound: bool,
    },
    /// Nothing but sound follows.
    Sound,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    flags: u8,
    granule: u64,
    serial: u32,
    segments: u8,
}

/// What earlier pages say about the next.
#[derive(Debug, Default)]
struct Ogg {
    /// A header packet goes on in the next page.
    in_header: bool,
    flac: bool,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Wav,
    Id3,
    Flac,
    Ogg,
    Mp4,
}

/// How containers begin; a question mark stands for any byte.
const SIGNS: &[(&[u8], Format)] = &[
    (b"RIFF????WAVE", Format::Wav),
    // WAV beyond 4 GiB (EBU Tech 3306)
    (b"RF64????WAVE", Format::Wav),
    (b"ID3???????", Format::Id3),
    (b"fLaC", Format::Flac),
    (b"OggS", Format::Ogg),
    // the first box is a short one
    (b"\0\0\0?ftyp", Format::Mp4),
    (b"\0\0\0?styp", Format::Mp4),
];

impl Default for Walker {
    fn default() -> Self {
        Walker {
            state: State::Sniff(1),
            held: Vec::new(),
            ahead: 0,
            sounding: false,
            tagged: false,
            ogg: Ogg::default(),
        }
    }
}

impl State {
    /// Length of the header in bytes; `None` if there is none to wait for.
    fn wants(self) -> Option<usize> {
        Some(match self {
            State::Sniff(length) => length,
            State::WavChunk | State::Box | State::LargeBox { .. } => 8,
            State::WavFormat { .. } => 16,
            State::FlacBlock => 4,
            State::FlacInfo { .. } => 34,
            State::OggHead => 27,
            State::OggLacing(page) => page.segments.into(),
            State::OggStart { length, .. } => OGG_START.min(length.into()),
            State::Sound => return None,
        })
    }
}

impl Walker {
    /// Takes the next piece and hands its parts to `on`.
    pub(super) fn feed(&mut self, mut piece: &[u8], mut on: impl FnMut(Part<'_>)) {
        loop {
            if self.ahead > 0 {
                let passed = self.ahead.min(piece.len() as u64);
                let (now, rest) = piece.split_at(passed as usize);
                if self.sounding && !now.is_empty() {
                    on(Part::Sound(now));
                }
                self.ahead -= passed;
                if self.ahead > 0 {
                    return;
                }
                piece = rest;
            }
            let Some(wanted) = self.state.wants() else {
                if !piece.is_empty() {
                    on(Part::Sound(piece));
                }
                return;
            };
            let missing = wanted.saturating_sub(self.held.len());
            let (now, rest) = piece.split_at(missing.min(piece.len()));
            self.held.extend_from_slice(now);
            if self.held.len() < wanted {
                return;
            }
            piece = rest;
            let mut held = mem::take(&mut self.held);
            if self.step(&held, &mut on) {
                held.clear();
            }
            self.held = held;
        }
    }

    /// Goes over the collected header; `false` if its bytes are needed once more.
    fn step(&mut self, held: &[u8], on: &mut impl FnMut(Part<'_>)) -> bool {
        match self.state {
            State::Sniff(_) => return self.sniff(held, on),
            State::WavChunk => self.wav_chunk(held, on),
            State::WavFormat { rest } => {
                let bytes_per_second = u32::from_le_bytes(array(held, 8));
                on(Part::WavFormat { bytes_per_second });
                self.pass(rest, State::WavChunk);
            }
            State::FlacBlock => self.flac_block(held),
            State::FlacInfo { last } => {
                // RFC 9639, section 8.2: 20 bits rate, 3 channels, 5 depth, 36 samples
                let packed = u64::from_be_bytes(array(held, 10));
                on(Part::FlacInfo {
                    rate: (packed >> 44) as u32,
                    samples: packed & ((1 << 36) - 1),
                });
                self.pass(0, after_flac_block(last));
            }
            State::OggHead => {
                if !held.starts_with(b"OggS") {
                    return self.give_up(held, on);
                }
                let page = Page {
                    flags: held[5],
                    granule: u64::from_le_bytes(array(held, 6)),
                    serial: u32::from_le_bytes(array(held, 14)),
                    segments: held[26],
                };
                self.pass(0, State::OggLacing(page));
            }
            State::OggLacing(page) => {
                let start = State::OggStart {
                    page,
                    length: held.iter().map(|&lace| u16::from(lace)).sum(),
                    unfinished: held.last() == Some(&255),
                };
                self.pass(0, start);
            }
            State::OggStart {
                page,
                length,
                unfinished,
            } => {
                on(Part::OggPage {
                    first: page.flags & FIRST != 0,
                    serial: page.serial,
                    granule: page.granule,
                    start: held,
                });
                self.sounding = !self.ogg.is_header(page.flags, held, unfinished);
                if self.sounding && !held.is_empty() {
                    on(Part::Sound(held));
                }
                self.ahead = u64::from(length) - held.len() as u64;
                self.state = State::OggHead;
            }
            State::Box => {
                let size = u32::from_be_bytes(array(held, 0));
                let sound = held[4..] == *b"mdat";
                match size {
                    1 => self.pass(0, State::LargeBox { sound }),
                    _ if sound => self.pass(0, State::Sound),
                    // it reaches to the end of the file
                    0 => self.pass(u64::MAX, State::Box),
                    2..8 => return self.give_up(held, on),
                    8.. => self.pass(u64::from(size) - 8, State::Box),
                }
            }
            State::LargeBox { sound } => match u64::from_be_bytes(array(held, 0)) {
                _ if sound => self.pass(0, State::Sound),
                0..16 => return self.give_up(held, on),
                size @ 16.. => self.pass(size - 16, State::Box),
            },
            State::Sound => {}
        }
        true
    }

    fn sniff(&mut self, held: &[u8], on: &mut impl FnMut(Part<'_>)) -> bool {
        let fits = |sign: &[u8]| {
            let mut pairs = held.iter().zip(sign);
            pairs.all(|(byte, wanted)| *wanted == b'?' || byte == wanted)
        };
        match SIGNS.iter().find(|(sign, _)| fits(sign)) {
            Some((sign, _)) if held.len() < sign.len() => {
                self.state = State::Sniff(held.len() + 1);
                false
            }
            Some((_, Format::Wav)) => {
                self.pass(0, State::WavChunk);
                true
            }
            Some((_, Format::Flac)) => {
                self.pass(0, State::FlacBlock);
                true
            }
            Some((_, Format::Ogg)) => {
                self.state = State::OggHead;
                false
            }
            Some((_, Format::Mp4)) => {
                self.state = State::Box;
                false
            }
            Some((_, Format::Id3)) if id3_length(held).is_some() => {
                self.tagged = true;
                self.pass(id3_length(held).unwrap_or_default(), State::Sniff(1));
                true
            }
            Some((_, Format::Id3)) | None => {
                on(Part::Bare {
                    tagged: self.tagged,
                });
                self.give_up(held, on)
            }
        }
    }

    fn wav_chunk(&mut self, held: &[u8], on: &mut impl FnMut(Part<'_>)) {
        let size = u32::from_le_bytes(array(held, 4));
        // chunks have even lengths, which their sizes do not count
        let length = u64::from(size) + u64::from(size % 2);
        match &held[..4] {
            b"data" => {
                on(Part::WavData { size });
                self.pass(0, State::Sound);
            }
            b"fmt " if length >= 16 => {
                let rest = length - 16;
                self.pass(0, State::WavFormat { rest });
            }
            _ => self.pass(length, State::WavChunk),
        }
    }

    /// RFC 9639, section 8.1: whether it is the last, its type, its length; type 0 is the stream's
    /// description.
    fn flac_block(&mut self, held: &[u8]) {
        let last = held[0] & 0x80 != 0;
        let length = u32::from_be_bytes(array(held, 0)) & 0xff_ffff;
        match (held[0] & 0x7f, length) {
            (0, 34) => self.pass(0, State::FlacInfo { last }),
            _ => self.pass(length.into(), after_flac_block(last)),
        }
    }

    /// Passes bytes that are no sound, then expects `next`.
    fn pass(&mut self, bytes: u64, next: State) {
        self.ahead = bytes;
        self.sounding = false;
        self.state = next;
    }

    /// Takes everything from `held` on for sound.
    fn give_up(&mut self, held: &[u8], on: &mut impl FnMut(Part<'_>)) -> bool {
        on(Part::Sound(held));
        self.pass(0, State::Sound);
        true
    }
}

impl Ogg {
    /// Whether a page holds headers; sound always begins on a page of its own.
    fn is_header(&mut self, flags: u8, start: &[u8], unfinished: bool) -> bool {
        let first = flags & FIRST != 0;
        if first {
            self.flac = start.starts_with(OGG_FLAC);
        }
        let header = if flags & CONTINUED != 0 {
            self.in_header
        } else {
            first
                || OGG_HEADERS.iter().any(|header| start.starts_with(header))
                || (self.flac && start.first().is_some_and(|byte| *byte != 0xff))
        };
        self.in_header = header && unfinished;
        header
    }
}

fn after_flac_block(last: bool) -> State {
    if last { State::Sound } else { State::FlacBlock }
}

/// Bytes of an ID3v2 tag behind its first 10 (id3.org, ID3v2.4 structure, sections 3.1 and 3.4);
/// `None` if it is no such tag.
fn id3_length(head: &[u8]) -> Option<u64> {
    let size: [u8; 4] = array(head, 6);
    if head[3] == 0xff || head[4] == 0xff || size.iter().any(|byte| *byte >= 0x80) {
        return None;
    }
    let length = size
        .iter()
        .fold(0, |length, byte| length << 7 | u64::from(*byte));
    let footer = if head[5] & 0x10 != 0 { 10 } else { 0 };
    Some(length + footer)
}

/// `N` bytes from `at` on, of a header that was collected whole.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a range of N bytes has N bytes")
}

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;
