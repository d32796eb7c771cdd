//! The operating system's files, to be looked at: whatever would change them is refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile, LockError, LockGuard};

/// A directory that nothing here can change, whoever runs the program.
#[derive(Clone, Debug)]
pub(super) struct ReadOnlyDisk {
    root: PathBuf,
}

impl ReadOnlyDisk {
    /// The directory need not exist; its files are then not found.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    fn locate(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.root.join(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::open(self.root.join(path))?;
        Ok(Box::new(ReadOnlyFile { file }))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    /// Shared, so that two may look at once, but no node starts meanwhile. Does not create the file
    /// ([`io::ErrorKind::NotFound`]), nor write into it.
    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>, LockError> {
        let file = File::open(self.root.join(path)).map_err(LockError::Io)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(LockError::Held {
                holder: super::real_disk::holder(&file),
            }),
            Err(std::fs::TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }
}

#[derive(Debug)]
struct ReadOnlyFile {
    file: File,
}

impl DiskFile for ReadOnlyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(&self.file, buffer, offset)
    }

    fn write_all_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        refused()
    }

    fn preallocate(&self, _size: u64) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _size: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }
}
