//! What each disk holds for good, noted apart from the storage that is under test.
//!
//! Every promise of Raft rests on disks: a commit on a majority of them, an acceptance on one, a vote on
//! one. So each is held, at the moment at which it is made, against what was written *and synced*
//! there, and after a crash all of that must still be there.

use std::collections::VecDeque;

use raft::core::{LogId, LogIndex, Restored, Term, WriteBatch, WriteId};

/// One node's disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// The term of each entry from 1 on; zero where only a snapshot includes it.
    terms: Vec<Term>,
    /// Written and not reported as durable, in order.
    written: VecDeque<Change>,
}

/// What a batch changes of the log.
#[derive(Debug)]
struct Change {
    write: WriteId,
    reset_to: Option<LogId>,
    truncate_from: Option<LogIndex>,
    entries: Vec<Term>,
}

impl Disk {
    /// A batch was written; a crash may lose it, or keep it.
    pub(crate) fn written(&mut self, batch: &WriteBatch) {
        let change = Change {
            write: batch.id,
            reset_to: batch.reset_to,
            truncate_from: batch.truncate_from,
            entries: batch.entries.iter().map(|entry| entry.id.term).collect(),
        };
        self.written.push_back(change);
    }

    /// Everything written up to `write` is durable.
    pub(crate) fn synced(&mut self, write: WriteId) {
        while let Some(change) = self.written.pop_front_if(|change| change.write <= write) {
            if let Some(to) = change.reset_to {
                self.cover(to);
            }
            if let Some(from) = change.truncate_from {
                self.terms.truncate(count(from.prev()));
            }
            self.terms.extend(change.entries);
        }
    }

    /// The last entry that is durable.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex::new(self.terms.len() as u64)
    }

    /// Whether this very entry is durable, by itself or in a snapshot.
    pub(crate) fn has(&self, id: LogId) -> bool {
        let term = self.terms.get(count(id.index.prev()));
        id.index != LogIndex::ZERO
            && term.is_some_and(|&term| term == id.term || term == Term::ZERO)
    }

    /// The node starts anew from its disk. An error names the first entry that was durable and is gone.
    pub(crate) fn restarted(&mut self, found: &Restored) -> Result<(), LogId> {
        // A snapshot that came before the crash may be there though nobody was told so. If it contradicts
        // the log, that goes (Fig. 13, step 7).
        let known = if found.snapshot == LogId::ZERO || self.has(found.snapshot) {
            self.last()
        } else {
            self.last().min(found.snapshot.index)
        };
        // A truncation on its way to the disk may have arrived.
        let kept = self.written.iter().fold(known, |kept, change| {
            let reset = change.reset_to.map_or(kept, |to| to.index);
            let truncated = change.truncate_from.map_or(kept, LogIndex::prev);
            kept.min(reset).min(truncated)
        });
        self.written.clear();
        let mut index = found.snapshot.index.max(found.prev.index).next();
        while index <= kept {
            let term = self.terms[count(index.prev())];
            let place = count(index) - count(found.prev.index) - 1;
            let entry = found.entries.get(place);
            if term != Term::ZERO && entry.is_none_or(|entry| entry.id.term != term) {
                return Err(LogId::new(term, index));
            }
            index = index.next();
        }
        self.terms.truncate(count(found.prev.index));
        self.cover(found.prev);
        self.terms
            .extend(found.entries.iter().map(|entry| entry.id.term));
        Ok(())
    }

    /// A snapshot takes the place of the log up to `upto`, and nothing follows.
    fn cover(&mut self, upto: LogId) {
        self.terms.resize(count(upto.index), Term::ZERO);
        if let Some(last) = self.terms.last_mut() {
            *last = upto.term;
        }
    }
}

fn count(index: LogIndex) -> usize {
    usize::try_from(index.get()).expect("a short run")
}

#[cfg(test)]
mod tests {
    use raft::core::{Entry, Payload};

    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: id(term, index),
            payload: Payload::Empty,
        }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term::new(term), LogIndex::new(index))
    }

    fn batch(number: u64, truncate_from: Option<u64>, entries: &[(u64, u64)]) -> WriteBatch {
        WriteBatch {
            id: WriteId::new(number),
            truncate_from: truncate_from.map(LogIndex::new),
            entries: entries.iter().map(|&(t, i)| entry(t, i)).collect(),
            ..WriteBatch::default()
        }
    }

    fn found(entries: &[(u64, u64)]) -> Restored {
        Restored {
            entries: entries.iter().map(|&(t, i)| entry(t, i)).collect(),
            ..Restored::default()
        }
    }

    #[test]
    fn only_what_was_synced_counts_and_it_must_outlive_a_crash() {
        let mut disk = Disk::default();
        disk.written(&batch(1, None, &[(1, 1), (1, 2)]));
        assert!(!disk.has(id(1, 1)), "written is not durable");
        disk.synced(WriteId::new(1));
        assert!(disk.has(id(1, 2)) && !disk.has(id(2, 2)) && !disk.has(LogId::ZERO));

        assert_eq!(disk.restarted(&found(&[(1, 1)])), Err(id(1, 2)));
    }

    #[test]
    fn an_unsynced_truncation_may_have_arrived_and_may_not() {
        for survivors in [&[(1, 1)][..], &[(1, 1), (1, 2)], &[(1, 1), (3, 2)]] {
            let mut disk = Disk::default();
            disk.written(&batch(1, None, &[(1, 1), (1, 2)]));
            disk.synced(WriteId::new(1));
            disk.written(&batch(2, Some(2), &[(3, 2)]));
            assert_eq!(disk.restarted(&found(survivors)), Ok(()), "{survivors:?}");
            assert_eq!(disk.last().get(), survivors.len() as u64);
        }
    }

    #[test]
    fn a_snapshot_stands_for_what_it_includes() {
        let mut disk = Disk::default();
        disk.written(&WriteBatch {
            id: WriteId::new(1),
            reset_to: Some(id(2, 5)),
            entries: vec![entry(2, 6)],
            ..WriteBatch::default()
        });
        disk.synced(WriteId::new(1));
        assert!(disk.has(id(1, 3)) && disk.has(id(2, 5)) && disk.has(id(2, 6)));
        let restored = Restored {
            snapshot: id(2, 5),
            prev: id(2, 5),
            entries: vec![],
            ..Restored::default()
        };
        assert_eq!(disk.restarted(&restored), Err(id(2, 6)));
    }

    #[test]
    fn what_a_snapshot_contradicts_may_go_with_the_crash_that_kept_the_snapshot() {
        let after_snapshot = |snapshot| {
            let mut disk = Disk::default();
            disk.written(&batch(1, None, &[(1, 1), (1, 2), (1, 3)]));
            disk.synced(WriteId::new(1));
            disk.restarted(&Restored {
                snapshot,
                prev: snapshot,
                ..Restored::default()
            })
        };
        assert_eq!(after_snapshot(id(2, 2)), Ok(()));
        assert_eq!(after_snapshot(id(1, 2)), Err(id(1, 3)), "it agrees");
    }
}
