//! Just enough HTTP/1.1 for a stand-in: heads, bodies of both framings, kept connections.

use std::io;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::StandIn;
use super::answers::{self, Heard};

const MAX_HEAD: usize = 256 * 1024;
const READ: usize = 256 * 1024;

/// A request's head.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

/// The connection, as far as it was read.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
    /// Bytes of an answer's body that may still go out before the connection breaks.
    pub(super) cut: Option<usize>,
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, stand_in: StandIn) {
    let mut wire = Wire {
        stream,
        buffer: BytesMut::new(),
        cut: stand_in.knobs.cut,
    };
    while let Ok(Some(request)) = wire.request().await {
        let mut heard = Heard::new(&request);
        if wire.body(&request, &mut heard).await.is_err() {
            return;
        }
        if answers::answer(&mut wire, &request, heard, &stand_in)
            .await
            .is_err()
        {
            return;
        }
        let close = request
            .headers
            .get("connection")
            .is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"close"));
        if close {
            return;
        }
    }
}

impl Wire {
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut parsed = httparse::Request::new(&mut headers);
            let status = parsed
                .parse(&self.buffer)
                .map_err(|e| io::Error::other(e.to_string()))?;
            if let httparse::Status::Complete(length) = status {
                let request = Request {
                    method: parsed.method.unwrap_or_default().to_owned(),
                    path: parsed.path.unwrap_or_default().to_owned(),
                    headers: parsed
                        .headers
                        .iter()
                        .filter_map(|h| {
                            Some((
                                h.name.parse::<HeaderName>().ok()?,
                                HeaderValue::from_bytes(h.value).ok()?,
                            ))
                        })
                        .collect(),
                };
                self.buffer.advance(length);
                return Ok(Some(request));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(io::Error::other("the head is too long"));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn body(&mut self, request: &Request, heard: &mut Heard) -> io::Result<()> {
        let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
        if header("expect").is_some() {
            self.stream
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
        }
        if header("transfer-encoding").is_some() {
            loop {
                let size = self.line().await?;
                let size =
                    usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                        .map_err(|_| io::Error::other("a chunk without a size"))?;
                self.take(size, heard).await?;
                self.line().await?;
                if size == 0 {
                    return Ok(());
                }
            }
        }
        let length = header("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        self.take(length, heard).await
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(line);
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, mut length: usize, heard: &mut Heard) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let piece = self.buffer.split_to(length.min(self.buffer.len()));
            length -= piece.len();
            heard.take(&piece);
        }
        Ok(())
    }

    /// Sends a head; `length` is that of the body, `None` for chunks.
    pub(super) async fn head(
        &mut self,
        status: u16,
        content_type: &str,
        length: Option<usize>,
    ) -> io::Result<()> {
        let reason = http::StatusCode::from_u16(status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or("");
        let framing = match length {
            Some(length) => format!("content-length: {length}"),
            None => "transfer-encoding: chunked".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n{framing}\r\nx-trunkline-demo: true\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).await
    }

    /// Sends a whole answer.
    pub(super) async fn whole(
        &mut self,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<()> {
        self.head(status, content_type, Some(body.len())).await?;
        self.raw(body).await
    }

    /// Sends one chunk; an empty one is the end.
    pub(super) async fn chunk(&mut self, data: &[u8]) -> io::Result<()> {
        let mut framed = Vec::with_capacity(data.len() + 16);
        framed.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        framed.extend_from_slice(data);
        framed.extend_from_slice(b"\r\n");
        self.raw(&framed).await
    }

    async fn raw(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some(left) = &mut self.cut {
            let now = data.len().min(*left);
            *left -= now;
            self.stream.write_all(&data[..now]).await?;
            if now < data.len() {
                return Err(io::Error::other("cut as asked"));
            }
            return Ok(());
        }
        self.stream.write_all(data).await
    }
}
