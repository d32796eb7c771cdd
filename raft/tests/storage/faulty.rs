//! A disk one of whose operations fails, with an error of the test's choice.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft::storage::sim_disk::SimDisk;
use raft::storage::{Disk, DiskFile, LockError, LockGuard};

/// A [`SimDisk`] with a fault. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    disk: SimDisk,
    fault: Arc<Mutex<Fault>>,
}

/// Which operation fails, and what it was. Only those that change the disk count.
#[derive(Debug)]
struct Fault {
    operations: u64,
    fails_at: u64,
    kind: ErrorKind,
    hit: Option<(&'static str, PathBuf)>,
}

impl FaultyDisk {
    /// The operation numbered `fails_at`, from 0, fails without having done anything.
    pub(crate) fn new(disk: &SimDisk, fails_at: u64, kind: ErrorKind) -> Self {
        let fault = Fault {
            operations: 0,
            fails_at,
            kind,
            hit: None,
        };
        Self {
            disk: disk.clone(),
            fault: Arc::new(Mutex::new(fault)),
        }
    }

    /// The operation that failed and its file, once it has.
    pub(crate) fn hit(&self) -> Option<(&'static str, PathBuf)> {
        self.fault.lock().unwrap().hit.clone()
    }

    fn count(&self, name: &'static str, path: &Path) -> io::Result<()> {
        let mut fault = self.fault.lock().unwrap();
        fault.operations += 1;
        if fault.operations != fault.fails_at + 1 {
            return Ok(());
        }
        fault.hit = Some((name, path.to_owned()));
        Err(fault.kind.into())
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        })
    }
}

impl Disk for FaultyDisk {
    fn locate(&self, path: &Path) -> PathBuf {
        self.disk.locate(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.count("create_dir", dir)?;
        self.disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.count("create", path)?;
        Ok(self.file(path, self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count("rename", to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.count("remove", path)?;
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.count("sync_dir", dir)?;
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>, LockError> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Half of it arrives before it fails.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.disk.count("write", &self.path) {
            self.file.write_all_at(&data[..data.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_all_at(data, offset)
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.disk.count("preallocate", &self.path)?;
        self.file.preallocate(size)
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.disk.count("set_len", &self.path)?;
        self.file.set_len(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.count("sync", &self.path)?;
        self.file.sync_data()
    }
}
