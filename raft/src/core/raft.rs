//! The node's state (Fig. 2, *State*), its inputs, and what every input has in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::change::Leaving;
use super::config::{Config, ConfigError};
use super::effect::{Committed, Effect, ProposeError, Role};
use super::forwarded_reads::ForwardedReads;
use super::held::{self, Held};
use super::invariants;
use super::journal::Journal;
use super::log::Log;
use super::membership::Memberships;
use super::message::Message;
use super::progress::Progress;
use super::read_index::Reads;
use super::transfer::Transfer;
use super::types::{
    CallId, Entry, HardState, LogId, LogIndex, Millis, NodeId, Payload, Restored, Term, WriteBatch,
    WriteId,
};
use crate::log_limit::LogLimit;

/// One member of the cluster, as a function of its inputs.
///
/// Inputs are methods; what they cause gathers inside. After a batch of inputs the driver calls
/// [`flush`](Self::flush) for the effects, and pulls writes and committed entries whenever disk and
/// state machine have room. See the [module's](super) example.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Raft {
    pub(super) config: Config,
    pub(super) memberships: Memberships,
    /// Whom we send to, in the order of their numbers: the other members, and, as leader, those who
    /// leave.
    pub(super) peers: Vec<NodeId>,
    #[serde(with = "super::input::seed")]
    pub(super) rng: fastrand::Rng,
    pub(super) now: Millis,

    /// The latest term this node has seen. Never decreases (§5.1).
    pub(super) current_term: Term,
    /// Who got our vote in `current_term`. Once set, stays for the term (§5.2).
    pub(super) voted_for: Option<NodeId>,
    pub(super) log: Log,
    /// The latest durable snapshot. `log.prev() <= snapshot <= commit_index`. Never goes back.
    pub(super) snapshot: LogId,
    /// The head of the log may go up to here. `drop_upto <= snapshot.index`.
    pub(super) drop_upto: LogIndex,
    /// What of the above is on disk.
    pub(super) journal: Journal,
    pub(super) held: Held,

    /// Known to be committed. Never decreases.
    pub(super) commit_index: LogIndex,
    /// Handed to the state machine. `last_applied <= handed <= commit_index`.
    pub(super) handed: LogIndex,
    /// Bytes of the entries after `snapshot` up to `handed`.
    pub(super) bytes_since_snapshot: usize,
    /// Reported as applied by the state machine.
    pub(super) last_applied: LogIndex,
    /// A snapshot that the state machine must take before it is handed anything else.
    pub(super) snapshot_to_hand: Option<LogId>,

    pub(super) role: Role,
    /// The leader of `current_term`, once heard.
    pub(super) leader: Option<NodeId>,
    /// The leader last heard, in whatever term, and when.
    pub(super) heard: Option<(NodeId, Millis)>,
    /// Until then a node that has heard no leader yet gives no vote, for the sake of leases.
    pub(super) silent_until: Millis,
    /// When we stand for election, unless a leader is heard (§5.2). Means nothing in a leader.
    pub(super) election_deadline: Millis,
    /// As candidate, of either kind: the answers in this term, our own included.
    pub(super) votes: BTreeMap<NodeId, bool>,

    /// As leader: one per peer. Otherwise empty.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// As leader: the empty entry that opened our term (§5.4.2, §8).
    pub(super) term_start: LogIndex,
    /// As leader: when the next heartbeat is due.
    pub(super) heartbeat_at: Millis,
    /// As leader: the next flush sends a heartbeat to everyone.
    pub(super) heartbeat_due: bool,
    /// As leader: bytes of the entries after `last_applied`.
    pub(super) unapplied_bytes: usize,
    pub(super) reads: Reads,
    /// As leader: members that are out and shall hear of it.
    pub(super) leaving: Leaving,
    /// As leader: whom we hand over to.
    pub(super) transfer: Option<Transfer>,
    pub(super) forwarded: ForwardedReads,

    pub(super) effects: Vec<Effect>,
    announced: (Role, Term, Option<NodeId>),
    /// What peers do wrong, by what was told of it.
    #[serde(skip)]
    complaints: LogLimit<(NodeId, &'static str)>,
    /// Something happened that must not: no further step is safe.
    halted: bool,
}

