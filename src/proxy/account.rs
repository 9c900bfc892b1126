//! What the end of an attempt means for the server: counted once, and told to its pool.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, header};

use crate::config::kind::{Loading, Warming};
use crate::config::{self, Auth};
use crate::gateway::Gateway;
use crate::inspect::answer::{readable, retry_after, says_loading, says_no_quota};
use crate::plan::{Outcome, Phase};
use crate::pool::{Conduct, Member, Pool};

use super::connection::Answer;

/// How long a server that loads is left alone if it does not say.
const LOADING: Duration = Duration::from_secs(1);
/// The same for one whose account has nothing left.
const NO_QUOTA: Duration = Duration::from_secs(60);

/// How an attempt ended that got an answer.
pub(super) fn outcome_of(answer: &Answer) -> Outcome {
    let headers = &answer.head.headers;
    let says = |what: fn(&[u8]) -> bool| {
        let encoding = headers.get(header::CONTENT_ENCODING);
        what(&readable(
            answer.first.as_deref().unwrap_or_default(),
            encoding,
        ))
    };
    let loads_openly = answer.pool.config.loading() == Loading::Answers503;
    match answer.status() {
        503 if says(says_loading) => Outcome::Loading,
        // LocalAI may be told to say nothing but when to come back
        503 if loads_openly && headers.contains_key(header::RETRY_AFTER) => Outcome::Loading,
        429 if says(says_no_quota) => Outcome::NoQuota,
        status => Outcome::Answered(status),
    }
}

/// Counts how an attempt ended, once, now, and tells the pool. `trial`: it was one; `headers` are
/// those of the answer, if there was one.
pub(super) fn account(
    gateway: &Gateway,
    pool_id: usize,
    member: &Member,
    trial: bool,
    outcome: Outcome,
    headers: Option<&HeaderMap>,
    now: Instant,
) {
    let pool = &gateway.pools[pool_id];
    let metrics = &gateway.pool_metrics[pool_id].servers[member.server];
    metrics.attempted(outcome.label());
    leave_alone(pool, member, outcome, headers, now);
    let conduct = conduct(pool, member, outcome);
    let why = || outcome.brief();
    judge_server(gateway, pool_id, member, trial, conduct, why, now);
}

/// Tells the pool how a server did, as it shows now; `trial`: the attempt was one.
pub(super) fn judge_server(
    gateway: &Gateway,
    pool_id: usize,
    member: &Member,
    trial: bool,
    conduct: Conduct,
    why: impl FnOnce() -> Cow<'static, str>,
    now: Instant,
) {
    let pool = &gateway.pools[pool_id];
    let Some(ejection) = pool.observe(member, conduct, trial, now) else {
        return;
    };
    gateway.pool_metrics[pool_id].servers[member.server].ejected(ejection.evidence);
    if let Some(state) = &gateway.state {
        let server = format!("{}/{}", pool.config.name, member.address());
        state.eject(server, ejection.duration);
    }
    log::warn!(
        "pool {}: server {} ({}) is ejected for {}: {} ({})",
        pool.config.name,
        pool.server(member).name,
        member.address(),
        humantime::format_duration(ejection.duration),
        ejection.evidence.label(),
        why(),
    );
}

/// What the outcome says about the server, given how its software behaves while it loads.
fn conduct(pool: &Pool, member: &Member, outcome: Outcome) -> Conduct {
    match (outcome, pool.config.loading()) {
        // it listens when its model is loaded, and that is waited for
        (Outcome::ConnectFailed, Loading::Refuses) if pool.config.warming == Warming::Wait => {
            Conduct::Neutral
        }
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
    let asked = || headers.and_then(|headers| retry_after(headers, SystemTime::now()));
    // a client that came too often with its own key says nothing about the others
    let own_account = pool.server(member).auth != Auth::Passthrough;
    match outcome {
        Outcome::Loading => {
            let pause = asked().unwrap_or(LOADING).max(LOADING / 4);
            pool.warm(member, pause, now);
        }
        // to be waited for; where nobody waits it may as well be asked again
        Outcome::ConnectFailed
            if pool.config.loading() == Loading::Refuses
                && pool.config.warming == Warming::Wait =>
        {
            pool.warm(member, LOADING, now);
        }
        // nor has any other server of the pool with this account
        Outcome::NoQuota if own_account => {
            let key = &pool.server(member).key;
            let same = |server: &config::Server| server.key == *key;
            pool.rest_all(same, NO_QUOTA, now);
        }
        Outcome::Answered(429) if !own_account => {}
        Outcome::Answered(429 | 503) => {
            if let Some(pause) = asked() {
                pool.rest(member, pause, now);
            }
        }
        _ => {}
    }
}
