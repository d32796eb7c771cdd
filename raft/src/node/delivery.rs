//! From the core to applyChan: committed entries with those who wait for them, and reads behind the
//! last entry that they must see.

use std::collections::{BTreeMap, VecDeque};

use crossbeam_channel::{Sender, TrySendError};

use super::apply::{ApplyMsg, CommittedEntry, InstalledSnapshot, Refusal, Waiter};
use super::recorder::Recorded;
use crate::core::{Committed, Entry, LogId, LogIndex, NodeId, ReadId};
use crate::storage::SnapshotStore;

/// Keeps every waiter until its entry is delivered, its read is safe, or it is refused.
pub(super) struct Delivery<W: Waiter> {
    apply_chan: Sender<ApplyMsg<W>>,
    /// What did not fit into the channel. Goes first.
    stalled: Option<ApplyMsg<W>>,
    /// Everything up to here is in the channel, or was.
    delivered: LogIndex,
    max_bytes: usize,

    /// Proposals of this leadership that are not delivered yet, by ascending index. Bounded by the
    /// core's limit on uncommitted bytes.
    proposals: VecDeque<(LogId, W)>,
    next_read: ReadId,
    /// Reads that wait for the core. Bounded there.
    reads: BTreeMap<ReadId, W>,
    /// Reads that wait until everything up to their index is delivered, by ascending index.
    safe_reads: VecDeque<(LogIndex, W)>,
}

impl<W: Waiter> Delivery<W> {
    /// `max_bytes`: entries in one message of applyChan.
    pub(super) fn new(apply_chan: Sender<ApplyMsg<W>>, max_bytes: usize) -> Self {
        Self {
            apply_chan,
            stalled: None,
            delivered: LogIndex::ZERO,
            max_bytes,
            proposals: VecDeque::new(),
            next_read: ReadId::ZERO.next(),
            reads: BTreeMap::new(),
            safe_reads: VecDeque::new(),
        }
    }

    /// Everything up to here is in applyChan, or was.
    pub(super) fn delivered(&self) -> LogIndex {
        self.delivered
    }

    /// Registers who waits for a proposal, before the proposal can commit.
    pub(super) fn await_entry(&mut self, id: LogId, waiter: W) {
        self.proposals.push_back((id, waiter));
    }

    /// Reads that are safe once more is delivered.
    pub(super) fn reads_behind(&self) -> usize {
        self.safe_reads.len()
    }

    pub(super) fn next_read(&mut self) -> ReadId {
        let read = self.next_read;
        self.next_read = read.next();
        read
    }

    pub(super) fn await_read(&mut self, read: ReadId, waiter: W) {
        self.reads.insert(read, waiter);
    }

    pub(super) fn read_ready(&mut self, read: ReadId, index: LogIndex) {
        if let Some(waiter) = self.reads.remove(&read) {
            self.safe_reads.push_back((index, waiter));
        }
    }

    pub(super) fn read_refused(&mut self, read: ReadId, leader: Option<NodeId>) {
        if let Some(waiter) = self.reads.remove(&read) {
            waiter.refuse(Refusal::LeadershipLost { leader });
        }
    }

    /// Answers every proposal of a leadership that is over. Their entries may be overwritten now, or
    /// committed by somebody else: nobody here can tell.
    pub(super) fn leadership_lost(&mut self, leader: Option<NodeId>) {
        for (_, waiter) in self.proposals.drain(..) {
            waiter.refuse(Refusal::LeadershipLost { leader });
        }
    }

    /// Moves to applyChan what it has room for. Never blocks: what does not fit stays in the core.
    pub(super) fn deliver(&mut self, raft: &mut Recorded, snapshots: &SnapshotStore) {
        while self.has_room() {
            if let Some(reads) = self.take_safe_reads() {
                self.send(ApplyMsg::Reads(reads));
                continue;
            }
            match raft.take_committed(self.max_bytes) {
                Some(Committed::Entries(entries)) => {
                    let entries = entries
                        .into_iter()
                        .map(|entry| self.with_waiter(entry, raft.leader()))
                        .collect();
                    self.send(ApplyMsg::Entries(entries));
                }
                Some(Committed::Snapshot(last_included)) => {
                    self.delivered = last_included.index;
                    self.refuse_overtaken(raft.leader());
                    self.send(ApplyMsg::Install(InstalledSnapshot {
                        last_included,
                        store: snapshots.clone(),
                    }));
                }
                None => break,
            }
        }
    }

    /// Whether a message can be sent now.
    pub(super) fn has_room(&mut self) -> bool {
        if let Some(message) = self.stalled.take() {
            self.send(message);
        }
        self.stalled.is_none()
    }

    /// Only after `has_room()`.
    pub(super) fn send(&mut self, message: ApplyMsg<W>) {
        debug_assert!(self.stalled.is_none(), "has_room() came first");
        match self.apply_chan.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => self.stalled = Some(message),
            // The state machine has stopped, and its owner will stop the node as well.
            Err(TrySendError::Disconnected(message)) => message.turn_away(),
        }
    }

    pub(super) fn refuse_everybody(&mut self) {
        if let Some(message) = self.stalled.take() {
            message.turn_away();
        }
        let proposals = self.proposals.drain(..).map(|(_, waiter)| waiter);
        let safe_reads = self.safe_reads.drain(..).map(|(_, waiter)| waiter);
        let reads = std::mem::take(&mut self.reads).into_values();
        for waiter in proposals.chain(safe_reads).chain(reads) {
            waiter.refuse(Refusal::ShuttingDown);
        }
    }

    fn take_safe_reads(&mut self) -> Option<Vec<W>> {
        let is_safe = |(index, _): &(LogIndex, W)| *index <= self.delivered;
        let count = self
            .safe_reads
            .iter()
            .take_while(|read| is_safe(read))
            .count();
        let reads: Vec<W> = self
            .safe_reads
            .drain(..count)
            .map(|(_, waiter)| waiter)
            .collect();
        (!reads.is_empty()).then_some(reads)
    }

    /// Pairs a committed entry with who proposed it, if that was here and in this term.
    fn with_waiter(&mut self, entry: Entry, leader: Option<NodeId>) -> CommittedEntry<W> {
        self.delivered = entry.id.index;
        let waiter = match self.proposals.front() {
            Some((id, _)) if *id == entry.id => {
                self.proposals.pop_front().map(|(_, waiter)| waiter)
            }
            _ => {
                self.refuse_overtaken(leader);
                None
            }
        };
        CommittedEntry { entry, waiter }
    }

    /// Refuses whoever waits for an index that somebody else's entry took.
    fn refuse_overtaken(&mut self, leader: Option<NodeId>) {
        while let Some((_, waiter)) = self
            .proposals
            .pop_front_if(|(id, _)| id.index <= self.delivered)
        {
            waiter.refuse(Refusal::LeadershipLost { leader });
        }
    }
}

#[cfg(test)]
#[path = "delivery_test.rs"]
mod tests;
