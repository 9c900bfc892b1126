//! One frame: what two samples of the status say, in lines. Pure.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::cells::{TITLES, aligned, bounded, cells, milliseconds, rate, shortened};
use crate::unit::printable;

/// Failures that are shown.
const FAILURES: usize = 5;

/// The status at a moment.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Value,
}

/// What is to be shown.
pub(super) struct View<'a> {
    pub(super) now: &'a Sample,
    /// The sample before; rates need one.
    pub(super) before: Option<&'a Sample>,
    /// Why `now` is old.
    pub(super) fault: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Dim,
    /// Of the table.
    Head,
    Good,
    Doubtful,
    Bad,
}

/// Pieces of text, each in its style.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

/// Head and foot stay, rows scroll.
pub(super) struct Frame {
    pub(super) head: Vec<Line>,
    pub(super) rows: Vec<Line>,
    pub(super) foot: Vec<Line>,
}

impl Line {
    fn of(style: Style, text: impl Into<String>) -> Self {
        Line(vec![(style, text.into())])
    }

    fn then(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// What fits into so many columns.
    pub(super) fn cut(&self, width: usize) -> Vec<(Style, String)> {
        let mut room = width;
        let pieces = self.0.iter().map(|(style, text)| {
            let text: String = text.chars().take(room).collect();
            room -= text.chars().count();
            (*style, text)
        });
        pieces.collect()
    }
}

impl Frame {
    /// The lines for a terminal of so many rows. `top`, the first row to show, is put right.
    pub(super) fn fit(&self, height: usize, top: &mut usize) -> Vec<&Line> {
        let head = self.head.len().min(height);
        let room = height - head;
        // a foot is only for who has room for it
        let foot = match self.rows.len() + self.foot.len() <= room {
            true => self.foot.len(),
            false => 0,
        };
        *top = (*top).min(self.rows.len().saturating_sub(room));
        let rows = self.rows.iter().skip(*top).take(room);
        let head = self.head.iter().take(head);
        head.chain(rows)
            .chain(self.foot.iter().take(foot))
            .collect()
    }
}

pub(super) fn draw(view: &View<'_>, width: usize) -> Frame {
    let status = &view.now.status;
    let mut rows = Vec::new();
    for pool in list(&status["pools"]) {
        let before = view
            .before
            .map(|before| named(&before.status["pools"], pool));
        let measured = Measured {
            now: pool,
            before: before.unwrap_or(&Value::Null),
            seconds: view.seconds(),
        };
        rows.push(pool_row(&measured, width));
        rows.extend(measured.servers().map(|server| server_row(&server, width)));
    }
    Frame {
        head: head(view, width),
        rows,
        foot: foot(status, width),
    }
}

impl View<'_> {
    /// Between the samples.
    fn seconds(&self) -> Option<f64> {
        let passed = self.now.at - self.before?.at;
        Some(passed.as_secs_f64()).filter(|seconds| *seconds > 0.0)
    }

    /// Of a sum over all routes.
    fn rate(&self, counter: &str) -> Option<f64> {
        let sum = |status: &Value| {
            let routes = list(&status["routes"]).iter().chain([&status["unrouted"]]);
            routes.map(|route| count(route, counter)).sum::<u64>()
        };
        let grown = sum(&self.now.status).checked_sub(sum(&self.before?.status))?;
        Some(grown as f64 / self.seconds()?)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// The one with the same name.
fn named<'a>(all: &'a Value, one: &Value) -> &'a Value {
    let same = |other: &&Value| other["name"] == one["name"];
    list(all).iter().find(same).unwrap_or(&Value::Null)
}

fn head(view: &View<'_>, width: usize) -> Vec<Line> {
    let status = &view.now.status;
    let (word, style) = match (&status["draining"], &status["ready"]) {
        (Value::Bool(true), _) => ("draining", Style::Doubtful),
        (_, Value::Bool(true)) => ("ready", Style::Good),
        _ => ("not ready", Style::Bad),
    };
    let up = Duration::from_secs(count(status, "uptime_seconds"));
    let mut first = Line::of(Style::Strong, "trunkline ")
        .then(Style::Plain, format!("{}  ", text(status, "version")))
        .then(style, word)
        .then(
            Style::Plain,
            format!(
                "  up {}  {} in flight  {} req/s",
                humantime::format_duration(up),
                status["requests_in_flight"],
                rate(view.rate("requests")),
            ),
        );
    let errors = view.rate("errors");
    let style = if errors.is_some_and(|e| e > 0.0) {
        Style::Bad
    } else {
        Style::Plain
    };
    first = first.then(style, format!("  {} err/s", rate(errors)));
    let listeners: Vec<&str> = list(&status["listeners"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let demo = if status["demo"] == true {
        "  (with stand-ins)"
    } else {
        ""
    };
    let second = match view.fault {
        Some(fault) => Line::of(
            Style::Bad,
            format!("no answer, trying again: {}", printable(fault)),
        ),
        None => Line::of(
            Style::Dim,
            format!("{}  {}{demo}", listeners.join(" "), text(status, "config")),
        ),
    };
    let titles = TITLES.map(str::to_owned);
    let titles = cells("POOL/SERVER", &titles, width);
    vec![
        first,
        second,
        Line::default(),
        Line::of(Style::Head, titles),
    ]
}

/// A pool or a server, now and at the sample before.
struct Measured<'a> {
    now: &'a Value,
    before: &'a Value,
    seconds: Option<f64>,
}

impl<'a> Measured<'a> {
    fn servers(&self) -> impl Iterator<Item = Measured<'a>> {
        let (before, seconds) = (self.before, self.seconds);
        list(&self.now["servers"]).iter().map(move |now| Measured {
            now,
            before: named(&before["servers"], now),
            seconds,
        })
    }

    /// How fast a counter grew; a restart begins anew.
    fn rate(&self, counter: &str) -> Option<f64> {
        let grown = count(self.now, counter).checked_sub(self.before[counter].as_u64()?)?;
        Some(grown as f64 / self.seconds?)
    }
}

