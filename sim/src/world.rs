//! The loop: a heap of events in virtual time, and what each of them does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use raft::core::{LogId, Membership, NodeId};
use raft::storage::sim_disk::Crash;
use slab::Slab;

use crate::client::Client;
use crate::clock::{Clock, Micros};
use crate::coverage::{Coverage, Situation};
use crate::history::History;
use crate::network::{Calls, Links, Packet, address, place};
use crate::node::Node;
use crate::options::RunOptions;
use crate::oracle::{Oracle, Violation};
use crate::swarm::{FAULTS, Relief, Swarm, Tuning};

/// The longest election timeout, by default.
pub(crate) const ELECTION_TIMEOUT_US: Micros = 500_000;
/// How long a call to a node that never answers is under way.
pub(crate) const CALL_TIMEOUT_US: Micros = 600_000;
/// A process that goes on after a pause reads what has come in the meantime within so long.
const WAKING_US: Micros = 500;
/// The promise that a panic breaks.
pub(crate) const NO_PANIC: &str = "no assertion of the project fails";
/// Lines kept of what happened.
const TRACE_LINES: usize = 60;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Deliver {
        packet: usize,
    },
    Tick {
        node: NodeId,
        life: u64,
    },
    /// The log writer says what comes next in its order.
    DiskReports {
        node: NodeId,
        life: u64,
    },
    /// A disk that was full may have room.
    WriteAgain {
        node: NodeId,
        life: u64,
    },
    TakeSnapshot {
        node: NodeId,
        life: u64,
    },
    /// A call failed; `snapshot`: it carried a chunk.
    Lost {
        node: NodeId,
        life: u64,
        to: NodeId,
        snapshot: Option<LogId>,
    },
    Restart {
        node: NodeId,
    },
    /// One of a client's callers makes a call.
    CallBegins {
        client: usize,
        caller: usize,
    },
    /// A client need wait no longer for that.
    WaitEnds {
        number: usize,
        waiting: u64,
    },
    ClientWatches {
        client: usize,
    },
    /// The swarm's next mischief.
    Mischief,
    /// Mischief at the worst moment.
    Trouble,
    Crash {
        node: NodeId,
        life: u64,
    },
    /// One that has a natural end is over.
    Relief {
        relief: Relief,
    },
}

/// A cluster, its clients, and everything that may go wrong.
pub struct World {
    pub(crate) now: Micros,
    /// What clerks and drivers take for the beginning of time; nothing depends on it.
    pub(crate) base: Instant,
    pub(crate) rng: fastrand::Rng,
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    waiting: Slab<Event>,
    order: u64,
    pub(crate) packets: Slab<Packet>,
    pub(crate) links: Links,
    pub(crate) calls: Calls,
    pub(crate) nodes: Vec<Node>,
    /// Nodes from this place on joined later.
    pub(crate) first_joiner: usize,
    pub(crate) clients: Vec<Client>,
    pub(crate) history: History,
    pub(crate) next_token: u64,
    pub(crate) moments: u64,
    pub(crate) swarm: Swarm,
    pub(crate) tuning: Tuning,
    pub(crate) transfer_to: Option<NodeId>,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) elections: u64,
    pub(crate) faults: [u64; FAULTS.len()],
    events: u64,
    trace_hash: u64,
    trace: Option<VecDeque<String>>,
    /// Faults are over.
    pub(crate) calm: bool,
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Steps of nodes, clients, disks and messages.
    pub events: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Elections won.
    pub elections: u64,
    /// Entries committed.
    pub committed: u64,
    /// Calls of clients that ended.
    pub calls: u64,
    /// Mischief done, by kind, as in [`crate::swarm::FAULTS`].
    pub faults: Vec<u64>,
    /// Of everything that happened, in order: equal for equal runs.
    pub trace_hash: u64,
    /// What was met.
    pub coverage: Coverage,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The last that happened, with [`RunOptions::trace`].
    pub trace: Vec<String>,
}

