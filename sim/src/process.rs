//! A running node: what its driver does in the real program (`raft/src/node/driver.rs`), step by step.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kvserver::{
    Command, LogTime, MemoryEngine, Op, Outcome, Refusal, Reply, StateMachine, Writer, codec,
};
use raft::core::{
    CallId, Committed, Config, Effect, Entry, LogId, LogIndex, Membership, Message, Millis, NodeId,
    Payload, ProposeError, Raft, ReadId, Role, WriteBatch, WriteId,
};
use raft::storage::{Identity, Persister, PersisterOptions, SnapshotReader, SnapshotStore};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::history;
use crate::network::{Answer, Ask, Packet, Want, place};
use crate::world::{Event, World};

/// Writes that the log writer may have in hand.
const MAX_WRITES_IN_FLIGHT: usize = 4;
/// Chunks that bring nothing before a transfer is given up.
const MAX_ATTEMPTS: u32 = 5;
const CLUSTER: u64 = 7;

/// Who waits for a proposal or a read, on which attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    client: usize,
    attempt: u64,
    want: Want,
}

pub(crate) struct Process {
    pub(crate) raft: Raft,
    persister: Persister,
    store: SnapshotStore,
    pub(crate) state: StateMachine<MemoryEngine>,
    /// By ascending index.
    proposals: VecDeque<(LogId, Waiter)>,
    reads: BTreeMap<ReadId, Waiter>,
    safe_reads: VecDeque<(LogIndex, Waiter)>,
    next_read: ReadId,
    in_flight: VecDeque<WriteId>,
    /// The oldest write in hand was handed over then.
    writing_since: Option<Millis>,
    snapshot_runs: bool,
    senders: BTreeMap<NodeId, Sender>,
    /// Stopped between commit and apply.
    pub(crate) applies: bool,
    was: (Role, raft::core::Term),
    log_time_at: (LogTime, Millis),
    members: Arc<Membership>,
    effects: Vec<Effect>,
}

