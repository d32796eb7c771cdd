//! One machine: its disk, its clock, and the process on it, while there is one.

use raft::core::{Membership, NodeId, Term};
use raft::storage::sim_disk::SimDisk;

use crate::clock::{Clock, Micros};
use crate::process::Process;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    pub(crate) process: Option<Process>,
    /// Counts processes: what was meant for an earlier one finds nobody.
    pub(crate) life: u64,
    /// With whom it was started; nobody, for one that joins.
    pub(crate) initial: Membership,
    /// Stopped like by SIGSTOP: the clock goes on, nothing else does.
    pub(crate) paused_until: Micros,
    /// When its earliest tick in the heap is due.
    pub(crate) tick_at: Micros,
    /// The disk is busy until then.
    pub(crate) disk_free_at: Micros,
    /// How long the disk takes for a sync.
    pub(crate) sync_us: (Micros, Micros),
    /// The disk does not answer before.
    pub(crate) hangs_until: Micros,
    /// Of its last process.
    pub(crate) term_at_crash: Term,
    /// Only its process has ended: whoever calls hears at once that nobody listens.
    pub(crate) machine_runs: bool,
    /// It is to come back by itself.
    pub(crate) restarts: bool,
}

impl Node {
    pub(crate) fn new(id: NodeId, initial: Membership, clock: Clock) -> Self {
        Self {
            id,
            disk: SimDisk::new(),
            clock,
            process: None,
            life: 0,
            initial,
            paused_until: 0,
            tick_at: Micros::MAX,
            disk_free_at: 0,
            sync_us: (300, 2_000),
            hangs_until: 0,
            term_at_crash: Term::ZERO,
            machine_runs: true,
            restarts: false,
        }
    }
}
