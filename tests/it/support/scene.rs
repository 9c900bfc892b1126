//! Fake servers behind a gateway, and the check that every account of what happened is the same:
//! that of the clients, of the access log, of the metrics, and of the servers themselves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Answer, BlackHole, Gateway, Place, Request, Seen, Server, eventually};

/// Where requests may be sent to: a place in the configuration, and who stands there.
pub struct Spot {
    /// `pool/server`
    name: &'static str,
    url: String,
    more: String,
    server: Option<Server>,
}

/// Pools in the order of their spots, each the fallback of the one before.
pub struct Scene {
    pub gateway: Gateway,
    spots: Vec<Spot>,
}

impl Spot {
    pub fn new(name: &'static str, server: Server) -> Self {
        Spot {
            url: server.url(),
            server: Some(server),
            ..Self::nobody(name, String::new())
        }
    }

    /// Where nobody stands who could count.
    fn nobody(name: &'static str, url: String) -> Self {
        Spot {
            name,
            url,
            more: String::new(),
            server: None,
        }
    }

    pub fn hole(name: &'static str, hole: &BlackHole) -> Self {
        Self::nobody(name, hole.url())
    }

    pub fn place(name: &'static str, place: &Place) -> Self {
        Self::nobody(name, place.url())
    }

    /// With further settings of the server.
    pub fn with(mut self, settings: &str) -> Self {
        self.more = format!(", {settings}");
        self
    }

    fn pool(&self) -> &'static str {
        self.name.split('/').next().unwrap()
    }

    fn server_name(&self) -> &'static str {
        self.name.split('/').nth(1).unwrap()
    }
}

impl Scene {
    /// `pools`: settings by the name of the pool; servers are not probed unless these say so.
    #[track_caller]
    pub fn start(spots: Vec<Spot>, pools: &[(&str, &str)], route: &str) -> Self {
        let mut names: Vec<&str> = spots.iter().map(Spot::pool).collect();
        names.dedup();
        let mut yaml = String::from("pools:\n");
        for name in &names {
            let servers: Vec<String> = spots
                .iter()
                .filter(|spot| spot.pool() == *name)
                .map(|s| {
                    format!(
                        "{{ url: '{}', name: {}{} }}",
                        s.url,
                        s.server_name(),
                        s.more
                    )
                })
                .collect();
            let settings = pools.iter().find(|(pool, _)| pool == name);
            let settings = settings.map_or("", |(_, settings)| settings);
            yaml.push_str(&format!("  {name}: {{ servers: [{}]", servers.join(", ")));
            if !settings.is_empty() {
                yaml.push_str(&format!(", {settings}"));
            }
            if !settings.contains("health:") {
                yaml.push_str(", health: false");
            }
            yaml.push_str(" }\n");
        }
        let fallback = names[1..].join(", ");
        yaml.push_str(&format!(
            "routes: [{{ name: r, pool: {}, fallback: [{fallback}], {route} }}]\n",
            names[0]
        ));
        Scene {
            gateway: Gateway::start(&yaml),
            spots,
        }
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        self.gateway.send(request)
    }

    /// How many requests of clients a server has seen.
    #[track_caller]
    pub fn count(&self, name: &str) -> usize {
        requests(self.server(name))
    }

    /// All that a server has seen.
    #[track_caller]
    pub fn seen(&self, name: &str) -> Vec<Seen> {
        self.server(name).seen()
    }

    #[track_caller]
    fn server(&self, name: &str) -> &Server {
        let spot = self.spots.iter().find(|spot| spot.name == name);
        spot.and_then(|spot| spot.server.as_ref()).unwrap()
    }

