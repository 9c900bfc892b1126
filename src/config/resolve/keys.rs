//! The keys of clients, and limits wherever they stand.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::super::file;
use super::super::pattern::Pattern;
use super::super::problem::did_you_mean;
use super::super::tree::{self, at};
use super::super::{Key, KeyHash, Price, Quota, Route};
use super::Resolver;

/// Keys shorter than this can be guessed.
const SHORTEST: usize = 16;

impl Resolver<'_> {
    pub(super) fn keys(&mut self, file: &file::File, routes: &[Route]) -> Vec<Key> {
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut hashes: HashMap<[u8; 32], &str> = HashMap::new();
        let mut out = Vec::new();
        let known: HashSet<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        self.subjects(file);
        for (n, key) in file.keys.iter().enumerate() {
            let here = at!["keys", n];
            self.name(here.then("name"), "key", &key.name);
            if let Some(first) = names.insert(&key.name, n) {
                let name = &key.name;
                let message = format!("two keys are called `{name}`: the first is keys[{first}]");
                self.error(here.then("name"), message);
            }
            let tokens_only = file.jwt.is_some() && !has_key(key);
            let hash = match tokens_only {
                true => None,
                false => self.key_hash(&here, key),
            };
            if hash.is_none() && !tokens_only {
                continue;
            }
            if let Some(first) = hash.and_then(|hash| hashes.insert(hash.0, &key.name)) {
                let message =
                    format!("it is the same key as `{first}`; nobody could tell them apart");
                self.error(here.clone(), message);
            }
            self.key_routes(&here, key, &known);
            let expires = key.expires.as_deref().and_then(|text| {
                let end = self.check(here.then("expires"), parse_date(text))?;
                if end <= SystemTime::now() {
                    self.warn(
                        here.then("expires"),
                        format!("the key `{}` has expired", key.name),
                    );
                }
                Some(end)
            });
            out.push(Key {
                name: key.name.clone(),
                hash,
                subjects: subjects(key).to_vec(),
                models: key.models.0.iter().map(|text| Pattern::new(text)).collect(),
                routes: key.routes.0.clone(),
                zone: key.zone,
                limits: quota(&key.limits),
                budget: self.budget(&here, key),
                expires,
            });
        }
        out
    }

    /// A value of the claim is one key, or none.
    fn subjects(&mut self, file: &file::File) {
        let mut known: HashMap<&str, &str> = HashMap::new();
        for (n, key) in file.keys.iter().enumerate() {
            let here = at!["keys", n].then("subjects");
            if file.jwt.is_none() && !key.subjects.0.is_empty() {
                self.error(here.clone(), "`subjects` are of tokens; they need `jwt`");
            }
            for subject in subjects(key) {
                // what two keys of one name mean is said elsewhere
                let first = known.insert(subject, &key.name);
                if let Some(first) = first.filter(|first| *first != key.name) {
                    let message = format!("`{subject}` is the key `{first}` already");
                    self.error(here.clone(), message);
                }
            }
        }
    }

    fn budget(&mut self, here: &tree::Path, key: &file::Key) -> Option<f64> {
        let budget = key.budget?;
        if !(budget.is_finite() && budget >= 0.0) {
            self.error(
                here.then("budget"),
                format!("`{budget}` is no amount to spend"),
            );
        }
        Some(budget)
    }

    pub(super) fn prices(&mut self, prices: &file::Ordered<file::Price>) -> Vec<(Pattern, Price)> {
        let mut out = Vec::new();
        for (model, price) in &prices.0 {
            let here = at!["prices", model.as_str()];
            let parts = [
                ("request", price.request),
                ("input", price.input),
                ("output", price.output),
                ("characters", price.characters),
                ("audio_minute", price.audio_minute),
            ];
            for (name, price) in parts {
                if !(price.is_finite() && price >= 0.0) {
                    self.error(here.then(name), format!("`{price}` is no price"));
                }
            }
            let price = Price {
                request: price.request,
                input: price.input,
                output: price.output,
                characters: price.characters,
                audio_minute: price.audio_minute,
            };
            out.push((Pattern::new(model), price));
        }
        out
    }

    /// Only if some key has a budget.
    pub(super) fn budget_file(&mut self, file: &file::File, keys: &[Key]) -> Option<PathBuf> {
        let limited = keys.iter().any(|key| key.budget.is_some());
        if limited && file.prices.0.is_empty() {
            self.warn(at!["keys"], "a budget is never spent without `prices`");
        }
        if !limited {
            return None;
        }
        let written = file
            .budgets
            .file
            .as_ref()
            .map(|file| self.folder.join(file));
        written.or_else(|| default_file(self.env))
    }

    fn key_routes(&mut self, here: &tree::Path, key: &file::Key, known: &HashSet<&str>) {
        for (n, name) in key.routes.0.iter().enumerate() {
            if !known.contains(name.as_str()) {
                let help = did_you_mean(name, known.iter().copied());
                let message = format!("route `{name}` is not defined");
                let place = here.then("routes").then(n);
                self.report(super::Severity::Error, place, message, help);
            }
        }
    }

    /// The hash, from whichever of the three ways the key is given in.
    fn key_hash(&mut self, here: &tree::Path, key: &file::Key) -> Option<KeyHash> {
        let given = [
            key.hash.is_some(),
            key.key.is_some(),
            key.key_file.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            let message = format!(
                "the key `{}` needs one of `hash`, `key_file` and `key` (or `jwt`, to be named by tokens); `trunkline key new` makes a key and its hash",
                key.name
            );
            self.error(here.clone(), message);
            return None;
        }
        if let Some(hash) = &key.hash {
            return self.check(here.then("hash"), hash.parse());
        }
        let names = ["key", "key_file"];
        let text = self.secret(here, names, key.key.as_ref(), key.key_file.as_ref());
        let name = if key.key.is_some() { "key" } else { "key_file" };
        let Some(text) = text else {
            if !self.damaged {
                self.error(here.then(name), format!("the key `{}` is empty", key.name));
            }
            return None;
        };
        if text.expose().len() < SHORTEST {
            let message = format!(
                "the key `{}` has less than {SHORTEST} characters, and can be guessed; `trunkline key new` makes a good one",
                key.name
            );
            self.warn(here.then(name), message);
        }
        Some(KeyHash::of(text.expose().as_bytes()))
    }
}

