//! The snapshots of one node: a directory of files that are whole, and never half there.
//!
//! A snapshot grows under a temporary name, is made durable, gets its name by a rename, and only
//! then counts; so whatever a crash interrupts, the one before it is there. Temporary files are
//! removed at start, but for the one that a leader was sending: the transfer goes on where that
//! file ends. A crash may have left anything in it, which the check of the whole file will find.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::StorageError;
use super::disk::{Disk, DiskFile, LockGuard, is_full};
use super::snapshot_file::{self, DIR, SnapshotReader};
use super::snapshot_writer::SnapshotWriter;
use crate::core::{LogId, LogIndex, Membership};

/// Snapshots kept: the newest, and one to fall back on should it be found damaged. The log must reach
/// back to that one, which it does only while little is written between two snapshots; otherwise a
/// damaged newest one is named, and the node comes back as a new member.
const KEPT: usize = 2;

/// A snapshot under way is synced each time this much was written, so that the last sync is short:
/// while it runs, the log's syncs wait.
pub(super) const SNAPSHOT_SYNC_BYTES: u64 = 8 << 20;

/// The snapshots of one node. Clones share it; threads may use it at once.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    cluster: u64,
    max_bytes: u64,
    /// Finished snapshots by ascending index, damaged ones left out.
    finished: Mutex<Vec<LogId>>,
    /// The one that a leader is sending.
    receiving: Mutex<Option<Receiving>>,
    /// The sync after which the disk is not to be trusted: of what, and how it failed.
    failed_sync: Mutex<Option<(PathBuf, String)>>,
    /// The directory is ours as long as anybody can write into it.
    _lock: Arc<dyn LockGuard>,
}

