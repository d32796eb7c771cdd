//! Stamps for new commands, without trusting any wall clock.
//!
//! Sessions expire by the time that the log tells, so that they expire at the same entry on every
//! node. The leader tells it: what it has seen in the log so far, carried on by its own monotonic
//! clock. A wall clock set wrong, on whichever node, expires nobody (failure 26).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::command::LogTime;

/// A clock that runs at the pace of [`Instant`] and is never behind the log time it was shown.
///
/// It follows the largest stamp seen, rather than the last: stamps are applied some time after they
/// were made, and a clock set back to each of them would all but stand still on a busy node.
///
/// Shared by any number of threads: one atomic, no lock. `now` is the caller's, so that tests can say
/// what time it is; a `now` before the clock's start counts as the start.
#[derive(Debug)]
pub struct LogClock {
    started: Instant,
    /// What the clock showed at `started`, in milliseconds of log time. Only grows.
    at_start_ms: AtomicU64,
}

impl LogClock {
    /// A clock that shows [`LogTime::ZERO`] at `now`.
    #[must_use]
    pub fn new(now: Instant) -> LogClock {
        LogClock {
            started: now,
            at_start_ms: AtomicU64::new(0),
        }
    }

    /// Takes note of log time that was applied: from here on the clock is not behind it.
    pub fn observe(&self, applied: LogTime, now: Instant) {
        let at_start_ms = applied.as_millis().saturating_sub(self.running_ms(now));
        self.at_start_ms.fetch_max(at_start_ms, Ordering::Relaxed);
    }

    /// The stamp of a command proposed at `now`.
    #[must_use]
    pub fn stamp(&self, now: Instant) -> LogTime {
        let at_start_ms = self.at_start_ms.load(Ordering::Relaxed);
        LogTime::from_millis(at_start_ms.saturating_add(self.running_ms(now)))
    }

    fn running_ms(&self, now: Instant) -> u64 {
        let running: Duration = now.saturating_duration_since(self.started);
        u64::try_from(running.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn carries_observed_log_time_on_at_the_monotonic_pace() {
        let start = Instant::now();
        let clock = LogClock::new(start);
        assert_eq!(clock.stamp(start), LogTime::ZERO);

        clock.observe(LogTime::from_millis(90_000), start + ms(100));
        assert_eq!(clock.stamp(start + ms(100)), LogTime::from_millis(90_000));
        assert_eq!(clock.stamp(start + ms(350)), LogTime::from_millis(90_250));
    }

    /// Entries are applied some time after they were stamped; that time must not be lost each time.
    #[test]
    fn observing_its_own_late_stamps_does_not_slow_it() {
        let start = Instant::now();
        let clock = LogClock::new(start);
        clock.observe(LogTime::from_millis(70_000), start);
        let latency = ms(5);
        for millis in 1..=1000 {
            let stamped = clock.stamp(start + ms(millis));
            clock.observe(stamped, start + ms(millis) + latency);
        }
        assert_eq!(clock.stamp(start + ms(1000)), LogTime::from_millis(71_000));
    }

    #[test]
    fn never_goes_back() {
        let start = Instant::now();
        let clock = LogClock::new(start);
        clock.observe(LogTime::from_millis(5_000), start);
        clock.observe(LogTime::from_millis(10), start + ms(1));
        assert_eq!(clock.stamp(start + ms(1)), LogTime::from_millis(5_001));
        assert_eq!(
            clock.stamp(start.checked_sub(ms(1)).unwrap_or(start)),
            LogTime::from_millis(5_000)
        );
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let start = Instant::now();
        let clock = LogClock::new(start);
        clock.observe(LogTime::from_millis(u64::MAX), start);
        assert_eq!(clock.stamp(start + ms(1)), LogTime::from_millis(u64::MAX));
    }
}
