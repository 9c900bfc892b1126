//! Looks at the program from outside while it runs: memory, descriptors, threads, metrics.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::clients::Stage;
use super::tally::Tallies;
use crate::support::{Gateway, Request};

/// What was seen at one time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// `VmRSS`, in KiB.
    pub memory: u64,
    pub descriptors: usize,
    pub threads: usize,
    pub connections: f64,
    pub in_flight: f64,
}

pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A number of `/proc/PID/status`.
pub fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// All series of the metrics: name with labels, value.
pub struct Series(Vec<(String, f64)>);

impl Series {
    pub fn scrape(gateway: &Gateway) -> Self {
        let text = Request::get("/metrics").send(gateway.admin).text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Series(
            pairs
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }

    /// The sum of the series with this name whose labels hold all of `a=b c=d`.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        let name = format!("trunkline_{name}");
        let labels: Vec<String> = labels
            .split_whitespace()
            .map(|label| {
                let (name, value) = label.split_once('=').unwrap();
                format!("{name}=\"{value}\"")
            })
            .collect();
        let of_it = self.0.iter().filter(|(series, _)| {
            let rest = series.strip_prefix(&name);
            rest.is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{'))
                    && labels.iter().all(|label| rest.contains(label.as_str()))
            })
        });
        of_it.map(|(_, value)| value).sum()
    }

    fn counters(&self) -> HashMap<&str, f64> {
        let counts = |name: &str| {
            let name = name.split('{').next().unwrap_or(name);
            ["_total", "_count", "_sum", "_bucket"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let counters = self.0.iter().filter(|(name, _)| counts(name));
        counters
            .map(|(name, value)| (name.as_str(), *value))
            .collect()
    }

    /// Counters that went back or away since then.
    pub fn shrunk(&self, before: &Series) -> Vec<String> {
        let now = self.counters();
        let old = before.counters();
        let shrunk = old.iter().filter(|(name, value)| {
            let now = now.get(*name).copied().unwrap_or(f64::MIN);
            now < **value
        });
        shrunk.map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// Notes how long the machine stands still.
pub fn pulse(stage: &Stage) {
    const BEAT: Duration = Duration::from_millis(10);
    let mut last = Instant::now();
    let mut late = Duration::ZERO;
    while !stage.over.load(SeqCst) {
        std::thread::sleep(BEAT);
        late += last.elapsed().saturating_sub(BEAT);
        last = Instant::now();
        stage.late.store(late.as_millis() as u64, SeqCst);
    }
}

/// Scrapes and samples until it is over, and prints a line now and then.
pub fn watch(gateway: &Gateway, stage: &Stage, begun: Instant, every: Duration) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut last = Series::scrape(gateway);
    let mut told = Duration::ZERO;
    println!(
        "{:>7} {:>9} {:>6} {:>8} {:>6} {:>5} {:>5} {:>5} {:>7} {:>5} {:>5}",
        "time",
        "requests",
        "a sec",
        "attempts",
        "failed",
        "open",
        "MiB",
        "fds",
        "threads",
        "still",
        "wrong"
    );
    let (mut before, mut late_before) = (0, 0);
    while !stage.over.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(1000));
        let now = Series::scrape(gateway);
        for name in now.shrunk(&last) {
            stage.ledger.wrong(format!("the counter {name} went back"));
        }
        last = now;
        let pid = gateway.pid();
        let sample = Sample {
            at: begun.elapsed(),
            memory: status(pid, "VmRSS"),
            descriptors: descriptors(pid),
            threads: status(pid, "Threads") as usize,
            connections: last.sum("connections", ""),
            in_flight: last.sum("requests_in_flight", ""),
        };
        samples.push(sample);
        if sample.at >= told + every {
            let count = last.sum("requests_total", "") as u64;
            let seconds = (sample.at - told).as_secs_f64();
            let rate = (count - before) as f64 / seconds;
            let late = stage.late.load(SeqCst);
            let still = (late - late_before) as f64 / 10.0 / seconds;
            late_before = late;
            tell(stage, &last, &sample, count, rate, still);
            (told, before) = (sample.at, count);
        }
    }
    samples
}

/// `still`: how much of the time the machine stood still, in percent.
fn tell(stage: &Stage, series: &Series, sample: &Sample, count: u64, rate: f64, still: f64) {
    let seconds = sample.at.as_secs();
    println!(
        "{:>7} {count:>9} {rate:>6.0} {:>8.0} {:>6.0} {:>5.0} {:>5.1} {:>5} {:>7} {still:>4.0}% {:>5}",
        format!("{}:{:02}", seconds / 60, seconds % 60),
        series.sum("attempts_total", ""),
        series.sum("terminations_total", "reason=upstream_abort")
            + series.sum("terminations_total", "reason=timeout"),
        sample.in_flight,
        sample.memory as f64 / 1024.0,
        sample.descriptors,
        sample.threads,
        stage.ledger.all_wrong().len(),
    );
}

fn median(of: &[Sample]) -> u64 {
    let mut sorted: Vec<u64> = of.iter().map(|sample| sample.memory).collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// Medians of memory in KiB: of the second fifth and of the last, by which it is judged.
pub fn memory(samples: &[Sample]) -> (u64, u64) {
    let fifth = samples.len() / 5;
    (
        median(&samples[fifth..2 * fifth]),
        median(&samples[4 * fifth..]),
    )
}

/// Whether the metrics count what the log says in sum; what is different.
pub fn differences(series: &Series, tallies: &Tallies) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for ((name, labels), logged) in &tallies.series {
        let counted = series.sum(name, labels);
        if counted != *logged {
            wrong.push(format!(
                "{name} {labels}: counted {counted}, logged {logged}"
            ));
        }
        names.push(name);
    }
    names.dedup();
    // and nothing that the log does not know of
    for name in [
        "requests_total",
        "terminations_total",
        "local_replies_total",
        "tokens_total",
    ] {
        let logged = tallies.series.iter().filter(|((of, _), _)| *of == name);
        let logged: f64 = logged.map(|(_, value)| value).sum();
        let counted = series.sum(name, "");
        if counted != logged {
            wrong.push(format!("{name}: counted {counted}, logged {logged}"));
        }
    }
    wrong
}
