//! The way to a server: one connection, one request after the other.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::response::Parts;
use pingora::protocols::Stream;
use pingora::{Error, ErrorType};

use super::{Bare, Begun, Line, Size, TooLong};
use crate::inspect::answer_head::{self, Framing};
use crate::inspect::chunks::{Chunks, Garbled};

/// Bytes of a head at most; servers of our kind send some hundreds.
const HEAD: usize = 256 * 1024;
/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Sent {
    Whole,
    Chunked,
}

/// The head of a request as it goes out.
pub(in crate::proxy) struct Opening {
    pub(in crate::proxy) bytes: Vec<u8>,
    pub(in crate::proxy) sent: Sent,
    /// The answer has no body.
    pub(in crate::proxy) is_head: bool,
    /// The server is told that nothing follows.
    pub(in crate::proxy) closes: bool,
}

/// What is left of an answer's body.
enum Rest {
    /// Its head is not here.
    Unknown,
    Length(u64),
    Chunked(Chunks),
    /// Chunks that are none.
    Garbled,
    /// All until the connection ends.
    Close,
    Over,
}

/// A connection to a server.
pub(in crate::proxy) struct Upstream {
    line: Line,
    sent: Sent,
    is_head: bool,
    head: Option<Box<Parts>>,
    /// The beginning of a head.
    begun: Begun,
    /// Bytes that were read and are not looked at.
    unread: Bytes,
    rest: Rest,
    /// Another request may follow, as far as both heads say.
    keeps: bool,
    /// How long the server says that it keeps the connection.
    promised: Option<Duration>,
    /// Requests it was used for.
    uses: u32,
}

impl Upstream {
    pub(in crate::proxy) fn new(bare: Bare) -> Self {
        Upstream {
            line: Line::new(bare),
            sent: Sent::Whole,
            is_head: false,
            head: None,
            begun: Begun::default(),
            unread: Bytes::new(),
            rest: Rest::Unknown,
            keeps: false,
            promised: None,
            uses: 0,
        }
    }

    // === the request ===

    /// Begins a request. Its head waits for the first piece of the body if one `follows` at once.
    pub(in crate::proxy) async fn begin(
        &mut self,
        opening: Opening,
        follows: bool,
    ) -> pingora::Result<()> {
        self.uses += 1;
        self.head = None;
        self.rest = Rest::Unknown;
        self.begun = Begun::default();
        self.unread = Bytes::new();
        self.line.hold(opening.bytes);
        self.sent = opening.sent;
        self.is_head = opening.is_head;
        self.keeps = !opening.closes;
        match follows {
            true => Ok(()),
            false => self.line.send(&[], false).await,
        }
    }

    /// Sends a piece of the body; it waits for the next one if that `follows` at once.
    pub(in crate::proxy) async fn write_body(
        &mut self,
        piece: &[u8],
        follows: bool,
    ) -> pingora::Result<()> {
        // an empty chunk would end the body
        if piece.is_empty() {
            return Ok(());
        }
        match self.sent {
            Sent::Chunked => {
                let size = Size::of(piece.len());
                let parts = [size.bytes(), piece, b"\r\n"];
                self.line.send(&parts, follows).await
            }
            Sent::Whole => self.line.send(&[piece], follows).await,
        }
    }

    /// Ends the request.
    pub(in crate::proxy) async fn finish(&mut self) -> pingora::Result<()> {
        match self.sent {
            Sent::Chunked => self.line.send(&[b"0\r\n\r\n"], false).await,
            Sent::Whole => self.line.send(&[], false).await,
        }
    }

    // === the answer ===

    /// Reads the next head, which may be an interim one. A read that is given up goes on with the
    /// next call.
    pub(in crate::proxy) async fn read_head(&mut self) -> pingora::Result<()> {
        loop {
            if self.unread.is_empty() {
                self.unread = self.line.read().await?;
                if self.unread.is_empty() {
                    return Err(Error::explain(
                        ErrorType::ConnectionClosed,
                        "while the head of the answer was read",
                    ));
                }
            }
            let more = std::mem::take(&mut self.unread);
            let whole = self.begun.with(more, HEAD);
            let whole = whole.map_err(|TooLong| invalid("the head of the answer is too long"));
            let Some(bytes) = whole? else {
                continue;
            };
            let parsed = answer_head::parse(&bytes).map_err(|_| invalid("no head of an answer"))?;
            let Some((head, length)) = parsed else {
                self.begun.keep(bytes);
                continue;
            };
            self.unread = bytes.slice(length..);
            self.understand(head);
            return Ok(());
        }
    }

