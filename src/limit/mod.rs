//! Limits: how much a key, an address, a route or a pool may ask for in a minute, and at once.
//!
//! Exact within a process. What was used is remembered apart from what is allowed, so that a new
//! configuration changes the limits and forgets nothing.

mod bucket;
mod ledger;
mod pace;
#[cfg(test)]
pub(crate) mod props;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use bucket::{Bucket, Left, Short};
pub(crate) use ledger::{Ledger, Spent, Usage, cost, month};
pub(crate) use pace::Pace;

use crate::config::{Config, PoolId, Quota};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Requests,
    Concurrent,
    Tokens,
    Characters,
    AudioSeconds,
    Bytes,
}

impl Unit {
    pub(crate) const ALL: &'static [Unit] = &[
        Unit::Requests,
        Unit::Concurrent,
        Unit::Tokens,
        Unit::Characters,
        Unit::AudioSeconds,
        Unit::Bytes,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Concurrent => "concurrent",
            Unit::Tokens => "tokens",
            Unit::Characters => "characters",
            Unit::AudioSeconds => "audio_seconds",
            Unit::Bytes => "bytes",
        }
    }

    fn allowed(self, quota: &Quota) -> Option<u64> {
        match self {
            Unit::Requests => quota.requests,
            Unit::Concurrent => quota.concurrent,
            Unit::Tokens => quota.tokens,
            Unit::Characters => quota.characters,
            Unit::AudioSeconds => quota.audio_seconds,
            Unit::Bytes => quota.bytes,
        }
    }
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) unit: Unit,
    pub(crate) limit: u64,
    pub(crate) asked: u64,
    pub(crate) short: Short,
}

/// What was used of late, whatever is allowed.
#[derive(Debug, Default)]
pub(crate) struct Used {
    requests: Bucket,
    tokens: Bucket,
    characters: Bucket,
    audio_seconds: Bucket,
    bytes: Bucket,
    in_flight: AtomicUsize,
}

impl Used {
    /// `None` for what is not counted by the minute.
    fn bucket(&self, unit: Unit) -> Option<&Bucket> {
        match unit {
            Unit::Requests => Some(&self.requests),
            Unit::Tokens => Some(&self.tokens),
            Unit::Characters => Some(&self.characters),
            Unit::AudioSeconds => Some(&self.audio_seconds),
            Unit::Bytes => Some(&self.bytes),
            Unit::Concurrent => None,
        }
    }

    fn is_idle(&self, now: Duration) -> bool {
        let whole = |unit: &Unit| self.bucket(*unit).is_none_or(|bucket| bucket.is_whole(now));
        self.in_flight.load(Relaxed) == 0 && Unit::ALL.iter().all(whole)
    }
}

/// Limits, and what was used of them.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    quota: Quota,
    used: Arc<Used>,
}

/// A place among the requests in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Used>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The clock of all allowances.
fn clock(now: Instant) -> Duration {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    // an instant from before the first use is the epoch; a minute ahead, so that nothing is owed
    now.saturating_duration_since(*EPOCH) + Duration::from_secs(60)
}

impl Meter {
    /// With what was used before, if something was.
    pub(crate) fn new(quota: Quota, before: Option<&Meter>) -> Self {
        Meter {
            quota,
            used: before.map_or_else(Arc::default, |before| before.used.clone()),
        }
    }

    pub(crate) fn limits_something(&self) -> bool {
        self.quota != Quota::default()
    }

    /// `n`, or all that is allowed in a minute if that is less.
    pub(crate) fn at_most(&self, unit: Unit, n: u64) -> u64 {
        unit.allowed(&self.quota).map_or(n, |limit| n.min(limit))
    }

    pub(crate) fn limits(&self, unit: Unit) -> bool {
        unit.allowed(&self.quota).is_some()
    }

    /// Lets a request in: one more in flight, and one of those of this minute.
    ///
    /// # Errors
    /// If there are as many as may be; then it is not counted.
    pub(crate) fn enter(&self, now: Instant) -> Result<Pass, Exceeded> {
        let pass = Pass(self.used.clone());
        let before = self.used.in_flight.fetch_add(1, Relaxed) as u64;
        if let Some(limit) = self.quota.concurrent.filter(|limit| before >= *limit) {
            return Err(Exceeded {
                unit: Unit::Concurrent,
                limit,
                asked: 1,
                // nobody knows when one ends
                short: Short::Wait(Duration::from_secs(1)),
            });
        }
        self.take(Unit::Requests, 1, now)?;
        Ok(pass)
    }

