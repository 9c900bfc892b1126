//! What is known about a finished request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::trace::{EndedAttempt, RequestSpan};
use super::usage::Usage;
use crate::unit::TraceContext;

/// How a request ended, seen from the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Termination {
    /// The whole answer went out.
    Complete,
    /// Trunkline answered with an error of its own.
    Rejected,
    /// The client left.
    #[default]
    ClientAbort,
    /// The client took the answer too slowly, and was cut.
    SlowClient,
    /// The server broke off, or no server answered.
    UpstreamAbort,
    /// A limit passed before or in the answer.
    Timeout,
}

impl Termination {
    pub(crate) const ALL: &'static [Termination] = &[
        Termination::Complete,
        Termination::Rejected,
        Termination::ClientAbort,
        Termination::SlowClient,
        Termination::UpstreamAbort,
        Termination::Timeout,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Termination::Complete => "complete",
            Termination::Rejected => "rejected",
            Termination::ClientAbort => "client_abort",
            Termination::SlowClient => "slow_client",
            Termination::UpstreamAbort => "upstream_abort",
            Termination::Timeout => "timeout",
        }
    }
}

/// What the cache had for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    Hit,
    Miss,
    /// Somebody was asking the same already.
    Coalesced,
    /// It was not asked, or its answer may not be kept.
    Bypass,
}

impl Cached {
    pub(crate) const ALL: &'static [Cached] =
        &[Cached::Hit, Cached::Miss, Cached::Coalesced, Cached::Bypass];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Cached::Hit => "hit",
            Cached::Miss => "miss",
            Cached::Coalesced => "coalesced",
            Cached::Bypass => "bypass",
        }
    }
}

/// One try of one server, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptNote {
    pub(crate) pool: String,
    pub(crate) server: String,
    /// `200`, `timeout`, `connect_error`, …
    pub(crate) result: Cow<'static, str>,
    pub(crate) span: EndedAttempt,
}

impl std::fmt::Display for AttemptNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}={}", self.pool, self.server, self.result)
    }
}

/// What is known about a request. Filled in while it is served.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) request_id: String,
    /// Its trace, and the span above what it causes. `None` if it had no head.
    pub(crate) trace: Option<TraceContext>,
    pub(crate) span: RequestSpan,
    pub(crate) listener: String,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: String,
    /// Without the query, which may hold keys.
    pub(crate) path: String,
    pub(crate) protocol: &'static str,
    /// `None` without TLS.
    pub(crate) tls: Option<&'static str>,
    pub(crate) user_agent: Option<String>,
    pub(crate) operation: Option<&'static str>,
    /// As the client asked for it.
    pub(crate) model: Option<String>,
    pub(crate) voice: Option<String>,
    /// The voice the server was asked for, if it is another one.
    pub(crate) voice_served: Option<String>,
    pub(crate) stream: bool,
    /// The name of the key it was asked with.
    pub(crate) key: Option<String>,
    pub(crate) route: Option<String>,
    /// Who answered: pool and server.
    pub(crate) server: Option<(String, String)>,
    /// The code of a local reply.
    pub(crate) local: Option<&'static str>,
    /// What the cache had, if the route keeps answers.
    pub(crate) cache: Option<Cached>,
    /// Messages that were put before those of the client, if it has a session.
    pub(crate) memory: Option<u64>,
    /// 0 if none was sent.
    pub(crate) status: u16,
    pub(crate) termination: Termination,
    pub(crate) attempts: Vec<AttemptNote>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) times: Times,
    pub(crate) usage: Usage,
    /// Characters of text to speak, where the body was read.
    pub(crate) characters: Option<u64>,
    /// How long the audio plays that was sent or spoken, where its header tells.
    pub(crate) audio: Option<Duration>,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) total: Duration,
    /// Reading the body ahead.
    pub(crate) body: Duration,
    /// Waiting for slots.
    pub(crate) queue: Duration,
    /// Connecting to the server that answered, TLS included; zero on a reused connection.
    pub(crate) connect: Duration,
    /// From arrival to the first byte of the answer's body.
    pub(crate) first_byte: Option<Duration>,
    /// Our own work before the first attempt.
    pub(crate) overhead: Duration,
}

impl Record {
    /// What `x-attempts` says: every attempt, if there was more than one.
    pub(crate) fn attempts_header(&self) -> Option<String> {
        if self.attempts.len() < 2 {
            return None;
        }
        let told: Vec<String> = self.attempts.iter().map(ToString::to_string).collect();
        Some(told.join(","))
    }
}
