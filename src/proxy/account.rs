//! What the end of an attempt means for the server: counted once, and told to its pool.

use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use crate::config::Auth;
use crate::config::kind::Loading;
use crate::gateway::Gateway;
use crate::inspect::answer::{retry_after, says_loading, says_no_quota};
use crate::plan::{Outcome, Phase};
use crate::pool::{Conduct, Member, Pool};

use super::connection::Answer;

/// How long a server that loads is left alone if it does not say.
const LOADING: Duration = Duration::from_secs(1);
/// The same for one whose account has nothing left.
const NO_QUOTA: Duration = Duration::from_secs(60);

/// How an attempt ended that got an answer.
pub(super) fn outcome_of(answer: &Answer) -> Outcome {
    let body = answer.first.as_deref().unwrap_or_default();
    let loads_openly = answer.pool.config.loading() == Loading::Answers503;
    match answer.status() {
        503 if says_loading(body) => Outcome::Loading,
        // LocalAI may be told to say nothing but when to come back
        503 if loads_openly && answer.head.headers.contains_key("retry-after") => Outcome::Loading,
        429 if says_no_quota(body) => Outcome::NoQuota,
        status => Outcome::Answered(status),
    }
}

/// Counts how an attempt ended, once, and tells the pool. `headers` are those of the answer, if
/// there was one.
pub(super) fn account(
    gateway: &Gateway,
    pool_id: usize,
    member: &Member,
    outcome: Outcome,
    headers: Option<&HeaderMap>,
) {
    let pool = &gateway.pools[pool_id];
    let metrics = &gateway.pool_metrics[pool_id].servers[member.server];
    metrics.attempted(outcome.label());
    let now = Instant::now();
    leave_alone(pool, member, outcome, headers, now);
    if let Some(ejection) = pool.observe(member, conduct(pool, member, outcome), now) {
        metrics.ejected(ejection.evidence);
        log::warn!(
            "pool {}: server {} ({}) is ejected for {}: {} ({})",
            pool.config.name,
            pool.server(member).name,
            member.address(),
            humantime::format_duration(ejection.duration),
            ejection.evidence.label(),
            outcome.brief(),
        );
    }
}

/// What the outcome says about the server, given how its software behaves while it loads.
fn conduct(pool: &Pool, member: &Member, outcome: Outcome) -> Conduct {
    match (outcome, pool.config.loading()) {
        // it listens when its model is loaded; whether it is dead is for the probes to say
        (Outcome::ConnectFailed, Loading::Refuses) => Conduct::Neutral,
        (Outcome::TimedOut(Phase::FirstByte | Phase::PerTry), Loading::AnswersLate)
            if member.lacks_models() =>
        {
            Conduct::Neutral
        }
        _ => outcome.conduct(),
    }
}

/// Heeds a server that wants to be left alone for a while.
fn leave_alone(
    pool: &Pool,
    member: &Member,
    outcome: Outcome,
    headers: Option<&HeaderMap>,
    now: Instant,
) {
    let asked = headers.and_then(|headers| retry_after(headers, SystemTime::now()));
    // a client that came too often with its own key says nothing about the others
    let own_account = pool.server(member).auth != Auth::Passthrough;
    match outcome {
        Outcome::Loading => pool.warm(member, asked.unwrap_or(LOADING), now),
        Outcome::ConnectFailed if pool.config.loading() == Loading::Refuses => {
            pool.warm(member, LOADING, now);
        }
        Outcome::NoQuota if own_account => pool.rest(member, NO_QUOTA, now),
        Outcome::Answered(429) if !own_account => {}
        Outcome::Answered(429 | 503) => {
            if let Some(pause) = asked {
                pool.rest(member, pause, now);
            }
        }
        _ => {}
    }
}
