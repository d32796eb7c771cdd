//! A running node: what its driver does in the real program (`raft/src/node/driver.rs`), step by step.
//!
//! Its log writer is in `writing`, its state machine in `applying`, its snapshots in `snapshots`, its clients
//! in `serving`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvserver::{LogTime, MemoryEngine, StateMachine};
use raft::Refusal;
use raft::core::{
    AppendOutcome, Config, Effect, LogId, LogIndex, Membership, Message, Millis, NodeId, Raft,
    ReadId, Role, WriteBatch, WriteId,
};
use raft::driving::{CommitWatch, DiskWatch, OwnSnapshot};
use raft::storage::{Identity, Persister, PersisterOptions, SnapshotReader, SnapshotStore};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::network::{Packet, place};
use crate::serving::{Awaited, Said};
use crate::world::{Event, World};
use crate::writing::Report;

const CLUSTER: u64 = 7;
/// As `NodeOptions::disk_stall_limit` has it, unless told otherwise.
const DISK_STALL_LIMIT: Duration = Duration::from_millis(1_500);

/// Who waits for a proposal or a read, on which attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    pub(crate) asked: Awaited,
}

pub(crate) struct Process {
    pub(crate) raft: Raft,
    pub(crate) persister: Persister,
    pub(crate) store: SnapshotStore,
    pub(crate) state: StateMachine<MemoryEngine>,
    /// By ascending index.
    pub(crate) proposals: VecDeque<(LogId, Waiter)>,
    /// With the index that the answer must reflect at least: what was committed when it was asked.
    pub(crate) reads: BTreeMap<ReadId, (Waiter, LogIndex)>,
    pub(crate) safe_reads: VecDeque<(LogIndex, Waiter)>,
    pub(crate) next_read: ReadId,
    /// Taken from the core; the disk had no room for it yet.
    pub(crate) unwritten: VecDeque<WriteBatch>,
    /// The disk had no room when it was last asked.
    pub(crate) writer_is_full: bool,
    /// Written, and not durable.
    pub(crate) in_flight: VecDeque<WriteId>,
    /// What the log writer will say, in this order.
    pub(crate) reports: VecDeque<Report>,
    pub(crate) disk: DiskWatch,
    pub(crate) commits: CommitWatch,
    pub(crate) own_snapshot: OwnSnapshot,
    /// There was no space for the last snapshot of its own.
    pub(crate) lacked_space: bool,
    pub(crate) senders: BTreeMap<NodeId, Sender>,
    /// Stopped between commit and apply.
    pub(crate) applies: bool,
    pub(crate) was: (Role, raft::core::Term),
    pub(crate) log_time_at: (LogTime, Millis),
    pub(crate) members: Arc<Membership>,
    pub(crate) effects: Vec<Effect>,
}

/// A snapshot on its way to a follower.
pub(crate) struct Sender {
    pub(crate) reader: SnapshotReader,
    pub(crate) id: LogId,
    pub(crate) term: raft::core::Term,
    pub(crate) attempts: u32,
    /// What the follower holds; `None` before its first answer.
    pub(crate) furthest: Option<u64>,
}

impl Process {
    pub(crate) fn is_serving(&self) -> bool {
        self.raft.is_serving()
    }
}

