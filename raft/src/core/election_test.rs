//! §5.2, §5.4.1, Fig. 2 *RequestVote RPC* and *Rules for Servers*; thesis §6.2, §9.6.

use super::message::Message;
use super::testing::*;
use super::types::{HardState, LogId, NodeId, Term};
use super::{Config, ConfigError, Effect, Lease, Millis, Raft, Restored, Role};

#[test]
fn a_node_starts_as_follower_and_stands_when_it_hears_no_leader() {
    let mut bench = Bench::with_log(3, 4, &[1, 4]);
    assert_eq!(bench.raft.role(), Role::Follower);

    bench.time_out();
    assert_eq!(bench.raft.role(), Role::PreCandidate);
    let asked = [ask_pre_vote(5, id(2, 4)), ask_pre_vote(5, id(2, 4))];
    assert_eq!(bench.said(), asked, "all others, with the last entry");
    assert_eq!(bench.raft.term(), Term::new(4), "nothing has changed yet");
}

/// §5.2: randomized, so that split votes are rare. Also: a heartbeat starts the wait anew.
#[test]
fn election_timeouts_are_random_within_their_range() {
    let mut waits = Vec::new();
    for _ in 0..200 {
        let mut bench = Bench::new(3);
        bench.raft.rng = fastrand::Rng::with_seed(waits.len() as u64);
        bench.step(N2, heartbeat(1, LogId::ZERO, 0));
        waits.push(bench.raft.next_deadline().since(Millis::new(1_000)));
    }
    waits.sort_unstable();
    assert!(waits[0] >= 300 && waits[199] <= 500);
    assert!(
        waits[0] < 320 && waits[199] > 480,
        "the whole range: {waits:?}"
    );
}

#[test]
fn a_candidate_enters_a_new_term_votes_for_itself_and_asks_once_that_is_durable() {
    let mut bench = Bench::new(3);
    bench.time_out();
    bench.said();
    bench.step(N2, vote(1, true, true));
    assert_eq!(
        (bench.raft.role(), bench.raft.term()),
        (Role::Candidate, Term::new(1))
    );
    assert_eq!(bench.said(), [], "the vote is not on disk");

    let hard_state = bench.take().hard_state.expect("term and vote");
    assert_eq!(
        hard_state,
        HardState {
            current_term: Term::new(1),
            voted_for: Some(N1)
        }
    );
    bench.raft.persisted(super::WriteId::new(1));
    assert_eq!(
        bench.said(),
        [ask_vote(1, LogId::ZERO), ask_vote(1, LogId::ZERO)]
    );
}

#[test]
fn a_majority_elects_and_a_minority_does_not() {
    for (voters, needed) in [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
        let mut bench = Bench::new(voters);
        bench.time_out();
        for voter in 2..2 + needed {
            assert_eq!(bench.raft.role(), Role::PreCandidate);
            bench.step(NodeId::new(voter), vote(1, true, true));
        }
        bench.sync();
        for voter in 2..2 + needed {
            assert_eq!(bench.raft.role(), Role::Candidate);
            bench.step(N2, vote(1, true, false));
            bench.step(NodeId::new(voter), vote(1, true, false));
        }
        assert_eq!(bench.raft.role(), Role::Leader, "{voters} nodes");
    }
}

/// Failure 6.
#[test]
fn a_candidates_own_vote_counts_once_it_is_durable() {
    let mut bench = Bench::new(1);
    bench.raft.tick(bench.raft.next_deadline());
    assert_eq!(bench.raft.role(), Role::Candidate);
    let batch = bench.take();
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.raft.persisted(batch.id);
    assert_eq!(bench.raft.role(), Role::Leader);
}

