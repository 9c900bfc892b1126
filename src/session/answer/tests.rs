use super::*;

fn text(message: Option<Message>) -> Option<String> {
    message.map(|message| String::from_utf8(message.text.to_vec()).unwrap())
}

fn json(body: &str) -> Option<String> {
    let mut hearing = Hearing::new(false, 1000);
    assert!(!hearing.push(body.as_bytes()));
    text(hearing.message())
}

/// What is heard of a stream, which must not depend on how it was cut.
#[track_caller]
fn events(stream: &str) -> Option<String> {
    let heard = |cuts: &[usize]| {
        let mut hearing = Hearing::new(true, 1000);
        let mut start = 0;
        for cut in cuts.iter().chain([&stream.len()]) {
            hearing.push(&stream.as_bytes()[start..*cut]);
            start = *cut;
        }
        text(hearing.message())
    };
    let whole = heard(&[]);
    for cut in 0..stream.len() {
        let second = stream.len().min(cut + 5);
        assert_eq!(heard(&[cut, second]), whole, "cut at {cut}");
    }
    whole
}

fn stream(deltas: &[&str], end: &str) -> String {
    let chunk = |delta: &&str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let deltas: String = deltas.iter().map(chunk).collect();
    format!(": hello\n\n{deltas}{end}")
}

const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[test]
fn a_message_is_found_in_json_and_loses_what_servers_refuse_of_each_other() {
    let body = r#"{"choices":[{"index":1,"message":{"content":"no"}},{"index":0,"finish_reason":"stop","message":
        {"role":"assistant","content":"h\u00e9","refusal":null,"annotations":[],"tool_calls":[],"reasoning_content":"hm"}}]}"#;
    let expected = r#"{"role":"assistant","content":"h\u00e9"}"#;
    assert_eq!(json(body).unwrap(), expected);
    let body = r#"{"choices":[{"message":{"content":null,"tool_calls":[ {"id":"a"} ]}}]}"#;
    let expected = r#"{"role":"assistant","content":null,"tool_calls":[ {"id":"a"} ]}"#;
    assert_eq!(json(body).unwrap(), expected);
    for none in [
        "",
        "{}",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"message":{"content":""}}]}"#,
        r#"{"choices":[{"message":{"content":"x"},"finish_reason":"content_filter"}]}"#,
        r#"{"choices":[{"message":{"content":"x"}}]"#,
    ] {
        assert_eq!(json(none), None, "{none}");
    }
}

#[test]
fn text_is_put_together_from_the_first_choice() {
    let deltas = [
        r#"{"role":"assistant","content":""}"#,
        r#"{"content":"a \"b\" \ud83d"}"#,
        r#"{"content":"\ude00 é","refusal":null}"#,
    ];
    let other = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"other\"}}]}\n\n";
    let expected = r#"{"role":"assistant","content":"a \"b\" \ud83d\ude00 é"}"#;
    for end in [
        format!("{other}{STOP}{DONE}"),
        format!("{STOP}{DONE}"),
        DONE.into(),
        STOP.into(),
    ] {
        assert_eq!(events(&stream(&deltas, &end)).unwrap(), expected, "{end}");
    }
    let refused = stream(&[r#"{"refusal":"I "}"#, r#"{"refusal":"won't"}"#], DONE);
    assert_eq!(
        events(&refused).unwrap(),
        r#"{"role":"assistant","content":null,"refusal":"I won't"}"#
    );
}

#[test]
fn tool_calls_are_put_together_by_their_index() {
    let deltas = [
        r#"{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"b","function":{"name":"g","arguments":"{}"},"extra":[1]}]}"#,
        r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":null,"arguments":"1}"}}]}"#,
    ];
    let expected = r#"{"role":"assistant","content":null,"tool_calls":[{"function":{"arguments":"{\"x\":1}","name":"f"},"id":"a","type":"function"},{"extra":[1],"function":{"arguments":"{}","name":"g"},"id":"b","type":"function"}]}"#;
    assert_eq!(events(&stream(&deltas, DONE)).unwrap(), expected);
    // without an index, and with the same one for all
    for index in ["", "\"index\":0,"] {
        let call = |id: &str| {
            format!(
                r#"{{"tool_calls":[{{{index}"id":"{id}","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
            )
        };
        let heard = events(&stream(&[&call("a"), &call("b")], DONE)).unwrap();
        assert_eq!(heard.matches("\"id\"").count(), 2, "{heard}");
    }
}

#[test]
fn what_did_not_end_well_is_not_heard() {
    let said = [r#"{"content":"x"}"#];
    let filtered = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"content_filter\"}]}\n\n";
    for end in [
        "",
        "data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
        "event: error\ndata: {}\n\ndata: [DONE]\n\n",
        "data: {\"choices\":\n\ndata: [DONE]\n\n",
        &format!("{filtered}{DONE}"),
    ] {
        assert_eq!(events(&stream(&said, end)), None, "{end}");
    }
    assert_eq!(events(&stream(&[], DONE)), None);
}

#[test]
fn what_is_too_large_is_only_measured() {
    let long = format!(r#"{{"content":"{}"}}"#, "x".repeat(600));
    let mut hearing = Hearing::new(true, 1000);
    assert!(hearing.push(stream(&[&long, &long], DONE).as_bytes()));
    assert_eq!(text(hearing.message()).unwrap(), "");
    let mut hearing = Hearing::new(true, 1000);
    for _ in 0..2 * LONGEST / 1000 {
        hearing.push(&[b'x'; 1000]);
    }
    assert!(hearing.message().is_none());
}
