//! A bench for one core: the tests play its peers, its disk and its clock.

use bytes::Bytes;

use super::message::{AppendOutcome, Message};
use super::types::{
    CallId, Entry, HardState, LogId, LogIndex, Millis, NodeId, Payload, ReadId, Restored, Term,
    WriteBatch,
};
use super::{Config, Effect, Membership, Raft, Role};

pub(super) const N1: NodeId = NodeId::new(1);
pub(super) const N2: NodeId = NodeId::new(2);
pub(super) const N3: NodeId = NodeId::new(3);
pub(super) const N4: NodeId = NodeId::new(4);
pub(super) const N5: NodeId = NodeId::new(5);

/// Core 1 of a cluster.
pub(super) struct Bench {
    pub(super) raft: Raft,
    now: Millis,
    next_call: u64,
}

impl Bench {
    /// Of `voters` nodes, with an empty log.
    pub(super) fn new(voters: u64) -> Self {
        Self::with_log(voters, 0, &[])
    }

    /// Of `voters` nodes, in `term`, with an entry of each of these terms.
    pub(super) fn with_log(voters: u64, term: u64, terms: &[u64]) -> Self {
        Self::adapted(voters, term, terms, |_| ())
    }

    pub(super) fn adapted(
        voters: u64,
        term: u64,
        terms: &[u64],
        adapt: impl Fn(&mut Config),
    ) -> Self {
        let restored = Restored {
            hard_state: HardState {
                current_term: Term::new(term),
                voted_for: None,
            },
            entries: entries(1, terms),
            ..Restored::default()
        };
        Self::restored(voters, restored, adapt)
    }

    pub(super) fn restored(voters: u64, restored: Restored, adapt: impl Fn(&mut Config)) -> Self {
        let mut config = Config::new(N1, members(voters));
        adapt(&mut config);
        let now = Millis::new(1_000);
        let raft = Raft::new(config, restored, 1, now).expect("tests restore sound states");
        Self {
            raft,
            now,
            next_call: 1,
        }
    }

    /// A leader of three in `term`, whose log has these terms and then its own empty entry,
    /// durable; what it said so far is thrown away.
    pub(super) fn leader(term: u64, terms: &[u64]) -> Self {
        Self::leader_of(3, term, terms, |_| ())
    }

    pub(super) fn leader_of(
        voters: u64,
        term: u64,
        terms: &[u64],
        adapt: impl Fn(&mut Config),
    ) -> Self {
        let mut bench = Self::adapted(voters, term - 1, terms, adapt);
        bench.elect();
        bench.sync();
        bench.out();
        bench
    }

    /// Elects this core: everyone says yes.
    pub(super) fn elect(&mut self) {
        self.time_out();
        let term = self.raft.term().next().get();
        for voter in 2..=self.raft.config.initial.voters().len() as u64 {
            self.step(NodeId::new(voter), vote(term, true, true));
        }
        self.sync();
        for voter in 2..=self.raft.config.initial.voters().len() as u64 {
            self.step(NodeId::new(voter), vote(term, true, false));
        }
        assert_eq!(self.raft.role(), Role::Leader);
        self.raft.flush(&mut Vec::new());
    }

    /// Lets the election timer run out.
    pub(super) fn time_out(&mut self) {
        self.pass_until(self.raft.next_deadline());
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.pass_until(self.now.plus(ms));
    }

    fn pass_until(&mut self, now: Millis) {
        self.now = now;
        self.raft.tick(now);
    }

    /// A message from a peer.
    pub(super) fn step(&mut self, from: NodeId, message: Message) {
        let call = CallId::new(self.next_call);
        self.next_call += 1;
        self.raft.step(from, call, message);
    }

    /// What the core wants done by now.
    pub(super) fn out(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.raft.flush(&mut effects);
        effects
    }

    /// The requests and replies among what it wants done.
    pub(super) fn said(&mut self) -> Vec<Message> {
        let messages = self.out().into_iter().filter_map(|effect| match effect {
            Effect::Send { message, .. } | Effect::Reply { message, .. } => Some(message),
            _ => None,
        });
        messages.collect()
    }

    /// The requests among what it wants done that go to `peer`.
    pub(super) fn sent_to(&mut self, peer: NodeId) -> Vec<Message> {
        let messages = self.out().into_iter().filter_map(|effect| match effect {
            Effect::Send { to, message } if to == peer => Some(message),
            _ => None,
        });
        messages.collect()
    }

    /// The answer to `message` from `from`, if there is one at once.
    pub(super) fn answer(&mut self, from: NodeId, message: Message) -> Option<Message> {
        self.out();
        self.step(from, message);
        let replies = self.out().into_iter().filter_map(|effect| match effect {
            Effect::Reply { message, .. } => Some(message),
            _ => None,
        });
        let mut replies: Vec<Message> = replies.collect();
        assert!(replies.len() <= 1, "one answer a call");
        replies.pop()
    }

    /// The disk takes everything and makes it durable.
    pub(super) fn sync(&mut self) {
        while let Some(batch) = self.raft.take_write() {
            self.raft.persisted(batch.id);
        }
    }

