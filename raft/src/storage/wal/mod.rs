//! The write-ahead log: batches go in at one end, segments fall off the other.
//!
//! [`Wal::write`] encodes a batch and writes it with one system call; [`Wal::sync`] makes all that
//! was written durable with one `fdatasync`. A batch lies in one segment: if the current one has no
//! room, it is sealed and the next one begun, larger than usual where the batch is. Sealed segments
//! are cut to the records they hold and removed once no record in them is needed, so that the
//! directory holds at most: the records of the retained log, one segment that is needed only in
//! part, and the current one. [`replay`] is how it is read.

mod dump;
mod log;
mod replay;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::dump::{
    BadBytes, LogItem, LogReport, LogState, RECORD_OVERHEAD_BYTES, RecordInfo, SegmentFacts,
    SegmentInfo,
};
pub(super) use self::dump::{dump, identity_in_log, verify};
use self::log::ReplayedLog;
pub use self::replay::TornTail;
use self::replay::{Replay, Segment, forget_from};
use self::segment::{DIR, HEADER_BYTES, SegmentHeader, Summary};
use super::disk::is_full;
use super::record::{Encoder, RECORD_HEADER_BYTES, Seed};
use super::{Disk, DiskFile, FORMAT_VERSION, Identity, StorageError};
use crate::core::{LogIndex, WriteBatch};

/// What the buffer keeps between batches; after a larger one, the rest is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The log of one node. After a failure that leaves the disk's content unknown, every call fails.
#[derive(Debug)]
pub(super) struct Wal {
    disk: Arc<dyn Disk>,
    identity: Identity,
    segment_bytes: usize,

    /// Ascending, without gaps; the last is the current one.
    segments: Vec<Segment>,
    tail: Tail,
    /// What everything written adds up to.
    summary: Summary,
    buffer: Vec<u8>,

    /// Whether a batch was written since the last sync.
    dirty: bool,
    /// Whether old segments may have become removable since it was last looked at.
    removal_due: bool,
    /// The failure after which nothing is known.
    poisoned: Option<String>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seed: Seed,
    /// Where the next record goes. `HEADER_BYTES <= synced <= end`.
    end: usize,
    /// Up to here it is durable.
    synced: usize,
    /// Beyond this a new segment is begun.
    capacity: usize,
}

/// Why a segment was not created.
struct NotCreated {
    error: std::io::Error,
    /// The directory's sync failed. Removing the file and syncing once more would be to trust a
    /// sync that follows a failed one. Without this the file, which nothing needs yet, may go.
    names_in_doubt: bool,
}

/// What [`Wal::open`] found.
pub(super) struct Opened {
    pub(super) wal: Wal,
    pub(super) log: ReplayedLog,
    pub(super) torn_tail: Option<TornTail>,
    /// Whether it holds anything but the first segment's header.
    pub(super) is_used: bool,
}

