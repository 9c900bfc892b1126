//! Status: one snapshot for people, programs and, later, a page. Holds names and numbers, never
//! keys.

use serde::Serialize;

use crate::config::kind::Kind;
use crate::config::{Auth, Balance, Cost, Zone};
use crate::pool::ServerState;

/// What `/status` says.
#[derive(Serialize)]
pub(crate) struct Status {
    pub(crate) version: &'static str,
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
    pub(crate) routes: Vec<RouteStatus>,
    pub(crate) pools: Vec<PoolStatus>,
}

#[derive(Serialize)]
pub(crate) struct RouteStatus {
    pub(crate) name: String,
    /// The pools in the order they are tried.
    pub(crate) pools: Vec<String>,
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
