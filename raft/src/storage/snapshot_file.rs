//! A snapshot's file: its format, and reading it.
//!
//! ```text
//!      0  "RAFTSNAP"
//!      8  u32  format version
//!     12  u32  length m of the membership; 0: none
//!     16  u64  cluster id
//!     24  u64 index, u64 term  last included entry
//!     40  membership as of that entry
//!  40+m  body
//! n - 12  u64  length of the body
//!  n - 4  u32  CRC-32C of bytes 0..n-4
//! ```
//!
//! Nothing in it names a node: a leader sends its file as it is.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::record::{log_id_at, put_log_id, put_u64, u32_at, u64_at};
use super::{FORMAT_VERSION, StorageError};
use crate::core::{LogId, LogIndex, Membership, Term};
use crate::membership_codec::{self, MAX_MEMBERSHIP_BYTES};

pub(super) const DIR: &str = "snapshot";
pub(super) const HEADER_BYTES: usize = 40;
pub(super) const FOOTER_BYTES: usize = 12;

pub(super) const MAGIC: &[u8; 8] = b"RAFTSNAP";
const SUFFIX: &str = ".snap";
/// Of what has arrived so far of a leader's snapshot.
pub(super) const PART_SUFFIX: &str = ".snap.part";

/// What is read at once.
const READ_BYTES: usize = 256 << 10;

pub(super) fn path(id: LogId) -> PathBuf {
    Path::new(DIR).join(format!("{:016}-{}{SUFFIX}", id.index, id.term))
}

/// Where a leader's snapshot grows.
pub(super) fn part_path(id: LogId) -> PathBuf {
    Path::new(DIR).join(format!("{:016}-{}{PART_SUFFIX}", id.index, id.term))
}

/// The entry in a file's name; `None` for a file that is no finished snapshot.
pub(super) fn id(name: &str) -> Option<LogId> {
    id_before(SUFFIX, name).filter(|id| path(*id) == Path::new(DIR).join(name))
}

/// The entry in the name of a snapshot that was arriving; `None` for any other file.
pub(super) fn part_id(name: &str) -> Option<LogId> {
    id_before(PART_SUFFIX, name).filter(|id| part_path(*id) == Path::new(DIR).join(name))
}

fn id_before(suffix: &str, name: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(suffix)?.split_once('-')?;
    Some(LogId::new(
        Term::new(term.parse().ok()?),
        LogIndex::new(index.parse().ok()?),
    ))
}

pub(super) fn header(cluster: u64, id: LogId, membership: &Membership) -> Vec<u8> {
    let membership = membership_codec::encode(membership);
    let length = u32::try_from(membership.len()).expect("a membership has few members");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + membership.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    put_u64(&mut bytes, cluster);
    put_log_id(&mut bytes, id);
    bytes.extend_from_slice(&membership);
    bytes
}

/// A snapshot that was whole when it was opened.
///
/// As [`Read`] it yields the body; [`read_at`](Self::read_at) yields pieces of the file as it is,
/// to be sent. It stays readable when the store removes the file.
#[derive(Debug)]
pub struct SnapshotReader {
    id: LogId,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    file_bytes: u64,
    membership: Option<Arc<Membership>>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read already.
    consumed: usize,
    /// Where in the file the next refill of the buffer begins.
    next: u64,
}

