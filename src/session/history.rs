//! What is remembered of a conversation and what is said next: how they go together, and what has
//! to go when it becomes too much.
//!
//! A conversation is a row of exchanges: what a user says, and all that is answered to it, tool calls
//! and their results included. Exchanges are kept whole or not at all: servers refuse a call without
//! its result, a result without its call, and some of them an answer that comes first.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::message::{Message, Messages, Role};
use crate::config::SessionBounds;

/// What of the remembered messages stays before what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// So many of them, from the oldest.
    pub(crate) stays: usize,
    /// The client brings a history of its own, and none of it is remembered here.
    pub(super) replaced: bool,
}

/// A client that brings answers keeps its history itself. Where that begins inside of what is
/// remembered (as the loops do that call tools), the rest of it stays before it; else it is all there
/// is. A client without answers goes on where the session is, and so does one that only begins the
/// next answer.
pub(crate) fn front(kept: &[Arc<Message>], said: &[Arc<Message>]) -> Front {
    let answers = |messages: &[Arc<Message>]| messages.iter().any(|m| m.role == Role::Assistant);
    let overlap = match answers(said) {
        true => overlap(kept, said),
        false => 0,
    };
    let before_last = &said[..said.len().saturating_sub(1)];
    let replaced = overlap == 0 && answers(before_last);
    let stays = match (overlap, replaced) {
        (_, true) => 0,
        (0, false) => going_on(kept, said),
        (overlap, false) => kept.len() - overlap,
    };
    Front { stays, replaced }
}

/// How many messages at the end of what is remembered are those that `said` begins with.
fn overlap(kept: &[Arc<Message>], said: &[Arc<Message>]) -> usize {
    let same = |count: &usize| {
        let end = &kept[kept.len() - count..];
        end.iter().zip(said).all(|(a, b)| a.says_as(b))
    };
    let most = kept.len().min(said.len());
    (1..=most).rev().find(same).unwrap_or(0)
}

/// How many of the remembered messages can come before something new: not calls of tools whose
/// results nobody brings.
fn going_on(kept: &[Arc<Message>], said: &[Arc<Message>]) -> usize {
    let brings_results = said.first().is_some_and(|m| m.role == Role::Tool);
    let last = exchanges(kept).pop();
    let forsaken = last.filter(|last| !brings_results && waits_for_results(&kept[last.clone()]));
    forsaken.map_or(kept.len(), |last| last.start)
}

/// Adds what was said, an answer at its end, and drops what is too much of it all from the oldest.
/// Says how many messages that were, and whether what was there before was replaced.
pub(super) fn join(kept: &mut Messages, said: Messages, bounds: &SessionBounds) -> (u64, bool) {
    let question = &said[..said.len().saturating_sub(1)];
    let front = front(kept, question);
    kept.truncate(front.stays);
    kept.extend(said);
    (fit(kept, bounds), front.replaced)
}

/// Drops what cannot stand alone, and what is too much; says how many messages were too much.
fn fit(kept: &mut Messages, bounds: &SessionBounds) -> u64 {
    let all = exchanges(kept);
    let last = all.len().saturating_sub(1);
    let (mut dropped, mut messages, mut bytes) = (0, 0, 0);
    let mut staying: Vec<Range<usize>> = Vec::new();
    let mut full = false;
    for (n, own) in all.into_iter().enumerate().rev() {
        let exchange = &kept[own.clone()];
        let leads = exchange[0].role == Role::User;
        if !leads || (n < last && waits_for_results(exchange)) {
            continue;
        }
        let size: u64 = exchange.iter().map(|message| message.size).sum();
        // one that never fits leaves room to those before it
        if own.len() > bounds.messages || size > bounds.bytes {
            dropped += own.len() as u64;
            continue;
        }
        full = full || messages + own.len() > bounds.messages || bytes + size > bounds.bytes;
        if full {
            dropped += own.len() as u64;
            continue;
        }
        (messages, bytes) = (messages + own.len(), bytes + size);
        staying.push(own);
    }
    let staying = staying.into_iter().rev().flatten();
    *kept = staying.map(|n| kept[n].clone()).collect();
    dropped
}

