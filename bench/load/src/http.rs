//! As much of HTTP/1.1 as servers and clients need here: heads, and where a body ends.

/// How the rest of a body tells where it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Chunk {
    /// In the line that says how long the next chunk is.
    Size {
        so_far: u64,
        extension: bool,
    },
    Data(u64),
    /// In the line end behind the data.
    DataEnd,
    /// Behind the last chunk, so many bytes into a line.
    Trailer(u64),
    Done,
}

const FIRST_SIZE: Chunk = Chunk::Size {
    so_far: 0,
    extension: false,
};

/// What both kinds of head say.
#[derive(Debug, PartialEq)]
pub(crate) struct Head {
    /// Bytes it takes.
    pub(crate) length: usize,
    /// Of an answer; 0 of a request.
    pub(crate) status: u16,
    /// GET or HEAD.
    pub(crate) asks_only: bool,
    pub(crate) framing: Framing,
    /// The connection ends behind this message.
    pub(crate) last: bool,
}

/// A request's head, if `bytes` holds all of it.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 96];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let asks_only = matches!(parsed.method, Some("GET" | "HEAD"));
    let (framing, last) = read_fields(parsed.headers, Framing::Length(0))?;
    Ok(Some(Head {
        length,
        status: 0,
        asks_only,
        framing,
        last: last || parsed.version == Some(0),
    }))
}

/// An answer's head, if `bytes` holds all of it. It is not the answer to a HEAD.
pub(crate) fn answer(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 96];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let (framing, last) = read_fields(parsed.headers, Framing::UntilClose)?;
    Ok(Some(Head {
        length,
        status: parsed.code.unwrap_or(0),
        asks_only: false,
        framing,
        last: last || framing == Framing::UntilClose,
    }))
}

fn read_fields(
    fields: &[httparse::Header<'_>],
    otherwise: Framing,
) -> Result<(Framing, bool), String> {
    let (mut framing, mut last) = (otherwise, false);
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).unwrap_or("");
            let length = text
                .trim()
                .parse()
                .map_err(|_| format!("content-length `{text}`"))?;
            framing = Framing::Length(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunked(FIRST_SIZE);
        } else if field.name.eq_ignore_ascii_case("connection") {
            last = field.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok((framing, last))
}

impl Framing {
    /// Takes from `bytes` what belongs to the body, shows its data to `see`, and tells how many bytes
    /// it took. Fewer than all only if the body ended.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut see: impl FnMut(&[u8]),
    ) -> Result<usize, String> {
        match self {
            Framing::UntilClose => {
                see(bytes);
                Ok(bytes.len())
            }
            Framing::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                if taken > 0 {
                    see(&bytes[..taken]);
                }
                *left -= taken as u64;
                Ok(taken)
            }
            Framing::Chunked(state) => {
                let mut at = 0;
                while at < bytes.len() && *state != Chunk::Done {
                    at += state.step(&bytes[at..], &mut see)?;
                }
                Ok(at)
            }
        }
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunk::Done))
    }
}

impl Chunk {
    /// Goes on by as much of `bytes`, which are not empty, as one state takes.
    fn step(&mut self, bytes: &[u8], see: &mut impl FnMut(&[u8])) -> Result<usize, String> {
        let first = bytes[0];
        let next = match *self {
            Chunk::Size { so_far, .. } if first == b'\n' => match so_far {
                0 => Chunk::Trailer(0),
                _ => Chunk::Data(so_far),
            },
            Chunk::Size {
                so_far,
                extension: true,
            } => Chunk::Size {
                so_far,
                extension: true,
            },
            Chunk::Size { so_far, .. } => match (first as char).to_digit(16) {
                Some(digit) => Chunk::Size {
                    so_far: so_far << 4 | u64::from(digit),
                    extension: false,
                },
                None if matches!(first, b';' | b'\r' | b' ') => Chunk::Size {
                    so_far,
                    extension: true,
                },
                None => return Err(format!("byte {first} in the size of a chunk")),
            },
            Chunk::Data(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                see(&bytes[..taken]);
                *self = match left - taken as u64 {
                    0 => Chunk::DataEnd,
                    left => Chunk::Data(left),
                };
                return Ok(taken);
            }
            Chunk::DataEnd if first == b'\n' => FIRST_SIZE,
            Chunk::DataEnd => Chunk::DataEnd,
            Chunk::Trailer(0) if first == b'\n' => Chunk::Done,
            Chunk::Trailer(_) if first == b'\n' => Chunk::Trailer(0),
            Chunk::Trailer(seen) if first == b'\r' => Chunk::Trailer(seen),
            Chunk::Trailer(seen) => Chunk::Trailer(seen + 1),
            Chunk::Done => return Ok(0),
        };
        *self = next;
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_may_come_in_any_pieces() {
        let text = b"5\r\nhello\r\n1;x=y\r\n \r\n00a\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\nrest";
        for size in 1..text.len() {
            let (mut framing, mut body, mut taken) = (Framing::Chunked(FIRST_SIZE), Vec::new(), 0);
            for piece in text.chunks(size) {
                taken += framing
                    .take(piece, |data| body.extend_from_slice(data))
                    .unwrap();
            }
            assert_eq!(body, b"hello 0123456789");
            assert!(framing.ended());
            assert_eq!(&text[taken..], b"rest", "pieces of {size}");
        }
    }

    #[test]
    fn heads_say_how_their_bodies_end() {
        let head =
            request(b"POST / HTTP/1.1\r\nContent-Length: 7\r\nConnection: Close\r\n\r\n").unwrap();
        let head = head.unwrap();
        assert_eq!(
            (head.framing, head.last, head.asks_only),
            (Framing::Length(7), true, false)
        );
        let head = request(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.framing, head.asks_only), (Framing::Length(0), true));
        assert_eq!(request(b"GET / HTTP/1.1\r\n"), Ok(None));
        let head = answer(b"HTTP/1.1 503 No\r\n\r\n").unwrap().unwrap();
        assert_eq!(
            (head.status, head.framing, head.last),
            (503, Framing::UntilClose, true)
        );
    }
}
