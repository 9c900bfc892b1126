//! Every metric: its name, what it means, its labels.
//!
//! Labels come from names in the configuration and from fixed lists only, so the number of series
//! is known when the file is written. Handles are resolved when a gateway is built, but for routes
//! where there are many; a request only adds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

mod route;

pub(crate) use route::RouteMetrics;

use super::exhausted::Exhausted;
use super::status::{LastReload, ServerCounts};
use crate::cache;
use crate::config::{Config, Cost, Route, Server, Zone};
use crate::plan::Outcome;
use crate::pool::{Evidence, Pool};
use crate::session;
use crate::state::StateMetrics;
use route::RouteFamilies;

/// Whole requests: a stream of an LLM lasts minutes.
const DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
/// First bytes and tokens: OpenTelemetry's GenAI buckets, and three more for models that are
/// loaded first.
const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    30.0, 60.0, 120.0,
];
/// Our own cost, in seconds.
const OVERHEAD: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.25,
];

/// Real-time factors: a GPU speaks 100 times faster than it plays, a small box slower.
const RTF: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0,
];

/// So many routes have all their series from the start, so that a first failure is seen as one more.
/// Those of a longer table begin when there is something to count: most stay empty for good, and each
/// takes its memory.
const FEW_ROUTES: usize = 100;

/// Statuses that have a series of their own.
const STATUSES: &[u16] = &[
    0, 101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 402, 403, 404, 405, 408,
    409, 413, 414, 415, 417, 422, 429, 431, 500, 501, 502, 503, 504, 508, 529,
];

/// Results of attempts that are failures of the server; the others are its word on the request, or
/// the client's or our own doing.
const FAILED: &[&str] = &[
    "5xx",
    "connect_error",
    "tls_error",
    "reset",
    "empty",
    "invalid",
    "timeout",
];

/// What is listed of a pool.
const LISTED: [&str; 2] = ["models", "voices"];

/// What a route was chosen by, the most telling condition first.
const DECISIONS: &[&str] = &[
    "voice", "model", "header", "size", "path", "default", "none",
];

/// All families. Registered once; a new configuration resolves new handles on them.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: IntGaugeVec,
    pub(crate) connections_total: IntCounterVec,
    pub(crate) connections_rejected: IntCounterVec,
    pub(crate) descriptors: Exhausted,
    tls_expiry: IntGaugeVec,
    tls_handshake: HistogramVec,
    tls_failures: IntCounterVec,
    pub(crate) in_flight: IntGauge,
    routes: Arc<RouteFamilies>,
    decisions: IntCounterVec,
    pub(crate) body_peek: IntCounterVec,
    pub(crate) overhead: Histogram,
    pub(crate) local_replies: IntCounterVec,
    attempts: IntCounterVec,
    phase: HistogramVec,
    first_byte: HistogramVec,
    upstream_connections: IntCounterVec,
    upstream_bytes: IntCounterVec,
    upstream_in_flight: IntGaugeVec,
    retries: IntCounterVec,
    fallbacks: IntCounterVec,
    server_up: IntGaugeVec,
    server_ejected: IntGaugeVec,
    servers_available: IntGaugeVec,
    pool_info: IntGaugeVec,
    transitions: IntCounterVec,
    ejections: IntCounterVec,
    queue_depth: IntGaugeVec,
    queue_refused: IntCounterVec,
    slots: IntGaugeVec,
    server_warming: IntGaugeVec,
    server_drained: IntGaugeVec,
    listed: IntGaugeVec,
    listings: IntCounterVec,
    pub(crate) mirrored: IntCounterVec,
    state: StateFamilies,
    pub(crate) mirrors_in_flight: IntGauge,
    voice_mappings: IntCounterVec,
    cache_bytes: IntGaugeVec,
    cache_evictions: IntCounterVec,
    sessions: SessionFamilies,
    checks: IntCounterVec,
    check_duration: HistogramVec,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    /// The last time a configuration was put into service or refused.
    last_reload: Mutex<Option<LastReload>>,
    pub(crate) demo: IntGauge,
    /// By reason.
    pub(crate) admin_rejected: IntCounterVec,
    /// By reason.
    pub(crate) keys_refused: IntCounterVec,
    /// By result.
    jwks_refreshes: IntCounterVec,
    jwks_keys: IntGaugeVec,
    jwks_timestamp: GaugeVec,
    /// By whose limit it was, and of what.
    pub(crate) rate_limited: IntCounterVec,
    /// By key and class of status.
    pub(crate) key_requests: IntCounterVec,
    /// By key and kind.
    pub(crate) key_tokens: IntCounterVec,
    /// Of keys with a budget, this month.
    pub(crate) key_spent: GaugeVec,
    pub(crate) key_budget: GaugeVec,
    log_dropped: IntCounter,
}

