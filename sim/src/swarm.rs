//! Mischief: which kinds of it a run has, and how it is done.
//!
//! Each seed draws a subset (*swarm testing*): a run with everything at once rarely gets far enough for
//! what only some faults bring about.

use std::time::Duration;

use clerk::ClerkOptions;
use kvserver::StateMachineOptions;
use raft::core::{ChangeError, Lease, Membership, MembershipChange, NodeId, Role};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::network::{Delay, Links, MAX_NODES, address, place};
use crate::node::Node;
use crate::options::Faults;
use crate::world::{ELECTION_TIMEOUT_US, Event, World};

/// The kinds of mischief, by name; then what a bad network does, which is counted by the message.
pub const FAULTS: [&str; 25] = [
    "crash",
    "power cut in the middle of a write",
    "all crash",
    "a node is isolated",
    "links are cut at random",
    "links are cut one way",
    "pause",
    "slow disk",
    "hanging disk",
    "failed sync",
    "full disk",
    "clock leaps",
    "clock changes its rate",
    "a state machine stands still",
    "change of members",
    "handover",
    "restart in order",
    "a new leader crashes at once",
    "two nodes lose each other",
    "trouble in the middle of a change or a handover",
    "a node's connections stand still",
    "a message is lost",
    "a message is repeated",
    "a message takes much longer than others",
    "a message travels a slow network",
];

/// How many of [`FAULTS`] are done now and then.
const KINDS: usize = 21;
pub(crate) const LOSS: usize = 21;
pub(crate) const REPETITION: usize = 22;
pub(crate) const STRAGGLER: usize = 23;
pub(crate) const SLOW_NETWORK: usize = 24;

const FULL_DISK: usize = 10;
const MEMBERS: usize = 14;
const HANDOVER: usize = 15;
const NEW_LEADER_CRASHES: usize = 17;
const PAIR: usize = 18;
const TROUBLE: usize = 19;
const STALL: usize = 20;
/// What makes trouble: crashes and cuts.
const TROUBLES: [usize; 6] = [0, 3, 4, 5, 16, PAIR];

/// The mischief of one run.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    /// By place in [`FAULTS`].
    kinds: Vec<usize>,
    without: Faults,
    pace_us: (Micros, Micros),
    pub(crate) longest_outage_us: Micros,
    loss: u64,
    repetition: u64,
    stragglers: u64,
    delay: Option<Delay>,
}

impl Swarm {
    pub(crate) fn draw(rng: &mut fastrand::Rng, without: Faults) -> Self {
        let mut kinds: Vec<usize> = (0..KINDS).filter(|_| rng.u8(..3) == 0).collect();
        if kinds.is_empty() {
            kinds.push(rng.usize(..KINDS));
        }
        // In a few runs much more of it than in the others.
        let thousandths = |rng: &mut fastrand::Rng, most: u64, extreme: u64| match rng.u8(..8) {
            0..=3 => 0,
            4..=6 => rng.u64(..most),
            _ => rng.u64(..=extreme),
        };
        let mut swarm = Self {
            kinds,
            without,
            pace_us: match rng.u8(..3) {
                0 => (5_000, 150_000),
                1 => (50_000, 1_000_000),
                _ => (300_000, 3_000_000),
            },
            longest_outage_us: if rng.bool() { 300_000 } else { 4_000_000 },
            loss: thousandths(rng, 100, 300),
            repetition: thousandths(rng, 100, 500),
            stragglers: thousandths(rng, 60, 60),
            delay: match rng.u8(..8) {
                0 | 1 => Some(Delay::Between(5_000, 60_000)),
                // On average half as long again: 100 ms at most.
                2 => Some(Delay::Exponential {
                    half_life_us: rng.u64(1_000..=66_000),
                }),
                _ => None,
            },
        };
        // Drawn all the same: the rest of the run stays more like what it was.
        for (fault, thousandths) in [
            (LOSS, &mut swarm.loss),
            (REPETITION, &mut swarm.repetition),
            (STRAGGLER, &mut swarm.stragglers),
        ] {
            if without.contains(fault) {
                *thousandths = 0;
            }
        }
        if without.contains(SLOW_NETWORK) {
            swarm.delay = None;
        }
        swarm
    }