/// Failure 6: an earlier write that ends now is not the vote's.
#[test]
fn a_candidates_own_vote_waits_for_its_own_write() {
    let mut bench = Bench::new(3);
    bench.step(N2, append(1, LogId::ZERO, &[1], 0));
    let earlier = bench.take();
    bench.time_out();
    bench.step(N2, vote(2, true, true));
    bench.raft.persisted(earlier.id);
    bench.step(N2, vote(2, true, false));
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.sync();
    assert_eq!(bench.raft.role(), Role::Leader);
}

/// The others get a whole timeout to answer, however long the disk takes to let the question go.
#[test]
fn a_candidates_timer_starts_when_its_requests_leave() {
    let mut bench = Bench::new(3);
    bench.time_out();
    bench.step(N2, vote(1, true, true));
    let own_vote = bench.take();
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.said();
    let before = bench.raft.next_deadline();
    bench.pass(290);
    assert_eq!(bench.said(), [], "the disk is slow");
    assert_eq!(bench.raft.next_deadline(), before);
    bench.raft.persisted(own_vote.id);
    assert_eq!(bench.said().len(), 2);
    let left_ms = bench.raft.next_deadline().since(bench.raft.now);
    assert!((300..=500).contains(&left_ms), "{left_ms} ms");
}

/// Failure 6: the candidacy is over when the disk is ready.
#[test]
fn a_candidates_own_vote_is_ignored_after_the_term_changed() {
    let mut bench = Bench::new(3);
    bench.time_out();
    bench.step(N2, vote(1, true, true));
    let own_vote = bench.take();
    bench.step(N3, heartbeat(2, LogId::ZERO, 0));
    bench.raft.persisted(own_vote.id);
    bench.step(N2, vote(1, true, false));
    assert_eq!(bench.raft.role(), Role::Follower);
    let asks = |message: &Message| {
        matches!(
            message,
            Message::RequestVote {
                pre_vote: false,
                ..
            }
        )
    };
    assert!(
        !bench.said().iter().any(asks),
        "nobody is asked for a term that is over"
    );
}

/// Fig. 2, *RequestVote RPC*, rule 2. Failure 9: asked again, the answer is the same.
#[test]
fn one_vote_a_term_and_the_same_answer_when_asked_again() {
    let mut bench = Bench::new(3);
    assert_eq!(
        bench.answer(N2, ask_vote(1, LogId::ZERO)),
        None,
        "the vote is not on disk"
    );
    bench.sync();
    assert_eq!(bench.said(), [vote(1, true, false)]);

    assert_eq!(
        bench.answer(N3, ask_vote(1, LogId::ZERO)),
        Some(vote(1, false, false))
    );
    assert_eq!(
        bench.answer(N2, ask_vote(1, LogId::ZERO)),
        Some(vote(1, true, false))
    );
}

/// Failure 1.
#[test]
fn a_vote_is_remembered_after_a_restart() {
    let hard_state = HardState {
        current_term: Term::new(3),
        voted_for: Some(N2),
    };
    let restored = Restored {
        hard_state,
        ..Restored::default()
    };
    let mut bench = Bench::restored(3, restored, |_| ());
    assert_eq!(
        bench.answer(N3, ask_vote(3, id(9, 2))),
        Some(vote(3, false, false))
    );
    assert_eq!(
        bench.answer(N2, ask_vote(3, LogId::ZERO)),
        Some(vote(3, true, false))
    );
}

/// Fig. 2, *RequestVote RPC*, rule 1. Failure 11.
#[test]
fn a_candidate_of_an_older_term_is_refused_and_told_ours() {
    let mut bench = Bench::with_log(3, 5, &[]);
    assert_eq!(
        bench.answer(N2, ask_vote(4, id(9, 4))),
        Some(vote(5, false, false))
    );
    assert_eq!(
        bench.answer(N2, ask_pre_vote(4, id(9, 4))),
        Some(vote(5, false, true))
    );
    assert_eq!(bench.raft.term(), Term::new(5));
}

