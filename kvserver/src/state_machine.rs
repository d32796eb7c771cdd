//! The replicated state machine: log entries in, outcomes out.
//!
//! ```text
//!                 ┌────────────────────── StateMachine ──────────────────────┐
//! (index, term,   │ decode ─> log time ─> expire idle ─> seen before? ─> run │ ─> Outcome
//!  command) ────> │                            sessions, legacy      engine  │
//!                 └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything here follows from the log alone: no clock, no randomness, no hash order. Two nodes that
//! applied the same entries hold the same pairs, sessions and [`Digest`], whichever of them came by a part
//! of it through a snapshot.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::codec::{self, DecodeError};
use crate::command::{Command, LogTime, Op, RequestId, Writer};
use crate::engine::{Engine, EngineError};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::session::{LegacyTable, LegacyVerdict, LegacyWrite, Limits, Moment, Recency};
use crate::session::{SessionTable, Verdict};

/// What the outcome of an entry depends on, apart from the log.
///
/// **The same on all nodes of a cluster, or their states part.** Changing them means stopping all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMachineOptions {
    /// A session idle for longer than this, by the log's time, is forgotten. Whole milliseconds count.
    pub session_ttl: Duration,
    /// At most so many sessions, and at most so many legacy callers, are remembered; the least recently
    /// used is forgotten for a new one.
    pub max_sessions: u32,
    /// No value grows longer than this, in bytes.
    pub max_value_bytes: u32,
}

impl Default for StateMachineOptions {
    fn default() -> StateMachineOptions {
        StateMachineOptions {
            session_ttl: Duration::from_hours(1),
            max_sessions: 100_000,
            max_value_bytes: 32 << 20,
        }
    }
}

impl StateMachineOptions {
    fn limits(&self) -> Limits {
        Limits {
            ttl_ms: u64::try_from(self.session_ttl.as_millis()).unwrap_or(u64::MAX),
            max_entries: usize::try_from(self.max_sessions).unwrap_or(usize::MAX),
        }
    }
}

/// Names the last entry applied. Both are 0 before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
}

impl fmt::Display for Applied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.index, self.term)
    }
}

/// A running fingerprint of all entries applied and of what came of them: a CRC-32C that each entry
/// continues.
///
/// Equal on all nodes at the same index. Once two nodes' digests differ, each further entry keeps them
/// apart, because a CRC continued by the same bytes maps different values to different ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(u32);

impl Digest {
    pub(crate) const fn new(digest: u32) -> Digest {
        Digest(digest)
    }

    /// The digest as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// The store's state, changed by log entries alone.
///
/// One thread owns it. Its state leaves as a snapshot ([`StateMachine::begin_snapshot`]) that another
/// thread writes out meanwhile, and comes back through [`StateMachine::restore`].
pub struct StateMachine<E> {
    pub(crate) engine: E,
    pub(crate) sessions: SessionTable,
    pub(crate) legacy: LegacyTable,
    pub(crate) applied: Applied,
    /// The largest stamp of any command applied.
    pub(crate) log_time: LogTime,
    pub(crate) digest: Digest,
    options: StateMachineOptions,
}

impl<E: Engine> StateMachine<E> {
    /// The state before the first entry: `engine` is cleared.
    ///
    /// # Errors
    /// [`EngineError`]: the engine could not be cleared.
    pub fn new(
        mut engine: E,
        options: StateMachineOptions,
    ) -> Result<StateMachine<E>, EngineError> {
        engine.clear()?;
        Ok(StateMachine {
            engine,
            sessions: Recency::new(),
            legacy: Recency::new(),
            applied: Applied::default(),
            log_time: LogTime::ZERO,
            digest: Digest::default(),
            options,
        })
    }

