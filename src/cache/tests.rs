use super::*;
use crate::cache::key::{Caller, RouteKey};

fn cache(memory: u64) -> Arc<Cache> {
    let tier = |_: &str| Tier {
        bytes: IntGauge::new("bytes", "-").unwrap(),
        evictions: IntCounter::new("evictions", "-").unwrap(),
    };
    let settings = config::Cache { memory, disk: None };
    Cache::new(settings, &tier)
}

const KEY: Key = Key([1; 32]);
const TERMS: Terms = Terms {
    ttl: Duration::from_secs(86_400),
    max_object: 100,
    disk: true,
};

fn lead(cache: &Arc<Cache>) -> Box<Lead> {
    match cache.look(KEY, TERMS) {
        Found::Lead(lead) => lead,
        Found::Hit(_) => panic!("a hit"),
        Found::Follow(_) => panic!("somebody leads"),
    }
}

fn follower(cache: &Arc<Cache>) -> Follower {
    match cache.look(KEY, TERMS) {
        Found::Follow(follower) => follower,
        _ => panic!("nobody leads"),
    }
}

fn hit(cache: &Arc<Cache>) -> Option<Arc<Stored>> {
    match cache.look(KEY, TERMS) {
        Found::Hit(stored) => Some(stored),
        _ => None,
    }
}

/// What a future gives that does not have to wait.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn piece(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn who_comes_meanwhile_reads_along_and_who_comes_later_has_it_whole() {
    let cache = cache(10_000);
    let mut lead = lead(&cache);
    let mut follower = follower(&cache);
    assert!(now(follower.first()).is_none() && !follower_of(&lead));
    lead.begin(Vec::new(), None);
    lead.push(&piece("one "));
    assert!(matches!(now(follower.first()), Some(First::Begun(_))));
    assert!(matches!(now(follower.next()), Some(Next::Piece(p)) if p == "one "));
    assert!(now(follower.next()).is_none());
    lead.push(&piece("two"));
    lead.whole(|_| true);
    assert!(matches!(now(follower.next()), Some(Next::Piece(p)) if p == "two"));
    assert!(matches!(now(follower.next()), Some(Next::End)));
    assert_eq!(hit(&cache).unwrap().body, "one two");
}

fn follower_of(lead: &Lead) -> bool {
    lead.is_followed()
}

#[test]
fn a_leader_that_leaves_or_is_refused_lets_the_others_go() {
    let cache = cache(10_000);
    let leader = lead(&cache);
    let mut waiting = follower(&cache);
    drop(leader);
    assert!(matches!(now(waiting.first()), Some(First::Again)));
    let mut leader = lead(&cache);
    let mut waiting = follower(&cache);
    leader.refuse();
    assert!(matches!(now(waiting.first()), Some(First::Alone)));
    let mut leader = lead(&cache);
    let mut reading = follower(&cache);
    leader.begin(Vec::new(), None);
    leader.push(&piece("half"));
    assert!(leader.is_followed());
    drop(leader);
    assert!(matches!(now(reading.next()), Some(Next::Piece(_))));
    assert!(matches!(now(reading.next()), Some(Next::Broken)));
    assert!(hit(&cache).is_none());
}

#[test]
fn what_is_too_large_reaches_its_readers_and_is_not_kept() {
    let cache = cache(10_000);
    let mut leader = lead(&cache);
    let mut reading = follower(&cache);
    leader.begin(Vec::new(), None);
    leader.push(&Bytes::from(vec![0; 60]));
    leader.push(&Bytes::from(vec![0; 60]));
    // whoever comes now asks for itself
    drop(lead(&cache));
    leader.push(&Bytes::from(vec![0; 60]));
    leader.whole(|_| true);
    for _ in 0..3 {
        assert!(matches!(now(reading.next()), Some(Next::Piece(_))));
    }
    assert!(matches!(now(reading.next()), Some(Next::End)));
    assert!(hit(&cache).is_none());
    let mut leader = lead(&cache);
    let mut waiting = follower(&cache);
    leader.begin(Vec::new(), Some(101));
    assert!(matches!(now(waiting.first()), Some(First::Alone)));
}

