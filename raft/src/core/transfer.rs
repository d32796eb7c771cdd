//! Handing leadership over on purpose (thesis §3.10).
//!
//! The leader takes no more proposals, brings the target's log up to its own, and then tells it to
//! stand for election at once. The target's request says on whose behest it comes, so that nobody
//! refuses it for having heard a leader lately. All this within an election timeout, or not at all.
//!
//! ```text
//!   leader   transfer ── entries ──> caught up ── TimeoutNow ──> (deposed by the new term)
//!   target                                        stand, term + 1 ── RequestVote(transfer) ──> ...
//! ```

use serde::{Deserialize, Serialize};

use super::effect::{Effect, Role, TransferError};
use super::message::Message;
use super::raft::Raft;
use super::types::{CallId, Millis, NodeId, Term};

/// As leader: one that is under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Transfer {
    to: NodeId,
    /// After this we lead on, or, `leaves`, step down.
    deadline: Millis,
    /// `TimeoutNow` is out.
    asked: bool,
    /// We are no voter any longer (thesis §4.2.2).
    leaves: bool,
}

impl Raft {
    /// As leader: hands over to `to`, or to the voter whose log is nearest to ours. Success shows as
    /// [`Effect::RoleChanged`], its absence after an election timeout as [`Effect::TransferFailed`].
    /// Returns who takes over.
    ///
    /// # Errors
    /// [`TransferError`]: nothing was done.
    pub fn transfer_leadership(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.role != Role::Leader || self.is_halted() {
            return Err(TransferError::NotLeader {
                leader: self.leader,
            });
        }
        if let Some(to) = self.handing_over_to() {
            return Err(TransferError::UnderWay { to });
        }
        if let Some(to) = to {
            if to == self.config.id {
                return Err(TransferError::LeadsAlready { to });
            }
            if !self.memberships.latest().voters().contains(&to) {
                return Err(TransferError::NotAVoter { to });
            }
        }
        let successor = to.filter(|to| self.answers(*to));
        let successor = successor.or_else(|| to.is_none().then(|| self.successor()).flatten());
        let to = successor.ok_or(TransferError::NobodyAnswers)?;
        self.start_transfer(to, false);
        Ok(to)
    }

    /// As leader: steps down, for a reason that the driver knows, and bids the best successor stand.
    /// False if there is nobody to take over, or nothing to hand over.
    ///
    /// Unlike [`transfer_leadership`](Self::transfer_leadership) it waits for nothing: for a leader
    /// whose disk hangs, say.
    pub fn resign(&mut self) -> bool {
        let alone = self.memberships.latest().is_sole_voter(self.config.id);
        if self.role != Role::Leader || alone || self.is_halted() {
            return false;
        }
        self.resign_to_successor();
        self.announce();
        true
    }

    /// Who takes over, while we hand over.
    #[must_use]
    pub fn handing_over_to(&self) -> Option<NodeId> {
        self.transfer.map(|transfer| transfer.to)
    }

    /// As leader, and voter no longer: the rest goes on without us (thesis §4.2.2).
    pub(super) fn leave(&mut self) {
        let successor = self.successor();
        match (self.transfer.as_mut(), successor) {
            (Some(transfer), _) => transfer.leaves = true,
            (None, Some(to)) => self.start_transfer(to, true),
            (None, None) => self.step_down(),
        }
    }

    /// As leader: asks the target to stand, once it has our whole log.
    pub(super) fn go_on_with_transfer(&mut self) {
        let Some(transfer) = self.transfer else {
            return;
        };
        let caught_up = self
            .progress
            .get(&transfer.to)
            .is_some_and(|progress| progress.match_index == self.log.last().index);
        if !transfer.asked && caught_up {
            self.transfer = Some(Transfer {
                asked: true,
                ..transfer
            });
            self.bid_stand(transfer.to);
            if transfer.leaves {
                self.step_down();
            }
        }
    }

    /// As leader: gives a transfer up that took too long.
    pub(super) fn check_transfer(&mut self) {
        if let Some(transfer) = self.transfer
            && self.now >= transfer.deadline
        {
            let Transfer { to, leaves, .. } = transfer;
            tracing::warn!(node = %self.config.id, %to, "did not take over in time");
            self.transfer = None;
            self.effects.push(Effect::TransferFailed { to });
            if leaves {
                self.resign_to_successor();
            }
        }
    }

    /// The leader wants us to lead.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, call: CallId, term: Term) {
        let reply = Message::TimeoutNowReply {
            term: self.current_term,
        };
        self.reply(call, reply);
        // One of an earlier term, or from nobody's leader, is out of date.
        let wanted = term == self.current_term && self.leader == Some(from);
        if wanted && self.role == Role::Follower && self.may_campaign() {
            self.stand(true);
        }
    }

    fn start_transfer(&mut self, to: NodeId, leaves: bool) {
        tracing::info!(node = %self.config.id, %to, term = %self.current_term, "hands leadership over");
        self.transfer = Some(Transfer {
            to,
            deadline: self.now.plus(self.config.election_timeout_ms.1),
            asked: false,
            leaves,
        });
    }

    fn resign_to_successor(&mut self) {
        if let Some(to) = self.successor() {
            self.bid_stand(to);
        }
        self.step_down();
    }

    fn bid_stand(&mut self, to: NodeId) {
        // It may arrive at any time from now on, and others will then forget that they heard us.
        self.reads.lease.void();
        let term = self.current_term;
        self.send(to, Message::TimeoutNow { term });
    }

    /// The voter that answers and has most of our log.
    fn successor(&self) -> Option<NodeId> {
        let voters = self.memberships.latest().voters().iter().copied();
        voters
            .filter(|node| *node != self.config.id && self.answers(*node))
            .max_by_key(|node| (self.progress[node].match_index, std::cmp::Reverse(*node)))
    }
}