    /// Applies the entry after the last one applied. `command` as [`codec::encode`] wrote it.
    ///
    /// Costs O(log n) in the number of keys and of sessions. An `Append` copies the whole value: a value
    /// built up by n appends is copied n times, which `max_value_bytes` bounds.
    ///
    /// # Errors
    /// [`ApplyError`]. The entry is not applied, and the node must stop: the others may go on without
    /// it, but it cannot go on without the entry. After [`ApplyError::Engine`] the state is not
    /// usable any more.
    pub fn apply(&mut self, index: u64, term: u64, command: &[u8]) -> Result<Outcome, ApplyError> {
        self.check_next(index, term)?;
        let Command {
            log_time,
            writer,
            op,
        } = codec::decode(command).map_err(|source| ApplyError::Decode { index, source })?;

        self.log_time = self.log_time.max(log_time);
        let now = Moment {
            index,
            time: self.log_time,
        };
        self.sessions.expire(now.time, self.options.limits());
        self.legacy.expire(now.time, self.options.limits());

        let outcome = match op {
            Op::OpenSession => {
                Outcome::SessionOpened(self.sessions.open(now, self.options.limits()))
            }
            Op::BeginLegacy { client } => {
                match self.legacy.begin(client, now, self.options.limits()) {
                    Ok(()) => Outcome::Nothing,
                    Err(refusal) => Outcome::Refused(refusal),
                }
            }
            Op::Put { key, value } => self.write(writer, Write::Put(key, value), now)?,
            Op::Append { key, value } => self.write(writer, Write::Append(key, value), now)?,
        };
        self.finish(index, term, command, &outcome);
        Ok(outcome)
    }

    /// Applies an entry without a command: the one with which a leader begins its term.
    ///
    /// # Errors
    /// [`ApplyError::OutOfOrder`] and [`ApplyError::TermWentBack`].
    pub fn apply_empty(&mut self, index: u64, term: u64) -> Result<Outcome, ApplyError> {
        self.check_next(index, term)?;
        self.finish(index, term, &[], &Outcome::Nothing);
        Ok(Outcome::Nothing)
    }

    /// The value of `key`, as of the last entry applied.
    ///
    /// # Errors
    /// [`EngineError`]: storage failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(key)
    }

    /// Whether a legacy Get numbered 1 needs an [`Op::BeginLegacy`] in the log before it is answered.
    ///
    /// Not if the client is unknown, or is as `BeginLegacy` would leave it.
    #[must_use]
    pub fn needs_begin_legacy(&self, client: &[u8]) -> bool {
        let known = self.legacy.peek(client);
        known.is_some_and(|known| known.last > RequestId::FIRST || known.write.is_some())
    }

    /// The last entry applied.
    #[must_use]
    pub fn last_applied(&self) -> Applied {
        self.applied
    }

    /// The largest stamp of any command applied: what [`LogClock::observe`](crate::LogClock::observe) takes.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// The fingerprint of everything applied up to [`StateMachine::last_applied`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.engine.len()
    }

    /// The length of all keys and values together.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.engine.bytes()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many callers of the original are remembered.
    #[must_use]
    pub fn legacy_client_count(&self) -> usize {
        self.legacy.len()
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &StateMachineOptions {
        &self.options
    }

    fn check_next(&self, index: u64, term: u64) -> Result<(), ApplyError> {
        if index.checked_sub(1) != Some(self.applied.index) {
            return Err(ApplyError::OutOfOrder {
                index,
                applied: self.applied,
            });
        }
        if term < self.applied.term {
            return Err(ApplyError::TermWentBack {
                index,
                term,
                applied: self.applied,
            });
        }
        Ok(())
    }

    /// Runs a write, unless its writer is remembered to have asked it before.
    fn write(&mut self, writer: Writer, write: Write, now: Moment) -> Result<Outcome, EngineError> {
        let max_value_bytes = self.options.max_value_bytes;
        match writer {
            Writer::None => {
                let reply = run(&mut self.engine, write, max_value_bytes)?;
                Ok(Outcome::Applied(reply))
            }
            Writer::Session {
                id,
                request,
                replies_seen_upto,
            } => match self.sessions.admit(id, request, replies_seen_upto, now) {
                Verdict::New(remembered) => {
                    let reply = run(&mut self.engine, write, max_value_bytes)?;
                    *remembered = Some(reply.clone());
                    Ok(Outcome::Applied(reply))
                }
                Verdict::Repeated(reply) => Ok(Outcome::Repeated(reply.clone())),
                Verdict::Refused(refusal) => Ok(Outcome::Refused(refusal)),
            },
            Writer::Legacy { client, request } => {
                let fingerprint = write.fingerprint();
                match self.legacy.admit(&client, request, fingerprint, now) {
                    LegacyVerdict::New => {
                        let reply = run(&mut self.engine, write, max_value_bytes)?;
                        let done = LegacyWrite {
                            fingerprint,
                            reply: reply.clone(),
                        };
                        self.legacy
                            .ran(client, request, done, now, self.options.limits());
                        Ok(Outcome::Applied(reply))
                    }
                    LegacyVerdict::Repeated(reply) => Ok(Outcome::Repeated(reply)),
                    LegacyVerdict::Refused(refusal) => Ok(Outcome::Refused(refusal)),
                }
            }
        }
    }

    fn finish(&mut self, index: u64, term: u64, command: &[u8], outcome: &Outcome) {
        self.applied = Applied { index, term };
        self.digest.add(&index.to_le_bytes());
        self.digest.add(&term.to_le_bytes());
        self.digest.add(command);
        self.digest.add(&[outcome_tag(outcome)]);
    }
}

