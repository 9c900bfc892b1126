//! Tokens, where an answer states them.
//!
//! The `usage` object stands at the end of an answer, streamed or not, so the last few KB are
//! kept and looked at once, when the answer is complete.

/// Bytes kept of the end of an answer. A usage object with all its details has some 400.
const TAIL: usize = 2048;

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
}

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
        let Some(at) = memchr::memmem::rfind(&self.0, b"\"usage\"") else {
            return Usage::default();
        };
        let usage = &self.0[at..];
        let number = |names: [&str; 2]| {
            names.iter().find_map(|name| {
                let at = memchr::memmem::find(usage, format!("\"{name}\"").as_bytes())?;
                let rest = &usage[at + name.len() + 2..];
                let digits: Vec<u8> = rest
                    .iter()
                    .copied()
                    .skip_while(|b| matches!(b, b':' | b' ' | b'\n'))
                    .take_while(u8::is_ascii_digit)
                    .collect();
                std::str::from_utf8(&digits).ok()?.parse().ok()
            })
        };
        Usage {
            input: number(["prompt_tokens", "input_tokens"]),
            output: number(["completion_tokens", "output_tokens"]),
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
