//! What a log entry asks of the state machine.
//!
//! A [`Command`] is an operation, who asks it, and when: `when` is the log's own time, stamped by the
//! leader ([`LogClock`](crate::LogClock)), because expiry must fall the same way on every node. Its bytes:
//! [`codec`](crate::codec). New operations go to the end of [`Op`]: a variant's place is its number in
//! the log.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::owned_bytes;

/// A log entry's content, unless the entry is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The leader's stamp. May lag behind what was applied already; the state machine takes the larger.
    pub log_time: LogTime,
    /// Whose memory recognises a repetition.
    pub writer: Writer,
    /// What to do.
    pub op: Op,
}

impl Command {
    /// Opens a session. Its reply names the session: the entry's log index.
    #[must_use]
    pub fn open_session(log_time: LogTime) -> Command {
        Command {
            log_time,
            writer: Writer::None,
            op: Op::OpenSession,
        }
    }

    /// Notes that a caller of the original began anew with a read (see [`Op::BeginLegacy`]).
    #[must_use]
    pub fn begin_legacy(log_time: LogTime, client: Bytes) -> Command {
        Command {
            log_time,
            writer: Writer::None,
            op: Op::BeginLegacy { client },
        }
    }
}

/// What to do. Reads are not here: they need no log entry (`ReadIndex`, thesis §6.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Opens a session. Reads no [`Writer`]; asked twice, it opens two.
    OpenSession,
    /// A caller of the original asked a Get numbered 1: its numbers start again, and Gets are not in
    /// the log. Its table goes to "last request 1, which wrote nothing", so that request 2 runs. Reads no
    /// [`Writer`].
    BeginLegacy {
        /// The caller's `ClientId`.
        #[serde(with = "owned_bytes")]
        client: Bytes,
    },
    /// Sets a key's value, whether or not it had one.
    Put {
        /// Any bytes, also none.
        #[serde(with = "owned_bytes")]
        key: Bytes,
        /// Any bytes, also none.
        #[serde(with = "owned_bytes")]
        value: Bytes,
    },
    /// Adds `value` to the end of the key's value; an absent key is created with it.
    Append {
        /// Any bytes, also none.
        #[serde(with = "owned_bytes")]
        key: Bytes,
        /// Any bytes, also none.
        #[serde(with = "owned_bytes")]
        value: Bytes,
    },
}

/// Who asks for a write: the memory by which its repetition is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writer {
    /// Nobody in particular. Nothing is remembered: the same write in a second entry runs again.
    None,
    /// A session's client, with any number of requests in flight (thesis §6.3).
    Session {
        /// From the reply to [`Op::OpenSession`].
        id: SessionId,
        /// The request's number in its session: from 1, arriving in any order.
        request: RequestId,
        /// Every request up to this one has been answered to the client, which will not ask it again.
        replies_seen_upto: RequestId,
    },
    /// A caller of the C++ original: one request in flight, numbered 1, 2, 3..., reads included.
    Legacy {
        /// Its `ClientId`, which all processes of the original share.
        #[serde(with = "owned_bytes")]
        client: Bytes,
        /// Its `RequestId`.
        request: RequestId,
    },
}

/// Names a session: the log index of the entry that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(u64);

impl SessionId {
    /// The session opened by the entry at `index`; 0 is no session's.
    #[must_use]
    pub const fn new(index: u64) -> SessionId {
        SessionId(index)
    }

    /// The number, as it goes to the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A request's number in its session, or a legacy caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(u64);

impl RequestId {
    /// Before the first request.
    pub const ZERO: RequestId = RequestId(0);
    /// The first request of a session, or of a legacy caller's process.
    pub const FIRST: RequestId = RequestId(1);

    /// The request with that number.
    #[must_use]
    pub const fn new(number: u64) -> RequestId {
        RequestId(number)
    }

    /// The number, as it goes to the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Time as the log tells it: milliseconds since the cluster began. Never a wall clock's.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogTime(u64);

impl LogTime {
    /// When the cluster began.
    pub const ZERO: LogTime = LogTime(0);

    /// So many milliseconds after the cluster began.
    #[must_use]
    pub const fn from_millis(millis: u64) -> LogTime {
        LogTime(millis)
    }

    /// Milliseconds since the cluster began.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: LogTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
