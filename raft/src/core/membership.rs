//! Who takes part in a cluster (paper §6; thesis ch. 4).
//!
//! A membership is an entry of the log like any other, and a node uses the latest one in its log,
//! committed or not (§6). Voters change by *joint consensus* (thesis §4.3): while `outgoing` is not
//! empty, every decision needs a majority of the old voters **and** a majority of the new ones.
//!
//! ```text
//!   C_old {1,2,3} ──> C_old,new {2,3,4} + outgoing {1,2,3} ──> C_new {2,3,4}
//!                     appended by a change                     appended once that is committed
//! ```
//!
//! Learners (thesis §4.2.1) receive the log and decide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::quorum::{majority, reached_by_majority};
use super::types::{LogIndex, NodeId};

/// Members of one cluster at most, learners included: as many as a cluster file may list.
pub const MAX_MEMBERS: usize = 99;

/// Bytes of a member's address at most.
pub const MAX_ADDRESS_BYTES: usize = 255;

/// The members of a cluster: who decides, who only listens, and where each can be called.
///
/// Empty in a node that was never told of a cluster: it waits until a leader calls it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    /// Of every member. The core only carries them.
    addresses: BTreeMap<NodeId, String>,
}

impl Membership {
    /// Voters only, as a cluster begins.
    ///
    /// # Errors
    /// As [`Membership::from_parts`].
    pub fn of_voters(
        voters: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Result<Self, MembershipError> {
        let voters: Vec<(NodeId, String)> = voters.into_iter().collect();
        let ids: Vec<NodeId> = voters.iter().map(|(id, _)| *id).collect();
        Self::from_parts(ids, [], [], voters)
    }

    /// A membership from a wire, a file or a test.
    ///
    /// # Errors
    /// What no membership can be: a member listed twice or without an address, an address of nobody,
    /// bounds exceeded.
    pub fn from_parts(
        voters: impl IntoIterator<Item = NodeId>,
        outgoing: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
        addresses: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Result<Self, MembershipError> {
        let mut membership = Self::default();
        let sets = [
            (&mut membership.voters, Vec::from_iter(voters)),
            (&mut membership.outgoing, Vec::from_iter(outgoing)),
            (&mut membership.learners, Vec::from_iter(learners)),
        ];
        for (set, ids) in sets {
            for node in ids {
                if !set.insert(node) {
                    return Err(MembershipError::ListedTwice { node });
                }
            }
        }
        for (node, address) in addresses {
            if membership.addresses.insert(node, address).is_some() {
                return Err(MembershipError::ListedTwice { node });
            }
        }
        membership.check()?;
        Ok(membership)
    }

    pub(super) fn check(&self) -> Result<(), MembershipError> {
        let decides = |node: &NodeId| self.voters.contains(node) || self.outgoing.contains(node);
        if let Some(node) = self.learners.iter().copied().find(decides) {
            return Err(MembershipError::ListedTwice { node });
        }
        if self.voters.is_empty() && !(self.outgoing.is_empty() && self.learners.is_empty()) {
            return Err(MembershipError::NoVoter);
        }
        let members: BTreeSet<NodeId> = self.members().collect();
        if members.len() > MAX_MEMBERS {
            return Err(MembershipError::TooMany);
        }
        if let Some(&node) = members
            .iter()
            .find(|node| !self.addresses.contains_key(node))
        {
            return Err(MembershipError::NoAddress { node });
        }
        for (&node, address) in &self.addresses {
            if !members.contains(&node) {
                return Err(MembershipError::AddressOfNobody { node });
            }
            if address.len() > MAX_ADDRESS_BYTES {
                return Err(MembershipError::LongAddress { node });
            }
        }
        Ok(())
    }

    /// Who decides; while [joint](Self::is_joint), who will (`C_new`).
    #[must_use]
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// While [joint](Self::is_joint), who decided so far and still must agree (`C_old`).
    #[must_use]
    pub fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.outgoing
    }

    /// Who receives the log and decides nothing.
    #[must_use]
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.learners
    }

