//! §7, Fig. 13 *InstallSnapshot RPC*, from both sides; compaction.

use std::sync::Arc;

use super::message::Message;
use super::snapshot::RECEIVER_TAIL_FACTOR;
use super::testing::*;
use super::types::{CallId, Compaction, HardState, LogId, Restored, Term};
use super::{Committed, Effect};

/// A follower of N2 in term 3 with this log, committed up to `commit` and applied.
fn follower(terms: &[u64], commit: u64) -> Bench {
    let mut bench = Bench::with_log(3, 3, terms);
    let upto = usize::try_from(commit).expect("small");
    let prev_log = if upto == 0 {
        LogId::ZERO
    } else {
        id(commit, terms[upto - 1])
    };
    bench.step(N2, heartbeat(3, prev_log, commit));
    bench.apply();
    bench.out();
    bench
}

/// A leader of three in term 2 whose log begins after its snapshot of entry 4.
fn compacted_leader() -> Bench {
    let mut bench = Bench::leader_of(3, 2, &[1, 1, 1], |config| config.retained_log_bytes = 0);
    bench.step(N3, accepted(2, 4));
    bench.apply();
    bench.raft.snapshot_taken(id(4, 2));
    bench.sync();
    bench.out();
    bench
}

fn reply(term: u64, last_included: LogId, next_offset: u64) -> Message {
    let term = Term::new(term);
    Message::InstallSnapshotReply {
        term,
        last_included,
        next_offset,
        installed: false,
    }
}

fn snapshots_sent(effects: &[Effect]) -> Vec<LogId> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::SendSnapshot { last_included, .. } => Some(*last_included),
        _ => None,
    });
    sent.collect()
}

/// Rule 1.
#[test]
fn a_chunk_of_an_older_term_is_refused() {
    let mut bench = follower(&[1, 1], 1);
    let answer = bench.answer(N2, chunk(2, id(9, 2), 0, true));
    assert_eq!(answer, Some(reply(3, id(9, 2), 0)));
}

/// Rules 2 to 5: chunks go to the driver; each is answered once stored.
#[test]
fn chunks_are_stored_and_then_answered() {
    let mut bench = follower(&[1, 1], 1);
    bench.step(N2, chunk(3, id(9, 2), 0, false));
    let effects = bench.out();
    let [
        Effect::ReceiveSnapshot {
            call,
            last_included,
            offset: 0,
            done: false,
            ..
        },
    ] = effects[..]
    else {
        panic!("{effects:?}")
    };
    bench.raft.chunk_stored(call, last_included, 4, None);
    assert_eq!(bench.said(), [reply(3, id(9, 2), 4)]);
}

/// A stream of chunks keeps elections away.
#[test]
fn a_chunk_is_a_sign_of_life() {
    let mut bench = follower(&[1, 1], 1);
    bench.pass(299);
    bench.step(N2, chunk(3, id(9, 2), 0, false));
    bench.pass(299);
    assert_eq!(bench.raft.leader(), Some(N2));
}

/// Rule 6; failure 78.
#[test]
fn the_suffix_stays_if_the_log_has_the_last_included_entry() {
    let mut bench = follower(&[1, 1, 2, 2], 1);
    bench
        .raft
        .chunk_stored(CallId::new(7), id(3, 2), 9, Some(Arc::new(members(3))));
    assert_eq!((bench.raft.last_log(), bench.commit()), (id(4, 2), 3));
    assert_eq!(bench.terms(), [2]);
    let told = [installed(3, id(3, 2), 9)];
    assert_eq!(bench.said(), told, "file and log are durable");
    let batch = bench.take();
    assert_eq!(
        (batch.reset_to, batch.truncate_from, batch.entries.len()),
        (None, None, 0)
    );
    assert_eq!(
        batch.compaction,
        Some(Compaction {
            snapshot: id(3, 2),
            drop_upto: id(3, 2)
        })
    );
    assert_eq!(
        bench.raft.take_committed(1),
        Some(Committed::Snapshot(id(3, 2)))
    );
}

