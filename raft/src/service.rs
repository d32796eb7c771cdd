//! `raftRpc`: peers' calls, on their way into the node's inbox.

use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;
use proto::raft::{
    AppendEntriesArgs, AppendEntriesReply, Envelope, InstallSnapshotArgs, InstallSnapshotReply,
    RaftRpc, ReadIndexArgs, ReadIndexReply, RequestVoteArgs, RequestVoteReply, TimeoutNowArgs,
    TimeoutNowReply,
};
use rpc::{Code, Done, RpcContext, RpcError};

use crate::convert::{self, UnknownEntry};
use crate::core::{Message, NodeId};
use crate::log_limit::LogLimit;
use crate::node::{NodeHandle, PeerCall, PeerReply, Waiter};

/// Serves a node's `raftRpc`. Register it with `RaftRpcService::new(Arc::new(..))`.
///
/// Its handlers put the call into the inbox and return; the reply comes once what it promises is
/// durable.
pub struct RaftService<W: Waiter> {
    node: NodeHandle<W>,
    id: NodeId,
    cluster_id: u64,
    started: Instant,
    refusals: Mutex<LogLimit<Stray>>,
}

/// A kind of calls that are refused: from where, by whom, and why.
type Stray = (IpAddr, Option<u64>, Why);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    NamesNobody,
    OtherCluster,
    OtherNode,
    OurNumber,
    UnknownEntry,
}

impl<W: Waiter> RaftService<W> {
    /// For node `id` of that cluster.
    #[must_use]
    pub fn new(node: NodeHandle<W>, id: NodeId, cluster_id: u64) -> Self {
        Self {
            node,
            id,
            cluster_id,
            started: Instant::now(),
            refusals: Mutex::default(),
        }
    }

    /// Who calls, if the call is meant for this node.
    ///
    /// Two nodes that share an address, a file from another cluster, a node at a reused port: each
    /// would be heard as somebody it is not.
    fn sender(
        &self,
        envelope: Option<&Envelope>,
        context: &RpcContext,
    ) -> Result<NodeId, RpcError> {
        let refuse = |why, text: String| {
            self.tell(envelope, context, why, &text);
            Err(RpcError::new(Code::PermissionDenied, text))
        };
        let Some(envelope) = envelope else {
            let text = "the call names no sender and no receiver";
            return refuse(Why::NamesNobody, text.to_owned());
        };
        if envelope.cluster_id != self.cluster_id {
            let text = format!(
                "this node is of cluster {:016x}, the call is for cluster {:016x}: check the cluster files",
                self.cluster_id, envelope.cluster_id
            );
            return refuse(Why::OtherCluster, text);
        }
        if envelope.to != self.id.get() {
            let text = format!(
                "this is node {}, the call is for node {}: check the addresses in the cluster files",
                self.id, envelope.to
            );
            return refuse(Why::OtherNode, text);
        }
        // Whether it is a member only the newest membership tells, and that may still be to come.
        if envelope.from == self.id.get() {
            let text = format!("node {} calls itself: two nodes bear this number", self.id);
            return refuse(Why::OurNumber, text);
        }
        Ok(NodeId::new(envelope.from))
    }

    /// Logs a refusal, unless its like was logged lately: whoever calls in vain calls again.
    fn tell(&self, envelope: Option<&Envelope>, context: &RpcContext, why: Why, text: &str) {
        let from = envelope.map(|envelope| envelope.from);
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let kind = (context.peer_addr().ip(), from, why);
        let told = self.refusals.lock().happens(kind, now_ms);
        if let Some(suppressed) = told {
            tracing::warn!(
                peer = %context.peer_addr(), from, reason = %text, suppressed, "call refused"
            );
        }
    }

    fn deliver(
        &self,
        envelope: Option<&Envelope>,
        context: &RpcContext,
        reply: PeerReply,
        message: impl FnOnce() -> Result<Message, UnknownEntry>,
    ) {
        let from = match self.sender(envelope, context) {
            Ok(from) => from,
            Err(error) => return reply.fail(error),
        };
        match message() {
            Ok(message) => self.node.peer_call(PeerCall {
                from,
                message,
                reply,
            }),
            Err(error) => {
                self.tell(envelope, context, Why::UnknownEntry, &error.to_string());
                reply.fail(RpcError::new(Code::InvalidArgument, error.to_string()));
            }
        }
    }
}

impl<W: Waiter> RaftRpc for RaftService<W> {
    fn append_entries(
        &self,
        context: RpcContext,
        mut args: AppendEntriesArgs,
        done: Done<AppendEntriesReply>,
    ) {
        let envelope = args.envelope.take();
        self.deliver(
            envelope.as_ref(),
            &context,
            PeerReply::AppendEntries(done),
            || convert::append_entries(args),
        );
    }

    fn request_vote(
        &self,
        context: RpcContext,
        args: RequestVoteArgs,
        done: Done<RequestVoteReply>,
    ) {
        self.deliver(
            args.envelope.as_ref(),
            &context,
            PeerReply::RequestVote(done),
            || Ok(convert::request_vote(&args)),
        );
    }

    fn install_snapshot(
        &self,
        context: RpcContext,
        mut args: InstallSnapshotArgs,
        done: Done<InstallSnapshotReply>,
    ) {
        let envelope = args.envelope.take();
        self.deliver(
            envelope.as_ref(),
            &context,
            PeerReply::InstallSnapshot(done),
            || Ok(convert::install_snapshot(args)),
        );
    }

    fn timeout_now(&self, context: RpcContext, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        self.deliver(
            args.envelope.as_ref(),
            &context,
            PeerReply::TimeoutNow(done),
            || Ok(convert::timeout_now(&args)),
        );
    }

    fn read_index(&self, context: RpcContext, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        self.deliver(
            args.envelope.as_ref(),
            &context,
            PeerReply::ReadIndex(done),
            || Ok(convert::read_index(&args)),
        );
    }
}
