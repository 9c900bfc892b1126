//! Fake servers that count what they were sent and what they answered, and can go wrong.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::answers::{Answering, put};
use super::ledger::{Act, Did, Ledger};

/// How a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Takes requests and is silent for as long as this lasts.
    Hangs,
    /// Resets every second answer in its middle.
    Breaks,
    Says500,
    Says503,
    Nonsense,
    /// Takes connections, does not read, and closes them in the end.
    Deaf,
}

pub const MOODS: [Mood; 7] = [
    Mood::Well,
    Mood::Hangs,
    Mood::Breaks,
    Mood::Says500,
    Mood::Says503,
    Mood::Nonsense,
    Mood::Deaf,
];

pub struct Fake {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Bound and not listening, so that nobody else gets the port while this one is down.
    _held: socket2::Socket,
    inner: Arc<Inner>,
}

pub struct Inner {
    pub name: &'static str,
    mood: AtomicU8,
    down: AtomicBool,
    /// By number.
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    pub ledger: Arc<Ledger>,
    /// Bytes of bodies, of requests and of answers.
    pub received: AtomicU64,
    pub sent: AtomicU64,
    probes: AtomicU64,
    /// Of requests, which are in no client's account.
    copies: AtomicU64,
}

/// A connection: a second handle, and the request that came last, by its place in the ledger.
type Open = (TcpStream, Option<(String, usize)>);

/// A request as it was read.
pub struct Seen {
    pub method: String,
    pub target: String,
    pub id: String,
    pub body: Vec<u8>,
}

fn bound(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Fake {
    /// `name` is `pool/server`.
    pub fn start(name: &'static str, ledger: &Arc<Ledger>) -> Self {
        let held = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let fake = Fake {
            name,
            address: held.local_addr().unwrap().as_socket().unwrap(),
            _held: held,
            inner: Arc::new(Inner {
                name,
                mood: AtomicU8::new(0),
                down: AtomicBool::new(true),
                open: Mutex::default(),
                next: AtomicU64::new(0),
                ledger: ledger.clone(),
                received: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                probes: AtomicU64::new(0),
                copies: AtomicU64::new(0),
            }),
        };
        fake.rise();
        fake
    }

    /// Listens.
    pub fn rise(&self) {
        let mut listener = None;
        crate::support::eventually("the address is free", || {
            listener = bound(self.address)
                .and_then(|socket| socket.listen(256).map(|()| socket))
                .ok();
            listener.is_some()
        });
        let listener: TcpListener = listener.unwrap().into();
        self.inner.down.store(false, SeqCst);
        let inner = self.inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if inner.down.load(SeqCst) {
                    return;
                }
                let inner = inner.clone();
                std::thread::spawn(move || inner.serve(stream));
            }
        });
    }

    /// As if the machine had gone: no new connections, and the open ones break.
    pub fn fall(&self) {
        self.inner.down.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        for (_, (stream, asked)) in self.inner.open.lock().unwrap().drain() {
            if let Some((id, at)) = asked {
                let ledger = &self.inner.ledger;
                ledger.note(&id, at, |act| act.killed = true);
            }
            reset(&stream);
        }
    }

    pub fn feel(&self, mood: Mood) {
        self.inner.mood.store(mood as u8, SeqCst);
    }

    /// Bytes of bodies: received, sent.
    pub fn bytes(&self) -> (u64, u64) {
        let inner = &self.inner;
        (inner.received.load(SeqCst), inner.sent.load(SeqCst))
    }

    pub fn copies(&self) -> u64 {
        self.inner.copies.load(SeqCst)
    }

    pub fn probes(&self) -> u64 {
        self.inner.probes.load(SeqCst)
    }
}

pub fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}

/// A piece of a connection that is not there.
pub struct Gone;

