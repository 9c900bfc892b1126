use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::*;
use prometheus::{IntCounter, IntGauge};

const DAY: Duration = Duration::from_secs(86_400);

fn tier() -> Tier {
    Tier {
        bytes: IntGauge::new("bytes", "-").unwrap(),
        evictions: IntCounter::new("evictions", "-").unwrap(),
    }
}

fn keeper(folder: &Path, limit: u64) -> Keeper {
    let mut keeper = Keeper {
        folder: folder.to_owned(),
        limit,
        files: LruCache::unbounded(),
        bytes: 0,
        told: 0,
        tier: tier(),
        complains: true,
    };
    keeper.look_through();
    keeper.shrink();
    keeper
}

fn answer(bytes: usize) -> Stored {
    let headers = vec![
        (
            HeaderName::from_static("content-type"),
            HeaderValue::from_static("audio/mpeg"),
        ),
        (
            HeaderName::from_static("x-voice"),
            HeaderValue::from_static("a; requested=b"),
        ),
    ];
    Stored::new(headers, Bytes::from(vec![7; bytes]))
}

fn key(n: u8) -> Key {
    Key([n; 32])
}

fn there(folder: &Path) -> Vec<u8> {
    let all = (0..10).filter(|n| file(folder, key(*n)).exists());
    all.collect()
}

#[test]
fn an_answer_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path(), 1 << 20);
    let kept = answer(1000);
    keeper.keep(key(1), &kept);
    let back = read(&file(folder.path(), key(1)), 1000).unwrap();
    assert_eq!((&back.headers, &back.body), (&kept.headers, &kept.body));
    assert!(back.age() < Duration::from_secs(60));
    assert!(
        read(&file(folder.path(), key(1)), 999).is_err(),
        "too large by now"
    );
}

#[test]
fn age_outlives_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let old = Stored::aged(Vec::new(), Bytes::from_static(b"old"), DAY);
    keeper(folder.path(), 1 << 20).keep(key(1), &old);
    let back = read(&file(folder.path(), key(1)), 1000).unwrap();
    assert!(back.age() >= DAY && back.age() < DAY + Duration::from_secs(60));
}

#[test]
fn whatever_byte_is_changed_or_missing_it_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    keeper(folder.path(), 1 << 20).keep(key(1), &answer(50));
    let path = file(folder.path(), key(1));
    let good = fs::read(&path).unwrap();
    for n in 0..good.len() {
        let mut bad = good.clone();
        bad[n] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(read(&path, 1000).is_err(), "byte {n} is changed");
        fs::write(&path, &good[..n]).unwrap();
        assert!(read(&path, 1000).is_err(), "cut at {n}");
    }
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    assert!(read(&path, 1000).is_err());
}

#[test]
fn the_bound_holds_in_the_order_of_use_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let one = answer(1000);
    let each = (head(&one).len() + 1000) as u64 + OVERHEAD;
    let mut first = keeper(folder.path(), 3 * each);
    (0..3).for_each(|n| first.keep(key(n), &one));
    first.touch(key(0));
    first.keep(key(3), &one);
    assert_eq!(there(folder.path()), [0, 2, 3]);
    assert_eq!(first.tier.evictions.get(), 1);
    // file times may be coarse: these are not
    for (n, seconds) in [(0, 30), (2, 10), (3, 20)] {
        let path = file(folder.path(), key(n));
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }
    fs::write(file(folder.path(), key(0)).with_extension("1.new"), "half").unwrap();
    fs::write(folder.path().join("mine.txt"), "not ours").unwrap();
    let second = keeper(folder.path(), 2 * each);
    assert_eq!(there(folder.path()), [0, 3]);
    assert_eq!(second.bytes, 2 * each);
    assert!(!file(folder.path(), key(0)).with_extension("1.new").exists());
    assert!(folder.path().join("mine.txt").exists());
}

#[test]
fn a_disk_that_takes_nothing_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    // a file where the folder should be
    fs::write(folder.path().join("01"), "").unwrap();
    let mut keeper = keeper(folder.path(), 1 << 20);
    keeper.keep(key(1), &answer(10));
    assert_eq!((keeper.bytes, keeper.complains), (0, false));
    keeper.keep(key(2), &answer(10));
    assert!(keeper.complains && there(folder.path()) == [2]);
}

#[test]
fn what_is_bad_is_removed_when_it_is_met_and_what_is_too_old_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config::Disk {
        path: folder.path().to_owned(),
        size: 1 << 20,
    };
    let disk = Disk::open(&settings, tier()).unwrap();
    disk.keep(key(1), Arc::new(answer(10)));
    disk.keep(key(2), Arc::new(answer(10)));
    disk.keep(key(3), Arc::new(answer(10)));
    // the orders are carried out one after the other
    let flush = || {
        while disk.read(key(3), DAY, 1000).is_none() {
            std::thread::yield_now();
        }
    };
    flush();
    fs::write(file(folder.path(), key(1)), "bad").unwrap();
    assert!(disk.read(key(1), DAY, 1000).is_none());
    assert!(disk.read(key(2), Duration::ZERO, 1000).is_none());
    assert_eq!(disk.clear(), 2);
    assert!(there(folder.path()).is_empty());
}
