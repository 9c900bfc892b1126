//! Pools at work: which server is next, and which are not asked at all.
//!
//! Each server's addresses are a `Backends` of pingora-load-balancing: discovered again and again
//! (a name may come to mean other boxes) and probed by a `HealthCheck` of that crate.
//! What stands here is what it has no word for: backups behind primaries, slots and the line in
//! front of them, ejection by evidence from traffic, and what is known of a server that survives a
//! change of members and a reload. Its own selection is not used: it takes two servers with one
//! address (two names behind one balancer) for the same, and gives a server of weight 3 three turns
//! in a row; nor its book of who is healthy, which begins anew with each reload.

mod eject;
mod member;
mod queue;
mod recent;
mod reports;
mod ring;
mod roster;
mod turns;
mod window;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::lb::{Backend, Backends};

use crate::config::kind::Warming;
use crate::config::{self, Priority};
#[cfg(test)]
pub(crate) use eject::Ejection;
pub(crate) use eject::{Conduct, Evidence};
use member::Drain;
pub(crate) use member::{Lease, Member};
use queue::Queue;
pub(crate) use queue::Ticket;
pub(crate) use recent::Durations;
use recent::Recent;
pub(crate) use reports::{Report, Reports};
pub(crate) use ring::place;
use roster::{Known, Roster};
pub(crate) use window::Window;

/// How the addresses of a server are found, and how they are probed.
pub(crate) struct Watch {
    pub(crate) discovery: Box<dyn ServiceDiscovery + Send + Sync>,
    pub(crate) check: Option<Box<dyn HealthCheck + Send + Sync>>,
    /// What the probes saw besides good or bad.
    pub(crate) signs: Arc<Signs>,
}

/// What probes saw of each address besides good or bad.
#[derive(Default)]
pub(crate) struct Signs(Mutex<HashMap<SocketAddr, Sign>>);

#[derive(Clone, Default)]
pub(crate) struct Sign {
    /// The server still loads its model.
    pub(crate) loading: bool,
    /// The models it has in memory, if it tells.
    pub(crate) models: Option<Vec<String>>,
}

impl Signs {
    pub(crate) fn set(&self, address: SocketAddr, sign: Sign) {
        let mut signs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        signs.insert(address, sign);
    }

    /// Forgets addresses that the server no longer has.
    fn retain(&self, is_there: impl Fn(&SocketAddr) -> bool) {
        let mut signs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        signs.retain(|address, _| is_there(address));
    }

    fn of(&self, address: SocketAddr) -> Sign {
        let signs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        signs.get(&address).cloned().unwrap_or_default()
    }
}

/// A pool at work.
pub(crate) struct Pool {
    pub(crate) config: config::Pool,
    /// One for each server of the configuration, in its order.
    servers: Vec<Backends>,
    checks: Vec<Option<Box<dyn HealthCheck + Send + Sync>>>,
    signs: Vec<Arc<Signs>>,
    /// What the servers say they have.
    pub(crate) reports: Reports,
    drained: Vec<Arc<Drain>>,
    /// What was known of addresses when this pool took the place of another.
    known: Vec<Known>,
    roster: ArcSwap<Roster>,
    turn: AtomicUsize,
    queue: Queue,
    has_slots: bool,
    /// How long a slot is taken, on average; in microseconds.
    slot_time: AtomicU64,
    /// Held while it is decided whether somebody is ejected: two servers must not each be the one
    /// that the other's ejection relies on.
    ejecting: Mutex<()>,
    first_bytes: Arc<Recent<128>>,
    /// A server is being asked to load a model.
    loads: AtomicBool,
    /// Another pool took its place; only requests that began with it still use it.
    retired: AtomicBool,
    /// The zero of the clock that ejections are kept in.
    epoch: Instant,
}

/// What a request asks of a pool.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// Members that had their try.
    pub(crate) tried: &'a [Arc<Member>],
    /// Servers that would refuse, by their index.
    pub(crate) banned: &'a [usize],
    /// Where the request stands under `balance: hash`.
    pub(crate) hash: u64,
    /// The model, where servers tell which they have in memory.
    pub(crate) model: Option<&'a str>,
    /// Nobody else is left: those that asked to be spared for a while are asked too.
    pub(crate) desperate: bool,
    /// The only server that will do, by its index, in whatever state it is.
    pub(crate) only: Option<usize>,
}

/// What a pool has for a request.
pub(crate) enum Pick {
    Server(Lease),
    /// All slots are taken; one may wait.
    Busy,
    /// Its servers are loading their models.
    Warming,
    Nobody,
}

