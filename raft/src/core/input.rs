//! Every input of the core as a value: what a recorder writes down and a replay feeds in again.
//!
//! The core is a function of its inputs, so whoever has them all, and the state before the first,
//! has the whole run. [`Raft`] itself can be written down between any two inputs; its commands and
//! chunks as their sizes only, which is all that it looks at.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::effect::{Effect, MembershipChange, Role};
use super::membership::Membership;
use super::message::{AppendOutcome, Message};
use super::raft::Raft;
use super::types::{CallId, LogId, LogIndex, Millis, NodeId, ReadId, Term, WriteId};

/// One call of a method of [`Raft`] that changes it. Each variant is that method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are the methods' parameters, and told there"
)]
pub enum Input {
    Tick {
        now: Millis,
    },
    Step {
        from: NodeId,
        call: CallId,
        message: Message,
    },
    Propose {
        #[serde(with = "crate::record::sizes")]
        command: Bytes,
    },
    Read {
        read: ReadId,
    },
    ReadAnywhere {
        read: ReadId,
    },
    Persisted {
        write: WriteId,
    },
    Applied {
        upto: LogIndex,
    },
    Unreachable {
        to: NodeId,
    },
    SnapshotTaken {
        last_included: LogId,
    },
    ChunkStored {
        call: CallId,
        last_included: LogId,
        next_offset: u64,
        complete: Option<Arc<Membership>>,
    },
    SnapshotSent {
        to: NodeId,
        last_included: LogId,
        installed: bool,
    },
    ChangeMembership {
        change: MembershipChange,
    },
    TransferLeadership {
        to: Option<NodeId>,
    },
    Resign,
    TakeWrite,
    TakeCommitted {
        max_bytes: u64,
    },
    Flush,
    // Last, so that older records keep their meaning.
    SnapshotPostponed {
        to: NodeId,
        last_included: LogId,
    },
}

/// What a reader of a run wants to see of the core after an input. Two runs of the same inputs have
/// the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are the paper's; those that are not say what they are"
)]
pub struct State {
    pub role: Role,
    pub term: Term,
    pub voted_for: Option<NodeId>,
    pub leader: Option<NodeId>,
    pub last_log: LogId,
    /// The last entry that is durable here.
    pub durable: LogIndex,
    pub commit_index: LogIndex,
    pub last_applied: LogIndex,
    /// The last entry that the latest snapshot includes.
    pub snapshot: LogId,
    /// The entry that brought the members in force.
    pub membership_index: LogIndex,
}

impl Raft {
    /// Feeds one input in. What the method returns is dropped, [`Effect`]s are appended: whoever
    /// replays a run carries nothing out.
    ///
    /// # Panics
    /// As the input's own method, where the input could not have come at this point.
    pub fn apply_input(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick { now } => self.tick(now),
            Input::Step {
                from,
                call,
                message,
            } => self.step(from, call, message),
            Input::Propose { command } => drop(self.propose(command)),
            Input::Read { read } => drop(self.read(read)),
            Input::ReadAnywhere { read } => drop(self.read_anywhere(read)),
            Input::Persisted { write } => self.persisted(write),
            Input::Applied { upto } => self.applied(upto),
            Input::Unreachable { to } => self.unreachable(to),
            Input::SnapshotTaken { last_included } => self.snapshot_taken(last_included),
            Input::ChunkStored {
                call,
                last_included,
                next_offset,
                complete,
            } => self.chunk_stored(call, last_included, next_offset, complete),
            Input::SnapshotSent {
                to,
                last_included,
                installed,
            } => self.snapshot_sent(to, last_included, installed),
            Input::ChangeMembership { change } => drop(self.change_membership(change)),
            Input::TransferLeadership { to } => drop(self.transfer_leadership(to)),
            Input::Resign => {
                self.resign();
            }
            Input::TakeWrite => drop(self.take_write()),
            Input::TakeCommitted { max_bytes } => {
                drop(self.take_committed(usize::try_from(max_bytes).unwrap_or(usize::MAX)));
            }
            Input::Flush => self.flush(effects),
            Input::SnapshotPostponed { to, last_included } => {
                self.snapshot_postponed(to, last_included);
            }
        }
    }

    /// What a reader of a run wants to see.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            role: self.role,
            term: self.current_term,
            voted_for: self.voted_for,
            leader: self.leader,
            last_log: self.log.last(),
            durable: self.journal.durable_index(),
            commit_index: self.commit_index,
            last_applied: self.last_applied,
            snapshot: self.snapshot,
            membership_index: self.memberships.latest_index(),
        }
    }
}

