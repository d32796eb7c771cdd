//! `clusterRpc`: an operator's wishes, on their way into the node.

use std::net::SocketAddr;

use proto::membership::{
    AddLearnerArgs, ChangeReply, ClusterRpc, DescribeArgs, DescribeReply, FollowerState, NodeArgs,
    ReplaceArgs, TransferArgs, TransferReply,
};
use rpc::{Code, Done, RpcContext, RpcError};

use crate::core::{ChangeError, Follower, MembershipChange, NodeId, Role, TransferError};
use crate::membership_codec;
use crate::node::{ChangeFailure, NodeHandle, NodeStatus, StatusReader, TransferFailure, Waiter};

/// Serves a node's `clusterRpc`. Register it with `ClusterRpcService::new(Arc::new(..))`.
///
/// A change is answered when it is complete, so its caller should allow for some seconds.
pub struct ClusterService<W: Waiter> {
    node: NodeHandle<W>,
    cluster_id: u64,
}

impl<W: Waiter> ClusterService<W> {
    /// For a node of that cluster.
    #[must_use]
    pub fn new(node: NodeHandle<W>, cluster_id: u64) -> Self {
        Self { node, cluster_id }
    }

    fn change(&self, change: MembershipChange, done: Done<ChangeReply>) {
        let status = self.node.status_reader();
        tracing::info!(?change, "an operator asks for other members");
        self.node.change_membership(change, move |outcome| {
            done.run(match outcome {
                Ok(id) => ChangeReply {
                    index: id.index.get(),
                    ..ChangeReply::default()
                },
                Err(ChangeFailure::Unknown { leader }) => ChangeReply {
                    unknown: ChangeFailure::Unknown { leader }.to_string(),
                    leader_address: address_of(&status, leader),
                    ..ChangeReply::default()
                },
                Err(failure) => ChangeReply {
                    refused: failure.to_string(),
                    leader_address: match failure {
                        ChangeFailure::Refused(ChangeError::NotLeader { leader }) => {
                            address_of(&status, leader)
                        }
                        _ => String::new(),
                    },
                    ..ChangeReply::default()
                },
            });
        });
    }
}

impl<W: Waiter> ClusterRpc for ClusterService<W> {
    fn describe(&self, _context: RpcContext, _args: DescribeArgs, done: Done<DescribeReply>) {
        let (status, cluster_id) = (self.node.status(), self.cluster_id);
        self.node.followers(move |followers| {
            done.run(description(&status, cluster_id, &followers));
        });
    }

    fn add_learner(&self, _context: RpcContext, args: AddLearnerArgs, done: Done<ChangeReply>) {
        let AddLearnerArgs { node, address } = args;
        if address.parse::<SocketAddr>().is_err() {
            return done.refuse(RpcError::new(
                Code::InvalidArgument,
                format!("{address:?} is no address: give IP:PORT"),
            ));
        }
        let node = NodeId::new(node);
        self.change(MembershipChange::AddLearner { node, address }, done);
    }

    fn promote(&self, _context: RpcContext, args: NodeArgs, done: Done<ChangeReply>) {
        let node = NodeId::new(args.node);
        self.change(MembershipChange::Promote { node }, done);
    }

    fn remove(&self, _context: RpcContext, args: NodeArgs, done: Done<ChangeReply>) {
        let node = NodeId::new(args.node);
        self.change(MembershipChange::Remove { node }, done);
    }

    fn replace(&self, _context: RpcContext, args: ReplaceArgs, done: Done<ChangeReply>) {
        let (old, new) = (NodeId::new(args.old), NodeId::new(args.new));
        self.change(MembershipChange::Replace { old, new }, done);
    }

    fn transfer_leadership(
        &self,
        _context: RpcContext,
        args: TransferArgs,
        done: Done<TransferReply>,
    ) {
        let status = self.node.status_reader();
        let to = args.to.map(NodeId::new);
        self.node.transfer_leadership(to, move |outcome| {
            done.run(match outcome {
                Ok(leader) => TransferReply {
                    leader: leader.get(),
                    ..TransferReply::default()
                },
                Err(failure) => TransferReply {
                    refused: failure.to_string(),
                    leader_address: match failure {
                        TransferFailure::Refused(TransferError::NotLeader { leader }) => {
                            address_of(&status, leader)
                        }
                        _ => String::new(),
                    },
                    ..TransferReply::default()
                },
            });
        });
    }
}

fn address_of(status: &StatusReader, node: Option<NodeId>) -> String {
    let address = node.and_then(|node| status.get().address_of(node).map(str::to_owned));
    address.unwrap_or_default()
}

fn description(status: &NodeStatus, cluster_id: u64, followers: &[Follower]) -> DescribeReply {
    let role = match status.role {
        Role::Follower => "follower",
        Role::PreCandidate | Role::Candidate => "candidate",
        Role::Leader => "leader",
    };
    let leader_address = status.leader.and_then(|leader| status.address_of(leader));
    let followers = followers.iter().map(|follower| FollowerState {
        node: follower.node.get(),
        match_index: follower.match_index.get(),
        silent_ms: follower.silent_ms,
        caught_up: follower.is_caught_up,
        receives_snapshot: follower.receives_snapshot,
    });
    DescribeReply {
        cluster_id,
        node: status.id.get(),
        role: role.to_owned(),
        term: status.term.get(),
        serving: status.serving,
        leader: status.leader.map(NodeId::get),
        leader_address: leader_address.unwrap_or_default().to_owned(),
        membership: Some(membership_codec::to_wire(&status.membership)),
        membership_index: status.membership_index.get(),
        commit_index: status.commit_index.get(),
        last_applied: status.last_applied.get(),
        last_log_index: status.last_log.index.get(),
        handing_over_to: status.handing_over_to.map(NodeId::get),
        followers: followers.collect(),
    }
}
