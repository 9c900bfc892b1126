//! `trunkline check-endpoints`: chat, speech and transcription through a running proxy, as a tool
//! would ask for them. What was spoken is then transcribed, so that the round trip is heard.

mod audio;
mod choose;
mod report;
mod target;
mod tries;

use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};

use crate::cli::{FAILED, OK, Output};
use crate::unit::Span;
use tries::Tries;

const HELP: &str = "\
Models are chosen by what the proxy lists and what the boxes of the configuration
have; name others with the options. No key is needed; $OPENAI_API_KEY is sent if
it is set.

Examples:
  trunkline check-endpoints
  trunkline check-endpoints --url http://edge:2020 --only speech,transcription
  trunkline check-endpoints -H 'x-data-zone: home' --voice af_sky -v

Exit codes: 0 all answered, 1 one did not, 2 usage.";

/// What `check-endpoints` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Address of the proxy. Default: the first listener of the configuration, else
    /// http://127.0.0.1:2020.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Configuration file that names the listener.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Try only these.
    #[arg(long, value_name = "ENDPOINT", value_enum, value_delimiter = ',')]
    only: Vec<Endpoint>,
    /// A header to send, as `name: value`; may come several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Model for chat.
    #[arg(long, value_name = "MODEL")]
    chat_model: Option<String>,
    /// Model for speech.
    #[arg(long, value_name = "MODEL")]
    speech_model: Option<String>,
    /// Voice for speech.
    #[arg(long, value_name = "VOICE")]
    voice: Option<String>,
    /// Model for transcription.
    #[arg(long, value_name = "MODEL")]
    transcription_model: Option<String>,
    /// How long each answer may take; a cold model needs its time.
    #[arg(long, value_name = "TIME", default_value = "2m")]
    timeout: Span,
    /// Believe these authorities instead of the system's, for https.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Believe any certificate, for https.
    #[arg(long, conflicts_with = "ca_file")]
    insecure: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    format: Output,
    /// Show the headers of requests and answers.
    #[arg(short, long)]
    verbose: bool,
    // takes the place of the program's own, whose `-v` means the version
    /// Print the version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What is tried, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Endpoint {
    Chat,
    Speech,
    Transcription,
}

impl Endpoint {
    const ALL: [Endpoint; 3] = [Endpoint::Chat, Endpoint::Speech, Endpoint::Transcription];

    fn word(self) -> &'static str {
        match self {
            Endpoint::Chat => "chat",
            Endpoint::Speech => "speech",
            Endpoint::Transcription => "transcription",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Speech => "/v1/audio/speech",
            Endpoint::Transcription => "/v1/audio/transcriptions",
        }
    }
}

/// How a try went.
struct Outcome {
    endpoint: Endpoint,
    model: String,
    voice: Option<String>,
    answer: Option<Told>,
    /// What was said, spoken or heard; or why that is nothing.
    result: Result<String, Failure>,
    /// What was sent, without secrets.
    sent: Vec<(String, String)>,
}

/// What an answer's head says.
struct Told {
    status: u16,
    backend: Option<String>,
    attempts: Option<String>,
    request_id: Option<String>,
    first_byte: std::time::Duration,
    took: std::time::Duration,
    headers: Vec<(String, String)>,
}

/// What went wrong, and perhaps the way out.
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            hint: None,
        }
    }
}

/// Tries; says with which code to exit.
pub(crate) fn run(options: &Options) -> u8 {
    let target = match target::find(options) {
        Ok(target) => target,
        Err(message) => {
            eprintln!("trunkline: {message}");
            return 2;
        }
    };
    let asked = |endpoint: &Endpoint| options.only.is_empty() || options.only.contains(endpoint);
    let endpoints: Vec<Endpoint> = Endpoint::ALL.into_iter().filter(asked).collect();
    if options.format == Output::Text {
        eprintln!("asking {}", target.client.origin());
    }
    let outcomes = match Tries::begin(options, &target) {
        Ok(tries) => tries.run(&endpoints),
        Err(message) => {
            match options.format {
                Output::Text => eprintln!("trunkline: {message}"),
                Output::Json => println!("{}", report::unreachable(&target.client, &message)),
            }
            return FAILED;
        }
    };
    match options.format {
        Output::Json => println!(
            "{}",
            report::json(&target.client, &outcomes, options.verbose)
        ),
        Output::Text => print!("{}", report::text(&outcomes, options.verbose)),
    }
    match outcomes.iter().all(|outcome| outcome.result.is_ok()) {
        true => OK,
        false => FAILED,
    }
}
