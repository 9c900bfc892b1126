//! Walks through JSON as it flows past, in pieces of any size, and finds the ids in it.
//!
//! It validates nothing and changes nothing: of what is no JSON it finds little, and does no harm.
//! A string is an id only where a field says so; what a model or a person wrote is none, whatever it
//! looks like.

use super::names::{self, Holds, holds};
use super::sign::SUFFIX;

/// Nesting that is followed; what is deeper holds no ids.
const MAX_DEPTH: usize = 512;
/// Longest key that is looked at; none that is asked for is longer.
const MAX_KEY: usize = 64;
/// Longest id, with a suffix.
const LONGEST: usize = names::LONGEST + SUFFIX;

/// What there is in a text.
pub(super) enum Found<'a> {
    Id {
        /// The index in the piece of the quote that ends it.
        quote: usize,
        text: &'a [u8],
    },
    /// The object is over whose own id is the one of this number, counted from 0, and it was not
    /// just a reference: it held more than an id and a type.
    Whole(usize),
}

/// An open container.
#[derive(Clone, Copy)]
struct Open {
    object: bool,
    /// The number of its own id.
    own: Option<usize>,
    /// It holds more than an id and a type.
    whole: bool,
    /// Of an array: what its items are.
    items: Holds,
    /// Nothing in it is an id.
    opaque: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Between,
    Text,
    Escape,
}

/// Where in a JSON text it is.
#[derive(Default)]
pub(super) struct Walk {
    at: At,
    open: Vec<Open>,
    /// Containers beyond the nesting that is followed.
    deeper: usize,
    /// The next string of the object is a key.
    key_next: bool,
    /// The string being read is a key.
    is_key: bool,
    /// What the value of the key before holds.
    value: Holds,
    /// The string being read, if it is a key or may be an id.
    kept: Vec<u8>,
    keeping: bool,
    /// The value is of the object's own id.
    is_own: bool,
    /// Ids so far.
    count: usize,
}

impl Walk {
    /// Calls `found` for each id, and for each object with one.
    pub(super) fn feed(&mut self, piece: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        let mut n = 0;
        while n < piece.len() {
            match self.at {
                At::Between => self.between(piece[n], found),
                At::Escape => {
                    // neither keys nor ids need one
                    self.keeping = false;
                    self.at = At::Text;
                }
                At::Text => {
                    let rest = &piece[n..];
                    let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    self.keep(&rest[..run]);
                    n += run;
                    match piece.get(n) {
                        Some(b'"') => self.text_ends(n, found),
                        Some(_) => self.at = At::Escape,
                        None => return,
                    }
                }
            }
            n += 1;
        }
    }

    fn keep(&mut self, text: &[u8]) {
        let most = if self.is_key { MAX_KEY } else { LONGEST };
        if self.keeping {
            self.keeping = self.kept.len() + text.len() <= most;
            self.kept.extend_from_slice(&text[..text.len().min(most)]);
        }
    }

