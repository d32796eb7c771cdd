//! Thesis §6.4, step by step.

use super::message::Message;
use super::testing::*;
use super::types::{LogId, ReadId};
use super::{ProposeError, read_index::MAX_READS};

fn rounds(messages: &[Message]) -> Vec<u64> {
    let round = |message: &Message| match message {
        Message::AppendEntries { round, .. } => *round,
        other => panic!("{other:?}"),
    };
    messages.iter().map(round).collect()
}

/// A leader of three that has committed its first entry, which is entry 1.
fn serving() -> Bench {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, accepted(1, 1));
    bench.step(N3, accepted(1, 1));
    bench.out();
    assert!(bench.raft.is_serving());
    bench
}

/// Steps 2 and 3.
#[test]
fn a_read_is_ready_once_a_majority_confirmed_a_round_that_began_after_it() {
    let mut bench = serving();
    bench.read(1);
    assert_eq!(rounds(&bench.sent_to(N2)), [1]);
    bench.step(N2, accepted_in(1, 1, 0));
    assert_eq!(bench.ready(), [], "an answer to an earlier message");
    bench.step(N2, accepted_in(1, 1, 1));
    assert_eq!(bench.ready(), [(1, 1)]);
    bench.step(N3, accepted_in(1, 1, 1));
    assert_eq!(bench.ready(), [], "each read once");
}

/// Failure 118: an answer to an earlier round confirms no later read.
#[test]
fn reads_that_come_during_a_round_share_the_next_one() {
    let mut bench = serving();
    bench.read(1);
    bench.out();
    bench.read(2);
    bench.read(3);
    assert_eq!(bench.said(), [], "one round at a time");
    bench.step(N2, accepted_in(1, 1, 1));
    let effects = bench.out();
    assert_eq!(
        effects
            .iter()
            .filter(|effect| matches!(effect, super::Effect::ReadReady { .. }))
            .count(),
        1
    );
    bench.step(N3, accepted_in(1, 1, 1));
    assert_eq!(bench.ready(), [], "late, to round 1");
    bench.step(N3, accepted_in(1, 1, 2));
    assert_eq!(bench.ready(), [(2, 1), (3, 1)]);
}

/// Step 1; failure 117.
#[test]
fn a_new_leader_serves_no_read_before_an_entry_of_its_term_is_committed() {
    let mut bench = Bench::leader(2, &[1, 1]);
    bench.read(1);
    assert_eq!(bench.said(), []);
    bench.step(N2, accepted_in(2, 2, 0));
    assert_eq!(bench.ready(), []);
    bench.step(N2, accepted_in(2, 3, 0));
    assert_eq!(rounds(&bench.sent_to(N2)), [1], "only now it asks");
    bench.step(N2, accepted_in(2, 3, 1));
    assert_eq!(bench.ready(), [(1, 3)]);
}

/// The index is what was committed when the read came, not what came after.
#[test]
fn a_read_need_not_wait_for_later_writes() {
    let mut bench = serving();
    bench.read(1);
    bench.propose("later");
    bench.sync();
    bench.out();
    bench.step(N2, accepted_in(1, 2, 1));
    assert_eq!(bench.ready(), [(1, 1)]);
}

/// Failures 116, 118: reads end with the leadership.
#[test]
fn a_deposed_leader_refuses_what_waits() {
    let mut bench = serving();
    bench.read(1);
    bench.out();
    bench.read(2);
    bench.step(N2, heartbeat(2, LogId::ZERO, 0));
    assert_eq!(bench.refused(), [1, 2]);
    bench.step(N2, accepted_in(1, 1, 1));
    assert_eq!(bench.ready(), []);
    let error = bench.raft.read(ReadId::new(3));
    assert_eq!(error, Err(ProposeError::NotLeader { leader: Some(N2) }));
}

#[test]
fn a_leader_that_hears_no_majority_refuses_what_waits() {
    let mut bench = serving();
    bench.read(1);
    bench.out();
    bench.pass(500);
    assert_eq!(bench.refused(), [1]);
}

#[test]
fn a_round_whose_messages_were_lost_is_repeated_by_the_heartbeat() {
    let mut bench = serving();
    bench.read(1);
    bench.out();
    bench.pass(25);
    assert_eq!(rounds(&bench.sent_to(N2)), [1]);
    bench.step(N2, accepted_in(1, 1, 1));
    assert_eq!(bench.ready(), [(1, 1)]);
}

/// Also a rejection confirms whom it answers, and entries carry the round as well.
#[test]
fn any_answer_of_the_term_confirms_its_round() {
    let mut bench = serving();
    bench.read(1);
    bench.out();
    bench.propose("a");
    assert_eq!(rounds(&bench.sent_to(N3)), [1]);
    bench.step(N3, accepted_in(1, 2, 1));
    assert_eq!(bench.ready(), [(1, 1)]);
    bench.step(N3, accepted_in(1, 2, 99));
    bench.read(2);
    bench.out();
    bench.step(N3, accepted_in(1, 2, 1));
    assert_eq!(bench.ready(), [], "round 99 never was");
}

#[test]
fn who_is_silent_is_left_to_the_heartbeat() {
    let mut bench = serving();
    bench.pass(250);
    bench.step(N2, accepted(1, 1));
    bench.pass(100);
    bench.out();
    bench.read(1);
    assert_eq!(bench.said().len(), 1, "N2 only");
}

#[test]
fn alone_a_read_is_ready_at_once() {
    let mut bench = Bench::leader_of(1, 1, &[], |_| ());
    bench.read(1);
    assert_eq!(bench.ready(), [(1, 1)]);
}

#[test]
fn waiting_reads_are_bounded() {
    let mut bench = serving();
    for read in 0..MAX_READS as u64 {
        bench.read(read);
    }
    assert_eq!(
        bench.raft.read(ReadId::new(0)),
        Err(ProposeError::Overloaded)
    );
    bench.out();
    assert_eq!(
        bench.raft.read(ReadId::new(0)),
        Err(ProposeError::Overloaded)
    );
    bench.step(N2, accepted_in(1, 1, 1));
    assert_eq!(bench.ready().len(), MAX_READS);
    bench.read(1);
}
