//! Tokens of an identity provider in the place of keys: which are good, whom they stand for, and that
//! none goes further.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::client::{connect, read_answer};
use crate::support::gateway::routed_to;
use crate::support::tls::Pair;
use crate::support::typed::typed;
use crate::support::{Answer, Gateway, Request, Server, eventually};

const ISSUER: &str = "https://id.example.com/";
const KEY: &str = "tl-static-0123456789-canary";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key that an identity provider signs with.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str, seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Signer { id, pair }
    }

    fn jwk(&self) -> Value {
        let x = encode(self.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": x })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let signed = unsigned(&header, claims);
        format!("{signed}.{}", encode(self.pair.sign(signed.as_bytes())))
    }

    /// A good token.
    fn token(&self, name: &str) -> String {
        self.sign(&claims(name))
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    )
}

fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + from_now
}

fn claims(name: &str) -> Value {
    json!({ "iss": ISSUER, "aud": "trunkline", "sub": name, "exp": seconds(300) })
}

fn jwks(keys: &[&Signer]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Publishes what is put there.
fn provider(set: String) -> (Server, Arc<Mutex<String>>) {
    let set = Arc::new(Mutex::new(set));
    let told = set.clone();
    let server = Server::fake(move |_, wire| {
        let text = told.lock().unwrap().clone();
        wire.answer(200, &[("content-type", "application/jwk-set+json")], text);
        true
    });
    (server, set)
}

/// Alice may ask twice a minute and for some models, Bob (with two names) for everything; both by
/// token only. Carol's time is over, and the robot has a key of its own.
fn yaml(jwks: &str, server: &Server, more: &str) -> String {
    format!(
        r#"
jwt: {{ jwks: "{jwks}", issuer: "{ISSUER}", audience: [trunkline, other] }}
keys:
  - {{ name: alice, models: ["gpt-*"], limits: {{ rpm: 2 }} }}
  - {{ name: bob, subjects: ["auth0|b@example.com", "00-11-22"] }}
  - {{ name: carol, expires: 2020-01-01 }}
  - {{ name: robot, key_file: robot.key }}
pools:
  a: {{ servers: [{{ url: "{}", name: one }}], health: false{more} }}
routes: [{{ name: all, pool: a }}]
"#,
        server.url()
    )
}

/// With the provider's keys in a file.
fn start(keys: &[&Signer], server: &Server, more: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), jwks(keys)).unwrap();
    std::fs::write(folder.path().join("robot.key"), KEY).unwrap();
    Gateway::start_in(folder, &yaml("jwks.json", server, more), &[])
}

/// With the provider asked.
fn start_asking(url: &str, server: &Server) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("robot.key"), KEY).unwrap();
    Gateway::start_in(folder, &yaml(url, server, ""), &[])
}

fn chat(token: &str) -> Request {
    let body = r#"{"model":"gpt-x","messages":[]}"#;
    Request::json("/v1/chat/completions", body).header("authorization", &format!("Bearer {token}"))
}

fn outcome(answer: &Answer) -> (u16, String) {
    let code = if answer.status == 200 {
        String::new()
    } else {
        answer.code()
    };
    (answer.status, code)
}

fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("trunkline_api_keys_refused_total", &[("reason", reason)])
}

#[test]
fn a_good_token_stands_for_the_key_it_names() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let gateway = start(&[&signer], &server, "");
    for subject in ["auth0|b@example.com", "00-11-22"] {
        let token = signer.token(subject);
        assert_eq!(gateway.send(&chat(&token)).status, 200, "{subject}");
        for header in ["api-key", "x-api-key"] {
            let request = Request::get("/v1/x").header(header, &token);
            assert_eq!(gateway.send(&request).status, 200, "{header}");
        }
    }
    assert_eq!(gateway.send(&chat(KEY)).status, 200, "keys are good too");
    let asked = |key| gateway.metric("trunkline_key_requests_total", &[("key", key)]);
    assert_eq!((asked("bob"), asked("robot")), (6.0, 1.0));
    assert_eq!(gateway.access_log(1)[0]["key"], "bob");
    // with subjects of its own, a name is nobody
    let answer = gateway.send(&chat(&signer.token("bob")));
    assert_eq!(outcome(&answer), (403, "token_not_allowed".to_owned()));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(refused(&gateway, "token_unknown_name"), 1.0);
    let expired = gateway.send(&chat(&signer.token("carol")));
    assert_eq!(outcome(&expired), (401, "api_key_expired".to_owned()));
    assert_eq!(server.count(), 7);
}

