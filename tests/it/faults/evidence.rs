//! What a server's failures mean for the requests behind them: it is left alone, waited for, tried
//! by one request, or asked as before.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Act, SOON, acting, silent, speech};
use crate::support::{Answer, Place, Request, Scene, Seen, Server, Spot, Wire, eventually};

/// Answers well from the `n`th request on, and by `act` before.
fn well_from(n: usize, act: impl Fn(&mut Wire) -> bool + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::fake(move |seen, wire| {
        let early = seen.target.starts_with("/v1/") && asked.fetch_add(1, SeqCst) + 1 < n;
        if early { act(wire) } else { well(wire) }
    })
}

/// Answers well after so long.
fn answering_after(time: Duration) -> Server {
    Server::fake(move |_, wire| {
        std::thread::sleep(time);
        well(wire)
    })
}

fn well(wire: &mut Wire) -> bool {
    wire.json("{}");
    true
}

fn refuse(wire: &mut Wire, status: u16, headers: &[(&str, &str)], code: &str) -> bool {
    let body = format!("{{\"error\":{{\"message\":\"no\",\"type\":\"x\",\"code\":\"{code}\"}}}}");
    wire.answer(status, headers, body);
    true
}

/// An answer of 200, from this server, behind these attempts.
#[track_caller]
fn served(answer: &Answer, by: &str, attempts: Option<&str>) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-backend"), Some(by));
    assert_eq!(answer.header("x-attempts"), attempts);
    assert!(answer.took < SOON, "{:?}", answer.took);
}

// ---- limits of rate and quota ----