    /// Where each member can be called.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<NodeId, String> {
        &self.addresses
    }

    /// A change of voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether this node's vote and copy count, in either half of a joint membership.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether this node receives the log.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.addresses.contains_key(&node)
    }

    /// Whether this node decides alone.
    pub(super) fn is_sole_voter(&self, node: NodeId) -> bool {
        self.is_voter(node) && self.deciders().all(|voter| voter == node)
    }

    /// Every member once, voters or not.
    pub(super) fn members(&self) -> impl Iterator<Item = NodeId> {
        self.voters
            .union(&self.outgoing)
            .copied()
            .chain(self.learners.iter().copied())
    }

    /// Whoever has a vote, each once.
    pub(super) fn deciders(&self) -> impl Iterator<Item = NodeId> {
        self.voters.union(&self.outgoing).copied()
    }

    /// The greatest value that every majority needed has reached, given one value per voter.
    pub(super) fn reached<T: Ord + Copy>(&self, value_of: impl Fn(NodeId) -> T) -> T {
        let of_majority = |voters: &BTreeSet<NodeId>| {
            let mut values: Vec<T> = voters.iter().map(|voter| value_of(*voter)).collect();
            reached_by_majority(&mut values)
        };
        let reached = of_majority(&self.voters);
        if self.outgoing.is_empty() {
            reached
        } else {
            reached.min(of_majority(&self.outgoing))
        }
    }

    /// Whether every majority needed is among those for whom `counts` holds.
    pub(super) fn has_majority(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        let enough = |voters: &BTreeSet<NodeId>| {
            voters.iter().filter(|voter| counts(**voter)).count() >= majority(voters.len())
        };
        enough(&self.voters) && (self.outgoing.is_empty() || enough(&self.outgoing))
    }

    /// Whether some majority needed can no longer be had, given those who refuse.
    pub(super) fn is_refused(&self, refuses: impl Fn(NodeId) -> bool) -> bool {
        let blocked = |voters: &BTreeSet<NodeId>| {
            let refusing = voters.iter().filter(|voter| refuses(**voter)).count();
            voters.len() - refusing < majority(voters.len())
        };
        blocked(&self.voters) || (!self.outgoing.is_empty() && blocked(&self.outgoing))
    }

    /// With one learner more, or an address that changes.
    pub(super) fn with_learner(&self, node: NodeId, address: String) -> Self {
        let mut next = self.clone();
        next.learners.insert(node);
        next.addresses.insert(node, address);
        next
    }

    /// Without a learner.
    pub(super) fn without_learner(&self, node: NodeId) -> Self {
        let mut next = self.clone();
        next.learners.remove(&node);
        next.addresses.remove(&node);
        next
    }

    /// `C_old,new`: on the way to these voters (thesis §4.3). Keeps everybody's address.
    pub(super) fn joint(&self, voters: BTreeSet<NodeId>) -> Self {
        let mut next = self.clone();
        next.outgoing = std::mem::replace(&mut next.voters, voters);
        next.learners.retain(|node| !next.voters.contains(node));
        next
    }

    /// `C_new`: the change is complete.
    pub(super) fn settled(&self) -> Self {
        let mut next = self.clone();
        next.outgoing.clear();
        let members: BTreeSet<NodeId> = next.members().collect();
        next.addresses.retain(|node, _| members.contains(node));
        next
    }

    /// Bytes that bounds on memory and messages count for it.
    pub(super) fn size_bytes(&self) -> usize {
        const MEMBER_BYTES: usize = 64;
        let addresses: usize = self.addresses.values().map(String::len).sum();
        size_of::<Self>() + self.addresses.len() * MEMBER_BYTES + addresses
    }
}

