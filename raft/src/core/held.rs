//! Messages that promise what is not on disk yet wait here (Fig. 2: "updated on stable storage
//! before responding to RPCs").
//!
//! A vote, a term or an acceptance is sent once the write that carries it is durable: a promise
//! forgotten in a crash could be given twice.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::message::{AppendOutcome, Message};
use super::types::{CallId, LogId, LogIndex, Term, WriteId};

/// Messages held at most. A peer has a few calls under way, so only a disk that hangs for minutes,
/// or a peer that misbehaves, gets here. Then the oldest makes room ([`withdrawn`]).
pub(super) const MAX_HELD: usize = 4096;

/// The messages that wait, by the write that they wait for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Held {
    /// In the order in which they were held. Not sorted by write: a term waits for a later one
    /// than an entry that an earlier message brought.
    waiting: VecDeque<(WriteId, Effect)>,
}

impl Held {
    /// The message that must go before another can be held.
    pub(super) fn make_room(&mut self) -> Option<Effect> {
        if self.waiting.len() < MAX_HELD {
            return None;
        }
        self.waiting.pop_front().map(|(_, effect)| effect)
    }

    /// Holds `effect` until `write` is durable.
    pub(super) fn hold(&mut self, write: WriteId, effect: Effect) {
        self.waiting.push_back((write, effect));
    }

    /// Moves what `durable` covers to `effects`, in the order in which it was held.
    pub(super) fn release(&mut self, durable: WriteId, effects: &mut Vec<Effect>) {
        for (write, effect) in std::mem::take(&mut self.waiting) {
            if write <= durable {
                effects.push(effect);
            } else {
                self.waiting.push_back((write, effect));
            }
        }
    }

    /// The log lost what was after `upto`: acceptances still held no longer speak for it.
    pub(super) fn disown(&mut self, upto: LogIndex) {
        for (_, effect) in &mut self.waiting {
            if let Effect::Reply {
                message:
                    Message::AppendEntriesReply {
                        outcome:
                            AppendOutcome::Accepted { match_index }
                            | AppendOutcome::Full { match_index },
                        ..
                    },
                ..
            } = effect
            {
                *match_index = upto.min(*match_index);
            }
        }
    }

    /// Drops requests of terms before `term`: that candidacy is over.
    pub(super) fn drop_requests_before(&mut self, term: Term) {
        self.waiting.retain(|(_, effect)| match effect {
            Effect::Send { message, .. } => message.term() >= term,
            _ => true,
        });
    }

    /// The latest write that anything waits for.
    pub(super) fn last_write(&self) -> Option<WriteId> {
        self.waiting.iter().map(|(write, _)| *write).max()
    }
}

/// What is left of a message that can wait no longer: an answer without its promise, as every call
/// must be answered; of a request nothing. `term` is durable.
pub(super) fn withdrawn(effect: Effect, term: Term) -> Option<Effect> {
    let Effect::Reply { call, message } = effect else {
        return None;
    };
    let message = match message {
        Message::RequestVoteReply { pre_vote, .. } => Message::RequestVoteReply {
            term,
            vote_granted: false,
            pre_vote,
        },
        Message::InstallSnapshotReply { last_included, .. } => Message::InstallSnapshotReply {
            term,
            last_included,
            next_offset: 0,
            installed: false,
        },
        Message::ReadIndexReply { number, .. } => Message::ReadIndexReply {
            term,
            number,
            index: None,
        },
        Message::TimeoutNowReply { .. } => Message::TimeoutNowReply { term },
        _ => nothing_accepted(term),
    };
    Some(Effect::Reply { call, message })
}

/// An answer that promises nothing and tells nothing new: a refusal of a term that is durable
/// already. For requests that deserve no better, since every call must be answered.
pub(super) fn no_news(call: CallId, request: &Message, term: Term) -> Effect {
    let message = match request {
        Message::RequestVote { pre_vote, .. } => Message::RequestVoteReply {
            term,
            vote_granted: false,
            pre_vote: *pre_vote,
        },
        Message::InstallSnapshot { last_included, .. } => Message::InstallSnapshotReply {
            term,
            last_included: *last_included,
            next_offset: 0,
            installed: false,
        },
        Message::TimeoutNow { .. } => Message::TimeoutNowReply { term },
        Message::ReadIndex { number, .. } => Message::ReadIndexReply {
            term,
            number: *number,
            index: None,
        },
        _ => nothing_accepted(term),
    };
    Effect::Reply { call, message }
}

/// No leader acts upon it: what it would reject is proven.
fn nothing_accepted(term: Term) -> Message {
    Message::AppendEntriesReply {
        term,
        outcome: AppendOutcome::Rejected {
            rejected: LogIndex::ZERO,
            hint: LogId::ZERO,
        },
        round: 0,
    }
}

/// Whether a message is a request, whose call must be answered.
pub(super) fn is_request(message: &Message) -> bool {
    matches!(
        message,
        Message::AppendEntries { .. }
            | Message::RequestVote { .. }
            | Message::InstallSnapshot { .. }
            | Message::TimeoutNow { .. }
            | Message::ReadIndex { .. }
    )
}
