//! A snapshot's bytes: the whole state at one log entry, written while the writes go on.
//!
//! ```text
//! snapshot = "KVSTATE" version (1 byte: 1)
//!            index u64 | term u64 | log_time_ms u64 | digest u32
//!            sessions u32 | session ...      least recently used first
//!            clients  u32 | legacy client ...  likewise
//!            pairs    u64 | (key_bytes u32 | key | value_bytes u32 | value) ...  ascending by key
//!            "END"
//!
//! session       = id u64 | last_index u64 | last_time_ms u64 | seen_upto u64 | replies u16 | reply ...
//! reply         = 0: not run yet | 1: done | 2: value too large          (1 byte)
//! legacy client = id_bytes u16 | id | last_index u64 | last_time_ms u64 | last_request u64
//!                 | reply (0: a read) | fingerprint u32 (absent after 0)
//! ```
//!
//! Integers are little-endian. The same state gives the same bytes on every node. The stream carries
//! no checksum of its own: the snapshot file that holds it does.
//!
//! Both directions stream: beside the state itself they need a buffer. No length that the input claims
//! reserves memory before the bytes are there.

use std::collections::VecDeque;
use std::io::{self, BufReader, BufWriter, Read, Write};

use bytes::Bytes;

use crate::command::{LogTime, RequestId, SessionId};
use crate::engine::{Engine, EngineError, EngineView};
use crate::outcome::Reply;
use crate::session::{
    LegacyClient, LegacyTable, LegacyWrite, MAX_CLIENT_ID_BYTES, MAX_REPLIES_PER_SESSION, Moment,
    Recency, ReplyWindow, SessionTable,
};
use crate::state_machine::{Applied, Digest, StateMachine, StateMachineOptions};

const MAGIC: &[u8; 7] = b"KVSTATE";
/// The format that is written, and the only one that is read.
const FORMAT_VERSION: u8 = 1;
const END: &[u8; 3] = b"END";

/// What is read or written at once, and what a claimed length may reserve before its bytes arrive.
const BUFFER_BYTES: usize = 64 << 10;

const NO_REPLY: u8 = 0;
const REPLY_DONE: u8 = 1;
const REPLY_VALUE_TOO_LARGE: u8 = 2;

/// The state as it was when the snapshot began, to be written out by whichever thread has the time.
///
/// The pairs come from a view of the engine, which shows them as they were. What comes before them in
/// the stream (meta data and sessions) is small, and is kept encoded.
pub struct Snapshot<V> {
    applied: Applied,
    /// Everything before the pairs.
    head: Vec<u8>,
    view: V,
}

impl<E: Engine> StateMachine<E> {
    /// Begins a snapshot of the state as of [`last_applied`](StateMachine::last_applied). `None` while an
    /// earlier one is not written yet (nor dropped).
    ///
    /// Costs a pass over the sessions (about 10 ms for 100,000 of them), and nothing for the pairs.
    pub fn begin_snapshot(&mut self) -> Option<Snapshot<E::View>> {
        let view = self.engine.begin_view()?;
        let mut head = Vec::new();
        self.encode_head(&mut head);
        Some(Snapshot {
            applied: self.applied,
            head,
            view,
        })
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.push(FORMAT_VERSION);
        put_u64(out, self.applied.index);
        put_u64(out, self.applied.term);
        put_u64(out, self.log_time.as_millis());
        put_u32(out, self.digest.get());

        put_u32(out, len_u32(self.sessions.len()));
        for (id, last, window) in self.sessions.iter() {
            put_u64(out, id.get());
            put_moment(out, last);
            put_u64(out, window.seen_upto());
            put_u16(out, len_u16(window.replies().len()));
            out.extend(
                window
                    .replies()
                    .iter()
                    .map(|reply| reply_tag(reply.as_ref())),
            );
        }

        put_u32(out, len_u32(self.legacy.len()));
        for (id, last, client) in self.legacy.iter() {
            put_u16(out, len_u16(id.len()));
            out.extend_from_slice(id);
            put_moment(out, last);
            put_u64(out, client.last.get());
            out.push(reply_tag(client.write.as_ref().map(|write| &write.reply)));
            if let Some(write) = &client.write {
                put_u32(out, write.fingerprint);
            }
        }
    }
}