    pub(crate) fn apply_to(&self, links: &mut Links) {
        links.loss = self.loss;
        links.repetition = self.repetition;
        links.stragglers = self.stragglers;
        links.delay = self.delay.unwrap_or(links.delay);
    }
}

/// Sizes and times of one run, small, so that every bound is met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub(crate) segment_bytes: usize,
    pub(crate) message_bytes: usize,
    pub(crate) window: usize,
    pub(crate) retained_bytes: usize,
    pub(crate) snapshot_log_bytes: usize,
    pub(crate) chunk_bytes: usize,
    pub(crate) lease: Option<Lease>,
    pub(crate) clock_rates_percent: (u64, u64),
    pub(crate) think_us: (Micros, Micros),
    /// With few writes, a node that was cut off for a while may still be elected.
    pub(crate) reads_percent: u8,
    max_sessions: u32,
    session_ttl_ms: u64,
    clerk_window: usize,
    attempt_timeout_ms: u64,
    refresh_members_ms: Option<u64>,
}

/// How many of the clients' calls are reads, in most runs.
pub(crate) const READS_PERCENT: u8 = 40;

impl Tuning {
    pub(crate) fn draw(rng: &mut fastrand::Rng, _swarm: &Swarm) -> Self {
        let lease = rng.bool().then(|| Lease {
            max_drift_percent: rng.u64(10..=40),
        });
        let clock_rates_percent = match lease {
            // One clock gains on another by less than the lease allows for: (1 - x) / (1 + x) >= 1 - drift.
            Some(Lease { max_drift_percent }) => {
                let off = max_drift_percent * 2 / 5;
                (100 - off, 100 + off)
            }
            None if rng.u8(..4) == 0 => (40, 250),
            None => (70, 130),
        };
        Self {
            segment_bytes: rng.usize(2_048..16_384),
            message_bytes: if rng.u8(..3) == 0 {
                1
            } else {
                rng.usize(200..4_000)
            },
            window: rng.usize(1..=6),
            retained_bytes: if rng.bool() { 0 } else { rng.usize(..4_000) },
            snapshot_log_bytes: rng.usize(3_000..40_000),
            chunk_bytes: rng.usize(50..800),
            lease,
            clock_rates_percent,
            think_us: if rng.bool() {
                (1_000, 30_000)
            } else {
                (20_000, 200_000)
            },
            reads_percent: if rng.u8(..3) == 0 { 97 } else { READS_PERCENT },
            max_sessions: if rng.u8(..4) == 0 { 6 } else { 1_000 },
            session_ttl_ms: if rng.u8(..4) == 0 { 2_000 } else { 3_600_000 },
            clerk_window: if rng.bool() { rng.usize(1..=3) } else { 512 },
            attempt_timeout_ms: if rng.bool() { 300 } else { rng.u64(50..1_000) },
            refresh_members_ms: (rng.u8(..4) > 0).then(|| rng.u64(200..5_000)),
        }
    }

    /// Where a node's log is at its bound.
    pub(crate) fn max_log_bytes(&self) -> usize {
        (self.snapshot_log_bytes + 500).max(2 * self.retained_bytes + 1)
    }

    pub(crate) fn clerk(&self) -> ClerkOptions {
        ClerkOptions {
            window: self.clerk_window,
            attempt_timeout: Duration::from_millis(self.attempt_timeout_ms),
            refresh_members: self.refresh_members_ms.map(Duration::from_millis),
            ..ClerkOptions::default()
        }
    }

