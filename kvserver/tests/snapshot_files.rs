//! The snapshot files of a node, over its life.

mod common;

use std::fs;

use bytes::Bytes;
use proto::kv::{KvServerRpcStub, PutAppendArgs};
use rpc::{RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes, eventually};

/// A node that is sent one snapshot after the other, and never has cause to take one itself, keeps
/// two files and not all of them.
#[test]
fn a_snapshot_that_replaced_the_state_replaces_the_files_before_it() {
    let mut nodes = Nodes::adjusted(1, |options| {
        options.node.snapshot_log_bytes = 20_000;
        options.node.retained_log_bytes = 0;
    });
    let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(0)));
    for request_id in 1..=5 {
        let args = PutAppendArgs {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![7; 5_000]),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from_static(b"c"),
            request_id,
            ..PutAppendArgs::default()
        };
        let reply = stub.put_append(&mut RpcController::with_timeout(HANG_GUARD), &args);
        assert_eq!(reply.unwrap().err, "OK");
    }
    eventually("a snapshot of its own", || {
        (nodes.node(0).status().snapshot.index.get() > 2).then_some(())
    });
    nodes.stop_node(0);

    // As if they had come from a leader; what is in older ones nobody looks at.
    let dir = nodes.data_dir(0).join("snapshot");
    let older = [1, 2].map(|index| dir.join(format!("{index:016}-1.snap")));
    for file in &older {
        fs::write(file, "an older snapshot").unwrap();
    }
    nodes.start_node(0); // the node's state comes from its newest snapshot
    eventually("the end of the oldest file", || {
        (!older[0].exists()).then_some(())
    });
    assert!(older[1].exists(), "the one to fall back on stays");
}
