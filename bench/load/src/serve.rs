//! `serve`: fake servers, all in one thread, so cheap that they are not what is measured.
//!
//! What is posted gets the one kind of answer that the program was started with; every GET is a
//! health probe and gets a short one. The request's body is counted, not looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::clock::{Alarm, SECOND, now};
use crate::http::{self, Framing};

mod answers;

pub(crate) use answers::Answer;

/// How servers are started.
pub(crate) struct Settings {
    pub(crate) answer: Answer,
    /// One server each; of port 0 the system picks one.
    pub(crate) addresses: Vec<SocketAddr>,
    /// They are `box-a`, `box-b`, …, unless there is one with a name of its own.
    pub(crate) name: Option<String>,
    /// Nobody is answered from `.0` to `.1` nanoseconds after the start.
    pub(crate) stall: Option<(u64, u64)>,
    /// Nanoseconds after which the program ends.
    pub(crate) lifetime: u64,
}

/// A moment at which a connection is to go on, and which of its answers that is about.
type Due = Reverse<(u64, usize, u64)>;

struct Server {
    poll: Poll,
    listeners: Vec<TcpListener>,
    names: Vec<String>,
    answer: Answer,
    fixed: Vec<Vec<u8>>,
    connections: Slab<Connection>,
    due: BinaryHeap<Due>,
    alarm: Alarm,
    input: Box<[u8]>,
}

struct Connection {
    stream: TcpStream,
    server: usize,
    /// Of a head of which more is to come, or of what came while an answer was on its way.
    kept: Vec<u8>,
    body: Option<Framing>,
    received: u64,
    asks_only: bool,
    last: bool,
    /// What could not be sent yet.
    out: Vec<u8>,
    /// Pieces sent of an answer that comes bit by bit.
    pieces: Option<usize>,
    answers: u64,
}

/// What becomes of a connection.
enum Next {
    Goes,
    Ends,
}

