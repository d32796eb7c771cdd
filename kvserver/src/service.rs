//! `kvServerRpc`: clients' calls, on their way into the node.
//!
//! Runs on the event loop: checks, encodes, hands over, returns. The answer comes from the applier.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::kv::{
    GetArgs, GetReply, KvServerRpc, OpenSessionArgs, OpenSessionReply, PutAppendArgs,
    PutAppendReply, StatusArgs, StatusReply,
};
use raft::{NodeHandle, NodeId, Role, StatusReader};
use rpc::{Code, Done, RpcContext, RpcError};

use crate::applier::Gauges;
use crate::codec;
use crate::command::{Command, Op, RequestId, SessionId, Writer};
use crate::log_clock::LogClock;
use crate::request::{Asker, Kind, Request};

/// Serves a node's `kvServerRpc`.
pub(crate) struct KvService {
    pub(crate) node: NodeHandle<Request>,
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<LogClock>,
    pub(crate) gauges: Arc<Gauges>,
    /// A larger entry would be committed nowhere: it fits into no message to a follower.
    pub(crate) max_entry_bytes: usize,
}

impl KvService {
    fn asker(&self, context: &RpcContext) -> Asker {
        Asker {
            is_legacy: context.is_legacy(),
            status: self.status.clone(),
        }
    }

    fn propose(&self, context: &RpcContext, command: &Command, kind: Kind) {
        match codec::encode(command) {
            Ok(entry) if entry.len() <= self.max_entry_bytes => {
                let asker = self.asker(context);
                self.node.propose(entry, Request { asker, kind });
            }
            Ok(_) | Err(_) => kind.refuse(
                Code::InvalidArgument,
                "key and value together are larger than one log entry may be",
            ),
        }
    }
}

impl KvServerRpc for KvService {
    fn put_append(&self, context: RpcContext, args: PutAppendArgs, done: Done<PutAppendReply>) {
        match write_command(args, self.clock.stamp(Instant::now())) {
            Ok(command) => self.propose(&context, &command, Kind::Write(done)),
            Err(error) => done.refuse(error),
        }
    }

    fn get(&self, context: RpcContext, args: GetArgs, done: Done<GetReply>) {
        let is_first = context.is_legacy() && args.request_id == 1;
        let first_of = is_first.then_some(args.client_id);
        let kind = Kind::Get {
            key: args.key,
            first_of,
            done,
        };
        let request = Request {
            asker: self.asker(&context),
            kind,
        };
        if args.any_node {
            self.node.read_anywhere(request);
        } else {
            self.node.read(request);
        }
    }

    fn open_session(
        &self,
        context: RpcContext,
        _args: OpenSessionArgs,
        done: Done<OpenSessionReply>,
    ) {
        let command = Command::open_session(self.clock.stamp(Instant::now()));
        self.propose(&context, &command, Kind::OpenSession(done));
    }

    fn status(&self, _context: RpcContext, _args: StatusArgs, done: Done<StatusReply>) {
        let status = self.node.status();
        let role = match status.role {
            Role::Follower => "follower",
            Role::PreCandidate | Role::Candidate => "candidate",
            Role::Leader => "leader",
        };
        let leader_address = status
            .leader
            .and_then(|id| status.address_of(id).map(str::to_owned));
        done.run(StatusReply {
            node_id: status.id.get(),
            role: role.to_owned(),
            term: status.term.get(),
            serving: status.serving,
            leader_id: status.leader.map(NodeId::get),
            leader_address: leader_address.unwrap_or_default(),
            last_log_index: status.last_log.index.get(),
            commit_index: status.commit_index.get(),
            last_applied: status.last_applied.get(),
            snapshot_index: status.snapshot.index.get(),
            log_bytes: status.log_bytes as u64,
            keys: self.gauges.keys(),
            sessions: self.gauges.sessions(),
        });
    }
}

/// The command that a `PutAppend` asks for.
fn write_command(
    args: PutAppendArgs,
    log_time: crate::command::LogTime,
) -> Result<Command, RpcError> {
    let PutAppendArgs { key, value, .. } = args;
    let op = match &args.op[..] {
        b"Put" => Op::Put { key, value },
        b"Append" => Op::Append { key, value },
        other => {
            let text = format!("Op is {:?}; it must be Put or Append", preview(other));
            return Err(RpcError::new(Code::InvalidArgument, text));
        }
    };
    let writer = if args.session_id != 0 {
        Writer::Session {
            id: SessionId::new(args.session_id),
            request: numbered(args.session_request_id)?,
            replies_seen_upto: RequestId::new(args.replies_seen_up_to),
        }
    } else {
        let request = u64::try_from(args.request_id).unwrap_or(0);
        Writer::Legacy {
            client: args.client_id,
            request: numbered(request)?,
        }
    };
    Ok(Command {
        log_time,
        writer,
        op,
    })
}

/// Requests count from 1: an unnumbered one could not be told from its repetition.
fn numbered(request: u64) -> Result<RequestId, RpcError> {
    if request == 0 {
        return Err(RpcError::new(
            Code::InvalidArgument,
            "the write names neither SessionId and SessionRequestId nor ClientId and RequestId, counted from 1",
        ));
    }
    Ok(RequestId::new(request))
}

/// As much of a client's text as an error text should repeat.
fn preview(text: &[u8]) -> String {
    const MAX: usize = 32;
    String::from_utf8_lossy(&text[..text.len().min(MAX)]).into_owned()
}

/// What tells the log that a process of the original began with a read.
pub(crate) fn begin_legacy(client: Bytes, clock: &LogClock) -> Result<Bytes, codec::EncodeError> {
    codec::encode(&Command::begin_legacy(clock.stamp(Instant::now()), client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::LogTime;

    fn args(op: &'static [u8]) -> PutAppendArgs {
        PutAppendArgs {
            key: Bytes::from_static(b"k"),
            op: Bytes::from_static(op),
            client_id: Bytes::from_static(b"c"),
            request_id: 1,
            ..PutAppendArgs::default()
        }
    }

    /// The original's defect 6: an unknown Op was acknowledged, and did nothing.
    #[test]
    fn an_unknown_op_is_refused_by_name() {
        let error = write_command(args(b"Increment"), LogTime::ZERO).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.text().contains("Increment"), "{error}");
        assert!(write_command(args(b"Append"), LogTime::ZERO).is_ok());
    }

    #[test]
    fn a_write_without_a_number_is_refused() {
        for request_id in [0, -1, i32::MIN] {
            let unnumbered = PutAppendArgs {
                request_id,
                ..args(b"Put")
            };
            assert!(
                write_command(unnumbered, LogTime::ZERO).is_err(),
                "RequestId {request_id}"
            );
        }
        let unnumbered = PutAppendArgs {
            session_id: 7,
            ..args(b"Put")
        };
        assert!(write_command(unnumbered, LogTime::ZERO).is_err());
    }
}
