//! What becomes of connections when the system has no descriptors left.
//!
//! Without one a connection can neither be accepted nor refused: it waits, and its client with it.
//! So a descriptor is kept in reserve, and given up for as long as it takes to turn somebody away.

use std::fs::File;
use std::io;
use std::time::Duration;

use pingora::Error;
use tokio::net::TcpListener;

/// How long somebody to be turned away may take to show up.
const SHOW_UP: Duration = Duration::from_millis(10);
/// Descriptors for all but the requests: listeners, logs, probes, kept connections.
const OWN: u64 = 64;
/// What the `errno`s of a limit of the process and of the system are, on every Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Whether an error means that no descriptor is left.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// The same for an error of Pingora, whose cause it may be.
pub(crate) fn ran_out(error: &Error) -> bool {
    let Some(cause) = &error.cause else {
        return false;
    };
    match cause.downcast_ref::<io::Error>() {
        Some(error) => are_exhausted(error),
        // they stand in boxes in boxes
        None => cause
            .downcast_ref::<Box<Error>>()
            .is_some_and(|error| ran_out(error)),
    }
}

/// As many of these connections as there are descriptors for: each needs one of its own and one to
/// a server.
pub(crate) fn fitting(connections: usize) -> usize {
    let Ok((limit, _)) = rlimit::Resource::NOFILE.get() else {
        return connections;
    };
    let room = limit.saturating_sub(OWN).max(limit / 2) / 2;
    let room = usize::try_from(room.max(1)).unwrap_or(usize::MAX);
    if room < connections {
        log::warn!(
            "the system allows {limit} open descriptors, which is enough for {room} connections and not for the {connections} of `limits.connections`; raise it (`LimitNOFILE=` of systemd, `ulimit -n`)"
        );
    }
    room.min(connections)
}

/// A descriptor in reserve.
pub(super) struct Spare(Option<File>);

impl Spare {
    pub(super) fn new() -> Self {
        Spare(File::open("/dev/null").ok())
    }

    /// Closes a connection that waits to be accepted. `false` if that cannot be done either.
    pub(super) async fn turn_away(&mut self, listener: &TcpListener) -> bool {
        let had = self.0.take().is_some();
        let turned_away = had
            && matches!(
                tokio::time::timeout(SHOW_UP, listener.accept()).await,
                Ok(Ok(_))
            );
        *self = Spare::new();
        turned_away
    }
}
