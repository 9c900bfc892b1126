//! Replays the corpus, and fuzzes for as long as the environment says.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::mutate::mutate;
use super::{TARGETS, Target, shape};

/// Shapes that are told apart, and inputs that are kept to go on from.
const MOST_SHAPES: usize = 20_000;
/// One input that takes longer is a hang.
const HANG: Duration = Duration::from_secs(20);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Target {
    /// Targets that ask somebody else about the same inputs share them.
    fn folder(&self) -> PathBuf {
        let name = self.name.split('-').next().unwrap_or(self.name);
        root().join("tests/corpus").join(name)
    }

    fn corpus(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = self.folder();
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
        paths.into_iter().map(read).collect()
    }
}

#[test]
fn the_corpus_holds() {
    for target in TARGETS {
        let corpus = target.corpus();
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for (path, data) in corpus {
            if let Err(why) = tried(target, &data) {
                panic!("{} on {}: {why}", target.name, path.display());
            }
        }
    }
}

/// What panicked last on this thread, and where.
static LAST: Mutex<String> = Mutex::new(String::new());

fn tried(target: &Target, data: &[u8]) -> Result<u64, String> {
    let run = AssertUnwindSafe(|| (target.run)(data));
    catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked").to_owned()
    })
}

/// `TRUNKLINE_FUZZ_INPUT` is the file, `TRUNKLINE_FUZZ_TARGETS` the target.
#[test]
#[ignore = "replays one input that `make fuzz` found"]
fn one_input() {
    let path = std::env::var("TRUNKLINE_FUZZ_INPUT").expect("TRUNKLINE_FUZZ_INPUT names a file");
    let data = fs::read(path).unwrap();
    for target in asked_for() {
        println!("{}: {:x}", target.name, (target.run)(&data));
    }
}

fn asked_for() -> Vec<&'static Target> {
    let names = std::env::var("TRUNKLINE_FUZZ_TARGETS").unwrap_or_default();
    let names: Vec<&str> = names.split([',', ' ']).filter(|n| !n.is_empty()).collect();
    let chosen = TARGETS
        .iter()
        .filter(|target| names.is_empty() || names.contains(&target.name));
    chosen.collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `TRUNKLINE_FUZZ_SECONDS` for each target (10), `TRUNKLINE_FUZZ_TARGETS` (all),
/// `TRUNKLINE_FUZZ_SEED` (another each time).
#[test]
#[ignore = "takes as long as it is told; see `make fuzz`"]
fn fuzz() {
    let seconds = number("TRUNKLINE_FUZZ_SECONDS").unwrap_or(10);
    let seed = number("TRUNKLINE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    // panics are what is looked for, so they are not printed
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *LAST.lock().unwrap_or_else(|e| e.into_inner()) = place.unwrap_or_default();
    }));
    println!("seed {seed}, {seconds} s each");
    println!(
        "{:<14} {:>12} {:>8} {:>8} {:>8} {:>8}",
        "target", "executions", "per s", "corpus", "shapes", "failures"
    );
    let mut failures = Vec::new();
    for target in asked_for() {
        let mut hunt = Hunt::new(target, seed);
        hunt.run(Duration::from_secs(seconds));
        println!("{}", hunt.row());
        let _ = std::io::stdout().flush();
        failures.extend(hunt.failures);
    }
    let _ = std::panic::take_hook();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

struct Hunt {
    target: &'static Target,
    random: fastrand::Rng,
    pool: Vec<Vec<u8>>,
    corpus: usize,
    shapes: HashSet<u64>,
    executions: Arc<AtomicU64>,
    took: Duration,
    /// Where it panicked, and how often.
    places: HashMap<String, u64>,
    failures: Vec<String>,
    folder: PathBuf,
    /// What is being tried, should the process die of it.
    current: fs::File,
}

impl Hunt {
    fn new(target: &'static Target, seed: u64) -> Self {
        let folder = root().join("target/fuzz").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        let mut pool: Vec<Vec<u8>> = target.corpus().into_iter().map(|(_, data)| data).collect();
        let corpus = pool.len();
        pool.push(Vec::new());
        Hunt {
            target,
            random: fastrand::Rng::with_seed(seed ^ shape(target.name)),
            pool,
            corpus,
            shapes: HashSet::new(),
            executions: Arc::default(),
            took: Duration::ZERO,
            places: HashMap::new(),
            failures: Vec::new(),
            current: fs::File::create(folder.join("current")).unwrap(),
            folder,
        }
    }

    fn run(&mut self, time: Duration) {
        let start = Instant::now();
        let watch = self.watch();
        for n in 0..self.pool.len() {
            self.one(self.pool[n].clone());
        }
        while start.elapsed() < time {
            for _ in 0..16 {
                let data = mutate(&mut self.random, &self.pool);
                self.one(data);
            }
        }
        self.took = start.elapsed();
        watch.store(1, Relaxed);
        let _ = fs::remove_file(self.folder.join("current"));
    }

    /// Ends the process if one input takes too long; the input is then in `current`.
    fn watch(&self) -> Arc<AtomicU64> {
        let over = Arc::new(AtomicU64::new(0));
        let (executions, ended, name) = (self.executions.clone(), over.clone(), self.target.name);
        std::thread::spawn(move || {
            let (mut seen, mut since) = (0, Instant::now());
            while ended.load(Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(200));
                let now = executions.load(Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() > HANG {
                    eprintln!("{name} hangs on target/fuzz/{name}/current");
                    std::process::abort();
                }
            }
        });
        over
    }

    fn one(&mut self, data: Vec<u8>) {
        self.current.set_len(data.len() as u64).unwrap();
        self.current.write_all_at(&data, 0).unwrap();
        self.executions.fetch_add(1, Relaxed);
        match tried(self.target, &data) {
            Ok(shape) => {
                if self.shapes.len() < MOST_SHAPES && self.shapes.insert(shape) {
                    self.pool.push(data);
                }
            }
            Err(why) => self.failed(data, &why),
        }
    }

    fn failed(&mut self, data: Vec<u8>, why: &str) {
        let place = LAST.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let times = self.places.entry(place.clone()).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        let data = self.smaller(data, &place);
        let name = self.target.name;
        let path = format!("target/fuzz/{name}/{:016x}", shape(&data));
        fs::write(root().join(&path), &data).unwrap();
        let why: String = why.chars().take(600).collect();
        self.failures.push(format!(
            "{name} at {place}: {why}\n  TRUNKLINE_FUZZ_TARGETS={name} TRUNKLINE_FUZZ_INPUT={path} cargo test --lib fuzz::run::one_input -- --ignored"
        ));
    }

    /// Less of `data` that panics in the same place.
    fn smaller(&self, mut data: Vec<u8>, place: &str) -> Vec<u8> {
        let until = Instant::now() + Duration::from_secs(5);
        let mut size = data.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < data.len() && Instant::now() < until {
                self.executions.fetch_add(1, Relaxed);
                let mut less = data.clone();
                less.drain(at..(at + size).min(data.len()));
                let fails = tried(self.target, &less).is_err()
                    && *LAST.lock().unwrap_or_else(|e| e.into_inner()) == place;
                match fails {
                    true => data = less,
                    false => at += size,
                }
            }
            size /= 2;
        }
        data
    }

    fn row(&self) -> String {
        let executions = self.executions.load(Relaxed);
        let failures: u64 = self.places.values().sum();
        format!(
            "{:<14} {executions:>12} {:>8.0} {:>8} {:>8} {failures:>8}",
            self.target.name,
            executions as f64 / self.took.as_secs_f64(),
            self.corpus,
            self.shapes.len(),
        )
    }
}
