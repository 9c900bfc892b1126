//! What must stay at home stays there, and what is too large for a pool goes to one that takes it,
//! or is refused before it was sent.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{connect, read_answer};
use crate::support::gateway::BINARY;
use crate::support::{Answer, Gateway, Request, Server, form};

/// The pools `home` and `cloud`, and a route over them.
fn gateway(home: &str, cloud: &Server, route: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
pools:
  home: {{ servers: ["{home}"], health: false, eject: false }}
  cloud: {{ servers: ["{}"], health: false, zone: cloud }}
routes: [{{ name: r, {route} }}]
"#,
        cloud.url()
    ))
}

fn speech() -> Request {
    Request::json("/v1/audio/speech", r#"{"input":"hello","voice":"v"}"#)
}

fn at_home() -> Request {
    speech().header("x-data-zone", "home")
}

#[test]
fn neither_fallback_nor_retry_nor_hedge_leaves_the_house() {
    let slow = || {
        Server::fake(|_, wire| {
            std::thread::sleep(Duration::from_millis(300));
            wire.json("{}");
            true
        })
    };
    let silent = || {
        Server::fake(|_, wire| {
            wire.wait_for_close();
            false
        })
    };
    for (home, more, status) in [
        (Server::failing(503), "", 503),
        (Server::failing(429), "", 429),
        (silent(), "retry: { per_try_timeout: 200ms }", 504),
        (slow(), "hedge: { after: 20ms, paid: true }", 200),
    ] {
        for (zone, request) in [("", at_home()), ("zone: home", speech())] {
            let cloud = Server::named("cloud");
            let route =
                format!("pool: home, fallback: [cloud], {zone}, {more}").replace(", ,", ",");
            let gateway = gateway(&home.url(), &cloud, &route);
            let answer = gateway.send(&request);
            assert_eq!(answer.status, status, "{route}: {}", answer.text());
            assert_eq!(cloud.count(), 0, "{route}");
            let labels = [("pool", "cloud")];
            assert_eq!(gateway.metric("trunkline_attempts_total", &labels), 0.0);
        }
    }
}

#[test]
fn others_may_leave_it() {
    for request in [speech(), speech().header("x-data-zone", "cloud")] {
        let cloud = Server::named("cloud");
        let gateway = gateway(
            &Server::failing(503).url(),
            &cloud,
            "pool: home, fallback: [cloud]",
        );
        assert_eq!(gateway.send(&request).json()["served_by"], "cloud");
    }
}

#[test]
fn a_503_says_that_nobody_is_at_home() {
    let cloud = Server::named("cloud");
    let only_cloud = gateway("http://127.0.0.1:9", &cloud, "pool: cloud");
    let answer = only_cloud.send(&at_home());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "no_server_available")
    );
    assert!(
        answer.text().contains("must stay at home"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(only_cloud.send(&speech()).status, 200);
    assert_eq!(cloud.count(), 1);
}

#[test]
fn a_503_says_that_those_at_home_are_down() {
    let (sick, cloud) = (Server::failing(503), Server::named("cloud"));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  home: {{ servers: ["{}"], health: {{ path: /health, interval: 50ms, fall: 1 }} }}
  cloud: {{ servers: ["{}"], health: false, zone: cloud }}
routes: [{{ pool: home, fallback: [cloud], zone: home }}]
"#,
        sick.url(),
        cloud.url()
    ));
    crate::support::eventually("it is down", || {
        gateway.metric("trunkline_server_up", &[("pool", "home")]) == 0.0
    });
    let answer = gateway.send(&speech());
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "no_server_available")
    );
    assert!(
        answer.text().contains("every server of `home` is down"),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(cloud.count(), 0);
}

#[test]
fn a_zone_that_is_none_is_refused_and_the_header_stays_here() {
    let (home, cloud) = (Server::named("home"), Server::named("cloud"));
    let gateway = gateway(&home.url(), &cloud, "pool: home, fallback: [cloud]");
    for zone in ["mars", "", "home, cloud"] {
        let answer = gateway.send(&speech().header("x-data-zone", zone));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_request"),
            "{zone:?}"
        );
    }
    assert_eq!(home.count(), 0);
    for zone in ["home", "HOME", " home "] {
        assert_eq!(
            gateway.send(&speech().header("x-data-zone", zone)).status,
            200
        );
    }
    let both = speech()
        .header("x-data-zone", "cloud")
        .header("x-data-zone", "home");
    assert_eq!(gateway.send(&both).status, 200);
    for seen in home.seen() {
        assert_eq!(seen.header("x-data-zone"), None);
    }
}

