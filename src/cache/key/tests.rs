use super::*;
use crate::config;

fn route(route: &str, pool: &str) -> RouteKey {
    let text = format!(
        "pools: {{ a: {{ servers: ['http://h:1'], {pool} }}, b: {{ servers: ['http://h:2'] }} }}\nroutes: [{{ pool: a, fallback: [b], {route} }}]"
    );
    let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    RouteKey::new(&config, &config.routes[0])
}

fn said(body: &str) -> Option<Digest> {
    route("", "").json(body.as_bytes(), Operation::Embedding, false)
}

fn spoken(body: &str) -> Option<Digest> {
    route("", "").json(body.as_bytes(), Operation::Speech, false)
}

#[test]
fn neither_order_nor_spaces_nor_escapes_make_another_request() {
    let one = said(r#"{"model":"m","input":["a","b"],"more":{"x":1,"y":"é"}}"#).unwrap();
    let same = said(
        "{ \"more\" : {\"y\":\"\\u00e9\", \"x\" : 1},\n\"input\":[\"a\",\"b\"],\"model\":\"\\u006d\"}",
    );
    assert_eq!(same, Some(one));
}

#[test]
fn everything_that_is_said_makes_another_request() {
    let all = [
        r#"{}"#,
        r#"{"a":1}"#,
        r#"{"a":1.0}"#,
        r#"{"a":"1"}"#,
        r#"{"a":true}"#,
        r#"{"a":"true"}"#,
        r#"{"a":null}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":[[]]}"#,
        r#"{"a":["b","c"]}"#,
        r#"{"a":["c","b"]}"#,
        r#"{"a":["bc"]}"#,
        r#"{"a":{"b":"c"}}"#,
        r#"{"a":{"b":{}},"c":1}"#,
        r#"{"a":{"b":{},"c":1}}"#,
        r#"{"b":1}"#,
        r#"{"a":1,"b":1}"#,
        r#"{"a":9007199254740993}"#,
        r#"{"a":9007199254740992}"#,
    ];
    for (n, one) in all.iter().enumerate() {
        assert!(said(one).is_some(), "{one}");
        for other in &all[..n] {
            assert_ne!(said(one), said(other), "{one} {other}");
        }
    }
}

/// Random objects: equal if and only if they are the same as serde has them.
#[test]
fn two_bodies_have_one_key_exactly_if_they_say_the_same() {
    let mut random = fastrand::Rng::with_seed(7);
    fn value(random: &mut fastrand::Rng, depth: usize) -> serde_json::Value {
        match random.u8(0..if depth == 0 { 4 } else { 6 }) {
            0 => serde_json::Value::Null,
            1 => random.bool().into(),
            2 => random.i64(-2..2).into(),
            3 => ["", "a", "b", "[", "{"][random.usize(0..5)].into(),
            4 => (0..random.usize(0..3))
                .map(|_| value(random, depth - 1))
                .collect(),
            _ => (0..random.usize(0..3))
                .map(|_| {
                    (
                        ["a", "b", "c"][random.usize(0..3)].to_owned(),
                        value(random, depth - 1),
                    )
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
    let mut seen = std::collections::HashMap::new();
    for _ in 0..3000 {
        let object = serde_json::json!({ "x": value(&mut random, 3), "y": value(&mut random, 1) });
        let text = serde_json::to_string_pretty(&object).unwrap();
        let digest = said(&text).unwrap();
        let before = seen.entry(digest).or_insert_with(|| object.clone());
        assert_eq!(*before, object, "two requests meet");
        assert_eq!(said(&object.to_string()), Some(digest));
    }
    let different: std::collections::HashSet<String> =
        seen.values().map(ToString::to_string).collect();
    assert_eq!(different.len(), seen.len());
}

#[test]
fn what_cannot_be_told_exactly_has_no_key() {
    for body in [
        r#"{"seed":123456789012345678901}"#,
        r#"{"seed":123456789012345678902}"#,
        r#"{"a":1"#,
        r#"{"a":1} x"#,
        "[1]",
        "",
    ] {
        assert_eq!(said(body), None, "{body}");
    }
    assert_eq!(
        said(&format!(
            "{{\"a\":{}1{}}}",
            "[".repeat(400),
            "]".repeat(400)
        )),
        None
    );
}

#[test]
fn speech_is_the_same_however_it_is_sent() {
    let plain = spoken(r#"{"input":"hi"}"#);
    assert_eq!(spoken(r#"{"input":"hi","stream":true}"#), plain);
    assert_eq!(spoken(r#"{"input":"hi","stream_format":"audio"}"#), plain);
    assert_ne!(spoken(r#"{"input":"hi","stream_format":"sse"}"#), plain);
    assert_ne!(spoken(r#"{"input":"hi","stream":"sse"}"#), plain);
    assert_ne!(
        said(r#"{"input":"hi","stream":true}"#),
        said(r#"{"input":"hi"}"#)
    );
}

#[test]
fn chat_has_a_key_only_if_the_next_answer_would_be_the_same() {
    let chat =
        |key: &RouteKey, body: &str, any| key.json(body.as_bytes(), Operation::Chat, any).is_some();
    let plain = route("", "");
    assert!(!chat(&plain, r#"{"messages":[]}"#, false));
    assert!(!chat(&plain, r#"{"temperature":0.1}"#, false));
    assert!(!chat(&plain, r#"{"temperature":"0"}"#, false));
    assert!(chat(&plain, r#"{"temperature":0}"#, false));
    assert!(chat(&plain, r#"{"temperature":0.0}"#, false));
    assert!(chat(&plain, r#"{"temperature":1}"#, true));
    assert!(!chat(&plain, r#"{"temperature":0,"store":true}"#, true));
    let cold = route("set: { temperature: 0 }", "");
    assert!(chat(&cold, r#"{"temperature":1}"#, false));
    assert!(!chat(
        &route("set: { temperature: 1 }", ""),
        r#"{"temperature":0}"#,
        false
    ));
}

#[test]
fn what_the_route_sets_for_all_its_pools_does_not_count() {
    let say = |key: &RouteKey, model: &str| {
        let body = format!(r#"{{"model":"{model}","input":"hi"}}"#);
        key.json(body.as_bytes(), Operation::Speech, false)
    };
    let fixed = route("set: { model: kokoro }", "");
    assert_eq!(say(&fixed, "tts-1"), say(&fixed, "tts-2"));
    let one_of_them = route("match: {}", "models: { tts-1: kokoro }");
    assert_ne!(say(&one_of_them, "tts-1"), say(&one_of_them, "tts-2"));
}

fn question<'a>(route: &'a RouteKey, headers: &'a HeaderMap, caller: Caller) -> Question<'a> {
    Question {
        route,
        caller,
        operation: Operation::Embedding,
        path: "/v1/embeddings",
        query: None,
        headers,
        credentials: &["authorization"],
        form: false,
        home: false,
        origins: false,
    }
}

#[test]
fn callers_routes_and_headers_make_another_key() {
    let (plain, none) = (route("", ""), HeaderMap::new());
    let own = Caller::Own([1; 32]);
    let ask = |question: Question<'_>| question.key([0; 32]);
    let one = ask(question(&plain, &none, own));
    assert_eq!(ask(question(&route("", ""), &none, own)), one);
    let mut french = HeaderMap::new();
    french.insert("accept-language", "fr".parse().unwrap());
    let others = [
        question(&plain, &none, Caller::Own([2; 32])),
        question(&plain, &none, Caller::Any),
        question(&plain, &french, own),
        Question {
            home: true,
            ..question(&plain, &none, own)
        },
        Question {
            query: Some(""),
            ..question(&plain, &none, own)
        },
        Question {
            query: Some("a"),
            ..question(&plain, &none, own)
        },
        Question {
            path: "/v1/other",
            ..question(&plain, &none, own)
        },
    ];
    let mut keys: Vec<Key> = others.into_iter().map(ask).collect();
    for (of_route, of_pool) in [
        ("name: x", ""),
        ("set: { a: 1 }", ""),
        ("default: { a: 1 }", ""),
        ("", "models: { a: b }"),
        ("", "voices: { a: b }"),
        ("", "kind: kokoro"),
    ] {
        keys.push(ask(question(&route(of_route, of_pool), &none, own)));
    }
    for (n, key) in keys.iter().enumerate() {
        assert!(*key != one && !keys[..n].contains(key), "{n}");
    }
}

#[test]
fn forms_are_the_same_by_what_their_parts_hold() {
    let key = route("", "");
    let form = |parts: &[(&'static str, u8)]| {
        key.form(parts.iter().map(|(name, n)| (*name, [*n; 32])).collect())
    };
    assert_eq!(
        form(&[("file", 1), ("model", 2)]),
        form(&[("model", 2), ("file", 1)])
    );
    assert_ne!(
        form(&[("file", 1), ("model", 2)]),
        form(&[("file", 2), ("model", 1)])
    );
    assert_ne!(
        form(&[("g[]", 1), ("g[]", 2)]),
        form(&[("g[]", 2), ("g[]", 1)])
    );
    assert_ne!(form(&[("g[]", 1)]), form(&[("g[]", 1), ("g[]", 1)]));
}

#[test]
fn a_header_that_a_server_may_heed_makes_another_key() {
    let plain = route("", "");
    let key = |name: &'static str, value: &'static str, operation| {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        let question = Question {
            operation,
            ..question(&plain, &headers, Caller::Any)
        };
        question.key([0; 32])
    };
    for operation in [Operation::Speech, Operation::Embedding] {
        let one = key("user-agent", "curl", operation);
        for (name, value) in [
            ("user-agent", "OpenAI/Python 2.0"),
            ("x-stainless-retry-count", "1"),
            ("x-request-id", "1"),
            ("authorization", "the caller is told elsewhere"),
            ("content-length", "5"),
        ] {
            assert_eq!(key(name, value, operation), one, "{name}");
        }
        for name in ["x-raw-response", "openai-beta", "content-type"] {
            assert_ne!(key(name, "1", operation), one, "{name}");
            assert_ne!(
                key(name, "1", operation),
                key(name, "2", operation),
                "{name}"
            );
        }
    }
    assert_eq!(
        key("accept", "a", Operation::Speech),
        key("accept", "b", Operation::Speech)
    );
    assert_ne!(
        key("accept", "a", Operation::Chat),
        key("accept", "b", Operation::Chat)
    );
}
