//! Requests that two readers may take for different ones: they are refused, or what a server gets
//! has one normal form. Each case is sent as it stands, and every byte the server gets is looked at.

mod cases;
mod frames;
mod wire;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::client::connect;
use crate::support::{Gateway, Http2};
use cases::{CASES, Case, Want};
use wire::{Kept, Strict};

#[track_caller]
fn gateway(server: &Strict) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\nlimits: {{ header_timeout: 2s, body_timeout: 1s }}\npools: {{ a: {{ servers: ['http://{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        server.address
    ))
}

/// All that comes back until the other side closes, or says nothing more for a while behind a whole
/// answer.
fn answers(stream: &mut TcpStream) -> String {
    stream
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    let started = Instant::now();
    let (mut all, mut piece) = (Vec::new(), [0; 65536]);
    while started.elapsed() < Duration::from_secs(8) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !all.is_empty() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.match_indices("HTTP/1.1 ");
    heads
        .filter_map(|(at, mark)| {
            answers
                .get(at + mark.len()..at + mark.len() + 3)?
                .parse()
                .ok()
        })
        .filter(|status| *status != 100)
        .collect()
}

/// What is wrong with what became of a case, if something is.
fn tried(to: SocketAddr, server: &Strict, case: &Case) -> Option<String> {
    let mut stream = connect(to);
    let _ = stream.write_all(case.bytes);
    let said = answers(&mut stream);
    let statuses = statuses(&said);
    // nothing more may come of it
    let _ = stream.shutdown(Shutdown::Both);
    let Kept { requests, faults } = server.take();
    if let Some(fault) = faults.first() {
        return Some(fault.clone());
    }
    let arrived: Vec<String> = requests
        .iter()
        .map(|r| format!("{} {} {}", r.method, r.target, r.body.escape_ascii()))
        .collect();
    let right = match case.want {
        Want::Refused => {
            arrived.is_empty()
                && statuses.iter().all(|status| (400..506).contains(status))
                && statuses.len() <= 1
        }
        Want::Forwarded(expected) => arrived == expected,
        Want::Either(expected) => arrived.is_empty() || arrived == expected,
    };
    (!right).then(|| format!("answered {statuses:?}, the server got {arrived:?}"))
}

#[test]
fn every_ambiguous_request_is_refused_or_has_one_form() {
    let server = Strict::start();
    let gateway = gateway(&server);
    let wrong: Vec<String> = CASES
        .iter()
        .filter_map(|case| {
            let what = tried(gateway.address, &server, case)?;
            Some(format!("{}: {what}", case.name))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n")
    );
    assert!(
        !gateway.stderr().contains("panicked"),
        "{}",
        gateway.stderr()
    );
}

/// Bytes that parsers stumble over, put into any place of any case, the same in every run.
#[test]
fn mutations_of_all_cases_come_out_in_the_same_form() {
    const SPICE: &[&[u8]] = &[
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b"\x0b",
        b":",
        b",",
        b";",
        b"0",
        b"\xff",
        b"\x7f",
        b"+",
        b"#",
        b"%0a",
        b"\\",
        b"/",
        b"\r\n ",
        b"\r\ncontent-length: 1\r\n",
        b"\r\ntransfer-encoding: chunked\r\n",
    ];
    let server = Strict::start();
    let gateway = Gateway::start(&format!(
        "limits: {{ header_timeout: 300ms, body_timeout: 300ms }}\npools: {{ a: {{ servers: ['http://{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        server.address
    ));
    let to = gateway.address;
    let threads: Vec<_> = (0..16u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut state = thread + 1;
                let mut next = move |below: usize| {
                    // Knuth's MMIX
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as usize % below
                };
                for _ in 0..100 {
                    let mut bytes = CASES[next(CASES.len())].bytes.to_vec();
                    for _ in 0..=next(2) {
                        let (at, spice) = (next(bytes.len()), SPICE[next(SPICE.len())]);
                        match next(3) {
                            0 => drop(bytes.remove(at)),
                            1 => bytes[at] = spice[0],
                            _ => drop(bytes.splice(at..at, spice.iter().copied())),
                        }
                    }
                    let mut stream = connect(to);
                    let _ = stream.write_all(&bytes);
                    answers(&mut stream);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let kept = server.take();
    assert_eq!(kept.faults, Vec::<String>::new());
    assert!(kept.requests.len() > 100, "{}", kept.requests.len());
    assert!(!gateway.stderr().contains("panicked"));
}

#[test]
fn a_refused_head_ends_its_connection() {
    let server = Strict::start();
    let gateway = gateway(&server);
    for head in [
        "POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nhost: x y\r\n\r\n",
        "GET /v1/x HTTP/1.1\nhost: x\r\n\r\n",
    ] {
        let mut stream = connect(gateway.address);
        let hidden = "GET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n";
        stream
            .write_all(format!("{head}{hidden}").as_bytes())
            .unwrap();
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        assert_eq!(statuses(&all), [400], "{head:?}: {all}");
        assert!(
            all.to_ascii_lowercase().contains("connection: close"),
            "{all}"
        );
        assert!(server.take().requests.is_empty(), "{head:?}");
    }
}

#[test]
fn what_comes_behind_a_request_is_another_one_and_nothing_else() {
    let server = Strict::start();
    let gateway = gateway(&server);
    let mut stream = connect(gateway.address);
    let mut all = Vec::new();
    for n in 0..200 {
        all.extend_from_slice(
            format!("POST /v1/{n} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcHEAD /v1/c{n} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nd").as_bytes(),
        );
    }
    all.extend_from_slice(b"GET /v1/last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&all));
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    writing.join().unwrap().unwrap();
    assert_eq!(statuses(&said).len(), 401);
    let kept = server.take();
    assert_eq!(kept.faults, Vec::<String>::new());
    let got: Vec<(String, Vec<u8>)> = kept
        .requests
        .into_iter()
        .map(|r| (r.target, r.body))
        .collect();
    let mut expected: Vec<(String, Vec<u8>)> = (0..200)
        .flat_map(|n| {
            [
                (format!("/v1/{n}"), b"abc".to_vec()),
                (format!("/v1/c{n}"), b"d".to_vec()),
            ]
        })
        .collect();
    expected.push(("/v1/last".into(), Vec::new()));
    assert_eq!(got, expected);
}

/// Some readers take an LF in the extension of a chunk for the end of the line, others do not: they
/// read other chunks, and other requests behind them.
#[test]
fn nothing_is_read_behind_chunks_that_can_be_read_twice() {
    let server = Strict::start();
    let gateway = gateway(&server);
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut stream = connect(gateway.address);
        let head =
            format!("POST /v1/x HTTP/1.1\r\nhost: x\r\n{expect}transfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"2;\nxx\r\n4c\r\n0\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let _ = stream.write_all(b"GET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        assert!(
            all.to_ascii_lowercase().contains("connection: close"),
            "{all}"
        );
        assert_eq!(statuses(&all), [400], "{all}");
        assert!(server.take().requests.is_empty());
    }
}

#[test]
fn http2_comes_out_in_the_same_form() {
    let server = Strict::start();
    let gateway = gateway(&server);
    let client = Http2::plain(gateway.address);
    for (headers, body, chunked) in [
        (&[][..], &b""[..], false),
        (&[("te", "trailers")], b"abc", true),
        (&[("content-length", "3")], b"abc", false),
        (&[("cookie", "a=b"), ("cookie", "c=d")], b"", false),
        (
            &[("x_under", "1"), ("expect", "100-continue")],
            b"abc",
            true,
        ),
        (
            &[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")],
            b"",
            false,
        ),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let answer = client.ask(method, "/v1/x", headers, body);
        assert_eq!(answer.status, 200, "{headers:?}");
        let kept = server.take();
        assert_eq!(kept.faults, Vec::<String>::new(), "{headers:?}");
        let [request] = &kept.requests[..] else {
            panic!("{headers:?}: {:?}", kept.requests)
        };
        assert_eq!(
            (&request.body[..], request.chunked),
            (body, chunked),
            "{headers:?}"
        );
        assert!(
            request
                .headers
                .iter()
                .all(|(_, value)| !value.contains("6.6.6.6"))
        );
    }
}
