//! Asks the servers, again and again, which models and voices they have.
//!
//! Nothing that is asked costs a token. Who is asked, and whose answers count, `catalogue` decides;
//! here is when, how, and how much of an answer is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, OkOrErr, Result};
use tokio::task::JoinSet;

use super::probe::{own_head, send};
use crate::catalogue::{self, Wants};
use crate::config::kind::Dialect;
use crate::config::{PoolId, Server};
use crate::dialect::{Expected, Form, Stamp, ollama};
use crate::gateway::Gateway;
use crate::inspect::listing;
use crate::pool::{Pool, Report};
use crate::proxy::Edge;
use crate::proxy::peer::PeerTemplate;
use crate::transform::path;

/// How often it is looked whose time has come: so soon a reload, or a server that comes up, shows.
const TICK: Duration = Duration::from_secs(1);
/// How long a server may take to answer: a Kokoro that speaks does nothing else.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 1024 * 1024;
/// After so many ticks everything is listed anew, as lists grow old without a word.
const ANEW: u32 = 10;

/// Asks for as long as the program runs.
pub(crate) async fn keep_asking(edge: Arc<Edge>) {
    let mut asking = JoinSet::new();
    let mut listed: Option<Instant> = None;
    loop {
        let snapshot = edge.snapshot();
        let gateway = &snapshot.gateway;
        let now = Instant::now();
        let tick = tick(gateway);
        if listed.is_none_or(|at| now.duration_since(at) > tick * ANEW) {
            gateway.recatalogue(now);
            listed = Some(now);
        }
        for question in due(gateway, now) {
            asking.spawn(question.ask(edge.clone()));
        }
        tokio::select! {
            Some(_) = asking.join_next() => {
                while asking.try_join_next().is_some() {}
                listed = None;
            }
            () = tokio::time::sleep(tick) => {}
        }
    }
}

fn tick(gateway: &Gateway) -> Duration {
    let intervals = gateway.config.pools.iter().filter_map(|pool| pool.listing);
    intervals.min().unwrap_or(TICK).min(TICK)
}

/// Those whose time has come.
fn due(gateway: &Gateway, now: Instant) -> Vec<Question> {
    let mut questions = Vec::new();
    for (n, pool) in gateway.pools.iter().enumerate() {
        let Some(interval) = pool.config.listing else {
            continue;
        };
        let wants = catalogue::wants(&gateway.config, PoolId(n));
        if !wants.models && !wants.voices {
            continue;
        }
        for server in 0..pool.config.servers.len() {
            let addresses = pool.addresses(server);
            let healthy = addresses.iter().find(|member| member.is_healthy());
            let due = catalogue::may_ask(&pool.config, server)
                && pool.reports.is_due(server, healthy.is_some(), now);
            let Some(member) = healthy.filter(|_| due) else {
                continue;
            };
            questions.push(Question {
                pool: pool.clone(),
                server,
                address: member.address(),
                wants,
                interval,
            });
        }
    }
    questions
}

/// A question to one server.
struct Question {
    pool: Arc<Pool>,
    server: usize,
    address: SocketAddr,
    wants: Wants,
    interval: Duration,
}

impl Question {
    async fn ask(self, edge: Arc<Edge>) {
        let mut report = Report::default();
        if self.wants.models {
            report.models = self
                .told(&edge, "/v1/models", |body| self.models(body))
                .await;
        }
        if self.wants.voices {
            report.voices = self.told(&edge, "/v1/audio/voices", listing::voices).await;
        }
        // apart, so that a hundred servers are not all asked in the same second
        let spread = self.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        let now = Instant::now();
        self.pool.reports.heard(self.server, report, now, spread);
    }

    /// What an answer says, if it says anything.
    async fn told<T>(
        &self,
        edge: &Edge,
        path: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let asked = tokio::time::timeout(PATIENCE, self.get(edge, path)).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "it took too long"),
        };
        let told = answer
            .and_then(|body| read(&body).or_err(ErrorType::ReadError, "this is no list of names"));
        let (pool, server) = (&self.pool.config.name, &self.settings().name);
        edge.metrics.asked_for_lists(pool, server, told.is_ok());
        told.map_err(|error| log::debug!("pool {pool}: {server} does not tell {path}: {error}"))
            .ok()
    }

    fn settings(&self) -> &Server {
        &self.pool.config.servers[self.server]
    }

    fn head(&self, path: &str, template: &PeerTemplate) -> RequestHeader {
        let (pool, server) = (&self.pool.config, self.settings());
        let target = path::to_server(path, None, pool, server, server.auth);
        let mut head = own_head(server, template, &target, pool.http2, "list of models");
        for (name, value) in &pool.headers.set {
            let _ = head.insert_header(name.clone(), value.clone());
        }
        head
    }

    async fn get(&self, edge: &Edge, path: &str) -> Result<Vec<u8>> {
        let template = PeerTemplate::new(&self.pool.config, self.settings(), 0);
        let head = self.head(path, &template);
        let mut session = send(&edge.connector, &template, self.address, head).await?;
        let status = session.response_header().map_or(0, |h| h.status.as_u16());
        if status != 200 {
            return Error::e_explain(ErrorType::HTTPStatus(status), "not a good status");
        }
        let mut body = Vec::new();
        while let Some(piece) = session.read_response_body().await? {
            body.extend_from_slice(&piece);
            if body.len() > LONGEST {
                return Error::e_explain(ErrorType::ReadError, "its list is too long");
            }
        }
        Ok(body)
    }

    fn models(&self, body: &[u8]) -> Option<Vec<listing::Model>> {
        match self.pool.config.dialect() {
            Dialect::OpenAi => listing::models(body),
            Dialect::Ollama => {
                let expected = Expected {
                    form: Form::Models,
                    model: String::new(),
                    stream: false,
                    usage: false,
                    base64: false,
                };
                let stamp = Stamp {
                    id: String::new(),
                    now: 0,
                };
                listing::models(&ollama::whole(&expected, &stamp, body).ok()?)
            }
        }
    }
}
