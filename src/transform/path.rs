//! From the client's path and query to those of a server.

use crate::config::{Auth, Pool, Server};

/// Query parameters that carry keys (Google's `key`, and what people put into a URL by hand).
const KEY_PARAMETERS: &[&str] = &["key", "api_key", "api-key", "apikey", "access_token"];

/// The target for a canonical path: a path that the kind has under another name becomes that;
/// else the leading `/v1` becomes the path of the server's URL. A query stays, but for keys that
/// are not meant for this pool.
pub(crate) fn to_server(
    path: &str,
    query: Option<&str>,
    pool: &Pool,
    server: &Server,
    auth: Auth,
) -> String {
    let url = &server.url;
    let mut target = match pool.own_path(path) {
        // at the root of the server: the `/v1` that people write by habit does not come before it
        Some(own) => format!("{}{own}", url.path.trim_end_matches("/v1")),
        None => match path
            .strip_prefix("/v1")
            .filter(|rest| rest.starts_with('/'))
        {
            Some(rest) if !url.path.is_empty() => format!("{}{rest}", url.path),
            _ => path.to_owned(),
        },
    };
    let kept: Vec<&str> = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| auth == Auth::Passthrough || !is_key(pair))
        .collect();
    if !kept.is_empty() {
        target.push('?');
        target.push_str(&kept.join("&"));
    }
    target
}

fn is_key(pair: &str) -> bool {
    let name = decoded(pair.split('=').next().unwrap_or_default());
    KEY_PARAMETERS
        .iter()
        .any(|key| name.eq_ignore_ascii_case(key.as_bytes()))
}

/// The value of a parameter of a query, with its escapes decoded.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| decoded(key) == name.as_bytes());
    let (_, value) = values.next()?;
    String::from_utf8(decoded(value)).ok()
}

/// `query` with another value for a parameter that it has.
pub(crate) fn with_parameter(query: &str, name: &str, value: &str) -> String {
    let written: String = value
        .bytes()
        .map(
            |b| match b.is_ascii_alphanumeric() || b"-._~:/".contains(&b) {
                true => char::from(b).to_string(),
                false => format!("%{b:02X}"),
            },
        )
        .collect();
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((key, _)) if decoded(key) == name.as_bytes() => format!("{key}={written}"),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Part of a path with its escapes decoded.
pub(crate) fn unescaped(part: &str) -> String {
    String::from_utf8_lossy(&decoded(part)).into_owned()
}

/// A name of a query with its escapes decoded.
fn decoded(name: &str) -> Vec<u8> {
    let mut bytes = name.bytes();
    let mut out = Vec::with_capacity(name.len());
    while let Some(byte) = bytes.next() {
        let hex = |rest: &std::str::Bytes<'_>| {
            let mut digits = rest.clone().map(|b| char::from(b).to_digit(16));
            let (high, low) = (digits.next()??, digits.next()??);
            u8::try_from(high << 4 | low).ok()
        };
        match hex(&bytes).filter(|_| byte == b'%') {
            Some(value) => {
                out.push(value);
                bytes.nth(1);
            }
            None => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_parameter_is_read_and_replaced_whatever_its_spelling() {
        let query = "a=1&mod%65l=gpt%2Drealtime&b=";
        assert_eq!(
            parameter(Some(query), "model").as_deref(),
            Some("gpt-realtime")
        );
        assert_eq!(parameter(Some("x"), "model"), None);
        // what escapes nothing stays
        for text in ["a%2", "a%", "a%+1", "a%g1"] {
            assert_eq!(unescaped(text), text);
        }
        assert_eq!(
            with_parameter(query, "model", "a b/c&d"),
            "a=1&mod%65l=a%20b/c%26d&b="
        );
    }

    fn check(kind: &str, url: &str, path: &str, expected: &str) {
        let text =
            format!("pools: {{ a: {{ {kind} servers: ['{url}'] }} }}\nroutes: [{{ pool: a }}]");
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        let pool = config
            .unwrap_or_else(|| panic!("{problems:?}"))
            .pools
            .remove(0);
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(p, q)| (p, Some(q)));
        assert_eq!(
            to_server(path, query, &pool, &pool.servers[0], pool.servers[0].auth),
            expected
        );
    }

    #[test]
    fn the_servers_path_replaces_the_version() {
        check(
            "",
            "https://api.groq.com/openai/v1",
            "/v1/chat/completions",
            "/openai/v1/chat/completions",
        );
        check(
            "",
            "https://api.fireworks.ai/inference/v1",
            "/v1/models",
            "/inference/v1/models",
        );
        check(
            "",
            "http://gpu-a:8880/v1",
            "/v1/audio/speech",
            "/v1/audio/speech",
        );
        check(
            "",
            "http://gpu-a:8880",
            "/v1/audio/speech",
            "/v1/audio/speech",
        );
        check("", "http://gpu-a:8880/v1", "/other", "/other");
    }

    #[test]
    fn whisper_has_its_own_path_for_transcriptions() {
        check(
            "kind: whisper.cpp,",
            "http://gpu-a:2022",
            "/v1/audio/transcriptions",
            "/inference",
        );
        check(
            "kind: whisper.cpp,",
            "http://gpu-a:2022/v1",
            "/v1/audio/transcriptions",
            "/inference",
        );
    }

    #[test]
    fn keys_in_a_query_stay_where_they_were_meant_for() {
        check(
            "",
            "http://h:1",
            "/v1/x?a=1&key=sk&API_KEY=k&b=2",
            "/v1/x?a=1&b=2",
        );
        check("", "http://h:1", "/v1/x?%6bey=sk", "/v1/x");
        check(
            "",
            "http://h:1",
            "/v1/x?include%5B%5D=a&limit=3&%",
            "/v1/x?include%5B%5D=a&limit=3&%",
        );
        check(
            "kind: openai,",
            "http://h:1",
            "/v1/x?key=sk",
            "/v1/x?key=sk",
        );
    }
}
