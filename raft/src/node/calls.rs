//! Peers' calls that wait for the core's reply.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpc::{Code, RpcError};

use crate::convert;
use crate::core::{CallId, LogIndex, Message};
use crate::node::inbox::PeerReply;

/// A call that the core has not answered for so long never will be: its caller has given up.
const LIFETIME: Duration = Duration::from_mins(2);

/// The open calls, by ascending id and so by age. Bounded by the provider's limit on calls in
/// flight, and by [`LIFETIME`] should the core let one fall.
pub(super) struct PeerCalls {
    next: CallId,
    open: BTreeMap<CallId, (Instant, PeerReply)>,
}

impl PeerCalls {
    pub(super) fn new() -> Self {
        Self {
            next: CallId::ZERO.next(),
            open: BTreeMap::new(),
        }
    }

    /// Gives the call the name by which the core will answer it.
    pub(super) fn add(&mut self, reply: PeerReply) -> CallId {
        let call = self.next;
        self.next = call.next();
        self.open.insert(call, (Instant::now(), reply));
        call
    }

    pub(super) fn answer(&mut self, call: CallId, message: Message) {
        let Some((_, reply)) = self.open.remove(&call) else {
            return;
        };
        match (reply, message) {
            (
                PeerReply::AppendEntries(done),
                Message::AppendEntriesReply {
                    term,
                    outcome,
                    round,
                },
            ) => done.run(convert::append_entries_reply_to_wire(term, outcome, round)),
            (
                PeerReply::RequestVote(done),
                Message::RequestVoteReply {
                    term,
                    vote_granted,
                    pre_vote,
                },
            ) => done.run(proto::raft::RequestVoteReply {
                term: term.get(),
                vote_granted,
                pre_vote,
            }),
            (
                PeerReply::InstallSnapshot(done),
                Message::InstallSnapshotReply {
                    term,
                    next_offset,
                    installed,
                    ..
                },
            ) => done.run(proto::raft::InstallSnapshotReply {
                term: term.get(),
                next_offset,
                installed,
            }),
            (PeerReply::TimeoutNow(done), Message::TimeoutNowReply { term }) => {
                done.run(proto::raft::TimeoutNowReply { term: term.get() });
            }
            (
                PeerReply::ReadIndex(done),
                Message::ReadIndexReply {
                    term,
                    number,
                    index,
                },
            ) => done.run(proto::raft::ReadIndexReply {
                term: term.get(),
                number,
                index: index.map(LogIndex::get),
            }),
            (reply, message) => {
                tracing::error!(?message, "the core answered another question");
                reply.fail(RpcError::new(Code::Internal, "no fitting reply"));
            }
        }
    }

    pub(super) fn fail(&mut self, call: CallId, code: Code, text: &'static str) {
        if let Some((_, reply)) = self.open.remove(&call) {
            reply.fail(RpcError::new(code, text));
        }
    }

    /// Drops the calls that outlived their callers.
    pub(super) fn forget_lost(&mut self) {
        while let Some(oldest) = self.open.first_entry() {
            if oldest.get().0.elapsed() < LIFETIME {
                break;
            }
            oldest.remove();
        }
    }
}
