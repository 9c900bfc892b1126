//! A real headless Chromium, driven through `tests/browser/driver.mjs`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::eventually;

const CHROMIUM: &str = "/usr/bin/chromium";

/// A browser with one page. It is closed when dropped.
pub struct Browser {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Where `make browser-setup` puts what drives the browser.
fn modules() -> PathBuf {
    std::env::var_os("TRUNKLINE_BROWSER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/browser"),
        PathBuf::from,
    )
}

impl Browser {
    /// `None`, with a word on why, where there is no browser.
    pub fn open(url: &str) -> Option<Self> {
        let missing = [PathBuf::from(CHROMIUM), modules().join("node_modules")];
        if let Some(missing) = missing.iter().find(|path| !path.exists()) {
            eprintln!(
                "SKIPPED: {} is not there, so the page is not looked at; `make browser-setup` brings it",
                missing.display()
            );
            return None;
        }
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/driver.mjs"))
            .env("BROWSER_NODE", modules())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut browser = Browser {
            orders: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(browser.line(), "ready", "Chromium did not start");
        browser.ask(json!({ "do": "open", "url": url }));
        Some(browser)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    #[track_caller]
    fn ask(&mut self, order: Value) -> Value {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
        let answer: Value = serde_json::from_str(&self.line()).unwrap();
        assert!(answer["error"].is_null(), "{order}: {}", answer["error"]);
        answer["ok"].clone()
    }

    /// What a JavaScript function gives.
    #[track_caller]
    pub fn run(&mut self, code: &str) -> Value {
        self.ask(json!({ "do": "run", "code": code }))
    }

    /// All that can be read.
    #[track_caller]
    pub fn text(&mut self) -> String {
        let text = self.run("() => document.body.innerText");
        text.as_str().unwrap().to_owned()
    }

    /// Waits until this can be read.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        eventually(&format!("the page shows {text:?}"), || {
            self.text().contains(text)
        });
    }

    #[track_caller]
    pub fn size(&mut self, width: u32, height: u32) {
        self.ask(json!({ "do": "size", "width": width, "height": height }));
    }

    /// `light` or `dark`.
    #[track_caller]
    pub fn scheme(&mut self, scheme: &str) {
        self.ask(json!({ "do": "scheme", "scheme": scheme }));
    }

    #[track_caller]
    pub fn press(&mut self, key: &str) {
        self.ask(json!({ "do": "press", "key": key }));
    }

    #[track_caller]
    pub fn type_text(&mut self, text: &str) {
        self.ask(json!({ "do": "type", "text": text }));
    }

    /// What axe-core finds inaccessible.
    #[track_caller]
    pub fn inaccessible(&mut self) -> Vec<Value> {
        self.ask(json!({ "do": "axe" })).as_array().unwrap().clone()
    }

    /// Errors, breaches of the page's policy and requests to anybody else, since last asked.
    #[track_caller]
    pub fn problems(&mut self) -> Vec<Value> {
        let problems = self.ask(json!({ "do": "problems" }));
        problems.as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // at the end of its orders the driver closes the browser
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}
