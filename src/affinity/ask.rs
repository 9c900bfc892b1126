//! Ids on their way in: read out of path, query and body, their suffixes taken off, and whose they
//! are.

use bytes::Bytes;

use super::names::is_item;
use super::sign::{SUFFIX, looks_signed};
use super::walk::{Found, Walk};
use super::{Affinity, Maker, Reach, Seen};
use crate::inspect::{Body, Form};
use crate::transform::fields::Edit;

/// Ids of a body that are looked at; nobody asks with more.
const MOST_IDS: usize = 10_000;

/// Why a request with ids goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// An id was not made here.
    Forged,
    /// The server that made it is not in the configuration.
    MakerGone,
    /// Its ids are of several servers.
    SeveralMakers,
}

/// What a request is without suffixes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `None` if it stays as it is.
    pub(crate) path: Option<String>,
    pub(crate) query: Option<String>,
    /// Of the body, in the order of their places.
    pub(crate) edits: Vec<Edit>,
    /// The only server that can be asked.
    pub(crate) pinned: Option<Maker>,
}

/// Reads the ids of one request.
pub(crate) struct Reader<'a> {
    affinity: &'a Affinity,
    reach: Reach,
    asked: Asked,
}

/// Finds ids in a JSON body as it arrives.
#[derive(Default)]
pub(crate) struct BodyIds {
    walk: Walk,
    fed: u64,
    found: Vec<BodyId>,
    count: usize,
}

/// One that may have a suffix.
struct BodyId {
    text: String,
    /// The offset of its end.
    end: u64,
    /// Its number among all ids of the body.
    number: usize,
    /// Its object is there as a whole: it is repeated, and not referred to.
    whole: bool,
}

impl BodyIds {
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        let BodyIds {
            walk,
            fed,
            found,
            count,
        } = self;
        walk.feed(piece, &mut |what| match what {
            Found::Id { quote, text } => {
                if let Ok(text) = std::str::from_utf8(text)
                    && looks_signed(text)
                    && found.len() < MOST_IDS
                {
                    found.push(BodyId {
                        text: text.to_owned(),
                        end: *fed + quote as u64,
                        number: *count,
                        whole: false,
                    });
                }
                *count += 1;
            }
            Found::Whole(number) => {
                if let Ok(at) = found.binary_search_by_key(&number, |id| id.number) {
                    found[at].whole = true;
                }
            }
        });
        *fed += piece.len() as u64;
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(affinity: &'a Affinity, route: usize) -> Self {
        Reader {
            affinity,
            reach: affinity.reach(route),
            asked: Asked::default(),
        }
    }

    /// For the rest of a request that is bound already, if it is.
    pub(crate) fn bound_to(affinity: &'a Affinity, route: usize, pinned: Option<Maker>) -> Self {
        let mut reader = Reader::new(affinity, route);
        reader.asked.pinned = pinned;
        reader
    }

    /// Reads path and query.
    pub(crate) fn target(&mut self, path: &str, query: Option<&str>) -> Result<(), Refused> {
        self.asked.path = self.parts(path, '/', |segment| segment)?;
        if let Some(query) = query {
            self.asked.query = self.parts(query, '&', value_of)?;
        }
        Ok(())
    }

    /// A text whose parts may end with an id, without their suffixes; `None` if there are none.
    fn parts(
        &mut self,
        text: &str,
        between: char,
        id: impl Fn(&str) -> &str,
    ) -> Result<Option<String>, Refused> {
        let mut out: Vec<&str> = Vec::new();
        let mut changed = false;
        for part in text.split(between) {
            let ours = self.id(id(part))?;
            changed |= ours;
            out.push(&part[..part.len() - if ours { SUFFIX } else { 0 }]);
        }
        Ok(changed.then(|| out.join(&between.to_string())))
    }

    /// Reads the ids of a JSON body.
    pub(crate) fn body(&mut self, ids: BodyIds) -> Result<(), Refused> {
        for id in ids.found {
            // what a client repeats of a response any server can read, whoever said it
            match id.whole && is_item(id.text.as_bytes()) {
                true => self.repeated(&id),
                false => self.take(&id.text, id.end)?,
            }
        }
        Ok(())
    }

    /// Reads the fields of a form.
    pub(crate) fn form(&mut self, body: &Body) -> Result<(), Refused> {
        if matches!(body.form, Form::Json) {
            return Ok(());
        }
        let mut fields: Vec<_> = body.fields.iter().chain(&body.repeated).collect();
        fields.sort_by_key(|field| field.value.start);
        for field in fields {
            if let Some(text) = &field.text {
                self.take(text, field.value.end)?;
            }
        }
        Ok(())
    }

    /// Takes an id of the body that ends at `end`.
    fn take(&mut self, id: &str, end: u64) -> Result<(), Refused> {
        if self.id(id)? {
            self.cut(end);
        }
        Ok(())
    }

    /// Takes the id of an item that is all there: it leads nowhere, so it matters little whose it is.
    fn repeated(&mut self, id: &BodyId) {
        let ours = matches!(self.affinity.look(&id.text), Seen::Made { .. });
        if ours || self.reach == Reach::Several {
            self.cut(id.end);
        }
    }

    fn cut(&mut self, end: u64) {
        self.asked.edits.push(Edit {
            at: end - SUFFIX as u64..end,
            with: Bytes::new(),
        });
    }

    /// Whether an id has a suffix of ours. One server at most may be meant by all of them.
    fn id(&mut self, text: &str) -> Result<bool, Refused> {
        let maker = match self.affinity.look(text) {
            Seen::Plain => return Ok(false),
            // who is the only one may have made it: another Trunkline
            Seen::Forged if self.reach != Reach::Several => return Ok(false),
            Seen::Forged => return Err(Refused::Forged),
            Seen::Made { maker, .. } => maker.ok_or(Refused::MakerGone)?,
        };
        match self.asked.pinned.replace(maker) {
            Some(other) if other != maker => Err(Refused::SeveralMakers),
            _ => Ok(true),
        }
    }

    pub(crate) fn finish(self) -> Asked {
        self.asked
    }
}

/// The value of a parameter.
fn value_of(pair: &str) -> &str {
    pair.split_once('=').map_or("", |(_, value)| value)
}

impl Affinity {
    /// The id as its maker knows it, and that, if it has a suffix of ours.
    ///
    /// # Errors
    /// If the suffix is forged, or its maker is gone.
    pub(crate) fn maker_of<'a>(&self, id: &'a str) -> Result<Option<(&'a str, Maker)>, Refused> {
        match self.look(id) {
            Seen::Plain => Ok(None),
            Seen::Forged => Err(Refused::Forged),
            Seen::Made { id, maker } => {
                let maker = maker.ok_or(Refused::MakerGone)?;
                Ok(Some((id, maker)))
            }
        }
    }
}
