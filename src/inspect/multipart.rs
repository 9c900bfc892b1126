//! Multipart bodies: the form fields and where they stand, found while the upload flows past.
//!
//! The strict middle of RFC 2046 and RFC 7578: no preamble, no padding behind a boundary, one
//! `name` per part in its plain form. Everything that real clients send passes; what one reader
//! takes for a field and another for data is refused, as `model` may decide where the upload goes.

use super::{Body, BodyError, Field, Form, KEPT_VALUE, MAX_FIELDS, Shape};

/// Longest head of a part; real ones stay below 300 bytes.
const MAX_PART_HEAD: usize = 8192;

/// The boundary that a `Content-Type` announces.
pub(super) fn boundary(content_type: &str) -> Result<String, BodyError> {
    let wrong = |what: &str| BodyError::Multipart(format!("the Content-Type {what}"));
    let (kind, rest) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind
        .trim_ascii()
        .eq_ignore_ascii_case("multipart/form-data")
    {
        return Err(wrong("is multipart, but not multipart/form-data"));
    }
    let parameters = parameters(rest).ok_or_else(|| wrong("is not understood"))?;
    let mut found = parameters.iter().filter(|(name, _)| name == "boundary");
    let boundary = match (found.next(), found.next()) {
        (Some((_, value)), None) => value,
        (None, _) => return Err(wrong("names no boundary")),
        (Some(_), Some(_)) => return Err(wrong("names two boundaries")),
    };
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
    // RFC 2046, section 5.1.1: 1 to 70 of these characters
    if boundary.is_empty() || boundary.len() > 70 || !boundary.bytes().all(valid) {
        return Err(wrong("names a boundary that is not allowed"));
    }
    Ok(boundary.clone())
}

/// `; name=value; name="value"`, names in lower case. `None` for anything else.
fn parameters(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t']);
        if text.is_empty() {
            return Some(found);
        }
        let (name, rest) = text.split_once('=')?;
        // what is white space beyond ASCII is none to others
        let name = name.trim_matches([' ', '\t']);
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b))
        {
            return None;
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })?;
                (&quoted[..end], &quoted[end + 1..])
            }
            // spaces count inside of quotes only
            None => {
                let (value, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
                let value = value.trim_end_matches([' ', '\t']);
                // others take what follows a quote for quoted, up to the next one, and drop spaces
                if value.contains('"') || value.trim() != value {
                    return None;
                }
                (value, rest)
            }
        };
        found.push((name.to_ascii_lowercase(), value.to_owned()));
        let rest = rest.trim_start_matches([' ', '\t']);
        text = match rest.strip_prefix(';') {
            Some(rest) => rest,
            None if rest.is_empty() => "",
            None => return None,
        };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Matching the first boundary; so many bytes of it are there.
    Start(usize),
    /// Behind a boundary, before the two bytes that say what follows.
    Behind,
    Head,
    /// In a part's data, so many bytes of the next boundary matched, from its LF on.
    Data(usize),
    /// Behind the last boundary.
    End,
}

/// Behind what a boundary may stand in the eyes of somebody. All but one are refused: some readers
/// take a bare LF or CR for a line's end, or need none behind the head, and would see another part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// The head of a part.
    Head,
    Cr,
    Lf,
    CrLf,
}

impl Break {
    /// How many bytes of a delimiter that did not come are no data, or are kept already.
    fn kept(self) -> usize {
        usize::from(matches!(self, Break::Head | Break::Cr))
    }
}

/// Reads one multipart body.
pub(crate) struct Scanner {
    boundary: String,
    /// LF, two dashes and the boundary; LF stands only at its start. A CR has to stand before it.
    delimiter: Vec<u8>,
    /// The last byte of data, and behind what the match began.
    last: u8,
    behind: Break,
    state: State,
    fed: u64,
    /// The head of the part, or the two bytes behind a boundary.
    head: Vec<u8>,
    name: String,
    is_file: bool,
    part_start: u64,
    value_start: u64,
    /// The value, while it is a short text.
    kept: Option<Vec<u8>>,
    fields: Vec<Field>,
    repeated: Vec<Field>,
    file: Option<std::ops::Range<u64>>,
}

