//! Requests and answers there and back. The answers are those of a real Ollama, see
//! `tests/it/ollama/README.md`.

use serde_json::{Value, json};

use super::super::{Broken, Expected, Form, Refused, Stamp, Tokens};
use super::{Stream, error, request, whole};
use crate::inspect::endpoint::Operation;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../tests/it/ollama/", $name))
    };
}

fn stamp() -> Stamp {
    Stamp {
        id: "0123456789abcdef0123456789abcdef".into(),
        now: 1_800_000_000,
    }
}

fn expected(form: Form) -> Expected {
    Expected {
        form,
        model: "public".into(),
        stream: false,
        usage: false,
        base64: false,
    }
}

// === requests ===

fn ask(operation: Operation, body: &Value) -> (Value, Expected) {
    let bytes = body.to_string();
    let said =
        request(operation, bytes.as_bytes(), Some("public")).unwrap_or_else(|e| panic!("{e:?}"));
    let body = serde_json::from_slice(&said.body.unwrap()).unwrap();
    (body, said.expected)
}

fn chat(more: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ask(Operation::Chat, &body).0
}

fn message(message: Value) -> Value {
    chat(json!({ "messages": [message] }))["messages"][0].clone()
}

fn refused(operation: Operation, body: Value) -> Refused {
    request(operation, body.to_string().as_bytes(), None).unwrap_err()
}

fn chat_refused(more: Value) -> Refused {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    refused(Operation::Chat, body)
}

#[test]
fn a_chat_without_wishes_says_that_it_is_not_streamed() {
    assert_eq!(
        chat(json!({})),
        json!({
            "model": "m",
            "messages": [{ "role": "user", "content": "Hi" }],
            "stream": false,
            "options": { "temperature": 1.0, "top_p": 1.0 },
        })
    );
}

#[test]
fn parameters_become_options_and_win_over_those_given_as_such() {
    let body = chat(json!({
        "stream": true, "max_tokens": 9, "temperature": 0.2, "seed": 7, "stop": "END",
        "frequency_penalty": 0.5, "presence_penalty": 0.25, "keep_alive": "10m", "user": "u", "n": 1,
        "options": { "num_ctx": 8192, "seed": 1, "top_p": 0.5 },
    }));
    assert_eq!(
        body["options"],
        json!({
            "num_ctx": 8192, "num_predict": 9, "temperature": 0.2, "seed": 7, "stop": ["END"],
            "frequency_penalty": 0.5, "presence_penalty": 0.25, "top_p": 0.5,
        })
    );
    assert_eq!(
        (&body["stream"], &body["keep_alive"]),
        (&json!(true), &json!("10m"))
    );
    assert_eq!(body.get("user"), None);
    let body = chat(json!({ "max_tokens": 9, "max_completion_tokens": 5, "stop": ["a", "b"] }));
    assert_eq!(body["options"]["num_predict"], 5);
    assert_eq!(body["options"]["stop"], json!(["a", "b"]));
    let body = chat(json!({ "temperature": null, "stop": null, "seed": null, "tools": null }));
    assert_eq!(body["options"], json!({ "temperature": 1.0, "top_p": 1.0 }));
}

#[test]
fn efforts_are_levels_of_thinking() {
    for (asked, think) in [
        (json!({ "reasoning_effort": "none" }), json!(false)),
        (json!({ "reasoning_effort": "minimal" }), json!("low")),
        (json!({ "reasoning_effort": "medium" }), json!("medium")),
        (json!({ "reasoning": { "effort": "high" } }), json!("high")),
        (
            json!({ "think": true, "reasoning_effort": "low" }),
            json!(true),
        ),
    ] {
        assert_eq!(chat(asked)["think"], think);
    }
    let refusal = chat_refused(json!({ "reasoning_effort": "galactic" }));
    assert_eq!(refusal.param, Some("reasoning_effort"));
}

