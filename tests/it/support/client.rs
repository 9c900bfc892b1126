//! A plain HTTP/1.1 client, which sends exactly what it is told and shows exactly what came back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A request to be sent.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunks: Option<usize>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body ended where its framing says, not where the connection broke.
    pub whole: bool,
    pub took: Duration,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Request {
            method: method.into(),
            target: target.into(),
            headers: vec![("host".into(), "edge.test".into())],
            body: Vec::new(),
            chunks: None,
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn json(target: &str, body: &str) -> Self {
        Self::new("POST", target)
            .header("content-type", "application/json")
            .body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks of this size, without a length.
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunks = Some(size);
        self
    }

    /// The bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        match self.chunks {
            Some(size) => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(size) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
            None => {
                if !self.body.is_empty() || self.method == "POST" {
                    out.extend_from_slice(
                        format!("content-length: {}\r\n", self.body.len()).as_bytes(),
                    );
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&self.body);
            }
        }
        out
    }

    /// Sends it on a connection of its own.
    #[track_caller]
    pub fn send(&self, to: SocketAddr) -> Answer {
        let mut stream = connect(to);
        self.send_on(&mut stream)
    }

    /// Sends it on a connection that stays open.
    #[track_caller]
    pub fn send_on(&self, stream: &mut TcpStream) -> Answer {
        let started = Instant::now();
        let bytes = self.bytes();
        // an early refusal may close the connection while we still send
        let sender = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let _ = (&sender).write_all(&bytes);
        });
        let answer = read_answer(stream, self.method == "HEAD", started);
        let _ = writing.join();
        answer
    }
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

/// A multipart form: fields, then the file if its name is not empty. `file_first` puts it in front.
pub fn form(fields: &[(&str, &str)], file: &[u8], file_first: bool) -> (String, Vec<u8>) {
    let mut parts: Vec<Vec<u8>> = fields
        .iter()
        .map(|(name, value)| {
            format!(
                "--BOUNDARY\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
            .into_bytes()
        })
        .collect();
    let mut part = b"--BOUNDARY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n".to_vec();
    part.extend_from_slice(file);
    part.extend_from_slice(b"\r\n");
    parts.insert(if file_first { 0 } else { parts.len() }, part);
    parts.push(b"--BOUNDARY--\r\n".to_vec());
    (
        "multipart/form-data; boundary=BOUNDARY".into(),
        parts.concat(),
    )
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// `error.code` of the body.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Reads one answer; a connection that breaks gives what there was.
#[track_caller]
pub fn read_answer(stream: &mut TcpStream, head_only: bool, started: Instant) -> Answer {
    let mut reader = Reader {
        stream,
        buffer: Vec::new(),
    };
    let (status, headers) = loop {
        let head = reader.until(b"\r\n\r\n").unwrap_or_default();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status: u16 = lines
            .next()
            .and_then(|l| l.split(' ').nth(1))
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        if status != 100 {
            break (status, headers);
        }
    };
    let header = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let bodyless = head_only || status == 0 || status == 204 || status == 304;
    let (body, whole) = if bodyless {
        (Vec::new(), status != 0)
    } else if header("transfer-encoding").is_some() {
        reader.chunks()
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().unwrap();
        let body = reader.exactly(length);
        let whole = body.len() == length;
        (body, whole)
    } else {
        (reader.rest(), true)
    };
    Answer {
        status,
        headers,
        body,
        whole,
        took: started.elapsed(),
    }
}

struct Reader<'a> {
    stream: &'a mut TcpStream,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 65536];
        let n = self.stream.read(&mut piece).ok()?;
        self.buffer.extend_from_slice(&piece[..n]);
        (n > 0).then_some(())
    }

    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            self.fill()?;
        }
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length && self.fill().is_some() {}
        let length = length.min(self.buffer.len());
        self.buffer.drain(..length).collect()
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.until(b"\r\n") else {
                return (body, false);
            };
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let Ok(size) = usize::from_str_radix(&text, 16) else {
                return (body, false);
            };
            let data = self.exactly(size + 2);
            let whole = data.len() == size + 2;
            body.extend_from_slice(&data[..size.min(data.len())]);
            if !whole || size == 0 {
                return (body, whole);
            }
        }
    }

    fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_some() {}
        std::mem::take(&mut self.buffer)
    }
}
