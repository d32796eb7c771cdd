//! The disk alone: one writer, one record, one `fdatasync`, again and again.
//!
//! It is the physical limit of a store that syncs each write by itself. How far the store gets
//! above it is what group commit is worth.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// A file's size, and where writing starts over: about what a segment of the store's log has.
const FILE_BYTES: u64 = 8 << 20;

/// Whether the file's blocks are there before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// The file grows with each record: each sync also writes the file's new size.
    Appended,
    /// The file was written full before: a sync writes data alone, as a preallocated log does.
    Preallocated,
}

/// How many records of `record_bytes` one thread appends and syncs in a second, in a file in `dir`
/// that is removed at the end.
///
/// # Errors
/// The system's.
pub fn syncs_per_second(
    dir: &Path,
    record_bytes: usize,
    blocks: Blocks,
    span: Duration,
) -> io::Result<f64> {
    let path = dir.join("bare_fdatasync");
    let rate = measure(&path, record_bytes, blocks, span);
    fs::remove_file(&path)?;
    rate
}

fn measure(path: &Path, record_bytes: usize, blocks: Blocks, span: Duration) -> io::Result<f64> {
    let mut file = File::create(path)?;
    if blocks == Blocks::Preallocated {
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / (1 << 20) {
            file.write_all(&zeros)?;
        }
        file.seek(SeekFrom::Start(0))?;
    }
    file.sync_all()?;

    let record = vec![0xA5; record_bytes];
    let mut written: u64 = 0;
    let mut syncs = 0_u32;
    let start = Instant::now();
    while start.elapsed() < span {
        if written + record_bytes as u64 > FILE_BYTES {
            if blocks == Blocks::Appended {
                file.set_len(0)?;
            }
            file.seek(SeekFrom::Start(0))?;
            written = 0;
        }
        file.write_all(&record)?;
        file.sync_data()?;
        written += record_bytes as u64;
        syncs += 1;
    }
    Ok(f64::from(syncs) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_sync_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for blocks in [Blocks::Appended, Blocks::Preallocated] {
            let rate =
                syncs_per_second(dir.path(), 4 << 20, blocks, Duration::from_millis(20)).unwrap();
            assert!(rate > 0.0);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
