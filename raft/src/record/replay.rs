//! Reading a record and running it through the core.

use std::any::Any;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{
    Checkpoint, FORMAT_VERSION, FRAME_HEADER_BYTES, HEADER_BYTES, Item, MAGIC, Start, config,
    encode, fits_a_frame,
};
use crate::core::{ConfigError, Effect, Input, NodeId, Raft, State};

/// Runs recorded inputs through a core of its own, one at a time.
///
/// As [`Iterator`] it yields what happens, and ends after the first error or the last input.
#[derive(Debug)]
pub struct Replay {
    /// In the order in which they were written; the current one is `frames`.
    later: std::vec::IntoIter<PathBuf>,
    frames: Frames,
    /// Of the current frame, and how much of it is done.
    items: Vec<u8>,
    done: usize,
    raft: Option<Raft>,
    step: u64,
    effects: Vec<Effect>,
    is_over: bool,
}

/// What a replay comes by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The node started.
    Started {
        /// Which.
        node: NodeId,
        /// As it was restored.
        state: State,
    },
    /// The file begins in the middle of the node's run.
    Began {
        /// Which node.
        node: NodeId,
        /// Inputs since its start.
        step: u64,
        /// The latest of them, which nobody recorded.
        lost: u64,
        /// Whether the inputs before it were replayed too, and led to this very state: all of it,
        /// not just what [`State`] shows.
        confirmed: bool,
        /// At that point.
        state: State,
    },
    /// An input, and the core after it.
    Step {
        /// Counted from the node's start: the first is 1.
        number: u64,
        /// What the core was told.
        input: Box<Input>,
        /// After it. After a flush it was the same when it was recorded.
        state: State,
    },
    /// The node was stopped in order here.
    Ended,
    /// The process ended without a word here, or its record did. What was being written is left out.
    CutOff,
}

/// Why a replay does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another kind of file.
    #[error("{} is no record of a run", file.display())]
    NotARecord {
        /// Which.
        file: PathBuf,
    },
    /// A record of another format.
    #[error("{} has format {found}; this build reads {FORMAT_VERSION}: take the build that wrote it", file.display())]
    OtherVersion {
        /// Which.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file was changed after it was written, or another build wrote it.
    #[error("{}, the frame at byte {offset}: {what}", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// Where the frame begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The core refuses what it was started with.
    #[error("the core does not start: {0}")]
    Config(#[from] ConfigError),
    /// The replay went another way than the run.
    #[error(
        "step {step} differs: it was {effects} effects and {recorded:?}, it is {replayed_effects} effects and {replayed:?}"
    )]
    Differs {
        /// The flush after which it shows.
        step: u64,
        /// As it was.
        recorded: Box<State>,
        /// As it is.
        replayed: Box<State>,
        /// Effects that came of it when it was recorded.
        effects: u64,
        /// Effects that come of it now.
        replayed_effects: u64,
    },
    /// The inputs of the file before lead to another state than this file begins with.
    #[error("step {step} differs: the next file begins with another state of the core")]
    CheckpointDiffers {
        /// Inputs since the node's start.
        step: u64,
    },
    /// An assertion of the core failed. In the run as well, if it is the record's last input.
    #[error("step {step}, {input}: the core panics: {text}")]
    Panicked {
        /// The step.
        step: u64,
        /// Its input.
        input: Box<Input>,
        /// The panic's own text.
        text: String,
    },
}

impl Replay {
    /// Of one record. The file that begins a run may be followed by those that go on with it, in
    /// their order: `FILE.1`, then `FILE`.
    ///
    /// # Errors
    /// [`ReplayError`]: no file, or none that is a record.
    pub fn open(files: impl IntoIterator<Item = PathBuf>) -> Result<Self, ReplayError> {
        let mut later = files.into_iter().collect::<Vec<_>>().into_iter();
        let first = later.next().unwrap_or_default();
        Ok(Self {
            frames: Frames::open(&first)?,
            later,
            items: Vec::new(),
            done: 0,
            raft: None,
            step: 0,
            effects: Vec::new(),
            is_over: false,
        })
    }

    /// The core as of the last event; `None` before the first.
    #[must_use]
    pub fn raft(&self) -> Option<&Raft> {
        self.raft.as_ref()
    }

    fn advance(&mut self) -> Result<Option<Event>, ReplayError> {
        loop {
            if self.done == self.items.len() {
                match self.frames.next_frame(&mut self.items)? {
                    Frame::Whole => self.done = 0,
                    Frame::None => match self.later.next() {
                        Some(file) => self.frames = Frames::open(&file)?,
                        None => return Ok(None),
                    },
                    Frame::Cut => {
                        self.items.clear();
                        self.done = 0;
                        self.frames.is_over = true;
                        return Ok(Some(Event::CutOff));
                    }
                }
                continue;
            }
            let rest = &self.items[self.done..];
            let decoded = bincode::serde::decode_from_slice::<Item, _>(rest, config());
            let (item, used) = decoded.map_err(|error| {
                self.frames
                    .damaged(format!("no item of this format: {error}"))
            })?;
            self.done += used;
            if let Some(event) = self.take(item)? {
                return Ok(Some(event));
            }
        }
    }

    fn take(&mut self, item: Item) -> Result<Option<Event>, ReplayError> {
        match item {
            Item::Start(start) => self.start(*start).map(Some),
            Item::Checkpoint(checkpoint) => self.begin(*checkpoint).map(Some),
            Item::Input(input) => self.feed(input).map(Some),
            Item::State { effects, state } => self.compare(effects, state).map(|()| None),
            Item::End => Ok(Some(Event::Ended)),
        }
    }

