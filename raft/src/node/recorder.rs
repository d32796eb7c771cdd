//! The recorder: writes down what the core is told, and slows nobody.
//!
//! ```text
//!   driver ── Recorded ──> Raft
//!               │ a turn's inputs, encoded; at a file's turn a copy of the core
//!               v
//!         bounded queue ──> recorder thread ──> FILE   (FILE.1: the one before)
//! ```
//!
//! Where the queue is full the driver drops what it has instead of waiting, and goes on with a
//! checkpoint of the core once the queue is empty: a record may have a hole, and says so, but is
//! exact on both sides of it. The last inputs are the ones that a bug report wants, so a file that
//! is full is put aside as `FILE.1`, in place of the one before it, and the next one begins with the
//! core's whole state. The format: [`record`](crate::record).

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::StartError;
use super::options::RecordOptions;
use crate::core::{
    CallId, ChangeError, Committed, Config, Effect, Input, LogId, LogIndex, Membership,
    MembershipChange, Message, Millis, NodeId, ProposeError, Raft, ReadId, Restored, TransferError,
    WriteBatch, WriteId,
};
use crate::record::{Checkpoint, Item, Start, encode, fits_a_frame, frame_header, header};

/// Turns that may wait for the recorder's thread, and their bytes. Enough for a disk that stalls for
/// a second or so under load.
const MAX_QUEUED: usize = 4096;
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// What is written at once, if so much has gathered.
const WRITE_BYTES: usize = 256 << 10;

/// A core, and whoever writes down what it is told. Its methods are [`Raft`]'s.
pub(super) struct Recorded {
    raft: Raft,
    recorder: Option<Recorder>,
}

/// What may be asked changes nothing, and is not recorded.
impl Deref for Recorded {
    type Target = Raft;

    fn deref(&self) -> &Raft {
        &self.raft
    }
}

impl Recorded {
    /// A core that is recorded if that is wanted.
    ///
    /// # Errors
    /// As [`Raft::new`]; or the record cannot be begun.
    pub(super) fn new(
        config: Config,
        restored: Restored,
        seed: u64,
        now: Millis,
        wanted: Option<&RecordOptions>,
    ) -> Result<Self, StartError> {
        let Some(options) = wanted else {
            return Ok(Self::unrecorded(Raft::new(config, restored, seed, now)?));
        };
        let start = Start {
            config: config.clone(),
            restored: restored.clone(),
            seed,
            now,
        };
        let raft = Raft::new(config, restored, seed, now)?;
        let recorder = Some(Recorder::start(start, options)?);
        Ok(Self { raft, recorder })
    }

    pub(super) fn unrecorded(raft: Raft) -> Self {
        Self {
            raft,
            recorder: None,
        }
    }

    pub(super) fn tick(&mut self, now: Millis) {
        self.note(|| Input::Tick { now });
        self.raft.tick(now);
    }

    pub(super) fn step(&mut self, from: NodeId, call: CallId, message: Message) {
        self.note(|| Input::Step {
            from,
            call,
            message: message.clone(),
        });
        self.raft.step(from, call, message);
    }

    pub(super) fn propose(&mut self, command: Bytes) -> Result<LogId, ProposeError> {
        self.note(|| Input::Propose {
            command: command.clone(),
        });
        self.raft.propose(command)
    }

    pub(super) fn read(&mut self, read: ReadId) -> Result<(), ProposeError> {
        self.note(|| Input::Read { read });
        self.raft.read(read)
    }

    pub(super) fn read_anywhere(&mut self, read: ReadId) -> Result<(), ProposeError> {
        self.note(|| Input::ReadAnywhere { read });
        self.raft.read_anywhere(read)
    }

    pub(super) fn persisted(&mut self, write: WriteId) {
        self.note(|| Input::Persisted { write });
        self.raft.persisted(write);
    }

    pub(super) fn applied(&mut self, upto: LogIndex) {
        self.note(|| Input::Applied { upto });
        self.raft.applied(upto);
    }

    pub(super) fn unreachable(&mut self, to: NodeId) {
        self.note(|| Input::Unreachable { to });
        self.raft.unreachable(to);
    }

    pub(super) fn snapshot_taken(&mut self, last_included: LogId) {
        self.note(|| Input::SnapshotTaken { last_included });
        self.raft.snapshot_taken(last_included);
    }

    pub(super) fn chunk_stored(
        &mut self,
        call: CallId,
        last_included: LogId,
        next_offset: u64,
        complete: Option<Arc<Membership>>,
    ) {
        self.note(|| Input::ChunkStored {
            call,
            last_included,
            next_offset,
            complete: complete.clone(),
        });
        self.raft
            .chunk_stored(call, last_included, next_offset, complete);
    }