#[test]
fn what_holds_for_a_key_holds_for_the_tokens_that_name_it() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let gateway = start(&[&signer], &server, "");
    let other = r#"{"model":"tts-1","messages":[]}"#;
    let other = Request::json("/v1/chat/completions", other);
    let other = other.header("x-api-key", &signer.token("alice"));
    let answer = gateway.send(&other);
    assert_eq!(outcome(&answer), (403, "model_not_allowed".to_owned()));
    // two tokens of one name share its limit, which the request before was the first of
    let mut later = claims("alice");
    later["jti"] = json!("another");
    assert_eq!(gateway.send(&chat(&signer.sign(&later))).status, 200);
    let answer = gateway.send(&chat(&signer.token("alice")));
    assert_eq!(outcome(&answer), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(server.count(), 1);
}

/// A token of Bob's with another claim.
fn changed(signer: &Signer, name: &str, value: Value) -> String {
    let mut claims = claims("bob");
    claims[name] = value;
    signer.sign(&claims)
}

/// Tokens that are not good, and the code, the label and some words of why.
fn bad_tokens(signer: &Signer) -> Vec<(String, &'static str, &'static str, &'static str)> {
    let good = signer.token("00-11-22");
    let (rest, _) = good.rsplit_once('.').unwrap();
    let forged = Signer::new("one", 2).token("00-11-22");
    let none = unsigned(&json!({ "alg": "none", "kid": "one" }), &claims("00-11-22"));
    // what everybody knows, taken for a secret
    let confused = unsigned(
        &json!({ "alg": "HS256", "kid": "one" }),
        &claims("00-11-22"),
    );
    let public = hmac::Key::new(hmac::HMAC_SHA256, signer.pair.public_key().as_ref());
    let tag = encode(hmac::sign(&public, confused.as_bytes()));
    vec![
        (
            changed(signer, "exp", json!(seconds(-31))),
            "token_expired",
            "token_expired",
            "has expired",
        ),
        (
            changed(signer, "nbf", json!(seconds(60))),
            "invalid_token",
            "token_not_yet_valid",
            "not valid yet",
        ),
        (
            changed(signer, "aud", json!("chat")),
            "invalid_token",
            "token_audience",
            "another audience",
        ),
        (
            changed(signer, "iss", json!("https://evil.example/")),
            "invalid_token",
            "token_issuer",
            "another issuer",
        ),
        (
            changed(signer, "exp", Value::Null),
            "invalid_token",
            "token_malformed",
            "an end (`exp`)",
        ),
        (
            forged,
            "invalid_token",
            "token_signature",
            "its signature is wrong",
        ),
        (
            format!("{rest}.AAAA"),
            "invalid_token",
            "token_signature",
            "its signature is wrong",
        ),
        (
            format!("{none}."),
            "invalid_token",
            "token_algorithm",
            "algorithm is not accepted",
        ),
        (
            format!("{none}.AAAA"),
            "invalid_token",
            "token_algorithm",
            "algorithm is not accepted",
        ),
        (
            format!("{confused}.{tag}"),
            "invalid_token",
            "token_algorithm",
            "algorithm is not accepted",
        ),
        (
            Signer::new("two", 1).token("00-11-22"),
            "invalid_token",
            "token_key",
            "no such key",
        ),
    ]
}

