//! Random runs: everything that may go wrong does, in an order drawn from a seed.
//!
//! `RAFT_SEED=n` runs that seed alone, with its trace; `RAFT_SEEDS=n` runs so many.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::core::{MembershipChange, Millis, NodeId, Role};

use crate::cluster::{Cluster, name};
use crate::safety;

/// Steps of trouble in one run.
const STEPS: usize = 600;
/// Seeds in an ordinary test run.
const SEEDS: u64 = 300;
/// Virtual time within which a healed cluster must have caught up: ten longest election timeouts.
const HEAL_MS: u64 = 5_000;

/// Among others failures 11, 49, 59 and 80.
#[test]
fn promises_hold_and_life_returns_with_three_nodes() {
    run_seeds(3);
}

#[test]
fn promises_hold_and_life_returns_with_five_nodes() {
    run_seeds(5);
}

fn run_seeds(nodes: u64) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    if let Some(seed) = number("RAFT_SEED") {
        let mut run = Run::new(nodes, seed, true);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.go()));
        println!("{}", run.cluster.trace);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        return;
    }
    let mut reads = 0;
    let mut applied = 0;
    let mut changes = 0;
    for seed in 0..number("RAFT_SEEDS").unwrap_or(SEEDS) {
        let mut run = Run::new(nodes, seed, false);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.go()));
        if let Err(panic) = outcome {
            println!("{nodes} nodes, seed {seed}: again with its trace by RAFT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        reads += run.cluster.reads_ready;
        applied += run.cluster.safety.applied().len();
        changes += run.changes;
    }
    println!("{nodes} nodes: {applied} entries applied, {reads} reads answered, {changes} changes");
    assert!(
        applied > 0 && reads > 0 && changes > 0,
        "the runs did something"
    );
}

struct Run {
    cluster: Cluster,
    rng: fastrand::Rng,
    now: Millis,
    /// Nodes at the beginning.
    nodes: usize,
    /// All there ever were.
    ids: Vec<NodeId>,
    /// Changes of members that were taken.
    changes: usize,
    /// Its clock stands still: no promise may rest on the clocks going alike.
    slow_clock: Option<NodeId>,
    next: u64,
}

impl Run {
    fn new(nodes: u64, seed: u64, tracing: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Small bounds, so that every one of them is met.
        let message_bytes = rng.usize(60..400);
        let window = rng.usize(1..4);
        let retained = if rng.bool() { 0 } else { 300 };
        let mut cluster = Cluster::new(nodes, seed, BTreeMap::new(), |config| {
            config.max_message_bytes = message_bytes;
            config.max_inflight_messages = window;
            config.max_uncommitted_bytes = 4_000;
            config.max_log_bytes = 3_000;
            config.retained_log_bytes = retained;
        });
        cluster.tracing = tracing;
        Self {
            cluster,
            rng,
            now: Millis::ZERO,
            nodes: usize::try_from(nodes).expect("few"),
            ids: (1..=nodes).map(NodeId::new).collect(),
            changes: 0,
            slow_clock: None,
            next: 0,
        }
    }

    fn go(&mut self) {
        for _ in 0..STEPS {
            self.trouble();
            self.check();
        }
        self.heal();
        self.check();
    }

    /// One random event.
    fn trouble(&mut self) {
        let id = self.ids[self.rng.usize(0..self.ids.len())];
        let runs = self.cluster.node(id).raft.is_some();
        match self.rng.u32(0..100) {
            0..18 => self.pass(),
            18..30 => self.propose(),
            30..34 => self.read(),
            34..42 if runs => self.cluster.sync_one(id),
            42..45 if runs => self.stall_or_go(id),
            45..47 if runs => self.cluster.snapshot(id),
            47..49 => self.crash_or_start(id),
            49..51 => self.cut_or_mend(id),
            51..55 => self.lose(),
            55..57 => self.duplicate(),
            59..61 => self.change(),
            61..62 => self.transfer(),
            57..59 => {
                self.slow_clock = if self.slow_clock.is_none() {
                    Some(id)
                } else {
                    None
                }
            }
            _ => self.deliver_some(),
        }
    }

