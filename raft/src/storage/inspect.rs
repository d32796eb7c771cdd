//! Looking into a node's files, for tools. Nothing here changes anything, and nothing here trusts
//! anything: a damaged file is what such tools are for.
//!
//! ```no_run
//! use raft::storage::inspect::{Directory, LogItem};
//!
//! let directory = Directory::open("data/node0")?; // refused while a node serves it
//! directory.dump_log(|item| {
//!     if let LogItem::Record(found) = item {
//!         println!("{} {:?}", found.offset, found.record);
//!     }
//!     Ok::<(), raft::StorageError>(())
//! })?;
//! let report = directory.verify_log()?;
//! println!("term {}", report.state.hard_state.current_term);
//! # Ok::<(), raft::StorageError>(())
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, LockError, LockGuard};
use super::first_members::first_voters;
use super::persister::LOCK_FILE;
use super::read_only_disk::ReadOnlyDisk;
pub use super::record::Record;
use super::record::{log_id_at, u32_at, u64_at};
use super::snapshot_file::{self, FOOTER_BYTES, HEADER_BYTES, SnapshotReader};
use super::wal::{self, dump};
pub use super::wal::{
    BadBytes, LogItem, LogReport, LogState, RECORD_OVERHEAD_BYTES, RecordInfo, SegmentFacts,
    SegmentInfo,
};
use super::{FORMAT_VERSION, Identity, StorageError, identity};
use crate::core::{LogId, NodeId};

/// A node's directory, open for reading only.
#[derive(Debug)]
pub struct Directory {
    disk: ReadOnlyDisk,
    identity: Identity,
    identity_problem: Option<StorageError>,
    /// Keeps a node from starting meanwhile.
    _lock: Option<Box<dyn LockGuard>>,
}

impl Directory {
    /// Opens the directory of a node that does not run. Until this is dropped, none can start in it.
    ///
    /// # Errors
    /// [`StorageError::InUse`] while a node serves it; [`StorageError`] if there is no log in it, or
    /// nothing says whose it is.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let disk = ReadOnlyDisk::new(root);
        let path = Path::new(LOCK_FILE);
        let lock = match disk.lock(path) {
            Ok(lock) => Some(lock),
            // A copy of a directory may lack it.
            Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(LockError::Io(error)) => {
                return Err(StorageError::io("lock", disk.locate(path), error));
            }
            Err(LockError::Held { holder }) => {
                let file = disk.locate(path);
                return Err(StorageError::InUse { file, holder });
            }
        };
        Self::with_lock(disk, lock)
    }

    /// As [`open`](Self::open), whether a node serves the directory or not. If one does, the end of
    /// the log is what it has half written.
    ///
    /// # Errors
    /// As [`open`](Self::open), except for the lock.
    pub fn open_live(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        Self::with_lock(ReadOnlyDisk::new(root), None)
    }

    fn with_lock(
        disk: ReadOnlyDisk,
        lock: Option<Box<dyn LockGuard>>,
    ) -> Result<Self, StorageError> {
        let missing = || StorageError::Missing {
            file: disk.locate(Path::new(identity::FILE)),
            what: "a log that is in use has one beside it".to_owned(),
        };
        let recorded = Identity::recorded(&disk).and_then(|found| found.ok_or_else(missing));
        let (identity, problem) = match recorded {
            Ok(identity) => (identity, None),
            // The log knows it as well.
            Err(error) => match wal::identity_in_log(&disk)? {
                Some(identity) => (identity, Some(error)),
                None => return Err(error),
            },
        };
        Ok(Self {
            disk,
            identity,
            identity_problem: problem,
            _lock: lock,
        })
    }

    /// Whose directory it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What is wrong with the file that says so, in which case the log was asked.
    #[must_use]
    pub fn identity_problem(&self) -> Option<&StorageError> {
        self.identity_problem.as_ref()
    }

    /// Who voted when the directory was set up; none in one of a node that joined. `None` where it
    /// does not say.
    ///
    /// # Errors
    /// [`StorageError`]: the file is damaged, or cannot be read.
    pub fn first_voters(&self) -> Result<Option<Vec<NodeId>>, StorageError> {
        first_voters(&self.disk)
    }

    /// Reads the log as a start does.
    ///
    /// # Errors
    /// [`StorageError`]: why a start would refuse it, with file and offset.
    pub fn verify_log(&self) -> Result<LogReport, StorageError> {
        wal::verify(&self.disk, self.identity)
    }

    /// Lists the log, also what is damaged of it.
    ///
    /// # Errors
    /// [`StorageError`] if a file cannot be read or is missing; what `each` answers, which ends it.
    pub fn dump_log<E: From<StorageError>>(
        &self,
        each: impl FnMut(LogItem) -> Result<(), E>,
    ) -> Result<(), E> {
        dump(&self.disk, self.identity, each)
    }
}

/// A snapshot's file and what its header says, which is not verified.
#[derive(Debug)]
pub struct SnapshotFile {
    disk: ReadOnlyDisk,
    name: PathBuf,
    /// The last entry that it includes.
    pub id: LogId,
    /// The cluster that it is of.
    pub cluster: u64,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The checksum that the file ends with: of all before it.
    pub checksum: u32,
    /// The entry that the file's name stands for, where it is the name of a finished snapshot, or of
    /// one that was arriving.
    pub named: Option<LogId>,
}

impl SnapshotFile {
    /// Reads the header of the file at `path`, under whatever name.
    ///
    /// # Errors
    /// [`StorageError`] if it is no snapshot of this format, or cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let corrupt = |what: &str| StorageError::Corrupt {
            file: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
        };
        let name = path.file_name().ok_or_else(|| corrupt("it is no file"))?;
        let disk = ReadOnlyDisk::new(path.parent().unwrap_or(Path::new("")));
        let read = || {
            let file = disk.open(Path::new(name))?;
            let file_bytes = file.size()?;
            let mut header = [0; HEADER_BYTES];
            let mut footer = [0; FOOTER_BYTES];
            if file_bytes >= (HEADER_BYTES + FOOTER_BYTES) as u64 {
                file.read_exact_at(&mut header, 0)?;
                file.read_exact_at(&mut footer, file_bytes - FOOTER_BYTES as u64)?;
            }
            Ok((file_bytes, header, footer))
        };
        let (file_bytes, header, footer) =
            read().map_err(|error| StorageError::io("read", path.to_owned(), error))?;
        if header[..8] != *snapshot_file::MAGIC {
            return Err(corrupt("it does not begin as a snapshot does"));
        }
        let version = u32_at(&header, 8);
        if version != FORMAT_VERSION {
            return Err(StorageError::OtherVersion {
                file: path.to_owned(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        let text = name.to_string_lossy();
        Ok(Self {
            id: log_id_at(&header, 24),
            cluster: u64_at(&header, 16),
            file_bytes,
            checksum: u32_at(&footer, 8),
            named: snapshot_file::id(&text).or_else(|| snapshot_file::part_id(&text)),
            name: name.into(),
            disk,
        })
    }

    /// Reads all of the file to verify it; then its body can be read.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it is damaged or not whole.
    pub fn verify(&self) -> Result<SnapshotReader, StorageError> {
        SnapshotReader::open(&self.disk, &self.name, self.cluster, self.id)
    }
}
