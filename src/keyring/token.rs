//! One token (JWT, RFC 7519) and the keys of its issuer: is it genuine, is it for us, and whom does
//! it name?
//!
//! The order is that of RFC 8725: nothing of a token is believed before its signature is verified,
//! and with which algorithms that is done, this file says and not the token. What it says of keys
//! of its own (`jwk`, `jku`, `x5u`) is never looked at.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::jwks::{Algorithm, Jwk, JwkSet, PublicKey};
use crate::config::jwt::Jwt;

/// Longest token that is looked into, in bytes.
const LONGEST: usize = 16 * 1024;

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no token that can be read, or asks for what nobody here knows.
    Malformed,
    /// `none`, one that both sides could compute, or one that nobody here knows.
    Algorithm,
    /// None of the provider's keys is the one that it names.
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYet,
    /// It is good, and names none of ours.
    Nobody,
    /// The provider's keys are not known, so nothing can be said of it.
    NoKeys,
}

impl Refusal {
    /// As metrics name it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Refusal::Malformed => "token_malformed",
            Refusal::Algorithm => "token_algorithm",
            Refusal::UnknownKey => "token_key",
            Refusal::Signature => "token_signature",
            Refusal::Issuer => "token_issuer",
            Refusal::Audience => "token_audience",
            Refusal::Expired => "token_expired",
            Refusal::NotYet => "token_not_yet_valid",
            Refusal::Nobody => "token_unknown_name",
            Refusal::NoKeys => "token_no_keys",
        }
    }
}

/// A token taken apart, with nothing verified.
pub(super) struct Token<'a> {
    header: Map<String, Value>,
    /// What is signed: header and claims as they came.
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// A token that was verified.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Good {
    /// The value of the claim that names a key; `None` if there is no text in it.
    pub(super) subject: Option<Arc<str>>,
    /// Seconds since 1970 from when on it is good no more, leeway included.
    pub(super) end: f64,
}

/// What is read of the claims besides the one that names a key.
#[derive(Deserialize)]
struct Claims {
    iss: Option<Value>,
    aud: Option<Value>,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What a credential says of its issuer, believed or not.
#[derive(Deserialize)]
struct Issued {
    iss: Option<Value>,
}

impl<'a> Token<'a> {
    /// Takes a credential apart if it has the shape of a token: three parts in base64url, the first
    /// of them a JSON object.
    pub(super) fn of(shown: &'a [u8]) -> Option<Self> {
        let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !shown.contains(&b'.') || !shown.iter().all(is_base64) {
            return None;
        }
        let text = std::str::from_utf8(shown).ok()?;
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).ok()?;
        Some(Token {
            header: serde_json::from_slice(&header).ok()?,
            signed,
            claims,
            signature,
        })
    }

    /// Whether it claims to be of this issuer. One that cannot be read may be anybody's.
    pub(super) fn may_be_of(&self, issuer: &str) -> bool {
        let claims = BASE64_URL_SAFE_NO_PAD.decode(self.claims).ok();
        let read = claims.and_then(|claims| serde_json::from_slice::<Issued>(&claims).ok());
        read.is_none_or(|claims| claims.iss.is_some_and(|iss| iss == issuer))
    }

    /// Verifies it. `now`: seconds since 1970.
    ///
    /// # Errors
    /// If it is not good now.
    pub(super) fn verify(&self, set: &JwkSet, jwt: &Jwt, now: f64) -> Result<Good, Refusal> {
        // `crit` names extensions that must be understood (RFC 7515, section 4.1.11)
        if self.signed.len() + self.signature.len() >= LONGEST || self.header.contains_key("crit") {
            return Err(Refusal::Malformed);
        }
        let algorithm = self.header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(Refusal::Algorithm)?;
        let key = self.key(set, algorithm)?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(self.signature);
        let signature = signature.map_err(|_| Refusal::Malformed)?;
        if !is_signed(&key.key, algorithm, self.signed.as_bytes(), &signature) {
            return Err(Refusal::Signature);
        }
        let claims = BASE64_URL_SAFE_NO_PAD.decode(self.claims);
        let claims = claims.map_err(|_| Refusal::Malformed)?;
        let claims = serde_json::from_slice(&claims).map_err(|_| Refusal::Malformed)?;
        judge(claims, jwt, now)
    }

    /// The key it names. Without a name, the only one that could be meant.
    fn key<'s>(&self, set: &'s JwkSet, algorithm: Algorithm) -> Result<&'s Jwk, Refusal> {
        let mut fitting = set.keys.iter().filter(|key| key.is_for(algorithm));
        match self.header.get("kid") {
            Some(Value::String(id)) => fitting.find(|key| key.id.as_ref() == Some(id)),
            Some(_) => return Err(Refusal::Malformed),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
        .ok_or(Refusal::UnknownKey)
    }
}

fn judge(mut claims: Claims, jwt: &Jwt, now: f64) -> Result<Good, Refusal> {
    let leeway = jwt.leeway.as_secs_f64();
    if claims.iss.as_ref().is_none_or(|iss| *iss != jwt.issuer) {
        return Err(Refusal::Issuer);
    }
    let is_ours = |one: &Value| jwt.audience.iter().any(|ours| one == ours);
    let meant = match &claims.aud {
        Some(Value::Array(several)) => several.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if !meant {
        return Err(Refusal::Audience);
    }
    let end = claims.exp.ok_or(Refusal::Malformed)? + leeway;
    if now >= end {
        return Err(Refusal::Expired);
    }
    if claims.nbf.is_some_and(|start| now < start - leeway) {
        return Err(Refusal::NotYet);
    }
    let subject = match jwt.claim.as_str() {
        "iss" => claims.iss,
        "aud" => claims.aud,
        name => claims.rest.remove(name),
    };
    let subject = match subject {
        Some(Value::String(subject)) => Some(subject.into()),
        _ => None,
    };
    Ok(Good { subject, end })
}

fn is_signed(key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let verified = match key {
        PublicKey::Rsa { n, e } => {
            let Some(parameters) = rsa(algorithm) else {
                return false;
            };
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
        }
        PublicKey::P256(point) => {
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
        }
        PublicKey::P384(point) => {
            UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                .verify(message, signature)
        }
        PublicKey::Ed25519(point) => {
            UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
        }
    };
    verified.is_ok()
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return None,
    })
}

#[cfg(test)]
mod tests;
