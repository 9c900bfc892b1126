//! Limits of keys, addresses and routes: exact, told in headers, kept over reloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{Answer, Gateway, Request, Server, eventually};

const KEY: &str = "tl-0123456789-abcdef";

fn limited(server: &Server, key: &str, route: &str, more: &str) -> String {
    format!(
        r#"
keys: [{{ name: alice, key: {KEY}, limits: {{ {key} }} }}]
{more}
pools: {{ a: {{ servers: ["{}"], health: false }} }}
routes: [{{ name: all, pool: a, limits: {{ {route} }} }}]
"#,
        server.url()
    )
}

fn chat() -> Request {
    Request::json("/v1/chat/completions", r#"{"model":"m","messages":[]}"#)
        .header("authorization", &format!("Bearer {KEY}"))
}

/// What is asked at once by many; how many got through, and the others.
fn all_at_once(to: SocketAddr, request: &Request, count: usize) -> (usize, Vec<Answer>) {
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| request.send(to)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (good, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    (good.len(), refused)
}

#[test]
fn requests_of_a_minute_are_counted_exactly_and_told_as_openai_does() {
    let server = Server::named("a");
    // 1 in 10 minutes comes back, so that none does while this test runs
    let gateway = Gateway::start(&limited(&server, "rpm: 20", "", ""));
    let first = gateway.send(&chat());
    for (name, value) in [("limit", "20"), ("remaining", "19"), ("reset", "3s")] {
        assert_eq!(
            first.header(&format!("x-ratelimit-{name}-requests")),
            Some(value),
            "{name}"
        );
    }
    let started = std::time::Instant::now();
    let (good, refused) = all_at_once(gateway.address, &chat(), 40);
    // one comes back every three seconds
    let more = started.elapsed().as_secs() as usize / 3 + 1;
    assert!(
        (19..=19 + more).contains(&good),
        "{good} in {:?}",
        started.elapsed()
    );
    for answer in &refused {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (429, "rate_limit_exceeded")
        );
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3).contains(&seconds), "{seconds}");
        assert!(
            answer
                .header("retry-after-ms")
                .unwrap()
                .parse::<u64>()
                .unwrap()
                <= 3000
        );
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    }
    assert_eq!(server.count(), 1 + good);
    let labels = [("scope", "key"), ("limit", "requests")];
    assert_eq!(
        gateway.metric("trunkline_rate_limited_total", &labels),
        refused.len() as f64
    );
    // kept over a reload, whatever else changes
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    std::fs::write(gateway.config_path(), text.replace("rpm: 20", "rpm: 21")).unwrap();
    assert_eq!(
        Request::new("POST", "/reload").send(gateway.admin).status,
        200
    );
    let (again, _) = all_at_once(gateway.address, &chat(), 40);
    assert!(again <= 3, "{again}");
}

#[test]
fn requests_at_once_are_bounded_and_given_back() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let server = Server::fake(move |_, wire| {
        while !wait.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.json("{}");
        true
    });
    let gateway = Gateway::start(&limited(&server, "concurrent: 3", "", ""));
    let first: Vec<_> = (0..3).map(|_| gateway.send_aside(&chat())).collect();
    eventually("they are in flight", || server.count() == 3);
    let refused = gateway.send(&chat());
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1"))
    );
    assert!(refused.text().contains("requests at once"));
    go.store(true, SeqCst);
    for one in first {
        assert_eq!(one.join().unwrap().status, 200);
    }
    eventually("their places are free", || {
        gateway.send(&chat()).status == 200
    });
}

#[test]
fn who_asks_again_with_the_answer_in_hand_is_not_in_the_way_of_itself() {
    let server = Server::named("a");
    let gateway = Gateway::start(&limited(&server, "concurrent: 1", "", ""));
    for n in 0..200 {
        assert_eq!(gateway.send(&chat()).status, 200, "{n}");
    }
}

