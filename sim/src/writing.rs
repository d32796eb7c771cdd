//! A running node's log writer: batches go to the disk at once, and are durable when it says so.

use raft::core::{NodeId, WriteBatch, WriteId};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::network::place;
use crate::world::{Event, World};

/// Writes that the log writer may have in hand.
const MAX_WRITES_IN_FLIGHT: usize = 4;
/// A disk without room is tried again so often.
const FULL_DISK_RETRY_US: Micros = 500_000;

impl World {
    /// Takes what the core has gathered, and writes it. False: the node is down.
    pub(crate) fn hand_to_writer(&mut self, id: NodeId) -> bool {
        loop {
            let process = self.process(id);
            if process.in_flight.len() + process.unwritten.len() >= MAX_WRITES_IN_FLIGHT {
                return true;
            }
            let Some(batch) = process.raft.take_write() else {
                return true;
            };
            self.observe_write(id, &batch);
            let waits = !self.process(id).unwritten.is_empty();
            self.process(id).unwritten.push_back(batch);
            // Behind one for which there is no room, it waits for its turn.
            if !waits && !self.write_waiting(id) {
                return false;
            }
        }
    }

    /// Writes what waits, as much of it as there is room for. False: the node is down.
    pub(crate) fn write_waiting(&mut self, id: NodeId) -> bool {
        let now = self.now;
        let node = &mut self.nodes[place(id)];
        let local = node.clock.read(now);
        let process = node.process.as_mut().expect("it runs");
        process.writing_since.get_or_insert(local);
        while let Some(batch) = self.process(id).unwritten.pop_front() {
            match self.process(id).persister.write(&batch) {
                Ok(()) => {}
                Err(error) if error.is_no_space() => {
                    self.note(|| format!("{id}: {error}"));
                    self.coverage.met(Situation::DiskFull);
                    self.process(id).unwritten.push_front(batch);
                    let life = self.nodes[place(id)].life;
                    self.after(FULL_DISK_RETRY_US, Event::WriteAgain { node: id, life });
                    return true;
                }
                Err(error) => {
                    // Some of it may have arrived.
                    self.oracle.disks[place(id)].written(&batch);
                    self.note(|| format!("{id}: {error}"));
                    self.crash(id);
                    return false;
                }
            }
            self.oracle.disks[place(id)].written(&batch);
            let node = &mut self.nodes[place(id)];
            let process = node.process.as_mut().expect("it runs");
            process.in_flight.push_back(batch.id);
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
        true
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
        let is_idle = process.in_flight.is_empty() && process.unwritten.is_empty();
        process.writing_since = (!is_idle).then_some(local);
        self.oracle.disks[place(id)].synced(write);
        self.process(id).raft.persisted(write);
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
