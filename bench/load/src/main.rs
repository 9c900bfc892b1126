//! Fake servers and load for the benchmark: one program, so that both count time alike.
//!
//!     bench-load serve --answer chat|events|speech|received [--count N | --port N]
//!     bench-load load --to PORT [--rate N] [--connections N] [--seconds N]
//!     bench-load stream --to PORT --streams N [--seconds N | --hold]
//!     bench-load uploads --to PORT --count N --mib N
//!     bench-load handshakes --to PORT [--resume]
//!
//! Each prints one line of JSON. bench/README.md tells more.

#![forbid(unsafe_code)]

mod args;
mod client;
mod clock;
mod handshakes;
mod http;
mod load;
mod report;
mod request;
mod serve;
mod stream;
mod uploads;

use std::io::Write;
use std::process::ExitCode;

use args::Args;
use clock::{MILLISECOND, nanoseconds};
use request::Request;

fn main() -> ExitCode {
    let mut args = Args::new(std::env::args().skip(1));
    let done = match args.command().as_deref() {
        Some("serve") => serve(args),
        Some("load") => load(args),
        Some("stream") => stream::command(args),
        Some("uploads") => uploads::command(args),
        Some("handshakes") => handshakes::command(args),
        _ => Err("serve, load, stream, uploads or handshakes?".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench-load: {why}");
            ExitCode::FAILURE
        }
    }
}

fn print(line: &str) {
    // who reads it may have gone
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn serve(mut args: Args) -> Result<(), String> {
    let answer: String = args.need("answer")?;
    let gap = nanoseconds(args.get("gap", 0.02)?);
    let delay = nanoseconds(args.get("delay", 0.0)?);
    let (chunks, bytes) = (args.get("chunks", 100)?, args.get("bytes", 100 * 1024)?);
    let answer = match answer.as_str() {
        "chat" => serve::Answer::Chat { delay },
        "events" => serve::Answer::Events { count: chunks, gap },
        "speech" => serve::Answer::Speech { delay, bytes },
        "received" => serve::Answer::Received,
        other => return Err(format!("--answer cannot be `{other}`")),
    };
    let (count, port) = (args.get("count", 1)?, args.get("port", 0)?);
    let settings = serve::Settings {
        answer,
        addresses: vec![([127, 0, 0, 1], port).into(); count],
        name: args.find("name")?,
        stall: None,
        lifetime: args.find("for")?.map_or(serve::LIFETIME, nanoseconds),
    };
    args.end()?;
    serve::run(settings, |ports| print(&format!("{{\"ports\":{ports:?}}}")))
        .map_err(|error| error.to_string())
}

fn load(mut args: Args) -> Result<(), String> {
    let request = Request::from_options(&mut args)?;
    let rate: Option<f64> = args.find("rate")?;
    let pace = match rate {
        Some(rate) => load::Pace::Open {
            rate,
            connections: args.get("connections", 1000)?,
        },
        None => load::Pace::Closed {
            connections: args.get("connections", 32)?,
        },
    };
    let slices: Option<u64> = args.find("slice-ms")?;
    let plan = load::Plan {
        target: request::target(&mut args)?,
        pace,
        length: nanoseconds(args.get("seconds", 5.0)?),
        timeout: nanoseconds(args.get("timeout", 10.0)?),
        slice: slices.unwrap_or(1000) * MILLISECOND,
    };
    args.end()?;
    let tally = load::run(&plan, request).map_err(|error| error.to_string())?;
    print(&tally.json(plan.slice, slices.is_some()));
    Ok(())
}