#[test]
fn a_schema_keeps_the_order_of_its_properties() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"why":{},"answer":{}}}}},"tools":[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":1.10}}}]}"#;
    let said = request(Operation::Chat, body.as_bytes(), None).unwrap();
    let text = String::from_utf8(said.body.unwrap().to_vec()).unwrap();
    assert!(
        text.contains(r#""format":{"type":"object","properties":{"why":{},"answer":{}}}"#),
        "{text}"
    );
    assert!(text.contains(r#""parameters":{"z":1,"a":1.10}"#), "{text}");
    assert_eq!(said.expected.model, "m");
    let json = |kind: &str| {
        chat(json!({ "response_format": { "type": kind } }))
            .get("format")
            .cloned()
    };
    assert_eq!(json("json_object"), Some(json!("json")));
    assert_eq!(json("text"), None);
}

#[test]
fn parts_become_one_text_and_images() {
    let image = |url: Value| json!({ "type": "image_url", "image_url": url });
    assert_eq!(
        message(json!({ "role": "user", "content": [
            { "type": "text", "text": "What is" },
            image(json!({ "url": "data:image/png;base64,iVBORw0K" })),
            { "type": "text", "text": "this?" },
            image(json!("data:;base64,AAAA")),
        ] })),
        json!({ "role": "user", "content": "What is\nthis?", "images": ["iVBORw0K", "AAAA"] })
    );
    for url in [
        "https://example.com/a.png",
        "data:image/gif;base64,AAAA",
        "data:image/png,x",
        "",
    ] {
        let content = json!([image(json!({ "url": url }))]);
        let refusal = chat_refused(json!({ "messages": [{ "role": "user", "content": content }] }));
        assert_eq!(refusal.param, Some("messages"), "{url}");
    }
    let sound = json!([{ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } }]);
    let refusal = chat_refused(json!({ "messages": [{ "role": "user", "content": sound }] }));
    assert!(refusal.message.contains("input_audio"), "{refusal:?}");
}

#[test]
fn calls_of_tools_go_there_and_back() {
    let call = |arguments: Value| {
        json!({ "role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": arguments } },
        ] })
    };
    let said = chat(json!({ "messages": [
        call(json!("{\"city\": \"Paris\", \"a\": 1.50}")),
        { "role": "tool", "tool_call_id": "call_1", "content": [{ "type": "text", "text": "18 C" }] },
        { "role": "tool", "tool_call_id": "call_9", "name": "other", "content": "x" },
    ] }));
    assert_eq!(
        said["messages"],
        json!([
            { "role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                { "id": "call_1", "function": { "name": "weather", "arguments": { "city": "Paris", "a": 1.5 } } },
            ] },
            { "role": "tool", "content": "18 C", "tool_name": "weather", "tool_call_id": "call_1" },
            { "role": "tool", "content": "x", "tool_name": "other", "tool_call_id": "call_9" },
        ])
    );
    for nothing in [json!(""), json!("null"), json!({}), json!(null)] {
        let said = message(call(nothing));
        assert_eq!(said["tool_calls"][0]["function"]["arguments"], json!({}));
    }
    for broken in [json!("{"), json!("[1]"), json!(7)] {
        let refusal = chat_refused(json!({ "messages": [call(broken)] }));
        assert!(refusal.message.contains("weather"), "{refusal:?}");
    }
}

#[test]
fn tools_are_withheld_where_none_is_to_be_called() {
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let with = |choice: &str| chat(json!({ "tools": tools, "tool_choice": choice }));
    assert_eq!(with("auto")["tools"], tools);
    assert_eq!(with("none").get("tools"), None);
    assert_eq!(
        message(json!({ "role": "developer", "content": "x" }))["role"],
        "system"
    );
}

#[test]
fn what_ollama_cannot_do_is_refused_by_name() {
    for (more, param) in [
        (json!({ "messages": [] }), "messages"),
        (json!({ "n": 2 }), "n"),
        (json!({ "model": "" }), "model"),
        (json!({ "functions": [] }), "functions"),
        (json!({ "stop": [1] }), "stop"),
    ] {
        assert_eq!(chat_refused(more).param, Some(param));
    }
    let refusal = chat_refused(json!({ "temperature": "hot" }));
    assert!(refusal.message.contains("hot"), "{refusal:?}");
    assert_eq!(refused(Operation::Speech, json!({})).param, None);
}

