//! Whether a client is too slow: bytes buy time, and waiting for the client spends it.
//!
//! So who is waited for is measured, and nobody else: not a client that waits for its server, nor a
//! stream that has nothing to say.

use std::time::Duration;

/// What a client has left before it is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Bytes a second; 0 is no limit.
    least: u64,
    most: Duration,
    left: Duration,
}

impl Pace {
    /// For `least` bytes a second, on average over `window`.
    pub(crate) fn new(least: u64, window: Duration) -> Self {
        Pace {
            least,
            most: window,
            left: window,
        }
    }

    /// Bytes a second; 0 is no limit.
    pub(crate) fn least(&self) -> u64 {
        self.least
    }

    /// How long the client may be waited for until so many bytes are gone to it; `None` for as long
    /// as it likes.
    pub(crate) fn left(&self, bytes: usize) -> Option<Duration> {
        (self.least > 0).then(|| self.left + self.bought(bytes))
    }

    /// So many bytes are gone to it or came from it, for which it had to be waited for so long.
    pub(crate) fn moved(&mut self, bytes: usize, waited: Duration) {
        let left = (self.left + self.bought(bytes)).saturating_sub(waited);
        self.left = left.min(self.most);
    }

    fn bought(&self, bytes: usize) -> Duration {
        let micros = (bytes as u64).saturating_mul(1_000_000);
        Duration::from_micros(micros.checked_div(self.least).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn who_keeps_the_pace_is_never_late_and_who_drips_is() {
        let second = Duration::from_secs(1);
        let mut honest = Pace::new(100, WINDOW);
        let mut dripping = honest;
        for n in 0..1000 {
            honest.moved(100, second);
            assert_eq!(honest.left(0), Some(WINDOW));
            if n < 19 {
                dripping.moved(50, second);
            }
        }
        assert_eq!(dripping.left(0), Some(Duration::from_millis(500)));
        dripping.moved(50, second);
        assert_eq!(dripping.left(0), Some(Duration::ZERO));
        assert_eq!(dripping.left(50), Some(second / 2));
    }

    #[test]
    fn much_at_once_buys_no_more_than_the_window() {
        let mut pace = Pace::new(100, WINDOW);
        pace.moved(usize::MAX, Duration::ZERO);
        assert_eq!(pace.left(0), Some(WINDOW));
        let mut free = Pace::new(0, WINDOW);
        free.moved(1, WINDOW * 2);
        assert_eq!(free.left(0), None);
    }
}
