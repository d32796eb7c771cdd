//! [`Timers`]: when which source wants to be called.
//!
//! A source has one alarm, the earliest of whatever it waits for; a channel with ten thousand
//! deadlines keeps those itself. So a lazy heap is enough: moving an alarm forward adds an entry,
//! the old one finds itself outdated when it comes up, and the heap is cleaned when more than half
//! of it can only be outdated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::mailbox::SourceId;

/// Below this many entries cleaning is not worth its while.
const CLEAN_ENTRIES_MIN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SourceId)>>,
}

impl Timers {
    /// Adds an alarm.
    pub(super) fn push(&mut self, at: Instant, id: SourceId) {
        self.heap.push(Reverse((at, id)));
    }

    /// Takes one alarm that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, SourceId)> {
        let &Reverse((at, _)) = self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(alarm)| alarm)
    }

    /// How long until the next alarm, or `None` without one.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        self.heap
            .peek()
            .map(|Reverse((at, _))| at.saturating_duration_since(now))
    }

    /// Drops outdated alarms if they may be the most; `current` tells a source's alarm.
    pub(super) fn clean(&mut self, sources: usize, current: impl Fn(SourceId) -> Option<Instant>) {
        if self.heap.len() <= CLEAN_ENTRIES_MIN + 2 * sources {
            return;
        }
        let mut alarms = std::mem::take(&mut self.heap).into_vec();
        alarms.retain(|&Reverse((at, id))| current(id) == Some(at));
        alarms.sort_unstable();
        alarms.dedup();
        self.heap = alarms.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> SourceId {
        SourceId {
            slot,
            generation: 0,
        }
    }

    #[test]
    fn alarms_come_in_order_and_not_early() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.push(at(20), id(2));
        timers.push(at(10), id(1));
        assert_eq!(timers.until_next(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(20)), Some((at(10), id(1))));
        assert_eq!(timers.pop_due(at(20)), Some((at(20), id(2))));
        assert_eq!(timers.until_next(start), None);
    }

    #[test]
    fn outdated_alarms_do_not_pile_up() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        for ms in (0..10_000).rev() {
            timers.push(at(ms), id(0));
            timers.push(at(20_000), id(0));
            timers.clean(1, |_| Some(at(ms)));
            assert!(timers.heap.len() <= CLEAN_ENTRIES_MIN + 4);
        }
        assert_eq!(
            timers.pop_due(at(0)),
            Some((at(0), id(0))),
            "the current one is kept"
        );
    }
}
