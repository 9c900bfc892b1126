//! The way to a client: its requests, one after the other, and our answers.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use http::response::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::{Error, ErrorType};

use super::{Bare, Begun, Line, READ, Size, TooLong};
use crate::inspect::chunks::{Chunks, Garbled};
use crate::inspect::request_head::{self, Framing, RequestHead, Unreadable};
use crate::proxy::alarm;
use crate::proxy::session::WRITE_TIMEOUT;

/// Bytes of a head at most, whatever is allowed: so much is read before it is looked at.
const HEAD: usize = 1024 * 1024;
/// Bytes of a target that the URI type takes no more of.
const LONGEST_TARGET: usize = 65_534;
/// Room for the head of an answer.
const ROOM: usize = 1024;

/// Why there is no request to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum NoRequest {
    /// The client is gone, or asks for nothing in time.
    Gone,
    Broken,
    /// More fields, or more bytes of them, than anybody may send.
    TooMuch,
    /// A target longer than anybody may ask for.
    Target,
}

/// What is left of a request's body.
enum Body {
    Length(u64),
    Chunked(Chunks),
    /// Chunks that are none.
    Garbled,
    Over,
}

/// What is still to be sent of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Head,
    Length(u64),
    Chunks,
    /// All until the connection ends.
    Close,
    /// Nothing, whatever comes.
    Nothing,
    Over,
}

/// A connection of a client.
pub(in crate::proxy) struct Client {
    line: Line,
    address: Option<IpAddr>,
    tls: Option<&'static str>,
    head: Option<Box<RequestHeader>>,
    /// The head as it was read.
    raw: Bytes,
    /// The beginning of a head.
    begun: Begun,
    /// Bytes that were read and are not looked at.
    unread: Bytes,
    body: Body,
    answer: Answer,
    /// It waits to be asked for the body.
    waits: bool,
    /// Another request may follow.
    keeps: bool,
}

impl Client {
    pub(in crate::proxy) fn new(
        bare: Bare,
        address: Option<IpAddr>,
        tls: Option<&'static str>,
    ) -> Self {
        Client {
            line: Line::new(bare),
            address,
            tls,
            head: None,
            raw: Bytes::new(),
            begun: Begun::default(),
            unread: Bytes::new(),
            body: Body::Over,
            answer: Answer::Head,
            waits: false,
            keeps: false,
        }
    }

