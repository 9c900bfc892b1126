//! Who waits at a terminal sees for what, once it takes longer than a moment.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shows until it is dropped.
pub(super) struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

pub(super) fn show(what: &'static str) -> Waiting {
    if !std::io::stderr().is_terminal() {
        return Waiting(None);
    }
    let (end, ended) = mpsc::channel();
    let started = Instant::now();
    let thread = std::thread::spawn(move || {
        let mut shown = false;
        while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            eprint!("\r{what}: waiting, {} s ", started.elapsed().as_secs());
            let _ = std::io::stderr().flush();
            shown = true;
        }
        if shown {
            eprint!("\r\x1b[K");
        }
    });
    Waiting(Some((end, thread)))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}
