//! The request that is sent: made once, and where asked for another one each time.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::args::Args;

/// Eight digits that count where requests differ.
pub(crate) const MARK: &str = "10000000";

pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    marks: Vec<usize>,
    others: u64,
    sent: u64,
}

impl Request {
    /// With `--path`, `--body FILE`, `--get`, `--header "name: value"`, and `--vary N`: each
    /// `10000000` becomes 10000000 + 0, 1, …, N - 1, and so on from the start.
    pub(crate) fn from_options(args: &mut Args) -> Result<Self, String> {
        let path: String = args.get("path", "/v1/chat/completions".to_owned())?;
        let body = match args.find::<String>("body")? {
            Some(file) => std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?,
            None => Vec::new(),
        };
        let method = if args.flag("get") { "GET" } else { "POST" };
        let headers = args.all("header")?;
        let others = args.get("vary", 1)?;
        Ok(Request::new(method, &path, &headers, &body, others))
    }

    pub(crate) fn new(
        method: &str,
        path: &str,
        headers: &[String],
        body: &[u8],
        others: u64,
    ) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\n");
        if method != "GET" {
            let length = body.len();
            let _ = write!(
                head,
                "content-type: application/json\r\ncontent-length: {length}\r\n"
            );
        }
        for header in headers {
            let _ = write!(head, "{header}\r\n");
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), body].concat();
        let found = bytes.windows(MARK.len()).enumerate();
        let marks = match others {
            0 | 1 => Vec::new(),
            _ => found
                .filter(|(_, text)| *text == MARK.as_bytes())
                .map(|(at, _)| at)
                .collect(),
        };
        Request {
            bytes,
            marks,
            others: others.max(1),
            sent: 0,
        }
    }

    pub(crate) fn varies(&self) -> bool {
        !self.marks.is_empty()
    }

    /// What is to be sent now.
    pub(crate) fn next(&mut self) -> &[u8] {
        if self.varies() {
            let number = 10_000_000 + self.sent % self.others;
            let digits = number.to_string();
            for mark in &self.marks {
                self.bytes[*mark..mark + MARK.len()].copy_from_slice(&digits.as_bytes()[..8]);
            }
        }
        self.sent += 1;
        &self.bytes
    }
}

/// `--to ADDRESS`, or a port of this machine.
pub(crate) fn target(args: &mut Args) -> Result<SocketAddr, String> {
    let to: String = args.need("to")?;
    let address = match to.contains(':') {
        true => to,
        false => format!("127.0.0.1:{to}"),
    };
    address
        .parse()
        .map_err(|_| format!("--to cannot be `{address}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_differ_where_they_are_marked() {
        let header = "authorization: Bearer k10000000".to_owned();
        let mut request = Request::new("POST", "/r10000000", &[header], b"{}", 2);
        let mut next = || String::from_utf8(request.next().to_vec()).unwrap();
        let first = next();
        assert!(first.starts_with("POST /r10000000 HTTP/1.1\r\n") && first.ends_with("\r\n\r\n{}"));
        let second = next();
        assert!(second.contains("/r10000001 ") && second.contains("k10000001\r\n"));
        assert_eq!(next(), first);
    }
}
