//! The five promises of Fig. 3, checked from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::core::{Entry, LogId, LogIndex, Membership, NodeId, Payload, Raft, Role, Term};

/// What was seen of a run so far.
#[derive(Debug, Default)]
pub(crate) struct Safety {
    leaders: BTreeMap<Term, NodeId>,
    /// The members at the beginning.
    initial: Arc<Membership>,
    /// What was applied anywhere, by index from 1.
    applied: Vec<Entry>,
    /// Term, commit and applied index of each node when last seen.
    seen: BTreeMap<NodeId, (Term, LogIndex, LogIndex)>,
}

impl Safety {
    /// Of a cluster that begins with these members.
    pub(crate) fn new(initial: Membership) -> Self {
        Self {
            initial: Arc::new(initial),
            ..Self::default()
        }
    }

    /// The members as of an applied entry.
    pub(crate) fn membership_at(&self, index: LogIndex) -> Arc<Membership> {
        let upto = usize::try_from(index.get()).unwrap();
        let latest = self.applied[..upto].iter().rev().find_map(|entry| {
            let Payload::Membership(membership) = &entry.payload else {
                return None;
            };
            Some(Arc::clone(membership))
        });
        latest.unwrap_or_else(|| Arc::clone(&self.initial))
    }

    /// *Election safety*: at most one leader a term. *Leader completeness*: it has all entries that
    /// were committed before.
    pub(crate) fn on_leader(&mut self, raft: &Raft) {
        let first = *self.leaders.entry(raft.term()).or_insert(raft.id());
        assert_eq!(first, raft.id(), "two leaders of term {}", raft.term());
        for entry in &self.applied {
            if entry.id.index > raft.snapshot().index {
                let term = raft.term_at(entry.id.index);
                assert_eq!(
                    term,
                    Some(entry.id.term),
                    "leader {} lacks {}",
                    raft.id(),
                    entry.id
                );
            }
        }
    }

    /// *State machine safety*: no two nodes apply different entries at an index.
    pub(crate) fn on_apply(&mut self, node: NodeId, entry: &Entry) {
        let position = usize::try_from(entry.id.index.get() - 1).unwrap();
        if let Some(first) = self.applied.get(position) {
            assert_eq!(first, entry, "node {node} applies something else");
        } else {
            assert_eq!(position, self.applied.len(), "node {node} skips entries");
            self.applied.push(entry.clone());
        }
    }

    /// A snapshot is of what was applied.
    pub(crate) fn on_snapshot(&mut self, id: LogId, state: &[Entry]) {
        assert_eq!(state.last().map(|entry| entry.id), Some(id));
        assert_eq!(
            state,
            &self.applied[..state.len()],
            "snapshot {id} is of another history"
        );
    }

    /// Term, commit and applied index never fall (failures 11, 49). A restart forgets the
    /// indexes, but not the term.
    pub(crate) fn on_step(&mut self, raft: &Raft) {
        let now = (raft.term(), raft.commit_index(), raft.last_applied());
        let before = self.seen.insert(raft.id(), now).unwrap_or_default();
        assert!(
            before.0 <= now.0 && before.1 <= now.1 && before.2 <= now.2,
            "node {} goes back: {before:?} to {now:?}",
            raft.id()
        );
        if raft.role() == Role::Leader {
            assert_eq!(self.leaders.get(&raft.term()), Some(&raft.id()));
        }
    }

    /// What a restart may forget.
    pub(crate) fn on_restart(&mut self, node: NodeId) {
        if let Some(seen) = self.seen.get_mut(&node) {
            *seen = (seen.0, LogIndex::ZERO, LogIndex::ZERO);
        }
    }

    /// A term that was only in memory may be forgotten in a crash.
    pub(crate) fn on_crash(&mut self, node: NodeId, durable_term: Term) {
        if let Some(seen) = self.seen.get_mut(&node) {
            seen.0 = durable_term;
        }
    }

    /// What was applied anywhere.
    pub(crate) fn applied(&self) -> &[Entry] {
        &self.applied
    }
}

/// *Log matching*: where two logs have the same entry, all before it are the same.
pub(crate) fn log_matching(a: &Raft, b: &Raft) {
    let low = a.snapshot().index.max(b.snapshot().index).get().max(1);
    let high = a.last_log().index.min(b.last_log().index).get();
    let mut must_match = false;
    for index in (low..=high).rev().map(LogIndex::new) {
        let (one, other) = (a.term_at(index), b.term_at(index));
        assert!(
            one == other || !must_match,
            "{} and {} differ at {index}",
            a.id(),
            b.id()
        );
        must_match |= one == other;
    }
}
