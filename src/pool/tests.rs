use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use pingora::lb::discovery::Static;

use super::*;

/// Pools of a configuration whose servers are all known by address; nothing is probed.
pub(crate) fn pools_of(config: &config::Config, now: Instant) -> Vec<Arc<Pool>> {
    config
        .pools
        .iter()
        .map(|settings| {
            let pool = Pool::new(
                settings.clone(),
                now,
                |n| {
                    let url = &settings.servers[n].url;
                    let backend = Backend::new(&format!("{}:{}", url.host, url.port)).unwrap();
                    Watch {
                        discovery: Static::new(BTreeSet::from([backend])),
                        check: None,
                        signs: Arc::default(),
                    }
                },
                None,
            );
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

fn pick(pool: &Arc<Pool>, tried: &[Arc<Member>], now: Instant) -> Option<Lease> {
    let wanted = Wanted {
        tried,
        ..Wanted::default()
    };
    pool.pick(&wanted, Priority::Realtime, now).into_lease()
}

fn picks(pool: &Arc<Pool>, count: usize, now: Instant) -> String {
    (0..count)
        .map(|_| {
            pick(pool, &[], now)
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
    while let Some(lease) = pick(&pool, &tried, now) {
        names += &pool.server(&lease).name;
        tried.push(lease.member().clone());
    }
    assert_eq!(names, "abc");
}

#[test]
fn a_lease_counts_while_it_lives() {
    let now = Instant::now();
    let pool = pool(&format!("{TWO_AND_BACKUP}, balance: least_in_flight"), now);
    let first = pick(&pool, &[], now).unwrap();
    let second = pick(&pool, &[], now).unwrap();
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

/// For how long, if it is ejected.
fn observe(pool: &Pool, member: &Member, good: bool, now: Instant) -> Option<u64> {
    let conduct = if good { Conduct::Good } else { Conduct::Bad };
    let ejection = pool.observe(member, conduct, member.is_on_trial(), now)?;
    Some(ejection.duration.as_secs())
}

#[test]
fn failures_in_a_row_eject_and_one_trial_at_a_time_brings_back() {
    let now = Instant::now();
    let pool = pool(
        &format!("{TWO_AND_BACKUP}, eject: {{ after: 2, for: 10s }}"),
        now,
    );
    let a = member(&pool, 0);
    assert_eq!(observe(&pool, &a, false, now), None);
    assert_eq!(
        observe(&pool, &a, true, now),
        None,
        "the count starts again"
    );
    assert_eq!(observe(&pool, &a, false, now), None);
    assert_eq!(observe(&pool, &a, false, now), Some(10));
    assert_eq!(picks(&pool, 2, now), "bb");
    let later = now + Duration::from_secs(11);
    let leases: Vec<Lease> = (0..6).filter_map(|_| pick(&pool, &[], later)).collect();
    let on_trial = leases.iter().filter(|lease| lease.server == 0).count();
    assert_eq!((leases.len(), on_trial), (6, 1), "one request tries it");
    drop(leases);
    assert_eq!(
        observe(&pool, &a, false, later),
        Some(20),
        "one failure is enough now, and it is out for longer"
    );
    let later = later + Duration::from_secs(21);
    assert_eq!(observe(&pool, &a, true, later), None);
    let leases: Vec<Lease> = (0..6).filter_map(|_| pick(&pool, &[], later)).collect();
    let back = leases.iter().filter(|lease| lease.server == 0).count();
    assert_eq!(back, 3, "a good answer ends the trial");
}

#[test]
fn a_share_of_failures_ejects_without_a_row_of_them() {
    let now = Instant::now();
    let pool = pool(
        &format!(
            "{TWO_AND_BACKUP}, eject: {{ after: 100, rate: 40%, window: 10s, min_requests: 10 }}"
        ),
        now,
    );
    let a = member(&pool, 0);
    let outcomes = (0..10).map(|n| observe(&pool, &a, n % 2 == 0, now));
    assert_eq!(outcomes.flatten().count(), 1);
    let b = member(&pool, 1);
    for n in 0..20 {
        let spread = now + Duration::from_secs(6 * n);
        assert_eq!(
            observe(&pool, &b, n % 2 == 0, spread),
            None,
            "too few at once"
        );
    }
}

#[test]
fn first_bytes_far_later_than_those_of_the_others_eject() {
    let now = Instant::now();
    let pool = pool(
        "servers: ['http://1.1.1.1:1', 'http://1.1.1.1:2', 'http://1.1.1.1:3'], eject: { slow: 4 }",
        now,
    );
    for n in 0..3 {
        let time = Duration::from_millis(if n == 2 { 900 } else { 200 });
        (0..8).for_each(|_| pool.took(&member(&pool, n), time));
    }
    assert_eq!(observe(&pool, &member(&pool, 0), true, now), None);
    let slow = pool.observe(&member(&pool, 2), Conduct::Good, false, now);
    assert_eq!(
        slow,
        Some(Ejection {
            duration: Duration::from_secs(10),
            evidence: Evidence::Slow
        })
    );
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_asked_only_if_nobody_else_is_left() {
    let now = Instant::now();
    let pool = pool("servers: ['http://1.1.1.1:1']", now);
    pool.rest(&member(&pool, 0), Duration::from_secs(600), now);
    assert!(pick(&pool, &[], now).is_none());
    let desperate = Wanted {
        desperate: true,
        ..Wanted::default()
    };
    assert!(
        pool.pick(&desperate, Priority::Realtime, now)
            .into_lease()
            .is_some()
    );
    let later = now + Duration::from_secs(61);
    assert!(
        pick(&pool, &[], later).is_some(),
        "no rest is longer than a minute"
    );
}

#[test]
fn the_last_one_and_more_than_the_share_are_never_ejected() {
    let now = Instant::now();
    let pool = pool(
        "servers: ['http://1.1.1.1:1', 'http://1.1.1.1:2', 'http://1.1.1.1:3', 'http://1.1.1.1:4'], eject: { after: 1, max_percent: 50% }",
        now,
    );
    let ejected = |n| observe(&pool, &member(&pool, n), false, now).is_some();
    assert_eq!(
        [ejected(0), ejected(1), ejected(2), ejected(3)],
        [true, true, false, false]
    );
    let alone = self::pool(
        "servers: ['http://1.1.1.1:1'], eject: { after: 1, max_percent: 100% }",
        now,
    );
    assert_eq!(observe(&alone, &member(&alone, 0), false, now), None);
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
    let lease = pick(&pool, &[], now).unwrap();
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

const ONE_SLOT: &str = "servers: [{ url: 'http://1.1.1.1:1', slots: 1 }], queue: { size: 3 }";

fn join(pool: &Arc<Pool>, priority: Priority, now: Instant) -> Option<Ticket> {
    pool.join(&Wanted::default(), priority, now)
}

fn ask(ticket: &mut Ticket) -> Poll<Option<Lease>> {
    let mut context = Context::from_waker(Waker::noop());
    std::pin::pin!(ticket.granted()).poll(&mut context)
}

fn has_slot(ticket: &mut Ticket) -> Option<Lease> {
    match ask(ticket) {
        Poll::Ready(lease) => lease,
        Poll::Pending => None,
    }
}

#[test]
fn slots_are_handed_on_in_order_and_people_go_first() {
    let now = Instant::now();
    let pool = pool(ONE_SLOT, now);
    let lease = pick(&pool, &[], now).unwrap();
    assert!(matches!(
        pool.pick(&Wanted::default(), Priority::Realtime, now),
        Pick::Busy
    ));
    let mut batch = join(&pool, Priority::Batch, now).unwrap();
    let mut first = join(&pool, Priority::Realtime, now).unwrap();
    let mut second = join(&pool, Priority::Realtime, now).unwrap();
    assert_eq!(pool.waiting(), [2, 1]);
    assert!(has_slot(&mut first).is_none());
    drop(lease);
    let lease = has_slot(&mut first).unwrap();
    assert!(has_slot(&mut second).is_none());
    drop((lease, first));
    let lease = has_slot(&mut second).unwrap();
    drop((lease, second));
    assert!(has_slot(&mut batch).is_some());
    drop(batch);
    assert_eq!((pool.waiting(), pool.states(now)[0].in_flight), ([0, 0], 0));
}

#[test]
fn a_full_line_refuses_and_gives_the_place_of_a_batch_to_people() {
    let now = Instant::now();
    let pool = pool(ONE_SLOT, now);
    let _lease = pick(&pool, &[], now).unwrap();
    let mut waiting: Vec<Ticket> = (0..3)
        .map(|_| join(&pool, Priority::Batch, now).unwrap())
        .collect();
    assert!(join(&pool, Priority::Batch, now).is_none());
    let _urgent = join(&pool, Priority::Realtime, now).unwrap();
    assert_eq!(pool.waiting(), [1, 2]);
    assert!(matches!(ask(&mut waiting[2]), Poll::Ready(None)));
}

#[test]
fn whoever_leaves_the_line_or_never_takes_its_slot_leaves_nothing_behind() {
    let now = Instant::now();
    let pool = pool(
        "servers: ['http://1.1.1.1:1', 'http://1.1.1.1:2'], slots: 2, queue: { size: 50 }",
        now,
    );
    let mut leases: Vec<Lease> = Vec::new();
    let mut tickets: Vec<Ticket> = Vec::new();
    for _ in 0..20_000 {
        match fastrand::u8(..5) {
            0 | 1 => match pool.pick(&Wanted::default(), Priority::Realtime, now) {
                Pick::Server(lease) => leases.push(lease),
                _ => {
                    let priority = [Priority::Realtime, Priority::Batch][fastrand::usize(..2)];
                    tickets.extend(join(&pool, priority, now));
                }
            },
            2 if !leases.is_empty() => {
                leases.swap_remove(fastrand::usize(..leases.len()));
            }
            3 if !tickets.is_empty() => {
                // leaves, perhaps with a slot it was just handed
                tickets.swap_remove(fastrand::usize(..tickets.len()));
            }
            4 if !tickets.is_empty() => {
                let n = fastrand::usize(..tickets.len());
                if let Poll::Ready(granted) = ask(&mut tickets[n]) {
                    tickets.swap_remove(n);
                    leases.extend(granted);
                }
            }
            _ => {}
        }
        let states = pool.states(now);
        assert!(states.iter().all(|state| state.in_flight <= 2));
    }
    tickets.clear();
    leases.clear();
    assert_eq!(pool.waiting(), [0, 0]);
    assert!(pool.states(now).iter().all(|state| state.in_flight == 0));
}
