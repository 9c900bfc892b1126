//! The body of a request on its way through: read when it is wanted, kept so that another server
//! can have it again.
//!
//! What is kept is bounded: the first MiB stays in memory, the rest goes to a file without a name
//! in the system's temporary folder, which vanishes with the request or with the program. So a
//! request holds some 2 MiB at most, however large its body is, and a body of any allowed size
//! can be replayed. A body that nobody asked to read ahead is passed on while it arrives.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora::{Error, ErrorType};

use super::exchange::Stop;
use super::session::Session;
use super::slow::{self, Slow};
use crate::config::Limits;
use crate::inspect::audio::AudioMeter;
use crate::inspect::{Body, BodyError, Scanner};
use crate::limit::Pace;
use crate::reply;

/// Bytes of a body kept in memory.
const IN_MEMORY: u64 = 1024 * 1024;
/// Bytes written to the file, and read from it, at once.
const BLOCK: usize = 256 * 1024;
/// Pieces smaller than this are put together. Each piece kept by itself costs some 100 bytes.
const CRUMB: usize = 4096;
/// How long a client may take to notice that its body is not wanted.
const LINGER: Duration = Duration::from_secs(2);

/// The body of one request.
pub(super) struct Upload {
    /// What `Content-Length` says; `None` for a chunked body.
    declared: Option<u64>,
    /// Largest allowed length in bytes.
    limit: u64,
    expects_continue: bool,
    /// How long a client may take to send the next bytes; `None` for as long as it likes.
    timeout: Option<Duration>,
    pace: Pace,
    received: u64,
    complete: bool,
    /// Since when all of it is here.
    completed: Option<Instant>,
    /// The beginning, piece by piece, each with its offset.
    pieces: Vec<(u64, Bytes)>,
    /// Small pieces behind those, put together: a body that comes byte by byte must not cost a
    /// hundred times its size.
    crumbs: BytesMut,
    spool: Option<Spool>,
}

/// The part of a body beyond what memory holds.
struct Spool {
    file: Arc<File>,
    /// Offset in the body of the file's first byte.
    start: u64,
    /// Bytes in the file.
    written: u64,
    /// Bytes that are not in the file yet.
    pending: BytesMut,
}

impl Upload {
    pub(super) fn new(session: &mut Session, limits: &Limits) -> Self {
        let complete = session.is_body_empty();
        let headers = &session.req_header().headers;
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        // who speaks HTTP/1.0 knows no interim answer (RFC 9110, section 10.1.1)
        let expects = headers.contains_key(header::EXPECT)
            && session.req_header().version != Version::HTTP_10;
        Upload {
            declared: if complete {
                Some(0)
            } else {
                declared.filter(|_| !chunked)
            },
            limit: u64::MAX,
            expects_continue: expects,
            timeout: limits.body_timeout,
            pace: slow::pace(limits),
            received: 0,
            complete,
            completed: complete.then(Instant::now),
            pieces: Vec::new(),
            crumbs: BytesMut::new(),
            spool: None,
        }
    }

