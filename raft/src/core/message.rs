//! What nodes say to each other (paper, Figures 2 and 13).

use bytes::Bytes;

use super::types::{Entry, LogId, LogIndex, Term};

/// A request to a peer, or the reply to one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the paper's; those that are not say what they are"
)]
pub enum Message {
    /// §5.2. Also a heartbeat, with no entries.
    AppendEntries {
        term: Term,
        prev_log: LogId,
        entries: Vec<Entry>,
        leader_commit: LogIndex,
        /// Echoed in the reply: confirms leadership for the reads of this round (thesis §6.4).
        round: u64,
    },
    /// §5.3.
    AppendEntriesReply {
        term: Term,
        outcome: AppendOutcome,
        round: u64,
    },
    /// §5.2, §5.4.1.
    RequestVote {
        term: Term,
        last_log: LogId,
        /// Asks only whether a vote would be given: nobody's term changes (thesis §9.6).
        pre_vote: bool,
    },
    /// §5.2.
    RequestVoteReply {
        term: Term,
        vote_granted: bool,
        pre_vote: bool,
    },
    /// §7, Fig. 13: one chunk.
    InstallSnapshot {
        term: Term,
        last_included: LogId,
        /// Where `data` belongs in the snapshot file, in bytes.
        offset: u64,
        data: Bytes,
        /// This chunk is the last.
        done: bool,
    },
    /// §7.
    InstallSnapshotReply {
        term: Term,
        last_included: LogId,
        /// Where the next chunk must start, in bytes.
        next_offset: u64,
        /// The snapshot, or a later state, is durable at the follower.
        installed: bool,
    },
}

/// A follower's verdict on an `AppendEntries` (§5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The log equals the leader's, and is durable, up to here. Never more than the message proves.
    Accepted {
        /// The last index so proven.
        match_index: LogIndex,
    },
    /// No entry of that term at `prev_log`, or the sender's term is over.
    Rejected {
        /// The `prev_log.index` that did not match: tells which request this answers.
        rejected: LogIndex,
        /// The last entry at which the logs may still agree: the leader skips to it, a whole term
        /// at a time.
        hint: LogId,
    },
}

impl Message {
    /// The sender's term.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::AppendEntries { term, .. }
            | Self::AppendEntriesReply { term, .. }
            | Self::RequestVote { term, .. }
            | Self::RequestVoteReply { term, .. }
            | Self::InstallSnapshot { term, .. }
            | Self::InstallSnapshotReply { term, .. } => *term,
        }
    }
}
