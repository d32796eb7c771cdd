//! What must hold, checked from outside at every step (Fig. 3; and what clients were promised).
//!
//! - *Election safety*: one leader a term.
//! - *One vote a term*: whatever crashes came between.
//! - *Log matching*: an entry's name determines it and the one before it, on every disk.
//! - A leader has the votes of a majority; what it commits is of its own term, and on a majority of disks.
//! - *Leader completeness*: a leader has what was committed in lower terms.
//! - *State machine safety*: nobody commits or applies something else at an index; equal digests.
//! - Term, commit index and applied index never fall; a term and a vote that were told are not
//!   forgotten, and nothing that was durable is lost.
//! - Members change one step at a time.
//! - A read has an index that covers all that was committed before it was asked.
//! - A request is applied at most once; what was acknowledged is in the log.
//! - What a clerk calls certainly not done takes no effect, before or after; nor does a write after its
//!   clerk has heard that its session is gone.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use clerk::ClerkError;
use clerk::logic::Success;
use raft::core::{Entry, LogId, LogIndex, Membership, NodeId, Payload, Raft, Restored, Role, Term};

use crate::durable::Disk;
use crate::history::Effect;
use crate::network::{MAX_NODES, place};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub property: &'static str,
    /// What was seen.
    pub what: String,
}

/// One entry as some disk has it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Written {
    term: Term,
    hash: u64,
    before: Term,
}

/// An entry that is committed.
#[derive(Clone, Copy)]
struct Committed {
    term: Term,
    /// Of whoever committed it first: its own, or, of an entry that came along, a later one.
    in_term: Term,
    /// Of the state after it; zero: not applied anywhere yet.
    digest: u32,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    /// The entry that the members in force come from.
    membership: LogIndex,
}

/// What a clerk said of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// Certainly, now and later.
    NotDone,
    /// It may have taken effect, or may still do so.
    Unknown,
    /// It may have taken effect, and cannot any more.
    Over,
}

impl Verdict {
    pub(crate) fn of(result: &Result<Success, ClerkError>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(ClerkError::SessionExpired { .. }) => Self::Over,
            Err(error) if error.may_have_taken_effect() => Self::Unknown,
            Err(_) => Self::NotDone,
        }
    }
}

/// What became of a client's write.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    took_effect: bool,
    verdict: Option<Verdict>,
}

/// Everything that was seen of a run.
#[derive(Default)]
pub(crate) struct Oracle {
    /// By term.
    leaders: Vec<Option<NodeId>>,
    /// By index: as many as there were leaders who wrote there.
    written: Vec<Vec<Written>>,
    /// By index, from 1.
    committed: Vec<Committed>,
    /// By node, then by term.
    votes: [Vec<Option<NodeId>>; MAX_NODES],
    seen: [Seen; MAX_NODES],
    /// The highest term that each node told anybody.
    told: [Term; MAX_NODES],
    pub(crate) disks: [Disk; MAX_NODES],
    /// Where each request of a session was applied.
    requests: BTreeMap<(u64, u64), LogId>,
    /// The writes that took effect, in the order of the log.
    pub(crate) effects: Vec<Effect>,
    effects_upto: LogIndex,
    /// By token.
    fates: Vec<Fate>,
    pub(crate) violation: Option<Violation>,
}

impl Oracle {
    pub(crate) fn fail(&mut self, property: &'static str, what: String) {
        self.violation.get_or_insert(Violation { property, what });
    }

    /// A node leads.
    pub(crate) fn on_leader(&mut self, raft: &Raft) {
        let (term, id) = (raft.term(), raft.id());
        let leader = slot(&mut self.leaders, term.get(), None);
        if let Some(first) = *leader
            && first != id
        {
            self.fail(
                "election safety",
                format!("{first} and {id} lead term {term}"),
            );
            return;
        }
        *leader = Some(id);
        let term_at = usize::try_from(term.get()).expect("a short run");
        let voted =
            |node: NodeId| node == id || self.votes[place(node)].get(term_at) == Some(&Some(id));
        if !has_majorities(raft.membership(), voted) {
            return self.fail(
                "a leader has the votes of a majority",
                format!("{id} leads term {term} of {}", raft.membership()),
            );
        }
        // What was committed in lower terms: an election may be won late, by votes that were on their way
        // while a higher term went on. By log matching, to have the last one is to have them all.
        let before = self.committed.partition_point(|entry| entry.in_term < term);
        let last = LogIndex::new(before as u64);
        if last > raft.snapshot().index {
            let expected = self.committed[at(last)].term;
            if raft.term_at(last) != Some(expected) {
                let found = raft.term_at(last);
                self.fail(
                    "leader completeness",
                    format!("leader {id} of term {term} has {found:?} at {last}, committed is {expected}"),
                );
            }
        }
    }

