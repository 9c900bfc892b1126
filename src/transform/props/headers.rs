//! Headers: what belongs to one hop, to another service or to us alone goes no further.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::super::headers::{CREDENTIALS, Hop, to_client, to_server};
use crate::config::{Auth, Config};
use crate::fuzz::{cases, shape};

/// RFC 9110, section 7.6.1, RFC 9112 and what came before them.
const OF_ONE_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "content-length",
    "host",
    "expect",
    "http2-settings",
];
/// Those we write, if at all.
const HEARSAY: &[&str] = &[
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "via",
    "x-request-id",
    "x-real-ip",
    "traceparent",
    "x-forwarded-port",
    "x-data-zone",
];

static CONFIGS: LazyLock<Vec<Config>> = LazyLock::new(|| {
    vec![
        super::config("", ""),
        super::config(
            "headers: { set: { x-a: ours, x-tenant: t }, remove: [x-b, accept] }",
            "",
        ),
        super::config("kind: openai", ""),
    ]
});

const AUTHS: &[Auth] = &[Auth::Passthrough, Auth::Inject, Auth::None];

/// A byte that chooses, and lines of headers.
pub(crate) fn holds(data: &[u8]) -> u64 {
    let Some((&choice, lines)) = data.split_first() else {
        return 0;
    };
    let mut client = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(200) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            client.append(name, value);
        }
    }
    let config = &CONFIGS[usize::from(choice) % CONFIGS.len()];
    let auth = AUTHS[usize::from(choice >> 4) % AUTHS.len()];
    let pool = &config.pools[0];
    let ours = |key: &[u8]| memchr::memmem::find(key, b"tl-").is_some();
    let hop = Hop {
        request_id: "made here",
        trace: None,
        via: "1.1 trunkline-x",
        client: Some([10, 0, 0, 9].into()),
        host: Some("edge"),
        secure: false,
        is_ours: &ours,
    };
    let mut sent = Vec::new();
    to_server(
        &client,
        pool,
        &pool.servers[0],
        auth,
        &hop,
        &mut |name, value| {
            sent.push((name.clone(), HeaderValue::from_bytes(value).unwrap()));
        },
    );
    let nominated = nominated(&client);
    let own = ["made here", "1.1 trunkline-x", "10.0.0.9", "edge", "http"];
    for (name, value) in &sent {
        let text = name.as_str();
        let set = pool
            .headers
            .set
            .iter()
            .any(|(set, own)| set == name && own == value);
        let written = own.iter().any(|own| value == own);
        assert!(set || !OF_ONE_HOP.contains(&text), "{name}");
        assert!(set || !text.contains('_'), "{name}");
        assert!(set || !pool.headers.remove.contains(name), "{name}");
        assert!(
            set || written || !nominated.contains(&text.to_owned()),
            "{name}"
        );
        if HEARSAY.contains(&text) {
            assert!(written, "{name}: {value:?}");
        }
        if CREDENTIALS.contains(&text) {
            assert!(
                auth == Auth::Passthrough && !ours(value.as_bytes()),
                "{name}"
            );
        }
        if text == "sec-websocket-protocol" {
            let text = value.to_str().expect("it was read").to_ascii_lowercase();
            let keys = text
                .split(',')
                .filter_map(|one| one.trim().strip_prefix("openai-insecure-api-key."));
            keys.for_each(|key| assert!(auth == Auth::Passthrough && !ours(key.as_bytes())));
        }
    }
    back(&client, config);
    shape((choice, sent.len().min(40), nominated.len().min(4)))
}

/// The same as the answer of a server.
fn back(answer: &HeaderMap, config: &Config) {
    let nominated = nominated(answer);
    let mut passed = answer.clone();
    to_client(&mut passed, &config.pools[0].servers[0]);
    for name in passed.keys() {
        let text = name.as_str();
        let framing = text == "content-length";
        assert!(
            (framing || !OF_ONE_HOP.contains(&text)) && text != "x-request-id",
            "{name}"
        );
        assert!(
            !matches!(text, "x-backend" | "x-attempts" | "x-partial" | "x-voice"),
            "{name}"
        );
        let moved = text == "x-upstream-request-id";
        assert!(moved || !nominated.contains(&text.to_owned()), "{name}");
    }
}

fn nominated(headers: &HeaderMap) -> Vec<String> {
    let all = headers.get_all("connection").iter();
    let names = all.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn what_belongs_to_one_hop_goes_no_further(
        choice in any::<u8>(),
        lines in prop::collection::vec(prop::sample::select(vec![
            "Connection: close, X-A", "connection: x-b,, X-C ,\u{e9}", "Connection: authorization", "TE: trailers",
            "Transfer-Encoding: chunked", "Content-Length: 3", "Host: a", "x-a: 1", "x-b: 2", "X_A: 3", "x-c: 4",
            "Authorization: Bearer sk-1", "authorization: Bearer tl-1", "api-key: tl-2", "x-forwarded-for: 1.2.3.4",
            "Via: 1.1 other", "x-request-id: theirs", "Cookie: a=b", "accept: */*", "x-tenant: other",
            "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.tl-3", "Upgrade: websocket", "x-voice: v",
            "sec-websocket-protocol: OPENAI-INSECURE-API-KEY.sk-4,realtime", "Keep-Alive: 5", "Expect: 100-continue",
        ]), 0..12)
    ) {
        holds(&[&[choice], lines.join("\n").as_bytes()].concat());
    }
}