/// Why a queue did not take or keep a request; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueRefusal {
    Full,
    Timeout,
    /// It would have waited too long, and another pool was free.
    Spilled,
}

const QUEUE_REFUSALS: &[(QueueRefusal, &str)] = &[
    (QueueRefusal::Full, "full"),
    (QueueRefusal::Timeout, "timeout"),
    (QueueRefusal::Spilled, "spilled"),
];

/// The handles of one server.
pub(crate) struct ServerMetrics {
    /// In the order of [`Outcome::LABELS`].
    attempts: Vec<IntCounter>,
    pub(crate) first_byte: Histogram,
    pub(crate) connected: IntCounter,
    pub(crate) reused: IntCounter,
    pub(crate) bytes_sent: IntCounter,
    pub(crate) bytes_received: IntCounter,
    /// In the order of [`Evidence::ALL`].
    ejections: Vec<IntCounter>,
    up: IntGauge,
    ejected: IntGauge,
    warming: IntGauge,
    drained: IntGauge,
    in_flight: IntGauge,
}

/// The handles of one listener's TLS.
pub(crate) struct TlsMetrics {
    /// Seconds since 1970.
    pub(crate) expiry: IntGauge,
    pub(crate) handshake: Histogram,
    /// Handshakes that were cut because they took too long.
    pub(crate) timeout: IntCounter,
    /// In the order of [`TlsMetrics::REASONS`].
    failures: Vec<IntCounter>,
}

/// The handles of one pool.
pub(crate) struct PoolMetrics {
    pub(crate) servers: Vec<ServerMetrics>,
    pub(crate) connect: Histogram,
    pub(crate) tls: Histogram,
    pub(crate) send: Histogram,
    pub(crate) wait: Histogram,
    pub(crate) stream: Histogram,
    pub(crate) queued: Histogram,
    /// Requests in line: realtime, batch. Empty if nobody ever waits.
    queue_depth: Vec<IntGauge>,
    /// In the order of [`QUEUE_REFUSALS`].
    queue_refused: Vec<IntCounter>,
    available: IntGauge,
    /// In the order of [`LISTED`].
    listed: [IntGauge; 2],
}

/// The sum of the series of a family that carry this label.
fn sum(family: &IntCounterVec, label: &str, value: &str) -> u64 {
    let families = family.collect();
    let series = families.iter().flat_map(|family| family.get_metric());
    series
        .filter(|series| {
            let mut labels = series.get_label().iter();
            labels.any(|pair| pair.name() == label && pair.value() == value)
        })
        .map(|series| series.get_counter().get_value() as u64)
        .sum()
}

/// Registers families as they are made.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(
        &self,
        collector: Result<C, prometheus::Error>,
    ) -> C {
        let collector = collector.expect("names and labels of metrics are valid");
        self.0
            .register(Box::new(collector.clone()))
            .expect("no metric is registered twice");
        collector
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(
            Opts::new(format!("trunkline_{name}"), help),
            labels,
        ))
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(
            Opts::new(format!("trunkline_{name}"), help),
            labels,
        ))
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(format!("trunkline_{name}"), help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}

/// Families without labels: what is not configured is not told, not even as 0.
struct StateFamilies {
    up: IntGaugeVec,
    edges: IntGaugeVec,
    failures: IntCounterVec,
}

struct SessionFamilies {
    sessions: IntGaugeVec,
    bytes: IntGaugeVec,
    evicted: IntCounterVec,
    dropped: IntCounterVec,
}

const ALONE: &[&str] = &[];

