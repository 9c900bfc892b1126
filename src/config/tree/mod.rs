//! The YAML text as a tree that remembers where everything stands.
//!
//! Why a tree of our own between the parser and serde: serde stops at its first error, and an
//! operator fixes lists of errors, not one per start. [`Tree::read`] deserialises, and where that
//! fails it notes the problem, takes the offending node out and tries again, so every unknown
//! key, wrong type and bad unit of a file is found in one run. The tree also finds duplicate keys
//! and replaces `${VAR}` in scalars, after parsing, so that a variable can never inject YAML.

mod build;
mod read;

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;

use super::problem::{Problem, Severity};

/// Problems listed for one file; a file with more is the wrong file.
const MAX_PROBLEMS: usize = 100;

/// One step of the way to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.to_owned())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Step::Key(key.clone())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// The way to a node: `routes[1].match.path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    pub(crate) fn then(&self, step: impl Into<Step>) -> Path {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Path(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if n == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// `at!["routes", i, "pool"]`: the way to a node, written as one reads it.
macro_rules! at {
    ($($step:expr),* $(,)?) => {
        $crate::config::tree::Path(vec![$($crate::config::tree::Step::from($step)),*])
    };
}
pub(crate) use at;

#[derive(Clone, Debug)]
struct Node {
    id: u32,
    span: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Scalar(Scalar),
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
struct Scalar {
    text: String,
    /// Written without quotes, so that `true`, `12` and nothing mean what YAML says.
    plain: bool,
    /// Holds the value of a variable, which must not be repeated in a message.
    expanded: bool,
}

#[derive(Clone, Debug)]
struct Key {
    id: u32,
    span: Range<usize>,
    text: String,
}

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Node,
}

impl Tree {
    /// Parses `text`, replacing `${VAR}` by what `env` says. A syntax error leaves no tree.
    pub(crate) fn parse(
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<Problem>,
    ) -> Option<Tree> {
        match build::build(text, env, problems) {
            Ok(root) => Some(Tree { root }),
            Err((span, message)) => {
                problems.push(error(span, String::new(), message));
                None
            }
        }
    }

