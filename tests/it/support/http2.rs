//! An HTTP/2 client that shows what matters of the frames: pieces, ends, resets.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Answer;

/// Bytes an answer may be ahead of its reader.
pub const WINDOW: u32 = 1024 * 1024;

/// A connection.
pub struct Http2 {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A request on it. Dropped before its end it is cancelled.
pub struct Exchange<'a> {
    connection: &'a Http2,
    request: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    started: Instant,
}

/// What `work` gives within a minute.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), work).await {
        Ok(done) => done,
        Err(_) => panic!("not in a minute: {what}"),
    }
}

async fn connected(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Http2 {
    /// Without TLS, by prior knowledge.
    pub fn plain(to: SocketAddr) -> Self {
        Self::on(connected(to))
    }

    /// With TLS, where it must be what was negotiated.
    pub fn tls(to: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        Self::on(async move {
            let stream = connected(to).await;
            let name = ServerName::try_from("localhost").unwrap();
            let connector = tokio_rustls::TlsConnector::from(config);
            let stream = connector.connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            stream
        })
    }

    fn on<S>(connecting: impl Future<Output = S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, driver) = runtime.block_on(soon("a connection", async {
            let stream = connecting.await;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake(stream)
                .await
                .unwrap();
            (sender, tokio::spawn(connection))
        }));
        Http2 {
            runtime,
            sender,
            driver,
        }
    }

    /// Sends a head to `http://edge.test`; a body follows unless `end`.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Exchange<'_> {
        self.open_at("edge.test", method, path, headers, end)
    }

    pub fn open_at(
        &self,
        authority: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Exchange<'_> {
        let mut head = http::Request::builder()
            .version(http::Version::HTTP_2)
            .method(method)
            .uri(format!("http://{authority}{path}"));
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let sender = self.sender.clone();
        let (response, request) = self.runtime.block_on(soon("room for a stream", async {
            let mut sender = sender.ready().await.unwrap();
            sender.send_request(head.body(()).unwrap(), end).unwrap()
        }));
        Exchange {
            connection: self,
            request,
            response: Some(response),
            body: None,
            started: Instant::now(),
        }
    }

    /// A whole request and its answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut exchange = self.open(method, path, headers, body.is_empty());
        if !body.is_empty() {
            exchange.send(body, true);
        }
        exchange.finish()
    }

    /// Waits until the other side has closed the connection; why, if it was not in good order.
    pub fn wait_for_close(self) -> Option<String> {
        let Http2 {
            runtime,
            sender,
            driver,
        } = self;
        let ended = runtime.block_on(soon("the end of the connection", driver));
        drop(sender);
        ended.unwrap().err().map(|error| error.to_string())
    }
}

impl Exchange<'_> {
    /// Sends a part of the body, as fast as it is taken. An answer that comes first ends that.
    pub fn send(&mut self, body: &[u8], end: bool) {
        let request = &mut self.request;
        let mut rest = Bytes::copy_from_slice(body);
        self.connection.runtime.block_on(soon("an upload", async {
            while !rest.is_empty() {
                request.reserve_capacity(rest.len());
                let Some(Ok(room)) = poll_fn(|cx| request.poll_capacity(cx)).await else {
                    return;
                };
                let piece = rest.split_to(room.min(rest.len()));
                if request.send_data(piece, false).is_err() {
                    return;
                }
            }
            if end {
                let _ = request.send_data(Bytes::new(), true);
            }
        }));
    }

    /// Waits for the head of the answer.
    pub fn head(&mut self) -> http::response::Parts {
        let response = self.response.take().unwrap();
        let answer = self.connection.runtime.block_on(soon("a head", response));
        let (head, body) = answer.unwrap().into_parts();
        self.body = Some(body);
        head
    }

    /// The next piece of the answer, `None` at its end.
    pub fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let body = self.body.as_mut().unwrap();
        self.connection.runtime.block_on(soon("a piece", async {
            let piece = body.data().await.transpose()?;
            if let Some(piece) = &piece {
                let _ = body.flow_control().release_capacity(piece.len());
            }
            Ok(piece)
        }))
    }

    /// Cancels the request.
    pub fn reset(mut self) {
        self.request.send_reset(h2::Reason::CANCEL);
    }

    /// The whole answer, which is not whole if it was reset.
    pub fn finish(mut self) -> Answer {
        let head = match self.body {
            Some(_) => None,
            None => Some(self.head()),
        };
        let mut body = Vec::new();
        let whole = loop {
            match self.piece() {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let headers = head.iter().flat_map(|head| &head.headers);
        Answer {
            status: head.as_ref().map_or(0, |head| head.status.as_u16()),
            headers: headers
                .map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()))
                .collect(),
            body,
            whole,
            took: self.started.elapsed(),
        }
    }
}
