//! The embedded default: what runs when there is no file. Boxes that are found, stand-ins for the
//! rest, and a search that goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::serve::Running;
use crate::cli::Run;
use crate::config::{self, Config};
use crate::service::discover::{self, Found, Role, StandInAt};
use crate::service::standin::StandIns;

/// How often boxes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What runs without a file.
pub(super) struct Embedded {
    listen: SocketAddr,
    admin: SocketAddr,
    found: Vec<Found>,
    started: Vec<StandInAt>,
    pub(super) stand_ins: Arc<StandIns>,
}

/// Looks for boxes and starts stand-ins for what is missing.
///
/// # Errors
/// If no port can be had for a stand-in.
pub(super) async fn prepare(options: &Run) -> Result<Embedded, String> {
    let listen = options
        .listen
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 2020)));
    let admin = options
        .admin
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 2021)));
    let mut embedded = Embedded {
        listen,
        admin,
        found: discover::scan(&[listen.port(), admin.port()]).await,
        started: Vec::new(),
        stand_ins: Arc::new(StandIns::default()),
    };
    embedded.fill_in().await?;
    Ok(embedded)
}

impl Embedded {
    /// Starts stand-ins for roles that have nobody.
    async fn fill_in(&mut self) -> Result<(), String> {
        let started = |role: &Role| self.started.iter().any(|s| s.role == *role);
        let missing: Vec<Role> = discover::missing(&self.found)
            .into_iter()
            .filter(|role| !started(role))
            .collect();
        let new = discover::start_stand_ins(&missing, &self.stand_ins).await;
        self.started
            .extend(new.map_err(|e| format!("a stand-in cannot be started: {e}"))?);
        Ok(())
    }

    /// The stand-ins that serve: those for roles that have nobody else.
    fn serving(&self) -> Vec<StandInAt> {
        let missing = discover::missing(&self.found);
        let serving = self.started.iter().filter(|s| missing.contains(&s.role));
        serving
            .map(|s| StandInAt {
                role: s.role,
                name: s.name.clone(),
                address: s.address,
            })
            .collect()
    }

    pub(super) fn is_demo(&self) -> bool {
        !discover::missing(&self.found).is_empty()
    }

    pub(super) fn config(&self) -> Config {
        let text = discover::configuration(
            &self.listen.to_string(),
            &self.admin.to_string(),
            &self.found,
            &self.serving(),
        );
        let (config, problems) = config::read(&text, std::path::Path::new("."), &|_| None);
        config
            .unwrap_or_else(|| panic!("the embedded configuration is valid: {problems:?}\n{text}"))
    }

    /// Says what was found, and what to paste.
    pub(super) fn introduce(&self, address: &str, admin: Option<SocketAddr>) {
        eprintln!("\nNo configuration file: serving what is on this machine.\n");
        for found in &self.found {
            let roles: Vec<&str> = found.roles.iter().map(|role| role.word()).collect();
            eprintln!(
                "  {:<14} {} at {}:{}",
                roles.join(", "),
                found.pool,
                found.host,
                found.port
            );
        }
        for role in discover::missing(&self.found) {
            eprintln!(
                "  {:<14} none found; two stand-ins serve it, demo-{}-1 and -2",
                role.word(),
                role.word()
            );
        }
        if self.is_demo() {
            eprintln!(
                "\nwarning: stand-ins only imitate: tones for speech, echoes for chat (x-trunkline-demo: true)"
            );
        }
        eprintln!(
            "\nTry:\n  curl http://{address}/v1/chat/completions -d '{{\"model\":\"demo-chat\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}'\n  \
             curl http://{address}/v1/audio/speech -d '{{\"model\":\"demo-speech\",\"input\":\"Hello\",\"voice\":\"nova\",\"response_format\":\"wav\"}}' -o hello.wav\n  \
             curl http://{address}/v1/audio/transcriptions -F model=demo-transcription -F file=@hello.wav\n"
        );
        eprintln!("Then point your tools here:\n  export OPENAI_BASE_URL=http://{address}/v1\n");
        if let (Some(admin), Some(first)) = (admin, self.serving().first()) {
            eprintln!(
                "See fallback: stop a stand-in and call again; start it to bring it back:\n  curl -X POST http://{admin}/standins/{}/stop\n",
                first.name
            );
        }
    }

    /// Looks again and again; a box that is started later joins, one that goes is replaced.
    pub(super) async fn keep_looking(mut self, running: Arc<Running>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // somebody wrote a file meanwhile, and had it read
            if running.from_file.load(Relaxed) {
                return;
            }
            let found = discover::scan(&[self.listen.port(), self.admin.port()]).await;
            // a box that is busy may miss one look; its health check knows better
            let gone = self.found.iter().any(|before| !found.contains(before));
            let found = if gone {
                discover::scan(&[self.listen.port(), self.admin.port()]).await
            } else {
                found
            };
            if found == self.found {
                continue;
            }
            let names: Vec<&str> = found.iter().map(|f| f.pool).collect();
            log::info!(
                "boxes on this machine now: {}",
                if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                }
            );
            self.found = found;
            if let Err(message) = self.fill_in().await {
                log::error!("{message}");
                continue;
            }
            running.put_into_service(self.config()).await;
            running.edge.metrics.demo.set(i64::from(self.is_demo()));
        }
    }
}
