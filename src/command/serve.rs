//! `trunkline run`: from a configuration to a running proxy, and from a signal to its end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::background::{self, PidFile};
use super::conductor::{Conductor, End, Signals};
use super::listeners::{Listeners, Prepared, Serving, lock, watch_certificates};
use super::reload::{Files, Reload};
use super::upgrade::{self, Inherited, Program};
use crate::cli::{BAD_CONFIG, FAILED, OK, Run};
use crate::command::embedded::{self, Embedded};
use crate::command::{logger, source};
use crate::config::{self, Config, Format};
use crate::gateway::Gateway;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::descriptors;
use crate::proxy::idle::Shelves;
use crate::proxy::listen::Gate;
use crate::proxy::{Edge, Snapshot};
use crate::reply;
use crate::service::admin::Admin;
use crate::service::notify::Notify;
use crate::service::probe::{self, Watcher};
use crate::service::spending::Spending;
use crate::service::{jwks, listing, sharing};

/// Connections to servers that are kept open at once.
const KEPT_CONNECTIONS: usize = 1024;
/// Connections that admin endpoints serve at once.
const ADMIN_CONNECTIONS: usize = 256;

/// How long requests may take to end that are cut.
const CUT_TIME: Duration = Duration::from_secs(1);
/// How long clients may keep a connection to a program that was replaced. Each answer closes its
/// connection from then on; those that ask nothing so long are closed with nothing to lose.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// A server that runs: what reloads and the end of it need.
pub(super) struct Running {
    pub(super) edge: Arc<Edge>,
    watcher: Watcher,
    /// Held while a configuration is put into service: each builds on the one before.
    changing: tokio::sync::Mutex<()>,
    /// A file is in service, or was there from the start.
    pub(super) from_file: AtomicBool,
    pub(super) notify: Notify,
    pub(super) listeners: Arc<Mutex<Listeners>>,
    gate: Arc<Gate>,
    admin_gate: Arc<Gate>,
    admin: Arc<Admin>,
    /// What keys have spent, once some have budgets.
    spending: Mutex<Option<Arc<Spending>>>,
    /// Where the configuration is from, for people.
    source: String,
}

impl Running {
    /// Puts a configuration into service. Listeners stay as they are.
    pub(super) async fn put_into_service(&self, config: Config) {
        let _one_at_a_time = self.changing.lock().await;
        let old = self.edge.snapshot();
        let watch = |pool: &config::Pool, n: usize| self.watcher.watch(pool, n);
        let gateway = Gateway::build(
            config,
            Some(&old.gateway),
            &self.edge.metrics,
            Instant::now(),
            &watch,
        );
        probe::start(&gateway, Some(&old.gateway), &self.edge.metrics).await;
        jwks::start(&gateway, &self.edge.connector, &self.edge.metrics).await;
        old.gateway.retire(&gateway, &self.edge.metrics);
        let replaced = old.gateway.pools.iter().filter(|pool| {
            let kept = gateway.pools.iter().any(|new| Arc::ptr_eq(new, pool));
            !kept
        });
        replaced.for_each(|pool| pool.retire());
        self.edge.replace(Snapshot::new(gateway));
        self.edge.metrics.configured();
    }

    /// Serves what was opened, and ends what is not wanted any more.
    ///
    /// # Errors
    /// If no descriptor is left for a listener; the others are served.
    pub(super) fn serve_listeners(&self, prepared: Prepared) -> Result<(), String> {
        let serving = Serving {
            edge: &self.edge,
            gate: &self.gate,
            admin_gate: &self.admin_gate,
            admin: &self.admin,
            source: &self.source,
        };
        lock(&self.listeners).serve(prepared, &serving)
    }

