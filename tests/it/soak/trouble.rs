//! What happens to the servers and the program meanwhile: faults, reloads, drains, rotated logs.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::Value;

use super::clients::{KEY, LIMITED, Stage};
use super::fake::{Fake, MOODS, Mood};
use crate::support::{Gateway, Request, eventually};

/// All fake servers, by pool.
pub struct Fakes(pub Vec<Fake>);

/// What the configuration takes from the environment.
pub const SECRETS: [(&str, &str); 4] = [
    ("SOAK_SECRET", "a-secret-for-the-soak"),
    ("SOAK_ALL", KEY),
    ("SOAK_OFTEN", LIMITED[0]),
    ("SOAK_MUCH", LIMITED[1]),
];

const NAMES: [&str; 15] = [
    "chat/one",
    "chat/two",
    "chat/three",
    "chat/four",
    "solo/only",
    "speech/one",
    "speech/two",
    "whisper/one",
    "whisper/two",
    "spare/one",
    "spare/two",
    "steady/one",
    "steady/two",
    "live/one",
    "mirror/one",
];

impl Fakes {
    pub fn start(ledger: &std::sync::Arc<super::ledger::Ledger>) -> Self {
        Fakes(NAMES.iter().map(|name| Fake::start(name, ledger)).collect())
    }

    pub fn named(&self, name: &str) -> &Fake {
        self.0.iter().find(|fake| fake.name == name).unwrap()
    }

    fn servers(&self, pool: &str, turn: usize) -> String {
        let of_pool = self
            .0
            .iter()
            .filter(|fake| fake.name.starts_with(&format!("{pool}/")));
        let comes_and_goes = |fake: &&Fake| fake.name != "chat/four" || turn % 3 == 2;
        let servers: Vec<String> = of_pool
            .filter(comes_and_goes)
            .enumerate()
            .map(|(n, fake)| {
                let name = fake.name.split('/').nth(1).unwrap();
                let weight = 1 + (turn + n) % 3;
                format!(
                    "{{ url: 'http://{}', name: {name}, weight: {weight} }}",
                    fake.address
                )
            })
            .collect();
        servers.join(", ")
    }

    fn pools(&self, turn: usize) -> String {
        let pool = |name: &str, more: &str| {
            let servers = self.servers(name, turn);
            format!(
                "  {name}: {{ servers: [{servers}], keepalive: {{ idle: 2s, requests: 90 }}, eject: {{ for: 1s }}, {more} }}\n"
            )
        };
        let sick = "timeouts: { first_byte: 1s, idle: 5s }, health: { path: /health, interval: 500ms, timeout: 1s }";
        // these have no faults: they are only slow where the machine is
        let well =
            "health: { path: /health, interval: 500ms, timeout: 8s }, timeouts: { connect: 8s }";
        let balance = ["random", "least_in_flight"][turn % 2];
        [
            pool("chat", sick),
            pool("solo", sick),
            pool("speech", &format!("{sick}, balance: {balance}")),
            pool(
                "whisper",
                &format!("{sick}, slots: 2, queue: {{ size: 6, timeout: 1s }}"),
            ),
            pool("spare", well),
            pool("steady", well),
            pool("live", well),
            pool("mirror", well),
        ]
        .concat()
    }

    /// The configuration, a little different each time.
    pub fn config(&self, turn: usize) -> String {
        let pools = self.pools(turn);
        let rpm = 1_000_000 + turn;
        format!(
            "listeners: [{{ address: 127.0.0.1:0, h2c: true }}, {{ address: 127.0.0.2:0, tls: {{ cert: cert.pem, key: key.pem }} }}]
admin: 127.0.0.1:0
log: {{ access: access.log, level: info, format: json }}
list_models: false
cache: {{ memory: 2MiB }}
sessions: {{ memory: 1MiB }}
affinity: {{ secret: '${{SOAK_SECRET}}' }}
keys:
  - {{ name: all, key: '${{SOAK_ALL}}' }}
  - {{ name: often, key: '${{SOAK_OFTEN}}', limits: {{ rpm: 120, concurrent: 1 }} }}
  - {{ name: much, key: '${{SOAK_MUCH}}', limits: {{ tpm: 600 }} }}
pools:
{pools}routes:
  - {{ name: chat, match: {{ path: /v1/chat/completions, model: 'alpha*' }}, pool: chat, fallback: [spare], limits: {{ rpm: {rpm} }}, mirror: {{ pool: mirror, share: 10% }} }}
  - {{ name: solo, match: {{ path: /v1/chat/completions, model: 'beta*' }}, pool: solo }}
  - {{ name: memory, match: {{ path: /v1/chat/completions, model: 'gamma*' }}, pool: steady, memory: {{ by: header x-session-id }} }}
  - {{ name: kept, match: {{ path: /v1/audio/speech, model: kept }}, pool: spare, cache: {{ max_object: 256KiB }} }}
  - {{ name: speech, match: {{ path: /v1/audio/speech }}, pool: speech, fallback: [spare], hedge: {{ after: 80ms }} }}
  - {{ name: uploads, match: {{ path: /v1/audio/transcriptions, model: 'whisper*' }}, pool: whisper, max_body: 20MiB }}
  - {{ name: embed, match: {{ path: /v1/embeddings }}, pool: steady }}
  - {{ name: responses, match: {{ path: ['/v1/responses', '/v1/responses/*'] }}, pool: spare }}
  - {{ name: live, match: {{ path: /v1/realtime }}, pool: live }}
"
        )
    }
}

