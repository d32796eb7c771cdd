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
//! committed; reads wait for that (§6.4, step 1). With a [`Lease`](super::Lease), a round that was
//! confirmed lately answers reads at once; each heartbeat is a round then.

use serde::{Deserialize, Serialize};

use super::effect::{ProposeError, Role};
use super::lease::LeaseClock;
use super::raft::Raft;
use super::types::{CallId, LogIndex, NodeId, ReadId};

/// Reads that wait at most; more are refused as [`ProposeError::Overloaded`]. A round takes one
/// round trip, so this is far more than any client keeps waiting.
pub(super) const MAX_READS: usize = 65_536;

/// The reads that wait for a round, and those that wait for its answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reads {
    /// The latest round that was started. Never falls, also across terms, so that an answer from
    /// long ago confirms nothing new.
    round: u64,
    /// The round that `running` waits for. At most `round`.
    running_round: u64,
    /// The reads of that round, until it is answered.
    running: Vec<Read>,
    /// They came after it began.
    waiting: Vec<Read>,
    pub(super) lease: LeaseClock,
}

/// A read, and what must be applied before it is answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Read {
    origin: Origin,
    index: LogIndex,
}

/// Who reads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Origin {
    /// This node, for its client.
    Own(ReadId),
    /// A follower, by this call and its own number.
    Follower { call: CallId, number: u64 },
}

impl Reads {
    /// The latest round.
    pub(super) fn round(&self) -> u64 {
        self.round
    }
}

impl Raft {
    /// As leader: asks for the index that a linearizable read must wait for. The answer is
    /// [`ReadReady`](super::Effect::ReadReady) or [`ReadRefused`](super::Effect::ReadRefused).
    ///
    /// # Errors
    /// Not the leader, or too many reads wait already.
    pub fn read(&mut self, read: ReadId) -> Result<(), ProposeError> {
        if self.role != Role::Leader || self.is_halted() {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        }
        self.take_read(Origin::Own(read))
    }

    /// As leader: as [`read`](Self::read), for us or a follower.
    pub(super) fn take_read(&mut self, origin: Origin) -> Result<(), ProposeError> {
        if self.reads.running.len() + self.reads.waiting.len() >= MAX_READS {
            return Err(ProposeError::Overloaded);
        }
        // Whatever our predecessors committed comes before our term's first entry.
        let index = self.commit_index.max(self.term_start);
        if self.is_serving() && self.has_lease() {
            self.answer_read(origin, Some(index));
        } else {
            self.reads.waiting.push(Read { origin, index });
        }
        Ok(())
    }

    /// As leader: a round for the reads that wait, unless one is under way; with leases, also for
    /// a heartbeat that is due.
    pub(super) fn start_round(&mut self) {
        let reads_wait =
            !self.reads.waiting.is_empty() && self.reads.running.is_empty() && self.is_serving();
        let renews_lease = self.config.lease.is_some() && self.heartbeat_due;
        if !reads_wait && !renews_lease {
            return;
        }
        self.reads.round += 1;
        let round = self.reads.round;
        if self.config.lease.is_some() {
            self.reads.lease.round_begins(round, self.now);
        }
        if reads_wait {
            self.reads.running_round = round;
            std::mem::swap(&mut self.reads.running, &mut self.reads.waiting);
            // Who was silent lately hears of the round by the next heartbeat.
            let silent_ms = self.config.election_timeout_ms.0;
            for to in self.peers.clone() {
                if !self.heartbeat_due && self.progress[&to].is_heard(self.now, silent_ms) {
                    self.send_heartbeat(to);
                }
            }
        }
        self.finish_round();
    }

    /// As leader: `from` took us for the leader after `round` began.
    pub(super) fn count_round(&mut self, from: NodeId, round: u64) {
        if round > self.reads.round {
            return self.complain(from, "the answer to a round that never was");
        }
        let Some(progress) = self.progress.get_mut(&from) else {
            return;
        };
        if round > progress.acked_round {
            progress.acked_round = round;
            self.finish_round();
        }
    }

    /// Refuses all reads: we lead no longer.
    pub(super) fn refuse_reads(&mut self) {
        self.reads.lease.reset();
        let running = std::mem::take(&mut self.reads.running);
        let waiting = std::mem::take(&mut self.reads.waiting);
        for read in running.into_iter().chain(waiting) {
            self.answer_read(read.origin, None);
        }
    }

    /// As leader: what a majority has confirmed renews the lease, and answers the reads that
    /// waited for it.
    pub(super) fn finish_round(&mut self) {
        if self.reads.running.is_empty() && self.config.lease.is_none() {
            return;
        }
        let confirmed = self.reached(self.reads.round, |progress| progress.acked_round, 0);
        self.reads.lease.round_confirmed(confirmed);
        if confirmed >= self.reads.running_round {
            for read in std::mem::take(&mut self.reads.running) {
                self.answer_read(read.origin, Some(read.index));
            }
        }
    }

    /// As leader: nobody else can have been elected, by the clock.
    fn has_lease(&self) -> bool {
        let (shortest_ms, _) = self.config.election_timeout_ms;
        self.config.lease.is_some_and(|lease| {
            self.reads
                .lease
                .holds(self.now, lease.length_ms(shortest_ms))
        })
    }
}
