//! Alerts, recording rules and dashboard against a real Prometheus that scrapes the real binary.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::tools::{program, read, repository, succeeds};
use crate::support::server::Wire;
use crate::support::{Gateway, Request, Server, eventually, tls::Pair};

#[test]
fn promtool_takes_the_rules_and_each_alert_fires_and_stays_silent() {
    for arguments in [
        ["check", "rules", "alerts.yaml", "recording.yaml"].as_slice(),
        &["test", "rules", "alerts_test.yaml"],
    ] {
        let Some(mut promtool) = program("promtool") else {
            return;
        };
        succeeds(
            promtool
                .args(arguments)
                .current_dir(repository("deploy/prometheus")),
        );
    }
}

#[test]
fn every_alert_is_tested_both_ways_and_says_what_to_do() {
    let (tests, guide) = (
        read("deploy/prometheus/alerts_test.yaml"),
        read("docs/operating.md"),
    );
    let anchors: BTreeSet<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|title| title.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.replace(' ', "-").replace(['`', ','], ""))
        .collect();
    for rule in rules("deploy/prometheus/alerts.yaml") {
        let name = rule["alert"].as_str().unwrap();
        let fires = format!("labels: 'ALERTS{{alertname=\"{name}\"");
        assert!(tests.contains(&fires), "{name} never fires");
        let silent = |line: &&str| line.contains(&format!("\"{name}\"")) && line.contains("[]");
        assert!(
            tests.lines().any(|line| silent(&line)),
            "{name} is never silent"
        );
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["page", "ticket"].contains(&severity), "{name}");
        assert!(rule["annotations"]["summary"].as_str().is_some(), "{name}");
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap();
        let (file, anchor) = runbook.split_once('#').unwrap();
        assert!(file.ends_with("docs/operating.md"), "{name}");
        assert!(
            anchors.contains(anchor),
            "{name}: no section {anchor} in {anchors:?}"
        );
        assert!(guide.contains(name), "the guide does not name {name}");
    }
}

#[test]
fn the_prometheus_of_compose_takes_its_file() {
    let Some(mut promtool) = program("promtool") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    for file in ["alerts.yaml", "recording.yaml"] {
        let text = read(&format!("deploy/prometheus/{file}"));
        std::fs::write(place.path().join(file), text).unwrap();
    }
    let token = place.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let text = read("deploy/compose/prometheus.yaml");
    let text = text.replace("/run/secrets/admin_token", token.to_str().unwrap());
    let path = place.path().join("prometheus.yaml");
    std::fs::write(&path, text).unwrap();
    succeeds(promtool.args(["check", "config"]).arg(path));
}

fn rules(file: &str) -> Vec<serde_yaml::Value> {
    let file: serde_yaml::Value = serde_yaml::from_str(&read(file)).unwrap();
    let groups = file["groups"].as_sequence().unwrap();
    let rules = groups
        .iter()
        .filter_map(|group| group["rules"].as_sequence());
    rules.flatten().cloned().collect()
}

/// The expressions and queries of the dashboard.
fn queries() -> (Vec<String>, Vec<String>) {
    fn collect(value: &serde_json::Value, key: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (name, value) in map {
                    match value.as_str() {
                        Some(text) if name == key => found.push(text.to_owned()),
                        _ => collect(value, key, found),
                    }
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, key, found)),
            _ => {}
        }
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/trunkline.json")).unwrap();
    let (mut expressions, mut variables) = (Vec::new(), Vec::new());
    collect(&dashboard, "expr", &mut expressions);
    collect(&dashboard, "definition", &mut variables);
    (expressions, variables)
}

/// With Grafana's variables filled in.
fn filled_in(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "1m");
    for variable in ["$job", "$instance", "$route", "$pool", "$server"] {
        text = text.replace(variable, ".*");
    }
    assert!(!text.contains('$'), "{text}");
    text
}

/// The names of metrics in an expression; recorded ones have a colon.
fn names(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| {
            let metric = word.starts_with("trunkline_") || word.starts_with("process_");
            metric || word.contains(":trunkline_") || word.starts_with("trunkline:")
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_dashboard_is_one_that_grafana_imports() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/trunkline.json")).unwrap();
    assert_eq!(dashboard["uid"], "trunkline");
    let version = dashboard["schemaVersion"].as_u64().unwrap();
    assert!((39..=41).contains(&version));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{}", panel["title"]);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
        }
    }
}

/// A Prometheus with our rules that scrapes one target. It ends when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Option<Self> {
        let mut command = program("prometheus")?;
        let folder = tempfile::tempdir().unwrap();
        // free a moment ago
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let rules = repository("deploy/prometheus");
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: ['{0}/alerts.yaml', '{0}/recording.yaml']\n\
             scrape_configs: [{{ job_name: trunkline, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        let path = folder.path().join("prometheus.yaml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Prometheus {
            child,
            address,
            folder,
        };
        eventually("Prometheus is ready", || {
            std::net::TcpStream::connect(address).is_ok()
                && Request::get("/-/ready").send(address).status == 200
        });
        Some(prometheus)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The answer to a query, or why there is none.
    fn ask(&self, query: &str) -> Result<Vec<serde_json::Value>, String> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = Request::get(&format!("/api/v1/query?query={encoded}")).send(self.address);
        let answer = answer.json();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"]
                .as_array()
                .cloned()
                .unwrap_or_default()),
            _ => Err(format!("{query}: {}", answer["error"])),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "{}",
                std::fs::read_to_string(self.log()).unwrap_or_default()
            );
        }
    }
}

