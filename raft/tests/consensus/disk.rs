//! A disk in memory that tells apart what was written and what is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::core::{Entry, HardState, LogId, Membership, Restored, WriteBatch, WriteId};

/// What the state machine has: every entry applied so far, in order.
pub(crate) type State = Vec<Entry>;

/// The durable part, and the batches on their way to it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    hard_state: HardState,
    prev: LogId,
    entries: Vec<Entry>,
    /// Snapshot files, durable once they are here.
    pub(crate) snapshots: BTreeMap<LogId, (State, Arc<Membership>)>,
    under_way: VecDeque<WriteBatch>,
}

impl Disk {
    /// A disk with this log on it, as if its node had been running for long.
    pub(crate) fn with_log(hard_state: HardState, entries: Vec<Entry>) -> Self {
        Self {
            hard_state,
            entries,
            ..Self::default()
        }
    }

    /// Takes a batch; it is lost in a crash until [`Disk::sync_one`].
    pub(crate) fn write(&mut self, batch: WriteBatch) {
        self.under_way.push_back(batch);
    }

    /// Makes the oldest batch durable.
    pub(crate) fn sync_one(&mut self) -> Option<WriteId> {
        let batch = self.under_way.pop_front()?;
        let id = batch.id;
        if let Some(hard_state) = batch.hard_state {
            assert!(
                hard_state.current_term >= self.hard_state.current_term,
                "terms never fall"
            );
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = batch.reset_to {
            assert!(
                self.snapshots.contains_key(&snapshot),
                "the file comes before the reset"
            );
            self.prev = snapshot;
            self.entries.clear();
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|entry| entry.id.index < from);
        }
        for entry in batch.entries {
            assert_eq!(
                entry.id.index,
                self.last().index.next(),
                "entries follow one another"
            );
            self.entries.push(entry);
        }
        if let Some(compaction) = batch.compaction {
            assert!(
                self.snapshots.contains_key(&compaction.snapshot),
                "the file comes first"
            );
            if compaction.drop_upto.index > self.prev.index {
                self.entries
                    .retain(|entry| entry.id.index > compaction.drop_upto.index);
                self.prev = compaction.drop_upto;
            }
            self.snapshots.retain(|id, _| *id >= compaction.snapshot);
        }
        Some(id)
    }

    /// What a node finds that starts after a crash: the first `keep` batches under way survived.
    pub(crate) fn recover(&mut self, keep: usize) -> Restored {
        for _ in 0..keep {
            self.sync_one();
        }
        self.under_way.clear();
        let snapshot = self
            .snapshots
            .keys()
            .next_back()
            .copied()
            .unwrap_or(LogId::ZERO);
        if self.last().index < snapshot.index {
            self.prev = snapshot;
            self.entries.clear();
        }
        Restored {
            hard_state: self.hard_state,
            snapshot,
            membership: self
                .snapshots
                .get(&snapshot)
                .map(|(_, membership)| Arc::clone(membership)),
            prev: self.prev,
            entries: self.entries.clone(),
        }
    }

    /// Loses entries that were durable: an older copy of the disk was put in its place.
    pub(crate) fn forget(&mut self, last: raft::core::LogIndex) {
        self.entries.retain(|entry| entry.id.index <= last);
    }

    /// How many batches are not durable yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn last(&self) -> LogId {
        self.entries.last().map_or(self.prev, |entry| entry.id)
    }
}
