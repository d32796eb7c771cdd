//! [`Patience`]: whether to stay awake for a moment before going to sleep.
//!
//! To sleep and be woken costs a thread, and whoever wakes it, tens of microseconds; on a virtual
//! machine whose processor goes idle meanwhile even more. Who expects something sooner than that
//! had better watch for it. Watching for at most as long as a sleep costs can never cost more than
//! twice what the best choice would have; and it is only tried where it has been worth it lately,
//! so that a thread with little to do sleeps as it always did.

use std::thread;
use std::time::{Duration, Instant};

/// The longest watch: about what a sleep and a wake cost.
const WATCH_MAX: Duration = Duration::from_micros(50);

/// A sleep that ended as soon as this might have been spared by a watch.
const SHORT_SLEEP: Duration = Duration::from_micros(150);

/// How much good luck is remembered.
const LUCK_MAX: i32 = 8;

/// What a watch in vain costs of it. It takes as many short sleeps or good watches to make up for
/// it, so that about one wait of four is watched in vain at most.
const IN_VAIN: i32 = 4;

/// What a thread that waits again and again has learned from it.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Watches while it is above 0. At most [`LUCK_MAX`].
    luck: i32,
}

impl Patience {
    /// Looks again and again whether there is something to do, as `look` tells, if that is likely
    /// to be soon; `true`: there is. Others that want the processor get it in between.
    pub(crate) fn watch(&mut self, mut look: impl FnMut() -> bool) -> bool {
        if self.luck <= 0 {
            return false;
        }
        let until = Instant::now() + WATCH_MAX;
        loop {
            if look() {
                self.was_lucky();
                return true;
            }
            if Instant::now() >= until {
                self.luck -= IN_VAIN;
                return false;
            }
            thread::yield_now();
        }
    }

    /// A sleep took so long.
    pub(crate) fn slept(&mut self, time: Duration) {
        if time <= SHORT_SLEEP {
            self.was_lucky();
        } else {
            self.luck = self.luck.min(0);
        }
    }

    fn was_lucky(&mut self) {
        self.luck = (self.luck + 1).min(LUCK_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often of a hundred waits it watches, if all are as long.
    fn watches(found: bool, sleep: Duration) -> usize {
        let mut patience = Patience::default();
        let mut watched = 0;
        for _ in 0..100 {
            let mut looked = false;
            let hit = patience.watch(|| {
                looked = true;
                found
            });
            watched += usize::from(looked);
            if !hit {
                patience.slept(sleep);
            }
        }
        watched
    }

    #[test]
    fn whoever_waits_long_sleeps_at_once() {
        assert_eq!(watches(false, Duration::from_millis(1)), 0);
    }

    #[test]
    fn whoever_waits_shortly_watches() {
        assert_eq!(watches(true, Duration::from_micros(1)), 99);
    }

    #[test]
    fn few_watches_are_in_vain() {
        let in_vain = watches(false, Duration::from_micros(1));
        assert!((10..=25).contains(&in_vain), "{in_vain} of 100");
    }

    #[test]
    fn a_long_sleep_ends_a_run_of_luck() {
        let mut patience = Patience::default();
        for _ in 0..100 {
            patience.slept(Duration::ZERO);
        }
        patience.slept(Duration::from_secs(1));
        assert!(!patience.watch(|| unreachable!("it does not look")));
    }
}
