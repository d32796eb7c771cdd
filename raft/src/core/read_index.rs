//! Reads without a log entry (thesis §6.4).
//!
//! A leader that knows its commit index may answer a read from its state machine, if it was still
//! the leader after the read arrived. It asks a majority, once for many reads: a *round*. Every
//! `AppendEntries` carries the number of the latest round, every reply returns it.
//!
//! ```text
//!   read a ──┐                       read b, c ──┐
//!            v                                   v waits: round 7 began before it
//!   flush: round 7 starts ──> majority answers 7 ──> a ready; flush: round 8 starts ──> ...
//! ```
//!
//! A new leader does not know what its predecessors committed until an entry of its own term is
//! committed; reads wait for that (§6.4, step 1).

use super::effect::{Effect, ProposeError, Role};
use super::quorum::reached_by_majority;
use super::raft::Raft;
use super::types::{LogIndex, NodeId, ReadId};

/// Reads that wait at most; more are refused as [`ProposeError::Overloaded`]. A round takes one
/// round trip, so this is far more than any client keeps waiting.
pub(super) const MAX_READS: usize = 65_536;

/// The reads that wait for a round, and those that wait for its answers.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The latest round that was started. Never falls, also across terms, so that an answer from
    /// long ago confirms nothing new.
    round: u64,
    /// The reads of that round, until it is answered.
    running: Vec<Read>,
    /// They came after it began.
    waiting: Vec<Read>,
}

/// A read, and what must be applied before it is answered.
#[derive(Clone, Copy, Debug)]
struct Read {
    id: ReadId,
    index: LogIndex,
}

impl Reads {
    /// The latest round.
    pub(super) fn round(&self) -> u64 {
        self.round
    }
}

impl Raft {
    /// As leader: asks for the index that a linearizable read must wait for. The answer is
    /// [`Effect::ReadReady`] or [`Effect::ReadRefused`].
    ///
    /// # Errors
    /// Not the leader, or too many reads wait already.
    pub fn read(&mut self, read: ReadId) -> Result<(), ProposeError> {
        if self.role != Role::Leader || self.is_halted() {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        }
        if self.reads.running.len() + self.reads.waiting.len() >= MAX_READS {
            return Err(ProposeError::Overloaded);
        }
        // Whatever our predecessors committed comes before our term's first entry.
        let index = self.commit_index.max(self.term_start);
        self.reads.waiting.push(Read { id: read, index });
        Ok(())
    }

    /// As leader: starts a round for the reads that wait, unless one is under way.
    pub(super) fn start_round(&mut self) {
        if self.reads.waiting.is_empty() || !self.reads.running.is_empty() || !self.is_serving() {
            return;
        }
        self.reads.round += 1;
        std::mem::swap(&mut self.reads.running, &mut self.reads.waiting);
        // Who was silent lately hears of the round by the next heartbeat.
        let silent_ms = self.config.election_timeout_ms.0;
        for to in self.peers.clone() {
            if !self.heartbeat_due && self.now.since(self.progress_of(to).last_heard) < silent_ms {
                self.send_heartbeat(to);
            }
        }
        self.finish_round();
    }

    /// As leader: `from` took us for the leader after `round` began.
    pub(super) fn count_round(&mut self, from: NodeId, round: u64) {
        if round > self.reads.round {
            tracing::error!(node = %self.config.id, %from, round, "ignores the answer to a round that never was");
            return;
        }
        let progress = self.progress_of(from);
        progress.acked_round = progress.acked_round.max(round);
        self.finish_round();
    }

    /// Refuses all reads: we lead no longer.
    pub(super) fn refuse_reads(&mut self) {
        let Reads {
            running, waiting, ..
        } = &mut self.reads;
        for read in running.drain(..).chain(waiting.drain(..)) {
            self.effects.push(Effect::ReadRefused { read: read.id });
        }
    }

    /// Answers the reads of the running round, once a majority has confirmed it.
    fn finish_round(&mut self) {
        if self.reads.running.is_empty() {
            return;
        }
        let mut acked: Vec<u64> = self
            .progress
            .values()
            .map(|progress| progress.acked_round)
            .collect();
        acked.push(self.reads.round);
        if reached_by_majority(&mut acked) == self.reads.round {
            for Read { id, index } in self.reads.running.drain(..) {
                self.effects.push(Effect::ReadReady { read: id, index });
            }
        }
    }
}
