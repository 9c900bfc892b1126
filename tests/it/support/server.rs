//! A fake server on a real socket, which answers or misbehaves as a test wants.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of the connection it came on, from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Head and body as text, to look for what must not be there.
    pub fn text(&self) -> String {
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {v}"))
            .collect();
        format!(
            "{} {}\n{}\n\n{}",
            self.method,
            self.target,
            headers.join("\n"),
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// The connection of a request, for the answer.
pub struct Wire(pub TcpStream);

impl Wire {
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref());
        let _ = self.0.flush();
    }

    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} Status\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        self.raw([head.as_bytes(), body].concat());
    }

    pub fn json(&mut self, body: &str) {
        self.answer(200, &[("content-type", "application/json")], body);
    }

    /// A head for a body in chunks.
    pub fn chunked(&mut self, content_type: &str) {
        self.raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        ));
    }

    pub fn chunk(&mut self, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        self.raw([format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat());
    }

    pub fn end(&mut self) {
        self.raw("0\r\n\r\n");
    }

    /// Ends the connection with a reset instead of a proper end.
    pub fn reset(&mut self) {
        let socket = socket2::SockRef::from(&self.0);
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    /// Waits until the other side has closed; says whether it did within 10 s.
    pub fn wait_for_close(&mut self) -> bool {
        let _ = self.0.set_read_timeout(Some(Duration::from_secs(10)));
        let mut byte = [0; 1024];
        loop {
            match self.0.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A fake server. It stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    /// A second handle of each open connection, by number.
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    /// Its port: no other test's server gets it when this one is killed.
    _place: Option<Place>,
}

type Handler = dyn Fn(&Seen, &mut Wire) -> bool + Send + Sync;

impl Server {
    /// Answers each request by `handler`, which says whether the connection goes on.
    pub fn fake(handler: impl Fn(&Seen, &mut Wire) -> bool + Send + Sync + 'static) -> Self {
        let place = Place::new();
        let mut server = place.serve(handler);
        server._place = Some(place);
        server
    }

    /// The same at an address that was kept free.
    pub fn on(
        listener: TcpListener,
        handler: impl Fn(&Seen, &mut Wire) -> bool + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let server = Server {
            address,
            seen: Arc::default(),
            stop: Arc::default(),
            open: Arc::default(),
            _place: None,
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, stop, open) = (
            server.seen.clone(),
            server.stop.clone(),
            server.open.clone(),
        );
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if stop.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                open.lock()
                    .unwrap()
                    .insert(connection, stream.try_clone().unwrap());
                let (handler, seen, open) = (handler.clone(), seen.clone(), open.clone());
                std::thread::spawn(move || {
                    let stream = serve(stream, connection, &*handler, &seen);
                    // the connection ends when its last handle does
                    open.lock().unwrap().remove(&connection);
                    drop(stream);
                });
            }
        });
        server
    }

    /// Speaks before it was asked, with raw bytes, and closes.
    pub fn raw(bytes: &'static [u8]) -> Self {
        Self::fake(move |_, wire| {
            wire.raw(bytes);
            false
        })
    }

    /// Answers `{"served_by":name}`.
    pub fn named(name: &'static str) -> Self {
        Self::fake(move |_, wire| {
            wire.json(&format!("{{\"served_by\":\"{name}\"}}"));
            true
        })
    }

    /// Answers everything with a status and OpenAI's error shape.
    pub fn failing(status: u16) -> Self {
        Self::fake(move |_, wire| {
            let body = format!(
                "{{\"error\":{{\"message\":\"upstream says {status}\",\"type\":\"server_error\",\"param\":null,\"code\":null}}}}"
            );
            wire.answer(status, &[("content-type", "application/json")], body);
            true
        })
    }

    /// An address where nobody listens.
    pub fn refused() -> SocketAddr {
        // bound and never listened on: so it stays nobody's, whatever other tests bind meanwhile
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        std::mem::forget(socket);
        address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, those of the proxy itself left out.
    pub fn seen(&self) -> Vec<Seen> {
        let all = self.seen.lock().unwrap();
        all.iter()
            .filter(|seen| !seen.target.starts_with("/health") && !is_for_a_list(seen))
            .cloned()
            .collect()
    }

    /// The questions for models and voices so far.
    pub fn asked_for_lists(&self) -> Vec<Seen> {
        let all = self.seen.lock().unwrap();
        all.iter()
            .filter(|seen| is_for_a_list(seen))
            .cloned()
            .collect()
    }

    pub fn count(&self) -> usize {
        self.seen().len()
    }

    /// Stops as if the machine had gone: no new connections, and the open ones break.
    pub fn kill(&self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        for (_, stream) in self.open.lock().unwrap().drain() {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn is_for_a_list(seen: &Seen) -> bool {
    seen.header("user-agent")
        .is_some_and(|agent| agent.ends_with("(list of models)"))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address that refuses until a server is put there, and again when that is killed.
pub struct Place {
    pub address: SocketAddr,
    /// Bound and not listening, so that nobody else gets the port.
    _held: socket2::Socket,
}

impl Place {
    pub fn new() -> Self {
        let held = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        Place {
            address: held.local_addr().unwrap().as_socket().unwrap(),
            _held: held,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a server there, once the one before is gone.
    pub fn serve(
        &self,
        handler: impl Fn(&Seen, &mut Wire) -> bool + Send + Sync + 'static,
    ) -> Server {
        let mut listener = None;
        super::eventually("the address is free", || {
            listener = bound(self.address)
                .and_then(|socket| socket.listen(128).map(|()| socket))
                .ok();
            listener.is_some()
        });
        Server::on(listener.unwrap().into(), handler)
    }
}

/// An address that takes no connection and refuses none, as a host does that is switched off.
pub struct BlackHole {
    pub address: SocketAddr,
    _full: (socket2::Socket, Vec<TcpStream>),
}

impl BlackHole {
    pub fn new() -> Self {
        // a full backlog drops what comes
        let socket = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            held.push(stream);
            assert!(held.len() < 100);
        }
        BlackHole {
            address,
            _full: (socket, held),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn bound(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    handler: &Handler,
    all: &Mutex<Vec<Seen>>,
) -> TcpStream {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, connection) {
        all.lock().unwrap().push(seen.clone());
        let mut wire = Wire(stream);
        let goes_on = handler(&seen, &mut wire);
        stream = wire.0;
        if !goes_on {
            break;
        }
    }
    stream
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 65536];
    let n = stream.read(&mut piece).ok()?;
    buffer.extend_from_slice(&piece[..n]);
    (n > 0).then_some(())
}

/// Reads a request and its body; strict, so that a broken request shows.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        fill(stream, buffer)?;
    };
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (
        first.next().unwrap().to_owned(),
        first.next().unwrap().to_owned(),
    );
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let all = |name: &str| {
        headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect::<Vec<_>>()
    };
    assert!(all("host").len() == 1, "one Host: {head}");
    assert!(
        all("content-length").len() + all("transfer-encoding").len() <= 1,
        "one framing: {head}"
    );
    let mut body = Vec::new();
    if let Some(length) = all("content-length").first() {
        let length: usize = length.parse().unwrap();
        while buffer.len() < length {
            fill(stream, buffer)?;
        }
        body = buffer.drain(..length).collect();
    } else if !all("transfer-encoding").is_empty() {
        loop {
            let at = loop {
                match buffer.windows(2).position(|w| w == b"\r\n") {
                    Some(at) => break at,
                    None => fill(stream, buffer)?,
                }
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&buffer[..at]).unwrap(), 16).unwrap();
            while buffer.len() < at + 2 + size + 2 {
                fill(stream, buffer)?;
            }
            body.extend_from_slice(&buffer[at + 2..at + 2 + size]);
            buffer.drain(..at + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    }
    Some(Seen {
        method,
        target,
        headers,
        body,
        connection,
    })
}