impl World {
    /// Starts a process from its disk. False if the disk failed meanwhile: the node stays down.
    pub(crate) fn start(&mut self, id: NodeId) -> bool {
        let now = self.now;
        let seed = self.rng.u64(..);
        let started = self.local_instant(id);
        let tuning = self.tuning;
        let node = &mut self.nodes[place(id)];
        node.life += 1;
        node.disk_free_at = now;
        node.tick_at = Micros::MAX;
        node.restarts = false;
        let identity = Identity {
            node: id,
            cluster: CLUSTER,
        };
        let options = PersisterOptions {
            segment_bytes: tuning.segment_bytes,
            ..PersisterOptions::default()
        };
        let (persister, recovered) = match Persister::open(node.disk.clone(), identity, options) {
            Ok(opened) => opened,
            Err(error) => {
                self.oracle.fail(
                    "a crash leaves a readable disk",
                    format!("node {id}: {error}"),
                );
                return false;
            }
        };
        if recovered.torn_tail.is_some() {
            self.coverage.met(Situation::TornTail);
        }
        let restored = recovered.restored;
        if restored.hard_state.current_term < node.term_at_crash {
            self.coverage.met(Situation::VoteLostInCrash);
        }
        self.oracle.on_restart(id, &restored);
        let store = persister.snapshots();
        let config = Config {
            max_message_bytes: tuning.message_bytes,
            max_inflight_messages: tuning.window,
            max_log_bytes: tuning.max_log_bytes(),
            retained_log_bytes: tuning.retained_bytes,
            lease: tuning.lease,
            ..Config::new(id, node.initial.clone())
        };
        let local = node.clock.read(now);
        let raft = match Raft::new(config, restored, seed, local) {
            Ok(raft) => raft,
            Err(error) => {
                self.oracle.fail(
                    "a crash leaves a state to start from",
                    format!("node {id}: {error}"),
                );
                return false;
            }
        };
        let state = StateMachine::new(MemoryEngine::new(), tuning.state_machine())
            .expect("memory does not fail");
        let members = Arc::clone(raft.membership());
        node.process = Some(Process {
            was: (raft.role(), raft.term()),
            raft,
            persister,
            store,
            state,
            proposals: VecDeque::new(),
            reads: BTreeMap::new(),
            safe_reads: VecDeque::new(),
            next_read: ReadId::ZERO.next(),
            unwritten: VecDeque::new(),
            writer_is_full: false,
            in_flight: VecDeque::new(),
            reports: VecDeque::new(),
            disk: DiskWatch::new(DISK_STALL_LIMIT, started),
            commits: CommitWatch::new(DISK_STALL_LIMIT, started),
            own_snapshot: OwnSnapshot::Idle,
            lacked_space: false,
            senders: BTreeMap::new(),
            applies: true,
            log_time_at: (LogTime::ZERO, local),
            members,
            effects: Vec::new(),
        });
        self.note(|| format!("{id} starts"));
        self.turn(id);
        true
    }

    /// The process of a node that runs.
    pub(crate) fn process(&mut self, id: NodeId) -> &mut Process {
        let process = self.nodes[place(id)].process.as_mut();
        process.expect("the caller saw it run")
    }

    pub(crate) fn runs(&self, id: NodeId) -> bool {
        self.nodes[place(id)].process.is_some()
    }

    /// It runs, and is not paused.
    pub(crate) fn is_awake(&self, id: NodeId) -> bool {
        self.runs(id) && self.nodes[place(id)].paused_until <= self.now
    }

    /// What the node's clock shows, as the rules of a driver take it. Nothing depends on where it begins.
    pub(crate) fn local_instant(&self, id: NodeId) -> Instant {
        let local = self.nodes[place(id)].clock.read(self.now);
        self.base + Duration::from_millis(local.get())
    }

    /// Sets the clock of the core. The input is at hand already, so the time is not too early.
    pub(crate) fn tick(&mut self, id: NodeId) {
        let now = self.now;
        let node = &mut self.nodes[place(id)];
        assert!(node.paused_until <= now, "a paused process does nothing");
        let local = node.clock.read(now);
        if let Some(process) = &mut node.process {
            process.raft.tick(local);
            self.watch_disks(id);
        }
    }

    /// Ends a batch of inputs: carries out what the core asks for.
    pub(crate) fn turn(&mut self, id: NodeId) {
        self.resign_if_disk_is_full(id);
        let mut effects = std::mem::take(&mut self.process(id).effects);
        self.process(id).raft.flush(&mut effects);
        for effect in effects.drain(..) {
            self.carry_out(id, effect);
            if !self.runs(id) {
                return;
            }
        }
        self.process(id).effects = effects;
        if !self.hand_to_writer(id) {
            return;
        }
        let process = self.nodes[place(id)].process.as_ref();
        self.oracle
            .on_step(&process.expect("it ran a moment ago").raft);
        self.deliver_committed(id);
        if !self.runs(id) {
            return;
        }
        self.snapshot_if_due(id);
        let now = self.now;
        let node = &mut self.nodes[place(id)];
        let process = node.process.as_mut().expect("it ran a moment ago");
        let deadline = process.raft.next_deadline();
        if deadline.get() != u64::MAX {
            let due = node.clock.when(deadline).max(now);
            if due < node.tick_at {
                node.tick_at = due;
                let life = node.life;
                self.at(due, Event::Tick { node: id, life });
            }
        }
    }