    /// The tree as a `T`, noting everything that does not fit. `None` if so much is wrong that no
    /// `T` is left; then at least one problem was noted.
    pub(crate) fn read<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let mut root = self.root.clone();
        let mut damaged: Vec<u32> = Vec::new();
        loop {
            let fault = match T::deserialize(&root) {
                Ok(value) => return Some(value),
                Err(fault) => fault,
            };
            let id = fault.at.unwrap_or(root.id);
            // a required key that we took out ourselves was already reported
            if !(fault.missing && damaged.contains(&id)) {
                let (span, path) = self.locate(id).unwrap_or((0..0, Path::default()));
                let mut problem = error(span, path.to_string(), fault.message);
                problem.help = fault.help;
                problems.push(problem);
            }
            if problems.len() >= MAX_PROBLEMS {
                return None;
            }
            match take_out(&mut root, id) {
                Some(parent) => damaged.push(parent),
                None => return None,
            }
        }
    }

    /// Where the node at `path` stands: the key if `path` ends with one that is there, else the
    /// deepest part that exists.
    pub(crate) fn span(&self, path: &Path) -> Range<usize> {
        let mut node = &self.root;
        let mut span = self.root.span.start..self.root.span.start;
        for step in &path.0 {
            let next = match (step, &node.kind) {
                (Step::Key(key), Kind::Map(entries)) => entries
                    .iter()
                    .find(|(k, _)| k.text == *key)
                    .map(|(k, value)| (value, place(k, value))),
                (Step::Index(index), Kind::Seq(items)) => {
                    items.get(*index).map(|item| (item, item.span.clone()))
                }
                _ => None,
            };
            let Some((next, place)) = next else { break };
            node = next;
            span = place;
        }
        span
    }

    /// The value of a variable that the scalar at `path` holds.
    pub(crate) fn expanded(&self, path: &Path) -> Option<&str> {
        match &self.node(path)?.kind {
            Kind::Scalar(scalar) if scalar.expanded => Some(&scalar.text),
            _ => None,
        }
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        path.0
            .iter()
            .try_fold(&self.root, |node, step| match (step, &node.kind) {
                (Step::Key(key), Kind::Map(entries)) => entries
                    .iter()
                    .find(|(k, _)| k.text == *key)
                    .map(|(_, value)| value),
                (Step::Index(index), Kind::Seq(items)) => items.get(*index),
                _ => None,
            })
    }

    /// Where secrets are written: values of `api_key` and `token`, and of `key` under `keys`; those
    /// that `headers.set` sets, and those of `tracing.headers`.
    pub(crate) fn secrets(&self) -> Vec<Range<usize>> {
        fn walk(node: &Node, parent: &str, found: &mut Vec<Range<usize>>) {
            match &node.kind {
                Kind::Scalar(_) => {}
                Kind::Seq(items) => items.iter().for_each(|item| walk(item, parent, found)),
                Kind::Map(entries) => {
                    for (key, value) in entries {
                        match (parent, key.text.as_str(), &value.kind) {
                            (_, "api_key" | "token", _)
                            | ("keys", "key", _)
                            | ("affinity", "secret", _) => found.push(value.span.clone()),
                            ("headers", "set", Kind::Map(set))
                            | ("tracing", "headers", Kind::Map(set)) => {
                                found.extend(set.iter().map(|(_, value)| value.span.clone()));
                            }
                            _ => walk(value, &key.text, found),
                        }
                    }
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root, "", &mut found);
        found
    }

    fn locate(&self, id: u32) -> Option<(Range<usize>, Path)> {
        fn walk(node: &Node, id: u32, path: &mut Vec<Step>) -> Option<Range<usize>> {
            if node.id == id {
                return Some(node.span.clone());
            }
            match &node.kind {
                Kind::Scalar(_) => None,
                Kind::Seq(items) => items.iter().enumerate().find_map(|(n, item)| {
                    path.push(Step::Index(n));
                    let found = walk(item, id, path);
                    if found.is_none() {
                        path.pop();
                    }
                    found
                }),
                Kind::Map(entries) => entries.iter().find_map(|(key, value)| {
                    path.push(Step::Key(key.text.clone()));
                    let found = if key.id == id {
                        Some(key.span.clone())
                    } else if value.id == id {
                        Some(place(key, value))
                    } else {
                        walk(value, id, path)
                    };
                    if found.is_none() {
                        path.pop();
                    }
                    found
                }),
            }
        }
        let mut path = Vec::new();
        walk(&self.root, id, &mut path).map(|span| (span, Path(path)))
    }
}

/// The place to point at for an entry: a scalar itself, but the key of something long or empty.
fn place(key: &Key, value: &Node) -> Range<usize> {
    match &value.kind {
        Kind::Scalar(_) if !value.span.is_empty() => value.span.clone(),
        _ => key.span.clone(),
    }
}

fn error(span: Range<usize>, path: String, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        message,
        help: None,
        span,
        path,
    }
}

/// Takes the node (or the entry with that key) out of the tree; says whose child it was.
fn take_out(node: &mut Node, id: u32) -> Option<u32> {
    match &mut node.kind {
        Kind::Scalar(_) => None,
        Kind::Seq(items) => {
            if let Some(at) = items.iter().position(|item| item.id == id) {
                items.remove(at);
                return Some(node.id);
            }
            items.iter_mut().find_map(|item| take_out(item, id))
        }
        Kind::Map(entries) => {
            if let Some(at) = entries.iter().position(|(k, v)| k.id == id || v.id == id) {
                entries.remove(at);
                return Some(node.id);
            }
            entries
                .iter_mut()
                .find_map(|(_, value)| take_out(value, id))
        }
    }
}