    pub(super) fn snapshot_sent(&mut self, to: NodeId, last_included: LogId, installed: bool) {
        self.note(|| Input::SnapshotSent {
            to,
            last_included,
            installed,
        });
        self.raft.snapshot_sent(to, last_included, installed);
    }

    pub(super) fn snapshot_postponed(&mut self, to: NodeId, last_included: LogId) {
        self.note(|| Input::SnapshotPostponed { to, last_included });
        self.raft.snapshot_postponed(to, last_included);
    }

    pub(super) fn change_membership(
        &mut self,
        change: MembershipChange,
    ) -> Result<LogId, ChangeError> {
        self.note(|| Input::ChangeMembership {
            change: change.clone(),
        });
        self.raft.change_membership(change)
    }

    pub(super) fn transfer_leadership(
        &mut self,
        to: Option<NodeId>,
    ) -> Result<NodeId, TransferError> {
        self.note(|| Input::TransferLeadership { to });
        self.raft.transfer_leadership(to)
    }

    pub(super) fn resign(&mut self) -> bool {
        self.note(|| Input::Resign);
        self.raft.resign()
    }

    pub(super) fn take_write(&mut self) -> Option<WriteBatch> {
        self.note(|| Input::TakeWrite);
        self.raft.take_write()
    }

    pub(super) fn take_committed(&mut self, max_bytes: usize) -> Option<Committed> {
        self.note(|| Input::TakeCommitted {
            max_bytes: max_bytes as u64,
        });
        self.raft.take_committed(max_bytes)
    }

    pub(super) fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.note(|| Input::Flush);
        let before = effects.len();
        self.raft.flush(effects);
        if let Some(recorder) = &mut self.recorder {
            recorder.flushed(&self.raft, (effects.len() - before) as u64);
        }
    }

    /// The node stops in order.
    pub(super) fn end_record(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(&Item::End);
        }
    }

    /// Before the core hears of it: a core that panics must not take its reason along.
    fn note(&mut self, input: impl FnOnce() -> Input) {
        if let Some(recorder) = &mut self.recorder {
            recorder.step += 1;
            if recorder.mode == Mode::Recording {
                recorder.note(&Item::Input(input()));
            }
        }
    }
}

/// The driver's end. Dropped, it hands over what it has, also when the driver's thread panics, and
/// waits until that is written.
struct Recorder {
    mode: Mode,
    /// `None` while it is being dropped.
    queue: Option<Sender<Portion>>,
    /// [`Portion::bytes`] of what is not written yet.
    queued_bytes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// What the core was told since the last flush.
    turn: Vec<u8>,
    /// Inputs since the node's start.
    step: u64,
    /// The last of them that was handed over.
    handed_over: u64,
    /// Bytes of the current file after what it began with. The next one begins beyond `file_bytes`.
    written: usize,
    file_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Recording,
    /// The thread did not keep up: nothing is recorded until it has.
    Behind,
    /// It has given up, and said why.
    Over,
}

/// What goes to the recorder's thread.
enum Portion {
    Start(Box<Start>),
    /// Begins a file.
    Checkpoint(Box<Checkpoint>),
    /// Items.
    Turn(Vec<u8>),
}

impl Portion {
    /// What it counts in the queue. A copied core shares its commands with the core.
    fn bytes(&self) -> usize {
        match self {
            Self::Start(_) | Self::Checkpoint(_) => 1,
            Self::Turn(items) => items.len(),
        }
    }
}

impl Recorder {
    fn start(start: Start, options: &RecordOptions) -> Result<Self, StartError> {
        let files = Files::begin(&options.file).map_err(|source| StartError::Record {
            file: options.file.clone(),
            source,
        })?;
        tracing::info!(
            node = %start.config.id, file = %options.file.display(), bytes_max = options.max_bytes,
            "records what its core is told"
        );
        Self::writing_to(files, start, options.max_bytes).map_err(StartError::Thread)
    }

