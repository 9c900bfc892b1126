//! Waiting before an attempt: for a slot of a busy server, or for a model that is being loaded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::Upload;
use super::exchange::{Exchange, Stop};
use super::relay::{Relay, read_body, stopped};
use super::session::Session;
use super::side::{pause, while_client_stays, within};
use crate::observe::metrics::QueueRefusal;
use crate::plan::{Attempt, Phase, Refusal, Spent};
use crate::pool::{Lease, Pool, Ticket};
use crate::reply;

/// How often one that waits looks whether time alone changed something: an ejection that ended, a
/// pool that went down.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server that loads is left alone between two requests.
const WARM_UP: Duration = Duration::from_millis(250);

/// How waiting for a slot ended.
enum Waited {
    Slot(Lease),
    /// Its place was given to somebody more urgent.
    Displaced,
    TooLong,
    /// Every server it could wait for is gone.
    InVain,
}

impl Relay<'_> {
    /// Waits in line for a slot of a target's pool. `None`: the pool is passed over, or the plan has
    /// to look again.
    pub(super) async fn queue(
        &mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        target: usize,
    ) -> Result<Option<Result<Attempt, Spent>>, Stop> {
        let ground = self.ground;
        let id = ground.settings.targets[target].pool;
        let pool = ground.gateway().pool(id).clone();
        let metrics = &ground.gateway().pool_metrics[id.0];
        let priority = ground.settings.priority;
        let limit = pool.config.queue.timeout;
        let elsewhere = ground.on(session.req_header(), x, upload, |on| {
            self.plan.has_another_pool(on)
        });
        if elsewhere && limit.is_some_and(|limit| pool.expected_wait(priority) > limit) {
            metrics.refused(QueueRefusal::Spilled);
            self.plan.pass(Refusal::QueueTimeout);
            return Ok(None);
        }
        // only of a client whose body is here we hear when it leaves
        read_body(session, x, upload).await?;
        let joining = Instant::now();
        let ticket = ground.on(session.req_header(), x, upload, |on| {
            self.plan.asking(target, &pool, on, |wanted| {
                pool.join(wanted, priority, on.now)
            })
        });
        let Some(ticket) = ticket else {
            metrics.refused(QueueRefusal::Full);
            self.plan.pass(Refusal::QueueFull);
            return Ok(None);
        };
        let limit = limit.map(|limit| joining + limit);
        let end = [limit, give_up(x, upload, joining, elsewhere)];
        let end = end.into_iter().flatten().min();
        let waited = self
            .wait_in_line(session, x, upload, &pool, ticket, end)
            .await;
        x.record.times.queue += joining.elapsed();
        metrics.queued.observe(joining.elapsed().as_secs_f64());
        match waited? {
            Waited::Slot(lease) => {
                let head = session.req_header();
                return Ok(self.admitted(head, x, upload, lease).await);
            }
            Waited::Displaced => {
                metrics.refused(QueueRefusal::Full);
                self.plan.pass(Refusal::QueueFull);
            }
            Waited::TooLong => {
                metrics.refused(QueueRefusal::Timeout);
                self.plan.pass(Refusal::QueueTimeout);
            }
            Waited::InVain => {}
        }
        Ok(None)
    }

    async fn wait_in_line(
        &self,
        session: &mut Session,
        x: &Exchange,
        upload: &Upload,
        pool: &Arc<Pool>,
        mut ticket: Ticket,
        end: Option<Instant>,
    ) -> Result<Waited, Stop> {
        let ground = self.ground;
        loop {
            let now = Instant::now();
            let look = end.map_or(now + LOOK, |end| end.min(now + LOOK));
            let granted = within((Some(look), Phase::Idle), ticket.granted());
            match stopped(while_client_stays(ground.edge, Some(session), granted).await)? {
                // freed by a request that was cut as the program ends, as this one would be
                Ok(Some(_)) if *ground.edge.cut.borrow() => return Err(reply::stopping().into()),
                Ok(Some(lease)) => return Ok(Waited::Slot(lease)),
                Ok(None) => return Ok(Waited::Displaced),
                Err(_) if end.is_some_and(|end| Instant::now() >= end) => {
                    return Ok(Waited::TooLong);
                }
                Err(_) => {}
            }
            let now = Instant::now();
            pool.serve_queue(now);
            let hope = ground.on(session.req_header(), x, upload, |on| {
                self.plan.asking(self.plan.target(), pool, on, |wanted| {
                    pool.is_worth_waiting(wanted, now)
                })
            });
            if !hope {
                return Ok(Waited::InVain);
            }
        }
    }

    /// Waits a moment for servers that load, as long as their pool's `first_byte` and the client
    /// allow.
    pub(super) async fn warm_up(
        &mut self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        target: usize,
    ) -> Result<(), Stop> {
        let ground = self.ground;
        let pool = ground.gateway().pool(ground.settings.targets[target].pool);
        let since = *self.warming_since.get_or_insert_with(Instant::now);
        let elsewhere = ground.on(session.req_header(), x, upload, |on| {
            self.plan.has_another_pool(on)
        });
        let limit = pool.config.timeouts.first_byte.map(|limit| since + limit);
        let end = [limit, give_up(x, upload, since, elsewhere)];
        let left = end
            .into_iter()
            .flatten()
            .min()
            .map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            self.warming_since = None;
            self.plan.pass(Refusal::Warming);
            return Ok(());
        }
        read_body(session, x, upload).await?;
        // while it is known who loads: by the end of the pause it may be over
        self.plan.try_again(pool, Instant::now());
        let moment = left.map_or(WARM_UP, |left| left.min(WARM_UP));
        let waited = while_client_stays(ground.edge, Some(session), pause(moment)).await;
        x.record.times.queue += moment;
        stopped(waited)?;
        Ok(())
    }
}

/// When one that waits since then waits no longer for the client's sake: half of its time is for
/// somebody else, if there is one.
fn give_up(x: &Exchange, upload: &Upload, since: Instant, elsewhere: bool) -> Option<Instant> {
    let deadline = x.deadline(upload)?;
    let left = deadline.saturating_duration_since(since);
    Some(if elsewhere {
        since + left / 2
    } else {
        deadline
    })
}
