//! The relay: asks one server after the other until one answers, and passes its answer on.
//!
//! One loop, top to bottom. The plan says who is asked, `leg` asks (two of them at once where the
//! route hedges), `judge` says what the outcome means, `deliver` passes on what is good or last.
//! An answer's head is held until its body has begun, so that a server which says 200 and then
//! nothing is still a failed attempt that the client never sees.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::http::RequestHeader;

use super::account::{account, judge_server, outcome_of};
use super::body::Upload;
use super::connection::Answer;
use super::deliver::{Standing, deliver};
use super::exchange::{Exchange, Stop};
use super::leg::{Failed, Leg};
use super::session::Session;
use super::side::{Side, pause, while_client_stays};
use super::taken::Scope;
use super::words::Words;
use super::{Edge, Snapshot, hedge, memory, mirror, preload};
use crate::config::{HashBy, PoolId, Route};
use crate::gateway::Gateway;
use crate::inspect::Body;
use crate::observe::record::AttemptNote;
use crate::observe::trace::AttemptSpan;
use crate::plan::{
    Attempt, Next, Outcome, Phase, Plan, Refusal, Spent, Step, Terrain, Verdict, judge,
};
use crate::pool::{Conduct, Lease, Member, place};
use crate::reply;
use crate::transform::fields::{Edits, Rewritten};

/// What a request is relayed over; the same for all of its attempts.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) edge: &'a Arc<Edge>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) settings: &'a Route,
    /// The index of the route.
    pub(super) route: usize,
    pub(super) body: Option<&'a Body>,
    /// The request in the words of its targets.
    pub(super) words: &'a Words,
}

/// One request on its way through its plan.
pub(super) struct Relay<'a> {
    pub(super) ground: Ground<'a>,
    pub(super) plan: Plan,
    last: Option<Last>,
    /// Servers that answered 500, which may have been the request's fault.
    suspects: Vec<(usize, Arc<Member>, bool)>,
    /// Since when it waits for servers that load.
    pub(super) warming_since: Option<Instant>,
}

/// How the last attempt ended, for the answer if there is no next.
struct Last {
    outcome: Outcome,
    pool: String,
    server: String,
    /// The server's own error, kept in case nobody does better.
    answer: Option<Box<Answer>>,
}

/// Who is being asked.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) target: usize,
    pub(super) pool_id: usize,
    pub(super) member: Arc<Member>,
    /// It decides what becomes of a server that was ejected.
    pub(super) trial: bool,
    /// Since when.
    since: Instant,
    span: AttemptSpan,
}

impl Asked {
    pub(super) fn is_same(&self, other: &Asked) -> bool {
        Arc::ptr_eq(&self.member, &other.member)
    }
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
    let settings = &snapshot.gateway.config.routes[route];
    let words = Words::new(&snapshot.gateway, settings, &session.req_header().method, x);
    let ground = Ground {
        edge,
        snapshot: &snapshot,
        settings,
        route,
        body,
        words: &words,
    };
    if let Some(budget) = snapshot.gateway.budget(route) {
        budget.deposit(Instant::now());
    }
    let relay = Relay {
        ground,
        plan: Plan::beginning_with(first_target(settings, session.req_header(), x)),
        last: None,
        suspects: Vec::new(),
        warming_since: None,
    };
    relay.run(session, x, upload).await
}

