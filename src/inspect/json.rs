//! JSON bodies: the fields at the top level, found while the body flows past.
//!
//! A full validation and not a search, because a body decides where it goes: what this scanner
//! takes for `model` must be what every server takes for it. So the grammar of RFC 8259 is
//! checked to the last byte (strings, numbers, literals, nothing behind the end), keys are
//! compared with their escapes decoded, and duplicates are refused. Only what stands at the top
//! level is kept, so memory does not grow with the body.

use super::{Body, BodyError, Field, Form, KEPT_VALUE, MAX_FIELDS, Shape};

/// Nesting a body may have. Python's `json` gives up near 1000, most others earlier.
const MAX_DEPTH: usize = 512;
/// Longest key kept; a longer one cannot be one we ask for.
const MAX_KEY: usize = 1024;

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The brace that opens the body.
    Start,
    /// A key, or the end of an object that is still empty.
    FirstKey,
    /// A key after a comma.
    Key,
    Colon,
    Value,
    /// A value, or the end of an array that is still empty.
    FirstItem,
    CommaOrEnd,
    /// Inside a string; after a backslash if so many more characters belong to an escape.
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    Number(Number),
    /// Inside `true`, `false` or `null`, with this rest to come.
    Literal(&'static [u8]),
    /// After the closing brace.
    End,
}

/// Where in the grammar of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Int,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn next(self, byte: u8) -> Option<Number> {
        use Number::*;
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus, b'1'..=b'9') | (Int, b'0'..=b'9') => Some(Int),
            (Zero | Int, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            (Zero | Int | Fraction, b'e' | b'E') => Some(Exponent),
            (Exponent, b'+' | b'-') => Some(ExponentSign),
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => Some(ExponentDigits),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Number::Zero | Number::Int | Number::Fraction | Number::ExponentDigits
        )
    }
}

/// Reads one JSON object.
pub(crate) struct Scanner {
    expect: Expect,
    /// For each open container, whether it is an object.
    open: Vec<bool>,
    /// Bytes fed before the current piece.
    fed: u64,
    /// The raw text of the string being kept, between its quotes.
    kept: Vec<u8>,
    keeping: bool,
    key: Option<String>,
    key_start: u64,
    value_start: u64,
    /// The value being read is `true`.
    is_true: bool,
    shape: Shape,
    fields: Vec<Field>,
    insert_at: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            expect: Expect::Start,
            open: Vec::new(),
            fed: 0,
            kept: Vec::new(),
            keeping: false,
            key: None,
            key_start: 0,
            value_start: 0,
            is_true: false,
            shape: Shape::Other,
            fields: Vec::new(),
            insert_at: 0,
        }
    }
}

impl Scanner {
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let mut at = 0;
        while at < piece.len() {
            match self.expect {
                Expect::String { key } => at = self.string(piece, at, key)?,
                _ => {
                    self.byte(piece[at], self.fed + at as u64)?;
                    at += 1;
                }
            }
        }
        self.fed += piece.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Body, BodyError> {
        if self.expect != Expect::End {
            let what = if self.fed == 0 {
                "the body is empty"
            } else {
                "the JSON ends too early"
            };
            return Err(BodyError::Json(what.into()));
        }
        super::distinct(&self.fields).map_err(BodyError::Json)?;
        Ok(Body {
            form: Form::Json,
            fields: self.fields,
            repeated: Vec::new(),
            insert_at: self.insert_at,
            file: None,
        })
    }

    /// Runs through a string from `at` to its end, or to that of the piece; says where it is then.
    fn string(&mut self, piece: &[u8], at: usize, key: bool) -> Result<usize, BodyError> {
        let rest = &piece[at..];
        let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        self.keep(&rest[..run]);
        let Some(&stop) = rest.get(run) else {
            return Ok(piece.len());
        };
        let offset = self.fed + (at + run) as u64;
        if stop == b'\\' {
            self.keep(b"\\");
            self.expect = Expect::Escape { key };
        } else {
            self.string_ends(key, offset)?;
        }
        Ok(at + run + 1)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.keeping {
            if self.kept.len() + bytes.len() > KEPT_VALUE {
                self.keeping = false;
                self.kept.clear();
            } else {
                self.kept.extend_from_slice(bytes);
            }
        }
    }

    fn string_ends(&mut self, key: bool, offset: u64) -> Result<(), BodyError> {
        let top = self.open.len() == 1;
        // what decides must be the same text for everybody; the rest is the server's business
        let decides = key || matches!(self.key.as_deref(), Some("model" | "voice"));
        let text = match (top && self.keeping, decides) {
            (true, true) => Some(self.decode(offset)?),
            (true, false) => self.decode(offset).ok(),
            _ => None,
        };
        self.keeping = false;
        if !key {
            return self.value_ends(offset + 1, text);
        }
        if top {
            let name = text.filter(|name| name.len() <= MAX_KEY);
            self.key = Some(name.ok_or_else(|| self.wrong("a key is too long", offset))?);
        }
        self.expect = Expect::Colon;
        Ok(())
    }

