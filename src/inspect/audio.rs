//! How long audio plays, read from its headers while it flows past.
//!
//! The file is not decoded and not held. Where a header says nothing, or something that the bytes
//! refute, the bytes that came are counted. A form that says too little has no length here.

use std::time::Duration;

use super::container::{Part, Walker, array};

/// Measures one file.
#[derive(Debug)]
pub(crate) struct AudioMeter {
    walker: Walker,
    /// Bytes per second, if it turns out to have no header.
    pcm: Option<u32>,
    found: Found,
}

/// What is known so far.
#[derive(Debug)]
enum Found {
    Nothing,
    Wav {
        bytes_per_second: u32,
        /// What the header says; 0 and 0xFFFF_FFFF say nothing.
        size: u32,
        seen: u64,
    },
    Flac {
        rate: u32,
        samples: u64,
    },
    Ogg {
        link: Link,
        /// Of the links of the chain before this one.
        earlier: Duration,
    },
    Bare {
        tagged: bool,
        seen: u64,
        mp3: Mp3,
    },
}

/// One stream of a chained Ogg file.
#[derive(Debug)]
struct Link {
    serial: u32,
    rate: u32,
    /// Samples at the start that are not played.
    skipped: u64,
    granule: u64,
}

impl AudioMeter {
    /// `pcm`: bytes per second of samples that may come without a header, as 48,000 for the
    /// 24 kHz, 16 bit, mono of OpenAI's and Kokoro's `pcm`.
    pub(crate) fn new(pcm: Option<u32>) -> Self {
        AudioMeter {
            walker: Walker::default(),
            pcm,
            found: Found::Nothing,
        }
    }

    /// Takes the next piece of the file.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        let found = &mut self.found;
        self.walker.feed(piece, |part| found.take(part));
    }

    /// How long it plays, as far as it came; `None` if that is not to be told.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match &self.found {
            Found::Nothing => None,
            Found::Wav {
                bytes_per_second,
                size,
                seen,
            } => {
                let length = match *size {
                    0 | u32::MAX => *seen,
                    size => u64::from(size).min(*seen),
                };
                time(length, *bytes_per_second)
            }
            Found::Flac { samples: 0, .. } => None,
            Found::Flac { rate, samples } => time(*samples, *rate),
            Found::Ogg { link, earlier } => Some(earlier.saturating_add(link.duration()?)),
            Found::Bare { tagged, seen, mp3 } => mp3.duration(*seen).or_else(|| {
                let pcm = self.pcm.filter(|_| !*tagged)?;
                time(*seen, pcm)
            }),
        }
    }
}

impl Found {
    fn take(&mut self, part: Part<'_>) {
        match (part, &mut *self) {
            (Part::Bare { tagged }, _) => {
                *self = Found::Bare {
                    tagged,
                    seen: 0,
                    mp3: Mp3::default(),
                };
            }
            (Part::WavFormat { bytes_per_second }, _) => {
                *self = Found::Wav {
                    bytes_per_second,
                    size: 0,
                    seen: 0,
                };
            }
            (Part::WavData { size: written }, Found::Wav { size, .. }) => *size = written,
            (Part::FlacInfo { rate, samples }, _) => *self = Found::Flac { rate, samples },
            (
                Part::OggPage {
                    first: true,
                    serial,
                    start,
                    ..
                },
                _,
            ) => {
                if let Some(link) = Link::new(serial, start) {
                    self.chain(link);
                }
            }
            (
                Part::OggPage {
                    serial, granule, ..
                },
                Found::Ogg { link, .. },
            ) => link.reach(serial, granule),
            (Part::Sound(piece), Found::Wav { seen, .. }) => *seen += piece.len() as u64,
            (Part::Sound(piece), Found::Bare { seen, mp3, .. }) => {
                *seen += piece.len() as u64;
                mp3.feed(piece);
            }
            _ => {}
        }
    }

    fn chain(&mut self, link: Link) {
        let earlier = match self {
            Found::Ogg { link, earlier } => {
                earlier.saturating_add(link.duration().unwrap_or_default())
            }
            _ => Duration::ZERO,
        };
        *self = Found::Ogg { link, earlier };
    }
}

impl Link {
    /// From the packet that begins a stream; `None` if it is not of a known codec.
    fn new(serial: u32, start: &[u8]) -> Option<Self> {
        let (rate, skipped) = if start.starts_with(b"OpusHead") && start.len() >= 12 {
            // RFC 7845, sections 4 and 5.1: always 48 kHz, less the pre-skip
            (48_000, u16::from_le_bytes(array(start, 10)).into())
        } else if start.starts_with(b"\x01vorbis") && start.len() >= 16 {
            // Vorbis I, section 4.2.2
            (u32::from_le_bytes(array(start, 12)), 0)
        } else {
            return None;
        };
        Some(Link {
            serial,
            rate,
            skipped,
            granule: 0,
        })
    }

    /// A page ended at this position. It is signed, and -1 where no packet ended.
    fn reach(&mut self, serial: u32, granule: u64) {
        if serial == self.serial && i64::try_from(granule).is_ok() {
            self.granule = granule;
        }
    }

    fn duration(&self) -> Option<Duration> {
        time(self.granule.saturating_sub(self.skipped), self.rate)
    }
}