    /// Reads what keys have spent, and writes it from now on. The file is the first one that a
    /// configuration names.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(super) fn keep_budgets(&self, file: Option<PathBuf>) -> Result<(), String> {
        let Some(file) = file else { return Ok(()) };
        let mut kept = self.spending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept {
            if kept.file != file {
                log::warn!("`budgets.file` changes only with `trunkline upgrade` or a restart");
            }
            return Ok(());
        }
        let ledger = self.edge.snapshot().gateway.limits.ledger.clone();
        let spending = Arc::new(Spending::open(ledger, file)?);
        tokio::spawn(spending.clone().keep());
        *kept = Some(spending);
        Ok(())
    }

    fn write_budgets(&self) {
        let kept = self.spending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = kept.as_ref().map(|spending| spending.write()) {
            log::error!("what keys have spent cannot be written: {error}");
        }
    }

    pub(super) fn set_limits(&self, limits: config::Limits) {
        let connections = descriptors::fitting(limits.connections);
        let of_address = limits.connections_per_ip;
        (self.gate).set(connections, of_address, limits.header_timeout);
        let unbounded = config::PerAddress::default();
        (self.admin_gate).set(ADMIN_CONNECTIONS, unbounded, limits.header_timeout);
    }
}

/// Serves until told to stop; says with which code to exit.
pub(crate) fn run(options: &Run) -> u8 {
    background::leave_terminal();
    // both before there are threads, and before anything changes folders
    let (inherited, program) = (Inherited::take_over(), Program::this());
    let source = match source::find(options.config.as_deref()) {
        Ok(source) => source,
        Err(message) => {
            eprintln!("trunkline: {message}");
            return BAD_CONFIG;
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkline: {error}");
            return FAILED;
        }
    };
    let served = runtime.block_on(async {
        let (config, name, embedded) = match source {
            Some(source) => {
                let config = source.load_or_explain().ok_or((BAD_CONFIG, None))?;
                (config, source.name, None)
            }
            None => {
                let embedded = embedded::prepare(options).await.map_err(failed)?;
                let name = "the embedded default".to_owned();
                (embedded.config(), name, Some(embedded))
            }
        };
        serve(config, options, name, embedded, inherited, &program).await
    });
    // what still runs was given its time already
    runtime.shutdown_background();
    match served {
        Ok(()) => OK,
        Err((code, message)) => {
            if let Some(message) = message {
                eprintln!("trunkline: {message}");
            }
            code
        }
    }
}

/// With which code to exit, and what is to be said if it was not said yet.
type Failure = (u8, Option<String>);

fn failed(message: String) -> Failure {
    (FAILED, Some(message))
}

async fn serve(
    mut config: Config,
    options: &Run,
    source: String,
    embedded: Option<Embedded>,
    mut inherited: Inherited,
    program: &Program,
) -> Result<(), Failure> {
    let file: Option<PathBuf> = embedded.is_none().then(|| source.as_str().into());
    let files = Files::new(file.iter().chain(&config.files).cloned().collect());
    apply(options, &mut config).map_err(|why| (BAD_CONFIG, Some(why)))?;
    set_logger(&config.log, options);
    logger::start();
    // two descriptors a request; the usual 1024 would be over with 500 of them
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => log::debug!("{limit} descriptors may be open at once"),
        Err(error) => log::warn!("the limit of open descriptors cannot be raised: {error}"),
    }
    look_for_authorities().map_err(failed)?;
    let metrics = Arc::new(Metrics::new(reply::CODES));
    let listeners = Listeners::default();
    let prepared = listeners
        .prepare(&config, &mut inherited, &metrics)
        .map_err(failed)?;
    inherited.close_the_rest();
    let access_log = AccessLog::open(&config.log.access, access_format(&config.log))
        .map_err(|error| failed(format!("the access log cannot be opened: {error}")))?;
    let limits = config.limits;
    let (order, orders) = mpsc::channel(8);
    let stand_ins = embedded.as_ref().map(|e| e.stand_ins.clone());
    let (address, admin_address) = prepared.addresses();
    let running = start(config, metrics, access_log, |edge| Admin {
        edge: edge.clone(),
        config: source.clone(),
        listeners: Arc::default(),
        orders: order,
        stand_ins: stand_ins.unwrap_or_default(),
    })
    .await;
    running.set_limits(limits);
    let budget_file = running.edge.snapshot().gateway.config.budget_file.clone();
    running.keep_budgets(budget_file).map_err(failed)?;
    // before anybody knows that it runs, and may tell it to stop
    let signals = Signals::new();
    let _pid_file = options.pid_file.as_deref().map(PidFile::write);
    running.serve_listeners(prepared).map_err(failed)?;
    drain_as_before(&running.edge);
    tokio::spawn(watch_certificates(running.listeners.clone()));
    if let (Some(embedded), Some(address)) = (embedded, address) {
        running.edge.metrics.demo.set(i64::from(embedded.is_demo()));
        embedded.introduce(&address.to_string(), admin_address);
        tokio::spawn(embedded.keep_looking(running.clone()));
    }
    #[cfg(feature = "otlp")]
    let traces = crate::service::otlp::start(&running.edge);
    tokio::spawn(listing::keep_asking(running.edge.clone()));
    tokio::spawn(sharing::keep_sharing(running.edge.clone()));
    tokio::spawn(jwks::keep_asking(running.edge.clone()));
    running.notify.ready();
    tokio::spawn(running.notify.clone().keep_alive(running.edge.clone()));
    let conductor = Conductor {
        reload: Reload {
            running: &running,
            options,
            file,
        },
        orders,
        program,
        files,
        signals,
    };
    match conductor.until_the_end().await {
        End::Stopped => stop(&running).await,
        End::Replaced => leave(&running).await,
    }
    running.edge.access_log.flush();
    running.write_budgets();
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(())
}