fn check(yaml: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = Command::new(BINARY)
        .arg("check-config")
        .arg(&file)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

const POOLS: &str = r#"
pools:
  local: { servers: ["http://gpu-a:8880"] }
  rented: { servers: ["http://far-away:8880"], zone: cloud }
  openai: { kind: openai, servers: ["https://api.openai.com/v1"] }
"#;

#[test]
fn check_config_says_which_pools_each_route_can_reach() {
    let (code, out, err) = check(&format!(
        r#"{POOLS}
routes:
  - {{ name: private, match: {{ path: /v1/audio/speech }}, pool: local, fallback: [openai], zone: home }}
  - {{ name: rest, pool: local, fallback: [rented, openai] }}
"#
    ));
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("private  local (home); stays at home, never openai\n"),
        "{out}"
    );
    assert!(
        out.contains("rest     local (home), then rented (cloud), then openai (cloud, paid)\n"),
        "{out}"
    );
    assert!(err.contains("never asks pool `openai`"), "{err}");
}

#[test]
fn check_config_refuses_a_route_that_must_stay_at_home_and_has_none() {
    let (code, _, err) = check(&format!(
        r#"{POOLS}
routes:
  - {{ name: private, match: {{ path: /v1/x }}, pool: openai, fallback: [rented], zone: home }}
  - {{ pool: local }}
"#
    ));
    assert_eq!(code, 78);
    assert!(
        err.contains("route `private` stays at home") && err.contains(":8:"),
        "{err}"
    );
}

// === sizes ===

const MIB: usize = 1024 * 1024;

fn upload(mib: usize) -> Request {
    let (content_type, body) = form(&[("model", "whisper-1")], &vec![7; mib * MIB], true);
    Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", &content_type)
        .body(body)
}

#[test]
fn a_route_for_large_uploads_takes_those() {
    let (local, cloud) = (Server::named("local"), Server::named("cloud"));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  local: {{ servers: ["{}"], health: false }}
  openai: {{ kind: openai, servers: ["{}"], health: false }}
routes:
  - {{ match: {{ path: /v1/audio/transcriptions, body_larger_than: 25MiB }}, pool: local }}
  - {{ pool: openai, fallback: [local] }}
"#,
        local.url(),
        cloud.url()
    ));
    for (request, served_by) in [
        (upload(26), "local"),
        (upload(26).chunked(100_000), "local"),
        (upload(1), "cloud"),
        (upload(1).chunked(100_000), "cloud"),
    ] {
        assert_eq!(gateway.send(&request).json()["served_by"], served_by);
    }
}

#[test]
fn what_the_cloud_would_refuse_goes_to_the_pool_that_takes_it() {
    let (local, cloud) = (Server::named("local"), Server::named("cloud"));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  openai: {{ kind: openai, servers: ["{}"], health: false }}
  local: {{ servers: ["{}"], health: false }}
routes: [{{ pool: openai, fallback: [local] }}]
"#,
        cloud.url(),
        local.url()
    ));
    for request in [upload(26), upload(26).chunked(100_000)] {
        let answer = gateway.send(&request);
        assert_eq!(answer.json()["served_by"], "local", "{}", answer.text());
    }
    assert_eq!(cloud.count(), 0);
    assert_eq!(gateway.send(&upload(1)).json()["served_by"], "cloud");
    // the limit is that of audio
    let chat = Request::json(
        "/v1/chat/completions",
        &format!("\"{}\"", "x".repeat(26 * MIB)),
    );
    assert_ne!(gateway.send(&chat).status, 413);
}

/// Sends only a head, as a client that wants to know first, and reads the answer.
fn only_head(gateway: &Gateway, target: &str, headers: &str) -> (Answer, TcpStream) {
    let mut stream = connect(gateway.address);
    stream
        .write_all(format!("POST {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes())
        .unwrap();
    (read_answer(&mut stream, false, Instant::now()), stream)
}

#[test]
fn what_nobody_takes_is_refused_before_it_is_read() {
    let cloud = Server::named("cloud");
    let gateway = Gateway::start(&format!(
        r#"
pools:
  openai: {{ kind: openai, servers: ["{0}"], health: false }}
  small: {{ servers: ["{0}"], health: false, max_body: 1MiB }}
  any: {{ servers: ["{0}"], health: false, models: {{ a: b }} }}
routes:
  - {{ match: {{ path: /v1/audio/transcriptions }}, pool: openai, fallback: [small] }}
  - {{ match: {{ path: /v1/small }}, pool: small }}
  - {{ match: {{ path: /v1/bounded }}, pool: any, max_body: 3MiB }}
  - {{ pool: any }}
"#,
        cloud.url()
    ));
    let form = "content-type: multipart/form-data; boundary=B\r\n";
    let length = format!("content-length: {}\r\n", 26 * MIB);
    for (target, limit) in [
        ("/v1/audio/transcriptions", "(26214400 bytes)"),
        ("/v1/small", "(1048576 bytes)"),
        ("/v1/bounded", "(3145728 bytes)"),
    ] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let headers = format!("{form}{length}{expect}");
            let (answer, _stream) = only_head(&gateway, target, &headers);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (413, "body_too_large"),
                "{target}"
            );
            assert!(answer.text().contains(limit), "{}", answer.text());
            assert!(answer.took < Duration::from_secs(5));
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        }
    }
    assert_eq!(cloud.count(), 0);
    for line in gateway.access_log(6) {
        assert_eq!(
            (line["status"].as_u64(), line["bytes_in"].as_u64()),
            (Some(413), Some(0))
        );
    }
}

