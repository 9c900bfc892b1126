//! Three Kokoro boxes under 200 requests in flight, of which one is killed and one falls silent:
//! nobody who listens hears it. `make failover` runs it for a minute and prints the table.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::connect;
use crate::support::{Gateway, Request, Server, eventually};

const IN_FLIGHT: usize = 200;
const PHASES: [&str; 3] = ["before", "during", "after"];

/// What all boxes and clients look at.
#[derive(Default)]
struct Stage {
    silent: AtomicBool,
    phase: AtomicU8,
    over: AtomicBool,
    /// Answers given by the boxes.
    answered: AtomicUsize,
    /// Phase, duration and server of each answer.
    answers: Mutex<Vec<(usize, Duration, String)>>,
    failures: Mutex<Vec<String>>,
}

/// A box that speaks after some 50 ms, in chunks, and can fall silent.
fn kokoro(listener: TcpListener, stage: &Arc<Stage>, may_fall_silent: bool) -> Server {
    let stage = stage.clone();
    Server::on(listener, move |seen, wire| {
        while may_fall_silent && stage.silent.load(SeqCst) {
            // a Mac asleep: it took the request, and says nothing
            std::thread::sleep(Duration::from_millis(20));
            if stage.over.load(SeqCst) || !stage.silent.load(SeqCst) {
                return false;
            }
        }
        if seen.target == "/health" {
            wire.json(r#"{"status":"healthy"}"#);
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
        wire.raw("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n8\r\nspeaking\r\n0\r\n\r\n");
        stage.answered.fetch_add(1, SeqCst);
        true
    })
}

fn listener(at: SocketAddr) -> TcpListener {
    let mut bound = None;
    eventually("the address is free again", || {
        bound = TcpListener::bind(at).ok();
        bound.is_some()
    });
    bound.unwrap()
}

/// Asks again and again until it is over.
fn client(gateway: SocketAddr, stage: &Stage) {
    let request = Request::json(
        "/v1/audio/speech",
        r#"{"model":"tts-1","input":"hello there","voice":"af_sky"}"#,
    );
    let mut stream = connect(gateway);
    while !stage.over.load(SeqCst) {
        let phase = usize::from(stage.phase.load(SeqCst));
        let answer = request.send_on(&mut stream);
        let good = answer.status == 200 && answer.whole && answer.body == b"speaking";
        if !good {
            let what = format!("{} {} {}", PHASES[phase], answer.status, answer.text());
            stage.failures.lock().unwrap().push(what);
            return;
        }
        let server = answer.header("x-backend").unwrap_or_default().to_owned();
        let mut answers = stage.answers.lock().unwrap();
        answers.push((phase, answer.took, server));
    }
}

fn table(answers: &[(usize, Duration, String)]) -> String {
    let mut out = String::from("phase    requests      p50      p99      max\n");
    for (n, phase) in PHASES.iter().enumerate() {
        let mut times: Vec<f64> = answers
            .iter()
            .filter(|(p, _, _)| *p == n)
            .map(|(_, took, _)| took.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        out.push_str(&format!(
            "{phase:<8} {:>8} {:>5.0} ms {:>5.0} ms {:>5.0} ms\n",
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        ));
    }
    out
}

#[test]
fn a_killed_box_and_a_silent_one_are_not_heard_under_load() {
    let seconds: u64 = std::env::var("TRUNKLINE_FAILOVER_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(9);
    let phase = Duration::from_secs(seconds) / 3;
    let stage = Arc::new(Stage::default());
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let steady = kokoro(bind(), &stage, false);
    let sleepy = kokoro(bind(), &stage, true);
    let mut mortal = kokoro(bind(), &stage, false);
    let gateway = Gateway::start(&format!(
        "pools:
  kokoro:
    kind: kokoro
    servers:
      - {{ url: 'http://{}/v1', name: steady }}
      - {{ url: 'http://{}/v1', name: sleepy }}
      - {{ url: 'http://{}/v1', name: mortal }}
    health: {{ interval: 500ms, timeout: 1s }}
    timeouts: {{ first_byte: 1s }}
    eject: {{ for: 2s }}
routes: [{{ name: speech, pool: kokoro }}]",
        steady.address, sleepy.address, mortal.address
    ));
    std::thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| client(gateway.address, &stage));
        }
        std::thread::sleep(phase);
        stage.phase.store(1, SeqCst);
        stage.silent.store(true, SeqCst);
        mortal.kill();
        std::thread::sleep(phase);
        stage.phase.store(2, SeqCst);
        stage.silent.store(false, SeqCst);
        mortal = kokoro(listener(mortal.address), &stage, false);
        std::thread::sleep(phase);
        stage.over.store(true, SeqCst);
    });
    let failures = stage.failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} failed: {:?}",
        failures.len(),
        failures.first()
    );
    let answers = stage.answers.lock().unwrap();
    println!("{}", table(&answers));
    agrees(&gateway, &stage, &answers);
    // both serve again
    for name in ["kokoro/sleepy", "kokoro/mortal"] {
        let back = answers
            .iter()
            .any(|(p, _, server)| *p == 2 && server == name);
        assert!(back, "{name} did not come back");
    }
}

/// Metrics, log, clients and boxes tell of the same number of answers.
fn agrees(gateway: &Gateway, stage: &Stage, answers: &[(usize, Duration, String)]) {
    let count = answers.len();
    assert_eq!(gateway.access_log(count).len(), count);
    let good = [("route", "speech"), ("code", "200")];
    assert_eq!(
        gateway.metric("trunkline_requests_total", &good),
        count as f64
    );
    let ok = gateway.metric("trunkline_attempts_total", &[("result", "ok")]);
    assert_eq!(ok, count as f64);
    // a box may have answered into a connection that was just killed
    assert!(stage.answered.load(SeqCst) >= count);
    assert_eq!(gateway.metric("trunkline_upstream_in_flight", &[]), 0.0);
}
