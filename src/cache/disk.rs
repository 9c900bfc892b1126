//! Answers on disk: one file each, named after its key. They outlive the program.
//!
//! A thread of its own writes and deletes; requests hand it what to keep and go on, and what it
//! cannot take at once is not kept. So a slow, full or broken disk costs answers, never a request.
//! A file is written under another name and renamed, and holds its own length and checksum: what
//! was cut or changed is no answer, and is removed when it is met. Who reads does it with
//! [`Disk::read`], off the threads that serve.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;

use super::format::{FIXED, LONGEST_HEADERS, broken, decode, head};
use super::key::Key;
use super::{Stored, Tier};
use crate::config;

/// What the thread may be behind, in orders.
const QUEUE: usize = 256;
/// What a file takes besides its bytes.
const OVERHEAD: u64 = 4096;
/// A folder of answers.
pub(super) struct Disk {
    folder: PathBuf,
    orders: SyncSender<Order>,
}

enum Order {
    Keep(Key, Arc<Stored>),
    /// Somebody asked for it.
    Touch(Key),
    Remove(Key),
    /// Says how many there were.
    Clear(SyncSender<usize>),
}

impl Disk {
    /// The folder is made if need be, and looked through aside.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn open(settings: &config::Disk, tier: Tier) -> io::Result<Self> {
        fs::create_dir_all(&settings.path)?;
        let (orders, queue) = sync_channel(QUEUE);
        let mut keeper = Keeper {
            folder: settings.path.clone(),
            limit: settings.size,
            files: LruCache::unbounded(),
            bytes: 0,
            told: 0,
            tier,
            complains: true,
        };
        std::thread::Builder::new()
            .name("cache-disk".into())
            .spawn(move || keeper.run(&queue))?;
        Ok(Disk {
            folder: settings.path.clone(),
            orders,
        })
    }

    /// Has an answer written, unless the disk is behind.
    pub(super) fn keep(&self, key: Key, stored: Arc<Stored>) {
        let _ = self.orders.try_send(Order::Keep(key, stored));
    }

    /// Reads an answer that is younger than `ttl` and at most so large. Takes the time that disks
    /// take.
    pub(super) fn read(&self, key: Key, ttl: Duration, max_object: u64) -> Option<Stored> {
        let read = read(&file(&self.folder, key), max_object);
        let order = match &read {
            Ok(stored) if stored.age() < ttl => Order::Touch(key),
            // for this client; another one takes its place, if there is one
            Ok(_) => return None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("a kept answer cannot be read and is forgotten: {error}");
                Order::Remove(key)
            }
        };
        let _ = self.orders.try_send(order);
        read.ok().filter(|stored| stored.age() < ttl)
    }

    /// Forgets all; says how many they were.
    pub(super) fn clear(&self) -> usize {
        let (done, answer) = sync_channel(1);
        let _ = self.orders.send(Order::Clear(done));
        answer.recv().unwrap_or(0)
    }
}

/// In folders of their own by the first byte, so that none holds too many.
fn file(folder: &Path, key: Key) -> PathBuf {
    let name: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(&name[..2]).join(name)
}

/// The key that a file is named after.
fn key_of(path: &Path) -> Option<Key> {
    let name = path.file_name()?.to_str()?;
    let mut key = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (n, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(Key(key))
}

fn read(path: &Path, max_object: u64) -> io::Result<Stored> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > max_object + LONGEST_HEADERS + FIXED as u64 {
        return Err(broken("it is larger than any answer"));
    }
    let mut all = Vec::with_capacity(length as usize);
    file.read_to_end(&mut all)?;
    decode(all.into(), max_object)
}

/// The thread that writes and deletes, and knows what there is.
struct Keeper {
    folder: PathBuf,
    limit: u64,
    /// With the bytes each takes.
    files: LruCache<Key, u64>,
    bytes: u64,
    told: u64,
    tier: Tier,
    /// The next failure is told: one line and not one for each answer.
    complains: bool,
}

impl Keeper {
    fn run(&mut self, orders: &Receiver<Order>) {
        self.look_through();
        self.shrink();
        self.tier.tell(&mut self.told, self.bytes);
        while let Ok(order) = orders.recv() {
            match order {
                Order::Keep(key, stored) => self.keep(key, &stored),
                Order::Touch(key) => self.touch(key),
                Order::Remove(key) => self.remove(key),
                Order::Clear(done) => {
                    let all: Vec<Key> = self.files.iter().map(|(key, _)| *key).collect();
                    all.iter().for_each(|key| self.remove(*key));
                    let _ = done.send(all.len());
                }
            }
            self.tier.tell(&mut self.told, self.bytes);
        }
        // what is there stays there, for whoever comes next
        self.tier.tell(&mut self.told, 0);
    }

    /// Finds what is there from before, and removes what was left half written.
    fn look_through(&mut self) {
        let mut found = Vec::new();
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for folder in folders.filter(|folder| is_ours(&folder.path())) {
            let files = fs::read_dir(folder.path()).into_iter().flatten().flatten();
            for entry in files {
                let Ok(about) = entry.metadata() else {
                    continue;
                };
                match key_of(&entry.path()) {
                    Some(key) if about.is_file() => {
                        let asked = about.modified().unwrap_or(UNIX_EPOCH);
                        found.push((asked, key, about.len() + OVERHEAD));
                    }
                    _ if entry.path().extension().is_some_and(|e| e == "new") => {
                        let _ = fs::remove_file(entry.path());
                    }
                    _ => {}
                }
            }
        }
        found.sort_by_key(|(asked, ..)| *asked);
        for (_, key, bytes) in found {
            self.bytes += bytes;
            self.files.put(key, bytes);
        }
    }

    fn keep(&mut self, key: Key, stored: &Stored) {
        let head = head(stored);
        let bytes = (head.len() + stored.body.len()) as u64 + OVERHEAD;
        if bytes > self.limit {
            return;
        }
        let path = file(&self.folder, key);
        let written = write(&path, &head, &stored.body);
        match written {
            Ok(()) => self.complains = true,
            Err(error) => {
                if std::mem::take(&mut self.complains) {
                    let folder = self.folder.display();
                    log::warn!("answers cannot be kept in {folder}: {error}");
                }
                return;
            }
        }
        self.bytes += bytes;
        self.bytes -= self.files.put(key, bytes).unwrap_or(0);
        self.shrink();
    }

    fn touch(&mut self, key: Key) {
        if self.files.get(&key).is_none() {
            // another program may have written it
            let length = fs::metadata(file(&self.folder, key)).map(|about| about.len());
            let Ok(length) = length else { return };
            self.bytes += length + OVERHEAD;
            self.files.put(key, length + OVERHEAD);
            self.shrink();
        }
        // so that the order outlives the program
        let opened = fs::File::options()
            .append(true)
            .open(file(&self.folder, key));
        let _ = opened.and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn remove(&mut self, key: Key) {
        self.bytes -= self.files.pop(&key).unwrap_or(0);
        let _ = fs::remove_file(file(&self.folder, key));
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some((key, _)) = self.files.peek_lru()
        {
            let key = *key;
            self.remove(key);
            self.tier.evictions.inc();
        }
    }
}

/// Whether a folder is named like those that keep answers.
fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 2 && u8::from_str_radix(name, 16).is_ok())
}

/// Under another name first: whoever reads finds all of it or nothing.
fn write(path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&new)?;
        file.write_all(head)?;
        file.write_all(body)?;
        drop(file);
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests;