    pub(in crate::proxy) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    pub(in crate::proxy) fn tls(&self) -> Option<&'static str> {
        self.tls
    }

    // === the request ===

    /// Reads the head of the next request, which may take `idle` to begin. Who may take how long to
    /// send the rest of it is for the listener to judge.
    pub(in crate::proxy) async fn read_request(
        &mut self,
        idle: Option<Duration>,
    ) -> Result<(), NoRequest> {
        self.head = None;
        self.body = Body::Over;
        self.answer = Answer::Head;
        self.keeps = true;
        loop {
            if self.unread.is_empty() {
                let reading = self.line.read();
                let read = match idle.filter(|_| self.begun.is_empty()) {
                    Some(idle) => alarm::within(idle, reading).await,
                    None => Some(reading.await),
                };
                self.unread = read.ok_or(NoRequest::Gone)?.map_err(|_| NoRequest::Gone)?;
                if self.unread.is_empty() {
                    return Err(NoRequest::Gone);
                }
            }
            let more = std::mem::take(&mut self.unread);
            let whole = self.begun.with(more, HEAD);
            let Some(bytes) = whole.map_err(|TooLong| NoRequest::TooMuch)? else {
                continue;
            };
            match request_head::parse(&bytes) {
                Ok(Some(head)) => return self.understand(head, bytes),
                Ok(None) => self.begun.keep(bytes),
                Err(Unreadable::Broken) => return Err(NoRequest::Broken),
                Err(Unreadable::Fields) => return Err(NoRequest::TooMuch),
            }
        }
    }

    fn understand(&mut self, head: RequestHead, bytes: Bytes) -> Result<(), NoRequest> {
        self.body = match head.framing() {
            Ok(Framing::Length(0)) => Body::Over,
            Ok(Framing::Length(length)) => Body::Length(length),
            Ok(Framing::Chunked) => Body::Chunked(Chunks::new()),
            Err(_) => return Err(NoRequest::Broken),
        };
        // who speaks HTTP/1.0 knows no interim answer (RFC 9110, section 10.1.1)
        self.waits = head.version == Version::HTTP_11 && head.headers.contains_key(header::EXPECT);
        self.unread = bytes.slice(head.length..);
        self.raw = bytes.slice(..head.length);
        self.head = Some(Box::new(header_of(head)?));
        Ok(())
    }

    /// The head.
    ///
    /// # Panics
    /// Before one was read.
    pub(in crate::proxy) fn req_header(&self) -> &RequestHeader {
        self.head.as_deref().expect("a request was read")
    }

    /// The bytes of the head.
    pub(in crate::proxy) fn raw_head(&self) -> &Bytes {
        &self.raw
    }

    /// Whether all of the body was read.
    pub(in crate::proxy) fn is_body_done(&self) -> bool {
        matches!(self.body, Body::Over)
    }

    /// The next piece of the body, which is not empty; `None` at its end. A read that is given up
    /// has taken nothing.
    pub(in crate::proxy) async fn read_body(&mut self) -> pingora::Result<Option<Bytes>> {
        loop {
            if self.is_body_done() {
                return Ok(None);
            }
            if self.unread.is_empty() {
                self.unread = self.line.read().await?;
            }
            if self.unread.is_empty() {
                self.keeps = false;
                let what = "in the middle of a request";
                return Err(Error::explain(ErrorType::ConnectionClosed, what));
            }
            let piece = self.take_piece()?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// What of the bytes that were read belongs to the body.
    fn take_piece(&mut self) -> pingora::Result<Bytes> {
        let garbled = || Error::explain(ErrorType::H1Error, "the chunks are broken");
        match &mut self.body {
            Body::Length(left) => {
                let count = (*left).min(self.unread.len() as u64);
                *left -= count;
                if *left == 0 {
                    self.body = Body::Over;
                }
                Ok(self.unread.split_to(count as usize))
            }
            Body::Chunked(chunks) => {
                let mut out = Vec::with_capacity(self.unread.len());
                match chunks.feed(&self.unread, &mut out) {
                    Ok(count) => {
                        self.unread.advance(count);
                        if chunks.is_over() {
                            self.body = Body::Over;
                        }
                        Ok(out.into())
                    }
                    Err(Garbled) => {
                        self.body = Body::Garbled;
                        self.keeps = false;
                        Err(garbled())
                    }
                }
            }
            Body::Garbled => Err(garbled()),
            Body::Over => Ok(Bytes::new()),
        }
    }

    /// Ends when the client is gone. What it sends meanwhile is its next request.
    pub(in crate::proxy) async fn leaves(&mut self) {
        while self.unread.len() < READ {
            match self.line.read().await {
                Ok(more) if !more.is_empty() => {
                    self.unread = match self.unread.is_empty() {
                        true => more,
                        false => [&self.unread[..], &more].concat().into(),
                    };
                }
                _ => return self.keeps = false,
            }
        }
        std::future::pending().await
    }

    // === the answer ===

    /// Says whether another request may follow.
    pub(in crate::proxy) fn set_keepalive(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Asks for the body of a client that waits to be asked.
    pub(in crate::proxy) async fn write_continue(&mut self) -> pingora::Result<()> {
        self.waits = false;
        self.line
            .send(&[b"HTTP/1.1 100 Continue\r\n\r\n"], false)
            .await
    }

    /// Sends the head of an answer; if a piece of it `follows` at once, together with that.
    pub(in crate::proxy) async fn write_head(
        &mut self,
        head: &Parts,
        follows: bool,
    ) -> pingora::Result<()> {
        self.answer = self.framing(head);
        let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
        // a body that was not asked for may come or not: what follows is anybody's guess
        let unclear = self.waits && !self.is_body_done();
        self.keeps &= self.answer != Answer::Close && !switching && !unclear;
        let bytes = self.written(head);
        self.line.hold(bytes);
        match follows {
            true => Ok(()),
            false => self.send(&[]).await,
        }
    }

    fn framing(&self, head: &Parts) -> Answer {
        let to_head = self
            .head
            .as_ref()
            .is_some_and(|head| head.method == Method::HEAD);
        if to_head || matches!(head.status.as_u16(), 204 | 304) || head.status.is_informational() {
            return Answer::Nothing;
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return Answer::Chunks;
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        length.map_or(Answer::Close, Answer::Length)
    }

    fn written(&self, head: &Parts) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ROOM);
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let reason = head.status.canonical_reason().unwrap_or_default();
        put(&[
            b"HTTP/1.1 ",
            head.status.as_str().as_bytes(),
            b" ",
            reason.as_bytes(),
            b"\r\n",
        ]);
        let interim = head.status.is_informational();
        for (name, value) in &head.headers {
            // these are ours to say
            if interim || !matches!(*name, header::DATE | header::CONNECTION) {
                put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        if !interim {
            let connection: &[u8] = if self.keeps { b"keep-alive" } else { b"close" };
            put(&[b"date: ", &date(), b"\r\nconnection: ", connection, b"\r\n"]);
        }
        put(&[b"\r\n"]);
        bytes
    }

    /// Sends a piece of the answer, with its end if this is the `last` one.
    pub(in crate::proxy) async fn write_body(
        &mut self,
        piece: &[u8],
        last: bool,
    ) -> pingora::Result<()> {
        let end: &[u8] = if last { b"0\r\n\r\n" } else { b"" };
        match self.answer {
            Answer::Chunks if piece.is_empty() => self.send(&[end]).await?,
            Answer::Chunks => {
                let size = Size::of(piece.len());
                let parts = [size.bytes(), piece, b"\r\n", end];
                self.send(&parts).await?;
            }
            Answer::Length(left) => {
                let count = left.min(piece.len() as u64);
                self.send(&[&piece[..count as usize]]).await?;
                self.answer = Answer::Length(left - count);
            }
            Answer::Close => self.send(&[piece]).await?,
            Answer::Head | Answer::Nothing | Answer::Over => {
                self.send(&[]).await?;
            }
        }
        if last {
            // one that is too short must not be taken for a whole one
            self.keeps &= !matches!(self.answer, Answer::Length(1..) | Answer::Head);
            self.answer = Answer::Over;
        }
        Ok(())
    }

    /// Sends what the client makes room for in time.
    async fn send(&mut self, parts: &[&[u8]]) -> pingora::Result<()> {
        let sending = self.line.send(parts, false);
        match alarm::within(WRITE_TIMEOUT, sending).await {
            Some(sent) => sent,
            None => Err(Error::explain(
                ErrorType::WriteTimedout,
                "a client takes nothing",
            )),
        }
    }

    // === the connection ===

    /// Whether the next request may be read.
    pub(in crate::proxy) fn is_reusable(&self) -> bool {
        self.keeps && self.is_body_done() && self.answer == Answer::Over
    }

    /// Says that nothing more comes.
    pub(in crate::proxy) async fn shutdown(&mut self) {
        self.line.end().await;
    }

    /// The bare connection, and what was read behind the head.
    pub(in crate::proxy) fn into_inner(self) -> (Stream, Bytes) {
        (self.line.bare.into(), self.unread)
    }
}

/// The head in the words that HTTP/2 is told in as well.
fn header_of(head: RequestHead) -> Result<RequestHeader, NoRequest> {
    if head.target.len() > LONGEST_TARGET {
        return Err(NoRequest::Target);
    }
    let plain = head.target.starts_with(b"/") && head.target.iter().all(u8::is_ascii_graphic);
    if plain {
        let path = PathAndQuery::from_maybe_shared(head.target).map_err(|_| NoRequest::Broken)?;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = head.method;
        parts.version = head.version;
        parts.headers = head.headers;
        parts.uri = Uri::from(path);
        return Ok(parts.into());
    }
    if !names_one_host(&head) {
        return Err(NoRequest::Broken);
    }
    let mut read =
        RequestHeader::build_no_case(head.method, &head.target, Some(head.headers.len()))
            .map_err(|_| NoRequest::Broken)?;
    read.set_version(head.version);
    for (name, value) in &head.headers {
        read.append_header(name.clone(), value.clone())
            .map_err(|_| NoRequest::Broken)?;
    }
    Ok(read)
}

/// Whether a target names one host, the one that `Host` names, or none (RFC 9112, section 3.2).
fn names_one_host(head: &RequestHead) -> bool {
    if matches!(head.target.first(), Some(b'/' | b'*')) || head.method == Method::CONNECT {
        return true;
    }
    let Ok(uri) = Uri::try_from(&head.target[..]) else {
        return false;
    };
    let Some(authority) = uri.authority().map(|authority| authority.as_str()) else {
        return false;
    };
    let host = head.headers.get(header::HOST);
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.contains('@')
        && host.is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
}

/// The date as answers carry it (RFC 9110, section 6.6.1), written once a second.
fn date() -> [u8; 29] {
    thread_local! {
        static LAST: RefCell<(u64, [u8; 29])> = const { RefCell::new((0, [b' '; 29])) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|last| {
        if last.0 != second {
            let text = httpdate::fmt_http_date(now);
            *last = (second, text.as_bytes().try_into().unwrap_or([b' '; 29]));
        }
        last.1
    })
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn a_date_is_one_that_others_read() {
        let text = String::from_utf8(date().to_vec()).unwrap();
        let read = httpdate::parse_http_date(&text).unwrap();
        assert!(read.elapsed().unwrap().as_secs() < 5, "{text}");
    }
}