    /// `node` voted for `candidate`, and somebody may know.
    pub(crate) fn on_vote(&mut self, node: NodeId, term: Term, candidate: NodeId) {
        let vote = slot(&mut self.votes[place(node)], term.get(), None);
        match *vote {
            Some(first) if first != candidate => self.fail(
                "one vote a term",
                format!("{node} voted for {first} and {candidate} in term {term}"),
            ),
            _ => *vote = Some(candidate),
        }
    }

    /// A node told somebody of its term.
    pub(crate) fn on_term_told(&mut self, node: NodeId, term: Term) {
        let told = &mut self.told[place(node)];
        *told = (*told).max(term);
    }

    /// A node's disk is to hold this entry, after one of the term `before`.
    pub(crate) fn on_write(&mut self, node: NodeId, entry: &Entry, before: Option<Term>) {
        let Some(before) = before else {
            return;
        };
        let written = Written {
            term: entry.id.term,
            hash: hash_of(&entry.payload),
            before,
        };
        let others = slot(&mut self.written, entry.id.index.get(), Vec::new());
        match others.iter().find(|other| other.term == written.term) {
            Some(other) if *other != written => {
                let id = entry.id;
                self.fail(
                    "log matching",
                    format!("{node} has another entry {id} than somebody else"),
                );
            }
            Some(_) => {}
            None => others.push(written),
        }
    }

    /// After each step of a node.
    pub(crate) fn on_step(&mut self, raft: &Raft) {
        let now = Seen {
            term: raft.term(),
            commit: raft.commit_index(),
            applied: raft.last_applied(),
            membership: raft.membership_index(),
        };
        let before = std::mem::replace(&mut self.seen[place(raft.id())], now);
        if now.term < before.term || now.commit < before.commit || now.applied < before.applied {
            self.fail("nothing goes back", format!("node {}", raft.id()));
        }
        if now.membership > before.membership {
            self.on_membership(raft, before.membership, now.membership);
        }
        if now.commit > before.commit {
            if raft.role() == Role::Leader {
                self.on_leader_commit(raft);
            }
            self.on_commit(raft, before.commit.next(), now.commit);
        }
    }

    /// A leader counts only entries of its own term (§5.4.2), and only copies that are durable.
    fn on_leader_commit(&mut self, raft: &Raft) {
        let (id, index) = (raft.id(), raft.commit_index());
        // Compacted already, if it has no term any more.
        let Some(term) = raft.term_at(index) else {
            return;
        };
        let last = LogId::new(term, index);
        if term != raft.term() {
            self.fail(
                "a leader counts copies of its own term's entries only",
                format!("{id} of term {} commits {last}", raft.term()),
            );
        }
        if !has_majorities(raft.membership(), |node| self.disks[place(node)].has(last)) {
            self.fail(
                "what is committed is on a majority of disks",
                format!("{id} commits {last} of {}", raft.membership()),
            );
        }
    }

    /// `node` tells a leader that its log is durable up to `upto`.
    pub(crate) fn on_accepted(&mut self, node: NodeId, upto: LogIndex) {
        let durable = self.disks[place(node)].last();
        if upto > durable {
            self.fail(
                "what is accepted is durable",
                format!("{node} accepts up to {upto}, its disk has {durable}"),
            );
        }
    }

    /// A node has another membership in force; one that it appended itself, if it leads in that term.
    fn on_membership(&mut self, raft: &Raft, before: LogIndex, now: LogIndex) {
        let is_own = raft.role() == Role::Leader && raft.term_at(now) == Some(raft.term());
        if is_own && before > raft.commit_index() {
            let id = raft.id();
            self.fail(
                "members change one step at a time",
                format!("{id} appends one at {now}, that at {before} is not committed"),
            );
        }
    }

    fn on_commit(&mut self, raft: &Raft, from: LogIndex, upto: LogIndex) {
        let mut index = from.max(raft.snapshot().index);
        while index <= upto {
            if let Some(term) = raft.term_at(index).filter(|_| index > LogIndex::ZERO) {
                let position = at(index);
                match self.committed.get(position) {
                    Some(first) if first.term != term => {
                        let (id, first) = (raft.id(), first.term);
                        self.fail(
                            "state machine safety",
                            format!("{id} commits {index}@{term}, committed is {index}@{first}"),
                        );
                    }
                    Some(_) => {}
                    None if position == self.committed.len() => {
                        self.committed.push(Committed {
                            term,
                            in_term: raft.term(),
                            digest: 0,
                        });
                    }
                    None => {
                        let id = raft.id();
                        self.fail(
                            "state machine safety",
                            format!("{id} commits {index}, others less"),
                        );
                    }
                }
            }
            index = index.next();
        }
    }

