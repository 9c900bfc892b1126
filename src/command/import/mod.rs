//! `trunkline import`: the configuration of another program, said in ours.
//!
//! A reader for each program makes a [`draft::Draft`]; what it cannot carry over it notes there.
//! The draft becomes YAML, which is read back before it is printed, so that no file is handed out
//! that would not start.

mod boxes;
mod draft;
mod haproxy;
mod litellm;
mod voicemode;
mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::{FAILED, OK};
use crate::command::source::Source;
use crate::config::{self, problem::Problem};
use draft::Draft;

const HELP: &str = "\
What cannot be said here is told on stderr and in comments of the file. Keys
that stand in the file become ${VARIABLES}: no key is printed.

Examples:
  trunkline import litellm config.yaml > trunkline.yaml
  trunkline import haproxy /etc/haproxy/haproxy.cfg
  trunkline import voicemode ~/.voicemode/voicemode.env

Exit codes: 0 ok (perhaps with warnings), 1 nothing could be made of it, 2 usage.";

/// What `import` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// The program the file is for.
    #[arg(value_enum)]
    from: Program,
    /// Its file; `-` for stdin.
    file: PathBuf,
}

/// Whose configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Program {
    /// A config.yaml with a `model_list`.
    Litellm,
    /// A haproxy.cfg.
    Haproxy,
    /// A file of `VOICEMODE_…=` lines.
    Voicemode,
}

impl Program {
    fn word(self) -> &'static str {
        match self {
            Program::Litellm => "litellm",
            Program::Haproxy => "haproxy",
            Program::Voicemode => "voicemode",
        }
    }
}

/// Prints the configuration; says with which code to exit.
pub(crate) fn run(options: &Options) -> u8 {
    let name = options.file.display().to_string();
    let drafted = read(&options.file).and_then(|text| draft(options.from, &text));
    let draft = match drafted {
        Ok(draft) => draft,
        Err(message) => {
            eprintln!("trunkline: {name}: {message}");
            return FAILED;
        }
    };
    let text = yaml::write(&draft, options.from.word(), &name);
    print!("{text}");
    for warning in &draft.warnings {
        eprintln!("warning: {warning}");
    }
    for todo in &draft.todos {
        eprintln!("to do: {todo}");
    }
    match broken(text) {
        false => OK,
        true => FAILED,
    }
}

/// What becomes of the file of one of the programs.
#[cfg(test)]
pub(super) fn written(program: usize, text: &str) -> Result<String, String> {
    let all = Program::value_variants();
    let program = all[program % all.len()];
    let draft = draft(program, text)?;
    Ok(yaml::write(&draft, program.word(), "file"))
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|e| format!("it cannot be read: {e}"))?;
    Ok(text)
}

fn draft(from: Program, text: &str) -> Result<Draft, String> {
    let draft = match from {
        Program::Litellm => litellm::read(text)?,
        Program::Haproxy => haproxy::read(text)?,
        Program::Voicemode => voicemode::read(text)?,
    };
    if draft.pools.is_empty() || draft.routes.is_empty() {
        let why: Vec<&str> = draft.warnings.iter().map(String::as_str).collect();
        let why = match why.as_slice() {
            [] => "it names no server".to_owned(),
            why => why.join("\n  "),
        };
        return Err(format!("nothing of it can be said here:\n  {why}"));
    }
    Ok(draft)
}

/// Whether the file has errors, which are told. Variables count as set, to what even a URL may be,
/// and certificates may be where it will be served.
fn broken(text: String) -> bool {
    let any = |_: &str| Some("http://set.invalid".to_owned());
    let (_, problems) = config::read(&text, Path::new("."), &any);
    let errors = problems.into_iter().filter(Problem::is_error);
    let errors: Vec<Problem> = errors
        .filter(|problem| !problem.path.contains(".tls."))
        .collect();
    if errors.is_empty() {
        return false;
    }
    let source = Source {
        name: "the result".to_owned(),
        text,
        folder: PathBuf::new(),
    };
    source.explain(&errors, "put it right by hand, and report this, please");
    true
}
