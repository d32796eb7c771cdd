//! What happens when the log in memory reaches its bound: `Config::max_log_bytes`.

use bytes::Bytes;

use super::config::ConfigError;
use super::message::{AppendOutcome, Message};
use super::testing::*;
use super::types::{HardState, LogId, Millis, Restored, Term};
use super::{Config, Effect, ProposeError, Raft};

const BOUND: usize = 2_000;

fn small(config: &mut Config) {
    config.max_log_bytes = BOUND;
    config.retained_log_bytes = 0;
}

fn full(term: u64, match_index: u64) -> Message {
    Message::AppendEntriesReply {
        term: Term::new(term),
        outcome: AppendOutcome::Full {
            match_index: index(match_index),
        },
        round: 0,
    }
}

/// A follower of N2 in term 1 whose log has reached the bound, all of it committed and durable,
/// nothing of it applied. How many entries it took.
fn full_follower() -> (Bench, u64) {
    let mut bench = Bench::adapted(3, 1, &[], small);
    for last in 0..100 {
        let prev_log = if last == 0 { LogId::ZERO } else { id(last, 1) };
        bench.step(N2, append(1, prev_log, &[1], last + 1));
        bench.sync();
        if bench.said() == [full(1, last)] {
            return (bench, last);
        }
    }
    panic!("{} bytes of log, and no end", bench.raft.log_bytes());
}

/// Sends everything that is due for a second, N2 answering each heartbeat; what went to N2 besides.
fn entries_sent_in_a_second(leader: &mut Bench, answer: &Message) -> usize {
    let mut sent = 0;
    for _ in 0..40 {
        leader.pass(25);
        leader.step(N2, answer.clone());
        leader.step(N3, accepted(1, leader.raft.last_log().index.get()));
        let messages = leader.sent_to(N2);
        assert!(
            messages.iter().any(is_heartbeat),
            "it is told that we lead: {messages:?}"
        );
        sent += messages
            .iter()
            .filter(|message| !is_heartbeat(message))
            .count();
    }
    sent
}

fn is_heartbeat(message: &Message) -> bool {
    matches!(message, Message::AppendEntries { entries, .. } if entries.is_empty())
}

#[test]
fn a_follower_whose_state_machine_stands_still_holds_no_more_than_the_bound_and_a_message() {
    let (mut bench, last) = full_follower();
    let entry_bytes = bench.raft.log_bytes() / bench.terms().len();
    assert!((BOUND + 1..=BOUND + entry_bytes).contains(&bench.raft.log_bytes()));
    for _ in 0..10 {
        let answer = bench.answer(N2, append(1, id(last, 1), &[1, 1], last + 2));
        assert_eq!(answer, Some(full(1, last)));
    }
    assert_eq!(bench.raft.last_log(), id(last, 1));
}

/// It is a follower like any other in all but that.
#[test]
fn a_full_follower_hears_commits_and_votes() {
    let mut bench = Bench::adapted(3, 1, &[1; 60], small);
    bench.step(N2, append(1, id(60, 1), &[1], 40));
    assert_eq!(bench.terms().len(), 61, "not committed, so it is taken");
    bench.sync();
    assert_eq!(
        bench.answer(N2, heartbeat(1, id(60, 1), 58)),
        Some(full(1, 60))
    );
    assert_eq!(bench.commit(), 58);
    bench.step(N2, append(1, id(61, 1), &[1], 99));
    assert_eq!(bench.commit(), 61, "as far as the message proves");
    assert_eq!(bench.raft.leader(), Some(N2));

    bench.pass(300);
    bench.out();
    bench.step(N3, ask_vote(2, id(61, 1)));
    bench.sync();
    assert_eq!(bench.said(), [vote(2, true, false)]);
}

/// It tells what it has: a leader whose answer was lost must be able to count it.
#[test]
fn a_full_follower_acknowledges_the_entries_that_it_has() {
    let (mut bench, last) = full_follower();
    let again = append(1, id(last - 2, 1), &[1, 1, 1, 1], last + 2);
    assert_eq!(bench.answer(N2, again), Some(full(1, last)));
    assert_eq!(bench.raft.last_log(), id(last, 1));
    assert_eq!(bench.commit(), last);

    let elsewhere = append(1, id(last + 5, 1), &[1], last + 2);
    assert_eq!(
        bench.answer(N2, elsewhere),
        Some(rejected(1, last + 5, id(last, 1))),
        "and a gap is a gap"
    );
}