#[test]
fn a_server_that_says_when_to_come_back_is_left_alone_until_then() {
    let started = Instant::now();
    let busy = well_from(2, |wire| {
        refuse(wire, 429, &[("retry-after-ms", "700")], "")
    });
    let spots = vec![
        Spot::new("a/busy", busy),
        Spot::new("a/good", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[], "");
    let mut answers = vec![scene.send(&speech())];
    served(&answers[0], "a/good", Some("a/busy=429,a/good=200"));
    eventually("it is asked again", || {
        answers.push(scene.send(&speech()));
        let back = scene.count("a/busy") == 2;
        assert!(
            !back || started.elapsed() >= Duration::from_millis(700),
            "too early"
        );
        back
    });
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(scene.gateway.metric("trunkline_ejections_total", &[]), 0.0);
    scene.agrees(&answers);
}

#[test]
fn whole_seconds_of_retry_after_count_for_429_and_503_alike() {
    for (status, second) in [(429, "a/good"), (503, "a/good"), (429, "b/good")] {
        let busy =
            Server::fake(move |_, wire| refuse(wire, status, &[("retry-after", "3600")], ""));
        let spots = vec![
            Spot::new("a/busy", busy),
            Spot::new(second, Server::named("good")),
        ];
        let scene = Scene::start(spots, &[("a", "eject: false")], "");
        let answers: Vec<Answer> = (0..8).map(|_| scene.send(&speech())).collect();
        let attempts = format!("a/busy={status},{second}=200");
        served(&answers[0], second, Some(&attempts));
        answers[1..].iter().for_each(|a| served(a, second, None));
        assert_eq!((scene.count("a/busy"), scene.count(second)), (1, 8));
        scene.agrees(&answers);
    }
}

#[test]
fn a_client_that_came_too_often_with_its_own_key_is_no_reason_to_spare_a_server() {
    let busy = Server::fake(|_, wire| refuse(wire, 429, &[("retry-after", "3600")], ""));
    let spots = vec![
        Spot::new("a/busy", busy),
        Spot::new("a/good", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[("a", "auth: passthrough")], "");
    let answers: Vec<Answer> = (0..8).map(|_| scene.send(&speech())).collect();
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(scene.count("a/busy") >= 4, "asked in its turn");
    scene.agrees(&answers);
}

#[test]
fn a_503_that_names_a_pause_counts_whoever_pays() {
    let busy = Server::fake(|_, wire| refuse(wire, 503, &[("retry-after", "3600")], ""));
    let spots = vec![
        Spot::new("a/busy", busy),
        Spot::new("a/good", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[("a", "auth: passthrough, eject: false")], "");
    let answers: Vec<Answer> = (0..8).map(|_| scene.send(&speech())).collect();
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(scene.count("a/busy"), 1, "it is the server that is busy");
    scene.agrees(&answers);
}

#[test]
fn the_only_server_is_asked_though_it_wants_a_pause() {
    let busy = well_from(2, |wire| refuse(wire, 429, &[("retry-after", "3600")], ""));
    let scene = Scene::start(vec![Spot::new("a/busy", busy)], &[], "");
    let answers = [scene.send(&speech()), scene.send(&speech())];
    assert_eq!(
        (answers[0].status, answers[0].header("retry-after")),
        (429, Some("3600"))
    );
    served(&answers[1], "a/busy", None);
    scene.agrees(&answers);
}

#[test]
fn an_account_without_quota_is_asked_once_and_another_account_answers() {
    let spent = || Server::fake(|_, wire| refuse(wire, 429, &[], "insufficient_quota"));
    let spots = vec![
        Spot::new("a/one", spent()).with("api_key: k1"),
        Spot::new("a/same", spent()).with("api_key: k1"),
        Spot::new("a/other", Server::named("other")).with("api_key: k2"),
    ];
    let scene = Scene::start(spots, &[], "");
    let answer = scene.send(&speech());
    served(&answer, "a/other", Some("a/one=429,a/other=200"));
    assert_eq!(scene.count("a/same"), 0);
    scene.agrees(&[answer]);
}

#[test]
fn an_account_without_quota_is_not_asked_in_another_pool_either() {
    let spent = |_: &Seen, wire: &mut Wire| refuse(wire, 429, &[], "insufficient_quota");
    let spots = vec![
        Spot::new("a/one", Server::fake(spent)),
        Spot::new("b/same", Server::fake(spent)),
    ];
    let key = "api_key: k1";
    let scene = Scene::start(spots, &[("a", key), ("b", key)], "");
    let answer = scene.send(&speech());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "insufficient_quota")
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!((scene.count("a/one"), scene.count("b/same")), (1, 0));
    scene.agrees(&[answer]);
}

// ---- models that are being loaded ----

/// Its probes find it loading, at once.
const PROBED: &str = "health: { path: /health, interval: 50ms, rise: 1, fall: 1 }";

const LOADING: &str =
    r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;

fn loads(wire: &mut Wire) -> bool {
    wire.answer(503, &[("content-type", "application/json")], LOADING);
    true
}

#[test]
fn a_server_that_loads_is_skipped_and_not_ejected() {
    let says_so: [(&str, Act); 2] = [
        ("kind: llama.cpp", loads),
        // LocalAI's own message may be switched off
        ("kind: localai", |wire| {
            refuse(wire, 503, &[("retry-after", "2")], "busy")
        }),
    ];
    for (kind, says) in says_so {
        let spots = vec![
            Spot::new("a/cold", acting(says)),
            Spot::new("a/good", Server::named("good")),
        ];
        let pool = format!("{kind}, warming: skip, eject: {{ after: 1, max_percent: 100 }}");
        let scene = Scene::start(spots, &[("a", &pool)], "");
        let answers: Vec<Answer> = (0..6).map(|_| scene.send(&speech())).collect();
        served(&answers[0], "a/good", Some("a/cold=loading,a/good=200"));
        assert!(answers.iter().all(|answer| answer.status == 200));
        let metric = |name| scene.gateway.metric(name, &[("server", "cold")]);
        let loading = [("server", "cold"), ("result", "loading")];
        let counted = scene.gateway.metric("trunkline_attempts_total", &loading);
        assert_eq!(counted, scene.count("a/cold") as f64, "{kind}");
        assert_eq!(metric("trunkline_ejections_total"), 0.0, "{kind}");
        scene.agrees(&answers);
    }
}

#[test]
fn nobody_but_loading_servers_gives_the_fallback_pool_the_request() {
    let spots = vec![
        Spot::new("a/cold", acting(loads)),
        Spot::new("b/good", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[("a", "kind: llama.cpp, warming: skip")], "");
    let answer = scene.send(&speech());
    served(&answer, "b/good", Some("a/cold=loading,b/good=200"));
    scene.agrees(&[answer]);
}

#[test]
fn a_server_that_loads_is_waited_for_where_the_file_says_so() {
    for kind in ["llama.cpp", "localai"] {
        let spots = vec![
            Spot::new("a/cold", well_from(3, loads)),
            Spot::new("b/spare", Server::named("spare")),
        ];
        let pool = format!("kind: {kind}, warming: wait, eject: {{ after: 1 }}");
        let scene = Scene::start(spots, &[("a", &pool)], "retry: { budget: 0% }");
        let answer = scene.send(&speech());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let attempts = "a/cold=loading,a/cold=loading,a/cold=200";
        assert_eq!(answer.header("x-attempts"), Some(attempts), "{kind}");
        assert_eq!(scene.count("b/spare"), 0, "{kind}");
        scene.agrees(&[answer]);
    }
}

#[test]
fn who_waits_for_a_model_waits_no_longer_than_first_byte() {
    let spots = vec![
        Spot::new("a/cold", acting(loads)),
        Spot::new("b/good", Server::named("good")),
    ];
    let pool = "kind: llama.cpp, warming: wait, timeouts: { first_byte: 1s }";
    let scene = Scene::start(spots, &[("a", pool)], "");
    let answer = scene.send(&speech());
    assert_eq!(
        answer.header("x-backend"),
        Some("b/good"),
        "{}",
        answer.text()
    );
    assert!(answer.took >= Duration::from_secs(1) && answer.took < 2 * SOON);
    scene.agrees(&[answer]);
}

#[test]
fn a_server_that_its_probes_find_loading_is_waited_for() {
    let ready = Arc::new(AtomicBool::new(false));
    let flag = ready.clone();
    let server = Server::fake(move |_, wire| match flag.load(SeqCst) {
        true => well(wire),
        false => loads(wire),
    });
    let spots = vec![
        Spot::new("a/cold", server),
        Spot::new("b/spare", Server::named("spare")),
    ];
    let pool = format!("kind: llama.cpp, warming: wait, {PROBED}");
    let scene = Scene::start(spots, &[("a", &pool)], "");
    let warming = || {
        scene
            .gateway
            .metric("trunkline_server_warming", &[("server", "cold")])
    };
    eventually("it is seen loading", || warming() == 1.0);
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| scene.send(&speech()));
        eventually("the request waits", || {
            scene.gateway.metric("trunkline_requests_in_flight", &[]) == 1.0
        });
        ready.store(true, SeqCst);
        asking.join().unwrap()
    });
    served(&answer, "a/cold", None);
    assert_eq!(warming(), 0.0);
    assert_eq!((scene.count("a/cold"), scene.count("b/spare")), (1, 0));
    scene.agrees(&[answer]);
}

