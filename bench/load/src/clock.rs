//! Time as every program of one machine tells it, and an alarm that is exact to some microseconds.
//!
//! `epoll` alone wakes in whole milliseconds, which is more than what is measured here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// Seconds, as options have them, in nanoseconds.
pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

/// Wakes a `Poll` at a given moment.
pub(crate) struct Alarm {
    timer: OwnedFd,
    set: u64,
}

impl Alarm {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Alarm { timer, set: 0 })
    }

    /// At `moment`, as [`now`] tells it, and not at the one that was set before.
    pub(crate) fn set(&mut self, moment: u64) -> io::Result<()> {
        if self.set == moment {
            return Ok(());
        }
        self.set = moment;
        let at = Timespec {
            tv_sec: (moment / SECOND) as i64,
            tv_nsec: (moment % SECOND) as _,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: at,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}