/// Serves until the lifetime is over; tells the ports first.
pub(crate) fn run(settings: Settings, ready: impl FnOnce(&[u16])) -> io::Result<()> {
    let start = now();
    let mut server = Server::new(&settings)?;
    let addresses = server.listeners.iter().map(TcpListener::local_addr);
    let ports: Vec<u16> = addresses
        .map(|address| address.map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    ready(&ports);
    let end = start + settings.lifetime;
    let mut stall = settings.stall.map(|(from, to)| (start + from, start + to));
    let mut events = Events::with_capacity(1024);
    loop {
        let wake = server.due.peek().map_or(end, |Reverse(due)| due.0.min(end));
        server.alarm.set(wake)?;
        match server.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        if let Some((_, to)) = stall.filter(|(from, _)| now() >= *from) {
            std::thread::sleep(std::time::Duration::from_nanos(to.saturating_sub(now())));
            stall = None;
        }
        for event in &events {
            server.on_event(event)?;
        }
        server.on_time();
        if now() >= end {
            return Ok(());
        }
    }
}

impl Server {
    fn new(settings: &Settings) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for address in &settings.addresses {
            let mut listener = TcpListener::bind(*address)?;
            let token = Token(listeners.len());
            poll.registry()
                .register(&mut listener, token, Interest::READABLE)?;
            listeners.push(listener);
        }
        let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
        let names: Vec<String> = (0..listeners.len())
            .map(|n| match (&settings.name, n / 26) {
                (Some(name), _) => name.clone(),
                (None, 0) => format!("box-{}", letter(n)),
                (None, more) => format!("box-{}{more}", letter(n)),
            })
            .collect();
        let alarm = Alarm::new(poll.registry(), Token(listeners.len()))?;
        Ok(Server {
            fixed: names.iter().map(|name| answers::chat(name)).collect(),
            poll,
            listeners,
            names,
            answer: settings.answer,
            connections: Slab::new(),
            due: BinaryHeap::new(),
            alarm,
            input: vec![0; 256 * 1024].into(),
        })
    }

    fn on_event(&mut self, event: &mio::event::Event) -> io::Result<()> {
        let token = event.token().0;
        if token < self.listeners.len() {
            return self.accept(token);
        }
        let Some(id) = token.checked_sub(self.listeners.len() + 1) else {
            return Ok(()); // the alarm
        };
        if !self.connections.contains(id) {
            return Ok(());
        }
        let sent = match event.is_writable() {
            true => self.connections[id].send(),
            false => Ok(Next::Goes),
        };
        let read = match sent {
            Ok(Next::Goes) if event.is_readable() => self.read(id, event.is_read_closed()),
            other => other,
        };
        if !matches!(read, Ok(Next::Goes)) {
            self.connections.remove(id);
        }
        Ok(())
    }

    fn accept(&mut self, server: usize) -> io::Result<()> {
        loop {
            let mut stream = match self.listeners[server].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            // one that is gone already shows it when it is read
            let _ = stream.set_nodelay(true);
            let entry = self.connections.vacant_entry();
            let token = Token(self.listeners.len() + 1 + entry.key());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, token, interest)?;
            entry.insert(Connection {
                stream,
                server,
                kept: Vec::new(),
                body: None,
                received: 0,
                asks_only: false,
                last: false,
                out: Vec::new(),
                pieces: None,
                answers: 0,
            });
        }
    }

    fn read(&mut self, id: usize, closed: bool) -> io::Result<Next> {
        let mut input = std::mem::take(&mut self.input);
        let next = loop {
            match self.connections[id].stream.read(&mut input) {
                Ok(0) => break Ok(Next::Ends),
                Ok(read) => {
                    let next = self.take(id, &input[..read]);
                    // less than asked for is all there was, unless the end is behind it
                    if !matches!(next, Ok(Next::Goes)) || (read < input.len() && !closed) {
                        break next;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(Next::Goes),
                Err(error) => break Err(error),
            }
        };
        self.input = input;
        next
    }

    /// Takes what was read, and answers the requests that end in it.
    fn take(&mut self, id: usize, bytes: &[u8]) -> io::Result<Next> {
        let connection = &mut self.connections[id];
        if !connection.kept.is_empty() || connection.pieces.is_some() {
            connection.kept.extend_from_slice(bytes);
            if connection.pieces.is_some() {
                return Ok(Next::Goes);
            }
            let bytes = std::mem::take(&mut connection.kept);
            return self.take(id, &bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let connection = &mut self.connections[id];
            let taken = connection.take(rest)?;
            if taken == 0 {
                connection.kept.extend_from_slice(rest);
                return Ok(Next::Goes);
            }
            rest = &rest[taken..];
            if connection.body.is_some_and(|body| body.ended()) {
                connection.body = None;
                let next = self.answer(id)?;
                if matches!(next, Next::Ends) {
                    return Ok(next);
                }
                if self.connections[id].pieces.is_some() {
                    self.connections[id].kept.extend_from_slice(rest);
                    return Ok(Next::Goes);
                }
            }
        }
        Ok(Next::Goes)
    }

    fn answer(&mut self, id: usize) -> io::Result<Next> {
        let connection = &mut self.connections[id];
        connection.answers += 1;
        let wait = match self.answer {
            _ if connection.asks_only => {
                connection.out.extend_from_slice(answers::HEALTHY);
                None
            }
            Answer::Chat { delay: 0 } => {
                let fixed = &self.fixed[connection.server];
                connection.out.extend_from_slice(fixed);
                None
            }
            Answer::Received => {
                answers::received(&mut connection.out, connection.received);
                None
            }
            Answer::Events { .. } => Some(0),
            Answer::Chat { delay } | Answer::Speech { delay, .. } => Some(delay),
        };
        match wait {
            None => connection.send(),
            Some(wait) => {
                connection.pieces = Some(0);
                if wait == 0 {
                    return self.piece(id);
                }
                self.due
                    .push(Reverse((now() + wait, id, connection.answers)));
                Ok(Next::Goes)
            }
        }
    }

    /// Sends the next piece of an answer, and sets the time of the one after it.
    fn piece(&mut self, id: usize) -> io::Result<Next> {
        let connection = &mut self.connections[id];
        let Some(sent) = connection.pieces else {
            return Ok(Next::Goes);
        };
        let name = &self.names[connection.server];
        let more = self.answer.piece(sent, name, &mut connection.out);
        if let Some(gap) = more {
            connection.pieces = Some(sent + 1);
            self.due
                .push(Reverse((now() + gap, id, connection.answers)));
            return connection.send();
        }
        connection.pieces = None;
        let next = connection.send()?;
        let kept = std::mem::take(&mut connection.kept);
        match next {
            Next::Goes if !kept.is_empty() => self.take(id, &kept),
            next => Ok(next),
        }
    }

    fn on_time(&mut self) {
        while let Some(Reverse((moment, id, answer))) = self.due.peek().copied() {
            if moment > now() {
                return;
            }
            self.due.pop();
            let waits = self.connections.get(id);
            if waits.is_some_and(|it| it.answers == answer && it.pieces.is_some())
                && !matches!(self.piece(id), Ok(Next::Goes))
            {
                self.connections.remove(id);
            }
        }
    }
}

impl Connection {
    /// Takes a head or some of a body; 0 if a head is not whole yet.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let broken = |why| io::Error::new(ErrorKind::InvalidData, why);
        if let Some(body) = &mut self.body {
            let received = &mut self.received;
            let taken = body.take(bytes, |data| *received += data.len() as u64);
            return taken.map_err(broken);
        }
        let Some(head) = http::request(bytes).map_err(broken)? else {
            return Ok(0);
        };
        self.asks_only = head.asks_only;
        self.last = head.last;
        self.body = Some(head.framing);
        self.received = 0;
        Ok(head.length)
    }

    /// Sends what there is to send.
    fn send(&mut self) -> io::Result<Next> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) if sent == self.out.len() => self.out.clear(),
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let ends = self.last && self.body.is_none() && self.pieces.is_none();
        match ends && self.out.is_empty() && self.answers > 0 {
            true => Ok(Next::Ends),
            false => Ok(Next::Goes),
        }
    }
}

/// The longest that servers live if nobody says.
pub(crate) const LIFETIME: u64 = 3600 * SECOND;
