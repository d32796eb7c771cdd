//! Damage to a node's write-ahead log, done by hand. Knows of the format only that a segment's unused
//! rest is zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::cluster::files_of;

/// The segment being written: the last one that holds anything but its header.
pub(crate) fn last_segment(node_dir: &Path) -> PathBuf {
    let segments = files_of(&node_dir.join("wal"));
    let written = segments
        .into_iter()
        .rev()
        .find(|(path, _)| used_bytes(path) > HEADER_BYTES);
    written.expect("a node that has run has a log").0
}

/// Room that a segment's header may take.
const HEADER_BYTES: u64 = 128;

/// The length of a segment without the zeros at its end.
pub(crate) fn used_bytes(segment: &Path) -> u64 {
    let content = fs::read(segment).unwrap();
    let last = content.iter().rposition(|&byte| byte != 0);
    last.map_or(0, |last| last as u64 + 1)
}

/// The segment that holds these bytes, and where they begin.
pub(crate) fn place_of(node_dir: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    let segments = files_of(&node_dir.join("wal"));
    let mut places = segments.into_iter().filter_map(|(path, _)| {
        let content = fs::read(&path).unwrap();
        let place = content
            .windows(bytes.len())
            .position(|part| part == bytes)?;
        Some((path, place as u64))
    });
    places.next().expect("what was written is in the log")
}

/// Ends the file in the middle of what was written last.
pub(crate) fn cut(segment: &Path, bytes: u64) {
    let end = used_bytes(segment) - bytes;
    OpenOptions::new()
        .write(true)
        .open(segment)
        .unwrap()
        .set_len(end)
        .unwrap();
}

/// Changes one bit; once more changes it back.
pub(crate) fn flip(file: &Path, offset: u64, bit: u32) {
    let mut file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 1 << bit;
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&byte).unwrap();
}