#[test]
fn tokens_are_charged_as_the_answer_states_them() {
    let server = Server::fake(|_, wire| {
        wire.json(r#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":500}}"#);
        true
    });
    let gateway = Gateway::start(&limited(&server, "tpm: 1000", "", ""));
    let first = gateway.send(&chat());
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("1000"));
    let remaining = |answer: &Answer| -> i64 {
        answer
            .header("x-ratelimit-remaining-tokens")
            .unwrap()
            .parse()
            .unwrap()
    };
    // what it will cost is not known yet: only its own length
    assert!(remaining(&first) > 980, "{}", remaining(&first));
    eventually("it is charged", || {
        gateway.metric("trunkline_key_tokens_total", &[("key", "alice")]) == 600.0
    });
    let second = gateway.send(&chat());
    assert!(
        (350..450).contains(&remaining(&second)),
        "{}",
        remaining(&second)
    );
    eventually("more than there was is owed", || {
        gateway.metric("trunkline_key_tokens_total", &[("key", "alice")]) == 1200.0
    });
    let third = gateway.send(&chat());
    assert_eq!(
        (third.status, third.code().as_str()),
        (429, "rate_limit_exceeded")
    );
    assert!(
        third.text().contains("tokens per minute"),
        "{}",
        third.text()
    );
    let seconds: u64 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=15).contains(&seconds), "{seconds}");
}