/// `{1 2 3}`, `{2 3 4 | out 1 2 3 | learn 5}`, as in the scenario files.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &BTreeSet<NodeId>| {
            let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
            names.join(" ")
        };
        write!(f, "{{{}", list(&self.voters))?;
        if self.is_joint() {
            write!(f, " | out {}", list(&self.outgoing))?;
        }
        if !self.learners.is_empty() {
            write!(f, " | learn {}", list(&self.learners))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} at {:?}", self.addresses)
    }
}

/// What no membership can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Counted twice, it would be a majority of its own.
    #[error("node {node} is listed twice")]
    ListedTwice {
        /// That node.
        node: NodeId,
    },
    /// Nobody could decide.
    #[error("a cluster without a voter decides nothing")]
    NoVoter,
    /// More than [`MAX_MEMBERS`].
    #[error("a cluster has at most {MAX_MEMBERS} members")]
    TooMany,
    /// A member that nobody could call.
    #[error("node {node} has no address")]
    NoAddress {
        /// That node.
        node: NodeId,
    },
    /// An address without a member.
    #[error("there is an address of node {node}, which is no member")]
    AddressOfNobody {
        /// That node.
        node: NodeId,
    },
    /// More than [`MAX_ADDRESS_BYTES`].
    #[error("the address of node {node} is longer than {MAX_ADDRESS_BYTES} bytes")]
    LongAddress {
        /// That node.
        node: NodeId,
    },
}

/// The memberships in a log: the one that the snapshot has, and those of later entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Memberships {
    /// By ascending index; never empty. All but the first are of entries after the snapshot. The
    /// first is the snapshot's, or what the node was started with.
    history: Vec<(LogIndex, Arc<Membership>)>,
}

impl Memberships {
    /// `base` holds as of `index`.
    pub(super) fn new(index: LogIndex, base: Arc<Membership>) -> Self {
        Self {
            history: vec![(index, base)],
        }
    }

    /// The one in force: the latest in the log (§6).
    pub(super) fn latest(&self) -> &Arc<Membership> {
        &self.history.last().expect("never empty").1
    }

    /// Its entry.
    pub(super) fn latest_index(&self) -> LogIndex {
        self.history.last().expect("never empty").0
    }

    /// The one that a state up to `index` includes.
    pub(super) fn at(&self, index: LogIndex) -> &Arc<Membership> {
        let known = self.history.partition_point(|(at, _)| *at <= index);
        &self.history[known.saturating_sub(1)].1
    }

    /// Whether `node` has a vote in any of them.
    pub(super) fn ever_voter(&self, node: NodeId) -> bool {
        self.history
            .iter()
            .any(|(_, membership)| membership.is_voter(node))
    }

    /// The log got a membership at `index`.
    pub(super) fn append(&mut self, index: LogIndex, membership: Arc<Membership>) {
        assert!(index > self.latest_index(), "entries follow one another");
        self.history.push((index, membership));
    }

    /// The log lost its entries from `from` on. True if a membership was among them.
    pub(super) fn truncate(&mut self, from: LogIndex) -> bool {
        let before = self.history.len();
        // The first is committed, so before anything that is ever truncated.
        let keep = self.history.partition_point(|(at, _)| *at < from).max(1);
        self.history.truncate(keep);
        keep < before
    }

    /// A snapshot of everything up to `index` is ours: what is older is history.
    pub(super) fn compact(&mut self, index: LogIndex) {
        let known = self.history.partition_point(|(at, _)| *at <= index);
        self.history.drain(..known.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::new).collect()
    }

    fn of(
        voters: &[u64],
        outgoing: &[u64],
        learners: &[u64],
    ) -> Result<Membership, MembershipError> {
        let all: BTreeSet<u64> = [voters, outgoing, learners].concat().into_iter().collect();
        let address = |id: u64| (NodeId::new(id), format!("host:{id}"));
        Membership::from_parts(
            nodes(voters),
            nodes(outgoing),
            nodes(learners),
            all.into_iter().map(address),
        )
    }

