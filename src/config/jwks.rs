//! The keys of an identity provider (JWKS, RFC 7517 and 7518): which of them can verify tokens, and
//! with what.
//!
//! Only public keys of asymmetric algorithms are taken. Whatever else a set holds is left out and
//! said, as providers publish keys for other uses too.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::unit::printable;

/// Keys of one set that are looked at. Providers have a handful.
const MOST_KEYS: usize = 100;
/// What ring takes: bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How a token may be signed: what both sides could compute (`HS256`) and `none` are not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// A public key as it is verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwk {
    pub(crate) id: Option<String>,
    /// The only algorithm it is for, if the set says so.
    algorithm: Option<Algorithm>,
    pub(crate) key: PublicKey,
}

/// The keys of a provider that verify tokens: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwkSet {
    pub(crate) keys: Vec<Jwk>,
    /// Why others were left out, and what is wrong with those that were not.
    pub(crate) remarks: Vec<String>,
}

impl Algorithm {
    const ALL: [(&'static str, Algorithm); 10] = [
        ("RS256", Algorithm::Rs256),
        ("RS384", Algorithm::Rs384),
        ("RS512", Algorithm::Rs512),
        ("PS256", Algorithm::Ps256),
        ("PS384", Algorithm::Ps384),
        ("PS512", Algorithm::Ps512),
        ("ES256", Algorithm::Es256),
        ("ES384", Algorithm::Es384),
        ("EdDSA", Algorithm::EdDsa),
        // RFC 9864
        ("Ed25519", Algorithm::EdDsa),
    ];

    /// By its name in `alg`; `None` for all that is never believed.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(own, _)| *own == name).map(|(_, alg)| *alg)
    }

    fn fits(self, key: &PublicKey) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match key {
            PublicKey::Rsa { .. } => {
                matches!(self, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
            }
            PublicKey::P256(_) => self == Es256,
            PublicKey::P384(_) => self == Es384,
            PublicKey::Ed25519(_) => self == EdDsa,
        }
    }
}

impl Jwk {
    /// Whether a signature with this algorithm can be of this key.
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && algorithm.fits(&self.key)
    }
}

impl JwkSet {
    /// Reads a set, as a file or a provider's answer holds it.
    ///
    /// # Errors
    /// If no key of it can verify a token.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|e| format!("it is no JSON: {e}"))?;
        let all = set.get("keys").and_then(Value::as_array).ok_or(
            "it is no JWKS: a JSON object with a list `keys` (what a provider's `jwks_uri` answers)",
        )?;
        let mut out = JwkSet {
            keys: Vec::new(),
            remarks: Vec::new(),
        };
        for (n, jwk) in all.iter().take(MOST_KEYS).enumerate() {
            let name = match jwk["kid"].as_str() {
                Some(id) => format!("key `{}`", printable(id)),
                None => format!("keys[{n}]"),
            };
            match read(jwk) {
                Ok(key) => {
                    if jwk.get("d").is_some() {
                        out.remarks.push(format!("{name} holds its private half: whoever reads it can make tokens; keep only the public one here"));
                    }
                    out.keys.push(key);
                }
                Err(why) => out.remarks.push(format!("{name} is left out: {why}")),
            }
        }
        if out.keys.is_empty() {
            let why = match out.remarks.is_empty() {
                true => String::new(),
                false => format!(": {}", out.remarks.join("; ")),
            };
            return Err(format!("it holds no key that can verify a token{why}"));
        }
        Ok(out)
    }
}

fn read(jwk: &Value) -> Result<Jwk, String> {
    let text = |name: &str| jwk[name].as_str();
    if let Some(purpose) = text("use").filter(|purpose| *purpose != "sig") {
        return Err(format!("its `use` is `{}`", printable(purpose)));
    }
    if let Some(operations) = jwk["key_ops"].as_array()
        && !operations.iter().any(|operation| operation == "verify")
    {
        return Err("its `key_ops` are without `verify`".to_owned());
    }
    let key = match (text("kty").unwrap_or_default(), text("crv")) {
        ("RSA", _) => rsa(jwk)?,
        ("EC", Some("P-256")) => PublicKey::P256(point(jwk, 32)?),
        ("EC", Some("P-384")) => PublicKey::P384(point(jwk, 48)?),
        ("OKP", Some("Ed25519")) => PublicKey::Ed25519(exactly(jwk, "x", 32)?),
        ("oct", _) => return Err("it is a shared secret, which is never believed".to_owned()),
        (kind, curve) => {
            let curve = curve.map(|curve| format!(" on `{}`", printable(curve)));
            return Err(format!(
                "its `kty` `{}`{} is none of RSA, EC (P-256, P-384) and OKP (Ed25519)",
                printable(kind),
                curve.unwrap_or_default()
            ));
        }
    };
    let algorithm = match text("alg") {
        None => None,
        Some(name) => {
            let algorithm = Algorithm::named(name).filter(|algorithm| algorithm.fits(&key));
            let why = || format!("its `alg` `{}` does not fit", printable(name));
            Some(algorithm.ok_or_else(why)?)
        }
    };
    Ok(Jwk {
        id: text("kid").map(str::to_owned),
        algorithm,
        key,
    })
}

