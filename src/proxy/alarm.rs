//! One clock for all that a connection waits for.
//!
//! Most waits are bounded and nearly none reaches its bound, so a timer for each, made and thrown
//! away, costs more than what is waited for. Here a wait only says until when; the task of the
//! connection has one timer, for the earliest of what was said when it last went to sleep. It is not
//! moved when the next wait ends later: it rings once for nothing, and is set anew. The end of the
//! program wakes the task the same way.

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::Sleep;

tokio::task_local! {
    static ALARM: Alarm;
}

/// What a task that waits has said.
struct Alarm {
    /// Of the task: who waits with another one would not be woken by it.
    waker: OnceCell<Waker>,
    earliest: Cell<Option<Instant>>,
    /// The timer has rung, so that some wait may be over.
    rings: Cell<bool>,
    cut: Signal,
}

/// Something that is said once, and seen without a lock.
#[derive(Clone)]
pub(super) struct Signal {
    said: watch::Receiver<bool>,
    from_the_start: bool,
}

impl Signal {
    pub(super) fn new(said: watch::Receiver<bool>) -> Self {
        let from_the_start = *said.borrow();
        Signal {
            said,
            from_the_start,
        }
    }

    /// Whether it was said, or nobody is left who could.
    pub(super) fn is_up(&self) -> bool {
        self.from_the_start || self.said.has_changed().unwrap_or(true)
    }

    /// Waits until it is.
    pub(super) async fn up(mut self) {
        if !self.is_up() {
            let _ = self.said.wait_for(|said| *said).await;
        }
    }
}

/// The timer of a task.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it rings, if it does.
    set: Option<Instant>,
}

impl Timer {
    /// Whether it has rung since it was set.
    fn rings(&mut self) -> bool {
        let elapsed = |timer: &Timer| timer.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed());
        let rings = self.set.is_some() && elapsed(self);
        if rings {
            self.set = None;
        }
        rings
    }

    fn set(&mut self, at: Instant, cx: &mut Context<'_>) {
        if self.set.is_some_and(|set| set <= at) {
            return;
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        sleep.as_mut().reset(at.into());
        self.set = Some(at);
        if sleep.as_mut().poll(cx).is_ready() {
            // it passed meanwhile
            cx.waker().wake_by_ref();
        }
    }
}

/// Does the work of a task. It is woken when a wait in it is over, when the program ends (`cut`),
/// and when `stop` is said. The work is on the heap: a future that is handed on by value takes its
/// room in each of those that hand it on.
pub(super) async fn watched<F: Future>(
    stop: Signal,
    cut: Signal,
    mut work: Pin<Box<F>>,
) -> F::Output {
    let alarm = Alarm {
        waker: OnceCell::new(),
        earliest: Cell::default(),
        rings: Cell::default(),
        cut: cut.clone(),
    };
    let watching = async move {
        let mut ends = pin!(async { tokio::join!(stop.clone().up(), cut.clone().up()) });
        let mut seen = None;
        let mut timer = Timer::default();
        poll_fn(|cx| {
            let rings = timer.rings();
            ALARM.with(|alarm| {
                alarm.waker.get_or_init(|| cx.waker().clone());
                alarm.rings.set(rings);
                alarm.earliest.set(None);
            });
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            // who was asked once to wake the task does it, whatever it does meanwhile
            let said = Some((stop.is_up(), cut.is_up()));
            if seen != Some((true, true)) && seen != said {
                seen = said;
                let _ = ends.as_mut().poll(cx);
            }
            if let Some(earliest) = ALARM.with(|alarm| alarm.earliest.get()) {
                timer.set(earliest, cx);
            }
            Poll::Pending
        })
        .await
    };
    ALARM.scope(alarm, watching).await
}

/// Asks the alarm of the task that waits with `cx`; `None` if it has none.
fn of_task<T>(cx: &Context<'_>, ask: impl FnOnce(&Alarm) -> T) -> Option<T> {
    let ask = |alarm: &Alarm| {
        let same = alarm.waker.get()?.will_wake(cx.waker());
        same.then(|| ask(alarm))
    };
    ALARM.try_with(ask).ok().flatten()
}

/// What `work` gives, if it is done by then.
pub(super) async fn by<T>(at: Instant, work: impl Future<Output = T>) -> Option<T> {
    bounded(work, || Some(at)).await
}

