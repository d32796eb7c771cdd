//! Failures of other implementations (`docs/failures.md`) that take time to show: many timeouts, odd
//! topologies, many entries. Virtual time throughout; a failing seed is printed.

use std::collections::BTreeMap;

use raft::core::{
    CallId, Effect, Entry, HardState, LogId, LogIndex, Message, Millis, NodeId, Payload, Role, Term,
};

use crate::cluster::Cluster;
use crate::disk::Disk;

const N1: NodeId = NodeId::new(1);
const N2: NodeId = NodeId::new(2);
const N3: NodeId = NodeId::new(3);
const N4: NodeId = NodeId::new(4);
const N5: NodeId = NodeId::new(5);

/// The longest election timeout, in milliseconds.
const TIMEOUT_MS: u64 = 500;
/// Within so many of them a cluster that can elect must have elected.
const ELECTED_WITHIN: u64 = 10;
/// How often the clocks move, in milliseconds.
const STEP_MS: u64 = 5;
const SEEDS: u64 = 40;

/// Runs `scenario` with one seed after the other, and names the one that fails.
fn with_seeds(scenario: impl Fn(u64)) {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
        if let Err(panic) = outcome {
            println!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A cluster whose clocks go alike and whose messages take no time.
struct Timed {
    cluster: Cluster,
    now: Millis,
}

impl Timed {
    fn new(nodes: u64, seed: u64) -> Self {
        Self {
            cluster: Cluster::new(nodes, seed, BTreeMap::new(), |_| ()),
            now: Millis::ZERO,
        }
    }

    /// All clocks go on by `ms`, all at once; nothing is delivered in between.
    fn jump(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        for id in self.cluster.running() {
            self.cluster.tick(id, self.now);
        }
        self.cluster.deliver_all();
        assert_eq!(self.cluster.fatal, None);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.jump(STEP_MS);
        }
    }

    /// Nothing passes between these two.
    fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cluster.cut.extend([(a, b), (b, a)]);
    }

    /// Waits until one of `candidates` leads and has committed a new command.
    fn elect(&mut self, candidates: &[NodeId]) -> NodeId {
        for _ in 0..ELECTED_WITHIN * TIMEOUT_MS / STEP_MS {
            self.pass(STEP_MS);
            let leader = self.cluster.leader().filter(|id| candidates.contains(id));
            if let Some(leader) = leader
                && self.commits(leader)
            {
                return leader;
            }
        }
        panic!("none of {candidates:?} leads after {ELECTED_WITHIN} election timeouts");
    }

    /// Whether a command proposed at `leader` is committed at once.
    fn commits(&mut self, leader: NodeId) -> bool {
        self.cluster.propose(leader, "x");
        self.cluster.settle(leader);
        self.cluster.deliver_all();
        let raft = self.cluster.raft(leader);
        raft.role() == Role::Leader && raft.commit_index() == raft.last_log().index
    }

    fn term(&mut self, id: NodeId) -> Term {
        self.cluster.raft(id).term()
    }
}

/// Failure 5: a heartbeat that is due when the leader learns of a newer term is not sent with that one.
#[test]
fn a_heartbeat_that_was_due_dies_with_the_leadership() {
    let mut timed = Timed::new(3, 1);
    timed.elect(&[N1, N2, N3]);
    let leader = timed.cluster.leader().unwrap();
    let (now, term) = (timed.now.plus(25), timed.term(leader));
    let successor = if leader == N1 { N2 } else { N1 };
    let raft = timed.cluster.raft(leader);
    raft.tick(now);
    raft.propose("late".into()).unwrap();
    let news = Message::AppendEntries {
        term: term.next(),
        prev_log: LogId::ZERO,
        entries: Vec::new(),
        leader_commit: LogIndex::ZERO,
        round: 0,
    };
    raft.step(successor, CallId::new(1), news);
    let mut effects = Vec::new();
    raft.flush(&mut effects);
    assert_eq!((raft.role(), raft.term()), (Role::Follower, term.next()));
    let sends: Vec<&Effect> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Send { .. }))
        .collect();
    assert!(sends.is_empty(), "{sends:?}");
}

/// Failure 13: a node that was alone for a thousand election timeouts comes back and changes nothing.
#[test]
fn a_node_that_was_alone_for_a_thousand_timeouts_disturbs_nobody() {
    let mut timed = Timed::new(3, 1);
    let leader = timed.elect(&[N1, N2, N3]);
    let alone = if leader == N3 { N2 } else { N3 };
    let term = timed.term(leader);
    for other in [N1, N2, N3].into_iter().filter(|id| *id != alone) {
        timed.cut(alone, other);
    }
    timed.pass(1_000 * TIMEOUT_MS);
    assert_eq!(timed.term(alone), term, "it only ever asked");
    timed.cluster.cut.clear();
    timed.pass(ELECTED_WITHIN * TIMEOUT_MS);
    assert_eq!(timed.cluster.leader(), Some(leader));
    assert_eq!(timed.term(leader), term);
    assert_eq!(timed.cluster.raft(alone).leader(), Some(leader));
}

