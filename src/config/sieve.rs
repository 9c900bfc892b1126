//! Finds the few of many lists of conditions that may fit, without walking all of them.
//!
//! Each is filed once, under that condition of it which the fewest others have. A text is looked up
//! as a whole by hash, and by the beginnings and endings that patterns have, of which there are as
//! many lookups as there are different lengths.

use std::collections::{BTreeMap, HashMap};

use super::pattern::Pattern;

/// The numbers of what is filed, by several kinds of conditions.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    by: Vec<Words>,
    /// What has no condition that tells it from others.
    rest: Vec<u32>,
}

/// The numbers of what is filed under conditions of one kind. All lists are in ascending order.
#[derive(Debug, Default)]
struct Words {
    exact: HashMap<Box<str>, Vec<u32>>,
    beginnings: Pieces,
    endings: Pieces,
}

/// By their length in bytes.
type Pieces = BTreeMap<usize, HashMap<Box<str>, Vec<u32>>>;

/// Where a pattern is filed.
enum Place<'a> {
    Exact(&'a str),
    Beginning(&'a str),
    Ending(&'a str),
}

impl Place<'_> {
    /// `None` if the pattern has a star at both ends.
    fn of(pattern: &Pattern) -> Option<Place<'_>> {
        if let Some(text) = pattern.exact() {
            return Some(Place::Exact(text));
        }
        match pattern.ends() {
            ("", "") => None,
            (first, last) if first.len() >= last.len() => Some(Place::Beginning(first)),
            (_, last) => Some(Place::Ending(last)),
        }
    }
}

impl Sieve {
    /// Files `n`, which is above all that were filed before. `conditions`: kinds, counted from 0,
    /// with the patterns of which one has to match; without patterns it is no condition.
    pub(crate) fn add(&mut self, n: u32, conditions: &[(usize, &[Pattern])]) {
        let kinds = conditions.iter().map(|(kind, _)| kind + 1).max();
        if let Some(kinds) = kinds.filter(|kinds| *kinds > self.by.len()) {
            self.by.resize_with(kinds, Words::default);
        }
        let crowds = conditions.iter().filter_map(|(kind, patterns)| {
            let crowd = self.by[*kind].crowd(patterns)?;
            Some((crowd, *kind, *patterns))
        });
        let Some((_, kind, patterns)) = crowds.min_by_key(|(crowd, ..)| *crowd) else {
            self.rest.push(n);
            return;
        };
        for place in patterns.iter().filter_map(Place::of) {
            let list = self.by[kind].list(&place);
            if list.last() != Some(&n) {
                list.push(n);
            }
        }
    }

    /// Visits a list of all that may fit whatever text the kinds have.
    pub(crate) fn rest(&self, visit: &mut dyn FnMut(&[u32])) {
        visit(&self.rest);
    }

    /// Visits lists of all that may fit a text of one kind, and are filed under that.
    pub(crate) fn matching(&self, kind: usize, text: &str, visit: &mut dyn FnMut(&[u32])) {
        let Some(words) = self.by.get(kind) else {
            return;
        };
        if let Some(list) = words.exact.get(text) {
            visit(list);
        }
        words.patterned(text, text, visit);
    }

    /// Visits lists of all that may have a pattern of one kind that covers this one, and are filed
    /// under that.
    pub(crate) fn covering(&self, kind: usize, pattern: &Pattern, visit: &mut dyn FnMut(&[u32])) {
        if let Some(text) = pattern.exact() {
            return self.matching(kind, text, visit);
        }
        let (first, last) = pattern.ends();
        if let Some(words) = self.by.get(kind) {
            words.patterned(first, last, visit);
        }
    }
}

fn filed<'a>(pieces: &'a Pieces, text: &str) -> Option<&'a Vec<u32>> {
    pieces.get(&text.len())?.get(text)
}

impl Words {
    /// How many have the same condition already, at most; `None` if it tells nothing apart.
    fn crowd(&self, patterns: &[Pattern]) -> Option<usize> {
        let crowds = patterns.iter().map(|pattern| {
            let list = match Place::of(pattern)? {
                Place::Exact(text) => self.exact.get(text),
                Place::Beginning(text) => filed(&self.beginnings, text),
                Place::Ending(text) => filed(&self.endings, text),
            };
            Some(list.map_or(0, Vec::len))
        });
        crowds.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    fn list(&mut self, place: &Place<'_>) -> &mut Vec<u32> {
        let (words, text) = match *place {
            Place::Exact(text) => (&mut self.exact, text),
            Place::Beginning(text) => (self.beginnings.entry(text.len()).or_default(), text),
            Place::Ending(text) => (self.endings.entry(text.len()).or_default(), text),
        };
        words.entry(text.into()).or_default()
    }

    /// Patterns that `beginning` begins with, and those that `ending` ends with.
    fn patterned(&self, beginning: &str, ending: &str, visit: &mut dyn FnMut(&[u32])) {
        for (length, words) in self.beginnings.range(..=beginning.len()) {
            if let Some(list) = beginning.get(..*length).and_then(|text| words.get(text)) {
                visit(list);
            }
        }
        for (length, words) in self.endings.range(..=ending.len()) {
            let text = ending.get(ending.len() - length..);
            if let Some(list) = text.and_then(|text| words.get(text)) {
                visit(list);
            }
        }
    }
}
