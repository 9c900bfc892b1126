//! From YAML text to the tree: duplicate keys, aliases, merges and variables.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, ScanError};

use super::super::problem::Problem;
use super::{Key, Kind, Node, Scalar, error};

/// Nodes a file may have, aliases expanded. Ten thousand servers fit; an alias bomb does not.
const MAX_NODES: u32 = 500_000;
/// Nesting a file may have; the deepest key of the format is at 6.
const MAX_DEPTH: usize = 64;

/// The root of the tree, or where and why there is none.
pub(super) fn build(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Result<Node, Broken> {
    let mut builder = Builder {
        text,
        env,
        problems,
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        next_id: 0,
    };
    builder.document()
}

struct Builder<'a, 'p> {
    text: &'a str,
    env: &'p dyn Fn(&str) -> Option<String>,
    problems: &'p mut Vec<Problem>,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    next_id: u32,
}

/// A place and a reason.
pub(super) type Broken = (Range<usize>, String);

impl<'a> Builder<'a, '_> {
    fn document(&mut self) -> Result<Node, Broken> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd => {
                    return Ok(Node {
                        id: self.id(0..0)?,
                        span: 0..0,
                        kind: Kind::Map(Vec::new()),
                    });
                }
                event => {
                    let root = self.node(event, span, 0)?;
                    loop {
                        match self.next()? {
                            (Event::StreamEnd, _) => return Ok(root),
                            (Event::DocumentStart(..), span) => {
                                return Err((
                                    span,
                                    "a second YAML document: put everything into one".into(),
                                ));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Range<usize>), Broken> {
        let end = self.text.len();
        match self.parser.next() {
            None => Ok((Event::StreamEnd, end..end)),
            Some(Ok((event, span))) => Ok((event, span.byte_range().unwrap_or(end..end))),
            Some(Err(broken)) => Err(self.syntax(&broken)),
        }
    }

    fn syntax(&self, broken: &ScanError) -> Broken {
        let mark = broken.marker();
        let at = mark.byte_offset().unwrap_or_else(|| {
            let line_start: usize = self
                .text
                .split_inclusive('\n')
                .take(mark.line().saturating_sub(1))
                .map(str::len)
                .sum();
            line_start + mark.col()
        });
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let end = self.text[at..]
            .chars()
            .next()
            .map_or(at, |c| at + c.len_utf8());
        let text = broken.to_string();
        let reason = text.split(" at byte").next().unwrap_or(&text);
        (at..end, format!("this is not YAML: {reason}"))
    }

    fn id(&mut self, span: Range<usize>) -> Result<u32, Broken> {
        self.next_id += 1;
        if self.next_id > MAX_NODES {
            return Err((
                span,
                format!("more than {MAX_NODES} values; is this the right file?"),
            ));
        }
        Ok(self.next_id)
    }

    fn node(&mut self, event: Event<'a>, span: Range<usize>, depth: usize) -> Result<Node, Broken> {
        if depth > MAX_DEPTH {
            return Err((span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let id = self.id(span.clone())?;
        let anchor = event.anchor_id();
        let node = match event {
            Event::Scalar(text, style, _, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let scalar = self.expand(&text, plain, &span);
                Node {
                    id,
                    span,
                    kind: Kind::Scalar(scalar),
                }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => {
                            break Node {
                                id,
                                span: span.start..end.end,
                                kind: Kind::Seq(items),
                            };
                        }
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.mapping(id, span, depth)?,
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let mut node = node.clone();
                    node.span = span;
                    self.renumber(&mut node)?;
                    node
                }
                None => {
                    return Err((
                        span,
                        "an alias to something that is not complete yet".into(),
                    ));
                }
            },
            _ => return Err((span, "a value is missing here".into())),
        };
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, id: u32, span: Range<usize>, depth: usize) -> Result<Node, Broken> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let end = loop {
            let (event, key_span) = self.next()?;
            let text = match event {
                Event::MappingEnd => break key_span.end,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err((key_span, "a key must be plain text".into())),
            };
            let key = Key {
                id: self.id(key_span.clone())?,
                span: key_span,
                text,
            };
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if key.text == "<<" {
                match value.kind {
                    Kind::Map(more) => merged.extend(more),
                    _ => {
                        return Err((
                            key.span,
                            "`<<` merges a map, such as `<<: *defaults`".into(),
                        ));
                    }
                }
            } else if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == key.text) {
                let line = self.text[..first.span.start].matches('\n').count() + 1;
                let mut problem = error(
                    key.span,
                    key.text.clone(),
                    format!("`{}` is here twice", key.text),
                );
                problem.help = Some(format!(
                    "the first one is on line {line}; rename or remove one"
                ));
                self.problems.push(problem);
            } else {
                entries.push((key, value));
            }
        };
        for (key, value) in merged {
            if !entries.iter().any(|(k, _)| k.text == key.text) {
                entries.push((key, value));
            }
        }
        Ok(Node {
            id,
            span: span.start..end,
            kind: Kind::Map(entries),
        })
    }

    /// Gives a copied subtree ids of its own, so that a problem in one copy leaves the others.
    fn renumber(&mut self, node: &mut Node) -> Result<(), Broken> {
        node.id = self.id(node.span.clone())?;
        match &mut node.kind {
            Kind::Scalar(_) => {}
            Kind::Seq(items) => {
                for item in items {
                    self.renumber(item)?;
                }
            }
            Kind::Map(entries) => {
                for (key, value) in entries {
                    key.id = self.id(key.span.clone())?;
                    self.renumber(value)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces `${VAR}`, `${VAR:-default}` and `${VAR:?message}` in one scalar; `$${` stays `${`.
    fn expand(&mut self, text: &str, plain: bool, span: &Range<usize>) -> Scalar {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut expanded = false;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(close) = rest[at..].find('}') else {
                self.problems.push(error(
                    span.clone(),
                    String::new(),
                    "`${` without a closing `}`".into(),
                ));
                return Scalar {
                    text: out,
                    plain,
                    expanded,
                };
            };
            expanded = true;
            match self.variable(&rest[at + 2..at + close]) {
                Ok(value) => out.push_str(&value),
                Err((message, help)) => {
                    let mut problem = error(span.clone(), String::new(), message);
                    problem.help = help;
                    self.problems.push(problem);
                }
            }
            rest = &rest[at + close + 1..];
        }
        out.push_str(rest);
        Scalar {
            text: out,
            plain,
            expanded,
        }
    }

    fn variable(&self, inside: &str) -> Result<String, (String, Option<String>)> {
        let name_end = inside.find(':').unwrap_or(inside.len());
        let (name, rule) = inside.split_at(name_end);
        let valid = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.as_bytes()[0].is_ascii_digit();
        if !valid {
            return Err((format!("`${{{inside}}}` does not name a variable"), None));
        }
        let value = (self.env)(name);
        match (value.filter(|v| rule.is_empty() || !v.is_empty()), rule) {
            (Some(value), _) => Ok(value),
            (None, "") => Err((
                format!("the environment variable `{name}` is not set"),
                Some(format!(
                    "set it, or write `${{{name}:-}}` if it may be empty"
                )),
            )),
            (None, rule) => match (rule.strip_prefix(":-"), rule.strip_prefix(":?")) {
                (Some(default), _) => Ok(default.to_owned()),
                (None, Some(message)) => Err((
                    format!("the environment variable `{name}` is not set: {message}"),
                    None,
                )),
                (None, None) => Err((
                    format!("`${{{inside}}}` is not understood"),
                    Some("write `${VAR}`, `${VAR:-default}` or `${VAR:?message}`".into()),
                )),
            },
        }
    }
}