    /// A node's state after the entry at `index`.
    pub(crate) fn on_digest(&mut self, node: NodeId, index: LogIndex, digest: u32) {
        let Some(committed) = self.committed.get_mut(at(index)) else {
            return self.fail(
                "state machine safety",
                format!("{node} applied {index}, not committed"),
            );
        };
        // Zero stands for "none yet"; a digest of zero is as good as one.
        let digest = digest.max(1);
        if committed.digest == 0 {
            committed.digest = digest;
        } else if committed.digest != digest {
            self.fail(
                "equal states",
                format!("{node} has another state after {index} than somebody else"),
            );
        }
    }

    /// A request of a session was applied, not recognised as a repetition.
    pub(crate) fn on_applied(&mut self, session: u64, request: u64, entry: LogId) {
        let first = *self.requests.entry((session, request)).or_insert(entry);
        if first != entry {
            self.fail(
                "at most once",
                format!(
                    "request {request} of session {session} was applied at {first} and {entry}"
                ),
            );
        }
    }

    /// Where a request was applied first.
    pub(crate) fn applied_at(&self, session: u64, request: u64) -> Option<LogId> {
        self.requests.get(&(session, request)).copied()
    }

    /// The entry at `index` made this change; told by each node, in order.
    pub(crate) fn on_effect(&mut self, index: LogIndex, effect: Effect) {
        if index > self.effects_upto {
            self.effects_upto = index;
            self.effects.push(effect);
            let fate = slot(&mut self.fates, effect.token, Fate::default());
            fate.took_effect = true;
            self.hold_to_verdict(effect.token);
        }
    }

    /// A clerk has ended a write.
    pub(crate) fn on_verdict(&mut self, token: u64, verdict: Verdict) {
        let fate = slot(&mut self.fates, token, Fate::default());
        fate.verdict = Some(verdict);
        match verdict {
            Verdict::Done if !fate.took_effect => self.fail(
                "what was acknowledged took effect",
                format!("write {token} did not"),
            ),
            Verdict::NotDone => self.hold_to_verdict(token),
            _ => {}
        }
    }

    pub(crate) fn took_effect(&self, token: u64) -> bool {
        let fate = usize::try_from(token).map(|token| self.fates.get(token));
        fate.ok().flatten().is_some_and(|fate| fate.took_effect)
    }

    fn hold_to_verdict(&mut self, token: u64) {
        let fate = slot(&mut self.fates, token, Fate::default());
        let property = match fate.verdict {
            _ if !fate.took_effect => return,
            Some(Verdict::NotDone) => "what is certainly not done is not done",
            Some(Verdict::Over) => "no write takes effect after its clerk has heard that it cannot",
            _ => return,
        };
        self.fail(property, format!("write {token} took effect"));
    }

    /// A node starts with what its disk had.
    pub(crate) fn on_restart(&mut self, node: NodeId, found: &Restored) {
        let term = found.hard_state.current_term;
        let vote = slot(&mut self.votes[place(node)], term.get(), None);
        if let Some(vote) = *vote
            && found.hard_state.voted_for != Some(vote)
        {
            self.fail(
                "votes are remembered",
                format!("{node} voted for {vote} in term {term}, and has forgotten it"),
            );
        }
        if let Err(lost) = self.disks[place(node)].restarted(found) {
            self.fail(
                "what was durable outlives a crash",
                format!("{node} has lost {lost}"),
            );
        }
        let told = self.told[place(node)];
        if term < told {
            self.fail(
                "terms are remembered",
                format!("{node} told of term {told}, and starts in {term}"),
            );
        }
        self.seen[place(node)] = Seen {
            term,
            ..Seen::default()
        };
    }

    /// How many entries are committed.
    pub(crate) fn committed(&self) -> LogIndex {
        LogIndex::new(self.committed.len() as u64)
    }
}

/// Whether a majority of the voters says yes, and of those that are on their way out (§6).
fn has_majorities(members: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    [members.voters(), members.outgoing()]
        .into_iter()
        .all(|voters| {
            let count = voters.iter().filter(|node| yes(**node)).count();
            voters.is_empty() || count > voters.len() / 2
        })
}

fn at(index: LogIndex) -> usize {
    usize::try_from(index.get() - 1).expect("a short run")
}

fn slot<T: Clone>(values: &mut Vec<T>, number: u64, none: T) -> &mut T {
    let place = usize::try_from(number).expect("a short run");
    if values.len() <= place {
        values.resize(place + 1, none);
    }
    &mut values[place]
}

fn hash_of(payload: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    match payload {
        Payload::Empty => 0u8.hash(&mut hasher),
        Payload::Command(command) => command.hash(&mut hasher),
        Payload::Membership(membership) => membership.to_string().hash(&mut hasher),
    }
    hasher.finish()
}
