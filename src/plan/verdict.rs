//! How an attempt ended, and what that means for the request.

use crate::config::RetryOn;

/// How an attempt ended, as far as the next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A head came, with its first body byte or with none to come.
    Answered(u16),
    /// No connection.
    ConnectFailed,
    /// A connection, but no TLS on it.
    TlsFailed,
    /// The connection broke.
    Reset,
    /// A good head, and then nothing where there had to be something.
    Empty,
    /// What came is not HTTP.
    Invalid,
    /// A limit passed.
    TimedOut(Phase),
}

/// The phase of an attempt whose limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    /// The server did not take the request.
    Send,
    FirstByte,
    Idle,
    PerTry,
    Total,
    /// The program ends, and `shutdown.grace` is over.
    Shutdown,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Give the client this answer.
    Deliver,
    /// Ask the next server.
    TryNext,
    /// End the request with an error of our own.
    GiveUp,
}

/// Decides what an outcome means under a route's `retry.on`. It is asked only while the client has
/// seen nothing of an answer, and every body is kept for a replay; so the outcome alone decides.
/// Whether there is a next server is the plan's question.
pub(crate) fn judge(outcome: Outcome, on: &[RetryOn]) -> Verdict {
    let reason = match outcome {
        Outcome::Answered(status) => RetryOn::Status(status),
        Outcome::ConnectFailed | Outcome::TlsFailed | Outcome::TimedOut(Phase::Connect) => {
            RetryOn::Connect
        }
        Outcome::Reset | Outcome::Empty | Outcome::Invalid => RetryOn::Reset,
        Outcome::TimedOut(Phase::Total | Phase::Shutdown) => return Verdict::GiveUp,
        Outcome::TimedOut(_) => RetryOn::Timeout,
    };
    match outcome {
        _ if on.contains(&reason) => Verdict::TryNext,
        Outcome::Answered(_) => Verdict::Deliver,
        _ => Verdict::GiveUp,
    }
}

impl Outcome {
    /// Whether the server is to blame: what counts towards its ejection. A 500 may be the
    /// request's own fault, and a 429 says that the server is well.
    pub(crate) fn blames_server(self) -> bool {
        match self {
            Outcome::Answered(status) => matches!(status, 502..=504),
            // the time of the whole request, which the client had its part in
            Outcome::TimedOut(Phase::Total | Phase::Shutdown) => false,
            _ => true,
        }
    }

    /// The word for it in `x-attempts`, logs and metrics; for an answer, its status is told apart.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Answered(429) => "429",
            Outcome::Answered(500..) => "5xx",
            Outcome::Answered(400..) => "4xx",
            Outcome::Answered(_) => "ok",
            Outcome::ConnectFailed => "connect_error",
            Outcome::TlsFailed => "tls_error",
            Outcome::Reset => "reset",
            Outcome::Empty => "empty",
            Outcome::Invalid => "invalid",
            Outcome::TimedOut(_) => "timeout",
        }
    }

    /// Every label there is.
    pub(crate) const LABELS: &'static [&'static str] = &[
        "ok",
        "4xx",
        "429",
        "5xx",
        "connect_error",
        "tls_error",
        "reset",
        "empty",
        "invalid",
        "timeout",
        "cancelled",
    ];

    /// The word in `x-attempts`: the status of an answer, else the label.
    pub(crate) fn brief(self) -> String {
        match self {
            Outcome::Answered(status) => status.to_string(),
            Outcome::TimedOut(Phase::Connect) => "connect_timeout".into(),
            other => other.label().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;

    #[test]
    fn the_list_decides_what_is_asked_again() {
        let on = [
            RetryOn::Connect,
            RetryOn::Reset,
            RetryOn::Timeout,
            RetryOn::Status(503),
        ];
        for (outcome, listed, unlisted) in [
            (Outcome::Answered(200), Deliver, Deliver),
            (Outcome::Answered(503), TryNext, Deliver),
            (Outcome::Answered(502), Deliver, Deliver),
            (Outcome::Answered(400), Deliver, Deliver),
            (Outcome::ConnectFailed, TryNext, GiveUp),
            (Outcome::TlsFailed, TryNext, GiveUp),
            (Outcome::TimedOut(Phase::Connect), TryNext, GiveUp),
            (Outcome::Reset, TryNext, GiveUp),
            (Outcome::Empty, TryNext, GiveUp),
            (Outcome::Invalid, TryNext, GiveUp),
            (Outcome::TimedOut(Phase::FirstByte), TryNext, GiveUp),
            (Outcome::TimedOut(Phase::PerTry), TryNext, GiveUp),
            (Outcome::TimedOut(Phase::Total), GiveUp, GiveUp),
        ] {
            assert_eq!(judge(outcome, &on), listed, "{outcome:?}");
            assert_eq!(judge(outcome, &[]), unlisted, "{outcome:?}");
        }
    }

    #[test]
    fn the_clients_own_errors_do_not_count_against_a_server() {
        for status in [200, 400, 404, 429, 500] {
            assert!(!Outcome::Answered(status).blames_server(), "{status}");
        }
        for outcome in [
            Outcome::Answered(503),
            Outcome::Reset,
            Outcome::Empty,
            Outcome::TimedOut(Phase::FirstByte),
        ] {
            assert!(outcome.blames_server(), "{outcome:?}");
        }
    }
}
