//! Who votes is no matter of the cluster file, once a node has run.

mod common;

use clerk::{Clerk, ClerkOptions};
use proto::membership::{ClusterRpcStub, DescribeArgs};
use rpc::{RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes};

/// An operator deletes two of three lines. Were the node that is left a cluster of its own, it would
/// acknowledge writes that the other two know nothing of, and miss those that they agreed upon.
#[test]
fn a_file_that_lists_fewer_nodes_makes_no_smaller_majority() {
    let mut nodes = Nodes::start(3);
    let all = [0, 1, 2].map(|node| nodes.addr(node));
    let clerk = Clerk::new(all, ClerkOptions::default()).unwrap();
    clerk.put("x", "agreed").unwrap();
    for node in 0..3 {
        nodes.stop_node(node);
    }

    nodes.start_node_told_of(0, 1);
    let stub = ClusterRpcStub::new(RpcChannel::new(nodes.addr(0)));
    let mut controller = RpcController::with_timeout(HANG_GUARD);
    let known = stub.describe(&mut controller, &DescribeArgs {}).unwrap();
    let members = known.membership.unwrap_or_default().members;
    let voters: Vec<u64> = members.iter().map(|member| member.node).collect();
    assert_eq!(voters, [0, 1, 2]);

    nodes.start_node(1);
    assert_eq!(clerk.get("x").unwrap().unwrap(), "agreed");
}
