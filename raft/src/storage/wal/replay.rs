//! Reading the log at start: what to believe, what to drop, when to refuse.
//!
//! A crash may leave any mixture of what was written since the last sync that succeeded, also with
//! later writes there and earlier ones missing. Everything before that was durable, and may have
//! been promised to others. So the one question about a bad record is whether it lies before or
//! after the end of what was durable, and the records that follow answer it: each says up to where
//! the segment was durable when it was written.
//!
//! ```text
//!   good | good | bad at b | ... | good, synced > b     b was durable: damage. Refuse.
//!   good | good | bad at b | ... | good, synced <= b    written in the same window as b: torn.
//!   good | good | bad at b | rubbish, or zeros          torn.
//! ```
//!
//! After each sync that succeeds, the writer appends a record that only says so, without a sync of
//! its own. As long as it is there (that is, unless the machine lost power within moments), damage
//! anywhere before it is recognised, the last batch included. Without it, damage to what was
//! written since the sync before the last cannot be told from a write cut off by the crash: it is
//! dropped, and reported as a torn tail.
//!
//! Only the last segment can have a torn tail: before a segment is begun, the one before it is made
//! durable, and the new one's header says where it ended.

use std::fmt;
use std::path::{Path, PathBuf};

use super::log::ReplayedLog;
use super::segment::{self, DIR, HEADER_BYTES, SegmentHeader};
use crate::core::LogIndex;
use crate::storage::record::{self, Damage, Header, Record, Seed};
use crate::storage::{Disk, FORMAT_VERSION, Identity, StorageError};

/// What a crash cut off from the end of the log, and replay dropped. None of it was reported
/// durable before the crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where its good records end.
    pub offset: u64,
    /// From there to the last byte that was not zero.
    pub bytes_dropped: u64,
}

/// A segment, as the log needs to know it later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Where its records end.
    pub(super) end: usize,
    /// The last of its entries that is still part of the log; zero if none is.
    pub(super) last_live: LogIndex,
}

/// The log as it was found.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) log: ReplayedLog,
    /// Ascending, without gaps; at least one.
    pub(super) segments: Vec<Segment>,
    /// The last segment's content from here to its end may not be durable yet.
    pub(super) unsynced: (usize, Vec<u8>),
    pub(super) torn_tail: Option<TornTail>,
    /// A segment that was being created, and never held a record.
    pub(super) stillborn: Option<u64>,
}

/// Reads all segments; `None` if there are none. Changes nothing.
pub(super) fn replay(disk: &dyn Disk, identity: Identity) -> Result<Option<Replay>, StorageError> {
    let mut numbers = segment_numbers(disk)?;
    let stillborn = stillborn(disk, identity, &numbers)?;
    if stillborn.is_some() {
        numbers.pop();
    }
    let mut replay: Option<Replay> = None;
    for &number in &numbers {
        let content = Content::read(disk, identity, number)?;
        let header = content.header(identity)?;
        let found = replay.get_or_insert_with(|| Replay {
            log: ReplayedLog::starting_from(header.summary),
            segments: Vec::new(),
            unsynced: (0, Vec::new()),
            torn_tail: None,
            stillborn,
        });
        if let Some(previous) = found.segments.last() {
            let file = disk.locate(&segment::path(previous.number));
            check_joint(file, previous.end, &found.log, &content, &header)?;
        }
        found.read_segment(&content, number == numbers[numbers.len() - 1])?;
    }
    if let Some(found) = &replay {
        check_start(disk, found)?;
    }
    Ok(replay)
}

/// A segment is removed only when nothing in it is needed. The oldest one's header says where the
/// log went on; if that is beyond what was allowed to go, an older one was not removed by us.
fn check_start(disk: &dyn Disk, found: &Replay) -> Result<(), StorageError> {
    let dropped = found.log.summary.compaction.drop_upto.index;
    if found.log.begins_after() <= dropped {
        return Ok(());
    }
    let oldest = found.segments[0].number;
    Err(StorageError::Missing {
        file: disk.locate(&segment::path(oldest.saturating_sub(1))),
        what: format!("the entries after {dropped} are not in the segments that are there"),
    })
}

pub(super) fn segment_numbers(disk: &dyn Disk) -> Result<Vec<u64>, StorageError> {
    let dir = Path::new(DIR);
    let names = disk
        .list(dir)
        .map_err(|error| StorageError::io("list", disk.locate(dir), error))?;
    let numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::number(name))
        .collect();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(StorageError::Missing {
            file: disk.locate(&segment::path(pair[0] + 1)),
            what: format!("segments {} and {} are there", pair[0], pair[1]),
        });
    }
    Ok(numbers)
}

/// The last segment, if a crash came while it was being created: its header is not there, and no
/// record is in it, which could only follow once the header was durable. In the header's place may be
/// what the file's place on the medium held before: another one.
fn stillborn(
    disk: &dyn Disk,
    identity: Identity,
    numbers: &[u64],
) -> Result<Option<u64>, StorageError> {
    let Some(&last) = numbers.last() else {
        return Ok(None);
    };
    // Without a segment before it, this one was all there was: it is damaged, or not ours. Except the
    // very first, which a crash may have kept from being born at all.
    let is_alone = numbers.len() == 1;
    let content = Content::read(disk, identity, last)?;
    let is_there = match SegmentHeader::decode(&content.bytes) {
        None => is_alone && last != 1,
        Some(_) if is_alone || content.has_record_at(HEADER_BYTES) => true,
        // Nothing that a crash leaves of another segment has records right behind its header: the header
        // alone is written before the file has a record, and zeros are behind it.
        Some(header) if content.has_record_of(&header) => true,
        Some(header) => {
            let before = Content::read(disk, identity, last - 1)?;
            let previous_end = usize::try_from(header.previous_end).unwrap_or(usize::MAX);
            header.identity == identity
                && header.number == last
                && !before.has_record_at(previous_end)
        }
    };
    if is_there || content.headers_from(0).next().is_some() {
        return Ok(None);
    }
    Ok(Some(last))
}

