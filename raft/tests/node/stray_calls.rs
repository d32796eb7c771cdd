//! Callers that a node refuses, and that go on calling.

use proto::raft::{AppendEntriesArgs, Envelope, RaftRpcStub};
use rpc::{Code, RpcChannel, RpcController};

use crate::harness::{CLUSTER, HANG_GUARD, Nodes};
use crate::lines::lines_with;

/// A node of another cluster at a reused address, or one that was removed, calls with every heartbeat.
#[test]
fn refused_calls_are_logged_once_a_kind_and_not_each() {
    let nodes = Nodes::start(1, |_| ());
    let stub = RaftRpcStub::new(RpcChannel::new(nodes.nodes[0].addr()));
    let call = |envelope: Option<Envelope>| {
        let args = AppendEntriesArgs {
            envelope,
            ..AppendEntriesArgs::default()
        };
        let mut controller = RpcController::with_timeout(HANG_GUARD);
        let refused = stub.append_entries(&mut controller, &args).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    };
    let envelope = |cluster_id, from, to| {
        Some(Envelope {
            cluster_id,
            from,
            to,
        })
    };
    let logged = lines_with("call refused", || {
        for _ in 0..100 {
            call(envelope(CLUSTER + 1, 8, 0));
            call(envelope(CLUSTER + 1, 9, 0));
            call(envelope(CLUSTER, 8, 1));
            call(envelope(CLUSTER, 0, 0));
            call(None);
        }
    });
    for (line, says) in logged.iter().zip([
        "is for cluster 0000000000000008",
        "is for cluster 0000000000000008",
        "is for node 1",
        "two nodes bear this number",
        "names no sender",
    ]) {
        assert!(
            line.contains(says) && line.contains("suppressed=0"),
            "{line}"
        );
    }
    assert_eq!(logged.len(), 5, "{logged:#?}");
}

/// What the core refuses comes from a peer that is known; it is logged as seldom.
#[test]
fn messages_that_no_honest_peer_sends_are_logged_once_a_kind() {
    let nodes = Nodes::start(1, |_| ());
    nodes.leader();
    let stub = RaftRpcStub::new(RpcChannel::new(nodes.nodes[0].addr()));
    let logged = lines_with("refused a message", || {
        for _ in 0..100 {
            let args = AppendEntriesArgs {
                envelope: Some(Envelope {
                    cluster_id: CLUSTER,
                    from: 8,
                    to: 0,
                }),
                ..AppendEntriesArgs::default()
            };
            let mut controller = RpcController::with_timeout(HANG_GUARD);
            let refused = stub.append_entries(&mut controller, &args).unwrap();
            assert!(!refused.success);
        }
    });
    assert_eq!(logged.len(), 1, "{logged:#?}");
}