/// Failure 18: the old leader reaches n2 alone, and of the four that run, n2, n3 and n4 are the
/// majority: n2 must not stay with the old leader for ever.
#[test]
fn a_majority_that_needs_the_old_leaders_only_neighbour_elects() {
    with_seeds(|seed| {
        let mut timed = Timed::new(5, seed);
        timed.cluster.crash(N5, 0);
        let old = timed.elect(&[N1, N2, N3, N4]);
        let others: Vec<NodeId> = [N1, N2, N3, N4]
            .into_iter()
            .filter(|id| *id != old)
            .collect();
        timed.cut(old, others[1]);
        timed.cut(old, others[2]);
        let leader = timed.elect(&others);
        let term = timed.term(leader);
        timed.pass(20 * TIMEOUT_MS);
        assert_eq!(timed.cluster.leader(), Some(leader), "and it stays");
        assert_eq!(timed.term(leader), term);
    });
}

/// Failure 19: each of five nodes reaches its two neighbours only. Three are a majority: one leads, and
/// the two that do not hear it cannot take the leadership away, nor have it handed round.
#[test]
fn five_nodes_in_a_ring_keep_their_leader() {
    with_seeds(|seed| {
        let mut timed = Timed::new(5, seed);
        let ring = [N1, N2, N3, N4, N5];
        // With all links, so that no log tells the nodes apart.
        let leader = timed.elect(&ring);
        timed.pass(TIMEOUT_MS);
        for place in 0..5 {
            timed.cut(ring[place], ring[(place + 2) % 5]);
        }
        let term = timed.term(leader);
        timed.pass(100 * TIMEOUT_MS);
        assert_eq!(timed.cluster.leader(), Some(leader));
        assert_eq!(timed.term(leader), term);
        assert!(timed.commits(leader));
    });
}

/// Failure 20: a machine that is starved of time lets all timers fire at once, again and again. Once it
/// has time again, one leader is elected soon.
#[test]
fn timers_that_all_fire_at_once_elect_one_leader() {
    with_seeds(|seed| {
        let mut timed = Timed::new(5, seed);
        for _ in 0..20 {
            timed.jump(3 * TIMEOUT_MS);
        }
        timed.elect(&[N1, N2, N3, N4, N5]);
    });
}

/// Failure 21: a follower that comes back waits for one election timeout, like any other.
#[test]
fn restarted_followers_do_not_hold_the_others_up() {
    with_seeds(|seed| {
        let mut timed = Timed::new(3, seed);
        let leader = timed.elect(&[N1, N2, N3]);
        let follower = if leader == N1 { N2 } else { N1 };
        timed.cluster.crash(leader, 0);
        for _ in 0..3 {
            timed.cluster.crash(follower, 0);
            timed.pass(TIMEOUT_MS);
            timed.cluster.node(follower).now = timed.now;
            timed.cluster.start(follower);
            let wait = timed
                .cluster
                .raft(follower)
                .next_deadline()
                .since(timed.now);
            assert!((300..=TIMEOUT_MS).contains(&wait), "{wait} ms");
        }
        let others: Vec<NodeId> = timed.cluster.running();
        timed.elect(&others);
    });
}

/// Failure 39: a follower with 300 entries of ten terms that its leader never saw costs a question a
/// term, not one an entry.
#[test]
fn hundreds_of_foreign_entries_cost_a_question_a_term() {
    const TERMS: u64 = 10;
    const ENTRIES_A_TERM: u64 = 30;

    let log = |first_term: u64| {
        let entry = |at: u64| Entry {
            id: LogId::new(
                Term::new(first_term + 2 * (at / ENTRIES_A_TERM)),
                LogIndex::new(at + 1),
            ),
            payload: Payload::Empty,
        };
        let hard_state = HardState {
            current_term: Term::new(2 * TERMS),
            voted_for: None,
        };
        Disk::with_log(hard_state, (0..TERMS * ENTRIES_A_TERM).map(entry).collect())
    };
    let disks = BTreeMap::from([(N1, log(2)), (N2, log(2)), (N3, log(1))]);
    let mut cluster = Cluster::new(3, 1, disks, |_| ());
    cluster.tracing = true;
    let deadline = cluster.raft(N1).next_deadline();
    cluster.tick(N1, deadline);
    cluster.deliver_all();
    assert_eq!(cluster.leader(), Some(N1));
    let last = cluster.raft(N1).last_log();
    assert_eq!(cluster.raft(N3).last_log(), last, "n3 has caught up");
    let questions = cluster.trace.matches("n3 => n1: rejected").count() as u64;
    assert!(
        (1..=TERMS + 1).contains(&questions),
        "{questions} questions"
    );
}