impl Raft {
    /// A node with what storage found, at the time `now`. The same inputs after the same `seed`
    /// yield the same effects.
    ///
    /// # Errors
    /// A configuration or a restored state that cannot be worked with.
    pub fn new(
        config: Config,
        restored: Restored,
        seed: u64,
        now: Millis,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        invariants::check_restored(&restored)?;
        let Restored {
            hard_state,
            snapshot,
            membership,
            prev,
            entries,
        } = restored;
        let base = membership.unwrap_or_else(|| Arc::new(config.initial.clone()));
        let mut memberships = Memberships::new(snapshot.index, base);
        for entry in &entries {
            if let Payload::Membership(membership) = &entry.payload
                && entry.id.index > snapshot.index
            {
                memberships.append(entry.id.index, Arc::clone(membership));
            }
        }
        let silent_ms = match config.lease {
            Some(_) => config.election_timeout_ms.0,
            None => 0,
        };

        let log = Log::new(prev, entries);
        let mut raft = Self {
            memberships,
            peers: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            now,
            current_term: hard_state.current_term,
            voted_for: hard_state.voted_for,
            journal: Journal::new(&log, hard_state),
            log,
            snapshot,
            drop_upto: LogIndex::ZERO,
            held: Held::default(),
            commit_index: snapshot.index,
            handed: LogIndex::ZERO,
            bytes_since_snapshot: 0,
            last_applied: LogIndex::ZERO,
            snapshot_to_hand: (snapshot != LogId::ZERO).then_some(snapshot),
            role: Role::Follower,
            leader: None,
            heard: None,
            silent_until: now.plus(silent_ms),
            election_deadline: now,
            votes: BTreeMap::new(),
            progress: BTreeMap::new(),
            term_start: LogIndex::ZERO,
            heartbeat_at: now,
            heartbeat_due: false,
            unapplied_bytes: 0,
            reads: Reads::default(),
            leaving: Leaving::default(),
            transfer: None,
            forwarded: ForwardedReads::default(),
            effects: Vec::new(),
            announced: (Role::Follower, hard_state.current_term, None),
            complaints: LogLimit::default(),
            halted: false,
            config,
        };
        if !raft.log.contains(snapshot) {
            // The crash came between the snapshot and the reset that goes with it (Fig. 13, rule 7).
            raft.log.reset(snapshot);
            raft.journal.reset(snapshot, LogIndex::ZERO);
        }
        raft.compact_after_restart();
        raft.membership_changed();
        // Alone, there is no leader to wait for; but with leases there may be one that has just left,
        // to whom silence was promised before the restart.
        let is_alone = raft.memberships.latest().is_sole_voter(raft.config.id);
        if !is_alone || raft.config.lease.is_some() {
            raft.restart_election_timer();
        }
        raft.assert_invariants();
        Ok(raft)
    }

    /// Sets the clock and fires what is due. To be called before each batch of inputs, and when
    /// [`next_deadline`](Self::next_deadline) comes. A clock that goes back is ignored.
    ///
    /// `now` must have been read after the last input of the batch arrived: to a leader heard after
    /// a pause, or a read that came after it, an older time would promise too much (leases).
    pub fn tick(&mut self, now: Millis) {
        self.now = self.now.max(now);
        if self.halted {
            return;
        }
        // After a pause, doubt comes first: nothing that arrived meanwhile is heard by a leader that
        // may have been replaced.
        self.check_quorum();
        self.expire_question();
        if self.role == Role::Leader {
            self.check_transfer();
            self.forget_those_who_left();
        }
        if self.role == Role::Leader {
            if self.now >= self.heartbeat_at {
                self.heartbeat_due = true;
                self.heartbeat_at = self.now.plus(self.config.heartbeat_ms);
            }
        } else if self.now >= self.election_deadline && self.may_campaign() {
            self.campaign();
        }
        self.announce();
    }

