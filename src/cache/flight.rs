//! One request to a server for all who ask the same at once. The first one leads: what it is
//! answered is passed on to the others piece by piece, as it comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Headers, Stored};

/// Bytes of an answer too large to be kept that are held for those who read along.
const READ_ALONG: usize = 64 * 1024 * 1024;

/// An answer on its way.
pub(super) struct Flight {
    state: Mutex<State>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    headers: Option<Arc<Begun>>,
    pieces: Vec<Bytes>,
    length: usize,
    followers: usize,
    end: Option<End>,
}

/// The head of an answer that is on its way.
pub(crate) struct Begun {
    pub(crate) headers: Headers,
    /// Of the body, if the server says it.
    pub(crate) length: Option<u64>,
    pub(crate) age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// There is no answer for others.
    Refused,
    /// The leader left before there was an answer: another may lead.
    Left,
    /// The answer broke off.
    Broken,
}

/// What a follower learns first.
pub(crate) enum First {
    Begun(Arc<Begun>),
    /// It has to ask a server by itself.
    Alone,
    /// Somebody else may lead.
    Again,
}

/// What comes next of an answer that has begun.
pub(crate) enum Next {
    Piece(Bytes),
    End,
    Broken,
}

/// One who asked the same while somebody else was asking.
pub(crate) struct Follower {
    flight: Arc<Flight>,
    news: watch::Receiver<()>,
    /// The piece it gets next.
    at: usize,
}

impl Flight {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Flight {
            state: Mutex::default(),
            news: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>) -> Follower {
        self.state().followers += 1;
        Follower {
            news: self.news.subscribe(),
            flight: self.clone(),
            at: 0,
        }
    }

    pub(super) fn is_followed(&self) -> bool {
        self.state().followers > 0
    }

    pub(super) fn begin(&self, begun: Begun) {
        self.state().headers = Some(Arc::new(begun));
        self.news.send_replace(());
    }

    /// Takes the next piece; says how long the answer is by now.
    pub(super) fn push(&self, piece: Bytes) -> usize {
        let mut state = self.state();
        state.length += piece.len();
        state.pieces.push(piece);
        let length = state.length;
        drop(state);
        self.news.send_replace(());
        length
    }

    /// Holds what came only for those who read along, if there are any, and not without bound.
    pub(super) fn give_up_keeping(&self) -> bool {
        let mut state = self.state();
        let goes_on = state.followers > 0 && state.length < READ_ALONG;
        if !goes_on {
            state.pieces = Vec::new();
            state.end = Some(End::Broken);
        }
        drop(state);
        self.news.send_replace(());
        goes_on
    }

    pub(super) fn refuse(&self) {
        self.end(End::Refused);
    }

    /// The leader is gone, and it did not say how it went.
    pub(super) fn abandon(&self) {
        let begun = self.state().headers.is_some();
        self.end(if begun { End::Broken } else { End::Left });
    }

    /// All is here; those who read along need no more than that.
    pub(super) fn whole(&self) {
        self.end(End::Whole);
    }

    /// What came so far, in one piece.
    pub(super) fn stored(&self) -> Option<Stored> {
        let (begun, pieces) = {
            let state = self.state();
            (state.headers.clone()?, state.pieces.clone())
        };
        // copied: a piece may be a small part of a large buffer
        Some(Stored::new(begun.headers.clone(), pieces.concat().into()))
    }

    fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.news.send_replace(());
    }
}

impl Follower {
    /// Waits until the leader has an answer, or none.
    pub(crate) async fn first(&mut self) -> First {
        loop {
            self.news.borrow_and_update();
            {
                let state = self.flight.state();
                match (&state.headers, state.end) {
                    (_, Some(End::Refused | End::Broken)) => return First::Alone,
                    (_, Some(End::Left)) => return First::Again,
                    (Some(begun), _) => return First::Begun(begun.clone()),
                    (None, _) => {}
                }
            }
            if self.news.changed().await.is_err() {
                return First::Alone;
            }
        }
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            self.news.borrow_and_update();
            {
                let state = self.flight.state();
                if let Some(piece) = state.pieces.get(self.at) {
                    self.at += 1;
                    return Next::Piece(piece.clone());
                }
                match state.end {
                    Some(End::Whole) => return Next::End,
                    Some(_) => return Next::Broken,
                    None => {}
                }
            }
            if self.news.changed().await.is_err() {
                return Next::Broken;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.state().followers -= 1;
    }
}