/// Sleeps, but not longer than the rest; says whether it is over.
fn rest(stage: &Stage, time: Duration) -> bool {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end && !stage.over.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    stage.over.load(SeqCst)
}

/// One of these servers after the other goes wrong, in one way after the other. How often.
pub fn faults(stage: &Stage, fakes: &Fakes, of: &[&str], seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(stage.seed.wrapping_add(seed));
    let mut count = 0;
    while !rest(stage, Duration::from_millis(random.u64(300..2000))) {
        let fake = fakes.named(of[random.usize(..of.len())]);
        let mood = MOODS[random.usize(..MOODS.len())];
        match mood {
            Mood::Well => fake.fall(),
            mood => fake.feel(mood),
        }
        rest(stage, Duration::from_millis(random.u64(500..4000)));
        match mood {
            Mood::Well => fake.rise(),
            _ => fake.feel(Mood::Well),
        }
        count += 1;
    }
    count
}

fn order(gateway: &Gateway, stage: &Stage, target: &str) {
    let answer = Request::new("POST", target).send(gateway.admin);
    if answer.status != 200 {
        let what = format!("POST {target}: {} {}", answer.status, answer.text());
        stage.ledger.wrong(what);
    }
}

/// Reloads every few seconds, half of them by SIGHUP; how many.
pub fn reloads(gateway: &Gateway, stage: &Stage, fakes: &Fakes) -> usize {
    let mut turn = 0;
    while !rest(stage, Duration::from_millis(3000)) {
        turn += 1;
        std::fs::write(gateway.config_path(), fakes.config(turn)).unwrap();
        if turn % 2 == 0 {
            order(gateway, stage, "/reload");
            continue;
        }
        let done = gateway.metric("trunkline_config_reloads_total", &[]);
        gateway.signal("HUP");
        eventually("it is reloaded", || {
            gateway.metric("trunkline_config_reloads_total", &[]) > done
        });
    }
    turn
}

/// Servers are drained and undrained, for a while or until they are told; how often.
pub fn drains(gateway: &Gateway, stage: &Stage) -> usize {
    let mut random = fastrand::Rng::with_seed(stage.seed.wrapping_add(77));
    let mut count = 0;
    while !rest(stage, Duration::from_millis(random.u64(500..3000))) {
        let server = ["steady/one", "steady/two", "chat/one", "spare/two"][random.usize(..4)];
        match random.bool() {
            true => order(gateway, stage, &format!("/drain/{server}?for=300ms")),
            false => {
                order(gateway, stage, &format!("/drain/{server}"));
                rest(stage, Duration::from_millis(random.u64(100..2000)));
                order(gateway, stage, &format!("/undrain/{server}"));
            }
        }
        count += 1;
    }
    count
}

/// Puts the access log aside, opens it anew, and joins what was put aside the time before.
pub fn rotate(gateway: &Gateway, stage: &Stage) {
    let current = gateway.access_log_path();
    let aside = current.with_extension("aside");
    if aside.exists() {
        let text = std::fs::read_to_string(&aside).unwrap();
        let lines = text.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| {
                stage.ledger.wrong(format!("{e} in the log: {line}"));
                Value::Null
            })
        });
        let lines: Vec<Value> = lines.filter(|line| !line.is_null()).collect();
        std::fs::remove_file(&aside).unwrap();
        stage.ledger.settle(lines);
    }
    std::fs::rename(&current, &aside).unwrap();
    order(gateway, stage, "/logs/reopen");
}

/// Does so every now and then.
pub fn rotations(gateway: &Gateway, stage: &Stage, every: Duration) {
    while !rest(stage, every) {
        rotate(gateway, stage);
    }
}
