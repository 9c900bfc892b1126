//! What has to hold when all is over, and what is told of it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::Done;
use super::clients::Stage;
use super::kinds::Kind;
use super::tally::Tallies;
use super::trouble::{self, Fakes};
use super::watch::{self, Sample, Series};
use crate::support::Gateway;

/// How much more memory the end may take than the beginning, in KiB: what the parts of an allocator
/// differ by.
const SLACK: u64 = 8 * 1024;

pub struct After<'a> {
    pub gateway: &'a Gateway,
    pub stage: &'a Stage,
    pub fakes: &'a Fakes,
    pub samples: &'a [Sample],
    pub done: &'a Done,
    /// Those that were open at the start.
    pub descriptors: usize,
}

/// Two numbers that have to be the same, and of what.
type Pair = (String, f64, f64);

fn pair(what: &str, counted: f64, should: f64) -> Pair {
    (what.to_owned(), counted, should)
}

impl After<'_> {
    pub fn check(&self) {
        let mut wrong = self.unsettled();
        wrong.extend(self.taken());
        let series = Series::scrape(self.gateway);
        let tallies = self.stage.ledger.tallies.lock().unwrap().clone();
        wrong.extend(watch::differences(&series, &tallies));
        let pairs = self.totals(&series, &tallies).into_iter();
        let pairs = pairs.chain(self.steady_servers(&series, &tallies));
        wrong.extend(
            pairs.filter(|(_, counted, should)| counted != should).map(
                |(what, counted, should)| format!("{what}: {counted}, and should be {should}"),
            ),
        );
        let descriptors = self.open_descriptors();
        if descriptors > self.descriptors {
            wrong.push(format!(
                "{descriptors} descriptors, {} at the start",
                self.descriptors
            ));
        }
        let (early, late) = watch::memory(self.samples);
        if late > early + early / 10 + SLACK {
            wrong.push(format!("memory grew from {early} KiB to {late} KiB"));
        }
        let said = self.gateway.stderr();
        let bad = |line: &&str| line.contains("\"level\":\"error\"") || line.contains("panicked");
        wrong.extend(said.lines().filter(bad).map(str::to_owned));
        self.report(&series, &tallies, descriptors);
        wrong.extend(self.stage.ledger.all_wrong());
        let shown: Vec<&String> = wrong.iter().take(20).collect();
        assert!(
            wrong.is_empty(),
            "{} things are wrong:\n{shown:#?}",
            wrong.len()
        );
    }

    /// Requests that not everybody knows of.
    fn unsettled(&self) -> Vec<String> {
        let ledger = &self.stage.ledger;
        for _ in 0..20 {
            trouble::rotate(self.gateway, self.stage);
            if ledger.unsettled() == (0, 0) {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let mut wrong = Vec::new();
        let unread = ledger.forget_unread();
        println!("\n{unread} requests whose clients left before they were read");
        let (clients, lines) = ledger.unsettled();
        if (clients, lines) != (0, 0) {
            let some = ledger.leftovers();
            wrong.push(format!(
                "{clients} requests without a line, {lines} lines without a request: {some}"
            ));
        }
        if ledger.unknown_acts() > 0 {
            wrong.push(format!(
                "{} requests that only servers know of",
                ledger.unknown_acts()
            ));
        }
        wrong
    }

    /// Gauges of what is taken, if they do not go down to nothing.
    fn taken(&self) -> Vec<String> {
        let gauges = [
            "upstream_in_flight",
            "requests_in_flight",
            "queue_depth",
            "mirrors_in_flight",
        ];
        let mut taken = Vec::new();
        for _ in 0..100 {
            let series = Series::scrape(self.gateway);
            let values = gauges.map(|gauge| (gauge, series.sum(gauge, "")));
            let open = ("connections", self.connections(&series, "connections"));
            taken = values.into_iter().chain([open]).collect();
            taken.retain(|(_, value)| *value != 0.0);
            if taken.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let told = taken
            .iter()
            .map(|(gauge, value)| format!("{gauge} is {value}"));
        told.collect()
    }

    /// Those of clients, not of who looks at the metrics.
    fn connections(&self, series: &Series, name: &str) -> f64 {
        let listeners = [self.stage.plain, self.stage.secure];
        let of = listeners.map(|listener| series.sum(name, &format!("listener={listener}")));
        of.iter().sum()
    }

    /// Descriptors once kept connections had their time.
    fn open_descriptors(&self) -> usize {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            let now = watch::descriptors(self.gateway.pid());
            if now <= self.descriptors || Instant::now() > end {
                return now;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is counted at one place and has to be the same at another.
    fn totals(&self, series: &Series, tallies: &Tallies) -> Vec<Pair> {
        let kept = tallies.kinds.get(&Kind::Kept).map_or(0, |of| of[0]);
        let moves = series.sum("retries_total", "")
            + series.sum("fallbacks_total", "")
            + series.sum("hedges_total", "result=started")
            - series.sum("fallbacks_total", "reason=unavailable");
        let copies = series.sum("attempts_total", "pool=mirror");
        let sum = |name: &str, labels: &str| series.sum(name, labels);
        let count = |number: &std::sync::atomic::AtomicU64| number.load(SeqCst) as f64;
        let reloads = self.done.reloads as f64 + 1.0;
        let made = sum("config_reloads_total", "result=success");
        vec![
            // a file that was written and not ordered yet is found after a while
            pair("reloads", made, made.max(reloads)),
            pair(
                "refused reloads",
                sum("config_reloads_total", "result=failure"),
                0.0,
            ),
            pair(
                "refused by a limit",
                sum("rate_limited_total", ""),
                count(&self.stage.limited),
            ),
            pair("lines dropped", sum("log_lines_dropped_total", ""), 0.0),
            pair(
                "attempts",
                sum("attempts_total", "") - copies,
                tallies.attempts as f64,
            ),
            pair("retries, fallbacks, hedges", moves, tallies.further as f64),
            pair(
                "copies",
                copies,
                self.fakes.named("mirror/one").copies() as f64,
            ),
            pair(
                "copies by result",
                sum("mirrored_total", "result=2xx"),
                copies,
            ),
            pair(
                "asked of the cache",
                sum("cache_requests_total", ""),
                kept as f64,
            ),
            pair(
                "connections",
                self.connections(series, "connections_total"),
                count(&self.stage.connections),
            ),
        ]
    }

    /// These have no faults, and nobody leaves who asked them: they and Trunkline count the same.
    fn steady_servers(&self, series: &Series, tallies: &Tallies) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for name in ["steady/one", "steady/two"] {
            let fake = self.fakes.named(name);
            let (pool, server) = name.split_once('/').unwrap();
            let labels = format!("pool={pool} server={server}");
            let (received, sent) = fake.bytes();
            let bytes = |direction: &str| {
                series.sum(
                    "upstream_bytes_total",
                    &format!("{labels} direction={direction}"),
                )
            };
            let attempts = series.sum("attempts_total", &labels);
            let seen = tallies.seen.get(name).copied().unwrap_or(0);
            let probes = Series::scrape(self.gateway).sum("health_checks_total", &labels);
            let apart = (probes - fake.probes() as f64).abs();
            pairs.push(pair(
                &format!("bytes sent to {name}"),
                bytes("sent"),
                received as f64,
            ));
            pairs.push(pair(
                &format!("bytes received from {name}"),
                bytes("received"),
                sent as f64,
            ));
            pairs.push(pair(&format!("requests to {name}"), attempts, seen as f64));
            // one may be under way
            pairs.push(pair(&format!("probes of {name}"), apart, apart.min(1.0)));
        }
        // of others not all arrives that is sent
        for fake in &self.fakes.0 {
            let (pool, server) = fake.name.split_once('/').unwrap();
            let labels = format!("pool={pool} server={server} direction=received");
            let received = series.sum("upstream_bytes_total", &labels);
            let most = fake.bytes().1 as f64;
            pairs.push(pair(
                &format!("bytes received from {}", fake.name),
                received,
                received.min(most),
            ));
        }
        pairs
    }

    fn report(&self, series: &Series, tallies: &Tallies, descriptors: usize) {
        println!("\nkind           requests      whole   broken     left");
        for (kind, [all, whole, broken, left]) in &tallies.kinds {
            let kind = format!("{kind:?}");
            println!("{kind:<12} {all:>10} {whole:>10} {broken:>8} {left:>8}");
        }
        let unnamed = self.stage.unnamed.load(SeqCst);
        println!(
            "HalfHead     {unnamed:>10} {:>10} {:>8} {unnamed:>8}\n",
            0, 0
        );
        for (what, name, label) in [
            ("statuses", "requests_total", "code="),
            ("ends", "terminations_total", "reason="),
            ("own answers", "local_replies_total", "code="),
            ("cache", "cache_requests_total", "result="),
        ] {
            println!("{what}: {}", tallies.by(name, label));
        }
        println!("\nserver           read");
        for (name, count) in &tallies.seen {
            println!("{name:<12} {count:>8}");
        }
        println!(
            "\n{} requests, as many lines in the log\n{} attempts, of which {} reached no server\n{} requests sent once more, as the kept connection was dead",
            tallies.lines, tallies.attempts, tallies.unseen, tallies.resent
        );
        let Done {
            faults,
            reloads,
            drains,
        } = self.done;
        let hedges = series.sum("hedges_total", "result=started");
        let copies = self.fakes.named("mirror/one").copies();
        println!("{hedges} hedges, {copies} copies for the mirror");
        println!("{faults} faults, {reloads} reloads, {drains} drains");
        let most = self
            .samples
            .iter()
            .map(|sample| sample.connections as u64)
            .max();
        let (early, late) = watch::memory(self.samples);
        let mib = |kib: u64| kib as f64 / 1024.0;
        println!("memory {:.1} MiB, then {:.1} MiB", mib(early), mib(late));
        println!(
            "descriptors {} before, {descriptors} after",
            self.descriptors
        );
        println!("at most {} connections of clients", most.unwrap_or(0));
    }
}
