//! The same on the operating system's files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::core::{Compaction, WriteBatch};
use raft::storage::{
    Disk, DiskFile, LockError, LockGuard, Persister, PersisterOptions, RealDisk, Recovered,
    StorageError,
};

use crate::script::{IDENTITY, SEGMENT_BYTES, entry, id, save_snapshot, term};

/// A real disk that counts what reaches it.
#[derive(Clone, Debug)]
struct Counting {
    disk: RealDisk,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicUsize,
    syncs: AtomicUsize,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl Counting {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(CountingFile {
            file,
            counts: Arc::clone(&self.counts),
        })
    }

    fn take(&self) -> (usize, usize) {
        let Counts { writes, syncs } = self.counts.as_ref();
        (
            writes.swap(0, Ordering::Relaxed),
            syncs.swap(0, Ordering::Relaxed),
        )
    }
}

impl Disk for Counting {
    fn locate(&self, path: &Path) -> PathBuf {
        self.disk.locate(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>, LockError> {
        self.disk.lock(path)
    }
}

impl DiskFile for CountingFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        self.file.write_all_at(data, offset)
    }
    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.file.preallocate(size)
    }
    fn set_len(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
}

fn open(
    disk: impl Disk + 'static,
    segment_bytes: usize,
) -> Result<(Persister, Recovered), StorageError> {
    let options = PersisterOptions {
        segment_bytes,
        ..PersisterOptions::default()
    };
    Persister::open(disk, IDENTITY, options)
}

/// A batch is one write; a sync is one `fdatasync`, and one write of twenty bytes after it.
#[test]
fn a_batch_is_one_write_and_a_sync_one_fdatasync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Counting {
        disk: RealDisk::open(dir.path()).unwrap(),
        counts: Arc::default(),
    };
    let (mut persister, _) = open(disk.clone(), 8 << 20).unwrap();
    persister
        .write(&WriteBatch {
            hard_state: Some(term(1, None)),
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    disk.take();
    for round in 0..10u64 {
        for batch in 0..3 {
            let first = (round * 3 + batch) * 2 + 1;
            let entries = vec![entry(first, 1, &[0; 200]), entry(first + 1, 1, &[0; 200])];
            persister
                .write(&WriteBatch {
                    entries,
                    ..WriteBatch::default()
                })
                .unwrap();
        }
        assert_eq!(disk.take(), (3, 0));
        persister.sync().unwrap();
        assert_eq!(disk.take(), (1, 1));
        persister.sync().unwrap();
        assert_eq!(disk.take(), (0, 0));
    }
}

/// The original's defects 1, 2 and 4; failure 76: everything of many segments is there
/// after a restart, and a restart with nothing to do loses nothing.
#[test]
fn real_files_come_back_restart_after_restart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("some").join("node3");
    let disk = || RealDisk::open(&root).unwrap();
    let (mut persister, recovered) = open(disk(), SEGMENT_BYTES).unwrap();
    assert_eq!(recovered.restored, raft::core::Restored::default());
    let hard_state = Some(term(4, Some(0)));
    persister
        .write(&WriteBatch {
            hard_state,
            ..WriteBatch::default()
        })
        .unwrap();
    for index in 1..=100 {
        let entries = vec![entry(
            index,
            4,
            format!("{index} \0 with blanks").as_bytes(),
        )];
        persister
            .write(&WriteBatch {
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
    }
    save_snapshot(&persister, id(60, 4)).unwrap();
    let compaction = Some(Compaction {
        snapshot: id(60, 4),
        drop_upto: id(50, 4),
    });
    let truncate_from = Some(id(99, 4).index);
    persister
        .write(&WriteBatch {
            compaction,
            truncate_from,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    drop(persister);

    for _ in 0..3 {
        let (_, recovered) = open(disk(), SEGMENT_BYTES).unwrap();
        assert_eq!(recovered.torn_tail, None);
        let restored = recovered.restored;
        assert_eq!(restored.hard_state, term(4, Some(0)));
        assert_eq!((restored.prev, restored.snapshot), (id(50, 4), id(60, 4)));
        let expected: Vec<_> = (51..=98)
            .map(|index| entry(index, 4, format!("{index} \0 with blanks").as_bytes()))
            .collect();
        assert_eq!(restored.entries, expected);
    }
    // What covered segments held is gone from the disk.
    assert!(!root.join("wal/0000000000000001.wal").exists());
}

/// What must be shown: the last record cut by hand, and a byte flipped in the middle.
#[test]
fn real_files_cut_and_flipped_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || RealDisk::open(dir.path()).unwrap();
    let (mut persister, _) = open(disk(), 8 << 20).unwrap();
    let hard_state = Some(term(1, None));
    let entries = (1..=50).map(|index| entry(index, 1, &[3; 100])).collect();
    persister
        .write(&WriteBatch {
            hard_state,
            entries,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    drop(persister);
    let file = dir.path().join("wal/0000000000000001.wal");
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len(), 8 << 20, "space is reserved");
    let written = whole.iter().rposition(|&byte| byte != 0).unwrap();

    std::fs::write(&file, &whole[..written - 60]).unwrap();
    let (_, recovered) = open(disk(), 8 << 20).unwrap();
    assert_eq!(recovered.restored.entries.len(), 49);
    let tail = recovered.torn_tail.unwrap();
    assert_eq!(tail.file, file);
    assert!(tail.offset < (written - 60) as u64 && tail.bytes_dropped > 0);

    let mut flipped = whole;
    flipped[written / 2] ^= 0x10;
    std::fs::write(&file, &flipped).unwrap();
    let text = open(disk(), 8 << 20).unwrap_err().to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    assert!(text.contains("is damaged at byte "), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), flipped, "evidence stays");
}
