//! Changing the members of a cluster (paper §6; joint consensus: thesis §4.3).
//!
//! One change at a time, asked of the leader. A change of voters is two entries: the joint
//! membership, and, once that is committed, the new one, which the leader appends by itself. A
//! change of learners moves no majority and is one entry.
//!
//! ```text
//!   change ──> C_old,new appended ── committed by both majorities ──> C_new appended ── committed
//!              in force at once                                       in force at once    │
//!              a leader that C_new leaves out goes on until here, uncounted, then hands ──┘ over
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::effect::{ChangeError, Effect, MembershipChange, Role};
use super::membership::Membership;
use super::progress::Progress;
use super::raft::Raft;
use super::types::{LogId, LogIndex, Millis, NodeId, Payload};

/// Members that the membership in force leaves out, whom the leader still tells so.
///
/// Without that they would never hear that they are out (thesis §4.2.3), and an operator who looks
/// at them would not either.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Leaving {
    nodes: BTreeSet<NodeId>,
    /// Set when their removal is committed.
    until: Option<Millis>,
}

impl Raft {
    /// As leader: begins a change of members. It is complete when the membership in force is
    /// [settled](Membership::is_joint) and its entry committed.
    ///
    /// # Errors
    /// [`ChangeError`]: nothing was done.
    pub fn change_membership(&mut self, change: MembershipChange) -> Result<LogId, ChangeError> {
        if self.role != Role::Leader || self.is_halted() {
            return Err(ChangeError::NotLeader {
                leader: self.leader,
            });
        }
        if let Some(to) = self.handing_over_to() {
            return Err(ChangeError::HandingOver { to });
        }
        if !self.is_serving() {
            return Err(ChangeError::NotServing);
        }
        let in_force = self.memberships.latest();
        if in_force.is_joint() || self.memberships.latest_index() > self.commit_index {
            return Err(ChangeError::UnderWay);
        }
        let next = self.planned(change)?;
        next.check()?;
        tracing::info!(node = %self.config.id, from = %in_force, to = %next, "changes the members");
        Ok(self.append_own_unchecked(Payload::Membership(Arc::new(next))))
    }

    /// The membership to append first.
    fn planned(&self, change: MembershipChange) -> Result<Membership, ChangeError> {
        let in_force = self.memberships.latest();
        let mut voters = in_force.voters().clone();
        match change {
            MembershipChange::AddLearner { node, address } => {
                if in_force.is_voter(node) {
                    return Err(ChangeError::AlreadyVoter { node });
                }
                return Ok(in_force.with_learner(node, address));
            }
            MembershipChange::Remove { node } if in_force.learners().contains(&node) => {
                return Ok(in_force.without_learner(node));
            }
            MembershipChange::Remove { node } => {
                if !voters.remove(&node) {
                    return Err(ChangeError::UnknownNode { node });
                }
                if voters.is_empty() {
                    return Err(ChangeError::LastVoter { node });
                }
            }
            MembershipChange::Promote { node } => {
                self.check_caught_up(node)?;
                voters.insert(node);
            }
            MembershipChange::Replace { old, new } => {
                self.check_caught_up(new)?;
                if !voters.remove(&old) {
                    return Err(ChangeError::NotAVoter { node: old });
                }
                voters.insert(new);
            }
        }
        self.check_alive(&voters)?;
        Ok(in_force.joint(voters))
    }

    /// A learner that would keep up as a voter (thesis §4.2.1).
    fn check_caught_up(&self, node: NodeId) -> Result<(), ChangeError> {
        let in_force = self.memberships.latest();
        if in_force.is_voter(node) {
            return Err(ChangeError::AlreadyVoter { node });
        }
        let Some(progress) = self.progress.get(&node) else {
            return Err(ChangeError::UnknownNode { node });
        };
        let last = self.log.last().index;
        let round_ms = self.config.election_timeout_ms.0;
        if self.answers(node) && progress.is_caught_up(last, self.now, round_ms) {
            return Ok(());
        }
        let behind = last.get() - progress.match_index.get();
        Err(ChangeError::NotCaughtUp { node, behind })
    }