impl<'a> Ground<'a> {
    pub(super) fn gateway(&self) -> &'a Gateway {
        &self.snapshot.gateway
    }

    /// Calls `ask` with the terrain as it is now.
    pub(super) fn on<T>(
        &self,
        head: &RequestHeader,
        x: &Exchange,
        upload: &Upload,
        ask: impl FnOnce(&Terrain<'_>) -> T,
    ) -> T {
        let gateway = self.gateway();
        ask(&Terrain {
            route: self.settings,
            pools: &gateway.pools,
            budget: gateway.budget(self.route),
            home: x.home,
            length: upload.length(),
            complete: upload.is_complete(),
            audio: x.operation.is_some_and(|operation| operation.hears()),
            hash: &|by| hashed(by, head, x),
            wording: &|target| self.words.wording(target),
            model: &|target| {
                let public = self.body.and_then(|body| body.text("model"));
                gateway.own_model(&self.settings.targets[target], public, false)
            },
            pinned: x.bound.as_ref().and_then(|bound| bound.pinned()),
            now: Instant::now(),
        })
    }

    pub(super) fn asked(&self, x: &Exchange, attempt: &Attempt) -> Asked {
        Asked {
            target: attempt.target,
            pool_id: self.settings.targets[attempt.target].pool.0,
            member: attempt.lease.member().clone(),
            trial: attempt.lease.is_trial(),
            since: match attempt.pause.is_zero() {
                true => attempt.lease.since(),
                false => Instant::now(),
            },
            span: x.record.span.attempt(),
        }
    }

    /// What becomes of the body at a target.
    pub(super) fn rewritten(&self, x: &Exchange, target: usize) -> Rewritten {
        let gateway = self.gateway();
        let target = &self.settings.targets[target];
        let rewrite = |body| gateway.rewrite(target, body, x.operation, x.asks_usage);
        let mut rewritten = self.body.map(rewrite).unwrap_or_default();
        x.put_question(&mut rewritten.edits);
        memory::put_before(x, &mut rewritten.edits);
        rewritten
    }

    /// The leg for an attempt.
    pub(super) fn leg(&self, x: &'a Exchange, asked: &Asked, shared: bool) -> Leg<'a> {
        let gateway = self.gateway();
        let words = self.words.of(asked.target);
        let mut rewritten = self.rewritten(x, asked.target);
        if let Some(bound) = &x.bound {
            rewritten.edits.add(bound.edits());
        }
        if words.is_some() {
            // they are in the words
            rewritten.edits = Edits::default();
        }
        Leg {
            edge: self.edge,
            x,
            settings: self.settings,
            pool: &gateway.pools[asked.pool_id],
            metrics: &gateway.pool_metrics[asked.pool_id],
            template: &self.snapshot.peers[asked.pool_id][asked.member.server],
            rewritten,
            words,
            target: asked.target,
            trace: asked.span.context(x.record.trace),
            shared,
            started: asked.since,
        }
    }
}

impl Relay<'_> {
    async fn run(
        mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<(), Stop> {
        let ground = self.ground;
        loop {
            let attempt = match self.next(session, x, upload).await? {
                Ok(attempt) => attempt,
                Err(spent) => return self.give_up(session, x, upload, spent).await,
            };
            self.count_step(&attempt);
            // a held answer's connection is worth keeping if its body is short
            if let Some(answer) = self.last.take().and_then(|last| last.answer) {
                tokio::spawn(answer.discard(ground.edge.clone()));
            }
            if x.record.attempts.is_empty() {
                x.began_attempts(&ground.edge.metrics);
            }
            let (asked, result) = self.ask(session, x, upload, attempt).await;
            mirror::copy_once(&ground, session.req_header(), x, upload);
            let outcome = match &result {
                Ok(answer) => outcome_of(answer),
                Err(Failed::Outcome(outcome)) => *outcome,
                Err(Failed::Stop(_)) => {
                    cancelled(&ground, x, &asked);
                    return match result {
                        Err(Failed::Stop(stop)) => Err(stop),
                        _ => Ok(()),
                    };
                }
            };
            note(&ground, x, &asked, outcome.brief());
            let verdict = judge(outcome, &ground.settings.retry.on);
            let poison = verdict == Verdict::TryNext && self.plan.is_poison(outcome);
            let result = match (verdict, result) {
                (Verdict::Deliver | Verdict::GiveUp, Ok(answer)) => {
                    self.blame_suspects(outcome);
                    return deliver(&ground, session, x, answer, Standing::Good, upload).await;
                }
                (_, Ok(answer)) if poison => {
                    self.settle(&asked, outcome, Some(&answer));
                    return deliver(&ground, session, x, answer, Standing::Last, upload).await;
                }
                (_, result) => result,
            };
            self.settle(&asked, outcome, result.as_deref().ok());
            x.left_pool(PoolId(asked.pool_id));
            let server = name(&ground, &asked);
            match result {
                Err(_) if verdict != Verdict::TryNext => {
                    return Err(reply::plan_failed(outcome, &server.0, &server.1).into());
                }
                result => {
                    self.last = Some(Last {
                        outcome,
                        pool: server.0,
                        server: server.1,
                        // it is only kept, and its server may serve others
                        answer: result.ok().map(|mut answer| {
                            answer.lease = None;
                            answer
                        }),
                    });
                }
            }
        }
    }

    /// The next attempt, after whatever has to be waited for.
    async fn next(
        &mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<Result<Attempt, Spent>, Stop> {
        let ground = self.ground;
        if hedge::needs_body(&ground, x, upload) {
            Box::pin(read_body(session, x, upload)).await?;
        }
        loop {
            if let Some(last) = self.last.as_ref().filter(|_| x.is_late(upload)) {
                let late = Outcome::TimedOut(Phase::Client);
                return Err(reply::plan_failed(late, &last.pool, &last.server).into());
            }
            let next = ground.on(session.req_header(), x, upload, |on| self.plan.next(on));
            for target in self.plan.take_cold() {
                preload::preload(&ground, target);
            }
            let attempt = match next {
                Ok(Next::Server(lease)) => {
                    self.admitted(session.req_header(), x, upload, lease).await
                }
                Ok(Next::ReadBody) => {
                    Box::pin(read_body(session, x, upload)).await?;
                    None
                }
                Ok(Next::Translate { target }) => {
                    Box::pin(read_body(session, x, upload)).await?;
                    Box::pin(ground.translate(x, upload, target)).await?;
                    None
                }
                // what few requests need must not make every one of them larger
                Ok(Next::Queue { target }) => {
                    Box::pin(self.queue(session, x, upload, target)).await?
                }
                Ok(Next::Warm { target }) => {
                    Box::pin(self.warm_up(session, x, upload, target)).await?;
                    None
                }
                Err(spent) => Some(Err(spent)),
            };
            let Some(attempt) = attempt else { continue };
            if let Ok(Attempt { pause: time, .. }) = &attempt
                && !time.is_zero()
            {
                let watched = upload.is_complete().then_some(&mut *session);
                stopped(while_client_stays(ground.edge, watched, pause(*time)).await)?;
            }
            return Ok(attempt);
        }
    }

    /// Makes an attempt of a server that was picked. `None` if the limits of its pool have no room
    /// for one: then the pool is passed over.
    pub(super) async fn admitted(
        &mut self,
        head: &RequestHeader,
        x: &Exchange,
        upload: &Upload,
        lease: Lease,
    ) -> Option<Result<Attempt, Spent>> {
        let ground = self.ground;
        let pool = ground.settings.targets[self.plan.target()].pool;
        let metrics = &ground.edge.metrics;
        if !x.take_of_pool(pool, upload.length(), metrics).await {
            self.plan.pass(Refusal::Limited);
            return None;
        }
        Some(ground.on(head, x, upload, |on| self.plan.granted(lease, on)))
    }

    /// Asks the server of an attempt, and a second one beside it if the route hedges.
    async fn ask(
        &mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        attempt: Attempt,
    ) -> (Asked, Result<Box<Answer>, Failed>) {
        let ground = self.ground;
        if let Some(after) = hedge::after(&ground, x, upload, &attempt) {
            return Box::pin(self.race(session, x, upload, attempt, after)).await;
        }
        let shared = self.shares_time(session.req_header(), x, upload);
        let asked = ground.asked(x, &attempt);
        let leg = ground.leg(x, &asked, shared);
        let result = leg.ask(Side::Live { session, upload }, attempt.lease).await;
        (asked, result)
    }

    /// Whether the time that the client gives has to do for another attempt.
    pub(super) fn shares_time(&self, head: &RequestHeader, x: &Exchange, upload: &Upload) -> bool {
        let plan = &self.plan;
        let others = || self.ground.on(head, x, upload, |on| plan.could_go_on(on));
        x.patience.is_some() && others()
    }

    /// Tells plan and pool how an attempt ended that is not passed on.
    pub(super) fn settle(&mut self, asked: &Asked, outcome: Outcome, answer: Option<&Answer>) {
        let gateway = self.ground.gateway();
        if outcome == Outcome::NoQuota {
            let server = gateway.pools[asked.pool_id].server(&asked.member);
            self.plan.account_is_spent(server);
        }
        let headers = answer.map(|answer| &answer.head.headers);
        let Asked {
            pool_id,
            member,
            trial,
            ..
        } = asked;
        let now = Instant::now();
        account(gateway, *pool_id, member, *trial, outcome, headers, now);
        // whose fault it was shows when somebody else does better
        if matches!(outcome, Outcome::Answered(500 | 501)) {
            self.suspects.push((*pool_id, member.clone(), *trial));
        }
    }

    /// Another server did well with what these answered 500 to: it was their fault.
    fn blame_suspects(&mut self, outcome: Outcome) {
        let gateway = self.ground.gateway();
        if matches!(outcome, Outcome::Answered(..400)) {
            for (pool_id, member, trial) in self.suspects.drain(..) {
                let (why, now) = (|| "500".into(), Instant::now());
                judge_server(gateway, pool_id, &member, trial, Conduct::Bad, why, now);
            }
        }
    }

    /// Nobody is left to ask: the last server's own error, or one of ours.
    async fn give_up(
        self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &Upload,
        spent: Spent,
    ) -> Result<(), Stop> {
        if spent == Spent::Budget {
            x.metrics().budget_exhausted.inc();
        }
        let ground = self.ground;
        match self.last {
            Some(Last {
                answer: Some(answer),
                ..
            }) => deliver(&ground, session, x, answer, Standing::Last, upload).await,
            Some(Last {
                outcome,
                pool,
                server,
                answer: None,
            }) => Err(reply::plan_failed(outcome, &pool, &server).into()),
            None => Err(nobody(&ground, x, upload, spent).into()),
        }
    }

    fn count_step(&self, attempt: &Attempt) {
        let ground = &self.ground;
        let metrics = &ground.edge.metrics;
        let last = self.last.as_ref();
        let reason = last.map_or("unavailable", |last| last.outcome.label());
        let pool = |target: usize| {
            let target = &ground.settings.targets[target];
            ground.gateway().config.pool(target.pool).name.as_str()
        };
        match attempt.step {
            Step::First | Step::Hedge => {}
            Step::Retry => metrics.retried(&ground.settings.name, reason),
            Step::Fallback { from } => {
                let (from, to) = (pool(from), pool(attempt.target));
                metrics.fell_back(&ground.settings.name, from, to, reason);
            }
        }
    }
}

/// Reads the rest of the body. That is the client's time, not ours and not the server's.
pub(super) async fn read_body(
    session: &mut Session,
    x: &mut Exchange,
    upload: &mut Upload,
) -> Result<(), Stop> {
    if upload.is_complete() {
        return Ok(());
    }
    let started = Instant::now();
    let read = upload.read_ahead(session, None).await;
    x.record.times.body += started.elapsed();
    read.map(drop)
}

/// The reply when no attempt was made.
fn nobody(ground: &Ground<'_>, x: &Exchange, upload: &Upload, spent: Spent) -> reply::Reply {
    let gateway = ground.gateway();
    let names = gateway.pool_names(ground.route, false);
    let pools = gateway.reachable(ground.route, x.home);
    let now = Instant::now();
    if let Some(server) = super::bound::maker_of(gateway, x)
        && matches!(spent, Spent::Passed(Refusal::Elsewhere) | Spent::Servers)
    {
        return reply::maker_is_down(&server);
    }
    let down = || {
        let soonest = pools.iter().filter_map(|pool| pool.back_in(now)).min();
        let back_in = soonest.unwrap_or(Duration::from_secs(1));
        reply::no_server_available(&gateway.pool_names(ground.route, x.home), back_in)
    };
    let wait = || {
        let priority = ground.settings.priority;
        let waits = pools.iter().map(|pool| pool.expected_wait(priority));
        // beyond this the SDKs do not come back at all
        waits.min().unwrap_or_default().min(Duration::from_secs(60))
    };
    match spent {
        Spent::Passed(Refusal::QueueFull) => reply::queue_full(&names, wait()),
        Spent::Passed(Refusal::QueueTimeout) => reply::queue_timeout(&names, wait()),
        Spent::Passed(Refusal::Warming) => reply::still_loading(&names),
        Spent::Passed(Refusal::Limited) => match x.exceeded_of_pool() {
            Some(exceeded) => reply::rate_limited(Scope::Pool.label(), &exceeded),
            None => down(),
        },
        Spent::Passed(Refusal::TooLarge) => {
            let audio = x.operation.is_some_and(|operation| operation.hears());
            let length = upload.length().unwrap_or(0);
            // whoever would take it may only be down
            let refusal = gateway.too_large(ground.route, x.home, audio, length);
            refusal.unwrap_or_else(down)
        }
        Spent::Passed(Refusal::Wordless) => {
            let refusal = ground.words.refusal(x, &names);
            refusal.unwrap_or_else(down)
        }
        Spent::Passed(Refusal::Zone) if pools.is_empty() => reply::nobody_at_home(&names),
        Spent::Passed(Refusal::Zone | Refusal::Elsewhere) | Spent::Servers | Spent::Budget => {
            down()
        }
    }
}

/// Why a wait was broken off, if it was.
pub(super) fn stopped<T>(waited: Result<T, Failed>) -> Result<T, Stop> {
    waited.map_err(|failed| match failed {
        Failed::Stop(stop) => stop,
        Failed::Outcome(_) => reply::stopping().into(),
    })
}

/// Names of the pool and the server.
fn name(ground: &Ground<'_>, asked: &Asked) -> (String, String) {
    let pool = &ground.gateway().pools[asked.pool_id];
    let server = pool.server(&asked.member);
    (pool.config.name.clone(), server.name.clone())
}

pub(super) fn note(
    ground: &Ground<'_>,
    x: &mut Exchange,
    asked: &Asked,
    result: Cow<'static, str>,
) {
    let (pool, server) = name(ground, asked);
    let asked_at = &ground.gateway().pools[asked.pool_id];
    let model = || {
        let public = x.record.model.as_deref();
        let gateway = ground.gateway();
        gateway.own_model(&ground.settings.targets[asked.target], public, x.is_audio())
    };
    let span = (asked.span).end(&asked_at.config, asked_at.server(&asked.member), model);
    x.record.attempts.push(AttemptNote {
        pool,
        server,
        result,
        span,
    });
}

/// Notes an attempt that nobody waits for any more.
pub(super) fn cancelled(ground: &Ground<'_>, x: &mut Exchange, asked: &Asked) {
    let metrics = &ground.gateway().pool_metrics[asked.pool_id];
    metrics.servers[asked.member.server].attempted("cancelled");
    note(ground, x, asked, "cancelled".into());
}

/// The target that is tried first: where several share the requests, the one whose part of the
/// weights the request's key falls into.
fn first_target(settings: &Route, head: &RequestHeader, x: &Exchange) -> usize {
    let total: u64 = settings.split.iter().copied().map(u64::from).sum();
    if total == 0 {
        return 0;
    }
    let stands = hashed(&HashBy::Key, head, x);
    // mixed once more: what one pool's ring gets of the keys is not to be one part of that ring
    let mut at = place(&stands) % total;
    let mut shares = settings.split.iter().copied().map(u64::from);
    let found = shares.position(|weight| match at.checked_sub(weight) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    });
    found.unwrap_or(0)
}

/// Where a request stands under `balance: hash`. One without the header or the key stands where its
/// address does.
fn hashed(by: &HashBy, head: &RequestHeader, x: &Exchange) -> u64 {
    let header = |name: &str| head.headers.get(name).map(http::HeaderValue::as_bytes);
    let value = match by {
        HashBy::ClientIp => None,
        // a token is another one every hour, and the same client
        HashBy::Key if x.record.key.is_some() => x.record.key.as_deref().map(str::as_bytes),
        HashBy::Key => ["authorization", "x-api-key", "api-key"]
            .into_iter()
            .find_map(header),
        HashBy::Header(name) => header(name.as_str()),
    };
    value.map_or_else(|| place(&x.record.client), place)
}
