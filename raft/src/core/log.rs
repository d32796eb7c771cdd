//! The log in memory: what follows the last compaction (§5.3, §7).
//!
//! ```text
//!  index    ... 6   7 | 8   9   10  11
//!  term     ... 2   2 | 2   3   3   4
//!           compacted | entries
//!                   ^ prev          ^ last
//! ```
//!
//! What is durable of it is kept apart, in [`Journal`](super::journal::Journal).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::types::{Entry, LogId, LogIndex, Term};

/// Entries of ascending indexes without a gap, and of terms that never fall.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Log {
    /// The entry before the first one kept. Committed, and part of a durable snapshot.
    prev: LogId,
    entries: VecDeque<Entry>,
    /// Sum of the entries' [`Entry::size_bytes`].
    bytes: usize,
}

impl Log {
    /// The log that storage found; `entries` follow `prev` without a gap.
    pub(super) fn new(prev: LogId, entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        Self {
            prev,
            entries: entries.into(),
            bytes,
        }
    }

    /// The entry before the first one kept.
    pub(super) fn prev(&self) -> LogId {
        self.prev
    }

    /// The last entry, or `prev` in an empty log.
    pub(super) fn last(&self) -> LogId {
        self.entries.back().map_or(self.prev, |entry| entry.id)
    }

    /// How many entries are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the entries kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The term at `index`, if the log still or already knows it.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.prev.index {
            return Some(self.prev.term);
        }
        self.get(index).map(|entry| entry.id.term)
    }

    /// The full name of the entry at `index`.
    pub(super) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.term_at(index).map(|term| LogId { term, index })
    }

    /// True if the log has exactly this entry, by its name.
    pub(super) fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry at or before `index` whose term is at most `term`; `prev` if none is.
    ///
    /// Two logs that differ at `index` can agree only at or before this, when the other one's term
    /// there is `term`: a whole term is skipped at a time (§5.3). Terms never fall along a log, so
    /// a binary search finds it.
    pub(super) fn last_of_term_at_most(&self, term: Term, index: LogIndex) -> LogId {
        let found = self
            .entries
            .partition_point(|entry| entry.id.index <= index && entry.id.term <= term);
        match found {
            0 => self.prev,
            found => self.entries[found - 1].id,
        }
    }

    /// Entries from `from` to `upto`, both included, as many as fit into `max_bytes`, but at least
    /// one. None if the log ends before `from`.
    ///
    /// # Panics
    /// If `from` is compacted: the callers know better.
    pub(super) fn slice(&self, from: LogIndex, upto: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let first = self
            .position(from)
            .expect("callers stay behind the compacted part");
        let end = self
            .position(upto.next())
            .unwrap_or(0)
            .min(self.entries.len());
        let mut slice = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(first.min(end)..end) {
            bytes += entry.size_bytes();
            if bytes > max_bytes && !slice.is_empty() {
                break;
            }
            slice.push(entry.clone());
        }
        slice
    }

    /// Bytes of the entries from `from` to `upto`, both included.
    pub(super) fn bytes_between(&self, from: LogIndex, upto: LogIndex) -> usize {
        let first = self.position(from).unwrap_or(0);
        let end = self
            .position(upto.next())
            .unwrap_or(0)
            .min(self.entries.len());
        self.entries
            .range(first.min(end)..end)
            .map(Entry::size_bytes)
            .sum()
    }

    /// Adds the next entry.
    pub(super) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.id.index == last.index.next(),
            "entries follow one another"
        );
        assert!(entry.id.term >= last.term, "terms never fall along a log");
        self.bytes += entry.size_bytes();
        self.entries.push_back(entry);
    }

    /// Forgets the entries from `from` on (§5.3).
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let keep = self
            .position(from)
            .expect("committed entries are never truncated");
        while self.entries.len() > keep {
            let entry = self.entries.pop_back().expect("longer than `keep`");
            self.bytes -= entry.size_bytes();
        }
    }

    /// Drops the head of the log up to `upto` (§7).
    pub(super) fn compact(&mut self, upto: LogIndex) {
        let id = self.id_at(upto).expect("only what the log has can go");
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.id.index <= upto)
        {
            let entry = self.entries.pop_front().expect("there is a front");
            self.bytes -= entry.size_bytes();
        }
        self.prev = id;
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Forgets every entry and goes on after a snapshot (Fig. 13, rule 7).
    pub(super) fn reset(&mut self, snapshot: LogId) {
        *self = Self::new(snapshot, Vec::new());
    }

    /// The last entry that may go so that at most `tail_bytes` of entries at or before `upto` stay.
    pub(super) fn tail_start(&self, upto: LogIndex, tail_bytes: usize) -> LogIndex {
        let end = self
            .position(upto.next())
            .unwrap_or(0)
            .min(self.entries.len());
        let mut bytes = 0;
        for entry in self.entries.range(..end).rev() {
            bytes += entry.size_bytes();
            if bytes > tail_bytes {
                return entry.id.index;
            }
        }
        self.prev.index
    }

    /// True if terms and indexes ascend as they must. Looks at every entry: for debug builds.
    pub(super) fn is_well_formed(&self) -> bool {
        let mut last = self.prev;
        self.entries.iter().all(|entry| {
            let follows = entry.id.index == last.index.next() && entry.id.term >= last.term;
            last = entry.id;
            follows
        })
    }

    fn get(&self, index: LogIndex) -> Option<&Entry> {
        self.position(index)
            .and_then(|position| self.entries.get(position))
    }

    /// Where `index` is, or would be, in `entries`; none if it is compacted.
    fn position(&self, index: LogIndex) -> Option<usize> {
        let position = index.get().checked_sub(self.prev.index.get() + 1)?;
        Some(usize::try_from(position).unwrap_or(usize::MAX))
    }
}