    /// A message from a peer: a request with the call to answer, or a reply with [`CallId::ZERO`].
    ///
    /// Every request is answered, sooner or later, by one [`Effect::Reply`] or one
    /// [`Effect::ReceiveSnapshot`].
    pub fn step(&mut self, from: NodeId, call: CallId, message: Message) {
        if self.halted {
            return;
        }
        let term = message.term();
        if let Err(reason) = self.admit(from, &message) {
            self.complain(from, reason);
            self.refuse(call, &message);
            return;
        }
        // Votes have their own rules for terms: to ask whether one could win must disturb nobody.
        let asks_for_vote = matches!(message, Message::RequestVote { .. });
        let grants_pre_vote = matches!(
            message,
            Message::RequestVoteReply {
                pre_vote: true,
                vote_granted: true,
                ..
            }
        );
        if term > self.current_term && !asks_for_vote && !grants_pre_vote {
            // §5.1; also from a reply (failure 3).
            self.become_follower(term);
        }
        match message {
            Message::RequestVote {
                term,
                last_log,
                pre_vote,
                transfer,
            } => {
                self.on_request_vote(from, call, term, last_log, pre_vote, transfer);
            }
            Message::RequestVoteReply {
                term,
                vote_granted,
                pre_vote,
            } => {
                self.on_request_vote_reply(from, term, vote_granted, pre_vote);
            }
            Message::AppendEntries {
                term,
                prev_log,
                entries,
                leader_commit,
                round,
            } => {
                self.on_append_entries(from, call, term, prev_log, entries, leader_commit, round);
            }
            Message::AppendEntriesReply {
                term,
                outcome,
                round,
            } => {
                self.on_append_entries_reply(from, term, outcome, round);
            }
            Message::InstallSnapshot {
                term,
                last_included,
                offset,
                data,
                done,
            } => {
                self.on_install_snapshot(from, call, term, last_included, offset, data, done);
            }
            Message::InstallSnapshotReply {
                term,
                last_included,
                next_offset,
                installed,
            } => {
                self.on_install_snapshot_reply(from, term, last_included, next_offset, installed);
            }
            Message::TimeoutNow { term } => self.on_timeout_now(from, call, term),
            Message::TimeoutNowReply { term } => {
                self.hear_follower(from, term);
            }
            Message::ReadIndex { number, .. } => self.on_read_index(from, call, number),
            Message::ReadIndexReply { number, index, .. } => {
                self.on_read_index_reply(from, number, index);
            }
        }
        self.announce();
    }

    /// As leader: appends a command to the log. Replication starts with the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// Not the leader, about to be none, or [`Config::max_uncommitted_bytes`] reached. The command
    /// was not taken.
    pub fn propose(&mut self, command: Bytes) -> Result<LogId, ProposeError> {
        if self.role != Role::Leader || self.halted {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        }
        if let Some(to) = self.handing_over_to() {
            return Err(ProposeError::HandingOver { to });
        }
        self.append_own(Payload::Command(command))
    }

    /// The disk has made this batch, and all before it, durable.
    ///
    /// # Panics
    /// If the batch was never taken.
    pub fn persisted(&mut self, write: WriteId) {
        if !self.journal.persisted(write) || self.halted {
            return;
        }
        self.held
            .release(self.journal.durable_id(), &mut self.effects);
        self.count_own_vote();
        self.advance_commit();
        self.announce();
    }

    /// The state machine has applied everything up to `upto`.
    ///
    /// # Panics
    /// If `upto` was never handed out.
    pub fn applied(&mut self, upto: LogIndex) {
        assert!(
            upto <= self.handed,
            "only what was handed out can be applied"
        );
        if upto > self.last_applied {
            if self.role == Role::Leader {
                self.unapplied_bytes -= self.log.bytes_between(self.last_applied.next(), upto);
            }
            self.last_applied = upto;
        }
    }

    /// A call to that peer failed or timed out. Its message may or may not have arrived.
    pub fn unreachable(&mut self, to: NodeId) {
        if let Some(progress) = self.progress.get_mut(&to) {
            progress.lost(self.now);
        }
        self.lost_question(to);
    }