impl Maker<'_> {
    fn routes(&self) -> RouteFamilies {
        let make = self;
        RouteFamilies {
            requests: make.counter("requests_total", "Requests by route, by the pool that answered (`local`: none) and by status (0: none was sent).", &["route", "pool", "code"]),
            duration: make.histogram("request_duration_seconds", "From the request head to the last byte of the answer.", &["route", "pool"], DURATION),
            request_bytes: make.counter("request_bytes_total", "Bytes of request bodies.", &["route"]),
            response_bytes: make.counter("response_bytes_total", "Bytes of response bodies.", &["route"]),
            terminations: make.counter("terminations_total", "Requests by how they ended.", &["route", "reason"]),
            budget_exhausted: make.counter("retry_budget_exhausted_total", "Retries not made because the route's budget was used up.", &["route"]),
            time_to_first: make.histogram("time_to_first_token_seconds", "From the request head to the first byte of the answer's body: the first token or the first audio.", &["route", "operation"], FIRST),
            tokens: make.counter("tokens_total", "Tokens, where answers state them.", &["route", "type"]),
            audio_bytes: make.counter("audio_bytes_total", "Bytes of audio received for transcription (in) and spoken (out).", &["route", "direction"]),
            characters: make.counter("tts_characters_total", "Characters of text to speak, where the body was read.", &["route"]),
            hedges: make.counter("hedges_total", "Second attempts beside one that took long, and those whose answer came first.", &["route", "result"]),
            budget_left: make.gauge("retry_budget_left", "Retries that a route's budget has left now.", &["route"]),
            cache_requests: make.counter("cache_requests_total", "Requests on routes that keep answers: hit, miss, coalesced (somebody was asking the same already) and bypass (not to be kept).", &["route", "result"]),
            audio_seconds: make.register(prometheus::CounterVec::new(Opts::new("trunkline_audio_seconds_total", "Seconds of audio transcribed (in) and spoken (out), where its header tells."), &["route", "direction"])),
            real_time_factor: make.histogram("real_time_factor", "Duration of a request for each second of its audio: below 1 is faster than it plays.", &["route", "operation"], RTF),
        }
    }

    fn state(&self) -> StateFamilies {
        StateFamilies {
            up: self.gauge(
                "state_up",
                "Whether the server answers that edges share their state by.",
                ALONE,
            ),
            edges: self.gauge(
                "state_edges",
                "Edges that share their state with this one, itself included.",
                ALONE,
            ),
            failures: self.counter(
                "state_failures_total",
                "Questions to that server that failed, by what was asked.",
                &["asked"],
            ),
        }
    }

    fn sessions(&self) -> SessionFamilies {
        SessionFamilies {
            sessions: self.gauge("sessions", "Sessions whose messages are remembered.", ALONE),
            bytes: self.gauge("session_bytes", "Bytes that remembered messages take.", ALONE),
            evicted: self.counter("session_evictions_total", "Remembered sessions that made room for others.", ALONE),
            dropped: self.counter("session_messages_dropped_total", "Messages that were not remembered any longer, as their session had grown beyond its bounds.", ALONE),
        }
    }
}

