//! The program's own messages, on stderr. Level and form can change while it runs.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::{Format, Level};
use crate::unit::printable;

static LOGGER: Logger = Logger {
    json: AtomicBool::new(false),
    level: AtomicUsize::new(LevelFilter::Info as usize),
};

struct Logger {
    json: AtomicBool,
    /// As the configuration or the command line says.
    level: AtomicUsize,
}

/// Starts the logger.
pub(crate) fn start() {
    let _ = log::set_logger(&LOGGER);
}

/// Takes over what a configuration says.
pub(crate) fn set(level: Level, format: Format) {
    LOGGER.json.store(format == Format::Json, Relaxed);
    LOGGER.level.store(filter(level) as usize, Relaxed);
    show(None);
}

/// Shows messages of this level from now on; `None`: of the level that is configured.
pub(crate) fn show(level: Option<Level>) {
    log::set_max_level(level.map_or_else(configured, filter));
}

/// What is to be shown next by who switches between debug and what is configured.
pub(crate) fn debug_or_not() -> Option<Level> {
    let debugs = log::max_level() >= LevelFilter::Debug && configured() < LevelFilter::Debug;
    (!debugs).then_some(Level::Debug)
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::Error,
        Level::Warn => LevelFilter::Warn,
        Level::Info => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Trace => LevelFilter::Trace,
    }
}

fn configured() -> LevelFilter {
    let level = LOGGER.level.load(Relaxed);
    LevelFilter::iter()
        .find(|filter| *filter as usize == level)
        .unwrap_or(LevelFilter::Info)
}

impl Log for Logger {
    /// Pingora's own messages are about single connections and are shown only when asked for. Those
    /// below debug never are: there it writes whole request heads, with the keys in them.
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        let shown = log::max_level();
        let others = shown >= LevelFilter::Debug && about.level() <= LevelFilter::Debug;
        about.level() <= shown && (is_ours(about) || others)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record, self.json.load(Relaxed));
        // in one piece: other programs may write here too. Nobody is left to tell of a failure
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn is_ours(about: &Metadata<'_>) -> bool {
    about.target().starts_with("trunkline")
}

/// What is behind this in messages of Pingora's is a head that it could not read, keys and all.
const HEAD: &str = "buf: ";

fn line(record: &Record<'_>, json: bool) -> String {
    let now = SystemTime::now();
    let level = record.level().as_str().to_ascii_lowercase();
    let mut message = record.args().to_string();
    if let (false, Some(at)) = (is_ours(record.metadata()), message.find(HEAD)) {
        message.truncate(at + HEAD.len());
        message.push_str("[not shown]");
    }
    if json {
        let line = serde_json::json!({
            "ts": humantime::format_rfc3339_millis(now).to_string(),
            "level": level,
            "message": message,
        });
        return format!("{line}\n");
    }
    let now = humantime::format_rfc3339_seconds(now);
    format!("{now} {level:<5} {}\n", printable(&message))
}

/// The form of lines if the file does not say: text for people, JSON for programs.
pub(crate) fn default_format(stream: &impl IsTerminal) -> Format {
    if stream.is_terminal() {
        Format::Text
    } else {
        Format::Json
    }
}