fn rsa(jwk: &Value) -> Result<PublicKey, String> {
    let number = |name| {
        let bytes = member(jwk, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes[zeros..].to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    let bits = n
        .first()
        .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("it has {bits} bits, and not 2048 to 8192"));
    }
    if e.is_empty() || e.len() > 4 {
        return Err("its exponent `e` is unusual".to_owned());
    }
    Ok(PublicKey::Rsa { n, e })
}

/// As SEC 1 writes a point: 4, x, y.
fn point(jwk: &Value, size: usize) -> Result<Vec<u8>, String> {
    let mut point = vec![4];
    point.extend(exactly(jwk, "x", size)?);
    point.extend(exactly(jwk, "y", size)?);
    Ok(point)
}

fn exactly(jwk: &Value, name: &str, size: usize) -> Result<Vec<u8>, String> {
    let bytes = member(jwk, name)?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err(format!(
            "its `{name}` has {} bytes, not {size}",
            bytes.len()
        )),
    }
}

fn member(jwk: &Value, name: &str) -> Result<Vec<u8>, String> {
    let text = jwk[name].as_str();
    let text = text.ok_or_else(|| format!("it has no `{name}`"))?;
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(text);
    decoded.map_err(|_| format!("its `{name}` is not base64url without padding"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 8037, appendix A.2, and RFC 7515, appendix A.3.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn parse(keys: Value) -> Result<JwkSet, String> {
        JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_are_taken_with_what_they_are_for() {
        let set = parse(json!([
            { "kty": "OKP", "crv": "Ed25519", "x": ED, "kid": "ed" },
            { "kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ES256", "use": "sig" },
        ]))
        .unwrap();
        assert_eq!(set.keys.len(), 2);
        assert!(set.remarks.is_empty(), "{:?}", set.remarks);
        assert_eq!(set.keys[0].id.as_deref(), Some("ed"));
        assert!(set.keys[0].is_for(Algorithm::EdDsa) && !set.keys[0].is_for(Algorithm::Es256));
        assert!(set.keys[1].is_for(Algorithm::Es256) && !set.keys[1].is_for(Algorithm::Es384));
    }

    #[test]
    fn what_cannot_verify_a_token_is_left_out_and_said() {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": ED, "kid": "ed" });
        let small = BASE64_URL_SAFE_NO_PAD.encode([0xff; 128]);
        for (bad, part) in [
            (
                json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "h" }),
                "key `h` is left out: it is a shared secret",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": ED, "use": "enc" }),
                "keys[0] is left out: its `use` is `enc`",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": ED, "key_ops": ["sign"] }),
                "without `verify`",
            ),
            (
                json!({ "kty": "OKP", "crv": "X25519", "x": ED }),
                "`OKP` on `X25519`",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }),
                "`x` has 3 bytes, not 32",
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": format!("{ED}=") }),
                "not base64url",
            ),
            (
                json!({ "kty": "EC", "crv": "P-256", "x": X }),
                "it has no `y`",
            ),
            (
                json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "HS256" }),
                "`alg` `HS256` does not fit",
            ),
            (
                json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "RS256" }),
                "does not fit",
            ),
            (
                json!({ "kty": "RSA", "n": small, "e": "AQAB" }),
                "it has 1024 bits",
            ),
            (json!("key"), "none of RSA"),
        ] {
            let set = parse(json!([bad, good])).unwrap();
            assert_eq!(set.keys.len(), 1, "{bad}");
            assert!(set.remarks[0].contains(part), "{bad}: {:?}", set.remarks);
            let alone = parse(json!([bad])).unwrap_err();
            assert!(
                alone.contains("no key that can verify") && alone.contains(part),
                "{alone}"
            );
        }
        let private = parse(json!([{ "kty": "OKP", "crv": "Ed25519", "x": ED, "d": ED }])).unwrap();
        assert!(private.remarks[0].contains("private half"));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for (text, part) in [
            ("", "no JSON"),
            ("[]", "no JWKS"),
            ("{}", "no JWKS"),
            (r#"{"keys":{}}"#, "no JWKS"),
            (r#"{"keys":[]}"#, "no key that can verify a token"),
        ] {
            let error = JwkSet::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
