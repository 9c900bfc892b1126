//! Load against our own fake servers.

use std::sync::mpsc;

use super::*;
use crate::serve::{self, Answer, Settings};

/// The port of a server that lives for some seconds; it answers nobody from `stall.0` to `stall.1`
/// nanoseconds after its start.
fn server(answer: Answer, stall: Option<(u64, u64)>) -> u16 {
    let (tell, port) = mpsc::channel();
    let settings = Settings {
        answer,
        addresses: vec!["127.0.0.1:0".parse().unwrap()],
        name: None,
        stall,
        lifetime: 20 * SECOND,
    };
    std::thread::spawn(move || serve::run(settings, |ports| tell.send(ports[0]).unwrap()));
    port.recv().unwrap()
}

fn load(port: u16, pace: Pace, seconds: u64) -> Tally {
    let plan = Plan {
        target: ([127, 0, 0, 1], port).into(),
        pace,
        length: seconds * SECOND,
        timeout: 5 * SECOND,
        slice: SECOND,
    };
    let request = Request::new("POST", "/v1/chat/completions", &[], &[b'x'; 1000], 1);
    run(&plan, request).unwrap()
}

const OPEN: Pace = Pace::Open {
    rate: 200.0,
    connections: 500,
};

#[test]
fn every_request_that_was_due_while_the_server_stood_still_shows_it() {
    let port = server(Answer::Chat { delay: 0 }, Some((SECOND, 2 * SECOND)));
    let tally = load(port, OPEN, 3);
    assert_eq!(tally.failures, Failures::default());
    assert_eq!(tally.latency.count(), 600);
    // due evenly over a second in which nothing was answered: a tenth of them waited over 900 ms,
    // and half of them over 500 ms
    let late = |than: f64| {
        let share = (0..=1000).find(|n| tally.latency.quantile(f64::from(*n) / 1000.0) > than);
        600.0 * (1.0 - f64::from(share.unwrap_or(1000)) / 1000.0)
    };
    assert!(late(900_000.0) > 15.0, "{}", tally.json(SECOND, true));
    assert!(late(500_000.0) > 90.0, "{}", tally.json(SECOND, true));
    assert!(late(100_000.0) > 170.0, "{}", tally.json(SECOND, true));
}

#[test]
fn a_closed_loop_hides_it_which_is_why_there_is_an_open_one() {
    let port = server(Answer::Chat { delay: 0 }, Some((SECOND, 2 * SECOND)));
    let tally = load(port, Pace::Closed { connections: 1 }, 3);
    assert!(tally.latency.quantile(0.99) < 100_000.0);
    assert!(tally.latency.quantile(1.0) > 900_000.0);
}

#[test]
fn a_rate_is_kept() {
    let tally = load(server(Answer::Chat { delay: 0 }, None), OPEN, 2);
    assert_eq!(tally.latency.count(), 400);
    assert_eq!(tally.slices.len(), 2);
    assert_eq!(tally.slices[0].latency.count(), 200);
}

#[test]
fn nobody_there_is_counted_and_the_run_goes_on() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let tally = load(port, OPEN, 1);
    assert_eq!((tally.latency.count(), tally.failures.all()), (0, 200));
    assert_eq!(tally.failures.connect, 200);
    let tally = load(port, Pace::Closed { connections: 2 }, 1);
    assert!(tally.failures.connect > 10 && tally.failures.connect < 400);
}

#[test]
fn the_first_byte_of_speech_is_told_apart_from_its_end() {
    let answer = Answer::Speech {
        delay: 50 * MILLISECOND,
        bytes: 100_000,
    };
    let tally = load(server(answer, None), Pace::Closed { connections: 4 }, 1);
    assert_eq!(tally.failures, Failures::default());
    assert_eq!(tally.first_byte.count(), tally.latency.count());
    assert!(tally.first_byte.quantile(0.0) >= 50_000.0);
}