/// Counts the frames of an MP3 file: where no tag tells their number, only walking over them tells
/// the length of a file whose bit rate varies.
#[derive(Debug, Default)]
struct Mp3 {
    held: Vec<u8>,
    /// Bytes left of the current frame.
    ahead: u64,
    kind: Option<Kind>,
    frames: u64,
    /// How many there are, as the first one says.
    promised: Option<u32>,
    /// Bytes outside of frames.
    strays: u64,
    /// It does not begin with a frame.
    refuted: bool,
}

/// What all frames of a file have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// In samples per second.
    rate: u32,
    /// Samples in one frame.
    samples: u32,
}

const FRAME_HEAD: usize = 4;
/// The first frame up to the end of the frame count in the farthest place it may have: that of
/// VBRI, 32 bytes behind the head and 14 into the tag.
const TAGGED_HEAD: usize = FRAME_HEAD + 32 + 14 + 4;
/// Kilobits per second of MPEG 1 and of MPEG 2 and 2.5, layer III (ISO/IEC 11172-3, 13818-3).
const BIT_RATES: [[u32; 14]; 2] = [
    [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

impl Mp3 {
    fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.refuted {
            let passed = self.ahead.min(piece.len() as u64);
            piece = &piece[passed as usize..];
            self.ahead -= passed;
            if self.ahead > 0 {
                return;
            }
            let wanted = match self.kind {
                None if self.held.len() >= FRAME_HEAD => TAGGED_HEAD,
                _ => FRAME_HEAD,
            };
            let missing = wanted.saturating_sub(self.held.len());
            let (now, rest) = piece.split_at(missing.min(piece.len()));
            self.held.extend_from_slice(now);
            piece = rest;
            if self.held.len() == wanted {
                self.step();
            }
        }
    }

    /// Looks at the head that is held.
    fn step(&mut self) {
        let frame = frame(array(&self.held, 0));
        match (frame, self.kind) {
            (None, None) => self.refuted = true,
            // the first one; its tag is still to come
            (Some(_), None) if self.held.len() == FRAME_HEAD => {}
            (Some((kind, length)), None) => {
                self.kind = Some(kind);
                match tag(&self.held) {
                    Some(promised) => self.promised = promised,
                    None => self.frames = 1,
                }
                // the frame may be over before
                let held = std::mem::take(&mut self.held);
                let end = length.min(held.len());
                self.ahead = (length - end) as u64;
                self.feed(&held[end..]);
            }
            (Some((kind, length)), Some(first)) if kind == first => {
                self.frames += 1;
                self.ahead = (length - FRAME_HEAD) as u64;
                self.held.clear();
            }
            // a tag, or a loss: the next frame is looked for
            _ => {
                self.strays += 1;
                self.held.remove(0);
            }
        }
    }

    /// `seen`: bytes of the file without its ID3 tag.
    fn duration(&self, seen: u64) -> Option<Duration> {
        let kind = self.kind?;
        let frames = match self.promised {
            Some(frames @ 1..) => frames.into(),
            _ => self.frames,
        };
        // raw samples may look like a frame, and like another one much later
        if self.strays > seen / 8 {
            return None;
        }
        time(frames.saturating_mul(kind.samples.into()), kind.rate)
    }
}

/// What the head of a frame of layer III says, and the length of the frame in bytes.
fn frame(head: [u8; FRAME_HEAD]) -> Option<(Kind, usize)> {
    let [sync, version, rates, _] = head;
    // layer III is 01
    if sync != 0xff || version & 0xe6 != 0xe2 {
        return None;
    }
    // 00 is MPEG 2.5, 10 MPEG 2, 11 MPEG 1
    let (table, divisor) = match version >> 3 & 3 {
        0 => (1, 4),
        2 => (1, 2),
        3 => (0, 1),
        _ => return None,
    };
    // 0 is a free rate, 15 none
    let bit_rate = usize::from(rates >> 4).checked_sub(1)?;
    let bit_rate = BIT_RATES[table].get(bit_rate)? * 1000;
    let rate = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))? / divisor;
    let samples = if table == 0 { 1152 } else { 576 };
    let padding = u32::from(rates >> 1 & 1);
    let length = samples / 8 * bit_rate / rate + padding;
    Some((Kind { rate, samples }, length as usize))
}

/// The number of frames that a first frame promises if it is no sound but a tag: Xing and Info
/// stand behind the side information, VBRI at a fixed place (the forms LAME, FFmpeg and
/// Fraunhofer's encoder write; gabriel.mp3-tech.org/mp3infotag.html).
fn tag(held: &[u8]) -> Option<Option<u32>> {
    let mpeg_1 = held[1] >> 3 & 3 == 3;
    let mono = held[3] >> 6 == 3;
    let side = match (mpeg_1, mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    let xing = FRAME_HEAD + side;
    let name: [u8; 4] = array(held, xing);
    if name == *b"Xing" || name == *b"Info" {
        // the first flag: the count is there
        let counted = held[xing + 7] & 1 != 0;
        return Some(counted.then(|| u32::from_be_bytes(array(held, xing + 8))));
    }
    let vbri = FRAME_HEAD + 32;
    (array(held, vbri) == *b"VBRI").then(|| Some(u32::from_be_bytes(array(held, vbri + 14))))
}

/// `units` at so many per second.
fn time(units: u64, per_second: u32) -> Option<Duration> {
    let per_second = u64::from(per_second);
    let seconds = units.checked_div(per_second)?;
    let nanoseconds = units % per_second * 1_000_000_000 / per_second;
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests;