impl Scanner {
    pub(super) fn new(boundary: &str) -> Self {
        Scanner {
            boundary: boundary.to_owned(),
            delimiter: format!("\n--{boundary}").into_bytes(),
            last: 0,
            behind: Break::Head,
            state: State::Start(1),
            fed: 0,
            head: Vec::new(),
            name: String::new(),
            is_file: false,
            part_start: 0,
            value_start: 0,
            kept: None,
            fields: Vec::new(),
            repeated: Vec::new(),
            file: None,
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let mut at = 0;
        while at < piece.len() {
            at = match self.state {
                State::Data(0) => self.data(piece, at),
                _ => {
                    self.byte(piece[at], self.fed + at as u64)?;
                    at + 1
                }
            };
        }
        self.fed += piece.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Body, BodyError> {
        if self.state != State::End {
            return Err(BodyError::Multipart(
                "the form ends before its last boundary".into(),
            ));
        }
        super::distinct(&self.fields).map_err(BodyError::Multipart)?;
        Ok(Body {
            form: Form::Multipart {
                boundary: self.boundary,
            },
            fields: self.fields,
            repeated: self.repeated,
            insert_at: 0,
            file: self.file,
        })
    }

    /// Runs through data to what may be a boundary.
    fn data(&mut self, piece: &[u8], at: usize) -> usize {
        let rest = &piece[at..];
        let run = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        self.keep(&rest[..run]);
        if let Some(last) = rest[..run].last() {
            self.last = *last;
        }
        if let Some(&byte) = rest.get(run) {
            self.match_begins(byte);
        }
        at + (run + 1).min(rest.len())
    }

    /// `byte`: a CR or LF.
    fn match_begins(&mut self, byte: u8) {
        self.behind = match (byte, self.last) {
            (b'\r', _) => {
                self.keep(b"\r");
                self.last = byte;
                Break::Cr
            }
            (_, b'\r') => Break::CrLf,
            _ => Break::Lf,
        };
        self.state = State::Data(1);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.len() + bytes.len() > KEPT_VALUE {
                self.kept = None;
            } else {
                kept.extend_from_slice(bytes);
            }
        }
    }

    fn byte(&mut self, byte: u8, offset: u64) -> Result<(), BodyError> {
        match self.state {
            State::Start(matched) => {
                if byte != self.delimiter[matched] {
                    return Err(self.wrong("the form does not start with its boundary", offset));
                }
                self.state = match matched + 1 == self.delimiter.len() {
                    true => State::Behind,
                    false => State::Start(matched + 1),
                };
            }
            State::Behind => {
                self.head.push(byte);
                match self.head.as_slice() {
                    b"\r\n" => self.state = State::Head,
                    b"--" => self.state = State::End,
                    b"\r" | b"-" => return Ok(()),
                    _ => return Err(self.wrong("a boundary is followed by something else", offset)),
                }
                self.head.clear();
            }
            State::Head => {
                self.head.push(byte);
                if self.head.len() > MAX_PART_HEAD {
                    return Err(self.wrong("the head of a part is too long", offset));
                }
                if self.head.ends_with(b"\r\n\r\n") {
                    self.part_begins(offset + 1)?;
                }
            }
            State::Data(matched) => {
                if byte == self.delimiter[matched] {
                    self.state = State::Data(matched + 1);
                    if matched + 1 == self.delimiter.len() {
                        if self.behind != Break::CrLf {
                            let what = "a boundary does not stand behind CR and LF";
                            return Err(self.wrong(what, offset));
                        }
                        self.part_ends(offset - self.delimiter.len() as u64)?;
                    }
                } else {
                    let kept = self.behind.kept();
                    if kept < matched {
                        let data = self.delimiter[kept..matched].to_vec();
                        self.keep(&data);
                        self.last = self.delimiter[matched - 1];
                    }
                    if matches!(byte, b'\r' | b'\n') {
                        self.match_begins(byte);
                    } else {
                        self.last = byte;
                        self.keep(&[byte]);
                        self.state = State::Data(0);
                    }
                }
            }
            // clients end with a line break
            State::End if matches!(byte, b'\r' | b'\n') => {}
            State::End => {
                return Err(self.wrong("something stands behind the last boundary", offset));
            }
        }
        Ok(())
    }

    fn part_begins(&mut self, offset: u64) -> Result<(), BodyError> {
        let head = std::mem::take(&mut self.head);
        let (name, is_file) = disposition(&head).map_err(|what| self.wrong(what, offset))?;
        self.kept = (!is_file).then(Vec::new);
        self.name = name;
        self.is_file = is_file;
        self.value_start = offset;
        self.last = b'\n';
        self.behind = Break::Head;
        self.state = State::Data(1);
        Ok(())
    }

    fn part_ends(&mut self, end: u64) -> Result<(), BodyError> {
        if self.fields.len() + self.repeated.len() == MAX_FIELDS {
            return Err(self.wrong("the form has more than 1024 parts", end));
        }
        let text = self.kept.take().and_then(|mut bytes| {
            // the CR of the boundary was taken for data until the rest had come
            bytes.pop();
            String::from_utf8(bytes).ok()
        });
        let name = std::mem::take(&mut self.name);
        if self.is_file && matches!(name.as_str(), "model" | "voice") {
            return Err(BodyError::Multipart(format!("`{name}` is a file")));
        }
        // `timestamp_granularities[]` and the like may come several times
        let repeats = name.ends_with("[]");
        // the CR and LF in front of a boundary belong to it
        let next = end + 2;
        let whole = std::mem::replace(&mut self.part_start, next)..next;
        if self.is_file && self.file.is_none() {
            self.file = Some(self.value_start..end);
        }
        let fields = match repeats {
            true => &mut self.repeated,
            false => &mut self.fields,
        };
        fields.push(Field {
            name,
            value: self.value_start..end,
            whole,
            text,
            is_true: false,
            shape: Shape::Text,
        });
        self.state = State::Behind;
        Ok(())
    }

    fn wrong(&self, what: &str, offset: u64) -> BodyError {
        BodyError::Multipart(format!("{what} (at byte {offset})"))
    }
}

/// Whether a byte may be in the name of a field (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The name of a part, and whether it is a file.
fn disposition(head: &[u8]) -> Result<(String, bool), &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "the head of a part is not UTF-8")?;
    let mut found = None;
    for line in head.trim_end_matches("\r\n").split("\r\n") {
        let broken = |c: char| c.is_ascii_control() && c != '\t';
        if line.contains(broken) || line.starts_with([' ', '\t']) {
            return Err("the head of a part holds a broken line");
        }
        let (name, value) = line
            .split_once(':')
            .ok_or("the head of a part holds a line without `:`")?;
        // some readers take a line that is no field for the first one of the data
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err("the head of a part holds a field whose name is none");
        }
        if name.eq_ignore_ascii_case("content-transfer-encoding")
            && !matches!(
                value.trim_ascii().to_ascii_lowercase().as_str(),
                "7bit" | "8bit" | "binary"
            )
        {
            return Err("a part is encoded, which forms are not");
        }
        if name.eq_ignore_ascii_case("content-disposition")
            && found.replace(value.trim_ascii()).is_some()
        {
            return Err("a part has two Content-Dispositions");
        }
    }
    let value = found.ok_or("a part has no Content-Disposition")?;
    let (kind, rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim_ascii().eq_ignore_ascii_case("form-data") {
        return Err("a part is not `form-data`");
    }
    let parameters = parameters(rest).ok_or("a Content-Disposition is not understood")?;
    let mut name = None;
    let mut is_file = false;
    for (key, value) in parameters {
        match key.as_str() {
            "name" if name.is_some() => return Err("a part has two names"),
            "name" if value.contains(['\\', '%', '"']) => return Err("a part has an escaped name"),
            "name" => name = Some(value),
            "name*" => return Err("a part has an encoded name"),
            "filename" | "filename*" => is_file = true,
            _ => {}
        }
    }
    Ok((name.ok_or("a part has no name")?, is_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=XX";

    fn scan_in(pieces: &[&[u8]]) -> Result<Body, BodyError> {
        let mut scanner = Scanner::new(&boundary(TYPE)?);
        for piece in pieces {
            scanner.feed(piece)?;
        }
        scanner.finish()
    }

    fn scan(text: &[u8]) -> Result<Body, BodyError> {
        let whole = scan_in(&[text]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(whole, scan_in(&bytes), "piece by piece must not matter");
        whole
    }

    fn part(disposition: &str, data: &str) -> String {
        format!("--XX\r\nContent-Disposition: {disposition}\r\n\r\n{data}\r\n")
    }

    fn form(parts: &[String]) -> Vec<u8> {
        format!("{}--XX--\r\n", parts.concat()).into_bytes()
    }

    #[test]
    fn fields_are_found_before_and_behind_a_file() {
        let file = part(
            "form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
            "RIFF\r\n--X\r\r\n--X\r\n\r\nX",
        );
        let model = part("form-data; name=\"model\"", "whisper-1");
        for text in [form(&[file.clone(), model.clone()]), form(&[model, file])] {
            let body = scan(&text).unwrap();
            assert_eq!(body.text("model"), Some("whisper-1"));
            let value = body.field("model").unwrap().value.clone();
            assert_eq!(
                &text[value.start as usize..value.end as usize],
                b"whisper-1"
            );
            let value = body.field("file").unwrap().value.clone();
            assert_eq!(
                &text[value.start as usize..value.end as usize],
                b"RIFF\r\n--X\r\r\n--X\r\n\r\nX"
            );
            assert_eq!(body.text("file"), None);
        }
    }

    #[test]
    fn lists_may_repeat_and_fields_may_not() {
        let twice = |name: &str| {
            let one = part(&format!("form-data; name=\"{name}\""), "x");
            scan(&form(&[one.clone(), one]))
        };
        assert!(twice("timestamp_granularities[]").is_ok());
        assert!(twice("model").is_err());
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        let model = |disposition: &str| scan(&form(&[part(disposition, "x")]));
        assert!(model("form-data; name=model").is_ok());
        for disposition in [
            "form-data",
            "attachment; name=\"model\"",
            "form-data; name=\"model\"; name=\"other\"",
            "form-data; name*=utf-8''model",
            "form-data; name=\"mo\\\"del\"",
            "form-data; name=\"mod%65l\"",
            "form-data; name=\"Model\"",
            "form-data; name=\"model\"; filename=\"x\"",
            "form-data; name=\"model\"\r\nContent-Disposition: form-data; name=\"b\"",
            "form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64",
            "form-data;\r\n name=\"model\"",
            "form-data; name=\"model\"\r\nX\u{2028}: y",
            "form-data; name=\"model\"\r\nX : y",
            "form-data; name=\"model\"\r\n: y",
            "form-data; name=\"model\"; a=\u{b}",
            "form-data; a=b\"; name=\"model\"; c=\"",
            "form-data; name=\tmodel",
            "form-data; name=\u{85}model",
            "form-data; \u{85}name=model",
            "form-data; name=model\u{85}; a=b\u{85}; \u{2003}name=x",
            "form-data; name=\"model",
            "form-data; name=\"model \"; name=\"x\"",
        ] {
            assert!(model(disposition).is_err(), "{disposition}");
        }
        for text in [
            &b""[..],
            b"--XX--x",
            b"preamble\r\n--XX--\r\n",
            b"--XX \r\n",
            b"--XXY\r\n",
            b"--XX\r\n\r\nno head\r\n--XX--",
            b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nnever ends",
            b"--XX\nContent-Disposition: form-data; name=\"a\"\n\nx\n--XX--",
        ] {
            assert!(scan(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_boundary_behind_anything_but_a_line_break_is_refused() {
        for smuggled in [
            "hi\n--XX\nContent-Disposition: form-data; name=\"model\"\n\nsecret",
            // Werkzeug's and Python's own parsers end a line there
            "hi\r--XX\rContent-Disposition: form-data; name=\"model\"\r\rsecret",
            "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsecret",
            "\r\r--XX--",
        ] {
            let text = form(&[part("form-data; name=\"prompt\"", smuggled)]);
            assert!(scan(&text).is_err(), "{smuggled}");
        }
        let spaced = scan(&form(&[part("form-data; name=\"model \"", "x")])).unwrap();
        assert_eq!(spaced.text("model"), None);
    }

    #[test]
    fn an_empty_value_and_one_that_ends_in_line_breaks_are_found_whole() {
        for value in [
            "",
            "\r\n",
            "\r",
            "\n",
            "a\r\n\r\n",
            "\r\r\n",
            "\r-",
            "-\n-\r--X\r",
            "--X",
            "\r\n\n\r--",
        ] {
            let text = form(&[part("form-data; name=\"a\"", value)]);
            assert_eq!(scan(&text).unwrap().text("a"), Some(value), "{value:?}");
        }
    }

    #[test]
    fn the_boundary_comes_from_the_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\"").ok(), None);
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"a-b\"").unwrap(),
            "a-b"
        );
        for bad in [
            "multipart/form-data",
            "multipart/mixed; boundary=a",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=",
        ] {
            assert!(boundary(bad).is_err(), "{bad}");
        }
    }
}