#[test]
fn a_kokoro_that_still_starts_refuses_and_is_waited_for() {
    let place = Place::new();
    let spots = vec![
        Spot::place("a/late", &place),
        Spot::new("b/spare", Server::named("spare")),
    ];
    let pool = "kind: kokoro, warming: wait, eject: { after: 1 }";
    let scene = Scene::start(spots, &[("a", pool)], "retry: { budget: 0% }");
    let (answer, server) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| scene.send(&speech()));
        let refused = [("server", "late"), ("result", "connect_error")];
        eventually("it refused", || {
            scene.gateway.metric("trunkline_attempts_total", &refused) >= 1.0
        });
        let server = place.serve(|_, wire| well(wire));
        (asking.join().unwrap(), server)
    });
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("a/late"))
    );
    let attempts = answer.header("x-attempts").unwrap();
    assert!(attempts.starts_with("a/late=connect_error,"), "{attempts}");
    assert!(attempts.ends_with(",a/late=200"), "{attempts}");
    assert_eq!((server.count(), scene.count("b/spare")), (1, 0));
    scene.agrees(&[answer]);
}

#[test]
fn a_kokoro_that_its_probes_find_starting_is_waited_for() {
    let place = Place::new();
    let spots = vec![
        Spot::place("a/late", &place),
        Spot::new("b/spare", Server::named("spare")),
    ];
    let pool = format!("kind: kokoro, warming: wait, {PROBED}");
    let scene = Scene::start(spots, &[("a", &pool)], "");
    eventually("it is seen starting", || {
        scene.gateway.metric("trunkline_server_warming", &[]) == 1.0
    });
    let (answer, server) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| scene.send(&speech()));
        eventually("the request waits", || {
            scene.gateway.metric("trunkline_requests_in_flight", &[]) == 1.0
        });
        let server = place.serve(|_, wire| well(wire));
        (asking.join().unwrap(), server)
    });
    served(&answer, "a/late", None);
    assert_eq!((server.count(), scene.count("b/spare")), (1, 0));
    scene.agrees(&[answer]);
}