#[test]
fn a_completion_is_generated() {
    let (body, expected) = ask(
        Operation::Completion,
        &json!({ "model": "m", "prompt": ["def"], "suffix": "end", "max_tokens": 3, "logprobs": 2,
            "stream": true, "stream_options": { "include_usage": true } }),
    );
    assert_eq!(
        body,
        json!({ "model": "m", "prompt": "def", "suffix": "end", "stream": true, "logprobs": true, "top_logprobs": 2,
            "options": { "num_predict": 3, "temperature": 1.0, "top_p": 1.0 } })
    );
    assert!(expected.stream && expected.usage);
    assert_eq!(
        (expected.form, expected.model.as_str()),
        (Form::Completion, "public")
    );
    for prompt in [json!([1, 2]), json!(["a", "b"]), json!(null)] {
        let refusal = refused(
            Operation::Completion,
            json!({ "model": "m", "prompt": prompt }),
        );
        assert_eq!(refusal.param, Some("prompt"));
    }
}

#[test]
fn embeddings_are_of_text() {
    let (body, expected) = ask(
        Operation::Embedding,
        &json!({ "model": "m", "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64", "keep_alive": 0 }),
    );
    assert_eq!(
        body,
        json!({ "model": "m", "input": ["a", "b"], "dimensions": 8, "keep_alive": 0 })
    );
    assert!(expected.base64);
    let (body, expected) = ask(Operation::Embedding, &json!({ "model": "m", "input": "a" }));
    assert_eq!((&body["input"], expected.base64), (&json!("a"), false));
    for input in [json!([]), json!([1, 2]), json!([[1]]), json!(null)] {
        let refusal = refused(
            Operation::Embedding,
            json!({ "model": "m", "input": input }),
        );
        assert_eq!(refusal.param, Some("input"));
    }
    let asked = json!({ "model": "m", "input": "a", "encoding_format": "hex" });
    assert_eq!(
        refused(Operation::Embedding, asked).param,
        Some("encoding_format")
    );
}

// === whole answers ===

fn told(form: Form, body: &str) -> Value {
    let body = whole(&expected(form), &stamp(), body.as_bytes()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_whole_chat_has_openais_shape() {
    let reply = told(Form::Chat, recorded!("chat.json"));
    assert_eq!(
        reply,
        json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef",
            "object": "chat.completion",
            "created": 1_733_446_018,
            "model": "public",
            "system_fingerprint": "fp_ollama",
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": "{\"age\": 22, \"available\": false}" },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": 34, "completion_tokens": 12, "total_tokens": 46 },
        })
    );
    let reply = told(Form::Chat, recorded!("chat-image.json"));
    assert_eq!(
        reply["choices"][0]["finish_reason"], "stop",
        "older ones give no reason"
    );
}

#[test]
fn thinking_and_calls_of_a_whole_chat_are_told() {
    let reply = told(Form::Chat, recorded!("chat-thinking.json"));
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(
        choice["message"]["reasoning"]
            .as_str()
            .unwrap()
            .starts_with("Okay, the user")
    );
    let reply = told(Form::Chat, recorded!("chat-tools.json"));
    assert_eq!(
        reply["choices"][0],
        json!({
            "index": 0,
            "message": { "role": "assistant", "content": null, "tool_calls": [{
                "id": "call_0123456789abcdef01234567_0",
                "type": "function",
                "function": { "name": "get_current_weather", "arguments": "{\"format\":\"celsius\",\"location\":\"Paris, FR\"}" },
            }] },
            "logprobs": null,
            "finish_reason": "tool_calls",
        })
    );
    let id = reply["choices"][0]["message"]["tool_calls"][0]["id"]
        .as_str()
        .unwrap()
        .len();
    assert!(id <= 40, "OpenAI takes no longer ones");
}

