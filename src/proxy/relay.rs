//! The relay: asks one server after the other until one answers, and passes its answer on.
//!
//! One loop, top to bottom. The plan says who is asked, `leg` asks, `judge` says what the outcome
//! means, `deliver` passes on what is good or last. An answer's head is held until the first byte
//! of its body is here, so that a server which says 200 and then nothing is still a failed
//! attempt that the client never sees.

use std::sync::Arc;
use std::time::Instant;

use pingora::protocols::http::ServerSession as Session;

use super::Edge;
use super::body::Upload;
use super::deliver::{Standing, deliver};
use super::exchange::{Exchange, Stop};
use super::leg::{Answer, Failed, Leg};
use crate::config::Route;
use crate::gateway::Gateway;
use crate::inspect::Body;
use crate::observe::record::AttemptNote;
use crate::plan::{Attempt, Outcome, Plan, Spent, Step, Verdict, judge};
use crate::pool::{Member, Pool};
use crate::reply;

/// How the last attempt ended, for the answer if there is no next.
struct Last {
    outcome: Outcome,
    pool: String,
    server: String,
    /// The server's own error, kept in case nobody does better.
    answer: Option<Answer>,
}

/// Serves a routed request.
pub(super) async fn relay(
    edge: &Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    route: usize,
    upload: &mut Upload,
    body: Option<&Body>,
) -> Result<(), Stop> {
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let settings = &gateway.config.routes[route];
    let budget = gateway.budget(route);
    if let Some(budget) = budget {
        budget.deposit();
    }
    let mut plan = Plan::new();
    let mut last: Option<Last> = None;
    loop {
        let attempt = match plan.next(settings, &gateway.pools, budget, Instant::now()) {
            Ok(attempt) => attempt,
            Err(spent) => {
                return give_up(edge, session, x, settings, gateway, spent, last, upload).await;
            }
        };
        count_step(edge, settings, gateway, &attempt, last.as_ref());
        // a held answer's connection is worth keeping if its body is short
        if let Some(answer) = last.take().and_then(|last| last.answer) {
            tokio::spawn(answer.discard(edge.clone()));
        }
        let target = &settings.targets[attempt.target];
        let pool = gateway.pool(target.pool);
        let metrics = &gateway.pool_metrics[target.pool.0];
        let server = pool.server(&attempt.lease).name.clone();
        if x.record.attempts.is_empty() {
            x.record.times.overhead = x.started.elapsed().saturating_sub(x.record.times.body);
            edge.metrics
                .overhead
                .observe(x.record.times.overhead.as_secs_f64());
        }
        if pool.config.buffers_uploads() && !upload.is_complete() {
            upload.read_ahead(session, None).await?;
        }
        let edits = body
            .map(|body| gateway.edits(route, attempt.target, body))
            .unwrap_or_default();
        let leg = Leg {
            edge,
            settings,
            pool,
            metrics,
            template: &snapshot.peers[target.pool.0][attempt.lease.server],
            edits: &edits,
            started: Instant::now(),
        };
        let member = attempt.lease.member().clone();
        let asked = leg.ask(session, x, upload, attempt.lease).await;
        let outcome = match &asked {
            Ok(answer) => Outcome::Answered(answer.status()),
            Err(Failed::Outcome(outcome)) => *outcome,
            Err(Failed::Stop(_)) => {
                metrics.servers[member.server].attempted("cancelled");
                note(x, pool, &server, "cancelled");
                return asked.map(drop).map_err(Failed::into_stop);
            }
        };
        note(x, pool, &server, &outcome.brief());
        let verdict = judge(outcome, &settings.retry.on);
        let asked = match (verdict, asked) {
            (Verdict::Deliver | Verdict::GiveUp, Ok(answer)) => {
                let answer = answer.of(attempt.target);
                return deliver(edge, session, x, answer, gateway, Standing::Good, upload).await;
            }
            (_, asked) => asked,
        };
        account(gateway, target.pool.0, pool, &member, outcome);
        match asked {
            Err(_) if verdict != Verdict::TryNext => {
                return Err(reply::plan_failed(outcome, &pool.config.name, &server).into());
            }
            asked => {
                let answer = asked.ok().map(|answer| answer.of(attempt.target));
                last = Some(Last {
                    outcome,
                    pool: pool.config.name.clone(),
                    server,
                    answer,
                });
            }
        }
    }
}

/// Nobody is left to ask: the last server's own error, or one of ours.
#[expect(
    clippy::too_many_arguments,
    reason = "the end of the loop above, with all it has"
)]
async fn give_up(
    edge: &Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    settings: &Route,
    gateway: &Gateway,
    spent: Spent,
    last: Option<Last>,
    upload: &Upload,
) -> Result<(), Stop> {
    if spent == Spent::Budget {
        x.metrics().budget_exhausted.inc();
    }
    match last {
        Some(Last {
            answer: Some(answer),
            ..
        }) => deliver(edge, session, x, answer, gateway, Standing::Last, upload).await,
        Some(Last {
            outcome,
            pool,
            server,
            answer: None,
        }) => Err(reply::plan_failed(outcome, &pool, &server).into()),
        None => {
            let pools = settings
                .targets
                .iter()
                .map(|t| format!("`{}`", gateway.config.pool(t.pool).name));
            Err(reply::no_server_available(&pools.collect::<Vec<_>>().join(", ")).into())
        }
    }
}

fn note(x: &mut Exchange, pool: &Pool, server: &str, result: &str) {
    x.record.attempts.push(AttemptNote {
        pool: pool.config.name.clone(),
        server: server.to_owned(),
        result: result.to_owned(),
    });
}

fn count_step(
    edge: &Arc<Edge>,
    settings: &Route,
    gateway: &Gateway,
    attempt: &Attempt,
    last: Option<&Last>,
) {
    let reason = last.map_or("unavailable", |last| last.outcome.label());
    let name = |target: usize| {
        gateway
            .config
            .pool(settings.targets[target].pool)
            .name
            .as_str()
    };
    match attempt.step {
        Step::First => {}
        Step::Retry => edge.metrics.retried(&settings.name, reason),
        Step::Fallback { from } => {
            edge.metrics
                .fell_back(&settings.name, name(from), name(attempt.target), reason);
        }
    }
}

/// Counts how an attempt ended, once, and tells the pool.
pub(super) fn account(
    gateway: &Gateway,
    pool_id: usize,
    pool: &Pool,
    member: &Member,
    outcome: Outcome,
) {
    let metrics = &gateway.pool_metrics[pool_id].servers[member.server];
    metrics.attempted(outcome.label());
    if let Some(duration) = pool.observe(member, !outcome.blames_server(), Instant::now()) {
        metrics.ejections.inc();
        log::warn!(
            "pool {}: server {} ({}) is ejected for {}: {} was one failure too many",
            pool.config.name,
            pool.server(member).name,
            member.address(),
            humantime::format_duration(duration),
            outcome.brief(),
        );
    }
}
