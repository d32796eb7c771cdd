//! Calls between nodes that are meant for somebody else.

mod common;

use proto::raft::{Envelope, RaftRpcStub, RequestVoteArgs};
use rpc::{Code, RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes};

/// As in [`Nodes`].
const CLUSTER: u64 = 7;

/// Failure 45: two nodes at one address, a file of another cluster, a port used again. Whoever is called
/// by mistake says so, names both sides, and takes nothing from the call, least of all its term.
#[test]
fn calls_for_another_node_or_cluster_are_refused_and_change_nothing() {
    let nodes = Nodes::start(3);
    let called_node = nodes.follower();
    let (leader, called) = (nodes.leader() as u64, called_node as u64);
    let third = 3 - leader - called;
    let stub = RaftRpcStub::new(RpcChannel::new(nodes.addr(called_node)));
    let term = nodes.node(nodes.leader()).status().term;
    let ask = |envelope: Option<Envelope>| {
        let args = RequestVoteArgs {
            envelope,
            term: term.get() + 1_000,
            last_log_index: 1_000,
            last_log_term: term.get() + 999,
            pre_vote: false,
            transfer: false,
        };
        stub.request_vote(&mut RpcController::with_timeout(HANG_GUARD), &args)
    };
    let envelope = |cluster_id, from, to| {
        Some(Envelope {
            cluster_id,
            from,
            to,
        })
    };
    let cases = [
        (
            envelope(CLUSTER + 1, third, called),
            "cluster 0000000000000008",
        ),
        (envelope(CLUSTER, third, leader), "the call is for node"),
        (
            envelope(CLUSTER, called, called),
            "two nodes bear this number",
        ),
        (None, "names no sender"),
    ];
    for (envelope, told) in cases {
        let error = ask(envelope).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        assert!(error.text().contains(told), "{error}");
    }
    let now = nodes.node(called_node).status().term;
    assert!(
        now.get() < term.get() + 1_000,
        "it took term {now} from them"
    );

    // The call itself is one that a node answers.
    assert!(ask(envelope(CLUSTER, third, called)).is_ok());
}
