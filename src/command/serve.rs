//! `trunkline run`: from a configuration to a running proxy, and from a signal to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pingora::apps::http_app::HttpServer;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use tokio::sync::{mpsc, watch};

use crate::cli::{BAD_CONFIG, FAILED, OK, Run};
use crate::command::embedded::{self, Embedded};
use crate::command::reload::Conductor;
use crate::command::{logger, source};
use crate::config::{self, Config, Format};
use crate::gateway::Gateway;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::http2::Front;
use crate::proxy::listen::{Gate, Listener};
use crate::proxy::tls::{self, Tls};
use crate::proxy::{Edge, Proxy, Snapshot};
use crate::reply;
use crate::service::admin::Admin;
use crate::service::notify::Notify;
use crate::service::probe::{self, Watcher};

/// Connections to servers that are kept open at once.
const KEPT_CONNECTIONS: usize = 1024;
/// Connections that admin endpoints serve at once.
const ADMIN_CONNECTIONS: usize = 256;

/// How long requests may take to end that are cut.
const CUT_TIME: Duration = Duration::from_secs(1);

/// A server that runs: what reloads and the end of it need.
pub(super) struct Running {
    pub(super) edge: Arc<Edge>,
    watcher: Watcher,
    /// Held while a configuration is put into service: each builds on the one before.
    changing: tokio::sync::Mutex<()>,
    /// A file is in service, or was there from the start.
    pub(super) from_file: AtomicBool,
    pub(super) notify: Notify,
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
        old.gateway.retire(&gateway, &self.edge.metrics);
        let replaced = old.gateway.pools.iter().filter(|pool| {
            let kept = gateway.pools.iter().any(|new| Arc::ptr_eq(new, pool));
            !kept
        });
        replaced.for_each(|pool| pool.retire());
        self.edge.replace(Snapshot::new(gateway));
        self.edge.metrics.configured();
    }
}

/// Serves until told to stop; says with which code to exit.
pub(crate) fn run(options: &Run) -> u8 {
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
    let code = runtime.block_on(async {
        match source {
            Some(source) => {
                let Some(config) = source.load_or_explain() else {
                    return BAD_CONFIG;
                };
                serve(config, options, &source.name, None).await
            }
            None => match embedded::prepare(options).await {
                Ok(embedded) => {
                    let config = embedded.config();
                    serve(config, options, "the embedded default", Some(embedded)).await
                }
                Err(message) => {
                    eprintln!("trunkline: {message}");
                    FAILED
                }
            },
        }
    });
    // what still runs was given its time already
    runtime.shutdown_background();
    code
}

async fn serve(mut config: Config, options: &Run, source: &str, embedded: Option<Embedded>) -> u8 {
    apply(options, &mut config);
    start_logger(&config, options);
    // two descriptors a request; the usual 1024 would be over with 500 of them
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => log::debug!("{limit} descriptors may be open at once"),
        Err(error) => log::warn!("the limit of open descriptors cannot be raised: {error}"),
    }
    let metrics = Arc::new(Metrics::new(reply::CODES));
    let opened = match open(&config, &metrics).await {
        Ok(opened) => opened,
        Err(message) => {
            eprintln!("trunkline: {message}");
            return FAILED;
        }
    };
    let (shutdown, limits) = (config.shutdown, config.limits);
    let listeners = config.listeners.clone();
    let running = start(config, metrics, opened.access_log).await;

    let (stop, stopping) = watch::channel(false);
    let gate = Gate::new(limits.connections, limits.header_timeout);
    let addresses: Vec<String> = opened
        .clients
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    for (listener, settings) in opened.clients.into_iter().zip(listeners) {
        let scheme = settings.tls.as_ref().map_or("http", |_| "https");
        log::info!("listening on {scheme}://{} with {source}", listener.address);
        let app = front(&running.edge, listener.address, settings);
        tokio::spawn(listener.serve(app, gate.clone(), stopping.clone()));
    }
    let certificates = opened.certificates;
    tokio::spawn(tls::watch(certificates.clone()));
    // readiness and metrics can be asked for to the very end
    let (_admin_stop, admin_stopping) = watch::channel(false);
    let (order, orders) = mpsc::channel(8);
    let admin_address = opened.admin.as_ref().map(|listener| listener.address);
    if let Some(listener) = opened.admin {
        log::info!("admin endpoints on http://{}", listener.address);
        let admin = Admin {
            edge: running.edge.clone(),
            config: source.to_owned(),
            listeners: addresses.clone(),
            reloads: order,
            stand_ins: embedded
                .as_ref()
                .map_or_else(Arc::default, |e| e.stand_ins.clone()),
        };
        let gate = Gate::new(ADMIN_CONNECTIONS, limits.header_timeout);
        tokio::spawn(listener.serve(Arc::new(HttpServer::new_app(admin)), gate, admin_stopping));
    }
    let is_file = embedded.is_none();
    if let Some(embedded) = embedded {
        running.edge.metrics.demo.set(i64::from(embedded.is_demo()));
        embedded.introduce(&addresses[0], admin_address);
        tokio::spawn(embedded.keep_looking(running.clone()));
    }
    #[cfg(feature = "otlp")]
    let traces = crate::service::otlp::start(&running.edge);
    running.notify.ready();
    tokio::spawn(running.notify.clone().keep_alive(running.edge.clone()));
    let file = is_file.then(|| source.into());
    let conductor = Conductor {
        running: &running,
        options,
        certificates: &certificates,
        orders,
        file,
    };
    conductor.until_told_to_stop().await;
    log::info!("stopping");
    running.notify.stopping();
    running.edge.draining.store(true, Relaxed);
    tokio::time::sleep(shutdown.drain).await;
    let _ = stop.send(true);
    let unfinished = finish(&running.edge, &gate, shutdown.grace).await;
    if unfinished > 0 {
        log::warn!("{unfinished} requests were not done within shutdown.grace and are cut");
        running.edge.cut_requests();
        finish(&running.edge, &gate, CUT_TIME).await;
    }
    running.edge.access_log.flush();
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.finish().await;
    }
    OK
}

