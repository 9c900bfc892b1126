//! The program replaced by another one while requests and streams are under way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::client::{connect, read_answer};
use crate::support::gateway::BINARY;
use crate::support::{Gateway, Request, Server, eventually};

/// A process that the proxy started, ended with the test.
struct Successor(u32);

impl Successor {
    /// Who serves now. The program before may still answer who asks at once.
    fn of(gateway: &Gateway) -> Self {
        let mut serves = gateway.pid();
        eventually("another one answers", || {
            serves = process(gateway);
            serves != gateway.pid()
        });
        Successor(serves)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg("-KILL")
            .arg(self.0.to_string())
            .status();
    }
}

fn process(gateway: &Gateway) -> u32 {
    gateway.ask_admin("/status").json()["process"]
        .as_u64()
        .unwrap() as u32
}

fn trunkline(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(BINARY)
        .args(arguments)
        .env("TRUNKLINE_ADMIN", gateway.admin.to_string())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

fn routed(server: &Server) -> String {
    format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: one }}], health: false }} }}\nroutes: [{{ name: all, pool: a }}]\n",
        server.url()
    )
}

/// Streams a hundred events, 20 ms apart, to who asks for a stream; else answers at once.
fn mixed() -> Server {
    Server::fake(|seen, wire| {
        if !seen.text().contains("stream") {
            wire.json(r#"{"served_by":"a"}"#);
            return true;
        }
        wire.chunked("text/event-stream");
        for n in 0..100 {
            wire.chunk(format!("data: {n}\n\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
        wire.chunk("data: [DONE]\n\n");
        wire.end();
        true
    })
}

/// Asks on one connection after the other, each until it is closed; the requests that got their
/// whole answer, and those that did not.
fn ask_without_end(to: SocketAddr, over: &AtomicBool, failed: &AtomicUsize) -> usize {
    let request = Request::json("/v1/x", "{}");
    let mut answered = 0;
    while !over.load(SeqCst) {
        let Ok(mut stream) = TcpStream::connect(to) else {
            failed.fetch_add(1, SeqCst);
            continue;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        while !over.load(SeqCst) {
            let answer = request.send_on(&mut stream);
            match (answer.status, answer.whole) {
                (200, true) => answered += 1,
                _ => {
                    failed.fetch_add(1, SeqCst);
                    break;
                }
            }
            if answer.header("connection") == Some("close") {
                break;
            }
        }
    }
    answered
}

#[test]
fn an_upgrade_under_load_refuses_no_connection_and_breaks_no_stream() {
    let server = mixed();
    let mut gateway = Gateway::start(&routed(&server));
    let before = process(&gateway);
    let (over, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| ask_without_end(gateway.address, &over, &failed)))
            .collect();
        let streams: Vec<_> = (0..100)
            .map(|_| gateway.send_aside(&Request::json("/v1/x", r#"{"stream":true}"#)))
            .collect();
        eventually("all are under way", || {
            gateway.metric("trunkline_requests_in_flight", &[]) >= 100.0
        });
        let (code, said) = trunkline(&gateway, &["upgrade"]);
        assert_eq!((code, said.contains("has taken over")), (0, true), "{said}");
        for stream in streams {
            let answer = stream.join().unwrap();
            assert!(answer.whole && answer.text().ends_with("data: [DONE]\n\n"));
        }
        over.store(true, SeqCst);
        clients
            .into_iter()
            .map(|c| c.join().unwrap())
            .sum::<usize>()
    });
    println!("{answered} requests and 100 streams over an upgrade");
    let after = Successor::of(&gateway);
    assert_ne!(after.0, before);
    assert_eq!(failed.load(SeqCst), 0, "of {answered}");
    assert_eq!(
        gateway.wait(Duration::from_secs(20)),
        0,
        "the old one ends by itself"
    );
    // no line is lost, whoever wrote it
    assert_eq!(gateway.access_log(answered + 100).len(), answered + 100);
    assert_eq!(gateway.post("/v1/x", "{}").status, 200);
}

#[test]
fn ids_lead_back_after_an_upgrade() {
    let boxes = ["one", "two"].map(|_| {
        Server::fake(|_, wire| {
            wire.json(r#"{"id":"file-1"}"#);
            true
        })
    });
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: x }}, {{ url: '{}', name: y }}], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        boxes[0].url(),
        boxes[1].url()
    ));
    let made = [(); 2].map(|()| gateway.post("/v1/files", "{}"));
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(code, 0, "{said}");
    let _after = Successor::of(&gateway);
    for made in made {
        let id = made.json()["id"].as_str().unwrap().to_owned();
        for _ in 0..3 {
            let found = gateway.get(&format!("/v1/files/{id}"));
            assert_eq!(found.status, 200, "{}", found.text());
            assert_eq!(found.header("x-backend"), made.header("x-backend"));
        }
    }
}

#[test]
fn a_program_that_cannot_serve_leaves_the_old_one_in_place() {
    let server = Server::named("a");
    let gateway = Gateway::start(&routed(&server));
    let before = process(&gateway);
    std::fs::write(gateway.config_path(), "pools: 7\n").unwrap();
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("does not take the configuration") && said.contains("trunkline.yaml:1"),
        "{said}"
    );
    assert_eq!(process(&gateway), before);
    assert_eq!(gateway.post("/v1/x", "{}").status, 200);
}

