//! `trunkline key new` and `trunkline key hash`: keys for clients, of which the file keeps a hash.

use std::io::{IsTerminal, Read};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::crypto::ring;
use serde_json::json;

use crate::cli::{FAILED, KeyCommand, OK, Output};
use crate::config::KeyHash;

/// Random bytes of a key: as many as its hash has.
const LENGTH: usize = 32;
/// By this a key is known for one of ours wherever it turns up.
const PREFIX: &str = "tl-";

pub(crate) fn run(command: &KeyCommand) -> u8 {
    match command {
        KeyCommand::New { name, format } => new(name, *format),
        KeyCommand::Hash => hash(),
    }
}

/// Makes a key. It is shown this once.
fn new(name: &str, format: Output) -> u8 {
    let mut bytes = [0; LENGTH];
    if ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .is_err()
    {
        eprintln!("trunkline: the system has no random numbers");
        return FAILED;
    }
    let key = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let hash = KeyHash::of(key.as_bytes()).to_string();
    if format == Output::Json {
        println!("{}", json!({ "name": name, "key": key, "hash": hash }));
        return OK;
    }
    println!("{key}");
    if std::io::stdout().is_terminal() {
        eprintln!(
            "\nThis is shown once: give it to the client now. Under `keys:` of the file goes\n"
        );
    } else {
        eprintln!("Under `keys:` of the file goes");
    }
    eprintln!("  - {{ name: {name}, hash: \"{hash}\" }}");
    OK
}

/// The hash of a key that exists already, from standard input so that no history keeps it.
fn hash() -> u8 {
    if std::io::stdin().is_terminal() {
        eprintln!("Type or paste the key, then Enter and Ctrl-D:");
    }
    let mut key = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut key) {
        eprintln!("trunkline: the key cannot be read: {error}");
        return FAILED;
    }
    let key = key.trim();
    if key.is_empty() {
        eprintln!("trunkline: there is no key on standard input");
        return FAILED;
    }
    println!("{}", KeyHash::of(key.as_bytes()));
    OK
}
