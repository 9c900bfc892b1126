//! The lines of a haproxy.cfg: words, quotes, sections.

/// A line that says something.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// At least one.
    pub(super) words: Vec<String>,
}

/// A section, with the lines of its `defaults` before its own.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) lines: Vec<Line>,
}

impl Line {
    /// The word at a place, or nothing.
    pub(super) fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", String::as_str)
    }

    pub(super) fn is(&self, n: usize, word: &str) -> bool {
        self.word(n) == word
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// The word behind another one.
    pub(super) fn after(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|own| own == word)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub(super) fn is_conditional(&self) -> bool {
        self.has("if") || self.has("unless")
    }

    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Short, and without what may be a key.
    pub(super) fn shown(&self) -> String {
        let mut shown = Vec::new();
        let mut secret = false;
        for word in &self.words {
            shown.push(if secret { "***" } else { word.as_str() });
            secret = secret || is_credential(word) || matches!(word.as_str(), "auth" | "password");
        }
        let text = shown.join(" ");
        match text.char_indices().nth(70) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    }
}

impl Section {
    pub(super) fn is_proxy(&self) -> bool {
        matches!(self.kind.as_str(), "frontend" | "backend" | "listen")
    }

    /// The line that counts where a later one replaces an earlier one.
    pub(super) fn last(&self, word: &str) -> Option<&Line> {
        self.lines.iter().rev().find(|line| line.is(0, word))
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.lines.iter().any(|line| line.is(0, word))
    }

    pub(super) fn timeout(&self, of: &str) -> Option<String> {
        let mut lines = self.lines.iter().rev();
        let line = lines.find(|line| line.is(0, "timeout") && line.is(1, of))?;
        duration(line.word(2))
    }
}

/// Headers that proxies add, and this one does by itself.
pub(super) fn is_forwarded(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    header.starts_with("x-forwarded-")
        || matches!(
            header.as_str(),
            "x-real-ip" | "forwarded" | "x-request-id" | "content-type"
        )
}

/// Headers whose value is a secret.
pub(super) fn is_credential(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    matches!(
        header.as_str(),
        "authorization" | "x-api-key" | "api-key" | "cookie"
    )
}

/// A time of HAProxy's as one of ours; its numbers without a unit are milliseconds.
pub(super) fn duration(text: &str) -> Option<String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|n| *n > 0)?;
    Some(match unit {
        "" | "ms" if number.is_multiple_of(1000) => format!("{}s", number / 1000),
        "" | "ms" => format!("{number}ms"),
        "us" => format!("{}ms", (number / 1000).max(1)),
        "s" | "m" | "h" | "d" => format!("{number}{unit}"),
        _ => return None,
    })
}

pub(super) fn sections(text: &str) -> Result<Vec<Section>, String> {
    const KINDS: &[&str] = &[
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "userlist",
        "peers",
        "resolvers",
        "mailers",
        "program",
        "cache",
        "http-errors",
        "ring",
        "log-forward",
        "fcgi-app",
        "crt-store",
        "traces",
        "log-profile",
        "acme",
    ];
    let mut sections: Vec<Section> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let words = split(line);
        let line = Line {
            number: n + 1,
            words,
        };
        if line.words.is_empty() {
            continue;
        }
        if KINDS.contains(&line.word(0)) {
            sections.push(section(&line, &sections));
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line);
        } else {
            return Err(format!(
                "line {}: `{}` stands in no section; is it a haproxy.cfg?",
                n + 1,
                line.shown()
            ));
        }
    }
    match sections.is_empty() {
        true => Err("it is empty".to_owned()),
        false => Ok(sections),
    }
}

fn section(line: &Line, before: &[Section]) -> Section {
    let mut section = Section {
        kind: line.word(0).to_owned(),
        name: line.word(1).to_owned(),
        lines: Vec::new(),
    };
    if section.is_proxy() {
        let defaults = before.iter().rev().filter(|other| other.kind == "defaults");
        let wanted = line.after("from");
        let mut defaults = defaults.filter(|other| wanted.is_none_or(|name| other.name == name));
        section.lines = defaults.next().map(|d| d.lines.clone()).unwrap_or_default();
    }
    section
}

/// Words by HAProxy's rules: blanks part them, quotes and backslashes keep them together, `#` ends
/// the line.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let word = word.get_or_insert_default();
                match chars.next() {
                    Some(next) if " #\\\"'$".contains(next) => word.push(next),
                    // of expressions, such as `\1`
                    next => word.extend(['\\'].into_iter().chain(next)),
                }
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '#') => break,
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_as_haproxy_does() {
        for (line, words) in [
            (
                "  acl a path_beg /v1 # and so on",
                &["acl", "a", "path_beg", "/v1"][..],
            ),
            (r#"string "a b" 'c "d"'"#, &["string", "a b", "c \"d\""]),
            (r"one\ word \#two", &["one word", "#two"]),
            (r#""" x"#, &["", "x"]),
            (
                r"replace-path /v1/(.*) /\1",
                &["replace-path", "/v1/(.*)", r"/\1"],
            ),
            ("# nothing", &[]),
            (r#"a"b c"d"#, &["ab cd"]),
        ] {
            assert_eq!(split(line), words, "{line}");
        }
    }

    #[test]
    fn times_without_a_unit_are_milliseconds() {
        for (text, expected) in [
            ("5000", Some("5s")),
            ("250", Some("250ms")),
            ("30s", Some("30s")),
            ("1m", Some("1m")),
            ("0", None),
            ("soon", None),
        ] {
            assert_eq!(duration(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_may_be_a_key_is_not_shown() {
        let line = Line {
            number: 1,
            words: split("http-request set-header Authorization \"Bearer sk-1\""),
        };
        assert_eq!(line.shown(), "http-request set-header Authorization ***");
    }
}
