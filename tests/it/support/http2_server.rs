//! A fake server that speaks HTTP/2 only.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    pub uri: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What it does with a request.
pub enum Reply {
    /// A whole answer, piece by piece.
    Pieces(u16, &'static str, Vec<Bytes>),
    /// These pieces, and then a reset of the stream.
    Broken(&'static str, Vec<Bytes>),
    /// A reset instead of an answer.
    Refused,
}

/// It stops when dropped.
pub struct Http2Server {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    connections: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Http2Server {
    pub fn answering(reply: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let shared = (Arc::clone(&got), connections.clone(), Arc::new(reply));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (got, connections, reply) = shared.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, SeqCst);
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond, got.clone(), reply.clone()));
                    }
                });
            }
        });
        Http2Server {
            address,
            got,
            connections,
            _runtime: runtime,
        }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Handshakes that were finished.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn serve(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    all: Arc<Mutex<Vec<Got>>>,
    reply: Arc<impl Fn(&Got) -> Reply>,
) {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(piece)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    let headers = head.headers.iter();
    let got = Got {
        method: head.method.to_string(),
        uri: head.uri.to_string(),
        headers: headers
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into()))
            .collect(),
        body,
    };
    all.lock().unwrap().push(got.clone());
    let (status, kind, pieces, whole) = match reply(&got) {
        Reply::Pieces(status, kind, pieces) => (status, kind, pieces, true),
        Reply::Broken(kind, pieces) => (200, kind, pieces, false),
        Reply::Refused => return respond.send_reset(h2::Reason::REFUSED_STREAM),
    };
    let head = http::Response::builder()
        .status(status)
        .header("content-type", kind);
    let Ok(mut out) = respond.send_response(head.body(()).unwrap(), false) else {
        return;
    };
    for piece in pieces {
        out.reserve_capacity(piece.len());
        let _ = out.send_data(piece, false);
        tokio::task::yield_now().await;
    }
    if whole {
        let _ = out.send_data(Bytes::new(), true);
    } else {
        // what was sent has to be out before the reset overtakes it
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        out.send_reset(h2::Reason::INTERNAL_ERROR);
    }
}
