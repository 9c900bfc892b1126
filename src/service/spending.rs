//! Keeps what keys have spent in a file, over restarts and upgrades.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::limit::{Ledger, Spent};

/// How often it is written. What a crash may lose is this much.
const INTERVAL: Duration = Duration::from_secs(2);

/// A ledger and its file.
pub(crate) struct Spending {
    ledger: Arc<Ledger>,
    pub(crate) file: PathBuf,
}

impl Spending {
    /// Reads what was spent before.
    ///
    /// # Errors
    /// If the file can be neither read nor made, or holds something else: budgets that forget would
    /// be none.
    pub(crate) fn open(ledger: Arc<Ledger>, file: PathBuf) -> Result<Self, String> {
        let spending = Spending { ledger, file };
        let opened = spending.write();
        opened.map_err(|error| {
            let file = spending.file.display();
            format!("budgets are kept in {file}, which cannot be used: {error}")
        })?;
        Ok(spending)
    }

    /// Writes it again and again, on a thread that may wait for a disk.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let spending = self.clone();
            let written = tokio::task::spawn_blocking(move || spending.write()).await;
            let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
            match written {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    let file = self.file.display();
                    log::error!("what keys have spent cannot be written to {file}: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Adds what was spent since the last time to the file.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut file = open(&self.file)?;
        // another program may write to it: the one before an upgrade, or the one after
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let before: Spent = match text.trim().is_empty() {
            true => Spent::new(),
            false => serde_json::from_str(&text).map_err(io::Error::other)?,
        };
        let Some(spent) = self.ledger.bring_forward(before.clone()) else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&spent).map_err(io::Error::other)?;
        let written = replace(&mut file, text.as_bytes());
        if written.is_err() {
            self.ledger.not_written(&before);
        }
        written
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}

/// In place, as the lock is on this file: the text only grows or stays, but for a month that goes.
fn replace(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)?;
    file.sync_data()
}
