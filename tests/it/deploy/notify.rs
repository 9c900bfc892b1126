//! What systemd is told, and `trunkline healthcheck`.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::gateway::{BINARY, routed_to};
use crate::support::{Gateway, Server, eventually};

/// A service manager of the test's.
struct Manager {
    socket: UnixDatagram,
    path: String,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        let limit = Some(Duration::from_secs(10));
        socket.set_read_timeout(limit).unwrap();
        Manager {
            socket,
            path,
            _folder: folder,
        }
    }

    /// The next message that holds this; the ones before are skipped.
    #[track_caller]
    fn wait_for(&self, part: &str) -> String {
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        loop {
            let Ok(length) = self.socket.recv(&mut buffer) else {
                panic!("{part} did not come, but {seen:?}");
            };
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text.contains(part) {
                return text;
            }
            seen.push(text);
        }
    }
}

#[test]
fn systemd_is_told_of_start_reload_and_stop_and_kept_awake() {
    let (manager, server) = (Manager::start(), Server::named("a"));
    let mut gateway = Gateway::start_with(
        &routed_to(server.address),
        &[
            ("NOTIFY_SOCKET", &manager.path),
            ("WATCHDOG_USEC", "300000"),
        ],
    );
    manager.wait_for("READY=1");
    std::net::TcpStream::connect(gateway.address).expect("it said that it is ready");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("STATUS=routes: 1, servers up: 1 of 1, requests in flight: 0");

    gateway.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    std::fs::write(gateway.config_path(), "pools: none").unwrap();
    gateway.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");

    gateway.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
}

#[test]
fn a_program_that_hangs_gives_no_sign_of_life() {
    let (manager, server) = (Manager::start(), Server::named("a"));
    let gateway = Gateway::start_with(
        &routed_to(server.address),
        &[
            ("NOTIFY_SOCKET", &manager.path),
            ("WATCHDOG_USEC", "300000"),
        ],
    );
    manager.wait_for("WATCHDOG=1");
    gateway.signal("STOP");
    let quiet = Some(Duration::from_millis(400));
    manager.socket.set_read_timeout(quiet).unwrap();
    eventually("nothing comes", || {
        manager.socket.recv(&mut [0; 100]).is_err()
    });
}

#[test]
fn without_systemd_it_starts_as_ever_and_a_socket_that_is_gone_is_no_reason_to_end() {
    let server = Server::named("a");
    let gateway = Gateway::start_with(
        &routed_to(server.address),
        &[("NOTIFY_SOCKET", "/nonexistent/notify")],
    );
    assert_eq!(gateway.get("/v1/models").status, 200);
}

fn healthcheck(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("healthcheck")
        .args(arguments)
        .env_remove("TRUNKLINE_ADMIN")
        .output()
        .unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_health_check_finds_the_admin_address_and_tells_ready_from_alive() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['{}'], health: {{ tcp: true, interval: 50ms }} }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ));
    let admin = gateway.admin.to_string();
    assert_eq!(
        said(&healthcheck(&["--admin", &admin])),
        (Some(0), "ready\n".into())
    );
    // as the file names it, which may be bad just now
    let file = gateway.folder.path().join("other.yaml");
    let asked_by_file = |text: &str| {
        std::fs::write(&file, text).unwrap();
        said(&healthcheck(&["-c", file.to_str().unwrap()]))
    };
    let rest = routed_to(server.address);
    let everywhere = format!("admin: 0.0.0.0:{}\n", gateway.admin.port());
    assert_eq!(asked_by_file(&format!("{everywhere}{rest}")).0, Some(0));
    assert_eq!(
        asked_by_file(&format!("{everywhere}pools: none")).0,
        Some(0)
    );
    let (code, text) = asked_by_file(&format!("admin: off\n{rest}"));
    assert_eq!(code, Some(1));
    assert!(text.contains("there is nothing to ask"), "{text}");

    server.kill();
    eventually("it is not ready", || {
        let (code, text) = said(&healthcheck(&["--admin", &admin]));
        code == Some(1) && text.contains("says 503: no server of any pool is available")
    });
    assert_eq!(
        said(&healthcheck(&["--admin", &admin, "--live"])),
        (Some(0), "ok\n".into())
    );
    drop(gateway);
    let (code, text) = said(&healthcheck(&["--admin", &admin, "--live"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("nobody answers"), "{text}");
}