/// A snapshot that is arriving in chunks.
#[derive(Debug)]
struct Receiving {
    id: LogId,
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    next_offset: u64,
    /// Bytes made durable so far.
    synced: u64,
    /// Its name is durable as well, so that a crash of the machine leaves something to go on from.
    is_named: bool,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveOutcome {
    /// Where the next chunk must begin. If that is not where this chunk ends, it was not taken.
    pub next_offset: u64,
    /// The snapshot is there: whole, verified, durable.
    pub complete: bool,
}

/// What [`SnapshotStore::open_dir`] found.
pub(super) struct Found {
    pub(super) store: SnapshotStore,
    /// Newer than the newest intact one, and not to be used. Newest first.
    pub(super) damaged: Vec<StorageError>,
}

impl SnapshotStore {
    /// Opens the directory: finds the newest intact snapshot, and a transfer to go on with; removes
    /// what is unfinished otherwise.
    pub(super) fn open_dir(
        disk: &Arc<dyn Disk>,
        cluster: u64,
        max_bytes: u64,
        lock: Arc<dyn LockGuard>,
    ) -> Result<Found, StorageError> {
        let dir = Path::new(DIR);
        let fail = |action, error| StorageError::io(action, disk.locate(dir), error);
        disk.create_dir(dir)
            .map_err(|error| fail("create directory", error))?;
        let names = disk.list(dir).map_err(|error| fail("list", error))?;
        let mut finished: Vec<LogId> = names
            .iter()
            .filter_map(|name| snapshot_file::id(name))
            .collect();
        finished.sort_unstable_by_key(|id| (id.index, id.term));
        let newest = finished.last().map_or(LogIndex::ZERO, |id| id.index);
        let resumable = names
            .iter()
            .filter_map(|name| snapshot_file::part_id(name))
            .filter(|id| id.index > newest)
            .max_by_key(|id| (id.index, id.term));
        let kept = resumable.map(snapshot_file::part_path);
        for path in names.iter().filter(|name| is_temporary(name)) {
            let path = dir.join(path);
            if kept.as_ref() != Some(&path) {
                disk.remove(&path).map_err(|error| fail("clean", error))?;
            }
        }
        // A process that was killed may have renamed a file and not come to this.
        disk.sync_dir(dir).map_err(|error| fail("sync", error))?;

        let mut damaged = Vec::new();
        while let Some(&id) = finished.last() {
            match SnapshotReader::open(disk.as_ref(), &snapshot_file::path(id), cluster, id) {
                Ok(_) => break,
                Err(error @ StorageError::Corrupt { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
            finished.pop();
        }
        let receiving = resumable
            .map(|id| Receiving::resume(disk.as_ref(), id).map_err(|error| fail("open", error)))
            .transpose()?;
        let shared = Shared {
            disk: Arc::clone(disk),
            cluster,
            max_bytes,
            finished: Mutex::new(finished),
            receiving: Mutex::new(receiving),
            failed_sync: Mutex::new(None),
            _lock: lock,
        };
        Ok(Found {
            store: Self {
                shared: Arc::new(shared),
            },
            damaged,
        })
    }

    /// The newest snapshot's last included entry.
    #[must_use]
    pub fn latest(&self) -> Option<LogId> {
        self.shared.finished.lock().last().copied()
    }

    /// Whether no sync here has failed. One that did ends the node, as one of the log does: nothing
    /// more is stored, neither here nor in the log.
    ///
    /// # Errors
    /// [`StorageError::SyncFailed`].
    pub fn check(&self) -> Result<(), StorageError> {
        match &*self.shared.failed_sync.lock() {
            None => Ok(()),
            Some((file, failure)) => Err(StorageError::SyncFailed {
                file: file.clone(),
                failure: failure.clone(),
            }),
        }
    }

    /// Begins this node's own snapshot. `membership` is the one as of `last_included`.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    pub fn create(
        &self,
        last_included: LogId,
        membership: &Membership,
    ) -> Result<SnapshotWriter, StorageError> {
        self.check()?;
        SnapshotWriter::create(self, last_included, membership)
    }

    /// The membership that a snapshot includes; `None` if its file has none. Reads all of it.
    ///
    /// # Errors
    /// As [`SnapshotStore::open`].
    pub fn membership_of(
        &self,
        last_included: LogId,
    ) -> Result<Option<Arc<Membership>>, StorageError> {
        Ok(self.open(last_included)?.membership().cloned())
    }

    /// Opens a snapshot, reading all of it once to verify it.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is damaged, [`StorageError::Io`] if it is not there.
    pub fn open(&self, last_included: LogId) -> Result<SnapshotReader, StorageError> {
        let path = snapshot_file::path(last_included);
        SnapshotReader::open(self.disk(), &path, self.shared.cluster, last_included)
    }

    /// Stores a chunk of the file that a leader is sending (Fig. 13, *Receiver implementation*).
    ///
    /// Only the chunk that begins where the one before it ended is taken; for any other the answer
    /// says where to go on, also after a restart of this node. The first chunk of another snapshot
    /// takes the place of the one under way; an empty one is a way to ask. With `done` the file is verified and made durable; should it turn out damaged, the
    /// answer asks for it from the beginning.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] and [`StorageError::Io`]: what was there of it is removed (the log
    /// may need the space), it is to be sent anew; [`StorageError::SnapshotTooLarge`].
    pub fn receive(
        &self,
        last_included: LogId,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<ReceiveOutcome, StorageError> {
        if self.shared.finished.lock().contains(&last_included) {
            // The leader missed our answer to its last chunk.
            return Ok(ReceiveOutcome {
                next_offset: offset + data.len() as u64,
                complete: true,
            });
        }
        self.check()?;
        let mut slot = self.shared.receiving.lock();
        let mut receiving = match slot.take() {
            Some(receiving) if receiving.id == last_included => receiving,
            other if offset != 0 => {
                *slot = other;
                return Ok(ReceiveOutcome {
                    next_offset: 0,
                    complete: false,
                });
            }
            other => {
                if let Some(other) = other {
                    self.discard(&other.temporary);
                }
                self.begin_receiving(last_included)?
            }
        };
        if offset != receiving.next_offset {
            let mut next_offset = receiving.next_offset;
            if done && offset.saturating_add(data.len() as u64) < next_offset {
                // What we went on with is longer than the whole snapshot.
                self.discard(&receiving.temporary);
                next_offset = 0;
            } else {
                *slot = Some(receiving);
            }
            return Ok(ReceiveOutcome {
                next_offset,
                complete: false,
            });
        }
        // From here on an error ends it: the slot stays empty.
        let stored = self.append(&mut receiving, data, done);
        let outcome = match stored {
            Ok(()) if !done => {
                let next_offset = receiving.next_offset;
                *slot = Some(receiving);
                return Ok(ReceiveOutcome {
                    next_offset,
                    complete: false,
                });
            }
            Ok(()) => self.complete(&receiving),
            Err(error) => Err(error),
        };
        if !outcome.as_ref().is_ok_and(|outcome| outcome.complete) {
            self.discard(&receiving.temporary);
        }
        outcome
    }

    /// Removes the snapshots before this one, except the newest of them, which remains to fall
    /// back on; never the newest of all. Also what has arrived of one that is no newer.
    ///
    /// # Errors
    /// [`StorageError::Io`]: some may still be there.
    pub fn remove_older_than(&self, last_included: LogId) -> Result<(), StorageError> {
        let mut slot = self.shared.receiving.lock();
        if let Some(receiving) = slot.take_if(|it| it.id.index <= last_included.index) {
            self.discard(&receiving.temporary);
        }
        drop(slot);
        let mut finished = self.shared.finished.lock();
        let older = finished
            .iter()
            .filter(|id| id.index < last_included.index)
            .count();
        let removable = older.min(finished.len().saturating_sub(KEPT));
        for id in finished.drain(..removable) {
            self.remove(&snapshot_file::path(id))?;
        }
        let Some(&oldest) = finished.first() else {
            return Ok(());
        };
        // Those found damaged at start are not in the list.
        for name in self.list()? {
            if let Some(id) = snapshot_file::id(&name)
                && id.index < oldest.index
            {
                self.remove(&snapshot_file::path(id))?;
            }
        }
        Ok(())
    }

    fn begin_receiving(&self, id: LogId) -> Result<Receiving, StorageError> {
        let temporary = snapshot_file::part_path(id);
        let file = self
            .disk()
            .create(&temporary)
            .map_err(|error| StorageError::io("create", self.disk().locate(&temporary), error))?;
        Ok(Receiving {
            id,
            temporary,
            file,
            next_offset: 0,
            synced: 0,
            is_named: false,
        })
    }

    fn append(
        &self,
        receiving: &mut Receiving,
        data: &[u8],
        done: bool,
    ) -> Result<(), StorageError> {
        let limit_bytes = self.shared.max_bytes;
        if receiving.next_offset.saturating_add(data.len() as u64) > limit_bytes {
            return Err(StorageError::SnapshotTooLarge {
                id: receiving.id,
                limit_bytes,
            });
        }
        receiving.append(self, data, done).map_err(|error| {
            StorageError::io("write", self.disk().locate(&receiving.temporary), error)
        })
    }

    fn complete(&self, receiving: &Receiving) -> Result<ReceiveOutcome, StorageError> {
        let Receiving {
            id,
            temporary,
            next_offset: end,
            ..
        } = receiving;
        match SnapshotReader::open(self.disk(), temporary, self.shared.cluster, *id) {
            Ok(_) => {
                self.publish(temporary, *id)?;
                Ok(ReceiveOutcome {
                    next_offset: *end,
                    complete: true,
                })
            }
            Err(error @ (StorageError::Corrupt { .. } | StorageError::OtherVersion { .. })) => {
                tracing::warn!(snapshot = %id, %error, "received snapshot is damaged");
                Ok(ReceiveOutcome {
                    next_offset: 0,
                    complete: false,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a durable file its name, durably.
    pub(super) fn publish(&self, temporary: &Path, id: LogId) -> Result<(), StorageError> {
        let path = snapshot_file::path(id);
        let named = self
            .disk()
            .rename(temporary, &path)
            .and_then(|()| self.sync_names());
        named.map_err(|error| StorageError::io("name", self.disk().locate(&path), error))?;
        let mut finished = self.shared.finished.lock();
        if !finished.contains(&id) {
            finished.push(id);
            finished.sort_unstable_by_key(|id| (id.index, id.term));
        }
        Ok(())
    }

    /// Makes what was written of a temporary file durable.
    ///
    /// Without space for it, the file is thrown away and another one written, with a sync of its own;
    /// after any other error the disk is not to be trusted.
    pub(super) fn sync(&self, file: &dyn DiskFile, temporary: &Path) -> io::Result<()> {
        file.sync_data().inspect_err(|error| {
            if !is_full(error) {
                self.note_failed_sync(temporary, error);
            }
        })
    }

    /// Makes the directory's names durable.
    fn sync_names(&self) -> io::Result<()> {
        let dir = Path::new(DIR);
        let outcome = self.disk().sync_dir(dir);
        outcome.inspect_err(|error| self.note_failed_sync(dir, error))
    }

    fn note_failed_sync(&self, path: &Path, error: &io::Error) {
        let file = self.disk().locate(path);
        *self.shared.failed_sync.lock() = Some((file, error.to_string()));
    }

    /// Removes an unfinished file. Should that fail, the next start does it.
    pub(super) fn discard(&self, temporary: &Path) {
        if let Err(error) = self.disk().remove(temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %temporary.display(), %error, "unfinished snapshot not removed");
        }
    }

    /// Not synced: a file that comes back after a crash is removed another time.
    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.disk()
            .remove(path)
            .map_err(|error| StorageError::io("remove", self.disk().locate(path), error))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let dir = Path::new(DIR);
        self.disk()
            .list(dir)
            .map_err(|error| StorageError::io("list", self.disk().locate(dir), error))
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        self.shared.disk.as_ref()
    }

    pub(super) fn cluster(&self) -> u64 {
        self.shared.cluster
    }
}

impl Receiving {
    /// Goes on with what an earlier process has stored. Not known to be durable, nor to be right.
    fn resume(disk: &dyn Disk, id: LogId) -> io::Result<Self> {
        let temporary = snapshot_file::part_path(id);
        let file = disk.open(&temporary)?;
        let next_offset = file.size()?;
        tracing::info!(snapshot = %id, next_offset, "goes on with a snapshot that was arriving");
        Ok(Self {
            id,
            temporary,
            file,
            next_offset,
            synced: 0,
            is_named: true, // open_dir() has synced the directory
        })
    }

    fn append(&mut self, store: &SnapshotStore, data: &[u8], done: bool) -> io::Result<()> {
        self.file.write_all_at(data, self.next_offset)?;
        self.next_offset += data.len() as u64;
        if done || self.next_offset - self.synced >= SNAPSHOT_SYNC_BYTES {
            store.sync(self.file.as_ref(), &self.temporary)?;
            self.synced = self.next_offset;
            if !done && !self.is_named {
                store.sync_names()?;
                self.is_named = true;
            }
        }
        Ok(())
    }
}

fn is_temporary(name: &str) -> bool {
    name.ends_with(".snap.new") || name.ends_with(snapshot_file::PART_SUFFIX)
}
