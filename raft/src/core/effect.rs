//! What the core asks of its driver.

use bytes::Bytes;

use super::message::Message;
use super::types::{CallId, Entry, LogId, LogIndex, NodeId, ReadId, Term};

/// What a node is in its current term (§5.1; `PreCandidate`: thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election, before it disturbs anyone with a new term.
    PreCandidate,
    /// Has voted for itself and asks for the others' votes.
    Candidate,
    /// Orders the cluster's commands.
    Leader,
}

/// One thing to do, in the order given. Whatever must be durable first has been waited for already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A request to a peer. Its reply comes back by [`Raft::step`](super::Raft::step), its loss by
    /// [`Raft::unreachable`](super::Raft::unreachable).
    Send {
        /// The peer.
        to: NodeId,
        /// The request.
        message: Message,
    },
    /// The answer to a call that came with [`Raft::step`](super::Raft::step).
    Reply {
        /// That call.
        call: CallId,
        /// The answer.
        message: Message,
    },
    /// As leader: stream a snapshot file to a follower that needs entries we no longer have, and
    /// say how it ended by [`Raft::snapshot_sent`](super::Raft::snapshot_sent).
    SendSnapshot {
        /// The follower.
        to: NodeId,
        /// Names the snapshot.
        last_included: LogId,
        /// Our term, for the chunks' headers.
        term: Term,
    },
    /// As follower: store a chunk of a snapshot file, and say so by
    /// [`Raft::chunk_stored`](super::Raft::chunk_stored).
    ReceiveSnapshot {
        /// The call that brought it; answered once the chunk is stored.
        call: CallId,
        /// Names the snapshot.
        last_included: LogId,
        /// The chunk's place in the file, in bytes.
        offset: u64,
        /// The chunk.
        data: Bytes,
        /// It is the last.
        done: bool,
    },
    /// The read may be answered from the state machine once `index` is applied (thesis §6.4).
    ReadReady {
        /// The read.
        read: ReadId,
        /// What must be applied first. Committed already, so it comes by
        /// [`Raft::take_committed`](super::Raft::take_committed).
        index: LogIndex,
    },
    /// The read cannot be answered here: not, or no longer, the leader.
    ReadRefused {
        /// The read.
        read: ReadId,
    },
    /// Role, term or leader changed.
    RoleChanged {
        /// What this node is now.
        role: Role,
        /// In which term.
        term: Term,
        /// Whom it takes for the leader of that term.
        leader: Option<NodeId>,
    },
    /// The rules that keep the cluster's data safe were seen broken (two leaders in one term, a
    /// leader that contradicts what is committed): end the process and wake a human. The core does
    /// nothing more.
    Fatal {
        /// What was seen, for the log.
        reason: String,
    },
}

/// Work for the state machine, in log order, each part handed out once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Apply these. Never empty.
    Entries(Vec<Entry>),
    /// Replace the whole state by this snapshot file. After a restart the snapshot that was
    /// restored comes first of all.
    Snapshot(LogId),
}

/// Why a proposal or a read was not taken. Nothing of it was kept: it may be tried again anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none does.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A bound was reached: ask again later.
    #[error("too much is waiting already")]
    Overloaded,
}
