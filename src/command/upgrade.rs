//! Upgrade: another program takes over the listening sockets, and this one finishes its requests.
//!
//! The program is started anew, as it was, with the sockets in its hands (`$LISTEN_FDS`, as systemd
//! hands them over too). When it says that it serves, nobody new is accepted here. The sockets are
//! the same ones all the time, so no connection is refused, and none that waits in line is lost.

use std::ffi::OsString;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;

use crate::affinity::Affinity;
use crate::cli::OK;
use crate::gateway::Gateway;
use crate::proxy::listen::Socket;

/// What the sockets handed over were asked for by, in their order: port 0 is not the port it became.
const SOCKETS: &str = "TRUNKLINE_SOCKETS";
/// Servers drained by hand, and for how many more seconds.
const DRAINED: &str = "TRUNKLINE_DRAINED";
/// What ids are signed with, where the configuration does not say.
const AFFINITY: &str = "TRUNKLINE_AFFINITY";
/// Where to say that the program serves: a name of an abstract socket.
pub(crate) const READY: &str = "TRUNKLINE_READY";

/// How long another program may take until it serves: it looks for its servers first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Sockets that were open before this program began.
#[derive(Default)]
pub(super) struct Inherited(Vec<(SocketAddr, Socket)>);

impl Inherited {
    /// Those that systemd or the program before handed over. To be called before there are threads:
    /// it changes the environment.
    pub(super) fn take_over() -> Self {
        let mut handed = ListenFd::from_env();
        let asked = std::env::var(SOCKETS).unwrap_or_default();
        let mut asked = asked.split(',').map(|address| address.parse().ok());
        let mut sockets = Vec::new();
        for n in 0..handed.len() {
            let asked = asked.next().flatten();
            let socket = handed
                .take_tcp_listener(n)
                .and_then(|socket| socket.map(Socket::of).transpose());
            match socket {
                Ok(Some(socket)) => sockets.push((asked.unwrap_or(socket.address), socket)),
                Ok(None) => {}
                Err(error) => {
                    eprintln!("trunkline: a socket that was handed over cannot be used: {error}")
                }
            }
        }
        Inherited(sockets)
    }

    /// The one that was asked for by this address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<Socket> {
        let found = self.0.iter().position(|(asked, _)| *asked == address)?;
        Some(self.0.remove(found).1)
    }

    /// Closes those that nobody wants, and says which: at a socket that is open and not served,
    /// clients would wait for ever.
    pub(super) fn close_the_rest(self) {
        for (_, socket) in self.0 {
            let address = socket.address;
            log::warn!(
                "{address} was handed over, but no listener of the configuration has this address"
            );
        }
    }
}

/// Servers that the program before had drained, with the time that is left.
pub(super) fn drained_before() -> Vec<(String, Option<Duration>)> {
    let text = std::env::var(DRAINED).unwrap_or_default();
    let one = |entry: &str| {
        let (server, seconds) = entry.rsplit_once('=')?;
        Some((
            server.to_owned(),
            seconds.parse().ok().map(Duration::from_secs),
        ))
    };
    text.split(',').filter_map(one).collect()
}

/// What is known of ids that the program before handed out.
pub(super) fn ids_before() -> Option<Affinity> {
    Affinity::of_before(&std::env::var(AFFINITY).ok()?)
}