impl Input {
    /// The method's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tick { .. } => "tick",
            Self::Step { .. } => "step",
            Self::Propose { .. } => "propose",
            Self::Read { .. } => "read",
            Self::ReadAnywhere { .. } => "read_anywhere",
            Self::Persisted { .. } => "persisted",
            Self::Applied { .. } => "applied",
            Self::Unreachable { .. } => "unreachable",
            Self::SnapshotTaken { .. } => "snapshot_taken",
            Self::ChunkStored { .. } => "chunk_stored",
            Self::SnapshotSent { .. } => "snapshot_sent",
            Self::ChangeMembership { .. } => "change_membership",
            Self::TransferLeadership { .. } => "transfer_leadership",
            Self::Resign => "resign",
            Self::TakeWrite => "take_write",
            Self::TakeCommitted { .. } => "take_committed",
            Self::Flush => "flush",
            Self::SnapshotPostponed { .. } => "snapshot_postponed",
        }
    }
}

/// `step n2 AppendEntries term 3 prev 5@2 entries 6@3..8@3 commit 5`: one line.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Tick { now } => write!(f, " {now} ms"),
            Self::Step { from, message, .. } => {
                write!(f, " n{from} ")?;
                describe(message, f)
            }
            Self::Propose { command } => write!(f, " {} bytes", command.len()),
            Self::Read { read } | Self::ReadAnywhere { read } => write!(f, " #{read}"),
            Self::Persisted { write } => write!(f, " write #{write}"),
            Self::Applied { upto } => write!(f, " upto {upto}"),
            Self::SnapshotTaken { last_included } => write!(f, " {last_included}"),
            Self::ChunkStored {
                last_included,
                next_offset,
                complete,
                ..
            } => {
                write!(f, " {last_included} next {next_offset}")?;
                f.write_str(if complete.is_some() { " complete" } else { "" })
            }
            Self::SnapshotSent {
                to,
                last_included,
                installed,
            } => {
                let how = if *installed { "installed" } else { "in vain" };
                write!(f, " n{to} {last_included} {how}")
            }
            Self::SnapshotPostponed { to, last_included } => write!(f, " n{to} {last_included}"),
            Self::ChangeMembership { change } => write!(f, " {change:?}"),
            Self::Unreachable { to } | Self::TransferLeadership { to: Some(to) } => {
                write!(f, " n{to}")
            }
            Self::TakeCommitted { max_bytes } => write!(f, " {max_bytes} bytes"),
            Self::TransferLeadership { to: None }
            | Self::Resign
            | Self::TakeWrite
            | Self::Flush => Ok(()),
        }
    }
}

fn describe(message: &Message, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let term = message.term();
    match message {
        Message::AppendEntries {
            prev_log,
            entries,
            leader_commit,
            ..
        } => {
            write!(f, "AppendEntries term {term} prev {prev_log}")?;
            match &entries[..] {
                [] => {}
                [only] => write!(f, " entry {}", only.id)?,
                [first, .., last] => write!(f, " entries {}..{}", first.id, last.id)?,
            }
            write!(f, " commit {leader_commit}")
        }
        Message::AppendEntriesReply { outcome, .. } => match outcome {
            AppendOutcome::Accepted { match_index } => {
                write!(f, "accepts term {term} match {match_index}")
            }
            AppendOutcome::Full { match_index } => {
                write!(f, "is full term {term} match {match_index}")
            }
            AppendOutcome::Rejected { rejected, hint } => {
                write!(f, "rejects term {term} prev {rejected} hint {hint}")
            }
        },
        Message::RequestVote {
            last_log, pre_vote, ..
        } => {
            let what = if *pre_vote {
                "RequestPreVote"
            } else {
                "RequestVote"
            };
            write!(f, "{what} term {term} last {last_log}")
        }
        Message::RequestVoteReply {
            vote_granted,
            pre_vote,
            ..
        } => {
            let what = if *pre_vote { "pre-vote" } else { "vote" };
            let how = if *vote_granted { "grants" } else { "refuses" };
            write!(f, "{how} {what} term {term}")
        }
        Message::InstallSnapshot {
            last_included,
            offset,
            data,
            done,
            ..
        } => {
            let bytes = data.len();
            write!(
                f,
                "InstallSnapshot term {term} {last_included} {bytes} bytes at {offset}"
            )?;
            f.write_str(if *done { " done" } else { "" })
        }
        Message::InstallSnapshotReply {
            last_included,
            next_offset,
            installed,
            ..
        } => {
            write!(f, "stored term {term} {last_included} next {next_offset}")?;
            f.write_str(if *installed { " installed" } else { "" })
        }
        Message::TimeoutNow { .. } => write!(f, "TimeoutNow term {term}"),
        Message::TimeoutNowReply { .. } => write!(f, "heard TimeoutNow term {term}"),
        Message::ReadIndex { number, .. } => write!(f, "ReadIndex term {term} #{number}"),
        Message::ReadIndexReply { number, index, .. } => {
            write!(f, "ReadIndexReply term {term} #{number} ")?;
            match index {
                Some(index) => write!(f, "index {index}"),
                None => f.write_str("none"),
            }
        }
    }
}

/// The random generator as the seed that goes on where it is.
pub(super) mod seed {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::core) fn serialize<S: Serializer>(
        rng: &fastrand::Rng,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(rng.get_seed())
    }

    pub(in crate::core) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<fastrand::Rng, D::Error> {
        u64::deserialize(deserializer).map(fastrand::Rng::with_seed)
    }
}