#[test]
fn completions_embeddings_and_models_have_openais_shape() {
    let reply = told(Form::Completion, recorded!("generate.json"));
    assert_eq!(reply["object"], "text_completion");
    assert!(
        reply["choices"][0]["text"]
            .as_str()
            .unwrap()
            .contains("compute_gcd")
    );
    let reply = told(Form::Embeddings, recorded!("embed.json"));
    assert_eq!(
        reply["usage"],
        json!({ "prompt_tokens": 8, "total_tokens": 8 })
    );
    assert_eq!(
        (&reply["model"], &reply["data"][1]["index"]),
        (&json!("public"), &json!(1))
    );
    let reply = told(Form::Models, recorded!("tags.json"));
    assert_eq!(
        reply,
        json!({ "object": "list", "data": [
            { "id": "deepseek-r1:latest", "object": "model", "created": 1_746_889_608, "owned_by": "library" },
            { "id": "llama3.2:latest", "object": "model", "created": 1_746_405_464, "owned_by": "library" },
        ] })
    );
    let reply = told(Form::Models, r#"{"models":[{"name":"hf.co/bob/x:Q4"}]}"#);
    assert_eq!(reply["data"][0]["owned_by"], "bob");
    assert_eq!(told(Form::Models, r#"{"models":null}"#)["data"], json!([]));
}

#[test]
fn numbers_of_embeddings_are_as_ollama_wrote_them() {
    let body = whole(
        &expected(Form::Embeddings),
        &stamp(),
        recorded!("embed.json").as_bytes(),
    )
    .unwrap();
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.contains("[0.010071029,-0.0017594862,0.05007221,"),
        "{text}"
    );
    let packed = Expected {
        base64: true,
        ..expected(Form::Embeddings)
    };
    let body = r#"{"embeddings":[[1,-2.5]]}"#;
    let body = whole(&packed, &stamp(), body.as_bytes()).unwrap();
    let reply: Value = serde_json::from_slice(&body).unwrap();
    // 0000803f 000020c0
    assert_eq!(reply["data"][0]["embedding"], "AACAPwAAIMA=");
}

#[test]
fn what_is_not_ollamas_is_not_told() {
    for (form, body) in [
        (Form::Chat, "<html>"),
        (Form::Chat, "{}"),
        (Form::Chat, ""),
        (
            Form::Completion,
            r#"{"message":{"content":"x"},"done":true}"#,
        ),
        (Form::Embeddings, r#"{"embedding":[1]}"#),
        (Form::Models, "[]"),
    ] {
        let told = whole(&expected(form), &stamp(), body.as_bytes());
        assert!(matches!(told, Err(Broken::Garbled(_))), "{body}");
    }
    let said = Err(Broken::Said("out of memory".into()));
    assert_eq!(
        whole(
            &expected(Form::Chat),
            &stamp(),
            br#"{"error":"out of memory"}"#
        ),
        said
    );
    assert_eq!(
        whole(
            &expected(Form::Embeddings),
            &stamp(),
            br#"{"error":"out of memory"}"#
        ),
        said
    );
}

#[test]
fn errors_have_openais_shape_and_code() {
    let told = |status, body: &str| {
        let body: Value = serde_json::from_slice(&error(status, body.as_bytes())).unwrap();
        body["error"].clone()
    };
    assert_eq!(
        told(404, recorded!("error-404.json")),
        json!({ "message": "model 'nonexistent-model-12345' not found", "type": "invalid_request_error",
            "param": "model", "code": "model_not_found" })
    );
    assert_eq!(
        told(400, recorded!("error-400.json"))["type"],
        "invalid_request_error"
    );
    assert_eq!(
        told(501, recorded!("error-501.json"))["type"],
        "server_error"
    );
    assert_eq!(told(404, "404 page not found")["code"], Value::Null);
    assert_eq!(
        told(403, "")["message"],
        "Ollama answered 403 and said nothing."
    );
    assert_eq!(
        told(500, r#"{"error":{"message":"deep"}}"#)["message"],
        "deep"
    );
    let long = "the input length exceeds the context length";
    assert_eq!(
        told(400, &json!({ "error": long }).to_string())["code"],
        "context_length_exceeded"
    );
}

// === streams ===

/// All that is told of a stream, which must not depend on how it was cut.
fn stream(expected: &Expected, lines: &str) -> (String, Result<(), Broken>, Option<Tokens>) {
    let tell = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut stream = Stream::new(expected.clone(), &stamp());
        let mut out = Vec::new();
        let mut end = Ok(());
        for piece in pieces {
            end = stream.feed(piece, &mut out);
            if end.is_err() {
                break;
            }
        }
        let end = end.and_then(|()| stream.finish(&mut out));
        (String::from_utf8(out).unwrap(), end, stream.tokens())
    };
    let bytes = lines.as_bytes();
    let whole = tell(&mut std::iter::once(bytes));
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(tell(&mut bytes.chunks(size)), whole, "in pieces of {size}");
    }
    // at every byte, but in the middle of long ones, which is like the rest
    for at in (0..bytes.len()).filter(|at| *at < 700 || at + 700 > bytes.len()) {
        assert_eq!(
            tell(&mut [&bytes[..at], &bytes[at..]].into_iter()),
            whole,
            "cut at {at}"
        );
    }
    whole
}

/// The events of a stream that ended well, without `[DONE]`.
fn events(expected: &Expected, lines: &str) -> Vec<Value> {
    let (text, end, _) = stream(expected, lines);
    assert_eq!(end, Ok(()));
    let text = text
        .strip_suffix("data: [DONE]\n\n")
        .expect("it says that it is done");
    text.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

fn with_usage(form: Form) -> Expected {
    Expected {
        usage: true,
        stream: true,
        ..expected(form)
    }
}

#[test]
fn a_recorded_chat_becomes_events() {
    let events = events(&with_usage(Form::Chat), recorded!("chat-stream.ndjson"));
    assert_eq!(
        events[0],
        json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef",
            "object": "chat.completion.chunk",
            "created": 1_716_582_406,
            "model": "public",
            "system_fingerprint": "fp_ollama",
            "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "Why" }, "finish_reason": null }],
        })
    );
    assert_eq!(
        events[1]["choices"][0]["delta"],
        json!({ "content": " did" })
    );
    let text: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(
        text.starts_with("Why did the OpenTelemetry agent go to therapy?\n\n"),
        "{text}"
    );
    let [.., last, usage] = &events[..] else {
        panic!()
    };
    assert_eq!(
        last["choices"][0],
        json!({ "index": 0, "delta": {}, "finish_reason": "stop" })
    );
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"],
        json!({ "prompt_tokens": 17, "completion_tokens": 50, "total_tokens": 67 })
    );
    assert!(
        events
            .iter()
            .all(|e| e["created"] == events[0]["created"] && e["id"] == events[0]["id"])
    );
}

