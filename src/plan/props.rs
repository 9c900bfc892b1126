//! Plans: over whatever pools and with whatever outcomes, they come to an end within their bounds.

use std::cell::Cell;
use std::fmt::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{self, Config};
use crate::fuzz::{Dice, cases, shape};
use crate::pool::tests::pools_of;

/// A configuration with up to four pools of up to four servers.
fn config(dice: &mut Dice<'_>) -> Config {
    let mut text = String::from("pools:\n");
    let count = 1 + dice.below(4);
    let mut port = 1;
    for pool in 0..count {
        let extra = [
            "",
            ", kind: openai",
            ", cost: paid",
            ", max_body: 10B",
            ", kind: ollama",
        ][dice.below(5)];
        write!(text, "  p{pool}: {{ servers: [").expect("it is text");
        for server in 0..1 + dice.below(4) {
            let more = [
                "",
                ", backup: true",
                ", api_key: one",
                ", api_key: two",
                ", slots: 1",
                ", weight: 5",
            ][dice.below(6)];
            write!(
                text,
                "{{ url: 'http://1.1.1.1:{port}', name: s{server}{more} }}, "
            )
            .expect("it is text");
            port += 1;
        }
        writeln!(text, "]{extra} }}").expect("it is text");
    }
    let (attempts, percent) = (1 + dice.below(4), dice.below(101));
    let shared = 1 + dice.below(count);
    let names = |pools: std::ops::Range<usize>, around: [&str; 2]| -> String {
        let all: Vec<String> = pools
            .map(|n| format!("{}p{n}{}", around[0], around[1]))
            .collect();
        all.join(", ")
    };
    let first = match shared {
        1 => "pool: p0".to_owned(),
        _ => format!("split: [{}]", names(0..shared, ["{ pool: ", " }"])),
    };
    let rest = names(shared..count, ["", ""]);
    let budget = if dice.below(2) == 0 {
        String::new()
    } else {
        format!(", budget: {percent}%")
    };
    write!(
        text,
        "routes: [{{ {first}, fallback: [{rest}], retry: {{ attempts: {attempts}{budget} }} }}]"
    )
    .expect("it is text");
    let (config, problems) = config::read(&text, Path::new("."), &|_| None);
    config.unwrap_or_else(|| panic!("{problems:?} in\n{text}"))
}

/// What was asked by one request.
#[derive(Default)]
struct Asked {
    servers: Vec<Arc<Member>>,
    targets: Vec<usize>,
    /// Those beside another.
    hedged: Vec<bool>,
    /// Repeats that were allowed, because a server was only not ready.
    again: usize,
    paid: u64,
    /// Accounts with nothing left.
    spent: Vec<Account>,
}

pub(crate) fn holds(data: &[u8]) -> u64 {
    let mut dice = Dice::new(data);
    let config = config(&mut dice);
    let now = Instant::now();
    let pools = pools_of(&config, now);
    let route = &config.routes[0];
    let budget = route.retry.budget.map(|percent| Budget::new(percent, now));
    let requests = 1 + dice.below(12) as u64;
    let mut asked_of_all = 0;
    let mut outcome = Vec::new();
    let mut held = Vec::new();
    for _ in 0..requests {
        if let Some(budget) = &budget {
            budget.deposit(now);
        }
        let asked = one(&mut dice, &config, &pools, budget.as_ref(), now, &mut held);
        asked_of_all += asked.paid;
        outcome.push(asked.targets);
        if dice.below(2) == 0 {
            held.clear();
        }
    }
    if let Some(percent) = route.retry.budget {
        let most = 10 + requests * u64::from(percent) / 100;
        assert!(
            asked_of_all <= most,
            "{asked_of_all} retries, {most} were allowed"
        );
    }
    shape(outcome)
}