/// The same, in so much time. Who does not have to wait does not ask for the time either.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    bounded(work, || Instant::now().checked_add(time)).await
}

/// What `work` gives, if it is done by the moment that is told when it first has to wait.
async fn bounded<T>(
    work: impl Future<Output = T>,
    mut end: impl FnMut() -> Option<Instant>,
) -> Option<T> {
    let mut work = pin!(work);
    let (mut at, mut own) = (None, None);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let Some(at) = *at.get_or_insert_with(&mut end) else {
            return Poll::Pending;
        };
        let passed = of_task(cx, |alarm| {
            let earliest = alarm.earliest.get().map_or(at, |other| other.min(at));
            alarm.earliest.set(Some(earliest));
            alarm.rings.get() && Instant::now() >= at
        });
        let passed = passed.unwrap_or_else(|| {
            let own = own.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            own.as_mut().poll(cx).is_ready()
        });
        match passed {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    })
    .await
}

/// Ends when the program does and its requests are cut, as `edge_cut` says.
pub(super) async fn cut(edge_cut: &watch::Sender<bool>) {
    let mut own = None;
    poll_fn(|cx| {
        let up = of_task(cx, |alarm| alarm.cut.is_up());
        let up = up.unwrap_or_else(|| {
            let own = own.get_or_insert_with(|| Box::pin(Signal::new(edge_cut.subscribe()).up()));
            own.as_mut().poll(cx).is_ready()
        });
        match up {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3600);

    /// Does the work with a timer, and hands out what ends the program.
    async fn with_alarm<F: Future>(work: impl FnOnce(watch::Sender<bool>) -> F) -> F::Output {
        let (sender, cut) = watch::channel(false);
        let stop = Signal::new(watch::Sender::new(false).subscribe());
        watched(stop, Signal::new(cut), Box::pin(work(sender))).await
    }

    async fn ends_soon(wait: impl Future<Output = Option<()>>) {
        let started = Instant::now();
        assert_eq!(wait.await, None);
        assert!(started.elapsed() >= SOON, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_wait_ends_at_its_moment_and_what_is_done_before_is_handed_on() {
        with_alarm(|_cut| async {
            ends_soon(within(SOON, pending())).await;
            ends_soon(by(Instant::now() + SOON, pending())).await;
            assert_eq!(within(NEVER, tokio::task::yield_now()).await, Some(()));
            assert_eq!(by(Instant::now(), async { 7 }).await, Some(7));
        })
        .await;
    }

    #[tokio::test]
    async fn of_several_waits_each_ends_in_its_turn() {
        with_alarm(|_cut| async {
            let longest = within(NEVER, pending::<()>());
            let two = async {
                tokio::join!(
                    ends_soon(within(SOON, pending())),
                    ends_soon(within(SOON * 3, pending())),
                )
            };
            tokio::select! {
                _ = longest => panic!("it waits for an hour"),
                _ = two => {}
            }
            // one that ends before what the timer was set for
            ends_soon(within(SOON, pending())).await;
        })
        .await;
    }

    #[tokio::test]
    async fn who_waits_apart_from_the_task_has_a_timer_of_its_own() {
        with_alarm(|cut| async move {
            let apart = tokio::spawn(ends_soon(within(SOON, pending())));
            apart.await.unwrap();
            let (cut, other) = (std::sync::Arc::new(cut), watch::Sender::new(false));
            let hears = cut.clone();
            let apart = tokio::spawn(async move { super::cut(&hears).await });
            cut.send_replace(true);
            apart.await.unwrap();
            // the alarm's own, whoever is asked for
            super::cut(&other).await;
        })
        .await;
    }

    #[tokio::test]
    async fn the_end_of_the_program_wakes_who_waits() {
        with_alarm(|sender| async move {
            let sender = std::sync::Arc::new(sender);
            let says = sender.clone();
            let ends = tokio::spawn(async move {
                tokio::time::sleep(SOON).await;
                says.send_replace(true);
            });
            tokio::select! {
                _ = within(NEVER, pending::<()>()) => panic!("it waits for an hour"),
                () = super::cut(&sender) => {}
            }
            ends.await.unwrap();
        })
        .await;
    }
}
