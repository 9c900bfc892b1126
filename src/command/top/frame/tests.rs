use serde_json::json;

use super::*;

fn status(attempts: u64, failures: u64) -> Value {
    json!({
        "version": "0.1.0", "uptime_seconds": 3725, "ready": true, "draining": false,
        "config": "/etc/trunkline/trunkline.yaml", "demo": false,
        "listeners": ["127.0.0.1:2020"], "requests_in_flight": 3,
        "routes": [{ "name": "speech", "requests": attempts, "errors": failures }],
        "unrouted": { "requests": 0, "errors": 0 },
        "pools": [{
            "name": "kokoro", "kind": "kokoro", "available": true, "waiting": 4,
            "first_byte_ms": { "p50": 212.34, "p99": 901.0 },
            "servers": [
                { "name": "gpu-a", "state": "up", "in_flight": 2, "slots": 4, "backup": false,
                  "attempts": attempts, "failures": failures,
                  "first_byte_ms": { "p50": 8.2, "p99": 123_456.0 } },
                { "name": "a-mac-mini-with-a-very-long-name", "state": "ejected", "in_flight": 0,
                  "slots": 4, "backup": true, "attempts": 0, "failures": 0, "first_byte_ms": null },
            ],
        }],
        "recent_failures": [{
            "ts": "2026-11-21T18:03:07.123Z", "status": 200, "path": "/v1/audio/speech\u{1b}[2J",
            "local": null, "attempts": ["kokoro/gpu-a=timeout", "openai/api=200"],
        }],
    })
}

fn drawn(width: usize) -> Vec<String> {
    let start = Instant::now();
    let before = Sample {
        at: start,
        status: status(100, 10),
    };
    let now = Sample {
        at: start + Duration::from_secs(2),
        status: status(125, 11),
    };
    let view = View {
        now: &now,
        before: Some(&before),
        fault: None,
    };
    let frame = draw(&view, width);
    let lines = frame.head.iter().chain(&frame.rows).chain(&frame.foot);
    lines
        .map(|line| line.text().trim_end().to_owned())
        .collect()
}

#[test]
fn a_frame_in_80_columns() {
    assert_eq!(
        drawn(80),
        [
            "trunkline 0.1.0  ready  up 1h 2m 5s  3 in flight  12 req/s  0.5 err/s",
            "127.0.0.1:2020  /etc/trunkline/trunkline.yaml",
            "",
            "POOL/SERVER                 STATE      IN FLIGHT   REQ/S   ERR/S  P50 MS  P99 MS",
            "kokoro (kokoro)             1/2 up        2/8 +4      12     0.5     212     901",
            "  gpu-a                     up               2/4      12     0.5     8.2    123s",
            "  a-mac-mini-with-a-very-l… ejected          0/4     0.0     0.0       -       -",
            "",
            "LAST FAILURES AND RETRIES",
            "18:03:07  200  /v1/audio/speech\\u{1b}[2J  kokoro/gpu-a=timeout, openai/api=200",
        ]
    );
}

#[test]
fn every_width_is_kept() {
    for width in [70, 80, 120, 200] {
        for line in drawn(width) {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    let line = Line::of(Style::Good, "abc").then(Style::Plain, "def");
    let cut: Vec<String> = line.cut(4).into_iter().map(|(_, text)| text).collect();
    assert_eq!(cut, ["abc", "d"]);
}

#[test]
fn a_restart_has_no_rate() {
    let start = Instant::now();
    let before = Sample {
        at: start,
        status: status(100, 10),
    };
    let now = Sample {
        at: start + Duration::from_secs(1),
        status: status(3, 0),
    };
    let view = View {
        now: &now,
        before: Some(&before),
        fault: Some("connection refused"),
    };
    let frame = draw(&view, 80);
    assert!(frame.head[0].text().contains("- req/s  - err/s"));
    assert!(
        frame.head[1]
            .text()
            .contains("trying again: connection refused")
    );
    assert!(
        frame.rows[1].text().contains(" - "),
        "{}",
        frame.rows[1].text()
    );
}

#[test]
fn rows_scroll_and_the_head_stays() {
    let lines =
        |from: usize, n: usize| (from..from + n).map(|n| Line::of(Style::Plain, n.to_string()));
    let frame = Frame {
        head: lines(0, 2).collect(),
        rows: lines(10, 10).collect(),
        foot: lines(90, 2).collect(),
    };
    let shown = |height: usize, top: &mut usize| -> Vec<String> {
        frame
            .fit(height, top)
            .iter()
            .map(|line| line.text())
            .collect()
    };
    let mut top = 0;
    assert_eq!(shown(14, &mut top).len(), 14, "there is room for all");
    assert_eq!(shown(5, &mut top), ["0", "1", "10", "11", "12"]);
    top = 100;
    assert_eq!(shown(5, &mut top), ["0", "1", "17", "18", "19"]);
    assert_eq!(top, 7, "so that one key up is seen");
    assert_eq!(shown(1, &mut top), ["0"]);
}