#[test]
fn what_is_forged_old_or_meant_for_others_is_refused_and_told_apart() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let gateway = start(&[&signer], &server, "");
    for (token, code, reason, part) in &bad_tokens(&signer) {
        let before = refused(&gateway, reason);
        let answer = gateway.send(&chat(token));
        assert_eq!(outcome(&answer), (401, (*code).to_owned()), "{reason}");
        assert!(answer.text().contains(part), "{}", answer.text());
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer error=\"invalid_token\""));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert_eq!(refused(&gateway, reason), before + 1.0, "{reason}");
        // neither the token nor a part of it is repeated or written down
        let log = std::fs::read_to_string(gateway.access_log_path()).unwrap_or_default();
        for part in token.split('.').filter(|part| part.len() > 8) {
            for text in [&answer.text(), &gateway.stderr(), &log] {
                assert!(!text.contains(part), "{reason}");
            }
        }
    }
    // within what clocks may differ
    let late = changed(&signer, "exp", json!(seconds(-5)));
    assert_eq!(
        gateway.send(&chat(&late)).status,
        403,
        "good, and of nobody"
    );
    assert_eq!(server.count(), 0);
}

#[test]
fn a_token_that_is_refused_costs_no_byte_of_its_body() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let gateway = start(&[&signer], &server, "");
    let mut stream = connect(gateway.address);
    // 100 MB are announced, and none of them comes
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: 100000000\r\n\r\n",
        Signer::new("one", 2).token("alice")
    )
    .unwrap();
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!(outcome(&answer), (401, "invalid_token".to_owned()));
}

#[test]
fn no_token_goes_further_even_where_credentials_are_passed_on() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let gateway = start(&[&signer], &server, ", auth: passthrough");
    let token = signer.token("00-11-22");
    let mut old = claims("00-11-22");
    old["exp"] = json!(1);
    let old = signer.sign(&old);
    let foreign = json!({ "iss": "https://somebody.else/", "sub": "x" });
    let foreign = Signer::new("x", 9).sign(&foreign);
    let request = chat(&token)
        .header("x-api-key", "sk-of-the-service")
        // one that has ended is a secret of the provider's still
        .header("api-key", &old)
        .header("x-goog-api-key", &foreign);
    assert_eq!(gateway.send(&request).status, 200);
    let seen = server.seen().pop().unwrap();
    let text = format!("{:?} {}", seen.headers, seen.target);
    assert!(!text.contains(&token) && !text.contains(&old), "{text}");
    assert_eq!(seen.header("x-api-key"), Some("sk-of-the-service"));
    assert_eq!(seen.header("x-goog-api-key"), Some(foreign.as_str()));
    let written = gateway.access_log(1)[0].to_string() + &gateway.stderr();
    assert!(!written.contains(&token));
}

#[test]
fn a_key_that_the_provider_has_new_is_found_without_a_restart() {
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let server = Server::named("a");
    let (provider, set) = provider(jwks(&[&old]));
    let gateway = start_asking(&format!("{}/jwks/", provider.url()), &server);
    assert_eq!(gateway.send(&chat(&old.token("00-11-22"))).status, 200);
    assert_eq!(provider.seen()[0].target, "/jwks/");
    assert!(provider.seen()[0].header("authorization").is_none());
    // the provider rotates, and takes its time to say so
    let mut told = set.lock().unwrap();
    *told = jwks(&[&new]);
    let answer = gateway.send(&chat(&new.token("00-11-22")));
    assert_eq!(outcome(&answer), (401, "invalid_token".to_owned()));
    eventually("it is asked", || provider.count() == 2);
    assert_eq!(gateway.send(&chat(&new.token("00-11-22"))).status, 401);
    assert_eq!(gateway.send(&chat(&old.token("00-11-22"))).status, 200);
    drop(told);
    eventually("the new key is known", || {
        gateway.send(&chat(&new.token("00-11-22"))).status == 200
    });
    // what was good goes with its key
    let answer = gateway.send(&chat(&old.token("00-11-22")));
    assert_eq!(outcome(&answer), (401, "invalid_token".to_owned()));
    // one question for a token in half a minute
    for _ in 0..20 {
        gateway.send(&chat(&Signer::new("x", 3).token("00-11-22")));
    }
    assert_eq!(provider.count(), 2);
    let asked = |result| gateway.metric("trunkline_jwks_refreshes_total", &[("result", result)]);
    assert_eq!((asked("ok"), asked("failed")), (2.0, 0.0));
    assert_eq!(
        gateway.metric("trunkline_jwks_keys", &[("source", "url")]),
        1.0
    );
    let age = "trunkline_jwks_last_success_timestamp_seconds";
    assert!(gateway.metric(age, &[]) > seconds(-60) as f64);
}