/// A folder whose `trunkline` leads to the real one, until another is installed in its place.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new() -> Self {
        let installed = Installed(tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(BINARY, installed.path("trunkline")).unwrap();
        installed
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A script in place of the real one.
    fn replace(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let new = self.path("new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, self.path("trunkline")).unwrap();
    }

    fn start(&self, yaml: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("trunkline.yaml");
        std::fs::write(&config, yaml).unwrap();
        let mut command = Command::new(self.path("trunkline"));
        command.arg("--config").arg(config);
        command.env("TRUNKLINE_PID_FILE", self.path("pid"));
        Gateway::run(command, folder, yaml)
    }
}

fn on_ports_of_its_own(server: &Server) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{}",
        routed(server)
    )
}

/// Whoever stops the program must not find it running on, as the one that was about to take over,
/// nor wait until that one has made up its mind.
#[test]
fn told_to_stop_during_an_upgrade_both_programs_end() {
    let server = Server::named("a");
    let checks = "[ \"$1\" = check-config ] && exit 0";
    let hangs_at_once = "touch $0.begun; exec sleep 60".to_owned();
    let hangs_later = format!("{checks}; touch $0.begun; exec sleep 60");
    let is_slow = format!("{checks}; touch $0.begun; sleep 2; exec {BINARY} \"$@\"");
    for script in [hangs_at_once, hangs_later, is_slow] {
        let installed = Installed::new();
        let mut gateway = installed.start(&on_ports_of_its_own(&server));
        installed.replace(&script);
        gateway.signal("QUIT");
        eventually("the other one begins", || {
            installed.path("trunkline.begun").exists()
        });
        assert_eq!(gateway.post("/v1/x", "{}").status, 200, "{script}");
        gateway.signal("TERM");
        assert_eq!(gateway.wait(Duration::from_secs(10)), 0, "{script}");
        // what the script has started may hold the socket for a while
        eventually("nobody listens any more", || {
            TcpStream::connect(gateway.address).is_err()
        });
        assert!(!installed.path("pid").exists(), "{script}");
    }
}

#[test]
fn a_failed_upgrade_leaves_the_pid_file_to_the_program_that_goes_on() {
    let server = Server::named("a");
    let installed = Installed::new();
    let gateway = installed.start(&on_ports_of_its_own(&server));
    installed.replace(
        "[ \"$1\" = check-config ] || echo $$ > $TRUNKLINE_PID_FILE; [ $1 = check-config ]",
    );
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(
        (code, said.contains("ended before it served")),
        (1, true),
        "{said}"
    );
    let pid = std::fs::read_to_string(installed.path("pid")).unwrap();
    assert_eq!(pid.trim(), gateway.pid().to_string());
}

