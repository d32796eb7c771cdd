//! More requests than a node may queue: each is answered, and what was refused was not done.

mod common;

use std::collections::BTreeSet;
use std::sync::mpsc::channel;

use bytes::Bytes;
use proto::kv::{GetArgs, KvServerRpcStub, PutAppendArgs};
use rpc::{ChannelOptions, Code, RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes};

const REQUESTS: usize = 4_000;

fn put(number: usize) -> PutAppendArgs {
    PutAppendArgs {
        key: format!("key {number}").into(),
        value: Bytes::from(vec![1; 1_000]),
        op: Bytes::from_static(b"Put"),
        client_id: format!("client {number}").into(),
        request_id: 1,
        ..PutAppendArgs::default()
    }
}

/// The original's defect 14: four requests at a time, the others waited in threads.
#[test]
fn above_its_bound_a_node_refuses_at_once_and_certainly() {
    let nodes = Nodes::adjusted(1, |options| {
        options.node.max_queued_requests = 8;
        options.node.max_queued_bytes = 16_000;
        options.limits.max_in_flight = 100_000;
    });
    let options = ChannelOptions {
        max_in_flight: 100_000,
        ..ChannelOptions::default()
    };
    let stub = KvServerRpcStub::new(RpcChannel::with_options(nodes.addr(0), options));
    let (answer, answers) = channel();
    for number in 0..REQUESTS {
        let answer = answer.clone();
        stub.put_append_async(
            RpcController::with_timeout(HANG_GUARD),
            &put(number),
            move |reply| {
                let _ = answer.send((number, reply));
            },
        );
    }
    drop(answer);
    let mut refused = BTreeSet::new();
    let mut answered = 0;
    for (number, reply) in answers {
        answered += 1;
        match reply {
            Ok(reply) => assert_eq!(reply.err, "OK"),
            Err(error) => {
                assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
                refused.insert(number);
            }
        }
    }
    println!("{} of {REQUESTS} refused", refused.len());
    assert_eq!(answered, REQUESTS);
    assert!(
        !refused.is_empty() && refused.len() < REQUESTS,
        "{} refused",
        refused.len()
    );

    for number in 0..REQUESTS {
        let get = GetArgs {
            key: put(number).key,
            ..GetArgs::default()
        };
        let reply = stub
            .get(&mut RpcController::with_timeout(HANG_GUARD), &get)
            .unwrap();
        let err = if refused.contains(&number) {
            "ErrNoKey"
        } else {
            "OK"
        };
        assert_eq!(reply.err, err, "write {number}");
    }
}
