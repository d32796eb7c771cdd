//! What a log's records add up to.

use std::collections::VecDeque;

use super::segment::Summary;
use crate::core::{Entry, LogId, LogIndex, Restored, Term, WriteBatch};
use crate::storage::record::Record;

/// The log as replayed so far.
#[derive(Debug)]
pub(in crate::storage) struct ReplayedLog {
    pub(super) summary: Summary,
    /// The entry before `entries[0]`.
    prev_index: LogIndex,
    /// Its term, unless only a segment that is gone knew it. A compaction mark brings it back.
    prev_term: Option<Term>,
    entries: VecDeque<Entry>,
}

/// What [`ReplayedLog::join`] yields.
pub(in crate::storage) struct Joined {
    pub(in crate::storage) restored: Restored,
    /// What the snapshot changed, which the log must be told before it goes on.
    pub(in crate::storage) changes: WriteBatch,
}

impl ReplayedLog {
    /// Begins where the oldest segment does.
    pub(super) fn starting_from(summary: Summary) -> Self {
        let mut log = Self {
            summary,
            prev_index: LogIndex::ZERO,
            prev_term: None,
            entries: VecDeque::new(),
        };
        log.begin_after(summary.last_index);
        log
    }

    fn begin_after(&mut self, index: LogIndex) {
        let dropped = self.summary.compaction.drop_upto;
        self.prev_index = index;
        self.prev_term = (index == dropped.index).then_some(dropped.term);
    }

    /// Takes in one record.
    ///
    /// # Errors
    /// What is impossible about it, coming after those before. Such a record was never written by
    /// a correct program, or what it follows is lost.
    pub(super) fn apply(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::HardState(state) => {
                let known = self.summary.hard_state;
                if state.current_term < known.current_term {
                    return Err("the term goes back");
                }
                if state.current_term == known.current_term
                    && known.voted_for.is_some()
                    && state.voted_for != known.voted_for
                {
                    return Err("the vote of a term changes");
                }
                self.summary.hard_state = state;
            }
            Record::Reset(to) => {
                self.restart_after(to);
                self.summary.compaction.snapshot = to;
                self.summary.compaction.drop_upto = to;
            }
            Record::Truncate(from) => self.truncate(from)?,
            Record::Entry(entry) => {
                if entry.id.index != self.summary.last_index.next() {
                    return Err("an entry does not follow the one before it");
                }
                if entry.id.term > self.summary.hard_state.current_term {
                    return Err("an entry is of a term that the node has not reached");
                }
                self.summary.last_index = entry.id.index;
                self.entries.push_back(entry);
            }
            Record::Compaction(compaction) => {
                if compaction.drop_upto.index > self.summary.last_index {
                    return Err("a compaction reaches beyond the last entry");
                }
                self.summary.compaction = compaction;
                self.drop_upto(compaction.drop_upto);
            }
            Record::Synced => {}
        }
        Ok(())
    }

    fn restart_after(&mut self, id: LogId) {
        self.entries.clear();
        self.prev_index = id.index;
        self.prev_term = Some(id.term);
        self.summary.last_index = id.index;
    }

    fn truncate(&mut self, from: LogIndex) -> Result<(), &'static str> {
        if from <= self.summary.compaction.drop_upto.index {
            return Err("a truncation reaches into what a snapshot covers");
        }
        if from > self.summary.last_index {
            return Ok(());
        }
        self.summary.last_index = from.prev();
        if from <= self.prev_index {
            self.entries.clear();
            self.begin_after(from.prev());
        } else {
            let kept = from.get() - self.prev_index.get() - 1;
            self.entries
                .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    fn drop_upto(&mut self, id: LogId) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.id.index <= id.index)
        {
            self.entries.pop_front();
        }
        if id.index >= self.prev_index {
            self.prev_index = id.index;
            self.prev_term = Some(id.term);
        }
    }

    /// Joins the log to the newest intact snapshot. `None`: the log begins only after it.
    ///
    /// The log that a snapshot replaces is dropped whole when it has another entry, or none, where
    /// the snapshot ends (Fig. 13, rule 7): a crash came between storing a leader's snapshot and
    /// recording that it replaces the log. Otherwise all of it stays (rule 6).
    pub(in crate::storage) fn join(mut self, snapshot: LogId) -> Option<Joined> {
        if self.prev_index > snapshot.index {
            return None;
        }
        let at_snapshot = match snapshot.index.get() - self.prev_index.get() {
            0 => Some(self.prev_term.unwrap_or(snapshot.term)),
            places => usize::try_from(places - 1)
                .ok()
                .and_then(|at| self.entries.get(at))
                .map(|entry| entry.id.term),
        };
        let replaces_log = at_snapshot != Some(snapshot.term);
        if replaces_log {
            self.restart_after(snapshot);
        }
        if self.prev_term.is_none() {
            self.drop_upto(snapshot);
        }
        let mut hard_state = self.summary.hard_state;
        if hard_state.current_term < snapshot.term {
            // The snapshot of a newer term was durable before that term was. The node cannot have
            // voted in it: its vote would have been recorded with the term.
            hard_state.current_term = snapshot.term;
            hard_state.voted_for = None;
        }
        let prev_term = self
            .prev_term
            .expect("drop_upto() and restart_after() set it");
        let changes = WriteBatch {
            hard_state: (hard_state != self.summary.hard_state).then_some(hard_state),
            reset_to: replaces_log.then_some(snapshot),
            ..WriteBatch::default()
        };
        let prev = LogId::new(prev_term, self.prev_index);
        let restored = Restored {
            hard_state,
            snapshot,
            membership: None,
            prev,
            entries: self.entries.into(),
        };
        Some(Joined { restored, changes })
    }

    /// The last entry that the log no longer has.
    pub(in crate::storage) fn begins_after(&self) -> LogIndex {
        self.prev_index
    }

    /// The snapshot that the log relies on.
    pub(in crate::storage) fn snapshot(&self) -> LogId {
        self.summary.compaction.snapshot
    }
}
