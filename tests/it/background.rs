//! `start`, `stop` and `status`: the program in the background.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::gateway::{BINARY, routed_to};
use crate::support::{Server, eventually};

/// A home of its own for the files of a program in the background, which is stopped at the end.
struct Home(tempfile::TempDir);

impl Home {
    fn new(yaml: &str) -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::write(home.path("trunkline.yaml"), yaml).unwrap();
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(BINARY)
            .args(arguments)
            .current_dir(self.0.path())
            .env("TRUNKLINE_PID_FILE", self.path("run/pid"))
            .env("XDG_STATE_HOME", self.0.path())
            .output()
            .unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), said)
    }

    fn start(&self) -> (i32, String) {
        let log = self.path("log");
        self.run(&[
            "start",
            "-c",
            "trunkline.yaml",
            "--log-file",
            log.to_str().unwrap(),
        ])
    }

    fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.path("run/pid")).unwrap();
        text.trim().parse().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

fn serving(server: &Server) -> Home {
    let url = server.url();
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    Home::new(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{}",
        routed_to(address)
    ))
}

#[test]
fn it_starts_in_the_background_and_stops_when_told() {
    let server = Server::named("a");
    let home = serving(&server);
    let (code, said) = home.start();
    assert_eq!(code, 0, "{said}");
    let pid = home.pid();
    assert!(
        said.contains(&format!("process {pid}")) && said.contains("log"),
        "{said}"
    );
    assert!(
        home.log().contains("listening on"),
        "it serves when start returns"
    );
    // twice is once
    let (code, said) = home.start();
    assert_eq!((code, said.contains("runs already")), (0, true), "{said}");
    assert_eq!(home.pid(), pid);
    let (code, said) = home.run(&["stop"]);
    assert_eq!((code, said.contains("has stopped")), (0, true), "{said}");
    assert!(!Path::new(&format!("/proc/{pid}/fd/0")).exists());
    assert!(!home.path("run/pid").exists());
    let (code, said) = home.run(&["stop"]);
    assert_eq!((code, said.contains("not running")), (3, true), "{said}");
}

#[test]
fn the_pid_file_of_a_dead_process_holds_up_nobody() {
    let server = Server::named("a");
    let home = serving(&server);
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    std::fs::create_dir_all(home.path("run")).unwrap();
    std::fs::write(home.path("run/pid"), dead.id().to_string()).unwrap();
    let (code, said) = home.run(&["stop"]);
    assert_eq!((code, said.contains("is gone")), (3, true), "{said}");
    assert!(!home.path("run/pid").exists());
    // a number that is another program's by now
    std::fs::write(home.path("run/pid"), std::process::id().to_string()).unwrap();
    let (code, said) = home.start();
    assert_eq!((code, said.contains("starting anew")), (0, true), "{said}");
    assert_ne!(home.pid(), std::process::id());
}

#[test]
fn what_keeps_it_from_starting_is_said_where_it_was_started() {
    let home = Home::new("pools: 7\n");
    let (code, said) = home.start();
    assert_eq!(code, 78);
    assert!(said.contains("trunkline.yaml:1"), "{said}");
    assert!(!home.path("run/pid").exists());
}

#[test]
fn the_log_file_that_was_moved_away_is_left_behind() {
    let server = Server::named("a");
    let url = server.url();
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    let home = Home::new(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nlog: {{ access: access.log }}\n{}",
        routed_to(address)
    ));
    assert_eq!(home.start().0, 0);
    let log = home.log();
    let found = log.split("listening on http://").nth(1).unwrap();
    let listener: std::net::SocketAddr = found.split(' ').next().unwrap().parse().unwrap();
    let ask = || crate::support::Request::json("/v1/x", "{}").send(listener);
    let lines = |name: &str| {
        let text = std::fs::read_to_string(home.path(name)).unwrap_or_default();
        text.lines().count()
    };
    assert_eq!(ask().status, 200);
    eventually("it is logged", || lines("access.log") == 1);
    std::fs::rename(home.path("access.log"), home.path("access.log.1")).unwrap();
    assert_eq!(ask().status, 200);
    eventually("it goes where the file went", || lines("access.log.1") == 2);
    let told = Command::new("kill")
        .arg("-USR1")
        .arg(home.pid().to_string())
        .status();
    assert!(told.unwrap().success());
    eventually("the file is opened anew", || {
        home.path("access.log").exists()
    });
    assert_eq!(ask().status, 200);
    eventually("lines go there now", || lines("access.log") == 1);
    assert_eq!(lines("access.log.1"), 2);
}

/// A link is how several versions are installed side by side, and switched between.
#[test]
fn what_was_started_by_a_link_is_upgraded_to_where_the_link_leads_then() {
    let server = Server::named("a");
    let home = serving(&server);
    let link = home.path("trunkline");
    std::os::unix::fs::symlink(BINARY, &link).unwrap();
    let started = Command::new(&link)
        .args(["start", "-c", "trunkline.yaml", "--log-file", "log"])
        .current_dir(home.0.path())
        .env("TRUNKLINE_PID_FILE", home.path("run/pid"))
        .status();
    assert!(started.unwrap().success());
    let command = std::fs::read(format!("/proc/{}/cmdline", home.pid())).unwrap();
    assert!(command.starts_with(link.as_os_str().as_encoded_bytes()));
}
