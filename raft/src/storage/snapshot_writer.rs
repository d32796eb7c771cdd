//! Writing this node's own snapshot.

use std::io::{self, Write};
use std::path::PathBuf;

use super::StorageError;
use super::disk::DiskFile;
use super::snapshot_file;
use super::snapshot_store::{SNAPSHOT_SYNC_BYTES, SnapshotStore};
use crate::core::{LogId, Membership};

/// What is written at once.
const WRITE_BYTES: usize = 256 << 10;

/// Writes a snapshot's body; [`finish`](Self::finish) makes it one. Dropped before, it leaves
/// nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    store: SnapshotStore,
    id: LogId,
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    /// What is not written yet. At most `WRITE_BYTES`, plus what one call of `write` brings.
    buffer: Vec<u8>,
    /// Bytes of the file written so far.
    written: u64,
    /// Bytes of the file made durable so far.
    synced: u64,
    /// Of everything before `buffer`.
    checksum: u32,
    body_bytes: u64,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn create(
        store: &SnapshotStore,
        id: LogId,
        membership: &Membership,
    ) -> Result<Self, StorageError> {
        let temporary = snapshot_file::path(id).with_extension("snap.new");
        let disk = store.disk();
        let file = disk
            .create(&temporary)
            .map_err(|error| StorageError::io("create", disk.locate(&temporary), error))?;
        Ok(Self {
            buffer: snapshot_file::header(store.cluster(), id, membership),
            store: store.clone(),
            id,
            temporary,
            file,
            written: 0,
            synced: 0,
            checksum: 0,
            body_bytes: 0,
            finished: false,
        })
    }

    /// Completes the file; it is durable, and the store's, on return.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`]: there is no such snapshot then.
    pub fn finish(mut self) -> Result<(), StorageError> {
        self.write_footer().map_err(|error| {
            StorageError::io("write", self.store.disk().locate(&self.temporary), error)
        })?;
        self.store.publish(&self.temporary, self.id)?;
        self.finished = true;
        Ok(())
    }

    fn write_footer(&mut self) -> io::Result<()> {
        self.buffer
            .extend_from_slice(&self.body_bytes.to_le_bytes());
        self.write_buffer()?;
        self.buffer.extend_from_slice(&self.checksum.to_le_bytes());
        self.write_buffer()?;
        self.store.sync(self.file.as_ref(), &self.temporary)
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SNAPSHOT_SYNC_BYTES {
            self.store.sync(self.file.as_ref(), &self.temporary)?;
            self.synced = self.written;
        }
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = &data[..data.len().min(WRITE_BYTES)];
        self.buffer.extend_from_slice(taken);
        self.body_bytes += taken.len() as u64;
        if self.buffer.len() >= WRITE_BYTES {
            self.write_buffer()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.store.discard(&self.temporary);
        }
    }
}
