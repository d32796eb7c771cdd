//! What a node's answer means for the call.

use std::str;

use bytes::Bytes;
use proto::kv::{GetReply, OpenSessionReply, PutAppendReply};
use rpc::{Code, RpcError};

use super::pursuit::Failure;

/// The end of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<R> {
    /// The leader's reply, which ends the call.
    Done(R),
    /// Another attempt may mend it.
    Failed {
        /// How.
        failure: Failure,
        /// Whether the request may be in a log all the same.
        may_have_executed: bool,
    },
    /// The cluster does not know the write's session; this attempt changed nothing.
    SessionExpired,
    /// No node will ever take this request; this attempt changed nothing.
    Refused(String),
}

pub(crate) fn get(reply: Result<GetReply, RpcError>) -> Answer<Option<Bytes>> {
    match reply {
        Err(error) => failed(&error),
        Ok(reply) => match &reply.err[..] {
            b"OK" => Answer::Done(Some(reply.value)),
            b"ErrNoKey" => Answer::Done(None),
            b"ErrWrongLeader" => not_leader(reply.leader_address),
            other => nonsense(other),
        },
    }
}

pub(crate) fn put_append(reply: Result<PutAppendReply, RpcError>) -> Answer<()> {
    match reply {
        Err(error) => failed(&error),
        Ok(reply) => match &reply.err[..] {
            b"OK" => Answer::Done(()),
            b"ErrWrongLeader" => not_leader(reply.leader_address),
            b"ErrSessionExpired" => Answer::SessionExpired,
            other => nonsense(other),
        },
    }
}

pub(crate) fn open_session(reply: Result<OpenSessionReply, RpcError>) -> Answer<u64> {
    match reply {
        Err(error) => failed(&error),
        Ok(reply) => match &reply.err[..] {
            b"OK" if reply.session_id != 0 => Answer::Done(reply.session_id),
            b"ErrWrongLeader" => not_leader(reply.leader_address),
            other => nonsense(other),
        },
    }
}

/// Refused before the log: a node that loses its leadership while a write's entry is under way fails
/// the call with `UNAVAILABLE` instead, since the next leader may commit that entry.
fn not_leader<R>(hint: String) -> Answer<R> {
    Answer::Failed {
        failure: Failure::NotLeader { hint },
        may_have_executed: false,
    }
}

/// A node of another version, or no node of ours: it may have done anything.
fn nonsense<R>(err: &[u8]) -> Answer<R> {
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

fn failed<R>(error: &RpcError) -> Answer<R> {
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
        | Code::Unauthenticated => return Answer::Refused(text),
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
        assert_eq!(get(Ok(reply)), Answer::Done(None));
    }

    #[test]
    fn an_unknown_answer_leaves_the_outcome_open() {
        let reply = PutAppendReply {
            err: Bytes::from_static(b"\xff"),
            ..Default::default()
        };
        assert!(matches!(
            put_append(Ok(reply)),
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
        assert!(matches!(open_session(Ok(reply)), Answer::Failed { .. }));
    }
}
