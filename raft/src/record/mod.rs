//! A node's run as a file: what its core was told, in order, to be run through the core again.
//!
//! ```text
//!   node ── inputs ──> FILE, FILE.1          kvctl replay FILE.1 FILE
//!           (node/recorder.rs)                 start or checkpoint, then input by input:
//!                                              the same term, role, log and commit as they were
//! ```
//!
//! The core is a function of its inputs (see [`core`](crate::core)), so the replay is the run, step
//! by step, without its clock, disk and network. A record holds no command and no byte of a
//! snapshot, only their sizes: the core looks at nothing else.
//!
//! # The file
//!
//! ```text
//! file   = "RAFTREC\n" | u32 format | frame ...
//! frame  = u32 length | u32 CRC-32C of length | u32 CRC-32C of items | items, `length` bytes
//! item   = bincode of an `Item`: a start, a checkpoint, an input, a state, the end
//! ```
//!
//! Numbers are little-endian, and each checksum goes on from the one before it. A frame is one turn of the node: its inputs up to a flush, and the
//! state then, which a replay must reach as well. Each file begins with what a replay needs to begin:
//! what the node was started with, or, in a file begun later, the whole state of its core. The
//! latter is the core's own fields, so it is read by the build that wrote it; the former consists of
//! the public types only and lasts longer.
//!
//! Read next: [`Replay`].

mod replay;
pub(crate) mod sizes;

use serde::{Deserialize, Serialize};

pub use self::replay::{Event, Replay, ReplayError};
use crate::core::{Config, Input, Millis, Raft, Restored, State};

/// How a file begins.
const MAGIC: &[u8; 8] = b"RAFTREC\n";

/// Counts up when the encoding of an input, a start or a frame changes.
const FORMAT_VERSION: u32 = 2;

const HEADER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 12;

/// No frame is larger. A checkpoint takes a few bytes for each entry of the log in memory.
const MAX_FRAME_BYTES: usize = 256 << 20;

/// bincode counts a varint as its widest form.
const BINCODE_LIMIT: usize = 4 * MAX_FRAME_BYTES;

/// One thing in a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Item {
    /// The node started.
    Start(Box<Start>),
    /// The file begins in the middle of a run.
    Checkpoint(Box<Checkpoint>),
    Input(Input),
    /// After a flush.
    State {
        /// How many effects came of it.
        effects: u64,
        state: State,
    },
    /// The node stopped in order.
    End,
}

/// What a core was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) config: Config,
    pub(crate) restored: Restored,
    pub(crate) seed: u64,
    pub(crate) now: Millis,
}

/// A core between two inputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Inputs since the node's start.
    pub(crate) step: u64,
    /// The latest of them, which are in no file: the disk did not keep up.
    pub(crate) lost: u64,
    pub(crate) raft: Raft,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BINCODE_LIMIT>()
}

/// Appends an item.
pub(crate) fn encode(item: &Item, bytes: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(item, bytes, config())
        .expect("a Vec takes any write, and bincode encodes every field of an Item");
}

/// How a file begins. The checksum of its first frame goes on from `crc32c(header)`.
pub(crate) fn header() -> Vec<u8> {
    [&MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat()
}

/// What stands before a frame's items, which are no more than [`MAX_FRAME_BYTES`]. `checksum` is the
/// one of the frame before, and becomes this one's.
pub(crate) fn frame_header(items: &[u8], checksum: &mut u32) -> [u8; FRAME_HEADER_BYTES] {
    let length = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    *checksum = crc32c::crc32c_append(*checksum, &bytes[..4]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    *checksum = crc32c::crc32c_append(*checksum, items);
    bytes[8..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Whether a frame may have so many bytes.
pub(crate) fn fits_a_frame(bytes: usize) -> bool {
    bytes <= MAX_FRAME_BYTES
}