impl Inner {
    pub fn mood(&self) -> Mood {
        MOODS[usize::from(self.mood.load(SeqCst))]
    }

    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let number = self.next.fetch_add(1, SeqCst);
        let Ok(second) = stream.try_clone() else {
            return;
        };
        self.open.lock().unwrap().insert(number, (second, None));
        if self.down.load(SeqCst) {
            reset(&stream);
        }
        let _ = self.talk(&stream, number);
        self.open.lock().unwrap().remove(&number);
    }

    fn talk(&self, mut stream: &TcpStream, number: u64) -> Result<(), Gone> {
        if self.mood() == Mood::Deaf {
            let _ = self.sit_out(stream, Mood::Deaf);
            return Err(Gone);
        }
        let mut buffer = Vec::new();
        let mut reused = false;
        loop {
            let seen = self.read(&mut stream, &mut buffer)?;
            if seen.target.ends_with("/health") {
                self.probes.fetch_add(1, SeqCst);
                put(
                    stream,
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".as_ref(),
                )?;
                continue;
            }
            if self.name.starts_with("mirror/") {
                self.copies.fetch_add(1, SeqCst);
                self.answer(stream, &seen, usize::MAX)?;
                continue;
            }
            let act = Act {
                server: self.name,
                did: Did::Nothing,
                status: 0,
                tokens: None,
                reused,
                killed: false,
            };
            let at = self.ledger.begin(&seen.id, act);
            if let Some((_, asked)) = self.open.lock().unwrap().get_mut(&number) {
                *asked = Some((seen.id.clone(), at));
            }
            self.answer(stream, &seen, at)?;
            reused = true;
        }
    }

    /// Answers a request, whose act has this place in the ledger.
    fn answer(&self, stream: &TcpStream, seen: &Seen, at: usize) -> Result<(), Gone> {
        let answering = Answering {
            inner: self,
            stream,
            id: &seen.id,
            at,
        };
        answering.answer(seen)
    }

    /// Waits while the mood lasts and the other side is there.
    pub fn sit_out(&self, stream: &TcpStream, mood: Mood) -> Result<(), Gone> {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
        let begun = Instant::now();
        while self.mood() == mood && begun.elapsed() < Duration::from_secs(20) {
            match stream.peek(&mut [0]) {
                Ok(0) => return Err(Gone),
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Err(Gone),
            }
        }
        let _ = stream.set_read_timeout(None);
        Ok(())
    }

    fn fill(&self, stream: &mut &TcpStream, buffer: &mut Vec<u8>) -> Result<(), Gone> {
        let mut piece = [0; 65536];
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => buffer.extend_from_slice(&piece[..n]),
            _ => return Err(Gone),
        }
        Ok(())
    }

    fn read(&self, stream: &mut &TcpStream, buffer: &mut Vec<u8>) -> Result<Seen, Gone> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.fill(stream, buffer)?;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let mut next = || first.next().unwrap_or_default().to_owned();
        let (method, target) = (next(), next());
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let body = match headers.get("content-length") {
            Some(length) => {
                let length: usize = length.parse().unwrap();
                while buffer.len() < length {
                    self.fill(stream, buffer)?;
                }
                buffer.drain(..length).collect()
            }
            None if headers.contains_key("transfer-encoding") => self.chunks(stream, buffer)?,
            None => Vec::new(),
        };
        self.received.fetch_add(body.len() as u64, SeqCst);
        Ok(Seen {
            method,
            target,
            id: headers.get("x-request-id").cloned().unwrap_or_default(),
            body,
        })
    }

    fn chunks(&self, stream: &mut &TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Gone> {
        let mut body = Vec::new();
        loop {
            let at = loop {
                match buffer.windows(2).position(|w| w == b"\r\n") {
                    Some(at) => break at,
                    None => self.fill(stream, buffer)?,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..at]).unwrap(), 16);
            let size = size.unwrap();
            while buffer.len() < at + 2 + size + 2 {
                self.fill(stream, buffer)?;
            }
            body.extend_from_slice(&buffer[at + 2..at + 2 + size]);
            buffer.drain(..at + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
