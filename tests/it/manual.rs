//! Completions and the manual.

use std::process::Command;

use crate::support::typed::typed;

#[test]
fn completions_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = typed(folder.path(), &["completions", shell]);
        assert_eq!((script.code, script.stderr.as_str()), (0, ""), "{shell}");
        for word in ["check-endpoints", "discover", "status", "--config"] {
            let word = word.trim_start_matches("--");
            assert!(script.stdout.contains(word), "{word} in {shell}");
        }
        assert!(!script.stdout.contains("standin"), "{shell}");
    }
    assert_eq!(typed(folder.path(), &["completions", "csh"]).code, 2);
}

#[test]
fn bash_completes() {
    let folder = tempfile::tempdir().unwrap();
    let script = typed(folder.path(), &["completions", "bash"]).stdout;
    std::fs::write(folder.path().join("trunkline.bash"), script).unwrap();
    let asked = Command::new("bash")
        .current_dir(folder.path())
        .args([
            "-c",
            "source trunkline.bash; COMP_WORDS=(trunkline check-); COMP_CWORD=1; \
             _trunkline trunkline check- trunkline; echo \"${COMPREPLY[@]}\"",
        ])
        .output()
        .unwrap();
    let offered = String::from_utf8_lossy(&asked.stdout);
    assert_eq!(offered.trim(), "check-config check-endpoints");
}

#[test]
fn each_command_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = typed(folder.path(), &["man"]);
    assert!(page.stdout.contains(".TH trunkline 1"), "{}", page.stdout);
    let page = typed(folder.path(), &["man", "config", "show"]);
    assert!(page.stdout.contains(".TH trunkline-config-show 1"));
    let wrong = typed(folder.path(), &["man", "nothing"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""));
    assert!(wrong.stderr.contains("check-endpoints"), "{}", wrong.stderr);
    let written = typed(folder.path(), &["man", "--dir", "pages/man1"]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    for line in written.stdout.lines() {
        let page = std::fs::read_to_string(folder.path().join(line)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{line}");
    }
    for name in ["trunkline.1", "trunkline-config-show.1", "trunkline-man.1"] {
        assert!(written.stdout.contains(name), "{name}");
    }
    assert!(!written.stdout.contains("standin"));
}
