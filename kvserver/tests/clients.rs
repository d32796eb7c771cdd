//! Clients of a cluster whose nodes come and go, and reads from nodes that do not lead.

mod common;

use std::time::Duration;

use bytes::Bytes;
use clerk::{Clerk, ClerkOptions, ReadFrom};
use kvserver::{KvServer, KvServerOptions};
use proto::kv::{GetArgs, KvServerRpcStub};
use proto::membership::{AddLearnerArgs, ChangeReply, ClusterRpcStub, ReplaceArgs};
use raft::{NodeId, NodeOptions};
use rpc::{EventLoops, RpcChannel, RpcController, RpcError};

use crate::common::{HANG_GUARD, Nodes, eventually};

fn patiently() -> RpcController {
    RpcController::with_timeout(HANG_GUARD)
}

/// Thesis §6.4: a follower that waits for what the leader had committed returns nothing older.
#[test]
fn a_follower_answers_what_any_node_may_answer_and_nothing_older_than_the_last_write() {
    let nodes = Nodes::start(3);
    let clerk = Clerk::new([nodes.addr(nodes.leader())], ClerkOptions::default()).unwrap();
    let follower = nodes.follower();
    let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(follower)));
    let args = |any_node| GetArgs {
        key: Bytes::from_static(b"x"),
        any_node,
        ..GetArgs::default()
    };
    for round in 0..200 {
        let value = round.to_string();
        clerk.put("x", value.clone()).unwrap();
        let reply = stub.get(&mut patiently(), &args(true)).unwrap();
        assert_eq!(
            (&reply.err[..], &reply.value[..]),
            (&b"OK"[..], value.as_bytes())
        );
    }
    assert_ne!(
        nodes.leader(),
        follower,
        "it did not become the leader meanwhile"
    );
    let reply = stub.get(&mut patiently(), &args(false)).unwrap();
    assert_eq!(reply.err, "ErrWrongLeader");

    let reader = clerk.with_reads_from(ReadFrom::Any);
    assert_eq!(reader.get("x").unwrap().unwrap(), "199");
    assert_eq!(reader.get("y").unwrap(), None);
}

/// A clerk that was told of three nodes uses a cluster of three others.
#[test]
fn a_clerk_outlives_every_node_that_it_was_told_of() {
    let mut nodes = Nodes::start(3);
    let told = [0, 1, 2].map(|node| nodes.addr(node));
    let options = ClerkOptions {
        timeout: HANG_GUARD,
        refresh_members: Some(Duration::ZERO),
        ..ClerkOptions::default()
    };
    let clerk = Clerk::new(told, options).unwrap();
    clerk.put("x", "").unwrap();

    let mut newcomers: Vec<KvServer> = Vec::new();
    for old in 0..3_usize {
        let new = old as u64 + 3;
        let loops = EventLoops::start(1, "test-node").unwrap();
        let data_dir = nodes.data_dir(old + 3);
        let joining = NodeOptions::joining(NodeId::new(new), 7, data_dir, loops);
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listen.local_addr().unwrap();
        drop(listen);
        newcomers.push(KvServer::start(KvServerOptions::listening(joining, address)).unwrap());

        let learner = AddLearnerArgs {
            node: new,
            address: address.to_string(),
        };
        let replace = ReplaceArgs {
            old: old as u64,
            new,
        };
        // Asked of everybody who may lead, until it is done.
        let change = |what: &dyn Fn(&ClusterRpcStub) -> Result<ChangeReply, RpcError>| {
            eventually("a change of members", || {
                let old_ones = (old..3).map(|node| nodes.addr(node));
                let addresses = old_ones.chain(newcomers.iter().map(KvServer::local_addr));
                let mut stubs = addresses.map(|addr| ClusterRpcStub::new(RpcChannel::new(addr)));
                stubs
                    .find(|stub| what(stub).is_ok_and(|reply| reply.index > 0))
                    .map(drop)
            });
        };
        change(&|stub| stub.add_learner(&mut patiently(), &learner));
        change(&|stub| stub.replace(&mut patiently(), &replace));
        clerk.append("x", new.to_string()).unwrap();
        eventually("a clerk that knows the new node", || {
            clerk.get("x").unwrap();
            clerk.members().contains(&address).then_some(())
        });
        nodes.stop_node(old);
        clerk.append("x", "-").unwrap();
    }
    assert_eq!(clerk.get("x").unwrap().unwrap(), "3-4-5-");
    assert_eq!(
        clerk
            .with_reads_from(ReadFrom::Any)
            .get("x")
            .unwrap()
            .unwrap(),
        "3-4-5-"
    );
}
