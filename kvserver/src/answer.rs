//! What a client hears, as a function of what became of its request: the one place where the state machine's
//! outcomes and the node's refusals become replies. The simulator answers its clients by it, too.
//!
//! A request that reaches neither, for it is malformed or too large, is refused where that is noticed: by
//! the service, or by the applier.

use bytes::Bytes;
use proto::kv::{GetReply, OpenSessionReply, PutAppendReply};
use raft::NodeId;
use rpc::{Code, RpcError};

use crate::outcome::{Outcome, Refusal, Reply};

/// The texts of `Err`. The first three are the C++ original's, to the letter.
mod err {
    use bytes::Bytes;

    pub(super) const OK: Bytes = Bytes::from_static(b"OK");
    pub(super) const NO_KEY: Bytes = Bytes::from_static(b"ErrNoKey");
    pub(super) const WRONG_LEADER: Bytes = Bytes::from_static(b"ErrWrongLeader");
    pub(super) const SESSION_EXPIRED: Bytes = Bytes::from_static(b"ErrSessionExpired");
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To put or append.
    Write,
    /// To open a session.
    OpenSession,
    /// To get.
    Get,
}

/// What it hears if the node does not do it.
#[derive(Clone, Debug)]
pub enum Declined {
    /// Somebody else leads: who, where known. Nothing was done.
    WrongLeader(Option<NodeId>),
    /// The error says whether something may have been done.
    Failed(RpcError),
}

/// What the state machine said to a write.
///
/// # Errors
/// The failure of the call; it says whether the write may have been done.
pub fn to_write(outcome: &Outcome) -> Result<PutAppendReply, RpcError> {
    let replied = |err| PutAppendReply {
        err,
        ..PutAppendReply::default()
    };
    match outcome {
        Outcome::Applied(Reply::Done) | Outcome::Repeated(Reply::Done) => Ok(replied(err::OK)),
        // Asked again it would end the same way: not RESOURCE_EXHAUSTED, which says "later".
        Outcome::Applied(Reply::ValueTooLarge) | Outcome::Repeated(Reply::ValueTooLarge) => {
            Err(not_done(
                Code::InvalidArgument,
                "the value would grow past the store's limit; it is unchanged",
            ))
        }
        Outcome::Refused(Refusal::SessionExpired) => Ok(replied(err::SESSION_EXPIRED)),
        Outcome::Refused(Refusal::StaleDuplicate) => Err(unknown(
            Code::AlreadyExists,
            "the session has said that it saw this request's reply",
        )),
        Outcome::Refused(Refusal::TooFarAhead) => Err(not_done(
            Code::ResourceExhausted,
            "too many requests of this session are unanswered; wait for replies first",
        )),
        Outcome::Refused(Refusal::ClientIdTooLong) => {
            Err(not_done(Code::InvalidArgument, "the ClientId is too long"))
        }
        Outcome::Nothing | Outcome::SessionOpened(_) => Err(another_question(outcome)),
    }
}

/// What the state machine said to the opening of a session.
///
/// # Errors
/// As [`to_write`].
pub fn to_open_session(outcome: &Outcome) -> Result<OpenSessionReply, RpcError> {
    match outcome {
        Outcome::SessionOpened(id) => Ok(OpenSessionReply {
            err: err::OK,
            session_id: id.get(),
            ..OpenSessionReply::default()
        }),
        Outcome::Nothing | Outcome::Applied(_) | Outcome::Repeated(_) | Outcome::Refused(_) => {
            Err(another_question(outcome))
        }
    }
}

/// What a key's value is.
#[must_use]
pub fn to_get(value: Option<Bytes>) -> GetReply {
    let (err, value) = match value {
        Some(value) => (err::OK, value),
        None => (err::NO_KEY, Bytes::new()),
    };
    GetReply {
        err,
        value,
        ..GetReply::default()
    }
}

/// Sends a write elsewhere.
#[must_use]
pub fn wrong_leader_for_write(leader_address: String) -> PutAppendReply {
    PutAppendReply {
        err: err::WRONG_LEADER,
        leader_address,
    }
}

/// Sends the opening of a session elsewhere.
#[must_use]
pub fn wrong_leader_for_open_session(leader_address: String) -> OpenSessionReply {
    OpenSessionReply {
        err: err::WRONG_LEADER,
        leader_address,
        session_id: 0,
    }
}

/// Sends a read elsewhere.
#[must_use]
pub fn wrong_leader_for_get(leader_address: String) -> GetReply {
    GetReply {
        err: err::WRONG_LEADER,
        leader_address,
        value: Bytes::new(),
    }
}

/// Why the node did not do what was asked. `is_legacy`: the asker speaks the original's bytes, which have
/// no error codes.
#[must_use]
pub fn declined(asked: Asked, why: raft::Refusal, is_legacy: bool) -> Declined {
    let failed = match why {
        // Another leader may still commit the entry. A clerk must not take that for "not done",
        // which is what "wrong leader" says; the original can only be sent elsewhere.
        raft::Refusal::LeadershipLost { .. } if !is_legacy && asked == Asked::Write => unknown(
            Code::Unavailable,
            "the leadership was lost while the write was under way",
        ),
        raft::Refusal::HandingOver { to } => return Declined::WrongLeader(Some(to)),
        raft::Refusal::NotLeader { leader } | raft::Refusal::LeadershipLost { leader } => {
            return Declined::WrongLeader(leader);
        }
        // The original knows no "later"; it has always been told to try the next node.
        _ if is_legacy => return Declined::WrongLeader(None),
        raft::Refusal::Overloaded => not_done(
            Code::ResourceExhausted,
            "the node has as much to do as it may queue; ask again after a pause",
        ),
        raft::Refusal::DiskFull => not_done(
            Code::ResourceExhausted,
            "the node's disk is full; ask again once there is room",
        ),
        raft::Refusal::Stalled => not_done(
            Code::ResourceExhausted,
            "no majority of the nodes stores anything at the moment: see to their disks and links",
        ),
        raft::Refusal::ShuttingDown => unknown(Code::Unavailable, "the node is stopping"),
        // `raft::Refusal` may grow. Of a reason that is not known here, this is never untrue.
        _ => unknown(Code::Unavailable, "the node refused it"),
    };
    Declined::Failed(failed)
}

/// Nothing was done, and the client may rely on it.
fn not_done(code: Code, text: &'static str) -> RpcError {
    RpcError::new(code, text).with_may_have_executed(false)
}

/// Nobody can say what was done.
fn unknown(code: Code, text: &'static str) -> RpcError {
    RpcError::new(code, text).with_may_have_executed(true)
}

/// The state machine and who waits for it do not fit together: our bug.
pub(crate) fn another_question(outcome: &Outcome) -> RpcError {
    tracing::error!(?outcome, "the state machine answered another question");
    unknown(
        Code::Internal,
        "the state machine answered another question",
    )
}
