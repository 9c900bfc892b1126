//! Where the configuration comes from. The first place that has one wins; none are merged.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::cli::{BAD_CONFIG, FAILED};
use crate::config::problem::{Lines, Problem};
use crate::config::{self, Config};

/// A configuration's text, and where it is from.
pub(crate) struct Source {
    /// As it is shown.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Where relative paths in it start.
    pub(crate) folder: PathBuf,
}

/// The file that is asked for, or found.
///
/// # Errors
/// If one was named and cannot be read; the message names it.
pub(crate) fn find(asked: Option<&Path>) -> Result<Option<Source>, String> {
    if let Some(path) = asked {
        return read(path).map(Some);
    }
    if let Some(path) = std::env::var_os("TRUNKLINE_CONFIG").filter(|path| !path.is_empty()) {
        return read(Path::new(&path))
            .map_err(|e| format!("{e} (named by $TRUNKLINE_CONFIG)"))
            .map(Some);
    }
    let home = |rest: &str| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(rest));
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    let user = user
        .or_else(|| home(".config"))
        .map(|dir| dir.join("trunkline/trunkline.yaml"));
    let places = [
        Some("trunkline.yaml".into()),
        user,
        Some("/etc/trunkline/trunkline.yaml".into()),
    ];
    match places
        .into_iter()
        .flatten()
        .find(|path: &PathBuf| path.exists())
    {
        Some(path) => read(&path).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<Source, String> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{name} cannot be read: {e}"))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Source { name, text, folder })
}

/// The file that is asked for, or found, read; else its problems are printed and this is the exit
/// code. `none` is said if there is no file.
pub(crate) fn require(asked: Option<&Path>, none: &str) -> Result<(Source, Config), u8> {
    match find(asked) {
        Ok(Some(source)) => match source.load_or_explain() {
            Some(config) => Ok((source, config)),
            None => Err(BAD_CONFIG),
        },
        Ok(None) => {
            eprintln!("trunkline: there is no configuration file; {none}");
            Err(FAILED)
        }
        Err(message) => {
            eprintln!("trunkline: {message}");
            Err(BAD_CONFIG)
        }
    }
}

impl Source {
    /// Reads it under the environment of this process.
    pub(crate) fn load(&self) -> (Option<Config>, Vec<Problem>) {
        config::read(&self.text, &self.folder, &|name| std::env::var(name).ok())
    }

    /// Reads it and prints what is wrong on stderr; the configuration if it can be used.
    pub(crate) fn load_or_explain(&self) -> Option<Config> {
        let (config, problems) = self.load();
        self.explain(&problems, "nothing was started");
        config
    }

    /// Prints problems on stderr, in colour on a terminal.
    /// `consequence`: what follows if there are errors.
    pub(crate) fn explain(&self, problems: &[Problem], consequence: &str) {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let text = config::without_secrets(&self.text);
        let lines = Lines::of(&text);
        for problem in problems {
            eprintln!("{}\n", problem.render(&self.name, &lines, colour));
        }
        let errors = problems.iter().filter(|p| p.is_error()).count();
        if errors > 0 {
            let plural = if errors == 1 { "" } else { "s" };
            eprintln!(
                "trunkline: {}: {errors} error{plural}; {consequence}",
                self.name
            );
        }
    }

    /// The same as text.
    pub(crate) fn plain(&self, problems: &[Problem]) -> String {
        let text = config::without_secrets(&self.text);
        let lines = Lines::of(&text);
        let problems = problems.iter();
        problems
            .map(|problem| format!("{}\n\n", problem.render(&self.name, &lines, false)))
            .collect()
    }
}
