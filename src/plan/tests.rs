use super::*;
use crate::config;
use crate::pool::tests::pools_of;

fn terrain<'a>(
    route: &'a Route,
    pools: &'a [Arc<Pool>],
    budget: Option<&'a Budget>,
    now: Instant,
) -> Terrain<'a> {
    Terrain {
        route,
        pools,
        budget,
        home: false,
        length: None,
        complete: true,
        audio: false,
        hash: &|_| 0,
        wording: &|_| Wording::Ready,
        model: &|_| None,
        pinned: None,
        now,
    }
}

/// The next attempt, where nobody has to wait.
fn ask(plan: &mut Plan, on: &Terrain<'_>) -> Result<Attempt, Spent> {
    match plan.next(on)? {
        Next::Server(lease) => plan.granted(lease, on),
        _ => panic!("nobody waits"),
    }
}

fn walk(text: &str) -> Vec<String> {
    walk_from(text, 0)
}

fn walk_from(text: &str, first: usize) -> Vec<String> {
    let (config, problems) = config::read(text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let budget = config.routes[0]
        .retry
        .budget
        .map(|percent| Budget::new(percent, now));
    let mut plan = Plan::beginning_with(first);
    let on = terrain(&config.routes[0], &pools, budget.as_ref(), now);
    std::iter::from_fn(|| ask(&mut plan, &on).ok())
        .map(|attempt| {
            let pool = &pools[config.routes[0].targets[attempt.target].pool.0];
            format!(
                "{}/{} {:?}",
                pool.config.name,
                pool.server(&attempt.lease).name,
                attempt.step
            )
        })
        .collect()
}

const POOLS: &str = r#"
pools:
  a: { servers: [{ url: "http://1.1.1.1:1", name: x }, { url: "http://1.1.1.1:2", name: y }, { url: "http://1.1.1.1:3", name: z }] }
  b: { servers: [{ url: "http://1.1.1.1:4", name: x }] }
"#;

#[test]
fn servers_in_turn_then_the_next_pool_and_none_twice() {
    assert_eq!(
        walk(&format!("{POOLS}\nroutes: [{{ pool: a, fallback: [b] }}]")),
        [
            "a/x First",
            "a/y Retry",
            "a/z Retry",
            "b/x Fallback { from: 0 }"
        ]
    );
}

#[test]
fn one_of_those_that_share_is_first_and_the_others_stand_in_before_the_fallback() {
    let yaml = format!(
        "{POOLS}  c: {{ servers: [{{ url: \"http://1.1.1.1:5\", name: x }}] }}\n  d: {{ servers: [{{ url: \"http://1.1.1.1:6\", name: x }}] }}\nroutes: [{{ split: [{{ pool: b }}, {{ pool: c }}, {{ pool: d }}], fallback: [a] }}]"
    );
    let from = |first| walk_from(&yaml, first);
    assert_eq!(
        from(0)[..4],
        [
            "b/x First",
            "c/x Fallback { from: 0 }",
            "d/x Fallback { from: 1 }",
            "a/x Fallback { from: 2 }"
        ]
    );
    assert_eq!(
        from(1)[..4],
        [
            "c/x First",
            "b/x Fallback { from: 1 }",
            "d/x Fallback { from: 0 }",
            "a/x Fallback { from: 2 }"
        ]
    );
    assert_eq!(
        from(2)[..4],
        [
            "d/x First",
            "b/x Fallback { from: 2 }",
            "c/x Fallback { from: 0 }",
            "a/x Fallback { from: 1 }"
        ]
    );
}

#[test]
fn attempts_bound_each_pool_and_not_the_way_to_the_next() {
    assert_eq!(
        walk(&format!(
            "{POOLS}\nroutes: [{{ pool: a, fallback: [b], retry: {{ attempts: 1 }} }}]"
        )),
        ["a/x First", "b/x Fallback { from: 0 }"]
    );
}

#[test]
fn who_is_bound_to_a_server_goes_there_and_nowhere_else() {
    let text = format!("{POOLS}\nroutes: [{{ pool: a, fallback: [b] }}]");
    let (config, _) = config::read(&text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap();
    let now = Instant::now();
    let pools = pools_of(&config, now);
    for (pool, server, name) in [(0, 1, "a/y"), (0, 2, "a/z"), (1, 0, "b/x")] {
        let mut on = terrain(&config.routes[0], &pools, None, now);
        on.pinned = Some((PoolId(pool), server));
        let mut plan = Plan::beginning_with(0);
        let Ok(attempt) = ask(&mut plan, &on) else {
            panic!("nobody is asked");
        };
        let asked = &pools[config.routes[0].targets[attempt.target].pool.0];
        let asked = format!(
            "{}/{}",
            asked.config.name,
            asked.server(&attempt.lease).name
        );
        assert_eq!((asked.as_str(), attempt.step), (name, Step::First));
        assert!(!plan.could_go_on(&on) && plan.second(&on, true).is_none());
        assert!(plan.next(&on).is_err());
    }
}

#[test]
fn one_backup_is_asked_when_the_attempts_went_to_every_primary() {
    let pools = r#"
pools:
  a: { servers: [{ url: "http://1.1.1.1:1", name: x }, { url: "http://1.1.1.1:2", name: y }, { url: "http://1.1.1.1:3", name: z, backup: true }, { url: "http://1.1.1.1:4", name: zz, backup: true }] }
"#;
    let walk = |attempts: u32| {
        walk(&format!(
            "{pools}\nroutes: [{{ pool: a, retry: {{ attempts: {attempts} }} }}]"
        ))
    };
    assert_eq!(walk(2), ["a/x First", "a/y Retry", "a/z Retry"]);
    assert_eq!(walk(1), ["a/x First"], "a primary was left");
}

#[test]
fn a_spent_budget_ends_the_plan() {
    let (config, _) = config::read(
        &format!("{POOLS}\nroutes: [{{ pool: a, fallback: [b], retry: {{ budget: 0% }} }}]"),
        std::path::Path::new("."),
        &|_| None,
    );
    let config = config.unwrap();
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let budget = Budget::new(0, now);
    while budget.withdraw(now) {}
    let mut plan = Plan::beginning_with(0);
    let on = terrain(&config.routes[0], &pools, Some(&budget), now);
    assert!(ask(&mut plan, &on).is_ok(), "the first try is no retry");
    assert_eq!(ask(&mut plan, &on).err(), Some(Spent::Budget));
}

#[test]
fn a_request_that_stays_at_home_passes_the_cloud_over_at_every_step() {
    let text = r#"
pools:
  a: { kind: openai, servers: ["http://1.1.1.1:1"] }
  b: { servers: ["http://10.0.0.1:2"] }
  c: { zone: cloud, servers: ["http://1.1.1.1:3"] }
routes: [{ pool: a, fallback: [b, c] }]
"#;
    let (config, _) = config::read(text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap();
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let mut on = terrain(&config.routes[0], &pools, None, now);
    on.home = true;
    let mut plan = Plan::beginning_with(0);
    let Ok(first) = ask(&mut plan, &on) else {
        panic!("b is at home");
    };
    assert_eq!(first.target, 1);
    assert!(plan.second(&on, true).is_none(), "nor by a hedge");
    assert!(!plan.could_go_on(&on));
    assert_eq!(plan.next(&on).err(), Some(Spent::Servers));
}

#[test]
fn a_body_goes_to_the_first_pool_that_takes_its_size() {
    let text = r#"
pools:
  a: { kind: openai, servers: ["http://1.1.1.1:1"] }
  b: { max_body: 50MiB, servers: ["http://1.1.1.1:2"] }
routes: [{ pool: a, fallback: [b] }]
"#;
    let (config, _) = config::read(text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap();
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let target = |audio: bool, mib: u64| {
        let mut on = terrain(&config.routes[0], &pools, None, now);
        (on.audio, on.length) = (audio, Some(mib << 20));
        ask(&mut Plan::beginning_with(0), &on).map(|attempt| attempt.target)
    };
    assert_eq!(target(true, 20), Ok(0));
    assert_eq!(target(true, 26), Ok(1));
    assert_eq!(target(false, 26), Ok(0), "the limit is that of uploads");
    assert_eq!(target(true, 51), Err(Spent::Passed(Refusal::TooLarge)));
}

#[test]
fn an_account_without_quota_is_not_asked_at_another_server() {
    let text = r#"
pools:
  a: { api_key: k1, servers: ["http://1.1.1.1:1", "http://1.1.1.1:2", { url: "http://1.1.1.1:3", api_key: k2 }] }
  b: { api_key: k1, servers: ["http://1.1.1.1:4"] }
routes: [{ pool: a, fallback: [b] }]
"#;
    let (config, _) = config::read(text, std::path::Path::new("."), &|_| None);
    let config = config.unwrap();
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let on = terrain(&config.routes[0], &pools, None, now);
    let mut plan = Plan::beginning_with(0);
    let Ok(first) = ask(&mut plan, &on) else {
        panic!("somebody is there");
    };
    plan.account_is_spent(&config.pools[0].servers[first.lease.server]);
    let Ok(second) = ask(&mut plan, &on) else {
        panic!("the third has another account");
    };
    assert_eq!((second.target, second.lease.server), (0, 2));
    assert_eq!(plan.next(&on).err(), Some(Spent::Servers));
}

#[test]
fn the_same_server_error_twice_is_the_requests_own() {
    let mut plan = Plan::beginning_with(0);
    assert!(!plan.is_poison(Outcome::Answered(500)));
    assert!(plan.is_poison(Outcome::Answered(500)));
    let mut plan = Plan::beginning_with(0);
    assert!(!plan.is_poison(Outcome::Answered(500)));
    assert!(!plan.is_poison(Outcome::Reset));
    assert!(!plan.is_poison(Outcome::Answered(500)), "not in a row");
    assert!(!plan.is_poison(Outcome::Answered(503)));
    assert!(
        !plan.is_poison(Outcome::Answered(503)),
        "busy is no opinion"
    );
}

#[test]
fn pauses_grow_from_the_second_retry_on_and_differ() {
    let base = Duration::from_millis(25);
    assert_eq!(backoff(base, 2), Duration::ZERO);
    for n in 3..40 {
        let most = base * (1 << (n - 3).min(8)).min(10);
        let pauses: Vec<_> = (0..50).map(|_| backoff(base, n)).collect();
        assert!(pauses.iter().all(|pause| *pause <= most), "{n}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