impl<V: EngineView> Snapshot<V> {
    /// The entry whose state this is.
    #[must_use]
    pub fn last_included(&self) -> Applied {
        self.applied
    }

    /// Writes the whole stream. It is not flushed to disk: that is the file's business.
    ///
    /// # Errors
    /// [`SnapshotError`]: what was written so far is worth nothing.
    pub fn write_to(self, out: impl Write) -> Result<(), SnapshotError> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        out.write_all(&self.head)?;
        out.write_all(&(self.view.total() as u64).to_le_bytes())?;
        for pair in self.view {
            let (key, value) = pair?;
            out.write_all(&len_u32(key.len()).to_le_bytes())?;
            out.write_all(&key)?;
            out.write_all(&len_u32(value.len()).to_le_bytes())?;
            out.write_all(&value)?;
        }
        out.write_all(END)?;
        out.flush()?;
        Ok(())
    }
}

impl<E: Engine> StateMachine<E> {
    /// The state that a snapshot holds. It *replaces* what `engine` held: a key that the snapshot lacks
    /// is gone (failure 81).
    ///
    /// # Errors
    /// [`RestoreError`]. `engine` is dropped, half filled.
    pub fn restore(
        mut engine: E,
        options: StateMachineOptions,
        input: impl Read,
    ) -> Result<StateMachine<E>, RestoreError> {
        let mut input = Input(BufReader::with_capacity(BUFFER_BYTES, input));
        if input.array()? != *MAGIC {
            return Err(RestoreError::NotASnapshot);
        }
        let [version] = input.array()?;
        if version != FORMAT_VERSION {
            return Err(RestoreError::UnknownVersion { version });
        }
        let applied = Applied {
            index: input.u64()?,
            term: input.u64()?,
        };
        let now = Moment {
            index: applied.index,
            time: LogTime::from_millis(input.u64()?),
        };
        let digest = Digest::new(input.u32()?);
        let sessions = input.sessions(now)?;
        let legacy = input.legacy(now)?;

        engine.clear()?;
        input.pairs(&mut engine)?;
        if input.array()? != *END {
            return Err(RestoreError::Malformed("no end mark after the last pair"));
        }
        input.expect_end()?;
        Ok(StateMachine::from_parts(
            engine, sessions, legacy, applied, now.time, digest, options,
        ))
    }
}

/// The stream, read piece by piece.
struct Input<R>(BufReader<R>);

impl<R: Read> Input<R> {
    fn sessions(&mut self, now: Moment) -> Result<SessionTable, RestoreError> {
        let mut sessions = Recency::new();
        for _ in 0..self.u32()? {
            let id = self.u64()?;
            let last = self.moment()?;
            let seen_upto = self.u64()?;
            let replies = self.u16()?;
            if u64::from(replies) > MAX_REPLIES_PER_SESSION {
                return Err(RestoreError::Malformed("more replies than a session keeps"));
            }
            let replies: VecDeque<Option<Reply>> = (0..replies)
                .map(|_| self.reply())
                .collect::<Result<_, _>>()?;
            let window = ReplyWindow::restore(seen_upto, replies)
                .ok_or(RestoreError::Malformed("a session's last reply is none"))?;
            if id > last.index {
                return Err(RestoreError::Malformed(
                    "a session used before it was opened",
                ));
            }
            sessions
                .restore(SessionId::new(id), window, last, now)
                .ok_or(RestoreError::Malformed("sessions out of order"))?;
        }
        Ok(sessions)
    }

    fn legacy(&mut self, now: Moment) -> Result<LegacyTable, RestoreError> {
        let mut legacy = Recency::new();
        for _ in 0..self.u32()? {
            let id_bytes = self.u16()?;
            if usize::from(id_bytes) > MAX_CLIENT_ID_BYTES {
                return Err(RestoreError::Malformed("a legacy client id too long"));
            }
            let id = self.byte_string(u32::from(id_bytes))?;
            let last = self.moment()?;
            let last_request = RequestId::new(self.u64()?);
            let write = match self.reply()? {
                Some(reply) => Some(LegacyWrite {
                    fingerprint: self.u32()?,
                    reply,
                }),
                None => None,
            };
            let client = LegacyClient {
                last: last_request,
                write,
            };
            legacy
                .restore(id, client, last, now)
                .ok_or(RestoreError::Malformed("legacy clients out of order"))?;
        }
        Ok(legacy)
    }

