//! Tokens of the RFCs, tokens that OpenSSL signed, and tokens that somebody made up.

use super::*;
use crate::config::jwt::{Jwks, JwksUrl};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;
use std::time::Duration;

/// Of RFC 7515, appendix A.2 and A.3: `iss` is `joe`, and it ended in 2011.
const OF_JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const THEN: f64 = 1_300_000_000.0;
const NOW: f64 = 1_800_000_000.0;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn jwt(issuer: &str) -> Jwt {
    Jwt {
        jwks: Jwks::Url {
            url: JwksUrl::parse("https://id.example.com/jwks").unwrap(),
            refresh: Duration::from_secs(600),
        },
        issuer: issuer.to_owned(),
        audience: vec!["trunkline".to_owned(), "other".to_owned()],
        claim: "sub".to_owned(),
        leeway: Duration::from_secs(30),
    }
}

fn set(keys: Value) -> JwkSet {
    JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn verify(token: &str, set: &JwkSet, jwt: &Jwt, now: f64) -> Result<Good, Refusal> {
    Token::of(token.as_bytes()).unwrap().verify(set, jwt, now)
}

/// A key of a provider, as RFC 8037 has it in appendix A.
struct Provider(Ed25519KeyPair);

impl Provider {
    fn new() -> Self {
        let private = BASE64_URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
        Provider(Ed25519KeyPair::from_seed_unchecked(&private.unwrap()).unwrap())
    }

    fn set(&self) -> JwkSet {
        let x = encode(self.0.public_key());
        set(json!([{ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one" }]))
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        format!("{signed}.{}", encode(self.0.sign(signed.as_bytes())))
    }

    /// What becomes of good claims that are changed so.
    fn judged(&self, change: impl FnOnce(&mut Value)) -> Result<Good, Refusal> {
        let mut claims = claims();
        change(&mut claims);
        let token = self.sign(&json!({ "alg": "EdDSA", "kid": "one" }), &claims);
        verify(&token, &self.set(), &jwt("https://id.example.com/"), NOW)
    }

    /// What becomes of a good token with another header.
    fn headed(&self, header: Value) -> Result<Good, Refusal> {
        let token = self.sign(&header, &claims());
        verify(&token, &self.set(), &jwt("https://id.example.com/"), NOW)
    }
}

fn claims() -> Value {
    json!({ "iss": "https://id.example.com/", "aud": "trunkline", "sub": "alice", "exp": NOW + 60.0 })
}

#[test]
fn the_tokens_of_the_rfcs_are_genuine() {
    let rsa = set(
        json!([{ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" }]),
    );
    let ec = set(
        json!([{ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }]),
    );
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiJ9.{OF_JOE}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{OF_JOE}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    for (token, set) in [(rs256, &rsa), (es256, &ec)] {
        // they are genuine, and not for us
        assert_eq!(
            verify(&token, set, &jwt("joe"), THEN),
            Err(Refusal::Audience)
        );
        assert_eq!(verify(&token, set, &jwt("ann"), THEN), Err(Refusal::Issuer));
        let forged = token.replace(OF_JOE, &encode(r#"{"iss":"joe"}"#));
        assert_eq!(
            verify(&forged, set, &jwt("joe"), THEN),
            Err(Refusal::Signature)
        );
    }
    // RFC 8037, appendix A.4: what is signed there is no object
    let ed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let set = Provider::new().set();
    assert_eq!(verify(ed, &set, &jwt("joe"), THEN), Err(Refusal::Malformed));
}

#[test]
fn rsa_signatures_of_openssl_are_good_with_their_own_algorithm_only() {
    const N: &str = "lN_knMHAAC_GStpIJ6uKdm95zERV3mutsWt9yt2jPkYrp3oJF3l3-cMdgn-GfwBbr0iLpIxfYq1hXSsAceI1JgL2sLI174Tw7tq1wUnt0brx3B5jRtYeJB5x04y4Va0MoxVqSMo5xcpVQySuGCzIyIwQaLjZZ1BQC1nbOvv53n4jeO_pUwlWz7JXxThAk9Frm4dsXJ63UvLCrNLSe0ruC5abT8cv4CzXMLpoA_zXI7fkGIVdAQre9sG7AjL5FH98hLNpBHyd-t6UPK5tEdK7iJZeVMYPG3m20OhVMhSMcC_k3FAHVNJS6Y9UfqLLulM8TcR1uOvsAGj2d_dBJ3wSeQ";
    let any = set(json!([{ "kty": "RSA", "n": N, "e": "AQAB" }]));
    let jwt = jwt("https://id.example.com/");
    let claims = encode(
        r#"{"iss":"https://id.example.com/","aud":"trunkline","sub":"alice","exp":32503680000}"#,
    );
    let samples = include_str!("rsa-signatures.txt").lines();
    let samples: Vec<(&str, &str)> = samples.filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(samples.len(), 6);
    for (algorithm, signature) in &samples {
        let headed = |alg: &str| {
            let header = encode(format!(r#"{{"alg":"{alg}"}}"#));
            format!("{header}.{claims}.{signature}")
        };
        let good = verify(&headed(algorithm), &any, &jwt, NOW).unwrap();
        assert_eq!(good.subject.as_deref(), Some("alice"), "{algorithm}");
        let other = if *algorithm == "RS256" {
            "PS256"
        } else {
            "RS256"
        };
        let refused = verify(&headed(other), &any, &jwt, NOW);
        assert_eq!(refused, Err(Refusal::Signature), "{algorithm} as {other}");
        // a set that says what its key is for is heeded
        let only = set(json!([{ "kty": "RSA", "n": N, "e": "AQAB", "alg": other }]));
        let refused = verify(&headed(algorithm), &only, &jwt, NOW);
        assert_eq!(refused, Err(Refusal::UnknownKey), "{algorithm}");
    }
}

#[test]
fn p384_signatures_are_good() {
    let kind = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(48);
    let set = set(json!([{ "kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y) }]));
    let signed = format!(
        "{}.{}",
        encode(r#"{"alg":"ES384"}"#),
        encode(claims().to_string())
    );
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", encode(signature));
    assert!(verify(&token, &set, &jwt("https://id.example.com/"), NOW).is_ok());
}

#[test]
fn the_algorithm_is_never_the_tokens_choice() {
    let provider = Provider::new();
    let claims = encode(claims().to_string());
    let ours = jwt("https://id.example.com/");
    for alg in [
        "none", "None", "NONE", "", "HS256", "HS384", "HS512", "ES256K", "eddsa",
    ] {
        let header = encode(json!({ "alg": alg, "kid": "one" }).to_string());
        let signed = format!("{header}.{claims}");
        // the public key, which everybody has, as the shared secret
        let secret = hmac::Key::new(hmac::HMAC_SHA256, provider.0.public_key().as_ref());
        let tag = encode(hmac::sign(&secret, signed.as_bytes()));
        for token in [format!("{signed}."), format!("{signed}.{tag}")] {
            let refused = verify(&token, &provider.set(), &ours, NOW);
            assert_eq!(refused, Err(Refusal::Algorithm), "{alg}");
        }
    }
    assert_eq!(
        provider.headed(json!({ "kid": "one" })),
        Err(Refusal::Algorithm)
    );
    let refused = provider.headed(json!({ "alg": ["EdDSA"], "kid": "one" }));
    assert_eq!(refused, Err(Refusal::Algorithm));
    // RSA's is not that of this key
    let refused = provider.headed(json!({ "alg": "RS256", "kid": "one" }));
    assert_eq!(refused, Err(Refusal::UnknownKey));
}

#[test]
fn the_key_is_the_one_that_is_named_and_in_the_set() {
    let provider = Provider::new();
    assert!(
        provider
            .headed(json!({ "alg": "EdDSA", "kid": "one" }))
            .is_ok()
    );
    assert!(
        provider.headed(json!({ "alg": "Ed25519" })).is_ok(),
        "there is one only"
    );
    let refused = provider.headed(json!({ "alg": "EdDSA", "kid": "two" }));
    assert_eq!(refused, Err(Refusal::UnknownKey));
    // a key that a token brings along is nobody's
    let x = encode(provider.0.public_key());
    let own = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
    let refused = provider.headed(json!({ "alg": "EdDSA", "kid": "two", "jwk": own }));
    assert_eq!(refused, Err(Refusal::UnknownKey));
    for header in [
        json!({ "alg": "EdDSA", "kid": 1 }),
        json!({ "alg": "EdDSA", "kid": "one", "crit": ["b64"], "b64": false }),
    ] {
        assert_eq!(
            provider.headed(header.clone()),
            Err(Refusal::Malformed),
            "{header}"
        );
    }
    let mut two = provider.set();
    two.keys.push(two.keys[0].clone());
    let token = provider.sign(&json!({ "alg": "EdDSA" }), &claims());
    let refused = verify(&token, &two, &jwt("https://id.example.com/"), NOW);
    assert_eq!(refused, Err(Refusal::UnknownKey), "which of the two?");
}

#[test]
fn a_genuine_token_must_be_for_us_and_for_now() {
    let provider = Provider::new();
    let good = provider.judged(|_| ()).unwrap();
    assert_eq!(
        (good.subject.as_deref(), good.end),
        (Some("alice"), NOW + 90.0)
    );
    let several = provider.judged(|c| c["aud"] = json!(["x", "other"]));
    assert!(several.is_ok());
    // within what clocks may differ
    assert!(provider.judged(|c| c["exp"] = json!(NOW - 29.0)).is_ok());
    assert!(provider.judged(|c| c["nbf"] = json!(NOW + 29.5)).is_ok());
    type Change = fn(&mut Value);
    let cases: [(Change, Refusal); 14] = [
        (
            |c| c["iss"] = json!("https://id.example.com"),
            Refusal::Issuer,
        ),
        (
            |c| c["iss"] = json!(["https://id.example.com/"]),
            Refusal::Issuer,
        ),
        (|c| c["iss"] = Value::Null, Refusal::Issuer),
        (|c| c["aud"] = json!("trunkline2"), Refusal::Audience),
        (|c| c["aud"] = json!([]), Refusal::Audience),
        (|c| c["aud"] = json!({ "trunkline": 1 }), Refusal::Audience),
        (|c| c["aud"] = Value::Null, Refusal::Audience),
        (|c| c["exp"] = json!(NOW - 30.0), Refusal::Expired),
        (|c| c["exp"] = json!(-1), Refusal::Expired),
        (|c| c["exp"] = Value::Null, Refusal::Malformed),
        (|c| c["exp"] = json!("3000-01-01"), Refusal::Malformed),
        (|c| c["nbf"] = json!(NOW + 31.0), Refusal::NotYet),
        (|c| c["nbf"] = json!("now"), Refusal::Malformed),
        (|c| *c = json!([1]), Refusal::Malformed),
    ];
    for (n, (change, refusal)) in cases.into_iter().enumerate() {
        assert_eq!(provider.judged(change), Err(refusal), "case {n}");
    }
    // what is no text names nobody
    let nobody = provider.judged(|c| c["sub"] = json!(["alice"])).unwrap();
    assert_eq!(nobody.subject, None);
}

#[test]
fn only_what_has_the_shape_of_a_token_is_one() {
    let header = encode(r#"{"alg":"none"}"#);
    for text in ["", ".", "..", "tl-alice.key.2", "a.b.c", "sk-0123", "a.b"] {
        assert!(Token::of(text.as_bytes()).is_none(), "{text}");
    }
    for text in [
        format!("{header}.e30"),
        format!("{header}.e30.a.b"),
        format!("{header}.e30.a="),
    ] {
        assert!(Token::of(text.as_bytes()).is_none(), "{text}");
    }
    assert!(Token::of(format!("{header}.e30.").as_bytes()).is_some());
    let long = format!("{header}.{}.", "A".repeat(LONGEST));
    let refused = verify(&long, &Provider::new().set(), &jwt("x"), NOW);
    assert_eq!(refused, Err(Refusal::Malformed));
}

#[test]
fn a_token_of_the_issuer_is_known_as_such_good_or_not() {
    let of = |claims: &str| {
        let token = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims));
        Token::of(token.as_bytes()).unwrap().may_be_of("joe")
    };
    assert!(of(r#"{"iss":"joe","exp":1}"#));
    assert!(!of(r#"{"iss":"ann"}"#) && !of("{}"));
    assert!(
        of(r#"{"iss":"ann","iss":"joe"}"#),
        "who knows what it means"
    );
    assert!(of("no JSON"));
}
