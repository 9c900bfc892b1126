//! `trunkline man`: the manual, one page a command.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;

use crate::cli::{self, FAILED, OK};

const HELP: &str = "\
Examples:
  trunkline man | man -l -
  trunkline man config show | man -l -
  trunkline man --dir /usr/local/share/man/man1";

/// What `man` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// The command whose page is printed. Default: the page of the program.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write all pages into this folder instead.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints a page, or writes all of them.
pub(crate) fn run(options: &Options) -> u8 {
    let done = match &options.dir {
        Some(dir) => write_all(dir),
        None => print(&options.command),
    };
    match done {
        Ok(()) => OK,
        Err(message) => {
            eprintln!("trunkline: {message}");
            FAILED
        }
    }
}

fn print(names: &[String]) -> Result<(), String> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let root = cli::command();
    let mut command = &root;
    for name in &names {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = visible(command).map(Command::get_name).collect();
            match known.as_slice() {
                [] => format!("`{}` has no command `{name}`", command.get_name()),
                known => format!(
                    "there is no command `{name}`; it may be {}",
                    known.join(", ")
                ),
            }
        })?;
    }
    let written = std::io::stdout().write_all(&page(command)?);
    written.map_err(|e| e.to_string())
}

fn write_all(dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let root = cli::command();
    let mut waiting = vec![&root];
    while let Some(command) = waiting.pop() {
        let file = dir.join(format!("{}.1", name(command)));
        let written = std::fs::write(&file, page(command)?);
        written.map_err(|e| format!("{} cannot be written: {e}", file.display()))?;
        println!("{}", file.display());
        waiting.extend(visible(command));
    }
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// With the names of the commands above it: `trunkline-config-show`.
fn name(command: &Command) -> String {
    let whole = command.get_display_name();
    whole.unwrap_or(command.get_name()).to_owned()
}

fn page(command: &Command) -> Result<Vec<u8>, String> {
    let mut page = Vec::new();
    let source = concat!("Trunkline ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("Trunkline");
    man.render(&mut page).map_err(|e| e.to_string())?;
    Ok(page)
}
