//! What is wrong with a configuration, as data: collected, never logged or thrown one at a time.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;

/// An error refuses the file; a warning lets it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// One thing wrong at one place of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    /// What is wrong, naming the thing.
    pub(crate) message: String,
    /// The way out, if one is known.
    pub(crate) help: Option<String>,
    /// Bytes of the text the problem is about.
    pub(crate) span: Range<usize>,
    /// The place in words: `routes[1].pool`.
    pub(crate) path: String,
}

/// A problem as `check-config --format json` prints it. Lines and columns count from 1, columns
/// in characters.
#[derive(Serialize)]
pub(crate) struct Located<'a> {
    severity: Severity,
    message: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    end_column: usize,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

/// A text of which lines are shown: a problem costs its lines then, and not all of the text.
pub(crate) struct Lines<'a> {
    text: &'a str,
    /// Where lines begin, in bytes.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let breaks = memchr::memchr_iter(b'\n', text.as_bytes());
        let starts = std::iter::once(0).chain(breaks.map(|at| at + 1)).collect();
        Lines { text, starts }
    }

    /// The number of the line that a place is in, from 0, and where it begins.
    fn line(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset) - 1;
        (line, self.starts[line])
    }

    /// Both from 1, the column in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let (line, start) = self.line(offset);
        (line + 1, self.text[start..offset].chars().count() + 1)
    }
}

impl Problem {
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The problem with its source line and a caret, the way rustc shows one. `colour` only for
    /// a terminal.
    pub(crate) fn render(&self, file: &str, lines: &Lines<'_>, colour: bool) -> String {
        let text = lines.text;
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        // a caret under the line break at the end of a value helps nobody
        let end = self
            .span
            .end
            .min(text.len())
            .max(self.span.start.min(text.len()));
        let start = self.span.start.min(text.len());
        let shown = text[start..end].trim_end();
        let end = start + shown.find('\n').unwrap_or(shown.len());
        let (line, line_start) = lines.line(start);
        let line_end = lines
            .starts
            .get(line + 1)
            .map_or(text.len(), |next| next - 1);
        let span = start - line_start..end - line_start;
        let snippet = Snippet::source(&text[line_start..line_end])
            .line_start(line + 1)
            .path(file)
            .annotation(AnnotationKind::Primary.span(span));
        let title = level.primary_title(self.message.as_str()).element(snippet);
        let report = match &self.help {
            Some(help) => vec![title.element(Level::HELP.message(help.as_str()))],
            None => vec![title],
        };
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.decor_style(DecorStyle::Ascii).render(&report)
    }

    pub(crate) fn locate<'a>(&'a self, file: &'a str, lines: &Lines<'_>) -> Located<'a> {
        let (line, column) = lines.line_and_column(self.span.start);
        let (end_line, end_column) = lines.line_and_column(self.span.end);
        Located {
            severity: self.severity,
            message: &self.message,
            file,
            line,
            column,
            end_column: if end_line == line {
                end_column
            } else {
                column + 1
            },
            path: &self.path,
            help: self.help.as_deref(),
        }
    }
}

/// "did you mean `x`?" for a name that is close to one of the known ones.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_problem_shows_place_line_caret_and_help() {
        let text = "routes:\n  - pool: kokro\n";
        let problem = Problem {
            severity: Severity::Error,
            message: "pool `kokro` is not defined".into(),
            help: did_you_mean("kokro", ["kokoro", "whisper"]),
            span: 18..23,
            path: "routes[0].pool".into(),
        };
        let lines = Lines::of(text);
        let shown = problem.render("t.yaml", &lines, false);
        for part in [
            "error: pool `kokro`",
            "t.yaml:2:11",
            "- pool: kokro",
            "^^^^^",
            "did you mean `kokoro`?",
        ] {
            assert!(shown.contains(part), "{part} missing in:\n{shown}");
        }
        let located = serde_json::to_value(problem.locate("t.yaml", &lines)).unwrap();
        assert_eq!(
            (located["line"].as_u64(), located["column"].as_u64()),
            (Some(2), Some(11))
        );
        assert_eq!(located["end_column"], 16);
    }

    #[test]
    fn of_a_long_text_only_the_line_is_shown_with_its_number() {
        let text = format!("{}  - pool: kokro", "# é\n".repeat(5000));
        let start = text.len() - 5;
        let problem = Problem {
            severity: Severity::Warning,
            message: "no".into(),
            help: None,
            span: start..text.len() + 9,
            path: String::new(),
        };
        let lines = Lines::of(&text);
        let shown = problem.render("t.yaml", &lines, false);
        for part in ["t.yaml:5001:11", "5001 |   - pool: kokro", "^^^^^"] {
            assert!(shown.contains(part), "{part} missing in:\n{shown}");
        }
        assert_eq!(lines.line_and_column(start), (5001, 11));
        assert_eq!(lines.line_and_column(2), (1, 3));
    }

    #[test]
    fn only_close_names_are_suggested() {
        assert_eq!(
            did_you_mean("opnai", ["openai", "groq"]),
            Some("did you mean `openai`?".into())
        );
        assert_eq!(did_you_mean("zzz", ["openai", "groq"]), None);
    }
}
