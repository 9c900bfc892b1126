use super::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn sessions(limit: u64) -> Sessions {
    let counts = Counts {
        sessions: IntGauge::new("sessions", "-").unwrap(),
        bytes: IntGauge::new("bytes", "-").unwrap(),
        evicted: IntCounter::new("evicted", "-").unwrap(),
        dropped: IntCounter::new("dropped", "-").unwrap(),
    };
    Sessions::new(limit, counts)
}

fn bounds() -> SessionBounds {
    SessionBounds {
        messages: 4,
        bytes: 10_000,
        ttl: SECOND,
    }
}

fn exchange(words: &str) -> Messages {
    let message = |role: &str| {
        let text = format!(r#"{{"role":"{role}","content":"{words}"}}"#);
        Arc::new(Message::read(&text).unwrap())
    };
    vec![message("user"), message("assistant")]
}

fn key(n: u8) -> Key {
    Key([n; 32])
}

#[test]
fn a_session_goes_on_until_nothing_was_said_for_too_long() {
    let (sessions, now) = (sessions(10_000), Instant::now());
    sessions.append(key(1), exchange("a"), &bounds(), now);
    sessions.append(key(1), exchange("b"), &bounds(), now + SECOND / 2);
    let at = |after| sessions.load(&key(1), now + after).messages.len();
    assert_eq!(at(SECOND), 4);
    assert_eq!(at(SECOND * 3 / 2), 0);
    sessions.append(key(1), exchange("c"), &bounds(), now + SECOND * 2);
    assert_eq!(at(SECOND * 2), 2);
    assert!(sessions.load(&key(2), now).messages.is_empty());
    assert_eq!(sessions.counts.sessions.get(), 1);
    sessions.sweep(now + SECOND * 3);
    assert_eq!(
        (sessions.counts.sessions.get(), sessions.counts.bytes.get()),
        (0, 0)
    );
}

#[test]
fn other_edges_hear_all_of_a_session() {
    let mut here = Remembered::default();
    here.join(exchange("a"), &bounds());
    here.join(exchange("b \\u00e9 \\\"quoted\\\""), &bounds());
    here.join(exchange("c"), &bounds());
    let there = Remembered::heard(&here.told()).unwrap();
    let texts = |of: &Remembered| {
        of.messages
            .iter()
            .map(|m| m.text.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(&there), texts(&here));
    assert_eq!((there.messages.len(), there.dropped), (4, 2));
    assert!(Remembered::heard("{\"messages\":[{}]}").is_none());
}

#[test]
fn what_was_dropped_is_told_and_counted() {
    let (sessions, now) = (sessions(10_000), Instant::now());
    for _ in 0..4 {
        sessions.append(key(1), exchange("a"), &bounds(), now);
    }
    let remembered = sessions.load(&key(1), now);
    assert_eq!((remembered.messages.len(), remembered.dropped), (4, 4));
    assert_eq!(sessions.counts.dropped.get(), 4);
}

#[test]
fn the_bound_holds_and_what_nobody_asked_for_goes_first() {
    let one: u64 = exchange("a").iter().map(|m| m.size + PER_MESSAGE).sum();
    let (sessions, now) = (sessions(2 * (OVERHEAD + one)), Instant::now());
    sessions.append(key(1), exchange("a"), &bounds(), now);
    sessions.append(key(2), exchange("b"), &bounds(), now);
    sessions.load(&key(1), now);
    sessions.append(key(3), exchange("c"), &bounds(), now);
    let there = |n| !sessions.load(&key(n), now).messages.is_empty();
    assert_eq!([there(1), there(2), there(3)], [true, false, true]);
    assert_eq!(sessions.counts.evicted.get(), 1);
    sessions.limit(0);
    sessions.append(key(1), exchange("d"), &bounds(), now);
    assert_eq!(
        (sessions.counts.sessions.get(), sessions.counts.bytes.get()),
        (0, 0)
    );
}
