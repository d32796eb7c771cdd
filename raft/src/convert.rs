//! Between the core's messages and the protobuf ones of `raft.proto`.

use std::sync::Arc;

use proto::raft as wire;

use crate::core::{AppendOutcome, Entry, LogId, LogIndex, Message, Payload, Term};
use crate::membership_codec::{self, NoMembership};

/// A request of the core, as one of the calls of `raftRpc`.
#[expect(
    clippy::enum_variant_names,
    reason = "the calls' names are the paper's"
)]
pub(crate) enum Request {
    AppendEntries(wire::AppendEntriesArgs),
    RequestVote(wire::RequestVoteArgs),
    InstallSnapshot(wire::InstallSnapshotArgs),
    TimeoutNow(wire::TimeoutNowArgs),
    ReadIndex(wire::ReadIndexArgs),
}

impl Request {
    /// `None` for a reply, which is nobody's request.
    pub(crate) fn new(message: Message, envelope: wire::Envelope) -> Option<Self> {
        let envelope = Some(envelope);
        Some(match message {
            Message::AppendEntries {
                term,
                prev_log,
                entries,
                leader_commit,
                round,
            } => Self::AppendEntries(wire::AppendEntriesArgs {
                envelope,
                term: term.get(),
                prev_log_index: prev_log.index.get(),
                prev_log_term: prev_log.term.get(),
                entries: entries.into_iter().map(entry_to_wire).collect(),
                leader_commit: leader_commit.get(),
                round,
            }),
            Message::RequestVote {
                term,
                last_log,
                pre_vote,
                transfer,
            } => Self::RequestVote(wire::RequestVoteArgs {
                envelope,
                term: term.get(),
                last_log_index: last_log.index.get(),
                last_log_term: last_log.term.get(),
                pre_vote,
                transfer,
            }),
            Message::InstallSnapshot {
                term,
                last_included,
                offset,
                data,
                done,
            } => Self::InstallSnapshot(wire::InstallSnapshotArgs {
                envelope,
                term: term.get(),
                last_included_index: last_included.index.get(),
                last_included_term: last_included.term.get(),
                offset,
                data,
                done,
            }),
            Message::TimeoutNow { term } => Self::TimeoutNow(wire::TimeoutNowArgs {
                envelope,
                term: term.get(),
            }),
            Message::ReadIndex { term, number } => Self::ReadIndex(wire::ReadIndexArgs {
                envelope,
                term: term.get(),
                number,
            }),
            Message::AppendEntriesReply { .. }
            | Message::RequestVoteReply { .. }
            | Message::InstallSnapshotReply { .. }
            | Message::TimeoutNowReply { .. }
            | Message::ReadIndexReply { .. } => return None,
        })
    }
}

fn entry_to_wire(entry: Entry) -> wire::LogEntry {
    let (kind, command) = match entry.payload {
        Payload::Empty => (wire::EntryKind::Empty, bytes::Bytes::new()),
        Payload::Command(command) => (wire::EntryKind::Command, command),
        Payload::Membership(membership) => (
            wire::EntryKind::Membership,
            membership_codec::encode(&membership).into(),
        ),
    };
    wire::LogEntry {
        term: entry.id.term.get(),
        kind: kind.into(),
        command,
    }
}

/// # Errors
/// An entry that this version does not know, from a newer peer: it could not be applied here, so it
/// must not get into the log.
pub(crate) fn append_entries(args: wire::AppendEntriesArgs) -> Result<Message, UnknownEntry> {
    let prev_log = log_id(args.prev_log_term, args.prev_log_index);
    let mut entries = Vec::with_capacity(args.entries.len());
    for (place, entry) in (1u64..).zip(args.entries) {
        // Saturating: a peer's index near 2^64 is nonsense that the core refuses, not an overflow.
        let id = log_id(entry.term, args.prev_log_index.saturating_add(place));
        let payload = match wire::EntryKind::try_from(entry.kind) {
            Ok(wire::EntryKind::Empty) => Payload::Empty,
            Ok(wire::EntryKind::Command) => Payload::Command(entry.command),
            Ok(wire::EntryKind::Membership) => {
                let membership = membership_codec::decode(&entry.command)
                    .map_err(|source| UnknownEntry::Membership { id, source })?;
                Payload::Membership(Arc::new(membership))
            }
            Err(_) => {
                let kind = entry.kind;
                return Err(UnknownEntry::Kind { id, kind });
            }
        };
        entries.push(Entry { id, payload });
    }
    Ok(Message::AppendEntries {
        term: Term::new(args.term),
        prev_log,
        entries,
        leader_commit: LogIndex::new(args.leader_commit),
        round: args.round,
    })
}

/// See [`append_entries`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnknownEntry {
    #[error("entry {id} is of kind {kind}, which this version does not know: upgrade this node")]
    Kind { id: LogId, kind: i32 },
    #[error("entry {id} is of members that this version does not understand: {source}")]
    Membership { id: LogId, source: NoMembership },
}

pub(crate) fn request_vote(args: &wire::RequestVoteArgs) -> Message {
    Message::RequestVote {
        term: Term::new(args.term),
        last_log: log_id(args.last_log_term, args.last_log_index),
        pre_vote: args.pre_vote,
        transfer: args.transfer,
    }
}