    fn deliver_some(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            let waiting = self.cluster.network.len();
            if waiting > 0 {
                // Mostly in order; now and then not.
                let position = if self.rng.u8(0..4) == 0 {
                    self.rng.usize(0..waiting)
                } else {
                    0
                };
                self.cluster.deliver(position);
            }
        }
    }

    fn pass(&mut self) {
        let ms = match self.rng.u8(0..20) {
            0 => self.rng.u64(0..2_000),
            _ => self.rng.u64(0..40),
        };
        self.now = self.now.plus(ms);
        let now = self.now;
        for id in self.cluster.running() {
            // A paused process sleeps through some of it.
            if self.rng.u8(0..10) > 0 && self.slow_clock != Some(id) {
                self.cluster.tick(id, now);
            }
        }
    }

    fn propose(&mut self) {
        let leaders: Vec<NodeId> = self.cluster.running();
        for id in leaders {
            if self.cluster.raft(id).role() == Role::Leader {
                for _ in 0..self.rng.u64(1..6) {
                    self.next += 1;
                    let command = format!("{:0width$}", self.next, width = self.rng.usize(1..60));
                    self.cluster.propose(id, &command);
                }
                self.cluster.settle(id);
            }
        }
    }

    /// At everyone who thinks it leads: a deposed leader must not answer from its old state. And at
    /// one that need not lead.
    fn read(&mut self) {
        let running = self.cluster.running();
        for id in &running {
            if self.cluster.raft(*id).role() == Role::Leader {
                self.next += 1;
                self.cluster.read(*id, self.next);
                self.cluster.settle(*id);
            }
        }
        if let Some(&id) = self.rng.choice(&running) {
            self.next += 1;
            self.cluster.read_anywhere(id, self.next);
            self.cluster.settle(id);
        }
    }

    /// Asks everyone who thinks it leads for other members; most of it is refused.
    fn change(&mut self) {
        let ids = self.ids.clone();
        let any = |rng: &mut fastrand::Rng| ids[rng.usize(0..ids.len())];
        let (node, other) = (any(&mut self.rng), any(&mut self.rng));
        let change = match self.rng.u8(0..6) {
            0 if ids.len() < self.nodes + 3 => {
                // Numbers are not used twice.
                let node = NodeId::new(ids.len() as u64 + 1);
                self.cluster.join(node, self.now);
                self.ids.push(node);
                let address = format!("host{node}:1");
                MembershipChange::AddLearner { node, address }
            }
            0 | 1 => MembershipChange::Remove { node },
            2 | 3 => MembershipChange::Promote { node },
            _ => MembershipChange::Replace {
                old: other,
                new: node,
            },
        };
        for id in self.cluster.running() {
            if self.cluster.raft(id).role() == Role::Leader {
                self.changes += usize::from(self.cluster.change(id, change.clone()));
            }
        }
    }

    fn transfer(&mut self) {
        let to = self.ids[self.rng.usize(0..self.ids.len())];
        let to = self.rng.bool().then_some(to);
        for id in self.cluster.running() {
            if self.cluster.raft(id).role() == Role::Leader {
                self.cluster.transfer(id, to);
            }
        }
    }

    fn stall_or_go(&mut self, id: NodeId) {
        let state_machine = self.rng.bool();
        let node = self.cluster.node(id);
        let stalls = if state_machine {
            &mut node.apply_stalls
        } else {
            &mut node.disk_stalls
        };
        *stalls = !*stalls;
        self.cluster.settle(id);
    }

    fn crash_or_start(&mut self, id: NodeId) {
        if self.cluster.node(id).raft.is_some() {
            let under_way = self.cluster.node(id).disk.under_way();
            let keep = self.rng.usize(0..=under_way);
            self.cluster.crash(id, keep);
        } else {
            self.cluster.start(id);
        }
    }

    fn cut_or_mend(&mut self, id: NodeId) {
        if self.cluster.cut.is_empty() {
            let one_way = self.rng.u8(0..3) == 0;
            for other in self.ids.clone() {
                if other != id && self.rng.u8(0..4) > 0 {
                    self.cluster.cut.push((id, other));
                    if !one_way {
                        self.cluster.cut.push((other, id));
                    }
                }
            }
        } else {
            self.cluster.cut.clear();
        }
    }

    fn lose(&mut self) {
        let waiting = self.cluster.network.len();
        if waiting > 0 {
            let (position, reported) = (self.rng.usize(0..waiting), self.rng.bool());
            self.cluster.drop(position, reported);
        }
    }

    fn duplicate(&mut self) {
        let waiting = self.cluster.network.len();
        if waiting > 0 {
            let packet = self.cluster.network[self.rng.usize(0..waiting)].clone();
            self.cluster.network.push_back(packet);
        }
    }

    fn check(&mut self) {
        assert_eq!(self.cluster.fatal, None, "a node saw the promises broken");
        let a = self.ids[self.rng.usize(0..self.ids.len())];
        let b = self.ids[self.rng.usize(0..self.ids.len())];
        let nodes = &self.cluster.nodes;
        if let (Some(a), Some(b)) = (&nodes[&a].raft, &nodes[&b].raft) {
            safety::log_matching(a, b);
        }
    }

    /// Faults stop. Within [`HEAL_MS`] there is a leader, a new command commits, everyone applies it.
    fn heal(&mut self) {
        self.cluster.note("-- faults stop --");
        self.cluster.cut.clear();
        for id in self.ids.clone() {
            self.cluster.node(id).disk_stalls = false;
            self.cluster.node(id).apply_stalls = false;
            if self.cluster.node(id).raft.is_none() {
                self.cluster.start(id);
            }
            self.cluster.settle(id);
        }
        let end = self.now.plus(HEAL_MS);
        while self.now < end {
            self.now = self.now.plus(10);
            for id in self.ids.clone() {
                let now = self.now;
                self.cluster.tick(id, now);
                self.cluster.snapshot(id);
            }
            self.cluster.deliver_all();
        }
        let leader = self
            .cluster
            .leader()
            .expect("a leader within ten election timeouts");
        self.next += 1;
        assert!(
            self.cluster.propose(leader, "healed"),
            "{} takes a command",
            name(leader)
        );
        self.cluster.settle(leader);
        for _ in 0..10 {
            self.now = self.now.plus(10);
            for id in self.ids.clone() {
                let now = self.now;
                self.cluster.tick(id, now);
            }
            self.cluster.deliver_all();
        }
        let goal = self.cluster.raft(leader).last_log().index;
        let members = Arc::clone(self.cluster.raft(leader).membership());
        assert!(!members.is_joint(), "a change that was begun is completed");
        for id in members.addresses().keys().copied() {
            let applied = self.cluster.raft(id).last_applied();
            assert_eq!(applied, goal, "{} has applied everything", name(id));
        }
        self.next += 1;
        let (read, ready) = (self.next, self.cluster.reads_ready);
        assert!(self.cluster.read(leader, read));
        self.cluster.settle(leader);
        self.cluster.deliver_all();
        assert!(self.cluster.reads_ready > ready, "a read is answered");
    }
}
