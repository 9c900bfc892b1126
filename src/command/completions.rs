//! `trunkline completions SHELL`: what a shell needs to complete commands and options.

use std::io::Write;

use clap::Command;
use clap_complete::Shell;

use crate::cli::{self, FAILED, OK};

const HELP: &str = "\
Where shells look for it:
  bash  trunkline completions bash > ~/.local/share/bash-completion/completions/trunkline
  zsh   trunkline completions zsh > \"${fpath[1]}/_trunkline\"
  fish  trunkline completions fish > ~/.config/fish/completions/trunkline.fish";

/// What `completions` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints them.
pub(crate) fn run(options: &Options) -> u8 {
    let mut script = Vec::new();
    let mut command = visible(&cli::command());
    clap_complete::generate(options.shell, &mut command, "trunkline", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => OK,
        Err(_) => FAILED,
    }
}

/// Without what is hidden, which the generators would offer too.
fn visible(command: &Command) -> Command {
    let shown = command.get_subcommands();
    let shown = shown.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    // clap wants names that live for ever, and this program ends in a moment
    let kept = |name: &str| -> &'static str { name.to_owned().leak() };
    let aliases = command.get_visible_aliases().map(kept);
    Command::new(kept(command.get_name()))
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .visible_aliases(aliases.collect::<Vec<_>>())
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args(command.get_arguments().cloned())
        .subcommands(shown.map(visible))
}
