//! Puts suffixes behind the ids of an answer while it streams past: of JSON, of the events of a
//! stream, and of the place that a head names. Every other byte stays as it is.

use bytes::{Bytes, BytesMut};

use super::names::lives_on_one_server;
use super::sign::{Signer, Tag};
use super::walk::{Found, Walk};

/// Marks the ids of one server in one answer.
pub(crate) struct Marker {
    signer: Signer,
    tag: Tag,
    walk: Walk,
    /// Where in its line an event stream is; `None` for plain JSON.
    line: Option<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of the field's name are there.
    Name(usize),
    Data,
    Other,
}

/// Begins the lines of an event stream that hold what it tells.
const DATA: &[u8] = b"data:";

impl Marker {
    pub(super) fn new(signer: &Signer, tag: Tag, events: bool) -> Self {
        Marker {
            signer: signer.clone(),
            tag,
            walk: Walk::default(),
            line: events.then_some(Line::Name(0)),
        }
    }

    /// The next piece of the body with its ids marked.
    pub(crate) fn mark(&mut self, piece: Bytes) -> Bytes {
        let mut places: Vec<(usize, String)> = Vec::new();
        let (signer, tag) = (&self.signer, self.tag);
        let mut found = |quote: usize, id: &[u8]| {
            if lives_on_one_server(id) {
                places.push((quote, signer.suffix(id, tag)));
            }
        };
        match &mut self.line {
            None => feed(&mut self.walk, &piece, &mut found),
            Some(line) => events(&mut self.walk, line, &piece, &mut found),
        }
        if places.is_empty() {
            return piece;
        }
        let longer: usize = places.iter().map(|(_, suffix)| suffix.len()).sum();
        let mut out = BytesMut::with_capacity(piece.len() + longer);
        let mut done = 0;
        for (at, suffix) in places {
            out.extend_from_slice(&piece[done..at]);
            out.extend_from_slice(suffix.as_bytes());
            done = at;
        }
        out.extend_from_slice(&piece[done..]);
        out.freeze()
    }

    /// An address or a path with its ids marked, such as that of a call in `Location`.
    pub(crate) fn place(&self, place: &str) -> String {
        let (path, query) = place.split_at(place.find(['?', '#']).unwrap_or(place.len()));
        let segments = path.split('/').map(|segment| match segment.as_bytes() {
            id if lives_on_one_server(id) => {
                format!("{segment}{}", self.signer.suffix(id, self.tag))
            }
            _ => segment.to_owned(),
        });
        segments.collect::<Vec<_>>().join("/") + query
    }
}

/// Calls `found` for each id, with the place of the quote that ends it.
fn feed(walk: &mut Walk, piece: &[u8], found: &mut dyn FnMut(usize, &[u8])) {
    walk.feed(piece, &mut |what| {
        if let Found::Id { quote, text } = what {
            found(quote, text);
        }
    });
}

fn events(walk: &mut Walk, line: &mut Line, piece: &[u8], found: &mut dyn FnMut(usize, &[u8])) {
    let mut at = 0;
    while at < piece.len() {
        match *line {
            Line::Name(n) => {
                *line = match piece[at] {
                    b'\n' | b'\r' => Line::Name(0),
                    byte if byte == DATA[n] && n + 1 == DATA.len() => Line::Data,
                    byte if byte == DATA[n] => Line::Name(n + 1),
                    _ => Line::Other,
                };
                at += 1;
            }
            Line::Data | Line::Other => {
                let rest = &piece[at..];
                let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                if *line == Line::Data {
                    feed(walk, &rest[..end], &mut |n, id| found(at + n, id));
                }
                at += end;
                if end < rest.len() {
                    *walk = Walk::default();
                    *line = Line::Name(0);
                    at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after marking, however it is cut, with `+` for each suffix.
    fn marked(text: &str, events: bool) -> String {
        let signer = Signer::new(b"s");
        let tag = signer.tag("a", "one");
        let whole = |size: usize| {
            let mut marker = Marker::new(&signer, tag, events);
            let pieces = text.as_bytes().chunks(size);
            let out: Vec<Bytes> = pieces
                .map(|piece| marker.mark(Bytes::copy_from_slice(piece)))
                .collect();
            String::from_utf8(out.concat()).unwrap()
        };
        let all = whole(text.len());
        for size in 1..text.len() {
            assert_eq!(whole(size), all, "in pieces of {size}");
        }
        let mut out = String::new();
        let mut rest = all.as_str();
        while let Some(at) = rest.find("_tl_") {
            out.push_str(&rest[..at]);
            out.push('+');
            rest = &rest[at + super::super::sign::SUFFIX..];
        }
        out + rest
    }

    #[test]
    fn resources_are_marked_and_nothing_else() {
        assert_eq!(
            marked(
                r#"{ "id" : "resp_1","call_id":"call_2","output":[{"id":"msg_3","content":[{"text":"file-4 \"id\":\"file-5\"","file_id":"file-6"}]}],"request_id":"req_7","file_id":"file-","model":"x" }"#,
                false
            ),
            r#"{ "id" : "resp_1+","call_id":"call_2","output":[{"id":"msg_3+","content":[{"text":"file-4 \"id\":\"file-5\"","file_id":"file-6+"}]}],"request_id":"req_7","file_id":"file-","model":"x" }"#
        );
    }

    #[test]
    fn events_are_marked_line_by_line() {
        assert_eq!(
            marked(
                "event: response.created\nid: resp_0\ndata: {\"response\":{\"id\":\"resp_1\"}}\r\n\r\n: {\"id\":\"resp_2\"}\ndata:{\"item_id\":\"msg_3\",\"delta\":\"{\\\"id\\\": \\\"file-4\\\"\"}\n\ndata: {\"id\":\"resp_5\n\ndata: \"resp_6\"}\n\ndata: [DONE]\n\n",
                true
            ),
            "event: response.created\nid: resp_0\ndata: {\"response\":{\"id\":\"resp_1+\"}}\r\n\r\n: {\"id\":\"resp_2\"}\ndata:{\"item_id\":\"msg_3+\",\"delta\":\"{\\\"id\\\": \\\"file-4\\\"\"}\n\ndata: {\"id\":\"resp_5\n\ndata: \"resp_6\"}\n\ndata: [DONE]\n\n"
        );
    }

    #[test]
    fn places_are_marked() {
        let signer = Signer::new(b"s");
        let marker = Marker::new(&signer, signer.tag("a", "one"), false);
        let place = marker.place("https://h/v1/realtime/calls/rtc_1?x=rtc_2");
        assert!(
            place.starts_with("https://h/v1/realtime/calls/rtc_1_tl_"),
            "{place}"
        );
        assert!(place.ends_with("?x=rtc_2"));
        assert_eq!(marker.place("/v1/x"), "/v1/x");
    }
}