/// As any acceptance that waits for the disk, while what it speaks for may still be overwritten.
#[test]
fn what_a_full_follower_acknowledges_and_loses_before_its_disk_has_it_counts_nothing() {
    let (mut bench, last) = full_follower();
    bench.apply();
    bench.raft.snapshot_taken(id(last, 1));
    bench.sync();
    bench.raft.config.max_log_bytes = BOUND / 10;
    bench.step(N2, append(1, id(last, 1), &[1; 5], last + 4));
    let again = append(1, id(last + 4, 1), &[1, 1], last + 4);
    assert_eq!(bench.answer(N2, again), None, "it waits for the disk");
    // A larger bound stands for state that was applied and compacted meanwhile.
    bench.raft.config.max_log_bytes = BOUND;
    bench.step(N3, append(2, id(last + 4, 1), &[2], last + 4));
    bench.sync();
    assert_eq!(
        bench.said(),
        [
            accepted(1, last + 4),
            full(1, last + 4),
            accepted(2, last + 5)
        ]
    );
}

/// §5.4.2: entries of older terms are committed only behind one of the leader's own. To refuse that
/// one on their account would be for ever.
#[test]
fn entries_that_are_not_committed_are_taken_whatever_the_bound() {
    let mut bench = Bench::adapted(3, 1, &[1; 90], small);
    assert!(bench.raft.log_bytes() > BOUND);
    bench.step(N2, append(2, id(90, 1), &[2], 0));
    bench.sync();
    assert_eq!(bench.said(), [accepted(2, 91)]);
    assert_eq!(
        bench.answer(N2, append(2, id(91, 2), &[2], 91)),
        None,
        "its own entry is taken, and waits for the disk"
    );
    bench.sync();
    assert_eq!(bench.said(), [accepted(2, 92)]);
    assert_eq!(
        bench.answer(N2, heartbeat(2, id(92, 2), 92)),
        Some(full(2, 92))
    );
}

#[test]
fn a_full_follower_takes_entries_again_once_it_has_applied_and_compacted() {
    let (mut bench, last) = full_follower();
    bench.apply();
    assert_eq!(
        bench.answer(N2, heartbeat(1, id(last, 1), last)),
        Some(full(1, last)),
        "what is applied is still in memory"
    );
    bench.raft.snapshot_taken(id(last, 1));
    assert_eq!(bench.raft.log_bytes(), 0);
    bench.step(N2, append(1, id(last, 1), &[1], last));
    bench.sync();
    assert_eq!(bench.said(), [accepted(1, last + 1)]);
}

/// Heartbeats are the probe; no entry travels in vain.
#[test]
fn a_leader_sends_nothing_but_heartbeats_to_a_full_follower_and_goes_on_at_once() {
    let mut leader = Bench::leader_of(3, 1, &[], |config| config.max_message_bytes = 1);
    leader.step(N2, accepted(1, 1));
    leader.out();
    for _ in 0..4 {
        leader.propose("a");
    }
    leader.sync();
    assert_eq!(leader.sent_to(N2).len(), 4, "in flight");
    leader.step(N2, accepted(1, 2));
    leader.step(N2, full(1, 2));
    // The messages behind the one that was left out did not match.
    leader.step(N2, rejected(1, 3, id(2, 1)));
    leader.step(N2, rejected(1, 4, id(2, 1)));
    assert_eq!(leader.sent_to(N2), []);
    assert_eq!(entries_sent_in_a_second(&mut leader, &full(1, 2)), 0);

    leader.step(N2, accepted(1, 2));
    let sent = leader.sent_to(N2);
    assert!(
        matches!(&sent[..], [Message::AppendEntries { prev_log, entries, .. }]
            if *prev_log == id(2, 1) && entries.len() == 1),
        "one message, from where it is: {sent:?}"
    );
    leader.step(N2, accepted(1, 3));
    assert_eq!(leader.sent_to(N2).len(), 2, "and then all that is left");
}

