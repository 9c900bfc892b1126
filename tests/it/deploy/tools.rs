//! The programs that check files. `make deploy-tools` gets them, as far as they can be had.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[track_caller]
pub fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn installed() -> PathBuf {
    std::env::var_os("TRUNKLINE_TOOLS").map_or_else(|| repository("target/tools"), PathBuf::from)
}

fn skipped(tool: &str) {
    eprintln!("skipped: {tool} is not installed; `make deploy-tools` would do it");
}

/// A program of the system's, or unpacked for the tests; `None`, and a word about it, if there is
/// none.
pub fn program(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["prometheus", "lint/bin"].map(|folder| installed().join(folder));
    let found = own
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        skipped(name);
    }
    found.map(Command::new)
}

/// A module of Python's that was installed for the tests.
pub fn python(module: &str) -> Option<Command> {
    let folder = installed().join("lint");
    if !folder.join(module).exists() {
        skipped(module);
        return None;
    }
    let mut command = Command::new("python3");
    command.args(["-m", module]).env("PYTHONPATH", folder);
    Some(command)
}

/// Runs it; what it said, and whether it was content.
pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let (good, text) = run(command);
    assert!(good, "{command:?}:\n{text}");
    text
}
