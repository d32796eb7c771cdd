//! Calls to one peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::raft::{Envelope, RaftRpcStub};
use rpc::{Backoff, ChannelOptions, Code, RpcChannel, RpcController, RpcError};

use crate::convert::{self, Request};
use crate::core::{LogId, LogIndex, Membership, Message, NodeId, Term};
use crate::node::NodeOptions;

/// A peer that comes back is found again within this time.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(10),
    max: Duration::from_millis(200),
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One other node, and the channel to it. Clones share the channel.
#[derive(Clone)]
pub(crate) struct Peer {
    id: NodeId,
    envelope: Envelope,
    stub: RaftRpcStub,
    /// No member any more.
    has_left: bool,
}

impl Peer {
    /// The channel to node `id` at `addr`, as seen from the node that `options` describe.
    pub(crate) fn new(options: &NodeOptions, id: NodeId, addr: SocketAddr) -> Self {
        let channel_options = ChannelOptions {
            loops: Some(options.loops.clone()),
            connect_timeout: CONNECT_TIMEOUT,
            backoff: BACKOFF,
            // A peer that vanished without a word is redialled before the kernel gives it up.
            silence_limit: options.election_timeout.1 * 2,
            ..ChannelOptions::default()
        };
        Self {
            id,
            envelope: Envelope {
                cluster_id: options.cluster_id,
                from: options.id.get(),
                to: id.get(),
            },
            stub: RaftRpcStub::new(RpcChannel::with_options(addr, channel_options)),
            has_left: false,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// Sends a request; `done` gets its reply, on the event loop.
    pub(crate) fn call_async(
        &self,
        message: Message,
        timeout: Duration,
        done: impl FnOnce(Result<Message, RpcError>) + Send + 'static,
    ) {
        let controller = RpcController::with_timeout(timeout);
        match Request::new(message, self.envelope) {
            Some(Request::AppendEntries(args)) => {
                self.stub.append_entries_async(controller, &args, |reply| {
                    done(reply.map(|reply| convert::append_entries_reply(&reply)));
                });
            }
            Some(Request::RequestVote(args)) => {
                self.stub.request_vote_async(controller, &args, |reply| {
                    done(reply.map(|reply| convert::request_vote_reply(&reply)));
                });
            }
            Some(Request::InstallSnapshot(args)) => {
                let last_included = snapshot_of(&args);
                self.stub
                    .install_snapshot_async(controller, &args, move |reply| {
                        done(
                            reply.map(|reply| {
                                convert::install_snapshot_reply(&reply, last_included)
                            }),
                        );
                    });
            }
            Some(Request::TimeoutNow(args)) => {
                self.stub.timeout_now_async(controller, &args, |reply| {
                    done(reply.map(convert::timeout_now_reply));
                });
            }
            Some(Request::ReadIndex(args)) => {
                self.stub.read_index_async(controller, &args, |reply| {
                    done(reply.map(|reply| convert::read_index_reply(&reply)));
                });
            }
            None => done(Err(RpcError::new(
                Code::Internal,
                "a reply is not a request",
            ))),
        }
    }

    /// As [`Peer::call_async`], waiting for the reply.
    pub(crate) fn call(&self, message: Message, timeout: Duration) -> Result<Message, RpcError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.call_async(message, timeout, move |reply| {
            // Nobody waits only if the waiting thread died.
            let _ = sender.send(reply);
        });
        receiver.recv().unwrap_or_else(|_| {
            Err(RpcError::new(
                Code::Internal,
                "the channel dropped a call without ending it",
            ))
        })
    }
}

/// The other members, as the membership in force has them.
#[derive(Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, (String, Peer)>,
}

impl Peers {
    /// `None` for one that is no member, or whose address cannot be called.
    pub(crate) fn get(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(&id).map(|(_, peer)| peer)
    }

