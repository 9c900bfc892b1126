//! The real binary, with a configuration of the test's.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Answer, Request, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");

/// One pool of one server, for everything.
pub fn routed_to(server: SocketAddr) -> String {
    format!("pools: {{ a: {{ servers: [\"http://{server}\"] }} }}\nroutes: [{{ pool: a }}]\n")
}

/// A running Trunkline. It is stopped when dropped.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub folder: tempfile::TempDir,
    stderr: Arc<Mutex<String>>,
}

impl Gateway {
    /// Starts it with this configuration, on ports of its own, and waits until it listens.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[])
    }

    #[track_caller]
    pub fn start_with(yaml: &str, env: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), yaml, env)
    }

    /// With the configuration in a folder that holds what it names.
    #[track_caller]
    pub fn start_in(folder: tempfile::TempDir, yaml: &str, env: &[(&str, &str)]) -> Self {
        let config = folder.path().join("trunkline.yaml");
        let mut text = String::new();
        if !yaml.contains("listen:") && !yaml.contains("listeners:") {
            text.push_str("listen: 127.0.0.1:0\n");
        }
        if !yaml.contains("admin:") {
            text.push_str("admin: 127.0.0.1:0\n");
        }
        if !yaml.contains("\nlog:") {
            text.push_str("log: { access: access.log, level: debug, format: json }\n");
        }
        // who counts requests does not want ours; `models.rs` does
        if !yaml.contains("list_models:") {
            text.push_str("list_models: false\n");
        }
        text.push_str(yaml);
        std::fs::write(&config, &text).unwrap();
        let mut command = Command::new(BINARY);
        command
            .arg("--config")
            .arg(&config)
            .envs(env.iter().copied());
        Self::run(command, folder, &text)
    }

    /// Without a configuration: every role is served by stand-ins on most machines.
    #[track_caller]
    pub fn without_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(BINARY);
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("TRUNKLINE_CONFIG");
        Self::run(command, folder, "")
    }

    /// Runs a command that ends up listening.
    #[track_caller]
    pub fn run(mut command: Command, folder: tempfile::TempDir, about: &str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr: Arc<Mutex<String>> = Arc::default();
        let (lines, pipe) = (stderr.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut all = lines.lock().unwrap();
                all.push_str(&line);
                all.push('\n');
            }
        });
        let found = |all: &str, mark: &str| -> Option<SocketAddr> {
            let rest = &all[all.find(mark)? + mark.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            rest[..end].parse().ok()
        };
        let (mut address, mut admin) = (None, None);
        eventually("the proxy listens", || {
            let all = stderr.lock().unwrap().clone();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("it ended with {status}:\n{all}\n{about}");
            }
            address = found(&all, "listening on http://")
                .or_else(|| found(&all, "listening on https://"));
            admin = found(&all, "admin endpoints on http://")
                .or_else(|| found(&all, "admin endpoints on https://"));
            address.is_some() && (admin.is_some() || about.contains("admin: off"))
        });
        let address = address.unwrap();
        Gateway {
            child,
            address,
            admin: admin.unwrap_or(address),
            folder,
            stderr,
        }
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        request.send(self.address)
    }

    /// Sends it from a thread of its own; the answer comes when it comes.
    pub fn send_aside(&self, request: &Request) -> JoinHandle<Answer> {
        let (request, address) = (request.clone(), self.address);
        std::thread::spawn(move || request.send(address))
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    #[track_caller]
    pub fn post(&self, target: &str, body: &str) -> Answer {
        self.send(&Request::json(target, body))
    }

    #[track_caller]
    pub fn ask_admin(&self, target: &str) -> Answer {
        Request::get(target).send(self.admin)
    }

    /// The value of a metric: the sum of the series with this name whose labels hold all of these.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.ask_admin("/metrics").text();
        text.lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                if !rest.starts_with(['{', ' ']) {
                    return None;
                }
                let all = labels
                    .iter()
                    .all(|(n, v)| rest.contains(&format!("{n}=\"{v}\"")));
                all.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
            })
            .sum()
    }

    /// The lines of the access log, once there are at least `count`.
    #[track_caller]
    pub fn access_log(&self, count: usize) -> Vec<serde_json::Value> {
        // one that is being written has no end yet
        let read = || -> Vec<String> {
            let text = std::fs::read_to_string(self.access_log_path()).unwrap_or_default();
            let whole = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            whole.map(str::to_owned).collect()
        };
        eventually(&format!("{count} lines in the access log"), || {
            read().len() >= count
        });
        let lines = read();
        let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        parsed.collect()
    }

    pub fn access_log_path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("trunkline.yaml")
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end; the exit code.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let end = std::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                std::time::Instant::now() < end,
                "it still runs after {limit:?}:\n{}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of the proxy ---\n{}", self.stderr());
        }
    }
}