#[test]
fn usage_is_told_only_where_it_is_asked_for() {
    let plain = expected(Form::Chat);
    let (text, _, tokens) = stream(&plain, recorded!("chat-stream.ndjson"));
    assert!(!text.contains("usage"));
    assert_eq!(
        tokens,
        Some(Tokens {
            input: 17,
            output: 50
        }),
        "and known all the same"
    );
}

#[test]
fn a_recorded_completion_becomes_events() {
    let events = events(
        &with_usage(Form::Completion),
        recorded!("generate-stream.ndjson"),
    );
    let text: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["text"].as_str())
        .collect();
    assert!(
        text.starts_with("A brave soul, asking for an OpenTelemetry joke!"),
        "{text}"
    );
    let [.., last, usage] = &events[..] else {
        panic!()
    };
    assert_eq!(
        last["choices"][0],
        json!({ "index": 0, "text": "", "finish_reason": "stop" })
    );
    assert_eq!(
        usage["usage"]["total_tokens"], 58,
        "a prompt that was cached is not counted"
    );
    assert_eq!(events[0]["object"], "text_completion");
}

#[test]
fn calls_in_a_stream_have_ids_and_are_numbered_throughout() {
    let events = events(&expected(Form::Chat), recorded!("chat-tools-stream.ndjson"));
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "tool_calls": [{
            "index": 0,
            "id": "call_0123456789abcdef01234567_0",
            "type": "function",
            "function": { "name": "get_weather", "arguments": "{\"city\":\"Tokyo\"}" },
        }] })
    );
    assert_eq!(events[1]["choices"][0]["finish_reason"], "tool_calls");
    let two = "{\"message\":{\"tool_calls\":[{\"id\":\"call_a\",\"function\":{\"index\":0,\"name\":\"f\"}}]}}\n\
               {\"message\":{\"tool_calls\":[{\"id\":\"call_b\",\"function\":{\"index\":0,\"name\":\"g\",\"arguments\":null}}]}}\n\
               {\"done\":true,\"done_reason\":\"stop\"}";
    let events = self::events(&expected(Form::Chat), two);
    let call = |n: usize| events[n]["choices"][0]["delta"]["tool_calls"][0].clone();
    assert_eq!(
        (call(0)["index"].clone(), call(1)["index"].clone()),
        (json!(0), json!(1))
    );
    assert_eq!(
        (call(0)["id"].clone(), call(1)["id"].clone()),
        (json!("call_a"), json!("call_b"))
    );
    assert_eq!(call(1)["function"]["arguments"], "{}");
}

