//! Commands that talk to a running program through its admin listener: `reload`, `drain`,
//! `undrain`, `status`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::cli::{FAILED, NOT_RUNNING, OK, Output, Remote};
use crate::command::source;

/// How long an answer may take; a reload resolves names first.
const PATIENCE: Duration = Duration::from_secs(15);

/// What an admin listener answered.
struct Answer {
    status: u16,
    body: String,
}

/// Where the admin listener of the program is.
///
/// # Errors
/// If it has none, or the file that would tell cannot be read.
fn address(remote: &Remote) -> Result<SocketAddr, String> {
    if let Some(address) = remote.admin {
        return Ok(address);
    }
    let usual = SocketAddr::from(([127, 0, 0, 1], 2021));
    let Some(source) = source::find(remote.config.as_deref())? else {
        return Ok(usual);
    };
    // a file that is being mended still tells where the program of before listens
    let Some(config) = source.load().0 else {
        return Ok(usual);
    };
    config
        .admin
        .ok_or_else(|| format!("{} says `admin: off`", source.name))
}

fn ask(address: SocketAddr, method: &str, target: &str) -> Result<Answer, String> {
    let failed = |e: std::io::Error| format!("nobody answers at {address}: {e}");
    let mut stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(|| format!("what answers at {address} is no Trunkline"))?,
        body: body.to_owned(),
    })
}

/// Asks for something to be done; says how that went and with which code to exit.
fn order(remote: &Remote, target: &str) -> u8 {
    match address(remote).and_then(|address| ask(address, "POST", target)) {
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

/// `trunkline reload`
pub(crate) fn reload(remote: &Remote) -> u8 {
    order(remote, "/reload")
}

/// `trunkline drain POOL/SERVER [--for TIME]`
pub(crate) fn drain(remote: &Remote, server: &str, time: Option<&str>) -> u8 {
    let query = time.map(|time| format!("?for={time}")).unwrap_or_default();
    order(remote, &format!("/drain/{server}{query}"))
}

/// `trunkline undrain POOL/SERVER`
pub(crate) fn undrain(remote: &Remote, server: &str) -> u8 {
    order(remote, &format!("/undrain/{server}"))
}

/// The status of the running program.
///
/// # Errors
/// Why there is none.
pub(super) fn fetch(remote: &Remote) -> Result<Value, String> {
    let answer = ask(address(remote)?, "GET", "/status")?;
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
