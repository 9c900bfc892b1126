//! What has to hold of whatever clients and servers send.

pub(crate) mod audio;
pub(crate) mod form;
pub(crate) mod json;
pub(crate) mod opening;
pub(crate) mod path;

use super::{Body, BodyError, Scanner};

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
