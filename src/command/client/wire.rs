//! One request out, one answer in, over any stream.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Largest answer that is read: speech is asked for as WAV, a sentence of it.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
const MAX_HEAD: usize = 256 * 1024;

/// Until when a stream may be waited for.
pub(super) struct Limit<'a> {
    /// A second handle of the stream's socket.
    pub(super) socket: &'a TcpStream,
    pub(super) deadline: Instant,
}

impl Limit<'_> {
    fn wait(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // the clock of sockets has no finer step
        let left = left.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        self.socket.set_write_timeout(Some(left))
    }
}

pub(super) struct Received {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) began: Instant,
}

/// Sends and receives. An answer without length ends with the connection.
pub(super) fn exchange(
    stream: &mut (impl Read + Write),
    limit: &Limit<'_>,
    head: &[u8],
    body: &[u8],
) -> io::Result<Received> {
    limit.wait()?;
    // who refuses early closes while we still send: what was said by then is the answer
    let sent = stream
        .write_all(head)
        .and_then(|()| stream.write_all(body))
        .and_then(|()| stream.flush());
    let mut reader = Reader {
        stream,
        limit,
        buffer: Vec::new(),
    };
    let (status, headers) = match (reader.head(), sent) {
        (Ok(head), _) => head,
        (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
    };
    let header = |name: &str| {
        let found = headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    };
    let chunked = header("transfer-encoding").is_some_and(|how| how.contains("chunked"));
    let length = header("content-length").and_then(|n| n.trim().parse().ok());
    let empty = matches!(status, 204 | 304) || length == Some(0);
    if reader.buffer.is_empty() && !empty {
        reader.fill()?;
    }
    let began = Instant::now();
    let body = match (chunked, length) {
        _ if empty => Vec::new(),
        (true, _) => reader.chunks()?,
        (false, Some(length)) => reader.exactly(length)?,
        (false, None) => reader.rest()?,
    };
    Ok(Received {
        status,
        headers,
        body,
        began,
    })
}

struct Reader<'a, S> {
    stream: &'a mut S,
    limit: &'a Limit<'a>,
    buffer: Vec<u8>,
}

type Head = (u16, Vec<(String, String)>);

impl<S: Read> Reader<'_, S> {
    /// Whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.len() > MAX_ANSWER {
            return Err(io::Error::other("the answer is too large"));
        }
        self.limit.wait()?;
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(n > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        match self.fill()? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The head of the final answer; interim ones are passed over.
    fn head(&mut self) -> io::Result<Head> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut headers);
            let parsed = head.parse(&self.buffer);
            let parsed = parsed.map_err(|_| io::Error::other("what answers speaks no HTTP"))?;
            let httparse::Status::Complete(length) = parsed else {
                if self.buffer.len() > MAX_HEAD {
                    return Err(io::Error::other("the head of the answer is too large"));
                }
                self.more()?;
                continue;
            };
            let status = head.code.unwrap_or_default();
            let headers = head.headers.iter().map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_ascii_lowercase(), value)
            });
            let headers = headers.collect();
            self.buffer.drain(..length);
            if status >= 200 {
                return Ok((status, headers));
            }
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (from, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) => {
                    self.more()?;
                    continue;
                }
                Err(_) => return Err(io::Error::other("the chunks of the answer are broken")),
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size.saturating_add(body.len()) > MAX_ANSWER {
                return Err(io::Error::other("the answer is too large"));
            }
            self.buffer.drain(..from);
            if size == 0 {
                return Ok(body);
            }
            let piece = self.exactly(size + 2)?;
            body.extend_from_slice(&piece[..size]);
        }
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answer(text: &'static [u8]) -> io::Result<Received> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(text).unwrap();
        });
        let mut stream = TcpStream::connect(address).unwrap();
        let clock = stream.try_clone().unwrap();
        let limit = Limit {
            socket: &clock,
            deadline: Instant::now() + Duration::from_secs(10),
        };
        let received = exchange(&mut stream, &limit, b"GET / HTTP/1.1\r\n\r\n", b"");
        server.join().unwrap();
        received
    }

    #[test]
    fn every_framing_is_read() {
        for text in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            let received = answer(text).unwrap();
            assert_eq!(
                (received.status, received.body.as_slice()),
                (200, &b"hello"[..])
            );
        }
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        for text in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200",
        ] {
            let broken = answer(text).err().unwrap();
            assert_eq!(broken.kind(), io::ErrorKind::UnexpectedEof);
        }
        let nonsense = answer(b"SSH-2.0-OpenSSH\r\n").err().unwrap();
        assert!(nonsense.to_string().contains("no HTTP"));
    }
}
