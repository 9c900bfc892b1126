//! What clients, lines and servers tell in sum, to be compared with the metrics.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kinds::Kind;
use super::ledger::{Act, Outcome, attempts};

/// Types of tokens, and their fields in the log.
const TOKENS: [(&str, &str); 2] = [("input", "tokens_in"), ("output", "tokens_out")];

/// Sums of what was joined.
#[derive(Clone, Default)]
pub struct Tallies {
    /// By kind: requests, whole, broken, left.
    pub kinds: BTreeMap<Kind, [u64; 4]>,
    /// What the log says in sum, as series of the metrics: name and labels.
    pub series: BTreeMap<(&'static str, String), f64>,
    pub lines: u64,
    pub attempts: u64,
    /// Those behind the first of their request.
    pub further: u64,
    /// Attempts that no server saw: no connection, or it broke before.
    pub unseen: u64,
    /// Requests that were sent once more on a fresh connection within the same attempt.
    pub resent: u64,
    /// By server: requests that it read.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Tallies {
    /// The sums of a metric by one of its labels, to be read.
    pub fn by(&self, name: &str, label: &str) -> String {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for ((of, labels), value) in &self.series {
            let values = labels
                .split(' ')
                .filter_map(|pair| pair.strip_prefix(label));
            for kind in values.filter(|_| *of == name) {
                *sums.entry(kind).or_default() += value;
            }
        }
        let told: Vec<String> = sums
            .iter()
            .map(|(kind, sum)| format!("{kind} {sum}"))
            .collect();
        told.join(", ")
    }

    fn count(&mut self, name: &'static str, labels: String, by: f64) {
        *self.series.entry((name, labels)).or_default() += by;
    }

    /// Adds a request that was joined.
    pub fn add(&mut self, outcome: &Outcome, line: &Value, acts: &[Act]) {
        let all = self.kinds.entry(outcome.kind).or_default();
        all[0] += 1;
        all[1 + outcome.end as usize] += 1;
        self.lines += 1;
        let text = |name: &str| line[name].as_str().unwrap_or("none").to_owned();
        let number = |name: &str| line[name].as_u64().unwrap_or(0) as f64;
        let route = format!("route={}", text("route"));
        let pool = match line["local"].is_null() && line["pool"].is_string() {
            true => text("pool"),
            false => "local".to_owned(),
        };
        let code = number("status");
        self.count(
            "requests_total",
            format!("{route} pool={pool} code={code}"),
            1.0,
        );
        let reason = text("termination");
        self.count(
            "terminations_total",
            format!("{route} reason={reason}"),
            1.0,
        );
        self.count("request_bytes_total", route.clone(), number("bytes_in"));
        self.count("response_bytes_total", route.clone(), number("bytes_out"));
        for (kind, field) in TOKENS {
            self.count(
                "tokens_total",
                format!("{route} type={kind}"),
                number(field),
            );
        }
        if let Some(result) = line["cache"].as_str() {
            self.count(
                "cache_requests_total",
                format!("{route} result={result}"),
                1.0,
            );
        }
        if let Some(code) = line["local"].as_str() {
            self.count("local_replies_total", format!("code={code}"), 1.0);
        }
        self.add_key(line);
        self.add_attempts(line, acts);
    }

    fn add_key(&mut self, line: &Value) {
        let Some(key) = line["key"].as_str() else {
            return;
        };
        let class = match line["status"].as_u64().unwrap_or(0) {
            0 => "none".to_owned(),
            status => format!("{}xx", status / 100),
        };
        self.count("key_requests_total", format!("key={key} code={class}"), 1.0);
        for (kind, field) in TOKENS {
            let tokens = line[field].as_u64().unwrap_or(0) as f64;
            self.count("key_tokens_total", format!("key={key} type={kind}"), tokens);
        }
    }

    fn add_attempts(&mut self, line: &Value, acts: &[Act]) {
        let attempts = attempts(line);
        self.attempts += attempts.len() as u64;
        self.further += attempts.len().saturating_sub(1) as u64;
        for (server, result) in &attempts {
            let (pool, server) = server.split_once('/').unwrap();
            let labels = format!("pool={pool} server={server}");
            self.count("attempts_total", labels.clone(), 1.0);
            // how an answer that had begun ended, the line tells only by its termination
            if result.starts_with("connect_error") || result == "cancelled" {
                let labels = format!("{labels} result={result}");
                self.count("attempts_total", labels, 1.0);
            }
        }
        for act in acts {
            *self.seen.entry(act.server).or_default() += 1;
        }
        let names: BTreeSet<&str> = attempts
            .iter()
            .map(|(server, _)| server.as_str())
            .chain(acts.iter().map(|act| act.server))
            .collect();
        for name in names {
            let asked = attempts.iter().filter(|(server, _)| server == name).count() as u64;
            let seen = acts.iter().filter(|act| act.server == name).count() as u64;
            self.unseen += asked.saturating_sub(seen);
            self.resent += seen.saturating_sub(asked);
        }
    }
}