/// One request, to its end.
fn one(
    dice: &mut Dice<'_>,
    config: &Config,
    pools: &[Arc<Pool>],
    budget: Option<&Budget>,
    now: Instant,
    held: &mut Vec<Attempt>,
) -> Asked {
    let route = &config.routes[0];
    let first = dice.below(route.firsts().len());
    let pinned = (dice.below(8) == 0).then(|| (PoolId(dice.below(pools.len())), dice.below(2)));
    let wordless = dice.below(16);
    let translated = Cell::new(0_u32);
    let wording = |target: usize| match wordless {
        1 if target == 0 => Wording::Impossible,
        2 if translated.get() & 1 << target == 0 => Wording::Wanted,
        _ => Wording::Ready,
    };
    let mut on = Terrain {
        route,
        pools,
        budget,
        home: dice.below(8) == 1,
        length: [None, Some(5), Some(50)][dice.below(3)],
        complete: dice.below(2) == 0,
        audio: false,
        hash: &|_| 7,
        wording: &wording,
        model: &|_| Some("m".to_owned()),
        pinned,
        now,
    };
    let mut plan = Plan::beginning_with(first);
    let mut asked = Asked::default();
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 300, "it does not come to an end");
        let lease = match plan.next(&on) {
            Err(_) => break,
            Ok(Next::ReadBody) => {
                assert!(!on.complete, "the body is read already");
                (on.complete, on.length) = (true, Some(on.length.unwrap_or(5)));
                continue;
            }
            Ok(Next::Translate { target }) => {
                translated.set(translated.get() | 1 << target);
                continue;
            }
            Ok(Next::Queue { .. }) => {
                plan.pass([Refusal::QueueFull, Refusal::QueueTimeout][dice.below(2)]);
                continue;
            }
            Ok(Next::Warm { target }) => {
                let pool = &pools[route.targets[target].pool.0];
                if dice.below(2) == 0 && asked.again < 5 {
                    plan.try_again(pool, now);
                    asked.again += 1;
                }
                plan.pass(Refusal::Warming);
                continue;
            }
            Ok(Next::Server(lease)) => lease,
        };
        if dice.below(10) == 9 {
            plan.pass(Refusal::Limited);
            continue;
        }
        let Ok(attempt) = plan.granted(lease, &on) else {
            break;
        };
        asked.note(&attempt, &on);
        if dice.below(5) == 4
            && let Some(second) = plan.second(&on, dice.below(2) == 0)
        {
            asked.note(&second, &on);
            held.push(second);
        }
        if dice.below(4) == 3 {
            let pool = &pools[route.targets[attempt.target].pool.0];
            let server = pool.server(&attempt.lease);
            plan.account_is_spent(server);
            asked.spent.extend(account(server));
        }
        let _ = plan.is_poison(Outcome::Answered([200, 500][dice.below(2)]));
        let _ = (plan.could_go_on(&on), plan.has_another_pool(&on));
        if dice.below(4) == 2 {
            held.push(attempt);
        }
        // one that is answered asks nobody else
        if dice.below(6) == 5 {
            break;
        }
    }
    asked.bounded(&on);
    asked
}

impl Asked {
    fn note(&mut self, attempt: &Attempt, on: &Terrain<'_>) {
        let member = attempt.lease.member().clone();
        let twice = self.servers.iter().any(|one| Arc::ptr_eq(one, &member));
        assert!(!twice || self.again > 0, "a server was asked twice");
        self.paid += u64::from(!self.servers.is_empty());
        self.servers.push(member);
        self.targets.push(attempt.target);
        self.hedged.push(attempt.step == Step::Hedge);
        let id = on.route.targets[attempt.target].pool;
        let account = account(on.pools[id.0].server(&attempt.lease));
        assert!(
            account.is_none_or(|one| !self.spent.contains(&one)),
            "it has nothing left"
        );
        if let Some((pool, _)) = on.pinned {
            assert_eq!(pool, id, "another than the only one that can be asked");
        }
        assert!(
            !on.home || on.pools[id.0].config.zone == Zone::Home,
            "it left home"
        );
        assert!(on.length.is_none_or(|length| {
            let most = on.pools[id.0].config.largest_body(false);
            most.is_none_or(|most| length <= most)
        }));
    }

    /// A backup has its turn beyond the attempts; a hedge has one beside them.
    fn bounded(&self, on: &Terrain<'_>) {
        let most = on.route.retry.attempts as usize + 1 + self.again;
        for target in 0..on.route.targets.len() {
            let all = self.targets.iter().zip(&self.hedged);
            let count = all
                .filter(|(one, hedged)| **one == target && !**hedged)
                .count();
            assert!(
                count <= most,
                "{count} attempts in one pool, {most} were allowed"
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn plans_come_to_an_end_within_their_bounds(data in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&data);
    }
}