/// A snapshot on its way to a follower.
struct Sender {
    reader: SnapshotReader,
    id: LogId,
    term: raft::core::Term,
    attempts: u32,
    furthest: u64,
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
        self.oracle.on_restart(id, restored.hard_state.current_term);
        let store = persister.snapshots();
        let config = Config {
            max_message_bytes: tuning.message_bytes,
            max_inflight_messages: tuning.window,
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
            in_flight: VecDeque::new(),
            writing_since: None,
            snapshot_runs: false,
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

    /// Sets the clock of the core. The input is at hand already, so the time is not too early.
    pub(crate) fn tick(&mut self, id: NodeId) {
        let now = self.now;
        let node = &mut self.nodes[place(id)];
        let local = node.clock.read(now);
        if let Some(process) = &mut node.process {
            process.raft.tick(local);
        }
    }

    /// Ends a batch of inputs: carries out what the core asks for.
    pub(crate) fn turn(&mut self, id: NodeId) {
        self.resign_if_disk_hangs(id);
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

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
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
                if let Some(waiter) = process.reads.remove(&read) {
                    process.safe_reads.push_back((index, waiter));
                    if process.raft.role() != Role::Leader {
                        self.coverage.met(Situation::FollowerRead);
                    }
                }
            }
            Effect::ReadRefused { read } => {
                let leader = self.process(id).raft.leader();
                if let Some(waiter) = self.process(id).reads.remove(&read) {
                    self.answer(waiter, Answer::NotLeader(leader));
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
            for waiter in lost {
                self.answer(waiter, Answer::Unknown);
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
        }
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

    fn hand_to_writer(&mut self, id: NodeId) -> bool {
        loop {
            let now = self.now;
            let process = self.process(id);
            if process.in_flight.len() >= MAX_WRITES_IN_FLIGHT {
                return true;
            }
            let Some(batch) = process.raft.take_write() else {
                return true;
            };
            self.observe_write(id, &batch);
            let process = self.process(id);
            if let Err(error) = process.persister.write(&batch) {
                self.note(|| format!("{id}: {error}"));
                self.crash(id);
                return false;
            }
            process.in_flight.push_back(batch.id);
            let node = &mut self.nodes[place(id)];
            let local = node.clock.read(now);
            let process = node.process.as_mut().expect("it runs");
            process.writing_since.get_or_insert(local);
            let (least, most) = node.sync_us;
            let takes = self.rng.u64(least..=most);
            let done = node.disk_free_at.max(now).max(node.hangs_until) + takes;
            node.disk_free_at = done;
            let (life, write) = (node.life, batch.id);
            self.at(
                done,
                Event::DiskDone {
                    node: id,
                    life,
                    write,
                },
            );
        }
    }

    fn observe_write(&mut self, id: NodeId, batch: &WriteBatch) {
        if batch.truncate_from.is_some() && !batch.entries.is_empty() {
            self.coverage.met(Situation::ConflictOverwritten);
        }
        if batch.reset_to.is_some() {
            self.coverage.met(Situation::LogReset);
        }
        let process = self.nodes[place(id)].process.as_ref().expect("it runs");
        for entry in &batch.entries {
            let before = process.raft.term_at(entry.id.index.prev());
            self.oracle.on_write(id, entry, before);
        }
    }

    /// The disk has finished a write, and with it all that was written before.
    pub(crate) fn disk_done(&mut self, id: NodeId, write: WriteId) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        if let Err(error) = process.persister.sync() {
            self.note(|| format!("{id}: {error}"));
            self.coverage.met(Situation::SyncFailed);
            self.crash(id);
            return;
        }
        process.in_flight.retain(|other| *other > write);
        process.writing_since = (!process.in_flight.is_empty()).then_some(local);
        process.raft.persisted(write);
        self.turn(id);
    }

    fn resign_if_disk_hangs(&mut self, id: NodeId) {
        const LIMIT_MS: u64 = 1_500;
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        let hangs = process
            .writing_since
            .is_some_and(|since| local.since(since) > LIMIT_MS);
        if hangs && process.raft.resign() {
            self.coverage.met(Situation::DiskHung);
        }
    }

    /// Applies what is committed, and answers the reads that waited for it.
    pub(crate) fn deliver_committed(&mut self, id: NodeId) {
        loop {
            if !self.process(id).applies {
                return;
            }
            self.answer_safe_reads(id);
            let bytes = self.tuning.message_bytes;
            match self.process(id).raft.take_committed(bytes) {
                Some(Committed::Entries(entries)) => {
                    let process = self.process(id);
                    let leads = process.raft.role() == Role::Leader;
                    let last = entries.last().expect("never empty").id;
                    if leads {
                        if last.index > process.raft.durable_index() {
                            self.coverage.met(Situation::CommittedByOthers);
                        }
                        let process = self.process(id);
                        if entries[0].id.term < last.term && last.term == process.raft.term() {
                            self.coverage.met(Situation::OlderTermCommitted);
                        }
                    }
                    for entry in entries {
                        self.apply(id, &entry);
                    }
                    self.process(id).raft.applied(last.index);
                }
                Some(Committed::Snapshot(snapshot)) => {
                    if !self.install(id, snapshot) {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    fn apply(&mut self, id: NodeId, entry: &Entry) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        let (index, term) = (entry.id.index, entry.id.term);
        let applied = match &entry.payload {
            Payload::Empty | Payload::Membership(_) => {
                process.state.apply_empty(index.get(), term.get())
            }
            Payload::Command(command) => process.state.apply(index.get(), term.get(), command),
        };
        let outcome = match applied {
            Ok(outcome) => outcome,
            Err(error) => {
                return self.oracle.fail(
                    "entries are applied in order",
                    format!("node {id}: {error}"),
                );
            }
        };
        let log_time = process.state.log_time();
        if log_time > process.log_time_at.0 {
            process.log_time_at = (log_time, local);
        }
        let digest = process.state.digest().get();
        let waiter = match process.proposals.front() {
            Some((proposed, _)) if *proposed == entry.id => {
                process.proposals.pop_front().map(|(_, waiter)| waiter)
            }
            _ => None,
        };
        let mut overtaken = Vec::new();
        while let Some((_, waiter)) = process
            .proposals
            .pop_front_if(|(proposed, _)| proposed.index <= index)
        {
            overtaken.push(waiter);
        }
        self.oracle.on_digest(id, index, digest);
        self.observe_outcome(entry, &outcome);
        for waiter in overtaken {
            self.answer(waiter, Answer::Unknown);
        }
        if let Some(waiter) = waiter {
            let answer = match outcome {
                Outcome::SessionOpened(session) => Answer::Opened(session),
                Outcome::Applied(Reply::Done) | Outcome::Repeated(Reply::Done) => Answer::Written,
                Outcome::Refused(Refusal::SessionExpired) => {
                    self.coverage.met(Situation::SessionExpired);
                    Answer::SessionExpired
                }
                _ => Answer::Unknown,
            };
            self.answer(waiter, answer);
        }
    }

    /// Tells the oracle what an entry did.
    fn observe_outcome(&mut self, entry: &Entry, outcome: &Outcome) {
        let Payload::Command(command) = &entry.payload else {
            return;
        };
        let is_repetition = match outcome {
            Outcome::Applied(Reply::Done) => false,
            Outcome::Repeated(_) => true,
            _ => return,
        };
        let Ok(command) = codec::decode(command) else {
            return;
        };
        let Writer::Session { id, request, .. } = command.writer else {
            return;
        };
        let (session, request) = (id.get(), request.get());
        if is_repetition {
            self.coverage.met(Situation::Repeated);
            let first = self.oracle.applied_at(session, request);
            if first.is_some_and(|first| first.term < entry.id.term) {
                self.coverage.met(Situation::RepeatedElsewhere);
            }
            return;
        }
        self.oracle.on_applied(session, request, entry.id);
        let (key, value, append) = match &command.op {
            Op::Put { key, value } => (key, value, false),
            Op::Append { key, value } => (key, value, true),
            _ => return,
        };
        let effect = history::Effect {
            key: key[0],
            token: tokens(value)[0],
            append,
        };
        self.oracle.on_effect(entry.id.index, effect);
    }

    fn install(&mut self, id: NodeId, snapshot: LogId) -> bool {
        let options = self.tuning.state_machine();
        let process = self.process(id);
        let restored = process
            .store
            .open(snapshot)
            .map_err(|error| error.to_string())
            .and_then(|reader| {
                StateMachine::restore(MemoryEngine::new(), options, reader)
                    .map_err(|error| error.to_string())
            });
        match restored {
            Ok(state) => {
                process.state = state;
                let digest = process.state.digest().get();
                process.raft.applied(snapshot.index);
                self.oracle.on_digest(id, snapshot.index, digest);
                true
            }
            Err(error) => {
                // Only a disk that lost its power may do that, and its node then goes down.
                self.note(|| format!("{id} cannot install {snapshot}: {error}"));
                self.crash(id);
                false
            }
        }
    }

    fn answer_safe_reads(&mut self, id: NodeId) {
        loop {
            let process = self.process(id);
            let applied = LogIndex::new(process.state.last_applied().index);
            let Some((_, waiter)) = process
                .safe_reads
                .pop_front_if(|(index, _)| *index <= applied)
            else {
                return;
            };
            let Want::Read { key, .. } = waiter.want else {
                continue;
            };
            let value = process.state.get(&[key]).expect("memory does not fail");
            let value = value.map_or_else(Vec::new, |value| tokens(&value));
            self.answer(waiter, Answer::Value(value));
        }
    }

    fn snapshot_if_due(&mut self, id: NodeId) {
        let bound = self.tuning.snapshot_log_bytes;
        let process = self.process(id);
        let applied = process.state.last_applied().index;
        if process.snapshot_runs
            || process.raft.log_bytes() <= bound
            || applied <= process.raft.snapshot().index.get()
        {
            return;
        }
        process.snapshot_runs = true;
        let life = self.nodes[place(id)].life;
        let takes = self.rng.u64(100..20_000);
        self.after(takes, Event::TakeSnapshot { node: id, life });
    }

    /// Takes a snapshot of the state as it is, and writes it.
    pub(crate) fn take_snapshot(&mut self, id: NodeId) {
        let process = self.process(id);
        process.snapshot_runs = false;
        let applied = process.state.last_applied();
        let last = LogId::new(
            raft::core::Term::new(applied.term),
            LogIndex::new(applied.index),
        );
        if last.index <= process.raft.snapshot().index {
            return;
        }
        let Some(snapshot) = process.state.begin_snapshot() else {
            return;
        };
        let members = Arc::clone(process.raft.membership_at(last.index));
        let store = process.store.clone();
        let written = store
            .create(last, &members)
            .map_err(io::Error::from)
            .and_then(|mut writer| {
                snapshot
                    .write_to(&mut writer)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                writer.finish().map_err(io::Error::from)
            })
            .and_then(|()| store.remove_older_than(last).map_err(io::Error::from));
        if let Err(error) = written {
            self.note(|| format!("{id} takes no snapshot: {error}"));
            self.crash(id);
            return;
        }
        self.coverage.met(Situation::SnapshotTaken);
        if members.is_joint() {
            self.coverage.met(Situation::SnapshotInChange);
        }
        self.process(id).raft.snapshot_taken(last);
        self.turn(id);
    }

    fn send_snapshot(&mut self, id: NodeId, to: NodeId, last: LogId, term: raft::core::Term) {
        let process = self.process(id);
        match process.store.open(last) {
            Ok(reader) => {
                process.senders.insert(
                    to,
                    Sender {
                        reader,
                        id: last,
                        term,
                        attempts: 0,
                        furthest: 0,
                    },
                );
                self.send_chunk(id, to, 0);
            }
            Err(_) => process.raft.snapshot_sent(to, last, false),
        }
    }

    fn send_chunk(&mut self, id: NodeId, to: NodeId, offset: u64) {
        let chunk_bytes = self.tuning.chunk_bytes;
        let life = self.nodes[place(id)].life;
        let process = self.process(id);
        let Some(sender) = process.senders.get(&to) else {
            return;
        };
        let (last_included, term) = (sender.id, sender.term);
        let Ok(data) = sender.reader.read_at(offset, chunk_bytes) else {
            process.senders.remove(&to);
            return process.raft.snapshot_sent(to, last_included, false);
        };
        let done = offset + data.len() as u64 >= sender.reader.len();
        let message = Message::InstallSnapshot {
            term,
            last_included,
            offset,
            data,
            done,
        };
        let call = self.calls.open(id, life, to, Some(last_included));
        self.send(Packet::Request {
            from: id,
            to,
            call,
            message,
        });
    }

    fn receive_chunk(
        &mut self,
        id: NodeId,
        call: CallId,
        last_included: LogId,
        offset: u64,
        data: &Bytes,
        done: bool,
    ) {
        let initial = self.nodes[place(id)].initial.clone();
        let process = self.process(id);
        let stored = process
            .store
            .receive(last_included, offset, data, done)
            .and_then(|outcome| {
                let complete = if outcome.complete {
                    let members = process.store.membership_of(last_included)?;
                    Some(members.unwrap_or_else(|| Arc::new(initial)))
                } else {
                    None
                };
                Ok((outcome.next_offset, complete))
            });
        match stored {
            Ok((next_offset, complete)) => {
                if let Some(members) = &complete {
                    let is_new = self.process(id).raft.last_log() == LogId::ZERO;
                    self.coverage.met(Situation::SnapshotInstalled);
                    if self.links.cuts > 0 {
                        self.coverage.met(Situation::SnapshotInPartition);
                    }
                    if members.is_joint() {
                        self.coverage.met(Situation::SnapshotInChange);
                    }
                    if is_new && place(id) >= self.first_joiner {
                        self.coverage.met(Situation::NewcomerBySnapshot);
                    }
                } else if offset == 0 && next_offset > data.len() as u64 {
                    self.coverage.met(Situation::TransferResumed);
                }
                let process = self.process(id);
                process
                    .raft
                    .chunk_stored(call, last_included, next_offset, complete);
                let mut effects = std::mem::take(&mut process.effects);
                process.raft.flush(&mut effects);
                for effect in effects.drain(..) {
                    self.carry_out(id, effect);
                    if !self.runs(id) {
                        return;
                    }
                }
            }
            Err(error) => {
                self.note(|| format!("{id} cannot store a chunk: {error}"));
                self.crash(id);
            }
        }
    }

    /// The follower answered a chunk: the next one, or the end.
    pub(crate) fn on_chunk_answered(&mut self, id: NodeId, from: NodeId, reply: &Message) {
        let Message::InstallSnapshotReply {
            term,
            last_included,
            next_offset,
            installed,
        } = *reply
        else {
            return;
        };
        let process = self.process(id);
        let leads = process.raft.role() == Role::Leader;
        let Some(sender) = process.senders.get_mut(&from) else {
            return;
        };
        if sender.id != last_included {
            return;
        }
        if next_offset > sender.furthest {
            sender.furthest = next_offset;
            sender.attempts = 0;
        } else {
            sender.attempts += 1;
        }
        let goes_on = leads && term <= sender.term && sender.attempts < MAX_ATTEMPTS;
        let next = next_offset.min(sender.reader.len());
        if installed || !goes_on {
            process.senders.remove(&from);
            process.raft.snapshot_sent(from, last_included, installed);
        } else {
            self.send_chunk(id, from, next);
        }
    }

    /// A chunk, or the answer to it, was lost.
    pub(crate) fn on_chunk_lost(&mut self, id: NodeId, to: NodeId, last_included: LogId) {
        let process = self.process(id);
        if process
            .senders
            .get(&to)
            .is_some_and(|sender| sender.id == last_included)
        {
            process.senders.remove(&to);
            process.raft.snapshot_sent(to, last_included, false);
            self.coverage.met(Situation::TransferCrashed);
        }
    }

    /// A client's request arrives.
    pub(crate) fn on_ask(&mut self, id: NodeId, client: usize, ask: Ask) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let waiter = Waiter {
            client,
            attempt: ask.attempt,
            want: ask.what,
        };
        let process = self.process(id);
        let (log_time, observed) = process.log_time_at;
        let stamp = LogTime::from_millis(log_time.as_millis() + local.since(observed));
        let command = match ask.what {
            Want::Read { anywhere, .. } => return self.on_read(id, waiter, anywhere),
            Want::OpenSession => Command::open_session(stamp),
            Want::Write {
                key,
                token,
                append,
                session,
                request,
                replies_seen_upto,
            } => {
                let key = Bytes::copy_from_slice(&[key]);
                let value = Bytes::copy_from_slice(&token.to_le_bytes());
                Command {
                    log_time: stamp,
                    writer: Writer::Session {
                        id: session,
                        request,
                        replies_seen_upto,
                    },
                    op: if append {
                        Op::Append { key, value }
                    } else {
                        Op::Put { key, value }
                    },
                }
            }
        };
        let command = codec::encode(&command).expect("small");
        match process.raft.propose(command) {
            Ok(proposed) => process.proposals.push_back((proposed, waiter)),
            Err(error) => {
                if matches!(error, ProposeError::HandingOver { .. }) {
                    self.coverage.met(Situation::RefusedInTransfer);
                }
                self.answer(waiter, refusal(error));
            }
        }
        self.turn(id);
    }

    fn on_read(&mut self, id: NodeId, waiter: Waiter, anywhere: bool) {
        let in_transfer = self.process(id).raft.handing_over_to().is_some();
        let process = self.process(id);
        let read = process.next_read;
        process.next_read = read.next();
        let taken = if anywhere {
            process.raft.read_anywhere(read)
        } else {
            process.raft.read(read)
        };
        match taken {
            Ok(()) => {
                process.reads.insert(read, waiter);
                if in_transfer {
                    self.coverage.met(Situation::ReadInTransfer);
                }
            }
            Err(error) => self.answer(waiter, refusal(error)),
        }
        if self.tuning.lease.is_some() && self.process(id).raft.is_serving() {
            let before = self.process(id).safe_reads.len();
            self.turn(id);
            let at_once = self.runs(id) && self.process(id).safe_reads.len() <= before;
            let waits = self.runs(id) && self.process(id).reads.contains_key(&read);
            self.coverage.met(if at_once && !waits {
                Situation::LeaseRead
            } else {
                Situation::LeaseOver
            });
        } else {
            self.turn(id);
        }
    }

    fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.send(Packet::Answer {
            client: waiter.client,
            attempt: waiter.attempt,
            answer,
        });
    }
}

fn refusal(error: ProposeError) -> Answer {
    match error {
        ProposeError::NotLeader { leader } => Answer::NotLeader(leader),
        ProposeError::HandingOver { to } => Answer::NotLeader(Some(to)),
        ProposeError::Overloaded => Answer::Busy,
    }
}

/// A value is the tokens of the writes that made it.
fn tokens(value: &[u8]) -> Vec<u64> {
    let (each, _) = value.as_chunks::<8>();
    each.iter().copied().map(u64::from_le_bytes).collect()
}
