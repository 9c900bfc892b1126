//! `stream`: event streams, timed against what each event says about when it was sent.
//!
//! Server and client are programs of one machine, so both read the same clock: the delay of an event
//! is its way through the proxy and nothing else.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Poll, Token};

use crate::args::Args;
use crate::client::{Client, Progress};
use crate::clock::{MILLISECOND, nanoseconds, now};
use crate::report::{Failure, Failures, Times};
use crate::request::{self, Request};

struct Plan {
    target: SocketAddr,
    /// At once.
    streams: usize,
    /// Nanoseconds in which streams are begun again where one has ended.
    length: u64,
    /// Nanoseconds over which the first ones are begun.
    ramp: u64,
    /// Nanoseconds without an event after which one has failed.
    timeout: u64,
    /// Each stream is open once, and is kept until there is no more input.
    hold: bool,
}

struct Tally {
    whole: u64,
    events: u64,
    failures: Failures,
    /// From the request to its first event.
    first: Times,
    /// From the server to here.
    delay: Times,
    /// By how much the time between two events is another than it was at the server.
    gap: Times,
}

/// Streams that are being opened at once.
const OPENING: usize = 50;

struct Stream {
    client: Client,
    asked: u64,
    last: Option<Event>,
    events: u64,
    line: Vec<u8>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Event {
    sent: u64,
    came: u64,
}

struct Streams<'a> {
    plan: &'a Plan,
    request: Request,
    poll: Poll,
    slots: Vec<Option<Stream>>,
    begun: usize,
    start: u64,
    input: Box<[u8]>,
    tally: Tally,
}

pub(crate) fn command(mut args: Args) -> Result<(), String> {
    let hold = args.flag("hold");
    let plan = Plan {
        target: request::target(&mut args)?,
        streams: args.need("streams")?,
        length: nanoseconds(args.get("seconds", 0.0)?),
        ramp: nanoseconds(args.get("ramp", 0.5)?),
        timeout: nanoseconds(args.get("timeout", 30.0)?),
        hold,
    };
    let request = Request::from_options(&mut args)?;
    args.end()?;
    let tally = run(&plan, request, || {
        // whoever measures says by the end of the input that it is done
        let _ = std::io::stdin().read(&mut [0]);
    });
    crate::print(&tally.map_err(|error| error.to_string())?.json());
    Ok(())
}

fn run(plan: &Plan, request: Request, wait: impl FnOnce()) -> std::io::Result<Tally> {
    let start = now();
    let mut streams = Streams {
        plan,
        request,
        poll: Poll::new()?,
        slots: (0..plan.streams).map(|_| None).collect(),
        begun: 0,
        start,
        input: vec![0; 256 * 1024].into(),
        tally: Tally {
            whole: 0,
            events: 0,
            failures: Failures::default(),
            first: Times::new(),
            delay: Times::new(),
            gap: Times::new(),
        },
    };
    let mut events = Events::with_capacity(1024);
    let mut swept = start;
    loop {
        streams.begin();
        let wait_for = Duration::from_nanos(MILLISECOND);
        match streams.poll.poll(&mut events, Some(wait_for)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            streams.on_event(event);
        }
        if now() > swept + 100 * MILLISECOND {
            swept = now();
            streams.sweep(swept);
        }
        if streams.done() {
            if plan.hold {
                crate::print(&streams.tally.json());
                wait();
            }
            return Ok(streams.tally);
        }
    }
}

