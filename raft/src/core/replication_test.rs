//! §5.3, Fig. 2 *AppendEntries RPC* and *Leaders*; flow control.

use std::sync::Arc;

use bytes::Bytes;

use super::message::{AppendOutcome, Message};
use super::testing::*;
use super::types::{LogId, Term, WriteId};
use super::{Committed, Effect, ProposeError, Role};

/// §8, and Fig. 2, *Leaders*: upon election.
#[test]
fn a_new_leader_sends_an_empty_entry_of_its_term_at_once() {
    let mut bench = Bench::with_log(3, 3, &[1, 3]);
    bench.time_out();
    bench.step(N2, vote(4, true, true));
    bench.sync();
    bench.out();
    bench.step(N2, vote(4, true, false));
    let sent = bench.sent_to(N3);
    let [
        Message::AppendEntries {
            term,
            prev_log,
            entries,
            ..
        },
    ] = &sent[..]
    else {
        panic!("one message: {sent:?}")
    };
    assert_eq!((*term, *prev_log), (Term::new(4), id(2, 3)));
    assert_eq!((entries.len(), entries[0].id), (1, id(3, 4)));
}

/// Original's defect 17: the heartbeat is not waited for, and what gathered is one message.
#[test]
fn proposals_leave_with_the_flush_in_one_message() {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, accepted(1, 1));
    bench.out();
    bench.propose("a");
    bench.propose("b");
    let sent = bench.sent_to(N2);
    assert_eq!(sent.len(), 1);
    assert!(matches!(&sent[0], Message::AppendEntries { entries, .. } if entries.len() == 2));
    assert_eq!(bench.sent_to(N2), [], "nothing is sent twice");
}

/// Rule 1.
#[test]
fn a_leader_of_an_older_term_is_refused_and_told_ours() {
    let mut bench = Bench::with_log(3, 5, &[1]);
    let answer = bench.answer(N2, append(4, id(1, 1), &[4], 0));
    assert_eq!(answer, Some(rejected(5, 1, id(1, 1))));
    assert_eq!((bench.terms(), bench.raft.leader()), (vec![1], None));
}

/// Rule 2; failure 30: also without entries.
#[test]
fn entries_are_taken_only_where_the_one_before_matches() {
    for terms in [&[][..], &[3]] {
        let mut bench = Bench::with_log(3, 3, &[1, 1, 2]);
        let beyond = bench.answer(N2, append(3, id(5, 3), terms, 9));
        assert_eq!(
            beyond,
            Some(rejected(3, 5, id(3, 2))),
            "the log ends before"
        );
        let other = bench.answer(N2, append(3, id(3, 3), terms, 9));
        assert_eq!(other, Some(rejected(3, 3, id(2, 1))), "another term there");
        assert_eq!((bench.terms(), bench.commit()), (vec![1, 1, 2], 0));
    }
}

/// §5.3: the hint skips whole terms, but nothing committed. Failure 39.
#[test]
fn a_rejection_names_the_last_entry_that_may_agree() {
    let mut bench = Bench::with_log(3, 6, &[1, 1, 2, 2, 2, 5, 5]);
    assert_eq!(
        bench.answer(N2, append(6, id(6, 4), &[6], 0)),
        Some(rejected(6, 6, id(5, 2)))
    );
    assert_eq!(
        bench.answer(N2, append(6, id(6, 1), &[6], 0)),
        Some(rejected(6, 6, id(2, 1)))
    );
    assert_eq!(
        bench.answer(N2, append(6, id(9, 6), &[6], 0)),
        Some(rejected(6, 9, id(7, 5)))
    );
    bench.step(N2, heartbeat(6, id(4, 2), 4));
    assert_eq!(
        bench.answer(N2, append(6, id(6, 1), &[6], 0)),
        Some(rejected(6, 6, id(4, 2)))
    );
}

/// Rule 3; failure 27, original's defect 19.
#[test]
fn a_conflict_removes_the_whole_tail() {
    let mut bench = Bench::with_log(3, 3, &[1, 2, 2, 2, 2]);
    bench.step(N2, append(3, id(1, 1), &[2, 3], 0));
    assert_eq!(bench.terms(), [1, 2, 3]);
    let batch = bench.take();
    assert_eq!(batch.truncate_from, Some(index(3)));
    assert_eq!(batch.entries, entries(3, &[3]));
}

