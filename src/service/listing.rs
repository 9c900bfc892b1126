//! Asks the servers, again and again, which models and voices they have.
//!
//! Nothing that is asked costs a token. Who is asked, and whose answers count, `catalogue` decides;
//! here is when, how, and how much of an answer is read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, OkOrErr, Result};
use tokio::task::JoinSet;

use super::probe::{own_head, send};
use crate::catalogue::{self, Wants};
use crate::config::Server;
use crate::config::kind::Dialect;
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
/// So many servers are asked at once.
const AT_ONCE: usize = 32;
/// So many questions begin together, and the next so much later: they must not take what requests
/// need.
const BEGIN: usize = 8;
const PAUSE: Duration = Duration::from_millis(25);
/// How long answers are collected, while more are to come, before they are listed.
const COLLECT: Duration = Duration::from_millis(250);
/// To list takes at most one part of the time in so many.
const SHARE: u32 = 50;

/// Asks for as long as the program runs.
pub(crate) async fn keep_asking(edge: Arc<Edge>) {
    let mut asking = JoinSet::new();
    let mut waiting: VecDeque<Question> = VecDeque::new();
    let mut lists = Lists::new();
    let (mut looked, mut begun): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let tick = {
            let snapshot = edge.snapshot();
            let gateway = &snapshot.gateway;
            let (now, tick) = (Instant::now(), tick(gateway));
            if looked.is_none_or(|at| now.duration_since(at) >= tick) {
                waiting.extend(due(gateway, now));
                looked = Some(now);
            }
            let more = !waiting.is_empty() || !asking.is_empty();
            if lists.are_due(now, tick, more) {
                gateway.recatalogue(now);
                lists.listed(now, now.elapsed());
            }
            tick
        };
        let now = Instant::now();
        if begun.is_none_or(|at| now.duration_since(at) >= PAUSE) && !waiting.is_empty() {
            let room = BEGIN.min(AT_ONCE.saturating_sub(asking.len()));
            for question in waiting.drain(..room.min(waiting.len())) {
                asking.spawn(question.ask(edge.clone()));
            }
            begun = Some(now);
        }
        let rest = lists.until_next(tick, now);
        let rest = if waiting.is_empty() {
            rest
        } else {
            rest.min(PAUSE)
        };
        tokio::select! {
            Some(_) = asking.join_next() => {
                while asking.try_join_next().is_some() {}
                lists.heard = true;
            }
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// When all is listed that was heard.
struct Lists {
    /// Something was heard that is not listed.
    heard: bool,
    /// When it was last listed, and when it may be again.
    listed: Option<(Instant, Instant)>,
}

impl Lists {
    fn new() -> Self {
        Lists {
            heard: false,
            listed: None,
        }
    }

    /// `more`: servers are still being asked.
    fn are_due(&self, now: Instant, tick: Duration, more: bool) -> bool {
        let Some((at, next)) = self.listed else {
            return true;
        };
        let since = now.duration_since(at);
        since > tick * ANEW || (self.heard && now >= next && (!more || since >= COLLECT.min(tick)))
    }

    /// `took`: how long that was.
    fn listed(&mut self, now: Instant, took: Duration) {
        self.heard = false;
        self.listed = Some((now, now + took * SHARE));
    }

    /// How long nothing is to be done, unless something is heard.
    fn until_next(&self, tick: Duration, now: Instant) -> Duration {
        let next = self.listed.filter(|_| self.heard).map(|(_, next)| next);
        let wait = next.map(|next| next.saturating_duration_since(now));
        // a listing that waits for others to answer comes with them
        wait.map_or(tick, |wait| wait.max(COLLECT / 10).min(tick))
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
        let wants = gateway.wants[n];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_listed_together_while_others_are_to_come() {
        let (now, tick) = (Instant::now(), Duration::from_secs(1));
        let mut lists = Lists::new();
        assert!(lists.are_due(now, tick, true), "at once");
        lists.listed(now, Duration::from_millis(1));
        assert!(!lists.are_due(now + tick, tick, false), "nothing is new");
        lists.heard = true;
        let soon = now + COLLECT / 2;
        assert!(!lists.are_due(soon, tick, true));
        assert!(lists.are_due(soon, tick, false), "that was the last one");
        assert!(lists.are_due(now + COLLECT, tick, true));
    }

    #[test]
    fn a_long_list_is_made_less_often() {
        let (now, tick) = (Instant::now(), Duration::from_secs(1));
        let mut lists = Lists::new();
        lists.listed(now, Duration::from_millis(20));
        lists.heard = true;
        assert!(!lists.are_due(now + tick / 2, tick, false));
        assert!(lists.are_due(now + tick, tick, false));
    }
}
