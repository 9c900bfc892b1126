//! Who says what of each request: its client, the fake servers that saw it, the access log. All is
//! joined by the request's id, and what the three say has to be the same.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde_json::Value;

use super::kinds::Kind;
use super::tally::Tallies;

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer came.
    Whole,
    /// The answer was cut, or ended with an error event.
    Broken,
    /// The client left of its own.
    Left,
}

/// What a client knows of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kind: Kind,
    pub end: End,
    /// 0 if no head came.
    pub status: u16,
    /// Of the body of the request.
    pub sent: u64,
    /// Of the body of the answer.
    pub bytes: u64,
    /// Of an error.
    pub code: String,
}

/// What a fake server did with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It has read it and has not answered yet.
    Nothing,
    /// Answered, whole.
    Answered,
    /// Broke off behind the head of its answer, or was killed there, or nobody took the rest.
    Began,
    /// Said what is no HTTP.
    Nonsense,
}

#[derive(Clone, Copy, Debug)]
pub struct Act {
    pub server: &'static str,
    pub did: Did,
    pub status: u16,
    /// Input and output, as it stated them.
    pub tokens: Option<(u64, u64)>,
    /// It came on a connection that had served others before.
    pub reused: bool,
    /// The connection was broken by its end, and what was sent last may not have arrived.
    pub killed: bool,
}

impl Act {
    /// Whether its answer may not have arrived whole.
    fn broke(&self) -> bool {
        self.killed || matches!(self.did, Did::Began | Did::Nonsense)
    }
}

#[derive(Default)]
pub struct Ledger {
    next: AtomicU64,
    clients: Mutex<HashMap<String, Outcome>>,
    acts: Mutex<HashMap<String, Vec<Act>>>,
    /// Lines of the access log whose client has not said yet how it ended.
    lines: Mutex<Vec<Value>>,
    wrong: Mutex<Vec<String>>,
    pub tallies: Mutex<Tallies>,
}

impl Ledger {
    pub fn new_id(&self) -> String {
        format!("soak-{}", self.next.fetch_add(1, SeqCst))
    }

    /// A client's account of a request.
    pub fn ended(&self, id: String, outcome: Outcome) {
        let mut clients = self.clients.lock().unwrap();
        let before = clients.insert(id.clone(), outcome.clone());
        if let Some(before) = before {
            self.wrong(format!("{id} ended twice: {before:?}, {outcome:?}"));
        }
    }

    /// Something that must not be.
    pub fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 30 {
            println!("WRONG: {}", what.chars().take(900).collect::<String>());
        }
        wrong.push(what);
    }

    pub fn all_wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// A server has read a request; where to say what it did with it.
    pub fn begin(&self, id: &str, act: Act) -> usize {
        let mut acts = self.acts.lock().unwrap();
        let all = acts.entry(id.to_owned()).or_default();
        all.push(act);
        all.len() - 1
    }

    pub fn note(&self, id: &str, at: usize, change: impl FnOnce(&mut Act)) {
        let mut acts = self.acts.lock().unwrap();
        if let Some(act) = acts.get_mut(id).and_then(|all| all.get_mut(at)) {
            change(act);
        }
    }

    /// Joins what is known of these lines and of those that had to wait.
    pub fn settle(&self, lines: Vec<Value>) {
        let mut waiting = std::mem::take(&mut *self.lines.lock().unwrap());
        waiting.extend(lines);
        let mut rest = Vec::new();
        for line in waiting {
            let id = line["request_id"].as_str().unwrap_or_default().to_owned();
            let outcome = self.clients.lock().unwrap().remove(&id);
            let Some(outcome) = outcome else {
                rest.push(line);
                continue;
            };
            let acts = self.acts.lock().unwrap().remove(&id).unwrap_or_default();
            if let Err(why) = judge(&outcome, &line, &acts) {
                self.wrong(format!("{why}: {outcome:?} {line} {acts:?}"));
            }
            self.tallies.lock().unwrap().add(&outcome, &line, &acts);
        }
        self.lines.lock().unwrap().extend(rest);
    }

    /// Requests that ended for their client and have no line yet, and lines without a client.
    pub fn unsettled(&self) -> (usize, usize) {
        let clients = self.clients.lock().unwrap().len();
        (clients, self.lines.lock().unwrap().len())
    }

    /// Forgets requests whose client left and that no server saw: it may have left before anybody
    /// had read them. How many there are.
    pub fn forget_unread(&self) -> usize {
        let acts = self.acts.lock().unwrap();
        let mut clients = self.clients.lock().unwrap();
        let before = clients.len();
        clients.retain(|id, outcome| outcome.end != End::Left || acts.contains_key(id));
        before - clients.len()
    }

    /// Some of what `unsettled` counts, to be looked at.
    pub fn leftovers(&self) -> String {
        let clients = self.clients.lock().unwrap();
        let clients: Vec<_> = clients.iter().take(5).collect();
        let lines = self.lines.lock().unwrap();
        let lines: Vec<String> = lines.iter().take(5).map(Value::to_string).collect();
        format!("{clients:?}\n{}", lines.join("\n"))
    }

    /// Requests that servers saw and no line speaks of.
    pub fn unknown_acts(&self) -> usize {
        self.acts.lock().unwrap().len()
    }
}