#[test]
fn a_small_enough_upload_is_told_to_continue() {
    let cloud = Server::named("cloud");
    let gateway = Gateway::start(&format!(
        "pools: {{ openai: {{ kind: openai, servers: ['{}'], health: false }} }}\nroutes: [{{ pool: openai }}]",
        cloud.url()
    ));
    let answer = gateway.send(&upload(1).header("expect", "100-continue"));
    assert_eq!(answer.status, 200);
    assert_eq!(cloud.count(), 1);
}

#[test]
fn a_pool_never_gets_a_body_larger_than_it_takes() {
    let (small, large) = (Server::named("small"), Server::named("large"));
    let yaml = |fallback: &str| {
        format!(
            r#"
pools:
  small: {{ servers: ["{}"], health: false, max_body: 1MiB }}
  large: {{ servers: ["{}"], health: false }}
routes: [{{ pool: small, {fallback} }}, {{ match: {{ path: /never }}, pool: large }}]
"#,
            small.url(),
            large.url()
        )
    };
    let request = |bytes: usize| Request::new("POST", "/v1/files").body(vec![7; bytes]);
    let gateway = Gateway::start(&yaml("fallback: [large]"));
    for (request, served_by) in [
        (request(MIB), "small"),
        (request(MIB).chunked(50_000), "small"),
        (request(MIB + 1), "large"),
        (request(MIB + 1).chunked(50_000), "large"),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(answer.json()["served_by"], served_by, "{}", answer.text());
    }
    assert!(small.seen().iter().all(|seen| seen.body.len() == MIB));
    let alone = Gateway::start(&yaml(""));
    for request in [request(MIB + 1), request(MIB + 1).chunked(50_000)] {
        let answer = alone.send(&request);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "body_too_large")
        );
        assert!(
            answer.text().contains("(1048576 bytes)"),
            "{}",
            answer.text()
        );
    }
    assert_eq!((small.count(), large.count()), (2, 2));
}

#[test]
fn a_large_upload_that_must_stay_at_home_is_told_the_limit_of_those_at_home() {
    let (home, cloud) = (Server::named("home"), Server::named("cloud"));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  home: {{ servers: ["{}"], health: false, max_body: 1MiB }}
  cloud: {{ servers: ["{}"], health: false, zone: cloud }}
routes: [{{ pool: home, fallback: [cloud] }}]
"#,
        home.url(),
        cloud.url()
    ));
    let large = Request::new("POST", "/v1/files").body(vec![7; 2 * MIB]);
    assert_eq!(gateway.send(&large).json()["served_by"], "cloud");
    for request in [large.clone(), large.chunked(50_000)] {
        let answer = gateway.send(&request.header("x-data-zone", "home"));
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(
            answer.text().contains("(1048576 bytes)"),
            "{}",
            answer.text()
        );
    }
    assert_eq!((home.count(), cloud.count()), (0, 1));
}

#[test]
fn a_large_upload_is_not_called_too_large_while_those_that_take_it_are_down() {
    let (small, large) = (Server::named("small"), Server::failing(503));
    let gateway = Gateway::start(&format!(
        r#"
pools:
  small: {{ servers: ["{}"], health: false, max_body: 1MiB }}
  large: {{ servers: ["{}"], health: {{ path: /health, interval: 50ms, fall: 1 }} }}
routes: [{{ pool: small, fallback: [large] }}]
"#,
        small.url(),
        large.url()
    ));
    crate::support::eventually("it is down", || {
        gateway.metric("trunkline_server_up", &[("pool", "large")]) == 0.0
    });
    let request = Request::new("POST", "/v1/files").body(vec![7; 2 * MIB]);
    let answer = gateway.send(&request);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "no_server_available")
    );
    assert_eq!(small.count(), 0);
}