impl Pick {
    pub(crate) fn into_lease(self) -> Option<Lease> {
        match self {
            Pick::Server(lease) => Some(lease),
            _ => None,
        }
    }
}

/// How a server of the configuration is doing, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerState {
    pub(crate) addresses: usize,
    pub(crate) healthy: usize,
    pub(crate) ejected: usize,
    /// Left alone for a while, as it asked for.
    pub(crate) resting: usize,
    pub(crate) warming: usize,
    pub(crate) in_flight: usize,
    /// By an operator.
    pub(crate) drained: bool,
}

impl Pool {
    /// `old` is the pool of this name before a reload: servers that stay keep their health, their
    /// ejections and the slots that are taken.
    pub(crate) fn new(
        config: config::Pool,
        now: Instant,
        watch: impl Fn(usize) -> Watch,
        old: Option<&Pool>,
    ) -> Self {
        let (mut checks, mut signs) = (Vec::new(), Vec::new());
        let servers = (0..config.servers.len())
            .map(|n| {
                let watch = watch(n);
                checks.push(watch.check);
                signs.push(watch.signs);
                Backends::new(watch.discovery)
            })
            .collect();
        let pool = Pool {
            servers,
            checks,
            signs,
            reports: Reports::new(config.servers.len(), now),
            drained: drains(&config, old),
            known: old.map_or_else(Vec::new, |old| old.roster.load().known(&old.config)),
            roster: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            queue: Queue::new(config.queue.size),
            has_slots: config.has_slots(),
            slot_time: AtomicU64::new(old.map_or(0, |old| old.slot_time.load(Relaxed))),
            ejecting: Mutex::default(),
            first_bytes: old.map_or_else(Arc::default, |old| old.first_bytes.clone()),
            loads: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            epoch: old.map_or(now, |old| old.epoch),
            config,
        };
        if let Some(old) = old {
            pool.take_over(old);
        }
        pool
    }

    /// Begins with the addresses that the pool before had of the same servers: names may be slow to
    /// resolve, or not resolve just now.
    fn take_over(&self, old: &Pool) {
        let roster = old.roster.load();
        for (n, server) in self.config.servers.iter().enumerate() {
            let before = old.config.servers.iter().position(|s| {
                (&s.name, &s.url.host, s.url.port)
                    == (&server.name, &server.url.host, server.url.port)
            });
            if let Some(before) = before {
                self.reports.take_over(n, &old.reports, before);
            }
            let members = roster.members.iter().filter(|m| Some(m.server) == before);
            let backends: BTreeSet<Backend> = members.map(|m| m.backend.clone()).collect();
            if !backends.is_empty() {
                self.enrol(n, &backends);
            }
        }
    }

    /// Notes that another pool takes its place, which looks after the servers from now on.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Finds the addresses of one server again. Members that stay keep their state.
    pub(crate) async fn discover(&self, server: usize) -> Result<(), String> {
        let mut changed = None;
        let found = self.servers[server]
            .update(|backends| changed = Some(backends))
            .await;
        if let Some(backends) = changed {
            self.enrol(server, &backends);
        }
        found.map_err(|e| e.to_string())
    }

    fn enrol(&self, server: usize, backends: &BTreeSet<Backend>) {
        self.roster.rcu(|old| {
            old.with(
                &self.config,
                server,
                backends,
                &self.known,
                &self.drained[server],
            )
        });
        log::debug!(
            "pool {}: {} has {} addresses",
            self.config.name,
            self.config.servers[server].name,
            backends.len()
        );
    }

    /// The addresses of a server.
    pub(crate) fn addresses(&self, server: usize) -> Vec<Arc<Member>> {
        let roster = self.roster.load();
        let members = roster.members.iter();
        let own: Vec<_> = members.filter(|m| m.server == server).cloned().collect();
        self.signs[server].retain(|address| own.iter().any(|m| m.address() == *address));
        own
    }

    /// Probes an address; says whether its health changed by it.
    pub(crate) async fn probe(self: &Arc<Self>, member: &Member) -> bool {
        let (good, threshold) = match &self.checks[member.server] {
            Some(check) => {
                let good = check.check(&member.backend).await.is_ok();
                (good, check.health_threshold(good))
            }
            // nobody looks, so it is taken for well
            None => (true, 1),
        };
        let sign = self.signs[member.server].of(member.address());
        member.set_loading(sign.loading);
        member.set_models(sign.models);
        let changed = member.probed(good, threshold);
        self.serve_queue(Instant::now());
        changed
    }

