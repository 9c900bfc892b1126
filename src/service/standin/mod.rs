//! Stand-ins: small servers of our own that speak the API, for whoever has no box yet, and for
//! tests and benchmarks.
//!
//! They answer with real audio and real event streams, but think nothing: a tone as long as the
//! text, the size of what was heard, an echo. Every answer says `x-trunkline-demo: true`.

mod answers;
mod http1;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a stand-in does besides answering; for tests and benchmarks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Knobs {
    /// Waits so long before the first byte.
    pub(crate) delay: Duration,
    /// Waits so long between the pieces of a stream.
    pub(crate) gap: Duration,
    /// Answers with this status instead.
    pub(crate) status: Option<u16>,
    /// Pieces of a streamed chat; by default as many as there are words.
    pub(crate) chunks: Option<usize>,
    /// Breaks the connection after so many bytes of a body.
    pub(crate) cut: Option<usize>,
}

/// A stand-in's name and knobs.
#[derive(Clone, Debug)]
pub(crate) struct StandIn {
    pub(crate) name: String,
    pub(crate) knobs: Knobs,
}

/// Serves connections of `listener` until `stop` says so; then nothing of it answers any more.
pub(crate) async fn serve(
    listener: TcpListener,
    stand_in: StandIn,
    stop: impl Future<Output = ()>,
) {
    let mut connections = tokio::task::JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(http1::serve(stream, stand_in.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The running stand-ins of the embedded default, by name.
#[derive(Default)]
pub(crate) struct StandIns(Mutex<HashMap<String, Running>>);

struct Running {
    address: SocketAddr,
    /// What stops it, and what ends when it has stopped; `None` while it is stopped.
    task: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl StandIns {
    /// Starts one on a port of its own and says where.
    ///
    /// # Errors
    /// If no port can be had.
    pub(crate) async fn add(&self, name: &str) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = spawn(listener, name);
        self.all().insert(
            name.to_owned(),
            Running {
                address,
                task: Some(task),
            },
        );
        Ok(address)
    }

    /// Stops one as if its machine had gone: connections break, new ones are refused.
    pub(crate) async fn stop(&self, name: &str) -> Result<(), String> {
        let task = self
            .all()
            .get_mut(name)
            .ok_or_else(|| unknown(name))?
            .task
            .take();
        let (stop, stopped) = task.ok_or_else(|| format!("{name} is stopped already"))?;
        let _ = stop.send(());
        stopped.await.map_err(|e| format!("{name}: {e}"))
    }

    /// Starts a stopped one where it was.
    pub(crate) async fn start(&self, name: &str) -> Result<(), String> {
        let address = match self.all().get(name) {
            None => return Err(unknown(name)),
            Some(Running { task: Some(_), .. }) => {
                return Err(format!("{name} is running already"));
            }
            Some(running) => running.address,
        };
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("{name}: {e}"))?;
        if let Some(running) = self.all().get_mut(name) {
            running.task = Some(spawn(listener, name));
        }
        Ok(())
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(listener: TcpListener, name: &str) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let stand_in = StandIn {
        name: name.to_owned(),
        knobs: Knobs::default(),
    };
    let (stop, stopping) = oneshot::channel();
    let stopping = async move {
        // without anybody to stop it, it goes on
        if stopping.await.is_err() {
            std::future::pending().await
        }
    };
    (stop, tokio::spawn(serve(listener, stand_in, stopping)))
}

fn unknown(name: &str) -> String {
    format!("there is no stand-in called {name}")
}
