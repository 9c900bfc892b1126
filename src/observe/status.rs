//! Status: one snapshot for people, programs and the status page. Holds names and numbers, never
//! keys.

use serde::Serialize;

use super::failures::FailureNote;
use crate::config::kind::Kind;
use crate::config::{Auth, Balance, Cost, Zone};
use crate::pool::{Durations, ServerState};

/// What `/status` says.
#[derive(Serialize)]
pub(crate) struct Status {
    pub(crate) version: &'static str,
    /// The process id.
    pub(crate) process: u32,
    pub(crate) uptime_seconds: u64,
    /// Accepting requests, and at least one server can be asked.
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    /// Where the configuration came from.
    pub(crate) config: String,
    /// Stand-ins serve what was not found.
    pub(crate) demo: bool,
    pub(crate) listeners: Vec<String>,
    pub(crate) requests_in_flight: i64,
    pub(crate) log_lines_dropped: u64,
    /// When a configuration was last put into service, or refused.
    pub(crate) last_reload: Option<LastReload>,
    pub(crate) routes: Vec<RouteStatus>,
    /// Requests that found no route.
    pub(crate) unrouted: RouteCounts,
    pub(crate) pools: Vec<PoolStatus>,
    /// Newest first.
    pub(crate) recent_failures: Vec<FailureNote>,
}

#[derive(Clone, Serialize)]
pub(crate) struct LastReload {
    /// `success` or `failure`.
    pub(crate) result: &'static str,
    /// RFC 3339.
    pub(crate) at: String,
}

/// What was counted of a route since the start; the sums of its metrics.
#[derive(Default, Serialize)]
pub(crate) struct RouteCounts {
    pub(crate) requests: u64,
    /// Answers of 500 and above, and all that Trunkline refused itself.
    pub(crate) errors: u64,
    pub(crate) retries: u64,
    pub(crate) fallbacks: u64,
}

/// What was counted of a server since the start; the sums of its metrics.
#[derive(Default, Serialize)]
pub(crate) struct ServerCounts {
    pub(crate) attempts: u64,
    /// Those that ended with an error of the server, or with none of its answers.
    pub(crate) failures: u64,
}

/// How long the first bytes of the last answers took.
#[derive(Serialize)]
pub(crate) struct FirstByte {
    p50: f64,
    p99: f64,
}

impl FirstByte {
    /// Of durations in any order; `None` without any.
    pub(crate) fn of(recent: &Durations) -> Option<Self> {
        let milliseconds = |percent| {
            let duration = recent.percentile(percent)?;
            Some((duration.as_secs_f64() * 1e4).round() / 10.0)
        };
        Some(FirstByte {
            p50: milliseconds(50)?,
            p99: milliseconds(99)?,
        })
    }
}

#[derive(Serialize)]
pub(crate) struct RouteStatus {
    pub(crate) name: String,
    /// The pools in the order they are tried.
    pub(crate) pools: Vec<String>,
    #[serde(flatten)]
    pub(crate) counts: RouteCounts,
}

#[derive(Serialize)]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    pub(crate) balance: Balance,
    pub(crate) auth: Auth,
    /// Whether certificates of its servers are checked.
    pub(crate) tls_verified: bool,
    pub(crate) available: bool,
    pub(crate) zone: Zone,
    pub(crate) cost: Cost,
    /// Requests that wait for a slot.
    pub(crate) waiting: usize,
    /// `null` while nothing is known.
    pub(crate) first_byte_ms: Option<FirstByte>,
    pub(crate) servers: Vec<ServerStatus>,
}

#[derive(Serialize)]
pub(crate) struct ServerStatus {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) weight: u32,
    pub(crate) backup: bool,
    pub(crate) state: &'static str,
    pub(crate) addresses: usize,
    pub(crate) healthy_addresses: usize,
    pub(crate) in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slots: Option<u32>,
    /// `null` while nothing is known.
    pub(crate) first_byte_ms: Option<FirstByte>,
    #[serde(flatten)]
    pub(crate) counts: ServerCounts,
}

impl ServerState {
    /// One word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ServerState { drained: true, .. } => "drained",
            ServerState { addresses: 0, .. } => "unresolved",
            ServerState {
                healthy: 0,
                warming: 0,
                ..
            } => "down",
            ServerState { healthy: 0, .. } => "warming",
            state if state.ejected >= state.healthy => "ejected",
            state if state.warming >= state.healthy => "warming",
            state if state.resting >= state.healthy => "resting",
            _ => "up",
        }
    }

    pub(crate) fn is_available(self) -> bool {
        self.word() == "up"
    }
}