/// §5.4.1: by the last entry's term, then by length. Failure 7.
#[test]
fn votes_go_only_to_logs_at_least_as_up_to_date() {
    let cases = [
        (id(3, 2), true),
        (id(4, 2), true),
        (id(1, 3), true),
        (id(2, 2), false),
        (id(9, 1), false),
        (LogId::ZERO, false),
    ];
    for (last_log, granted) in cases {
        let mut bench = Bench::with_log(3, 3, &[1, 1, 2]);
        let pre_vote = bench.answer(N2, ask_pre_vote(4, last_log));
        assert_eq!(
            pre_vote,
            Some(vote(if granted { 4 } else { 3 }, granted, true)),
            "{last_log}"
        );
        bench.step(N2, ask_vote(4, last_log));
        bench.sync();
        assert_eq!(bench.said(), [vote(4, granted, false)], "{last_log}");
    }
}

/// Failure 8: only the term is taken from a candidate that is refused.
#[test]
fn a_refused_candidate_leaves_the_vote_free() {
    let mut bench = Bench::with_log(3, 1, &[1]);
    bench.step(N2, ask_vote(7, LogId::ZERO));
    assert_eq!(bench.raft.voted_for, None);
    bench.step(N3, ask_vote(7, id(1, 1)));
    bench.sync();
    assert_eq!(bench.said(), [vote(7, false, false), vote(7, true, false)]);
}

/// §5.2: a candidate recognizes the leader of its term.
#[test]
fn a_candidate_follows_the_leader_of_its_own_term() {
    let mut bench = Bench::new(3);
    bench.time_out();
    bench.step(N2, vote(1, true, true));
    bench.step(N3, heartbeat(1, LogId::ZERO, 0));
    assert_eq!(
        (bench.raft.role(), bench.raft.leader()),
        (Role::Follower, Some(N3))
    );
    assert_eq!(bench.raft.voted_for, Some(N1), "the vote of the term stays");
}

/// Fig. 2, *All Servers*; failure 3, original's defect 21: also from replies, and on disk
/// before anything else is said.
#[test]
fn a_newer_term_in_any_message_makes_a_follower_and_is_durable_before_the_next_message() {
    let reply = Message::InstallSnapshotReply {
        term: Term::new(9),
        last_included: id(1, 1),
        next_offset: 0,
        installed: false,
    };
    for message in [
        heartbeat(9, LogId::ZERO, 0),
        accepted(9, 0),
        rejected(9, 0, LogId::ZERO),
        vote(9, false, false),
        vote(9, false, true),
        chunk(9, id(5, 5), 0, false),
        reply,
    ] {
        let mut bench = Bench::leader(2, &[1]);
        bench.step(N2, message.clone());
        assert_eq!(
            (bench.raft.role(), bench.raft.term()),
            (Role::Follower, Term::new(9)),
            "{message:?}"
        );
        bench.out();
        bench.pass(299);
        assert_eq!(
            bench.answer(N3, ask_pre_vote(1, id(1, 1))),
            None,
            "the term is not on disk: {message:?}"
        );
        bench.sync();
        assert!(bench.said().contains(&vote(9, false, true)));
    }
}

/// Failure 10.
#[test]
fn a_leader_votes_for_nobody_in_its_term() {
    let mut bench = Bench::leader(2, &[1]);
    assert_eq!(
        bench.answer(N2, ask_vote(2, id(9, 2))),
        Some(vote(2, false, false))
    );
    assert_eq!(bench.raft.role(), Role::Leader);
}

