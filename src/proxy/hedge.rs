//! Hedging: a second server is asked when the first takes unusually long, and the first good answer
//! wins. What that costs is bounded by the route's retry budget.

use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pingora::http::RequestHeader;

use super::account::outcome_of;
use super::body::Upload;
use super::connection::Answer;
use super::exchange::Exchange;
use super::leg::Failed;
use super::relay::{Asked, Ground, Relay, cancelled, note};
use super::session::Session;
use super::side::{Side, while_client_stays, within};
use crate::config::{Hedge, HedgeAfter, PoolId};
use crate::inspect::endpoint::Operation;
use crate::plan::{Attempt, Outcome, Phase, Plan, Verdict, judge};

type Result = std::result::Result<Box<Answer>, Failed>;

/// How a race ended.
struct Raced {
    last: Asked,
    result: Result,
    /// Who was not waited for, and how long it had been asked.
    left: Option<(Asked, Duration)>,
    /// The second one was asked, and its answer is the one that counts.
    won: bool,
}

/// How long the server of an attempt gets before a second one is asked; `None` if none is: the
/// route does not hedge, the request is long, or too little is known of the pool.
pub(super) fn after(
    ground: &Ground<'_>,
    x: &Exchange,
    upload: &Upload,
    attempt: &Attempt,
) -> Option<Duration> {
    let hedge = ground.settings.hedge?;
    if !upload.is_complete() || !is_short(&hedge, x, upload) {
        return None;
    }
    match hedge.after {
        HedgeAfter::Time(span) => Some(span.0),
        HedgeAfter::P95 => {
            let target = &ground.settings.targets[attempt.target];
            ground.gateway().pool(target.pool).p95()
        }
    }
}

/// Whether the body has to be here before the first server is asked: while it still arrives,
/// nobody else could be sent it.
pub(super) fn needs_body(ground: &Ground<'_>, x: &Exchange, upload: &Upload) -> bool {
    let hedge = ground.settings.hedge.as_ref();
    hedge.is_some_and(|hedge| is_short(hedge, x, upload))
}

/// Whether a request is one that a second server could do as well, and cheaply.
fn is_short(hedge: &Hedge, x: &Exchange, upload: &Upload) -> bool {
    let short = match x.operation {
        Some(Operation::Speech) => {
            let characters = x.record.characters;
            characters.is_some_and(|characters| characters <= hedge.max_characters)
        }
        Some(Operation::Embedding | Operation::Transcription | Operation::Translation) => true,
        _ => false,
    };
    let length = upload.length();
    short && length.is_some_and(|length| length <= hedge.max_body) && !x.upgrade
}

impl Relay<'_> {
    /// Asks the server of an attempt and, when `after` has passed, a second one.
    pub(super) async fn race(
        &mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &Upload,
        attempt: Attempt,
        after: Duration,
    ) -> (Asked, Result) {
        let ground = self.ground;
        let head = session.req_header().clone();
        let shared = self.shares_time(&head, x, upload);
        let first = ground.asked(x, &attempt);
        let cut_short = first.clone();
        let track = Track {
            ground,
            x,
            head: &head,
            upload,
            shared,
            other: OnceLock::new(),
            failed: Mutex::default(),
        };
        let racing = track.run(&mut self.plan, first, attempt, after);
        let raced = while_client_stays(ground.edge, Some(session), racing).await;
        let Track { other, failed, .. } = track;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.map(|(asked, result)| {
            self.lost(x, &asked, result);
            asked
        });
        let raced = match raced {
            Ok(raced) => raced,
            // the client left: whoever is still asked is cancelled, the last one by the caller
            Err(stopped) => {
                let mut asked = [Some(cut_short), other.into_inner()]
                    .into_iter()
                    .flatten()
                    .filter(|one| !failed.as_ref().is_some_and(|f| f.is_same(one)));
                let first = asked.next();
                let last = match (first, asked.next()) {
                    (Some(first), Some(second)) => {
                        cancelled(&ground, x, &first);
                        second
                    }
                    (Some(first), None) => first,
                    (None, _) => failed.expect("of two servers one failed"),
                };
                return (last, Err(stopped));
            }
        };
        if let Some((left, asked_for)) = raced.left {
            cancelled(&ground, x, &left);
            x.left_pool(PoolId(left.pool_id));
            // at least so long: else the pool would seem ever faster, as its slow answers are not
            // waited for
            ground.gateway().pools[left.pool_id].took(&left.member, asked_for);
        }
        if raced.won {
            x.metrics().hedges_won.inc();
        }
        (raced.last, raced.result)
    }

    /// Notes the one that ended first without a good answer.
    fn lost(&mut self, x: &mut Exchange, asked: &Asked, result: Result) {
        let outcome = ended(&result);
        note(&self.ground, x, asked, outcome.brief());
        self.plan.is_poison(outcome);
        self.settle(asked, outcome, result.as_deref().ok());
        x.left_pool(PoolId(asked.pool_id));
        if let Ok(answer) = result {
            tokio::spawn(answer.discard(self.ground.edge.clone()));
        }
    }
}