/// Rule 4; failure 28.
#[test]
fn an_old_append_that_arrives_late_truncates_nothing() {
    let mut bench = Bench::with_log(3, 1, &[1, 1, 1, 1]);
    let answer = bench.answer(N2, append(1, id(1, 1), &[1], 0));
    assert_eq!(
        answer,
        Some(accepted(1, 2)),
        "it proves no more than it carries (failure 35)"
    );
    assert_eq!(bench.terms(), [1, 1, 1, 1]);
    assert_eq!(bench.raft.take_write(), None);
}

/// Rule 5; failure 29.
#[test]
fn a_follower_commits_no_further_than_the_message_proves() {
    let mut bench = Bench::with_log(3, 2, &[1, 1, 1, 1]);
    bench.step(N2, heartbeat(2, LogId::ZERO, 4));
    assert_eq!(bench.commit(), 0);
    bench.step(N2, append(2, id(1, 1), &[1], 4));
    assert_eq!(bench.commit(), 2, "3 and 4 may be of another history");
    bench.step(N2, heartbeat(2, id(3, 1), 1));
    assert_eq!(bench.commit(), 2, "and never goes back (failure 49)");
}

/// Fig. 2: "updated on stable storage before responding"; failure 36.
#[test]
fn an_acceptance_waits_for_the_disk_and_a_heartbeat_does_not() {
    let mut bench = Bench::with_log(3, 1, &[1]);
    assert_eq!(bench.answer(N2, append(1, id(1, 1), &[1, 1], 0)), None);
    let first = bench.take();
    assert_eq!(
        bench.answer(N2, append(1, id(1, 1), &[1, 1], 0)),
        None,
        "the same again: same write"
    );
    assert_eq!(bench.answer(N2, append(1, id(3, 1), &[1], 0)), None);
    assert_eq!(
        bench.answer(N2, heartbeat(1, id(3, 1), 0)),
        Some(accepted(1, 1)),
        "durable only"
    );
    bench.raft.persisted(first.id);
    assert_eq!(bench.said(), [accepted(1, 3), accepted(1, 3)]);
    bench.sync();
    assert_eq!(bench.said(), [accepted(1, 4)]);
}

/// Failure 38: the first write of entry 2 ends when there is another entry 2.
#[test]
fn a_write_that_was_overwritten_meanwhile_counts_nothing() {
    let mut bench = Bench::with_log(3, 1, &[1]);
    bench.step(N2, append(1, id(1, 1), &[1, 1], 0));
    let old = bench.take();
    bench.step(N3, append(2, id(1, 1), &[2], 0));
    let new = bench.take();
    assert_eq!((new.truncate_from, new.entries.len()), (Some(index(2)), 1));
    bench.step(N2, append(3, id(1, 1), &[3], 0));
    let newest = bench.take();
    bench.out();

    bench.raft.persisted(old.id);
    assert_eq!(bench.raft.durable_index(), index(1));
    assert_eq!(
        bench.said(),
        [accepted(1, 1)],
        "its promise shrank with the log"
    );
    bench.raft.persisted(new.id);
    assert_eq!(bench.raft.durable_index(), index(1));
    bench.raft.persisted(newest.id);
    assert_eq!(bench.raft.durable_index(), index(2));
}

/// Failure 38: the same while the entries were only gathered.
#[test]
fn what_was_overwritten_before_it_was_taken_is_never_written() {
    let mut bench = Bench::with_log(3, 1, &[1]);
    bench.step(N2, append(1, id(1, 1), &[1, 1], 0));
    bench.step(N3, append(2, id(2, 1), &[2], 0));
    let batch = bench.take();
    assert_eq!(
        (batch.truncate_from, batch.entries),
        (None, entries(2, &[1, 2]))
    );
    bench.raft.persisted(batch.id);
    assert_eq!(bench.said(), [accepted(1, 2), accepted(2, 3)]);
}

/// Failure 12: two leaders in one term.
#[test]
fn two_leaders_of_one_term_stop_the_node_that_sees_it() {
    let mut follower = Bench::new(3);
    follower.step(N2, heartbeat(1, LogId::ZERO, 0));
    assert!(!follower.halts());
    follower.step(N3, heartbeat(1, LogId::ZERO, 0));
    assert!(follower.halts());
    assert_eq!(follower.raft.take_write(), None, "nothing more is promised");

    let mut leader = Bench::leader(1, &[]);
    leader.read(1);
    leader.step(N3, chunk(1, id(9, 1), 0, false));
    assert!(leader.halts());
    assert!(leader.raft.propose(Bytes::new()).is_err());
}

