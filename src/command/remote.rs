//! Commands that talk to a running program through its admin listener: `reload`, `upgrade`, `drain`,
//! `undrain`, `log-level`, `cache`, `status`.

use std::time::Duration;

use serde_json::Value;

use super::admin_client::{AdminClient, Answer};
use super::progress;
use crate::cli::{FAILED, NOT_RUNNING, OK, Output, Remote};
use crate::config::Level;

/// How long an answer may take; a reload resolves names first.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for an upgrade: the other program looks for its servers first.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(90);

/// Asks for something to be done; says how that went and with which code to exit.
fn order(remote: &Remote, target: &str, patience: Duration) -> u8 {
    let waiting = progress::show("the program");
    let asked = AdminClient::find(remote).and_then(|client| client.ask("POST", target, patience));
    drop(waiting);
    match asked {
        Ok(Answer { status: 200, body }) => {
            print!("{body}");
            OK
        }
        Ok(Answer { body, .. }) => {
            eprint!("{body}");
            FAILED
        }
        Err(message) => {
            eprintln!("trunkline: {message}");
            FAILED
        }
    }
}

/// `trunkline upgrade`
pub(crate) fn upgrade(remote: &Remote) -> u8 {
    order(remote, "/upgrade", UPGRADE_PATIENCE)
}

/// `trunkline log-level [LEVEL] [--for TIME]`
pub(crate) fn log_level(remote: &Remote, level: Option<Level>, time: Option<&str>) -> u8 {
    let given = [
        ("level", level.map(|level| level.to_string())),
        ("for", time.map(str::to_owned)),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let query = given.collect::<Vec<_>>().join("&");
    order(remote, &format!("/logs/level?{query}"), PATIENCE)
}

/// `trunkline reload`
pub(crate) fn reload(remote: &Remote) -> u8 {
    order(remote, "/reload", PATIENCE)
}

/// `trunkline drain POOL/SERVER [--for TIME]`
pub(crate) fn drain(remote: &Remote, server: &str, time: Option<&str>) -> u8 {
    let query = time.map(|time| format!("?for={time}")).unwrap_or_default();
    order(remote, &format!("/drain/{server}{query}"), PATIENCE)
}

/// `trunkline undrain POOL/SERVER`
pub(crate) fn undrain(remote: &Remote, server: &str) -> u8 {
    order(remote, &format!("/undrain/{server}"), PATIENCE)
}

/// `trunkline cache clear`
pub(crate) fn clear_cache(remote: &Remote) -> u8 {
    order(remote, "/cache/clear", PATIENCE)
}

/// The status of the running program.
///
/// # Errors
/// Why there is none.
pub(super) fn fetch(remote: &Remote) -> Result<Value, String> {
    let answer = AdminClient::find(remote)?.ask("GET", "/status", PATIENCE)?;
    match answer.status {
        200 => serde_json::from_str(&answer.body)
            .map_err(|_| "what answers is no Trunkline".to_owned()),
        status => Err(format!("the answer was {status}: {}", answer.body.trim())),
    }
}

/// `trunkline status`: exit code 3 if nothing runs, as init scripts have it.
pub(crate) fn status(remote: &Remote, output: Output) -> u8 {
    let status = fetch(remote);
    match (status, output) {
        (Ok(status), Output::Json) => {
            println!("{status:#}");
            OK
        }
        (Ok(status), Output::Text) => {
            print!("{}", table(&status));
            OK
        }
        (Err(message), _) => {
            eprintln!("trunkline: not running, or not to be asked: {message}");
            NOT_RUNNING
        }
    }
}

/// The status for people, in less than 80 columns with names of usual length.
fn table(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let ready = match (&status["draining"], &status["ready"]) {
        (Value::Bool(true), _) => "draining",
        (_, Value::Bool(true)) => "ready",
        _ => "not ready",
    };
    let uptime = Duration::from_secs(status["uptime_seconds"].as_u64().unwrap_or(0));
    let mut out = format!(
        "trunkline {}  {ready}  up {}  {} in flight\n\n",
        text(&status["version"]),
        humantime::format_duration(uptime),
        status["requests_in_flight"]
    );
    let mut rows = vec![["SERVER", "STATE", "IN FLIGHT", "WEIGHT", "URL"].map(str::to_owned)];
    for pool in status["pools"].as_array().into_iter().flatten() {
        for server in pool["servers"].as_array().into_iter().flatten() {
            let slots = server["slots"].as_u64();
            let slots = slots.map(|slots| format!("/{slots}")).unwrap_or_default();
            let backup = server["backup"].as_bool().unwrap_or(false);
            rows.push([
                format!("{}/{}", text(&pool["name"]), text(&server["name"])),
                format!(
                    "{}{}",
                    text(&server["state"]),
                    if backup { ", backup" } else { "" }
                ),
                format!("{}{slots}", server["in_flight"]),
                server["weight"].to_string(),
                text(&server["url"]),
            ]);
        }
    }
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in &rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}
