//! A running node's snapshots: taken, sent in chunks, received.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use raft::core::{CallId, LogId, LogIndex, Message, NodeId, Role};
use raft::driving::OwnSnapshot;

use crate::coverage::Situation;
use crate::network::{Packet, place};
use crate::process::Sender;
use crate::world::{CALL_TIMEOUT_US, Event, World};

/// Chunks that bring nothing before a transfer is given up.
const MAX_ATTEMPTS: u32 = 5;

impl World {
    pub(crate) fn snapshot_if_due(&mut self, id: NodeId) {
        let bound = self.tuning.snapshot_log_bytes;
        let now = self.local_instant(id);
        let process = self.process(id);
        let applied = process.state.last_applied().index;
        if !process.own_snapshot.may_start(now)
            || !process.raft.snapshot_is_due(bound)
            || applied <= process.raft.snapshot().index.get()
        {
            return;
        }
        process.own_snapshot = OwnSnapshot::Running;
        let life = self.nodes[place(id)].life;
        let takes = self.rng.u64(100..20_000);
        self.after(takes, Event::TakeSnapshot { node: id, life });
        self.on_snapshot_begun(id);
    }

    /// Takes a snapshot of the state as it is, and writes it.
    pub(crate) fn take_snapshot(&mut self, id: NodeId) {
        let now = self.local_instant(id);
        match self.write_snapshot(id) {
            Ok(Some(last)) => {
                let process = self.process(id);
                process.own_snapshot = OwnSnapshot::Idle;
                process.raft.snapshot_taken(last);
                if std::mem::take(&mut process.lacked_space) {
                    self.coverage.met(Situation::SnapshotRetried);
                }
            }
            Ok(None) => self.process(id).own_snapshot = OwnSnapshot::Failed(now),
            Err(error) => {
                self.note(|| format!("{id} takes no snapshot: {error}"));
                // After a sync that failed the disk is not to be trusted.
                let is_off = self.nodes[place(id)].disk.is_off();
                if is_off || self.process(id).store.check().is_err() {
                    return self.crash(id);
                }
                let process = self.process(id);
                process.own_snapshot = OwnSnapshot::Failed(now);
                process.lacked_space = true;
            }
        }
        self.turn(id);
    }

    /// `None`: there is no state of which to take one; a newer snapshot came meanwhile, say.
    fn write_snapshot(&mut self, id: NodeId) -> Result<Option<LogId>, Box<dyn Error>> {
        let process = self.process(id);
        let applied = process.state.last_applied();
        let last = LogId::new(
            raft::core::Term::new(applied.term),
            LogIndex::new(applied.index),
        );
        if last.index <= process.raft.snapshot().index {
            return Ok(None);
        }
        let Some(snapshot) = process.state.begin_snapshot() else {
            return Ok(None);
        };
        let members = Arc::clone(process.raft.membership_at(last.index));
        let store = process.store.clone();
        let mut writer = store.create(last, &members)?;
        snapshot.write_to(&mut writer)?;
        writer.finish()?;
        store.remove_older_than(last)?;
        self.coverage.met(Situation::SnapshotTaken);
        if members.is_joint() {
            self.coverage.met(Situation::SnapshotInChange);
        }
        Ok(Some(last))
    }

    pub(crate) fn send_snapshot(
        &mut self,
        id: NodeId,
        to: NodeId,
        last: LogId,
        term: raft::core::Term,
    ) {
        let process = self.process(id);
        match process.store.open(last) {
            Ok(reader) => {
                process.senders.insert(
                    to,
                    Sender {
                        reader,
                        id: last,
                        term,
                        attempts: 0,
                        furthest: None,
                    },
                );
                self.send_chunk(id, to, 0);
            }
            Err(_) => process.raft.snapshot_sent(to, last, false),
        }
    }

