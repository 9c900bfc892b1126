//! Reload: the configuration read again while the program runs, whole or not at all.
//!
//! Asked for by SIGHUP, by `POST /reload` on the admin listener, or by another content of the file
//! or of a file that it names. Files are polled and compared by content: a folder that is mounted
//! into a container gives no sign when a file in it is replaced.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::serve::{Running, apply};
use crate::cli::Run;
use crate::command::source::{self, Source};
use crate::proxy::tls::{self, Tls};
use crate::service::admin::Order;

/// How often files are looked at. A change is taken up when it was seen twice: a file that is being
/// written is never read half.
const LOOK: Duration = Duration::from_secs(1);

/// What reloads and stops a running program.
pub(super) struct Conductor<'a> {
    pub(super) running: &'a Running,
    pub(super) options: &'a Run,
    pub(super) certificates: &'a [Arc<Tls>],
    pub(super) orders: mpsc::Receiver<Order>,
    /// The configuration file, if there was one at the start.
    pub(super) file: Option<PathBuf>,
}

/// Who wants a reload.
enum Asked {
    Signal,
    File,
    Admin(Order),
}

impl Asked {
    fn label(&self) -> &'static str {
        match self {
            Asked::Signal => "a signal",
            Asked::File => "a changed file",
            Asked::Admin(_) => "the admin listener",
        }
    }
}

impl Conductor<'_> {
    /// Reloads whenever it is asked for, until a signal ends the program.
    pub(super) async fn until_told_to_stop(mut self) {
        let listen = |kind| signal(kind).expect("signals can be listened to at start-up");
        let (mut term, mut int, mut hup) = (
            listen(SignalKind::terminate()),
            listen(SignalKind::interrupt()),
            listen(SignalKind::hangup()),
        );
        let mut files = Files::new(self.files());
        loop {
            let by = tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                _ = hup.recv() => Asked::Signal,
                Some(order) = self.orders.recv() => Asked::Admin(order),
                () = tokio::time::sleep(LOOK) => match files.changed() {
                    true => Asked::File,
                    false => continue,
                },
            };
            // taken before the files are read: what is written meanwhile is another change
            let before = Files::new(self.files());
            self.running.notify.reloading();
            let done = self.reload(by.label()).await;
            if !matches!(by, Asked::File) {
                tls::refresh(self.certificates, true).await;
            }
            self.running.notify.ready();
            if let Asked::Admin(order) = by {
                let _ = order.send(done);
            }
            let now = self.files();
            files = match now == before.paths {
                true => before,
                false => Files::new(now),
            };
        }
    }

    /// The files that the configuration in service was read from.
    /// The main one stays in the list when it is gone: it may come back.
    fn files(&self) -> Vec<PathBuf> {
        let snapshot = self.running.edge.snapshot();
        let named = &snapshot.gateway.config.files;
        self.file.iter().chain(named).cloned().collect()
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// What is wrong with it, as it is printed too. The configuration before stays in service.
    async fn reload(&self, by: &str) -> Result<String, String> {
        let read = match source::find(self.options.config.as_deref()) {
            Ok(Some(source)) => read(&source),
            Ok(None) => Err("there is no file to read again".to_owned()),
            Err(message) => Err(message),
        };
        let mut config = match read {
            Ok(config) => config,
            Err(why) => {
                self.running.edge.metrics.not_configured();
                log::error!(
                    "the configuration was not read again (asked for by {by}): the one before stays in service"
                );
                return Err(why);
            }
        };
        apply(self.options, &mut config);
        let mut told = "the configuration was read again and is in service".to_owned();
        if !config.same_process(&self.running.edge.snapshot().gateway.config) {
            let restart =
                "listeners, admin, limits, log, shutdown and tracing change only with a restart";
            log::warn!("{restart}");
            told.push_str(&format!("; {restart}"));
        }
        self.running.put_into_service(config).await;
        self.running.from_file.store(true, Relaxed);
        log::info!("the configuration was read again and is in service (asked for by {by})");
        Ok(told)
    }
}

fn read(source: &Source) -> Result<crate::config::Config, String> {
    let (config, problems) = source.load();
    source.explain(&problems, "the configuration before stays in service");
    config.ok_or_else(|| source.plain(&problems))
}

/// Files, and what they held when a configuration was read from them.
struct Files {
    paths: Vec<PathBuf>,
    settled: u64,
    doubtful: Option<u64>,
}

impl Files {
    fn new(paths: Vec<PathBuf>) -> Self {
        Files {
            settled: fingerprint(&paths),
            doubtful: None,
            paths,
        }
    }

    /// Whether they hold something else, and the same as at the last look.
    fn changed(&mut self) -> bool {
        let now = fingerprint(&self.paths);
        let changed = now != self.settled;
        let twice = changed && self.doubtful == Some(now);
        self.doubtful = changed.then_some(now);
        twice
    }
}

/// Of what the files hold; one that cannot be read is a content of its own.
fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        std::fs::read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_when_it_was_seen_twice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "one").unwrap();
        let mut files = Files::new(vec![file.clone()]);
        assert!(!files.changed() && !files.changed());
        std::fs::write(&file, "tw").unwrap();
        assert!(!files.changed());
        std::fs::write(&file, "two").unwrap();
        assert!(!files.changed(), "still being written");
        assert!(files.changed());
        std::fs::write(&file, "one").unwrap();
        assert!(!files.changed() && !files.changed(), "as it was");
        std::fs::remove_file(&file).unwrap();
        assert!(!files.changed() && files.changed());
    }
}