/// Runs one seed. A panic counts as a violation.
#[must_use]
pub fn run_seed(seed: u64, options: RunOptions) -> Outcome {
    run_world(World::new(seed, options), seed, options.events)
}

pub(crate) fn run_world(mut world: World, seed: u64, events: u64) -> Outcome {
    let run = catch_unwind(AssertUnwindSafe(|| world.run(events)));
    if let Err(panic) = run {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a text");
        world.oracle.fail(NO_PANIC, text.to_owned());
    }
    world.outcome(seed)
}

impl World {
    /// A cluster that is about to start.
    ///
    /// # Panics
    /// With more nodes than a cluster may have.
    #[must_use]
    pub fn new(seed: u64, options: RunOptions) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let voters = match options.nodes {
            0 if rng.u8(..3) == 0 => 5,
            0 => 3,
            nodes => nodes,
        };
        let swarm = Swarm::draw(&mut rng, options.without);
        let tuning = Tuning::draw(&mut rng, &swarm);
        let member = |id: u64| (NodeId::new(id), address(NodeId::new(id)).to_string());
        let initial = Membership::of_voters((0..voters).map(member)).expect("few");
        let mut world = Self {
            now: 0,
            base: Instant::now(),
            heap: BinaryHeap::new(),
            waiting: Slab::new(),
            order: 0,
            packets: Slab::new(),
            links: Links::perfect(),
            calls: Calls::default(),
            nodes: Vec::new(),
            first_joiner: usize::try_from(voters).expect("few"),
            clients: Vec::new(),
            history: History::default(),
            next_token: 1,
            moments: 0,
            swarm,
            tuning,
            transfer_to: None,
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            elections: 0,
            faults: Default::default(),
            events: 0,
            trace_hash: seed,
            trace: options.trace.then(VecDeque::new),
            calm: false,
            rng,
        };
        world.swarm.apply_to(&mut world.links);
        for id in (0..voters).map(NodeId::new) {
            let clock = world.draw_clock();
            world.nodes.push(Node::new(id, initial.clone(), clock));
        }
        for _ in 0..world.rng.usize(1..=3) {
            let callers = world.rng.usize(1..=4);
            let nodes = world.draw_nodes();
            world.add_client(&nodes, callers);
        }
        world
    }

    /// Starts the nodes and clients; then `events` with faults, then the recovery, then the
    /// verdict on what the clients saw.
    pub fn run(&mut self, events: u64) {
        self.begin();
        while self.events < events && self.oracle.violation.is_none() {
            self.step();
        }
        if self.oracle.violation.is_none() {
            self.recover();
        }
        if self.oracle.violation.is_none() {
            self.judge();
        }
    }

    /// Starts the nodes and clients.
    pub(crate) fn begin(&mut self) {
        for place in 0..self.first_joiner {
            let id = self.nodes[place].id;
            self.start(id);
        }
        for client in 0..self.clients.len() {
            self.start_client(client);
        }
        self.after(400_000, Event::Mischief);
    }

    /// No faults but those that its owner brings about.
    pub(crate) fn make_calm(&mut self) {
        self.calm = true;
        self.links = Links::perfect();
        for node in &mut self.nodes {
            node.clock.set_rate(0, 100);
        }
        self.clients.clear();
        for _ in 0..2 {
            self.add_calm_client();
        }
    }

    /// A client that was told of every node.
    pub(crate) fn add_calm_client(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        self.add_client(&nodes, 2);
    }

    /// What a client is told of at first: all nodes, or some of them.
    fn draw_nodes(&mut self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        if self.rng.u8(..3) == 0 {
            self.rng.shuffle(&mut nodes);
            nodes.truncate(self.rng.usize(1..=nodes.len()));
        }
        nodes
    }

    /// One event.
    pub(crate) fn step(&mut self) {
        let Some(Reverse((at, order, slot))) = self.heap.pop() else {
            return self
                .oracle
                .fail("something is always due", "no event is left".to_owned());
        };
        let event = self.waiting[slot];
        // A paused node hears of nothing before it goes on; then of its connections in any order.
        if let Some(node) = self.meant_for(event)
            && self.nodes[place(node)].paused_until > at
        {
            let until = self.nodes[place(node)].paused_until;
            if until - at > CALL_TIMEOUT_US
                && let Event::Deliver { packet } = event
                && let Some(&Packet::Request { call, .. }) = self.packets.get(packet)
            {
                self.lose_call(call, CALL_TIMEOUT_US);
            }
            let until = until + self.rng.u64(..WAKING_US);
            self.heap.push(Reverse((until, order, slot)));
            return;
        }
        self.waiting.remove(slot);
        self.now = at;
        self.hash(at);
        self.hash(slot as u64);
        self.events += u64::from(self.handle(event));
    }

    fn meant_for(&self, event: Event) -> Option<NodeId> {
        match event {
            Event::Deliver { packet } => match self.packets.get(packet)? {
                Packet::Request { to, .. } | Packet::Ask { to, .. } => Some(*to),
                // It lies in the socket until the process goes on, and is read then.
                Packet::Reply { call, .. } => self.calls.get(*call).map(|open| open.from),
                Packet::Answer { .. } => None,
            },
            // A paused node's disk goes on, but its report waits, too.
            Event::Tick { node, .. }
            | Event::TakeSnapshot { node, .. }
            | Event::WriteAgain { node, .. }
            | Event::Lost { node, .. }
            | Event::DiskReports { node, .. } => Some(node),
            Event::Restart { .. }
            | Event::Crash { .. }
            | Event::CallBegins { .. }
            | Event::WaitEnds { .. }
            | Event::ClientWatches { .. }
            | Event::Mischief
            | Event::Trouble
            | Event::Relief { .. } => None,
        }
    }

    /// False: it was meant for somebody who is gone, or who waits no more. That is no event.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Deliver { packet } => {
                let packet = self.packets.remove(packet);
                return self.deliver(packet);
            }
            Event::Tick { node, life } if self.lives(node, life) => {
                self.nodes[place(node)].tick_at = Micros::MAX;
                self.tick(node);
                self.turn(node);
            }
            Event::DiskReports { node, life } if self.lives(node, life) => {
                self.tick(node);
                self.disk_reports(node);
            }
            Event::WriteAgain { node, life } if self.lives(node, life) => {
                self.tick(node);
                if self.write_waiting(node) {
                    self.turn(node);
                }
            }
            Event::TakeSnapshot { node, life } if self.lives(node, life) => {
                self.tick(node);
                self.take_snapshot(node);
            }
            Event::Lost {
                node,
                life,
                to,
                snapshot,
            } if self.lives(node, life) => {
                self.tick(node);
                if let Some(snapshot) = snapshot {
                    self.on_chunk_lost(node, to, snapshot);
                }
                self.process(node).raft.unreachable(to);
                self.turn(node);
            }
            Event::Crash { node, life } if self.lives(node, life) => self.crash(node),
            Event::Restart { node } => {
                if self.runs(node) || !self.nodes[place(node)].restarts {
                    return false;
                }
                self.start(node);
            }
            Event::CallBegins { client, caller } => self.call_begins(client, caller),
            Event::WaitEnds { number, waiting } => return self.wait_ends(number, waiting),
            Event::ClientWatches { client } => self.client_watches(client),
            Event::Mischief => self.mischief(),
            Event::Trouble => self.make_trouble(),
            Event::Relief { relief } => self.relieve(relief),
            Event::Tick { .. }
            | Event::DiskReports { .. }
            | Event::WriteAgain { .. }
            | Event::TakeSnapshot { .. }
            | Event::Crash { .. }
            | Event::Lost { .. } => return false,
        }
        true
    }

    pub(crate) fn lives(&self, id: NodeId, life: u64) -> bool {
        let node = &self.nodes[place(id)];
        node.life == life && node.process.is_some()
    }

    /// Ends a node's process; its disk loses what was not synced, or some of it.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let node = &mut self.nodes[place(id)];
        let Some(process) = node.process.take() else {
            return;
        };
        let life = node.life;
        if !process.in_flight.is_empty() {
            self.coverage.met(Situation::CrashBeforeSync);
        }
        if node.disk.is_off() {
            self.coverage.met(Situation::PowerLostMidWrite);
        }
        if !process.senders.is_empty() {
            self.coverage.met(Situation::TransferCrashed);
        }
        let raft = &process.raft;
        if raft.role() == raft::core::Role::Leader {
            self.coverage.met(Situation::LeaderCrashed);
        }
        if raft.membership().is_joint() {
            self.coverage.met(Situation::JointCrash);
        }
        let term = raft.term();
        self.nodes[place(id)].term_at_crash = term;
        let seed = self.rng.u64(..);
        let crash = match self.rng.u8(..8) {
            0 => Crash::Kill,
            1 => Crash::Kept,
            2 => Crash::Lost,
            _ => Crash::Random { seed },
        };
        self.nodes[place(id)].machine_runs = crash == Crash::Kill;
        if crash == Crash::Kill {
            self.lose_connections(id, &process);
        }
        drop(process);
        let disk = &self.nodes[place(id)].disk;
        let hollow_before = disk.hollow_writes();
        disk.crash(crash);
        if disk.hollow_writes() > hollow_before {
            self.coverage.met(Situation::HollowTail);
        }
        self.nodes[place(id)].paused_until = 0;
        self.note(|| format!("{id} crashes, {crash:?}"));
        for call in self.calls.close_of(id, life) {
            if call.snapshot.is_some() {
                self.coverage.met(Situation::TransferCrashed);
            }
            if call.from != id {
                let after = self.rng.u64(100..50_000);
                self.after(
                    after,
                    Event::Lost {
                        node: call.from,
                        life: call.from_life,
                        to: call.to,
                        snapshot: call.snapshot,
                    },
                );
            }
        }
        if self.nodes.iter().all(|node| node.process.is_none()) {
            self.coverage.met(Situation::AllDown);
        }
        self.nodes[place(id)].restarts = true;
        let longest = if self.calm {
            100_000
        } else {
            self.swarm.longest_outage_us
        };
        let after = self.rng.u64(1_000..=longest);
        self.after(after, Event::Restart { node: id });
    }

    pub(crate) fn after(&mut self, us: Micros, event: Event) {
        self.at(self.now + us, event);
    }

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.order += 1;
        let slot = self.waiting.insert(event);
        self.heap.push(Reverse((at, self.order, slot)));
    }

    pub(crate) fn draw_clock(&mut self) -> Clock {
        let (least, most) = self.tuning.clock_rates_percent;
        let rate = self.rng.u64(least..=most);
        let shown = self.rng.u64(..1_000_000_000);
        Clock::new(self.now, shown, rate)
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let Some(trace) = &mut self.trace else {
            return;
        };
        if trace.len() == TRACE_LINES {
            trace.pop_front();
        }
        trace.push_back(format!("{:>10} us  {}", self.now, line()));
    }

    fn hash(&mut self, value: u64) {
        self.trace_hash =
            (self.trace_hash.rotate_left(17) ^ value).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    fn outcome(mut self, seed: u64) -> Outcome {
        self.hash(self.oracle.committed().get());
        Outcome {
            seed,
            events: self.events,
            virtual_us: self.now,
            elections: self.elections,
            committed: self.oracle.committed().get(),
            calls: self.history.calls.len() as u64,
            faults: self.faults.to_vec(),
            trace_hash: self.trace_hash,
            coverage: self.coverage,
            violation: self.oracle.violation,
            trace: self.trace.map(Vec::from).unwrap_or_default(),
        }
    }
}