impl Metrics {
    /// `codes` are those of local replies.
    pub(crate) fn new(codes: &[&str]) -> Self {
        let registry = Registry::new();
        let make = Maker(&registry);
        let build: GaugeVec = make.register(GaugeVec::new(
            Opts::new(
                "trunkline_build_info",
                "1, labelled with the version that runs.",
            ),
            &["version"],
        ));
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        make.0
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect("no metric is registered twice");
        let metrics = Metrics {
            connections: make.gauge("connections", "Client connections open now.", &["listener"]),
            connections_total: make.counter("connections_total", "Client connections accepted.", &["listener"]),
            connections_rejected: make.counter("connections_rejected_total", "Client connections closed at once or before a request, by reason.", &["listener", "reason"]),
            descriptors: Exhausted::new(make.register(IntCounter::new("trunkline_descriptors_exhausted_total", "Times that a connection could not be accepted or made because no descriptor was left."))),
            tls_expiry: make.gauge("tls_certificate_expiry_timestamp_seconds", "When the certificate in service expires.", &["listener"]),
            tls_handshake: make.histogram("tls_handshake_seconds", "Duration of TLS handshakes with clients.", &["listener"], FIRST),
            tls_failures: make.counter("tls_handshake_failures_total", "TLS handshakes with clients that failed, by reason.", &["listener", "reason"]),
            in_flight: make.register(IntGauge::new("trunkline_requests_in_flight", "Requests being served now.")),
            decisions: make.counter("route_decisions_total", "Requests by what their route was chosen by.", &["by"]),
            body_peek: make.counter("body_peek_total", "Request bodies read ahead to decide or rewrite, by result.", &["result"]),
            overhead: make.register(Histogram::with_opts(HistogramOpts::new("trunkline_overhead_seconds", "Our own work on a request before its first attempt, waiting for its body left out.").buckets(OVERHEAD.to_vec()))),
            local_replies: make.counter("local_replies_total", "Answers made by Trunkline itself.", &["code"]),
            attempts: make.counter("attempts_total", "Attempts by server and result.", &["pool", "server", "result"]),
            phase: make.histogram("attempt_phase_seconds", "Duration of the phases of attempts: queue, connect (TLS included), tls, send, first_byte, stream.", &["pool", "phase"], DURATION),
            first_byte: make.histogram("first_byte_seconds", "From the start of an attempt to the first byte of its answer's body.", &["pool", "server"], FIRST),
            upstream_connections: make.counter("upstream_connections_total", "Connections used for attempts, new or reused.", &["pool", "server", "reused"]),
            upstream_bytes: make.counter("upstream_bytes_total", "Bytes of bodies exchanged with servers.", &["pool", "server", "direction"]),
            upstream_in_flight: make.gauge("upstream_in_flight", "Requests at a server now.", &["pool", "server"]),
            retries: make.counter("retries_total", "Attempts at another server of the same pool, by what the one before ended with.", &["route", "reason"]),
            fallbacks: make.counter("fallbacks_total", "Moves to another pool, by what the attempt before ended with (`unavailable`: there was none).", &["route", "from", "to", "reason"]),
            server_up: make.gauge("server_up", "Addresses of a server that its health checks find well.", &["pool", "server"]),
            server_ejected: make.gauge("server_ejected", "Addresses of a server that are ejected now.", &["pool", "server"]),
            servers_available: make.gauge("pool_servers_available", "Servers of a pool that may be asked now.", &["pool"]),
            pool_info: make.gauge("pool_info", "1 for each pool, labelled with what its requests cost and whether they stay at home.", &["pool", "cost", "zone"]),
            transitions: make.counter("server_transitions_total", "Changes of a server's health.", &["pool", "server", "to"]),
            ejections: make.counter("ejections_total", "Ejections of a server by evidence from traffic: failures in a row, rate of failures, slow first bytes.", &["pool", "server", "reason"]),
            queue_depth: make.gauge("queue_depth", "Requests that wait for a slot.", &["pool", "priority"]),
            queue_refused: make.counter("queue_refused_total", "Requests a queue did not serve: it was full, its timeout passed, or they would have waited too long and another pool was free (spilled).", &["pool", "reason"]),
            slots: make.gauge("server_slots", "Requests a server works on at once, where that is bounded; upstream_in_flight is how many are taken.", &["pool", "server"]),
            listed: make.gauge("names_listed", "Models and voices that are listed as those of a pool.", &["pool", "what"]),
            listings: make.counter("server_lists_total", "Questions to servers for their models and voices, by result.", &["pool", "server", "result"]),
            server_drained: make.gauge("server_drained", "Whether a server is drained by hand: it gets no new requests.", &["pool", "server"]),
            server_warming: make.gauge("server_warming", "Addresses of a server that load their model now.", &["pool", "server"]),
            routes: Arc::new(make.routes()),
            state: make.state(),
            mirrored: make.counter("mirrored_total", "Copies of requests, by what became of them: the class of the answer's status, failed, or skipped where there was no room.", &["route", "pool", "result"]),
            mirrors_in_flight: make.gauge("mirrors_in_flight", "Copies of requests that are being answered.", ALONE).with_label_values(ALONE),
            voice_mappings: make.counter("voice_mappings_total", "Requests that were sent with another voice than they asked for, by the voice they got.", &["pool", "voice"]),
            cache_bytes: make.gauge("cache_bytes", "Bytes that kept answers take.", &["tier"]),
            cache_evictions: make.counter("cache_evictions_total", "Kept answers that made room for others.", &["tier"]),
            sessions: make.sessions(),
            checks: make.counter("health_checks_total", "Health probes by result.", &["pool", "server", "result"]),
            check_duration: make.histogram("health_check_seconds", "Duration of health probes.", &["pool"], FIRST),
            reloads: make.counter("config_reloads_total", "Configurations put into service, or refused.", &["result"]),
            reload_successful: make.register(IntGauge::new("trunkline_config_last_reload_successful", "Whether the last configuration was put into service.")),
            reload_timestamp: make.register(Gauge::new("trunkline_config_last_reload_success_timestamp_seconds", "When the configuration in service was put there.")),
            last_reload: Mutex::new(None),
            key_spent: make.register(GaugeVec::new(Opts::new("trunkline_key_spent", "Units that an API key has spent this month."), &["key"])),
            key_budget: make.register(GaugeVec::new(Opts::new("trunkline_key_budget", "Units that an API key may spend in a month."), &["key"])),
            keys_refused: make.counter("api_keys_refused_total", "Requests without a good API key.", &["reason"]),
            jwks_refreshes: make.counter("jwks_refreshes_total", "Questions to the identity provider for its keys.", &["result"]),
            jwks_keys: make.gauge("jwks_keys", "Keys of the identity provider that verify tokens, by where they are from.", &["source"]),
            jwks_timestamp: make.register(GaugeVec::new(Opts::new("trunkline_jwks_last_success_timestamp_seconds", "When the identity provider last told its keys."), &["source"])),
            rate_limited: make.counter("rate_limited_total", "Requests refused by a limit.", &["scope", "limit"]),
            key_requests: make.counter("key_requests_total", "Requests by API key and class of status.", &["key", "code"]),
            key_tokens: make.counter("key_tokens_total", "Tokens by API key.", &["key", "type"]),
            admin_rejected: make.counter("admin_rejected_total", "Requests at the admin listener that were refused.", &["reason"]),
            demo: make.register(IntGauge::new("trunkline_demo_mode", "1 while stand-ins serve.")),
            log_dropped: make.register(IntCounter::new("trunkline_log_lines_dropped_total", "Access log lines that were dropped.")),
            registry: registry.clone(),
        };
        for code in codes {
            metrics.local_replies.with_label_values(&[code]);
        }
        for by in DECISIONS {
            metrics.decisions.with_label_values(&[by]);
        }
        metrics
    }