    /// Ends a batch of inputs: starts replication of what gathered and rounds for waiting reads,
    /// and moves all effects out, in order.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        if !self.halted {
            self.forward_reads();
        }
        if self.role == Role::Leader && !self.halted {
            self.replicate();
            self.start_round();
            self.broadcast_heartbeat();
            self.go_on_with_transfer();
            self.announce();
        }
        self.assert_invariants();
        effects.append(&mut self.effects);
    }

    /// Everything gathered since the last batch, for the log writer, whenever it has room. Ids
    /// ascend by one.
    ///
    /// # Panics
    /// If an invariant of the core is broken.
    pub fn take_write(&mut self) -> Option<WriteBatch> {
        if self.halted {
            return None;
        }
        let batch = self.journal.take(&self.log);
        self.go_on_with_compaction();
        assert!(
            self.held
                .last_write()
                .is_none_or(|write| write < self.journal.gathering()),
            "nothing is held for a write that does not come"
        );
        batch
    }

    /// What the state machine gets next: committed entries in order, each once, at least one and as
    /// many as fit into `max_bytes`.
    ///
    /// # Panics
    /// If an invariant of the core is broken.
    pub fn take_committed(&mut self, max_bytes: usize) -> Option<Committed> {
        if self.halted {
            return None;
        }
        if let Some(snapshot) = self.snapshot_to_hand.take() {
            self.handed = snapshot.index;
            return Some(Committed::Snapshot(snapshot));
        }
        if self.handed >= self.commit_index {
            return None;
        }
        let entries = self
            .log
            .slice(self.handed.next(), self.commit_index, max_bytes);
        self.bytes_since_snapshot += entries.iter().map(Entry::size_bytes).sum::<usize>();
        self.handed = entries
            .last()
            .expect("committed entries are in the log")
            .id
            .index;
        Some(Committed::Entries(entries))
    }

    /// True once the core has stopped for good.
    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// Sends a request, once our term and vote are durable.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let effect = Effect::Send { to, message };
        self.emit_after(self.journal.covers_hard_state(), effect);
    }

    /// Answers a call, once our term and vote are durable.
    pub(super) fn reply(&mut self, call: CallId, message: Message) {
        self.reply_after(self.journal.covers_hard_state(), call, message);
    }

    /// Answers a call, once `write` is durable, and our term and vote.
    pub(super) fn reply_after(&mut self, write: WriteId, call: CallId, message: Message) {
        let write = write.max(self.journal.covers_hard_state());
        self.emit_after(write, Effect::Reply { call, message });
    }

    /// Records a new term or vote.
    pub(super) fn save_hard_state(&mut self) {
        let hard_state = HardState {
            current_term: self.current_term,
            voted_for: self.voted_for,
        };
        self.journal.save_hard_state(hard_state);
    }

    /// Stops this node: what was seen cannot happen while the algorithm's promises hold.
    pub(super) fn halt(&mut self, reason: String) {
        tracing::error!(node = %self.config.id, term = %self.current_term, reason, "the core halts");
        self.refuse_reads();
        self.refuse_all_forwarded();
        self.halted = true;
        self.effects.push(Effect::Fatal { reason });
    }

    fn emit_after(&mut self, write: WriteId, effect: Effect) {
        if write <= self.journal.durable_id() {
            self.effects.push(effect);
        } else {
            // Full, so the disk has hung for long: whoever waits for the oldest has given up on it.
            if let Some(oldest) = self.held.make_room() {
                let durable_term = self.journal.durable_term();
                self.effects.extend(held::withdrawn(oldest, durable_term));
            }
            self.held.hold(write, effect);
        }
    }

    /// Answers a request that is not worth a thought; a reply is just dropped.
    fn refuse(&mut self, call: CallId, message: &Message) {
        if held::is_request(message) {
            self.effects
                .push(held::no_news(call, message, self.journal.durable_term()));
        }
    }

    /// Tells that a peer sent what no honest one sends, and that we take no notice: the first time, and
    /// now and then when it goes on.
    pub(super) fn complain(&mut self, from: NodeId, reason: &'static str) {
        let kind = (from, reason);
        if let Some(suppressed) = self.complaints.happens(kind, self.now.get()) {
            tracing::error!(node = %self.config.id, %from, reason, suppressed, "refused a message");
        }
    }

    /// Refuses what no honest node of this cluster would send, before it is acted upon.
    ///
    /// The sender need not be a member that we know of: a newer membership may not have reached us,
    /// and its leader is the one to bring it (thesis §4.1).
    fn admit(&self, from: NodeId, message: &Message) -> Result<(), &'static str> {
        if from == self.config.id {
            return Err("the sender has our own number");
        }
        message.check()
    }

    /// Tells of a new role, term or leader, once per input.
    pub(super) fn announce(&mut self) {
        let current = (self.role, self.current_term, self.leader);
        if self.announced != current && !self.halted {
            self.announced = current;
            let (role, term, leader) = current;
            self.effects
                .push(Effect::RoleChanged { role, term, leader });
        }
    }
}
