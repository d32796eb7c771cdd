//! The words of the protocol: terms, indexes, nodes, entries (paper §5.1-§5.3).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::membership::Membership;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// Wraps a number read from a wire, a file or a test.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number itself, for a wire, a file or a log line.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// One after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A period with at most one leader, numbered 1, 2, 3... (§5.1). Zero: before any election.
    Term
}

counter! {
    /// A place in the log, numbered from 1. Zero: before the first entry.
    LogIndex
}

counter! {
    /// Numbers a [`WriteBatch`](super::WriteBatch): when the disk reports one, all before it are durable.
    WriteId
}

counter! {
    /// Names a read that waits for its index, in the driver's own numbering.
    ReadId
}

counter! {
    /// Names a call of a peer that waits for its reply, in the driver's own numbering.
    CallId
}

counter! {
    /// Milliseconds of a monotonic clock whose zero the driver chose.
    Millis
}

impl LogIndex {
    /// One before this; stays at zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// This many places further on.
    #[must_use]
    pub const fn plus(self, places: u64) -> Self {
        Self(self.0 + places)
    }
}

impl Millis {
    /// This many milliseconds later.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0 + ms)
    }

    /// How long ago `earlier` was; zero if it has not come yet.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A member of the cluster: the `I` of `nodeIip` in the cluster file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u64);

impl NodeId {
    /// Wraps a number read from a wire, a file or a test.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one log entry. Derived ordering compares term, then index: "more up to date" (§5.4.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogId {
    /// The term in which a leader made the entry.
    pub term: Term,
    /// The entry's place.
    pub index: LogIndex,
}

impl LogId {
    /// Before the first entry of any log.
    pub const ZERO: Self = Self {
        term: Term::ZERO,
        index: LogIndex::ZERO,
    };

    /// The entry that term `term` has at `index`.
    #[must_use]
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    /// `index@term`, as in the scenario files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What an entry asks of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: a new leader appends it to commit what earlier terms left (§5.4.2, §8).
    Empty,
    /// A command, opaque to Raft.
    Command(#[serde(with = "crate::record::sizes")] Bytes),
    /// Who takes part from this entry on (§6).
    Membership(Arc<Membership>),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: LogId,
    /// Its content.
    pub payload: Payload,
}

impl Entry {
    /// Bytes that bounds on memory, messages and the log count for this entry.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::Empty => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => membership.size_bytes(),
        };
        size_of::<Self>() + payload
    }
}

/// What must survive a crash besides the log (Fig. 2, *persistent state*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term this node has seen. Never decreases.
    pub current_term: Term,
    /// Who got this node's vote in `current_term`.
    pub voted_for: Option<NodeId>,
}

/// What one visit to the disk must make durable, in this order: hard state, truncation, entries,
/// then compaction.
///
/// The core merges everything that gathered while the disk was busy into one batch, so a group
/// commit is a batch, and at most a few batches are ever under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// Reported back once this and every earlier batch is durable.
    pub id: WriteId,
    /// The new term and vote, where they changed.
    pub hard_state: Option<HardState>,
    /// A snapshot received from the leader replaced the log: forget every entry, then go on from
    /// the one after this (Fig. 13, rule 7).
    pub reset_to: Option<LogId>,
    /// Forget the entries from this index on (§5.3).
    pub truncate_from: Option<LogIndex>,
    /// Entries to add, of ascending indexes, following what is left of the log.
    pub entries: Vec<Entry>,
    /// A snapshot is durable, and so part of the log may go.
    pub compaction: Option<Compaction>,
}

/// Permission to drop the head of the log (§7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// The last entry that the durable snapshot includes.
    pub snapshot: LogId,
    /// The last entry that may go. At or before `snapshot`: a tail is kept for followers that were
    /// away only briefly.
    pub drop_upto: LogId,
}

/// What storage found at start, already checked for gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The latest snapshot's last included entry; [`LogId::ZERO`] without one.
    pub snapshot: LogId,
    /// The membership that the snapshot includes. Without one, [`Config::initial`](super::Config::initial)
    /// is taken.
    pub membership: Option<Arc<Membership>>,
    /// The entry before `entries[0]`. At or before `snapshot`.
    pub prev: LogId,
    /// The log after `prev`, of ascending indexes without a gap. Where it ends before `snapshot`
    /// storage hands out none and sets `prev = snapshot`.
    pub entries: Vec<Entry>,
}
