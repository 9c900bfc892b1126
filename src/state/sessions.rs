//! Conversations that go on at whichever edge is asked.

use std::time::Duration;

use redis::AsyncCommands;

use super::{SCRIPTS, State};

/// A session, and the version of it.
#[derive(Default)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) text: String,
}

impl State {
    fn session_key(&self, key: &[u8; 32]) -> String {
        self.key(format_args!("session:{}", super::hex(key)))
    }

    /// What is known of a session; of version 0 if nothing is. `None` if the server is away.
    pub(crate) async fn session(&self, key: &[u8; 32]) -> Option<Versioned> {
        let connected = self.connected.load_full()?;
        let mut bulk = connected.bulk.clone();
        let found: Result<Option<String>, _> = bulk.get(self.session_key(key)).await;
        let found = found.inspect_err(|error| self.bulk_failed(&connected, "session", error));
        let Some(found) = found.ok()? else {
            return Some(Versioned::default());
        };
        let (version, text) = found.split_once(' ')?;
        Some(Versioned {
            version: version.parse().ok()?,
            text: text.to_owned(),
        })
    }

    /// Replaces a session of this version; says whether it still was. `None` if the server is away.
    pub(crate) async fn replace_session(
        &self,
        key: &[u8; 32],
        version: u64,
        text: &str,
        ttl: Duration,
    ) -> Option<bool> {
        let connected = self.connected.load_full()?;
        let mut bulk = connected.bulk.clone();
        let mut call = SCRIPTS.replace.key(self.session_key(key));
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        call.arg(version)
            .arg(format!("{} {text}", version + 1))
            .arg(milliseconds);
        let replaced = call.invoke_async::<u64>(&mut bulk).await;
        let replaced = replaced.inspect_err(|error| self.bulk_failed(&connected, "session", error));
        replaced.ok().map(|replaced| replaced == 1)
    }
}
