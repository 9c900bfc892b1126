//! Tokens: whatever a client shows, it is genuine or it is refused.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::token::Token;
use crate::config::jwks::JwkSet;
use crate::config::jwt::{Jwks, JwksUrl, Jwt};
use crate::fuzz::{Dice, cases, shape};

const NOW: f64 = 1_800_000_000.0;

struct Provider {
    set: JwkSet,
    jwt: Jwt,
    /// A good token.
    good: String,
}

static PROVIDER: LazyLock<Provider> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed");
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()), "kid": "one" }] });
    let claims =
        json!({ "iss": "https://id", "aud": "trunkline", "exp": NOW + 60.0, "sub": "ann" });
    let header = json!({ "alg": "EdDSA", "kid": "one" });
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let good = format!("{signed}.{}", encode(pair.sign(signed.as_bytes()).as_ref()));
    Provider {
        set: JwkSet::parse(keys.to_string().as_bytes()).expect("it is a set"),
        jwt: Jwt {
            jwks: Jwks::Url {
                url: JwksUrl::parse("https://id/jwks").expect("it is a URL"),
                refresh: Duration::from_secs(600),
            },
            issuer: "https://id".to_owned(),
            audience: vec!["trunkline".to_owned()],
            claim: "sub".to_owned(),
            leeway: Duration::from_secs(30),
        },
        good,
    }
});

fn is_good(shown: &[u8]) -> Result<(), String> {
    let token = Token::of(shown).ok_or("no token")?;
    let _ = token.may_be_of("https://id");
    let read = token.verify(&PROVIDER.set, &PROVIDER.jwt, NOW);
    read.map(|_| ()).map_err(|why| why.label().to_owned())
}

/// Any bytes as a token, as header and claims of one, and as what is changed in a good one.
pub(crate) fn token(data: &[u8]) -> u64 {
    let one = is_good(data);
    assert!(one.is_err() || data == PROVIDER.good.as_bytes());
    let parts: Vec<String> = data
        .split(|b| *b == b'\n')
        .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
        .collect();
    let made = is_good(parts.join(".").as_bytes());
    assert!(made.is_err(), "somebody made a token");
    let set = JwkSet::parse(data);
    assert!(set.as_ref().map_or(true, |set| !set.keys.is_empty()));
    let mut bytes = PROVIDER.good.clone().into_bytes();
    let mut dice = Dice::new(data);
    while !dice.is_over() {
        let at = (usize::from(dice.byte()) * 3 + dice.below(3)) % (bytes.len() + 1);
        match dice.below(3) {
            0 => bytes.insert(at, dice.byte()),
            1 if at < bytes.len() => bytes[at] = dice.byte(),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => {}
        }
    }
    let changed = is_good(&bytes);
    assert_eq!(changed.is_ok(), bytes == PROVIDER.good.as_bytes());
    shape((
        one,
        made,
        set.map(|set| set.keys.len()).map_err(|why| why.len()),
    ))
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn whatever_is_changed_is_refused(data in prop::collection::vec(any::<u8>(), 0..12)) {
        token(&data);
    }
}
