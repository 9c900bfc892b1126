//! Listeners with TLS, and their certificates.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use crate::support::client::connect as connect_plain;
use crate::support::gateway::{BINARY, routed_to};
use crate::support::tls::{Pair, Secure, connect};
use crate::support::{Gateway, Http2, Server, eventually};

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// With `cert.pem` and `key.pem` of a pair.
#[track_caller]
fn secure(pair: &Pair, options: &str, server: SocketAddr, rest: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    pair.write(folder.path());
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ cert: cert.pem, key: key.pem{options} }} }}]\n{}{rest}",
        routed_to(server)
    );
    Gateway::start_in(folder, &yaml, &[])
}

/// Sends a request over HTTP/1.1; the status of its answer, whose body is read too.
fn ask(stream: &mut Secure) -> std::io::Result<u16> {
    stream.write_all(b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        all.extend_from_slice(&piece[..n]);
        if all.ends_with(b"}") {
            let text = String::from_utf8_lossy(&all);
            return Ok(text.split(' ').nth(1).unwrap().parse().unwrap());
        }
    }
}

/// Waits until one handshake has failed for this reason.
#[track_caller]
fn failed_once(gateway: &Gateway, reason: &str) {
    let failures = "trunkline_tls_handshake_failures_total";
    eventually("the failed handshake is counted", || {
        gateway.metric(failures, &[("reason", reason)]) == 1.0
    });
}

fn shown(stream: &Secure) -> &[u8] {
    stream.conn.peer_certificates().unwrap()[0].as_ref()
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_logged() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&pair, "", server.address, "");
    for version in [&TLS12, &TLS13] {
        let mut stream = connect(gateway.address, pair.client(&[version], &[])).unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&mut stream).unwrap(), 200);
        }
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        // each line is written behind its answer, so the others wait for it
        gateway.access_log(2);
    }
    let log = gateway.access_log(4);
    assert_eq!(
        (&log[0]["tls"], &log[2]["tls"]),
        (&"TLSv1.2".into(), &"TLSv1.3".into())
    );
    assert_eq!(log[0]["protocol"], "HTTP/1.1");
    assert_eq!(server.seen()[0].header("x-forwarded-proto"), Some("https"));
    let handshakes = gateway.metric("trunkline_tls_handshake_seconds_count", &[]);
    assert_eq!(handshakes, 2.0);
}

#[test]
fn a_client_older_than_min_version_is_refused_and_counted() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&pair, ", min_version: '1.3'", server.address, "");
    assert!(connect(gateway.address, pair.client(&[&TLS12], &[])).is_err());
    assert!(connect(gateway.address, pair.client(&[&TLS13], &[])).is_ok());
    failed_once(&gateway, "incompatible");
}

#[test]
fn http2_is_negotiated_where_the_client_offers_it() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&pair, "", server.address, "");
    let client = Http2::tls(gateway.address, pair.client(BOTH, &["h2", "http/1.1"]));
    let answer = client.ask("POST", "/v1/x", &[("te", "trailers")], b"{}");
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(answer.header("transfer-encoding"), None);
    gateway.access_log(1);
    let config = pair.client(BOTH, &["http/1.1"]);
    assert_eq!(
        ask(&mut connect(gateway.address, config).unwrap()).unwrap(),
        200
    );
    let log = gateway.access_log(2);
    assert_eq!(
        (&log[0]["protocol"], &log[0]["tls"]),
        (&"HTTP/2".into(), &"TLSv1.3".into())
    );
    assert_eq!(log[1]["protocol"], "HTTP/1.1");
    let seen = &server.seen()[0];
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!((seen.header("te"), seen.json().is_object()), (None, true));
}

#[test]
fn a_new_certificate_is_shown_while_requests_go_on() {
    let (old, new, server) = (Pair::new(), Pair::until(3999), Server::named("a"));
    let gateway = secure(&old, "", server.address, "");
    let expiry = || gateway.metric("trunkline_tls_certificate_expiry_timestamp_seconds", &[]);
    let before = expiry();
    let (address, stop) = (gateway.address, Arc::new(AtomicBool::new(false)));
    let mut kept = connect(address, old.client(BOTH, &[])).unwrap();
    let resumes = old.client(BOTH, &[]);
    let traffic = std::thread::spawn({
        let (either, stop) = ([old.client(BOTH, &[]), new.client(BOTH, &[])], stop.clone());
        move || {
            let mut served = 0;
            while !stop.load(SeqCst) {
                // whichever is shown, one of the two trusts it
                let stream = either.iter().find_map(|c| connect(address, c.clone()).ok());
                assert_eq!(ask(&mut stream.unwrap()).unwrap(), 200);
                served += 1;
            }
            served
        }
    });
    assert_eq!(
        ask(&mut connect(address, resumes.clone()).unwrap()).unwrap(),
        200
    );
    new.write(gateway.folder.path());
    eventually("the new certificate is shown", || {
        connect(address, new.client(BOTH, &[]))
            .is_ok_and(|stream| shown(&stream) == new.der.as_ref())
    });
    assert_eq!(ask(&mut kept).unwrap(), 200);
    assert!(
        connect(address, resumes).is_err(),
        "a session of the old key was resumed"
    );
    stop.store(true, SeqCst);
    assert!(traffic.join().unwrap() > 0);
    assert!(expiry() < before);
}