#[test]
fn a_provider_that_is_away_is_no_clients_fault_and_heals() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let answers = Arc::new(Mutex::new((503, String::new())));
    let told = answers.clone();
    let provider = Server::fake(move |_, wire| {
        let (status, text) = told.lock().unwrap().clone();
        wire.answer(
            status,
            &[("location", "https://id.example.com/elsewhere")],
            text,
        );
        true
    });
    let gateway = start_asking(&format!("{}/jwks", provider.url()), &server);
    let answer = gateway.send(&chat(&signer.token("00-11-22")));
    let unavailable = (503, "identity_provider_unavailable".to_owned());
    assert_eq!(outcome(&answer), unavailable);
    assert_eq!(
        answer.header("x-should-retry"),
        None,
        "it is worth another try"
    );
    assert_eq!(gateway.send(&chat(KEY)).status, 200, "keys are still good");
    assert_eq!(refused(&gateway, "token_no_keys"), 1.0);
    assert!(
        gateway
            .stderr()
            .contains("tokens are refused until it does")
    );
    *answers.lock().unwrap() = (200, jwks(&[&signer]));
    eventually("the provider is asked again", || {
        gateway.send(&chat(&signer.token("00-11-22"))).status == 200
    });
    let failed = gateway.metric("trunkline_jwks_refreshes_total", &[("result", "failed")]);
    assert!(failed >= 1.0);
    assert_eq!(gateway.send(&chat(&signer.token("00-11-22"))).status, 200);
}

#[test]
fn a_provider_is_believed_only_with_a_certificate_that_is() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let (provider, _) = provider(jwks(&[&signer]));
    // TLS in front of it
    let pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    pair.write(folder.path());
    let front = format!(
        "listeners: [{{ address: '127.0.0.1:0', tls: {{ cert: cert.pem, key: key.pem }} }}]\n{}",
        routed_to(provider.address)
    );
    let front = Gateway::start_in(folder, &front, &[]);
    let url = format!("https://localhost:{}/jwks.json", front.address.port());
    let stranger = start_asking(&url, &server);
    assert_eq!(stranger.send(&chat(&signer.token("00-11-22"))).status, 503);
    assert_eq!(provider.count(), 0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("robot.key"), KEY).unwrap();
    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, &pair.cert).unwrap();
    let trusted = [("SSL_CERT_FILE", authorities.to_str().unwrap())];
    let trusting = Gateway::start_in(folder, &yaml(&url, &server, ""), &trusted);
    assert_eq!(trusting.send(&chat(&signer.token("00-11-22"))).status, 200);
    assert_eq!(provider.count(), 1);
}

