//! The client's side of an attempt: where the body comes from, and who notices that it left.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::RequestHeader;

use super::body::Upload;
use super::exchange::Stop;
use super::leg::Failed;
use super::session::Session;
use super::{Edge, alarm, outcome};
use crate::plan::{Outcome, Phase};

/// The client during an attempt.
pub(super) enum Side<'a> {
    /// Its body may still be arriving, and it is watched here.
    Live {
        session: &'a mut Session,
        upload: &'a mut Upload,
    },
    /// Its body is here, and whoever runs the attempt watches it: for two attempts at once.
    Kept {
        head: &'a RequestHeader,
        upload: &'a Upload,
    },
}

impl Side<'_> {
    pub(super) fn head(&self) -> &RequestHeader {
        match self {
            Side::Live { session, .. } => session.req_header(),
            Side::Kept { head, .. } => head,
        }
    }

    pub(super) fn upload(&self) -> &Upload {
        match self {
            Side::Live { upload, .. } => upload,
            Side::Kept { upload, .. } => upload,
        }
    }

    /// The piece of the body that starts at `offset`; `None` at its end.
    pub(super) async fn next(&mut self, offset: u64) -> Result<Option<Bytes>, Stop> {
        match self {
            Side::Live { session, upload } => upload.next(session, offset).await,
            Side::Kept { upload, .. } => upload.again(offset).await,
        }
    }

    /// The first piece of a body that nobody has read yet, if it came together with the head: it can
    /// go out together with the head, too.
    pub(super) async fn at_hand(&mut self) -> Result<Option<Bytes>, Stop> {
        let Side::Live { session, upload } = self else {
            return Ok(None);
        };
        if !upload.may_be_at_hand() {
            return Ok(None);
        }
        // polled once: a read that has to wait has taken nothing yet
        tokio::select! {
            biased;
            read = upload.next(session, 0) => read,
            () = std::future::ready(()) => Ok(None),
        }
    }

    /// What `work` gives, unless the client leaves before (then the server need not go on either),
    /// or the program ends. While a body is still arriving the client is not watched; reading it
    /// tells.
    pub(super) async fn during<T>(
        &mut self,
        edge: &Edge,
        work: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        match self {
            Side::Live { session, upload } => {
                let watched = upload.is_complete().then_some(&mut **session);
                while_client_stays(edge, watched, work).await
            }
            Side::Kept { .. } => Ok(work.await),
        }
    }

    /// What a read from the server gives, in time and while the client stays.
    pub(super) async fn wait<T>(
        &mut self,
        edge: &Edge,
        bound: Bound,
        reading: impl Future<Output = pingora::Result<T>>,
    ) -> Result<T, Failed> {
        let reading = pin!(within(bound, reading));
        match self.during(edge, reading).await? {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(outcome::of_talking(&error).into()),
            Err(phase) => Err(Outcome::TimedOut(phase).into()),
        }
    }
}

/// What `work` gives, unless the client, if it is watched, leaves before, or the program ends.
pub(super) async fn while_client_stays<T>(
    edge: &Edge,
    watched: Option<&mut Session>,
    work: impl Future<Output = T>,
) -> Result<T, Failed> {
    let left = async {
        match watched {
            Some(session) => session.leaves().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = left => Err(Failed::Stop(Stop::ClientGone)),
        () = alarm::cut(&edge.cut) => Err(Failed::Outcome(Outcome::TimedOut(Phase::Shutdown))),
    }
}

/// What `work` gives if it does not have to wait.
pub(super) async fn at_once<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A moment, and what it means if it passes.
pub(super) type Bound = (Option<Instant>, Phase);

/// The earliest of some moments; without any, nothing is bounded.
pub(super) fn earliest(moments: &[Option<(Instant, Phase)>], otherwise: Phase) -> Bound {
    let first = moments.iter().flatten().min_by_key(|(at, _)| *at);
    (
        first.map(|(at, _)| *at),
        first.map_or(otherwise, |(_, phase)| *phase),
    )
}

/// What `work` gives, or the phase whose limit passed.
pub(super) async fn within<T>(
    (at, phase): Bound,
    work: impl Future<Output = T>,
) -> Result<T, Phase> {
    match at {
        Some(at) => alarm::by(at, work).await.ok_or(phase),
        None => Ok(work.await),
    }
}

/// Waits for so long.
pub(super) async fn pause(duration: Duration) {
    alarm::within(duration, std::future::pending::<()>()).await;
}
