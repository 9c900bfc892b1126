//! The command line: what may be typed, and the exit codes.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::command;
use crate::config::Level;

/// Everything is in order.
pub(crate) const OK: u8 = 0;
/// Something was tried and failed.
pub(crate) const FAILED: u8 = 1;
/// Nothing runs that could be asked; what `status` of init scripts says (LSB).
pub(crate) const NOT_RUNNING: u8 = 3;
/// The configuration is bad; BSD's `EX_CONFIG`, so that a unit file can say not to restart.
pub(crate) const BAD_CONFIG: u8 = 78;

const AFTER_HELP: &str = "\
Without a command, `run`. Without --config, the first of:
  $TRUNKLINE_CONFIG, ./trunkline.yaml, the user's configuration folder,
  /etc/trunkline/trunkline.yaml, and last one made for the boxes found on this machine.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not running (status), 78 bad configuration.";

/// One address in front of many voice and LLM servers.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, about, after_help = AFTER_HELP, disable_version_flag = true, args_conflicts_with_subcommands = true, propagate_version = true, max_term_width = 80)]
struct Cli {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version, global = true)]
    version: Option<bool>,
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground.
    Run(Run),
    /// Check configuration files: every problem at once, exit 78 if there is an error.
    #[command(visible_aliases = ["check", "validate"])]
    CheckConfig(CheckConfig),
    /// Try chat, speech and transcription through the running proxy; says who served each.
    #[command(visible_alias = "test-endpoints")]
    CheckEndpoints(Box<command::check_endpoints::Options>),
    /// Look for boxes on this machine or others, and print the configuration for them.
    Discover(command::discover::Options),
    /// Print the configuration that is equivalent to another program's file.
    Import(command::import::Options),
    /// Explain which route, servers and rewrites a request would get; sends nothing.
    Route(Box<Route>),
    /// Show the configuration in effect, or the schema of the file.
    #[command(subcommand)]
    Config(Config),
    /// Make keys for clients.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Serve in the background, and say when it does.
    Start(Start),
    /// Stop what `start` started: requests in flight are finished.
    Stop(Stop),
    /// Let the program that is installed now take over from the running one: no connection is
    /// refused, no stream is broken.
    Upgrade(Remote),
    /// Show the running program's messages of a level, such as debug; without one, as configured.
    LogLevel {
        level: Option<LogLevel>,
        /// For so long, such as 10m. Default: until told otherwise, or `log` changes in the file.
        #[arg(long = "for", value_name = "TIME", requires = "level")]
        time: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Have the running program read its configuration again, whole or not at all.
    Reload(Remote),
    /// Give a server of the running program no new requests; those in flight go on.
    Drain {
        /// The server, as `POOL/SERVER`.
        server: String,
        /// For so long, such as 10m. Default: until `undrain`.
        #[arg(long = "for", value_name = "TIME")]
        time: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give a drained server requests again.
    Undrain {
        /// The server, as `POOL/SERVER`.
        server: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// What the running program keeps of its servers' answers.
    #[command(subcommand)]
    Cache(Cache),
    /// Show pools and servers of the running program; exit 3 if it does not run.
    Status {
        /// How it is printed.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        format: Output,
        #[command(flatten)]
        remote: Remote,
    },
    /// Watch pools and servers of the running program on a terminal.
    Top(command::top::Options),
    /// Ask the running proxy whether it is ready; exit 1 if not. For images without a shell.
    Healthcheck(HealthCheck),
    /// Print completions for a shell.
    Completions(command::completions::Options),
    /// Print the manual, of the program or of one command.
    Man(command::man::Options),
    /// Serve as a stand-in for a voice or LLM server; for tests and benchmarks.
    #[command(hide = true)]
    Standin(StandIn),
}

/// What `run` takes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Run {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen here instead of where the file says.
    #[arg(long, value_name = "IP:PORT", env = "TRUNKLINE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// Admin endpoints here instead of where the file says.
    #[arg(long, value_name = "IP:PORT", env = "TRUNKLINE_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// What of the program's own messages is shown.
    #[arg(long, value_name = "LEVEL", env = "TRUNKLINE_LOG")]
    pub(crate) log: Option<LogLevel>,
    /// Write the process id here, and remove it at the end.
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_PID_FILE")]
    pub(crate) pid_file: Option<PathBuf>,
}

/// What `start` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) run: Run,
    /// Append messages, and the access log if it goes to stdout, here. Default: a file in
    /// $XDG_STATE_HOME/trunkline, for root in /var/log/trunkline.
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

/// What `stop` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stop {
    /// Where `start` wrote the process id.
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_PID_FILE")]
    pub(crate) pid_file: Option<PathBuf>,
}

/// A level, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
            LogLevel::Trace => Level::Trace,
        }
    }
}