    /// The disk takes everything, and finishes nothing.
    pub(super) fn take(&mut self) -> WriteBatch {
        self.raft.take_write().expect("there is something to write")
    }

    /// The state machine takes and applies everything.
    pub(super) fn apply(&mut self) {
        while self.raft.take_committed(usize::MAX).is_some() {}
        self.raft.applied(self.raft.commit_index());
    }

    pub(super) fn propose(&mut self, command: &'static str) -> LogId {
        self.raft
            .propose(Bytes::from_static(command.as_bytes()))
            .expect("it leads")
    }

    pub(super) fn read(&mut self, number: u64) {
        self.raft.read(ReadId::new(number)).expect("it leads");
    }

    /// The reads that are ready, with their indexes.
    pub(super) fn ready(&mut self) -> Vec<(u64, u64)> {
        let ready = self.out().into_iter().filter_map(|effect| match effect {
            Effect::ReadReady { read, index } => Some((read.get(), index.get())),
            _ => None,
        });
        ready.collect()
    }

    /// The reads that are refused.
    pub(super) fn refused(&mut self) -> Vec<u64> {
        let refused = self.out().into_iter().filter_map(|effect| match effect {
            Effect::ReadRefused { read } => Some(read.get()),
            _ => None,
        });
        refused.collect()
    }

    /// The terms of the log, after what was compacted.
    pub(super) fn terms(&self) -> Vec<u64> {
        let indexes = self.raft.log.prev().index.get() + 1..=self.raft.last_log().index.get();
        indexes
            .map(|at| {
                self.raft
                    .term_at(index(at))
                    .expect("it is in the log")
                    .get()
            })
            .collect()
    }

    pub(super) fn commit(&self) -> u64 {
        self.raft.commit_index().get()
    }

    /// Whether the core has stopped for good, and said so.
    pub(super) fn halts(&mut self) -> bool {
        self.out()
            .iter()
            .any(|effect| matches!(effect, Effect::Fatal { .. }))
    }
}

/// Voters 1 to `voters`.
pub(super) fn members(voters: u64) -> Membership {
    let address = |id: u64| (NodeId::new(id), format!("10.0.0.{id}:1"));
    Membership::of_voters((1..=voters).map(address)).expect("numbered, and few")
}

pub(super) fn index(index: u64) -> LogIndex {
    LogIndex::new(index)
}

/// The entry `index` of `term`.
pub(super) fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

/// Entries of these terms, from index `first` on.
pub(super) fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    let entry = |(at, term): (u64, &u64)| Entry {
        id: id(at, *term),
        payload: Payload::Command(Bytes::from(format!("{at}@{term}"))),
    };
    (first..).zip(terms).map(entry).collect()
}

pub(super) fn append(term: u64, prev_log: LogId, terms: &[u64], leader_commit: u64) -> Message {
    Message::AppendEntries {
        term: Term::new(term),
        prev_log,
        entries: entries(prev_log.index.get() + 1, terms),
        leader_commit: index(leader_commit),
        round: 0,
    }
}

pub(super) fn heartbeat(term: u64, prev_log: LogId, leader_commit: u64) -> Message {
    append(term, prev_log, &[], leader_commit)
}

pub(super) fn accepted(term: u64, match_index: u64) -> Message {
    accepted_in(term, match_index, 0)
}

pub(super) fn accepted_in(term: u64, match_index: u64, round: u64) -> Message {
    let outcome = AppendOutcome::Accepted {
        match_index: index(match_index),
    };
    Message::AppendEntriesReply {
        term: Term::new(term),
        outcome,
        round,
    }
}

pub(super) fn rejected(term: u64, rejected: u64, hint: LogId) -> Message {
    let outcome = AppendOutcome::Rejected {
        rejected: index(rejected),
        hint,
    };
    Message::AppendEntriesReply {
        term: Term::new(term),
        outcome,
        round: 0,
    }
}

pub(super) fn ask_vote(term: u64, last_log: LogId) -> Message {
    Message::RequestVote {
        term: Term::new(term),
        last_log,
        pre_vote: false,
        transfer: false,
    }
}

pub(super) fn ask_pre_vote(term: u64, last_log: LogId) -> Message {
    Message::RequestVote {
        term: Term::new(term),
        last_log,
        pre_vote: true,
        transfer: false,
    }
}

pub(super) fn vote(term: u64, vote_granted: bool, pre_vote: bool) -> Message {
    Message::RequestVoteReply {
        term: Term::new(term),
        vote_granted,
        pre_vote,
    }
}

pub(super) fn chunk(term: u64, last_included: LogId, offset: u64, done: bool) -> Message {
    let data = Bytes::from_static(b"data");
    Message::InstallSnapshot {
        term: Term::new(term),
        last_included,
        offset,
        data,
        done,
    }
}

pub(super) fn installed(term: u64, last_included: LogId, next_offset: u64) -> Message {
    let term = Term::new(term);
    Message::InstallSnapshotReply {
        term,
        last_included,
        next_offset,
        installed: true,
    }
}
