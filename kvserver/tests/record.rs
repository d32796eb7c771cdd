//! A node's run, recorded and run again.

mod common;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvserver::KvServerOptions;
use proto::kv::{KvServerRpcStub, PutAppendArgs};
use proto::membership::{AddLearnerArgs, ClusterRpcStub, TransferArgs};
use raft::RecordOptions;
use raft::core::{Role, State};
use raft::record::{Event, Replay};
use rpc::{RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes, eventually};

/// Beside the node's directory.
fn record_of(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("rec")
}

fn recorded(options: &mut KvServerOptions) {
    options.node.snapshot_log_bytes = 20_000;
    options.node.retained_log_bytes = 2_000;
    let file = record_of(&options.node.data_dir);
    options.node.record = Some(RecordOptions::new(file));
}

/// Writes through whoever leads.
fn write(nodes: &Nodes, request_id: i32, bytes: usize) {
    eventually("a write", || {
        let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(nodes.leader())));
        let args = PutAppendArgs {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![7; bytes]),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from_static(b"c"),
            request_id,
            ..PutAppendArgs::default()
        };
        let reply = stub.put_append(&mut RpcController::with_timeout(HANG_GUARD), &args);
        reply.is_ok_and(|reply| reply.err == "OK").then_some(())
    });
}

/// Three nodes with their disks, threads and network: leaders that change, a member that is added,
/// snapshots taken and sent, a node that comes back. To keep such a run, give `RECORD_TO=DIR`.
#[test]
fn the_run_of_each_node_of_a_cluster_is_replayed_as_it_was() {
    let mut nodes = Nodes::adjusted(3, recorded);
    write(&nodes, 1, 100);
    let operator = |nodes: &Nodes| ClusterRpcStub::new(RpcChannel::new(nodes.addr(nodes.leader())));
    let patiently = || RpcController::with_timeout(HANG_GUARD);

    let away = nodes.follower();
    nodes.stop_node(away);
    let changed = operator(&nodes).add_learner(
        &mut patiently(),
        &AddLearnerArgs {
            node: 9,
            address: "127.0.0.1:1".to_owned(),
        },
    );
    assert_eq!(changed.unwrap().refused, "");
    for request_id in 2..14 {
        write(&nodes, request_id, 4_000);
    }
    let leader = nodes.leader();
    eventually("a snapshot", || {
        (nodes.node(leader).status().snapshot.index.get() > 2).then_some(())
    });
    nodes.start_node(away);
    eventually("a node that has caught up by a snapshot", || {
        let status = nodes.node(away).status();
        (status.snapshot.index.get() > 2).then_some(())
    });

    let term = nodes.node(leader).status().term;
    let moved = operator(&nodes).transfer_leadership(&mut patiently(), &TransferArgs { to: None });
    assert_eq!(moved.unwrap().refused, "");
    write(&nodes, 14, 10);
    let second = nodes.leader();
    assert!(nodes.node(second).status().term > term);
    nodes.stop_node(second);
    write(&nodes, 15, 10);
    nodes.start_node(second);
    write(&nodes, 16, 10);
    eventually("all of it at the node that came back", || {
        let commit_index = |node: usize| nodes.node(node).status().commit_index;
        (commit_index(second) == commit_index(nodes.leader())).then_some(())
    });
    for node in 0..3 {
        nodes.stop_node(node);
    }

    let mut led = 0;
    for node in 0..3 {
        let file = record_of(&nodes.data_dir(node));
        let aside = file.with_extension("rec.1");
        for file in [file, aside].into_iter().filter(|file| file.exists()) {
            let (mut steps, mut last) = (0, None);
            let mut end = None;
            for event in Replay::open([file.clone()]).unwrap() {
                let event = event.unwrap();
                if let Event::Step { state, .. } = &event {
                    steps += 1;
                    let leads = |state: &State| state.role == Role::Leader;
                    led += usize::from(leads(state) && !last.as_ref().is_some_and(leads));
                    last = Some(*state);
                }
                end = Some(event);
            }
            assert_eq!(end, Some(Event::Ended), "{}", file.display());
            assert!(steps > 10, "{steps} steps of {}", file.display());
            let last = last.unwrap();
            println!("{}: {steps} steps, {last:?}", file.display());
            if let Some(dir) = std::env::var_os("RECORD_TO") {
                let to = Path::new(&dir).join(file.file_name().unwrap());
                std::fs::copy(&file, to).unwrap();
            }
        }
        let status = Replay::open([record_of(&nodes.data_dir(node))]).unwrap();
        let last = status.filter_map(|event| match event.unwrap() {
            Event::Step { state, .. } => Some(state),
            _ => None,
        });
        let last = last.last().unwrap();
        assert!(last.snapshot.index.get() > 2, "{last:?}");
        assert!(last.membership_index.get() > 0, "{last:?}");
    }
    assert!(led >= 3, "{led} leaderships");
}