impl Wal {
    /// Reads the log, `None` if there is not one segment. What it found is durable on return.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        identity: Identity,
        segment_bytes: usize,
    ) -> Result<Option<Opened>, StorageError> {
        create_dir(disk.as_ref())?;
        let Some(replay) = replay::replay(disk.as_ref(), identity)? else {
            return Ok(None);
        };
        let Replay {
            log,
            segments,
            unsynced,
            torn_tail,
            stillborn,
        } = replay;
        if let Some(number) = stillborn {
            remove_segment(disk.as_ref(), number)?;
        }
        let last = *segments
            .last()
            .expect("replay() finds one, or answers None");
        let torn_bytes = torn_tail.as_ref().map_or(0, |torn| torn.bytes_dropped);
        let tail = Tail::reopen(
            disk.as_ref(),
            identity,
            last,
            segment_bytes,
            &unsynced,
            torn_bytes,
        )?;
        let is_used = last.number > 1 || last.end > HEADER_BYTES;
        let wal = Self {
            disk: Arc::clone(disk),
            identity,
            segment_bytes,
            segments,
            tail,
            summary: log.summary,
            buffer: Vec::new(),
            dirty: false,
            removal_due: true,
            poisoned: None,
        };
        Ok(Some(Opened {
            wal,
            log,
            torn_tail,
            is_used,
        }))
    }

    /// Begins the log of a new node.
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        identity: Identity,
        segment_bytes: usize,
    ) -> Result<Opened, StorageError> {
        create_dir(disk.as_ref())?;
        let summary = Summary::default();
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            number: 1,
            identity,
            previous_end: 0,
            summary,
        };
        let tail = Tail::create(disk.as_ref(), &header, segment_bytes).map_err(|failure| {
            StorageError::io("create", disk.locate(&segment::path(1)), failure.error)
        })?;
        let wal = Self {
            disk: Arc::clone(disk),
            identity,
            segment_bytes,
            segments: vec![header.into_segment()],
            tail,
            summary,
            buffer: Vec::new(),
            dirty: false,
            removal_due: false,
            poisoned: None,
        };
        let log = ReplayedLog::starting_from(summary);
        Ok(Opened {
            wal,
            log,
            torn_tail: None,
            is_used: false,
        })
    }

    /// Writes a batch after what is there. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`StorageError::NoSpace`]: nothing of the batch was written, and the log can go on. Any
    /// other: the log is poisoned.
    pub(super) fn write(&mut self, batch: &WriteBatch) -> Result<(), StorageError> {
        self.check_not_poisoned()?;
        let after = self.summary.after(batch);
        self.encode(batch);
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.tail.end + self.buffer.len() > self.tail.capacity {
            self.begin_segment(self.buffer.len())?;
            self.encode(batch);
        }
        if let Err(error) = self
            .tail
            .file
            .write_all_at(&self.buffer, self.tail.end as u64)
        {
            return Err(self.undo_write(error));
        }
        self.tail.end += self.buffer.len();
        self.dirty = true;
        self.note(batch);
        self.summary = after;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        Ok(())
    }

    /// Makes everything written durable; costs nothing if nothing was.
    ///
    /// # Errors
    /// The log is poisoned then.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.check_not_poisoned()?;
        if self.dirty {
            self.sync_tail()?;
            self.say_synced();
        }
        if self.removal_due {
            self.remove_covered()?;
        }
        Ok(())
    }

    /// Bytes of all segments' files.
    pub(super) fn disk_bytes(&self) -> u64 {
        let sealed: usize = self
            .segments
            .iter()
            .rev()
            .skip(1)
            .map(|segment| segment.end)
            .sum();
        (sealed + self.tail.capacity.max(self.tail.end)) as u64
    }

    fn check_not_poisoned(&self) -> Result<(), StorageError> {
        match &self.poisoned {
            None => Ok(()),
            Some(failure) => Err(StorageError::Poisoned {
                failure: failure.clone(),
            }),
        }
    }

    /// In the order in which replay must see them: a prefix of it, which is what a crash may
    /// leave, is a state in which the node may be.
    fn encode(&mut self, batch: &WriteBatch) {
        self.buffer.clear();
        let mut encoder = self.tail.encoder(&mut self.buffer);
        if let Some(state) = batch.hard_state {
            encoder.hard_state(state);
        }
        if let Some(to) = batch.reset_to {
            encoder.reset(to);
        }
        if let Some(from) = batch.truncate_from {
            encoder.truncate(from);
        }
        for entry in &batch.entries {
            encoder.entry(entry);
        }
        if let Some(compaction) = batch.compaction {
            encoder.compaction(compaction);
        }
    }

    fn note(&mut self, batch: &WriteBatch) {
        if batch.reset_to.is_some() {
            forget_from(&mut self.segments, LogIndex::ZERO);
        }
        if let Some(from) = batch.truncate_from {
            forget_from(&mut self.segments, from);
        }
        let current = self
            .segments
            .last_mut()
            .expect("the current segment is one of them");
        if let Some(last) = batch.entries.last() {
            current.last_live = last.id.index;
        }
        current.end = self.tail.end;
        self.removal_due |= batch.reset_to.is_some() || batch.compaction.is_some();
    }

    /// Takes back a write of which any part may have arrived.
    ///
    /// Cut off durably, and not just overwritten by the next batch: that may be shorter, and a
    /// record of this one could then stand right behind it.
    fn undo_write(&mut self, error: std::io::Error) -> StorageError {
        let file = self.disk.locate(&self.tail.path);
        let failed = StorageError::io("write", file, error);
        if !failed.is_no_space() {
            return self.poison(failed);
        }
        if let Err(error) = self.tail.take_back(self.buffer.len()) {
            return self.poison(StorageError::io(
                "cut",
                self.disk.locate(&self.tail.path),
                error,
            ));
        }
        self.tail.synced = self.tail.end;
        self.dirty = false;
        failed
    }

    fn sync_tail(&mut self) -> Result<(), StorageError> {
        if let Err(source) = self.tail.file.sync_data() {
            let file = self.disk.locate(&self.tail.path);
            return Err(self.poison(StorageError::io("sync", file, source)));
        }
        self.tail.synced = self.tail.end;
        self.dirty = false;
        Ok(())
    }

    /// Tells a later replay that all this was durable. Not worth an error: should the write fail,
    /// or arrive in part, the next batch takes its place, and covers it.
    fn say_synced(&mut self) {
        if self.tail.end + RECORD_HEADER_BYTES > self.tail.capacity {
            return;
        }
        self.buffer.clear();
        self.tail.encoder(&mut self.buffer).synced();
        if self
            .tail
            .file
            .write_all_at(&self.buffer, self.tail.end as u64)
            .is_ok()
        {
            self.tail.end += self.buffer.len();
            self.segments.last_mut().expect("the current segment").end = self.tail.end;
        }
        self.buffer.clear();
    }

    /// Seals the current segment and begins one with room for `room` bytes.
    fn begin_segment(&mut self, room: usize) -> Result<(), StorageError> {
        // The new header will say where this one ended, and is believed.
        if self.tail.synced < self.tail.end {
            self.sync_tail()?;
        }
        let current = self
            .segments
            .last()
            .expect("the current segment is one of them");
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            number: current.number + 1,
            identity: self.identity,
            previous_end: self.tail.end as u64,
            summary: self.summary,
        };
        let size = self
            .segment_bytes
            .max(HEADER_BYTES + room + RECORD_HEADER_BYTES);
        assert!(
            u32::try_from(size).is_ok(),
            "the core bounds a batch far below 4 GiB"
        );
        let tail = match Tail::create(self.disk.as_ref(), &header, size) {
            Ok(tail) => tail,
            Err(failure) => return Err(self.undo_begin(header.number, failure)),
        };
        // Gives back what it did not use. If that fails, or is lost in a crash, it is only longer.
        if let Err(error) = self.tail.file.set_len(self.tail.end as u64) {
            tracing::debug!(file = %self.tail.path.display(), %error, "sealed segment not cut");
        }
        self.tail = tail;
        self.segments.push(header.into_segment());
        self.removal_due = true;
        Ok(())
    }

    /// Removes a segment that could not be created. It must not be found at the next start: the
    /// current one goes on.
    fn undo_begin(&mut self, number: u64, failure: NotCreated) -> StorageError {
        let file = self.disk.locate(&segment::path(number));
        let failed = StorageError::io("create", file, failure.error);
        if failure.names_in_doubt || !failed.is_no_space() {
            return self.poison(failed);
        }
        match remove_segment(self.disk.as_ref(), number) {
            Ok(()) => failed,
            Err(error) => self.poison(error),
        }
    }

    /// Removes the oldest segments, as long as nothing in them is needed: their entries are
    /// covered by a snapshot or overwritten, which is durable (this runs after a sync), and the
    /// rest of them is in the next one's header.
    ///
    /// One at a time, each removal durable before the next: a gap would be taken for a loss.
    fn remove_covered(&mut self) -> Result<(), StorageError> {
        let covered = self.summary.compaction.drop_upto.index;
        while self.segments.len() > 1 && self.segments[0].last_live <= covered {
            match unlink_segment(self.disk.as_ref(), self.segments[0].number) {
                // Some file systems need space to remove a file. It stays until the next sync.
                Err(error) if error.is_no_space() => {
                    tracing::debug!(%error, "covered segment not removed");
                    return Ok(());
                }
                removed => removed
                    .and_then(|()| sync_names(self.disk.as_ref(), self.segments[0].number))
                    .map_err(|error| self.poison(error))?,
            }
            self.segments.remove(0);
        }
        self.removal_due = false;
        Ok(())
    }

    /// Fails from now on. Whatever the system called it, it is no lack of space that the caller
    /// could wait out.
    fn poison(&mut self, error: StorageError) -> StorageError {
        let error = match error {
            StorageError::NoSpace {
                action,
                file,
                source,
            } => StorageError::Io {
                action,
                file,
                source,
            },
            other => other,
        };
        self.poisoned = Some(format!("failed: {error}"));
        error
    }
}