fn sum(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.flatten().reduce(|sum, rate| sum + rate)
}

fn pool_row(pool: &Measured<'_>, width: usize) -> Line {
    let servers: Vec<&Value> = list(&pool.now["servers"]).iter().collect();
    let up = servers.iter().filter(|s| s["state"] == "up").count();
    let style = match (up, pool.now["available"] == true) {
        (_, false) => Style::Bad,
        (up, _) if up < servers.len() => Style::Doubtful,
        _ => Style::Good,
    };
    let in_flight: u64 = servers.iter().map(|s| count(s, "in_flight")).sum();
    let slots: Option<u64> = servers.iter().map(|s| s["slots"].as_u64()).sum();
    let mut busy = bounded(in_flight, slots);
    if count(pool.now, "waiting") > 0 {
        busy.push_str(&format!(" +{}", count(pool.now, "waiting")));
    }
    let kind = pool.now["kind"].as_str();
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    let errors = sum(pool.servers().map(|s| s.rate("failures")));
    let values = [
        format!("{up}/{} up", servers.len()),
        busy,
        rate(sum(pool.servers().map(|s| s.rate("attempts")))),
        rate(errors),
        milliseconds(&pool.now["first_byte_ms"]["p50"]),
        milliseconds(&pool.now["first_byte_ms"]["p99"]),
    ];
    let name = format!("{}{kind}", text(pool.now, "name"));
    row((&name, Style::Strong), values, style, errors, width)
}

fn server_row(server: &Measured<'_>, width: usize) -> Line {
    let state = text(server.now, "state");
    let style = match state {
        "up" => Style::Good,
        "down" | "ejected" => Style::Bad,
        _ => Style::Doubtful,
    };
    let backup = if server.now["backup"] == true {
        " (backup)"
    } else {
        ""
    };
    let errors = server.rate("failures");
    let values = [
        state.to_owned(),
        bounded(count(server.now, "in_flight"), server.now["slots"].as_u64()),
        rate(server.rate("attempts")),
        rate(errors),
        milliseconds(&server.now["first_byte_ms"]["p50"]),
        milliseconds(&server.now["first_byte_ms"]["p99"]),
    ];
    let name = format!("  {}{backup}", text(server.now, "name"));
    row((&name, Style::Plain), values, style, errors, width)
}

/// State and errors in their colours.
fn row(
    (name, named): (&str, Style),
    values: [String; 6],
    state: Style,
    errors: Option<f64>,
    width: usize,
) -> Line {
    let cells = aligned(name, &values, width);
    let failing = if errors.is_some_and(|e| e > 0.0) {
        Style::Bad
    } else {
        Style::Plain
    };
    let styles = [
        named,
        state,
        Style::Plain,
        Style::Plain,
        failing,
        Style::Plain,
        Style::Plain,
    ];
    Line(styles.into_iter().zip(cells).collect())
}

/// The last failures.
fn foot(status: &Value, width: usize) -> Vec<Line> {
    let failures = list(&status["recent_failures"]);
    let mut lines = Vec::new();
    if !failures.is_empty() {
        lines.push(Line::default());
        lines.push(Line::of(Style::Strong, "LAST FAILURES AND RETRIES"));
    }
    for failure in failures.iter().take(FAILURES) {
        let at = text(failure, "ts");
        let clock = at.get(11..19).unwrap_or(at);
        let code = match count(failure, "status") {
            0 => "-".to_owned(),
            status => status.to_string(),
        };
        let attempts: Vec<&str> = list(&failure["attempts"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let why = match failure["local"].as_str() {
            Some(local) if attempts.is_empty() => local.to_owned(),
            _ => attempts.join(", "),
        };
        let line = format!("{clock}  {code:>3}  {}  {why}", text(failure, "path"));
        lines.push(Line::of(Style::Plain, shortened(&printable(&line), width)));
    }
    lines
}

#[cfg(test)]
mod tests;
