//! How many connections there may be: all together, and of each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use crate::config::PerAddress;
use crate::limit::network;

/// What bounds the connections of some listeners together.
#[derive(Default)]
pub(crate) struct Gate {
    max_connections: AtomicUsize,
    /// 0 for no limit.
    most_of_address: AtomicUsize,
    counts_loopback: AtomicBool,
    /// In milliseconds; 0 for no limit.
    header_timeout: AtomicU64,
    open: AtomicUsize,
    /// By network, while there are some.
    of_addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Altogether,
    OfAddress,
}

impl Gate {
    /// Bounds the connections that come from now on; `None` for no limit of the time.
    pub(crate) fn set(
        &self,
        max_connections: usize,
        of_address: PerAddress,
        header_timeout: Option<Duration>,
    ) {
        let milliseconds = header_timeout.map_or(0, |limit| limit.as_millis().max(1) as u64);
        self.max_connections.store(max_connections, Relaxed);
        self.most_of_address.store(of_address.most, Relaxed);
        self.counts_loopback.store(of_address.loopback, Relaxed);
        self.header_timeout.store(milliseconds, Relaxed);
    }

    pub(super) fn header_timeout(&self) -> Option<Duration> {
        let milliseconds = self.header_timeout.load(Relaxed);
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Takes a place for a connection from `address`; `gauge` counts it.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, gauge: &IntGauge) -> Result<Pass, Full> {
        if self.open.fetch_add(1, Relaxed) >= self.max_connections.load(Relaxed) {
            self.open.fetch_sub(1, Relaxed);
            return Err(Full::Altogether);
        }
        let most = self.most_of_address.load(Relaxed);
        let address = address.to_canonical();
        let counts = most > 0 && (!address.is_loopback() || self.counts_loopback.load(Relaxed));
        let network = counts.then(|| network(address));
        if let Some(network) = network {
            let mut all = self.of_addresses();
            let open = all.entry(network).or_insert(0);
            if *open >= most {
                self.open.fetch_sub(1, Relaxed);
                return Err(Full::OfAddress);
            }
            *open += 1;
        }
        gauge.inc();
        Ok(Pass {
            gate: self.clone(),
            network,
            gauge: gauge.clone(),
        })
    }

    fn of_addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.of_addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place less in a gate, until it is dropped.
pub(super) struct Pass {
    pub(super) gate: Arc<Gate>,
    /// Where the connection comes from, if that was counted.
    network: Option<IpAddr>,
    gauge: IntGauge,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Relaxed);
        self.gauge.dec();
        let Some(network) = self.network else { return };
        let mut all = self.gate.of_addresses();
        if let Some(open) = all.get_mut(&network) {
            *open -= 1;
            if *open == 0 {
                all.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(most: usize, loopback: bool) -> (Arc<Gate>, IntGauge) {
        let gate = Arc::new(Gate::default());
        gate.set(4, PerAddress { most, loopback }, None);
        (gate, IntGauge::new("open", "open").unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_and_gives_its_places_back() {
        let (gate, open) = gate(2, false);
        let enter = |address: &str| gate.enter(address.parse().unwrap(), &open);
        let first = enter("2001:db8::1").ok().unwrap();
        let _second = enter("2001:db8::ffff").ok().unwrap();
        assert_eq!(enter("2001:db8:0:0:9::1").err(), Some(Full::OfAddress));
        let _other = enter("2001:db8:0:1::1").ok().unwrap();
        drop(first);
        let _again = enter("2001:db8::2").ok().unwrap();
        assert_eq!((gate.open(), open.get()), (3, 3));
        assert_eq!(gate.of_addresses().len(), 2);
    }

    #[test]
    fn this_machine_counts_where_the_file_says_a_number() {
        let (usual, open) = gate(1, false);
        let address = "::ffff:127.0.0.1".parse().unwrap();
        let all: Vec<Pass> = (0..4)
            .map_while(|_| usual.enter(address, &open).ok())
            .collect();
        assert_eq!(all.len(), 4);
        assert_eq!(usual.enter(address, &open).err(), Some(Full::Altogether));
        drop(all);
        assert_eq!((usual.open(), usual.of_addresses().len()), (0, 0));
        let (written, open) = gate(1, true);
        let _one = written.enter(address, &open).ok().unwrap();
        assert_eq!(written.enter(address, &open).err(), Some(Full::OfAddress));
        assert_eq!(written.open(), 1);
    }
}
