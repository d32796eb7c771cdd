//! One node's directory, opened: lock, identity, snapshots and log, joined into what the core
//! starts from.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, LockError, LockGuard};
use super::snapshot_file;
use super::snapshot_store::{Found, SnapshotStore};
use super::wal::{Opened, TornTail, Wal};
use super::{Identity, StorageError};
use crate::core::{LogId, Restored, WriteBatch};

pub(super) const LOCK_FILE: &str = "LOCK";

/// Sizes of a [`Persister`].
#[derive(Clone, Copy, Debug)]
pub struct PersisterOptions {
    /// Bytes of a log segment; one batch larger than that gets a larger segment. The log's
    /// directory holds at most what is retained of the log and two segments.
    pub segment_bytes: usize,
    /// Largest snapshot accepted from a leader, in bytes.
    pub max_snapshot_bytes: u64,
}

impl Default for PersisterOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 8 << 20,
            max_snapshot_bytes: 64 << 30,
        }
    }
}

/// Makes a node's term, vote and log durable (Fig. 2, *persistent state on all servers*).
///
/// After an error that is not [`StorageError::NoSpace`] it is poisoned: every further call fails,
/// and the process must end, for what a disk holds after a failed sync is known only once it is
/// read anew. So it is after a failed sync of a snapshot.
///
/// ```
/// use raft::core::{HardState, NodeId, Term, WriteBatch};
/// use raft::storage::{Identity, Persister, PersisterOptions, sim_disk::SimDisk};
///
/// # fn main() -> Result<(), raft::storage::StorageError> {
/// let disk = SimDisk::new(); // or RealDisk::open("data/node1")?
/// let identity = Identity { node: NodeId::new(1), cluster: 7 };
/// let (mut persister, recovered) =
///     Persister::open(disk.clone(), identity, PersisterOptions::default())?;
/// assert_eq!(recovered.restored.hard_state, HardState::default());
///
/// let vote = HardState { current_term: Term::new(1), voted_for: Some(NodeId::new(2)) };
/// persister.write(&WriteBatch { hard_state: Some(vote), ..WriteBatch::default() })?;
/// persister.sync()?; // from here on, the vote may be sent
/// drop(persister);
///
/// let (_, recovered) = Persister::open(disk, identity, PersisterOptions::default())?;
/// assert_eq!(recovered.restored.hard_state, vote);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Persister {
    wal: Wal,
    snapshots: SnapshotStore,
    /// The directory is ours as long as anybody can write into it.
    _lock: Arc<dyn LockGuard>,
}

/// What a directory held.
#[derive(Debug)]
pub struct Recovered {
    /// What the core starts from. All of it is durable.
    pub restored: Restored,
    /// What a crash cut off from the log.
    pub torn_tail: Option<TornTail>,
    /// Snapshots that are damaged and were passed over for an older one. Newest first.
    pub damaged_snapshots: Vec<StorageError>,
}

impl Persister {
    /// Opens a node's directory, or sets up an empty one.
    ///
    /// # Errors
    /// [`StorageError`]; nothing in it is changed then, but for what a crash left unfinished.
    pub fn open(
        disk: impl Disk + 'static,
        identity: Identity,
        options: PersisterOptions,
    ) -> Result<(Self, Recovered), StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let lock = lock(disk.as_ref())?;
        let is_set_up = identity.is_recorded(disk.as_ref())?;
        let Found {
            store: snapshots,
            damaged,
        } = SnapshotStore::open_dir(
            &disk,
            identity.cluster,
            options.max_snapshot_bytes,
            Arc::clone(&lock),
        )?;
        let opened = match Wal::open(&disk, identity, options.segment_bytes)? {
            Some(opened) => opened,
            None if is_set_up => return Err(missing(disk.as_ref(), "wal", "IDENTITY is there")),
            None => Wal::create(&disk, identity, options.segment_bytes)?,
        };
        if !is_set_up {
            // It is written once the rest is there.
            if opened.is_used || snapshots.latest().is_some() || !damaged.is_empty() {
                return Err(missing(
                    disk.as_ref(),
                    "IDENTITY",
                    "the directory has been in use",
                ));
            }
            identity.record(disk.as_ref())?;
        }
        // A process that was killed may have written it and not come to this.
        disk.sync_dir(Path::new(""))
            .map_err(|error| StorageError::io("sync", disk.locate(Path::new("")), error))?;

        let Opened {
            mut wal,
            log,
            torn_tail,
            ..
        } = opened;
        let snapshot = snapshots.latest().unwrap_or_default();
        let gap = StorageError::Gap {
            file: disk.locate(&snapshot_file::path(log.snapshot())),
            snapshot,
            log_begins_after: log.begins_after(),
        };
        let Some(joined) = log.join(snapshot) else {
            return Err(worst_of(damaged, gap));
        };
        wal.write(&joined.changes)?;
        wal.sync()?;
        let persister = Self {
            wal,
            snapshots,
            _lock: lock,
        };
        let membership = match snapshot {
            LogId::ZERO => None,
            snapshot => persister.snapshots.membership_of(snapshot)?,
        };
        let restored = Restored {
            membership,
            ..joined.restored
        };
        Ok((
            persister,
            Recovered {
                restored,
                torn_tail,
                damaged_snapshots: damaged,
            },
        ))
    }

    /// Writes a batch after those before it. It is durable once [`sync`](Self::sync) returns;
    /// several may be written before.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`]: nothing of the batch was written, and it may be written again
    /// once there is space. Any other error poisons the persister.
    ///
    /// # Panics
    /// If the batch does not follow what was written before: that is the caller's bug, and written
    /// it would make the log unreadable.
    pub fn write(&mut self, batch: &WriteBatch) -> Result<(), StorageError> {
        self.snapshots.check()?;
        self.wal.write(batch)
    }

    /// Makes everything written durable, with one `fdatasync`; with none if nothing was written.
    ///
    /// Then removes the segments that a compaction made superfluous.
    ///
    /// # Errors
    /// Any error poisons the persister: the process must end without telling anybody of what was
    /// written since the last success.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.snapshots.check()?;
        self.wal.sync()
    }

    /// The snapshots of this directory.
    #[must_use]
    pub fn snapshots(&self) -> SnapshotStore {
        self.snapshots.clone()
    }

    /// Bytes of the log's files.
    #[must_use]
    pub fn log_disk_bytes(&self) -> u64 {
        self.wal.disk_bytes()
    }
}

fn lock(disk: &dyn Disk) -> Result<Arc<dyn LockGuard>, StorageError> {
    let path = Path::new(LOCK_FILE);
    match disk.lock(path) {
        Ok(guard) => Ok(Arc::from(guard)),
        Err(LockError::Held { holder }) => Err(StorageError::InUse {
            file: disk.locate(path),
            holder,
        }),
        Err(LockError::Io(error)) => Err(StorageError::io("lock", disk.locate(path), error)),
    }
}

fn missing(disk: &dyn Disk, what: &str, because: &str) -> StorageError {
    StorageError::Missing {
        file: disk.locate(Path::new(what)),
        what: because.to_owned(),
    }
}

/// A damaged snapshot is worth more to an operator than the gap that comes of it.
fn worst_of(damaged: Vec<StorageError>, gap: StorageError) -> StorageError {
    damaged.into_iter().next().unwrap_or(gap)
}

/// For callers that see only an I/O error, as those of [`io::Write`] do.
impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        io::Error::other(error)
    }
}