/// What both legs of a race share.
struct Track<'a> {
    ground: Ground<'a>,
    x: &'a Exchange,
    head: &'a RequestHeader,
    upload: &'a Upload,
    shared: bool,
    /// The second one, once it is asked: the race may end without a result.
    other: OnceLock<Asked>,
    /// Who ended first without a good answer, while the other is still asked.
    failed: Mutex<Option<(Asked, Result)>>,
}

impl<'a> Track<'a> {
    fn side(&self) -> Side<'a> {
        Side::Kept {
            head: self.head,
            upload: self.upload,
        }
    }

    async fn run(&self, plan: &mut Plan, asked: Asked, attempt: Attempt, after: Duration) -> Raced {
        let leg = self.ground.leg(self.x, &asked, self.shared);
        let mut first = pin!(leg.ask(self.side(), attempt.lease));
        let soon = (Some(Instant::now() + after), Phase::FirstByte);
        let early = within(soon, &mut first).await;
        let second = match early {
            Ok(_) => None,
            Err(_) => self.second(plan).await,
        };
        let Some(second) = second else {
            let result = match early {
                Ok(result) => result,
                Err(_) => first.await,
            };
            return Raced {
                last: asked,
                result,
                left: None,
                won: false,
            };
        };
        self.x.metrics().hedges_started.inc();
        let other = self.ground.asked(self.x, &second);
        let _ = self.other.set(other.clone());
        let other_leg = self.ground.leg(self.x, &other, self.shared);
        let mut second = pin!(other_leg.ask(self.side(), second.lease));
        let (result, second_ended) = tokio::select! {
            biased;
            result = &mut first => (result, false),
            result = &mut second => (result, true),
        };
        let (ended_first, still_asked) = match second_ended {
            true => (other, asked),
            false => (asked, other),
        };
        let asked_for = match second_ended {
            true => leg.started.elapsed(),
            false => other_leg.started.elapsed(),
        };
        if self.is_good(&result, second_ended) {
            return Raced {
                last: ended_first,
                result,
                left: Some((still_asked, asked_for)),
                won: second_ended,
            };
        }
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((ended_first, result));
        let rest = match second_ended {
            true => first.await,
            false => second.await,
        };
        Raced {
            won: !second_ended && self.is_good(&rest, true),
            last: still_asked,
            result: rest,
            left: None,
        }
    }

    async fn second(&self, plan: &mut Plan) -> Option<Attempt> {
        let hedge = self.ground.settings.hedge?;
        let second = self.ground.on(self.head, self.x, self.upload, |on| {
            plan.second(on, hedge.paid)
        })?;
        let pool = self.ground.settings.targets[second.target].pool;
        let metrics = &self.ground.edge.metrics;
        let length = self.upload.length();
        let allowed = self.x.take_of_pool(pool, length, metrics).await;
        allowed.then_some(second)
    }

    /// Whether an answer ends the race. An error of the second server's own, of a key it does not
    /// take or a model it does not have, is no reason to give the first one up.
    fn is_good(&self, result: &Result, second: bool) -> bool {
        let outcome = ended(result);
        let verdict = judge(outcome, &self.ground.settings.retry.on);
        let refused = matches!(outcome, Outcome::Answered(400..));
        result.is_ok() && verdict == Verdict::Deliver && !(second && refused)
    }
}

fn ended(result: &Result) -> Outcome {
    match result {
        Ok(answer) => outcome_of(answer),
        Err(Failed::Outcome(outcome)) => *outcome,
        // reading a kept body failed on our side
        Err(Failed::Stop(_)) => Outcome::Reset,
    }
}
