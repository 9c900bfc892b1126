//! The status page, in a real Chromium, in front of servers that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::support::browser::Browser;
use crate::support::{Gateway, Request, Server, eventually};

const HOSTILE: &str = "<img src=x onerror=alert(1)>";

fn speech() -> Request {
    Request::json(
        "/v1/audio/speech?key=secret",
        r#"{"model":"tts-1","input":"Hello","voice":"nova"}"#,
    )
}

/// Two boxes and a cloud that speak, and a page in front of them.
struct Show {
    gateway: Gateway,
    first: Server,
    second: Server,
    _cloud: Server,
}

impl Show {
    fn start() -> Self {
        let [first, second, cloud] = ["a", "b", "c"].map(Server::named);
        let gateway = Gateway::start(&format!(
            r#"
pools:
  kokoro:
    servers: [{{ url: "{}", name: gpu-a, slots: 4 }}, {{ url: "{}", name: gpu-b, slots: 2 }}]
    health: {{ tcp: true, interval: 200ms, fall: 4, rise: 1 }}
    eject: false
  cloud: {{ servers: [{{ url: "{}", name: openai }}], health: false }}
routes:
  - {{ name: speech, match: {{ path: /v1/audio/speech }}, pool: kokoro, fallback: [cloud] }}
"#,
            first.url(),
            second.url(),
            cloud.url()
        ));
        Show {
            gateway,
            first,
            second,
            _cloud: cloud,
        }
    }

    fn page(&self) -> Option<Browser> {
        Browser::open(&format!("http://{}/", self.gateway.admin))
    }
}

/// The text of a server's row, by the name of the server.
fn row_of(browser: &mut Browser, server: &str) -> String {
    let code = format!(
        "() => [...document.querySelectorAll('tbody tr')].find((row) => row.querySelector('th').firstChild.data === {server:?})?.innerText ?? ''"
    );
    browser.run(&code).as_str().unwrap().to_owned()
}

