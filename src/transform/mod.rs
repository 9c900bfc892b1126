//! What a request becomes on its way to a server: path, headers, and fields of the body.
//!
//! Pure: from facts to edits. The relay applies them.

pub(crate) mod events;
pub(crate) mod fields;
pub(crate) mod headers;
pub(crate) mod path;
mod prompt;
#[cfg(test)]
pub(crate) mod props;
