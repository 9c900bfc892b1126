//! One connection of a client that never waits: sends a request, and reads its answer to the end.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::http::{self, Framing};
use crate::report::Failure;

pub(crate) struct Client {
    stream: TcpStream,
    connected: bool,
    /// What is still to be sent.
    out: Vec<u8>,
    /// A head that is not whole yet.
    head: Vec<u8>,
    answer: Option<Answer>,
}

struct Answer {
    status: u16,
    framing: Framing,
    last: bool,
}

/// How far an answer is.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    More,
    /// It is whole. `reuse`: the connection takes another request.
    Whole {
        reuse: bool,
    },
    Failed(Failure),
}

impl Client {
    pub(crate) fn connect(
        target: SocketAddr,
        registry: &Registry,
        token: Token,
    ) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(target)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, token, interest)?;
        Ok(Client {
            stream,
            connected: false,
            out: Vec::new(),
            head: Vec::new(),
            answer: None,
        })
    }

    /// Sends a request, now or as soon as it can be.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.answer = None;
        let mut sent = 0;
        while self.connected && sent < request.len() {
            match self.stream.write(&request[sent..]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Failure::Closed),
            }
        }
        self.out.clear();
        self.out.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// Goes on when the connection can be written.
    pub(crate) fn on_writable(&mut self) -> Result<(), Failure> {
        if !self.connected {
            if matches!(self.stream.take_error(), Ok(Some(_)) | Err(_)) {
                return Err(Failure::Connect);
            }
            if self.stream.peer_addr().is_err() {
                return Ok(()); // not yet
            }
            let _ = self.stream.set_nodelay(true); // one that broke shows it when it is used
            self.connected = true;
        }
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Failure::Closed),
            }
        }
        Ok(())
    }

    /// Reads what is there; `see` is shown the bytes of the body. `closed`: the other side sends no more.
    pub(crate) fn on_readable(
        &mut self,
        input: &mut [u8],
        closed: bool,
        mut see: impl FnMut(&[u8]),
    ) -> Progress {
        loop {
            match self.stream.read(input) {
                Ok(0) => return self.ended(),
                Ok(read) => {
                    let progress = self.take(&input[..read], &mut see);
                    // less than asked for is all there was, unless the end is behind it
                    if progress != Progress::More || (read < input.len() && !closed) {
                        return progress;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::More,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if !self.connected => return Progress::Failed(Failure::Connect),
                Err(_) => return Progress::Failed(Failure::Closed),
            }
        }
    }

    fn ended(&self) -> Progress {
        match &self.answer {
            Some(answer) if answer.framing == Framing::UntilClose => answer.judge(false),
            _ => Progress::Failed(Failure::Closed),
        }
    }

    fn take(&mut self, bytes: &[u8], see: &mut impl FnMut(&[u8])) -> Progress {
        if let Some(answer) = &mut self.answer {
            return answer.take(bytes, see);
        }
        let kept = !self.head.is_empty();
        if kept {
            self.head.extend_from_slice(bytes);
        }
        let all = if kept { &self.head } else { bytes };
        match http::answer(all) {
            Ok(Some(head)) => {
                let mut answer = Answer {
                    status: head.status,
                    framing: head.framing,
                    last: head.last,
                };
                let progress = answer.take(&all[head.length..], see);
                self.answer = Some(answer);
                self.head.clear();
                progress
            }
            Ok(None) => {
                if !kept {
                    self.head.extend_from_slice(bytes);
                }
                Progress::More
            }
            Err(_) => Progress::Failed(Failure::Wrong),
        }
    }
}

impl Answer {
    fn take(&mut self, bytes: &[u8], see: &mut impl FnMut(&[u8])) -> Progress {
        match self.framing.take(bytes, see) {
            Err(_) => Progress::Failed(Failure::Wrong),
            Ok(taken) if self.framing.ended() => self.judge(taken == bytes.len()),
            Ok(_) => Progress::More,
        }
    }

    fn judge(&self, reuse: bool) -> Progress {
        match self.status {
            200 => Progress::Whole {
                reuse: reuse && !self.last,
            },
            _ => Progress::Failed(Failure::Status),
        }
    }
}