/// Failures 5, 6, original's defect 21: votes of another term, or of a candidacy that was lost.
#[test]
fn votes_for_another_question_count_nothing() {
    let mut bench = Bench::with_log(5, 3, &[]);
    bench.time_out();
    bench.step(N2, vote(4, true, true));
    bench.step(N2, vote(4, true, true));
    bench.step(N3, vote(3, true, false));
    bench.step(N4, vote(9, true, true));
    assert_eq!(
        bench.raft.role(),
        Role::PreCandidate,
        "one voter, counted once"
    );
    bench.step(N3, vote(4, true, true));
    bench.sync();
    bench.step(N2, vote(4, true, false));
    bench.step(N3, vote(4, true, true));
    bench.step(N4, vote(3, true, false));
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.step(N5, vote(4, true, false));
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn a_candidate_refused_by_a_majority_waits_for_its_timer() {
    let mut bench = Bench::new(3);
    bench.time_out();
    let deadline = bench.raft.next_deadline();
    bench.step(N2, vote(0, false, true));
    assert_eq!(bench.raft.role(), Role::PreCandidate);
    bench.step(N3, vote(0, false, true));
    assert_eq!(bench.raft.role(), Role::Follower);
    assert_eq!(bench.raft.next_deadline(), deadline);
}

/// Thesis §9.6: to ask changes nothing for anybody.
#[test]
fn a_pre_vote_binds_nobody() {
    let mut bench = Bench::with_log(3, 3, &[]);
    let deadline = bench.raft.next_deadline();
    assert_eq!(
        bench.answer(N2, ask_pre_vote(9, LogId::ZERO)),
        Some(vote(9, true, true))
    );
    assert_eq!(
        bench.answer(N3, ask_pre_vote(9, LogId::ZERO)),
        Some(vote(9, true, true))
    );
    assert_eq!(bench.raft.term(), Term::new(3));
    assert_eq!(bench.raft.next_deadline(), deadline);
    assert_eq!(bench.raft.take_write(), None);
}

/// Failures 14-16: the refusal brings a candidate that lags behind to our term.
#[test]
fn a_refused_pre_candidate_learns_the_term() {
    let mut bench = Bench::new(3);
    bench.time_out();
    bench.step(N2, vote(6, false, true));
    assert_eq!(
        (bench.raft.role(), bench.raft.term()),
        (Role::Follower, Term::new(6))
    );
}

/// Thesis §4.2.3, §6.2: whoever hears a leader ignores candidates, and their terms. Failure 23.
#[test]
fn a_node_that_hears_a_leader_ignores_candidates() {
    let mut bench = Bench::new(3);
    bench.step(N2, heartbeat(1, LogId::ZERO, 0));
    bench.sync();
    bench.pass(299);
    assert_eq!(
        bench.answer(N3, ask_vote(7, id(9, 6))),
        Some(vote(1, false, false))
    );
    assert_eq!(
        bench.answer(N3, ask_pre_vote(7, id(9, 6))),
        Some(vote(1, false, true))
    );
    assert_eq!(bench.raft.term(), Term::new(1));

    bench.pass(1);
    bench.step(N3, ask_vote(7, id(9, 6)));
    bench.sync();
    assert_eq!(
        bench.said(),
        [vote(7, true, false)],
        "the leader is silent for too long"
    );

    let mut leader = Bench::leader(2, &[1]);
    assert_eq!(
        leader.answer(N3, ask_vote(7, id(9, 6))),
        Some(vote(2, false, false))
    );
}

/// Failure 17.
#[test]
fn a_leader_that_stepped_down_is_not_refused_for_its_own_sake() {
    let mut bench = Bench::new(3);
    bench.step(N2, heartbeat(1, LogId::ZERO, 0));
    bench.sync();
    assert_eq!(
        bench.answer(N2, ask_pre_vote(2, id(1, 1))),
        Some(vote(2, true, true))
    );
}

/// Thesis §6.2 (`CheckQuorum`); failure 25, original's defect 23.
#[test]
fn a_leader_steps_down_when_it_hears_no_majority() {
    let mut bench = Bench::leader_of(5, 1, &[], |_| ());
    bench.pass(400);
    bench.step(N2, accepted(1, 0));
    bench.pass(99);
    assert_eq!(bench.raft.role(), Role::Leader);
    bench.step(N3, accepted(1, 0));
    bench.pass(400);
    assert_eq!(
        bench.raft.role(),
        Role::Leader,
        "two others and itself are a majority"
    );
    bench.pass(1);
    assert_eq!(
        (bench.raft.role(), bench.raft.leader()),
        (Role::Follower, None)
    );
    assert_eq!(bench.raft.term(), Term::new(1), "in its term");
    let told = Effect::RoleChanged {
        role: Role::Follower,
        term: Term::new(1),
        leader: None,
    };
    assert!(bench.out().contains(&told));
}

/// Failure 25: after a pause, answers that waited meanwhile confirm nothing.
#[test]
fn a_paused_leader_doubts_itself_first() {
    let mut bench = Bench::leader(1, &[]);
    bench.pass(60_000);
    assert_eq!(bench.raft.role(), Role::Follower);
    bench.step(N2, accepted(1, 1));
    assert_eq!(bench.commit(), 0);
}

/// Failure 24: its disk hangs, and the driver says so. Until the disk answers it cannot even
/// ask for a vote again.
#[test]
fn a_leader_that_resigns_comes_back_only_with_its_disk() {
    let mut bench = Bench::leader(2, &[1, 1]);
    bench.read(1);
    bench.out();
    assert!(bench.raft.resign());
    assert_eq!(bench.raft.role(), Role::Follower);
    assert_eq!(bench.refused(), [1], "whoever waits is sent elsewhere");
    assert!(!bench.raft.resign(), "once is enough");

    bench.time_out();
    let term = bench.raft.term().get() + 1;
    bench.step(N2, vote(term, true, true));
    assert_eq!(bench.raft.role(), Role::Candidate);
    let asks = |message: &Message| {
        matches!(
            message,
            Message::RequestVote {
                pre_vote: false,
                ..
            }
        )
    };
    assert!(
        !bench.said().iter().any(asks),
        "its new term is not durable"
    );
    bench.sync();
    assert!(bench.said().iter().any(asks));
}

#[test]
fn a_leader_without_peers_does_not_resign() {
    let mut bench = Bench::leader_of(1, 1, &[], |_| ());
    assert!(!bench.raft.resign(), "nobody could take over");
    assert!(bench.raft.is_serving());
}

/// Failure 26: and the deadline is exact, so that an idle node sleeps.
#[test]
fn time_only_goes_forward_and_nothing_happens_before_the_deadline() {
    let mut bench = Bench::new(3);
    let deadline = bench.raft.next_deadline();
    bench.raft.tick(Millis::ZERO);
    bench.raft.tick(Millis::new(deadline.get() - 1));
    assert_eq!(bench.raft.role(), Role::Follower);
    assert_eq!(bench.raft.next_deadline(), deadline);
    bench.raft.tick(deadline);
    assert_eq!(bench.raft.role(), Role::PreCandidate);

    let mut leader = Bench::leader(1, &[]);
    let deadline = leader.raft.next_deadline();
    leader.raft.tick(Millis::new(deadline.get() - 1));
    assert_eq!(leader.said(), []);
    leader.raft.tick(deadline);
    assert_eq!(leader.said().len(), 2, "a heartbeat each");
    assert_eq!(leader.raft.next_deadline(), deadline.plus(25));
}

/// Failure 22: a follower that refuses entries hears its leader all the same.
#[test]
fn a_rejected_append_restarts_the_timer() {
    let mut bench = Bench::new(3);
    bench.pass(200);
    bench.step(N2, append(1, id(7, 1), &[1], 0));
    assert!(bench.raft.next_deadline() >= Millis::new(1_500));
    assert_eq!(bench.raft.leader(), Some(N2));
}

/// Failure 45, original's defect 24: ourselves by a wrong address are no reason to end the
/// process. The call is answered.
#[test]
fn our_own_number_is_refused() {
    let mut bench = Bench::with_log(3, 2, &[1]);
    let refused = bench.answer(N1, ask_vote(9, id(9, 8)));
    assert_eq!(refused, Some(vote(2, false, false)));
    bench.step(N1, accepted(9, 1));
    assert_eq!(bench.said(), [], "a reply is not answered");
    assert_eq!(bench.raft.term(), Term::new(2));
}

/// Thesis §4.1: whoever asks is answered, member or not. A newer membership may be on its way.
#[test]
fn a_leader_that_is_no_member_yet_is_followed() {
    let mut bench = Bench::with_log(3, 2, &[1]);
    bench.step(N5, append(3, id(1, 1), &[3], 0));
    assert_eq!(bench.raft.leader(), Some(N5));
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let new = |config: Config| Raft::new(config, Restored::default(), 1, Millis::ZERO).map(|_| ());
    assert_eq!(
        new(Config::new(N4, members(3))),
        Err(ConfigError::NotAMember { id: N4 })
    );
    let mut config = Config::new(N1, members(1));
    config.heartbeat_ms = 300;
    assert!(matches!(
        new(config),
        Err(ConfigError::Timing {
            heartbeat_ms: 300,
            ..
        })
    ));
    let mut config = Config::new(N1, members(1));
    config.max_inflight_messages = 0;
    assert_eq!(new(config), Err(ConfigError::NothingInFlight));
}

/// Failure 2: an entry whose term was lost came from a broken disk.
#[test]
fn a_restored_state_that_contradicts_itself_is_refused() {
    let new = |restored: Restored| {
        Raft::new(Config::new(N1, members(1)), restored, 1, Millis::ZERO).map(|_| ())
    };
    let hard_state = HardState {
        current_term: Term::new(2),
        voted_for: None,
    };
    let lost = Restored {
        hard_state,
        entries: entries(1, &[1, 3]),
        ..Restored::default()
    };
    assert_eq!(
        new(lost),
        Err(ConfigError::LostTerm {
            log: Term::new(3),
            hard_state: Term::new(2)
        })
    );
    let gap = Restored {
        hard_state,
        entries: entries(2, &[1]),
        ..Restored::default()
    };
    assert_eq!(
        new(gap),
        Err(ConfigError::BrokenLog {
            before: LogId::ZERO,
            found: id(2, 1)
        })
    );
    let late = Restored {
        hard_state,
        prev: id(5, 1),
        ..Restored::default()
    };
    assert_eq!(
        new(late),
        Err(ConfigError::Gap {
            prev: index(5),
            snapshot: index(0)
        })
    );
}

/// Thesis §6.4.1: the leader may answer reads on the strength of a heartbeat that we heard, whatever
/// term we enter meanwhile.
#[test]
fn a_leader_heard_lately_counts_in_a_newer_term_too() {
    let mut bench = Bench::new(3);
    bench.step(N2, heartbeat(1, LogId::ZERO, 0));
    bench.step(N3, vote(2, false, true)); // a late answer tells of term 2
    assert_eq!(
        (bench.raft.term(), bench.raft.leader()),
        (Term::new(2), None)
    );
    bench.sync();
    let refused = bench.answer(N3, ask_vote(2, LogId::ZERO));
    assert_eq!(refused, Some(vote(2, false, false)));
    bench.pass(300);
    bench.step(N3, ask_vote(2, LogId::ZERO));
    bench.sync();
    assert!(bench.said().contains(&vote(2, true, false)));
}

/// A leader that removed itself may still read by the lease that the last voter granted it before that
/// one was restarted (found by the simulator: the restarted voter led at once, and took a write).
#[test]
fn the_only_voter_waits_with_leases_for_what_it_may_have_promised() {
    let first_wait = |lease: Option<Lease>| {
        let bench = Bench::adapted(1, 1, &[], |config| config.lease = lease);
        bench.raft.next_deadline().since(Millis::new(1_000))
    };
    assert_eq!(first_wait(None), 0);
    let lease = Lease {
        max_drift_percent: 0,
    };
    assert!(first_wait(Some(lease)) >= 300);
}