    fn start(&mut self, start: Start) -> Result<Event, ReplayError> {
        let Start {
            config,
            restored,
            seed,
            now,
        } = start;
        let node = config.id;
        let made = catch_unwind(move || Raft::new(config, restored, seed, now));
        let made = made.map_err(|panic| self.frames.damaged(text_of(&*panic)))?;
        let raft = made?;
        let state = raft.state();
        self.raft = Some(raft);
        self.step = 0;
        Ok(Event::Started { node, state })
    }

    fn begin(&mut self, checkpoint: Checkpoint) -> Result<Event, ReplayError> {
        let Checkpoint { step, lost, raft } = checkpoint;
        let mut confirmed = false;
        if let Some(replayed) = self.raft.take()
            && self.step == step
        {
            // Its encoding says everything of a core.
            let image = |raft: Raft| {
                let mut bytes = Vec::new();
                let lost = 0;
                let checkpoint = Box::new(Checkpoint { step, lost, raft });
                encode(&Item::Checkpoint(checkpoint), &mut bytes);
                bytes
            };
            if image(replayed) != image(raft.clone()) {
                return Err(ReplayError::CheckpointDiffers { step });
            }
            confirmed = true;
        }
        self.step = step;
        let (node, state) = (raft.id(), raft.state());
        self.raft = Some(raft);
        Ok(Event::Began {
            node,
            step,
            lost,
            confirmed,
            state,
        })
    }

    fn feed(&mut self, input: Input) -> Result<Event, ReplayError> {
        let step = self.step + 1;
        let Some(raft) = &mut self.raft else {
            return Err(self.frames.damaged("it does not begin with a state".into()));
        };
        self.effects.clear();
        let effects = &mut self.effects;
        let fed = input.clone();
        // A panic of the core is one of the things that a record is read for.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            raft.apply_input(fed, effects);
            raft.state()
        }));
        self.step = step;
        let input = Box::new(input);
        match outcome {
            Ok(state) => Ok(Event::Step {
                number: step,
                input,
                state,
            }),
            Err(panic) => Err(ReplayError::Panicked {
                step,
                input,
                text: text_of(&*panic),
            }),
        }
    }

    fn compare(&mut self, effects: u64, recorded: State) -> Result<(), ReplayError> {
        let Some(raft) = &self.raft else {
            return Err(self.frames.damaged("it does not begin with a state".into()));
        };
        let (replayed, replayed_effects) = (raft.state(), self.effects.len() as u64);
        if replayed == recorded && replayed_effects == effects {
            return Ok(());
        }
        Err(ReplayError::Differs {
            step: self.step,
            recorded: Box::new(recorded),
            replayed: Box::new(replayed),
            effects,
            replayed_effects,
        })
    }
}

impl Iterator for Replay {
    type Item = Result<Event, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let event = self.advance().transpose();
        self.is_over = !matches!(event, Some(Ok(_)));
        event
    }
}

/// The frames of one file.
#[derive(Debug)]
struct Frames {
    file: PathBuf,
    reader: BufReader<File>,
    size: u64,
    /// Bytes of it that were not read yet.
    left: u64,
    /// Where the latest frame begins.
    offset: u64,
    checksum: u32,
    is_over: bool,
}

enum Frame {
    Whole,
    None,
    /// The file ends within it.
    Cut,
}

impl Frames {
    fn open(file: &Path) -> Result<Self, ReplayError> {
        let fail = |source| ReplayError::Io {
            file: file.to_owned(),
            source,
        };
        let opened = File::open(file).map_err(fail)?;
        let size = opened.metadata().map_err(fail)?.len();
        let mut frames = Self {
            file: file.to_owned(),
            reader: BufReader::new(opened),
            size,
            left: size,
            offset: 0,
            checksum: 0,
            is_over: false,
        };
        let mut header = [0; HEADER_BYTES];
        if size >= HEADER_BYTES as u64 {
            frames.read(&mut header)?;
        }
        let (magic, version) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            let file = file.to_owned();
            return Err(ReplayError::NotARecord { file });
        }
        let found = u32_of(version);
        if found != FORMAT_VERSION {
            let file = file.to_owned();
            return Err(ReplayError::OtherVersion { file, found });
        }
        frames.checksum = crc32c::crc32c(&header);
        Ok(frames)
    }

    /// Reads the items of the next frame.
    fn next_frame(&mut self, items: &mut Vec<u8>) -> Result<Frame, ReplayError> {
        if self.is_over || self.left == 0 {
            return Ok(Frame::None);
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.offset = self.size - self.left;
        if self.left < header.len() as u64 {
            return Ok(Frame::Cut);
        }
        self.read(&mut header)?;
        let length = u32_of(&header[..4]) as usize;
        self.checksum = crc32c::crc32c_append(self.checksum, &header[..4]);
        if self.checksum != u32_of(&header[4..8]) {
            return Err(self.damaged("its length does not match its checksum".into()));
        }
        if !fits_a_frame(length) {
            return Err(self.damaged("no frame is that long".into()));
        }
        if self.left < length as u64 {
            return Ok(Frame::Cut);
        }
        items.resize(length, 0);
        self.read(items)?;
        self.checksum = crc32c::crc32c_append(self.checksum, items);
        if self.checksum != u32_of(&header[8..]) {
            return Err(self.damaged("it does not match its checksum".into()));
        }
        Ok(Frame::Whole)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ReplayError> {
        let read = self.reader.read_exact(bytes);
        read.map_err(|source| ReplayError::Io {
            file: self.file.clone(),
            source,
        })?;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Ok(())
    }

    fn damaged(&self, what: String) -> ReplayError {
        ReplayError::Damaged {
            file: self.file.clone(),
            offset: self.offset,
            what,
        }
    }
}

/// # Panics
/// Unless there are four bytes.
fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a text").to_owned()
}
