//! A node's monotonic clock: it goes at its own rate, and may leap forward.

use raft::core::Millis;

/// Virtual time, in microseconds since the run began.
pub(crate) type Micros = u64;

/// Reads `shown + (now - since) * rate`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    since: Micros,
    shown: Micros,
    /// In millionths of the true rate.
    rate: u64,
}

const TRUE_RATE: u64 = 1_000_000;

impl Clock {
    /// `rate_percent` of the true rate.
    pub(crate) fn new(now: Micros, shown: Micros, rate_percent: u64) -> Self {
        Self {
            since: now,
            shown,
            rate: rate_percent * (TRUE_RATE / 100),
        }
    }

    pub(crate) fn read(&self, now: Micros) -> Millis {
        Millis::new(self.micros(now) / 1000)
    }

    /// Goes on from here at another rate.
    pub(crate) fn set_rate(&mut self, now: Micros, rate_percent: u64) {
        *self = Self::new(now, self.micros(now), rate_percent);
    }

    pub(crate) fn leap(&mut self, now: Micros, by: Micros) {
        self.shown = self.micros(now) + by;
        self.since = now;
    }

    /// When it will show `at`, or the past.
    pub(crate) fn when(&self, at: Millis) -> Micros {
        let ahead = at.get().saturating_mul(1000).saturating_sub(self.shown);
        self.since + ahead.saturating_mul(TRUE_RATE).div_ceil(self.rate)
    }

    fn micros(&self, now: Micros) -> Micros {
        self.shown + (now - self.since) * self.rate / TRUE_RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_what_is_asked_for_when_it_says_so() {
        for rate in [50, 70, 100, 130, 1000] {
            let mut clock = Clock::new(1_000, 77_000, rate);
            clock.leap(5_000, 3_000);
            clock.set_rate(9_000, rate / 2 + 1);
            for ms in [100, 101, 500, 9_999] {
                let when = clock.when(Millis::new(ms));
                assert!(clock.read(when) >= Millis::new(ms), "{rate} {ms}");
                if when > 9_000 {
                    assert!(clock.read(when - 1) < Millis::new(ms), "{rate} {ms}");
                }
            }
        }
    }
}