    /// What there is for a request now: an available primary by the pool's rule, else an available
    /// backup; never one that had its try. Whoever waits in line is before it.
    pub(crate) fn pick(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        priority: Priority,
        now: Instant,
    ) -> Pick {
        match self.has_slots && self.queue.ahead(priority) > 0 {
            // what is left then, nobody in line may use
            true => self.serve(now, || self.choose(wanted, now)),
            false => self.choose(wanted, now),
        }
    }

    fn choose(self: &Arc<Self>, wanted: &Wanted<'_>, moment: Instant) -> Pick {
        let now = self.clock(moment);
        let roster = self.roster.load();
        // another request may take the slot between the choice and the claim
        for _ in 0..roster.members.len().min(8) + 1 {
            match roster.choose(&self.config.balance, &self.turn, wanted, now) {
                roster::Choice::Member(n) => {
                    let member = &roster.members[n];
                    let slot = member.acquire();
                    // a trial is for those who can go elsewhere
                    let slot = slot.or_else(|| wanted.only.and(member.acquire_untried()));
                    if let Some(trial) = slot {
                        let pool = self.has_slots.then(|| self.clone());
                        return Pick::Server(Lease::new(member.clone(), trial, pool, moment));
                    }
                }
                roster::Choice::Busy => return Pick::Busy,
                roster::Choice::Nobody => break,
            }
        }
        match roster.somebody_warms(wanted, now) {
            true if self.config.warming == Warming::Wait => Pick::Warming,
            _ => Pick::Nobody,
        }
    }

    /// A backup, if every primary was tried or is not available: what a pool still has to offer
    /// when a request has had its attempts.
    pub(crate) fn last_resort(self: &Arc<Self>, wanted: &Wanted<'_>, now: Instant) -> Pick {
        let roster = self.roster.load();
        if roster.has_primary_left(wanted, self.clock(now)) {
            return Pick::Nobody;
        }
        match self.choose(wanted, now) {
            Pick::Server(lease) => Pick::Server(lease),
            _ => Pick::Nobody,
        }
    }

    /// Gets in line for a slot. `None` if the line is full.
    pub(crate) fn join(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        priority: Priority,
        now: Instant,
    ) -> Option<Ticket> {
        let ticket = self.queue.join(self, wanted, priority)?;
        self.serve_queue(now);
        Some(ticket)
    }

    /// How long one that gets in line now will likely wait; zero while nothing is known.
    pub(crate) fn expected_wait(&self, priority: Priority) -> Duration {
        let roster = self.roster.load();
        let slots: u64 = roster
            .members
            .iter()
            .filter(|m| m.is_healthy())
            .filter_map(|m| self.server(m).slots)
            .map(u64::from)
            .sum();
        let ahead = self.queue.ahead(priority) as u64;
        let time = self.slot_time.load(Relaxed);
        // those at work are half done, on average
        Duration::from_micros(time * (2 * ahead + 1) / (2 * slots.max(1)))
    }

    /// Whether there is still something to wait for.
    pub(crate) fn is_worth_waiting(&self, wanted: &Wanted<'_>, now: Instant) -> bool {
        let now = self.clock(now);
        let roster = self.roster.load();
        roster
            .members
            .iter()
            .any(|member| roster::allows(wanted, member) && roster::is_askable(wanted, member, now))
    }

    /// A server for a question that is no work, if it may be asked now: it takes no slot from
    /// anybody.
    pub(crate) fn aside(self: &Arc<Self>, server: usize, now: Instant) -> Option<Lease> {
        let at = self.clock(now);
        let roster = self.roster.load();
        let mut own = roster.members.iter().filter(|m| m.server == server);
        let member = own.find(|member| member.may_be_asked(at, true))?;
        member.acquire_aside();
        let pool = self.has_slots.then(|| self.clone());
        Some(Lease::new(member.clone(), 0, pool, now))
    }

    /// Hands free slots to those in line; also needed when time alone made a server available.
    pub(crate) fn serve_queue(self: &Arc<Self>, now: Instant) {
        if self.has_slots {
            self.serve(now, || ());
        }
    }

