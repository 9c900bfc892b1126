use std::collections::BTreeSet;
use std::path::Path;

use pingora::lb::discovery::Static;

use super::*;

/// Pools of a configuration whose servers are all known by address; nothing is probed.
pub(crate) fn pools_of(config: &config::Config, now: Instant) -> Vec<Arc<Pool>> {
    config
        .pools
        .iter()
        .map(|settings| {
            let pool = Pool::new(settings.clone(), now, |n| {
                let url = &settings.servers[n].url;
                let backend = Backend::new(&format!("{}:{}", url.host, url.port)).unwrap();
                Watch {
                    discovery: Static::new(BTreeSet::from([backend])),
                    check: None,
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            for n in 0..settings.servers.len() {
                runtime.block_on(pool.discover(n)).unwrap();
            }
            Arc::new(pool)
        })
        .collect()
}

fn pool(text: &str, now: Instant) -> Arc<Pool> {
    let text = format!("pools: {{ a: {{ {text} }} }}\nroutes: [{{ pool: a }}]");
    let (config, problems) = config::read(&text, Path::new("."), &|_| None);
    pools_of(&config.unwrap_or_else(|| panic!("{problems:?}")), now).remove(0)
}

const TWO_AND_BACKUP: &str = "servers: [{ url: 'http://1.1.1.1:1', name: a }, { url: 'http://1.1.1.1:2', name: b }, { url: 'http://1.1.1.1:3', name: c, backup: true }]";

fn picks(pool: &Pool, count: usize, now: Instant) -> String {
    (0..count)
        .map(|_| {
            pool.pick(&[], now)
                .map_or_else(|| "-".to_owned(), |lease| pool.server(&lease).name.clone())
        })
        .collect()
}

fn member(pool: &Pool, n: usize) -> Arc<Member> {
    pool.roster.load().members[n].clone()
}

#[test]
fn backups_serve_only_when_no_primary_is_available() {
    let now = Instant::now();
    let pool = pool(TWO_AND_BACKUP, now);
    assert_eq!(picks(&pool, 4, now), "abab");
    member(&pool, 0).set_healthy(false);
    assert_eq!(picks(&pool, 3, now), "bbb");
    member(&pool, 1).set_healthy(false);
    assert_eq!(picks(&pool, 2, now), "cc");
    member(&pool, 2).set_healthy(false);
    assert_eq!(picks(&pool, 1, now), "-");
    assert!(!pool.is_available(now));
}

#[test]
fn a_server_is_not_tried_twice() {
    let now = Instant::now();
    let pool = pool(TWO_AND_BACKUP, now);
    let mut tried = Vec::new();
    let mut names = String::new();
    while let Some(lease) = pool.pick(&tried, now) {
        names += &pool.server(&lease).name;
        tried.push(lease.member().clone());
    }
    assert_eq!(names, "abc");
}

#[test]
fn a_lease_counts_while_it_lives() {
    let now = Instant::now();
    let pool = pool(&format!("{TWO_AND_BACKUP}, balance: least_in_flight"), now);
    let first = pool.pick(&[], now).unwrap();
    let second = pool.pick(&[], now).unwrap();
    assert_ne!(first.server, second.server);
    assert_eq!(
        pool.states(now)
            .iter()
            .map(|s| s.in_flight)
            .collect::<Vec<_>>(),
        [1, 1, 0]
    );
    drop((first, second));
    assert!(pool.states(now).iter().all(|s| s.in_flight == 0));
}

#[test]
fn failures_in_a_row_eject_and_a_trial_brings_back() {
    let now = Instant::now();
    let pool = pool(
        &format!("{TWO_AND_BACKUP}, eject: {{ after: 2, for: 10s }}"),
        now,
    );
    let a = member(&pool, 0);
    assert_eq!(pool.observe(&a, false, now), None);
    assert_eq!(
        pool.observe(&a, true, now),
        None,
        "a success starts the count again"
    );
    assert_eq!(pool.observe(&a, false, now), None);
    assert_eq!(pool.observe(&a, false, now), Some(Duration::from_secs(10)));
    assert_eq!(picks(&pool, 2, now), "bb");
    let later = now + Duration::from_secs(11);
    assert!(picks(&pool, 2, later).contains('a'), "tried again");
    assert_eq!(
        pool.observe(&a, false, later),
        Some(Duration::from_secs(10)),
        "one failure is enough now"
    );
}

#[test]
fn the_last_one_and_more_than_the_share_are_never_ejected() {
    let now = Instant::now();
    let pool = pool(
        "servers: ['http://1.1.1.1:1', 'http://1.1.1.1:2', 'http://1.1.1.1:3', 'http://1.1.1.1:4'], eject: { after: 1, max_percent: 50% }",
        now,
    );
    let ejected = |n| pool.observe(&member(&pool, n), false, now).is_some();
    assert_eq!(
        [ejected(0), ejected(1), ejected(2), ejected(3)],
        [true, true, false, false]
    );
    let alone = self::pool(
        "servers: ['http://1.1.1.1:1'], eject: { after: 1, max_percent: 100% }",
        now,
    );
    assert_eq!(alone.observe(&member(&alone, 0), false, now), None);
}

#[test]
fn two_servers_behind_one_address_stay_two() {
    let now = Instant::now();
    let pool = pool(
        "servers: [{ url: 'http://1.1.1.1:1/x', name: a }, { url: 'http://1.1.1.1:1/y', name: b }]",
        now,
    );
    assert_eq!(picks(&pool, 4, now), "abab");
}

#[test]
fn members_that_stay_keep_their_state_when_addresses_change() {
    let now = Instant::now();
    let pool = pool(TWO_AND_BACKUP, now);
    let lease = pool.pick(&[], now).unwrap();
    let set = |addresses: &[&str]| {
        addresses
            .iter()
            .map(|a| Backend::new(a).unwrap())
            .collect::<BTreeSet<_>>()
    };
    pool.enrol(0, &set(&["1.1.1.1:1", "2.2.2.2:1"]));
    let states = pool.states(now);
    assert_eq!((states[0].addresses, states[0].in_flight), (2, 1));
    pool.enrol(0, &set(&["2.2.2.2:1"]));
    assert_eq!(pool.states(now)[0].addresses, 1);
    drop(lease);
}