    pub(crate) fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                self.told(id, &message);
                let life = self.nodes[place(id)].life;
                let call = self.calls.open(id, life, to, None);
                self.send(Packet::Request {
                    from: id,
                    to,
                    call,
                    message,
                });
            }
            Effect::Reply { call, message } => {
                self.told(id, &message);
                if let Message::AppendEntriesReply {
                    outcome: AppendOutcome::Full { .. },
                    ..
                } = message
                {
                    self.coverage.met(Situation::FollowerFull);
                }
                match message {
                    Message::AppendEntriesReply {
                        outcome:
                            AppendOutcome::Accepted { match_index }
                            | AppendOutcome::Full { match_index },
                        ..
                    } => self.oracle.on_accepted(id, match_index),
                    Message::InstallSnapshotReply {
                        last_included,
                        installed: true,
                        ..
                    } => self.oracle.on_accepted(id, last_included.index),
                    _ => {}
                }
                if let Message::RequestVoteReply {
                    term,
                    vote_granted,
                    pre_vote,
                } = message
                {
                    if pre_vote && !vote_granted {
                        self.coverage.met(Situation::PreVoteRefused);
                    } else if !pre_vote
                        && vote_granted
                        && let Some(call) = self.calls.get_mut(call)
                    {
                        let candidate = call.from;
                        self.oracle.on_vote(id, term, candidate);
                    }
                }
                if self.calls.get_mut(call).is_some() {
                    self.send(Packet::Reply {
                        from: id,
                        call,
                        message,
                    });
                }
            }
            Effect::SendSnapshot {
                to,
                last_included,
                term,
            } => self.send_snapshot(id, to, last_included, term),
            Effect::ReceiveSnapshot {
                call,
                last_included,
                offset,
                data,
                done,
            } => self.receive_chunk(id, call, last_included, offset, &data, done),
            Effect::ReadReady { read, index } => {
                let process = self.process(id);
                if let Some((waiter, least)) = process.reads.remove(&read) {
                    if index < least {
                        self.oracle.fail(
                            "a read covers what was committed before it",
                            format!("{id} reads at {index}, {least} was committed"),
                        );
                    }
                    let process = self.process(id);
                    process.safe_reads.push_back((index, waiter));
                    if process.raft.role() != Role::Leader {
                        self.coverage.met(Situation::FollowerRead);
                    }
                }
            }
            Effect::ReadRefused { read } => {
                if let Some((waiter, _)) = self.process(id).reads.remove(&read) {
                    self.lose_leadership(id, waiter);
                }
            }
            Effect::RoleChanged { role, term, leader } => self.on_role(id, role, term, leader),
            Effect::MembershipChanged { membership } => self.on_membership(id, &membership),
            Effect::TransferFailed { .. } => self.coverage.met(Situation::TransferFailed),
            Effect::Fatal { reason } => {
                self.oracle.fail(
                    "no node sees the promises broken",
                    format!("node {id}: {reason}"),
                );
            }
        }
    }

    /// What a message tells of its sender's term, and of its vote for itself.
    fn told(&mut self, id: NodeId, message: &Message) {
        match message {
            Message::RequestVote {
                term,
                pre_vote: false,
                ..
            } => {
                self.oracle.on_vote(id, *term, id);
                self.oracle.on_term_told(id, *term);
            }
            // Of a term that nobody has entered yet.
            Message::RequestVote { .. } | Message::RequestVoteReply { pre_vote: true, .. } => {}
            message => self.oracle.on_term_told(id, message.term()),
        }
    }

    fn on_role(&mut self, id: NodeId, role: Role, term: raft::core::Term, leader: Option<NodeId>) {
        let process = self.process(id);
        let (was, was_term) = std::mem::replace(&mut process.was, (role, term));
        if was == Role::Leader && role != Role::Leader {
            let (reads, proposals) = (process.reads.len(), process.proposals.len());
            let lost: Vec<Waiter> = process
                .proposals
                .drain(..)
                .map(|(_, waiter)| waiter)
                .collect();
            process.senders.clear();
            if reads > 0 {
                self.coverage.met(Situation::DeposedWithReads);
            }
            if proposals > 0 {
                self.coverage.met(Situation::DeposedWithProposals);
            }
            if was_term == term && leader.is_none() {
                self.coverage.met(Situation::QuorumLost);
            }
            if has_two_writes_of_one_client(&lost) {
                self.coverage.met(Situation::SeveralInFlight);
            }
            for waiter in lost {
                self.lose_leadership(id, waiter);
            }
        }
        if was == Role::Candidate && role == Role::PreCandidate {
            self.coverage.met(Situation::SplitVote);
        }
        if role == Role::Leader {
            let joint = self.process(id).raft.membership().is_joint();
            let process = self.nodes[place(id)].process.as_ref().expect("it runs");
            // It may have led and been deposed within this batch.
            if process.raft.role() == Role::Leader && process.raft.term() == term {
                self.oracle.on_leader(&process.raft);
            }
            self.elections += 1;
            if joint {
                self.coverage.met(Situation::JointElection);
            }
            if self.links.is_one_way() {
                self.coverage.met(Situation::OneWayCut);
            }
            if self.transfer_to == Some(id) {
                self.transfer_to = None;
                self.coverage.met(Situation::TransferDone);
            }
            let leaders = self.nodes.iter().filter_map(|node| node.process.as_ref());
            if leaders
                .filter(|process| process.raft.role() == Role::Leader)
                .count()
                > 1
            {
                self.coverage.met(Situation::TwoLeaders);
            }
            self.note(|| format!("{id} leads term {term}"));
            self.on_new_leader(id);
        }
    }

    /// Another leader may still do what was asked.
    pub(crate) fn lose_leadership(&mut self, id: NodeId, waiter: Waiter) {
        let leader = self.process(id).raft.leader();
        self.answer(
            id,
            waiter,
            Said::Declined(Refusal::LeadershipLost { leader }),
        );
    }

    fn on_membership(&mut self, id: NodeId, membership: &Arc<Membership>) {
        let process = self.process(id);
        let before = std::mem::replace(&mut process.members, Arc::clone(membership));
        let index = process.raft.membership_index();
        if before == *membership {
            return;
        }
        let leads = process.raft.role() == Role::Leader;
        if leads {
            if membership.learners().len() > before.learners().len() {
                self.coverage.met(Situation::LearnerAdded);
            }
            if before.is_joint() && !membership.is_joint() {
                let (old, new) = (before.outgoing(), membership.voters());
                if old.is_subset(new) {
                    self.coverage.met(Situation::LearnerPromoted);
                } else if new.is_subset(old) {
                    self.coverage.met(Situation::VoterRemoved);
                } else {
                    self.coverage.met(Situation::VoterReplaced);
                }
                if !new.contains(&id) {
                    self.coverage.met(Situation::LeaderRemoved);
                }
            }
        }
        // A membership that takes back an entry of the log: by truncation only.
        if before.is_joint() && !membership.is_joint() && membership.voters() == before.outgoing() {
            self.coverage.met(Situation::MembershipOverwritten);
        }
        self.note(|| format!("{id} takes {membership} of entry {index} for the members"));
    }
}

fn has_two_writes_of_one_client(waiters: &[Waiter]) -> bool {
    let mut clients = BTreeSet::new();
    waiters
        .iter()
        .filter(|waiter| waiter.asked == Awaited::Write)
        .any(|write| !clients.insert(write.client))
}