    fn understand(&mut self, head: Parts) {
        self.rest = match answer_head::framing(&head, self.is_head) {
            Framing::Length(0) => Rest::Over,
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Chunks::new()),
            Framing::Close => Rest::Close,
        };
        let interim = head.status.is_informational() && head.status.as_u16() != 101;
        self.keeps &=
            interim || (answer_head::keeps_alive(&head) && !matches!(self.rest, Rest::Close));
        self.promised = answer_head::promised(&head);
        self.head = Some(Box::new(head));
    }

    pub(in crate::proxy) fn head(&self) -> Option<&Parts> {
        self.head.as_deref()
    }

    /// The same, for good.
    pub(in crate::proxy) fn take_head(&mut self) -> Option<Parts> {
        self.head.take().map(|head| *head)
    }

    /// The next piece of the body, which is not empty; `None` at its end.
    pub(in crate::proxy) async fn read_body(&mut self) -> pingora::Result<Option<Bytes>> {
        loop {
            if self.is_over() {
                return Ok(None);
            }
            if self.unread.is_empty() {
                self.unread = self.line.read().await?;
            }
            if self.unread.is_empty() {
                if matches!(self.rest, Rest::Close) {
                    self.rest = Rest::Over;
                    return Ok(None);
                }
                return Err(Error::explain(
                    ErrorType::ConnectionClosed,
                    "in the middle of an answer",
                ));
            }
            let piece = self.take_piece()?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// What of the bytes that were read belongs to the body.
    fn take_piece(&mut self) -> pingora::Result<Bytes> {
        match &mut self.rest {
            Rest::Length(left) => {
                let count = (*left).min(self.unread.len() as u64);
                *left -= count;
                if *left == 0 {
                    self.rest = Rest::Over;
                }
                Ok(self.unread.split_to(count as usize))
            }
            Rest::Chunked(chunks) => {
                let mut out = Vec::with_capacity(self.unread.len());
                match chunks.feed(&self.unread, &mut out) {
                    Ok(count) => {
                        self.unread.advance(count);
                        if chunks.is_over() {
                            self.rest = Rest::Over;
                        }
                    }
                    Err(Garbled) => self.rest = Rest::Garbled,
                }
                // what came before it is passed on first
                match (out.is_empty(), &self.rest) {
                    (true, Rest::Garbled) => Err(invalid("the chunks of the answer are broken")),
                    _ => Ok(out.into()),
                }
            }
            Rest::Close => Ok(std::mem::take(&mut self.unread)),
            Rest::Garbled => Err(invalid("the chunks of the answer are broken")),
            Rest::Unknown | Rest::Over => Ok(Bytes::new()),
        }
    }

    /// Whether all of the answer was read.
    pub(in crate::proxy) fn is_over(&self) -> bool {
        matches!(self.rest, Rest::Over)
    }

    // === the connection ===

    /// Whether another request may be sent, as far as this one and its answer tell. How often it
    /// was used is for the caller to judge.
    pub(in crate::proxy) fn is_reusable(&self) -> bool {
        self.keeps && self.is_over() && self.unread.is_empty() && self.line.waiting.is_empty()
    }

    /// Requests it was used for.
    pub(in crate::proxy) fn uses(&self) -> u32 {
        self.uses
    }

    /// How long the server says that it keeps the connection.
    pub(in crate::proxy) fn promised(&self) -> Option<Duration> {
        self.promised
    }

    /// Whether the server has neither closed it nor said something that nobody asked for.
    pub(in crate::proxy) fn is_silent(&mut self) -> bool {
        self.line.is_silent()
    }

    /// How long the TLS handshake took.
    pub(in crate::proxy) fn tls_handshake(&self) -> Option<Duration> {
        let Bare::Layered(stream) = &self.line.bare else {
            return None;
        };
        let layers = stream.get_timing_digest();
        layers.get(1)?.as_ref()?.establishment_duration
    }

    /// The bare connection, and what was read behind the head.
    pub(in crate::proxy) fn into_inner(self) -> (Stream, Vec<u8>) {
        (self.line.bare.into(), self.unread.to_vec())
    }
}

fn invalid(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what)
}