#[test]
fn a_bad_pair_changes_nothing_and_is_told_of_once() {
    let (good, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&good, "", server.address, "");
    let key = gateway.folder.path().join("key.pem");
    let told = || {
        gateway
            .stderr()
            .matches("the certificate before stays in service")
            .count()
    };
    std::fs::write(&key, Pair::new().key).unwrap();
    eventually("the bad pair is told of", || told() > 0);
    assert!(
        gateway
            .stderr()
            .contains("key.pem` does not belong to the certificate in")
    );
    for n in 1..=2 {
        gateway.signal("HUP");
        eventually("the configuration is refused", || {
            gateway.stderr().matches("was not read again").count() == n
        });
    }
    assert_eq!(told(), 1);
    assert_eq!(
        ask(&mut connect(gateway.address, good.client(BOTH, &[])).unwrap()).unwrap(),
        200
    );
    std::fs::remove_file(&key).unwrap();
    eventually("the missing key is told of", || told() == 2);
    let better = Pair::new();
    better.write(gateway.folder.path());
    gateway.signal("HUP");
    eventually("a good pair is taken", || {
        gateway
            .stderr()
            .contains("the new certificate is in service")
    });
    connect(gateway.address, better.client(BOTH, &[])).unwrap();
}

#[test]
fn check_config_says_what_is_wrong_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (pair, old) = (Pair::new(), Pair::until(2020));
    pair.write(folder.path());
    write("other.pem", &Pair::new().key);
    write("empty.pem", "");
    write("old.pem", &old.cert);
    write("old.key", &old.key);
    for (options, place, expected, code) in [
        (
            "tls: { cert: none.pem, key: key.pem }",
            "1:50",
            "none.pem` cannot be read",
            78,
        ),
        (
            "tls: { cert: empty.pem, key: key.pem }",
            "1:50",
            "empty.pem` holds no certificate in PEM form",
            78,
        ),
        (
            "tls: { cert: key.pem, key: key.pem }",
            "1:50",
            "key.pem` holds no certificate",
            78,
        ),
        (
            "tls: { cert: cert.pem, key: cert.pem }",
            "1:65",
            "cert.pem` holds no private key in PEM form",
            78,
        ),
        (
            "tls: { cert: cert.pem, key: other.pem }",
            "1:65",
            "other.pem` does not belong to the certificate in",
            78,
        ),
        (
            "tls: { cert: old.pem, key: old.key }",
            "1:50",
            "old.pem` expired on 2020-12-31",
            0,
        ),
        (
            "tls: { cert: cert.pem, key: key.pem, min_version: 1.3 }",
            "",
            "",
            0,
        ),
        (
            "tls: { cert: cert.pem, key: key.pem, min_version: '1.1' }",
            "1:87",
            "1.1",
            78,
        ),
        ("tls: { cert: cert.pem }", "1:37", "key", 78),
        (
            "h2c: true, tls: { cert: cert.pem, key: key.pem }",
            "1:42",
            "`h2c` is HTTP/2 without TLS",
            78,
        ),
    ] {
        let routes = routed_to(Server::refused());
        write(
            "t.yaml",
            &format!("listeners: [{{ address: 127.0.0.1:0, {options} }}]\n{routes}"),
        );
        let mut command = Command::new(BINARY);
        command
            .arg("check-config")
            .arg("t.yaml")
            .current_dir(folder.path());
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(expected), "{expected}\n{told}");
        assert!(told.contains(place), "{place}\n{told}");
    }
}

#[test]
fn a_client_that_never_finishes_the_handshake_is_cut() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(
        &pair,
        "",
        server.address,
        "limits: { header_timeout: 200ms }\n",
    );
    let mut silent = connect_plain(gateway.address);
    // a record that promises 512 bytes
    silent.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    let started = Instant::now();
    assert_eq!(silent.read(&mut [0; 64]).unwrap_or(0), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    failed_once(&gateway, "timeout");
    // and one that finishes it, but never asks
    for protocols in [&["h2"][..], &[]] {
        let mut stream = connect(gateway.address, pair.client(BOTH, protocols)).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    }
    let rejected = "trunkline_connections_rejected_total";
    eventually("three are counted", || {
        gateway.metric(rejected, &[("reason", "header_timeout")]) == 3.0
    });
}

#[test]
fn plain_http_on_a_tls_listener_is_closed_and_counted() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&pair, "", server.address, "");
    let answer = gateway.get("/v1/x");
    assert_eq!((answer.status, server.count()), (0, 0));
    assert!(answer.took < Duration::from_secs(5));
    failed_once(&gateway, "not_tls");
}

#[test]
fn connections_are_counted_whatever_they_speak() {
    let (pair, server) = (Pair::new(), Server::named("a"));
    let gateway = secure(&pair, "", server.address, "limits: { connections: 2 }\n");
    let config = pair.client(BOTH, &["h2"]);
    let one = Http2::tls(gateway.address, config.clone());
    // no handshake yet, and a connection all the same
    let two = connect_plain(gateway.address);
    let open = || {
        gateway.metric(
            "trunkline_connections",
            &[("listener", &gateway.address.to_string())],
        )
    };
    eventually("both are open", || open() == 2.0);
    assert!(connect(gateway.address, config.clone()).is_err());
    assert_eq!(one.ask("GET", "/v1/x", &[], b"").status, 200);
    drop(two);
    eventually("one is open", || open() == 1.0);
    assert!(connect(gateway.address, config).is_ok());
}
