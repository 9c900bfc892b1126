//! Conversations: what is remembered stays within its bounds, and can be said to any server.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::history::{front, join};
use super::message::{Message, Messages, Role};
use super::{Hearing, Remembered, said};
use crate::config::SessionBounds;
use crate::fuzz::{Dice, cases, pieces, shape};

/// A byte that chooses: below 128 the rest is a list of messages, else it rolls conversations.
pub(crate) fn history(data: &[u8]) -> u64 {
    match data.split_first() {
        Some((&kind, list)) if kind < 128 => listed(list),
        Some((_, rolls)) => remembered(rolls),
        None => 0,
    }
}

fn listed(list: &[u8]) -> u64 {
    let Some(found) = said(list, 100) else {
        return 0;
    };
    assert!(!found.messages.is_empty());
    let begins = list[found.at as usize..].starts_with(b"{");
    assert!(begins, "a message begins there");
    let all: Vec<Value> = serde_json::from_slice(list).unwrap_or_default();
    let is_said = |one: &&Value| one["role"] != "system" && one["role"] != "developer";
    if !all.is_empty() {
        assert_eq!(all.iter().filter(is_said).count(), found.messages.len());
    }
    let mut size = 0;
    for message in found.messages.iter().rev() {
        size += message.size;
        assert_eq!(message.text.is_empty(), size > 100);
        if !message.text.is_empty() {
            let text = std::str::from_utf8(&message.text).expect("JSON is text");
            assert_eq!(Message::read(text).as_ref(), Some(&**message));
        }
    }
    shape(
        found
            .messages
            .iter()
            .map(|m| (m.role, m.text.is_empty()))
            .take(9)
            .collect::<Vec<_>>(),
    )
}

fn message(text: &str) -> Arc<Message> {
    Arc::new(Message::read(text).expect("it is one"))
}

/// An exchange as a server would take it: each call has its result before anything else is said. The
/// last one may wait for results.
fn exchange(dice: &mut Dice<'_>, number: &mut u32, pending: &mut Vec<u32>) -> Messages {
    let mut out = Messages::new();
    for id in pending.drain(..) {
        out.push(message(&format!(
            r#"{{"role":"tool","tool_call_id":"{id}","content":"r"}}"#
        )));
    }
    if out.is_empty() {
        for _ in 0..=dice.below(2) {
            *number += 1;
            let text = "x".repeat(dice.below(30));
            out.push(message(&format!(
                r#"{{"role":"user","content":"{number}{text}"}}"#
            )));
        }
    }
    for _ in 0..dice.below(3) {
        let ids: Vec<u32> = (0..=dice.below(2))
            .map(|_| {
                *number += 1;
                *number
            })
            .collect();
        let calls: Vec<String> = ids
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","function":{{"name":"f","arguments":"{{}}"}}}}"#))
            .collect();
        out.push(message(&format!(
            r#"{{"role":"assistant","content":null,"tool_calls":[{}]}}"#,
            calls.join(",")
        )));
        if dice.below(4) == 3 {
            *pending = ids;
            return out;
        }
        for id in ids {
            out.push(message(&format!(
                r#"{{"role":"tool","tool_call_id":"{id}","content":"r"}}"#
            )));
        }
    }
    *number += 1;
    out.push(message(&format!(
        r#"{{"role":"assistant","content":"{number}"}}"#
    )));
    out
}

fn remembered(rolls: &[u8]) -> u64 {
    let mut dice = Dice::new(rolls);
    let bounds = SessionBounds {
        messages: 2 + dice.below(20),
        bytes: 60 + u64::from(dice.byte()) * 10,
        ttl: Duration::from_secs(1),
    };
    let mut kept = Messages::new();
    let mut whole = Messages::new();
    let (mut number, mut pending) = (0, Vec::new());
    let mut outcome = Vec::new();
    for _ in 0..1 + dice.below(12) {
        let said = exchange(&mut dice, &mut number, &mut pending);
        whole.extend(said.iter().cloned());
        // a client may bring nothing, all, or an end of what was said before
        let brought = match dice.below(4) {
            0 => whole.clone(),
            1 => whole[begins_exchange(&whole, &mut dice)..].to_vec(),
            _ => said,
        };
        let question = &brought[..brought.len() - 1];
        let stays = front(&kept, question).stays;
        assert!(stays <= kept.len());
        let waits = alone(&kept[..stays]);
        let brings_results = question.first().is_some_and(|m| m.role == Role::Tool);
        assert!(!waits || brings_results, "a call without its result");
        let before = kept.len() + brought.len();
        let (dropped, _) = join(&mut kept, brought, &bounds);
        assert!(kept.len() <= bounds.messages, "{} messages", kept.len());
        assert!(kept.iter().map(|m| m.size).sum::<u64>() <= bounds.bytes);
        assert!(kept.len() as u64 + dropped <= before as u64);
        alone(&kept);
        told(&kept);
        outcome.push((kept.len(), dropped));
        if dice.below(5) == 4 {
            // who never brings the results goes on with something else
            pending.clear();
            whole.clear();
        }
    }
    shape(outcome)
}