/// Rule 7, 8; failure 77: also if there is an entry of another term.
#[test]
fn otherwise_the_whole_log_goes() {
    for terms in [&[1, 1][..], &[1, 1, 1, 1, 1]] {
        let mut bench = follower(terms, 1);
        bench
            .raft
            .chunk_stored(CallId::new(7), id(4, 2), 9, Some(Arc::new(members(3))));
        assert_eq!((bench.raft.last_log(), bench.commit()), (id(4, 2), 4));
        assert_eq!(bench.raft.log_bytes(), 0);
        let batch = bench.take();
        assert_eq!((batch.reset_to, batch.entries.len()), (Some(id(4, 2)), 0));
        assert_eq!(bench.said(), []);
        bench.raft.persisted(batch.id);
        assert_eq!(bench.said(), [installed(3, id(4, 2), 9)]);
        assert_eq!(
            bench.raft.take_committed(1),
            Some(Committed::Snapshot(id(4, 2)))
        );

        bench.step(N2, append(3, id(4, 2), &[2, 3], 6));
        assert_eq!(bench.take().entries.len(), 2);
        let committed = bench.raft.take_committed(usize::MAX);
        assert_eq!(
            committed,
            Some(Committed::Entries(entries(5, &[2, 3]))),
            "and goes on after it"
        );
    }
}

/// Failures 58, 79: nothing is turned back.
#[test]
fn a_snapshot_of_what_is_committed_already_is_answered_without_being_taken() {
    let mut bench = follower(&[1, 1, 2, 2], 3);
    assert_eq!(
        bench.answer(N2, chunk(3, id(3, 2), 0, false)),
        Some(installed(3, id(3, 2), 4))
    );
    bench
        .raft
        .chunk_stored(CallId::new(7), id(2, 1), 9, Some(Arc::new(members(3))));
    assert_eq!(bench.said(), [installed(3, id(2, 1), 9)]);
    assert_eq!((bench.raft.snapshot(), bench.commit()), (LogId::ZERO, 3));
    assert_eq!(bench.raft.take_committed(1), None);
}

/// The promise of `installed` is durability: entries that are committed, but still being written,
/// do not keep it.
#[test]
fn what_is_committed_but_not_durable_is_answered_later() {
    let mut bench = follower(&[1], 1);
    bench.step(N2, append(3, id(1, 1), &[3, 3], 3));
    assert_eq!(bench.answer(N2, chunk(3, id(3, 3), 0, false)), None);
    bench.sync();
    assert_eq!(bench.said(), [accepted(3, 3), installed(3, id(3, 3), 4)]);
}

/// Failure 38, with a snapshot in between.
#[test]
fn a_write_of_entries_that_a_snapshot_replaced_counts_nothing() {
    let mut bench = follower(&[1], 1);
    bench.step(N2, append(3, id(1, 1), &[3, 3], 0));
    let old = bench.take();
    bench
        .raft
        .chunk_stored(CallId::new(7), id(9, 3), 9, Some(Arc::new(members(3))));
    bench.raft.persisted(old.id);
    assert_eq!(bench.raft.durable_index(), index(1));
    assert_eq!(bench.said(), [accepted(3, 1)]);
    bench.sync();
    assert_eq!(bench.raft.durable_index(), index(9));
}

/// A crash between the snapshot's file and the log's reset (failure 84).
#[test]
fn a_restored_log_that_contradicts_the_snapshot_is_forgotten() {
    let restored = Restored {
        hard_state: HardState {
            current_term: Term::new(3),
            voted_for: None,
        },
        snapshot: id(3, 2),
        membership: None,
        prev: LogId::ZERO,
        entries: entries(1, &[1, 1, 1, 1]),
    };
    let mut bench = Bench::restored(3, restored, |_| ());
    assert_eq!(bench.raft.last_log(), id(3, 2));
    assert_eq!(bench.take().reset_to, Some(id(3, 2)));
}

/// §7, and the tail that is kept for followers that were away briefly.
#[test]
fn compaction_drops_the_head_and_keeps_a_tail_within_its_bound() {
    let mut bench = Bench::leader_of(1, 1, &[], |config| config.retained_log_bytes = 200);
    for _ in 0..9 {
        bench.propose("sixteen bytes...");
    }
    bench.sync();
    bench.apply();
    let before = bench.raft.log_bytes();
    bench.raft.snapshot_taken(id(8, 1));
    let compaction = bench.take().compaction.expect("one");
    assert_eq!(compaction.snapshot, id(8, 1));
    let tail: usize = entries(1, &[1]).iter().map(super::Entry::size_bytes).sum();
    let kept = 8 - compaction.drop_upto.index.get();
    assert!(
        (2..=200 / tail as u64).contains(&kept),
        "{kept} entries kept"
    );
    assert!(bench.raft.log_bytes() < before);
    assert_eq!(
        bench.raft.term_at(compaction.drop_upto.index),
        Some(Term::new(1)),
        "the one before the tail is known"
    );

    bench.raft.snapshot_taken(id(5, 1));
    assert_eq!(
        bench.raft.snapshot(),
        id(8, 1),
        "a snapshot never goes back"
    );
    assert_eq!(bench.raft.take_write(), None);
}