    /// The same, and what `last` gives before anybody else gets in line.
    fn serve<T>(self: &Arc<Self>, now: Instant, last: impl FnOnce() -> T) -> T {
        let free = |wanted: &Wanted<'_>| match self.choose(wanted, now) {
            Pick::Server(lease) => Some(lease),
            _ => None,
        };
        self.queue.serve(free, last)
    }

    /// A lease of this pool ended after `taken`.
    fn slot_is_free(self: &Arc<Self>, taken: Duration, now: Instant) {
        let taken = taken.as_micros() as u64;
        // shorter than any answer: the server was not really asked
        if taken < 1000 {
            return self.serve_queue(now);
        }
        let _ = self.slot_time.fetch_update(Relaxed, Relaxed, |average| {
            Some(match average {
                0 => taken,
                average => (average * 7 + taken) / 8,
            })
        });
        self.serve_queue(now);
    }

    /// Requests in line: realtime, batch.
    pub(crate) fn waiting(&self) -> [usize; 2] {
        self.queue.waiting()
    }

    /// Whether some server could be asked now.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        let now = self.clock(now);
        self.roster
            .load()
            .members
            .iter()
            .any(|member| member.is_available(now))
    }

    /// When some server may be asked again, as far as that is known.
    pub(crate) fn back_in(&self, now: Instant) -> Option<Duration> {
        let now = self.clock(now);
        let roster = self.roster.load();
        roster.members.iter().filter_map(|m| m.back_in(now)).min()
    }

    /// Whether servers of the pool tell which models they have in memory, and none of those that
    /// may be asked has this one.
    pub(crate) fn is_cold(&self, model: &str, now: Instant) -> bool {
        let now = self.clock(now);
        let roster = self.roster.load();
        let mut asked = roster
            .members
            .iter()
            .filter(|member| member.may_be_asked(now, false))
            .peekable();
        asked.peek().is_some() && asked.all(|member| member.has_model(model) == Some(false))
    }

    /// Claims the right to have a model loaded, which one request has at a time.
    pub(crate) fn begin_load(self: &Arc<Self>) -> Option<Load> {
        let free = !self.loads.swap(true, Relaxed);
        free.then(|| Load(self.clone()))
    }

    /// Gives a server no new requests, for so long or until [`Pool::undrain`].
    pub(crate) fn drain(&self, server: usize, time: Option<Duration>, now: Instant) {
        let end = time.map(|time| self.clock(now) + time);
        self.drained[server].until(end);
    }

    /// For how much longer a server is drained, if it is; `Some(None)`: until it is undrained.
    pub(crate) fn drained_for(&self, server: usize, now: Instant) -> Option<Option<Duration>> {
        self.drained[server].left(self.clock(now))
    }

    /// Gives a drained server requests again.
    pub(crate) fn undrain(self: &Arc<Self>, server: usize, now: Instant) {
        self.drained[server].end();
        self.serve_queue(now);
    }

    /// How each server of the configuration is doing, in its order.
    pub(crate) fn states(&self, now: Instant) -> Vec<ServerState> {
        let now = self.clock(now);
        let mut states = vec![ServerState::default(); self.config.servers.len()];
        for (state, drain) in states.iter_mut().zip(&self.drained) {
            state.drained = drain.is_on(now);
        }
        for member in &self.roster.load().members {
            let state = &mut states[member.server];
            state.addresses += 1;
            state.healthy += usize::from(member.is_healthy());
            state.ejected += usize::from(member.is_ejected(now));
            state.resting += usize::from(member.is_resting(now));
            state.warming += usize::from(member.is_warming(now));
            state.in_flight += member.in_flight();
        }
        states
    }

    /// First-byte times of the last answers of the pool.
    pub(crate) fn first_bytes(&self) -> Durations {
        let mut all = Durations::default();
        all.add(&*self.first_bytes);
        all
    }

    /// The same of one server, by its index; its addresses together.
    pub(crate) fn first_bytes_of(&self, server: usize) -> Durations {
        let mut all = Durations::default();
        let roster = self.roster.load();
        for member in roster.members.iter().filter(|m| m.server == server) {
            all.add(&member.state.first_bytes);
        }
        all
    }

    /// Whether a member of this pool was met while it loads its model.
    pub(crate) fn still_loads(&self, member: &Member, now: Instant) -> bool {
        let roster = self.roster.load();
        let own = |own: &Arc<Member>| std::ptr::eq(own.as_ref(), member);
        roster.members.iter().any(own) && member.is_warming(self.clock(now))
    }

    pub(crate) fn server(&self, member: &Member) -> &config::Server {
        &self.config.servers[member.server]
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

/// One for each server; those that the pool before had, by name.
fn drains(config: &config::Pool, old: Option<&Pool>) -> Vec<Arc<Drain>> {
    let before = |name: &str| {
        let old = old?;
        let n = old.config.servers.iter().position(|s| s.name == name)?;
        Some(old.drained[n].clone())
    };
    let servers = config.servers.iter();
    servers
        .map(|server| before(&server.name).unwrap_or_default())
        .collect()
}

/// A model is being loaded, until this is dropped.
pub(crate) struct Load(Arc<Pool>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.loads.store(false, Relaxed);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.config.name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
