//! One request and its answer, from arrival to the access log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use prometheus::IntGauge;

use super::Snapshot;
use super::body::Upload;
use super::bound::Bound;
use super::cached::Keeping;
use super::connection::Answer;
use super::memory::Remembering;
use super::taken::Taken;
use super::usage::Counting;
use crate::config::Pool;
use crate::inspect::endpoint::Operation;
use crate::observe::metrics::{Metrics, RouteMetrics};
use crate::observe::record::{Record, Termination};
use crate::transform::headers::X_REQUEST_ID;
use crate::transform::path;

/// A request being served.
pub(crate) struct Exchange {
    pub(super) started: Instant,
    /// Pinned at arrival: a new configuration never changes a request midway.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) record: Record,
    /// The index of the route, once there is one.
    pub(super) route: Option<usize>,
    /// The index of the route's target that answered.
    pub(super) target: Option<usize>,
    pub(super) operation: Option<Operation>,
    /// The index of the key that was shown.
    pub(super) key: Option<usize>,
    /// We ask for what a stream used, and the client did not.
    pub(super) asks_usage: bool,
    /// What it uses is counted.
    pub(super) counting: Option<Box<Counting>>,
    /// Of its limits.
    pub(super) taken: Taken,
    /// Only pools at home may be asked.
    pub(super) home: bool,
    /// Its head was refused: where the next request begins is anybody's guess.
    pub(super) unclear: bool,
    /// The connection is to become a WebSocket.
    pub(super) upgrade: bool,
    /// How long the client waits for an answer, less what that needs to reach it.
    pub(super) patience: Option<Duration>,
    /// The listener decides about CORS, not the servers.
    pub(super) cors: bool,
    /// Headers that every answer to this client carries.
    pub(super) answer_headers: Vec<(HeaderName, HeaderValue)>,
    /// A copy of it was sent, or was not to be.
    pub(super) mirrored: bool,
    /// Takes the answer for who asks the same, if the route keeps answers.
    pub(super) lead: Option<Box<Keeping>>,
    /// Adds the answer to its session, if the route has a memory.
    pub(super) memory: Option<Box<Remembering>>,
    /// What its ids say, and what becomes of those of its answer.
    pub(super) bound: Option<Box<Bound>>,
    _in_flight: InFlight,
}

/// Counts a request while it lives, whatever way it ends.
struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a request goes no further.
pub(super) enum Stop {
    /// With an answer of our own.
    Answer(Box<crate::reply::Reply>),
    /// The client is gone.
    ClientGone,
    /// The answer had begun and was cut, so that nobody takes it for a whole one.
    Cut,
    /// A server agreed to speak another protocol from here on.
    Upgraded(Box<Answer>),
}

impl From<crate::reply::Reply> for Stop {
    fn from(reply: crate::reply::Reply) -> Self {
        Stop::Answer(Box::new(reply))
    }
}

impl Exchange {
    pub(super) fn new(snapshot: Arc<Snapshot>, in_flight: &IntGauge) -> Self {
        in_flight.inc();
        Exchange {
            started: Instant::now(),
            snapshot,
            record: Record::default(),
            route: None,
            target: None,
            operation: None,
            key: None,
            asks_usage: false,
            counting: None,
            taken: Taken::default(),
            home: false,
            unclear: false,
            upgrade: false,
            patience: None,
            cors: false,
            answer_headers: Vec::new(),
            mirrored: false,
            lead: None,
            memory: None,
            bound: None,
            _in_flight: InFlight(in_flight.clone()),
        }
    }

    /// The same request once more, for another server: with a body of `received` bytes; `in_flight`
    /// counts such.
    pub(super) fn copy(&self, received: u64, in_flight: &IntGauge) -> Self {
        let from = &self.record;
        let record = Record {
            request_id: from.request_id.clone(),
            trace: from.trace,
            client: from.client,
            method: from.method.clone(),
            path: from.path.clone(),
            tls: from.tls,
            operation: from.operation,
            model: from.model.clone(),
            voice: from.voice.clone(),
            stream: from.stream,
            characters: from.characters,
            audio: from.audio,
            bytes_in: received,
            key: from.key.clone(),
            ..Record::default()
        };
        Exchange {
            record,
            operation: self.operation,
            asks_usage: self.asks_usage,
            counting: self.counting.clone(),
            home: self.home,
            mirrored: true,
            memory: self.memory.as_ref().map(|memory| Box::new(memory.copy())),
            ..Exchange::new(self.snapshot.clone(), in_flight)
        }
    }

