//! Reads on a node that does not lead (thesis §6.4, last paragraph).
//!
//! It asks the leader from which index on its own state answers, once for all reads that have
//! gathered, and serves them itself when it has applied so much. The leader confirms that it leads
//! before it answers, as for its own reads.

use serde::{Deserialize, Serialize};

use super::effect::{Effect, ProposeError, Role};
use super::message::Message;
use super::raft::Raft;
use super::read_index::{MAX_READS, Origin};
use super::types::{CallId, LogIndex, Millis, NodeId, ReadId, Term};

/// The reads that wait to be asked for, and those that were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ForwardedReads {
    /// Of the latest question. Never falls, so that an old answer serves no younger read.
    number: u64,
    /// Whom it went to, and when, unless it is answered.
    asked: Option<(NodeId, Millis)>,
    running: Vec<ReadId>,
    /// They came after it was sent.
    waiting: Vec<ReadId>,
}

impl Raft {
    /// On any node: asks for the index that a linearizable read must wait for, of the leader if
    /// that is another. The answer is [`Effect::ReadReady`] or [`Effect::ReadRefused`].
    ///
    /// # Errors
    /// No leader is known, or too many reads wait already.
    pub fn read_anywhere(&mut self, read: ReadId) -> Result<(), ProposeError> {
        if self.role == Role::Leader || self.leader.is_none() || self.is_halted() {
            return self.read(read);
        }
        let ForwardedReads {
            running, waiting, ..
        } = &mut self.forwarded;
        if running.len() + waiting.len() >= MAX_READS {
            return Err(ProposeError::Overloaded);
        }
        waiting.push(read);
        Ok(())
    }

    /// Asks the leader for the reads that wait, unless a question is under way.
    pub(super) fn forward_reads(&mut self) {
        if self.forwarded.waiting.is_empty() {
            return;
        }
        if self.role == Role::Leader {
            for read in std::mem::take(&mut self.forwarded.waiting) {
                if self.read(read).is_err() {
                    self.effects.push(Effect::ReadRefused { read });
                }
            }
            return;
        }
        let Some(leader) = self.leader else {
            let waiting = std::mem::take(&mut self.forwarded.waiting);
            return self.refuse_forwarded(waiting);
        };
        if self.forwarded.asked.is_some() {
            return;
        }
        let ForwardedReads {
            number,
            asked,
            running,
            waiting,
        } = &mut self.forwarded;
        *number += 1;
        *asked = Some((leader, self.now));
        std::mem::swap(running, waiting);
        let question = Message::ReadIndex {
            term: self.current_term,
            number: *number,
        };
        self.send(leader, question);
    }

    /// As leader: a follower has reads to serve.
    ///
    /// None for a node that was removed: it will never have what an index asks for.
    pub(super) fn on_read_index(&mut self, from: NodeId, call: CallId, number: u64) {
        let origin = Origin::Follower { call, number };
        let is_served = self.role == Role::Leader && self.memberships.latest().contains(from);
        if !is_served || self.take_read(origin).is_err() {
            self.answer_read(origin, None);
        }
    }

    /// The leader's answer: all reads of that question are safe behind `index`, or none.
    pub(super) fn on_read_index_reply(
        &mut self,
        from: NodeId,
        number: u64,
        index: Option<LogIndex>,
    ) {
        if self.forwarded.number != number || !self.has_asked(from) {
            return;
        }
        self.forwarded.asked = None;
        let running = std::mem::take(&mut self.forwarded.running);
        match index {
            Some(index) => {
                let ready = running
                    .into_iter()
                    .map(|read| Effect::ReadReady { read, index });
                self.effects.extend(ready);
            }
            None => self.refuse_forwarded(running),
        }
    }

    /// The question, or its answer, was lost.
    pub(super) fn lost_question(&mut self, to: NodeId) {
        if self.has_asked(to) {
            self.give_up_question();
        }
    }

    /// A question may be lost without a word: held for a disk until its term was over, or its answer
    /// dropped by a driver that has too much to do. Nothing may wait for it forever.
    pub(super) fn expire_question(&mut self) {
        if self.now >= self.question_deadline() {
            self.give_up_question();
        }
    }

    /// When the question that is under way, if any, counts as lost.
    pub(super) fn question_deadline(&self) -> Millis {
        let patience_ms = 2 * self.config.election_timeout_ms.1;
        self.forwarded
            .asked
            .map_or(Millis::new(u64::MAX), |(_, at)| at.plus(patience_ms))
    }

    fn has_asked(&self, node: NodeId) -> bool {
        self.forwarded.asked.is_some_and(|(asked, _)| asked == node)
    }

    fn give_up_question(&mut self) {
        self.forwarded.asked = None;
        let running = std::mem::take(&mut self.forwarded.running);
        self.refuse_forwarded(running);
    }

    /// Refuses all of them: this node does nothing more.
    pub(super) fn refuse_all_forwarded(&mut self) {
        let ForwardedReads {
            running, waiting, ..
        } = &mut self.forwarded;
        let all = running.drain(..).chain(waiting.drain(..)).collect();
        self.refuse_forwarded(all);
    }

    /// Answers a read of our own, or the follower that asked for one.
    pub(super) fn answer_read(&mut self, origin: Origin, index: Option<LogIndex>) {
        match (origin, index) {
            (Origin::Own(read), Some(index)) => {
                self.effects.push(Effect::ReadReady { read, index });
            }
            (Origin::Own(read), None) => self.effects.push(Effect::ReadRefused { read }),
            (Origin::Follower { call, number }, index) => {
                let term: Term = self.current_term;
                let reply = Message::ReadIndexReply {
                    term,
                    number,
                    index,
                };
                self.reply(call, reply);
            }
        }
    }

    fn refuse_forwarded(&mut self, reads: Vec<ReadId>) {
        let refused = reads.into_iter().map(|read| Effect::ReadRefused { read });
        self.effects.extend(refused);
    }
}
