//! How many a second: a ring of the latest seconds, written by one thread.
//!
//! ```text
//!   slot = second % 8, one u64 each:   | second, its low 24 bits | calls in it, 40 bits |
//! ```
//!
//! Second and count are one number, so a reader never takes one second's count for another's.

use super::cells::Cell64;

const SLOTS: usize = 8;

/// Whole seconds that a rate looks back, besides the one that runs. Fewer than the slots, so that a
/// reader that comes a moment late still finds them.
pub(crate) const WINDOW_SECONDS: u64 = 5;

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const SECOND_MASK: u64 = u64::MAX >> COUNT_BITS;

#[derive(Debug, Default)]
pub(super) struct RateCells {
    slots: [Cell64; SLOTS],
}

#[expect(clippy::cast_possible_truncation, reason = "the index of a slot")]
fn slot_of(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

impl RateCells {
    /// Counts `n` more in `second`, on the writer's thread.
    pub(super) fn add(&self, second: u64, n: u64) {
        let slot = &self.slots[slot_of(second)];
        let (stamp, word) = (second & SECOND_MASK, slot.get());
        let before = if word >> COUNT_BITS == stamp {
            word & COUNT_MASK
        } else {
            0
        };
        let count = before.saturating_add(n).min(COUNT_MASK);
        slot.set(stamp << COUNT_BITS | count);
    }

    /// What was counted in the running `second` and the [`WINDOW_SECONDS`] before it.
    pub(super) fn recent(&self, second: u64) -> u64 {
        (second.saturating_sub(WINDOW_SECONDS)..=second)
            .map(|second| {
                let word = self.slots[slot_of(second)].get();
                let is_it = word >> COUNT_BITS == second & SECOND_MASK;
                if is_it { word & COUNT_MASK } else { 0 }
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_the_window_as_time_passes() {
        let rate = RateCells::default();
        rate.add(10, 3);
        rate.add(10, 4);
        rate.add(12, 5);
        assert_eq!(rate.recent(12), 12);
        assert_eq!(rate.recent(15), 12);
        assert_eq!(rate.recent(16), 5);
        assert_eq!(rate.recent(18), 0);
        // The slot of second 10 again, with nothing left of it.
        rate.add(18, 1);
        assert_eq!(rate.recent(18), 1);
    }

    #[test]
    fn the_first_seconds_and_the_stamps_wrap_are_counted_right() {
        let rate = RateCells::default();
        rate.add(0, 2);
        assert_eq!(rate.recent(0), 2);
        let wrap = SECOND_MASK + 1;
        let rate = RateCells::default();
        rate.add(wrap - 1, 1);
        rate.add(wrap, 1);
        assert_eq!(rate.recent(wrap + 1), 2);
        assert_eq!(rate.recent(wrap + 6), 0);
    }

    #[test]
    fn a_count_beyond_its_bits_stays_at_the_largest() {
        let rate = RateCells::default();
        rate.add(1, u64::MAX);
        rate.add(1, 1);
        assert_eq!(rate.recent(1), COUNT_MASK);
    }
}