/// Entries that the disk has yet to take stay until it has, even if a snapshot has them.
#[test]
fn what_is_not_written_is_not_dropped() {
    let mut bench = Bench::leader_of(3, 1, &[], |config| config.retained_log_bytes = 0);
    bench.propose("a");
    bench.step(N2, accepted(1, 1));
    bench.out();
    bench.step(N2, accepted(1, 2));
    bench.step(N3, accepted(1, 2));
    bench.apply();
    bench.raft.snapshot_taken(id(2, 1));
    let batch = bench.take();
    assert_eq!(batch.entries.len(), 1);
    assert_eq!(
        batch.compaction,
        Some(Compaction {
            snapshot: id(2, 1),
            drop_upto: id(1, 1)
        })
    );
    bench.out();
}

/// The leader's side: once, and nothing else meanwhile.
#[test]
fn a_follower_behind_the_log_gets_the_snapshot_and_then_the_rest() {
    let mut bench = compacted_leader();
    bench.propose("after");
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&bench.out()), [id(4, 2)]);
    bench.propose("meanwhile");
    bench.pass(25);
    assert_eq!(
        bench.sent_to(N2),
        [heartbeat(2, LogId::ZERO, 4)],
        "heartbeats only"
    );
    bench.raft.snapshot_sent(N2, id(4, 2), true);
    let sent = bench.sent_to(N2);
    assert!(
        matches!(&sent[..], [Message::AppendEntries { prev_log, entries, .. }] if *prev_log == id(4, 2) && entries.len() == 2)
    );
}

/// Failure 87: nothing to send after it, and the state is left all the same.
#[test]
fn a_snapshot_of_the_whole_log_ends_the_transfer() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    bench.out();
    bench.step(N2, installed(2, id(4, 2), 9));
    bench.propose("next");
    assert_eq!(bench.sent_to(N2).len(), 1);
}

/// Failure 88: the follower got there by another way.
#[test]
fn an_append_reply_that_proves_the_position_ends_the_transfer() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    bench.out();
    bench.step(N2, accepted(2, 3));
    bench.propose("next");
    assert_eq!(bench.sent_to(N2), [], "3 is not enough: 4 is compacted");
    bench.step(N2, accepted(2, 4));
    assert_eq!(bench.sent_to(N2).len(), 1);
    bench.raft.snapshot_sent(N2, id(4, 2), false);
    bench.propose("the late report changes nothing");
    assert_eq!(bench.sent_to(N2).len(), 1);
}

/// Failure 91: a transfer that fails is not started in a loop.
#[test]
fn a_failed_transfer_is_tried_again_after_an_election_timeout_when_the_follower_is_heard() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    bench.out();
    bench.raft.snapshot_sent(N2, id(4, 2), false);
    bench.raft.unreachable(N2);
    let mut sent_after_ms = Vec::new();
    for beat in 1..=40 {
        bench.pass(25);
        bench.step(N2, accepted(2, 0));
        bench.step(N3, accepted(2, 4));
        sent_after_ms.extend(snapshots_sent(&bench.out()).iter().map(|_| beat * 25));
    }
    assert_eq!(sent_after_ms, [500], "once, until its end is reported");
}

/// How long after a failed transfer to N2, which answered that it held so many bytes, the next one begins.
fn pause_after_failure(bench: &mut Bench, snapshot: LogId, held: &[u64]) -> u64 {
    for bytes in held {
        bench.step(N2, reply(2, snapshot, *bytes));
    }
    bench.raft.snapshot_sent(N2, snapshot, false);
    pause_until_sent(bench, snapshot)
}

/// How long until N2 is sent a snapshot.
fn pause_until_sent(bench: &mut Bench, snapshot: LogId) -> u64 {
    let match_index = bench.raft.progress[&N2].match_index.get();
    let begins = (1..=4_000).find(|_| {
        bench.pass(25);
        bench.step(N2, accepted(2, match_index));
        bench.step(N3, accepted(2, snapshot.index.get()));
        !snapshots_sent(&bench.out()).is_empty()
    });
    25 * begins.expect("within 100 seconds")
}

/// A follower whose disk is too small for the snapshot would be sent all of it again and again.
#[test]
fn transfers_that_keep_failing_come_ever_less_often_until_one_begins_further_on() {
    let growing = [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000];
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&bench.out()), [id(4, 2)]);
    let mut pauses = |held| growing.map(|_| pause_after_failure(&mut bench, id(4, 2), &[held]));
    assert_eq!(pauses(100), growing);
    assert_eq!(pauses(99), [15_000; 7], "it kept no more than before");
    assert_eq!(pauses(101), growing);

    bench.step(N2, installed(2, id(4, 2), 102));
    bench.propose("after");
    bench.sync();
    bench.step(N3, accepted(2, 5));
    bench.apply();
    bench.raft.snapshot_taken(id(5, 2));
    bench.raft.unreachable(N2);
    bench.step(N2, accepted(2, 4));
    assert_eq!(snapshots_sent(&bench.out()), [id(5, 2)]);
    assert_eq!(
        pause_after_failure(&mut bench, id(5, 2), &[0]),
        500,
        "it got on"
    );
}

