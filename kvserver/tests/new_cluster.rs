//! The last resort: one node of a cluster that has lost its majority begins a new one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use kvserver::{KvServer, KvServerOptions};
use proto::kv::{GetArgs, KvServerRpcStub, PutAppendArgs};
use proto::membership::{AddLearnerArgs, ClusterRpcStub, NodeArgs};
use proto::raft::{Envelope, RaftRpcStub, ReadIndexArgs};
use raft::storage::force_new_cluster;
use raft::{NodeId, NodeOptions};
use rpc::{EventLoops, RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes, eventually};

const WRITES: i32 = 40;

fn patiently() -> RpcController {
    RpcController::with_timeout(HANG_GUARD)
}

fn write(stub: &KvServerRpcStub, number: i32) {
    let args = PutAppendArgs {
        key: Bytes::from(format!("key{number}")),
        value: Bytes::from(vec![b'v'; 1_000]),
        op: Bytes::from_static(b"Put"),
        client_id: Bytes::from_static(b"c"),
        request_id: number,
        ..PutAppendArgs::default()
    };
    assert_eq!(stub.put_append(&mut patiently(), &args).unwrap().err, "OK");
}

fn read_all(stub: &KvServerRpcStub) {
    for number in 1..=WRITES {
        let key = Bytes::from(format!("key{number}"));
        let args = GetArgs {
            key,
            ..GetArgs::default()
        };
        let reply = stub.get(&mut patiently(), &args).unwrap();
        assert_eq!(
            (&reply.err[..], reply.value.len()),
            (&b"OK"[..], 1_000),
            "key{number}"
        );
    }
}

#[test]
fn one_node_left_of_three_begins_a_new_cluster_with_all_its_data() {
    // Its snapshot has the first writes, its log the rest.
    let mut nodes = Nodes::adjusted(3, |options| {
        options.node.snapshot_log_bytes = 20_000;
        options.node.retained_log_bytes = 2_000;
    });
    let leader = nodes.leader();
    let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(leader)));
    for number in 1..=WRITES {
        write(&stub, number);
    }
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    eventually("all of it at the node that is left, and a snapshot", || {
        let (has, all) = (nodes.node(left).status(), nodes.node(leader).status());
        let is_there = has.last_applied == all.last_applied && has.snapshot.index.get() > 3;
        is_there.then_some(())
    });
    for node in 0..3 {
        nodes.stop_node(node);
    }

    let (dir, id) = (nodes.data_dir(left), NodeId::new(left as u64));
    let forced = force_new_cluster(&dir, id, Some(nodes.addr(left).to_string())).unwrap();
    let start = |node: u64, dir, address| {
        let loops = EventLoops::start(1, "test-node").unwrap();
        let options = NodeOptions::joining(NodeId::new(node), forced.new.cluster, dir, loops);
        KvServer::start(KvServerOptions::listening(options, address)).unwrap()
    };
    let alone = start(left as u64, dir.clone(), nodes.addr(left));
    eventually("a leader", || alone.status().serving.then_some(()));
    let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(left)));
    read_all(&stub);
    write(&stub, WRITES + 1);

    // A node of the old cluster: neither hears the other, in whatever role.
    nodes.start_node(other);
    let stranger = RaftRpcStub::new(RpcChannel::new(nodes.addr(left)));
    let envelope = Envelope {
        cluster_id: forced.old.cluster,
        from: other as u64,
        to: left as u64,
    };
    let args = ReadIndexArgs {
        envelope: Some(envelope),
        term: 99,
        number: 1,
    };
    let refused = stranger.read_index(&mut patiently(), &args).unwrap_err();
    assert!(refused.text().contains("cluster"), "{refused}");
    let term = alone.status().term;
    eventually("a campaign of the old node", || {
        let status = nodes.node(other).status();
        (status.role != raft::Role::Follower).then_some(())
    });
    let old = nodes.node(other).status();
    assert_eq!((old.leader, alone.status().term), (None, term));
    assert!(alone.status().serving);

    // It grows again.
    let operator = ClusterRpcStub::new(RpcChannel::new(nodes.addr(left)));
    let third = nodes.addr(leader);
    let newcomer = start(7, nodes.data_dir(7), third);
    let learner = AddLearnerArgs {
        node: 7,
        address: third.to_string(),
    };
    assert_eq!(
        operator
            .add_learner(&mut patiently(), &learner)
            .unwrap()
            .refused,
        ""
    );
    eventually("a voter", || {
        let reply = operator
            .promote(&mut patiently(), &NodeArgs { node: 7 })
            .unwrap();
        reply.refused.is_empty().then_some(())
    });
    eventually("all of it at the newcomer", || {
        let (has, all) = (newcomer.status(), alone.status());
        (has.last_applied == all.commit_index).then_some(())
    });
    assert_eq!(Arc::clone(&newcomer.status().membership).voters().len(), 2);
    newcomer.shutdown().unwrap();
    alone.shutdown().unwrap();
}