/// It lacks nothing that it could use; and what it lacks once it has room is decided then.
#[test]
fn no_snapshot_is_sent_to_a_follower_because_it_is_full() {
    let mut leader = Bench::leader_of(3, 1, &[], |config| config.retained_log_bytes = 0);
    leader.step(N2, accepted(1, 1));
    leader.propose("a");
    leader.propose("b");
    leader.sync();
    leader.out();
    leader.step(N2, full(1, 1));
    leader.step(N3, accepted(1, 3));
    leader.apply();
    leader.raft.snapshot_taken(id(3, 1));
    for _ in 0..40 {
        leader.pass(25);
        leader.step(N2, full(1, 1));
        leader.step(N3, accepted(1, 3));
        assert_eq!(snapshots_sent(&mut leader), 0);
    }
    leader.step(N2, accepted(1, 1));
    assert_eq!(snapshots_sent(&mut leader), 1);
}

fn snapshots_sent(leader: &mut Bench) -> usize {
    let is_one = |effect: &&Effect| matches!(effect, Effect::SendSnapshot { .. });
    leader.out().iter().filter(is_one).count()
}

/// A new leader asks where its followers are; one that is full has told how far back, and stays known.
#[test]
fn what_a_probe_has_learned_outlasts_the_word_that_its_follower_is_full() {
    let mut leader = Bench::leader(2, &[1, 1, 1, 1, 1]);
    leader.step(N2, rejected(2, 5, id(3, 1)));
    leader.step(N2, full(2, 0));
    leader.out();
    leader.step(N2, accepted(2, 0));
    let sent = leader.sent_to(N2);
    assert!(
        matches!(&sent[..], [Message::AppendEntries { prev_log, .. }] if *prev_log == id(3, 1)),
        "{sent:?}"
    );
}

/// A call that is lost meanwhile is no reason to send entries either.
#[test]
fn a_lost_call_to_a_full_follower_is_not_made_good_before_it_has_room() {
    let mut leader = Bench::leader(1, &[]);
    leader.step(N2, accepted(1, 1));
    leader.propose("a");
    leader.sync();
    leader.out();
    leader.step(N2, full(1, 1));
    leader.raft.unreachable(N2);
    assert_eq!(entries_sent_in_a_second(&mut leader, &full(1, 1)), 0);
    leader.step(N2, accepted(1, 1));
    assert_eq!(leader.sent_to(N2).len(), 1);
}

#[test]
fn a_leader_at_the_bound_refuses_proposals_until_a_snapshot_makes_room() {
    let mut leader = Bench::leader_of(1, 1, &[], small);
    let mut taken = 0;
    while leader.raft.propose(Bytes::from_static(b"command")).is_ok() {
        taken += 1;
        leader.sync();
        leader.apply();
        assert!(taken < 1_000, "it never refuses");
    }
    assert_eq!(
        leader.raft.unapplied_bytes, 0,
        "the state machine is not it"
    );
    assert_eq!(
        leader.raft.propose(Bytes::new()),
        Err(ProposeError::Overloaded)
    );
    leader.raft.snapshot_taken(leader.raft.last_log());
    leader.propose("there is room");
}

/// What is kept for a follower that receives a snapshot must leave room for proposals, or nothing would
/// ever be committed again that another snapshot could be taken of.
#[test]
fn a_transfer_that_does_not_end_keeps_no_leader_at_its_bound() {
    let mut leader = Bench::leader_of(3, 2, &[1, 1, 1], |config| {
        config.max_log_bytes = BOUND;
        config.retained_log_bytes = BOUND / 3;
    });
    leader.step(N3, accepted(2, 4));
    leader.apply();
    leader.raft.config.retained_log_bytes = 0;
    leader.raft.snapshot_taken(id(4, 2));
    leader.raft.config.retained_log_bytes = BOUND / 3;
    leader.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&mut leader), 1);
    for _ in 0..5 {
        leader.propose("there is room");
        while leader.raft.propose(Bytes::from_static(b"command")).is_ok() {}
        leader.sync();
        let last = leader.raft.last_log();
        leader.step(N3, accepted(2, last.index.get()));
        leader.apply();
        leader.raft.snapshot_taken(last);
    }
}

