//! Tokens, where an answer states them.
//!
//! The `usage` object stands at the end of an answer, streamed or not, so the last few KB are
//! kept and looked at once, when the answer is complete.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Bytes kept of the end of an answer. A usage object with all its details has some 400.
const TAIL: usize = 2048;

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
}

/// What a number goes by in different APIs.
type Names = LazyLock<[Finder<'static>; 2]>;

/// The end of an answer.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(TAIL)..];
        if self.0.len() + chunk.len() > 2 * TAIL {
            let keep = TAIL.saturating_sub(chunk.len()).min(self.0.len());
            self.0.drain(..self.0.len() - keep);
        }
        self.0.extend_from_slice(chunk);
    }

    /// What the answer says it used.
    pub(crate) fn usage(&self) -> Usage {
        static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
        static INPUT: Names =
            LazyLock::new(|| ["\"prompt_tokens\"", "\"input_tokens\""].map(Finder::new));
        static OUTPUT: Names =
            LazyLock::new(|| ["\"completion_tokens\"", "\"output_tokens\""].map(Finder::new));
        // the last one; forwards, as that is many times faster
        let Some(at) = USAGE.find_iter(&self.0).last() else {
            return Usage::default();
        };
        let usage = &self.0[at..];
        let number = |names: &[Finder<'_>]| {
            names.iter().find_map(|name| {
                let at = name.find(usage)?;
                let rest = &usage[at + name.needle().len()..];
                let blank = |b: &u8| matches!(b, b':' | b' ' | b'\n');
                let start = rest.iter().position(|b| !blank(b))?;
                let mut digits = rest[start..].iter().take_while(|b| b.is_ascii_digit());
                let number = digits.try_fold(None, |number: Option<u64>, digit| {
                    let number = number.unwrap_or(0).checked_mul(10)?;
                    Some(number.checked_add(u64::from(digit - b'0')))
                });
                number.flatten()
            })
        };
        Usage {
            input: number(&*INPUT),
            output: number(&*OUTPUT),
        }
    }

    /// Whether an event stream has said its last word.
    pub(crate) fn is_done(&self) -> bool {
        self.0.trim_ascii_end().ends_with(b"data: [DONE]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(chunks: &[&str]) -> Usage {
        let mut tail = Tail::default();
        chunks.iter().for_each(|chunk| tail.push(chunk.as_bytes()));
        tail.usage()
    }

    #[test]
    fn usage_is_found_at_the_end_however_the_answer_was_cut() {
        let expected = Usage {
            input: Some(12),
            output: Some(345),
        };
        let long = "x".repeat(10_000);
        assert_eq!(
            usage(&[
                &long,
                "{\"usage\":{\"prompt_tokens\": 12, \"completion_",
                "tokens\":345}}"
            ]),
            expected
        );
        assert_eq!(
            usage(&["\"usage\":{\"input_tokens\":12,\"output_tokens\":345}"]),
            expected
        );
        assert_eq!(usage(&["\"usage\":null"]), Usage::default());
        assert_eq!(usage(&["nothing"]), Usage::default());
    }

    #[test]
    fn the_end_of_a_stream_is_known() {
        let mut tail = Tail::default();
        tail.push(b"data: {}\n\n");
        assert!(!tail.is_done());
        tail.push(b"data: [DO");
        tail.push(b"NE]\n\n");
        assert!(tail.is_done());
    }
}