    /// Keeps the channels that are still right, and opens and closes the others. Members that left
    /// are kept while calls to them may be under way: until the next change.
    ///
    /// Where a node is called that the cluster file lists is for that file to say: a cluster that moved
    /// to other addresses could not elect anybody to tell the log so.
    pub(crate) fn follow(&mut self, options: &NodeOptions, membership: &Membership) {
        let addresses = membership.addresses();
        if !membership.is_joint() {
            // The change of voters that came before has told those who left by now, or will by the
            // channel that is kept here once more.
            self.peers.retain(|id, (_, peer)| {
                addresses.contains_key(id) || !std::mem::replace(&mut peer.has_left, true)
            });
        }
        for (&id, address) in addresses {
            if id == options.id {
                continue;
            }
            let address = options.initial.addresses().get(&id).unwrap_or(address);
            if self.peers.get(&id).is_some_and(|(at, _)| at == address) {
                continue;
            }
            if let Ok(addr) = address.parse() {
                let peer = Peer::new(options, id, addr);
                self.peers.insert(id, (address.clone(), peer));
            } else {
                tracing::error!(peer = %id, address, "this member's address is no ip:port");
                self.peers.remove(&id);
            }
        }
    }
}

fn snapshot_of(args: &proto::raft::InstallSnapshotArgs) -> LogId {
    LogId::new(
        Term::new(args.last_included_term),
        LogIndex::new(args.last_included_index),
    )
}

#[cfg(test)]
mod tests {
    use rpc::EventLoops;

    use super::*;

    /// Nodes 0 to 2, of which the cluster file lists these addresses.
    fn options() -> NodeOptions {
        let addresses =
            ["10.0.0.1:7", "10.0.0.2:7", "10.0.0.3:7"].map(|addr| addr.parse().unwrap());
        let loops = EventLoops::start(1, "test-node").unwrap();
        NodeOptions::new(NodeId::new(0), &addresses, 7, "unused".into(), loops)
    }

    fn members(nodes: &[(u64, &str)]) -> Membership {
        let address = |&(node, at): &(u64, &str)| (NodeId::new(node), at.to_owned());
        Membership::of_voters(nodes.iter().map(address)).unwrap()
    }

    fn dialled(peers: &Peers) -> Vec<(u64, &str)> {
        let all = peers.peers.iter();
        all.map(|(id, (at, _))| (id.get(), at.as_str())).collect()
    }

    /// A cluster that moved elects nobody who could tell the log so, if it dials where the log says.
    #[test]
    fn the_cluster_file_says_where_the_nodes_that_it_lists_are() {
        let options = options();
        let mut peers = Peers::default();
        let in_log = [
            (0, "1.1.1.1:1"),
            (1, "1.1.1.2:1"),
            (2, "10.0.0.3:7"),
            (9, "1.1.1.9:1"),
        ];
        peers.follow(&options, &members(&in_log));
        assert_eq!(
            dialled(&peers),
            [(1, "10.0.0.2:7"), (2, "10.0.0.3:7"), (9, "1.1.1.9:1")],
            "of the others the log says it"
        );
    }

    /// It is told that it left by the channel there is.
    #[test]
    fn a_member_that_left_is_called_until_the_next_change() {
        let options = options();
        let mut peers = Peers::default();
        peers.follow(&options, &members(&[(0, "-"), (1, "-"), (9, "1.1.1.9:1")]));
        peers.follow(&options, &members(&[(0, "-"), (1, "-")]));
        assert_eq!(dialled(&peers), [(1, "10.0.0.2:7"), (9, "1.1.1.9:1")]);
        peers.follow(&options, &members(&[(0, "-"), (1, "-"), (2, "-")]));
        assert_eq!(dialled(&peers), [(1, "10.0.0.2:7"), (2, "10.0.0.3:7")]);
    }

    #[test]
    fn an_address_that_cannot_be_called_is_no_peer() {
        let options = options();
        let mut peers = Peers::default();
        peers.follow(&options, &members(&[(0, "-"), (9, "1.1.1.9:1")]));
        peers.follow(&options, &members(&[(0, "-"), (9, "somewhere")]));
        assert!(peers.get(NodeId::new(9)).is_none());
    }
}
