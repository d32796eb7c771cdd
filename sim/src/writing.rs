//! A running node's log writer: batches go to the disk at once, and are durable when it says so.

use raft::core::{NodeId, WriteBatch, WriteId};

use crate::coverage::Situation;
use crate::network::place;
use crate::world::{Event, World};

/// Writes that the log writer may have in hand.
const MAX_WRITES_IN_FLIGHT: usize = 4;

impl World {
    pub(crate) fn hand_to_writer(&mut self, id: NodeId) -> bool {
        loop {
            let now = self.now;
            let process = self.process(id);
            if process.in_flight.len() >= MAX_WRITES_IN_FLIGHT {
                return true;
            }
            let Some(batch) = process.raft.take_write() else {
                return true;
            };
            self.observe_write(id, &batch);
            let process = self.process(id);
            if let Err(error) = process.persister.write(&batch) {
                self.note(|| format!("{id}: {error}"));
                self.crash(id);
                return false;
            }
            process.in_flight.push_back(batch.id);
            let node = &mut self.nodes[place(id)];
            let local = node.clock.read(now);
            let process = node.process.as_mut().expect("it runs");
            process.writing_since.get_or_insert(local);
            let (least, most) = node.sync_us;
            let takes = self.rng.u64(least..=most);
            let done = node.disk_free_at.max(now).max(node.hangs_until) + takes;
            node.disk_free_at = done;
            let (life, write) = (node.life, batch.id);
            self.at(
                done,
                Event::DiskDone {
                    node: id,
                    life,
                    write,
                },
            );
        }
    }

    pub(crate) fn observe_write(&mut self, id: NodeId, batch: &WriteBatch) {
        if batch.truncate_from.is_some() && !batch.entries.is_empty() {
            self.coverage.met(Situation::ConflictOverwritten);
        }
        if batch.reset_to.is_some() {
            self.coverage.met(Situation::LogReset);
        }
        let process = self.nodes[place(id)].process.as_ref().expect("it runs");
        for entry in &batch.entries {
            let before = process.raft.term_at(entry.id.index.prev());
            self.oracle.on_write(id, entry, before);
        }
    }

    /// The disk has finished a write, and with it all that was written before.
    pub(crate) fn disk_done(&mut self, id: NodeId, write: WriteId) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        if let Err(error) = process.persister.sync() {
            self.note(|| format!("{id}: {error}"));
            self.coverage.met(Situation::SyncFailed);
            self.crash(id);
            return;
        }
        process.in_flight.retain(|other| *other > write);
        process.writing_since = (!process.in_flight.is_empty()).then_some(local);
        process.raft.persisted(write);
        self.turn(id);
    }

    pub(crate) fn resign_if_disk_hangs(&mut self, id: NodeId) {
        const LIMIT_MS: u64 = 1_500;
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        let hangs = process
            .writing_since
            .is_some_and(|since| local.since(since) > LIMIT_MS);
        if hangs && process.raft.resign() {
            self.coverage.met(Situation::DiskHung);
        }
    }
}
