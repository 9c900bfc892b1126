//! A body in chunks (RFC 9112, section 7.1), as it arrives.

/// Bytes of what may stand behind a chunk's size, and of trailers, at most.
const MOST: u32 = 16 * 1024;

/// The bytes are no chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a size of so many digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a size, in what nobody needs.
    Extension {
        size: u64,
    },
    /// Before the LF behind a size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer or of the line that ends all.
    Line,
    Trailer,
    TrailerEnd,
    LastLf,
    Over,
}

/// Takes a body out of its chunks. Trailers are thrown away: what they say would have to be said
/// before the body.
#[derive(Debug)]
pub(crate) struct Chunks {
    place: Place,
    /// Bytes of extensions in this chunk, or of all trailers.
    beside: u32,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Chunks {
            place: Place::Size { size: 0, digits: 0 },
            beside: 0,
        }
    }

    /// Whether the last chunk and what follows it were read.
    pub(crate) fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    /// Takes what `input` holds of the body, and adds it to `out`. Says how many bytes belong to
    /// this body: fewer than all only where it is over.
    ///
    /// # Errors
    /// [`Garbled`] if the framing is broken: a size that is none or too large, a line that ends with
    /// anything but CR LF, extensions or trailers of more than 16 KiB.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Garbled> {
        let mut at = 0;
        while at < input.len() && self.place != Place::Over {
            if let Place::Data { left } = self.place {
                let count = left.min((input.len() - at) as u64) as usize;
                out.extend_from_slice(&input[at..at + count]);
                at += count;
                self.place = match left - count as u64 {
                    0 => Place::DataCr,
                    left => Place::Data { left },
                };
                continue;
            }
            self.place = self.behind(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The place behind a byte of the framing.
    fn behind(&mut self, byte: u8) -> Result<Place, Garbled> {
        Ok(match (self.place, byte) {
            (Place::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Garbled)?;
                // sixteen digits are 64 bits; more would wrap around and hide a body in a body
                if digits == 16 {
                    return Err(Garbled);
                }
                Place::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Place::Size { digits: 0, .. }, _) => return Err(Garbled),
            (Place::Size { size, .. } | Place::Extension { size }, b'\r') => {
                Place::SizeEnd { size }
            }
            (Place::Size { size, .. }, b';' | b' ' | b'\t') => {
                self.beside = 0;
                Place::Extension { size }
            }
            (Place::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count()?;
                Place::Extension { size }
            }
            (Place::SizeEnd { size: 0 }, b'\n') => {
                self.beside = 0;
                Place::Line
            }
            (Place::SizeEnd { size }, b'\n') => Place::Data { left: size },
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size { size: 0, digits: 0 },
            (Place::Line, b'\r') => Place::LastLf,
            (Place::Trailer, b'\r') => Place::TrailerEnd,
            (Place::Line | Place::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count()?;
                Place::Trailer
            }
            (Place::TrailerEnd, b'\n') => Place::Line,
            (Place::LastLf, b'\n') => Place::Over,
            _ => return Err(Garbled),
        })
    }

    fn count(&mut self) -> Result<(), Garbled> {
        self.beside += 1;
        (self.beside <= MOST).then_some(()).ok_or(Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<(Vec<u8>, usize, bool), Garbled> {
        let (mut chunks, mut out) = (Chunks::new(), Vec::new());
        let used = chunks.feed(input, &mut out)?;
        Ok((out, used, chunks.is_over()))
    }

    #[test]
    fn a_body_is_what_its_chunks_hold_however_they_arrive() {
        let input = b"5;a=b\r\nhello\r\n6 \r\n world\r\n0\r\nx-t: 1\r\n\r\nHTTP/1.1";
        let (out, used, over) = read(input).unwrap();
        assert_eq!(out, b"hello world");
        assert_eq!(
            (used, over),
            (input.len() - 8, true),
            "the rest is not ours"
        );
        for cut in 1..used {
            let (mut chunks, mut out) = (Chunks::new(), Vec::new());
            assert_eq!(chunks.feed(&input[..cut], &mut out), Ok(cut));
            assert!(!chunks.is_over());
            assert_eq!(chunks.feed(&input[cut..], &mut out), Ok(used - cut));
            assert_eq!(
                (out.as_slice(), chunks.is_over()),
                (&b"hello world"[..], true)
            );
        }
    }

    #[test]
    fn what_readers_could_take_for_different_bodies_is_garbled() {
        for input in [
            &b"\r\n"[..],
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"10000000000000005\r\nhello",
            b"0\r\nx: \x00\r\n\r\n",
            b"0\r\n\n",
        ] {
            let text = String::from_utf8_lossy(input);
            assert_eq!(read(input), Err(Garbled), "{text:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let long = "x".repeat(MOST as usize + 1);
        assert_eq!(read(format!("5;{long}").as_bytes()), Err(Garbled));
        assert_eq!(read(format!("0\r\n{long}").as_bytes()), Err(Garbled));
    }
}
