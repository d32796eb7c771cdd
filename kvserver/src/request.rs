//! A client's request on its way through the node, and every way in which it can be answered.

use bytes::Bytes;
use proto::kv::{GetReply, OpenSessionReply, PutAppendReply};
use raft::{NodeId, StatusReader, Waiter};
use rpc::{Code, Done, RpcError};

use crate::outcome::{Outcome, Refusal, Reply};

/// The texts of `Err`. The first three are the C++ original's, to the letter.
mod err {
    use bytes::Bytes;

    pub(super) const OK: Bytes = Bytes::from_static(b"OK");
    pub(super) const NO_KEY: Bytes = Bytes::from_static(b"ErrNoKey");
    pub(super) const WRONG_LEADER: Bytes = Bytes::from_static(b"ErrWrongLeader");
    pub(super) const SESSION_EXPIRED: Bytes = Bytes::from_static(b"ErrSessionExpired");
}

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
        match (self.kind, outcome) {
            (Kind::Write(done), Outcome::Applied(reply) | Outcome::Repeated(reply)) => {
                match reply {
                    Reply::Done => {
                        done.run(PutAppendReply {
                            err: err::OK,
                            ..PutAppendReply::default()
                        });
                    }
                    // Asked again it would end the same way: not RESOURCE_EXHAUSTED, which says "later".
                    Reply::ValueTooLarge => done.refuse(RpcError::new(
                        Code::InvalidArgument,
                        "the value would grow past the store's limit; it is unchanged",
                    )),
                }
            }
            (Kind::Write(done), Outcome::Refused(refusal)) => refuse_write(done, *refusal),
            (Kind::OpenSession(done), Outcome::SessionOpened(id)) => done.run(OpenSessionReply {
                err: err::OK,
                session_id: id.get(),
                ..OpenSessionReply::default()
            }),
            (kind, outcome) => {
                tracing::error!(?outcome, "the state machine answered another question");
                kind.fail(
                    Code::Internal,
                    "the state machine answered another question",
                );
            }
        }
    }

    /// Answers a read with the key's value.
    pub(crate) fn answer_get(done: Done<GetReply>, value: Option<Bytes>) {
        let (err, value) = match value {
            Some(value) => (err::OK, value),
            None => (err::NO_KEY, Bytes::new()),
        };
        done.run(GetReply {
            err,
            value,
            ..GetReply::default()
        });
    }

    /// Sends the client elsewhere.
    fn wrong_leader(self, leader: Option<NodeId>) {
        let leader_address = leader
            .and_then(|id| self.asker.status.get().address_of(id).map(str::to_owned))
            .unwrap_or_default();
        let err = err::WRONG_LEADER;
        match self.kind {
            Kind::Write(done) => done.run(PutAppendReply {
                err,
                leader_address,
            }),
            Kind::OpenSession(done) => {
                done.run(OpenSessionReply {
                    err,
                    leader_address,
                    session_id: 0,
                });
            }
            Kind::Get { done, .. } => {
                done.run(GetReply {
                    err,
                    leader_address,
                    value: Bytes::new(),
                });
            }
        }
    }
}

impl Waiter for Request {
    fn refuse(self, why: raft::Refusal) {
        match why {
            // Another leader may still commit the entry. A clerk must not take that for "not done",
            // which is what the reply below says; the original can only be sent elsewhere.
            raft::Refusal::LeadershipLost { .. }
                if !self.asker.is_legacy && matches!(self.kind, Kind::Write(_)) =>
            {
                self.kind.fail(
                    Code::Unavailable,
                    "the leadership was lost while the write was under way",
                );
            }
            raft::Refusal::HandingOver { to } => self.wrong_leader(Some(to)),
            raft::Refusal::NotLeader { leader } | raft::Refusal::LeadershipLost { leader } => {
                self.wrong_leader(leader);
            }
            // The original knows no "later"; it has always been told to try the next node.
            _ if self.asker.is_legacy => self.wrong_leader(None),
            raft::Refusal::Overloaded => self.kind.refuse(
                Code::ResourceExhausted,
                "the node has as much to do as it may queue; ask again after a pause",
            ),
            raft::Refusal::DiskFull => self.kind.refuse(
                Code::ResourceExhausted,
                "the node's disk is full; ask again once there is room",
            ),
            raft::Refusal::Stalled => self.kind.refuse(
                Code::ResourceExhausted,
                "no majority of the nodes stores anything at the moment: see to their disks and links",
            ),
            _ => self.kind.fail(Code::Unavailable, "the node is stopping"),
        }
    }
}

impl Kind {
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

fn refuse_write(done: Done<PutAppendReply>, refusal: Refusal) {
    match refusal {
        Refusal::SessionExpired => {
            done.run(PutAppendReply {
                err: err::SESSION_EXPIRED,
                ..PutAppendReply::default()
            });
        }
        Refusal::StaleDuplicate => done.fail(RpcError::new(
            Code::AlreadyExists,
            "the session has said that it saw this request's reply",
        )),
        Refusal::TooFarAhead => done.refuse(RpcError::new(
            Code::ResourceExhausted,
            "too many requests of this session are unanswered; wait for replies first",
        )),
        Refusal::ClientIdTooLong => {
            done.refuse(RpcError::new(
                Code::InvalidArgument,
                "the ClientId is too long",
            ));
        }
    }
}
