//! A plain request to a server on this machine or nearby: for the search for boxes, where Pingora's
//! pools and TLS would be out of place.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Status and body of `GET path`; `None` if there is no answer in time.
pub(crate) async fn get(address: SocketAddr, path: &str, limit: Duration) -> Option<(u16, String)> {
    ask(address, "GET", path, limit).await
}

/// The same with any method that has no body.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    limit: Duration,
) -> Option<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // many leave the connection open though they are asked not to
        loop {
            if let Some(whole) = parsed(&answer, false)? {
                return Some(whole);
            }
            let n = stream.read_buf(&mut answer).await.ok()?;
            if n == 0 || answer.len() > MAX_ANSWER {
                return parsed(&answer, true)?;
            }
        }
    };
    tokio::time::timeout(limit, asking).await.ok()?
}

/// Status and body, if they are whole; the outer `None` if it is no HTTP. `ended`: nothing follows.
fn parsed(answer: &[u8], ended: bool) -> Option<Option<(u16, String)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(from) = head.parse(answer).ok()? else {
        return Some(None);
    };
    let header = |name: &str| {
        let mut all = head.headers.iter();
        let found = all.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body = &answer[from..];
    let chunked = header("transfer-encoding").is_some_and(|how| how.contains("chunked"));
    let length: Option<usize> = header("content-length").and_then(|n| n.trim().parse().ok());
    let (body, whole) = match (chunked, length) {
        (true, _) => chunks(body)?,
        (false, Some(length)) => (body.to_vec(), body.len() >= length),
        (false, None) => (body.to_vec(), false),
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    Some((whole || ended).then_some((head.code?, text)))
}

/// The body in the chunks, and whether the last one is there.
fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((from, size)) = httparse::parse_chunk_size(rest).ok()?
        else {
            return Some((body, false));
        };
        let end = from.checked_add(usize::try_from(size).ok()?)?;
        let Some(piece) = rest.get(from..end).filter(|_| size > 0) else {
            return Some((body, size == 0));
        };
        body.extend_from_slice(piece);
        rest = rest.get(end + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_framing_says_so() {
        let whole = Some(Some((200, "hello".to_owned())));
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", &whole),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
                &whole,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe",
                &Some(None),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
                &Some(None),
            ),
            ("HTTP/1.1 200 OK\r\n\r\nhello", &Some(None)),
            ("HTTP/1.1 20", &Some(None)),
            ("SSH-2.0-OpenSSH\r\n", &None),
        ] {
            assert_eq!(&parsed(text.as_bytes(), false), expected, "{text}");
        }
        assert_eq!(parsed(b"HTTP/1.1 200 OK\r\n\r\nhello", true), whole);
    }
}