/// What `check-config` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckConfig {
    /// Files to check. Default: the one that `run` would take.
    pub(crate) files: Vec<PathBuf>,
    /// The file to check, as for `run`.
    #[arg(short, long, value_name = "FILE", conflicts_with = "files")]
    pub(crate) config: Option<PathBuf>,
    /// How problems are printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) format: Output,
    /// Take warnings for errors.
    #[arg(short = 'W', long)]
    pub(crate) deny_warnings: bool,
    /// Print nothing when all is well.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// What `route` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Route {
    /// HTTP method, such as POST.
    pub(crate) method: String,
    /// Path, such as /v1/audio/speech.
    pub(crate) path: String,
    /// The `model` of the body.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The `voice` of the body.
    #[arg(long)]
    pub(crate) voice: Option<String>,
    /// A header, as `name: value`; may come several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Size of the body, such as 30MiB.
    #[arg(long, value_name = "SIZE")]
    pub(crate) body_size: Option<String>,
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What `healthcheck` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct HealthCheck {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Ask only whether it runs, not whether it has a server to ask.
    #[arg(long)]
    pub(crate) live: bool,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub(crate) timeout: u64,
}

/// What `key` does.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key, shown once, and its hash for the file.
    New {
        /// The name of the client, for logs and metrics.
        #[arg(default_value = "client")]
        name: String,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        format: Output,
    },
    /// Print the hash of the key on standard input.
    Hash,
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Print the configuration in effect, defaults filled in, secrets redacted.
    Show {
        /// Configuration file.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the JSON Schema of the file.
    Schema,
    /// Print the reference of the file, as Markdown; for docs/configuration.md.
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Subcommand)]
enum Cache {
    /// Forget all answers that are kept.
    Clear(Remote),
}

/// How a running program is found.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Remote {
    /// Its configuration file, which says where its admin listener is.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address of its admin listener.
    #[arg(long, value_name = "IP:PORT", env = "TRUNKLINE_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// A client certificate to show, PEM; for admin listeners with `tls.client_ca`.
    #[arg(
        long,
        value_name = "FILE",
        env = "TRUNKLINE_ADMIN_CERT",
        requires = "key"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// The key of the client certificate.
    #[arg(
        long,
        value_name = "FILE",
        env = "TRUNKLINE_ADMIN_KEY",
        requires = "cert"
    )]
    pub(crate) key: Option<PathBuf>,
}

/// What `standin` takes. Times in milliseconds.
#[derive(Clone, Debug, Args)]
pub(crate) struct StandIn {
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    #[arg(long, default_value = "stand-in")]
    pub(crate) name: String,
    /// Wait before the first byte.
    #[arg(long, default_value_t = 0)]
    pub(crate) delay: u64,
    /// Wait between the pieces of a stream.
    #[arg(long, default_value_t = 0)]
    pub(crate) gap: u64,
    /// Answer everything but /health with this status.
    #[arg(long)]
    pub(crate) status: Option<u16>,
    /// Pieces of a streamed chat.
    #[arg(long)]
    pub(crate) chunks: Option<usize>,
    /// Break the connection after so many bytes of a body.
    #[arg(long)]
    pub(crate) cut: Option<usize>,
    /// Stop after so many seconds.
    #[arg(long, default_value_t = 3600)]
    pub(crate) for_seconds: u64,
}

/// The whole command line, for completions and the manual.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Runs what was typed; says with which code to exit.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = match cli.command {
        None => command::serve::run(&cli.run),
        Some(Command::Run(run)) => command::serve::run(&run),
        Some(Command::CheckConfig(check)) => command::check_config::run(&check),
        Some(Command::Route(route)) => command::route::run(&route),
        Some(Command::Config(Config::Show { config })) => command::config::show(config.as_deref()),
        Some(Command::Config(Config::Schema)) => command::config::schema(),
        Some(Command::Key(key)) => command::key::run(&key),
        Some(Command::Start(start)) => command::background::start(&start),
        Some(Command::Stop(stop)) => command::background::stop(&stop),
        Some(Command::Upgrade(remote)) => command::remote::upgrade(&remote),
        Some(Command::LogLevel {
            level,
            time,
            remote,
        }) => command::remote::log_level(&remote, level.map(Into::into), time.as_deref()),
        Some(Command::Reload(remote)) => command::remote::reload(&remote),
        Some(Command::Drain {
            server,
            time,
            remote,
        }) => command::remote::drain(&remote, &server, time.as_deref()),
        Some(Command::Undrain { server, remote }) => command::remote::undrain(&remote, &server),
        Some(Command::Cache(Cache::Clear(remote))) => command::remote::clear_cache(&remote),
        Some(Command::Status { format, remote }) => command::remote::status(&remote, format),
        Some(Command::Config(Config::Reference)) => command::reference::run(),
        Some(Command::Healthcheck(check)) => command::healthcheck::run(&check),
        Some(Command::CheckEndpoints(options)) => command::check_endpoints::run(&options),
        Some(Command::Top(options)) => command::top::run(&options),
        Some(Command::Import(options)) => command::import::run(&options),
        Some(Command::Completions(options)) => command::completions::run(&options),
        Some(Command::Man(options)) => command::man::run(&options),
        Some(Command::Discover(options)) => command::discover::run(&options),
        Some(Command::Standin(stand_in)) => command::standin::run(&stand_in),
    };
    let _ = std::io::stdout().flush();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        // `build` goes through the subcommands too
        Cli::command().build();
        Cli::command().debug_assert();
    }
}