/// Failure 50.
#[test]
fn a_leader_that_contradicts_what_is_committed_stops_the_node() {
    for message in [
        append(3, id(1, 1), &[3], 0),
        append(3, id(2, 3), &[3], 0),
        heartbeat(3, id(2, 3), 0),
    ] {
        let mut bench = Bench::with_log(3, 2, &[1, 1, 1]);
        bench.step(N2, heartbeat(2, id(2, 1), 2));
        assert!(!bench.halts());
        bench.step(N2, message.clone());
        assert!(bench.halts(), "{message:?}");
        assert_eq!(bench.terms(), [1, 1, 1]);
    }
}

/// Failure 4: an entry never gets a term that its proposer did not lead.
#[test]
fn a_deposed_leader_takes_no_proposal() {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, heartbeat(2, LogId::ZERO, 0));
    let refused = bench.raft.propose(Bytes::from_static(b"late"));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(N2) }));
}

/// Failure 5: what waits for the disk keeps the term in which it was said.
#[test]
fn an_answer_that_waited_keeps_its_term() {
    let mut bench = Bench::new(3);
    bench.step(N2, append(1, LogId::ZERO, &[1], 0));
    bench.step(N3, heartbeat(2, LogId::ZERO, 0));
    bench.sync();
    assert_eq!(bench.said(), [accepted(1, 1), accepted(2, 0)]);
}

/// Failure 31: a heartbeat does not depend on where the follower's log stands.
#[test]
fn a_heartbeat_names_only_an_entry_that_is_proven() {
    let mut bench = Bench::leader(2, &[1, 1]);
    bench.pass(25);
    assert_eq!(bench.sent_to(N2), [heartbeat(2, LogId::ZERO, 0)]);
    bench.step(N2, accepted(2, 3));
    bench.out();
    bench.propose("more");
    bench.pass(25);
    assert_eq!(bench.sent_to(N2).last(), Some(&heartbeat(2, id(3, 2), 3)));
}

/// Failure 32, original's defect 20.
#[test]
fn what_lies_before_the_snapshot_is_skipped() {
    let mut bench = Bench::adapted(3, 1, &[1, 1, 1, 1], |config| config.retained_log_bytes = 0);
    bench.step(N2, heartbeat(1, id(3, 1), 3));
    bench.apply();
    bench.raft.snapshot_taken(id(3, 1));
    bench.sync();
    bench.out();
    assert_eq!(bench.terms(), [1]);

    assert_eq!(
        bench.answer(N2, append(1, id(1, 1), &[1], 3)),
        Some(accepted(1, 2))
    );
    assert_eq!(
        bench.answer(N2, heartbeat(1, id(1, 1), 3)),
        Some(accepted(1, 1))
    );
    bench.step(N2, append(1, id(1, 1), &[1, 1, 1, 1], 5));
    bench.sync();
    assert_eq!(bench.said(), [accepted(1, 5)]);
    assert_eq!((bench.terms(), bench.commit()), (vec![1, 1], 5));
}

/// Failure 33.
#[test]
fn duplicated_and_reordered_answers_move_nothing_back() {
    let mut bench = Bench::leader(1, &[]);
    bench.propose("a");
    bench.propose("b");
    bench.sync();
    for match_index in [1, 3, 2, 0, 3, 1] {
        bench.step(N2, accepted(1, match_index));
        bench.out();
    }
    assert_eq!(bench.raft.progress[&N2].match_index, index(3));
    assert_eq!(bench.commit(), 3);
    bench.step(N2, accepted(1, 99));
    assert_eq!(bench.commit(), 3, "what was never sent is not believed");
}

/// Failures 34, 35.
#[test]
fn a_rejection_of_what_is_proven_is_ignored() {
    let mut bench = Bench::leader(2, &[1, 1, 1]);
    bench.step(N2, accepted(2, 4));
    bench.propose("under way");
    bench.out();
    bench.step(N2, rejected(2, 3, id(1, 1)));
    assert_eq!(bench.sent_to(N2), [], "nothing is sent again");
    assert_eq!(bench.raft.progress[&N2].match_index, index(4));
}

