//! ACLs and what is made of them: conditions of routes.
//!
//! A route has a list of patterns for each of path, host, method, headers and model; all of them
//! must hold. So `or` between ACLs of one sort becomes a longer list, `or` between different sorts
//! becomes two routes, and what is negated or compared in another way is refused with a reason.

use std::collections::BTreeMap;

use super::words::Line;
use crate::command::import::draft::{Map, Yaml};
use crate::config::pattern::Pattern;

/// One sort of condition, and the patterns of which one must match.
#[derive(Clone, Debug, PartialEq)]
struct Criterion {
    what: What,
    patterns: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Path,
    Host,
    Method,
    Model,
    Voice,
    Header(String),
}

/// Conditions that must all hold, in the form of a route's `match`.
#[derive(Debug, PartialEq)]
pub(super) struct Conjunction(pub(super) Map);

/// What a frontend defined so far.
#[derive(Default)]
pub(super) struct Acls {
    /// Lines of one name are alternatives.
    named: BTreeMap<String, Vec<Result<Criterion, String>>>,
    /// Variables that hold a field of the body.
    variables: BTreeMap<String, What>,
}

impl Acls {
    /// `acl NAME FETCH …`
    pub(super) fn define(&mut self, line: &Line) {
        let read = self.criterion(&line.words[2.min(line.words.len())..]);
        self.named
            .entry(line.word(1).to_owned())
            .or_default()
            .push(read);
    }

    /// `http-request set-var(txn.model) req.body,json_query('$.model')`
    pub(super) fn variable(&mut self, line: &Line) {
        let name = line
            .word(1)
            .trim_start_matches("set-var(")
            .trim_end_matches(')');
        let name = name.split(',').next().unwrap_or(name);
        if let Some(what) = field(line.word(2)) {
            self.variables.insert(name.to_owned(), what);
        }
    }

    /// What a rule is called by: the first ACL it names.
    pub(super) fn called(&self, words: &[String]) -> Option<String> {
        let mut names = words.iter().filter(|word| self.named.contains_key(*word));
        names.next().cloned()
    }

    /// The routes for `if …`; one for every alternative.
    ///
    /// # Errors
    /// Why it cannot be said.
    pub(super) fn conditions(&self, words: &[String]) -> Result<Vec<Conjunction>, String> {
        match words.first().map(String::as_str) {
            None => return Ok(vec![Conjunction(Map::default())]),
            Some("if") => {}
            _ => return Err("a route matches what is, not what is not".to_owned()),
        }
        let mut alternatives: Vec<Vec<Criterion>> = Vec::new();
        for words in words[1..].split(|word| word == "or" || word == "||") {
            alternatives.extend(self.all_of(words)?);
        }
        Ok(merged(alternatives).into_iter().map(conjunction).collect())
    }

    /// The alternatives for ACLs that must all hold.
    fn all_of(&self, words: &[String]) -> Result<Vec<Vec<Criterion>>, String> {
        let mut alternatives: Vec<Vec<Criterion>> = vec![Vec::new()];
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let one = match word.as_str() {
                "{" => {
                    let inside: Vec<String> =
                        words.by_ref().take_while(|w| *w != "}").cloned().collect();
                    vec![self.criterion(&inside)?]
                }
                word if word.starts_with('!') => {
                    return Err("a route matches what is, not what is not".to_owned());
                }
                word => self.acl(word)?,
            };
            let mut longer = Vec::new();
            for before in &alternatives {
                for criterion in &one {
                    longer.push(with(before, criterion)?);
                }
            }
            alternatives = longer;
        }
        Ok(alternatives)
    }

    fn acl(&self, name: &str) -> Result<Vec<Criterion>, String> {
        if let Some(method) = name.strip_prefix("METH_") {
            return Ok(vec![Criterion {
                what: What::Method,
                patterns: vec![method.to_owned()],
            }]);
        }
        let lines = self.named.get(name);
        let lines = lines.ok_or_else(|| format!("the ACL `{name}` is not known"))?;
        let criteria = lines.iter().cloned().collect::<Result<Vec<_>, _>>();
        Ok(alternatives(criteria?))
    }

    /// `FETCH [-i] [-m HOW] PATTERN…`
    fn criterion(&self, words: &[String]) -> Result<Criterion, String> {
        let Some((fetch, rest)) = words.split_first() else {
            return Err("an ACL is empty".to_owned());
        };
        let mut how = None;
        let mut patterns = Vec::new();
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match word.as_str() {
                "-i" | "--" => {}
                "-m" => how = rest.next().cloned(),
                "-f" | "-M" => return Err(format!("`{fetch}` reads its patterns from a file")),
                pattern => patterns.push(pattern.to_owned()),
            }
        }
        let (what, own) = self.fetch(fetch)?;
        let how = how.as_deref().unwrap_or(own);
        if how == "found" {
            return Ok(Criterion {
                what,
                patterns: vec!["*".to_owned()],
            });
        }
        let patterns = patterns.iter().map(|pattern| written(how, pattern));
        Ok(Criterion {
            what,
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// What is looked at, and how it is compared unless said otherwise.
    fn fetch(&self, fetch: &str) -> Result<(What, &'static str), String> {
        if let Some(what) = field(fetch) {
            return Ok((what, "str"));
        }
        // converters that change nothing here: patterns of paths have one spelling
        let bare = fetch
            .trim_end_matches(",lower")
            .trim_end_matches(",url_dec");
        let (name, argument) = match bare.split_once('(') {
            Some((name, rest)) => (name, rest.trim_end_matches(')')),
            None => (bare, ""),
        };
        if name == "var" {
            let what = self.variables.get(argument).cloned();
            return what.map(|what| (what, "str")).ok_or_else(|| unknown(fetch));
        }
        let (name, how) = match name.rsplit_once('_') {
            Some((name, "beg")) => (name, "beg"),
            Some((name, "end")) => (name, "end"),
            Some((name, "sub")) => (name, "sub"),
            Some((name, "reg")) => (name, "reg"),
            Some((name, "dir")) => (name, "dir"),
            Some((name, "dom")) => (name, "dom"),
            _ => (name, "str"),
        };
        let what = match (name, argument.to_ascii_lowercase().as_str()) {
            ("path" | "pathq" | "url", "") => What::Path,
            ("method", "") => What::Method,
            ("hdr" | "req.hdr" | "req.fhdr", "host") => What::Host,
            ("hdr" | "req.hdr" | "req.fhdr", header) if !header.is_empty() => {
                let header = header.split(',').next().unwrap_or_default();
                What::Header(header.to_owned())
            }
            _ => return Err(unknown(fetch)),
        };
        Ok((what, how))
    }
}

fn unknown(fetch: &str) -> String {
    format!("`{fetch}` is nothing that routes look at")
}

/// A field of the body.
fn field(fetch: &str) -> Option<What> {
    let rest = fetch.strip_prefix("req.body,json_query(")?;
    let path = rest.split(')').next()?.trim_matches(['\'', '"']);
    match path.split(',').next()?.trim_matches(['\'', '"']) {
        "$.model" => Some(What::Model),
        "$.voice" => Some(What::Voice),
        _ => None,
    }
}

/// A pattern of ours for one of HAProxy's.
fn written(how: &str, pattern: &str) -> Result<String, String> {
    Ok(match how {
        "str" => pattern.to_owned(),
        "beg" => format!("{pattern}*"),
        "end" => format!("*{pattern}"),
        "sub" => format!("*{pattern}*"),
        "reg" => plain_expression(pattern)
            .ok_or_else(|| format!("the expression `{pattern}` says more than a pattern can"))?,
        how => return Err(format!("comparing by `{how}` is not known here")),
    })
}

/// A regular expression that is no more than a pattern.
fn plain_expression(expression: &str) -> Option<String> {
    let (start, rest) = match expression.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => ("*", expression),
    };
    let (rest, end) = match rest.strip_suffix('$') {
        Some(rest) => (rest, ""),
        None => (rest, "*"),
    };
    let rest = rest
        .replace(".*", "*")
        .replace("\\.", ".")
        .replace("\\/", "/");
    // a dot is any character, and stands for itself often enough between letters
    let special = rest.contains(['(', ')', '[', ']', '|', '?', '+', '{', '}', '\\', '^', '$']);
    let pattern = format!("{start}{rest}{end}").replace("**", "*");
    (!special).then_some(pattern)
}

