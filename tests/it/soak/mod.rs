//! The soak: mixed traffic with faults, reloads, drains and clients that leave. Afterwards memory
//! and descriptors are what they were, no slot is taken, and clients, servers, log and metrics tell
//! of the same requests. `make soak` runs it for an hour and prints a table.

mod acts;
mod after;
mod answers;
mod caller;
mod clients;
mod fake;
mod kinds;
mod ledger;
mod tally;
mod trouble;
mod two;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use after::After;
use clients::{Client, Stage};
use ledger::Ledger;
use trouble::Fakes;
use watch::Sample;

use crate::support::tls::Pair;
use crate::support::{Gateway, eventually};

/// Clients, and those among them that speak HTTP/2; half of them in a short turn.
const CLIENTS: u64 = 52;
const OF_HTTP2: u64 = 4;
/// A turn beside other tests.
const SHORT: Duration = Duration::from_secs(20);

/// How often something was done to servers and program.
#[derive(Debug)]
struct Done {
    faults: usize,
    reloads: usize,
    drains: usize,
}

fn duration() -> Duration {
    let minutes = std::env::var("TRUNKLINE_SOAK_MINUTES").ok();
    let minutes = minutes.and_then(|text| text.parse::<f64>().ok());
    minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(60.0 * minutes))
}

/// The address of the listener with TLS.
fn secure(gateway: &Gateway) -> SocketAddr {
    let said = gateway.stderr();
    let rest = said.split("listening on https://").nth(1).unwrap();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    rest[..end.unwrap()].parse().unwrap()
}

#[test]
fn mixed_traffic_with_faults_reloads_and_cancels_leaves_nothing_behind() {
    let time = duration();
    let ledger: Arc<Ledger> = Arc::default();
    let fakes = Fakes::start(&ledger);
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    pair.write(folder.path());
    let gateway = Gateway::start_in(folder, &fakes.config(0), &trouble::SECRETS);
    let seed = std::env::var("TRUNKLINE_SOAK_SEED").ok();
    let stage = Stage {
        plain: gateway.address,
        secure: secure(&gateway),
        trust: pair.client(rustls::ALL_VERSIONS, &[]),
        trust2: pair.client(rustls::ALL_VERSIONS, &["h2"]),
        ledger,
        over: false.into(),
        unnamed: 0.into(),
        limited: 0.into(),
        late: 0.into(),
        connections: 0.into(),
        seed: seed
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| fastrand::u64(..1_000_000)),
    };
    println!("seed {}", stage.seed);
    eventually("every server was probed", || {
        let comes_later = |name: &str| name == "chat/four";
        let mut fakes = fakes.0.iter();
        fakes.all(|fake| fake.probes() > 0 || comes_later(fake.name))
    });
    let before = watch::descriptors(gateway.pid());
    let (samples, done) = soak(&gateway, &stage, &fakes, time);
    let all = After {
        gateway: &gateway,
        stage: &stage,
        fakes: &fakes,
        samples: &samples,
        done: &done,
        descriptors: before,
    };
    all.check();
}

/// All of it at once, for so long.
fn soak(gateway: &Gateway, stage: &Stage, fakes: &Fakes, time: Duration) -> (Vec<Sample>, Done) {
    let begun = Instant::now();
    let every = (time / 5).clamp(Duration::from_secs(2), Duration::from_secs(60));
    let share = if time <= SHORT { 2 } else { 1 };
    std::thread::scope(|scope| {
        for n in 0..(CLIENTS - OF_HTTP2) / share {
            scope.spawn(move || Client::new(stage, n).run());
        }
        for n in 0..OF_HTTP2 / share {
            scope.spawn(move || two::run(stage, n));
        }
        let some = scope.spawn(|| {
            trouble::faults(
                stage,
                fakes,
                &["chat/one", "chat/two", "chat/three", "chat/four"],
                1,
            )
        });
        let others = scope.spawn(|| {
            trouble::faults(
                stage,
                fakes,
                &[
                    "solo/only",
                    "speech/one",
                    "speech/two",
                    "whisper/one",
                    "whisper/two",
                ],
                2,
            )
        });
        let reloads = scope.spawn(|| trouble::reloads(gateway, stage, fakes));
        let drains = scope.spawn(|| trouble::drains(gateway, stage));
        scope.spawn(|| trouble::rotations(gateway, stage, every));
        scope.spawn(|| watch::pulse(stage));
        let watching = scope.spawn(|| watch::watch(gateway, stage, begun, every));
        while begun.elapsed() < time {
            std::thread::sleep(Duration::from_millis(50));
        }
        stage.over.store(true, std::sync::atomic::Ordering::SeqCst);
        let done = Done {
            faults: some.join().unwrap() + others.join().unwrap(),
            reloads: reloads.join().unwrap(),
            drains: drains.join().unwrap(),
        };
        (watching.join().unwrap(), done)
    })
}
