//! Which headers cross a hop, and which never do.

use std::sync::LazyLock;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Auth, Pool, Server};
use crate::unit::{self, TraceContext};

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and those of the framing,
/// which the relay writes itself.
const HOP_BY_HOP: &[&str] = &[
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

/// Headers that say who a client is to a service. One pool's must not reach another.
pub(crate) const CREDENTIALS: &[&str] = &[
    "authorization",
    "x-api-key",
    "api-key",
    "xi-api-key",
    "x-goog-api-key",
    "x-auth-token",
    "ocp-apim-subscription-key",
    "openai-organization",
    "openai-project",
];

/// Headers only we may set: what a client says of itself here is hearsay.
const OURS: &[&str] = &[
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "via",
    "x-data-zone",
];

/// Answers hold these only if we wrote them.
const OURS_IN_ANSWERS: &[&str] = &["x-backend", "x-attempts", "x-partial", "x-voice"];

/// Names of headers of which something is known. Each header of each request is looked up, so it is by
/// length: nearly none has more than three beside it.
struct Names(Vec<Vec<(&'static str, Kind)>>);

/// What a name is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OfTheHop,
    Credential,
    Ours,
    OursInAnswers,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let lists = [
        (HOP_BY_HOP, Kind::OfTheHop),
        (CREDENTIALS, Kind::Credential),
        (OURS, Kind::Ours),
        (OURS_IN_ANSWERS, Kind::OursInAnswers),
    ];
    let all = || lists.iter().flat_map(|(names, _)| names.iter());
    let longest = all().map(|name| name.len()).max().unwrap_or(0);
    let mut names = vec![Vec::new(); longest + 1];
    for (list, kind) in lists {
        for name in list {
            names[name.len()].push((*name, kind));
        }
    }
    Names(names)
});

/// What a name, in small letters, is known for.
fn kind(name: &str) -> Option<Kind> {
    let as_long = NAMES.0.get(name.len())?.iter();
    let mut known = as_long.filter(|(known, _)| *known == name);
    known.next().map(|(_, kind)| *kind)
}

/// What is known about a request when its headers are written for a server.
pub(crate) struct Hop<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) trace: Option<TraceContext>,
    /// Our name in `Via`, by which a request that comes back is known.
    pub(crate) via: &'a str,
    /// The client's address.
    pub(crate) client: Option<std::net::IpAddr>,
    /// The `Host` the client asked for.
    pub(crate) host: Option<&'a str>,
    /// The client came with TLS.
    pub(crate) secure: bool,
    /// Whether a credential is a key of ours, which goes nowhere.
    pub(crate) is_ours: &'a dyn Fn(&[u8]) -> bool,
}

