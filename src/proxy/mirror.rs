//! Copies of requests for a pool whose answers nobody waits for: how a new server, model or
//! version does under real traffic.
//!
//! A copy is sent when the request itself has its answer, or failed for the first time: by then all
//! of its body is here. It is asked once, and its answer is read to its end and thrown away.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::RequestHeader;

use super::account::{account, outcome_of};
use super::body::Upload;
use super::connection::Answer;
use super::exchange::Exchange;
use super::leg::Failed;
use super::relay::Ground;
use super::side::{Side, within};
use super::words::Words;
use super::{Edge, Snapshot};
use crate::config::{Mirror, Route, Zone};
use crate::inspect::Body;
use crate::inspect::endpoint::Operation;
use crate::plan::{Attempt, Next, Outcome, Phase, Plan};

/// Copies at a time in the whole program. What is beyond is skipped, so that a slow mirror costs
/// neither memory nor files.
const AT_ONCE: i64 = 256;
/// How long a copy may take altogether.
const LONGEST: Duration = Duration::from_secs(600);

/// A copy on its way.
struct Copy {
    edge: Arc<Edge>,
    snapshot: Arc<Snapshot>,
    route: usize,
    head: RequestHeader,
    x: Exchange,
    upload: Upload,
    body: Option<Body>,
}

/// Sends a copy of a request to the mirror of its route, if it has one and this request's turn has
/// come. Called after each attempt, it does so once.
pub(super) fn copy_once(
    ground: &Ground<'_>,
    head: &RequestHeader,
    x: &mut Exchange,
    upload: &Upload,
) {
    let Some(mirror) = ground.settings.mirror.as_ref().filter(|_| !x.mirrored) else {
        return;
    };
    x.mirrored = true;
    let pool = ground.gateway().config.pool(mirror.route.targets[0].pool);
    let inference = x.operation.is_some_and(Operation::has_model) && !x.upgrade;
    let stays = x.home && pool.zone != Zone::Home;
    // what lives on the one server is not on the other
    let bound = x
        .bound
        .as_ref()
        .is_some_and(|bound| bound.names_something());
    if !inference || stays || bound || fastrand::f64() >= mirror.share {
        return;
    }
    let metrics = &ground.edge.metrics;
    let fits = pool
        .largest_body(x.operation.is_some_and(Operation::hears))
        .is_none_or(|limit| upload.received() <= limit);
    // a server that answered before it had all of the body did not want it
    let room = metrics.mirrors_in_flight.get() < AT_ONCE;
    if !room || !fits || !upload.is_complete() {
        count(ground.edge, ground.settings, &pool.name, "skipped");
        return;
    }
    let copy = Copy {
        edge: ground.edge.clone(),
        snapshot: x.snapshot.clone(),
        route: ground.route,
        head: head.clone(),
        x: x.copy(upload.received(), &metrics.mirrors_in_flight),
        upload: upload.copy(),
        body: ground.body.cloned(),
    };
    tokio::spawn(copy.send());
}

fn count(edge: &Edge, route: &Route, pool: &str, result: &str) {
    let labels = [route.name.as_str(), pool, result];
    edge.metrics.mirrored.with_label_values(&labels).inc();
}

impl Copy {
    async fn send(mut self) {
        let snapshot = self.snapshot.clone();
        let config = &snapshot.gateway.config;
        let settings = &config.routes[self.route];
        let Some(Mirror { route, .. }) = &settings.mirror else {
            return;
        };
        let words = Words::new(&snapshot.gateway, route, &self.head.method, &self.x);
        let ground = Ground {
            edge: &self.edge,
            snapshot: &snapshot,
            settings: route,
            route: self.route,
            body: self.body.as_ref(),
            words: &words,
        };
        let pool = &config.pool(route.targets[0].pool).name;
        let asked = tokio::time::timeout(LONGEST, self.ask(&ground)).await;
        let result = asked.unwrap_or("failed");
        count(&self.edge, settings, pool, result);
        // what it took of the pool's limits
        self.x.record.status = if result == "2xx" { 200 } else { 0 };
        self.x.settle();
    }

    /// What became of it.
    async fn ask(&self, ground: &Ground<'_>) -> &'static str {
        let Some(attempt) = self.attempt(ground).await else {
            return "skipped";
        };
        let asked = ground.asked(&self.x, &attempt);
        let leg = ground.leg(&self.x, &asked, false);
        let side = Side::Kept {
            head: &self.head,
            upload: &self.upload,
        };
        let answer = leg.ask(side, attempt.lease).await;
        let (mut outcome, mut answer) = match answer {
            Ok(answer) => (outcome_of(&answer), Some(answer)),
            Err(Failed::Outcome(outcome)) => (outcome, None),
            Err(Failed::Stop(_)) => return "failed",
        };
        let headers = answer.as_ref().map(|answer| answer.head.headers.clone());
        if let Some(answer) = &mut answer
            && let Err(broke_off) = read_on(answer).await
        {
            outcome = broke_off;
        }
        let gateway = ground.gateway();
        account(
            gateway,
            asked.pool_id,
            &asked.member,
            false,
            outcome,
            headers.as_ref(),
            Instant::now(),
        );
        match (outcome, answer) {
            (Outcome::Answered(status), Some(answer)) => {
                answer.connection.release(&self.edge, Instant::now());
                match status {
                    200..300 => "2xx",
                    400..500 => "4xx",
                    500..600 => "5xx",
                    _ => "other",
                }
            }
            _ => "failed",
        }
    }

    /// The server to ask, if one has a place right now.
    async fn attempt(&self, ground: &Ground<'_>) -> Option<Attempt> {
        let mut plan = Plan::beginning_with(0);
        loop {
            match ground.on(&self.head, &self.x, &self.upload, |on| plan.next(on)) {
                Ok(Next::Server(lease)) => {
                    // a trial is for a request, by whose end the server is judged
                    if lease.is_trial() {
                        return None;
                    }
                    let pool = ground.settings.targets[0].pool;
                    let metrics = &ground.edge.metrics;
                    let length = self.upload.length();
                    let allowed = self.x.take_of_pool(pool, length, metrics).await;
                    let granted = || {
                        ground.on(&self.head, &self.x, &self.upload, |on| {
                            plan.granted(lease, on).ok()
                        })
                    };
                    return allowed.then(granted).flatten();
                }
                Ok(Next::Translate { target }) => {
                    ground.translate(&self.x, &self.upload, target).await.ok()?;
                }
                _ => return None,
            }
        }
    }
}

/// Reads an answer to its end.
async fn read_on(answer: &mut Answer) -> Result<(), Outcome> {
    while !answer.connection.talk.is_over() {
        let idle = answer.pool.config.timeouts.idle;
        let bound = (idle.map(|idle| Instant::now() + idle), Phase::Idle);
        let reading = pin!(answer.connection.talk.read_body());
        let read: Option<Bytes> = within(bound, reading)
            .await
            .map_err(Outcome::TimedOut)?
            .map_err(|error| super::outcome::of_talking(&error))?;
        if read.is_none() {
            break;
        }
    }
    Ok(())
}
