//! What a running program is told: by signals, by the admin endpoints, by files that change.
//!
//! SIGHUP reloads, SIGQUIT upgrades, SIGUSR1 opens the access log anew, SIGUSR2 shows messages down
//! to debug or no longer, SIGTERM and SIGINT stop.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::background;
use super::listeners::lock;
use super::logger;
use super::reload::{Files, Reload};
use super::upgrade::Program;
use crate::config::Level;
use crate::service::admin::{Order, What};
use crate::unit::Span;

/// How often files are looked at. A change is taken up when it was seen twice: a file that is being
/// written is never read half.
const LOOK: Duration = Duration::from_secs(1);

/// What reloads, upgrades and stops a running program.
pub(super) struct Conductor<'a> {
    pub(super) reload: Reload<'a>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) program: &'a Program,
    /// What the configuration was read from, as it was then: a start takes its time.
    pub(super) files: Files,
    /// Heard from before the listeners are open.
    pub(super) signals: Signals,
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stopped,
    /// Another one serves in its place.
    Replaced,
}

/// What was heard.
enum Heard {
    Stop,
    Changed,
    Debug,
    Signal(What),
    Order(Order),
}

impl Conductor<'_> {
    /// Does what it is told until that is to end.
    pub(super) async fn until_the_end(mut self) -> End {
        // when messages are shown as configured again
        let mut quiet_again: Option<Instant> = None;
        loop {
            let heard = tokio::select! {
                heard = self.signals.next() => heard,
                Some(order) = self.orders.recv() => Heard::Order(order),
                () = sleep(LOOK) => match self.files.changed() {
                    true => Heard::Changed,
                    false => {
                        if quiet_again.take_if(|end| *end <= Instant::now()).is_some() {
                            show(None);
                        }
                        continue;
                    }
                },
            };
            // certificates are polled too, and told of by who does
            let polled = matches!(heard, Heard::Changed);
            let (what, order, by) = match heard {
                Heard::Stop => return End::Stopped,
                Heard::Debug => {
                    show(logger::debug_or_not());
                    quiet_again = None;
                    continue;
                }
                Heard::Changed => (What::Reload, None, "a changed file"),
                Heard::Signal(what) => (what, None, "a signal"),
                Heard::Order(order) => (order.what, Some(order), "the admin listener"),
            };
            let done = match what {
                What::Reload => {
                    // taken before the files are read: what is written meanwhile is another change
                    let before = self.reload.look();
                    let done = self.reload.run(by, !polled).await;
                    self.files = self.reload.look_since(before);
                    done
                }
                What::Upgrade => self.upgrade(by),
                What::ReopenLogs => self.reload.reopen_logs(),
                What::LogLevel(level, time) => {
                    quiet_again = time.map(|time| Instant::now() + time);
                    Ok(show_for(level, time))
                }
            };
            let replaced = what == What::Upgrade && done.is_ok();
            if let Some(order) = order {
                let _ = order.done.send(done);
            }
            if replaced {
                return End::Replaced;
            }
        }
    }

    /// Lets the program that is installed now take over.
    ///
    /// # Errors
    /// If it cannot; then this one goes on as it was.
    fn upgrade(&mut self, by: &str) -> Result<String, String> {
        log::info!("an upgrade begins (asked for by {by})");
        let running = self.reload.running;
        let snapshot = running.edge.snapshot();
        let sockets = lock(&running.listeners).for_another();
        let config = self.reload.file.as_deref();
        // it waits, for a process and not for a future
        let taken = tokio::task::block_in_place(|| {
            let sockets = sockets.map_err(|e| format!("the sockets cannot be handed over: {e}"))?;
            let mut told_to_stop = || self.signals.told_to_stop();
            self.program
                .take_over(config, sockets, &snapshot.gateway, &mut told_to_stop)
        });
        match taken {
            Ok(process) => {
                let message = format!("process {process} has taken over");
                log::info!("{message}; this one finishes what is in flight");
                running.notify.replaced_by(process);
                // whoever is told so finds it so
                running.edge.draining.store(true, Relaxed);
                Ok(message)
            }
            Err(why) => {
                match self.signals.stop {
                    true => log::info!("the upgrade is over: {why}"),
                    false => log::error!("the upgrade failed, and this program goes on: {why}"),
                }
                if let Some(path) = &self.reload.options.pid_file {
                    background::write_pid(path);
                }
                Err(why)
            }
        }
    }
}

fn show_for(level: Option<Level>, time: Option<Duration>) -> String {
    let time = time.map(|time| format!(" for {}", Span(time)));
    show(level) + &time.unwrap_or_default()
}

fn show(level: Option<Level>) -> String {
    logger::show(level);
    let message = match level {
        Some(level) => format!("messages down to {level} are shown"),
        None => "messages are shown as configured".to_owned(),
    };
    log::info!("{message}");
    message
}

pub(super) struct Signals {
    all: [(Signal, fn() -> Heard); 6],
    /// Told to stop while nobody listened to anything else.
    stop: bool,
}

impl Signals {
    pub(super) fn new() -> Self {
        let listen = |kind, heard: fn() -> Heard| {
            (
                signal(kind).expect("signals can be listened to at start-up"),
                heard,
            )
        };
        let all = [
            listen(SignalKind::terminate(), || Heard::Stop),
            listen(SignalKind::interrupt(), || Heard::Stop),
            listen(SignalKind::hangup(), || Heard::Signal(What::Reload)),
            listen(SignalKind::quit(), || Heard::Signal(What::Upgrade)),
            listen(SignalKind::user_defined1(), || {
                Heard::Signal(What::ReopenLogs)
            }),
            listen(SignalKind::user_defined2(), || Heard::Debug),
        ];
        Signals { all, stop: false }
    }

    /// Whether it is time to stop, for who does not wait; `next` says so too.
    fn told_to_stop(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for (signal, heard) in &mut self.all {
            if matches!(heard(), Heard::Stop) && signal.poll_recv(&mut cx).is_ready() {
                self.stop = true;
            }
        }
        self.stop
    }

    async fn next(&mut self) -> Heard {
        if self.stop {
            return Heard::Stop;
        }
        std::future::poll_fn(|cx| {
            for (signal, heard) in &mut self.all {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(heard());
                }
            }
            Poll::Pending
        })
        .await
    }
}