/// Clients that connect to an open socket which nobody serves wait for ever.
#[test]
fn a_socket_that_the_new_program_does_not_want_is_closed() {
    let server = Server::named("a");
    let extra = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = extra.local_addr().unwrap();
    drop(extra);
    let with = |listen: String| format!("{listen}\nadmin: 127.0.0.1:0\n{}", routed(&server));
    let both = with(format!("listen: ['127.0.0.1:0', '{address}']"));
    let mut gateway = Gateway::start(&both);
    assert!(TcpStream::connect(address).is_ok());
    std::fs::write(gateway.config_path(), with("listen: 127.0.0.1:0".into())).unwrap();
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(code, 0, "{said}");
    let _after = Successor::of(&gateway);
    assert_eq!(gateway.wait(Duration::from_secs(20)), 0);
    assert!(TcpStream::connect(address).is_err());
    std::fs::write(gateway.config_path(), both).unwrap();
    let (code, said) = trunkline(&gateway, &["reload"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(Request::json("/v1/x", "{}").send(address).status, 200);
}

#[test]
fn drained_servers_stay_drained_and_the_pid_file_follows() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let yaml = format!(
        "pools: {{ p: {{ servers: [{{ url: '{}', name: one }}, {{ url: '{}', name: two }}], health: false }} }}\nroutes: [{{ pool: p }}]\n",
        a.url(),
        b.url()
    );
    let mut gateway =
        Gateway::start_with(&yaml, &[("TRUNKLINE_PID_FILE", pid_file.to_str().unwrap())]);
    let in_file = || {
        std::fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!(in_file(), gateway.pid());
    assert_eq!(
        trunkline(&gateway, &["drain", "p/one", "--for", "10m"]).0,
        0
    );
    // asked for by signal, as systemd and people do
    gateway.signal("QUIT");
    assert_eq!(gateway.wait(Duration::from_secs(20)), 0);
    let after = Successor::of(&gateway);
    assert_eq!(
        in_file(),
        after.0,
        "the old one leaves the file of the new one alone"
    );
    (0..6).for_each(|_| assert_eq!(gateway.get("/v1/x").json()["served_by"], "b"));
}

#[test]
fn a_kept_connection_is_closed_behind_its_next_answer_and_not_before() {
    let server = Server::named("a");
    let mut gateway = Gateway::start(&routed(&server));
    let mut kept = connect(gateway.address);
    let request = Request::json("/v1/x", "{}");
    assert_eq!(request.send_on(&mut kept).status, 200);
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(code, 0, "{said}");
    let _after = Successor::of(&gateway);
    kept.write_all(&request.bytes()).unwrap();
    let answer = read_answer(&mut kept, false, std::time::Instant::now());
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(kept.read(&mut [0; 10]).unwrap_or(0), 0);
    assert_eq!(gateway.wait(Duration::from_secs(20)), 0);
}

#[test]
fn systemd_learns_which_process_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let server = Server::named("a");
    let mut gateway = Gateway::start_with(
        &routed(&server),
        &[("NOTIFY_SOCKET", path.to_str().unwrap())],
    );
    let (code, said) = trunkline(&gateway, &["upgrade"]);
    assert_eq!(code, 0, "{said}");
    let after = Successor::of(&gateway);
    let mut told = Vec::new();
    while !told
        .iter()
        .any(|text: &String| text.starts_with("MAINPID="))
    {
        let mut message = [0; 512];
        let length = manager.recv(&mut message).unwrap();
        told.push(String::from_utf8(message[..length].to_vec()).unwrap());
    }
    assert_eq!(told.pop(), Some(format!("MAINPID={}", after.0)));
    assert_eq!(gateway.wait(Duration::from_secs(20)), 0);
    // who goes on must not be taken for stopping
    manager.set_nonblocking(true).unwrap();
    let mut message = [0; 512];
    while let Ok(length) = manager.recv(&mut message) {
        assert!(!message[..length].starts_with(b"STOPPING"));
    }
}

/// What systemd does for a socket unit: the socket as descriptor 3, and how many there are.
const ACTIVATE: &str = "
import os, socket, sys
socket_ = socket.socket()
socket_.bind(('127.0.0.1', 0))
socket_.listen()
program, config, rest = sys.argv[1:]
with open(config, 'w') as file:
    file.write('listen: 127.0.0.1:%d\\nadmin: 127.0.0.1:0\\n' % socket_.getsockname()[1] + rest)
os.dup2(socket_.fileno(), 3)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(program, ['trunkline', '--config', config])
";

#[test]
fn sockets_that_systemd_opened_are_served() {
    let server = Server::named("a");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("trunkline.yaml");
    let mut command = Command::new("python3");
    let config = config.to_str().unwrap();
    command.args(["-c", ACTIVATE, BINARY, config, &routed(&server)]);
    // it could not bind the address itself: somebody listens there already
    let gateway = Gateway::run(command, folder, "");
    assert_eq!(gateway.post("/v1/x", "{}").json()["served_by"], "a");
}