// ---- Ollama ----

/// An Ollama with these models in memory, which answers by `act`; it takes up those it is told to
/// load.
fn ollama(models: &[&str], act: fn(&mut Wire) -> bool) -> Server {
    let models: Vec<String> = models.iter().map(ToString::to_string).collect();
    let models = Mutex::new(models);
    Server::fake(move |seen, wire| {
        let mut models = models.lock().unwrap();
        match seen.target.as_str() {
            "/api/ps" => {
                let list = models
                    .iter()
                    .map(|name| serde_json::json!({ "name": name, "model": name }));
                let list: Vec<_> = list.collect();
                wire.json(&serde_json::json!({ "models": list }).to_string());
            }
            "/api/generate" => {
                models.push(seen.json()["model"].as_str().unwrap().to_owned());
                wire.json("{\"done\":true}");
            }
            "/health" => return well(wire),
            _ => {
                drop(models);
                return act(wire);
            }
        }
        true
    })
}

fn chat_with(model: &str) -> Request {
    let body = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
    Request::json("/v1/chat/completions", &body)
}

const OLLAMA: &str = "kind: ollama, health: { path: /health, interval: 50ms, rise: 1 }";

/// The second list is asked for when the first one is known.
#[track_caller]
fn lists_are_known(scene: &Scene, names: &[&str]) {
    let asked = |name: &str| {
        let seen = scene.seen(name);
        seen.iter().filter(|seen| seen.target == "/api/ps").count()
    };
    let before: Vec<usize> = names.iter().map(|name| asked(name)).collect();
    eventually("the models in memory are known", || {
        names
            .iter()
            .zip(&before)
            .all(|(name, before)| asked(name) >= before + 2)
    });
}

#[test]
fn an_ollama_with_the_model_in_memory_is_asked_before_one_without() {
    let spots = vec![
        Spot::new("a/cold", ollama(&[], well)),
        Spot::new("a/warm", ollama(&["llama3:latest"], well)),
    ];
    let scene = Scene::start(spots, &[("a", OLLAMA)], "");
    lists_are_known(&scene, &["a/cold", "a/warm"]);
    let mut answers: Vec<Answer> = (0..6).map(|_| scene.send(&chat_with("llama3"))).collect();
    assert_eq!((scene.count("a/cold"), scene.count("a/warm")), (0, 6));
    answers.extend((0..4).map(|_| scene.send(&chat_with("nobody-has"))));
    assert_eq!(
        (scene.count("a/cold"), scene.count("a/warm")),
        (2, 8),
        "in turn"
    );
    scene.agrees(&answers);
}