#[test]
fn a_rejection_that_answers_an_older_question_is_ignored() {
    let mut bench = Bench::leader(2, &[1, 1, 1]);
    bench.step(N2, rejected(2, 3, id(2, 1)));
    assert_eq!(bench.sent_to(N2).len(), 1, "asks after 2");
    bench.step(N2, rejected(2, 3, id(2, 1)));
    bench.step(N2, rejected(2, 1, LogId::ZERO));
    assert_eq!(bench.sent_to(N2), []);
}

/// §5.3, the leader's half: it skips its own terms too.
#[test]
fn the_leader_backs_up_by_whole_terms() {
    let mut bench = Bench::leader(6, &[1, 1, 1, 3, 3, 5, 5]);
    bench.step(N2, rejected(6, 7, id(6, 2)));
    let sent = bench.sent_to(N2);
    assert!(
        matches!(&sent[..], [Message::AppendEntries { prev_log, .. }] if *prev_log == id(3, 1))
    );
    bench.step(N2, rejected(6, 3, LogId::ZERO));
    let sent = bench.sent_to(N2);
    assert!(
        matches!(&sent[..], [Message::AppendEntries { prev_log: LogId::ZERO, entries, .. }] if entries.len() == 8)
    );
}

#[test]
fn messages_are_bounded_and_a_larger_entry_goes_alone() {
    let mut bench = Bench::leader_of(3, 1, &[], |config| {
        config.max_message_bytes = 3 * (size_of::<super::Entry>() + 16);
    });
    bench.step(N2, accepted(1, 1));
    bench.out();
    for _ in 0..6 {
        bench.propose("sixteen bytes...");
    }
    bench
        .raft
        .propose(Bytes::from(vec![0; 1_000]))
        .expect("it leads");
    bench.propose("after");
    let sizes = bench.sent_to(N2).into_iter().map(|message| match message {
        Message::AppendEntries { entries, .. } => entries.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [3, 3, 1, 1]);
}

/// Failure 94, for each follower.
#[test]
fn the_window_bounds_messages_and_bytes_in_flight() {
    let mut bench = Bench::leader_of(3, 1, &[], |config| {
        config.max_message_bytes = 1;
        config.max_inflight_messages = 3;
        config.max_inflight_bytes = 500;
    });
    bench.step(N2, accepted(1, 1));
    bench.out();
    for _ in 0..5 {
        bench.propose("small");
    }
    assert_eq!(bench.sent_to(N2).len(), 3, "three messages");
    bench.step(N2, accepted(1, 3));
    assert_eq!(bench.sent_to(N2).len(), 2, "as many as were answered");
    bench.step(N2, accepted(1, 6));
    for _ in 0..3 {
        bench
            .raft
            .propose(Bytes::from(vec![0; 400]))
            .expect("it leads");
    }
    assert_eq!(
        bench.sent_to(N2).len(),
        2,
        "the one that crosses the bound still goes"
    );
}

/// Before a follower's position is known, one message asks.
#[test]
fn probing_sends_one_message_at_a_time() {
    let mut bench = Bench::leader_of(3, 2, &[1, 1, 1], |config| config.max_message_bytes = 1);
    bench.propose("a");
    assert_eq!(bench.sent_to(N2), [], "the first is out already");
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(bench.sent_to(N2).len(), 1);
    bench.step(N2, accepted(2, 1));
    assert_eq!(bench.sent_to(N2).len(), 4, "now they are pipelined");
}

/// Failure 40.
#[test]
fn a_window_of_lost_messages_opens_when_the_follower_is_heard() {
    let mut bench = Bench::leader_of(3, 1, &[], |config| {
        config.max_message_bytes = 1;
        config.max_inflight_messages = 2;
    });
    bench.step(N2, accepted(1, 1));
    bench.propose("a");
    bench.propose("b");
    assert_eq!(bench.sent_to(N2).len(), 2);
    bench.raft.unreachable(N2);
    bench.raft.unreachable(N2);
    bench.propose("c");
    assert_eq!(bench.sent_to(N2), [], "nobody is there");
    bench.step(N2, accepted(1, 1));
    assert_eq!(bench.sent_to(N2).len(), 1, "a probe");
    bench.step(N2, accepted(1, 1));
    assert_eq!(bench.sent_to(N2), [], "one at a time");
    bench.step(N2, accepted(1, 2));
    assert_eq!(bench.sent_to(N2).len(), 2, "and the window is open again");
}

/// Failure 40, without a word from the driver.
#[test]
fn a_window_that_is_stuck_for_an_election_timeout_is_probed() {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, accepted(1, 1));
    bench.propose("lost");
    bench.out();
    for _ in 0..19 {
        bench.pass(25);
        bench.step(N2, accepted(1, 1));
        bench.step(N3, accepted(1, 1));
        assert_eq!(
            bench.sent_to(N2).len(),
            1,
            "a heartbeat only: the disk may be slow"
        );
    }
    bench.pass(25);
    bench.step(N2, accepted(1, 1));
    assert_eq!(bench.sent_to(N2).len(), 2, "the entry again");
}

