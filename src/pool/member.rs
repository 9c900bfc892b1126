//! One address of a server: is it healthy, is it ejected, how busy is it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use pingora::lb::Backend;

use super::Pool;
use super::recent::Recent;
use super::window::Window;
use crate::config::Server;

/// First-byte times that one member is judged by.
pub(super) type FirstBytes = Recent<16>;

/// One address of a server.
pub(crate) struct Member {
    /// The index of the server in the pool's configuration.
    pub(crate) server: usize,
    pub(super) backend: Backend,
    /// Requests it works on at once.
    slots: usize,
    /// Drained by hand until then, with all addresses of its server.
    drained: Arc<Drain>,
    /// Outlives this member when a reload makes another of it.
    pub(super) state: Arc<State>,
}

/// A server that gets no new requests, by an operator's will. In microseconds after the pool's
/// epoch; 0 for never, the largest for ever.
#[derive(Default)]
pub(super) struct Drain(AtomicU64);

impl Drain {
    pub(super) fn until(&self, end: Option<Duration>) {
        self.0.store(end.map_or(u64::MAX, micros), Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(0, Relaxed);
    }

    pub(super) fn is_on(&self, now: Duration) -> bool {
        is_before(&self.0, now)
    }

    /// For how long it still is, if it is; `Some(None)` until somebody ends it.
    pub(super) fn left(&self, now: Duration) -> Option<Option<Duration>> {
        let end = self.0.load(Relaxed);
        self.is_on(now)
            .then(|| (end != u64::MAX).then(|| Duration::from_micros(end).saturating_sub(now)))
    }
}

/// What is known of an address. Times are counted from the pool's epoch, in microseconds; 0 is
/// never.
pub(super) struct State {
    healthy: AtomicBool,
    /// Probes in a row that said otherwise.
    contradicted: AtomicU32,
    /// Its probes find that it loads its model.
    loading: AtomicBool,
    in_flight: AtomicUsize,
    /// Failed attempts in a row.
    failures: AtomicU32,
    /// Attempts and failed attempts of late.
    pub(super) attempts: Window,
    pub(super) first_bytes: FirstBytes,
    ejected_until: AtomicU64,
    /// It was ejected, and has not answered well since: one request at a time may try it.
    on_trial: AtomicBool,
    /// The number of the request that tries it; 0 for none.
    trial: AtomicU64,
    /// Ejections without a good answer between them.
    ejections: AtomicU32,
    /// It asked to be left alone so long.
    resting_until: AtomicU64,
    /// It said that it still loads, and will be asked again then.
    warming_until: AtomicU64,
    /// The models it has in memory, if it tells.
    models: ArcSwapOption<Vec<String>>,
}

impl State {
    fn new(window: Duration) -> Self {
        State {
            // as in pingora-load-balancing, until probes say otherwise
            healthy: AtomicBool::new(true),
            contradicted: AtomicU32::new(0),
            loading: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            attempts: Window::new(window),
            first_bytes: FirstBytes::default(),
            ejected_until: AtomicU64::new(0),
            on_trial: AtomicBool::new(false),
            trial: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            resting_until: AtomicU64::new(0),
            warming_until: AtomicU64::new(0),
            models: ArcSwapOption::empty(),
        }
    }
}

impl State {
    /// Gives the trial up, if it is still this one.
    fn end_trial(&self, trial: u64) {
        let _ = self.trial.compare_exchange(trial, 0, Relaxed, Relaxed);
    }
}

impl Member {
    /// With what was known of the address already, if it was.
    pub(super) fn new(
        server: usize,
        settings: &Server,
        window: Duration,
        backend: Backend,
        drained: Arc<Drain>,
        known: Option<Arc<State>>,
    ) -> Self {
        Member {
            server,
            backend,
            slots: settings.slots.map_or(usize::MAX, |slots| slots as usize),
            drained,
            state: known.unwrap_or_else(|| Arc::new(State::new(window))),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *self
            .backend
            .addr
            .as_inet()
            .expect("discovery finds IP addresses only")
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.state.healthy.load(Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        is_before(&self.state.ejected_until, now)
    }

    pub(super) fn is_resting(&self, now: Duration) -> bool {
        is_before(&self.state.resting_until, now)
    }

    /// It loads its model, by its own word or by that of its probes.
    pub(super) fn is_warming(&self, now: Duration) -> bool {
        let loads = self.state.loading.load(Relaxed) && !self.is_healthy();
        let warming = is_before(&self.state.warming_until, now) || loads;
        warming && !self.drained.is_on(now)
    }

    pub(super) fn is_on_trial(&self) -> bool {
        self.state.on_trial.load(Relaxed)
    }

    /// Well, as far as is known, and neither ejected nor drained.
    pub(super) fn is_available(&self, now: Duration) -> bool {
        self.is_healthy() && !self.is_ejected(now) && !self.drained.is_on(now)
    }

    /// May be asked now, be it that all its slots are taken. `desperate`: nobody else is left.
    pub(super) fn may_be_asked(&self, now: Duration, desperate: bool) -> bool {
        let spared =
            is_before(&self.state.resting_until, now) || is_before(&self.state.warming_until, now);
        let tried_already = self.is_on_trial() && self.state.trial.load(Relaxed) != 0;
        self.is_available(now) && (desperate || !spared) && !tried_already
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.in_flight.load(Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight() < self.slots
    }

    /// Takes a slot, if there is one; gives the number of the trial that comes, 0 for none.
    pub(super) fn acquire(&self) -> Option<u64> {
        let trial = match self.is_on_trial() {
            true => fastrand::u64(1..),
            false => 0,
        };
        let state = &self.state;
        if trial != 0 {
            let claimed = state.trial.compare_exchange(0, trial, Relaxed, Relaxed);
            claimed.ok()?;
        }
        let taken = self.take_slot();
        if !taken {
            state.end_trial(trial);
        }
        taken.then_some(trial)
    }

    /// The same for what nobody else can be asked: it is no trial.
    pub(super) fn acquire_untried(&self) -> Option<u64> {
        self.take_slot().then_some(0)
    }

    /// Counts a request that needs no slot.
    pub(super) fn acquire_aside(&self) {
        self.state.in_flight.fetch_add(1, Relaxed);
    }

    fn take_slot(&self) -> bool {
        let taken = (self.state.in_flight).fetch_update(Relaxed, Relaxed, |taken| {
            (taken < self.slots).then_some(taken + 1)
        });
        taken.is_ok()
    }

    /// Whether it has a model in memory; `None` if it does not tell.
    pub(super) fn has_model(&self, model: &str) -> Option<bool> {
        let models = self.state.models.load();
        let has = |name: &String| {
            // Ollama's `llama3` is `llama3:latest`
            name == model || name.strip_suffix(":latest") == Some(model)
        };
        models.as_ref().map(|models| models.iter().any(has))
    }

    /// It tells which models it has in memory, and there are none.
    pub(crate) fn lacks_models(&self) -> bool {
        let models = self.state.models.load();
        models.as_ref().is_some_and(|models| models.is_empty())
    }

    pub(super) fn set_models(&self, models: Option<Vec<String>>) {
        self.state.models.store(models.map(Arc::new));
    }

    pub(super) fn set_loading(&self, loading: bool) {
        self.state.loading.store(loading, Relaxed);
    }

    /// Takes the result of a probe; says whether the member's health changed by it, as that many in
    /// a row said so.
    pub(super) fn probed(&self, good: bool, threshold: usize) -> bool {
        if good == self.is_healthy() {
            self.state.contradicted.store(0, Relaxed);
            return false;
        }
        let in_a_row = self.state.contradicted.fetch_add(1, Relaxed) + 1;
        (in_a_row as usize) >= threshold && self.set_healthy(good)
    }

    /// Says whether this changed something. A server that its probes find well again is not held
    /// to what it did before.
    pub(super) fn set_healthy(&self, healthy: bool) -> bool {
        let flipped = self.state.healthy.swap(healthy, Relaxed) != healthy;
        self.state.contradicted.store(0, Relaxed);
        if flipped && healthy {
            self.pardon();
            for until in [
                &self.state.ejected_until,
                &self.state.resting_until,
                &self.state.warming_until,
            ] {
                until.store(0, Relaxed);
            }
        }
        flipped
    }

    /// Takes back what was decided against it.
    pub(super) fn forgive(&self) {
        if self.is_on_trial() {
            self.pardon();
            self.state.ejected_until.store(0, Relaxed);
        }
    }

    fn pardon(&self) {
        self.state.failures.store(0, Relaxed);
        self.state.ejections.store(0, Relaxed);
        self.state.on_trial.store(false, Relaxed);
        self.state.trial.store(0, Relaxed);
        self.state.attempts.clear();
        self.state.first_bytes.clear();
    }

    /// Counts an attempt; says how many failed in a row by now. A good one ends a trial.
    pub(super) fn count(&self, good: bool, now: Duration) -> u32 {
        if !good {
            self.state.attempts.add(1, 1, now);
            return self.state.failures.fetch_add(1, Relaxed) + 1;
        }
        if self.is_on_trial() {
            self.pardon();
        }
        self.state.attempts.add(1, 0, now);
        self.state.failures.store(0, Relaxed);
        0
    }

    /// Ejects for `duration`, and each time without a good answer in between for as much longer, up
    /// to ten times that; says for how long. What comes then is a trial.
    pub(super) fn eject(&self, duration: Duration, now: Duration) -> Duration {
        let times = self.state.ejections.fetch_add(1, Relaxed) + 1;
        let duration = duration * times.min(10);
        self.eject_until(now + duration);
        duration
    }

    /// Ejects until then. What comes after it is a trial.
    pub(super) fn eject_until(&self, until: Duration) {
        self.state.on_trial.store(true, Relaxed);
        self.state.trial.store(0, Relaxed);
        self.state.ejected_until.store(micros(until), Relaxed);
    }

    pub(super) fn rest(&self, until: Duration) {
        self.state.resting_until.fetch_max(micros(until), Relaxed);
    }

    pub(super) fn warm(&self, until: Duration) {
        self.state.warming_until.fetch_max(micros(until), Relaxed);
    }

    /// How long until it may be asked again, as far as that is known.
    pub(super) fn back_in(&self, now: Duration) -> Option<Duration> {
        let until = [
            &self.state.ejected_until,
            &self.state.resting_until,
            &self.state.warming_until,
        ]
        .map(|until| until.load(Relaxed))
        .into_iter()
        .max()
        .map_or(Duration::ZERO, Duration::from_micros);
        let asked_again = self.is_healthy() && !self.drained.is_on(now);
        asked_again.then(|| until.saturating_sub(now))
    }
}

fn micros(at: Duration) -> u64 {
    at.as_micros() as u64
}

fn is_before(until: &AtomicU64, now: Duration) -> bool {
    until.load(Relaxed) > micros(now)
}

/// A member while a request is with it; its slot is free again when this is dropped, whatever way
/// the request ends, and goes to the next who waits.
pub(crate) struct Lease {
    member: Arc<Member>,
    /// The pool, if somebody may wait for a slot in it.
    pool: Option<Arc<Pool>>,
    /// The number of the trial that it is, by which it is decided what becomes of a server that was
    /// ejected; 0 for none.
    trial: u64,
    since: Instant,
}

impl Lease {
    /// Of a member whose slot was acquired now.
    pub(super) fn new(
        member: Arc<Member>,
        trial: u64,
        pool: Option<Arc<Pool>>,
        now: Instant,
    ) -> Self {
        Lease {
            member,
            pool,
            trial,
            since: now,
        }
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    pub(crate) fn is_trial(&self) -> bool {
        self.trial != 0
    }

    /// When the slot was acquired.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

impl Deref for Lease {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.trial != 0 {
            self.member.state.end_trial(self.trial);
        }
        self.member.state.in_flight.fetch_sub(1, Relaxed);
        if let Some(pool) = &self.pool {
            let now = Instant::now();
            pool.slot_is_free(now.saturating_duration_since(self.since), now);
        }
    }
}