    /// Notes that a configuration went into service.
    pub(crate) fn configured(&self) {
        self.reloads.with_label_values(&["success"]).inc();
        self.reload_successful.set(1);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.reload_timestamp.set(now.as_secs_f64());
        self.note_reload("success");
    }

    /// What a key may spend, and has.
    pub(crate) fn budget(&self, key: &str, budget: f64, spent: f64) {
        self.key_budget.with_label_values(&[key]).set(budget);
        self.key_spent.with_label_values(&[key]).set(spent);
    }

    /// Notes that one was refused.
    pub(crate) fn not_configured(&self) {
        self.reloads.with_label_values(&["failure"]).inc();
        self.reload_successful.set(0);
        self.note_reload("failure");
    }

    fn note_reload(&self, result: &'static str) {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut last = self
            .last_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(LastReload { result, at });
    }

    /// The last time a configuration was put into service or refused.
    pub(crate) fn last_reload(&self) -> Option<LastReload> {
        let last = self
            .last_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// The handles for TLS on a listener.
    pub(crate) fn tls(&self, listener: &str) -> TlsMetrics {
        let failed = |reason: &&str| self.tls_failures.with_label_values(&[listener, reason]);
        TlsMetrics {
            expiry: self.tls_expiry.with_label_values(&[listener]),
            handshake: self.tls_handshake.with_label_values(&[listener]),
            timeout: failed(&"timeout"),
            failures: TlsMetrics::REASONS.iter().map(failed).collect(),
        }
    }

    pub(crate) fn route(&self, config: &Config, route: &Route) -> RouteMetrics {
        let pools = route
            .targets
            .iter()
            .map(|target| config.pool(target.pool).name.as_str());
        let conditions = &route.conditions;
        let by = if !conditions.voices.is_empty() {
            "voice"
        } else if !conditions.models.is_empty() || conditions.unknown_model {
            "model"
        } else if !conditions.headers.is_empty() || !conditions.hosts.is_empty() {
            "header"
        } else if conditions.body_larger_than.is_some() {
            "size"
        } else if !conditions.paths.is_empty() || !conditions.methods.is_empty() {
            "path"
        } else {
            "default"
        };
        let all = config.routes.len() <= FEW_ROUTES;
        let decided = self.decisions.with_label_values(&[by]);
        RouteMetrics::new(self.routes.clone(), route, pools, decided, all)
    }

    /// What is counted of a place where answers are kept.
    pub(crate) fn cache_tier(&self, tier: &str) -> cache::Tier {
        cache::Tier {
            bytes: self.cache_bytes.with_label_values(&[tier]),
            evictions: self.cache_evictions.with_label_values(&[tier]),
        }
    }

    /// What is counted of the state that edges share.
    pub(crate) fn state(&self) -> StateMetrics {
        let StateFamilies {
            up,
            edges,
            failures,
        } = &self.state;
        StateMetrics {
            up: up.with_label_values(ALONE),
            edges: edges.with_label_values(ALONE),
            failures: failures.clone(),
        }
    }

    /// What is counted of sessions.
    pub(crate) fn sessions(&self) -> session::Counts {
        let of = &self.sessions;
        session::Counts {
            sessions: of.sessions.with_label_values(ALONE),
            bytes: of.bytes.with_label_values(ALONE),
            evicted: of.evicted.with_label_values(ALONE),
            dropped: of.dropped.with_label_values(ALONE),
        }
    }

    /// The handles for requests that found no route.
    pub(crate) fn unrouted(&self) -> RouteMetrics {
        let none = Route::bare("none".into(), Vec::new());
        let decided = self.decisions.with_label_values(&["none"]);
        RouteMetrics::new(self.routes.clone(), &none, [].into_iter(), decided, true)
    }

    pub(crate) fn pool(&self, pool: &Pool) -> PoolMetrics {
        let name = pool.config.name.as_str();
        // what it was before a reload is no longer true
        self.forget_pool_info(name);
        let (cost, zone) = (pool.config.cost.label(), pool.config.zone.label());
        self.pool_info.with_label_values(&[name, cost, zone]).set(1);
        let phase = |phase| self.phase.with_label_values(&[name, phase]);
        PoolMetrics {
            servers: pool
                .config
                .servers
                .iter()
                .map(|server| self.server(name, server))
                .collect(),
            connect: phase("connect"),
            tls: phase("tls"),
            send: phase("send"),
            wait: phase("first_byte"),
            stream: phase("stream"),
            queued: phase("queue"),
            queue_depth: match pool.config.has_slots() {
                true => ["realtime", "batch"]
                    .map(|class| self.queue_depth.with_label_values(&[name, class]))
                    .to_vec(),
                false => Vec::new(),
            },
            queue_refused: QUEUE_REFUSALS
                .iter()
                .map(|(_, reason)| self.queue_refused.with_label_values(&[name, reason]))
                .collect(),
            available: self.servers_available.with_label_values(&[name]),
            listed: LISTED.map(|what| self.listed.with_label_values(&[name, what])),
        }
    }

    fn server(&self, pool: &str, settings: &Server) -> ServerMetrics {
        let server = settings.name.as_str();
        let both = &[pool, server];
        if let Some(slots) = settings.slots {
            self.slots.with_label_values(both).set(i64::from(slots));
        }
        ServerMetrics {
            attempts: Outcome::LABELS
                .iter()
                .map(|result| self.attempts.with_label_values(&[pool, server, result]))
                .collect(),
            first_byte: self.first_byte.with_label_values(both),
            connected: self
                .upstream_connections
                .with_label_values(&[pool, server, "false"]),
            reused: self
                .upstream_connections
                .with_label_values(&[pool, server, "true"]),
            bytes_sent: self
                .upstream_bytes
                .with_label_values(&[pool, server, "sent"]),
            bytes_received: self
                .upstream_bytes
                .with_label_values(&[pool, server, "received"]),
            ejections: Evidence::ALL
                .iter()
                .map(|why| {
                    self.ejections
                        .with_label_values(&[pool, server, why.label()])
                })
                .collect(),
            warming: self.server_warming.with_label_values(both),
            drained: self.server_drained.with_label_values(both),
            up: self.server_up.with_label_values(both),
            ejected: self.server_ejected.with_label_values(both),
            in_flight: self.upstream_in_flight.with_label_values(both),
        }
    }

    /// Forgets what is the case with a server that is no longer configured; what happened stays
    /// counted.
    pub(crate) fn forget_server(&self, pool: &str, server: &str) {
        for gauge in [
            &self.server_up,
            &self.server_ejected,
            &self.server_warming,
            &self.server_drained,
            &self.slots,
            &self.upstream_in_flight,
        ] {
            let _ = gauge.remove_label_values(&[pool, server]);
        }
    }

    /// The same for a pool.
    pub(crate) fn forget_pool(&self, pool: &str) {
        let _ = self.servers_available.remove_label_values(&[pool]);
        for what in LISTED {
            let _ = self.listed.remove_label_values(&[pool, what]);
        }
        self.forget_pool_info(pool);
        for class in ["realtime", "batch"] {
            let _ = self.queue_depth.remove_label_values(&[pool, class]);
        }
    }

    fn forget_pool_info(&self, pool: &str) {
        for cost in [Cost::Free, Cost::Paid] {
            for zone in [Zone::Home, Zone::Cloud] {
                let _ = self
                    .pool_info
                    .remove_label_values(&[pool, cost.label(), zone.label()]);
            }
        }
    }

    /// The handles for the probes of a server: good, bad, duration.
    pub(crate) fn probes(&self, pool: &str, server: &str) -> (IntCounter, IntCounter, Histogram) {
        (
            self.checks.with_label_values(&[pool, server, "ok"]),
            self.checks.with_label_values(&[pool, server, "failed"]),
            self.check_duration.with_label_values(&[pool]),
        )
    }

    /// Counts a question to a server for what it has.
    pub(crate) fn asked_for_lists(&self, pool: &str, server: &str, answered: bool) {
        let result = if answered { "ok" } else { "failed" };
        let count = self.listings.with_label_values(&[pool, server, result]);
        count.inc();
    }

    /// Counts a question to the identity provider. `keys` that it has told; `None` for no answer.
    pub(crate) fn asked_for_keys(&self, keys: Option<usize>) {
        let result = if keys.is_some() { "ok" } else { "failed" };
        self.jwks_refreshes.with_label_values(&[result]).inc();
        if let Some(keys) = keys {
            self.keys_of_provider("url", keys);
        }
    }

    /// Keys of the identity provider that are known as of now. `source`: `file` or `url`.
    pub(crate) fn keys_of_provider(&self, source: &str, keys: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        self.forget_jwks();
        self.jwks_keys
            .with_label_values(&[source])
            .set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.jwks_timestamp.with_label_values(&[source]).set(now);
    }

    /// No token is taken any more.
    pub(crate) fn forget_jwks(&self) {
        for source in ["file", "url"] {
            let _ = self.jwks_keys.remove_label_values(&[source]);
            let _ = self.jwks_timestamp.remove_label_values(&[source]);
        }
    }

    pub(crate) fn retried(&self, route: &str, reason: &str) {
        self.retries.with_label_values(&[route, reason]).inc();
    }

    pub(crate) fn fell_back(&self, route: &str, from: &str, to: &str, reason: &str) {
        self.fallbacks
            .with_label_values(&[route, from, to, reason])
            .inc();
    }

    /// `voice` is one of the configuration or of the tables of kinds, never the client's own.
    pub(crate) fn mapped_voice(&self, pool: &str, voice: &str) {
        self.voice_mappings.with_label_values(&[pool, voice]).inc();
    }

    pub(crate) fn changed_health(&self, pool: &str, server: &str, healthy: bool) {
        let to = if healthy { "up" } else { "down" };
        self.transitions
            .with_label_values(&[pool, server, to])
            .inc();
    }

    /// Counters of spans: those a collector has, and those that were dropped, by reason.
    #[cfg(feature = "otlp")]
    pub(crate) fn spans(&self) -> (IntCounter, IntCounterVec) {
        let make = Maker(&self.registry);
        let exported = IntCounter::new("trunkline_spans_exported_total", "Spans a collector took.");
        let help = "Spans that were dropped, by reason.";
        (
            make.register(exported),
            make.counter("spans_dropped_total", help, &["reason"]),
        )
    }

    /// Everything, in Prometheus' text format. `log_dropped` is the access log's own count.
    pub(crate) fn exposition(&self, log_dropped: u64) -> Vec<u8> {
        self.log_dropped
            .inc_by(log_dropped.saturating_sub(self.log_dropped.get()));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metrics can be written to memory");
        #[cfg(feature = "counted")]
        text.extend_from_slice(super::allocations::exposition().as_bytes());
        text
    }
}

impl ServerMetrics {
    pub(crate) fn ejected(&self, evidence: Evidence) {
        let n = Evidence::ALL.iter().position(|e| *e == evidence);
        self.ejections[n.expect("ALL has every evidence")].inc();
    }

