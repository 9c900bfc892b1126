//! A fake server that keeps every byte it gets, and reads it as the strictest parser would: what it
//! cannot read, some other server reads in a way of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it arrived, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub method: String,
    pub target: String,
    /// Names and values as they were written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub chunked: bool,
}

#[derive(Default)]
pub struct Kept {
    pub requests: Vec<Arrived>,
    /// What was not in normal form, and the bytes.
    pub faults: Vec<String>,
}

/// The server. Its threads end with the connections of the proxy.
pub struct Strict {
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

impl Strict {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let own = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let own = own.clone();
                std::thread::spawn(move || serve(stream, address, &own));
            }
        });
        Strict { address, kept }
    }

    /// What came since this was asked last.
    pub fn take(&self) -> Kept {
        std::mem::take(&mut *self.kept.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, address: SocketAddr, kept: &Mutex<Kept>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut bytes = Vec::new();
    loop {
        match request(&bytes, address) {
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                kept.lock().unwrap().requests.push(request);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            Ok(None) => {}
            Err(fault) => {
                let fault = format!("{fault}: {}", bytes.escape_ascii());
                return kept.lock().unwrap().faults.push(fault);
            }
        }
        let mut piece = [0; 65536];
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

fn is_token(text: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(plain)
}

/// The first request and its length, if it is whole, in the one normal form there is.
fn request(bytes: &[u8], address: SocketAddr) -> Result<Option<(Arrived, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    if head.iter().enumerate().any(|(n, b)| match b {
        b'\n' => n == 0 || head[n - 1] != b'\r',
        b'\r' => head.get(n + 1) != Some(&b'\n'),
        // is part of a value
        b'\t' => false,
        b => b.is_ascii_control(),
    }) {
        return Err("a control character in the head".into());
    }
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let [method, target, "HTTP/1.1"] = first[..] else {
        return Err("a request line of another form".into());
    };
    let is_plain = target.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !is_token(method.as_bytes()) || !target.starts_with('/') || !is_plain {
        return Err("a method or a target of another form".into());
    }
    let mut headers = Vec::new();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else {
            return Err(format!("`{line}` is no header"));
        };
        if !is_token(name.as_bytes()) || name.contains('_') || value.trim() != value {
            return Err(format!("`{line}` is a header of another form"));
        }
        *count.entry(name.to_ascii_lowercase()).or_default() += 1;
        headers.push((name.to_owned(), value.to_owned()));
    }
    let value = |name: &str| {
        let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    };
    if value("host") != Some(address.to_string().as_str()) {
        return Err("its host is not that of the server".into());
    }
    for single in [
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "x-forwarded-for",
    ] {
        if count.get(single).is_some_and(|n| *n > 1) {
            return Err(format!("more than one {single}"));
        }
    }
    let socket = value("connection") == Some("upgrade") && value("upgrade") == Some("websocket");
    for gone in [
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
        "proxy-connection",
        "proxy-authorization",
    ] {
        if count.contains_key(gone) && !(socket && matches!(gone, "connection" | "upgrade")) {
            return Err(format!("{gone} belongs to another hop"));
        }
    }
    let start = end + 4;
    let framing = (value("content-length"), value("transfer-encoding"));
    let (body, length) = match framing {
        (None, None) => (Vec::new(), start),
        (Some(digits), None) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let length: usize = digits.parse().map_err(|_| "its length is too long")?;
            if bytes.len() < start + length {
                return Ok(None);
            }
            (bytes[start..start + length].to_vec(), start + length)
        }
        (None, Some("chunked")) => match chunks(&bytes[start..])? {
            Some((body, length)) => (body, start + length),
            None => return Ok(None),
        },
        _ => return Err("its framing has no one meaning".into()),
    };
    let request = Arrived {
        method: method.into(),
        target: target.into(),
        chunked: framing.1.is_some(),
        headers,
        body,
    };
    Ok(Some((request, length)))
}

/// A body and its length with the chunks around it: sizes in hexadecimal and nothing else, no
/// trailers.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let digits = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let plain = !digits.is_empty() && digits.len() < 9;
        if !plain || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("`{digits}` is no size of a chunk"));
        }
        let size = usize::from_str_radix(&digits, 16).unwrap();
        let start = at + line + 2;
        let Some(piece) = bytes.get(start..start + size + 2) else {
            return Ok(None);
        };
        if &piece[size..] != b"\r\n" {
            return Err("a chunk without its end, or a trailer".into());
        }
        body.extend_from_slice(&piece[..size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
