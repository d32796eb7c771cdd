//! One line of the log where a peer gives reason for forty a second.
//!
//! A node that was removed and never heard of it, or one of another cluster at a reused address, goes
//! on calling. The first call of each kind is told, and of those that follow one every [`PERIOD_MS`],
//! with the number of those that were not.

use std::collections::BTreeMap;

/// Between two lines of one kind.
pub(crate) const PERIOD_MS: u64 = 60_000;

/// Kinds at most: peers times what they do wrong. While so many were told within a period, others are
/// counted, and not told.
const MAX_KINDS: usize = 64;

/// What was told lately, by kind. Time is the caller's, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct LogLimit<K> {
    told: BTreeMap<K, Told>,
    /// Of kinds that there was no room for.
    others: u64,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at_ms: u64,
    suppressed: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            others: 0,
        }
    }
}

impl<K: Ord> LogLimit<K> {
    /// Something of this kind happens. `Some` if it is to be told, with how many were not since the
    /// line before.
    pub(crate) fn happens(&mut self, kind: K, now_ms: u64) -> Option<u64> {
        let is_over = |told: &Told| now_ms.saturating_sub(told.at_ms) >= PERIOD_MS;
        if let Some(told) = self.told.get_mut(&kind)
            && !is_over(told)
        {
            told.suppressed += 1;
            return None;
        }
        let before = self.told.remove(&kind).map_or(0, |told| told.suppressed);
        if self.told.len() >= MAX_KINDS {
            let others = &mut self.others;
            self.told.retain(|_, told| {
                let stays = !is_over(told);
                *others += if stays { 0 } else { told.suppressed };
                stays
            });
        }
        if self.told.len() >= MAX_KINDS {
            self.others += 1;
            return None;
        }
        let told = Told {
            at_ms: now_ms,
            suppressed: 0,
        };
        self.told.insert(kind, told);
        Some(before + std::mem::take(&mut self.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_then_one_a_period_with_the_number_of_the_others() {
        let mut limit = LogLimit::default();
        assert_eq!(limit.happens("a", 5), Some(0));
        for ms in 6..1_000 {
            assert_eq!(limit.happens("a", ms), None);
        }
        assert_eq!(limit.happens("b", 1_000), Some(0), "each kind by itself");
        assert_eq!(limit.happens("a", PERIOD_MS + 4), None);
        assert_eq!(limit.happens("a", PERIOD_MS + 5), Some(995));
        assert_eq!(limit.happens("a", PERIOD_MS + 6), None);
        assert_eq!(limit.happens("a", 9 * PERIOD_MS), Some(1));
    }

    #[test]
    fn kinds_without_end_take_neither_memory_nor_lines_without_end() {
        let mut limit = LogLimit::default();
        let mut told = 0;
        let mut counted = 0;
        for kind in 0..10_000 {
            let line = limit.happens(kind, 0);
            told += u64::from(line.is_some());
            counted += line.unwrap_or(0);
            assert!(limit.told.len() <= MAX_KINDS);
        }
        assert_eq!(told, MAX_KINDS as u64);
        counted += limit.happens(20_000, PERIOD_MS).unwrap();
        assert_eq!(told + counted, 10_000, "none is forgotten");
        assert_eq!(limit.told.len(), 1);
    }
}
