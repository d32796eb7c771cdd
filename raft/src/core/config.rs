//! What a node is told at its birth, and why it may refuse to live.

use super::types::{LogId, LogIndex, NodeId, Term};

/// Who this node is, and the bounds it keeps. The defaults are the original's times and our sizes.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// All members of the cluster, this node among them. Any order, no duplicates.
    pub voters: Vec<NodeId>,
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
    /// Entries kept behind a snapshot, so that a follower that was away briefly needs none.
    pub retained_log_bytes: usize,
}

impl Config {
    /// A node of a cluster, with the default bounds.
    #[must_use]
    pub fn new(id: NodeId, voters: Vec<NodeId>) -> Self {
        Self {
            id,
            voters,
            election_timeout_ms: (300, 500),
            heartbeat_ms: 25,
            max_message_bytes: 1 << 20,
            max_inflight_messages: 8,
            max_inflight_bytes: 8 << 20,
            max_uncommitted_bytes: 64 << 20,
            retained_log_bytes: 8 << 20,
        }
    }

    /// Checks what the algorithm relies on.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut voters = self.voters.clone();
        voters.sort_unstable();
        if let Some(pair) = voters.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::DuplicateVoter { voter: pair[0] });
        }
        if !voters.contains(&self.id) {
            return Err(ConfigError::NotAVoter { id: self.id });
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
        Ok(())
    }
}

/// One hour: a cluster that waits longer for a new leader is a typing error.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// Why [`Raft::new`](super::Raft::new) refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A node that is no member would wait for a leader for ever.
    #[error("node {id} is not among the voters")]
    NotAVoter {
        /// This node.
        id: NodeId,
    },
    /// Counted twice, it would be a majority of its own.
    #[error("voter {voter} is listed twice")]
    DuplicateVoter {
        /// The one listed twice.
        voter: NodeId,
    },
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
