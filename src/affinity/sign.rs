//! Suffixes of ids: who made the object, signed, so that no table has to know it.
//!
//! `file-abc` becomes `file-abc_tl_` and 20 characters: 5 bytes that stand for the server and 10 of
//! a keyed hash over those and the id. Whoever has no key can make none for an id of their choice,
//! and cannot lead a request to another server than the one that made the object.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

/// Stands between an id and what we put behind it.
const SEPARATOR: &str = "_tl_";
/// Bytes that stand for a server.
const TAG: usize = 5;
const MAC: usize = 10;
/// Characters of the bytes behind the separator, which fill them to the last bit.
const CODE: usize = (TAG + MAC) / 3 * 4;
/// Characters of a suffix.
pub(super) const SUFFIX: usize = SEPARATOR.len() + CODE;

/// Stands for one server of one pool.
pub(crate) type Tag = [u8; TAG];

/// Whether an id may have a suffix.
pub(super) fn looks_signed(text: &str) -> bool {
    let at = text.len().checked_sub(SUFFIX);
    at.is_some_and(|at| text.as_bytes()[at..].starts_with(SEPARATOR.as_bytes()))
}

/// Signs ids, and knows its own again.
#[derive(Clone)]
pub(crate) struct Signer {
    key: [u8; 32],
}

/// What an id says of its maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature<'a> {
    /// Nothing: it has no suffix.
    None,
    /// It has one that is not ours.
    Forged,
    Good {
        /// The id as its maker knows it.
        id: &'a str,
        tag: Tag,
    },
}

impl Signer {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Signer {
            key: blake3::derive_key("trunkline 2026-11 affinity of ids", secret),
        }
    }

    /// One that nobody else has.
    pub(crate) fn random() -> Self {
        let mut secret = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret)
            .expect("the system has random numbers");
        Signer::new(&secret)
    }

    /// What it signs with, for the program that takes this one's place.
    pub(super) fn key(&self) -> String {
        blake3::Hash::from_bytes(self.key).to_hex().to_string()
    }

    /// The one with this key.
    pub(super) fn with_key(key: &str) -> Option<Self> {
        let key = *blake3::Hash::from_hex(key).ok()?.as_bytes();
        Some(Signer { key })
    }

    /// The tag of a server, by the names of its pool and its own.
    pub(crate) fn tag(&self, pool: &str, server: &str) -> Tag {
        // names hold no slash
        let hash = self.hash(&[b"server ", pool.as_bytes(), b"/", server.as_bytes()]);
        std::array::from_fn(|n| hash[n])
    }

    /// What is put behind an id.
    pub(super) fn suffix(&self, id: &[u8], tag: Tag) -> String {
        let mut code = tag.to_vec();
        code.extend(self.mac(id, tag));
        format!("{SEPARATOR}{}", URL_SAFE_NO_PAD.encode(code))
    }

    pub(super) fn read<'a>(&self, text: &'a str) -> Signature<'a> {
        let Some((id, suffix)) = text
            .len()
            .checked_sub(SUFFIX)
            .and_then(|at| text.split_at_checked(at))
        else {
            return Signature::None;
        };
        let Some(code) = suffix.strip_prefix(SEPARATOR) else {
            return Signature::None;
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !code.bytes().all(plain) {
            return Signature::None;
        }
        let Ok(code) = URL_SAFE_NO_PAD.decode(code) else {
            return Signature::Forged;
        };
        let tag: Tag = std::array::from_fn(|n| code[n]);
        match bool::from(self.mac(id.as_bytes(), tag)[..].ct_eq(&code[TAG..])) {
            true => Signature::Good { id, tag },
            false => Signature::Forged,
        }
    }

    fn mac(&self, id: &[u8], tag: Tag) -> [u8; MAC] {
        let hash = self.hash(&[b"id ", &tag, id]);
        std::array::from_fn(|n| hash[n])
    }

    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_id_keeps_its_beginning_and_leads_back() {
        let signer = Signer::new(b"a secret of two edges");
        let tag = signer.tag("a", "one");
        let signed = format!("file-abc{}", signer.suffix(b"file-abc", tag));
        assert!(signed.starts_with("file-abc_tl_"), "{signed}");
        assert_eq!(signed.len(), "file-abc".len() + SUFFIX);
        let good = Signature::Good {
            id: "file-abc",
            tag,
        };
        assert_eq!(signer.read(&signed), good);
        assert_eq!(Signer::new(b"a secret of two edges").read(&signed), good);
        assert_eq!(signer.tag("a", "one"), tag);
        assert_ne!(signer.tag("a", "two"), tag);
        assert_ne!(signer.tag("b", "one"), tag);
    }

    #[test]
    fn whatever_is_changed_it_is_forged() {
        let signer = Signer::new(b"a secret of two edges");
        let tag = signer.tag("a", "one");
        let signed = format!("file-abc{}", signer.suffix(b"file-abc", tag));
        assert_eq!(Signer::new(b"another").read(&signed), Signature::Forged);
        assert_eq!(Signer::random().read(&signed), Signature::Forged);
        for at in (0..signed.len()).filter(|at| !(8..12).contains(at)) {
            let other = if signed.as_bytes()[at] == b'x' {
                'y'
            } else {
                'x'
            };
            let mut changed = signed.clone();
            changed.replace_range(at..=at, &other.to_string());
            assert_eq!(signer.read(&changed), Signature::Forged, "{changed}");
        }
        let moved = format!("file-abd{}", &signed[8..]);
        assert_eq!(signer.read(&moved), Signature::Forged);
    }

    #[test]
    fn other_ids_have_no_suffix() {
        let signer = Signer::new(b"s");
        for id in [
            "",
            "file-abc",
            "x_tl_short",
            "ünd_tl_übermütig-viel-zu-lang",
        ] {
            assert_eq!(signer.read(id), Signature::None, "{id}");
        }
        // of another Trunkline behind this one, signed once more here
        let inner = format!(
            "file-abc{}",
            Signer::new(b"inner").suffix(b"file-abc", [1; TAG])
        );
        let outer = format!("{inner}{}", signer.suffix(inner.as_bytes(), [2; TAG]));
        let good = Signature::Good {
            id: inner.as_str(),
            tag: [2; TAG],
        };
        assert_eq!(signer.read(&outer), good);
    }
}