    pub(crate) fn send_chunk(&mut self, id: NodeId, to: NodeId, offset: u64) {
        let chunk_bytes = self.tuning.chunk_bytes;
        let life = self.nodes[place(id)].life;
        let process = self.process(id);
        let Some(sender) = process.senders.get(&to) else {
            return;
        };
        let (last_included, term) = (sender.id, sender.term);
        // It begins by asking what the follower has.
        let bytes = if sender.furthest.is_some() {
            chunk_bytes
        } else {
            0
        };
        let Ok(data) = sender.reader.read_at(offset, bytes) else {
            process.senders.remove(&to);
            return process.raft.snapshot_sent(to, last_included, false);
        };
        let done = bytes > 0 && offset + data.len() as u64 >= sender.reader.len();
        let message = Message::InstallSnapshot {
            term,
            last_included,
            offset,
            data,
            done,
        };
        let call = self.calls.open(id, life, to, Some(last_included));
        self.send(Packet::Request {
            from: id,
            to,
            call,
            message,
        });
    }

    pub(crate) fn receive_chunk(
        &mut self,
        id: NodeId,
        call: CallId,
        last_included: LogId,
        offset: u64,
        data: &Bytes,
        done: bool,
    ) {
        let initial = self.nodes[place(id)].initial.clone();
        let process = self.process(id);
        let stored = process
            .store
            .receive(last_included, offset, data, done)
            .and_then(|outcome| {
                let complete = if outcome.complete {
                    let members = process.store.membership_of(last_included)?;
                    Some(members.unwrap_or_else(|| Arc::new(initial)))
                } else {
                    None
                };
                Ok((outcome.next_offset, complete))
            });
        match stored {
            Ok((next_offset, complete)) => {
                if let Some(members) = &complete {
                    let is_new = self.process(id).raft.last_log() == LogId::ZERO;
                    self.coverage.met(Situation::SnapshotInstalled);
                    if self.links.cuts > 0 {
                        self.coverage.met(Situation::SnapshotInPartition);
                    }
                    if members.is_joint() {
                        self.coverage.met(Situation::SnapshotInChange);
                    }
                    if is_new && place(id) >= self.first_joiner {
                        self.coverage.met(Situation::NewcomerBySnapshot);
                    }
                } else if offset == 0 && next_offset > 0 && next_offset != data.len() as u64 {
                    self.coverage.met(Situation::TransferResumed);
                }
                let process = self.process(id);
                process
                    .raft
                    .chunk_stored(call, last_included, next_offset, complete);
                let mut effects = std::mem::take(&mut process.effects);
                process.raft.flush(&mut effects);
                for effect in effects.drain(..) {
                    self.carry_out(id, effect);
                    if !self.runs(id) {
                        return;
                    }
                }
            }
            // Not answered: the call times out, and its leader tries again later.
            Err(error) if error.is_no_space() => {
                self.coverage.met(Situation::DiskFull);
                self.lose_call(call, CALL_TIMEOUT_US);
            }
            Err(error) => {
                self.note(|| format!("{id} cannot store a chunk: {error}"));
                self.crash(id);
            }
        }
    }

    /// The follower answered a chunk: the next one, or the end.
    pub(crate) fn on_chunk_answered(&mut self, id: NodeId, from: NodeId, reply: &Message) {
        let Message::InstallSnapshotReply {
            term,
            last_included,
            next_offset,
            installed,
        } = *reply
        else {
            return;
        };
        let process = self.process(id);
        let leads = process.raft.role() == Role::Leader;
        let Some(sender) = process.senders.get_mut(&from) else {
            return;
        };
        if sender.id != last_included {
            return;
        }
        if sender
            .furthest
            .is_none_or(|furthest| next_offset > furthest)
        {
            sender.furthest = Some(next_offset);
            sender.attempts = 0;
        } else {
            sender.attempts += 1;
        }
        let goes_on = leads && term <= sender.term && sender.attempts < MAX_ATTEMPTS;
        let next = next_offset.min(sender.reader.len());
        if installed || !goes_on {
            process.senders.remove(&from);
            process.raft.snapshot_sent(from, last_included, installed);
        } else {
            self.send_chunk(id, from, next);
        }
    }

    /// A chunk, or the answer to it, was lost.
    pub(crate) fn on_chunk_lost(&mut self, id: NodeId, to: NodeId, last_included: LogId) {
        let process = self.process(id);
        if process
            .senders
            .get(&to)
            .is_some_and(|sender| sender.id == last_included)
        {
            process.senders.remove(&to);
            process.raft.snapshot_sent(to, last_included, false);
        }
    }
}
