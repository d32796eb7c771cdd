//! What the core asks of its driver.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::membership::Membership;
use super::message::Message;
use super::types::{CallId, Entry, LogId, LogIndex, NodeId, ReadId, Term};

/// What a node is in its current term (§5.1; `PreCandidate`: thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// say how it ended by [`Raft::snapshot_sent`](super::Raft::snapshot_sent), or that it cannot begin
    /// yet by [`Raft::snapshot_postponed`](super::Raft::snapshot_postponed).
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
        #[serde(with = "crate::record::sizes")]
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
    /// Another membership is in force: the latest in the log. Also told once at the start.
    MembershipChanged {
        /// Whom this node may have to call, and where.
        membership: Arc<Membership>,
    },
    /// As leader: the transfer to `to` came to nothing in time; proposals are taken again. One that
    /// succeeds shows as [`Effect::RoleChanged`].
    TransferFailed {
        /// Who should have taken over.
        to: NodeId,
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
    /// This node is handing over: `to` will lead in a moment (thesis §3.10).
    #[error("leadership moves to node {to}")]
    HandingOver {
        /// Who takes over, unless it fails to.
        to: NodeId,
    },
    /// A bound was reached: ask again later.
    #[error("too much is waiting already")]
    Overloaded,
}

/// A change of the cluster's members, asked of its leader (§6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipChange {
    /// `node` receives the log from now on, and decides nothing. Numbers are never used twice: a node
    /// that lost its disk comes back under a new one, since it may have forgotten a vote. For a
    /// learner, a new address.
    AddLearner {
        /// The newcomer.
        node: NodeId,
        /// Where it can be called.
        address: String,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// A voter or learner takes part no longer.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// A learner that has caught up takes a voter's place, in one step.
    Replace {
        /// The voter, dead or alive.
        old: NodeId,
        /// The learner.
        new: NodeId,
    },
}

/// Why a change of members was refused. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Only the leader changes members.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Before that, changes of an earlier leader may yet come to light (the bug of 2015 in
    /// single-server changes).
    #[error("the leader has not committed an entry of its own term yet: try again in a moment")]
    NotServing,
    /// One change at a time (§6).
    #[error("another change of members is under way: wait until it is committed")]
    UnderWay,
    /// A leader about to go decides nothing that lasts.
    #[error("leadership is being handed to node {to}: ask there")]
    HandingOver {
        /// Who takes over.
        to: NodeId,
    },
    /// Nobody of that number.
    #[error("node {node} is no member of this cluster")]
    UnknownNode {
        /// As asked.
        node: NodeId,
    },
    /// A member is what the change would make it.
    #[error("node {node} is a voter already")]
    AlreadyVoter {
        /// As asked.
        node: NodeId,
    },
    /// Only voters are replaced.
    #[error("node {node} is no voter")]
    NotAVoter {
        /// As asked.
        node: NodeId,
    },
    /// As a voter it would hold up every commit until it has the log (thesis §4.2.1).
    #[error("node {node} is {behind} entries behind: wait until it has caught up")]
    NotCaughtUp {
        /// The learner.
        node: NodeId,
        /// Entries that it lacks.
        behind: u64,
    },
    /// Too few of the voters that would be left answer: the cluster would stand still.
    #[error("of {voters} voters only {alive} answer, which is no majority: bring nodes back first")]
    WouldLoseQuorum {
        /// Voters there would be.
        voters: usize,
        /// Those of them heard within an election timeout.
        alive: usize,
    },
    /// Somebody must decide.
    #[error("node {node} is the last voter: a cluster needs one")]
    LastVoter {
        /// As asked.
        node: NodeId,
    },
    /// No membership would come of it.
    #[error(transparent)]
    Invalid(#[from] super::membership::MembershipError),
}

/// Why leadership stays where it is (thesis §3.10). Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Only the leader hands over.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// One at a time.
    #[error("leadership is being handed to node {to} already")]
    UnderWay {
        /// Who takes over.
        to: NodeId,
    },
    /// Only a voter can lead.
    #[error("node {to} is no voter of this cluster")]
    NotAVoter {
        /// As asked.
        to: NodeId,
    },
    /// It leads already.
    #[error("node {to} leads already")]
    LeadsAlready {
        /// As asked.
        to: NodeId,
    },
    /// Nobody else with a vote was heard within an election timeout, or not the one named.
    #[error("no other voter answers that could take over")]
    NobodyAnswers,
}