#[test]
fn what_a_provider_told_is_kept_when_it_answers_nonsense() {
    let (signer, server) = (Signer::new("one", 1), Server::named("a"));
    let answers = Arc::new(Mutex::new((200, jwks(&[&signer]))));
    let told = answers.clone();
    let provider = Server::fake(move |_, wire| {
        let (status, text) = told.lock().unwrap().clone();
        wire.answer(status, &[("location", "/elsewhere")], text);
        true
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("robot.key"), KEY).unwrap();
    let text = yaml(&provider.url(), &server, "").replace("jwt: {", "jwt: { refresh: 1s,");
    let gateway = Gateway::start_in(folder, &text, &[]);
    let failed = || gateway.metric("trunkline_jwks_refreshes_total", &[("result", "failed")]);
    // somewhere else, no set, too long
    let bad = [
        (302, String::new(), "redirects are not followed"),
        (200, "<html>".to_owned(), "no JSON"),
        (200, "x".repeat((1 << 20) + 1), "larger than 1MiB"),
    ];
    for (status, text, why) in bad {
        let before = failed();
        *answers.lock().unwrap() = (status, text);
        eventually("it is asked again", || failed() > before);
        assert_eq!(gateway.send(&chat(&signer.token("00-11-22"))).status, 200);
        assert!(
            gateway.stderr().contains(why),
            "{why}: {}",
            gateway.stderr()
        );
        *answers.lock().unwrap() = (200, jwks(&[&signer]));
        let known =
            |ok: f64| gateway.metric("trunkline_jwks_refreshes_total", &[("result", "ok")]) > ok;
        let ok = gateway.metric("trunkline_jwks_refreshes_total", &[("result", "ok")]);
        eventually("it answers again", || known(ok));
    }
    assert!(provider.seen().iter().all(|seen| seen.target == "/"));
}

#[test]
fn a_file_with_keys_is_read_again_when_it_changes() {
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let server = Server::named("a");
    let gateway = start(&[&old], &server, "");
    assert_eq!(gateway.send(&chat(&old.token("00-11-22"))).status, 200);
    let file = gateway.folder.path().join("jwks.json");
    std::fs::write(&file, jwks(&[&new])).unwrap();
    eventually("the new key is known", || {
        gateway.send(&chat(&new.token("00-11-22"))).status == 200
    });
    assert_eq!(gateway.send(&chat(&old.token("00-11-22"))).status, 401);
    // one that is broken changes nothing
    std::fs::write(&file, "{}").unwrap();
    eventually("the bad file is seen", || {
        gateway.stderr().contains("no JWKS")
    });
    assert_eq!(gateway.send(&chat(&new.token("00-11-22"))).status, 200);
}

#[test]
fn signatures_of_p256_are_good_over_the_wire_too() {
    let server = Server::named("a");
    let random = SystemRandom::new();
    let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let key =
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(x), "y": encode(y) });
    let (provider, _) = provider(json!({ "keys": [key] }).to_string());
    let gateway = start_asking(&provider.url(), &server);
    let signed = unsigned(&json!({ "alg": "ES256" }), &claims("00-11-22"));
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", encode(signature));
    assert_eq!(gateway.send(&chat(&token)).status, 200);
}