impl<E> StateMachine<E> {
    /// Puts a state machine together from the parts that a snapshot brought.
    pub(crate) fn from_parts(
        engine: E,
        sessions: SessionTable,
        legacy: LegacyTable,
        applied: Applied,
        log_time: LogTime,
        digest: Digest,
        options: StateMachineOptions,
    ) -> StateMachine<E> {
        StateMachine {
            engine,
            sessions,
            legacy,
            applied,
            log_time,
            digest,
            options,
        }
    }
}

/// An [`Op`] that changes pairs, as against those that change sessions.
enum Write {
    Put(Bytes, Bytes),
    Append(Bytes, Bytes),
}

impl Write {
    /// Tells two operations apart that came under the same legacy number.
    fn fingerprint(&self) -> u32 {
        let (kind, key, value) = match self {
            Write::Put(key, value) => (0_u8, key, value),
            Write::Append(key, value) => (1_u8, key, value),
        };
        let crc = crc32c::crc32c(&[kind]);
        let crc = crc32c::crc32c_append(crc, &(key.len() as u64).to_le_bytes());
        let crc = crc32c::crc32c_append(crc, key);
        crc32c::crc32c_append(crc, value)
    }
}

fn run<E: Engine>(engine: &mut E, write: Write, max_bytes: u32) -> Result<Reply, EngineError> {
    let max_bytes = u64::from(max_bytes);
    match write {
        Write::Put(key, value) => {
            if value.len() as u64 > max_bytes {
                return Ok(Reply::ValueTooLarge);
            }
            engine.put(key, value)?;
        }
        Write::Append(key, tail) => {
            let head = engine.get(&key)?.unwrap_or_default();
            if head.len() as u64 + tail.len() as u64 > max_bytes {
                return Ok(Reply::ValueTooLarge);
            }
            let mut value = BytesMut::with_capacity(head.len() + tail.len());
            value.extend_from_slice(&head);
            value.extend_from_slice(&tail);
            engine.put(key, value.freeze())?;
        }
    }
    Ok(Reply::Done)
}

/// What of an outcome goes into the digest, so that nodes which applied the same command with another
/// result are found out. Each distinct outcome has its own number, for good.
fn outcome_tag(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Nothing => 0,
        Outcome::SessionOpened(_) => 1,
        Outcome::Applied(Reply::Done) => 2,
        Outcome::Applied(Reply::ValueTooLarge) => 3,
        Outcome::Repeated(Reply::Done) => 4,
        Outcome::Repeated(Reply::ValueTooLarge) => 5,
        Outcome::Refused(Refusal::SessionExpired) => 6,
        Outcome::Refused(Refusal::StaleDuplicate) => 7,
        Outcome::Refused(Refusal::TooFarAhead) => 8,
        Outcome::Refused(Refusal::ClientIdTooLong) => 9,
    }
}

/// Why an entry could not be applied. Each of them stops the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Not the entry after the last one applied.
    #[error("entry {index} does not follow {applied}, the last one applied")]
    OutOfOrder {
        /// The entry's index.
        index: u64,
        /// The last entry applied.
        applied: Applied,
    },
    /// Of an older term than the entry before it.
    #[error("entry {index} is of term {term}, older than that of {applied}, the last one applied")]
    TermWentBack {
        /// The entry's index.
        index: u64,
        /// The entry's term.
        term: u64,
        /// The last entry applied.
        applied: Applied,
    },
    /// Not a command that this version knows.
    #[error("entry {index} cannot be read")]
    Decode {
        /// The entry's index.
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// Storage failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
