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

impl Problem {
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The problem with its source line and a caret, the way rustc shows one. `colour` only for
    /// a terminal.
    pub(crate) fn render(&self, file: &str, text: &str, colour: bool) -> String {
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
        let line_end = shown.find('\n').unwrap_or(shown.len());
        let span = start..start + line_end;
        let snippet = Snippet::source(text)
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

    pub(crate) fn locate<'a>(&'a self, file: &'a str, text: &str) -> Located<'a> {
        let (line, column) = line_and_column(text, self.span.start);
        let (end_line, end_column) = line_and_column(text, self.span.end);
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

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
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
        let shown = problem.render("t.yaml", text, false);
        for part in [
            "error: pool `kokro`",
            "t.yaml:2:11",
            "- pool: kokro",
            "^^^^^",
            "did you mean `kokoro`?",
        ] {
            assert!(shown.contains(part), "{part} missing in:\n{shown}");
        }
        let located = serde_json::to_value(problem.locate("t.yaml", text)).unwrap();
        assert_eq!(
            (located["line"].as_u64(), located["column"].as_u64()),
            (Some(2), Some(11))
        );
        assert_eq!(located["end_column"], 16);
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
