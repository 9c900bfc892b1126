//! Ids that lead back to the server that made them.
//!
//! A file, a batch, a response live on one server, and only that one can be asked for them. Where a
//! route reaches several, their ids get a suffix on the way out that says whose they are (`sign`,
//! `mark`), and lose it on the way in, where it pins the request (`ask`). No table remembers
//! anything: instances with the same secret understand each other. `list` puts the lists of several
//! servers together.

mod ask;
pub(crate) mod list;
mod mark;
mod names;
#[cfg(test)]
pub(crate) mod props;
mod sign;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub(crate) use ask::{Asked, BodyIds, Reader, Refused};
pub(crate) use mark::Marker;
pub(crate) use sign::Signer;

use crate::config::affinity::collection_of;
use crate::config::{Config, PoolId};
use sign::{Signature, Tag, looks_signed};

/// The server that made an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(crate) pool: PoolId,
    /// Its index in the pool.
    pub(crate) server: usize,
}

/// What a route does about ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing.
    Off,
    /// It reaches one server, and marks nothing; ids of other routes are understood.
    One,
    Several,
}

/// All that is known about ids; built with the gateway.
pub(crate) struct Affinity {
    signer: Signer,
    /// The secret is known to this program only, and to the one that takes its place.
    is_own: bool,
    makers: HashMap<Tag, Maker>,
    /// By pool and server.
    tags: Vec<Vec<Tag>>,
    /// In the order of the routes.
    reaches: Vec<Reach>,
    /// Ids were handed out that may come back: by this program, or by one that shares the secret.
    handed_out: Arc<AtomicBool>,
}

/// What an id says of its maker.
enum Seen<'a> {
    Plain,
    Forged,
    /// `maker` is `None` if that server is no longer in the configuration.
    Made {
        id: &'a str,
        maker: Option<Maker>,
    },
}

/// The one place where it is decided what ids are signed with. `old` is that of the configuration
/// before.
fn signer(config: &Config, old: Option<&Affinity>) -> (Signer, bool, Arc<AtomicBool>) {
    let kept = old.filter(|old| old.is_own);
    match (&config.affinity_secret, kept) {
        (Some(secret), _) => {
            let signer = Signer::new(secret.expose().as_bytes());
            (signer, false, Arc::new(AtomicBool::new(true)))
        }
        (None, Some(old)) => (old.signer.clone(), true, old.handed_out.clone()),
        (None, None) => (Signer::random(), true, Arc::default()),
    }
}

impl Affinity {
    pub(crate) fn new(config: &Config, old: Option<&Affinity>) -> Self {
        let (signer, is_own, handed_out) = signer(config, old);
        let tags: Vec<Vec<Tag>> = (config.pools.iter())
            .map(|pool| {
                let servers = pool.servers.iter();
                servers
                    .map(|server| signer.tag(&pool.name, &server.name))
                    .collect()
            })
            .collect();
        let makers = tags.iter().enumerate().flat_map(|(pool, tags)| {
            let servers = tags.iter().enumerate();
            servers.map(move |(server, tag)| {
                let pool = PoolId(pool);
                (*tag, Maker { pool, server })
            })
        });
        // without ids of ours there is nothing to look for
        let reached = config.reached();
        let active = config.affinity_secret.is_some() || config.makes_ids(&reached);
        let reaches = config.routes.iter().map(|route| match route.affinity {
            true if active && reached.several(route) => Reach::Several,
            true if active => Reach::One,
            _ => Reach::Off,
        });
        Affinity {
            makers: makers.collect(),
            reaches: reaches.collect(),
            tags,
            signer,
            is_own,
            handed_out,
        }
    }

    /// That of a program before, as it handed its key over, or of other edges.
    pub(crate) fn of_before(key: &str) -> Option<Self> {
        Some(Affinity {
            signer: Signer::with_key(key)?,
            is_own: true,
            makers: HashMap::new(),
            tags: Vec::new(),
            reaches: Vec::new(),
            handed_out: Arc::new(AtomicBool::new(true)),
        })
    }

    /// The key for the program that takes this one's place, if nobody else has it.
    pub(crate) fn to_hand_over(&self) -> Option<String> {
        self.is_own.then(|| self.signer.key())
    }

    /// Whether requests to a canonical path may hold ids that lead somewhere. Where they are the
    /// exception, bodies are not looked through before there is any such id.
    pub(crate) fn may_be_carried(&self, path: &str) -> bool {
        collection_of(path).is_some() || (CARRIERS.contains(&path) && self.handed_out.load(Relaxed))
    }

    /// Whether ids are handed out that lead nowhere after a restart.
    pub(crate) fn dies_with_the_program(&self) -> bool {
        self.is_own && self.reaches.contains(&Reach::Several)
    }

    pub(crate) fn reach(&self, route: usize) -> Reach {
        self.reaches[route]
    }

    /// The maker of the object that a canonical path names.
    pub(crate) fn maker_in(&self, path: &str) -> Option<Maker> {
        let mut segments = path.split('/').filter(|segment| looks_signed(segment));
        let Seen::Made { maker, .. } = self.look(segments.next()?) else {
            return None;
        };
        maker.filter(|_| collection_of(path).is_some())
    }

    /// Marks what a server answers; `events`: with a stream of them.
    pub(crate) fn marker(&self, maker: Maker, events: bool) -> Marker {
        self.handed_out.store(true, Relaxed);
        Marker::new(&self.signer, self.tag(maker), events)
    }

    fn tag(&self, maker: Maker) -> Tag {
        self.tags[maker.pool.0][maker.server]
    }

    fn look<'a>(&self, text: &'a str) -> Seen<'a> {
        match self.signer.read(text) {
            Signature::None => Seen::Plain,
            Signature::Forged => Seen::Forged,
            Signature::Good { id, tag } => Seen::Made {
                id,
                maker: self.makers.get(&tag).copied(),
            },
        }
    }
}

/// Whether answers at a canonical path hold ids that are to be marked. The content of a file is
/// passed on as it is.
pub(crate) fn makes_ids(path: &str) -> bool {
    collection_of(path).is_some() && !path.ends_with("/content")
}

/// Paths that make no such ids, and take some in a JSON body.
const CARRIERS: &[&str] = &["/v1/chat/completions", "/v1/images/edits"];

/// Whether requests to a canonical path may hold ids in the fields of a form.
pub(crate) fn may_carry_ids_in_a_form(path: &str) -> bool {
    path.starts_with("/v1/containers/") || path.starts_with("/v1/vector_stores/")
}