pub fn attempts(line: &Value) -> Vec<(String, String)> {
    let all = line["attempts"].as_array().into_iter().flatten();
    all.filter_map(|attempt| attempt.as_str()?.split_once('='))
        .map(|(server, result)| (server.to_owned(), result.to_owned()))
        .collect()
}

/// Whether client, line and servers agree about one request.
fn judge(outcome: &Outcome, line: &Value, acts: &[Act]) -> Result<(), String> {
    servers_agree(line, acts)?;
    let termination = line["termination"].as_str().unwrap_or_default();
    let last = attempts(line).pop();
    let by_last = |act: &&Act| {
        last.as_ref()
            .is_some_and(|(server, _)| *server == act.server)
    };
    match outcome.end {
        End::Left => return Ok(()),
        End::Whole => {
            if line["status"] != outcome.status {
                return Err("another status".to_owned());
            }
            if line["bytes_out"] != outcome.bytes {
                return Err("other bytes out".to_owned());
            }
            if !["complete", "rejected", "upstream_abort", "timeout"].contains(&termination) {
                return Err("a whole answer is not logged as one".to_owned());
            }
        }
        End::Broken => {
            let broke = acts.iter().filter(by_last);
            let broke = broke.filter(|act| act.broke());
            if broke.count() == 0 {
                return Err("broken, and no server broke off".to_owned());
            }
            if !["upstream_abort", "timeout"].contains(&termination) {
                return Err("a broken answer is not logged as one".to_owned());
            }
        }
    }
    allowed(outcome, line, acts)?;
    let cached = matches!(line["cache"].as_str(), Some("hit" | "coalesced"));
    let served = outcome.end == End::Whole && termination == "complete";
    match served && line["local"].is_null() && !cached {
        true => as_answered(outcome, line, acts.iter().filter(by_last)),
        false => Ok(()),
    }
}

/// What came whole is what one of these acts was.
fn as_answered<'a>(
    outcome: &Outcome,
    line: &Value,
    mut by_last: impl Iterator<Item = &'a Act>,
) -> Result<(), String> {
    let so = |act: &&Act| act.did == Did::Answered && act.status == outcome.status;
    let Some(act) = by_last.find(so) else {
        return Err("whole, and no server answered so".to_owned());
    };
    let number = |name: &str| line[name].as_u64().unwrap_or(0);
    if number("bytes_in") != outcome.sent {
        return Err("other bytes in".to_owned());
    }
    let told = (number("tokens_in"), number("tokens_out"));
    let stated = act.tokens.unwrap_or((0, 0));
    match told == stated {
        true => Ok(()),
        false => Err(format!("tokens {told:?}, and the server said {stated:?}")),
    }
}

/// The attempts of the line are what the servers saw.
fn servers_agree(line: &Value, acts: &[Act]) -> Result<(), String> {
    let mut left: Vec<&Act> = acts.iter().collect();
    for (server, result) in attempts(line) {
        let status: Option<u16> = result.parse().ok();
        let fits = |act: &&Act| match status {
            Some(status) => act.server == server && act.status == status,
            None => act.server == server,
        };
        match left.iter().position(fits) {
            Some(at) => drop(left.remove(at)),
            None if status.is_some() => {
                return Err(format!("{server} did not answer {result}"));
            }
            None => {}
        }
    }
    // a kept connection that breaks before an answer is no attempt of its own
    for act in &left {
        let by_it = |other: &&Act| other.server == act.server;
        let more = left.iter().filter(|other| other.server == act.server);
        let dead = acts.iter().filter(by_it);
        let dead = dead.filter(|act| act.reused && (act.status == 0 || act.broke()));
        if more.count() > dead.count() {
            return Err(format!(
                "{} was asked more often than is logged",
                act.server
            ));
        }
    }
    Ok(())
}

/// Whether this may come of a request of this kind.
fn allowed(outcome: &Outcome, line: &Value, acts: &[Act]) -> Result<(), String> {
    let local = line["local"].as_str();
    let fine = match (outcome.status, local) {
        // what a server says itself, it has to have said
        (status @ (500 | 503), None) => {
            outcome.kind.meets_faults() && acts.iter().any(|act| act.status == status)
        }
        (status, None) => outcome.kind.answers().contains(&status),
        (status, Some(code)) => {
            let failed = code.starts_with("upstream_") || code == "no_server_available";
            outcome.kind.replies().contains(&(status, code))
                || (failed && outcome.kind.may_go_unserved())
        }
    };
    match fine {
        true if local.is_none() || outcome.code.is_empty() || local == Some(&outcome.code) => {
            Ok(())
        }
        true => Err("another code".to_owned()),
        false => Err("this must not come of it".to_owned()),
    }
}