/// Holds what a segment says of those before it against what they were found to hold.
fn check_joint(
    previous_file: PathBuf,
    previous_end: usize,
    log: &ReplayedLog,
    content: &Content,
    header: &SegmentHeader,
) -> Result<(), StorageError> {
    if header.previous_end != previous_end as u64 {
        return Err(StorageError::Corrupt {
            file: previous_file,
            offset: previous_end as u64,
            what: format!(
                "its good records end here, but those written ended at byte {}",
                header.previous_end
            ),
        });
    }
    if header.summary != log.summary {
        return Err(content.corrupt(0, "it does not continue the segment before it"));
    }
    Ok(())
}

impl Replay {
    fn read_segment(&mut self, content: &Content, is_last: bool) -> Result<(), StorageError> {
        let mut end = HEADER_BYTES;
        let mut synced = 0;
        self.segments.push(Segment {
            number: content.number,
            end,
            last_live: LogIndex::ZERO,
        });
        let damage = loop {
            let decoded = match record::decode(&content.bytes, end, content.seed) {
                Ok(decoded) => decoded,
                Err(damage) => break damage,
            };
            self.note_live(&decoded.record);
            self.log
                .apply(decoded.record)
                .map_err(|what| content.corrupt(end, what))?;
            end = decoded.next;
            synced = decoded.synced as usize;
        };
        if damage == Damage::Content {
            return Err(content.corrupt(end, damage));
        }
        self.segments.last_mut().expect("pushed above").end = end;
        if is_last {
            self.torn_tail = content.torn_tail(end, damage)?;
            self.unsynced = (synced, content.bytes[synced.min(end)..end].to_vec());
        }
        Ok(())
    }

    fn note_live(&mut self, record: &Record) {
        note_live(&mut self.segments, record);
    }
}

/// Keeps [`Segment::last_live`] right as a record is added to the last of `segments`.
fn note_live(segments: &mut [Segment], record: &Record) {
    match record {
        Record::Entry(entry) => {
            if let Some(last) = segments.last_mut() {
                last.last_live = entry.id.index;
            }
        }
        Record::Truncate(from) => forget_from(segments, *from),
        Record::Reset(_) => forget_from(segments, LogIndex::ZERO),
        Record::HardState(_) | Record::Compaction(_) | Record::Synced => {}
    }
}

/// The entries from `from` on are no longer part of the log.
pub(super) fn forget_from(segments: &mut [Segment], from: LogIndex) {
    for segment in segments {
        segment.last_live = segment.last_live.min(from.prev());
    }
}

/// A segment's file in memory.
pub(super) struct Content {
    pub(super) file: PathBuf,
    number: u64,
    pub(super) seed: Seed,
    pub(super) bytes: Vec<u8>,
}

impl Content {
    pub(super) fn read(
        disk: &dyn Disk,
        identity: Identity,
        number: u64,
    ) -> Result<Self, StorageError> {
        let path = segment::path(number);
        let file = disk.locate(&path);
        let bytes = disk
            .read(&path)
            .map_err(|error| StorageError::io("read", file.clone(), error))?;
        Ok(Self {
            file,
            number,
            seed: Seed::new(identity, number),
            bytes,
        })
    }

    fn header(&self, identity: Identity) -> Result<SegmentHeader, StorageError> {
        let header = SegmentHeader::decode(&self.bytes)
            .ok_or_else(|| self.corrupt(0, "the segment's header does not match its checksum"))?;
        if header.version != FORMAT_VERSION {
            return Err(StorageError::OtherVersion {
                file: self.file.clone(),
                found: header.version,
                supported: FORMAT_VERSION,
            });
        }
        identity.check(header.identity, || self.file.clone())?;
        if header.number != self.number {
            return Err(self.corrupt(0, format!("it was written as segment {}", header.number)));
        }
        Ok(header)
    }

    /// What to make of a bad record at `end` of the last segment.
    fn torn_tail(&self, end: usize, damage: Damage) -> Result<Option<TornTail>, StorageError> {
        let rest = &self.bytes[end..];
        let Some(last_written) = rest.iter().rposition(|&byte| byte != 0) else {
            return Ok(None);
        };
        if let Some((at, _)) = self
            .headers_from(end)
            .find(|(_, h)| h.synced as usize > end)
        {
            return Err(self.corrupt(
                end,
                format!("{damage}, and the record at byte {at} proves that it was durable"),
            ));
        }
        Ok(Some(TornTail {
            file: self.file.clone(),
            offset: end as u64,
            bytes_dropped: last_written as u64 + 1,
        }))
    }

    fn has_record_at(&self, offset: usize) -> bool {
        Header::at(&self.bytes, offset, self.seed).is_some()
    }

    /// Whether there is a record of the segment that a header says this is.
    fn has_record_of(&self, header: &SegmentHeader) -> bool {
        let seed = Seed::new(header.identity, header.number);
        Header::at(&self.bytes, HEADER_BYTES, seed).is_some()
    }

    /// Every valid record header at or after an offset, whatever lies between.
    pub(super) fn headers_from(&self, offset: usize) -> impl Iterator<Item = (usize, Header)> {
        (offset..self.bytes.len())
            .filter_map(|at| Some((at, Header::at(&self.bytes, at, self.seed)?)))
    }

    fn corrupt(&self, offset: usize, what: impl fmt::Display) -> StorageError {
        StorageError::Corrupt {
            file: self.file.clone(),
            offset: offset as u64,
            what: what.to_string(),
        }
    }
}
