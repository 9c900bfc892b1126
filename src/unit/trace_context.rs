//! W3C trace context: which trace a request belongs to, and which span is above what it causes.

use std::fmt;
use std::str::FromStr;

/// What a `traceparent` says (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// Never 0.
    pub(crate) trace: u128,
    /// Never 0.
    pub(crate) span: u64,
    pub(crate) flags: u8,
}

/// Says that the spans of a trace are kept.
const SAMPLED: u8 = 1;

impl TraceContext {
    /// A new trace.
    pub(crate) fn fresh(sampled: bool) -> Self {
        TraceContext {
            trace: fastrand::u128(1..),
            span: fastrand::u64(1..),
            flags: if sampled { SAMPLED } else { 0 },
        }
    }

    pub(crate) fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    pub(crate) fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }
}

#[cfg(feature = "otlp")]
impl TraceContext {
    /// Another span of the same trace.
    pub(crate) fn with_span(self, span: u64) -> Self {
        TraceContext { span, ..self }
    }

    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for TraceContext {
    type Err = ();

    /// Reads a context that we can continue: version 00, small hexadecimal digits, no id of zeros.
    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('-').collect();
        let ["00", trace, span, flags] = parts[..] else {
            return Err(());
        };
        let hex = |text: &str, digits: usize| {
            let small = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            let plain = text.len() == digits && text.bytes().all(small);
            u128::from_str_radix(text, 16).ok().filter(|_| plain)
        };
        let id = |text, digits| hex(text, digits).filter(|id| *id != 0).ok_or(());
        Ok(TraceContext {
            trace: id(trace, 32)?,
            span: id(span, 16)? as u64,
            flags: hex(flags, 2).ok_or(())? as u8,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        super::hex(self.trace, &mut text[3..35]);
        super::hex(self.span.into(), &mut text[36..52]);
        super::hex(self.flags.into(), &mut text[53..]);
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_checked_before_they_are_continued() {
        for good in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000001-0000000000000001-ff",
            &TraceContext::fresh(true).to_string(),
        ] {
            let context: TraceContext = good.parse().unwrap();
            assert_eq!(context.to_string(), good, "it goes on as it came");
        }
        for bad in [
            "",
            "00-0-0-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(()), "{bad}");
        }
    }
}
