use super::*;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use crate::config::jwt::JwksUrl;

const SECOND: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(600);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// A set of keys that are called as their seeds.
fn set(seeds: &[u8]) -> JwkSet {
    let keys = seeds.iter().map(|seed| {
        let x = encode(key(*seed).public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": seed.to_string(), "x": x })
    });
    let keys: Vec<_> = keys.collect();
    JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn token(seed: u8, subject: &str, end: u64) -> String {
    let header = json!({ "alg": "EdDSA", "kid": seed.to_string() });
    let claims = json!({ "iss": "joe", "aud": "us", "sub": subject, "exp": end });
    let signed = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    format!("{signed}.{}", encode(key(seed).sign(signed.as_bytes())))
}

fn jwt(url: &str) -> Jwt {
    Jwt {
        jwks: Jwks::Url {
            url: JwksUrl::parse(url).unwrap(),
            refresh: REFRESH,
        },
        issuer: "joe".to_owned(),
        audience: vec!["us".to_owned()],
        claim: "sub".to_owned(),
        leeway: Duration::ZERO,
    }
}

fn identities() -> Arc<Identities> {
    Identities::new(Some(&jwt("https://id.example.com/jwks")), None).unwrap()
}

fn ask(identities: &Identities, token: &str, at: u64) -> Result<String, Refusal> {
    let now = UNIX_EPOCH + Duration::from_secs(at);
    let hash = KeyHash::of(token.as_bytes());
    let found = identities.subject(token.as_bytes(), &hash, now).unwrap();
    found.map(|subject| subject.to_string())
}

fn remembered(identities: &Identities) -> usize {
    identities.known.load().as_ref().unwrap().good().len()
}

#[test]
fn a_token_is_verified_once_and_forgotten_when_it_ends_or_the_keys_change() {
    let identities = identities();
    let now = Instant::now();
    let alice = token(1, "alice", 1000);
    assert_eq!(ask(&identities, &alice, 10), Err(Refusal::NoKeys));
    assert!(identities.heard(set(&[1]), now).changed);
    assert_eq!(ask(&identities, &alice, 10).as_deref(), Ok("alice"));
    assert_eq!(remembered(&identities), 1);
    // the same keys again change nothing
    assert!(!identities.heard(set(&[1]), now).changed);
    assert_eq!(ask(&identities, &alice, 999).as_deref(), Ok("alice"));
    assert_eq!(remembered(&identities), 1);
    assert_eq!(ask(&identities, &alice, 1000), Err(Refusal::Expired));
    assert_eq!(remembered(&identities), 0);
    // a key that was taken back
    let alice = token(1, "alice", 5000);
    assert!(ask(&identities, &alice, 10).is_ok());
    assert!(identities.heard(set(&[2]), now).changed);
    assert_eq!(ask(&identities, &alice, 10), Err(Refusal::UnknownKey));
    assert_eq!(
        ask(&identities, &token(2, "bob", 20), 10).as_deref(),
        Ok("bob")
    );
}

#[test]
fn what_is_remembered_is_bounded_and_holds_good_tokens_only() {
    let identities = identities();
    identities.heard(set(&[1]), Instant::now());
    let forged = token(2, "alice", 1000).replace(
        &encode(json!({ "alg": "EdDSA", "kid": "2" }).to_string()),
        &encode(json!({ "alg": "EdDSA", "kid": "1" }).to_string()),
    );
    assert_eq!(ask(&identities, &forged, 10), Err(Refusal::Signature));
    assert_eq!(remembered(&identities), 0);
    let known = identities.known.load_full().unwrap();
    assert_eq!(known.good().cap(), MOST_REMEMBERED);
}

/// What a request pays for its token, first and again: `cargo test --release a_repeat -- --nocapture`
/// prints it. A repeat costs the hash of the token, which every key costs.
#[test]
fn a_repeat_costs_a_hash_and_no_signature() {
    const N: u32 = 300;
    let identities = identities();
    identities.heard(set(&[1]), Instant::now());
    let tokens: Vec<String> = (0..N)
        .map(|n| token(1, &format!("alice-{n}"), 1000))
        .collect();
    let took = || {
        let start = Instant::now();
        for token in &tokens {
            ask(&identities, token, 10).unwrap();
        }
        start.elapsed() / N
    };
    let (first, again) = (took(), (0..5).map(|_| took()).min().unwrap());
    println!("the first time {first:?}, again {again:?}");
    assert!(
        again * 2 < first,
        "the first time {first:?}, again {again:?}"
    );
}

#[test]
fn a_provider_is_asked_in_time_and_rarely_for_a_token() {
    let identities = identities();
    let start = Instant::now();
    assert!(identities.is_due(start));
    identities.heard(set(&[1]), start);
    assert!(!identities.is_due(start + REFRESH - SECOND));
    assert!(identities.is_due(start + REFRESH));
    // a token with a key that nobody knows
    let stranger = token(9, "alice", 1000);
    assert_eq!(ask(&identities, &stranger, 10), Err(Refusal::UnknownKey));
    assert!(identities.is_due(start + SECOND), "soon");
    assert!(!identities.is_due(start + SECOND), "once");
    identities.heard(set(&[1]), start + SECOND);
    assert_eq!(ask(&identities, &stranger, 10), Err(Refusal::UnknownKey));
    assert!(
        !identities.is_due(start + SECOND * 30),
        "not for every token"
    );
    assert!(identities.is_due(start + SECOND * 31));
}

#[test]
fn a_provider_that_does_not_answer_is_asked_again_and_again_and_its_keys_are_kept() {
    let identities = identities();
    let start = Instant::now();
    identities.heard(set(&[1]), start);
    assert!(identities.heard_nothing(start), "this is new");
    assert!(!identities.heard_nothing(start), "this is not");
    assert!(!identities.is_due(start + SECOND) && identities.is_due(start + SECOND * 2));
    for _ in 0..40 {
        identities.heard_nothing(start);
    }
    assert!(!identities.is_due(start + SECOND * 29) && identities.is_due(start + SECOND * 30));
    assert!(ask(&identities, &token(1, "alice", 1000), 10).is_ok());
    let heard = identities.heard(set(&[1]), start);
    assert_eq!(
        heard,
        Heard {
            changed: false,
            again: true
        }
    );
}

#[test]
fn a_reload_keeps_what_is_known_if_the_same_provider_is_asked() {
    let before = identities();
    before.heard(set(&[1, 2]), Instant::now());
    let again = |jwt: &Jwt| Identities::new(Some(jwt), Some(&before)).unwrap();
    let same = jwt("https://id.example.com/jwks");
    assert!(Arc::ptr_eq(&before, &again(&same)));
    let other = Jwt {
        issuer: "ann".to_owned(),
        ..same
    };
    let next = again(&other);
    assert_eq!(next.keys(), 2);
    // what the one has verified, the other has not
    assert_eq!(
        ask(&next, &token(1, "alice", 1000), 10),
        Err(Refusal::Issuer)
    );
    assert_eq!(again(&jwt("https://other.example.com/jwks")).keys(), 0);
    assert!(Identities::new(None, Some(&before)).is_none());
}