    /// The length, if it is known by now.
    pub(super) fn length(&self) -> Option<u64> {
        if self.complete {
            Some(self.received)
        } else {
            self.declared
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// All of it once more, for somebody who reads it later.
    pub(super) fn copy(&self) -> Upload {
        let spool = self.spool.as_ref().map(|spool| Spool {
            file: spool.file.clone(),
            start: spool.start,
            written: spool.written,
            pending: spool.pending.clone(),
        });
        Upload {
            pieces: self.pieces.clone(),
            crumbs: self.crumbs.clone(),
            spool,
            ..*self
        }
    }

    /// Nothing of it was read yet, and nobody waits to be asked for it.
    pub(super) fn may_be_at_hand(&self) -> bool {
        !self.complete && self.received == 0 && !self.expects_continue
    }

    /// Since when all of it is here.
    pub(super) fn completed(&self) -> Option<Instant> {
        self.completed
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Sets the largest allowed length, which may already be passed.
    pub(super) fn limit(&mut self, limit: u64) -> Result<(), Stop> {
        self.limit = limit;
        if self.length().unwrap_or(self.received) > limit {
            return Err(reply::body_too_large(limit).into());
        }
        Ok(())
    }

    /// Reads all of it; `scanner` sees it pass by.
    pub(super) async fn read_ahead(
        &mut self,
        session: &mut Session,
        mut scanner: Option<Scanner>,
    ) -> Result<Option<Body>, Stop> {
        let refuse = |broken: BodyError| Stop::from(reply::invalid_body(&broken));
        let mut offset = 0;
        while let Some(piece) = self.next(session, offset).await? {
            offset += piece.len() as u64;
            if let Some(scanner) = &mut scanner {
                scanner.feed(&piece).map_err(refuse)?;
            }
        }
        scanner.map(Scanner::finish).transpose().map_err(refuse)
    }

    /// The piece that starts at `offset`: a kept one, or the next that arrives. `None` at the end.
    pub(super) async fn next(
        &mut self,
        session: &mut Session,
        offset: u64,
    ) -> Result<Option<Bytes>, Stop> {
        if offset < self.received {
            return self.again(offset).await;
        }
        if self.complete {
            return Ok(None);
        }
        if std::mem::take(&mut self.expects_continue) {
            session
                .write_continue()
                .await
                .map_err(|_| Stop::ClientGone)?;
        }
        let Some(piece) = self.read(session).await? else {
            self.complete = true;
            self.completed = Some(Instant::now());
            return Ok(None);
        };
        self.received += piece.len() as u64;
        if self.received > self.limit {
            return Err(reply::body_too_large(self.limit).into());
        }
        self.complete = session.is_body_done();
        self.completed = self.complete.then(Instant::now);
        self.keep(piece.clone())
            .await
            .map_err(|e| spool_failed(&e))?;
        Ok(Some(piece))
    }

    /// The same for a body that is complete.
    pub(super) async fn again(&self, offset: u64) -> Result<Option<Bytes>, Stop> {
        if offset >= self.received {
            return Ok(None);
        }
        let kept = self.kept(offset).await;
        kept.map(Some).map_err(|e| spool_failed(&e))
    }

    /// How long the audio plays that stands there, if its header tells. Long files are not read
    /// again for this: what memory holds has to be enough.
    pub(super) async fn audio(&self, file: Range<u64>) -> Option<Duration> {
        if self.spool.is_some() {
            return None;
        }
        let mut meter = AudioMeter::new(None);
        let mut at = file.start;
        while at < file.end {
            let piece = self.again(at).await.ok()??;
            let piece = piece.slice(..piece.len().min((file.end - at) as usize));
            at += piece.len() as u64;
            meter.feed(&piece);
        }
        meter.duration()
    }

    /// The next bytes from the client. HTTP/2 may end a body with a piece that is empty, which
    /// must not go on: as a chunk it would end the body a second time (pingora issue 935).
    async fn read(&mut self, session: &mut Session) -> Result<Option<Bytes>, Stop> {
        loop {
            let reading = pin!(session.read_body());
            let read = match slow::in_time(self.timeout, &mut self.pace, 0, reading).await {
                Ok(read) => read.map_err(|error| not_received(&error))?,
                Err(Slow::Silent) => return Err(reply::request_timeout().into()),
                Err(Slow::Dripping) => return Err(reply::too_slow(self.pace.least()).into()),
            };
            match read {
                Some(piece) if piece.is_empty() => {}
                piece => {
                    let bytes = piece.as_ref().map_or(0, Bytes::len);
                    self.pace.moved(bytes, Duration::ZERO);
                    return Ok(piece);
                }
            }
        }
    }

    async fn keep(&mut self, piece: Bytes) -> io::Result<()> {
        let start = self.received - piece.len() as u64;
        if self.spool.is_none() && self.received <= IN_MEMORY {
            if piece.len() < CRUMB {
                self.crumbs.extend_from_slice(&piece);
                if self.crumbs.len() >= BLOCK {
                    self.sweep(self.received);
                }
            } else {
                self.sweep(start);
                self.pieces.push((start, piece));
            }
            return Ok(());
        }
        self.sweep(start);
        if self.spool.is_none() {
            let file = blocking(tempfile::tempfile).await?;
            self.spool = Some(Spool {
                file: Arc::new(file),
                start,
                written: 0,
                pending: BytesMut::new(),
            });
        }
        let spool = self.spool.as_mut().expect("made above");
        spool.pending.extend_from_slice(&piece);
        if spool.pending.len() >= BLOCK {
            let (file, at) = (spool.file.clone(), spool.written);
            let block = spool.pending.split().freeze();
            spool.written += block.len() as u64;
            blocking(move || file.write_all_at(&block, at)).await?;
        }
        Ok(())
    }

    /// Makes the crumbs, which reach to `end`, a piece.
    fn sweep(&mut self, end: u64) {
        if !self.crumbs.is_empty() {
            let piece = self.crumbs.split().freeze();
            self.pieces.push((end - piece.len() as u64, piece));
        }
    }

    async fn kept(&self, offset: u64) -> io::Result<Bytes> {
        if let Some(spool) = self.spool.as_ref().filter(|spool| offset >= spool.start) {
            let at = offset - spool.start;
            if at >= spool.written {
                return Ok(Bytes::copy_from_slice(
                    &spool.pending[(at - spool.written) as usize..],
                ));
            }
            let (file, length) = (spool.file.clone(), BLOCK.min((spool.written - at) as usize));
            return blocking(move || {
                let mut block = vec![0; length];
                file.read_exact_at(&mut block, at)?;
                Ok(block.into())
            })
            .await;
        }
        let crumbs_start = self.received - self.crumbs.len() as u64;
        if self.spool.is_none() && offset >= crumbs_start {
            return Ok(Bytes::copy_from_slice(
                &self.crumbs[(offset - crumbs_start) as usize..],
            ));
        }
        let n = self.pieces.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, piece) = &self.pieces[n];
        Ok(piece.slice((offset - start) as usize..))
    }

    /// Reads on for a moment after an answer went out that did not want the whole body: a client
    /// that is still sending when the connection closes may never see the answer.
    pub(super) async fn linger(&self, session: &mut Session) {
        if self.complete || session.is_body_done() {
            return;
        }
        let drained = tokio::time::timeout(LINGER, session.drain_body()).await;
        if !matches!(drained, Ok(Ok(()))) {
            session.set_keepalive(false);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn spool_failed(error: &io::Error) -> Stop {
    log::error!(
        "a request body cannot be kept in {}: {error}",
        std::env::temp_dir().display()
    );
    reply::internal_error("The request body could not be stored.").into()
}

fn not_received(error: &Error) -> Stop {
    match error.etype() {
        ErrorType::ReadTimedout => reply::request_timeout().into(),
        // the framing errors of Pingora's body reader are custom types
        ErrorType::InvalidHTTPHeader
        | ErrorType::H1Error
        | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
            reply::invalid_request("The chunks of the request body are broken.").into()
        }
        _ => Stop::ClientGone,
    }
}
