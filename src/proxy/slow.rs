//! Clients that send or take too slowly.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::response::Parts;
use pingora::ErrorType;

use super::alarm;
use super::session::{Session, WRITE_TIMEOUT};
use super::side::at_once;
use crate::config::Limits;
use crate::limit::Pace;

/// Why a client is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slow {
    /// It did nothing for too long.
    Silent,
    /// It did too little for too long.
    Dripping,
}

/// How slow a client may be, with what it sends or with what it takes.
pub(super) fn pace(limits: &Limits) -> Pace {
    Pace::new(
        limits.min_rate,
        limits.body_timeout.unwrap_or(WRITE_TIMEOUT),
    )
}

/// What `work` with a client gives, if it is done within `limit` and at its pace. `bytes` are what
/// goes to it. Only where the client has to be waited for, there is a clock.
pub(super) async fn in_time<T>(
    limit: Option<Duration>,
    pace: &mut Pace,
    bytes: usize,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Slow> {
    if let Some(done) = at_once(work.as_mut()).await {
        pace.moved(bytes, Duration::ZERO);
        return Ok(done);
    }
    let left = pace.left(bytes);
    let started = Instant::now();
    let done = match [limit, left].into_iter().flatten().min() {
        Some(limit) => alarm::within(limit, work).await,
        None => Some(work.await),
    };
    pace.moved(bytes, started.elapsed());
    let dripping = left.is_some_and(|left| limit.is_none_or(|limit| left < limit));
    done.ok_or(if dripping {
        Slow::Dripping
    } else {
        Slow::Silent
    })
}

/// Why a client did not take what was for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    Gone,
    Slow,
}

/// Sends the head of an answer, with `more` together with what follows at once.
pub(super) async fn write_head(
    session: &mut Session,
    head: &Parts,
    more: bool,
    pace: &mut Pace,
) -> Result<(), NotTaken> {
    taken(pin!(session.write_head(head, more)), pace, 0).await
}

/// Sends a piece of its body.
pub(super) async fn write_body(
    session: &mut Session,
    piece: Bytes,
    end: bool,
    pace: &mut Pace,
) -> Result<(), NotTaken> {
    let bytes = piece.len();
    taken(pin!(session.write_body(piece, end)), pace, bytes).await
}

async fn taken(
    writing: Pin<&mut impl Future<Output = pingora::Result<()>>>,
    pace: &mut Pace,
    bytes: usize,
) -> Result<(), NotTaken> {
    match in_time(Some(WRITE_TIMEOUT), pace, bytes, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if *error.etype() == ErrorType::WriteTimedout => Err(NotTaken::Slow),
        Ok(Err(_)) => Err(NotTaken::Gone),
        Err(_) => Err(NotTaken::Slow),
    }
}