    /// The sums of what was counted.
    pub(crate) fn counts(&self) -> ServerCounts {
        let mut counts = ServerCounts::default();
        for (label, counter) in Outcome::LABELS.iter().zip(&self.attempts) {
            counts.attempts += counter.get();
            if FAILED.contains(label) {
                counts.failures += counter.get();
            }
        }
        counts
    }

    /// Counts an attempt by one of [`Outcome::LABELS`].
    pub(crate) fn attempted(&self, label: &str) {
        let n = Outcome::LABELS
            .iter()
            .position(|l| *l == label)
            .expect("LABELS has every label");
        self.attempts[n].inc();
    }
}

impl TlsMetrics {
    /// Why a handshake may fail: the client speaks something else, or no version or cipher of
    /// ours; does not like the certificate; leaves; takes too long.
    pub(crate) const REASONS: &'static [&'static str] = &[
        "not_tls",
        "incompatible",
        "refused_by_client",
        "closed",
        "timeout",
        "other",
    ];

    /// Counts a failed handshake by one of [`TlsMetrics::REASONS`].
    pub(crate) fn failed(&self, reason: &str) {
        let n = Self::REASONS
            .iter()
            .position(|r| *r == reason)
            .expect("REASONS has every reason");
        self.failures[n].inc();
    }
}