impl Summary {
    /// What it will be once `batch` is written.
    ///
    /// # Panics
    /// If the batch does not follow: written, it would make the log unreadable.
    fn after(mut self, batch: &WriteBatch) -> Self {
        if let Some(state) = batch.hard_state {
            let known = self.hard_state;
            assert!(
                state.current_term >= known.current_term,
                "a term never goes back"
            );
            assert!(
                state.current_term > known.current_term
                    || known.voted_for.is_none()
                    || state.voted_for == known.voted_for,
                "one vote a term (§5.2)"
            );
            self.hard_state = state;
        }
        if let Some(to) = batch.reset_to {
            self.compaction.snapshot = to;
            self.compaction.drop_upto = to;
            self.last_index = to.index;
        }
        if let Some(from) = batch.truncate_from {
            assert!(
                from > self.compaction.drop_upto.index,
                "a snapshot covers only what is committed"
            );
            self.last_index = self.last_index.min(from.prev());
        }
        for entry in &batch.entries {
            assert_eq!(
                entry.id.index,
                self.last_index.next(),
                "entries follow each other"
            );
            assert!(
                entry.id.term <= self.hard_state.current_term,
                "a term is recorded no later than its entries"
            );
            self.last_index = entry.id.index;
        }
        if let Some(compaction) = batch.compaction {
            assert!(
                compaction.drop_upto.index <= self.last_index,
                "only entries can be dropped"
            );
            assert!(
                compaction.drop_upto.index <= compaction.snapshot.index,
                "a snapshot covers them"
            );
            self.compaction = compaction;
        }
        self
    }
}

