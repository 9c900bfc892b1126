//! The lists of several servers as one, page by page, without a memory of pages.
//!
//! A page ends at an object, and the next begins behind it: its own server is asked to go on there,
//! the others are read from their beginning, past all that is not behind it. What is behind is a
//! question of time first; of objects made in the same second, those of the server that is written
//! first come first. So whoever pages through meets each object once, as long as each server lists
//! by time.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Affinity, Maker, Refused};
use crate::config::affinity::{List, collection_of};

/// Objects on a page of a server that is read past what is before.
const SKIPPED_AT_ONCE: usize = 100;

/// What a client wants of a list.
#[derive(Debug)]
pub(crate) struct Wanted {
    limit: usize,
    descending: bool,
    /// The field that holds the time it is sorted by.
    by: &'static str,
    /// The id as its maker knows it, and that.
    after: Option<(String, Maker)>,
    /// The other parameters, as they came.
    others: Vec<String>,
}

/// Why a list cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlisted {
    Limit(usize),
    Order,
    /// Only one server could say what is before an object.
    Before,
    /// It was not made here, so nobody knows whose list it is in.
    After,
    Refused(Refused),
}

/// The list that `GET` on a canonical path asks for.
pub(crate) fn asked_for(path: &str) -> Option<List> {
    let collection = collection_of(path)?;
    collection.list.filter(|_| collection.path == path)
}

impl Wanted {
    pub(crate) fn read(
        affinity: &Affinity,
        list: List,
        query: Option<&str>,
    ) -> Result<Self, Unlisted> {
        let mut wanted = Wanted {
            limit: list.limit,
            descending: list.descending,
            by: "created_at",
            after: None,
            others: Vec::new(),
        };
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("before" | "after", "") => {}
                ("limit", text) => {
                    let limit = text.parse().ok();
                    let limit = limit.filter(|limit| (1..=list.most).contains(limit));
                    wanted.limit = limit.ok_or(Unlisted::Limit(list.most))?;
                }
                ("before", _) => return Err(Unlisted::Before),
                ("after", id) => {
                    let made = affinity.maker_of(id).map_err(Unlisted::Refused)?;
                    let (id, maker) = made.ok_or(Unlisted::After)?;
                    wanted.after = Some((id.to_owned(), maker));
                }
                (name, value) => {
                    match (name, value) {
                        ("order", "asc" | "desc") => wanted.descending = value == "desc",
                        ("order", _) => return Err(Unlisted::Order),
                        ("order_by", "updated_at") => wanted.by = "updated_at",
                        _ => {}
                    }
                    wanted.others.push(pair.to_owned());
                }
            }
        }
        Ok(wanted)
    }

    /// The object that the page begins behind, as its maker knows it, and that.
    pub(crate) fn after(&self) -> Option<(&str, Maker)> {
        self.after.as_ref().map(|(id, maker)| (id.as_str(), *maker))
    }

    /// When an object was made, as it says itself.
    pub(crate) fn time_of(&self, object: &[u8]) -> Option<f64> {
        let object: serde_json::Value = serde_json::from_slice(object).ok()?;
        object.get(self.by)?.as_f64()
    }
}

/// A page as a server tells it.
#[derive(Deserialize)]
struct Page {
    data: Vec<Box<RawValue>>,
    #[serde(default)]
    has_more: Option<bool>,
}

/// An object, and where in the list it stands.
struct Item {
    id: String,
    time: f64,
    text: Box<RawValue>,
}

/// One server's list.
struct Source {
    maker: Maker,
    /// Read, and not on the page yet.
    items: VecDeque<Item>,
    /// What is behind those was not read yet.
    more: bool,
    /// Where to go on, as the server knows it.
    after: Option<String>,
    /// Still reading what is before the page.
    skipping: bool,
    failed: bool,
}

/// The page that is being made.
pub(crate) struct Merge {
    wanted: Wanted,
    /// When the object was made that the page begins behind, and by which of the sources.
    from: Option<(f64, usize)>,
    sources: Vec<Source>,
    /// Each with its source.
    page: Vec<(usize, Item)>,
}

impl Merge {
    /// `time` is that of the object the page begins behind, if it begins behind one.
    pub(crate) fn new(wanted: Wanted, makers: &[Maker], time: Option<f64>) -> Self {
        let own = |maker: &Maker| wanted.after().is_some_and(|(_, of)| of == *maker);
        let from = time.and_then(|time| Some((time, makers.iter().position(own)?)));
        let sources = makers.iter().map(|maker| Source {
            maker: *maker,
            items: VecDeque::new(),
            more: true,
            after: (wanted.after())
                .filter(|_| own(maker))
                .map(|(id, _)| id.to_owned()),
            skipping: from.is_some() && !own(maker),
            failed: false,
        });
        Merge {
            from,
            sources: sources.collect(),
            page: Vec::new(),
            wanted,
        }
    }

