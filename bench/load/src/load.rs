//! `load`: many small requests, as fast as they are answered or at a fixed rate.
//!
//! At a rate (open loop) each request has a moment at which it is due, set before the run and kept
//! whatever the answers do. Its latency counts from that moment, even where it could be sent only
//! later. So a server that stands still for a second shows in every request of that second, not in
//! the one that waited for it: there is no coordinated omission.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Poll, Token};
use slab::Slab;

use crate::client::{Client, Progress};
use crate::clock::{Alarm, MILLISECOND, SECOND, now};
use crate::report::{Failure, Failures, Times};
use crate::request::Request;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many connections, each asking again as soon as it has an answer.
    Closed { connections: usize },
    /// So many requests a second, on as many connections as they need, up to a bound.
    Open { rate: f64, connections: usize },
}

pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) pace: Pace,
    /// Nanoseconds in which requests become due; those in flight then are waited for.
    pub(crate) length: u64,
    /// Nanoseconds, from the moment at which a request was due.
    pub(crate) timeout: u64,
    /// Nanoseconds of one slice of the tally.
    pub(crate) slice: u64,
}

pub(crate) struct Tally {
    pub(crate) latency: Times,
    /// To the first byte of the answer's body.
    pub(crate) first_byte: Times,
    pub(crate) failures: Failures,
    pub(crate) slices: Vec<Slice>,
    /// Nanoseconds from the start to the last answer.
    pub(crate) took: u64,
}

/// The requests that were due in one part of a run.
pub(crate) struct Slice {
    pub(crate) latency: Times,
    pub(crate) failed: u64,
}

struct Load<'a> {
    plan: &'a Plan,
    request: Request,
    poll: Poll,
    clients: Slab<Asking>,
    idle: Vec<usize>,
    /// Moments at which requests were due that no connection could take yet.
    waiting: VecDeque<u64>,
    /// Requests that ask again in a moment, for the last one did not get through.
    parked: usize,
    input: Box<[u8]>,
    start: u64,
    tally: Tally,
}

struct Asking {
    client: Client,
    /// When its request was due; none if it has none.
    due: Option<u64>,
    seen: bool,
}

const ALARM: Token = Token(usize::MAX);
const PAUSE: u64 = 10 * MILLISECOND;

