//! applyChan: what comes out of the node, in the order of the log.

use std::sync::Arc;

use crate::core::{Entry, LogId, Membership, NodeId, ProposeError};
use crate::node::inbox::Inbox;
use crate::storage::{SnapshotReader, SnapshotStore, SnapshotWriter, StorageError};

/// Why a proposal or a read ended without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// This node does not lead; nothing was done.
    NotLeader {
        /// Who does, where known.
        leader: Option<NodeId>,
    },
    /// This node led when it took the request and no longer does. A proposal may yet be committed
    /// by another leader: ask again there.
    LeadershipLost {
        /// Who leads now, where known.
        leader: Option<NodeId>,
    },
    /// This node hands leadership over; nothing was done. `to` leads in a moment.
    HandingOver {
        /// Who takes over.
        to: NodeId,
    },
    /// A bound of [`NodeOptions`](super::NodeOptions) is reached; nothing was done.
    Overloaded,
    /// This node's disk is full; nothing was done.
    DiskFull,
    /// For a while now no majority of the nodes has stored what it was sent, so one more proposal
    /// would only wait with the others; nothing was done.
    Stalled,
    /// The node is stopping.
    ShuttingDown,
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::HandingOver { to } => Self::HandingOver { to },
            ProposeError::Overloaded => Self::Overloaded,
        }
    }
}

/// Who waits for a proposal or a read: how the service answers its client.
pub trait Waiter: Send + 'static {
    /// Ends the wait. Called on the caller's thread or the node's; must not block.
    fn refuse(self, why: Refusal);
}

/// One message of applyChan.
pub enum ApplyMsg<W: Waiter> {
    /// The next committed entries, without a gap.
    Entries(Vec<CommittedEntry<W>>),
    /// These reads may be answered from the state as it is: all they must see came before.
    Reads(Vec<W>),
    /// The state is to be replaced by this snapshot; the entries after it follow.
    Install(InstalledSnapshot),
    /// The log has outgrown its bound: a snapshot of the state as it is, please.
    TakeSnapshot(SnapshotJob<W>),
}

impl<W: Waiter> ApplyMsg<W> {
    /// Nobody will take it any more: refuses who waits in it. Never blocks, the driver calls it.
    pub(super) fn turn_away(self) {
        match self {
            Self::Entries(entries) => {
                for waiter in entries.into_iter().filter_map(|entry| entry.waiter) {
                    waiter.refuse(Refusal::ShuttingDown);
                }
            }
            Self::Reads(reads) => {
                for waiter in reads {
                    waiter.refuse(Refusal::ShuttingDown);
                }
            }
            Self::Install(_) => {}
            // Its report would wait for room in the inbox, which the driver alone makes.
            Self::TakeSnapshot(mut job) => job.inbox = None,
        }
    }
}

/// A committed entry and, where it was proposed here, who waits for it.
pub struct CommittedEntry<W> {
    /// The entry.
    pub entry: Entry,
    /// Present if this node proposed this very entry (index *and* term) and still led when it was
    /// committed.
    pub waiter: Option<W>,
}

/// A durable snapshot that is ahead of the state machine.
pub struct InstalledSnapshot {
    pub(super) last_included: LogId,
    pub(super) store: SnapshotStore,
}

impl InstalledSnapshot {
    /// The last entry it includes.
    #[must_use]
    pub fn last_included(&self) -> LogId {
        self.last_included
    }

    /// Opens it, verifying its checksum: reads the whole file.
    ///
    /// # Errors
    /// [`StorageError`] if it is gone or damaged.
    pub fn open(&self) -> Result<SnapshotReader, StorageError> {
        self.store.open(self.last_included)
    }

    /// Removes the files of snapshots before it, but for one to fall back on. For the state machine
    /// to call once it holds this one's state: until then it may be on its way to an older one's.
    ///
    /// # Errors
    /// [`StorageError`]: some may still be there. The next snapshot removes them.
    pub fn remove_older(&self) -> Result<(), StorageError> {
        self.store.remove_older_than(self.last_included)
    }
}

/// The wish for a snapshot. May be moved to another thread; dropping it says that it failed.
pub struct SnapshotJob<W: Waiter> {
    store: SnapshotStore,
    /// As of the last entry that comes before this in applyChan.
    membership: Arc<Membership>,
    /// `None` once reported.
    inbox: Option<Inbox<W>>,
}

impl<W: Waiter> SnapshotJob<W> {
    pub(super) fn new(store: SnapshotStore, membership: Arc<Membership>, inbox: Inbox<W>) -> Self {
        Self {
            store,
            membership,
            inbox: Some(inbox),
        }
    }

    /// Starts the file of a snapshot whose last included entry is `last_included`: the last one
    /// that came before this wish.
    ///
    /// # Errors
    /// [`StorageError`], e.g. when the disk is full. The node will ask again.
    pub fn create(&self, last_included: LogId) -> Result<SnapshotWriter, StorageError> {
        self.store.create(last_included, &self.membership)
    }

    /// Makes the file durable, drops older ones, and lets the node compact its log.
    ///
    /// # Errors
    /// As [`SnapshotJob::create`].
    pub fn finish(
        mut self,
        writer: SnapshotWriter,
        last_included: LogId,
    ) -> Result<(), StorageError> {
        writer.finish()?;
        self.store.remove_older_than(last_included)?;
        if let Some(inbox) = self.inbox.take() {
            inbox.snapshot_taken(Some(last_included));
        }
        Ok(())
    }
}

impl<W: Waiter> Drop for SnapshotJob<W> {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            inbox.snapshot_taken(None);
        }
    }
}