/// Whether it says anything of a key to show.
fn has_key(key: &file::Key) -> bool {
    key.hash.is_some() || key.key.is_some() || key.key_file.is_some()
}

/// Values of a token's claim that are this key.
fn subjects(key: &file::Key) -> &[String] {
    match key.subjects.0.as_slice() {
        [] => std::slice::from_ref(&key.name),
        written => written,
    }
}

/// Where systemd says, else in the user's state folder.
fn default_file(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    const NAME: &str = "spending.json";
    let folder = |name: &str| {
        env(name)
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from)
    };
    let state = folder("STATE_DIRECTORY");
    let user = || folder("XDG_STATE_HOME").map(|state| state.join("trunkline"));
    let home = || folder("HOME").map(|home| home.join(".local/state/trunkline"));
    Some(state.or_else(user).or_else(home)?.join(NAME))
}

/// What a file says of limits.
pub(super) fn quota(quota: &file::Quota) -> Quota {
    Quota {
        requests: quota.rpm,
        concurrent: quota.concurrent,
        tokens: quota.tpm,
        characters: quota.characters,
        audio_seconds: quota.audio_seconds,
        bytes: quota.bytes.map(|size| size.0),
    }
}

/// `2027-01-01`, the beginning of that day in UTC, or a moment of RFC 3339.
fn parse_date(text: &str) -> Result<SystemTime, String> {
    let text = text.trim();
    let day = format!("{text}T00:00:00Z");
    humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339(&day))
        .ok()
        .filter(|time| *time > SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        .ok_or_else(|| {
            format!("`{text}` is no date; write `2027-01-01`, which ends with the day before, or `2027-01-01T12:00:00Z`")
        })
}