#[test]
fn thinking_comes_before_what_is_said() {
    let events = events(
        &expected(Form::Chat),
        recorded!("chat-thinking-stream.ndjson"),
    );
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "reasoning": "Okay" })
    );
    assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
    let mixed = r#"{"message":{"content":"b","thinking":"a"},"done":true}"#;
    let events = self::events(&expected(Form::Chat), mixed);
    let delta = |n: usize| events[n]["choices"][0]["delta"].clone();
    assert_eq!(delta(0), json!({ "role": "assistant", "reasoning": "a" }));
    assert_eq!((delta(1), delta(2)), (json!({ "content": "b" }), json!({})));
}

#[test]
fn empty_lines_are_no_beginning() {
    let mut stream = Stream::new(expected(Form::Chat), &stamp());
    let mut out = Vec::new();
    for nothing in [
        "\n",
        "\r\n",
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n",
        "{\"mess",
    ] {
        stream.feed(nothing.as_bytes(), &mut out).unwrap();
        assert!(!stream.has_begun() && out.is_empty(), "{nothing}");
    }
    stream
        .feed(b"age\":{\"content\":\"x\"}}\n", &mut out)
        .unwrap();
    assert!(stream.has_begun());
    // an answer that is done and empty is one
    let mut stream = Stream::new(expected(Form::Chat), &self::stamp());
    stream.feed(b"{\"done\":true}\n", &mut out).unwrap();
    assert!(stream.has_begun());
}

#[test]
fn a_stream_that_breaks_is_not_done() {
    let line = "{\"message\":{\"content\":\"x\"},\"done\":false}\n";
    let check = |rest: &str, broken: Broken| {
        let (text, end, tokens) = stream(&expected(Form::Chat), &format!("{line}{rest}"));
        assert_eq!(end, Err(broken), "{rest}");
        assert!(
            text.contains("\"content\":\"x\"") && !text.contains("[DONE]"),
            "{text}"
        );
        assert_eq!(tokens, None);
    };
    check("", Broken::Cut);
    check(
        "{\"error\":\"out of memory\"}\n",
        Broken::Said("out of memory".into()),
    );
    check(
        "{\"error\":{\"message\":\"deep\"}}",
        Broken::Said("deep".into()),
    );
    for garbled in [
        "{\"message\":{\"content\":\"y",
        "data: {}\n",
        "[1]\n",
        "\u{0}\n",
    ] {
        let (_, end, _) = stream(&expected(Form::Chat), &format!("{line}{garbled}"));
        assert!(matches!(end, Err(Broken::Garbled(_))), "{garbled}");
    }
}

#[test]
fn a_line_without_end_is_not_kept_for_ever() {
    let mut stream = Stream::new(expected(Form::Chat), &stamp());
    let piece = vec![b'x'; 1024 * 1024];
    let mut fed = (0..8).map(|_| stream.feed(&piece, &mut Vec::new()));
    assert!(fed.any(|fed| matches!(fed, Err(Broken::Garbled(_)))));
}

/// What comes off the wire may be anything; it is told or refused, and nothing else.
#[test]
fn junk_does_no_harm() {
    let seed = recorded!("chat-tools-stream.ndjson").as_bytes();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut bytes = seed.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut stream = Stream::new(expected(Form::Chat), &stamp());
        let mut out = Vec::new();
        let fed = stream.feed(&bytes, &mut out);
        let _ = fed.and_then(|()| stream.finish(&mut out));
        let _ = whole(&expected(Form::Chat), &stamp(), &bytes);
        assert!(std::str::from_utf8(&out).is_ok());
    }
}

#[test]
fn moments_are_read_as_go_writes_them() {
    use super::wire::seconds;
    for (moment, at) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2023-08-04T08:52:19.385406455-07:00", Some(1_691_164_339)),
        ("2024-02-29T23:59:60Z", Some(1_709_251_200)),
        ("2026-01-10T16:33:10.345334612Z", Some(1_768_062_790)),
        ("2026-01-10T18:33:10+02:00", Some(1_768_062_790)),
        ("0001-01-01T00:00:00Z", None),
        ("yesterday", None),
        ("2026-01-10T16:33:10", None),
        ("", None),
    ] {
        assert_eq!(seconds(moment), at, "{moment}");
    }
}