/// What serves the connections of a client listener.
fn front(edge: &Arc<Edge>, address: SocketAddr, settings: config::Listener) -> Arc<Front> {
    let proxy = Proxy {
        edge: edge.clone(),
        listener: address.to_string(),
        cors: settings.cors,
    };
    Arc::new(Front {
        proxy: Arc::new(proxy),
        h2c: settings.h2c,
    })
}

fn start_logger(config: &Config, options: &Run) {
    let level = options.log.map_or(config.log.level, Into::into);
    // the few lines of a start are for people, wherever they go, unless the file says otherwise
    logger::start(level, config.log.format.unwrap_or(Format::Text));
}

/// Builds the gateway, finds its servers and starts to watch them.
async fn start(config: Config, metrics: Arc<Metrics>, access_log: AccessLog) -> Arc<Running> {
    let connector = Arc::new(Connector::new(Some(ConnectorOptions::new(
        KEPT_CONNECTIONS,
    ))));
    let watcher = Watcher {
        connector: connector.clone(),
        metrics: metrics.clone(),
    };
    let watch = |pool: &config::Pool, n: usize| watcher.watch(pool, n);
    let gateway = Gateway::build(config, None, &metrics, Instant::now(), &watch);
    probe::start(&gateway, None, &metrics).await;
    metrics.configured();
    let edge = Arc::new(Edge::new(
        Snapshot::new(gateway),
        connector,
        metrics,
        access_log,
    ));
    Arc::new(Running {
        edge,
        watcher,
        changing: tokio::sync::Mutex::default(),
        from_file: AtomicBool::new(false),
        notify: Notify::from_environment(),
    })
}

/// What the command line and the environment say instead of the file.
pub(super) fn apply(options: &Run, config: &mut Config) {
    if let Some(address) = options.listen {
        config.listeners.truncate(1);
        config.listeners[0].address = address;
    }
    if let Some(address) = options.admin {
        config.admin = Some(address);
    }
}

/// What a start needs of the system, before anything is served.
struct Opened {
    clients: Vec<Listener>,
    /// Of the listeners that have one.
    certificates: Vec<Arc<Tls>>,
    admin: Option<Listener>,
    access_log: AccessLog,
}

async fn open(config: &Config, metrics: &Metrics) -> Result<Opened, String> {
    // Pingora reads the system's certificate authorities and panics if these lead nowhere
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(path) =
            std::env::var_os(name).filter(|path| !std::path::Path::new(path).exists())
        {
            return Err(format!(
                "${name} names {}, which does not exist",
                path.display()
            ));
        }
    }
    let bind = async |address: SocketAddr| {
        Listener::bind(address, metrics).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "{address} is taken by another program; `ss -ltnp 'sport = :{}'` names it, and --listen or --admin picks another",
                address.port()
            ),
            _ => format!("{address} cannot be listened on: {error}"),
        })
    };
    let mut clients = Vec::new();
    let mut certificates = Vec::new();
    for settings in &config.listeners {
        let listener = bind(settings.address).await?;
        let tls = match settings.tls.clone() {
            Some(tls) => Some(Arc::new(Tls::new(
                tls,
                listener.address.to_string(),
                metrics,
            )?)),
            None => None,
        };
        certificates.extend(tls.clone());
        clients.push(listener.with_tls(tls));
    }
    let admin = match config.admin {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let format = config
        .log
        .format
        .unwrap_or_else(|| logger::default_format(&std::io::stdout()));
    let access_log = AccessLog::open(&config.log.access, format)
        .map_err(|error| format!("the access log cannot be opened: {error}"))?;
    Ok(Opened {
        clients,
        certificates,
        admin,
        access_log,
    })
}

/// Waits for the requests in flight; says how many are left when their time is over.
async fn finish(edge: &Edge, gate: &Gate, grace: Duration) -> i64 {
    let end = Instant::now() + grace;
    while edge.metrics.in_flight.get() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log::debug!("{} connections are open at the end", gate.open());
    edge.metrics.in_flight.get()
}