    pub(crate) fn state_machine(&self) -> StateMachineOptions {
        StateMachineOptions {
            session_ttl: Duration::from_millis(self.session_ttl_ms),
            max_sessions: self.max_sessions,
            ..StateMachineOptions::default()
        }
    }
}

/// What ends by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relief {
    Links,
    Disk(NodeId),
    StateMachine(NodeId),
}

impl World {
    /// Does something bad, and plans the next.
    pub(crate) fn mischief(&mut self) {
        if self.calm {
            return;
        }
        let (least, most) = self.swarm.pace_us;
        let next = self.rng.u64(least..=most);
        self.after(next, Event::Mischief);
        // What needs several steps to come about is tried more often.
        let slow = [MEMBERS, HANDOVER]
            .into_iter()
            .filter(|kind| self.swarm.kinds.contains(kind));
        let slow: Vec<usize> = slow.collect();
        let kinds = if !slow.is_empty() && self.rng.u8(..3) == 0 {
            &slow
        } else {
            &self.swarm.kinds
        };
        let kind = kinds[self.rng.usize(..kinds.len())];
        let id = NodeId::new(self.rng.u64(..self.nodes.len() as u64));
        // Half of it hits whoever leads: there it hurts most.
        let id = if self.rng.bool() {
            self.leader().unwrap_or(id)
        } else {
            id
        };
        if self.do_mischief(kind, id) {
            self.faults[kind] += 1;
            self.note(|| format!("mischief: {} ({id})", FAULTS[kind]));
        }
    }

    fn do_mischief(&mut self, kind: usize, id: NodeId) -> bool {
        if self.swarm.without.contains(kind) {
            return false;
        }
        let node = &self.nodes[place(id)];
        let (disk, runs) = (node.disk.clone(), node.process.is_some());
        match kind {
            0 if runs => self.crash(id),
            16 if runs => {
                self.crash(id);
                let after = self.rng.u64(500..20_000);
                self.after(after, Event::Restart { node: id });
            }
            1 if runs => {
                disk.power_off_after(self.rng.u64(..20));
            }
            2 => {
                for other in 0..self.nodes.len() {
                    let other = self.nodes[other].id;
                    self.crash(other);
                }
            }
            PAIR => {
                let other = self.rng.usize(..self.nodes.len());
                self.cut(|_, a, b| (a, b) == (place(id), other));
            }
            3 => self.cut(|_, a, b| a == place(id) || b == place(id)),
            4 => self.cut(|rng, a, b| a < b && rng.bool()),
            5 => self.cut_one_way(),
            STALL => {
                let longest = if self.rng.u8(..4) == 0 {
                    5_000_000
                } else {
                    900_000
                };
                let until = self.now + self.rng.u64(50_000..longest);
                for other in 0..self.nodes.len() {
                    // As if both ways of a connection were different ones.
                    for (a, b) in [(place(id), other), (other, place(id))] {
                        if self.rng.u8(..8) > 0 {
                            self.links.stall(a, b, until);
                        }
                    }
                }
            }
            6 if runs => self.pause_node(id),
            7 => {
                self.nodes[place(id)].sync_us = (20_000, 300_000);
                self.relief_after(3_000_000, Relief::Disk(id));
            }
            8 => {
                let us = self.rng.u64(200_000..5_000_000);
                let node = &mut self.nodes[place(id)];
                node.hangs_until = self.now + us;
            }
            9 if runs => disk.fail_sync_after(self.rng.u64(..6)),
            FULL_DISK if runs => {
                disk.set_capacity(Some(disk.used_bytes() + self.rng.u64(..2_000)));
                let longest = if self.rng.bool() {
                    2_000_000
                } else {
                    8_000_000
                };
                self.relief_after(longest, Relief::Disk(id));
            }
            // A lease relies on clocks.
            11 if self.tuning.lease.is_none() => {
                let by = self.rng.u64(10_000..3_000_000);
                let now = self.now;
                self.nodes[place(id)].clock.leap(now, by);
                self.coverage.met(Situation::ClockLeapt);
                if self.is_awake(id) {
                    self.tick(id);
                    self.turn(id);
                }
            }
            12 => {
                let (least, most) = self.tuning.clock_rates_percent;
                let (now, rate) = (self.now, self.rng.u64(least..=most));
                self.nodes[place(id)].clock.set_rate(now, rate);
                // Its next deadline comes at another time now.
                self.nodes[place(id)].tick_at = Micros::MAX;
                if self.is_awake(id) {
                    self.tick(id);
                    self.turn(id);
                }
            }
            13 if runs => {
                self.process(id).applies = false;
                self.relief_after(1_000_000, Relief::StateMachine(id));
            }
            MEMBERS => return self.change_members(),
            HANDOVER => return self.hand_over(id),
            _ => return false,
        }
        true
    }

