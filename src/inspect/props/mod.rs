//! What has to hold of whatever clients and servers send.

pub(crate) mod answer;
pub(crate) mod audio;
pub(crate) mod form;
pub(crate) mod json;
pub(crate) mod opening;
pub(crate) mod path;

use super::{Body, BodyError, Scanner, listing};
use crate::fuzz::shape;

/// What servers say they have: names that can be asked for, or nothing.
pub(crate) fn lists(data: &[u8]) -> u64 {
    let (models, voices) = (listing::models(data), listing::voices(data));
    let names = models.iter().flatten().map(|model| &model.id);
    for name in names.chain(voices.iter().flatten()) {
        assert!(!name.is_empty());
    }
    shape((models.map(|all| all.len()), voices.map(|all| all.len())))
}

/// The body, fed in these pieces.
fn scanned(mut scanner: Scanner, pieces: &[&[u8]]) -> Result<Body, BodyError> {
    for piece in pieces {
        scanner.feed(piece)?;
    }
    scanner.finish()
}

/// A shape without the numbers in it.
fn kind_of(error: &BodyError) -> String {
    let text = error.to_string();
    text.chars()
        .filter(|c| !c.is_ascii_digit())
        .take(40)
        .collect()
}