/// Where one of the exchanges begins.
fn begins_exchange(all: &[Arc<Message>], dice: &mut Dice<'_>) -> usize {
    let is_user = |n: usize| all[n].role == Role::User;
    let begins: Vec<usize> = (0..all.len())
        .filter(|n| is_user(*n) && (*n == 0 || !is_user(n - 1)))
        .collect();
    match begins.len() {
        0 => 0,
        count => begins[dice.below(count)],
    }
}

/// Servers take it: it begins with a user, no result is without its call, and no call without its
/// result but at the end. Says whether it is so there.
fn alone(all: &[Arc<Message>]) -> bool {
    let first = all.first().map(|message| message.role);
    assert!(
        matches!(first, None | Some(Role::User)),
        "it begins with {first:?}"
    );
    let mut open: Vec<&str> = Vec::new();
    for message in all {
        if let Some(id) = &message.answers {
            let call = open.iter().position(|asked| asked == id);
            open.remove(call.expect("a result without its call"));
        } else {
            assert!(open.is_empty(), "a call without its result");
        }
        open.extend(message.asks.iter().map(String::as_str));
    }
    !open.is_empty()
}

/// Other edges hear the same.
fn told(kept: &[Arc<Message>]) {
    let remembered = Remembered {
        messages: kept.to_vec(),
        dropped: 3,
    };
    let heard = Remembered::heard(&remembered.told()).expect("it was told by us");
    assert_eq!(heard.messages, remembered.messages);
    assert_eq!(heard.dropped, 3);
}

/// A byte that says whether it is a stream, and an answer.
pub(crate) fn hearing(data: &[u8]) -> u64 {
    let Some((&kind, data)) = data.split_first() else {
        return 0;
    };
    let hear = |pieces: &[&[u8]]| {
        let mut hearing = Hearing::new(kind & 1 == 1, 2000);
        for piece in pieces {
            hearing.push(piece);
        }
        hearing.message()
    };
    let found = hear(&[data]);
    assert_eq!(found, hear(&pieces(data)), "how it is cut must not matter");
    let Some(found) = found else {
        return 1;
    };
    assert_eq!(found.role, Role::Assistant);
    if !found.text.is_empty() {
        let value: Value = match serde_json::from_slice(&found.text) {
            Ok(value) => value,
            // halves of surrogates, and numbers nobody can hold
            Err(_) => return 2,
        };
        assert_eq!(value["role"], "assistant");
        assert_eq!(found.size, found.text.len() as u64);
    }
    shape((kind & 1, found.asks.len(), found.text.len().min(200)))
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn what_is_remembered_is_bounded_and_can_be_said(rolls in prop::collection::vec(any::<u8>(), 0..200)) {
        remembered(&rolls);
    }

    #[test]
    fn an_answer_is_heard_alike_however_it_is_cut(lines in prop::collection::vec(prop::sample::select(vec![
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\\u00e9\"}}]}",
        "data:{\"choices\":[{\"delta\":{\"content\":\"\\ud83d\"}}]}", "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"no\"}}]}",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}]}",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", "data: [DONE]", ": ping", "\n", "\n\n", "\r\n", "\r",
        "data: {\"error\":{}}", "data: {\"choices\":[],\"usage\":{}}", "data: {",
    ]), 0..16)) {
        hearing(&[b"\x01", lines.concat().as_bytes()].concat());
    }
}