    /// Puts on the page what is known to come next; the sources that have to be read on before it
    /// can go on, none once the page is whole.
    pub(crate) fn go_on(&mut self) -> Vec<usize> {
        while self.page.len() < self.wanted.limit {
            let all = self.sources.iter().enumerate();
            let empty = |source: &Source| source.items.is_empty() && source.more;
            let due: Vec<usize> = (all.clone())
                .filter(|(_, source)| empty(source))
                .map(|(n, _)| n)
                .collect();
            if !due.is_empty() {
                return due;
            }
            let heads = all.filter_map(|(n, source)| Some((n, source.items.front()?.time)));
            // of equals the first
            let next = heads.reduce(|best, next| match self.is_before(next.1, best.1) {
                true => next,
                false => best,
            });
            let Some((n, _)) = next else { break };
            let item = self.sources[n].items.pop_front();
            self.page.extend(item.map(|item| (n, item)));
        }
        Vec::new()
    }

    fn is_before(&self, time: f64, other: f64) -> bool {
        match self.wanted.descending {
            true => time > other,
            false => time < other,
        }
    }

    /// The query that reads a source on.
    pub(crate) fn query(&self, n: usize) -> String {
        let source = &self.sources[n];
        let limit = match source.skipping {
            true => self.wanted.limit.max(SKIPPED_AT_ONCE),
            false => self.wanted.limit,
        };
        let mut query = self.wanted.others.clone();
        query.push(format!("limit={limit}"));
        query.extend(source.after.as_ref().map(|id| format!("after={id}")));
        query.join("&")
    }

    /// Takes what a server answered; says whether that was a page.
    pub(crate) fn take(&mut self, n: usize, answer: &[u8]) -> bool {
        let Some((mut items, more)) = self.read(answer) else {
            return false;
        };
        let source = &mut self.sources[n];
        // some begin anew whatever they are asked
        let seen = |item: &Item| source.after.as_deref() == Some(&item.id);
        if let Some(again) = items.iter().position(seen) {
            items.drain(..=again);
        }
        source.more = more && !items.is_empty();
        if let Some(last) = items.last() {
            source.after = Some(last.id.clone());
        }
        if let (true, Some(from)) = (source.skipping, self.from) {
            let behind = items.iter().position(|item| self.is_behind(n, item, from));
            items.drain(..behind.unwrap_or(items.len()));
            self.sources[n].skipping = behind.is_none();
        }
        self.sources[n].items.extend(items);
        true
    }

    fn is_behind(&self, n: usize, item: &Item, (time, source): (f64, usize)) -> bool {
        self.is_before(time, item.time) || (item.time == time && n > source)
    }

    fn read(&self, answer: &[u8]) -> Option<(Vec<Item>, bool)> {
        let page: Page = serde_json::from_slice(answer).ok()?;
        let items = page.data.into_iter().map(|text| {
            let object: serde_json::Value = serde_json::from_str(text.get()).ok()?;
            Some(Item {
                id: object.get("id")?.as_str()?.to_owned(),
                time: object
                    .get(self.wanted.by)
                    .map_or(Some(0.0), |t| t.as_f64())?,
                text,
            })
        });
        Some((items.collect::<Option<_>>()?, page.has_more == Some(true)))
    }

    /// Notes that a server does not answer: what it has is missing.
    pub(crate) fn fail(&mut self, n: usize) {
        let source = &mut self.sources[n];
        source.failed = true;
        source.more = false;
    }

    /// Notes that a server has no such list.
    pub(crate) fn has_none(&mut self, n: usize) {
        self.sources[n].more = false;
    }

    /// Those whose objects may be missing.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Maker> + '_ {
        let failed = self.sources.iter().filter(|source| source.failed);
        failed.map(|source| source.maker)
    }

    /// The page as OpenAI writes it.
    pub(crate) fn told(self, affinity: &Affinity) -> Bytes {
        let more = (self.sources.iter()).any(|source| source.more || !source.items.is_empty());
        let objects: Vec<String> = (self.page.iter())
            .map(|(n, item)| {
                let mut marker = affinity.marker(self.sources[*n].maker, false);
                let text = Bytes::copy_from_slice(item.text.get().as_bytes());
                String::from_utf8_lossy(&marker.mark(text)).into_owned()
            })
            .collect();
        let id = |object: Option<&String>| -> Option<serde_json::Value> {
            let object: serde_json::Value = serde_json::from_str(object?).ok()?;
            object.get("id").cloned()
        };
        let text = format!(
            r#"{{"object":"list","data":[{}],"first_id":{},"last_id":{},"has_more":{more}}}"#,
            objects.join(","),
            serde_json::json!(id(objects.first())),
            serde_json::json!(id(objects.last())),
        );
        text.into()
    }
}

#[cfg(test)]
mod tests;
