//! Python's own readers, asked for a second opinion: one process for many questions.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

/// Answers one line of JSON for each question; see `tests/tools/readers.py`.
pub(crate) struct Reader(Mutex<State>);

enum State {
    Unasked,
    /// There is no Python here.
    Absent,
    Running(ChildStdin, BufReader<ChildStdout>),
}

impl Reader {
    pub(crate) const fn new() -> Self {
        Reader(Mutex::new(State::Unasked))
    }

    /// What `reader` makes of `data`; `None` if there is no Python.
    pub(crate) fn ask(&self, reader: &str, data: &[u8]) -> Option<Value> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if matches!(*state, State::Unasked) {
            *state = start();
        }
        let State::Running(to, from) = &mut *state else {
            return None;
        };
        let head = format!("{reader} {}\n", data.len());
        let asked = to
            .write_all(head.as_bytes())
            .and_then(|()| to.write_all(data));
        asked.and_then(|()| to.flush()).expect("Python reads");
        let mut line = String::new();
        from.by_ref().read_line(&mut line).expect("Python answers");
        Some(serde_json::from_str(&line).expect("Python answers in JSON"))
    }
}

fn start() -> State {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/readers.py");
    let child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("there is no python3: its opinion is not asked");
        return State::Absent;
    };
    let (to, from) = (child.stdin.take(), child.stdout.take());
    let (to, from) = (to.expect("it is piped"), from.expect("it is piped"));
    State::Running(to, BufReader::new(from))
}