    /// Takes so much, if it is limited at all.
    ///
    /// # Errors
    /// If there is not that much; then nothing is taken.
    pub(crate) fn take(&self, unit: Unit, n: u64, now: Instant) -> Result<(), Exceeded> {
        let (Some(limit), Some(bucket)) = (unit.allowed(&self.quota), self.used.bucket(unit))
        else {
            return Ok(());
        };
        let taken = bucket.take(limit, n, clock(now));
        taken.map(|_| ()).map_err(|short| Exceeded {
            unit,
            limit,
            asked: n,
            short,
        })
    }

    /// Corrects what was taken by what was used in the end.
    pub(crate) fn settle(&self, unit: Unit, taken: u64, used: u64, now: Instant) {
        let (Some(limit), Some(bucket)) = (unit.allowed(&self.quota), self.used.bucket(unit))
        else {
            return;
        };
        match used.checked_sub(taken) {
            Some(more) => bucket.charge(limit, more, clock(now)),
            None => bucket.give_back(limit, taken - used),
        }
    }

    /// How much is allowed, if it is limited.
    pub(crate) fn allowed(&self, unit: Unit) -> Option<u64> {
        unit.allowed(&self.quota)
    }

    /// What is left, if it is limited.
    pub(crate) fn left(&self, unit: Unit, now: Instant) -> Option<Left> {
        let limit = unit.allowed(&self.quota)?;
        Some(self.used.bucket(unit)?.left(limit, clock(now)))
    }
}

/// All the limits of a configuration.
#[derive(Debug)]
pub(crate) struct Limits {
    /// In the order of the keys.
    keys: Vec<Meter>,
    /// In the order of the routes.
    routes: Vec<Meter>,
    /// In the order of the pools.
    pools: Vec<Meter>,
    addresses: Addresses,
    /// What keys have spent.
    pub(crate) ledger: Arc<Ledger>,
}

impl Limits {
    /// With what was used under a configuration before, by name.
    pub(crate) fn new<'a>(config: &'a Config, before: Option<(&'a Config, &'a Limits)>) -> Self {
        type Named<'a> = Vec<(&'a str, Quota)>;
        let meters = |of: fn(&'a Config) -> Named<'a>, have: fn(&'a Limits) -> &'a Vec<Meter>| {
            let before = before.map(|(config, limits)| of(config).into_iter().zip(have(limits)));
            let before = before.into_iter().flatten();
            let before: HashMap<_, _> = before.map(|((name, _), meter)| (name, meter)).collect();
            let named = of(config).into_iter();
            named
                .map(|(name, quota)| Meter::new(quota, before.get(name).copied()))
                .collect()
        };
        let addresses = before.map(|(_, limits)| &limits.addresses);
        Limits {
            keys: meters(
                |config| {
                    config
                        .keys
                        .iter()
                        .map(|key| (&*key.name, key.limits))
                        .collect()
                },
                |limits| &limits.keys,
            ),
            routes: meters(
                |config| {
                    config
                        .routes
                        .iter()
                        .map(|route| (&*route.name, route.limits))
                        .collect()
                },
                |limits| &limits.routes,
            ),
            pools: meters(
                |config| {
                    config
                        .pools
                        .iter()
                        .map(|pool| (&*pool.name, pool.limits))
                        .collect()
                },
                |limits| &limits.pools,
            ),
            addresses: Addresses::new(config.limits.per_ip, addresses),
            ledger: before.map_or_else(Arc::default, |(_, limits)| limits.ledger.clone()),
        }
    }

    pub(crate) fn key(&self, key: usize) -> &Meter {
        &self.keys[key]
    }

    pub(crate) fn route(&self, route: usize) -> &Meter {
        &self.routes[route]
    }

    pub(crate) fn pool(&self, pool: PoolId) -> &Meter {
        &self.pools[pool.0]
    }

    /// `None` if addresses are not limited.
    pub(crate) fn address(&self, address: IpAddr, now: Instant) -> Option<Meter> {
        self.addresses.of(address, now)
    }
}

