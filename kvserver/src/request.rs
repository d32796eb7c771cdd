//! A client's request on its way through the node, to be answered as [`answer`](crate::answer) says.

use bytes::Bytes;
use prost::Message;
use proto::kv::{GetReply, OpenSessionReply, PutAppendReply};
use raft::{NodeId, StatusReader, Waiter};
use rpc::{Code, Done, RpcError};

use crate::answer::{self, Asked, Declined};
use crate::outcome::Outcome;

/// Who asked, and where the nodes are: what an answer depends on besides its content.
#[derive(Clone)]
pub(crate) struct Asker {
    /// Speaks the original's bytes: an error code cannot reach it, only `Err` can.
    pub(crate) is_legacy: bool,
    /// Where the members are.
    pub(crate) status: StatusReader,
}

/// Waits for its place in the log, or for a moment at which a read is safe.
pub(crate) struct Request {
    pub(crate) asker: Asker,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Write(Done<PutAppendReply>),
    OpenSession(Done<OpenSessionReply>),
    Get {
        key: Bytes,
        /// The original's `ClientId`, if this is request 1 of one of its processes.
        first_of: Option<Bytes>,
        done: Done<GetReply>,
    },
}

impl Request {
    /// Answers a write or the opening of a session with what the state machine said.
    pub(crate) fn answer(self, outcome: &Outcome) {
        match self.kind {
            Kind::Write(done) => end(done, answer::to_write(outcome)),
            Kind::OpenSession(done) => end(done, answer::to_open_session(outcome)),
            Kind::Get { done, .. } => done.fail(answer::another_question(outcome)),
        }
    }

    /// Sends the client elsewhere.
    fn wrong_leader(self, leader: Option<NodeId>) {
        let leader_address = leader
            .and_then(|id| self.asker.status.get().address_of(id).map(str::to_owned))
            .unwrap_or_default();
        match self.kind {
            Kind::Write(done) => done.run(answer::wrong_leader_for_write(leader_address)),
            Kind::OpenSession(done) => {
                done.run(answer::wrong_leader_for_open_session(leader_address));
            }
            Kind::Get { done, .. } => done.run(answer::wrong_leader_for_get(leader_address)),
        }
    }
}

impl Waiter for Request {
    fn refuse(self, why: raft::Refusal) {
        match answer::declined(self.kind.asked(), why, self.asker.is_legacy) {
            Declined::WrongLeader(leader) => self.wrong_leader(leader),
            Declined::Failed(error) => match self.kind {
                Kind::Write(done) => end(done, Err(error)),
                Kind::OpenSession(done) => end(done, Err(error)),
                Kind::Get { done, .. } => end(done, Err(error)),
            },
        }
    }
}

/// Answers a call. An error says whether the call may have had an effect.
fn end<R: Message>(done: Done<R>, answer: Result<R, RpcError>) {
    match answer {
        Ok(reply) => done.run(reply),
        Err(error) if error.may_have_executed() => done.fail(error),
        Err(error) => done.refuse(error),
    }
}

impl Kind {
    fn asked(&self) -> Asked {
        match self {
            Self::Write(_) => Asked::Write,
            Self::OpenSession(_) => Asked::OpenSession,
            Self::Get { .. } => Asked::Get,
        }
    }

    /// Nothing was done, and the client may rely on it.
    pub(crate) fn refuse(self, code: Code, text: &'static str) {
        let error = RpcError::new(code, text);
        match self {
            Self::Write(done) => done.refuse(error),
            Self::OpenSession(done) => done.refuse(error),
            Self::Get { done, .. } => done.refuse(error),
        }
    }

    /// Nobody can say what was done.
    pub(crate) fn fail(self, code: Code, text: &'static str) {
        let error = RpcError::new(code, text);
        match self {
            Self::Write(done) => done.fail(error),
            Self::OpenSession(done) => done.fail(error),
            Self::Get { done, .. } => done.fail(error),
        }
    }
}
