//! What a node is told at its birth, and why it may refuse to live.

use serde::{Deserialize, Serialize};

use super::membership::Membership;
use super::types::{LogId, LogIndex, NodeId, Term};

/// Who this node is, and the bounds it keeps. The defaults are the original's times and our sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The members with which the cluster began, the same on all of them; in force until the log or
    /// a snapshot says otherwise. Empty in a node that joins later: it waits to be called.
    pub initial: Membership,
    /// Shortest and longest election timeout (§5.2), inclusive, in milliseconds. Each wait draws
    /// anew. The shortest is also how long a vote is refused after a leader was heard (§4.2.3 of the
    /// thesis); the longest, how long a leader goes on without hearing from a majority (§6.2).
    pub election_timeout_ms: (u64, u64),
    /// Between two heartbeats of a leader. Well below the shortest election timeout.
    pub heartbeat_ms: u64,
    /// Entries in one `AppendEntries`, by [`Entry::size_bytes`](super::Entry::size_bytes). A single
    /// larger entry goes alone.
    pub max_message_bytes: usize,
    /// `AppendEntries` with entries under way to one follower. Few: what gathers meanwhile makes
    /// the next one larger, and the follower's syncs fewer.
    pub max_inflight_messages: usize,
    /// Bytes of entries under way to one follower. The message that crosses the bound still goes.
    pub max_inflight_bytes: usize,
    /// Proposals that a leader holds without having applied them, committed or not; more are
    /// refused as [`Overloaded`](super::ProposeError::Overloaded). One alone is always allowed.
    pub max_uncommitted_bytes: usize,
    /// Entries in memory, applied or not. Beyond it a leader takes no proposal
    /// ([`Overloaded`](super::ProposeError::Overloaded)), and a follower no entries
    /// ([`Full`](super::AppendOutcome::Full)) while so much of them is committed: its state machine or
    /// its snapshots stand still, and what they leave behind must not fill the memory.
    pub max_log_bytes: usize,
    /// Entries kept behind a snapshot, so that a follower that was away briefly needs none. Less than
    /// half of `max_log_bytes`.
    pub retained_log_bytes: usize,
    /// Reads without a round of messages; `None`: each waits for one (thesis §6.4.1).
    pub lease: Option<Lease>,
}

/// Lets a leader answer reads by the clock: while no other can have been elected, it need not ask.
///
/// **The assumption**: between any two members, one clock gains on the other by at most
/// `max_drift_percent` over one election timeout. Clocks may show any time, and a process may pause
/// for any length; but one whose clock runs slower than that while it leads may answer a read from
/// a state that another leader has gone beyond. So is a machine that is suspended, or moved as a
/// virtual one, if its monotonic clock stands still meanwhile. Whoever cannot promise this leaves
/// leases off.
///
/// All members must have it on or off alike: a node with leases gives no vote in the first election
/// timeout after its start, as it may have promised silence to a leader before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// From 0 to 99. Shortens each lease by so much of the shortest election timeout.
    pub max_drift_percent: u64,
}

impl Lease {
    /// How long a leader may trust a confirmation, from when it was asked for.
    pub(super) fn length_ms(self, shortest_election_timeout_ms: u64) -> u64 {
        shortest_election_timeout_ms * (100 - self.max_drift_percent) / 100
    }
}

impl Config {
    /// A node of a cluster, with the default bounds.
    #[must_use]
    pub fn new(id: NodeId, initial: Membership) -> Self {
        Self {
            id,
            initial,
            election_timeout_ms: (300, 500),
            heartbeat_ms: 25,
            max_message_bytes: 1 << 20,
            max_inflight_messages: 8,
            max_inflight_bytes: 8 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_log_bytes: 256 << 20,
            retained_log_bytes: 8 << 20,
            lease: None,
        }
    }

    /// Checks what the algorithm relies on.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.initial != Membership::default() && !self.initial.contains(self.id) {
            return Err(ConfigError::NotAMember { id: self.id });
        }
        if self.lease.is_some_and(|lease| lease.max_drift_percent > 99) {
            return Err(ConfigError::Drift);
        }
        let (min, max) = self.election_timeout_ms;
        if self.heartbeat_ms == 0 || self.heartbeat_ms >= min || min > max || max > MAX_TIMEOUT_MS {
            return Err(ConfigError::Timing {
                heartbeat_ms: self.heartbeat_ms,
                min,
                max,
            });
        }
        if self.max_message_bytes == 0
            || self.max_inflight_messages == 0
            || self.max_inflight_bytes == 0
        {
            return Err(ConfigError::NothingInFlight);
        }
        if self.retained_log_bytes >= self.max_log_bytes.div_ceil(2) {
            return Err(ConfigError::LogBounds {
                retained: self.retained_log_bytes,
                max: self.max_log_bytes,
            });
        }
        Ok(())
    }
}

/// One hour: a cluster that waits longer for a new leader is a typing error.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// Why [`Raft::new`](super::Raft::new) refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A node that takes part in nothing would wait for a leader for ever.
    #[error("node {id} is not among the members it was started with")]
    NotAMember {
        /// This node.
        id: NodeId,
    },
    /// A lease shortened by all of itself is none.
    #[error("the drift of clocks that a lease allows for must be at most 99 percent")]
    Drift,
    /// Heartbeats must fit into the shortest election timeout, several times (§5.6).
    #[error(
        "0 < heartbeat {heartbeat_ms} ms < shortest election timeout {min} ms <= longest {max} ms <= one hour must hold"
    )]
    Timing {
        /// As configured.
        heartbeat_ms: u64,
        /// As configured.
        min: u64,
        /// As configured.
        max: u64,
    },
    /// With a bound of zero nothing would ever be replicated.
    #[error("the bounds of a message and of the messages in flight must not be zero")]
    NothingInFlight,
    /// What a snapshot leaves behind would keep the log at its bound for ever.
    #[error(
        "{retained} bytes of log behind a snapshot must be less than half of the {max} that there may be in all"
    )]
    LogBounds {
        /// As configured.
        retained: usize,
        /// As configured.
        max: usize,
    },
    /// Storage handed over entries that do not follow one another.
    #[error("the restored log has {found} where an entry after {before} belongs")]
    BrokenLog {
        /// The entry before the wrong one.
        before: LogId,
        /// The wrong one.
        found: LogId,
    },
    /// An entry of a term that this node has not entered: the term was lost, and a vote with it.
    #[error("the restored log ends in term {log}, but the restored term is {hard_state}")]
    LostTerm {
        /// Of the last entry or the snapshot.
        log: Term,
        /// As restored.
        hard_state: Term,
    },
    /// The log begins after the snapshot ends: entries between them are missing.
    #[error("the restored log begins after entry {prev}, but the snapshot ends at {snapshot}")]
    Gap {
        /// The entry before the log's first.
        prev: LogIndex,
        /// The snapshot's last.
        snapshot: LogIndex,
    },
}