#[test]
fn a_model_is_loaded_beside_the_requests_that_the_fallback_pool_serves() {
    let spots = vec![
        Spot::new("a/cold", ollama(&[], well)),
        Spot::new("b/good", Server::named("good")),
    ];
    let pool = format!("{OLLAMA}, warming: skip, models: {{ public: own }}");
    let scene = Scene::start(spots, &[("a", &pool)], "");
    lists_are_known(&scene, &["a/cold"]);
    let mut answers = vec![scene.send(&chat_with("public"))];
    served(&answers[0], "b/good", None);
    let orders = || {
        let seen = scene.seen("a/cold");
        let orders = seen
            .into_iter()
            .filter(|seen| seen.target == "/api/generate");
        orders.collect::<Vec<Seen>>()
    };
    eventually("the model is ordered", || orders().len() == 1);
    assert_eq!(orders()[0].method, "POST");
    assert_eq!(orders()[0].json()["model"], "own", "by the pool's own name");
    lists_are_known(&scene, &["a/cold"]);
    answers.push(scene.send(&chat_with("public")));
    served(&answers[1], "a/cold", None);
    assert_eq!(orders().len(), 1, "once");
    scene.agrees(&answers);
}

#[test]
fn an_ollama_that_is_late_because_it_loads_is_not_ejected() {
    for (models, ejections) in [(&[][..], 0.0), (&["other:latest"], 1.0)] {
        let late = ollama(models, silent);
        let spots = vec![
            Spot::new("a/late", late),
            Spot::new("a/good", ollama(&[], well)),
        ];
        let eject = "timeouts: { first_byte: 300ms }, eject: { after: 1, for: 1h }";
        let scene = Scene::start(spots, &[("a", &format!("{OLLAMA}, {eject}"))], "");
        lists_are_known(&scene, &["a/late", "a/good"]);
        let answer = scene.send(&chat_with("llama3"));
        served(&answer, "a/good", Some("a/late=timeout,a/good=200"));
        let ejected = scene.gateway.metric("trunkline_ejections_total", &[]);
        assert_eq!(ejected, ejections, "{models:?}");
        scene.agrees(&[answer]);
    }
}

// ---- ejection ----

#[test]
fn a_server_far_slower_than_the_others_is_ejected() {
    let spots = vec![
        Spot::new("a/slow", answering_after(Duration::from_millis(150))),
        Spot::new("a/quick", Server::named("quick")),
    ];
    let scene = Scene::start(spots, &[("a", "eject: { slow: 2, for: 1h }")], "");
    let mut answers = Vec::new();
    eventually("it is ejected", || {
        answers.push(scene.send(&speech()));
        let slow = [("server", "slow"), ("reason", "slow")];
        scene.gateway.metric("trunkline_ejections_total", &slow) == 1.0
    });
    let before = scene.count("a/slow");
    assert!(before >= 8, "a few are no evidence: {before}");
    answers.extend((0..4).map(|_| scene.send(&speech())));
    assert_eq!(scene.count("a/slow"), before);
    assert!(answers.iter().all(|answer| answer.status == 200));
    scene.agrees(&answers);
}

#[test]
fn a_server_that_comes_and_goes_loses_no_request() {
    let place = Place::new();
    let spots = vec![
        Spot::place("a/flaps", &place),
        Spot::new("a/good", Server::named("good")),
    ];
    let pool = "eject: { after: 2, for: 100ms }";
    let scene = Scene::start(spots, &[("a", pool)], "retry: { budget: 100% }");
    let mut answers = Vec::new();
    let mut served = 0;
    for _ in 0..4 {
        let server = place.serve(|_, wire| well(wire));
        eventually("it serves again", || {
            answers.push(scene.send(&speech()));
            server.count() >= 3
        });
        served += server.count();
        server.kill();
        answers.extend((0..6).map(|_| scene.send(&speech())));
    }
    let failed: Vec<&Answer> = answers
        .iter()
        .filter(|a| a.status != 200 || !a.whole)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let by_it = answers
        .iter()
        .filter(|a| a.header("x-backend") == Some("a/flaps"));
    assert_eq!(by_it.count(), served);
    scene.agrees(&answers);
}