#[test]
fn what_is_wrong_with_tokens_in_the_file_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("good.json", &jwks(&[&Signer::new("one", 1)]));
    write(
        "empty.json",
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0LWNhbmFyeQ","kid":"h"}]}"#,
    );
    let rest = "pools: { a: { servers: ['http://h:1'] } }\nroutes: [{ name: all, pool: a }]\n";
    let check = |text: &str| {
        write("trunkline.yaml", &format!("{text}\n{rest}"));
        let checked = typed(folder.path(), &["check-config", "trunkline.yaml"]);
        (checked.code, checked.stdout + &checked.stderr)
    };
    let keys = "keys: [{ name: a }]";
    let jwt = |more: &str| format!("jwt: {{ issuer: i, audience: x, {more} }}\n{keys}");
    let (code, said) = check(&jwt("jwks: good.json"));
    assert_eq!(code, 0, "{said}");
    for (text, part) in [
        (jwt("jwks: gone.json"), "`gone.json` cannot be read"),
        (
            jwt("jwks: empty.json"),
            "it holds no key that can verify a token: key `h` is left out",
        ),
        (jwt("jwks: trunkline.yaml"), "it is no JSON"),
        (
            jwt("jwks: 'http://id.example.com/jwks'"),
            "write `https://`, or take a file",
        ),
        (
            jwt("jwks: 'https://id.example.com/jwks', refresh: 10ms"),
            "`refresh` is at least 1s",
        ),
        (
            jwt("jwks: good.json, leeway: 1h"),
            "differ by more than 10m",
        ),
        (jwt("jwks: good.json, claim: ''"), "`claim` is empty"),
        (
            format!("jwt: {{ jwks: good.json, audience: x }}\n{keys}"),
            "issuer",
        ),
        (
            format!("jwt: {{ jwks: good.json, issuer: i }}\n{keys}"),
            "audience",
        ),
        (
            "jwt: { jwks: good.json, issuer: i, audience: x }".to_owned(),
            "a token names one of `keys`",
        ),
        (
            "keys: [{ name: a }]".to_owned(),
            "(or `jwt`, to be named by tokens)",
        ),
        (
            "keys: [{ name: a, key: 0123456789abcdef, subjects: b }]".to_owned(),
            "`subjects` are of tokens; they need `jwt`",
        ),
        (
            jwt("jwks: good.json")
                .replace("{ name: a }", "{ name: a }, { name: b, subjects: [a] }"),
            "`a` is the key `a` already",
        ),
    ] {
        let (code, said) = check(&text);
        assert_eq!(code, 78, "{text}: {said}");
        assert!(said.contains(part), "{part} not in {said}");
        assert!(said.contains("trunkline.yaml:"), "{said}");
        assert!(!said.contains("c2VjcmV0"), "{said}");
    }
    let shown = {
        check(&jwt("jwks: good.json"));
        typed(
            folder.path(),
            &["config", "show", "--config", "trunkline.yaml"],
        )
    };
    for part in ["issuer: i", "claim: sub", "leeway: 30s", "good.json"] {
        assert!(
            shown.stdout.contains(part),
            "{}{}",
            shown.stdout,
            shown.stderr
        );
    }
}

#[test]
fn a_new_token_is_the_same_caller() {
    let speaking = || {
        Server::fake(|_, wire| {
            wire.answer(200, &[("content-type", "audio/mpeg")], "audio");
            true
        })
    };
    let (signer, server, other) = (Signer::new("one", 1), speaking(), speaking());
    let more = format!(
        ", balance: {{ hash: {{ by: key }} }} }}\n  b: {{ servers: [\"{}\"]",
        other.url()
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), jwks(&[&signer])).unwrap();
    std::fs::write(folder.path().join("robot.key"), KEY).unwrap();
    let text = yaml("jwks.json", &server, &more)
        .replace(
            &format!("servers: [{{ url: \"{}\", name: one }}]", server.url()),
            &format!("servers: [\"{}\", \"{}\"]", server.url(), other.url()),
        )
        .replace("- { name: carol", "- { name: dora }\n  - { name: carol")
        .replace("pool: a }", "pool: a, cache: true }");
    let gateway = Gateway::start_in(folder, &text, &[]);
    let token = |name: &str, n: u32| {
        let mut claims = claims(name);
        claims["jti"] = json!(n);
        signer.sign(&claims)
    };
    let say = |token: &str, words: &str| {
        let body = format!(r#"{{"model":"tts-1","input":"{words}","voice":"v"}}"#);
        let request = Request::json("/v1/audio/speech", &body);
        gateway.send(&request.header("authorization", &format!("Bearer {token}")))
    };
    let hit = |answer: Answer| answer.header("x-cache").unwrap() == "hit";
    assert!(!hit(say(&token("00-11-22", 1), "hello")));
    assert!(
        hit(say(&token("00-11-22", 2), "hello")),
        "what it heard before"
    );
    assert!(
        !hit(say(&token("dora", 3), "hello")),
        "another's is not told"
    );
    // nor does it go to another server, whose caches know nothing of it
    for n in 0..20 {
        say(&token("00-11-22", n), &format!("hello {n}"));
    }
    let counts = [server.count(), other.count()];
    assert!(
        counts.contains(&21) || counts.contains(&22) && counts.contains(&0),
        "{counts:?}"
    );
}
