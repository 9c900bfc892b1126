//! What the fields of a head say about the end of the body behind it (RFC 9112, section 6.3) and of
//! its connection, for requests and answers alike.

use http::{HeaderMap, header};

/// The fields contradict each other, or say nothing that can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// What `Content-Length` says, however often it says it.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Unclear> {
    let mut length = None;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for text in line.as_bytes().split(|byte| *byte == b',') {
            let one = digits(text.trim_ascii()).ok_or(Unclear)?;
            if length.replace(one).is_some_and(|other| other != one) {
                return Err(Unclear);
            }
        }
    }
    Ok(length)
}

/// Whether chunks are the last of the codings that `Transfer-Encoding` names; `None` if it is not
/// there.
pub(super) fn ends_in_chunks(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let last = codings.next_back()?.as_bytes();
    let last = last.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Whether `Connection` names this option, as `close` (RFC 9110, section 7.6.1).
pub(crate) fn connection_says(headers: &HeaderMap, option: &str) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter();
    let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    options.any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

fn digits(text: &[u8]) -> Option<u64> {
    // no sign, which `parse` would take
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}
