//! Listing a log record by record, also where it is damaged.

use std::path::{Path, PathBuf};

use super::replay::{Content, replay, segment_numbers};
use super::segment::{HEADER_BYTES, SegmentHeader};
use super::{DIR, TornTail, segment};
use crate::core::{Compaction, HardState, LogIndex};
use crate::storage::record::{self, Damage, RECORD_HEADER_BYTES, Record};
use crate::storage::{Disk, FORMAT_VERSION, Identity, StorageError};

/// One thing found in a log, in the order of segments and offsets.
#[derive(Clone, Debug)]
pub enum LogItem {
    /// A segment begins.
    Segment(SegmentInfo),
    /// A record whose checksums are right.
    Record(RecordInfo),
    /// Bytes that are no record.
    Bad(BadBytes),
}

/// What a segment says of itself.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// The segment's file.
    pub file: PathBuf,
    /// Its length in bytes, reserved space included.
    pub file_bytes: u64,
    /// What its header says; `None` if that does not match its checksum.
    pub header: Option<SegmentFacts>,
}

/// A segment's header.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "drawn in docs/storage.md")]
pub struct SegmentFacts {
    pub version: u32,
    pub number: u64,
    pub identity: Identity,
    /// Where the records of the segment before end, in bytes; 0 in the first one.
    pub previous_end: u64,
    /// What everything before this segment adds up to.
    pub state: LogState,
}

/// What the records up to some place add up to, besides the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields' types say it")]
pub struct LogState {
    pub hard_state: HardState,
    pub compaction: Compaction,
    /// The log's last entry; what the compaction names, if there is none.
    pub last_index: LogIndex,
}

/// A record in its place.
#[derive(Clone, Debug)]
pub struct RecordInfo {
    /// Where it begins in its segment, in bytes.
    pub offset: u64,
    /// Its length with its header, in bytes.
    pub bytes: u64,
    /// The segment was durable up to this offset when the record was written.
    pub synced: u64,
    /// What it says.
    pub record: Record,
}

/// Bytes that are no record.
#[derive(Clone, Debug)]
pub struct BadBytes {
    /// Where they begin in their segment, in bytes.
    pub offset: u64,
    /// Up to the next record, or the last byte that is not zero.
    pub bytes: u64,
    /// What is wrong.
    pub what: String,
}

/// What a start would make of a log.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// The files of the segments, in order.
    pub segments: Vec<PathBuf>,
    /// What the log adds up to.
    pub state: LogState,
    /// The entry before the first one that is there.
    pub begins_after: LogIndex,
    /// What a start would cut off, if anything.
    pub torn_tail: Option<TornTail>,
    /// A last segment whose creation a crash cut short: a start removes it.
    pub unborn: Option<PathBuf>,
}

/// Reads a log as a start does, and changes nothing.
pub(in crate::storage) fn verify(
    disk: &dyn Disk,
    identity: Identity,
) -> Result<LogReport, StorageError> {
    let locate = |number| disk.locate(&segment::path(number));
    let Some(found) = replay(disk, identity)? else {
        return Err(StorageError::Missing {
            file: disk.locate(Path::new(DIR)),
            what: "a node's directory has at least one segment".to_owned(),
        });
    };
    Ok(LogReport {
        segments: found.segments.iter().map(|it| locate(it.number)).collect(),
        state: found.log.summary.into(),
        begins_after: found.log.begins_after(),
        torn_tail: found.torn_tail,
        unborn: found.stillborn.map(locate),
    })
}

/// The identity that the first readable segment header names.
pub(in crate::storage) fn identity_in_log(
    disk: &dyn Disk,
) -> Result<Option<Identity>, StorageError> {
    for number in segment_numbers(disk)? {
        let path = segment::path(number);
        let bytes = disk
            .read(&path)
            .map_err(|error| StorageError::io("read", disk.locate(&path), error))?;
        if let Some(header) = SegmentHeader::decode(&bytes)
            && header.version == FORMAT_VERSION
        {
            return Ok(Some(header.identity));
        }
    }
    Ok(None)
}

/// Lists all segments and records. After bytes that are no record it goes on with the next one that
/// proves itself, wherever that begins. One segment is in memory at a time.
pub(in crate::storage) fn dump<E: From<StorageError>>(
    disk: &dyn Disk,
    identity: Identity,
    mut each: impl FnMut(LogItem) -> Result<(), E>,
) -> Result<(), E> {
    for number in segment_numbers(disk)? {
        let content = Content::read(disk, identity, number)?;
        each(LogItem::Segment(content.info()))?;
        let mut offset = HEADER_BYTES.min(content.bytes.len());
        while offset < content.bytes.len() {
            let (item, next) = match record::decode(&content.bytes, offset, content.seed) {
                Ok(found) => {
                    let record = RecordInfo {
                        offset: offset as u64,
                        bytes: (found.next - offset) as u64,
                        synced: u64::from(found.synced),
                        record: found.record,
                    };
                    (LogItem::Record(record), found.next)
                }
                Err(damage) => match content.bad_bytes(offset, damage) {
                    Some((bad, next)) => (LogItem::Bad(bad), next),
                    None => break,
                },
            };
            each(item)?;
            offset = next;
        }
    }
    Ok(())
}

impl Content {
    fn info(&self) -> SegmentInfo {
        let facts = |header: SegmentHeader| SegmentFacts {
            version: header.version,
            number: header.number,
            identity: header.identity,
            previous_end: header.previous_end,
            state: header.summary.into(),
        };
        SegmentInfo {
            file: self.file.clone(),
            file_bytes: self.bytes.len() as u64,
            header: SegmentHeader::decode(&self.bytes).map(facts),
        }
    }

    /// What begins at `offset`, and where to go on. `None`: only zeros are left.
    fn bad_bytes(&self, offset: usize, damage: Damage) -> Option<(BadBytes, usize)> {
        // A damaged payload has a header of its own, which says no more than that it begins here.
        let next = self
            .headers_from(offset + 1)
            .map(|(at, _)| at)
            .next()
            .unwrap_or(self.bytes.len());
        let rest = &self.bytes[offset..next];
        let bytes = if next < self.bytes.len() {
            rest.len()
        } else {
            rest.iter().rposition(|&byte| byte != 0)? + 1
        };
        let bad = BadBytes {
            offset: offset as u64,
            bytes: bytes as u64,
            what: damage.to_string(),
        };
        Some((bad, next))
    }
}

impl From<super::Summary> for LogState {
    fn from(summary: super::Summary) -> Self {
        let super::Summary {
            hard_state,
            compaction,
            last_index,
        } = summary;
        Self {
            hard_state,
            compaction,
            last_index,
        }
    }
}

/// Bytes of a record before what it says.
pub const RECORD_OVERHEAD_BYTES: u64 = RECORD_HEADER_BYTES as u64;