#[test]
fn a_server_that_fails_too_often_is_ejected_though_never_twice_in_a_row() {
    let turn = AtomicUsize::new(0);
    let flaky = Server::fake(
        move |_, wire| match turn.fetch_add(1, SeqCst).is_multiple_of(2) {
            true => refuse(wire, 503, &[], ""),
            false => well(wire),
        },
    );
    let spots = vec![
        Spot::new("a/flaky", flaky),
        Spot::new("a/good", Server::named("good")),
    ];
    let pool = "eject: { after: 100, rate: 50%, min_requests: 5, window: 60s, for: 1h }";
    let scene = Scene::start(spots, &[("a", pool)], "");
    let answers: Vec<Answer> = (0..20).map(|_| scene.send(&speech())).collect();
    assert!(answers.iter().all(|answer| answer.status == 200));
    // bad, good, bad, good, bad
    assert_eq!(scene.count("a/flaky"), 5);
    let by_rate = [("server", "flaky"), ("reason", "rate")];
    assert_eq!(
        scene.gateway.metric("trunkline_ejections_total", &by_rate),
        1.0
    );
    assert_eq!(scene.gateway.metric("trunkline_ejections_total", &[]), 1.0);
    scene.agrees(&answers);
}

/// A server that does what it is told from request to request.
fn told(mood: &Arc<Mutex<Mood>>) -> Server {
    let mood = mood.clone();
    Server::fake(move |_, wire| {
        let now = mood.lock().unwrap().clone();
        match now {
            Mood::Bad => refuse(wire, 503, &[], ""),
            Mood::Good => well(wire),
            Mood::Held(until) => {
                eventually("it may go on", || until.load(SeqCst));
                well(wire)
            }
        }
    })
}

#[derive(Clone)]
enum Mood {
    Bad,
    Good,
    Held(Arc<AtomicBool>),
}

#[test]
fn an_ejected_server_is_tried_by_one_request_before_it_gets_its_share() {
    let mood = Arc::new(Mutex::new(Mood::Bad));
    let spots = vec![
        Spot::new("a/sick", told(&mood)),
        Spot::new("a/good", Server::named("good")),
    ];
    let scene = Scene::start(spots, &[("a", "eject: { after: 1, for: 200ms }")], "");
    let mut answers = vec![scene.send(&speech())];
    assert_eq!(scene.count("a/sick"), 1);
    let go = Arc::new(AtomicBool::new(false));
    *mood.lock().unwrap() = Mood::Held(go.clone());
    answers.extend(std::thread::scope(|scope| {
        let mut asking = Vec::new();
        eventually("somebody tries it", || {
            asking.push(scope.spawn(|| scene.send(&speech())));
            scene.count("a/sick") == 2
        });
        for _ in 0..10 {
            let answer = scene.send(&speech());
            served(&answer, "a/good", None);
            asking.push(scope.spawn(|| answer));
        }
        assert_eq!(scene.count("a/sick"), 2, "one at a time");
        *mood.lock().unwrap() = Mood::Good;
        go.store(true, SeqCst);
        asking
            .into_iter()
            .map(|a| a.join().unwrap())
            .collect::<Vec<_>>()
    }));
    answers.extend((0..10).map(|_| scene.send(&speech())));
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(scene.count("a/sick"), 2 + 5, "its share again");
    assert_eq!(scene.gateway.metric("trunkline_ejections_total", &[]), 1.0);
    scene.agrees(&answers);
}

#[test]
fn a_server_that_fails_its_trial_is_ejected_again() {
    let spots = vec![
        Spot::new("a/sick", Server::failing(503)),
        Spot::new("a/good", Server::named("good")),
    ];
    let pool = "eject: { after: 3, for: 100ms }";
    let scene = Scene::start(spots, &[("a", pool)], "retry: { budget: 100% }");
    let mut answers = Vec::new();
    eventually("two trials have failed", || {
        answers.push(scene.send(&speech()));
        scene
            .gateway
            .metric("trunkline_ejections_total", &[("reason", "failures")])
            >= 3.0
    });
    assert!(answers.iter().all(|answer| answer.status == 200));
    // three in a row, and one for each trial
    assert_eq!(scene.count("a/sick"), 5);
    scene.agrees(&answers);
}

