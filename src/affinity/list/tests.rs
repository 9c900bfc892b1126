use super::*;
use crate::config;

const CONFIG: &str = "pools: { a: { servers: [{ url: 'http://h:1', name: x }, { url: 'http://h:2', name: y }] }, b: { servers: ['http://h:3'] } }
routes: [{ pool: a, fallback: [b] }]";

fn affinity() -> (Affinity, Vec<Maker>) {
    let (config, problems) = config::read(CONFIG, std::path::Path::new("."), &|_| None);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let maker = |pool, server| Maker {
        pool: crate::config::PoolId(pool),
        server,
    };
    (
        Affinity::new(&config, None),
        vec![maker(0, 0), maker(0, 1), maker(1, 0)],
    )
}

/// What a server answers that has objects of these times.
fn served(times: &[u64], name: &str, query: &str, descending: bool) -> String {
    let mut all: Vec<(u64, String)> = times
        .iter()
        .enumerate()
        .map(|(n, t)| (*t, format!("file-{name}{n}")))
        .collect();
    all.sort_by_key(|(time, _)| *time);
    if descending {
        all.reverse();
    }
    let get = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    if let Some(after) = get("after") {
        let at = all.iter().position(|(_, id)| id == after).unwrap();
        all.drain(..=at);
    }
    let limit: usize = get("limit").unwrap().parse().unwrap();
    let more = all.len() > limit;
    all.truncate(limit);
    let data: Vec<String> = all
        .iter()
        .map(|(time, id)| format!(r#"{{"id":"{id}","created_at":{time}}}"#))
        .collect();
    format!(
        r#"{{"object":"list","data":[{}],"has_more":{more}}}"#,
        data.join(",")
    )
}

/// Pages through all of it; the ids as they came, without their suffixes.
fn paged(servers: [&[u64]; 3], limit: usize, order: &str) -> Vec<(u64, String)> {
    let (affinity, makers) = affinity();
    let list = asked_for("/v1/files").unwrap();
    let (mut all, mut after) = (Vec::new(), String::new());
    for _ in 0..100 {
        let query = format!("limit={limit}&order={order}{after}");
        let wanted = Wanted::read(&affinity, list, Some(&query)).unwrap();
        let time = wanted.after().map(|(id, maker)| {
            let n = makers.iter().position(|m| *m == maker).unwrap();
            servers[n][id["file-x".len()..].parse::<usize>().unwrap()] as f64
        });
        let mut merge = Merge::new(wanted, &makers, time);
        loop {
            let due = merge.go_on();
            if due.is_empty() {
                break;
            }
            for n in due {
                let name = ["x", "y", "z"][n];
                let page = served(servers[n], name, &merge.query(n), order == "desc");
                assert!(merge.take(n, page.as_bytes()));
            }
        }
        let page: serde_json::Value = serde_json::from_slice(&merge.told(&affinity)).unwrap();
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= limit);
        for object in data {
            let signed = object["id"].as_str().unwrap();
            let (id, _) = affinity.maker_of(signed).unwrap().unwrap();
            all.push((object["created_at"].as_u64().unwrap(), id.to_owned()));
        }
        assert_eq!(
            page["first_id"],
            data.first()
                .map_or(serde_json::Value::Null, |o| o["id"].clone())
        );
        if page["has_more"] == false {
            return all;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    panic!("it never ends");
}

#[test]
fn each_object_comes_once_and_in_order() {
    let x: Vec<u64> = (0..25).map(|n| n * 3).collect();
    let y: Vec<u64> = (0..250).map(|n| n / 2).collect();
    let z: Vec<u64> = vec![7; 25];
    for limit in [1, 7, 10, 100, 400] {
        for order in ["desc", "asc"] {
            let servers = [&x[..], &y, &z];
            if limit == 1 && order == "asc" {
                continue;
            }
            let servers = if limit < 7 {
                [&x[..], &y[..20], &z]
            } else {
                servers
            };
            let all = paged(servers, limit, order);
            assert_eq!(all.len(), servers.iter().map(|s| s.len()).sum::<usize>());
            let ids: std::collections::HashSet<_> = all.iter().map(|(_, id)| id).collect();
            assert_eq!(ids.len(), all.len(), "limit {limit} {order}");
            let sorted = all.windows(2).all(|two| match order {
                "desc" => two[0].0 >= two[1].0,
                _ => two[0].0 <= two[1].0,
            });
            assert!(sorted, "limit {limit} {order}");
        }
    }
    assert!(paged([&[], &[], &[]], 10, "desc").is_empty());
}

#[test]
fn what_cannot_be_paged_is_refused() {
    let (affinity, _) = affinity();
    let list = asked_for("/v1/files").unwrap();
    let refused = |query: &str| Wanted::read(&affinity, list, Some(query)).unwrap_err();
    assert_eq!(refused("limit=0"), Unlisted::Limit(10_000));
    assert_eq!(refused("limit=x"), Unlisted::Limit(10_000));
    assert_eq!(refused("order=up"), Unlisted::Order);
    assert_eq!(refused("before=file-1"), Unlisted::Before);
    assert_eq!(refused("after=file-1"), Unlisted::After);
    let forged = "after=file-1_tl_AAAAAAAAAAAAAAAAAAAA";
    assert_eq!(refused(forged), Unlisted::Refused(Refused::Forged));
    assert!(asked_for("/v1/files/file-1").is_none() && asked_for("/v1/threads").is_none());
}

#[test]
fn servers_that_do_not_page_end_all_the_same() {
    let (affinity, makers) = affinity();
    let list = asked_for("/v1/batches").unwrap();
    let wanted = Wanted::read(&affinity, list, None).unwrap();
    let mut merge = Merge::new(wanted, &makers[..2], None);
    let answer = |name: &str| {
        let data: Vec<String> = (0..15)
            .map(|n| format!(r#"{{"id":"batch_{name}{n}","created_at":{}}}"#, 20 - n))
            .collect();
        format!(r#"{{"data":[{}],"has_more":true}}"#, data.join(","))
    };
    let mut rounds = 0;
    loop {
        let due = merge.go_on();
        if due.is_empty() {
            break;
        }
        rounds += 1;
        for n in due {
            assert!(merge.take(n, answer(["x", "y"][n]).as_bytes()));
        }
    }
    assert!(rounds < 5);
    assert!(!merge.take(0, b"<html>") && !merge.take(0, br#"{"data":[{"no":"id"}]}"#));
    let page: serde_json::Value = serde_json::from_slice(&merge.told(&affinity)).unwrap();
    assert_eq!(page["data"].as_array().unwrap().len(), 20);
}