    /// The id this request is known by, in its answer and in the log.
    pub(super) fn take_request_id(&mut self, id: String) {
        if let Ok(value) = HeaderValue::from_str(&id) {
            self.answer_headers.push((X_REQUEST_ID, value));
        }
        self.record.request_id = id;
    }

    pub(super) fn metrics(&self) -> &RouteMetrics {
        match self.route {
            Some(route) => &self.snapshot.gateway.route_metrics[route],
            None => &self.snapshot.gateway.unrouted,
        }
    }

    /// Whether it is about audio with a model of its own: a kind has names for those.
    pub(super) fn is_audio(&self) -> bool {
        self.operation
            .is_some_and(|operation| operation.hears() || operation == Operation::Speech)
    }

    /// When the client gives up: it begins to wait when all of its body is here.
    pub(super) fn deadline(&self, upload: &Upload) -> Option<Instant> {
        Some(upload.completed()? + self.patience?)
    }

    /// The client has given up by now, or is about to.
    pub(super) fn is_late(&self, upload: &Upload) -> bool {
        self.deadline(upload)
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Notes how much of our own work came before the first attempt.
    pub(super) fn began_attempts(&mut self, metrics: &Metrics) {
        let times = &mut self.record.times;
        times.overhead = (self.started.elapsed())
            .saturating_sub(times.body)
            .saturating_sub(times.queue);
        metrics.overhead.observe(times.overhead.as_secs_f64());
    }

    /// The query of a realtime request with the pool's own name for its model; `None` if nothing
    /// changes.
    pub(super) fn realtime_query(&self, query: Option<&str>, pool: &Pool) -> Option<String> {
        if self.operation != Some(Operation::Realtime) {
            return None;
        }
        let public = path::parameter(query, "model")?;
        let own = pool.models.translate(&public, false)?;
        Some(path::with_parameter(query?, "model", own))
    }

    /// Notes that the first byte of the answer's body is here.
    pub(super) fn first_byte(&mut self) {
        self.record
            .times
            .first_byte
            .get_or_insert_with(|| self.started.elapsed());
    }

    /// Counts the finished request.
    pub(super) fn finish(&mut self) {
        self.settle();
        let record = &mut self.record;
        if record.times.total.is_zero() {
            record.times.total = self.started.elapsed();
        }
        let seconds = |duration: Duration| duration.as_secs_f64();
        let metrics = match self.route {
            Some(route) => &self.snapshot.gateway.route_metrics[route],
            None => &self.snapshot.gateway.unrouted,
        };
        let target = self.target.filter(|_| record.local.is_none());
        metrics.answered(target, record.status, seconds(record.times.total));
        metrics.terminated(record.termination);
        metrics.request_bytes.inc_by(record.bytes_in);
        metrics.response_bytes.inc_by(record.bytes_out);
        metrics.tokens_in.inc_by(record.usage.input.unwrap_or(0));
        metrics.tokens_out.inc_by(record.usage.output.unwrap_or(0));
        metrics.characters.inc_by(record.characters.unwrap_or(0));
        // what an error says is neither speech nor a token
        if target.is_none() || !(200..300).contains(&record.status) {
            return;
        }
        match self.operation {
            Some(Operation::Speech) => metrics.audio_out.inc_by(record.bytes_out),
            Some(Operation::Transcription | Operation::Translation) => {
                metrics.audio_in.inc_by(record.bytes_in)
            }
            _ => {}
        }
        let whole = record.termination == Termination::Complete;
        if let (Some(operation), Some(audio), true) = (self.operation, record.audio, whole) {
            metrics.played(operation, seconds(audio), seconds(record.times.total));
        }
        if let (Some(operation), Some(first), true) =
            (self.operation, record.times.first_byte, whole)
        {
            metrics.first(operation, seconds(first));
        }
    }
}