    fn writing_to(sink: impl Sink + 'static, start: Start, max_bytes: usize) -> io::Result<Self> {
        let (queue, portions) = bounded(MAX_QUEUED);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let of_thread = Arc::clone(&queued_bytes);
        let thread = std::thread::Builder::new().name("recorder".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = record(sink, &portions, &of_thread) {
                tracing::error!(%error, "this node is recorded no longer; it runs on");
            }
        })?;
        let mut recorder = Self {
            mode: Mode::Recording,
            queue: Some(queue),
            queued_bytes,
            thread: Some(thread),
            turn: Vec::new(),
            step: 0,
            handed_over: 0,
            written: 0,
            // One half is written while the other is kept.
            file_bytes: max_bytes / 2,
        };
        recorder.hand_over(Portion::Start(Box::new(start)));
        Ok(recorder)
    }

    fn note(&mut self, item: &Item) {
        if self.mode == Mode::Recording {
            encode(item, &mut self.turn);
        }
    }

    /// A turn of the driver is at its flush, and the core between two inputs.
    fn flushed(&mut self, raft: &Raft, effects: u64) {
        match self.mode {
            Mode::Recording => {
                let state = raft.state();
                self.note(&Item::State { effects, state });
                if self.hand_over_turn() && self.written > self.file_bytes {
                    self.begin_file(raft);
                }
            }
            Mode::Behind if self.queued_bytes.load(Ordering::Acquire) == 0 => {
                self.begin_file(raft);
            }
            Mode::Behind | Mode::Over => {}
        }
    }

    /// Has the thread put the current file aside and begin the next. If it is behind, not now.
    fn begin_file(&mut self, raft: &Raft) {
        let checkpoint = Checkpoint {
            step: self.step,
            lost: self.step - self.handed_over,
            raft: raft.clone(),
        };
        if self.hand_over(Portion::Checkpoint(Box::new(checkpoint))) {
            self.mode = Mode::Recording;
            self.handed_over = self.step;
            self.written = 0;
        }
    }

    /// False if there is no room. The record has a hole then, up to the next checkpoint.
    fn hand_over_turn(&mut self) -> bool {
        let turn = std::mem::take(&mut self.turn);
        let bytes = turn.len();
        let queued = self.queued_bytes.load(Ordering::Acquire);
        let fits = queued == 0 || queued + bytes <= MAX_QUEUED_BYTES;
        if fits && fits_a_frame(bytes) && self.hand_over(Portion::Turn(turn)) {
            self.handed_over = self.step;
            self.written += bytes;
            return true;
        }
        if self.mode == Mode::Recording {
            tracing::warn!("the record of this node has a hole: its disk does not keep up");
            self.mode = Mode::Behind;
        }
        false
    }

    fn hand_over(&mut self, portion: Portion) -> bool {
        let Some(queue) = &self.queue else {
            return false;
        };
        let bytes = portion.bytes();
        self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        match queue.try_send(portion) {
            Ok(()) => return true,
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => self.mode = Mode::Over,
        }
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        false
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.mode == Mode::Recording && !self.turn.is_empty() {
            self.hand_over_turn();
        }
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the recorder's thread panicked; see its message above");
        }
    }
}

/// Writes until the driver's end is gone.
fn record(
    mut sink: impl Sink,
    portions: &Receiver<Portion>,
    queued_bytes: &AtomicUsize,
) -> io::Result<()> {
    let mut frames = header();
    let mut checksum = crc32c::crc32c(&frames);
    while let Ok(portion) = portions.recv() {
        let mut gathered = 0;
        let more = std::iter::once(portion).chain(portions.try_iter());
        for portion in more {
            gathered += portion.bytes();
            let items = match portion {
                Portion::Turn(items) => items,
                Portion::Start(start) => encoded(&Item::Start(start)),
                Portion::Checkpoint(checkpoint) => {
                    sink.write_all(&frames)?;
                    frames = header();
                    checksum = crc32c::crc32c(&frames);
                    sink.begin_next()?;
                    encoded(&Item::Checkpoint(checkpoint))
                }
            };
            if !fits_a_frame(items.len()) {
                return Err(io::Error::other(
                    "the state of this core is too large to record",
                ));
            }
            let header = frame_header(&items, &mut checksum);
            frames.extend_from_slice(&header);
            frames.extend_from_slice(&items);
            if frames.len() >= WRITE_BYTES {
                break;
            }
        }
        sink.write_all(&frames)?;
        frames.clear();
        frames.shrink_to(WRITE_BYTES);
        queued_bytes.fetch_sub(gathered, Ordering::AcqRel);
    }
    Ok(())
}

fn encoded(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(item, &mut bytes);
    bytes
}

/// Where frames go.
trait Sink: Write + Send {
    /// Puts what was written aside, in place of what was aside before.
    fn begin_next(&mut self) -> io::Result<()>;
}

/// `FILE`, and `FILE.1` for the one before.
struct Files {
    path: PathBuf,
    file: File,
}

impl Files {
    /// What an earlier process recorded is put aside: it may have been the one that failed.
    fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: next_file(path)?,
        })
    }
}

fn next_file(path: &Path) -> io::Result<File> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    match fs::rename(path, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create(path)
}

impl Write for Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for Files {
    fn begin_next(&mut self) -> io::Result<()> {
        self.file = next_file(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "recorder_test.rs"]
mod tests;