    fn between(&mut self, byte: u8, found: &mut dyn FnMut(Found<'_>)) {
        match byte {
            b'"' => self.text_begins(),
            b'{' => self.opens(true),
            b'[' => self.opens(false),
            b'}' | b']' => self.closes(found),
            b':' => {
                self.key_next = false;
            }
            b',' => match self.open.last() {
                Some(open) if open.object => self.key_next = true,
                Some(open) => self.value = open.items,
                None => {}
            },
            _ => {}
        }
    }

    fn text_begins(&mut self) {
        let open = self.open.last();
        let opaque = self.deeper > 0 || open.is_some_and(|open| open.opaque);
        self.is_key = self.key_next && self.deeper == 0 && open.is_some_and(|open| open.object);
        self.keeping = self.is_key || (self.value == Holds::Ids && !opaque);
        self.kept.clear();
        self.at = At::Text;
    }

    fn text_ends(&mut self, quote: usize, found: &mut dyn FnMut(Found<'_>)) {
        self.at = At::Between;
        if self.is_key {
            let key = if self.keeping { &self.kept[..] } else { b"" };
            self.value = holds(key);
            self.is_own = key == b"id";
            if let Some(open) = self.open.last_mut() {
                open.whole |= !matches!(key, b"id" | b"type");
            }
            self.key_next = false;
        } else if self.keeping {
            found(Found::Id {
                quote,
                text: &self.kept,
            });
            let own = self.is_own.then_some(self.count);
            self.count += 1;
            if let (Some(open), Some(own)) = (self.open.last_mut(), own) {
                open.own = Some(own);
            }
        }
        self.keeping = false;
    }

    fn opens(&mut self, object: bool) {
        if self.deeper > 0 || self.open.len() >= MAX_DEPTH {
            self.deeper += 1;
            return;
        }
        let outer = self.open.last().is_some_and(|open| open.opaque);
        let items = match (object, self.value) {
            (false, Holds::Ids) => Holds::Ids,
            _ => Holds::Other,
        };
        self.open.push(Open {
            object,
            own: None,
            whole: false,
            items,
            opaque: outer || self.value == Holds::Opaque,
        });
        self.value = items;
        self.is_own = false;
        self.key_next = object;
    }

    fn closes(&mut self, found: &mut dyn FnMut(Found<'_>)) {
        match self.deeper {
            0 => {
                let closed = self.open.pop().filter(|open| open.whole);
                if let Some(own) = closed.and_then(|open| open.own) {
                    found(Found::Whole(own));
                }
            }
            _ => self.deeper -= 1,
        }
        self.value = Holds::Other;
        self.is_own = false;
        self.key_next = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids in a text, and those of whole objects, which must not depend on how it is cut into pieces.
    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let (mut all, mut whole) = (Vec::new(), Vec::new());
        Walk::default().feed(text.as_bytes(), &mut |found| match found {
            Found::Id { quote, text: id } => {
                assert_eq!(text.as_bytes()[quote], b'"');
                all.push(String::from_utf8(id.to_vec()).unwrap());
            }
            Found::Whole(n) => whole.push(all[n].clone()),
        });
        for size in 1..text.len() {
            let (mut walk, mut cut, mut cut_whole) = (Walk::default(), Vec::new(), Vec::new());
            for (n, piece) in text.as_bytes().chunks(size).enumerate() {
                walk.feed(piece, &mut |found| match found {
                    Found::Id { quote, text: id } => {
                        let end = n * size + quote;
                        assert_eq!(&text.as_bytes()[end - id.len()..end], id);
                        cut.push(String::from_utf8(id.to_vec()).unwrap());
                    }
                    Found::Whole(n) => cut_whole.push(cut[n].clone()),
                });
            }
            assert_eq!((&cut, &cut_whole), (&all, &whole), "in pieces of {size}");
        }
        (all, whole)
    }

    fn ids(text: &str) -> Vec<String> {
        read(text).0
    }

    #[test]
    fn what_is_repeated_is_told_from_what_is_referred_to() {
        let (_, whole) = read(
            r#"{"id":"a","input":[{"type":"item_reference","id":"b"},{"id":"c","content":[{"id":"d"}]},
                {"x":{"id":"e"}},{"type":"message","id":"f","role":"user"}],"x_id":"g"}"#,
        );
        assert_eq!(whole, ["c", "f", "a"]);
    }

    #[test]
    fn ids_are_where_a_field_says_so() {
        assert_eq!(
            ids(
                r#"{"id":"file-1","object":"file-2","file_ids":["file-3" , "file-4"],
                "x":[{"file_id":"file-5"},"file-6"],"conversation":{"id":"conv_7"},
                "a":"b","training_file" : "file-8", "n":[1,true,null],"last_id":"file-9"}"#
            ),
            [
                "file-1", "file-3", "file-4", "file-5", "conv_7", "file-8", "file-9"
            ]
        );
        assert_eq!(ids(r#"[{"id":"a"},{"id":"b"}]"#), ["a", "b"]);
    }

    #[test]
    fn what_people_and_models_write_holds_none() {
        assert_eq!(
            ids(
                r#"{"text":"{\"id\":\"file-1\"}","content":"file-2","metadata":{"file_id":"file-3","x":{"id":"y"}},
                "parameters":{"properties":{"id":"file-4"}},"arguments":"{\"file_id\":\"file-5\"}","k":{"id\"":"z"},"id":"end"}"#
            ),
            ["end"]
        );
        assert_eq!(
            ids(r#"{"id":{"id":"inner"},"a":1,"b":"id","c":"no"}"#),
            ["inner"]
        );
        assert_eq!(
            ids(r#"{"id":"es\u0063aped","id":null,"x":"y"}"#),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_no_json_does_no_harm() {
        for text in [
            "",
            "}}]]",
            "\"\"\"",
            "{\"id\"",
            "{]:,\"id\":\"x\"",
            "\\\\\"id\":",
        ] {
            ids(text);
        }
        let deep = format!("{}{{\"id\":\"deep\"}}{}", "[".repeat(600), "]".repeat(600));
        assert_eq!(
            ids(&format!("[{deep},{{\"id\":\"shallow\"}}]")),
            ["shallow"]
        );
        let long = format!("{{\"id\":\"{}\",\"id\":\"b\"}}", "a".repeat(300));
        assert_eq!(ids(&long), ["b"]);
    }
}