impl SegmentHeader {
    fn into_segment(self) -> Segment {
        Segment {
            number: self.number,
            end: HEADER_BYTES,
            last_live: LogIndex::ZERO,
        }
    }
}

impl Tail {
    /// Creates a segment. It is durable on return, its name included.
    fn create(disk: &dyn Disk, header: &SegmentHeader, size: usize) -> Result<Self, NotCreated> {
        let path = segment::path(header.number);
        let prepare = || {
            let file = disk.create(&path)?;
            file.preallocate(size as u64)?;
            file.write_all_at(&header.encode(), 0)?;
            file.sync_data()?;
            Ok(file)
        };
        let file = prepare().map_err(|error| NotCreated {
            error,
            names_in_doubt: false,
        })?;
        disk.sync_dir(Path::new(DIR)).map_err(|error| NotCreated {
            error,
            names_in_doubt: true,
        })?;
        let seed = Seed::new(header.identity, header.number);
        Ok(Self {
            path,
            file,
            seed,
            end: HEADER_BYTES,
            synced: HEADER_BYTES,
            capacity: size,
        })
    }

    /// Opens the last segment to go on after its good records.
    ///
    /// What follows them is wiped and cut off, so that nothing of it can ever be taken for a record. What
    /// a killed process wrote and did not sync was read from memory: it is made durable before it is
    /// believed, and written once more, for a system that failed to write it has forgotten that.
    fn reopen(
        disk: &dyn Disk,
        identity: Identity,
        segment: Segment,
        segment_bytes: usize,
        unsynced: &(usize, Vec<u8>),
        torn_bytes: u64,
    ) -> Result<Self, StorageError> {
        let path = segment::path(segment.number);
        let settle = || {
            let file = disk.open(&path)?;
            wipe(file.as_ref(), segment.end as u64, torn_bytes)?;
            file.set_len(segment.end as u64)?;
            file.write_all_at(&unsynced.1, unsynced.0 as u64)?;
            file.sync_data()?;
            disk.sync_dir(Path::new(DIR))?;
            Ok(file)
        };
        let file =
            settle().map_err(|error| StorageError::io("settle", disk.locate(&path), error))?;
        if let Err(error) = file.preallocate(segment_bytes as u64) {
            // A full disk is no reason not to start: it may be the start that empties it.
            tracing::warn!(file = %path.display(), %error, "no space reserved for the log");
        }
        Ok(Self {
            path,
            file,
            seed: Seed::new(identity, segment.number),
            end: segment.end,
            synced: segment.end,
            capacity: segment_bytes,
        })
    }