/// An older transfer may take long to end, and says nothing of the follower.
#[test]
fn a_transfer_that_is_not_begun_makes_no_pause_longer() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&bench.out()), [id(4, 2)]);
    assert_eq!(pause_after_failure(&mut bench, id(4, 2), &[0]), 500);
    for _ in 0..5 {
        bench.raft.snapshot_postponed(N2, id(4, 2));
        assert_eq!(pause_until_sent(&mut bench, id(4, 2)), 500);
    }
    assert_eq!(pause_after_failure(&mut bench, id(4, 2), &[0]), 1_000);
}

/// A disk that is too small takes nearly all of each snapshot, of a larger one more, and keeps nothing.
#[test]
fn transfers_that_fail_at_the_ends_of_ever_larger_snapshots_come_ever_less_often() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&bench.out()), [id(4, 2)]);
    let mut pauses = Vec::new();
    for index in 4..10 {
        bench.propose("more");
        bench.sync();
        bench.step(N3, accepted(2, index + 1));
        bench.apply();
        bench.raft.snapshot_taken(id(index + 1, 2));
        let nearly_all = 100 * index;
        let pause = pause_after_failure(&mut bench, id(index, 2), &[0, nearly_all]);
        pauses.push(pause);
    }
    assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 15_000]);
}

/// Failure 97.
#[test]
fn compaction_past_a_follower_whose_window_is_lost_leads_to_a_snapshot() {
    let mut bench = Bench::leader_of(3, 1, &[], |config| {
        config.retained_log_bytes = 0;
        config.max_inflight_messages = 1;
    });
    bench.step(N2, accepted(1, 1));
    bench.step(N3, accepted(1, 1));
    bench.propose("a");
    bench.sync();
    bench.out();
    bench.step(N3, accepted(1, 2));
    bench.propose("b");
    bench.sync();
    bench.out();
    bench.step(N3, accepted(1, 3));
    bench.apply();
    bench.raft.snapshot_taken(id(3, 1));
    assert_eq!(snapshots_sent(&bench.out()), [], "the window is full");
    bench.raft.unreachable(N2);
    bench.step(N2, accepted(1, 1));
    assert_eq!(snapshots_sent(&bench.out()), [id(3, 1)]);
}

/// Failures 85, 94: what a receiver will need after its snapshot is kept, within a bound.
#[test]
fn the_log_is_kept_for_a_follower_that_receives_a_snapshot() {
    let tail_bytes = 200;
    let mut bench = Bench::leader_of(3, 2, &[1, 1, 1], |config| {
        config.retained_log_bytes = tail_bytes;
    });
    bench.step(N3, accepted(2, 4));
    for _ in 0..4 {
        bench.propose("sixteen bytes...");
    }
    bench.sync();
    bench.step(N3, accepted(2, 8));
    bench.apply();
    bench.raft.snapshot_taken(id(8, 2));
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&bench.out()), [id(8, 2)]);

    let mut compact_after = |more: u64| {
        for _ in 0..more {
            bench.propose("sixteen bytes...");
        }
        bench.sync();
        let last = bench.raft.last_log();
        bench.step(N3, accepted(2, last.index.get()));
        bench.apply();
        bench.raft.snapshot_taken(last);
        bench.out();
        bench.raft.log.prev().index
    };
    assert_eq!(
        compact_after(5),
        index(8),
        "all that follows the snapshot under way"
    );
    let prev = compact_after(1_000);
    assert!(prev > index(8), "but not without end");
    assert!(bench.raft.log_bytes() <= RECEIVER_TAIL_FACTOR * tail_bytes);
}

/// Failure 3, and 92: chunks' answers of older terms or unknown files change nothing.
#[test]
fn answers_to_chunks_that_were_not_sent_are_ignored() {
    let mut bench = compacted_leader();
    bench.step(N2, rejected(2, 3, LogId::ZERO));
    bench.out();
    bench.step(N2, installed(1, id(4, 2), 9));
    bench.step(N2, installed(2, id(77, 2), 9));
    assert_eq!(bench.raft.progress[&N2].match_index, index(0));
}
