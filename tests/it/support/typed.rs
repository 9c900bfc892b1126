//! A command that is typed and ends by itself.

use std::path::Path;
use std::process::{Command, Stdio};

use super::gateway::BINARY;

/// What came back.
pub struct Typed {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Typed {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let parsed = serde_json::from_str(&self.stdout);
        parsed.unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }

    /// Everything it said, which nobody's terminal has to break.
    #[track_caller]
    pub fn fits_80_columns(&self) {
        for line in self.stdout.lines().chain(self.stderr.lines()) {
            assert!(line.chars().count() <= 80, "too wide: {line}");
        }
    }
}

/// In a folder, as somebody without any configuration of their own.
pub fn bare(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("TRUNKLINE_CONFIG")
        .env_remove("TRUNKLINE_ADMIN")
        .env_remove("OPENAI_API_KEY")
        .env("HOME", folder)
        .env("XDG_CONFIG_HOME", folder.join("none"));
    command
}

#[track_caller]
pub fn run(command: &mut Command) -> Typed {
    let output = command.output().unwrap();
    Typed {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
pub fn typed(folder: &Path, arguments: &[&str]) -> Typed {
    run(&mut bare(folder, arguments))
}
