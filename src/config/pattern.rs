//! Patterns of the configuration file: plain text in which `*` stands for any run of characters.

use std::fmt;

/// A compiled pattern. Matching is case-sensitive and covers the whole text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    text: String,
    /// The literal pieces between the stars; one piece means there is no star.
    pieces: Vec<String>,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Pattern {
            text: text.to_owned(),
            pieces: text.split('*').map(str::to_owned).collect(),
        }
    }

    /// The text if the pattern has no star, so that it names exactly one thing.
    pub(crate) fn exact(&self) -> Option<&str> {
        (self.pieces.len() == 1).then_some(self.text.as_str())
    }

    /// What all that it matches begins with, and what all of it ends with.
    pub(crate) fn ends(&self) -> (&str, &str) {
        (&self.pieces[0], &self.pieces[self.pieces.len() - 1])
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let (first, rest) = self
            .pieces
            .split_first()
            .expect("split yields at least one piece");
        let Some((last, middle)) = rest.split_last() else {
            return text == first;
        };
        let Some(mut text) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        for piece in middle {
            match text.find(piece.as_str()) {
                Some(at) => text = &text[at + piece.len()..],
                None => return false,
            }
        }
        text.ends_with(last.as_str())
    }

    /// Whether everything that `other` matches is certainly matched by `self` too. Errs on the
    /// side of `false`.
    pub(crate) fn covers(&self, other: &Pattern) -> bool {
        match other.exact() {
            Some(text) => self.matches(text),
            None => {
                self.text == other.text
                    || (self.pieces.len() == 2
                        && other.pieces[0].starts_with(&self.pieces[0])
                        && other.pieces[other.pieces.len() - 1].ends_with(&self.pieces[1]))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("tts-1", "tts-1", true),
            ("tts-1", "tts-1-hd", false),
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "gpt-", true),
            ("gpt-*", "GPT-4o", false),
            ("*", "", true),
            ("*-mini", "gpt-4o-mini", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("/v1/*", "/v1/chat/completions", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn covering_is_certain_or_denied() {
        let covers = |a, b| Pattern::new(a).covers(&Pattern::new(b));
        assert!(covers("*", "gpt-*"));
        assert!(covers("/v1/*", "/v1/audio/*"));
        assert!(covers("/v1/*", "/v1/models"));
        assert!(!covers("/v1/audio/*", "/v1/*"));
        assert!(!covers("tts-1", "tts-*"));
    }
}