#[test]
fn the_last_server_is_never_ejected() {
    let eject = "eject: { after: 1, max_percent: 100, for: 1h }";
    let alone = vec![Spot::new("a/x", Server::failing(503))];
    let both = vec![
        Spot::new("a/x", Server::failing(503)),
        Spot::new("a/y", Server::failing(503)),
    ];
    for (spots, ejections) in [(alone, 0.0), (both, 1.0)] {
        let scene = Scene::start(spots, &[("a", eject)], "");
        let answers: Vec<Answer> = (0..6).map(|_| scene.send(&speech())).collect();
        for answer in &answers {
            assert_eq!(answer.status, 503);
            assert!(
                answer.text().contains("upstream says 503"),
                "{}",
                answer.text()
            );
            assert_eq!(answer.header("x-should-retry"), Some("false"));
        }
        assert_eq!(
            scene.gateway.metric("trunkline_ejections_total", &[]),
            ejections
        );
        scene.agrees(&answers);
    }
}

#[test]
fn a_request_that_two_servers_refuse_alike_ends_there_and_ejects_nobody() {
    let eject = "eject: { after: 1, max_percent: 100, for: 1h }";
    let whisper = format!("kind: whisper.cpp, {eject}");
    for (names, pool) in [
        (["a/x", "a/y", "a/z", "b/spare"], eject),
        (["a/x", "a/y", "a/z", "b/spare"], &whisper),
        (["a/x", "b/y", "b/z", "c/spare"], eject),
    ] {
        let spots = names.map(|name| Spot::new(name, Server::failing(500)));
        let scene = Scene::start(spots.into(), &[("a", pool)], "retry: { on: [500] }");
        let answers: Vec<Answer> = (0..6).map(|_| scene.send(&speech())).collect();
        for answer in &answers {
            assert_eq!(answer.status, 500);
            assert_eq!(answer.json()["error"]["message"], "upstream says 500");
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            let attempts = answer.header("x-attempts").unwrap();
            assert_eq!(attempts.matches("=500").count(), 2, "{attempts}");
        }
        let asked: usize = names.iter().map(|name| scene.count(name)).sum();
        assert_eq!((asked, scene.count(names[3])), (12, 0), "{pool}");
        let ejections = scene.gateway.metric("trunkline_ejections_total", &[]);
        assert_eq!(ejections, 0.0, "{pool}");
        scene.agrees(&answers);
    }
}

#[test]
fn a_request_that_one_server_refuses_is_answered_by_the_next() {
    let spots = vec![
        Spot::new("a/x", Server::failing(500)),
        Spot::new("a/good", Server::named("good")),
    ];
    let scene = Scene::start(
        spots,
        &[("a", "eject: { after: 1 }")],
        "retry: { on: [500] }",
    );
    let answer = scene.send(&speech());
    served(&answer, "a/good", Some("a/x=500,a/good=200"));
    scene.agrees(&[answer]);
}

// ---- the client's own deadline ----

#[test]
fn another_server_gets_half_of_the_time_that_the_client_gives() {
    let request = speech().header("x-stainless-read-timeout", "2");
    for second in ["a/good", "b/good"] {
        let spots = vec![
            Spot::new("a/stalls", acting(silent)),
            Spot::new(second, Server::named("good")),
        ];
        let scene = Scene::start(spots, &[("a", "eject: { after: 1 }")], "");
        let answer = scene.send(&request);
        let attempts = format!("a/stalls=timeout,{second}=200");
        served(&answer, second, Some(&attempts));
        assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
        let ejections = scene.gateway.metric("trunkline_ejections_total", &[]);
        assert_eq!(
            ejections, 0.0,
            "the client's haste is not the server's fault"
        );
        scene.agrees(&[answer]);
    }
}

