//! What nodes say to each other (paper, Figures 2 and 13).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LogId, LogIndex, Term};

/// A request to a peer, or the reply to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        /// The leader itself asked for this election: that it was heard lately is no reason to
        /// refuse (thesis §4.2.3).
        transfer: bool,
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
        #[serde(with = "crate::record::sizes")]
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
    /// The leader hands over: stand for election now (thesis §3.10).
    TimeoutNow { term: Term },
    /// It was heard. Whether the election is won, the votes tell.
    TimeoutNowReply { term: Term },
    /// A follower asks from which index on its own state answers a read (thesis §6.4).
    ReadIndex {
        term: Term,
        /// Echoed in the reply.
        number: u64,
    },
    /// Thesis §6.4.
    ReadIndexReply {
        term: Term,
        number: u64,
        /// What must be applied first; `None`: ask somebody else.
        index: Option<LogIndex>,
    },
}

/// A follower's verdict on an `AppendEntries` (§5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// As `Accepted`, from a follower that takes no entries for now: what is committed of its log has
    /// reached [`Config::max_log_bytes`](super::Config::max_log_bytes).
    Full {
        /// As in `Accepted`.
        match_index: LogIndex,
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
            | Self::InstallSnapshotReply { term, .. }
            | Self::TimeoutNow { term }
            | Self::TimeoutNowReply { term }
            | Self::ReadIndex { term, .. }
            | Self::ReadIndexReply { term, .. } => *term,
        }
    }

    /// Refuses what no honest peer sends and what arithmetic or the log could stumble over, so that
    /// the rest of the core may rely on it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.term() > TERM_MAX {
            return Err("a term that no cluster reaches by counting");
        }
        match self {
            Self::AppendEntries {
                term,
                prev_log,
                entries,
                leader_commit,
                ..
            } => {
                if *term == Term::ZERO || prev_log.term > *term {
                    return Err("entries of a term after the leader's");
                }
                if prev_log.index > INDEX_MAX || *leader_commit > INDEX_MAX {
                    return Err("an index that no log reaches by counting");
                }
                if (prev_log.index == LogIndex::ZERO) != (prev_log.term == Term::ZERO) {
                    return Err("an index without a term, or a term without an index");
                }
                let mut before = LogId {
                    term: prev_log.term.max(Term::new(1)),
                    ..*prev_log
                };
                for entry in entries {
                    let follows = entry.id.index == before.index.next();
                    if !follows || entry.id.term < before.term || entry.id.term > *term {
                        return Err("entries that do not follow one another");
                    }
                    before = entry.id;
                }
                Ok(())
            }
            Self::RequestVote { term, last_log, .. } => match *term {
                Term::ZERO => Err("a candidacy for no term"),
                _ if last_log.term > *term => Err("a log of a term after the candidate's"),
                _ => Ok(()),
            },
            Self::InstallSnapshot {
                term,
                last_included,
                offset,
                ..
            } => {
                if last_included.term > *term || last_included.term == Term::ZERO {
                    return Err("a snapshot of no term, or of one after the leader's");
                }
                if last_included.index == LogIndex::ZERO || last_included.index > INDEX_MAX {
                    return Err("a snapshot of nothing, or of more than a log holds");
                }
                if *offset > FILE_MAX_BYTES {
                    Err("an offset beyond any file")
                } else {
                    Ok(())
                }
            }
            Self::AppendEntriesReply {
                outcome: AppendOutcome::Rejected { rejected, hint },
                ..
            } => {
                let beyond = *rejected > INDEX_MAX || hint.index > INDEX_MAX;
                if beyond {
                    Err("an index that no log reaches by counting")
                } else {
                    Ok(())
                }
            }
            Self::ReadIndexReply {
                index: Some(index), ..
            } if *index > INDEX_MAX => Err("an index that no log reaches by counting"),
            Self::AppendEntriesReply { .. }
            | Self::RequestVoteReply { .. }
            | Self::InstallSnapshotReply { .. }
            | Self::TimeoutNow { .. }
            | Self::TimeoutNowReply { .. }
            | Self::ReadIndex { .. }
            | Self::ReadIndexReply { .. } => Ok(()),
        }
    }
}

/// Far above what counting reaches, far below where adding one overflows.
const TERM_MAX: Term = Term::new(1 << 62);
/// As [`TERM_MAX`].
const INDEX_MAX: LogIndex = LogIndex::new(1 << 62);
/// As [`TERM_MAX`].
const FILE_MAX_BYTES: u64 = 1 << 62;
