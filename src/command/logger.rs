//! The program's own messages, on stderr.

use std::io::{IsTerminal, Write};

use log::LevelFilter;

use crate::config::{Format, Level};

/// Starts the logger. Pingora's own messages are about single connections and are shown only when
/// asked for.
pub(crate) fn start(level: Level, format: Format) {
    let filter = match level {
        Level::Error => LevelFilter::Error,
        Level::Warn => LevelFilter::Warn,
        Level::Info => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Trace => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Off)
        .filter_module("trunkline", filter);
    if matches!(level, Level::Debug | Level::Trace) {
        builder.filter_level(filter);
    }
    if format == Format::Json {
        builder.format(|out, record| {
            let line = serde_json::json!({
                "ts": humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
                "level": record.level().as_str().to_ascii_lowercase(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
    } else {
        builder.format(|out, record| {
            let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(
                out,
                "{now} {level:<5} {}",
                crate::unit::printable(&record.args().to_string())
            )
        });
    }
    let _ = builder.try_init();
}

/// The form of lines if the file does not say: text for people, JSON for programs.
pub(crate) fn default_format(stream: &impl IsTerminal) -> Format {
    if stream.is_terminal() {
        Format::Text
    } else {
        Format::Json
    }
}
