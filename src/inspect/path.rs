//! The one form of a path that routes decide on and servers receive.
//!
//! A path that two readers may take for two different ones is a way around a route. So escapes of
//! plain characters are decoded, and what has no single meaning (`//`, `/../`, `%2f`, `;`, `\`,
//! bytes that are not ASCII) is refused. Only in the name of a model `%2f` is a plain `/`: names
//! have slashes, and some SDKs escape them and others do not.

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is ambiguous: {0}")]
pub(crate) struct Ambiguous(&'static str);

/// Below these stand names of models.
const MODEL_NAMES: &[&str] = &["/v1/models/", "/models/"];

/// The normal form of `path`, which starts with `/` and has no query.
pub(crate) fn normalise(path: &str) -> Result<String, Ambiguous> {
    if !path.starts_with('/') {
        return Err(Ambiguous("it does not start with `/`"));
    }
    let bytes = path.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~:".contains(byte);
    if bytes.iter().all(plain) {
        has_plain_segments(path)?;
        return Ok(path.to_owned());
    }
    let mut normal = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        let byte = match byte {
            b'%' => {
                let escape = bytes
                    .get(at..at + 2)
                    .and_then(|hex| std::str::from_utf8(hex).ok());
                let hex = escape.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                let value = value.ok_or(Ambiguous("it holds a `%` that escapes nothing"))?;
                at += 2;
                match value {
                    b'/' if MODEL_NAMES.iter().any(|path| normal.starts_with(path)) => value,
                    b'/' | b'\\' | b';' => return Err(Ambiguous("it holds an escaped separator")),
                    0..=0x1f | 0x7f => return Err(Ambiguous("it holds a control character")),
                    value if value.is_ascii_alphanumeric() || b"-._~".contains(&value) => value,
                    value => {
                        normal.push_str(&format!("%{value:02X}"));
                        continue;
                    }
                }
            }
            b'\\' => return Err(Ambiguous("it holds a `\\`")),
            b';' => return Err(Ambiguous("it holds a `;`")),
            b'#' => return Err(Ambiguous("it holds a `#`")),
            0..=0x20 | 0x7f.. => return Err(Ambiguous("it holds a byte that must be escaped")),
            byte => byte,
        };
        normal.push(byte as char);
    }
    has_plain_segments(&normal)?;
    Ok(normal)
}

fn has_plain_segments(path: &str) -> Result<(), Ambiguous> {
    let mut segments = path.as_bytes()[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => return Err(Ambiguous("it holds a `.` or `..` segment")),
            b"" if segments.peek().is_some() => return Err(Ambiguous("it holds `//`")),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_stay_and_needless_escapes_go() {
        for (path, normal) in [
            ("/", "/"),
            ("/v1/audio/speech", "/v1/audio/speech"),
            ("/v1/%61udio/speech", "/v1/audio/speech"),
            ("/v1/models/org%20x/a:b", "/v1/models/org%20x/a:b"),
            ("/v1/models/%c3%a9", "/v1/models/%C3%A9"),
            ("/v1/models/org%2Fx%2fy", "/v1/models/org/x/y"),
            ("/%6dodels/org%2Fx", "/models/org/x"),
            ("/v1/files/", "/v1/files/"),
        ] {
            assert_eq!(normalise(path).unwrap(), normal);
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        for path in [
            "v1",
            "//v1",
            "/v1//x",
            "/v1/./x",
            "/v1/../x",
            "/v1/%2e%2e/x",
            "/v1/.%2E/x",
            "/v1/x/..",
            "/v1%2fx",
            "/v1/models%2fx",
            "/v1/models/x%2f%2e%2e%2fy",
            "/v1/models/%2fx",
            "/v1%5Cx",
            "/v1\\x",
            "/v1;a=b/x",
            "/v1%3bx",
            "/v1/%00",
            "/v1/%0a",
            "/v1/%",
            "/v1/%4",
            "/v1/%zz",
            "/v1/é",
            "/v1/a b",
            "/v1/%+1",
            "/v1#x",
        ] {
            assert!(normalise(path).is_err(), "{path}");
        }
    }
}
