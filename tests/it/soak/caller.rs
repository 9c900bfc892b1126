//! A client's connection, which reads its answers piece by piece.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{client, tls};

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Caller {
    stream: Box<dyn Stream>,
    /// Another handle, to break it.
    raw: TcpStream,
    buffer: Vec<u8>,
    body: Body,
    pub tls: bool,
}

/// What of a body is to come.
enum Body {
    Length(usize),
    Chunks,
    Over,
}

pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// How a body went on.
pub enum Piece {
    Data(Vec<u8>),
    End,
    Broken,
}

impl Caller {
    pub fn plain(to: SocketAddr) -> Self {
        let stream = client::connect(to);
        let raw = stream.try_clone().unwrap();
        Caller {
            stream: Box::new(stream),
            raw,
            buffer: Vec::new(),
            body: Body::Over,
            tls: false,
        }
    }

    pub fn secure(to: SocketAddr, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let stream = tls::connect(to, config)?;
        Ok(Caller {
            raw: stream.sock.try_clone()?,
            stream: Box::new(stream),
            buffer: Vec::new(),
            body: Body::Over,
            tls: true,
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Another handle of a connection without TLS, to send while the answer is read.
    pub fn writer(&self) -> TcpStream {
        assert!(!self.tls);
        self.raw.try_clone().unwrap()
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.raw).set_linger(Some(Duration::ZERO));
    }

    /// Leaves.
    pub fn leave(self) {
        let _ = self.raw.shutdown(Shutdown::Both);
    }

    fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece).ok()?;
        self.buffer.extend_from_slice(&piece[..n]);
        (n > 0).then_some(())
    }

    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            self.fill()?;
        }
    }

    /// The head of the next answer.
    pub fn head(&mut self) -> Option<Head> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let head = Head { status, headers };
        self.body = match (
            head.header("transfer-encoding"),
            head.header("content-length"),
        ) {
            (Some(_), _) => Body::Chunks,
            (None, Some(length)) => Body::Length(length.parse().ok()?),
            (None, None) => Body::Over,
        };
        Some(head)
    }

    /// The next bytes of the body, as they come.
    pub fn piece(&mut self) -> Piece {
        match self.body {
            Body::Over | Body::Length(0) => {
                self.body = Body::Over;
                Piece::End
            }
            Body::Length(left) => {
                if self.buffer.is_empty() && self.fill().is_none() {
                    return Piece::Broken;
                }
                let take = left.min(self.buffer.len());
                self.body = Body::Length(left - take);
                Piece::Data(self.buffer.drain(..take).collect())
            }
            Body::Chunks => self.chunk().unwrap_or(Piece::Broken),
        }
    }

    fn chunk(&mut self) -> Option<Piece> {
        let line = self.until(b"\r\n")?;
        let size = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        while self.buffer.len() < size + 2 {
            self.fill()?;
        }
        let data: Vec<u8> = self.buffer.drain(..size + 2).take(size).collect();
        if size == 0 {
            self.body = Body::Over;
            return Some(Piece::End);
        }
        Some(Piece::Data(data))
    }

    /// Bytes of a tunnel.
    pub fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Some(self.buffer.drain(..length).collect())
    }
}