/// A gateway that has done something of everything it counts.
fn busy_gateway() -> (Gateway, Vec<Server>) {
    let answer =
        |wire: &mut Wire| wire.json(r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}}"#);
    let servers = vec![
        Server::fake(move |_, wire| {
            answer(wire);
            true
        }),
        Server::named("leaves"),
    ];
    let (good, leaving) = (servers[0].url(), servers[1].url());
    let (dead, deaf) = (Server::refused(), Server::refused());
    let folder = tempfile::tempdir().unwrap();
    Pair::new().write(folder.path());
    let yaml = format!(
        r#"
listeners:
  - {{ address: "127.0.0.1:0" }}
  - {{ address: "127.0.0.1:0", tls: {{ cert: cert.pem, key: key.pem }} }}
pools:
  dead: {{ servers: [{{ url: "http://{dead}", name: a }}, {{ url: "http://{deaf}", name: b }}], health: false, eject: {{ after: 1 }} }}
  kokoro: {{ kind: kokoro, servers: ["{good}"], slots: 2, health: {{ path: /health, interval: 50ms }} }}
  leaving: {{ servers: ["{leaving}"], health: {{ tcp: true, interval: 50ms, fall: 1 }} }}
routes:
  - {{ name: speech, match: {{ path: "/v1/audio/speech" }}, pool: dead, fallback: [kokoro], retry: {{ budget: 20% }} }}
  - {{ name: rest, pool: leaving, fallback: [kokoro] }}
"#
    );
    let gateway = Gateway::start_in(folder, &yaml, &[]);
    for _ in 0..3 {
        let speech = r#"{"model":"kokoro","input":"Hello","voice":"nova"}"#;
        assert_eq!(gateway.post("/v1/audio/speech", speech).status, 200);
        let chat = r#"{"model":"m","messages":[]}"#;
        assert_eq!(gateway.post("/v1/chat/completions", chat).status, 200);
    }
    servers[1].kill();
    eventually("the server that left is down", || {
        gateway.metric("trunkline_server_transitions_total", &[("to", "down")]) > 0.0
    });
    (gateway, servers)
}

#[test]
fn a_real_prometheus_finds_every_metric_that_rules_and_dashboard_name() {
    let (gateway, _servers) = busy_gateway();
    check_exposition(&gateway);
    let Some(prometheus) = Prometheus::start(gateway.admin) else {
        return;
    };
    eventually("two scrapes and an evaluation", || {
        let recorded = prometheus.ask("count_over_time(route:trunkline_requests:rate5m[1m]) > 1");
        recorded.is_ok_and(|found| !found.is_empty())
    });
    let found: BTreeSet<String> = prometheus
        .ask(r#"count by (__name__) ({__name__=~".+"})"#)
        .unwrap()
        .iter()
        .map(|series| series["metric"]["__name__"].as_str().unwrap().to_owned())
        .collect();
    let mut recorded = BTreeSet::new();
    let mut named = BTreeSet::new();
    for rule in rules("deploy/prometheus/recording.yaml") {
        recorded.insert(rule["record"].as_str().unwrap().to_owned());
        named.extend(names(rule["expr"].as_str().unwrap()));
    }
    for rule in rules("deploy/prometheus/alerts.yaml") {
        named.extend(names(rule["expr"].as_str().unwrap()));
    }
    let (expressions, variables) = queries();
    named.extend(
        expressions
            .iter()
            .chain(&variables)
            .flat_map(|text| names(text)),
    );
    assert!(named.len() > 50, "{named:?}");
    let missing: Vec<&String> = named
        .iter()
        .filter(|name| !found.contains(*name) && !recorded.contains(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "not scraped and not recorded: {missing:?}"
    );

    let refused: Vec<String> = expressions
        .iter()
        .filter_map(|expression| prometheus.ask(&filled_in(expression)).err())
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    rules_are_well(&prometheus);
}

/// No rule failed on what a real program says.
#[track_caller]
fn rules_are_well(prometheus: &Prometheus) {
    let answer = Request::get("/api/v1/rules")
        .send(prometheus.address)
        .json();
    let groups = answer["data"]["groups"].as_array().unwrap().clone();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let ill: Vec<_> = rules
        .filter(|rule| !["ok", "unknown"].contains(&rule["health"].as_str().unwrap()))
        .map(|rule| format!("{}: {}", rule["name"], rule["lastError"]))
        .collect();
    assert!(ill.is_empty(), "{ill:#?}");
}

/// Names, help texts and format, as Prometheus wants them.
#[track_caller]
fn check_exposition(gateway: &Gateway) {
    let Some(mut promtool) = program("promtool") else {
        return;
    };
    let path: &Path = &gateway.folder.path().join("metrics");
    std::fs::write(path, gateway.ask_admin("/metrics").text()).unwrap();
    let file = std::fs::File::open(path).unwrap();
    succeeds(promtool.args(["check", "metrics"]).stdin(file));
}
