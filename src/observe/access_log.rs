//! The access log: one line a request, through a bounded queue to a writer of its own.
//!
//! A request never waits for a disk or a pipe: what does not fit into the queue is dropped and
//! counted, so that nothing is lost silently.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::Serialize;

use super::record::{Cached, Record};
use crate::config::{AccessLog as Target, Format};
use crate::unit::{TraceContext, printable};

/// Lines that may wait. At 600 bytes a line this is 40 MB in the worst case, about a second of
/// traffic beyond what one machine serves.
const QUEUE: usize = 65_536;

/// The handle requests write to.
pub(crate) struct AccessLog {
    sender: SyncSender<Message>,
    /// Nothing is written.
    off: AtomicBool,
    /// Lines are text, else JSON.
    text: AtomicBool,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the writer is told, in order.
enum Message {
    Line(String),
    /// What comes behind this goes here.
    Output(Box<dyn Write + Send>),
    End,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub(crate) fn open(target: &Target, format: Format) -> io::Result<Self> {
        let log = Self::with(output(target)?);
        log.set(target, format);
        Ok(log)
    }

    /// Writes to another place, or opens the same file anew: the one before may have been moved
    /// away. Lines that are queued go where they were to go.
    ///
    /// # Errors
    /// If the file cannot be opened, or the queue is full; then the log stays as it was.
    pub(crate) fn reopen(&self, target: &Target, format: Format) -> io::Result<()> {
        let output = output(target)?;
        if self.sender.try_send(Message::Output(output)).is_err() {
            return Err(io::Error::other("what it writes to now takes nothing"));
        }
        self.set(target, format);
        Ok(())
    }

    fn set(&self, target: &Target, format: Format) {
        self.off.store(*target == Target::Off, Relaxed);
        self.text.store(format == Format::Text, Relaxed);
    }

    fn with(output: Box<dyn Write + Send>) -> Self {
        let dropped = Arc::new(AtomicU64::new(0));
        let (sender, messages) = sync_channel(QUEUE);
        let lost = dropped.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&messages, output, &lost))
            .expect("a thread can be started at start-up");
        AccessLog {
            sender,
            off: AtomicBool::new(false),
            text: AtomicBool::new(false),
            dropped,
            writer: Mutex::new(Some(writer)),
        }
    }

    /// Queues the line for a request.
    pub(crate) fn write(&self, record: &Record) {
        if self.off.load(Relaxed) {
            return;
        }
        let line = match self.text.load(Relaxed) {
            false => json_line(record),
            true => text_line(record),
        };
        let sent = self.sender.try_send(Message::Line(line));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sent {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines dropped since the start: the queue was full, or the output refused them.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Writes what is queued; nothing is lost at the end of the program. Waits at most two
    /// seconds for an output that does not take it.
    pub(crate) fn flush(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while let Err(TrySendError::Full(_)) = self.sender.try_send(Message::End) {
            if std::time::Instant::now() > deadline {
                return;
            }
            std::thread::yield_now();
        }
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        while writer.as_ref().is_some_and(|writer| !writer.is_finished())
            && std::time::Instant::now() < deadline
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

fn output(target: &Target) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        Target::Off => Box::new(io::sink()),
        Target::Stdout => Box::new(io::stdout()),
        Target::Stderr => Box::new(io::stderr()),
        Target::File(path) => Box::new(
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?,
        ),
    })
}

/// Lines that are written at once.
const BATCH: usize = 512;

