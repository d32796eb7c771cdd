//! What a driver may ask about the state.

use std::sync::Arc;

use super::effect::Role;
use super::membership::Membership;
use super::progress::ProgressState;
use super::raft::Raft;
use super::types::{LogId, LogIndex, Millis, NodeId, Term};

impl Raft {
    /// When [`tick`](Self::tick) has something to do next, if nothing else comes before. The end of
    /// time for a leader without peers.
    #[must_use]
    pub fn next_deadline(&self) -> Millis {
        match self.role {
            _ if self.is_halted() => Millis::new(u64::MAX),
            Role::Leader if self.peers.is_empty() => Millis::new(u64::MAX),
            Role::Leader => self.heartbeat_at.min(self.quorum_deadline()),
            _ if !self.may_campaign() => self.question_deadline(),
            _ => self.election_deadline.min(self.question_deadline()),
        }
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// What this node is in its current term.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The latest term this node has seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.current_term
    }

    /// The leader of the current term, if this node has heard it (or is it).
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Leader, with an entry of its own term committed: reads are answered without delay (§8).
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.role == Role::Leader && self.commit_index >= self.term_start
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last entry reported by [`applied`](Self::applied).
    #[must_use]
    pub fn last_applied(&self) -> LogIndex {
        self.last_applied
    }

    /// The last entry of the log, durable or not.
    #[must_use]
    pub fn last_log(&self) -> LogId {
        self.log.last()
    }

    /// The last entry of the log that is durable here.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.journal.durable_index()
    }

    /// As leader: all of our log is committed, by others alone, as our own disk lacks the end of it.
    /// So a majority of them has room for entries.
    #[must_use]
    pub fn is_stored_by_others(&self) -> bool {
        let last = self.log.last().index;
        self.role == Role::Leader && self.commit_index == last && self.durable_index() < last
    }

    /// The last entry that the latest durable snapshot includes.
    #[must_use]
    pub fn snapshot(&self) -> LogId {
        self.snapshot
    }

    /// Bytes of the entries in memory: those since the last compaction.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// The membership in force: the latest in the log (§6).
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        self.memberships.latest()
    }

    /// The entry that brought the membership in force; zero for the one it was started with.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.memberships.latest_index()
    }

    /// The membership that a state up to `index` includes: for a snapshot of it.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> &Arc<Membership> {
        self.memberships.at(index)
    }

    /// As leader: what it knows of the others, in the order of their numbers. Otherwise empty.
    pub fn followers(&self) -> impl Iterator<Item = Follower> {
        let last = self.log.last().index;
        let round_ms = self.config.election_timeout_ms.0;
        self.progress.iter().map(move |(node, progress)| Follower {
            node: *node,
            match_index: progress.match_index,
            silent_ms: self.now.since(progress.last_heard),
            is_caught_up: progress.is_caught_up(last, self.now, round_ms),
            receives_snapshot: matches!(progress.state, ProgressState::Snapshot { .. }),
        })
    }

    /// The term at `index`, if the log still has it.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }
}

/// A follower or learner, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Its number.
    pub node: NodeId,
    /// Its log equals the leader's, durably, up to here.
    pub match_index: LogIndex,
    /// Since it last answered.
    pub silent_ms: u64,
    /// As a voter it would hold nothing up (thesis §4.2.1).
    pub is_caught_up: bool,
    /// It lacks entries that are compacted away.
    pub receives_snapshot: bool,
}
