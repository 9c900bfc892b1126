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