fn written(drained: &[(String, Option<Duration>)]) -> String {
    let one = |(server, left): &(String, Option<Duration>)| {
        let seconds = left.map(|left| left.as_secs().max(1).to_string());
        format!("{server}={}", seconds.unwrap_or_default())
    };
    drained.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The program as it was started, which may be another one by now.
pub(super) struct Program {
    pub(super) path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This one. A link is not followed yet: it may lead elsewhere by the time of an upgrade.
    pub(super) fn this() -> Self {
        let mut arguments = std::env::args_os();
        let typed = PathBuf::from(arguments.next().unwrap_or_default());
        let typed = match typed.components().count() {
            1 => on_path(&typed),
            _ => std::path::absolute(&typed)
                .ok()
                .filter(|path| path.exists()),
        };
        let path = typed.or_else(|| std::env::current_exe().ok());
        Program {
            path: path.unwrap_or_else(|| "trunkline".into()),
            arguments: arguments.collect(),
        }
    }

    /// Starts it with these sockets, and waits until it serves; its process id.
    ///
    /// # Errors
    /// If it cannot serve, or this one is told to stop meanwhile, in words. The sockets are as they
    /// were.
    pub(super) fn take_over(
        &self,
        config: Option<&Path>,
        sockets: Vec<(SocketAddr, OwnedFd)>,
        gateway: &Gateway,
        told_to_stop: &mut dyn FnMut() -> bool,
    ) -> Result<u32, String> {
        if std::process::id() == 1 {
            return Err("this is the first process of a container, which ends with it; replace the container instead".into());
        }
        let mut patience = Patience::new(told_to_stop);
        self.check(config, &mut patience)?;
        let waiting = Waiting::new().map_err(|e| format!("nobody can be waited for: {e}"))?;
        let addresses: Vec<String> = sockets.iter().map(|(asked, _)| asked.to_string()).collect();
        // descriptors are counted from 3, as systemd does
        let handed = sockets
            .into_iter()
            .zip(3..)
            .map(|((_, socket), n)| FdMapping {
                parent_fd: socket,
                child_fd: n,
            });
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env(SOCKETS, addresses.join(","))
            .env("LISTEN_FDS", addresses.len().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID")
            .env(DRAINED, written(&gateway.drained(Instant::now())))
            .env(READY, &waiting.name)
            .stdin(Stdio::null());
        // to be read by this user and the administrator, as is the memory that it is in now
        command.env_remove(AFFINITY);
        command.envs(gateway.affinity().to_hand_over().map(|key| (AFFINITY, key)));
        command
            .fd_mappings(handed.collect())
            .map_err(|e| format!("the sockets cannot be handed over: {e}"))?;
        let mut child = command
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", self.path.display()))?;
        waiting.wait(&mut child, &mut patience)?;
        Ok(child.id())
    }

    /// Whether the program that is there now can read the configuration that is there now.
    fn check(&self, config: Option<&Path>, patience: &mut Patience<'_>) -> Result<(), String> {
        let Some(config) = config else { return Ok(()) };
        let (checked, said) = self
            .start_check(config)
            .map_err(|e| format!("{} cannot be started: {e}", self.path.display()))?;
        match patience.wait_for(checked, has_ended)?.code() {
            Some(code) if code == i32::from(OK) => Ok(()),
            _ => {
                // all is said by now, unless it left somebody behind who has the pipe still
                let said = said.recv_timeout(LOOK * 10).unwrap_or_default();
                Err(format!(
                    "{} does not take the configuration:\n{}",
                    self.path.display(),
                    String::from_utf8_lossy(&said).trim()
                ))
            }
        }
    }

    /// The check, under way, and what it will have said.
    fn start_check(&self, config: &Path) -> std::io::Result<(Child, mpsc::Receiver<Vec<u8>>)> {
        let (mut pipe, output) = std::io::pipe()?;
        let child = Command::new(&self.path)
            .args(["check-config", "--quiet"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            let _ = tell.send(text);
        });
        Ok((child, said))
    }
}

fn on_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.find(|place| place.is_file())
}

fn has_ended(child: &mut Child) -> Option<ExitStatus> {
    let ended = child.try_wait().ok().flatten();
    if ended.is_none() {
        std::thread::sleep(LOOK);
    }
    ended
}

/// For how long another program is waited for: not beyond its time, and not when this one is told
/// to stop, or whoever stops it would leave the other one behind.
pub(super) struct Patience<'a> {
    end: Instant,
    told_to_stop: &'a mut dyn FnMut() -> bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(told_to_stop: &'a mut dyn FnMut() -> bool) -> Self {
        Patience {
            end: Instant::now() + PATIENCE,
            told_to_stop,
        }
    }

    /// What `look` finds at last; it takes a moment each time. Without that, `child` is ended.
    fn wait_for<T>(
        &mut self,
        mut child: impl std::borrow::BorrowMut<Child>,
        mut look: impl FnMut(&mut Child) -> Option<T>,
    ) -> Result<T, String> {
        let child = child.borrow_mut();
        let mut why = format!(
            "the program did not come to serve in {} s and was ended",
            PATIENCE.as_secs()
        );
        while Instant::now() < self.end {
            let found = look(child);
            if (self.told_to_stop)() {
                why = "this program was told to stop meanwhile; the other one was ended".to_owned();
                break;
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(why)
    }
}

/// Who waits until another program serves.
pub(super) struct Waiting {
    socket: UnixDatagram,
    /// For its environment.
    pub(super) name: String,
}

impl Waiting {
    pub(super) fn new() -> std::io::Result<Self> {
        let name = format!(
            "trunkline-{}-{:016x}",
            std::process::id(),
            fastrand::u64(..)
        );
        let socket = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name)?)?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Waiting {
            socket,
            name: format!("@{name}"),
        })
    }

    /// Waits until `child` serves.
    ///
    /// # Errors
    /// If it ends, or is not waited for any longer and is ended.
    pub(super) fn wait(
        &self,
        child: &mut Child,
        patience: &mut Patience<'_>,
    ) -> Result<(), String> {
        let mut message = [0; 256];
        patience.wait_for(child, |child| {
            if let Ok(n) = self.socket.recv(&mut message)
                && message[..n].starts_with(b"READY=1")
            {
                return Some(Ok(()));
            }
            let status = child.try_wait().ok().flatten()?;
            Some(Err(format!(
                "the program ended before it served ({status}); its messages are in the log"
            )))
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drained_servers_are_written_as_they_are_read() {
        let drained = [
            ("kokoro/gpu-a".to_owned(), Some(Duration::from_secs(600))),
            ("kokoro/gpu-b".to_owned(), None),
        ];
        assert_eq!(written(&drained), "kokoro/gpu-a=600,kokoro/gpu-b=");
    }
}
