//! §5.3, §5.4.2, Fig. 8: when an entry is committed.

use super::testing::*;
use super::types::{HardState, LogId, Restored, Term};
use super::{Committed, Role};

#[test]
fn a_majority_of_durable_copies_commits() {
    let mut bench = Bench::leader_of(5, 1, &[], |_| ());
    bench.propose("a");
    bench.sync();
    bench.step(N2, accepted(1, 2));
    assert_eq!(bench.commit(), 0);
    bench.step(N2, accepted(1, 2));
    assert_eq!(bench.commit(), 0, "one follower counts once");
    bench.step(N3, accepted(1, 1));
    assert_eq!(bench.commit(), 1);
    bench.step(N4, accepted(1, 2));
    assert_eq!(bench.commit(), 2);
}

/// Fig. 8; failure 46, original's defect 18: copies are counted over all rounds, and only
/// of the leader's own term.
#[test]
fn leader_never_commits_an_older_terms_entry_by_counting() {
    let mut leader = Bench::leader(4, &[1, 2]);
    leader.step(N2, accepted(4, 2));
    leader.step(N3, accepted(4, 2));
    assert_eq!(leader.commit(), 0, "entry 2 is of term 2, not 4");

    leader.step(N2, accepted(4, 3));
    assert_eq!(leader.commit(), 3, "its own entry carries the older ones");
}

/// Failure 6: an answer to what was said in an earlier term speaks of another log.
#[test]
fn acceptances_of_an_older_term_count_nothing() {
    let mut leader = Bench::leader(4, &[1, 2]);
    leader.read(1);
    leader.step(N2, accepted(3, 3));
    leader.step(N3, rejected(3, 2, id(1, 1)));
    assert_eq!((leader.commit(), leader.sent_to(N3)), (0, vec![]));
    leader.pass(499);
    leader.step(N2, accepted(3, 0));
    leader.pass(1);
    assert_eq!(
        leader.raft.role(),
        Role::Follower,
        "nor is it a sign of a majority"
    );
}

/// Thesis §10.2.1; failure 37.
#[test]
fn the_leaders_own_copy_counts_once_it_is_durable_and_need_not_be() {
    let mut bench = Bench::leader(1, &[]);
    bench.propose("a");
    let write = bench.take();
    bench.step(N2, accepted(1, 2));
    assert_eq!(bench.commit(), 1, "one copy on disk, and ours is none yet");
    bench.raft.persisted(write.id);
    assert_eq!(bench.commit(), 2);

    bench.propose("b");
    bench.step(N2, accepted(1, 3));
    bench.step(N3, accepted(1, 3));
    assert_eq!(bench.commit(), 3, "a majority without us");
    assert!(matches!(
        bench.raft.take_committed(usize::MAX),
        Some(Committed::Entries(_))
    ));
}

/// Failure 60: a cluster of one waits for its disk.
#[test]
fn alone_a_node_commits_what_is_durable() {
    let mut bench = Bench::leader_of(1, 1, &[], |_| ());
    assert_eq!(bench.commit(), 1);
    bench.propose("a");
    assert_eq!(bench.commit(), 1);
    let write = bench.take();
    assert_eq!(bench.commit(), 1);
    bench.raft.persisted(write.id);
    assert_eq!(bench.commit(), 2);
    assert_eq!(bench.said(), [], "nobody to talk to");
}

/// Failure 59: what was applied before a crash is in the snapshot, or comes again.
#[test]
fn after_a_restart_the_snapshot_counts_even_if_the_log_ends_before_it() {
    let restored = Restored {
        hard_state: HardState {
            current_term: Term::new(3),
            voted_for: None,
        },
        snapshot: id(5, 2),
        membership: None,
        prev: LogId::ZERO,
        entries: entries(1, &[1, 1, 2]),
    };
    let mut bench = Bench::restored(3, restored, |_| ());
    assert_eq!((bench.commit(), bench.raft.last_log()), (5, id(5, 2)));
    assert_eq!(
        bench.take().reset_to,
        Some(id(5, 2)),
        "the disk is told, too"
    );
    assert_eq!(
        bench.raft.take_committed(1),
        Some(Committed::Snapshot(id(5, 2)))
    );
    assert_eq!(bench.raft.take_committed(1), None);
}

/// A restarted node knows nothing of commits but its snapshot, and hands entries out again.
#[test]
fn after_a_restart_entries_come_after_the_snapshot() {
    let restored = Restored {
        hard_state: HardState {
            current_term: Term::new(2),
            voted_for: None,
        },
        snapshot: id(3, 1),
        membership: None,
        prev: id(1, 1),
        entries: entries(2, &[1, 1, 2, 2]),
    };
    let mut bench = Bench::restored(3, restored, |_| ());
    assert_eq!(
        bench.raft.take_committed(usize::MAX),
        Some(Committed::Snapshot(id(3, 1)))
    );
    bench.step(N2, heartbeat(2, id(5, 2), 5));
    let committed = bench.raft.take_committed(usize::MAX);
    assert_eq!(committed, Some(Committed::Entries(entries(4, &[2, 2]))));
    bench.raft.applied(index(5));
    assert_eq!(
        (bench.raft.role(), bench.raft.last_applied()),
        (Role::Follower, index(5))
    );
}