    /// Cuts off, durably, what arrived of the `bytes` that were to follow the records.
    fn take_back(&self, bytes: usize) -> std::io::Result<()> {
        let end = self.end as u64;
        let arrived = self.file.size()?.saturating_sub(end).min(bytes as u64);
        wipe(self.file.as_ref(), end, arrived)?;
        self.file.set_len(end)?;
        self.file.sync_data()
    }

    fn encoder<'a>(&self, buffer: &'a mut Vec<u8>) -> Encoder<'a> {
        Encoder {
            buffer,
            seed: self.seed,
            base: self.end,
            synced: u32::try_from(self.synced).expect("begin_segment() keeps segments below 4 GiB"),
        }
    }
}

/// Overwrites what is about to be cut off, durably. Some file systems show what a place held before
/// where a file's new length reached the disk before its data did: a record of this segment, in its
/// old place behind younger ones, would pass for one of them.
///
/// # Errors
/// What is before `from` may be lost if the sync fails, whatever it calls the reason.
fn wipe(file: &dyn DiskFile, from: u64, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(bytes).map_err(std::io::Error::other)?];
    match file.write_all_at(&zeros, from) {
        // A file system that needs space to overwrite puts it elsewhere: nothing stale comes back.
        Err(error) if is_full(&error) => {}
        written => written?,
    }
    file.sync_data()
}

fn create_dir(disk: &dyn Disk) -> Result<(), StorageError> {
    let dir = Path::new(DIR);
    disk.create_dir(dir)
        .map_err(|error| StorageError::io("create directory", disk.locate(dir), error))
}

/// Removes a segment, durably; one that is not there is removed already.
fn remove_segment(disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
    unlink_segment(disk, number)?;
    sync_names(disk, number)
}

fn unlink_segment(disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
    let path = segment::path(number);
    match disk.remove(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|error| StorageError::io("remove", disk.locate(&path), error)),
    }
}

/// Makes the removal of a segment durable.
fn sync_names(disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
    disk.sync_dir(Path::new(DIR)).map_err(|error| {
        let file = disk.locate(&segment::path(number));
        StorageError::io("sync the removal of", file, error)
    })
}
