//! HTTP/1 on both sides of a request: bare connections, and what is spoken on them.
//!
//! Ours, where HTTP/2 and TLS are Pingora's. Its session copies each value of a head, keeps a map
//! of names in two spellings, and a buffer of 64 KiB for each connection; it took about half of the
//! CPU of a small request. Here a head is written as bytes and goes out together with what stands
//! behind it, values share the memory they were read into, and what is read passes through one
//! buffer for each thread.

mod client;
mod upstream;

pub(super) use client::{Client, NoRequest};
pub(super) use upstream::{Opening, Sent, Upstream};

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as TcpLayer;
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that wait at most for those behind them.
const WAITING: usize = 16 * 1024;
/// Bytes that are read at once.
const READ: usize = 64 * 1024;

thread_local! {
    /// What is read stands here until it is known how much it is, and what is sent in parts until it
    /// is sent.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// The bare connection.
pub(crate) enum Bare {
    Tcp(TcpStream),
    /// With TLS, as Pingora made it.
    Layered(Stream),
}

impl From<Bare> for Stream {
    fn from(bare: Bare) -> Stream {
        match bare {
            Bare::Tcp(tcp) => Box::new(TcpLayer::from(tcp)),
            Bare::Layered(stream) => stream,
        }
    }
}

/// A connection, with the bytes that go out together with the next ones.
pub(super) struct Line {
    bare: Bare,
    waiting: Vec<u8>,
}

impl Line {
    pub(super) fn new(bare: Bare) -> Self {
        Line {
            bare,
            waiting: Vec::new(),
        }
    }

    /// Lets these wait; nothing else does.
    fn hold(&mut self, bytes: Vec<u8>) {
        self.waiting = bytes;
    }

    /// Sends what waits, and these parts behind it. If something `follows` at once, and there is
    /// not much, all of it waits.
    async fn send(&mut self, parts: &[&[u8]], follows: bool) -> pingora::Result<()> {
        let unsent = |error| Error::because(ErrorType::WriteError, "sending", error);
        let all: usize = self.waiting.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if all == 0 {
            return Ok(());
        }
        let layered = matches!(self.bare, Bare::Layered(_));
        // with TLS each write is a record of its own
        if all <= WAITING && (follows || layered) {
            for part in parts {
                self.waiting.extend_from_slice(part);
            }
            if follows {
                return Ok(());
            }
        }
        let parts = if all <= WAITING && layered {
            &[][..]
        } else {
            parts
        };
        let mut done = 0;
        while done < all {
            let sending = poll_fn(|cx| self.poll_send(cx, parts, done));
            done += sending.await.map_err(unsent)?;
        }
        self.waiting = Vec::new();
        match &mut self.bare {
            Bare::Tcp(_) => Ok(()),
            Bare::Layered(stream) => stream.flush().await.map_err(unsent),
        }
    }

    /// Writes what is behind the first `done` bytes of what waits and these parts.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[&[u8]],
        done: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); 5];
        let (mut count, mut passed) = (0, done);
        for part in std::iter::once(self.waiting.as_slice()).chain(parts.iter().copied()) {
            let left = &part[passed.min(part.len())..];
            passed -= part.len() - left.len();
            if !left.is_empty() && count < slices.len() {
                slices[count] = IoSlice::new(left);
                count += 1;
            }
        }
        let slices = &slices[..count];
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let sent = match &mut self.bare {
            Bare::Layered(stream) => Pin::new(stream).poll_write(cx, &slices[0]),
            Bare::Tcp(tcp) if count == 1 => Pin::new(tcp).poll_write(cx, &slices[0]),
            // to copy a little costs less than to have the system gather it
            Bare::Tcp(tcp) if all <= WAITING => SCRATCH.with_borrow_mut(|scratch| {
                let mut end = 0;
                for slice in slices {
                    scratch[end..end + slice.len()].copy_from_slice(slice);
                    end += slice.len();
                }
                Pin::new(tcp).poll_write(cx, &scratch[..end])
            }),
            Bare::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
        };
        match ready!(sent)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            sent => Poll::Ready(Ok(sent)),
        }
    }

    /// Reads what has come; nothing at the end. A read that is given up has taken nothing.
    async fn read(&mut self) -> pingora::Result<Bytes> {
        let read = poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(self.poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
            })
        });
        let unread = |error: io::Error| Error::because(ErrorType::ReadError, "reading", error);
        read.await.map_err(unread)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.bare {
            Bare::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Bare::Layered(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    /// Whether the other side has neither closed it nor said anything.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.bare {
            Bare::Tcp(tcp) => {
                matches!(tcp.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            Bare::Layered(_) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let mut buffer = ReadBuf::new(&mut byte);
                self.poll_read(&mut cx, &mut buffer).is_pending()
            }
        }
    }

    /// Says that nothing more comes from us.
    async fn end(&mut self) {
        let _ = match &mut self.bare {
            Bare::Tcp(tcp) => tcp.shutdown().await,
            Bare::Layered(stream) => stream.shutdown().await,
        };
    }
}

/// A chunk's size as it stands before it.
struct Size([u8; 18], usize);

impl Size {
    fn of(length: usize) -> Self {
        let mut size = Size([0; 18], 0);
        let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
        for n in (0..digits).rev() {
            let digit = (length >> (4 * n)) & 15;
            size.0[size.1] = b"0123456789abcdef"[digit];
            size.1 += 1;
        }
        size.0[size.1] = b'\r';
        size.0[size.1 + 1] = b'\n';
        size.1 += 2;
        size
    }

    fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// The beginning of a head.
#[derive(Default)]
struct Begun(BytesMut);

impl Begun {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is read so far, with `more`; `None` if that cannot be a whole head. It is looked at when
    /// it has begun, for what is none, and when it may be whole: not for every byte of one that
    /// comes byte by byte.
    ///
    /// # Errors
    /// If it is longer than `most`.
    fn with(&mut self, more: Bytes, most: usize) -> Result<Option<Bytes>, TooLong> {
        if self.0.is_empty() {
            return Ok(Some(more));
        }
        let before = self.0.len().saturating_sub(3);
        self.0.extend_from_slice(&more);
        if self.0.len() > most {
            return Err(TooLong);
        }
        let whole = ends(&self.0[before..]);
        Ok(whole.then(|| std::mem::take(&mut self.0).freeze()))
    }

    /// Keeps what is no whole head yet.
    fn keep(&mut self, bytes: Bytes) {
        self.0 = BytesMut::from(bytes);
    }
}

/// A head has more bytes than it may have.
struct TooLong;

/// Whether an empty line is in there, as where a head ends.
fn ends(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_written_as_other_readers_read_them() {
        for length in [1, 9, 15, 16, 255, 256, 4095, 65_536, usize::MAX] {
            assert_eq!(
                Size::of(length).bytes(),
                format!("{length:x}\r\n").as_bytes()
            );
        }
    }
}
