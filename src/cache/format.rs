//! An answer as bytes, for places outside of this program: it holds its own length and checksum, so
//! that what was cut or changed is known for what it is.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::key::Hasher;
use super::{Headers, Stored};

/// What it starts with; another number is another format.
const MAGIC: &[u8; 8] = b"trunkc1\n";
/// Magic, checksum, the time it was born, and the lengths of headers and body.
pub(super) const FIXED: usize = 8 + 32 + 8 + 8 + 8;
/// Longest head of headers that is read back.
pub(super) const LONGEST_HEADERS: u64 = 64 * 1024;

fn checksum(rest: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new("kept answer");
    hasher.part(rest).part(body);
    hasher.finish()
}

/// All of it before the body.
pub(super) fn head(stored: &Stored) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in &stored.headers {
        headers.extend_from_slice(name.as_str().as_bytes());
        headers.extend_from_slice(b": ");
        headers.extend_from_slice(value.as_bytes());
        headers.push(b'\n');
    }
    let born = SystemTime::now().checked_sub(stored.age());
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.unwrap_or_default().as_millis() as u64;
    let mut rest = Vec::new();
    for number in [born, headers.len() as u64, stored.body.len() as u64] {
        rest.extend_from_slice(&number.to_le_bytes());
    }
    rest.extend_from_slice(&headers);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&checksum(&rest, &stored.body));
    head.extend_from_slice(&rest);
    head
}

/// All of it.
pub(crate) fn encode(stored: &Stored) -> Vec<u8> {
    let mut all = head(stored);
    all.extend_from_slice(&stored.body);
    all
}

/// # Errors
/// If it is no answer, or its body is larger than `max_object` bytes.
pub(crate) fn decode(all: Bytes, max_object: u64) -> io::Result<Stored> {
    if all.len() < FIXED || &all[..8] != MAGIC {
        return Err(broken("it is none"));
    }
    let number = |n: usize| {
        let at = 40 + 8 * n;
        u64::from_le_bytes(all[at..at + 8].try_into().expect("8 bytes are 8 bytes"))
    };
    let (born, headers, body) = (number(0), number(1), number(2));
    let start = (FIXED as u64).saturating_add(headers);
    if start.saturating_add(body) != all.len() as u64 || body > max_object {
        return Err(broken("it was cut"));
    }
    let start = start as usize;
    if checksum(&all[40..start], &all[start..]) != all[8..40] {
        return Err(broken("its checksum is wrong"));
    }
    let headers = parsed(&all[FIXED..start]).ok_or_else(|| broken("its headers are wrong"))?;
    // a clock that was set back makes nothing younger than new
    let born = UNIX_EPOCH + Duration::from_millis(born);
    let age = SystemTime::now().duration_since(born).unwrap_or_default();
    Ok(Stored::aged(headers, all.slice(start..), age))
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parsed(headers: &[u8]) -> Option<Headers> {
    let lines = headers.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let at = memchr::memmem::find(line, b": ")?;
            let name = HeaderName::from_bytes(&line[..at]).ok()?;
            Some((name, HeaderValue::from_bytes(&line[at + 2..]).ok()?))
        })
        .collect()
}
