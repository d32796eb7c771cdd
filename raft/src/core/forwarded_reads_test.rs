//! Reads on nodes that do not lead, where questions and answers get lost (thesis §6.4).

use super::held::MAX_HELD;
use super::message::{AppendOutcome, Message};
use super::testing::*;
use super::types::{LogId, NodeId, ReadId, Term};

fn question(term: u64, number: u64) -> Message {
    Message::ReadIndex {
        term: Term::new(term),
        number,
    }
}

/// The question waits for the disk, and its term is over before that has it.
#[test]
fn a_question_that_is_lost_without_a_word_is_given_up() {
    let mut bench = Bench::new(3);
    bench.step(N2, heartbeat(1, LogId::ZERO, 0));
    bench.raft.read_anywhere(ReadId::new(1)).unwrap();
    assert_eq!(bench.sent_to(N2), [], "term 1 is not durable yet");
    bench.step(N2, heartbeat(2, LogId::ZERO, 0));
    bench.sync();
    assert_eq!(bench.sent_to(N2), [], "it was of term 1");
    assert!(bench.refused().is_empty());

    for _ in 0..10 {
        bench.pass(99);
        bench.step(N2, heartbeat(2, LogId::ZERO, 0));
    }
    assert!(bench.refused().is_empty());
    let due = bench.raft.next_deadline();
    bench.pass(10);
    assert!(due < bench.raft.next_deadline(), "the driver wakes for it");
    assert_eq!(bench.refused(), [1]);
    bench.raft.read_anywhere(ReadId::new(2)).unwrap();
    assert_eq!(bench.sent_to(N2), [question(2, 2)], "the next is asked for");
}

#[test]
fn a_node_that_is_no_member_is_told_no_index() {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, accepted(1, 1));
    bench.step(N3, accepted(1, 1));
    bench.out();
    let stranger = NodeId::new(9);
    let answer = bench.answer(stranger, question(1, 1));
    let refused = Message::ReadIndexReply {
        term: Term::new(1),
        number: 1,
        index: None,
    };
    assert_eq!(answer, Some(refused));
    assert_eq!(
        bench.answer(N2, question(1, 1)),
        None,
        "a round comes first"
    );
}

/// A follower whose disk takes nothing for long hears its leader all the same, and stays quiet.
#[test]
fn what_waits_for_a_disk_makes_room_for_what_comes() {
    let mut bench = Bench::with_log(3, 1, &[]);
    let mut answers = Vec::new();
    for _ in 0..MAX_HELD + 2 {
        bench.step(N2, append(1, LogId::ZERO, &[1], 0));
        answers.extend(bench.said());
    }
    let promises_nothing = |answer: &Message| {
        matches!(
            answer,
            Message::AppendEntriesReply {
                outcome: AppendOutcome::Rejected { .. },
                ..
            }
        )
    };
    assert_eq!(answers.len(), 2, "the two oldest");
    assert!(answers.iter().all(promises_nothing), "{answers:?}");
    let heard = bench.answer(N2, heartbeat(1, LogId::ZERO, 0)).unwrap();
    assert_eq!(heard, accepted(1, 0));
    bench.sync();
    assert_eq!(bench.said(), vec![accepted(1, 1); MAX_HELD]);
}