/// Failure 41.
#[test]
fn a_follower_that_has_everything_returns_to_streaming() {
    let mut bench = Bench::leader(1, &[]);
    bench.step(N2, accepted(1, 1));
    bench.raft.unreachable(N2);
    bench.step(N2, accepted(1, 1));
    bench.out();
    for _ in 0..3 {
        bench.propose("no waiting");
        assert_eq!(bench.sent_to(N2).len(), 1);
    }
}

/// Failures 42, 44.
#[test]
fn proposals_are_bounded_and_the_account_returns_to_zero() {
    let mut bench = Bench::leader_of(1, 1, &[], |config| config.max_uncommitted_bytes = 500);
    bench.apply();
    for _ in 0..3 {
        bench
            .raft
            .propose(Bytes::from(vec![0; 10_000]))
            .expect("one alone is always allowed");
        assert_eq!(
            bench.raft.propose(Bytes::new()),
            Err(ProposeError::Overloaded)
        );
        bench.sync();
        assert_eq!(
            bench.raft.propose(Bytes::new()),
            Err(ProposeError::Overloaded),
            "not applied"
        );
        bench.apply();
        assert_eq!(bench.raft.unapplied_bytes, 0);
    }
    let mut many = 0;
    while bench.raft.propose(Bytes::from_static(b"small")).is_ok() {
        many += 1;
    }
    assert!((2..10).contains(&many), "{many} small ones");
}

/// Failure 43.
#[test]
fn committed_entries_are_handed_out_in_order_each_once_within_the_bound() {
    let mut bench = Bench::with_log(3, 1, &[1, 1, 1, 1, 1]);
    bench.step(N2, heartbeat(1, id(4, 1), 4));
    let mut indexes = Vec::new();
    while let Some(Committed::Entries(batch)) = bench.raft.take_committed(1) {
        assert_eq!(batch.len(), 1, "at least one, whatever its size");
        indexes.push(batch[0].id.index.get());
    }
    assert_eq!(indexes, [1, 2, 3, 4]);
    bench.step(N2, heartbeat(1, id(5, 1), 5));
    let batch = bench.raft.take_committed(usize::MAX);
    assert_eq!(batch, Some(Committed::Entries(entries(5, &[1]))));
}

/// The disk is pulled: what gathered while it was busy is one batch.
#[test]
fn a_busy_disk_gets_one_batch_of_all_that_gathered() {
    let mut bench = Bench::leader(1, &[]);
    assert_eq!(bench.raft.take_write(), None);
    bench.propose("a");
    let first = bench.take();
    bench.propose("b");
    bench.propose("c");
    let second = bench.take();
    assert_eq!((first.entries.len(), second.entries.len()), (1, 2));
    assert_eq!(second.id, first.id.next());
    bench.raft.persisted(second.id);
    assert_eq!(
        bench.raft.durable_index(),
        index(4),
        "all before it are durable, too"
    );
    bench.raft.persisted(first.id);
    bench.raft.persisted(WriteId::ZERO);
}

/// However long the disk hangs and whatever a peer sends, what is held is bounded.
#[test]
fn held_answers_are_bounded_and_every_call_is_answered() {
    let mut bench = Bench::with_log(3, 1, &[]);
    let mut answers = 0;
    for _ in 0..super::held::MAX_HELD + 10 {
        bench.step(N2, append(1, LogId::ZERO, &[1], 0));
        answers += bench.said().len();
    }
    assert_eq!(answers, 10, "beyond the bound: refused at once");
    bench.sync();
    assert_eq!(bench.said().len(), super::held::MAX_HELD);
}