pub(crate) fn run(plan: &Plan, request: Request) -> io::Result<Tally> {
    let poll = Poll::new()?;
    let mut alarm = Alarm::new(poll.registry(), ALARM)?;
    let start = now();
    let mut load = Load {
        plan,
        request,
        poll,
        clients: Slab::new(),
        idle: Vec::new(),
        waiting: VecDeque::new(),
        parked: 0,
        input: vec![0; 256 * 1024].into(),
        start,
        tally: Tally {
            latency: Times::new(),
            first_byte: Times::new(),
            failures: Failures::default(),
            slices: Vec::new(),
            took: 0,
        },
    };
    let end = start + plan.length;
    let mut schedule = Schedule::new(plan.pace, start);
    if let Pace::Closed { connections } = plan.pace {
        (0..connections).for_each(|_| load.due(start));
    }
    let mut events = Events::with_capacity(1024);
    let mut swept = start;
    loop {
        if let Some(next) = schedule.next.filter(|next| *next < end) {
            alarm.set(next)?;
        }
        let pause = if load.parked > 0 {
            PAUSE
        } else {
            100 * MILLISECOND
        };
        match load
            .poll
            .poll(&mut events, Some(Duration::from_nanos(pause)))
        {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in events.iter().filter(|event| event.token() != ALARM) {
            load.on_event(event);
        }
        while let Some(moment) = schedule.take(now().min(end)) {
            load.due(moment);
        }
        if now() > swept + PAUSE {
            swept = now();
            load.sweep(swept);
        }
        let at_work = load.clients.len() - load.idle.len() + load.waiting.len();
        if now() >= end && at_work == 0 {
            load.tally.took = now() - start;
            return Ok(load.tally);
        }
    }
}

/// When requests are due that do not wait for answers.
struct Schedule {
    next: Option<u64>,
    start: u64,
    rate: f64,
    count: u64,
}

impl Schedule {
    fn new(pace: Pace, start: u64) -> Self {
        let rate = match pace {
            Pace::Open { rate, .. } => rate,
            Pace::Closed { .. } => 0.0,
        };
        Schedule {
            next: (rate > 0.0).then_some(start),
            start,
            rate,
            count: 0,
        }
    }

    /// The next moment, if it is before `until`.
    fn take(&mut self, until: u64) -> Option<u64> {
        let moment = self.next.filter(|moment| *moment < until)?;
        self.count += 1;
        // from the start each time, so that rounding does not add up
        self.next = Some(self.start + (self.count as f64 / self.rate * SECOND as f64) as u64);
        Some(moment)
    }
}

impl Load<'_> {
    /// A request is due: a connection takes it, or it waits for one.
    fn due(&mut self, moment: u64) {
        let bound = match self.plan.pace {
            Pace::Closed { connections } | Pace::Open { connections, .. } => connections,
        };
        if let Some(id) = self.idle.pop() {
            self.ask(id, moment);
        } else if self.clients.len() < bound {
            let entry = self.clients.vacant_entry();
            let token = Token(entry.key());
            match Client::connect(self.plan.target, self.poll.registry(), token) {
                Ok(client) => {
                    let id = entry.key();
                    entry.insert(Asking {
                        client,
                        due: None,
                        seen: false,
                    });
                    self.ask(id, moment);
                }
                Err(_) => self.failed(moment, Failure::Connect),
            }
        } else {
            self.waiting.push_back(moment);
        }
    }

    fn ask(&mut self, id: usize, moment: u64) {
        let asking = &mut self.clients[id];
        asking.due = Some(moment);
        asking.seen = false;
        if let Err(failure) = asking.client.ask(self.request.next()) {
            self.end(id, failure);
        }
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        let id = event.token().0;
        let Some(asking) = self.clients.get_mut(id) else {
            return;
        };
        if (event.is_writable() || event.is_error())
            && let Err(failure) = asking.client.on_writable()
        {
            return self.end(id, failure);
        }
        if !event.is_readable() && !event.is_read_closed() {
            return;
        }
        let mut first = None;
        let seen = &mut asking.seen;
        let progress = asking
            .client
            .on_readable(&mut self.input, event.is_read_closed(), |data| {
                if !*seen && !data.is_empty() {
                    *seen = true;
                    first = Some(now());
                }
            });
        if let (Some(first), Some(due)) = (first, asking.due) {
            self.tally.first_byte.add(first - due);
        }
        match progress {
            Progress::More => {}
            Progress::Whole { reuse } => self.answered(id, reuse),
            Progress::Failed(failure) => self.end(id, failure),
        }
    }

    fn answered(&mut self, id: usize, reuse: bool) {
        let done = now();
        let due = self.clients[id].due.take();
        if let Some(due) = due {
            let latency = done - due;
            self.tally.latency.add(latency);
            self.slice(due).latency.add(latency);
        }
        match reuse && due.is_some() {
            true => self.idle.push(id),
            false => drop(self.clients.remove(id)),
        }
        self.go_on(done);
    }

    /// A connection ended, and the request on it failed, if there was one.
    fn end(&mut self, id: usize, failure: Failure) {
        let asking = self.clients.remove(id);
        self.idle.retain(|idle| *idle != id);
        if let Some(due) = asking.due {
            self.failed(due, failure);
        }
    }

    fn failed(&mut self, due: u64, failure: Failure) {
        self.tally.failures.add(failure);
        self.slice(due).failed += 1;
        match self.plan.pace {
            Pace::Closed { .. } => self.parked += 1,
            Pace::Open { .. } => self.go_on(now()),
        }
    }

    /// What comes behind an answer: the next of those that wait, or, in a closed loop, one more.
    fn go_on(&mut self, moment: u64) {
        if let Some(due) = self.waiting.pop_front() {
            self.due(due);
        } else if matches!(self.plan.pace, Pace::Closed { .. })
            && moment < self.start + self.plan.length
        {
            self.due(moment);
        }
    }

    /// Lets those go that waited too long, and parked ones try again.
    fn sweep(&mut self, moment: u64) {
        let late = |due: &u64| due + self.plan.timeout < moment;
        let all = self.clients.iter();
        let gone: Vec<usize> = all
            .filter(|(_, asking)| asking.due.as_ref().is_some_and(late))
            .map(|(id, _)| id)
            .collect();
        for id in gone {
            if self.clients.contains(id) {
                self.end(id, Failure::Timeout);
            }
        }
        while let Some(due) = self.waiting.front().copied().filter(late) {
            self.waiting.pop_front();
            self.tally.failures.add(Failure::Timeout);
            self.slice(due).failed += 1;
        }
        for _ in 0..std::mem::take(&mut self.parked) {
            self.go_on(moment);
        }
    }

    fn slice(&mut self, due: u64) -> &mut Slice {
        let number = ((due - self.start) / self.plan.slice) as usize;
        let slices = &mut self.tally.slices;
        while slices.len() <= number {
            slices.push(Slice {
                latency: Times::new(),
                failed: 0,
            });
        }
        &mut slices[number]
    }
}

impl Tally {
    pub(crate) fn json(&self, slice: u64, slices: bool) -> String {
        let seconds = self.took as f64 / SECOND as f64;
        let answered = self.latency.count();
        let parts = self.slices.iter().enumerate().map(|(number, part)| {
            let from = number as f64 * slice as f64 / SECOND as f64;
            format!(
                r#"{{"from":{from:.3},"failed":{},"latency":{}}}"#,
                part.failed,
                part.latency.json()
            )
        });
        let parts: Vec<String> = if slices { parts.collect() } else { Vec::new() };
        format!(
            r#"{{"answered":{answered},"seconds":{seconds:.3},"per_second":{:.1},"failed":{},"latency":{},"first_byte":{},"slices":[{}]}}"#,
            answered as f64 / seconds,
            self.failures.json(),
            self.latency.json(),
            self.first_byte.json(),
            parts.join(",")
        )
    }
}

#[cfg(test)]
mod tests;