    #[test]
    fn what_no_membership_can_be_is_refused() {
        let n1 = NodeId::new(1);
        assert_eq!(of(&[], &[], &[]), Ok(Membership::default()));
        assert_eq!(of(&[], &[1], &[]), Err(MembershipError::NoVoter));
        assert_eq!(
            of(&[1], &[], &[1]),
            Err(MembershipError::ListedTwice { node: n1 })
        );
        assert_eq!(
            of(&[2], &[1], &[1]),
            Err(MembershipError::ListedTwice { node: n1 })
        );
        let many: Vec<u64> = (0..100).collect();
        assert_eq!(of(&many, &[], &[]), Err(MembershipError::TooMany));
        let parts = Membership::from_parts([n1], [], [], []);
        assert_eq!(parts, Err(MembershipError::NoAddress { node: n1 }));
        let parts = Membership::from_parts([n1, n1], [], [], [(n1, String::new())]);
        assert_eq!(parts, Err(MembershipError::ListedTwice { node: n1 }));
        let long = Membership::of_voters([(n1, "a".repeat(256))]);
        assert_eq!(long, Err(MembershipError::LongAddress { node: n1 }));
        let stray = Membership::from_parts([], [], [], [(n1, String::new())]);
        assert_eq!(stray, Err(MembershipError::AddressOfNobody { node: n1 }));
    }

    /// Thesis §4.3: every subset of five nodes, for every pair of old and new voters among them.
    #[test]
    fn a_joint_decision_needs_both_majorities() {
        let subset = |bits: u64| {
            (1..=5)
                .filter(|id| bits >> (id - 1) & 1 == 1)
                .collect::<Vec<u64>>()
        };
        for (old, new) in (1..32).flat_map(|old| (1..32).map(move |new| (old, new))) {
            let joint = of(&subset(new), &subset(old), &[]).unwrap();
            for yes in 0..32_u64 {
                let counts = |node: NodeId| yes >> (node.get() - 1) & 1 == 1;
                let most = |voters: u64| 2 * (voters & yes).count_ones() > voters.count_ones();
                let expected = most(old) && most(new);
                assert_eq!(joint.has_majority(counts), expected, "{joint}, {yes:b}");
                assert_eq!(joint.reached(counts), expected, "{joint}, {yes:b}");
                let can = |voters: u64| 2 * (voters & !yes).count_ones() > voters.count_ones();
                assert_eq!(
                    joint.is_refused(counts),
                    !(can(old) && can(new)),
                    "{joint}, {yes:b}"
                );
            }
        }
    }

    #[test]
    fn a_change_passes_through_both() {
        let old = of(&[1, 2, 3], &[], &[4, 5]).unwrap();
        let joint = old.joint(nodes(&[2, 3, 4]));
        assert_eq!(joint.to_string(), "{2 3 4 | out 1 2 3 | learn 5}");
        assert_eq!(joint.check(), Ok(()));
        let new = joint.settled();
        assert_eq!(new.to_string(), "{2 3 4 | learn 5}");
        assert_eq!(new.check(), Ok(()));
        assert!(!new.contains(NodeId::new(1)));
    }

    #[test]
    fn the_latest_in_the_log_is_in_force() {
        let membership = |id| Arc::new(of(&[id], &[], &[]).unwrap());
        let mut memberships = Memberships::new(LogIndex::ZERO, membership(1));
        memberships.append(LogIndex::new(5), membership(2));
        memberships.append(LogIndex::new(9), membership(3));
        assert_eq!(memberships.latest_index(), LogIndex::new(9));
        for (index, expected) in [(0, 1), (4, 1), (5, 2), (8, 2), (9, 3), (100, 3)] {
            assert_eq!(memberships.at(LogIndex::new(index)), &membership(expected));
        }
        assert!(!memberships.truncate(LogIndex::new(10)));
        assert!(memberships.truncate(LogIndex::new(9)));
        assert_eq!(memberships.latest(), &membership(2));
        memberships.compact(LogIndex::new(7));
        assert_eq!(memberships.at(LogIndex::new(7)), &membership(2));
        assert!(!memberships.truncate(LogIndex::new(8)));
    }
}