#[test]
fn what_was_on_its_way_when_all_was_forgotten_is_not_kept() {
    let cache = cache(10_000);
    let mut leader = lead(&cache);
    leader.begin(Vec::new(), None);
    leader.push(&piece("old"));
    cache.clear();
    leader.whole(|_| true);
    assert!(hit(&cache).is_none());
}

#[test]
fn nothing_is_served_that_is_too_old_or_not_sound() {
    let cache = cache(10_000);
    let mut leader = lead(&cache);
    leader.begin(Vec::new(), None);
    leader.push(&piece("odd"));
    leader.whole(|_| false);
    let mut leader = lead(&cache);
    leader.begin(Vec::new(), None);
    leader.push(&piece("old"));
    leader.whole(|_| true);
    let at_once = Terms {
        ttl: Duration::ZERO,
        ..TERMS
    };
    assert!(matches!(cache.look(KEY, at_once), Found::Lead(_)));
    assert!(hit(&cache).is_some());
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
        .collect()
}

fn kept(operation: Operation, answer: &[(&'static str, &'static str)]) -> Option<usize> {
    let (config, _) = config::read(
        "pools: { a: { servers: ['http://h:1'] } }\nroutes: [{ pool: a }]",
        std::path::Path::new("."),
        &|_| None,
    );
    let config = config.unwrap();
    let route = RouteKey::new(&config, &config.routes[0]);
    let question = Question {
        route: &route,
        caller: Caller::Any,
        operation,
        path: "/",
        query: None,
        headers: &HeaderMap::new(),
        credentials: &["authorization"],
        form: false,
        home: false,
        origins: false,
    };
    let answer = headers(answer);
    may_be_kept(&answer, &question).then(|| kept_headers(&answer).len())
}

#[test]
fn what_a_server_forbids_or_says_to_one_alone_is_not_kept() {
    use Operation::{Embedding, Speech};
    let own = ("x-request-id", "a");
    assert_eq!(
        kept(Speech, &[("content-type", "audio/mpeg"), own]),
        Some(1)
    );
    assert_eq!(kept(Speech, &[("cache-control", "no-cache")]), Some(1));
    assert_eq!(kept(Speech, &[("vary", "Origin")]), Some(1));
    assert_eq!(
        kept(Embedding, &[("vary", "Accept-Encoding, Origin")]),
        Some(1)
    );
    for no in [
        ("set-cookie", "a=b"),
        ("cache-control", "max-age=5, No-Store"),
        ("cache-control", "private=\"x\""),
        ("vary", "*"),
        ("vary", "user-agent"),
        ("vary", "Authorization"),
        ("content-type", "application/json"),
        ("content-type", "text/html"),
        ("content-encoding", "gzip"),
    ] {
        assert_eq!(kept(Speech, &[no]), None, "{no:?}");
    }
}

#[test]
fn a_stream_is_sound_if_it_has_its_end_and_no_error() {
    let stream = |body: &'static str| {
        let kind = (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        is_sound(&Stored::new(vec![kind], piece(body)))
    };
    assert!(stream("data: {}\n\ndata: [DONE]\n\n"));
    assert!(!stream("data: {}\n\n"));
    assert!(!stream("data: {\"error\":{}}\n\ndata: [DONE]\n\n"));
    assert!(is_sound(&Stored::new(Vec::new(), piece("audio"))));
}

#[test]
fn clients_say_what_they_want() {
    for (said, wish) in [
        ("", Wish::Cached(None)),
        ("max-age=60", Wish::Cached(Some(Duration::from_secs(60)))),
        ("max-age=0", Wish::Fresh),
        ("max-age=x", Wish::Fresh),
        ("no-cache", Wish::Fresh),
        ("No-Cache, max-age=60", Wish::Fresh),
        ("max-age=60, no-store", Wish::NoStore),
        ("only-if-cached", Wish::Cached(None)),
    ] {
        assert_eq!(
            Wish::of(&headers(&[("cache-control", said)])),
            wish,
            "{said}"
        );
    }
}
