//! Start, reload, stop; and clients that are slow to come to the point.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::{Gateway, Request, Server, eventually};

fn simple(server: &Server, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]",
        server.url()
    ))
}

#[test]
fn an_idle_program_stops_at_once() {
    for signal in ["TERM", "INT"] {
        let server = Server::named("a");
        let mut gateway = simple(&server, "");
        // an idle kept connection does not hold it up
        let mut kept = connect(gateway.address);
        assert_eq!(Request::json("/v1/x", "{}").send_on(&mut kept).status, 200);
        let started = Instant::now();
        gateway.signal(signal);
        assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(kept.read(&mut [0; 10]).unwrap_or(0), 0);
    }
}

#[test]
fn a_request_in_flight_is_finished_and_new_ones_are_refused() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::fake(move |_, wire| {
        wire.chunked("audio/wav");
        wire.chunk("first");
        wait.lock().unwrap().recv().unwrap();
        wire.chunk("second");
        wire.end();
        true
    });
    let mut gateway = simple(&server, "");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/audio/speech", "{}").bytes())
        .unwrap();
    eventually("it is in flight", || {
        gateway.metric("trunkline_requests_in_flight", &[]) == 1.0
    });
    gateway.signal("TERM");
    eventually("the listener is closed", || {
        std::net::TcpStream::connect(gateway.address).is_err()
    });
    assert_eq!(gateway.ask_admin("/readyz").text(), "draining\n");
    go.send(()).unwrap();
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!(
        (answer.text().as_str(), answer.whole),
        ("firstsecond", true)
    );
    assert_eq!(gateway.wait(Duration::from_secs(5)), 0);
    assert_eq!(gateway.access_log(1).len(), 1, "its line is not lost");
}

#[test]
fn grace_bounds_how_long_a_stop_takes() {
    let server = Server::fake(|_, wire| {
        wire.wait_for_close();
        false
    });
    let mut gateway = simple(&server, "shutdown: { grace: 300ms }");
    let mut stream = connect(gateway.address);
    stream
        .write_all(&Request::json("/v1/x", "{}").bytes())
        .unwrap();
    eventually("it is in flight", || server.count() == 1);
    let started = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait(Duration::from_secs(10)), 0);
    assert!(
        (250..2000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_hangup_reads_the_file_again_whole_or_not_at_all() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let gateway = simple(&a, "");
    let served = || {
        gateway.post("/v1/x", "{}").json()["served_by"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(served(), "a");
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    std::fs::write(gateway.config_path(), text.replace("pool: a", "pool: c")).unwrap();
    gateway.signal("HUP");
    eventually("the bad file is refused", || {
        gateway.metric("trunkline_config_reloads_total", &[("result", "failure")]) == 1.0
    });
    assert!(gateway.stderr().contains("pool `c` is not defined"));
    assert_eq!(
        gateway.metric("trunkline_config_last_reload_successful", &[]),
        0.0
    );
    assert_eq!(served(), "a");
    std::fs::write(gateway.config_path(), text.replace(&a.url(), &b.url())).unwrap();
    gateway.signal("HUP");
    eventually("the good one serves", || served() == "b");
    assert_eq!(
        gateway.metric("trunkline_config_last_reload_successful", &[]),
        1.0
    );
}

#[test]
fn connections_without_a_request_are_closed_and_others_served_meanwhile() {
    let server = Server::named("a");
    let gateway = simple(&server, "limits: { header_timeout: 400ms }");
    let mut silent: Vec<_> = (0..100).map(|_| connect(gateway.address)).collect();
    let mut dripping: Vec<_> = (0..20).map(|_| connect(gateway.address)).collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        for stream in &mut dripping {
            let _ = stream.write_all(b"G");
        }
        assert_eq!(gateway.post("/v1/x", "{}").status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    for stream in silent.iter_mut().chain(&mut dripping) {
        assert_eq!(stream.read(&mut [0; 100]).unwrap_or(0), 0, "closed");
    }
    assert_eq!(
        gateway.metric(
            "trunkline_connections_rejected_total",
            &[("reason", "header_timeout")]
        ),
        120.0
    );
}

#[test]
fn connections_over_the_limit_are_closed_and_served_again_later() {
    let server = Server::named("a");
    let gateway = simple(&server, "limits: { connections: 5 }");
    let held: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = connect(gateway.address);
            assert_eq!(
                Request::json("/v1/x", "{}").send_on(&mut stream).status,
                200
            );
            stream
        })
        .collect();
    let mut over = connect(gateway.address);
    assert_eq!(over.read(&mut [0; 10]).unwrap_or(0), 0);
    drop(held);
    eventually("there is room again", || {
        gateway.post("/v1/x", "{}").status == 200
    });
    assert!(
        gateway.metric(
            "trunkline_connections_rejected_total",
            &[("reason", "connections")]
        ) >= 1.0
    );
}

#[test]
fn descriptors_are_taken_up_to_the_hard_limit() {
    let server = Server::named("a");
    let gateway = simple(&server, "");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "limits: {{ body_timeout: 300ms }}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ match: {{ model: x }}, pool: a }}]",
        server.url()
    ));
    let mut stream = connect(gateway.address);
    stream
        .write_all(b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":")
        .unwrap();
    let answer = read_answer(&mut stream, false, Instant::now());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert_eq!(server.count(), 0);
    // its line is written after its answer: the next one's must come behind it
    assert_eq!(gateway.access_log(1)[0]["termination"], "rejected");
    // one that leaves in the middle
    let mut stream = connect(gateway.address);
    stream
        .write_all(b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":")
        .unwrap();
    drop(stream);
    assert_eq!(gateway.access_log(2)[1]["termination"], "client_abort");
}

/// Starts the proxy with an /etc/hosts of its own, where that is allowed.
fn with_hosts(yaml: &str, hosts: &std::path::Path) -> Option<Gateway> {
    let mount = format!("mount --bind '{}' /etc/hosts", hosts.display());
    let allowed = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("trunkline.yaml");
    std::fs::write(&config, yaml).unwrap();
    let mut command = std::process::Command::new("unshare");
    let run = format!(
        "{mount} && exec '{}' -c '{}'",
        crate::support::gateway::BINARY,
        config.display()
    );
    command.args(["-m", "sh", "-c", &run]);
    Some(Gateway::run(command, folder, yaml))
}

#[test]
fn a_name_that_comes_to_mean_another_box_is_followed() {
    let first = Server::named("first");
    let port = first.address.port();
    let second = Server::on(
        std::net::TcpListener::bind(("127.0.0.2", port)).unwrap(),
        |_, wire| {
            wire.json("{\"served_by\":\"second\"}");
            true
        },
    );
    let spare = Server::named("spare");
    let yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\npools: {{ a: {{ servers: [{{ url: 'http://box.test:{port}', name: box }}, {{ url: '{}', backup: true }}], health: false }} }}\nroutes: [{{ pool: a }}]",
        spare.url()
    );
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost box.test\n").unwrap();
    let Some(gateway) = with_hosts(&yaml, &hosts) else {
        // without the right to mount: a name that means nothing at all, and the next server serves
        let gateway = Gateway::start(&yaml);
        assert_eq!(
            gateway.ask_admin("/status").json()["pools"][0]["servers"][0]["state"],
            "unresolved"
        );
        assert_eq!(gateway.post("/v1/x", "{}").json()["served_by"], "spare");
        return;
    };
    let served = || {
        gateway.post("/v1/x", "{}").json()["served_by"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(served(), "first");
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.2 box.test\n").unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while served() != "second" {
        assert!(Instant::now() < end, "still the first after 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(second.count() >= 1);
}
