//! `trunkline top`, printed once and on a real terminal.

use std::process::{Command, Stdio};

use crate::support::gateway::BINARY;
use crate::support::typed::{bare, run, typed};
use crate::support::{Gateway, Server, eventually};

fn gateway(servers: &[&Server]) -> Gateway {
    let urls: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(n, server)| format!("{{ url: \"{}\", name: box-{n}, slots: 4 }}", server.url()))
        .collect();
    let refused = Server::refused();
    Gateway::start(&format!(
        "pools:\n  kokoro: {{ kind: kokoro, servers: [{}], health: false }}\n  \
         gone: {{ servers: [{{ url: \"http://{refused}\", name: nobody }}], health: {{ tcp: true, interval: 50ms, fall: 1 }} }}\n\
         routes: [{{ match: {{ path: /v1/audio/speech }}, pool: kokoro }}, {{ match: {{ path: /v1/embeddings }}, pool: gone }}]\n",
        urls.join(", ")
    ))
}

#[test]
fn once_prints_pools_servers_and_rates() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let gateway = gateway(&[&one, &two]);
    let admin = gateway.admin.to_string();
    let folder = gateway.folder.path();
    eventually("the box that is gone is down", || {
        let shown = typed(folder, &["top", "--once", "-i", "10ms", "--admin", &admin]);
        shown.stdout.contains("nobody") && shown.stdout.contains("down")
    });
    let watching = bare(
        folder,
        &["top", "--once", "--interval", "2s", "--admin", &admin],
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    // some of these fall between the two looks, however slow the machine is
    let mut watching = Some(watching);
    let shown = loop {
        gateway.post("/v1/audio/speech", r#"{"input":"x"}"#);
        if watching.as_mut().unwrap().try_wait().unwrap().is_some() {
            let output = watching.take().unwrap().wait_with_output().unwrap();
            break String::from_utf8(output.stdout).unwrap();
        }
    };
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("  ready  up "), "{shown}");
    let row = |name: &str| {
        let found = lines.iter().find(|line| line.starts_with(name));
        let line = found.unwrap_or_else(|| panic!("{name} not in\n{shown}"));
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let pool = row("kokoro (kokoro)");
    assert_eq!(pool[2..4], ["2/2", "up"]);
    let (first, second) = (row("  box-0"), row("  box-1"));
    assert_eq!(&first[1], "up");
    assert!(first[2].ends_with("/4"), "{shown}");
    for served in [&first, &second] {
        assert!(served[3].parse::<f64>().unwrap() > 0.0, "{shown}");
        assert_ne!(served[5], "-", "first bytes are known: {shown}");
    }
    assert_eq!(row("gone")[1], "0/1");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
}

#[test]
fn nobody_to_watch_is_not_running() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Server::refused().to_string();
    for arguments in [
        &["top", "--once", "--admin", &refused][..],
        &["status", "--admin", &refused],
    ] {
        let nobody = typed(folder.path(), arguments);
        assert_eq!((nobody.code, nobody.stdout.as_str()), (3, ""));
        assert!(nobody.stderr.contains("not running"), "{}", nobody.stderr);
    }
    let piped = typed(folder.path(), &["top", "--admin", &refused]);
    assert_eq!(piped.code, 2);
    assert!(piped.stderr.contains("top --once"), "{}", piped.stderr);
}

/// Runs `top` on a terminal of its own; what became of both.
#[track_caller]
fn on_a_terminal(gateway: &Gateway, end: &str) -> serde_json::Value {
    let drive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal/drive.py");
    let admin = gateway.admin.to_string();
    let mut command = Command::new("python3");
    command
        .arg(drive)
        .arg(end)
        .args([BINARY, "top", "-i", "100ms", "--admin", &admin])
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .current_dir(gateway.folder.path());
    let driven = run(&mut command);
    assert_eq!(driven.code, 0, "{}{}", driven.stdout, driven.stderr);
    driven.json()
}

#[test]
fn the_terminal_is_given_back_on_every_way_out() {
    let one = Server::named("one");
    let gateway = gateway(&[&one]);
    for end in ["q", "ctrl-c", "TERM", "INT", "HUP"] {
        let seen = on_a_terminal(&gateway, end);
        let screen = seen["screen"].as_str().unwrap();
        assert_eq!(seen["code"], 0, "{end}: {seen:#}");
        assert_eq!(seen["restored"], true, "{end}: the terminal's modes");
        for (mode, on, off) in [
            ("the other screen", "\x1b[?1049h", "\x1b[?1049l"),
            ("the cursor", "\x1b[?25l", "\x1b[?25h"),
            ("line wrap", "\x1b[?7l", "\x1b[?7h"),
        ] {
            let (on, off) = (screen.rfind(on), screen.rfind(off));
            assert!(on.is_some() && on < off, "{end}: {mode}");
        }
        assert!(screen.contains("box-0"), "{end}");
    }
}

#[test]
fn a_terminal_that_grows_is_filled() {
    let one = Server::named("one");
    let gateway = gateway(&[&one]);
    let seen = on_a_terminal(&gateway, "resize");
    assert_eq!(
        (seen["code"].as_i64(), seen["restored"].as_bool()),
        (Some(0), Some(true))
    );
    let screen = seen["screen"].as_str().unwrap();
    let wide = format!("{:40} STATE", "POOL/SERVER");
    assert!(screen.contains(&wide), "{screen:?}");
}

#[test]
fn who_watches_sees_that_it_stopped() {
    let one = Server::named("one");
    let gateway = gateway(&[&one]);
    let pid = format!("kill:{}", gateway.pid());
    let seen = on_a_terminal(&gateway, &pid);
    let screen = seen["screen"].as_str().unwrap();
    assert!(screen.contains("no answer, trying again"), "{screen:?}");
    assert_eq!(seen["code"], 0);
}
