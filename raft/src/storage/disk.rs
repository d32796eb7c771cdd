//! What storage asks of a disk, and no more: the seam at which tests put a disk that fails.
//!
//! Two implementations: [`RealDisk`](super::RealDisk), and [`SimDisk`](super::sim_disk::SimDisk)
//! in memory. The rules that callers live by are those of POSIX: written data survives a loss of
//! power once [`DiskFile::sync_data`] returned, a name once [`Disk::sync_dir`] did, and after a
//! failed sync nothing is known, whatever a second one answers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A directory of a file system, as far as storage needs one. All paths are relative to it.
pub trait Disk: fmt::Debug + Send + Sync {
    /// The path by which an operator knows a file.
    fn locate(&self, path: &Path) -> PathBuf;

    /// Creates a directory and its missing parents; their names are durable on return.
    ///
    /// # Errors
    /// Whatever the file system answers. An existing directory is no error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates an empty file, in place of one that may be there.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file to read and write; changes nothing in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or whatever the file system answers.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same directory, in place of a file that may bear it.
    /// Durable after [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Durable after [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes durable the names created, changed and removed in a directory.
    ///
    /// # Errors
    /// Whatever the file system answers; nothing is known of those names then.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock that a file stands for, creating it where needed, and writes into
    /// it who holds it. Does not wait. The lock ends with the guard, or with the process.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process, or another guard, has it.
    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>, LockError>;

    /// A file's whole content.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or whatever the file system answers.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut content = vec![0; size];
        file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }
}

/// An open file. Reads and writes name their offset, so a file may be shared.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends earlier.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`. Durable after [`sync_data`](Self::sync_data).
    ///
    /// # Errors
    /// Any part of `data` may have been written then.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Reserves space up to `size`, which then reads as zeros; never shrinks the file.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn preallocate(&self, size: u64) -> io::Result<()>;

    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn set_len(&self, size: u64) -> io::Result<()>;

    /// Makes durable what was written to the file, and its length.
    ///
    /// # Errors
    /// Whatever was written since the last success may be lost then, and a later success does not
    /// bring it back: Linux drops the pages that it could not write.
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds a [`Disk::lock`] while it lives.
pub trait LockGuard: fmt::Debug + Send + Sync {}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("held by {holder}")]
    Held {
        /// What the holder wrote into the file, as text for an operator.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("the lock file cannot be used")]
    Io(#[source] io::Error),
}

/// Whether an error says that the disk, a quota or a limit on the file's size is exhausted: the
/// kind of failure that an operator ends without restarting anything.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