    /// A node has just been elected: it may be the worst moment to crash (Fig. 8).
    pub(crate) fn on_new_leader(&mut self, id: NodeId) {
        let swarm = &self.swarm;
        let may_crash = swarm.kinds.contains(&NEW_LEADER_CRASHES)
            && !swarm.without.contains(NEW_LEADER_CRASHES);
        if !self.calm && may_crash && self.rng.u8(..3) > 0 {
            let life = self.nodes[place(id)].life;
            let after = self.rng.u64(..12_000);
            self.faults[NEW_LEADER_CRASHES] += 1;
            self.after(after, Event::Crash { node: id, life });
        }
    }

    /// A node is about to write a snapshot, which may need more room than its disk has.
    pub(crate) fn on_snapshot_begun(&mut self, id: NodeId) {
        if !self.calm && self.swarm.kinds.contains(&FULL_DISK) && self.rng.u8(..4) == 0 {
            self.faults[FULL_DISK] += u64::from(self.do_mischief(FULL_DISK, id));
        }
    }

    /// Cuts the links for which `which` says so, both of a pair where it says so of either, and heals
    /// them after a while.
    fn cut(&mut self, which: impl Fn(&mut fastrand::Rng, usize, usize) -> bool) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if which(&mut self.rng, a, b) {
                    self.links.cut(a, b);
                    if a != b && self.rng.u8(..8) > 0 {
                        self.links.cut(b, a);
                    }
                }
            }
        }
        self.relief_after(4_000_000, Relief::Links);
    }

    fn cut_one_way(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if self.rng.u8(..4) == 0 {
                    self.links.cut(a, b);
                }
            }
        }
        self.relief_after(4_000_000, Relief::Links);
    }

    /// A change or a handover has begun: what hits it now hits it in the middle.
    fn make_trouble_soon(&mut self) {
        if self.rng.bool() {
            let after = self.rng.u64(..6_000);
            self.after(after, Event::Trouble);
        }
    }

    pub(crate) fn make_trouble(&mut self) {
        if self.calm || self.swarm.without.contains(TROUBLE) {
            return;
        }
        let kind = TROUBLES[self.rng.usize(..TROUBLES.len())];
        let id = NodeId::new(self.rng.u64(..self.nodes.len() as u64));
        let id = if self.rng.bool() {
            self.leader().unwrap_or(id)
        } else {
            id
        };
        if self.do_mischief(kind, id) {
            self.faults[TROUBLE] += 1;
            self.note(|| format!("trouble: {} ({id})", FAULTS[kind]));
        }
    }

    fn pause_node(&mut self, id: NodeId) {
        let us = self.rng.u64(50_000..4_000_000);
        let leads = self.process(id).raft.role() == Role::Leader;
        if leads && us > ELECTION_TIMEOUT_US {
            self.coverage.met(Situation::LeaderPaused);
        }
        self.nodes[place(id)].paused_until = self.now + us;
    }

    /// Asks whoever leads for other members.
    fn change_members(&mut self) -> bool {
        let Some(leader) = self.leader().filter(|&id| self.is_awake(id)) else {
            return false;
        };
        let members = self.process(leader).raft.membership().clone();
        let voters: Vec<NodeId> = members.voters().iter().copied().collect();
        let learners: Vec<NodeId> = members.learners().iter().copied().collect();
        let voter = voters[self.rng.usize(..voters.len())];
        let learner = (!learners.is_empty()).then(|| learners[self.rng.usize(..learners.len())]);
        let change = match (self.rng.u8(..8), learner) {
            (0..=2, None) if self.nodes.len() < MAX_NODES => self.newcomer(),
            (0..=3, Some(node)) => MembershipChange::Promote { node },
            (4 | 5, Some(new)) => MembershipChange::Replace { old: voter, new },
            (6, Some(node)) => MembershipChange::Remove { node },
            // A quorum of two or three is what the rest of the run should have, mostly.
            _ if voters.len() > 2 || self.rng.u8(..8) == 0 => {
                MembershipChange::Remove { node: voter }
            }
            _ => return false,
        };
        self.tick(leader);
        let outcome = self.process(leader).raft.change_membership(change.clone());
        self.note(|| format!("{leader} is asked for {change:?}: {outcome:?}"));
        if let Err(ChangeError::WouldLoseQuorum { .. }) = outcome {
            self.coverage.met(Situation::ChangeRefused);
        }
        self.turn(leader);
        if outcome.is_ok() {
            self.make_trouble_soon();
        }
        outcome.is_ok()
    }

    /// Starts a node that knows of no cluster.
    fn newcomer(&mut self) -> MembershipChange {
        let node = NodeId::new(self.nodes.len() as u64);
        let clock = self.draw_clock();
        self.nodes
            .push(Node::new(node, Membership::default(), clock));
        self.start(node);
        let address = address(node).to_string();
        MembershipChange::AddLearner { node, address }
    }

    fn hand_over(&mut self, to: NodeId) -> bool {
        let Some(leader) = self.leader().filter(|&id| self.is_awake(id)) else {
            return false;
        };
        let to = self.rng.bool().then_some(to);
        self.tick(leader);
        let outcome = self.process(leader).raft.transfer_leadership(to);
        self.transfer_to = outcome.ok().or(self.transfer_to);
        self.turn(leader);
        if outcome.is_ok() {
            self.make_trouble_soon();
        }
        outcome.is_ok()
    }

    /// A node that takes itself for the leader: one of the latest term, or, now and then, any.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let leaders = running.filter(|process| process.raft.role() == Role::Leader);
        let latest = leaders.max_by_key(|process| process.raft.term());
        latest.map(|process| process.raft.id())
    }

    fn relief_after(&mut self, longest: Micros, relief: Relief) {
        let us = self.rng.u64(50_000..=longest);
        self.after(us, Event::Relief { relief });
    }

    pub(crate) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Links => self.links.heal(),
            Relief::Disk(id) => {
                let node = &mut self.nodes[place(id)];
                node.sync_us = (300, 2_000);
                node.disk.set_capacity(None);
            }
            Relief::StateMachine(id) => {
                if self.runs(id) {
                    self.process(id).applies = true;
                }
                if self.is_awake(id) {
                    self.tick(id);
                    self.turn(id);
                }
            }
        }
    }

    /// Nothing bad is going on any more, and nothing that was planned comes.
    pub(crate) fn end_mischief(&mut self) {
        self.links = Links::perfect();
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            self.relieve(Relief::Disk(id));
            let (now, node) = (self.now, &mut self.nodes[at]);
            node.disk.power_off_after(1 << 60);
            node.disk.fail_sync_after(1 << 60);
            node.clock.set_rate(now, 100);
            node.tick_at = Micros::MAX;
            let is_down = node.process.is_none();
            if is_down {
                self.nodes[at].restarts = true;
                self.after(10_000, Event::Restart { node: id });
            } else {
                self.relieve(Relief::StateMachine(id));
            }
        }
    }
}
