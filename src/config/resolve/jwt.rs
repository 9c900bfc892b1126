//! Tokens of an identity provider, and its keys if they are in a file.

use std::io::Read;
use std::time::Duration;

use super::super::file::{self, File};
use super::super::jwks::JwkSet;
use super::super::jwt::{Jwks, JwksUrl, Jwt};
use super::super::tree::at;
use super::Resolver;
use crate::unit::{Size, Span};

/// Largest file or answer with keys that is read.
const LARGEST: Size = Size::mib(1);
/// Shortest time between two looks at a provider's keys.
const OFTEN: Duration = Duration::from_secs(1);
/// Clocks that differ by more are wrong.
const MOST_LEEWAY: Duration = Duration::from_secs(10 * 60);

impl Resolver<'_> {
    pub(super) fn jwt(&mut self, file: &File) -> Option<Jwt> {
        let written = file.jwt.as_ref()?;
        let here = at!["jwt"];
        if file.keys.is_empty() && !self.damaged {
            let message = "a token names one of `keys`, and there are none";
            self.error(here.clone(), message);
        }
        let claim = written.claim.clone().unwrap_or_else(|| "sub".to_owned());
        let audience = &written.audience.0;
        let empty = [
            ("issuer", written.issuer.is_empty()),
            ("claim", claim.is_empty()),
            (
                "audience",
                audience.is_empty() || audience.contains(&String::new()),
            ),
        ];
        for (name, _) in empty.iter().filter(|(_, empty)| *empty) {
            self.error(here.then(*name), format!("`{name}` is empty"));
        }
        let leeway = written.leeway.unwrap_or(Span::secs(30)).0;
        if leeway > MOST_LEEWAY {
            let message = "clocks that differ by more than 10m are to be set, not allowed for";
            self.error(here.then("leeway"), message);
        }
        let jwks = self.jwks(written);
        Some(Jwt {
            jwks: jwks?,
            issuer: written.issuer.clone(),
            audience: audience.clone(),
            claim,
            leeway,
        })
    }

    fn jwks(&mut self, written: &file::Jwt) -> Option<Jwks> {
        let text = &written.jwks;
        let place = at!["jwt", "jwks"];
        if !JwksUrl::is_one(text) {
            if written.refresh.is_some() {
                let message = "`refresh` is for a URL; a file is read again when it changes";
                self.warn(at!["jwt", "refresh"], message);
            }
            return self.jwks_file(text);
        }
        let url = self.check(place, JwksUrl::parse(text));
        let refresh = written.refresh.unwrap_or(Span::secs(600)).0;
        if refresh < OFTEN {
            self.error(at!["jwt", "refresh"], "`refresh` is at least 1s");
        }
        Some(Jwks::Url { url: url?, refresh })
    }

    fn jwks_file(&mut self, name: &str) -> Option<Jwks> {
        let place = at!["jwt", "jwks"];
        let path = self.folder.join(name);
        self.files.push(path.clone());
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(LARGEST.0 + 1).read_to_end(&mut bytes));
        let set = match read {
            Err(error) => Err(format!("`{name}` cannot be read: {error}")),
            Ok(_) if bytes.len() as u64 > LARGEST.0 => {
                Err(format!("`{name}` is larger than {LARGEST}"))
            }
            Ok(_) => JwkSet::parse(&bytes).map_err(|why| format!("`{name}`: {why}")),
        };
        let set = self.check(place.clone(), set)?;
        for remark in &set.remarks {
            self.warn(place.clone(), format!("`{name}`: {remark}"));
        }
        Some(Jwks::File(path, set))
    }
}
