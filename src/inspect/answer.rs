//! What an answer says about the server that gave it.

use std::borrow::Cow;
use std::io::Read;
use std::time::{Duration, SystemTime};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

/// When a server wants to be asked again: `retry-after-ms`, else `Retry-After` in seconds or as a
/// date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| {
        text.parse::<f64>()
            .ok()
            .filter(|n| n.is_finite() && *n >= 0.0)
    };
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let text = text(RETRY_AFTER.as_str())?;
    match number(text) {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => {
            let at = httpdate::parse_http_date(text).ok()?;
            Some(at.duration_since(now).unwrap_or_default())
        }
    }
}

/// Whether an answer says that it is a stream of events.
pub(crate) fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    begins(kind.unwrap_or_default(), b"text/event-stream")
}

/// Whether a text begins with this one, in large or small letters.
pub(super) fn begins(text: &[u8], with: &[u8]) -> bool {
    let beginning = text.get(..with.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(with))
}

/// Bytes of an error that are looked into.
const LOOKED_INTO: u64 = 16 * 1024;

/// The beginning of a body, unpacked where it is gzip or deflate, which the SDKs ask for.
pub(crate) fn readable<'a>(body: &'a [u8], encoding: Option<&HeaderValue>) -> Cow<'a, [u8]> {
    let encoding = encoding.map(HeaderValue::as_bytes).unwrap_or_default();
    let mut out = Vec::new();
    // what can be unpacked of a part is enough
    let _ = match encoding {
        b"gzip" => MultiGzDecoder::new(body)
            .take(LOOKED_INTO)
            .read_to_end(&mut out),
        b"deflate" => ZlibDecoder::new(body)
            .take(LOOKED_INTO)
            .read_to_end(&mut out),
        _ => return Cow::Borrowed(body),
    };
    Cow::Owned(out)
}

/// Whether a 503 says that the model is still being loaded: llama.cpp's `Loading model`, LocalAI's
/// `model_loading`.
pub(crate) fn says_loading(body: &[u8]) -> bool {
    ["oading model", "model_loading", "model is loading"]
        .iter()
        .any(|words| memchr::memmem::find(body, words.as_bytes()).is_some())
}

/// Whether a 429 says that the account has nothing left, so that waiting does not help (OpenAI's
/// error codes).
pub(crate) fn says_no_quota(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"insufficient_quota").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = pairs
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
            .collect();
        retry_after(
            &headers,
            SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700),
        )
    }

    #[test]
    fn the_time_to_come_back_is_read_in_all_its_forms() {
        assert_eq!(after(&[("retry-after", "3")]), Some(Duration::from_secs(3)));
        let both = [("retry-after", "3"), ("retry-after-ms", "250")];
        assert_eq!(after(&both), Some(Duration::from_millis(250)));
        let date = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(after(&date), Some(Duration::from_secs(77)));
        for junk in ["-1", "soon", "inf", "nan", ""] {
            assert_eq!(after(&[("retry-after", junk)]), None, "{junk}");
        }
        assert_eq!(after(&[]), None);
    }

    #[test]
    fn packed_errors_are_read_too_and_a_part_of_one_is_enough() {
        use std::io::Write;
        let text = br#"{"error":{"code":"insufficient_quota"}}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        let packed = gzip.finish().unwrap();
        let encoding = HeaderValue::from_static("gzip");
        assert_eq!(readable(&packed, Some(&encoding)).as_ref(), text);
        let part = &packed[..packed.len() - 8];
        assert!(says_no_quota(&readable(part, Some(&encoding))));
        assert!(readable(b"junk", Some(&encoding)).is_empty());
        assert_eq!(readable(text, None).as_ref(), text);
    }

    #[test]
    fn loading_and_spent_accounts_are_told_by_their_own_words() {
        let llama =
            br#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        assert!(says_loading(llama));
        assert!(!says_loading(b"server busy"));
        assert!(says_no_quota(br#"{"error":{"code":"insufficient_quota"}}"#));
        assert!(!says_no_quota(
            br#"{"error":{"code":"rate_limit_exceeded"}}"#
        ));
    }
}