impl SnapshotReader {
    /// Opens the file at `path`, which need not have its final name yet, and reads all of it to
    /// verify it.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        cluster: u64,
        id: LogId,
    ) -> Result<Self, StorageError> {
        let located = disk.locate(path);
        let fail = |source| StorageError::io("read", located.clone(), source);
        let file = disk.open(path).map_err(fail)?;
        let file_bytes = file.size().map_err(fail)?;
        let mut reader = Self {
            id,
            path: located.clone(),
            file,
            file_bytes,
            membership: None,
            buffer: Vec::new(),
            consumed: 0,
            next: HEADER_BYTES as u64,
        };
        reader.verify(cluster)?;
        Ok(reader)
    }

    /// The membership as of its last entry; `None` in a file without one.
    #[must_use]
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// The last entry it includes.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

    /// Bytes of the file, header and footer included.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a snapshot's file is never empty"
    )]
    pub fn len(&self) -> u64 {
        self.file_bytes
    }

    /// Up to `max_bytes` of the file from `offset` on; fewer only at its end.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn read_at(&self, offset: u64, max_bytes: usize) -> Result<Bytes, StorageError> {
        let there = self.file_bytes.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(there).map_or(max_bytes, |n| n.min(max_bytes))];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| StorageError::io("read", self.path.clone(), error))?;
        Ok(bytes.into())
    }

    fn verify(&mut self, cluster: u64) -> Result<(), StorageError> {
        let too_short = self.file_bytes < (HEADER_BYTES + FOOTER_BYTES) as u64;
        if too_short {
            return Err(self.corrupt(self.file_bytes, "it is cut off"));
        }
        let covered = self.file_bytes - 4;
        let mut checksum = 0;
        let mut offset = 0;
        while offset < covered {
            let left = usize::try_from(covered - offset).unwrap_or(usize::MAX);
            let piece = self.read_at(offset, left.min(READ_BYTES))?;
            checksum = crc32c::crc32c_append(checksum, &piece);
            offset += piece.len() as u64;
        }
        let header = self.read_at(0, HEADER_BYTES)?;
        let footer = self.read_at(self.file_bytes - FOOTER_BYTES as u64, FOOTER_BYTES)?;
        let membership_bytes = u32_at(&header, 12) as usize;
        if checksum != u32_at(&footer, 8) || header[..8] != *MAGIC {
            return Err(self.corrupt(0, "it does not match its checksum"));
        }
        if u32_at(&header, 8) != FORMAT_VERSION {
            return Err(StorageError::OtherVersion {
                file: self.path.clone(),
                found: u32_at(&header, 8),
                supported: FORMAT_VERSION,
            });
        }
        let frame_bytes = (HEADER_BYTES + membership_bytes + FOOTER_BYTES) as u64;
        if self.file_bytes.checked_sub(frame_bytes) != Some(u64_at(&footer, 0)) {
            return Err(self.corrupt(0, "it is not as long as it says"));
        }
        if u64_at(&header, 16) != cluster {
            return Err(self.corrupt(16, "it is another cluster's"));
        }
        if log_id_at(&header, 24) != self.id {
            return Err(self.corrupt(24, "it is not the snapshot that its name says"));
        }
        if membership_bytes > 0 {
            if membership_bytes > MAX_MEMBERSHIP_BYTES {
                return Err(self.corrupt(12, "no membership is that long"));
            }
            let bytes = self.read_at(HEADER_BYTES as u64, membership_bytes)?;
            let membership = membership_codec::decode(&bytes)
                .map_err(|error| self.corrupt(HEADER_BYTES as u64, &error.to_string()))?;
            self.membership = Some(Arc::new(membership));
            self.next += membership_bytes as u64;
        }
        Ok(())
    }

    fn corrupt(&self, offset: u64, what: &str) -> StorageError {
        StorageError::Corrupt {
            file: self.path.clone(),
            offset,
            what: what.to_owned(),
        }
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.consumed == self.buffer.len() {
            let body_end = self.file_bytes - FOOTER_BYTES as u64;
            let left = usize::try_from(body_end - self.next).unwrap_or(usize::MAX);
            self.buffer.resize(left.min(READ_BYTES), 0);
            self.consumed = 0;
            self.file.read_exact_at(&mut self.buffer, self.next)?;
            self.next += self.buffer.len() as u64;
        }
        let there = &self.buffer[self.consumed..];
        let copied = there.len().min(out.len());
        out[..copied].copy_from_slice(&there[..copied]);
        self.consumed += copied;
        Ok(copied)
    }
}