/// A leader that keeps its log for N2, which receives a snapshot and never gets it, writes so many
/// entries, each committed at once, and takes a snapshot whenever one is due. How many it took, and
/// the bytes of an entry.
fn snapshots_during_a_transfer(log_bytes: usize, writes: usize) -> (usize, usize) {
    let mut leader = Bench::leader_of(3, 2, &[1, 1, 1], |config| {
        config.max_log_bytes = BOUND;
        config.retained_log_bytes = 0;
    });
    leader.step(N3, accepted(2, 4));
    leader.apply();
    leader.raft.snapshot_taken(id(4, 2));
    leader.raft.config.retained_log_bytes = BOUND / 3;
    leader.sync();
    leader.step(N2, rejected(2, 3, LogId::ZERO));
    assert_eq!(snapshots_sent(&mut leader), 1);
    let (empty, mut snapshots) = (leader.raft.log_bytes(), 0);
    leader.propose("there is room");
    let entry_bytes = leader.raft.log_bytes() - empty;
    for _ in 0..writes {
        leader.sync();
        let last = leader.raft.last_log();
        leader.step(N3, accepted(2, last.index.get()));
        leader.apply();
        if leader.raft.snapshot_is_due(log_bytes) {
            leader.raft.snapshot_taken(last);
            snapshots += 1;
        }
        leader.propose("there is room");
    }
    assert_eq!(
        leader.raft.log.prev().index > index(4),
        snapshots > 1,
        "it is kept"
    );
    (snapshots, entry_bytes)
}

/// Or each snapshot would be followed by the next one as soon as what is kept reaches `log_bytes`.
#[test]
fn snapshots_come_by_what_was_written_not_by_what_is_kept_for_a_receiver() {
    let (writes, log_bytes) = (1_000, BOUND / 4);
    let (snapshots, entry_bytes) = snapshots_during_a_transfer(log_bytes, writes);
    let most = writes * entry_bytes / log_bytes;
    assert!(
        (most / 2..=most).contains(&snapshots),
        "{snapshots} of at most {most}"
    );
}

/// What is kept and what is new fill the log together.
#[test]
fn a_log_at_its_bound_is_due_for_a_snapshot_however_late_snapshots_are_wanted() {
    let (snapshots, _) = snapshots_during_a_transfer(BOUND - 1, 1_000);
    assert!(snapshots > 0);
}

/// A snapshot may come before the disk took what it includes. Nothing would ask for another one.
#[test]
fn what_a_write_had_still_to_take_goes_once_it_has() {
    let mut leader = Bench::leader_of(3, 1, &[], small);
    leader.propose("a");
    leader.propose("b");
    for follower in [N2, N3] {
        leader.step(follower, accepted(1, 3));
    }
    leader.apply();
    leader.raft.snapshot_taken(id(3, 1));
    assert_eq!(leader.terms().len(), 2, "both are still to be written");
    leader.sync();
    assert_eq!(leader.terms().len(), 0);
    assert_eq!(leader.raft.log_bytes(), 0);
}

/// Nor would anything ask for another one after a crash between a snapshot and its compaction.
#[test]
fn what_a_snapshot_was_about_to_let_go_when_the_node_crashed_goes_at_its_restart() {
    let restored = Restored {
        hard_state: HardState {
            current_term: Term::new(1),
            voted_for: None,
        },
        snapshot: id(90, 1),
        membership: None,
        prev: LogId::ZERO,
        entries: entries(1, &[1; 90]),
    };
    let mut bench = Bench::restored(3, restored.clone(), small);
    assert_eq!(bench.raft.log_bytes(), 0);
    bench.step(N2, append(1, id(90, 1), &[1], 90));
    bench.sync();
    assert_eq!(bench.said(), [accepted(1, 91)]);

    let retains = |config: &mut Config| {
        config.max_log_bytes = 100 * BOUND;
        config.retained_log_bytes = BOUND / 2;
    };
    let bench = Bench::restored(3, restored, retains);
    assert!((1..=BOUND / 2).contains(&bench.raft.log_bytes()), "a tail");
}

#[test]
fn a_log_that_a_snapshot_cannot_bring_below_its_bound_is_refused() {
    let mut config = Config::new(N1, members(3));
    config.max_log_bytes = 1_000;
    config.retained_log_bytes = 500;
    let start =
        |config: &Config| Raft::new(config.clone(), Restored::default(), 1, Millis::ZERO).map(drop);
    assert_eq!(
        start(&config),
        Err(ConfigError::LogBounds {
            retained: 500,
            max: 1_000
        })
    );
    config.retained_log_bytes = 499;
    assert_eq!(start(&config), Ok(()));
}
