//! Files that make no sense: what `check-config` says about them, where, and what to do instead.

use std::process::Command;

use crate::support::gateway::BINARY;

/// Checks a file; gives the exit code and what is said.
fn check(yaml: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = Command::new(BINARY)
        .arg("check-config")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

fn with(pool: &str, route: &str) -> String {
    format!(
        "pools:\n  a: {{ servers: ['http://gpu-a:1', 'http://gpu-b:1'], {pool} }}\nroutes:\n  - {{ pool: a, {route} }}\n"
    )
}

#[track_caller]
fn says(yaml: &str, code: i32, parts: &[&str]) {
    let (exit, said) = check(yaml);
    assert_eq!(exit, code, "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
}

#[test]
fn a_queue_without_slots_is_warned_about() {
    let way_out = "give the pool, or its servers, `slots`";
    let parts = ["warning", ":2:", "nobody ever waits in this queue", way_out];
    says(&with("queue: { size: 10 }", ""), 0, &parts);
    says(&with("queue: { timeout: 1s }", ""), 0, &parts);
    for pool in ["slots: 1, queue: { size: 10 }", ""] {
        let (code, said) = check(&with(pool, ""));
        assert_eq!((code, said.as_str()), (0, ""));
    }
    let whisper = "pools: { a: { kind: whisper.cpp, servers: ['http://gpu-a:1'], queue: { size: 10 } } }\nroutes: [{ pool: a }]";
    assert_eq!(check(whisper), (0, String::new()), "its kind has one slot");
}

#[test]
fn a_hedge_with_nobody_to_ask_is_warned_about() {
    let alone = "pools:\n  a: { servers: ['http://gpu-a:1'] }\n  paid: { servers: ['http://far:1'], cost: paid }\nroutes:\n";
    for route in [
        "  - { pool: a, hedge: { after: 1s }, retry: { budget: 10% } }\n",
        "  - { pool: a, fallback: [paid], hedge: { after: 1s }, retry: { budget: 10% } }\n",
    ] {
        let yaml = format!("{alone}{route}");
        let parts = [
            "warning",
            ":5:",
            "no second server can ever be asked",
            "`paid: true`",
        ];
        says(&yaml, 0, &parts);
    }
    let fine = format!(
        "{alone}  - {{ pool: a, fallback: [paid], hedge: {{ after: 1s, paid: true }}, retry: {{ budget: 10% }} }}\n"
    );
    assert_eq!(check(&fine), (0, String::new()));
    let unbounded = with("", "hedge: { after: p95 }");
    says(&unbounded, 0, &["warning", ":4:", "`retry.budget`"]);
}

#[test]
fn a_hedge_at_home_does_not_count_on_the_cloud() {
    let yaml = "pools:\n  a: { servers: ['http://gpu-a:1'] }\n  far: { servers: ['http://far:1'], zone: cloud, cost: free }\nroutes:\n  - { pool: a, fallback: [far], zone: home, hedge: { after: 1s }, retry: { budget: 10% } }\n";
    says(yaml, 0, &["no second server can ever be asked"]);
}

#[test]
fn errors_name_their_place_and_a_way_out() {
    for (pool, route, parts) in [
        (
            "slots: 0",
            "",
            &["would never be asked", "leave `slots` out", ":2:"][..],
        ),
        (
            "balance: round_robbin",
            "",
            &["`round_robbin`", "did you mean `round_robin`?", ":2:"],
        ),
        (
            "balance: fastest",
            "",
            &["`fastest`", "least_in_flight", ":2:"],
        ),
        (
            "balance: { hash: { by: moon } }",
            "",
            &["`moon`", "client_ip", "header", ":2:"],
        ),
        (
            "balance: { hash: { by: 'header x y' } }",
            "",
            &["x y", ":2:"],
        ),
        ("balance: { hash: {} }", "", &[":2:", "by"]),
        ("warming: maybe", "", &["`maybe`", "wait", "skip", ":2:"]),
        ("zone: mars", "", &["`mars`", "home", "cloud", ":2:"]),
        ("cost: cheap", "", &["`cheap`", "free", "paid", ":2:"]),
        ("queue: { size: many }", "", &[":2:"]),
        ("queue: { timeout: 5 }", "", &["5s", ":2:"]),
        (
            "",
            "hedge: { after: soon }",
            &["`soon` is no time to wait", "`p95`", "`300ms`", ":4:"],
        ),
        ("", "hedge: { after: 300 }", &["300ms", ":4:"]),
        (
            "",
            "priority: urgent",
            &["`urgent`", "realtime", "batch", ":4:"],
        ),
        ("", "retry: { budget: 200% }", &[":4:"]),
        ("", "zone: mars", &["`mars`", "home", "cloud", ":4:"]),
    ] {
        says(&with(pool, route), 78, parts);
    }
    let server = "pools:\n  a:\n    servers:\n      - { url: 'http://gpu-a:1', slots: 0 }\nroutes: [{ pool: a }]\n";
    says(server, 78, &["would never be asked", ":4:"]);
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_without_traces_says_how_to_get_them() {
    let yaml = format!("{}tracing: {{ sample: 5% }}\n", with("", ""));
    says(
        &yaml,
        78,
        &[
            "built without traces",
            "cargo build --release --features otlp",
            "tracing",
        ],
    );
}
