//! A running node's log writer: batches go to the disk at once, and are durable when it says so.

use raft::core::{NodeId, Role, WriteBatch, WriteId};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::network::place;
use crate::world::{Event, World};

/// Writes that the log writer may have in hand.
const MAX_WRITES_IN_FLIGHT: u64 = 4;
/// A disk without room is tried again so often.
const FULL_DISK_RETRY_US: Micros = 500_000;

/// What the log writer tells the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    /// Every write up to this one is durable.
    Durable(WriteId),
    /// There is no space for the next one.
    Full,
}

impl World {
    /// Takes what the core has gathered, and writes it. False: the node is down.
    pub(crate) fn hand_to_writer(&mut self, id: NodeId) -> bool {
        loop {
            let now = self.local_instant(id);
            let process = self.process(id);
            if process.disk.in_flight() >= MAX_WRITES_IN_FLIGHT {
                return true;
            }
            let Some(batch) = process.raft.take_write() else {
                return true;
            };
            process.disk.handed_over(batch.id, now);
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
        let mut some = false;
        while let Some(batch) = self.process(id).unwritten.pop_front() {
            match self.process(id).persister.write(&batch) {
                Ok(()) => {}
                Err(error) if error.is_no_space() => {
                    self.note(|| format!("{id}: {error}"));
                    self.process(id).unwritten.push_front(batch);
                    self.wait_for_room(id, some);
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
            some = true;
            self.oracle.disks[place(id)].written(&batch);
            self.process(id).in_flight.push_back(batch.id);
            self.report_once_synced(id, Report::Durable(batch.id));
        }
        self.process(id).writer_is_full = false;
        true
    }

    /// Says so when that is news, and tries again later.
    fn wait_for_room(&mut self, id: NodeId, wrote_some: bool) {
        self.coverage.met(Situation::DiskFull);
        let was_full = std::mem::replace(&mut self.process(id).writer_is_full, true);
        let mut tried_at = self.now;
        // Room for a part looks like room for all until the driver hears this.
        if !was_full || wrote_some {
            tried_at = self.report_once_synced(id, Report::Full);
        }
        let life = self.nodes[place(id)].life;
        let again_at = tried_at + FULL_DISK_RETRY_US;
        self.at(again_at, Event::WriteAgain { node: id, life });
    }

    /// The disk takes its time; when it is done.
    fn report_once_synced(&mut self, id: NodeId, report: Report) -> Micros {
        let now = self.now;
        let node = &mut self.nodes[place(id)];
        let (least, most) = node.sync_us;
        let takes = self.rng.u64(least..=most);
        let done = node.disk_free_at.max(now).max(node.hangs_until) + takes;
        node.disk_free_at = done;
        let life = node.life;
        self.process(id).reports.push_back(report);
        self.at(done, Event::DiskReports { node: id, life });
        done
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

    /// The log writer reports: what was written is durable, or the disk is full.
    pub(crate) fn disk_reports(&mut self, id: NodeId) {
        let now = self.local_instant(id);
        let process = self.process(id);
        let report = process.reports.pop_front();
        match report.expect("as many as there are events to bring them") {
            Report::Full => process.disk.ran_full(),
            Report::Durable(write) => {
                if let Err(error) = process.persister.sync() {
                    self.note(|| format!("{id}: {error}"));
                    self.coverage.met(Situation::SyncFailed);
                    self.crash(id);
                    return;
                }
                process.in_flight.retain(|other| *other > write);
                process.disk.written(write, now);
                process.raft.persisted(write);
                self.oracle.disks[place(id)].synced(write);
            }
        }
        self.turn(id);
    }

    /// What the clock says of this node's disk, and of those of the others.
    pub(crate) fn watch_disks(&mut self, id: NodeId) {
        let now = self.local_instant(id);
        let process = self.process(id);
        let hangs = process.disk.hangs_for(now).is_some();
        if process.raft.role() == Role::Leader && hangs && process.raft.resign() {
            self.coverage.met(Situation::DiskHung);
        }
        let process = self.process(id);
        process.commits.watch(&process.raft, now);
    }

    pub(crate) fn resign_if_disk_is_full(&mut self, id: NodeId) {
        let process = self.process(id);
        if process.disk.others_can_lead(&process.raft) && process.raft.resign() {
            self.note(|| format!("{id} resigns, for its disk is full"));
            self.coverage.met(Situation::FullLeaderResigned);
        }
    }
}