    /// A majority of these answers; otherwise nothing would be committed after the change.
    fn check_alive(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let alive = voters.iter().filter(|node| self.answers(**node)).count();
        if alive >= super::quorum::majority(voters.len()) {
            return Ok(());
        }
        let voters = voters.len();
        Err(ChangeError::WouldLoseQuorum { voters, alive })
    }

    /// As leader: whether this node was heard within the longest election timeout.
    pub(super) fn answers(&self, node: NodeId) -> bool {
        node == self.config.id
            || self.progress.get(&node).is_some_and(|progress| {
                progress.is_heard(self.now, self.config.election_timeout_ms.1)
            })
    }

    /// As leader: `commit_index` rose. Takes the next step of a change that is now committed.
    pub(super) fn go_on_with_change(&mut self) {
        if self.memberships.latest_index() > self.commit_index {
            return;
        }
        let in_force = Arc::clone(self.memberships.latest());
        if in_force.is_joint() {
            let settled = Arc::new(in_force.settled());
            self.append_own_unchecked(Payload::Membership(settled));
            return;
        }
        if !self.leaving.nodes.is_empty() && self.leaving.until.is_none() {
            let until = self.now.plus(self.config.election_timeout_ms.1);
            self.leaving.until = Some(until);
        }
        if !in_force.is_voter(self.config.id) {
            self.leave();
        }
    }

    /// As leader: stops telling those who are out.
    pub(super) fn forget_those_who_left(&mut self) {
        if self.leaving.until.is_some_and(|until| self.now >= until) {
            self.leaving = Leaving::default();
            self.regroup();
        }
    }

    /// The log got `membership` at `index`: it is in force (§6).
    pub(super) fn enter_membership(&mut self, index: LogIndex, membership: Arc<Membership>) {
        if self.role == Role::Leader {
            let out = self.memberships.latest().members();
            let out = out.filter(|node| !membership.contains(*node));
            self.leaving.nodes.extend(out);
            self.leaving
                .nodes
                .retain(|node| !membership.contains(*node));
            self.leaving.until = None;
        }
        self.memberships.append(index, membership);
        self.membership_changed();
        if self.role == Role::Leader {
            // A smaller majority may have confirmed it already (failure 104).
            self.finish_round();
        }
    }

    /// Another membership is in force, by an entry, a truncation or a snapshot.
    pub(super) fn membership_changed(&mut self) {
        let membership = Arc::clone(self.memberships.latest());
        tracing::info!(node = %self.config.id, %membership, "members");
        self.regroup();
        self.effects.push(Effect::MembershipChanged { membership });
    }

    /// As leader no longer: nobody to be told of anything.
    pub(super) fn forget_leaving(&mut self) {
        self.leaving = Leaving::default();
        self.regroup();
    }

    /// Derives from the membership in force whom we send to.
    fn regroup(&mut self) {
        let in_force = self.memberships.latest();
        let peers: BTreeSet<NodeId> = in_force
            .members()
            .chain(self.leaving.nodes.iter().copied())
            .filter(|node| *node != self.config.id)
            .collect();
        self.peers = peers.into_iter().collect();
        if self.role != Role::Leader {
            return;
        }
        // The last entry is the first question: a newcomer's answer tells how far back it is.
        let (now, next_index) = (self.now, self.log.last().index);
        let peers = &self.peers;
        self.progress.retain(|node, _| peers.contains(node));
        for peer in peers {
            self.progress
                .entry(*peer)
                .or_insert_with(|| Progress::new(next_index, now));
        }
    }

    /// Whether this node may stand for election: members that only listen, and those that are none,
    /// do not.
    ///
    /// One that its latest membership leaves out stands all the same until it knows that to be
    /// committed: the others may need its log to complete the change (thesis §4.2.2; failure 105).
    pub(super) fn may_campaign(&self) -> bool {
        let memberships = &self.memberships;
        memberships.latest().is_voter(self.config.id)
            || (memberships.latest_index() > self.commit_index
                && memberships.ever_voter(self.config.id))
    }

    /// The greatest value that every majority needed has reached. `own` is this node's.
    pub(super) fn reached<T: Ord + Copy>(&self, own: T, of: impl Fn(&Progress) -> T, none: T) -> T {
        self.memberships.latest().reached(|node| {
            if node == self.config.id {
                own
            } else {
                self.progress.get(&node).map_or(none, &of)
            }
        })
    }
}