/// Puts the headers that `server` of `pool` gets, but for host and framing. `auth` says what becomes
/// of the client's credentials there.
pub(crate) fn to_server(
    client: &HeaderMap,
    pool: &Pool,
    server: &Server,
    auth: Auth,
    hop: &Hop<'_>,
    put: &mut dyn FnMut(&HeaderName, &[u8]),
) {
    let nominated = nominated(client);
    let rules = &pool.headers;
    let ruled =
        |name: &HeaderName| rules.remove.contains(name) || rules.set.iter().any(|(n, _)| n == name);
    for (name, value) in client {
        let text = name.as_str();
        let known = match kind(text) {
            Some(Kind::OfTheHop | Kind::Ours) => true,
            Some(Kind::Credential) => auth != Auth::Passthrough || (hop.is_ours)(value.as_bytes()),
            Some(Kind::OursInAnswers) | None => false,
        };
        let dropped = known
            // some servers take `_` for `-`, so such a name could be another header in disguise
            || text.bytes().any(|byte| byte == b'_')
            || nominated.iter().any(|n| n.eq_ignore_ascii_case(text))
            || ruled(name);
        if dropped {
            continue;
        }
        if name == header::SEC_WEBSOCKET_PROTOCOL {
            let stays = |key: &str| auth == Auth::Passthrough && !(hop.is_ours)(key.as_bytes());
            if let Some(kept) = without_key(value, &stays) {
                put(name, kept.as_bytes());
            }
        } else {
            put(name, value.as_bytes());
        }
    }
    let mut own = |name: &HeaderName, text: &str| {
        if !ruled(name)
            && text
                .bytes()
                .all(|byte| byte == b'\t' || !byte.is_ascii_control())
        {
            put(name, text.as_bytes());
        }
    };
    own(&X_REQUEST_ID, hop.request_id);
    if let Some(trace) = hop.trace {
        own(&TRACEPARENT, &trace.to_string());
    }
    // a service on the internet has no use for addresses of this network, nor for the hops in it
    if !pool.is_cloud() {
        own(&header::VIA, hop.via);
        if let Some(client) = hop.client {
            own(&X_FORWARDED_FOR, &unit::address(client));
        }
        if let Some(host) = hop.host {
            own(&X_FORWARDED_HOST, host);
        }
        let scheme = if hop.secure { "https" } else { "http" };
        own(&X_FORWARDED_PROTO, scheme);
    }
    if let Some(key) = &server.key {
        let bearer = format!("Bearer {}", key.expose());
        if HeaderValue::from_str(&bearer).is_ok() {
            put(&header::AUTHORIZATION, bearer.as_bytes());
        }
    }
    for (name, value) in &rules.set {
        put(name, value.as_bytes());
    }
}

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Browsers cannot set headers on a WebSocket, so OpenAI takes a key among the subprotocols (API
/// reference, "Realtime": `openai-insecure-api-key.KEY`). `None` if nothing else is offered.
fn without_key(protocols: &HeaderValue, stays: &dyn Fn(&str) -> bool) -> Option<HeaderValue> {
    let offered = protocols.to_str().ok()?;
    let kept: Vec<&str> = offered
        .split(',')
        .map(str::trim)
        .filter(|protocol| match key_of_protocol(protocol) {
            Some(key) => stays(key),
            None => true,
        })
        .collect();
    let kept = kept.join(", ");
    (!kept.is_empty()).then(|| HeaderValue::from_str(&kept).ok())?
}

/// The key that a subprotocol is, if it is one.
fn key_of_protocol(protocol: &str) -> Option<&str> {
    const KEY: &str = "openai-insecure-api-key.";
    let (start, rest) = protocol.split_at_checked(KEY.len())?;
    start.eq_ignore_ascii_case(KEY).then_some(rest)
}

/// Leaves of the headers of a server's answer what the client gets, and its length. The server's own
/// request id moves aside for ours.
pub(crate) fn to_client(answer: &mut HeaderMap, server: &Server) {
    let nominated = nominated(answer);
    let is_dropped = |name: &&HeaderName| {
        let text = name.as_str();
        let known = match kind(text) {
            Some(Kind::OfTheHop) => **name != header::CONTENT_LENGTH,
            Some(Kind::OursInAnswers) => true,
            _ => false,
        };
        known || nominated.iter().any(|n| n.eq_ignore_ascii_case(text))
    };
    let dropped: Vec<HeaderName> = answer.keys().filter(is_dropped).cloned().collect();
    for name in dropped {
        answer.remove(name);
    }
    if let Entry::Occupied(theirs) = answer.entry(X_REQUEST_ID) {
        let ids: Vec<HeaderValue> = theirs.remove_entry_mult().1.collect();
        for id in ids {
            answer.append(X_UPSTREAM_REQUEST_ID, id);
        }
    }
    // a server that repeats its key back must not hand it to a client
    if let Some(key) = &server.key {
        let key = memchr::memmem::Finder::new(key.expose());
        for value in answer.values_mut() {
            if key.find(value.as_bytes()).is_some() {
                *value = HeaderValue::from_static("[redacted]");
            }
        }
    }
}

/// The headers that `Connection` declares to be of this hop only.
fn nominated(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        // one that is no text names nothing; those beside it do
        .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn pool(text: &str) -> Pool {
        let text = format!(
            "pools: {{ a: {{ servers: ['http://h:1'], {text} }} }}\nroutes: [{{ pool: a }}]"
        );
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        config
            .unwrap_or_else(|| panic!("{problems:?}"))
            .pools
            .remove(0)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    fn sent(client: &HeaderMap, pool: &Pool) -> Vec<String> {
        let hop = Hop {
            request_id: "id",
            trace: None,
            via: "1.1 trunkline-x",
            client: Some([10, 0, 0, 9].into()),
            host: Some("edge"),
            secure: true,
            is_ours: &|_| false,
        };
        let mut sent = Vec::new();
        let (server, auth) = (&pool.servers[0], pool.servers[0].auth);
        to_server(client, pool, server, auth, &hop, &mut |name, value| {
            sent.push(format!("{name}: {}", str::from_utf8(value).unwrap()));
        });
        sent
    }

    const CLIENT: &[(&str, &str)] = &[
        ("authorization", "Bearer sk-client"),
        ("x-api-key", "sk-client"),
        ("x_api_key", "sk-client"),
        ("cookie", "session=sk-client"),
        ("openai-organization", "org-client"),
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "sk-client"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "1.2.3.4"),
        ("user-agent", "test"),
    ];

    #[test]
    fn a_local_box_sees_no_key_and_is_told_who_asks() {
        let sent = sent(&headers(CLIENT), &pool("kind: kokoro"));
        assert!(sent.iter().all(|line| !line.contains("client")), "{sent:?}");
        assert!(sent.iter().any(|line| line == "x-forwarded-for: 10.0.0.9"));
        assert!(sent.iter().any(|line| line == "user-agent: test"));
        assert!(sent.iter().any(|line| line == "x-request-id: id"));
    }

    #[test]
    fn an_injected_key_is_the_only_one() {
        let sent = sent(&headers(CLIENT), &pool("kind: openai, api_key: sk-pool"));
        assert!(sent.iter().all(|line| !line.contains("client")), "{sent:?}");
        assert!(sent.contains(&"authorization: Bearer sk-pool".to_owned()));
        assert!(
            sent.iter().all(|line| !line.starts_with("x-forwarded")),
            "nothing of this network leaves it"
        );
    }

    #[test]
    fn passthrough_passes_keys_and_nothing_of_the_connection() {
        let sent = sent(&headers(CLIENT), &pool("kind: openai"));
        assert!(sent.contains(&"authorization: Bearer sk-client".to_owned()));
        assert!(sent.contains(&"openai-organization: org-client".to_owned()));
        for gone in [
            "cookie",
            "x-secret",
            "connection",
            "transfer-encoding",
            "x_api_key",
        ] {
            assert!(
                !sent.iter().any(|line| line.starts_with(gone)),
                "{gone} in {sent:?}"
            );
        }
    }

    #[test]
    fn header_rules_have_the_last_word() {
        let pool = pool(
            "headers: { set: { user-agent: ours, x-team: voice, x-request-id: mine }, remove: [accept, via] }",
        );
        let mut client = headers(CLIENT);
        client.insert("accept", HeaderValue::from_static("*/*"));
        let sent = sent(&client, &pool);
        assert_eq!(
            sent.iter()
                .filter(|line| line.starts_with("user-agent"))
                .count(),
            1
        );
        assert!(
            sent.contains(&"user-agent: ours".to_owned())
                && sent.contains(&"x-team: voice".to_owned())
        );
        assert!(
            !sent
                .iter()
                .any(|line| line.starts_with("accept") || line.starts_with("via"))
        );
        assert_eq!(
            sent.iter()
                .filter(|line| line.starts_with("x-request-id"))
                .count(),
            1
        );
    }

    #[test]
    fn what_connection_names_stays_here_whatever_stands_beside_it() {
        let mut client = headers(&[("x-a", "1"), ("x-b", "2"), ("x-c", "3")]);
        let broken = HeaderValue::from_bytes(b"X-A,\xe9 ,, x-b").unwrap();
        client.insert(header::CONNECTION, broken);
        let sent = sent(&client, &pool(""));
        assert!(sent.contains(&"x-c: 3".to_owned()));
        assert!(
            !sent
                .iter()
                .any(|line| line.starts_with("x-a") || line.starts_with("x-b"))
        );
    }

    #[test]
    fn answers_lose_what_belongs_to_the_hop_or_to_us() {
        let mut server = headers(&[
            ("x-request-id", "req-theirs"),
            ("x-backend", "forged"),
            ("retry-after", "3"),
            ("x-ratelimit-remaining-requests", "7"),
            ("keep-alive", "timeout=5"),
            ("x-debug", "your key is sk-pool"),
        ]);
        to_client(
            &mut server,
            &pool("kind: openai, api_key: sk-pool").servers[0],
        );
        let got: Vec<String> = server
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        for line in [
            "x-upstream-request-id: req-theirs",
            "retry-after: 3",
            "x-ratelimit-remaining-requests: 7",
            "x-debug: [redacted]",
        ] {
            assert!(got.contains(&line.to_owned()), "{line} not in {got:?}");
        }
        assert_eq!(got.len(), 4);
    }
}
