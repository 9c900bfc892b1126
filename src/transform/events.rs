//! Events of a stream that are left out on the way to the client.

/// Longest event that is looked at, in bytes. A usage event has some 400.
const LONGEST: usize = 16 * 1024;
/// Bytes that may wait for the end of their event; what waits longer is no event stream.
const WAITING: usize = 1024 * 1024;

/// Leaves out the event that only tells what a streamed chat used, for a client that did not ask
/// for it (OpenAI's API reference, `stream_options.include_usage`: its `choices` are empty).
#[derive(Debug, Default)]
pub(crate) struct WithoutUsage {
    /// The beginning of an event,
    begun: Vec<u8>,
    /// and how much of it holds no end of one.
    searched: usize,
    /// It is no event stream after all: everything passes.
    off: bool,
}

impl WithoutUsage {
    /// Takes a piece as it came; gives the whole events there are by now.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.off {
            return piece.to_vec();
        }
        self.begun.extend_from_slice(piece);
        let mut out = Vec::with_capacity(self.begun.len());
        let (mut start, mut searched) = (0, self.searched);
        while let Some(length) = event_length(&self.begun[start..], searched) {
            let event = &self.begun[start..start + length];
            searched = 0;
            if !tells_only_usage(event) {
                out.extend_from_slice(event);
            }
            start += length;
        }
        self.begun.drain(..start);
        // an end may have begun with the last two bytes
        self.searched = self.begun.len().saturating_sub(2);
        if self.begun.len() > WAITING {
            self.off = true;
            out.append(&mut self.begun);
        }
        out
    }

    /// What is left at the end.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }
}

/// The length of the first event with the empty line behind it, if it is whole; it does not end
/// before `from`.
fn event_length(bytes: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let at = from + memchr::memchr(b'\n', &bytes[from..])?;
        let rest = &bytes[at + 1..];
        if rest.starts_with(b"\n") {
            return Some(at + 2);
        }
        if rest.starts_with(b"\r\n") {
            return Some(at + 3);
        }
        from = at + 1;
    }
}

fn tells_only_usage(event: &[u8]) -> bool {
    if event.len() > LONGEST || memchr::memmem::find(event, b"\"usage\"").is_none() {
        return false;
    }
    let Some(data) = event.trim_ascii().strip_prefix(b"data:") else {
        return false;
    };
    let Ok(chunk) = serde_json::from_slice::<serde_json::Value>(data) else {
        return false;
    };
    let no_choice = chunk["choices"].as_array().is_some_and(Vec::is_empty);
    no_choice && chunk["usage"].is_object()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"\\n\\n\"}}],\"usage\":null}\n\n\
        : ping\n\n\
        data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n\
        data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn the_usage_event_goes_and_every_other_byte_stays_wherever_it_is_cut() {
        let start = STREAM.find("data: {\"choices\": []").unwrap();
        let end = STREAM.find("data: [DONE]").unwrap();
        let expected = format!("{}{}", &STREAM[..start], &STREAM[end..]);
        for cut in 0..=STREAM.len() {
            for second in [cut, STREAM.len().min(cut + 7)] {
                let mut filter = WithoutUsage::default();
                let mut out = Vec::new();
                for piece in [&STREAM[..cut], &STREAM[cut..second], &STREAM[second..]] {
                    out.extend(filter.feed(piece.as_bytes()));
                }
                out.extend(filter.finish());
                assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_event_is_passed_on_as_soon_as_it_is_whole() {
        let mut filter = WithoutUsage::default();
        assert_eq!(filter.feed(b"data: 1\n"), b"");
        assert_eq!(filter.feed(b"\ndata: 2"), b"data: 1\n\n");
        assert_eq!(filter.finish(), b"data: 2");
    }

    #[test]
    fn what_never_ends_is_passed_on() {
        let mut filter = WithoutUsage::default();
        let piece = vec![b'x'; 100_000];
        let mut passed = 0;
        for _ in 0..30 {
            passed += filter.feed(&piece).len();
        }
        passed += filter.finish().len();
        assert_eq!(passed, 3_000_000);
    }
}