/// Where the exchanges stand: one begins with each user that speaks after somebody else. A result
/// whose call is not there, as it was too large to be kept, belongs to none of them.
fn exchanges(messages: &[Arc<Message>]) -> Vec<Range<usize>> {
    let is_user = |n: usize| messages[n].role == Role::User;
    let mut starts = Vec::new();
    let mut asked: HashSet<&str> = HashSet::new();
    for (n, message) in messages.iter().enumerate() {
        let forlorn = message
            .answers
            .as_deref()
            .is_some_and(|id| !asked.contains(id));
        if n == 0 || forlorn || (is_user(n) && !is_user(n - 1)) {
            starts.push(n);
            asked.clear();
        }
        asked.extend(message.asks.iter().map(String::as_str));
    }
    let ends = starts.iter().skip(1).copied().chain([messages.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| *start..end)
        .collect()
}

fn waits_for_results(exchange: &[Arc<Message>]) -> bool {
    let answered: HashSet<&str> = exchange
        .iter()
        .filter_map(|m| m.answers.as_deref())
        .collect();
    let mut asked = exchange.iter().flat_map(|message| &message.asks);
    asked.any(|id| !answered.contains(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn bounds(messages: usize, bytes: u64) -> SessionBounds {
        SessionBounds {
            messages,
            bytes,
            ttl: Duration::from_secs(1),
        }
    }

    /// `u1` says 1, `a1` answers, `c1` asks for the tool call 1, `t1` is its result.
    fn messages(words: &str) -> Messages {
        let message = |word: &str| {
            let (who, what) = word.split_at(1);
            let text = match who {
                "u" => format!(r#"{{"role":"user","content":"{what}"}}"#),
                "a" => format!(r#"{{"role":"assistant","content":"{what}"}}"#),
                "c" => format!(
                    r#"{{"role":"assistant","content":null,"tool_calls":[{{"id":"{what}","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
                ),
                _ => format!(r#"{{"role":"tool","tool_call_id":"{what}","content":"r"}}"#),
            };
            Arc::new(Message::read(&text).unwrap())
        };
        words.split_whitespace().map(message).collect()
    }

    fn words(all: &[Arc<Message>]) -> String {
        let word = |message: &Arc<Message>| {
            let value: serde_json::Value = serde_json::from_slice(&message.text).unwrap();
            let content = value["content"].as_str().unwrap_or_default();
            match value["role"].as_str().unwrap() {
                "user" => format!("u{content}"),
                "tool" => format!("t{}", value["tool_call_id"].as_str().unwrap()),
                _ if value["tool_calls"].is_array() => {
                    format!("c{}", value["tool_calls"][0]["id"].as_str().unwrap())
                }
                _ => format!("a{content}"),
            }
        };
        all.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check_front(kept: &str, said: &str, stays: &str) {
        let kept = messages(kept);
        let front = front(&kept, &messages(said));
        assert_eq!(words(&kept[..front.stays]), stays);
    }

    #[test]
    fn what_is_remembered_comes_before_what_is_said_and_nothing_comes_twice() {
        check_front("", "u1", "");
        check_front("u1 a1", "u2", "u1 a1");
        check_front("u1 a1", "u1", "u1 a1");
        // a client with all of the history, with an end of it, with another one
        check_front("u1 a1 u2 a2", "u1 a1 u2 a2 u3", "");
        check_front("u1 a1 u2 a2", "u2 a2 u3", "u1 a1");
        check_front("u1 a1 u2 a2", "u7 a7 u3", "");
        check_front("u2 a2", "u1 a1 u2 a2 u3", "");
        // the beginning of an answer is none
        check_front("u1 a1", "u2 a9", "u1 a1");
        check_front("u1 a1", "u1 a1", "");
    }

    #[test]
    fn calls_and_their_results_meet_and_calls_without_are_left_out() {
        check_front("u1 a1 u2 c2", "t2", "u1 a1 u2 c2");
        check_front("u1 a1 u2 c2", "u2 c2 t2", "u1 a1");
        check_front("u1 a1 u2 c2", "u3", "u1 a1");
        check_front("u1 a1 u2 c2 t2 a2", "u3", "u1 a1 u2 c2 t2 a2");
    }

    #[track_caller]
    fn check_join(kept: &str, said: &str, most: usize, expected: &str, dropped: u64) {
        let mut all = messages(kept);
        let result = join(&mut all, messages(said), &bounds(most, 10_000));
        assert_eq!((words(&all).as_str(), result.0), (expected, dropped));
    }

    #[test]
    fn the_oldest_exchanges_go_first_and_whole() {
        check_join("", "u1 a1", 2, "u1 a1", 0);
        check_join("u1 a1", "u2 a2", 4, "u1 a1 u2 a2", 0);
        check_join("u1 a1 u2 a2", "u3 a3", 4, "u2 a2 u3 a3", 2);
        check_join("u1 a1 u2 a2", "u3 a3", 5, "u2 a2 u3 a3", 2);
        check_join("u1 c1 t1 a1 u2 a2", "u3 a3", 7, "u2 a2 u3 a3", 4);
        check_join("u1 a1 u2 c2", "t2 a2", 5, "u2 c2 t2 a2", 2);
        check_join("u1 a1 u2 c2", "t2 a2", 6, "u1 a1 u2 c2 t2 a2", 0);
        // one that can never fit leaves the others alone
        check_join("u1 a1 u2 c2", "t2 a2", 3, "u1 a1", 4);
        check_join("u1 a1", "u2 u3 u4 a4", 3, "u1 a1", 4);
    }

    #[test]
    fn what_cannot_stand_alone_goes_without_being_counted() {
        check_join("", "t1 a1", 9, "", 0);
        check_join("u1 a1 u2 c2", "u3 a3", 9, "u1 a1 u3 a3", 0);
        check_join("", "u1 c1 u2 a2", 9, "u2 a2", 0);
        // the call was too large to be kept
        check_join("u1 a1", "t2 a2", 9, "u1 a1", 0);
    }

    #[test]
    fn a_history_of_the_clients_own_replaces_what_is_remembered() {
        check_join("u1 a1", "u7 a7 u8 a8", 9, "u7 a7 u8 a8", 0);
        check_join("u1 a1", "u1 a1 u2 a2", 9, "u1 a1 u2 a2", 0);
        check_join("u0 a0 u1 a1", "u1 a1 u2 a2", 9, "u0 a0 u1 a1 u2 a2", 0);
        let mut all = messages("u1 a1");
        assert!(join(&mut all, messages("u7 a7 u8 a8"), &bounds(2, 10_000)).1);
        assert_eq!(words(&all), "u8 a8");
    }

    #[test]
    fn bytes_are_a_bound_too() {
        let one: u64 = messages("u1 a1").iter().map(|message| message.size).sum();
        let mut all = messages("u1 a1 u2 a2");
        let joined = join(&mut all, messages("u3 a3"), &bounds(100, 2 * one));
        assert_eq!((words(&all).as_str(), joined.0), ("u2 a2 u3 a3", 2));
        let long = format!("u{} a4", "x".repeat(2 * one as usize));
        assert_eq!(join(&mut all, messages(&long), &bounds(100, 2 * one)).0, 2);
        assert_eq!(words(&all), "u2 a2 u3 a3");
    }
}
