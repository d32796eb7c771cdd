//! What of our state is on disk, and which write will bring the rest.
//!
//! ```text
//!   log   1 2 3 4 5 | 6 7 8 | 9 10 | 11 12
//!           durable | write | write| gathered: goes with the next write
//!                   |  #4   |  #5  |
//! ```
//!
//! The disk is pulled: whenever it has room it takes one [`WriteBatch`] of everything gathered since
//! the last one. It reports a batch once that and every earlier one are durable.
//!
//! An overwritten entry must never count as durable on account of a write that carried its
//! predecessor at the same index (the "ABA" of failure 38). So each write under way remembers up
//! to which entry it will make *today's* log durable, and a truncation lowers that mark.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::log::Log;
use super::types::{Compaction, HardState, LogId, LogIndex, Term, WriteBatch, WriteId};

/// Tracks writes from being gathered to being durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The batch being gathered. Greater than every id in `under_way`.
    next_id: WriteId,
    /// The latest batch that is durable. Every one before it is, too.
    durable_id: WriteId,
    hard_state: Option<HardState>,
    reset_to: Option<LogId>,
    truncate_from: Option<LogIndex>,
    compaction: Option<Compaction>,
    /// The first entry that no batch has taken. At most one behind the log's last.
    unwritten_from: LogIndex,
    under_way: VecDeque<UnderWay>,
    /// The log equals what the disk has, durably, up to here.
    durable_index: LogIndex,
    /// The batch that carries, or carried, the latest term and vote.
    hard_state_id: WriteId,
    /// The latest term that is durable.
    durable_term: Term,
}

/// A batch that the disk took and has not reported yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UnderWay {
    id: WriteId,
    /// Once durable, so is the log up to here. Lowered by truncations.
    upto: LogIndex,
    term: Option<Term>,
}

impl Journal {
    /// Everything restored is durable.
    pub(super) fn new(log: &Log, hard_state: HardState) -> Self {
        Self {
            next_id: WriteId::ZERO.next(),
            durable_id: WriteId::ZERO,
            hard_state: None,
            reset_to: None,
            truncate_from: None,
            compaction: None,
            unwritten_from: log.last().index.next(),
            under_way: VecDeque::new(),
            durable_index: log.last().index,
            hard_state_id: WriteId::ZERO,
            durable_term: hard_state.current_term,
        }
    }

    /// Up to where the log is durable.
    pub(super) fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    /// The latest batch that is durable.
    pub(super) fn durable_id(&self) -> WriteId {
        self.durable_id
    }

    /// The latest term that is durable.
    pub(super) fn durable_term(&self) -> Term {
        self.durable_term
    }

    /// The batch that will contain what gathers now.
    pub(super) fn gathering(&self) -> WriteId {
        self.next_id
    }

    /// The first entry that no batch has taken yet.
    pub(super) fn unwritten_from(&self) -> LogIndex {
        self.unwritten_from
    }

    /// The write that a message must wait for when it speaks for our term and vote.
    pub(super) fn covers_hard_state(&self) -> WriteId {
        self.hard_state_id
    }

    /// The write that a message must wait for when it speaks for the log up to `index`.
    pub(super) fn covers_log(&self, index: LogIndex) -> WriteId {
        if index <= self.durable_index {
            return self.durable_id;
        }
        let write = self.under_way.iter().find(|write| write.upto >= index);
        write.map_or(self.next_id, |write| write.id)
    }

    /// Gathers a new term or vote.
    pub(super) fn save_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = Some(hard_state);
        self.hard_state_id = self.next_id;
    }

    /// Gathers a truncation, after the log lost its entries from `from` on (§5.3).
    pub(super) fn truncate(&mut self, from: LogIndex) {
        if from < self.unwritten_from {
            let earlier = self.truncate_from.unwrap_or(from);
            self.truncate_from = Some(earlier.min(from));
            self.unwritten_from = from;
        }
        self.disown(from.prev());
    }

    /// Gathers a reset, when a snapshot replaced the log (Fig. 13, rule 7). `agreed` is the last
    /// entry that the old log is known to share with the snapshot.
    pub(super) fn reset(&mut self, snapshot: LogId, agreed: LogIndex) {
        self.reset_to = Some(snapshot);
        self.truncate_from = None;
        self.compaction = None;
        self.unwritten_from = snapshot.index.next();
        self.disown(agreed);
    }

    /// Gathers a compaction. A later one contains the earlier.
    pub(super) fn compact(&mut self, compaction: Compaction) {
        self.compaction = Some(compaction);
    }

    /// Hands out everything gathered, or nothing.
    pub(super) fn take(&mut self, log: &Log) -> Option<WriteBatch> {
        let last = log.last().index;
        let entries = log.slice(self.unwritten_from, last, usize::MAX);
        let batch = WriteBatch {
            id: self.next_id,
            hard_state: self.hard_state.take(),
            reset_to: self.reset_to.take(),
            truncate_from: self.truncate_from.take(),
            entries,
            compaction: self.compaction.take(),
        };
        if batch
            == (WriteBatch {
                id: batch.id,
                ..WriteBatch::default()
            })
        {
            return None;
        }
        let term = batch.hard_state.map(|hard_state| hard_state.current_term);
        self.under_way.push_back(UnderWay {
            id: batch.id,
            upto: last,
            term,
        });
        self.unwritten_from = last.next();
        self.next_id = self.next_id.next();
        Some(batch)
    }

    /// The disk reports `id` and all before it. False if that is no news.
    pub(super) fn persisted(&mut self, id: WriteId) -> bool {
        assert!(id < self.next_id, "the disk reports only what it took");
        if id <= self.durable_id {
            return false;
        }
        self.durable_id = id;
        while let Some(write) = self.under_way.pop_front_if(|write| write.id <= id) {
            // The disk writes in order, so a later batch covers no less, unless a truncation came
            // between them: then `upto` of the earlier one was lowered as well.
            self.durable_index = self.durable_index.max(write.upto);
            self.durable_term = write.term.unwrap_or(self.durable_term);
        }
        true
    }

    /// What holds between any two inputs.
    pub(super) fn assert_invariants(&self, log: &Log) {
        let last = log.last().index;
        assert!(
            self.durable_index <= last,
            "nothing is durable that the log has not"
        );
        assert!(
            self.durable_index < self.unwritten_from,
            "what no batch took is not durable"
        );
        assert!(self.unwritten_from <= last.next());
        assert!(
            self.under_way
                .iter()
                .all(|write| write.upto < self.unwritten_from)
        );
        assert!(self.under_way.iter().all(|write| write.id < self.next_id));
        assert!(self.hard_state.is_none() || self.hard_state_id == self.next_id);
    }

    /// The log changed after `upto`: no write that carried what was there counts for more.
    fn disown(&mut self, upto: LogIndex) {
        self.durable_index = self.durable_index.min(upto);
        for write in &mut self.under_way {
            write.upto = write.upto.min(upto);
        }
    }
}