impl PoolMetrics {
    /// Brings the gauges up to date; done before each scrape.
    pub(crate) fn refresh(&self, pool: &Pool, now: Instant) {
        let mut available = 0;
        for (metrics, state) in self.servers.iter().zip(pool.states(now)) {
            metrics.up.set(state.healthy as i64);
            metrics.ejected.set(state.ejected as i64);
            metrics.warming.set(state.warming as i64);
            metrics.drained.set(i64::from(state.drained));
            metrics.in_flight.set(state.in_flight as i64);
            available += i64::from(state.is_available());
        }
        self.available.set(available);
        for (gauge, waiting) in self.queue_depth.iter().zip(pool.waiting()) {
            gauge.set(waiting as i64);
        }
    }

    /// Notes how many models and voices are listed.
    pub(crate) fn listed(&self, (models, voices): (usize, usize)) {
        self.listed[0].set(models as i64);
        self.listed[1].set(voices as i64);
    }

    /// Counts a request that the queue did not serve.
    pub(crate) fn refused(&self, why: QueueRefusal) {
        let n = QUEUE_REFUSALS
            .iter()
            .position(|(refusal, _)| *refusal == why);
        self.queue_refused[n.expect("the list has every refusal")].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_help_text_and_the_prefix() {
        let metrics = Metrics::new(&[]);
        let text = String::from_utf8(metrics.exposition(3)).unwrap();
        assert!(text.contains("trunkline_log_lines_dropped_total 3"));
        assert!(text.contains("trunkline_build_info{version="));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("trunkline_") || line.starts_with("process_"),
                "{line}"
            );
        }
        assert!(
            metrics.exposition(3).len() > 100,
            "a second scrape does not count twice"
        );
    }

    /// The series of route `r` in a table of so many.
    fn series(routes: usize) -> (usize, usize) {
        let routes: Vec<String> = (0..routes)
            .map(|n| format!("{{ name: r{n}, match: {{ model: m{n} }}, pool: a }}"))
            .collect();
        let routes = routes.join(", ");
        let yaml = format!("pools: {{ a: {{ servers: ['http://h:1'] }} }}\nroutes: [{routes}]");
        let (config, _) = crate::config::read(&yaml, std::path::Path::new("."), &|_| None);
        let config = config.unwrap();
        let metrics = Metrics::new(&[]);
        let of = metrics.route(&config, &config.routes[0]);
        let count = || {
            let text = String::from_utf8(metrics.exposition(0)).unwrap();
            let lines = text.lines();
            lines
                .filter(|line| line.contains("route=\"r0\"") && !line.contains("_bucket"))
                .count()
        };
        let before = count();
        of.answered(Some(0), 200, 0.1);
        of.tokens_in.inc_by(0);
        of.request_bytes.inc_by(7);
        assert_eq!(of.counts(&metrics).requests, 1);
        (before, count())
    }

    #[test]
    fn a_long_table_has_only_the_series_that_counted_something() {
        let (before, after) = series(FEW_ROUTES);
        assert!(before > 50 && before == after, "{before} {after}");
        // the status, the duration's sum and count, and the bytes
        assert_eq!(series(FEW_ROUTES + 1), (0, 4));
    }

    #[test]
    fn an_unusual_status_makes_no_series_of_its_own() {
        let metrics = Metrics::new(&[]);
        let unrouted = metrics.unrouted();
        for status in 600..700 {
            unrouted.answered(None, status, 0.1);
        }
        let text = String::from_utf8(metrics.exposition(0)).unwrap();
        assert!(text.contains(
            "trunkline_requests_total{code=\"other\",pool=\"local\",route=\"none\"} 100"
        ));
    }
}
