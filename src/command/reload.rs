//! Reload: the configuration read again while the program runs, whole or not at all.
//!
//! Asked for by SIGHUP, by `POST /reload` on the admin listener, or by another content of the file
//! or of a file that it names. Files are polled and compared by content: a folder that is mounted
//! into a container gives no sign when a file in it is replaced.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use super::listeners::lock;
use super::serve::{Running, access_format, apply, set_logger};
use super::upgrade::Inherited;
use crate::cli::Run;
use crate::command::source::{self, Source};
use crate::config::Config;
use crate::proxy::tls;

/// What is needed to read the configuration again.
pub(super) struct Reload<'a> {
    pub(super) running: &'a Running,
    pub(super) options: &'a Run,
    /// The configuration file, if there was one at the start.
    pub(super) file: Option<PathBuf>,
}

impl Reload<'_> {
    /// The files that the configuration in service was read from.
    /// The main one stays in the list when it is gone: it may come back.
    fn files(&self) -> Vec<PathBuf> {
        let snapshot = self.running.edge.snapshot();
        let named = &snapshot.gateway.config.files;
        self.file.iter().chain(named).cloned().collect()
    }

    /// The files as they are now.
    pub(super) fn look(&self) -> Files {
        Files::new(self.files())
    }

    /// The files as they were at `before`, or as they are now if they are others by now.
    pub(super) fn look_since(&self, before: Files) -> Files {
        let now = self.files();
        match now == before.paths {
            true => before,
            false => Files::new(now),
        }
    }

    /// Reads the file again. `by`: who asked for it. `certificates`: those are read again too, and
    /// what is wrong with them is told at once.
    ///
    /// # Errors
    /// What is wrong with it, as it is printed too. The configuration before stays in service.
    pub(super) async fn run(&self, by: &str, certificates: bool) -> Result<String, String> {
        self.running.notify.reloading();
        let done = self.read_and_serve().await;
        match &done {
            Ok(()) => {
                log::info!(
                    "the configuration was read again and is in service (asked for by {by})"
                );
            }
            Err(_) => {
                self.running.edge.metrics.not_configured();
                log::error!(
                    "the configuration was not read again (asked for by {by}): the one before stays in service"
                );
            }
        }
        if certificates {
            let all = lock(&self.running.listeners).certificates();
            tls::refresh(&all, true).await;
        }
        self.running.notify.ready();
        done.map(|()| "the configuration was read again and is in service".to_owned())
    }

    async fn read_and_serve(&self) -> Result<(), String> {
        let mut config = match source::find(self.options.config.as_deref())? {
            Some(source) => read(&source)?,
            None => return Err("there is no file to read again".to_owned()),
        };
        apply(self.options, &mut config).inspect_err(|why| log::error!("{why}"))?;
        self.serve(config)
            .await
            .inspect_err(|why| log::error!("{why}"))?;
        self.running.from_file.store(true, Relaxed);
        Ok(())
    }

    /// What can be refused comes first.
    async fn serve(&self, config: Config) -> Result<(), String> {
        let running = self.running;
        let before = running.edge.snapshot();
        let prepared = {
            let listeners = lock(&running.listeners);
            listeners.prepare(&config, &mut Inherited::default(), &running.edge.metrics)?
        };
        running.keep_budgets(config.budget_file.clone())?;
        let (log, log_before) = (&config.log, &before.gateway.config.log);
        if log != log_before {
            let opened = running
                .edge
                .access_log
                .reopen(&log.access, access_format(log));
            opened.map_err(|error| format!("the access log cannot be opened: {error}"))?;
            set_logger(log, self.options);
        }
        if config.tracing != before.gateway.config.tracing {
            log::warn!("`tracing` changes only with `trunkline upgrade` or a restart");
        }
        let limits = config.limits;
        running.put_into_service(config).await;
        running.set_limits(limits);
        running.serve_listeners(prepared)
    }

    /// Opens the access log anew, where it is now.
    ///
    /// # Errors
    /// If it cannot be opened; then lines go where they went.
    pub(super) fn reopen_logs(&self) -> Result<String, String> {
        let edge = &self.running.edge;
        let snapshot = edge.snapshot();
        let log = &snapshot.gateway.config.log;
        let opened = edge.access_log.reopen(&log.access, access_format(log));
        match opened {
            Ok(()) => log::info!("the access log was opened anew"),
            Err(error) => {
                let why = format!("the access log cannot be opened: {error}; it goes on as it was");
                log::error!("{why}");
                return Err(why);
            }
        }
        Ok("the access log was opened anew".to_owned())
    }
}

fn read(source: &Source) -> Result<Config, String> {
    let (config, problems) = source.load();
    source.explain(&problems, "the configuration before stays in service");
    config.ok_or_else(|| source.plain(&problems))
}

/// Files, and what they held when a configuration was read from them.
pub(super) struct Files {
    paths: Vec<PathBuf>,
    settled: u64,
    doubtful: Option<u64>,
}

impl Files {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Files {
            settled: fingerprint(&paths),
            doubtful: None,
            paths,
        }
    }

    /// Whether they hold something else, and the same as at the last look.
    pub(super) fn changed(&mut self) -> bool {
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
        std::fs::read(path as &Path).ok().hash(&mut hasher);
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
