//! Servers that are spoken to in HTTP/2.

use std::io::{Read, Write};

use bytes::Bytes;

use crate::support::http2_server::{Http2Server, Reply};
use crate::support::tls::TlsServer;
use crate::support::{Gateway, Request};

fn json(text: &str) -> Reply {
    Reply::Pieces(200, "application/json", vec![text.to_owned().into()])
}

fn gateway(servers: &str) -> Gateway {
    Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{servers}], http2: true, health: false, api_key: sk-pool }} }}\nroutes: [{{ name: all, pool: a }}]"
    ))
}

#[test]
fn a_request_arrives_whole_and_in_the_form_of_http2() {
    let server = Http2Server::answering(|_| json(r#"{"ok":true}"#));
    let gateway = gateway(&format!("'http://{}/v1'", server.address));
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(3_000_000));
    for request in [
        Request::json("/v1/chat/completions?a=b", &body),
        Request::json("/v1/chat/completions?a=b", &body).chunked(50_000),
    ] {
        let answer = gateway.send(&request.header("authorization", "Bearer sk-client"));
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, r#"{"ok":true}"#)
        );
        let got = server.got().pop().unwrap();
        assert_eq!(
            got.uri,
            format!("http://{}/v1/chat/completions?a=b", server.address)
        );
        assert_eq!(
            (got.method.as_str(), got.body.as_slice()),
            ("POST", body.as_bytes())
        );
        let header = |name: &str| {
            got.headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(header("authorization"), Some("Bearer sk-pool"));
        for name in ["connection", "transfer-encoding", "host", "keep-alive"] {
            assert_eq!(header(name), None, "{name}");
        }
    }
}

#[test]
fn many_requests_share_a_connection() {
    let server = Http2Server::answering(|got| json(&String::from_utf8_lossy(&got.body)));
    let gateway = gateway(&format!("'http://{}'", server.address));
    gateway.post("/v1/chat/completions", "{}");
    std::thread::scope(|scope| {
        for n in 0..40 {
            let gateway = &gateway;
            scope.spawn(move || {
                let body = format!("{{\"n\":{n}}}");
                for _ in 0..5 {
                    let answer = gateway.post("/v1/chat/completions", &body);
                    assert_eq!(answer.text(), body, "nobody gets another's answer");
                }
            });
        }
    });
    assert_eq!(server.got().len(), 201);
    // those that come at the same moment may each make one before the first is ready to share
    assert!(server.connections() <= 40, "{}", server.connections());
}

#[test]
fn streams_are_passed_on_and_one_that_breaks_says_so() {
    let server = Http2Server::answering(|got| {
        let events = vec![
            Bytes::from("data: {\"a\":1}\n\n"),
            Bytes::from("data: {\"a\":2}\n\n"),
        ];
        match got.uri.contains("broken") {
            true => Reply::Broken("text/event-stream", events),
            false => Reply::Pieces(200, "text/event-stream", events),
        }
    });
    let gateway = gateway(&format!("'http://{}'", server.address));
    let whole = gateway.post("/v1/chat/completions", "{}");
    assert_eq!(whole.text(), "data: {\"a\":1}\n\ndata: {\"a\":2}\n\n");
    let broken = gateway.post("/v1/chat/completions?broken", "{}");
    assert!(
        broken.text().contains("data: {\"a\":1}\n\n"),
        "{}",
        broken.text()
    );
    assert!(
        broken.text().contains("upstream_reset"),
        "{}",
        broken.text()
    );
    assert!(!broken.text().contains("[DONE]"));
    assert_eq!(gateway.post("/v1/chat/completions", "{}").status, 200);
}

/// One that speaks HTTP/1.1 only, to which the preface of HTTP/2 is no request.
fn old_server() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn a_server_that_refuses_a_stream_or_fails_hands_over_to_the_next() {
    let refusing = Http2Server::answering(|_| Reply::Refused);
    let failing = Http2Server::answering(|_| Reply::Pieces(503, "text/plain", vec!["no".into()]));
    let empty = Http2Server::answering(|_| Reply::Pieces(200, "audio/mpeg", Vec::new()));
    let good = Http2Server::answering(|_| json(r#"{"ok":true}"#));
    for first in [
        refusing.address,
        failing.address,
        empty.address,
        old_server(),
    ] {
        let gateway = gateway(&format!("'http://{first}', 'http://{}'", good.address));
        let answer = gateway.post("/v1/chat/completions", "{}");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, r#"{"ok":true}"#)
        );
        assert!(answer.header("x-attempts").is_some());
    }
}

#[test]
fn a_server_with_tls_that_knows_only_http1_is_spoken_to_in_that() {
    let server = TlsServer::start(&["localhost"]);
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, &server.pem).unwrap();
    let gateway = Gateway::start(&format!(
        "pools: {{ a: {{ servers: ['https://localhost:{}'], http2: true, health: false, tls: {{ ca_file: '{}' }} }} }}\nroutes: [{{ pool: a }}]",
        server.address.port(),
        authority.display()
    ));
    let answer = gateway.post("/v1/chat/completions", "{}");
    assert_eq!(answer.json()["served_by"], "tls");
}
