//! The small units everything else is written in: durations, sizes, shares, secrets and ids.
//!
//! They know how they are spelled in a configuration file and nothing about what they are used for.

mod trace_context;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

pub(crate) use trace_context::TraceContext;

/// A length of time as written in the file: a number with a unit (`250ms`, `5s`, `10m`, `1h30m`).
/// `0s` means "none" wherever a limit is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

/// Longest span: beyond it is a typing error, and the end of the clock.
const MAX_SPAN: Duration = Duration::from_secs(366 * 24 * 3600);

impl Span {
    pub(crate) const fn secs(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    /// The limit this span sets; `None` for `0s`.
    pub(crate) fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(format!(
                "`{text}` has no unit; write `{text}s`, `{text}ms` or `{text}m`"
            ));
        }
        let duration = humantime::parse_duration(text).map_err(|_| {
            format!("`{text}` is not a duration; write a number and a unit, such as `250ms`, `5s` or `10m`")
        })?;
        if duration > MAX_SPAN {
            return Err(format!("`{text}` is longer than a year"));
        }
        Ok(Span(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes as written in the file: `25MiB`, `64KiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl Size {
    pub(crate) const fn mib(n: u64) -> Self {
        Size(n * 1024 * 1024)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.is_empty() && text != "0" && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!(
                "`{text}` has no unit; write `{text}MiB`, `{text}KiB` or `{text}B`"
            ));
        }
        text.parse::<bytesize::ByteSize>()
            .map(|size| Size(size.as_u64()))
            .map_err(|_| {
                format!("`{text}` is not a size; write a number and a unit, such as `25MiB`")
            })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // as it would be written in the file, where that is exact
        let exact = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
            .into_iter()
            .find(|(_, bits)| self.0 > 0 && self.0.is_multiple_of(1 << bits));
        match exact {
            Some((unit, bits)) => write!(f, "{}{unit}", self.0 >> bits),
            None => bytesize::ByteSize(self.0).display().iec().fmt(f),
        }
    }
}

/// A share as written in the file, in percent: `20%`. Between 0 and 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u8);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%').trim_end();
        match number.parse::<u8>() {
            Ok(n) if n <= 100 => Ok(Percent(n)),
            _ => Err(format!(
                "`{text}` is not a share; write a whole number from `0%` to `100%`"
            )),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A share that may be small, as written in the file: `5%`, `0.1%`. Between 0 and 100 %, in
/// millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fraction(u32);

impl Fraction {
    const WHOLE: u32 = 1_000_000;

    pub(crate) const fn percent(percent: u8) -> Self {
        Fraction(percent as u32 * (Self::WHOLE / 100))
    }

    /// From a number between 0 and 1.
    pub(crate) fn from_ratio(ratio: f64) -> Option<Self> {
        let millionths = (ratio * f64::from(Self::WHOLE)).round();
        (0.0..=1.0)
            .contains(&ratio)
            .then_some(Fraction(millionths as u32))
    }

    /// Says yes so often.
    #[cfg_attr(
        not(feature = "otlp"),
        expect(dead_code, reason = "draws are for traces")
    )]
    pub(crate) fn draw(self) -> bool {
        fastrand::u32(..Self::WHOLE) < self.0
    }
}

impl std::str::FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%').trim_end();
        let percent: Option<f64> = number.parse().ok();
        percent
            .and_then(|percent| Self::from_ratio(percent / 100.0))
            .ok_or_else(|| format!("`{text}` is not a share; write `5%`, or `0.1%`"))
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / f64::from(Self::WHOLE / 100))
    }
}

/// Reads a unit from its text, so that serde reports our message at the scalar's own place.
macro_rules! text_unit {
    ($unit:ident, $name:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $unit {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "integer"], "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

text_unit!(Span, "Duration", r"^\s*([0-9.]+\s*[a-zA-Zµ]+\s*)+$", "5s");
text_unit!(
    Size,
    "Size",
    r"^\s*(0|[0-9.]+\s*[kKmMgGtT]?i?[bB]?)\s*$",
    "25MiB"
);
text_unit!(Percent, "Percent", r"^\s*[0-9]{1,3}\s*%?\s*$", "20%");
text_unit!(
    Fraction,
    "Fraction",
    r"^\s*[0-9]{1,3}(\.[0-9]+)?\s*%?\s*$",
    "0.1%"
);

/// A credential. Printing it in any way shows `[redacted]`, so that logging a configuration is
/// safe by construction; [`Secret::expose`] is the only way to the text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that puts it into a request.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Longest request id taken over from a client, in characters.
const REQUEST_ID_MAX: usize = 128;

/// Whether a client's `x-request-id` may be kept: 1 to 128 characters of `[A-Za-z0-9._-]`, so
/// that it is safe in a header, a log line and a file name.
pub(crate) fn is_request_id(text: &str) -> bool {
    (1..=REQUEST_ID_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A fresh request id: 32 hexadecimal digits. An id has to be different, not secret, so it does not
/// ask the system for randomness: three such calls were a tenth of a small request's time.
pub(crate) fn new_request_id() -> String {
    let mut digits = [0; 32];
    hex(fastrand::u128(..), &mut digits);
    let digits = std::str::from_utf8(&digits);
    digits.expect("digits are ASCII").to_owned()
}

/// Writes a number in hexadecimal digits, with zeros in front: two ids of every request are, and
/// `format!` took more time for them than for the rest of its head.
fn hex(number: u128, digits: &mut [u8]) {
    let digit = |number: u8| b"0123456789abcdef"[usize::from(number & 15)];
    let bytes = number.to_be_bytes();
    let bytes = &bytes[bytes.len() - digits.len() / 2..];
    for (two, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        (two[0], two[1]) = (digit(byte >> 4), digit(*byte));
    }
}

/// An address as text; one of IPv4 in the guise of IPv6 as what it is. Each request tells its server
/// one, and `to_string` takes ten times as long.
pub(crate) fn address(address: IpAddr) -> String {
    let IpAddr::V4(address) = address.to_canonical() else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (n, part) in address.octets().into_iter().enumerate() {
        if n > 0 {
            text.push('.');
        }
        for (place, least) in [(100, 100), (10, 10), (1, 0)] {
            if part >= least {
                text.push(char::from(b'0' + part / place % 10));
            }
        }
    }
    text
}

/// `text` with everything that could move a terminal's cursor or forge a line made visible.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control();
            let mut plain = (!escaped).then_some(c);
            let mut hidden = escaped.then(|| c.escape_default());
            std::iter::from_fn(move || plain.take().or_else(|| hidden.as_mut()?.next()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("1h30m".parse(), Ok(Span::secs(5400)));
        assert_eq!(
            "5".parse::<Span>().unwrap_err(),
            "`5` has no unit; write `5s`, `5ms` or `5m`"
        );
        assert!(
            "soon"
                .parse::<Span>()
                .unwrap_err()
                .contains("not a duration")
        );
    }

    #[test]
    fn addresses_are_written_as_everywhere() {
        for text in [
            "0.0.0.0",
            "10.20.100.255",
            "127.0.0.1",
            "::1",
            "2001:db8::9",
            "9.99.109.190",
        ] {
            assert_eq!(address(text.parse().unwrap()), text);
        }
        assert_eq!(address("::ffff:10.0.0.9".parse().unwrap()), "10.0.0.9");
    }

    #[test]
    fn zero_seconds_means_no_limit() {
        assert_eq!(Span::secs(0).limit(), None);
        assert_eq!(Span::secs(2).limit(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn sizes_and_shares_are_read_with_their_units() {
        assert_eq!("25MiB".parse(), Ok(Size::mib(25)));
        assert_eq!("1KB".parse(), Ok(Size(1000)));
        assert!("25".parse::<Size>().unwrap_err().contains("has no unit"));
        assert_eq!("20%".parse(), Ok(Percent(20)));
        assert!("120%".parse::<Percent>().is_err());
        for (text, fraction) in [("5%", Fraction(50_000)), ("0.1%", Fraction(1_000))] {
            assert_eq!(text.parse(), Ok(fraction));
            assert_eq!(fraction.to_string(), text);
        }
        for bad in ["101%", "-1%", "NaN", "some"] {
            assert!(bad.parse::<Fraction>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("sk-canary");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(secret.expose(), "sk-canary");
    }

    #[test]
    fn request_ids_are_short_and_plain() {
        assert!(is_request_id("a-1_B.2"));
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(!is_request_id(bad), "{bad:?}");
        }
        assert!(is_request_id(&new_request_id()));
    }

    #[test]
    fn control_characters_are_shown_not_sent_to_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("naïve"), "naïve");
    }
}
