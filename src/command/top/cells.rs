//! Columns, and numbers that fit into them.

use serde_json::Value;

/// Of the columns behind the name, each with a space before it.
const WIDTHS: [usize; 6] = [10, 9, 7, 7, 7, 7];
pub(super) const TITLES: [&str; 6] = ["STATE", "IN FLIGHT", "REQ/S", "ERR/S", "P50 MS", "P99 MS"];
pub(super) fn cells(name: &str, values: &[String; 6], width: usize) -> String {
    aligned(name, values, width).concat()
}

/// The name takes what the others leave; numbers stand below each other.
pub(super) fn aligned(name: &str, values: &[String; 6], width: usize) -> [String; 7] {
    let others: usize = WIDTHS.iter().map(|width| width + 1).sum();
    let room = width.saturating_sub(others).clamp(12, 40);
    let mut out = [const { String::new() }; 7];
    out[0] = format!("{:room$}", shortened(name, room));
    for (n, (value, width)) in values.iter().zip(WIDTHS).enumerate() {
        out[n + 1] = match n {
            0 => format!(" {value:width$}"),
            _ => format!(" {value:>width$}"),
        };
    }
    out
}

pub(super) fn shortened(text: &str, room: usize) -> String {
    match text.chars().count() > room {
        true => text.chars().take(room - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

pub(super) fn bounded(number: u64, limit: Option<u64>) -> String {
    limit.map_or_else(|| number.to_string(), |limit| format!("{number}/{limit}"))
}

pub(super) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "-".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

pub(super) fn milliseconds(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(ms) if ms < 9.95 => format!("{ms:.1}"),
        Some(ms) if ms < 99_999.5 => format!("{ms:.0}"),
        Some(ms) => format!("{:.0}s", ms / 1000.0),
    }
}