pub(crate) fn install_snapshot(args: wire::InstallSnapshotArgs) -> Message {
    Message::InstallSnapshot {
        term: Term::new(args.term),
        last_included: log_id(args.last_included_term, args.last_included_index),
        offset: args.offset,
        data: args.data,
        done: args.done,
    }
}

pub(crate) fn timeout_now(args: &wire::TimeoutNowArgs) -> Message {
    Message::TimeoutNow {
        term: Term::new(args.term),
    }
}

pub(crate) fn read_index(args: &wire::ReadIndexArgs) -> Message {
    Message::ReadIndex {
        term: Term::new(args.term),
        number: args.number,
    }
}

pub(crate) fn append_entries_reply_to_wire(
    term: Term,
    outcome: AppendOutcome,
    round: u64,
) -> wire::AppendEntriesReply {
    let mut reply = wire::AppendEntriesReply {
        term: term.get(),
        round,
        ..Default::default()
    };
    match outcome {
        AppendOutcome::Accepted { match_index } => {
            reply.success = true;
            reply.match_index = match_index.get();
        }
        AppendOutcome::Full { match_index } => {
            reply.success = true;
            reply.match_index = match_index.get();
            reply.full = true;
        }
        AppendOutcome::Rejected { rejected, hint } => {
            reply.rejected_index = rejected.get();
            reply.hint_index = hint.index.get();
            reply.hint_term = hint.term.get();
        }
    }
    reply
}

pub(crate) fn append_entries_reply(reply: &wire::AppendEntriesReply) -> Message {
    let match_index = LogIndex::new(reply.match_index);
    let outcome = if reply.success && reply.full {
        AppendOutcome::Full { match_index }
    } else if reply.success {
        AppendOutcome::Accepted { match_index }
    } else {
        AppendOutcome::Rejected {
            rejected: LogIndex::new(reply.rejected_index),
            hint: log_id(reply.hint_term, reply.hint_index),
        }
    };
    Message::AppendEntriesReply {
        term: Term::new(reply.term),
        outcome,
        round: reply.round,
    }
}

pub(crate) fn request_vote_reply(reply: &wire::RequestVoteReply) -> Message {
    Message::RequestVoteReply {
        term: Term::new(reply.term),
        vote_granted: reply.vote_granted,
        pre_vote: reply.pre_vote,
    }
}

pub(crate) fn install_snapshot_reply(
    reply: &wire::InstallSnapshotReply,
    last_included: LogId,
) -> Message {
    Message::InstallSnapshotReply {
        term: Term::new(reply.term),
        last_included,
        next_offset: reply.next_offset,
        installed: reply.installed,
    }
}

pub(crate) fn timeout_now_reply(reply: wire::TimeoutNowReply) -> Message {
    Message::TimeoutNowReply {
        term: Term::new(reply.term),
    }
}

pub(crate) fn read_index_reply(reply: &wire::ReadIndexReply) -> Message {
    Message::ReadIndexReply {
        term: Term::new(reply.term),
        number: reply.number,
        index: reply.index.map(LogIndex::new),
    }
}

const fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn append_entries_survives_the_wire() {
        let message = Message::AppendEntries {
            term: Term::new(7),
            prev_log: log_id(6, 41),
            entries: vec![
                Entry {
                    id: log_id(6, 42),
                    payload: Payload::Command(Bytes::from_static(b"x")),
                },
                Entry {
                    id: log_id(7, 43),
                    payload: Payload::Empty,
                },
            ],
            leader_commit: LogIndex::new(40),
            round: 9,
        };
        let Some(Request::AppendEntries(args)) =
            Request::new(message.clone(), wire::Envelope::default())
        else {
            panic!("a request stays a request");
        };
        assert_eq!(append_entries(args).unwrap(), message);
    }

    #[test]
    fn every_outcome_of_append_entries_survives_the_wire() {
        for outcome in [
            AppendOutcome::Accepted {
                match_index: LogIndex::new(5),
            },
            AppendOutcome::Rejected {
                rejected: LogIndex::new(9),
                hint: log_id(2, 4),
            },
            AppendOutcome::Full {
                match_index: LogIndex::new(5),
            },
        ] {
            let reply = append_entries_reply_to_wire(Term::new(3), outcome, 8);
            let message = Message::AppendEntriesReply {
                term: Term::new(3),
                outcome,
                round: 8,
            };
            assert_eq!(append_entries_reply(&reply), message);
        }
    }

    #[test]
    fn an_index_at_the_end_of_the_numbers_does_not_overflow() {
        let args = wire::AppendEntriesArgs {
            prev_log_index: u64::MAX,
            entries: vec![wire::LogEntry::default(); 2],
            ..Default::default()
        };
        let Message::AppendEntries { entries, .. } = append_entries(args).unwrap() else {
            panic!("a request stays a request");
        };
        assert_eq!(entries.len(), 2);
    }

    /// Prost hands out an unknown kind as the first one: it would be taken for a command.
    #[test]
    fn an_entry_of_an_unknown_kind_is_refused() {
        let args = wire::AppendEntriesArgs {
            entries: vec![wire::LogEntry {
                kind: 7,
                ..Default::default()
            }],
            ..Default::default()
        };
        let error = append_entries(args).unwrap_err();
        assert!(error.to_string().contains("kind 7"), "{error}");
    }
}
