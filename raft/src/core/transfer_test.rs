//! Thesis §3.10. More of it: `tests/consensus/scripts/transfer_*`.

use super::testing::*;
use super::types::LogId;
use super::{Effect, Message, NodeId, ProposeError, Role, TransferError};

fn failed_transfers(bench: &mut Bench) -> Vec<NodeId> {
    let failed = bench.out().into_iter().filter_map(|effect| match effect {
        Effect::TransferFailed { to } => Some(to),
        _ => None,
    });
    failed.collect()
}

/// A leader whose follower has everything, and another that is behind.
fn handing_over_to_n3() -> Bench {
    let mut leader = Bench::leader(1, &[]);
    leader.step(N2, accepted(1, 1));
    leader.step(N3, accepted(1, 1));
    leader.propose("N3 lacks this");
    leader.sync();
    leader.out();
    leader.step(N2, accepted(1, 2));
    assert_eq!(leader.raft.transfer_leadership(Some(N3)), Ok(N3));
    leader.out();
    leader
}

/// What is durable here as well may be committed by this disk and one other, and say nothing of a third.
#[test]
fn only_what_the_own_disk_lacks_shows_that_a_majority_of_the_others_stores() {
    let mut leader = Bench::leader(1, &[]);
    leader.step(N2, accepted(1, 1));
    assert_eq!(leader.commit(), 1);
    assert!(!leader.raft.is_stored_by_others());
    leader.propose("more");
    leader.out();
    leader.step(N2, accepted(1, 2));
    assert!(!leader.raft.is_stored_by_others(), "only N2 has it");
    leader.step(N3, accepted(1, 2));
    assert!(leader.raft.is_stored_by_others());
    leader.sync();
    assert!(!leader.raft.is_stored_by_others());
}

#[test]
fn a_transfer_that_takes_too_long_is_given_up_and_told_once() {
    let mut leader = handing_over_to_n3();
    assert_eq!(
        leader.raft.propose("not now".into()),
        Err(ProposeError::HandingOver { to: N3 })
    );
    assert_eq!(
        leader.raft.transfer_leadership(Some(N2)),
        Err(TransferError::UnderWay { to: N3 })
    );
    leader.pass(499);
    assert_eq!(failed_transfers(&mut leader), []);
    for follower in [N2, N3] {
        leader.step(follower, accepted(1, 1));
    }
    leader.pass(1);
    assert_eq!(failed_transfers(&mut leader), [N3]);
    leader.propose("as before");
    leader.pass(400);
    assert_eq!(failed_transfers(&mut leader), []);
}

/// It is the next leader's business; and none of this node's when it leads again.
#[test]
fn a_transfer_ends_with_the_leadership_that_began_it() {
    let mut leader = handing_over_to_n3();
    leader.step(N2, heartbeat(2, LogId::ZERO, 0));
    assert_eq!(leader.raft.role(), Role::Follower);
    assert_eq!(leader.raft.handing_over_to(), None);
    leader.sync();
    leader.pass(500);
    assert_eq!(failed_transfers(&mut leader), []);

    leader.elect();
    leader.sync();
    leader.out();
    leader.step(N3, accepted(3, leader.raft.last_log().index.get()));
    let sent = leader.sent_to(N3);
    let bids = |message: &Message| matches!(message, Message::TimeoutNow { .. });
    assert!(!sent.iter().any(bids), "{sent:?}");
    leader.propose("it leads in earnest");
}
