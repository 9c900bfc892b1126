//! Walks through JSON as it flows past, in pieces of any size, and finds the ids in it.
//!
//! It validates nothing and changes nothing: of what is no JSON it finds little, and does no harm.
//! A string is an id only where a field says so; what a model or a person wrote is none, whatever it
//! looks like.

use super::names::{Holds, LONGEST, holds};

/// Nesting that is followed; what is deeper holds no ids.
const MAX_DEPTH: usize = 512;
/// Longest key that is looked at; none that is asked for is longer.
const MAX_KEY: usize = 64;

/// An open container.
#[derive(Clone, Copy)]
struct Open {
    object: bool,
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
}

impl Walk {
    /// Calls `found` for each id: with the index in `piece` of the quote that ends it, and its text.
    pub(super) fn feed(&mut self, piece: &[u8], found: &mut dyn FnMut(usize, &[u8])) {
        let mut n = 0;
        while n < piece.len() {
            match self.at {
                At::Between => self.between(piece[n]),
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

    fn between(&mut self, byte: u8) {
        match byte {
            b'"' => self.text_begins(),
            b'{' => self.opens(true),
            b'[' => self.opens(false),
            b'}' | b']' => self.closes(),
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

    fn text_ends(&mut self, quote: usize, found: &mut dyn FnMut(usize, &[u8])) {
        self.at = At::Between;
        if self.is_key {
            self.value = match self.keeping {
                true => holds(&self.kept),
                false => Holds::Other,
            };
            self.key_next = false;
        } else if self.keeping {
            found(quote, &self.kept);
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
            items,
            opaque: outer || self.value == Holds::Opaque,
        });
        self.value = items;
        self.key_next = object;
    }

    fn closes(&mut self) {
        match self.deeper {
            0 => drop(self.open.pop()),
            _ => self.deeper -= 1,
        }
        self.value = Holds::Other;
        self.key_next = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids in a text, which must not depend on how it is cut into pieces.
    fn ids(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        Walk::default().feed(text.as_bytes(), &mut |at, id| {
            assert_eq!(text.as_bytes()[at], b'"');
            all.push(String::from_utf8(id.to_vec()).unwrap());
        });
        for size in 1..text.len() {
            let (mut walk, mut cut) = (Walk::default(), Vec::new());
            for (n, piece) in text.as_bytes().chunks(size).enumerate() {
                walk.feed(piece, &mut |at, id| {
                    let end = n * size + at;
                    assert_eq!(&text.as_bytes()[end - id.len()..end], id);
                    cut.push(String::from_utf8(id.to_vec()).unwrap());
                });
            }
            assert_eq!(cut, all, "in pieces of {size}");
        }
        all
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