/// Criteria of which one must hold: those of one sort are one.
fn alternatives(criteria: Vec<Criterion>) -> Vec<Criterion> {
    let mut out: Vec<Criterion> = Vec::new();
    for criterion in criteria {
        match out.iter_mut().find(|other| other.what == criterion.what) {
            Some(other) => other.patterns.extend(criterion.patterns),
            None => out.push(criterion),
        }
    }
    out
}

/// One more that must hold. Of two of the same sort the narrower is enough.
fn with(before: &[Criterion], more: &Criterion) -> Result<Vec<Criterion>, String> {
    let mut all = before.to_vec();
    let Some(same) = all.iter_mut().find(|other| other.what == more.what) else {
        all.push(more.clone());
        return Ok(all);
    };
    let within = |inner: &Criterion, outer: &Criterion| {
        inner.patterns.iter().all(|inner| {
            let inner = Pattern::new(inner);
            outer
                .patterns
                .iter()
                .any(|outer| Pattern::new(outer).covers(&inner))
        })
    };
    if within(more, same) {
        *same = more.clone();
    } else if !within(same, more) {
        return Err("two conditions on the same thing must hold at once".to_owned());
    }
    Ok(all)
}

/// Alternatives that differ in one list of patterns only are one.
fn merged(alternatives: Vec<Vec<Criterion>>) -> Vec<Vec<Criterion>> {
    let mut out: Vec<Vec<Criterion>> = Vec::new();
    for one in alternatives {
        let joined = out.iter_mut().find_map(|other| {
            let differing: Vec<usize> = (0..one.len())
                .filter(|n| other.get(*n) != Some(&one[*n]))
                .collect();
            let alike = other.len() == one.len() && differing.len() == 1;
            let n = *differing.first().filter(|_| alike)?;
            (other[n].what == one[n].what).then(|| &mut other[n])
        });
        match joined {
            Some(criterion) => {
                let n = criterion_for(&one, &criterion.what);
                criterion.patterns.extend(n);
            }
            None => out.push(one),
        }
    }
    out
}

fn criterion_for(one: &[Criterion], what: &What) -> Vec<String> {
    let found = one.iter().find(|criterion| criterion.what == *what);
    found
        .map(|criterion| criterion.patterns.clone())
        .unwrap_or_default()
}

fn conjunction(criteria: Vec<Criterion>) -> Conjunction {
    let mut map = Map::default();
    for Criterion { what, patterns } in criteria {
        let patterns = Yaml::texts(&patterns);
        match what {
            What::Path => map.set("path", patterns),
            What::Host => map.set("host", patterns),
            What::Method => map.set("method", patterns),
            What::Model => map.set("model", patterns),
            What::Voice => map.set("voice", patterns),
            What::Header(name) => map.set_in("headers", &name, patterns),
        }
    }
    Conjunction(map)
}

#[cfg(test)]
mod tests;
