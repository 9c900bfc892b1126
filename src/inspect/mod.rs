//! What a request is: its path in normal form, its endpoint, and the fields of its body.
//!
//! Reads bytes, decides nothing, changes nothing. A body is scanned piece by piece as it arrives
//! and never held here; what comes out are names, values and the places they stand at.

pub(crate) mod answer;
pub(crate) mod answer_head;
pub(crate) mod audio;
pub(crate) mod chunks;
mod container;
pub(crate) mod endpoint;
pub(crate) mod framing;
pub(crate) mod head;
mod json;
pub(crate) mod listing;
mod multipart;
pub(crate) mod opening;
pub(crate) mod path;
#[cfg(test)]
pub(crate) mod props;
pub(crate) mod request_head;

use std::ops::Range;

use http::HeaderMap;

/// Most bytes of one field's value that are kept to decide by. Longer values (a whole
/// conversation, a file) are only located.
const KEPT_VALUE: usize = 4096;
/// Most fields a body may have at its top level.
const MAX_FIELDS: usize = 1024;

/// Why a body cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{0}")]
    Json(String),
    #[error("{0}")]
    Multipart(String),
}

/// One field at the top level of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Where its value stands in the body, quotes included.
    pub(crate) value: Range<u64>,
    /// Where all of it stands: from its key to the end of its value, or from its boundary to the
    /// next one.
    pub(crate) whole: Range<u64>,
    /// The value as text, if it is a text of at most 4 KiB.
    pub(crate) text: Option<String>,
    /// The value is JSON's `true`.
    pub(crate) is_true: bool,
    pub(crate) shape: Shape,
}

/// What kind of value a field has, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    EmptyList,
    List,
    Null,
    Other,
}

/// The form a body has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Multipart { boundary: String },
}

/// A body that was scanned to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) form: Form,
    pub(crate) fields: Vec<Field>,
    /// Those of a form that may come several times, such as `timestamp_granularities[]`.
    pub(crate) repeated: Vec<Field>,
    /// Where another field can be put in: before the closing brace, or before the first part.
    pub(crate) insert_at: u64,
    /// Where the data of the first file of a form stands.
    pub(crate) file: Option<Range<u64>>,
}

impl Body {
    /// One that says nothing but which model it is for, as the query of a WebSocket does.
    pub(crate) fn of_model(model: &str) -> Self {
        Body {
            form: Form::Json,
            fields: vec![Field {
                name: "model".to_owned(),
                value: 0..0,
                whole: 0..0,
                text: Some(model.to_owned()),
                is_true: false,
                shape: Shape::Text,
            }],
            repeated: Vec::new(),
            insert_at: 0,
            file: None,
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The value of a text field.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.field(name)?.text.as_deref()
    }
}

/// Reads a body as it arrives.
pub(crate) enum Scanner {
    Json(Box<json::Scanner>),
    Multipart(Box<multipart::Scanner>),
}

impl Scanner {
    /// The scanner for what the headers announce. Everything that is not multipart is read as
    /// JSON, whatever it calls itself: that is what the servers do.
    pub(crate) fn new(headers: &HeaderMap) -> Result<Self, BodyError> {
        let content_type = headers
            .get(http::header::CONTENT_TYPE)
            .map(|value| value.to_str().unwrap_or_default());
        match content_type {
            Some(text) if is_multipart(text) => {
                let boundary = multipart::boundary(text)?;
                Ok(Scanner::Multipart(Box::new(multipart::Scanner::new(
                    &boundary,
                ))))
            }
            _ => Ok(Scanner::Json(Box::default())),
        }
    }

    /// Takes the next piece of the body.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        match self {
            Scanner::Json(scanner) => scanner.feed(piece),
            Scanner::Multipart(scanner) => scanner.feed(piece),
        }
    }

    /// Says what the body was, once all of it was fed.
    pub(crate) fn finish(self) -> Result<Body, BodyError> {
        match self {
            Scanner::Json(scanner) => scanner.finish(),
            Scanner::Multipart(scanner) => scanner.finish(),
        }
    }
}

/// Whether a body is of the kind that has fields. The endpoints we know by name always take JSON or
/// a form, whatever their clients call it; elsewhere a body may be anything, and is looked into only
/// if it says that it is one of the two.
pub(crate) fn has_fields(headers: &HeaderMap, operation: Option<endpoint::Operation>) -> bool {
    if operation.is_some_and(|operation| operation != endpoint::Operation::Other) {
        return true;
    }
    let content_type = headers
        .get(http::header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    content_type.is_none_or(|text| is_multipart(text) || text.to_ascii_lowercase().contains("json"))
}

fn is_multipart(content_type: &str) -> bool {
    content_type
        .get(.."multipart/".len())
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
}

/// Two fields of one name, or one spelled in another case, are read differently by different
/// servers: one could route, the other could be served.
fn distinct(fields: &[Field]) -> Result<(), String> {
    for (n, field) in fields.iter().enumerate() {
        if fields[..n].iter().any(|earlier| earlier.name == field.name) {
            return Err(format!(
                "`{}` is given twice",
                crate::unit::printable(&field.name)
            ));
        }
        for known in ["model", "voice", "stream"] {
            if field.name != known && field.name.eq_ignore_ascii_case(known) {
                return Err(format!("`{}` must be written `{known}`", field.name));
            }
        }
    }
    Ok(())
}