fn write_lines(
    messages: &Receiver<Message>,
    mut output: Box<dyn Write + Send>,
    dropped: &AtomicU64,
) {
    let mut batch = String::new();
    while let Ok(first) = messages.recv() {
        batch.clear();
        let mut count = 0;
        let mut then = None;
        for message in std::iter::once(first)
            .chain(messages.try_iter())
            .take(BATCH)
        {
            match message {
                Message::Line(line) => batch.push_str(&line),
                other => {
                    then = Some(other);
                    break;
                }
            }
            count += 1;
        }
        let written = output.write_all(batch.as_bytes());
        if written.and_then(|()| output.flush()).is_err() {
            dropped.fetch_add(count, Relaxed);
        }
        match then {
            Some(Message::Output(other)) => output = other,
            Some(_) => return,
            None => {}
        }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    ts: String,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    client: Option<String>,
    listener: &'a str,
    method: &'a str,
    path: &'a str,
    protocol: &'a str,
    tls: Option<&'a str>,
    status: u16,
    termination: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    route: Option<&'a str>,
    pool: Option<&'a str>,
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    attempts: Vec<String>,
    operation: Option<&'a str>,
    model: Option<&'a str>,
    voice: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    voice_served: Option<&'a str>,
    stream: bool,
    bytes_in: u64,
    bytes_out: u64,
    dur_ms: Milliseconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    characters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_s: Option<f64>,
    user_agent: Option<&'a str>,
}

#[derive(Serialize)]
struct Milliseconds {
    total: f64,
    body: f64,
    queue: f64,
    connect: f64,
    first_byte: Option<f64>,
    overhead: f64,
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn json_line(record: &Record) -> String {
    let line = JsonLine {
        ts: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        request_id: &record.request_id,
        trace_id: record.trace.map(TraceContext::trace_id),
        span_id: record.trace.map(TraceContext::span_id),
        client: record.client.map(|ip| ip.to_canonical().to_string()),
        listener: &record.listener,
        method: &record.method,
        path: &record.path,
        protocol: record.protocol,
        tls: record.tls,
        status: record.status,
        termination: record.termination.label(),
        key: record.key.as_deref(),
        route: record.route.as_deref(),
        pool: record.server.as_ref().map(|(pool, _)| pool.as_str()),
        server: record.server.as_ref().map(|(_, server)| server.as_str()),
        local: record.local,
        cache: record.cache.map(Cached::label),
        memory: record.memory,
        attempts: record.attempts.iter().map(ToString::to_string).collect(),
        operation: record.operation,
        model: record.model.as_deref(),
        voice: record.voice.as_deref(),
        voice_served: record.voice_served.as_deref(),
        stream: record.stream,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        dur_ms: Milliseconds {
            total: milliseconds(record.times.total),
            body: milliseconds(record.times.body),
            queue: milliseconds(record.times.queue),
            connect: milliseconds(record.times.connect),
            first_byte: record.times.first_byte.map(milliseconds),
            overhead: milliseconds(record.times.overhead),
        },
        tokens_in: record.usage.input,
        tokens_out: record.usage.output,
        characters: record.characters,
        audio_s: record.audio.map(|audio| milliseconds(audio) / 1e3),
        user_agent: record.user_agent.as_deref(),
    };
    let mut line = serde_json::to_string(&line).expect("strings and numbers can always be written");
    line.push('\n');
    line
}

fn text_line(record: &Record) -> String {
    let backend = match &record.server {
        Some((pool, server)) => format!("{pool}/{server}"),
        None if record.cache.is_some() && record.local.is_none() => "cache".to_owned(),
        None => "local".to_owned(),
    };
    let mut line = format!(
        "{} {:>3} {} {} -> {} {:.0} ms",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        record.status,
        record.method,
        printable(&record.path),
        backend,
        milliseconds(record.times.total),
    );
    if let Some(model) = &record.model {
        line.push_str(&format!(" model={}", printable(model)));
    }
    if let Some(attempts) = record.attempts_header() {
        line.push_str(&format!(" attempts={attempts}"));
    }
    if record.termination != super::record::Termination::Complete {
        line.push_str(&format!(" {}", record.termination.label()));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::{AttemptNote, Termination};

    fn record() -> Record {
        Record {
            request_id: "id-1".into(),
            method: "POST".into(),
            path: "/v1/audio/speech".into(),
            model: Some("tts\n-1\u{1b}".into()),
            server: Some(("openai".into(), "api".into())),
            status: 200,
            termination: Termination::Complete,
            attempts: vec![
                AttemptNote {
                    pool: "kokoro".into(),
                    server: "gpu-a".into(),
                    result: "timeout".into(),
                    ..AttemptNote::default()
                },
                AttemptNote {
                    pool: "openai".into(),
                    server: "api".into(),
                    result: "200".into(),
                    ..AttemptNote::default()
                },
            ],
            ..Record::default()
        }
    }

    #[test]
    fn a_hostile_name_makes_no_second_line() {
        for line in [json_line(&record()), text_line(&record())] {
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.contains('\u{1b}'));
        }
    }

    #[test]
    fn a_line_tells_the_way_of_the_request() {
        let line: serde_json::Value = serde_json::from_str(&json_line(&record())).unwrap();
        assert_eq!(line["attempts"][0], "kokoro/gpu-a=timeout");
        assert_eq!(
            (line["pool"].as_str(), line["status"].as_u64()),
            (Some("openai"), Some(200))
        );
        assert!(text_line(&record()).contains("-> openai/api"));
    }

    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_holds_up_nobody_and_every_lost_line_is_counted() {
        let (release, stuck) = std::sync::mpsc::channel();
        let log = AccessLog::with(Box::new(Stuck(stuck)));
        let total = QUEUE as u64 + 5_000;
        for _ in 0..total {
            log.write(&record());
        }
        let dropped = log.dropped();
        assert!(
            (total - QUEUE as u64 - 1024..=total - QUEUE as u64).contains(&dropped),
            "{dropped}"
        );
        drop(release);
        log.flush();
    }

    #[test]
    fn flushing_writes_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&Target::File(path.clone()), Format::Json).unwrap();
        for _ in 0..1000 {
            log.write(&record());
        }
        log.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1000);
        assert_eq!(log.dropped(), 0);
    }
}
