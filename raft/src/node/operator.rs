//! What an operator asks of a node: other members, another leader, how the followers stand.
//!
//! Each wish is answered once, on the driver's thread. A change or a transfer is answered when it is
//! complete, so it may take as long as the cluster does; the caller has a deadline of its own.

use crossbeam_channel::TrySendError;

use super::driver::Driver;
use super::{NodeHandle, Waiter};
use crate::core::{ChangeError, Follower, LogId, MembershipChange, NodeId, Role, TransferError};

/// Wishes of operators that may wait in the inbox; more are refused.
pub(super) const MAX_QUEUED_WISHES: usize = 64;

/// Runs once with the outcome, on the driver's thread; must not block.
pub type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// One wish.
pub(super) enum Wish {
    Change(MembershipChange, Answer<Result<LogId, ChangeFailure>>),
    Transfer(Option<NodeId>, Answer<Result<NodeId, TransferFailure>>),
    Followers(Answer<Vec<Follower>>),
}

/// Why a change of members was not seen through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeFailure {
    /// It was refused: nothing was done.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// This node led when it began and does no longer. Another leader may complete it, or not: look
    /// at the membership.
    #[error("leadership was lost while the change was under way: look at the membership")]
    Unknown {
        /// Who leads now, where known.
        leader: Option<NodeId>,
    },
    /// The node is stopping, or has too much to do; the change was not begun.
    #[error("this node takes no wishes now: it stops, or has too many already")]
    Busy,
}

/// Why leadership did not move, or why it is not known whether it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferFailure {
    /// It was refused: nothing was done.
    #[error(transparent)]
    Refused(#[from] TransferError),
    /// The target did not take over within an election timeout; this node leads on.
    #[error("node {to} did not take over in time: this node leads on")]
    TimedOut {
        /// Who should have taken over.
        to: NodeId,
    },
    /// The node is stopping, or has too much to do; nothing was begun.
    #[error("this node takes no wishes now: it stops, or has too many already")]
    Busy,
}

/// Wishes that were begun.
#[derive(Default)]
pub(super) struct Begun {
    /// The change under way and the entry that began it.
    change: Option<(LogId, Answer<Result<LogId, ChangeFailure>>)>,
    /// The transfer under way.
    transfer: Option<(NodeId, Answer<Result<NodeId, TransferFailure>>)>,
}

impl Wish {
    pub(super) fn refuse(self) {
        match self {
            Self::Change(_, answer) => answer(Err(ChangeFailure::Busy)),
            Self::Transfer(_, answer) => answer(Err(TransferFailure::Busy)),
            Self::Followers(answer) => answer(Vec::new()),
        }
    }
}

impl<W: Waiter> NodeHandle<W> {
    /// As leader: changes the cluster's members (thesis ch. 4). `answer` gets the entry that
    /// completed the change, once that is committed.
    pub fn change_membership(
        &self,
        change: MembershipChange,
        answer: impl FnOnce(Result<LogId, ChangeFailure>) + Send + 'static,
    ) {
        self.wish(Wish::Change(change, Box::new(answer)));
    }

    /// As leader: hands leadership to `to`, or to whoever is nearest (thesis §3.10). `answer` gets
    /// who leads afterwards.
    pub fn transfer_leadership(
        &self,
        to: Option<NodeId>,
        answer: impl FnOnce(Result<NodeId, TransferFailure>) + Send + 'static,
    ) {
        self.wish(Wish::Transfer(to, Box::new(answer)));
    }

    /// What a leader knows of its followers; nothing on a node that does not lead.
    pub fn followers(&self, answer: impl FnOnce(Vec<Follower>) + Send + 'static) {
        self.wish(Wish::Followers(Box::new(answer)));
    }

    fn wish(&self, wish: Wish) {
        if let Err(TrySendError::Full(wish) | TrySendError::Disconnected(wish)) =
            self.inbox.wish(wish)
        {
            wish.refuse();
        }
    }
}

impl<W: Waiter> Driver<W> {
    pub(super) fn on_wish(&mut self, wish: Wish) {
        // What has just ended is answered before something else takes its place.
        self.answer_change();
        match wish {
            Wish::Change(change, answer) => match self.raft.change_membership(change) {
                Ok(id) => self.begun.change = Some((id, answer)),
                Err(error) => answer(Err(error.into())),
            },
            Wish::Transfer(to, answer) => match self.raft.transfer_leadership(to) {
                Ok(to) => {
                    self.transfer_is_over();
                    self.begun.transfer = Some((to, answer));
                }
                Err(error) => answer(Err(error.into())),
            },
            Wish::Followers(answer) => answer(self.raft.followers().collect()),
        }
    }

    /// Answers a change that is complete, or that nobody here can see through any more.
    pub(super) fn answer_change(&mut self) {
        let Some((began, _)) = self.begun.change else {
            return;
        };
        let index = self.raft.membership_index();
        let is_complete = index >= began.index
            && index <= self.raft.commit_index()
            && !self.raft.membership().is_joint();
        let is_lost = self.raft.role() != Role::Leader;
        if (is_complete || is_lost)
            && let Some((_, answer)) = self.begun.change.take()
        {
            answer(match self.raft.term_at(index) {
                Some(term) if is_complete => Ok(LogId::new(term, index)),
                _ => Err(ChangeFailure::Unknown {
                    leader: self.raft.leader(),
                }),
            });
        }
    }

    /// Another node leads: what a transfer was for, if that is who was meant.
    pub(super) fn transfer_succeeded(&mut self, leader: NodeId) {
        if leader != self.options.id
            && let Some((_, answer)) = self.begun.transfer.take()
        {
            answer(Ok(leader));
        }
    }

    pub(super) fn transfer_failed(&mut self, to: NodeId) {
        if self
            .begun
            .transfer
            .as_ref()
            .is_some_and(|(meant, _)| *meant == to)
        {
            self.transfer_is_over();
        }
    }

    /// This node leads again, or hands over anew: what was under way has come to nothing.
    pub(super) fn transfer_is_over(&mut self) {
        if let Some((to, answer)) = self.begun.transfer.take() {
            answer(Err(TransferFailure::TimedOut { to }));
        }
    }

    pub(super) fn refuse_wishes(&mut self) {
        for wish in self.received.wishes.try_iter() {
            wish.refuse();
        }
        if let Some((_, answer)) = self.begun.change.take() {
            answer(Err(ChangeFailure::Unknown { leader: None }));
        }
        if let Some((to, answer)) = self.begun.transfer.take() {
            answer(Err(TransferFailure::TimedOut { to }));
        }
    }
}
