//! What several edges share through one Redis or Valkey server: limits, budgets, answers that are
//! kept, conversations, ejections.
//!
//! All of it is kept in this process as well, and that is enough to serve: the server is asked in
//! addition. So nothing waits for a server that is away, and the edge goes on alone. Whatever two
//! edges might decide at once is one script on the server, by the server's clock.

mod answers;
mod limits;
mod news;
mod sessions;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus::{IntCounterVec, IntGauge};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use tokio::sync::Notify;

pub(crate) use limits::{Claim, Granted, Refused};
pub(crate) use news::Told;

use crate::config;
use crate::unit;

/// After how long without a word an edge is gone, and what it had in flight with it.
const GONE: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How much longer than `timeout` what is large may take.
const BULK: u32 = 4;
const UNKNOWN: u64 = u64::MAX;

/// The server, and what it is to be told.
pub(crate) struct State {
    pub(crate) settings: config::State,
    /// `None` if the address cannot be used.
    client: Option<Client>,
    connected: ArcSwapOption<Connected>,
    outbox: Mutex<limits::Outbox>,
    /// There is something in the outbox, or the server was lost.
    pub(crate) wake: Notify,
    /// Of the answers that are kept: it grows when all edges are to forget theirs. `UNKNOWN` before
    /// the server told it.
    generation: AtomicU64,
    /// The first loss is told, and not each try.
    lost: Mutex<bool>,
    metrics: StateMetrics,
}

/// A connection, under a name of its own: what an edge had in flight before it lost the server is
/// not its any more.
struct Connected {
    edge: Arc<str>,
    connection: MultiplexedConnection,
    /// For what is large, so that nothing small waits behind it.
    bulk: MultiplexedConnection,
}

/// What is counted of it.
#[derive(Clone)]
pub(crate) struct StateMetrics {
    pub(crate) up: IntGauge,
    pub(crate) edges: IntGauge,
    /// By what was asked.
    pub(crate) failures: IntCounterVec,
}

impl State {
    pub(crate) fn new(settings: config::State, metrics: StateMetrics) -> Arc<Self> {
        let client = Client::open(settings.redis.expose())
            .inspect_err(|error| log::error!("state: {error}"))
            .ok();
        metrics.up.set(0);
        Arc::new(State {
            settings,
            client,
            connected: ArcSwapOption::empty(),
            outbox: Mutex::default(),
            wake: Notify::new(),
            generation: AtomicU64::new(UNKNOWN),
            lost: Mutex::new(false),
            metrics,
        })
    }

    /// Whether the server was there when it was last asked.
    pub(crate) fn is_there(&self) -> bool {
        self.connected.load().is_some()
    }

    /// Its address, for people.
    pub(crate) fn address(&self) -> String {
        let client = self.client.as_ref();
        client.map_or_else(String::new, |client| {
            client.get_connection_info().addr().to_string()
        })
    }

    /// Connects, unless it is. Says whether it did.
    pub(crate) async fn connect(&self) -> bool {
        let Some(client) = self.client.as_ref().filter(|_| !self.is_there()) else {
            return false;
        };
        let with = |timeout| {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT))
                .set_response_timeout(Some(timeout))
        };
        let timeout = self.settings.timeout;
        let (soon, later) = (with(timeout), with(timeout * BULK));
        let both = async {
            let connection = client.get_multiplexed_async_connection_with_config(&soon);
            let bulk = client.get_multiplexed_async_connection_with_config(&later);
            tokio::try_join!(connection, bulk)
        };
        match both.await {
            Ok((connection, bulk)) => {
                let edge = unit::new_request_id()[..12].into();
                let connected = Connected {
                    edge,
                    connection,
                    bulk,
                };
                self.connected.store(Some(Arc::new(connected)));
                true
            }
            Err(error) => {
                self.lose("connect", &error);
                false
            }
        }
    }

    /// Goes on alone.
    fn lose(&self, asked: &str, error: &RedisError) {
        self.connected.store(None);
        self.metrics.up.set(0);
        self.metrics.failures.with_label_values(&[asked]).inc();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *lost, true) {
            let address = self.address();
            log::warn!("state: {address} is away, so this edge goes on alone ({asked}: {error})");
        }
        self.wake.notify_one();
    }

    /// The server answers.
    fn found(&self) {
        self.metrics.up.set(1);
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *lost, false) {
            log::info!("state: {} is back", self.address());
        }
    }

    /// Asks the server, if it is there.
    async fn ask<T: redis::FromRedisValue>(
        &self,
        connected: &Connected,
        asked: &str,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Option<T> {
        match call(connected.connection.clone()).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                // a script that fails, a server that is full: it is there all the same
                if error.code().is_some() && asked != "beat" {
                    self.complain(asked, &error);
                    return None;
                }
                self.lose_one(connected, asked, &error);
                None
            }
        }
    }

    /// Gives a connection up, unless another one was made meanwhile.
    fn lose_one(&self, connected: &Connected, asked: &str, error: &RedisError) {
        let current = self.connected.load();
        if (current.as_deref()).is_some_and(|current| current.edge == connected.edge) {
            self.lose(asked, error);
        }
    }

    /// What is large may be late for many reasons. But a connection that was closed, such as by a server
    /// that keeps none idle, would stay so: both are made anew.
    fn bulk_failed(&self, connected: &Connected, asked: &str, error: &RedisError) {
        match error.code().is_none() && !error.is_timeout() {
            true => self.lose_one(connected, asked, error),
            false => self.complain(asked, error),
        }
    }

    fn complain(&self, asked: &str, error: &RedisError) {
        self.metrics.failures.with_label_values(&[asked]).inc();
        log::debug!("state: {asked}: {error}");
    }

    fn outbox(&self) -> MutexGuard<'_, limits::Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of something under this server.
    fn key(&self, parts: std::fmt::Arguments<'_>) -> String {
        format!("{}:{parts}", self.settings.prefix)
    }
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The scripts, by what they do.
struct Scripts {
    take: Script,
    settle: Script,
    beat: Script,
    eject: Script,
    spend: Script,
    replace: Script,
}

static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    take: Script::new(include_str!("scripts/take.lua")),
    settle: Script::new(include_str!("scripts/settle.lua")),
    beat: Script::new(include_str!("scripts/beat.lua")),
    eject: Script::new(include_str!("scripts/eject.lua")),
    spend: Script::new(include_str!("scripts/spend.lua")),
    replace: Script::new(include_str!("scripts/replace.lua")),
});