#[test]
fn browsers_get_the_page_with_a_strict_policy_and_everybody_else_the_index() {
    let show = Show::start();
    let html = Request::get("/").header("accept", "text/html,*/*;q=0.8");
    let page = html.send(show.gateway.admin);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let index = show.gateway.ask_admin("/");
    assert_eq!(
        index.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(index.text().contains("/metrics"));
}

#[test]
fn the_status_tells_what_was_counted_and_agrees_with_the_metrics() {
    let show = Show::start();
    show.first.kill();
    for _ in 0..12 {
        show.gateway.send(&speech());
    }
    show.gateway.get("/v1/nothing");
    show.gateway.access_log(13);
    let status = show.gateway.ask_admin("/status").json();
    let gateway = &show.gateway;
    let total = |name: &str, labels: &[(&str, &str)]| gateway.metric(name, labels);
    let route = &status["routes"][0];
    for (key, name) in [
        ("requests", "trunkline_requests_total"),
        ("retries", "trunkline_retries_total"),
        ("fallbacks", "trunkline_fallbacks_total"),
    ] {
        assert_eq!(
            route[key].as_f64().unwrap(),
            total(name, &[("route", "speech")]),
            "{key}"
        );
    }
    assert_eq!(route["requests"], 12);
    assert_eq!(status["unrouted"]["errors"], 1);
    for server in status["pools"][0]["servers"].as_array().unwrap() {
        let name = server["name"].as_str().unwrap();
        let attempts = total("trunkline_attempts_total", &[("server", name)]);
        let good = total(
            "trunkline_attempts_total",
            &[("server", name), ("result", "ok")],
        );
        assert_eq!(server["attempts"].as_f64().unwrap(), attempts, "{server}");
        assert_eq!(
            server["failures"].as_f64().unwrap(),
            attempts - good,
            "{server}"
        );
    }
    let [gone, well] = [0, 1].map(|n| &status["pools"][0]["servers"][n]["first_byte_ms"]);
    assert!(
        gone.is_null() && well["p50"].as_f64() <= well["p99"].as_f64(),
        "{well}"
    );
    assert!(well["p50"].as_f64().unwrap() > 0.0);
    assert_eq!(status["last_reload"]["result"], "success");
    assert!(status["last_reload"]["at"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn what_went_badly_or_took_several_attempts_is_told_newest_first() {
    let show = Show::start();
    show.gateway.send(&speech());
    assert_eq!(
        show.gateway.ask_admin("/status").json()["recent_failures"],
        serde_json::json!([])
    );
    show.gateway.get("/v1/nothing?key=secret");
    let bad = Server::failing(503);
    let other = Gateway::start(&format!(
        "pools: {{ a: {{ servers: [{{ url: '{}', name: s }}, {{ url: '{}', name: t }}], health: false }} }}\nroutes: [{{ name: r, pool: a }}]\n",
        bad.url(),
        bad.url()
    ));
    other.send(&speech().header("x-request-id", "id-9"));
    other.access_log(1);
    show.gateway.access_log(2);
    let mine = &show.gateway.ask_admin("/status").json()["recent_failures"];
    assert_eq!(
        (mine[0]["path"].as_str(), mine[0]["status"].as_u64()),
        (Some("/v1/nothing"), Some(404))
    );
    assert!(mine[0]["route"].is_null() && mine[0]["local"].is_string());
    let told = other.ask_admin("/status").json()["recent_failures"][0].clone();
    assert_eq!(told["attempts"].as_array().unwrap().len(), 2, "{told}");
    for (key, value) in [
        ("request_id", "id-9"),
        ("route", "r"),
        ("method", "POST"),
        ("path", "/v1/audio/speech"),
    ] {
        assert_eq!(told[key], value, "{told}");
    }
    assert!(told["duration_ms"].as_f64().unwrap() > 0.0);
    assert!(!told.to_string().contains("secret"));
}

#[test]
fn names_states_rates_and_failures_appear_and_change() {
    let show = Show::start();
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    assert!(row_of(&mut browser, "gpu-a").contains("up"));
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (stop, address) = (stop.clone(), show.gateway.address);
        std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                speech().send(address);
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    eventually("the rate of the route moves", || {
        let rate = browser
            .run("() => parseFloat(document.querySelector('#routes td.number').textContent)");
        rate.as_f64().is_some_and(|rate| rate > 1.0)
    });
    show.first.kill();
    show.second.kill();
    eventually("the row says down", || {
        row_of(&mut browser, "gpu-a").contains("down")
    });
    eventually("a failure is told with its attempts", || {
        let chains =
            browser.run("() => [...document.querySelectorAll('.chain')].map((c) => c.textContent)");
        let mut chains = chains.as_array().unwrap().iter().filter_map(|c| c.as_str());
        chains.any(|chain| {
            chain.starts_with("kokoro/gpu-")
                && chain.contains(" ✗")
                && chain.ends_with("cloud/openai 200 ✓")
        })
    });
    eventually("the change is said aloud", || {
        let news = browser.run("() => document.getElementById('news').textContent");
        news.as_str().unwrap().contains("is down")
    });
    stop.store(true, SeqCst);
    traffic.join().unwrap();
    assert!(!browser.text().contains("secret"));
    assert_eq!(browser.problems(), Vec::<serde_json::Value>::new());
}

#[test]
fn the_page_fits_a_phone_in_light_and_dark_and_is_accessible() {
    let show = Show::start();
    show.gateway.get("/v1/nothing");
    show.first.kill();
    show.gateway.send(&speech());
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    browser.shows("Recent failures");
    let mut grounds = Vec::new();
    for (width, scheme) in [
        (1280, "light"),
        (1280, "dark"),
        (360, "dark"),
        (360, "light"),
    ] {
        browser.size(width, 800);
        browser.scheme(scheme);
        let overflow = browser.run("() => document.documentElement.scrollWidth - innerWidth");
        assert!(
            overflow.as_i64().unwrap() <= 0,
            "{width} px: {overflow} too wide"
        );
        grounds.push(browser.run("() => getComputedStyle(document.body).backgroundColor"));
        let violations = browser.inaccessible();
        assert!(
            violations.is_empty(),
            "{width} px, {scheme}: {violations:#?}"
        );
    }
    assert_ne!(grounds[0], grounds[1], "dark is not light");
    assert_eq!(browser.problems(), Vec::<serde_json::Value>::new());
}

#[test]
fn the_keyboard_reaches_everything_and_sorts() {
    let show = Show::start();
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    let all = browser.run(
        "() => [...document.querySelectorAll('a, button, summary')].filter((e) => e.checkVisibility()).length",
    );
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..all.as_u64().unwrap() {
        browser.press("Tab");
        let focused = browser.run(
            "() => { const e = document.activeElement; const o = getComputedStyle(e).outlineStyle; \
             return [[...document.querySelectorAll('*')].indexOf(e), e.textContent, o]; }",
        );
        assert_eq!(focused[2], "solid", "focus shows on {focused}");
        reached.insert(focused[0].as_u64().unwrap());
    }
    assert_eq!(reached.len() as u64, all.as_u64().unwrap(), "each once");
    let first = "() => document.querySelector('#pools tbody th').firstChild.data";
    assert_eq!(browser.run(first), "gpu-a");
    browser.run("() => document.querySelector('#pools th button').focus()");
    browser.press("Enter");
    browser.press("Enter");
    let sort = browser.run("() => document.querySelector('#pools th').getAttribute('aria-sort')");
    assert_eq!(sort, "descending");
    assert_eq!(browser.run(first), "gpu-b");
}

#[test]
fn a_server_is_drained_and_given_requests_again_from_the_page() {
    let show = Show::start();
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    let press = |browser: &mut Browser, button: &str| {
        browser.run(&format!(
            "() => {{ document.querySelector('details').open = true; \
             [...document.querySelectorAll('.acts button')].find((b) => b.textContent === {button:?}).click(); }}"
        ));
    };
    press(&mut browser, "Drain gpu-a");
    eventually("it is drained", || {
        row_of(&mut browser, "gpu-a").contains("drained")
    });
    assert_eq!(show.gateway.send(&speech()).json()["served_by"], "b");
    eventually("the button undoes it", || {
        browser.text().contains("Undrain gpu-a")
    });
    press(&mut browser, "Undrain gpu-a");
    eventually("it is up", || row_of(&mut browser, "gpu-a").contains("up"));
    assert!(browser.problems().is_empty(), "{:?}", browser.problems());
}

#[test]
fn the_real_token_opens_the_page() {
    let server = Server::named("a");
    let gateway = Gateway::start(&format!(
        "admin: {{ address: '127.0.0.1:0', token: s3cret }}\npools: {{ p: {{ servers: [{{ url: '{}', name: gpu-a }}], health: false }} }}\nroutes: [{{ pool: p }}]\n",
        server.url()
    ));
    let Some(mut browser) = Browser::open(&format!("http://{}/", gateway.admin)) else {
        return;
    };
    browser.shows("asks for its admin token");
    browser.type_text("s3cret");
    browser.press("Enter");
    browser.shows("gpu-a");
}

#[test]
fn a_proxy_that_is_gone_is_said_to_be_gone_since_when() {
    let show = Show::start();
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    show.gateway.signal("KILL");
    browser.shows("The proxy can't be reached since ");
    browser.shows("What you see is from before.");
    assert!(browser.text().contains("gpu-a"));
}

#[test]
fn a_hidden_tab_asks_nothing_and_looks_at_once_when_it_is_back() {
    let show = Show::start();
    let Some(mut browser) = show.page() else {
        return;
    };
    browser.shows("gpu-a");
    let asked = "() => performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/status')).length";
    let hide = |hidden: bool| {
        format!(
            "() => {{ Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); document.dispatchEvent(new Event('visibilitychange')); }}"
        )
    };
    browser.run(&hide(true));
    let before = browser.run(asked).as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(4500));
    let after = browser.run(asked).as_u64().unwrap();
    assert!(
        after <= before + 1,
        "one look may have been under way: {before}, {after}"
    );
    browser.run(&hide(false));
    eventually("it looks again", || {
        browser.run(asked).as_u64().unwrap() > after
    });
}

/// A proxy of our own making: the page of the real one, and another status.
fn with_status(show: &Show, status: String, token: Option<&'static str>) -> Server {
    let html = Request::get("/").header("accept", "text/html");
    let html = html.send(show.gateway.admin);
    let wanted = token.map(|token| format!("Bearer {token}"));
    Server::fake(move |seen, wire| {
        let policy = html.header("content-security-policy").unwrap();
        match (seen.target.as_str(), seen.header("authorization")) {
            ("/", _) => wire.answer(
                200,
                &[
                    ("content-type", "text/html"),
                    ("content-security-policy", policy),
                ],
                html.body.clone(),
            ),
            (_, token) if token == wanted.as_deref() => wire.json(&status),
            _ => wire.answer(401, &[], ""),
        }
        true
    })
}

#[test]
fn hostile_names_and_paths_stay_text() {
    let show = Show::start();
    show.gateway.get("/v1/nothing");
    show.gateway.access_log(1);
    let status = show.gateway.ask_admin("/status").text();
    let status = status.replace("/v1/nothing", "/v1/<b>bold</b>");
    let status = ["gpu-a", "kokoro", "speech"]
        .iter()
        .fold(status, |text, name| {
            text.replace(&format!("\"{name}\""), &format!("\"{HOSTILE}{name}\""))
        });
    let proxy = with_status(&show, status, None);
    let Some(mut browser) = Browser::open(&format!("{}/", proxy.url())) else {
        return;
    };
    for name in ["gpu-a", "kokoro", "speech"] {
        browser.shows(&format!("{HOSTILE}{name}"));
    }
    assert!(browser.text().contains("<b>bold</b>"));
    let made = browser.run("() => document.querySelectorAll('img, b').length");
    assert_eq!(made, 0);
    assert_eq!(browser.problems(), Vec::<serde_json::Value>::new());
}

#[test]
fn a_proxy_that_wants_a_token_is_asked_with_what_the_field_holds() {
    let show = Show::start();
    let status = show.gateway.ask_admin("/status").text();
    let guarded = with_status(&show, status, Some("open sesame"));
    let Some(mut browser) = Browser::open(&format!("{}/", guarded.url())) else {
        return;
    };
    browser.shows("This proxy asks for its admin token.");
    browser.type_text("wrong");
    browser.press("Enter");
    browser.shows("That one was not accepted.");
    assert!(!browser.text().contains("gpu-a"));
    browser.type_text("open sesame");
    browser.press("Enter");
    browser.shows("gpu-a");
    assert!(!browser.text().contains("admin token"));
    assert_eq!(browser.run("() => localStorage.length"), 0);
}