/// Whatever the bytes of a message say, a peer cannot make the core panic.
#[test]
fn no_message_of_a_peer_panics() {
    let mut halted = 0;
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bench = match rng.u8(0..3) {
            0 => Bench::with_log(3, 2, &[1, 1, 2]),
            1 => Bench::leader(3, &[1, 2]),
            _ => Bench::new(3),
        };
        for _ in 0..40 {
            let from = *rng.choice(&[N1, N2, N2, N3, N5]).expect("not empty");
            bench.step(from, wild_message(&mut rng));
            for effect in bench.out() {
                match effect {
                    Effect::ReceiveSnapshot {
                        call,
                        last_included,
                        offset,
                        done,
                        ..
                    } => {
                        bench.raft.chunk_stored(
                            call,
                            last_included,
                            offset,
                            done.then(|| Arc::new(members(3))),
                        );
                    }
                    Effect::Fatal { .. } => halted += 1,
                    _ => {}
                }
            }
            if rng.bool() {
                bench.sync();
            }
            if rng.bool() && !bench.raft.is_halted() {
                bench.apply();
            }
            if rng.u8(0..8) == 0 {
                bench.time_out();
            }
            bench.out();
        }
    }
    assert!(halted > 0, "some of them broke the promises, seen");
}

/// A message of any kind with small, large and absurd numbers, of which many fit together.
fn wild_message(rng: &mut fastrand::Rng) -> Message {
    let number = |rng: &mut fastrand::Rng| match rng.u8(0..12) {
        0 => u64::MAX,
        1 => 1 << 62,
        2 => rng.u64(..),
        _ => rng.u64(0..6),
    };
    let term = number(rng);
    let log_id = id(number(rng), number(rng));
    match rng.u8(0..7) {
        0 | 1 => {
            let mut terms: Vec<u64> = (0..rng.usize(0..4)).map(|_| rng.u64(0..5)).collect();
            if rng.bool() {
                terms.sort_unstable();
            }
            let prev_log = if rng.bool() {
                id(rng.u64(0..4), rng.u64(0..3))
            } else {
                LogId::ZERO
            };
            let Message::AppendEntries {
                term,
                prev_log,
                mut entries,
                leader_commit,
                ..
            } = append(term, prev_log, &terms, number(rng))
            else {
                unreachable!()
            };
            if rng.u8(0..5) == 0
                && let Some(entry) = entries.last_mut()
            {
                entry.id = log_id;
            }
            Message::AppendEntries {
                term,
                prev_log,
                entries,
                leader_commit,
                round: number(rng),
            }
        }
        2 => {
            let outcome = if rng.bool() {
                AppendOutcome::Accepted {
                    match_index: index(number(rng)),
                }
            } else {
                AppendOutcome::Rejected {
                    rejected: index(number(rng)),
                    hint: log_id,
                }
            };
            Message::AppendEntriesReply {
                term: Term::new(term),
                outcome,
                round: number(rng),
            }
        }
        3 => Message::RequestVote {
            term: Term::new(term),
            last_log: log_id,
            pre_vote: rng.bool(),
            transfer: false,
        },
        4 => vote(term, rng.bool(), rng.bool()),
        5 => Message::InstallSnapshot {
            term: Term::new(term),
            last_included: log_id,
            offset: number(rng),
            data: Bytes::from_static(b"wild"),
            done: rng.bool(),
        },
        _ => Message::InstallSnapshotReply {
            term: Term::new(term),
            last_included: log_id,
            next_offset: number(rng),
            installed: rng.bool(),
        },
    }
}

/// The same inputs after the same seed yield the same effects.
#[test]
fn the_core_is_a_function_of_its_inputs() {
    let run = || {
        let mut rng = fastrand::Rng::with_seed(77);
        let mut bench = Bench::with_log(3, 2, &[1, 1, 2]);
        let mut all = Vec::new();
        for _ in 0..500 {
            bench.step(
                *rng.choice(&[N2, N3]).expect("not empty"),
                wild_message(&mut rng),
            );
            bench.pass(rng.u64(0..100));
            bench.sync();
            all.extend(bench.out());
        }
        all
    };
    assert_eq!(run(), run());
}

#[test]
fn role_changes_are_told_once() {
    let mut bench = Bench::new(3);
    for _ in 0..3 {
        bench.step(N2, heartbeat(1, LogId::ZERO, 0));
    }
    let told = Effect::RoleChanged {
        role: Role::Follower,
        term: Term::new(1),
        leader: Some(N2),
    };
    assert_eq!(
        bench
            .out()
            .into_iter()
            .filter(|effect| *effect == told)
            .count(),
        1
    );
}