#[test]
fn a_stream_is_asked_what_it_used_and_the_client_sees_nothing_of_it() {
    const EVENTS: [&str; 4] = [
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":700}}\n\n",
        "data: [DONE]\n\n",
    ];
    let server = Server::fake(|_, wire| {
        wire.chunked("text/event-stream");
        EVENTS.iter().for_each(|event| wire.chunk(event));
        wire.end();
        true
    });
    let gateway = Gateway::start(&limited(&server, "tpm: 1000", "", ""));
    let ask = |body: &str| {
        let request = Request::json("/v1/chat/completions", body);
        gateway.send(&request.header("x-api-key", KEY))
    };
    let answer = ask(r#"{"model":"m","stream":true,"messages":[]}"#);
    assert_eq!(answer.text(), [EVENTS[0], EVENTS[1], EVENTS[3]].concat());
    assert!(answer.whole);
    let sent = server.seen().pop().unwrap();
    assert_eq!(sent.json()["stream_options"]["include_usage"], true);
    let charged = || gateway.metric("trunkline_key_tokens_total", &[("key", "alice")]);
    eventually("it is charged", || charged() == 800.0);
    // who asks for it himself gets it
    let answer =
        ask(r#"{"model":"m","stream":true,"messages":[],"stream_options":{"include_usage":true}}"#);
    assert_eq!(answer.text(), EVENTS.concat());
    eventually("it is charged too", || charged() == 1600.0);
    assert_eq!(ask(r#"{"model":"m","messages":[]}"#).status, 429);
    assert_eq!(gateway.access_log(2)[0]["tokens_out"], 700);
}

#[test]
fn what_failed_costs_no_tokens() {
    let server = Server::failing(500);
    let gateway = Gateway::start(&limited(&server, "tpm: 100", "", ""));
    for _ in 0..30 {
        assert_ne!(gateway.send(&chat()).status, 429);
    }
}

#[test]
fn speech_is_counted_by_its_characters() {
    let server = Server::named("a");
    let gateway = Gateway::start(&limited(&server, "characters: 100", "", ""));
    let say = |n: usize| {
        let body = format!(
            r#"{{"model":"tts-1","input":"{}","voice":"nova"}}"#,
            "é".repeat(n)
        );
        gateway.send(&Request::json("/v1/audio/speech", &body).header("x-api-key", KEY))
    };
    assert_eq!(say(60).status, 200);
    let refused = say(60);
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(say(30).status, 200);
    // more than a whole minute's can never be said
    let never = say(101);
    assert_eq!((never.status, never.header("retry-after")), (429, None));
    assert_eq!(never.header("x-should-retry"), Some("false"));
    assert!(
        never
            .text()
            .contains("it asks for 101, and the limit is 100 characters per minute"),
        "{}",
        never.text()
    );
    // other requests are not about characters
    assert_eq!(gateway.send(&chat()).status, 200);
}

#[test]
fn a_route_is_limited_for_all_and_an_address_for_itself() {
    let server = Server::named("a");
    let gateway = Gateway::start(&limited(&server, "", "rpm: 5", ""));
    let (good, refused) = all_at_once(gateway.address, &chat(), 12);
    assert!((5..=6).contains(&good), "{good}");
    assert!(refused[0].text().contains("this route"));
    let gateway = Gateway::start(&limited(&server, "", "", "limits: { per_ip: { rpm: 5 } }"));
    let (good, refused) = all_at_once(gateway.address, &chat(), 12);
    assert!((5..=6).contains(&good), "{good}");
    assert!(refused[0].text().contains("this address"));
    // a key that is wrong counts against its address: nobody guesses for long
    let wrong = Request::get("/v1/x").header("x-api-key", "wrong");
    let gateway_of_guesses =
        Gateway::start(&limited(&server, "", "", "limits: { per_ip: { rpm: 5 } }"));
    let guesses = (0..8).map(|_| gateway_of_guesses.send(&wrong).status);
    assert_eq!(guesses.filter(|status| *status == 429).count(), 3);
    let gateway = Gateway::start(&limited(&server, "", "", ""));
    let answer = gateway.send(&chat());
    assert_eq!(
        answer.header("x-ratelimit-limit-requests"),
        None,
        "nothing is limited"
    );
}

#[test]
fn the_429_of_a_server_passes_with_its_own_headers() {
    let server = Server::fake(|_, wire| {
        let headers = [
            ("content-type", "application/json"),
            ("retry-after", "7"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "0"),
        ];
        wire.answer(
            429,
            &headers,
            r#"{"error":{"message":"theirs","type":"requests","code":"rate_limit_exceeded"}}"#,
        );
        true
    });
    let gateway = Gateway::start(&limited(&server, "rpm: 100", "", ""));
    let answer = gateway.send(&chat());
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("10000"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(answer.text().contains("theirs"));
}

/// Two pools, the first with limits and the second behind it, and no key.
fn pools_with(first: &Server, limits: &str, rest: &Server) -> String {
    format!(
        r#"
pools:
  a: {{ servers: ["{}"], health: false, limits: {{ {limits} }} }}
  b: {{ servers: ["{}"], health: false }}
routes: [{{ name: all, pool: a, fallback: [b] }}, {{ name: never, match: {{ host: none }}, pool: a }}]
"#,
        first.url(),
        rest.url()
    )
}

#[test]
fn a_pool_that_was_asked_enough_leaves_the_rest_to_the_next() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = Gateway::start(&pools_with(&a, "rpm: 5", &b));
    let (good, _) = all_at_once(gateway.address, &chat(), 20);
    assert_eq!(good, 20);
    assert!((5..=7).contains(&a.count()), "{}", a.count());
    assert_eq!(a.count() + b.count(), 20);
    let labels = [("scope", "pool"), ("limit", "requests")];
    let spilled = gateway.metric("trunkline_rate_limited_total", &labels);
    assert_eq!(spilled, b.count() as f64);
    // nobody behind it: the client hears when to come back
    let yaml = pools_with(&a, "rpm: 5", &b).replace(", fallback: [b]", "");
    let alone = Gateway::start(&yaml.replace(
        "name: never, match: { host: none }, pool: a",
        "name: never, match: { host: none }, pool: b",
    ));
    let (good, refused) = all_at_once(alone.address, &chat(), 12);
    assert!((5..=7).contains(&good), "{good}");
    assert_eq!(refused[0].code(), "rate_limit_exceeded");
    assert!(
        refused[0].text().contains("this pool"),
        "{}",
        refused[0].text()
    );
    assert!(refused[0].header("retry-after").is_some());
}

#[test]
fn a_pool_is_charged_for_what_it_answered_and_not_for_what_it_failed() {
    let a = Server::fake(|seen, wire| {
        match seen.header("x-fail") {
            Some(_) => wire.answer(500, &[], "{}"),
            None => {
                wire.json(r#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":500}}"#)
            }
        }
        true
    });
    let b = Server::named("b");
    let gateway = Gateway::start(&pools_with(&a, "tpm: 1000, concurrent: 1", &b));
    for _ in 0..20 {
        gateway.send(&chat().header("x-fail", "1"));
    }
    assert_eq!((a.count(), b.count()), (20, 0), "what failed costs nothing");
    assert_eq!(gateway.send(&chat()).status, 200);
    eventually("600 and 600 are more than there is", || {
        gateway.send(&chat());
        b.count() > 0
    });
    assert!(a.count() <= 23, "{}", a.count());
}

#[test]
fn a_place_at_a_pool_is_free_when_its_attempt_is_over() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let a = Server::failing(503);
    let b = Server::fake(move |_, wire| {
        while !wait.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.json("{}");
        true
    });
    let yaml = pools_with(&a, "concurrent: 1", &b).replace(
        "health: false, limits",
        "health: false, eject: false, limits",
    );
    let gateway = Gateway::start(&yaml);
    // the first one failed at the pool and is held by the next
    let first = gateway.send_aside(&chat());
    eventually("it is at the second pool", || b.count() == 1);
    let second = gateway.send_aside(&chat());
    eventually("so is the second", || b.count() == 2);
    assert_eq!(a.count(), 2);
    go.store(true, SeqCst);
    assert_eq!(
        (first.join().unwrap().status, second.join().unwrap().status),
        (200, 200)
    );
}

#[test]
fn a_route_counts_characters_although_nothing_else_reads_the_body() {
    let server = Server::named("a");
    let yaml = format!(
        "pools: {{ a: {{ servers: [\"{}\"], health: false }} }}\nroutes: [{{ match: {{ path: /v1/audio/speech }}, pool: a, limits: {{ characters: 100 }} }}]\n",
        server.url()
    );
    let gateway = Gateway::start(&yaml);
    let say = || {
        let body = format!(
            r#"{{"model":"tts-1","input":"{}","voice":"nova"}}"#,
            "a".repeat(60)
        );
        gateway.post("/v1/audio/speech", &body)
    };
    assert_eq!((say().status, say().status), (200, 429));
}

#[test]
fn a_list_of_several_servers_takes_of_the_limits_of_their_pools() {
    let list = || {
        Server::fake(|_, wire| {
            wire.json(r#"{"object":"list","data":[],"has_more":false}"#);
            true
        })
    };
    let (a, b) = (list(), list());
    let gateway = Gateway::start(&pools_with(&a, "rpm: 2, concurrent: 1", &b));
    for _ in 0..2 {
        let answer = gateway.get("/v1/files");
        assert_eq!((answer.status, answer.header("x-partial")), (200, None));
    }
    let answer = gateway.get("/v1/files");
    assert_eq!(answer.status, 200);
    assert!(
        answer.header("x-partial").is_some(),
        "the first is left out"
    );
    assert_eq!((a.count(), b.count()), (2, 3));
    // where there is nobody else, the client hears when to come back
    let yaml = pools_with(&a, "rpm: 2", &b);
    let limited = "health: false, limits: { rpm: 2 } }\nroutes";
    let gateway = Gateway::start(&yaml.replace("health: false }\nroutes", limited));
    let answers = [1, 2, 3].map(|_| gateway.get("/v1/files"));
    assert_eq!(answers[1].status, 200);
    assert_eq!(
        (answers[2].status, answers[2].code().as_str()),
        (429, "rate_limit_exceeded")
    );
    assert!(answers[2].header("retry-after").is_some());
}

#[test]
fn a_guess_takes_no_more_than_a_minute_allows() {
    // it never tells what it used
    let server = Server::named("a");
    let gateway = Gateway::start(&limited(&server, "tpm: 100", "", ""));
    let text = "x".repeat(40_000);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let request = Request::json("/v1/chat/completions", &body).header("x-api-key", KEY);
    assert_eq!(gateway.send(&request).status, 200);
    eventually("it is over", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 0.0
    });
    let refused = gateway.send(&chat());
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds <= 60, "{seconds}");
}