    /// These are the answers to all requests so far, in any order, and every account of them is the
    /// same.
    #[track_caller]
    pub fn agrees(&self, answers: &[Answer]) {
        let log = self.gateway.access_log(answers.len());
        assert_eq!(log.len(), answers.len(), "one line a request");
        for answer in answers {
            let id = answer.header("x-request-id").unwrap();
            let line = log.iter().find(|line| line["request_id"] == id);
            as_logged(answer, line.unwrap_or_else(|| panic!("{id} is not logged")));
        }
        for spot in &self.spots {
            self.attempts_agree(spot, &log);
        }
        self.counts_agree("trunkline_requests_total", &log, |line| {
            let pool = line["pool"].as_str().filter(|_| line["local"].is_null());
            let pool = pool.unwrap_or("local");
            format!("pool={pool} code={}", line["status"])
        });
        self.counts_agree("trunkline_terminations_total", &log, |line| {
            format!("reason={}", line["termination"].as_str().unwrap())
        });
        let local: Vec<Value> = log
            .iter()
            .filter(|line| line["local"].is_string())
            .cloned()
            .collect();
        self.counts_agree("trunkline_local_replies_total", &local, |line| {
            format!("code={}", line["local"].as_str().unwrap())
        });
        let further: usize = log
            .iter()
            .map(|line| attempts(line).len().saturating_sub(1))
            .sum();
        let moves = self.gateway.metric("trunkline_retries_total", &[])
            + self.gateway.metric("trunkline_fallbacks_total", &[])
            - self
                .gateway
                .metric("trunkline_fallbacks_total", &[("reason", "unavailable")]);
        assert_eq!(moves, further as f64, "every attempt behind the first");
        for gauge in [
            "trunkline_upstream_in_flight",
            "trunkline_requests_in_flight",
        ] {
            eventually(gauge, || self.gateway.metric(gauge, &[]) == 0.0);
        }
    }

    /// Log, metrics and server know of the same attempts.
    #[track_caller]
    fn attempts_agree(&self, spot: &Spot, log: &[Value]) {
        let prefix = format!("{}=", spot.name);
        let results: Vec<String> = log
            .iter()
            .flat_map(attempts)
            .filter_map(|attempt| attempt.strip_prefix(&prefix).map(str::to_owned))
            .collect();
        let counted = self.gateway.metric(
            "trunkline_attempts_total",
            &[("pool", spot.pool()), ("server", spot.server_name())],
        );
        assert_eq!(counted, results.len() as f64, "{}: {results:?}", spot.name);
        let arrived = results
            .iter()
            .filter(|result| !result.starts_with("connect_"))
            .count();
        if let Some(server) = &spot.server {
            assert_eq!(arrived, requests(server), "{}: {results:?}", spot.name);
        }
    }

    /// A metric has as many of each kind, in the form `label=value label=value`, as the log.
    #[track_caller]
    fn counts_agree(&self, metric: &str, log: &[Value], kind: impl Fn(&Value) -> String) {
        let mut kinds = BTreeMap::new();
        for line in log {
            *kinds.entry(kind(line)).or_insert(0) += 1;
        }
        for (kind, count) in kinds {
            let labels: Vec<(&str, &str)> = kind
                .split(' ')
                .map(|l| l.split_once('=').unwrap())
                .collect();
            assert_eq!(
                self.gateway.metric(metric, &labels),
                f64::from(count),
                "{kind}"
            );
        }
        assert_eq!(
            self.gateway.metric(metric, &[]),
            log.len() as f64,
            "{metric}"
        );
    }
}

/// What of a server's requests came from clients: not the probes, nor orders to load a model.
fn requests(server: &Server) -> usize {
    let seen = server.seen();
    let own = |target: &str| target.starts_with("/v1/") || target == "/inference";
    seen.iter().filter(|seen| own(&seen.target)).count()
}

fn attempts(line: &Value) -> Vec<String> {
    let all = line["attempts"].as_array().unwrap();
    all.iter().map(|a| a.as_str().unwrap().to_owned()).collect()
}

/// The line tells what the client saw.
#[track_caller]
fn as_logged(answer: &Answer, line: &Value) {
    assert_eq!(line["status"], answer.status, "{line}");
    let backend = match (&line["local"], &line["pool"], &line["server"]) {
        (Value::Null, Value::String(pool), Value::String(server)) => format!("{pool}/{server}"),
        _ => "local".to_owned(),
    };
    assert_eq!(answer.header("x-backend"), Some(backend.as_str()), "{line}");
    let attempts = attempts(line);
    let told = (attempts.len() > 1).then(|| attempts.join(","));
    assert_eq!(answer.header("x-attempts"), told.as_deref(), "{line}");
    if answer.whole {
        assert_eq!(line["bytes_out"], answer.body.len(), "{line}");
    }
}