    /// The kept string with its escapes decoded; also checks what no reader agrees on, raw
    /// control characters, broken UTF-8 and lone surrogates.
    fn decode(&self, offset: u64) -> Result<String, BodyError> {
        let mut quoted = Vec::with_capacity(self.kept.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(&self.kept);
        quoted.push(b'"');
        serde_json::from_slice(&quoted).map_err(|_| self.wrong("a string is not valid", offset))
    }

    fn byte(&mut self, byte: u8, offset: u64) -> Result<(), BodyError> {
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.expect {
            Expect::Escape { key } => {
                self.keep(&[byte]);
                self.expect = match byte {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                        Expect::String { key }
                    }
                    b'u' => Expect::Hex { key, left: 4 },
                    _ => return Err(self.wrong("an escape is not valid", offset)),
                };
                Ok(())
            }
            Expect::Hex { key, left } if byte.is_ascii_hexdigit() => {
                self.keep(&[byte]);
                self.expect = match left {
                    1 => Expect::String { key },
                    left => Expect::Hex {
                        key,
                        left: left - 1,
                    },
                };
                Ok(())
            }
            Expect::Hex { .. } => Err(self.wrong("an escape is not valid", offset)),
            Expect::Number(state) => match state.next(byte) {
                Some(next) => {
                    self.expect = Expect::Number(next);
                    Ok(())
                }
                None if state.may_end() => {
                    self.value_ends(offset, None)?;
                    self.byte(byte, offset)
                }
                None => Err(self.wrong("a number is not valid", offset)),
            },
            Expect::Literal(rest) => match rest.split_first() {
                Some((first, [])) if *first == byte => self.value_ends(offset + 1, None),
                Some((first, rest)) if *first == byte => {
                    self.expect = Expect::Literal(rest);
                    Ok(())
                }
                _ => Err(self.wrong("a word is not `true`, `false` or `null`", offset)),
            },
            _ if space => Ok(()),
            Expect::Start if byte == b'{' => self.opens(true, offset),
            Expect::Start => Err(BodyError::Json("the body must be a JSON object".into())),
            Expect::FirstKey if byte == b'}' => self.closes(true, offset),
            Expect::FirstKey | Expect::Key if byte == b'"' => {
                if self.open.len() == 1 {
                    self.key_start = offset;
                }
                self.begin_string(true);
                Ok(())
            }
            Expect::Colon if byte == b':' => {
                self.expect = Expect::Value;
                Ok(())
            }
            Expect::FirstItem if byte == b']' => self.closes(false, offset),
            Expect::Value | Expect::FirstItem => self.value_begins(byte, offset),
            Expect::CommaOrEnd => match (byte, self.open.last()) {
                (b',', Some(true)) => {
                    self.expect = Expect::Key;
                    Ok(())
                }
                (b',', Some(false)) => {
                    self.expect = Expect::Value;
                    Ok(())
                }
                (b'}', Some(true)) => self.closes(true, offset),
                (b']', Some(false)) => self.closes(false, offset),
                _ => Err(self.wrong("a comma or an end is missing", offset)),
            },
            Expect::End => Err(self.wrong("something stands behind the JSON object", offset)),
            _ => Err(self.wrong("the JSON is not valid", offset)),
        }
    }

    fn begin_string(&mut self, key: bool) {
        self.keeping = self.open.len() == 1;
        self.kept.clear();
        self.expect = Expect::String { key };
    }

    fn value_begins(&mut self, byte: u8, offset: u64) -> Result<(), BodyError> {
        if self.open.len() == 1 {
            self.value_start = offset;
            self.is_true = byte == b't';
            self.shape = match byte {
                b'"' => Shape::Text,
                b'[' => Shape::EmptyList,
                b'n' => Shape::Null,
                _ => Shape::Other,
            };
        } else if self.open.len() == 2 && self.shape == Shape::EmptyList {
            self.shape = Shape::List;
        }
        match byte {
            b'"' => self.begin_string(false),
            b'{' => return self.opens(true, offset),
            b'[' => return self.opens(false, offset),
            b'-' => self.expect = Expect::Number(Number::Minus),
            b'0' => self.expect = Expect::Number(Number::Zero),
            b'1'..=b'9' => self.expect = Expect::Number(Number::Int),
            b't' => self.expect = Expect::Literal(b"rue"),
            b'f' => self.expect = Expect::Literal(b"alse"),
            b'n' => self.expect = Expect::Literal(b"ull"),
            _ => return Err(self.wrong("a value is not valid", offset)),
        }
        Ok(())
    }

    fn value_ends(&mut self, end: u64, text: Option<String>) -> Result<(), BodyError> {
        self.expect = Expect::CommaOrEnd;
        if self.open.len() == 1 {
            if self.fields.len() == MAX_FIELDS {
                return Err(self.wrong("the object has more than 1024 fields", end));
            }
            let name = self.key.take().unwrap_or_default();
            self.fields.push(Field {
                name,
                value: self.value_start..end,
                whole: self.key_start..end,
                text,
                is_true: self.is_true,
                shape: self.shape,
            });
        }
        Ok(())
    }