/// Stops: not ready any more, then deaf to clients, then done.
async fn stop(running: &Running) {
    log::info!("stopping");
    let shutdown = running.edge.snapshot().gateway.config.shutdown;
    running.notify.stopping();
    running.edge.draining.store(true, Relaxed);
    tokio::time::sleep(shutdown.drain).await;
    // readiness and metrics can be asked for to the very end
    lock(&running.listeners).stop_accepting(false).end();
    end(running, shutdown.grace).await;
}

/// Finishes what was begun, however long it takes: another program serves what is new.
async fn leave(running: &Running) {
    let connections = lock(&running.listeners).stop_accepting(true);
    let until_told = async {
        let mut term = signal(SignalKind::terminate()).expect("it was listened to before");
        let mut int = signal(SignalKind::interrupt()).expect("it was listened to before");
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    let until_done = async {
        if tokio::time::timeout(LEAVE_TIME, gone(&running.gate))
            .await
            .is_err()
        {
            log::debug!(
                "{} connections are kept by their clients",
                running.gate.open()
            );
        }
        connections.end();
        finish(&running.edge, &running.gate, Duration::MAX).await;
        // whoever asked for the upgrade waits for the answer
        let _ = tokio::time::timeout(CUT_TIME, gone(&running.admin_gate)).await;
    };
    tokio::select! {
        () = until_done => log::info!("everything is finished"),
        () = until_told => {
            log::info!("stopping");
            end(running, running.edge.snapshot().gateway.config.shutdown.grace).await;
        }
    }
}

/// Waits until nobody is connected.
async fn gone(gate: &Gate) {
    while gate.open() > 0 {
        tokio::time::sleep(TICK).await;
    }
}

/// Gives requests their time, and cuts those that take longer.
async fn end(running: &Running, grace: Duration) {
    let (edge, gate) = (&running.edge, &running.gate);
    let unfinished = finish(edge, gate, grace).await;
    if unfinished > 0 {
        log::warn!("{unfinished} requests were not done within shutdown.grace and are cut");
        edge.cut_requests();
        finish(edge, gate, CUT_TIME).await;
    }
}

/// Builds the gateway, finds its servers and starts to watch them.
async fn start(
    config: Config,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    admin: impl FnOnce(&Arc<Edge>) -> Admin,
) -> Arc<Running> {
    let connector = Arc::new(Connector::new(Some(ConnectorOptions::new(
        KEPT_CONNECTIONS,
    ))));
    let watcher = Watcher {
        connector: connector.clone(),
        metrics: metrics.clone(),
    };
    let watch = |pool: &config::Pool, n: usize| watcher.watch(pool, n);
    let gateway = Gateway::build(config, None, &metrics, Instant::now(), &watch);
    if let Some(before) = upgrade::ids_before() {
        gateway.take_over_ids(&before);
    }
    if gateway.state.is_none() && gateway.affinity().dies_with_the_program() {
        log::info!(
            "ids of files, batches, responses and the like lead nowhere after a restart, as `affinity` has no secret"
        );
    }
    probe::start(&gateway, None, &metrics).await;
    jwks::start(&gateway, &connector, &metrics).await;
    metrics.configured();
    let shelves = Arc::new(Shelves::new(KEPT_CONNECTIONS));
    tokio::spawn(shelves.clone().sweep());
    let edge = Arc::new(Edge::new(
        Snapshot::new(gateway),
        connector,
        shelves.clone(),
        metrics,
        access_log,
    ));
    let admin = Arc::new(admin(&edge));
    Arc::new(Running {
        watcher,
        changing: tokio::sync::Mutex::default(),
        from_file: AtomicBool::new(false),
        notify: Notify::from_environment(upgrade::READY),
        listeners: Arc::default(),
        gate: Arc::default(),
        admin_gate: Arc::default(),
        spending: Mutex::default(),
        source: admin.config.clone(),
        admin,
        edge,
    })
}

/// What the command line and the environment say instead of the file.
///
/// # Errors
/// If the admin endpoints would be open to everybody.
pub(super) fn apply(options: &Run, config: &mut Config) -> Result<(), String> {
    if let Some(address) = options.listen {
        config.listeners.truncate(1);
        config.listeners[0].address = address;
    }
    if let Some(address) = options.admin {
        let admin = config.admin.take().unwrap_or_else(|| config::Admin {
            token: config::Admin::token_of(&|name| std::env::var(name).ok()),
            ..config::Admin::at(address)
        });
        let admin = config::Admin { address, ..admin };
        admin.may_listen()?;
        config.admin = Some(admin);
    }
    Ok(())
}

pub(super) fn set_logger(log: &config::Log, options: &Run) {
    let level = options.log.map_or(log.level, Into::into);
    // the few lines of a start are for people, wherever they go, unless the file says otherwise
    logger::set(level, log.format.unwrap_or(Format::Text));
}

pub(super) fn access_format(log: &config::Log) -> Format {
    let default = || logger::default_format(&std::io::stdout());
    log.format.unwrap_or_else(default)
}

/// Servers that the program before had drained stay drained.
fn drain_as_before(edge: &Edge) {
    let snapshot = edge.snapshot();
    for (name, left) in upgrade::drained_before() {
        match snapshot.gateway.server_named(&name) {
            Ok((pool, server)) => pool.drain(server, left, Instant::now()),
            Err(why) => log::warn!("{why}"),
        }
    }
}

/// Pingora reads the system's certificate authorities, and panics if these lead nowhere.
fn look_for_authorities() -> Result<(), String> {
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let path = std::env::var_os(name).map(std::path::PathBuf::from);
        if let Some(path) = path.filter(|path| !path.exists()) {
            let path = path.display();
            return Err(format!("${name} names {path}, which does not exist"));
        }
    }
    Ok(())
}

/// How often it is looked whether all is done.
const TICK: Duration = Duration::from_millis(5);

/// Waits for the requests in flight; says how many are left when their time is over.
async fn finish(edge: &Edge, gate: &Gate, grace: Duration) -> i64 {
    let end = Instant::now().checked_add(grace);
    let in_time = || end.is_none_or(|end| Instant::now() < end);
    while edge.metrics.in_flight.get() > 0 && in_time() {
        tokio::time::sleep(TICK).await;
    }
    log::debug!("{} connections are open at the end", gate.open());
    edge.metrics.in_flight.get()
}