    fn pairs(&mut self, engine: &mut impl Engine) -> Result<(), RestoreError> {
        let mut previous: Option<Bytes> = None;
        for _ in 0..self.u64()? {
            let key_bytes = self.u32()?;
            let key = self.byte_string(key_bytes)?;
            if previous.is_some_and(|previous| previous >= key) {
                return Err(RestoreError::Malformed("keys out of order"));
            }
            previous = Some(key.clone());
            let value_bytes = self.u32()?;
            let value = self.byte_string(value_bytes)?;
            engine.put(key, value)?;
        }
        Ok(())
    }

    fn expect_end(&mut self) -> Result<(), RestoreError> {
        let mut beyond = Vec::new();
        self.0.by_ref().take(1).read_to_end(&mut beyond)?;
        if beyond.is_empty() {
            Ok(())
        } else {
            Err(RestoreError::Malformed("bytes after the end mark"))
        }
    }

    fn reply(&mut self) -> Result<Option<Reply>, RestoreError> {
        match self.array()? {
            [NO_REPLY] => Ok(None),
            [REPLY_DONE] => Ok(Some(Reply::Done)),
            [REPLY_VALUE_TOO_LARGE] => Ok(Some(Reply::ValueTooLarge)),
            _ => Err(RestoreError::Malformed("a reply of an unknown kind")),
        }
    }

    fn moment(&mut self) -> Result<Moment, RestoreError> {
        Ok(Moment {
            index: self.u64()?,
            time: LogTime::from_millis(self.u64()?),
        })
    }

    /// So many bytes, in memory of their own. The claim reserves a buffer's worth at most; the rest is
    /// reserved as it arrives.
    fn byte_string(&mut self, len: u32) -> Result<Bytes, RestoreError> {
        let mut bytes = Vec::with_capacity(BUFFER_BYTES.min(len as usize));
        self.0
            .by_ref()
            .take(u64::from(len))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 != u64::from(len) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        bytes.shrink_to_fit(); // it stays for as long as the key does
        Ok(bytes.into())
    }

    fn u16(&mut self) -> Result<u16, RestoreError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, RestoreError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, RestoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let mut array = [0; N];
        self.0.read_exact(&mut array)?;
        Ok(array)
    }
}

/// Why a snapshot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading the state failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Writing failed.
    #[error("cannot write the snapshot")]
    Write(#[from] io::Error),
}

/// Why a snapshot could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It begins with something else.
    #[error("not a snapshot of the store")]
    NotASnapshot,
    /// Written by a newer (or a much older) node.
    #[error("snapshot of format version {version}; this node reads version {FORMAT_VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// It breaks a rule of the format.
    #[error("malformed snapshot: {0}")]
    Malformed(&'static str),
    /// It ends too early.
    #[error("the snapshot is cut off")]
    Truncated,
    /// Reading failed.
    #[error("cannot read the snapshot")]
    Read(#[source] io::Error),
    /// Storing the pairs failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> RestoreError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            RestoreError::Truncated
        } else {
            RestoreError::Read(error)
        }
    }
}

fn put_moment(out: &mut Vec<u8>, moment: Moment) {
    put_u64(out, moment.index);
    put_u64(out, moment.time.as_millis());
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn reply_tag(reply: Option<&Reply>) -> u8 {
    match reply {
        None => NO_REPLY,
        Some(Reply::Done) => REPLY_DONE,
        Some(Reply::ValueTooLarge) => REPLY_VALUE_TOO_LARGE,
    }
}

fn len_u16(len: usize) -> u16 {
    u16::try_from(len).expect("replies and client ids are bounded well below")
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("keys, values and tables are bounded by a u32 or less")
}
