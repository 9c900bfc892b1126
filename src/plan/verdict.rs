//! How an attempt ended, and what that means for the request.

use std::borrow::Cow;

use crate::config::RetryOn;
use crate::pool::Conduct;

/// How an attempt ended, as far as the next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A head came, with its first body byte or with none to come.
    Answered(u16),
    /// A 503 that says the model is still being loaded.
    Loading,
    /// A 429 that says the account has nothing left.
    NoQuota,
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
    /// A fair share of the time that the client gives, while somebody else can be asked.
    Share,
    /// All of the time that the client gives.
    Client,
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
        Outcome::Loading => RetryOn::Status(503),
        Outcome::NoQuota => RetryOn::Status(429),
        Outcome::ConnectFailed | Outcome::TlsFailed | Outcome::TimedOut(Phase::Connect) => {
            RetryOn::Connect
        }
        Outcome::Reset | Outcome::Empty | Outcome::Invalid => RetryOn::Reset,
        Outcome::TimedOut(Phase::Total | Phase::Client | Phase::Shutdown) => {
            return Verdict::GiveUp;
        }
        Outcome::TimedOut(_) => RetryOn::Timeout,
    };
    match outcome {
        _ if on.contains(&reason) => Verdict::TryNext,
        Outcome::Answered(_) | Outcome::Loading | Outcome::NoQuota => Verdict::Deliver,
        _ => Verdict::GiveUp,
    }
}

impl Outcome {
    /// What it says about the server. A 500 may be the request's own fault, a 429 says that the
    /// server is well and has enough, and one that loads is not broken.
    pub(crate) fn conduct(self) -> Conduct {
        match self {
            Outcome::Answered(502..=504) => Conduct::Bad,
            Outcome::Answered(429 | 500..) | Outcome::Loading | Outcome::NoQuota => {
                Conduct::Neutral
            }
            Outcome::Answered(_) => Conduct::Good,
            // the client's own time, and ours
            Outcome::TimedOut(Phase::Total | Phase::Client | Phase::Share | Phase::Shutdown) => {
                Conduct::Neutral
            }
            _ => Conduct::Bad,
        }
    }

    /// The word for it in `x-attempts`, logs and metrics; for an answer, its status is told apart.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Answered(429) | Outcome::NoQuota => "429",
            Outcome::Answered(500..) => "5xx",
            Outcome::Answered(400..) => "4xx",
            Outcome::Answered(_) => "ok",
            Outcome::Loading => "loading",
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
        "loading",
        "connect_error",
        "tls_error",
        "reset",
        "empty",
        "invalid",
        "timeout",
        "cancelled",
    ];

    /// The word in `x-attempts`: the status of an answer, else the label.
    pub(crate) fn brief(self) -> Cow<'static, str> {
        match self {
            Outcome::Answered(200) => "200".into(),
            Outcome::Answered(status) => status.to_string().into(),
            Outcome::NoQuota => "429".into(),
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
            (Outcome::TimedOut(Phase::Client), GiveUp, GiveUp),
            (Outcome::TimedOut(Phase::Share), TryNext, GiveUp),
            (Outcome::Loading, TryNext, Deliver),
            (Outcome::NoQuota, Deliver, Deliver),
        ] {
            assert_eq!(judge(outcome, &on), listed, "{outcome:?}");
            assert_eq!(judge(outcome, &[]), unlisted, "{outcome:?}");
        }
    }

    #[test]
    fn the_clients_own_errors_do_not_count_against_a_server() {
        for status in [200, 400, 404, 429, 500] {
            assert_ne!(
                Outcome::Answered(status).conduct(),
                Conduct::Bad,
                "{status}"
            );
        }
        for outcome in [Outcome::Loading, Outcome::TimedOut(Phase::Client)] {
            assert_eq!(outcome.conduct(), Conduct::Neutral, "{outcome:?}");
        }
        for outcome in [
            Outcome::Answered(503),
            Outcome::Reset,
            Outcome::Empty,
            Outcome::TimedOut(Phase::FirstByte),
        ] {
            assert_eq!(outcome.conduct(), Conduct::Bad, "{outcome:?}");
        }
    }
}