    fn opens(&mut self, object: bool, offset: u64) -> Result<(), BodyError> {
        if self.open.len() == MAX_DEPTH {
            return Err(self.wrong("the JSON is nested deeper than 512 levels", offset));
        }
        self.open.push(object);
        self.expect = if object {
            Expect::FirstKey
        } else {
            Expect::FirstItem
        };
        Ok(())
    }

    fn closes(&mut self, object: bool, offset: u64) -> Result<(), BodyError> {
        debug_assert_eq!(self.open.last(), Some(&object));
        self.open.pop();
        if self.open.is_empty() {
            self.insert_at = offset;
            self.expect = Expect::End;
            return Ok(());
        }
        self.value_ends(offset + 1, None)
    }

    fn wrong(&self, what: &str, offset: u64) -> BodyError {
        BodyError::Json(format!("{what} (at byte {offset})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_in(pieces: &[&[u8]]) -> Result<Body, BodyError> {
        let mut scanner = Scanner::default();
        for piece in pieces {
            scanner.feed(piece)?;
        }
        scanner.finish()
    }

    fn scan(text: &str) -> Result<Body, BodyError> {
        let whole = scan_in(&[text.as_bytes()]);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(
            whole,
            scan_in(&bytes),
            "piece by piece must not matter: {text}"
        );
        whole
    }

    #[test]
    fn fields_are_found_in_any_order_with_their_places() {
        let text = r#"{ "messages":[{"model":"not this","x":[1,{"model":2}]}] , "n" : -1.5e+3,"model":"gpt-4","stream":true }"#;
        let body = scan(text).unwrap();
        let at = |name: &str| {
            let value = body.field(name).unwrap().value.clone();
            &text[value.start as usize..value.end as usize]
        };
        assert_eq!(body.text("model"), Some("gpt-4"));
        assert_eq!(at("model"), "\"gpt-4\"");
        assert_eq!(at("n"), "-1.5e+3");
        assert_eq!(at("stream"), "true");
        assert!(body.field("stream").unwrap().is_true && !body.field("n").unwrap().is_true);
        assert!(at("messages").starts_with("[{") && at("messages").ends_with("}]"));
        assert_eq!(&text[body.insert_at as usize..], "}");
    }

    #[test]
    fn escapes_in_keys_and_values_are_decoded() {
        assert!(
            scan(r#"{"input":"\ud800","a":1}"#).is_ok(),
            "not ours to judge"
        );
        let body = scan(r#"{"mod\u0065l":"gpt\u002d4 \"q\" \ud83d\ude00"}"#).unwrap();
        assert_eq!(body.text("model"), Some("gpt-4 \"q\" 😀"));
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for text in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":"a"}"#,
            "\u{feff}{\"model\":\"a\"}",
            r#"{"model":"a"} x"#,
            r#"{"model":"a"}{"model":"b"}"#,
            r#"[{"model":"a"}]"#,
            r#""model""#,
            "",
            "   ",
            "{",
            r#"{"model":"a""#,
            r#"{"model":NaN}"#,
            r#"{"model":Infinity}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":1e}"#,
            r#"{"a":tru}"#,
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{"a" 1}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
            r#"{'a':1}"#,
            r#"{a:1}"#,
            r#"{"model":"\x"}"#,
            r#"{"mod\u 0065l":"a"}"#,
            "{\"mod\\u00\n65l\":\"a\"}",
            r#"{"model":"\ud800"}"#,
            "{\"model\":\"a\nb\"}",
            "{/* c */\"model\":\"a\"}",
        ] {
            assert!(scan(text).is_err(), "{text}");
        }
        assert!(scan_in(&[b"{\"model\":\"\xff\"}"]).is_err(), "broken UTF-8");
        assert!(
            scan_in(&["{\"model\":\"a\"}"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>()
                .as_slice()])
            .is_err()
        );
    }

    #[test]
    fn it_agrees_with_serde_json_on_what_is_an_object() {
        for text in [
            r#"{}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            r#"{"a":[[],{}],"b":null,"c":false,"d":0,"e":-0.0,"f":1E9,"g":"\/\b\f\n\r\t"}"#,
            " { \"a\" : [ 1 , 2 ] } \r\n",
        ] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
            assert!(scan(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn depth_and_field_bombs_are_refused_and_long_values_only_located() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(600), "]".repeat(600));
        assert!(scan(&deep).is_err());
        let wide: Vec<String> = (0..2000).map(|n| format!("\"k{n}\":1")).collect();
        assert!(scan(&format!("{{{}}}", wide.join(","))).is_err());
        let long = format!("{{\"model\":\"{}\"}}", "x".repeat(10_000));
        let body = scan(&long).unwrap();
        assert_eq!(body.text("model"), None);
        assert_eq!(body.field("model").unwrap().value, 9..10_011);
    }
}
