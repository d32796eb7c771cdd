//! A follower whose state machine stands still costs no more memory than its options say.

use raft::{NodeId, NodeOptions, RaftNode, Refusal, StartError};
use rpc::EventLoops;

use crate::harness::{CLUSTER, Caller, HANG_GUARD, Nodes, eventually};

const MAX_LOG_BYTES: usize = 200_000;
const MESSAGE_BYTES: usize = 10_000;
const COMMAND_BYTES: usize = 5_000;

fn small(options: &mut NodeOptions) {
    options.max_log_bytes = MAX_LOG_BYTES;
    options.snapshot_log_bytes = MAX_LOG_BYTES / 4;
    options.retained_log_bytes = 0;
    options.max_message_bytes = MESSAGE_BYTES;
    options.apply_queue = 1;
}

#[test]
fn the_log_of_a_follower_whose_state_machine_stands_still_has_a_bound() {
    let nodes = Nodes::start(3, small);
    let leader = nodes.leader();
    let follower = &nodes.nodes[(leader + 1) % 3];
    let leader = &nodes.nodes[leader];
    follower.stand_still(true);
    let mut most = 0;
    // Five times what fits, one after another: what is under way at any time is two commands.
    for _ in 0..5 * MAX_LOG_BYTES / COMMAND_BYTES {
        let outcome = leader.propose(vec![7; COMMAND_BYTES]);
        assert_eq!(outcome.recv_timeout(HANG_GUARD), Ok(Ok(())));
        most = most.max(follower.status().log_bytes);
    }
    assert!(most > MAX_LOG_BYTES, "{most} bytes: the bound was not met");
    assert!(
        most <= MAX_LOG_BYTES + 2 * MESSAGE_BYTES,
        "{most} bytes of log"
    );
    assert_eq!(follower.status().leader, Some(leader.status().id));

    follower.stand_still(false);
    eventually("follower that has everything", || {
        (follower.status().last_applied == leader.status().last_applied).then_some(())
    });
    assert!(follower.status().log_bytes <= MAX_LOG_BYTES);
}

#[test]
fn a_leader_whose_state_machine_stands_still_refuses_what_it_could_not_hold() {
    let nodes = Nodes::start(1, small);
    let leader = &nodes.nodes[nodes.leader()];
    leader.stand_still(true);
    let mut waiting = Vec::new();
    let refused = loop {
        let committed = leader.status().commit_index;
        let outcome = leader.propose(vec![7; COMMAND_BYTES]);
        let heard = eventually("commit, or a refusal", || match outcome.try_recv() {
            Ok(heard) => Some(Some(heard)),
            Err(_) => (leader.status().commit_index > committed).then_some(None),
        });
        if let Some(heard) = heard {
            break heard;
        }
        waiting.push(outcome);
        assert!(
            waiting.len() * COMMAND_BYTES <= 2 * MAX_LOG_BYTES,
            "nothing is refused"
        );
    };
    assert_eq!(refused, Err(Refusal::Overloaded));
    leader.stand_still(false);
    for outcome in waiting {
        assert_eq!(outcome.recv_timeout(HANG_GUARD), Ok(Ok(())));
    }
}

#[test]
fn a_snapshot_that_would_come_too_late_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let loops = EventLoops::start(1, "test-node").unwrap();
    let mut options =
        NodeOptions::joining(NodeId::new(0), CLUSTER, dir.path().join("node0"), loops);
    options.snapshot_log_bytes = options.max_log_bytes;
    let refused = RaftNode::<Caller>::start(options);
    assert!(matches!(refused, Err(StartError::LogBounds { .. })));
}