impl Streams<'_> {
    /// Begins the streams that are to be there by now.
    fn begin(&mut self) {
        let passed = (now() - self.start).min(self.plan.ramp);
        let wanted = match self.plan.ramp {
            0 => self.plan.streams,
            ramp => (self.plan.streams as u64 * passed / ramp) as usize,
        };
        if self.begun >= wanted {
            return;
        }
        let opening = |stream: &&Stream| stream.events == 0;
        let mut open = self.slots[..self.begun]
            .iter()
            .flatten()
            .filter(opening)
            .count();
        while self.begun < wanted && open < OPENING {
            self.open(self.begun);
            self.begun += 1;
            open += 1;
        }
    }

    fn open(&mut self, slot: usize) {
        let asked = now();
        let client = Client::connect(self.plan.target, self.poll.registry(), Token(slot));
        let client = client.map_err(|_| Failure::Connect).and_then(|mut client| {
            client.ask(self.request.next())?;
            Ok(client)
        });
        match client {
            Ok(client) => {
                self.slots[slot] = Some(Stream {
                    client,
                    asked,
                    last: None,
                    events: 0,
                    line: Vec::new(),
                    ended: false,
                });
            }
            Err(failure) => self.tally.failures.add(failure),
        }
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        let slot = event.token().0;
        let Some(stream) = &mut self.slots[slot] else {
            return;
        };
        if (event.is_writable() || event.is_error())
            && let Err(failure) = stream.client.on_writable()
        {
            self.tally.failures.add(failure);
            self.slots[slot] = None;
            return;
        }
        if !event.is_readable() && !event.is_read_closed() {
            return;
        }
        let Stream {
            client,
            asked,
            last,
            events,
            line,
            ended,
        } = stream;
        let (tally, came) = (&mut self.tally, now());
        let closed = event.is_read_closed();
        let progress = client.on_readable(&mut self.input, closed, |data| {
            for part in data.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if !line.ends_with(b"\n") {
                    continue;
                }
                *ended |= line.starts_with(b"data: [DONE]");
                if let Some(sent) = time_of(line) {
                    let event = Event { sent, came };
                    tally.event(event, *last, *asked);
                    *last = Some(event);
                    *events += 1;
                }
                line.clear();
            }
        });
        match progress {
            Progress::More => return,
            Progress::Whole { .. } if *ended => tally.whole += 1,
            Progress::Whole { .. } => tally.failures.add(Failure::Wrong),
            Progress::Failed(failure) => tally.failures.add(failure),
        }
        self.slots[slot] = None;
        if !self.plan.hold && came < self.start + self.plan.length {
            self.open(slot);
        }
    }

    fn sweep(&mut self, moment: u64) {
        for slot in &mut self.slots {
            let since = |stream: &Stream| stream.last.map_or(stream.asked, |event| event.came);
            if slot
                .as_ref()
                .is_some_and(|stream| since(stream) + self.plan.timeout < moment)
            {
                *slot = None;
                self.tally.failures.add(Failure::Timeout);
            }
        }
    }

    fn done(&self) -> bool {
        let mut open = self.slots.iter().flatten();
        self.begun == self.plan.streams
            && match self.plan.hold {
                true => open.all(|stream| stream.events >= 2),
                false => open.next().is_none() && now() >= self.start + self.plan.length,
            }
    }
}

/// When an event was sent, if this line is one that says so: `t=` and the time.
fn time_of(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let (_, behind) = text.strip_prefix("data: ")?.split_once("t=")?;
    behind.get(..20)?.parse().ok()
}

impl Tally {
    fn event(&mut self, event: Event, last: Option<Event>, asked: u64) {
        self.events += 1;
        self.delay.add(event.came.saturating_sub(event.sent));
        match last {
            None => self.first.add(event.came - asked),
            Some(last) => {
                let (here, there) = (event.came - last.came, event.sent - last.sent);
                self.gap.add(here.abs_diff(there));
            }
        }
    }

    fn json(&self) -> String {
        format!(
            r#"{{"whole":{},"events":{},"failed":{},"first":{},"delay":{},"gap":{}}}"#,
            self.whole,
            self.events,
            self.failures.json(),
            self.first.json(),
            self.delay.json(),
            self.gap.json()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::clock::SECOND;
    use crate::serve::{self, Answer, Settings};

    #[test]
    fn each_event_is_counted_and_timed() {
        let (tell, port) = mpsc::channel();
        let settings = Settings {
            answer: Answer::Events {
                count: 10,
                gap: 20 * MILLISECOND,
            },
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            name: None,
            stall: None,
            lifetime: 20 * SECOND,
        };
        std::thread::spawn(move || serve::run(settings, |ports| tell.send(ports[0]).unwrap()));
        let plan = Plan {
            target: ([127, 0, 0, 1], port.recv().unwrap()).into(),
            streams: 20,
            length: 0,
            ramp: 0,
            timeout: 5 * SECOND,
            hold: false,
        };
        let request = Request::new("POST", "/v1/chat/completions", &[], b"{}", 1);
        let tally = run(&plan, request, || ()).unwrap();
        assert_eq!(tally.failures, Failures::default());
        assert_eq!((tally.whole, tally.events), (20, 200));
        assert_eq!((tally.first.count(), tally.gap.count()), (20, 180));
    }

    #[test]
    fn only_events_with_a_time_are_taken() {
        let line = br#"data: {"delta":{"content":"t=00000000000000000042 n=00001 "}}"#;
        assert_eq!(time_of(line), Some(42));
        assert_eq!(time_of(b"data: [DONE]\n"), None);
        assert_eq!(time_of(b": t=00000000000000000042\n"), None);
    }
}
