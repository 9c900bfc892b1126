//! Ollama's words: whatever a server says, what is told of it is OpenAI's, wherever it is cut.

use proptest::prelude::*;
use serde_json::Value;

use super::ollama::{Stream, error, request, whole};
use super::{Broken, Expected, Form, Stamp};
use crate::fuzz::{cases, pieces, shape};
use crate::inspect::endpoint::Operation;

const FORMS: &[Form] = &[Form::Chat, Form::Completion, Form::Embeddings, Form::Models];

fn stamp() -> Stamp {
    Stamp {
        id: "abc".to_owned(),
        now: 1_700_000_000,
    }
}

/// A byte that chooses the form, then what a server or a client says.
pub(crate) fn ollama(data: &[u8]) -> u64 {
    let Some((&choice, data)) = data.split_first() else {
        return 0;
    };
    let expected = |stream| Expected {
        form: FORMS[usize::from(choice) % FORMS.len()],
        model: "gpt-4o\"".to_owned(),
        stream,
        usage: choice & 0x10 != 0,
        base64: choice & 0x20 != 0,
    };
    let told = match choice >> 6 {
        0 => stream(&expected(true), data),
        1 => {
            let told = whole(&expected(false), &stamp(), data);
            told.as_ref().map(|told| is_json(told)).is_ok().into()
        }
        2 => {
            is_json(&error(500, data));
            0
        }
        _ => asked(data),
    };
    shape((choice, told))
}

fn is_json(text: &[u8]) {
    let read = serde_json::from_slice::<Value>(text);
    assert!(
        read.is_ok(),
        "{read:?} in {}",
        String::from_utf8_lossy(text)
    );
}

fn stream(expected: &Expected, data: &[u8]) -> u64 {
    let tell = |pieces: &[&[u8]]| -> (Vec<u8>, Result<(), Broken>) {
        let mut stream = Stream::new(expected.clone(), &stamp());
        let mut out = Vec::new();
        let fed = pieces
            .iter()
            .try_for_each(|piece| stream.feed(piece, &mut out));
        let end = fed.and_then(|()| stream.finish(&mut out));
        (out, end)
    };
    let (out, end) = tell(&[data]);
    let cut = tell(&pieces(data));
    assert_eq!(
        (&out, &end),
        (&cut.0, &cut.1),
        "how it is cut must not matter"
    );
    let text = String::from_utf8(out).expect("events are text");
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert!(text.is_empty() || text.ends_with("\n\n"));
    for event in &events {
        match event.strip_prefix("data: ") {
            Some("[DONE]") => {}
            Some(json) => is_json(json.as_bytes()),
            None => panic!("no event: {event}"),
        }
    }
    assert_eq!(end.is_ok(), events.last() == Some(&"data: [DONE]"));
    shape((events.len().min(20), end.is_ok()))
}

fn asked(body: &[u8]) -> u64 {
    let operations = [
        Operation::Chat,
        Operation::Completion,
        Operation::Embedding,
        Operation::Models,
    ];
    let all = operations.map(|operation| match request(operation, body, Some("public")) {
        Ok(translated) => {
            translated.body.iter().for_each(|body| is_json(body));
            shape(translated.expected.stream)
        }
        Err(refused) => shape(refused.message.chars().take(30).collect::<String>()),
    });
    shape(all)
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn streams_are_told_alike_however_they_are_cut(choice in 0..64_u8, lines in prop::collection::vec(prop::sample::select(vec![
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\\u00e9 \\\"\"},\"done\":false}", "{\"response\":\"a\",\"done\":false}",
        "{\"message\":{\"content\":\"\",\"thinking\":\"hm\"}}",
        "{\"message\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1.50}}}]},\"done\":false}",
        "{\"created_at\":\"2026-11-21T10:00:00.5Z\",\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":3,\"eval_count\":4}",
        "{\"error\":\"it fell over\"}", "", " ", "{", "null", "\r", "{\"done\":true,\"created_at\":\"9999999-99-99\"}",
    ]), 0..8)) {
        ollama(&[&[choice], lines.join("\n").as_bytes()].concat());
    }
}