/// Addresses that are remembered at once.
const ADDRESSES: usize = 65_536;
/// Parts of the memory with a lock each.
const SHARDS: usize = 16;

/// What some of the addresses used.
type Shard = Mutex<HashMap<IpAddr, Arc<Used>>>;

/// The limits of each address.
#[derive(Debug)]
pub(crate) struct Addresses {
    quota: Quota,
    shards: Arc<[Shard; SHARDS]>,
}

impl Addresses {
    pub(crate) fn new(quota: Quota, before: Option<&Addresses>) -> Self {
        let shards = before.map(|before| before.shards.clone());
        Addresses {
            quota,
            shards: shards.unwrap_or_default(),
        }
    }

    /// The limits of one of them. `None` if there are none.
    pub(crate) fn of(&self, address: IpAddr, now: Instant) -> Option<Meter> {
        if self.quota == Quota::default() {
            return None;
        }
        let address = network(address);
        let shard = &self.shards[shard(address)];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= ADDRESSES / SHARDS && !shard.contains_key(&address) {
            let now = clock(now);
            shard.retain(|_, used| !used.is_idle(now));
        }
        // when all of them are busy, those that come share what is left
        let address = match shard.len() < ADDRESSES / SHARDS || shard.contains_key(&address) {
            true => address,
            false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let used = shard.entry(address).or_default().clone();
        Some(Meter {
            quota: self.quota,
            used,
        })
    }
}

/// What one subscriber has: an IPv4 address, or the first half of an IPv6 address (RFC 6177).
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

fn shard(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    };
    (last.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(requests: Option<u64>, concurrent: Option<u64>) -> Quota {
        Quota {
            requests,
            concurrent,
            ..Quota::default()
        }
    }

    #[test]
    fn requests_in_flight_are_given_back_when_they_end() {
        let meter = Meter::new(quota(None, Some(2)), None);
        let now = Instant::now();
        let (one, _two) = (meter.enter(now).unwrap(), meter.enter(now).unwrap());
        let refused = meter.enter(now).unwrap_err();
        assert_eq!((refused.unit, refused.limit), (Unit::Concurrent, 2));
        drop(one);
        let _three = meter.enter(now).unwrap();
        assert!(meter.enter(now).is_err());
    }

    #[test]
    fn who_is_refused_by_the_minute_is_not_in_flight() {
        let meter = Meter::new(quota(Some(1), Some(1)), None);
        let now = Instant::now();
        drop(meter.enter(now).unwrap());
        assert_eq!(meter.enter(now).unwrap_err().unit, Unit::Requests);
        assert_eq!(meter.used.in_flight.load(Relaxed), 0);
    }

    #[test]
    fn other_limits_forget_nothing() {
        let now = Instant::now();
        let before = Meter::new(quota(Some(10), None), None);
        (0..10).for_each(|_| drop(before.enter(now).unwrap()));
        let after = Meter::new(quota(Some(20), None), Some(&before));
        // all of ten was used, so all of twenty is
        assert!(after.enter(now).is_err());
        assert!(after.enter(now + Duration::from_secs(4)).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_subscriber_and_the_rest_share() {
        let all = Addresses::new(quota(Some(1), None), None);
        let now = Instant::now();
        let asked = |address: &str| all.of(address.parse().unwrap(), now).unwrap().enter(now);
        assert!(asked("2001:db8::1").is_ok() && asked("2001:db8::2").is_err());
        assert!(asked("2001:db8:0:1::1").is_ok());
        assert!(asked("10.0.0.1").is_ok() && asked("::ffff:10.0.0.1").is_err());
        for n in 0..200_000_u32 {
            let _ = all
                .of(IpAddr::from(n.to_be_bytes()), now)
                .unwrap()
                .enter(now);
        }
        let held: usize = all
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().len())
            .sum();
        assert!(held <= ADDRESSES + SHARDS, "{held}");
        // a minute later all of them are idle, and make room
        let later = now + Duration::from_secs(61);
        let newcomer = all.of("192.0.2.1".parse().unwrap(), later).unwrap();
        assert!(newcomer.enter(later).is_ok());
    }

    #[test]
    fn without_limits_nobody_is_remembered() {
        let all = Addresses::new(Quota::default(), None);
        assert!(
            all.of("10.0.0.1".parse().unwrap(), Instant::now())
                .is_none()
        );
    }
}
