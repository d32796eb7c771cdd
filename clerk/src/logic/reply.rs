//! What a node's answer means for the call.

use std::str;

use bytes::Bytes;
use proto::kv::{GetReply, OpenSessionReply, PutAppendReply};
use rpc::{Code, RpcError};

use super::pursuit::Failure;

/// What came of an attempt, as it came from the network.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To a read.
    Get(GetReply),
    /// To a write.
    PutAppend(PutAppendReply),
    /// To the wish for a session.
    OpenSession(OpenSessionReply),
    /// None.
    Failed(RpcError),
}

/// The end of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The reply that ends the call.
    Done(Meaning),
    /// Another attempt may mend it.
    Failed {
        /// How.
        failure: Failure,
        /// Whether the request may be in a log all the same.
        may_have_executed: bool,
    },
    /// The cluster does not know the write's session; this attempt changed nothing.
    SessionExpired,
    /// No node will ever take this request.
    Refused {
        text: String,
        /// Whether it may be in a log all the same.
        may_have_executed: bool,
    },
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Value(Option<Bytes>),
    Written,
    Opened(u64),
}

impl Reply {
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Get(reply) => get(reply),
            Self::PutAppend(reply) => put_append(reply),
            Self::OpenSession(reply) => open_session(reply),
            Self::Failed(error) => failed(&error),
        }
    }
}

impl From<Result<GetReply, RpcError>> for Reply {
    fn from(reply: Result<GetReply, RpcError>) -> Self {
        reply.map_or_else(Self::Failed, Self::Get)
    }
}

impl From<Result<PutAppendReply, RpcError>> for Reply {
    fn from(reply: Result<PutAppendReply, RpcError>) -> Self {
        reply.map_or_else(Self::Failed, Self::PutAppend)
    }
}

impl From<Result<OpenSessionReply, RpcError>> for Reply {
    fn from(reply: Result<OpenSessionReply, RpcError>) -> Self {
        reply.map_or_else(Self::Failed, Self::OpenSession)
    }
}

fn get(reply: GetReply) -> Answer {
    match &reply.err[..] {
        b"OK" => Answer::Done(Meaning::Value(Some(reply.value))),
        b"ErrNoKey" => Answer::Done(Meaning::Value(None)),
        b"ErrWrongLeader" => not_leader(reply.leader_address),
        other => nonsense(other),
    }
}

fn put_append(reply: PutAppendReply) -> Answer {
    match &reply.err[..] {
        b"OK" => Answer::Done(Meaning::Written),
        b"ErrWrongLeader" => not_leader(reply.leader_address),
        b"ErrSessionExpired" => Answer::SessionExpired,
        other => nonsense(other),
    }
}

fn open_session(reply: OpenSessionReply) -> Answer {
    match &reply.err[..] {
        b"OK" if reply.session_id != 0 => Answer::Done(Meaning::Opened(reply.session_id)),
        b"ErrWrongLeader" => not_leader(reply.leader_address),
        other => nonsense(other),
    }
}

/// Refused before the log: a node that loses its leadership while a write's entry is under way fails
/// the call with `UNAVAILABLE` instead, since the next leader may commit that entry.
fn not_leader(hint: String) -> Answer {
    Answer::Failed {
        failure: Failure::NotLeader { hint },
        may_have_executed: false,
    }
}

/// A node of another version, or no node of ours: it may have done anything.
fn nonsense(err: &[u8]) -> Answer {
    let shown = str::from_utf8(err).unwrap_or("bytes that are no text");
    let text = format!("an answer that makes no sense here: {shown:.100}");
    Answer::Failed {
        failure: Failure::NoReply {
            text,
            timed_out: false,
        },
        may_have_executed: true,
    }
}

fn failed(error: &RpcError) -> Answer {
    let text = error.text().to_owned();
    let failure = match error.code() {
        Code::ResourceExhausted => Failure::Busy { text },
        Code::DeadlineExceeded => Failure::NoReply {
            text,
            timed_out: true,
        },
        Code::Ok | Code::Cancelled | Code::Internal | Code::Unavailable => Failure::NoReply {
            text,
            timed_out: false,
        },
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::Unauthenticated => {
            return Answer::Refused {
                text,
                may_have_executed: error.may_have_executed(),
            };
        }
    };
    Answer::Failed {
        failure,
        may_have_executed: error.may_have_executed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_is_a_reply_and_no_error() {
        let reply = GetReply {
            err: Bytes::from_static(b"ErrNoKey"),
            ..GetReply::default()
        };
        assert_eq!(
            Reply::Get(reply).answer(),
            Answer::Done(Meaning::Value(None))
        );
    }

    #[test]
    fn an_unknown_answer_leaves_the_outcome_open() {
        let reply = PutAppendReply {
            err: Bytes::from_static(b"\xff"),
            ..Default::default()
        };
        assert!(matches!(
            Reply::PutAppend(reply).answer(),
            Answer::Failed {
                may_have_executed: true,
                ..
            }
        ));
    }

    #[test]
    fn a_session_without_a_number_is_none() {
        let reply = OpenSessionReply {
            err: Bytes::from_static(b"OK"),
            ..Default::default()
        };
        assert!(matches!(
            Reply::OpenSession(reply).answer(),
            Answer::Failed { .. }
        ));
    }
}
