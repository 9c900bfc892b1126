//! What can be typed, and what comes back: text, streams, exit codes.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::gateway::BINARY;

struct Typed {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(folder: &Path, arguments: &[&str]) -> Typed {
    let output: Output = Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .env_remove("TRUNKLINE_CONFIG")
        .env("HOME", folder)
        .env("XDG_CONFIG_HOME", folder.join("none"))
        .output()
        .unwrap();
    Typed {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn with(yaml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trunkline.yaml"), yaml).unwrap();
    folder
}

const GOOD: &str = "pools: { kokoro: { kind: kokoro, servers: ['http://gpu-a:8880/v1'], models: { tts-1: kokoro } } }\nroutes: [{ match: { path: /v1/audio/speech }, pool: kokoro }]\n";
const BAD: &str = "pools:\n  kokoro: { kind: kokro, servers: ['http://gpu-a:8880/v1'] }\nroutes:\n  - { pool: kokor, fallbak: [] }\n";

#[test]
fn help_and_version_are_everywhere() {
    let folder = with(GOOD);
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["run", "-h"],
        &["check-config", "--help"],
        &["route", "-h"],
        &["config", "show", "-h"],
    ] {
        let typed = run(arguments);
        assert_eq!(
            (typed.code, typed.stderr.as_str()),
            (0, ""),
            "{arguments:?}"
        );
        assert!(
            typed.stdout.contains("Usage: trunkline"),
            "{}",
            typed.stdout
        );
        assert!(
            typed.stdout.lines().all(|line| line.chars().count() <= 100),
            "{}",
            typed.stdout
        );
    }
    for arguments in [&["--version"][..], &["-v"], &["-V"], &["route", "-v"]] {
        let typed = run(arguments);
        assert_eq!(typed.code, 0, "{arguments:?} {}", typed.stderr);
        assert!(
            typed.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{}",
            typed.stdout
        );
    }
    let typed = run(&["rout"]);
    assert_eq!(typed.code, 2);
    assert!(typed.stderr.contains("route"), "{}", typed.stderr);
}

#[test]
fn check_config_says_ok_or_every_problem_with_its_place() {
    let folder = with(GOOD);
    let good = run(folder.path(), &["check-config"]);
    assert_eq!(
        (good.code, good.stdout.lines().next(), good.stderr.as_str()),
        (0, Some("trunkline.yaml: ok"), "")
    );
    assert_eq!(run(folder.path(), &["check-config", "--quiet"]).stdout, "");
    let folder = with(BAD);
    let bad = run(folder.path(), &["check-config"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (78, ""));
    for part in [
        "trunkline.yaml:2:19",
        "`kokro` is not known here",
        "did you mean `kokoro`?",
        "unknown key `fallbak`",
        "did you mean `fallback`?",
        "pool `kokor` is not defined",
        "- { pool: kokor, fallbak: [] }",
        "^^^^^",
        "3 errors",
    ] {
        assert!(bad.stderr.contains(part), "{part} not in\n{}", bad.stderr);
    }
    let json = run(folder.path(), &["check-config", "--format", "json"]);
    assert_eq!((json.code, json.stderr.as_str()), (78, ""));
    let problems: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(problems.as_array().unwrap().len(), 3);
    assert_eq!(
        (problems[0]["line"].as_u64(), problems[0]["path"].as_str()),
        (Some(2), Some("pools.kokoro.kind"))
    );
    assert_eq!(
        run(folder.path(), &["check-config", "nothing.yaml"]).code,
        78
    );
}

#[test]
fn warnings_pass_unless_they_are_denied() {
    let folder = with(&GOOD.replace("kind: kokoro,", "tls: { verify: false },"));
    let warned = run(folder.path(), &["check-config"]);
    assert_eq!(
        (warned.code, warned.stdout.lines().next()),
        (0, Some("trunkline.yaml: ok, 1 warning"))
    );
    assert!(warned.stderr.contains("certificates are not checked"));
    assert_eq!(run(folder.path(), &["check-config", "-W"]).code, 78);
}

#[test]
fn a_bad_file_starts_nothing() {
    let folder = with(&format!("listen: 127.0.0.1:0\n{BAD}"));
    for arguments in [&["run"][..], &[], &["--config", "trunkline.yaml"]] {
        let typed = run(folder.path(), arguments);
        assert_eq!(typed.code, 78);
        assert!(
            typed.stderr.contains("3 errors; nothing was started"),
            "{}",
            typed.stderr
        );
        assert!(!typed.stderr.contains("listening"));
    }
    assert_eq!(run(folder.path(), &["-c", "nothing.yaml"]).code, 78);
}

#[test]
fn a_taken_port_says_whom_to_ask() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = with(&format!("listen: {address}\nadmin: off\n{GOOD}"));
    let typed = run(folder.path(), &[]);
    assert_eq!(typed.code, 1);
    assert!(
        typed.stderr.contains(&format!("{address} is taken")) && typed.stderr.contains("ss -ltnp"),
        "{}",
        typed.stderr
    );
}

#[test]
fn route_explains_without_sending() {
    let folder = with(GOOD);
    let found = run(
        folder.path(),
        &[
            "route",
            "POST",
            "/v1/audio/speech",
            "--model",
            "tts-1",
            "--voice",
            "af_sky",
        ],
    );
    assert_eq!(found.code, 0, "{}", found.stderr);
    for part in [
        "speech, the 1st written",
        "kokoro: gpu-a",
        "http://gpu-a:8880/v1/audio/speech",
        "model: \"tts-1\" becomes \"kokoro\"",
        "none go through",
    ] {
        assert!(
            found.stdout.contains(part),
            "{part} not in\n{}",
            found.stdout
        );
    }
    let missing = run(folder.path(), &["route", "GET", "/v1/files"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.stdout.contains("404 no_route"),
        "{}",
        missing.stdout
    );
    assert_eq!(run(folder.path(), &["route", "POST", "/v1/../x"]).code, 2);
}

#[test]
fn what_config_show_prints_can_be_read_back() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for entry in std::fs::read_dir(&conf).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let first = run(
            folder.path(),
            &["config", "show", "-c", path.to_str().unwrap()],
        );
        assert_eq!(first.code, 0, "{}", first.stderr);
        std::fs::write(folder.path().join("trunkline.yaml"), &first.stdout).unwrap();
        let again = run(folder.path(), &["config", "show"]);
        let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
        assert_eq!(
            body(&again.stdout),
            body(&first.stdout),
            "{}\n{}",
            path.display(),
            again.stderr
        );
    }
}

#[test]
fn the_committed_schema_is_the_one_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(folder.path(), &["config", "schema"]);
    let committed = include_str!("../../conf/trunkline.schema.json");
    assert_eq!(printed.stdout, committed, "run `make schema`");
}

#[test]
fn the_file_is_found_where_the_manual_says() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join(".config/trunkline");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("trunkline.yaml"), GOOD).unwrap();
    let output = Command::new(BINARY)
        .arg("check-config")
        .current_dir(home.path())
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("TRUNKLINE_CONFIG")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(".config/trunkline/trunkline.yaml: ok")
    );
    let elsewhere = home.path().join("other.yaml");
    std::fs::write(&elsewhere, GOOD).unwrap();
    let output = Command::new(BINARY)
        .arg("check-config")
        .env("TRUNKLINE_CONFIG", &elsewhere)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("other.yaml: ok"));
}