#[test]
fn a_client_hears_of_a_failure_before_it_would_give_up_itself() {
    let request = speech().header("x-stainless-read-timeout", "2");
    let scene = Scene::start(vec![Spot::new("a/stalls", acting(silent))], &[], "");
    let answer = scene.send(&request);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "upstream_timeout")
    );
    assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(
        answer.text().contains("x-stainless-read-timeout"),
        "{}",
        answer.text()
    );
    assert_eq!(scene.count("a/stalls"), 1);
    scene.agrees(&[answer]);
}

#[test]
fn who_waits_for_a_model_moves_on_in_time_for_the_client() {
    let request = speech().header("x-stainless-read-timeout", "2");
    for seen_by in ["health: false", PROBED] {
        let spots = vec![
            Spot::new("a/cold", acting(loads)),
            Spot::new("b/good", Server::named("good")),
        ];
        let pool = format!("kind: llama.cpp, warming: wait, {seen_by}");
        let scene = Scene::start(spots, &[("a", &pool)], "");
        if seen_by == PROBED {
            eventually("it is seen loading", || {
                scene.gateway.metric("trunkline_server_warming", &[]) == 1.0
            });
        }
        let answer = scene.send(&request);
        assert_eq!(
            answer.header("x-backend"),
            Some("b/good"),
            "{}",
            answer.text()
        );
        assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
        scene.agrees(&[answer]);
    }
}

#[test]
fn who_waits_for_a_model_hears_in_time_that_there_is_none() {
    let request = speech().header("x-stainless-read-timeout", "2");
    for (seen_by, status) in [("health: false", 504), (PROBED, 503)] {
        let server = acting(loads);
        let pool = format!("kind: llama.cpp, warming: wait, {seen_by}");
        let scene = Scene::start(vec![Spot::new("a/cold", server)], &[("a", &pool)], "");
        if seen_by == PROBED {
            eventually("it is seen loading", || {
                scene.gateway.metric("trunkline_server_warming", &[]) == 1.0
            });
        }
        let answer = scene.send(&request);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
        scene.agrees(&[answer]);
    }
}

#[test]
fn who_waits_for_a_slot_moves_on_in_time_for_the_client() {
    let spots = vec![
        Spot::new("a/busy", acting(silent)).with("slots: 1"),
        // its time has to be enough as well
        Spot::new("b/good", answering_after(Duration::from_millis(400))),
    ];
    let scene = Scene::start(spots, &[("a", "queue: { size: 9, timeout: 60s }")], "");
    let mut first = crate::support::client::connect(scene.gateway.address);
    std::io::Write::write_all(&mut first, &speech().bytes()).unwrap();
    eventually("the slot is taken", || scene.count("a/busy") == 1);
    let answer = scene.send(&speech().header("x-stainless-read-timeout", "2"));
    served(&answer, "b/good", None);
    assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
}

#[test]
fn a_client_that_leaves_a_hedged_request_is_counted_at_both_servers() {
    let spots = vec![
        Spot::new("a/x", acting(silent)),
        Spot::new("a/y", acting(silent)),
    ];
    let scene = Scene::start(spots, &[], "hedge: { after: 50ms }");
    let mut client = crate::support::client::connect(scene.gateway.address);
    std::io::Write::write_all(&mut client, &speech().bytes()).unwrap();
    eventually("both are asked", || {
        scene.count("a/x") + scene.count("a/y") == 2
    });
    drop(client);
    let line = scene.gateway.access_log(1).remove(0);
    assert_eq!(line["termination"], "client_abort");
    assert_eq!(line["attempts"].as_array().unwrap().len(), 2, "{line}");
    for server in ["x", "y"] {
        let cancelled = [("server", server), ("result", "cancelled")];
        let counted = scene.gateway.metric("trunkline_attempts_total", &cancelled);
        assert_eq!(counted, 1.0, "{server}");
    }
}
