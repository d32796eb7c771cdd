//! Log replication (paper §5.3; flow control: [`progress`](super::progress)).
//!
//! The leader appends to its own log and sends what a follower lacks, several messages in flight,
//! without waiting for its own disk (thesis §10.2.1). A follower takes entries only where the one
//! before them matches, which makes equal logs out of equal names (*log matching*). Where it does
//! not match, both sides skip whole terms:
//!
//! ```text
//!   index      1 2 3 4 5 6 7 8 9
//!   leader     1 1 1 5 5 5 5 5 6    sends 9, after 8@5: rejected
//!   follower   1 1 1 4 4 4 4        hint: 7@4, its last entry of a term <= 5
//!                  ^ next question  the leader's last entry of a term <= 4, at or before 7
//! ```
//!
//! A follower whose state machine stands still takes nothing more once its log in memory is at its
//! bound, and says so; it goes on to hear, to vote and to commit what it has.
//!
//! A heartbeat is an `AppendEntries` without entries, sent with a `prev_log` that the follower is
//! known to have. It is answered at once, whatever the follower's disk does.

use std::sync::Arc;

use super::effect::{ProposeError, Role};
use super::message::{AppendOutcome, Message};
use super::raft::Raft;
use super::types::{CallId, Entry, LogId, LogIndex, NodeId, Payload, Term};

impl Raft {
    /// As leader: appends to our own log, within the bound on what waits.
    pub(super) fn append_own(&mut self, payload: Payload) -> Result<LogId, ProposeError> {
        let size_bytes = Entry {
            id: LogId::ZERO,
            payload: payload.clone(),
        }
        .size_bytes();
        let waiting = self.unapplied_bytes + size_bytes > self.config.max_uncommitted_bytes;
        if waiting && self.unapplied_bytes > 0 || self.log.bytes() > self.config.max_log_bytes {
            return Err(ProposeError::Overloaded);
        }
        Ok(self.append_own_unchecked(payload))
    }

    /// As leader: appends to our own log. A leader never removes anything from it (§5.3).
    pub(super) fn append_own_unchecked(&mut self, payload: Payload) -> LogId {
        assert!(self.role == Role::Leader, "only a leader makes entries");
        let id = LogId {
            term: self.current_term,
            index: self.log.last().index.next(),
        };
        let entry = Entry { id, payload };
        self.unapplied_bytes += entry.size_bytes();
        self.append_to_log(entry);
        id
    }

    /// Adds an entry, and heeds a membership at once (§6).
    fn append_to_log(&mut self, entry: Entry) {
        let index = entry.id.index;
        let membership = match &entry.payload {
            Payload::Membership(membership) => Some(Arc::clone(membership)),
            Payload::Empty | Payload::Command(_) => None,
        };
        self.log.append(entry);
        if let Some(membership) = membership {
            self.enter_membership(index, membership);
        }
    }

    /// As leader: sends to each follower what it lacks and its window has room for.
    pub(super) fn replicate(&mut self) {
        for to in self.peers.clone() {
            while self.send_entries(to) {}
        }
    }

    /// As leader: a heartbeat to everyone, if it is due. It also carries the latest round of reads,
    /// so a round whose messages were lost is repeated.
    pub(super) fn broadcast_heartbeat(&mut self) {
        if std::mem::take(&mut self.heartbeat_due) {
            for to in self.peers.clone() {
                self.send_heartbeat(to);
            }
        }
    }

    /// As leader: asserts itself to one follower, with a `prev_log` that is proven, so that the
    /// answer does not depend on where the follower's log stands (failure 31).
    pub(super) fn send_heartbeat(&mut self, to: NodeId) {
        let match_index = self.progress_of(to).match_index;
        let prev_log = self.log.id_at(match_index).unwrap_or(LogId::ZERO);
        self.send_append(to, prev_log, Vec::new());
    }

    /// Answers a leader (Fig. 2, *AppendEntries RPC*).
    ///
    /// An acceptance of entries waits for the disk. That of a heartbeat does not: it tells what is
    /// durable already.
    #[expect(
        clippy::too_many_arguments,
        reason = "the message's fields, as in Fig. 2"
    )]
    pub(super) fn on_append_entries(
        &mut self,
        from: NodeId,
        call: CallId,
        term: Term,
        prev_log: LogId,
        mut entries: Vec<Entry>,
        leader_commit: LogIndex,
        round: u64,
    ) {
        // Rule 1.
        if term < self.current_term {
            let outcome = AppendOutcome::Rejected {
                rejected: prev_log.index,
                hint: self.log.last(),
            };
            let term = self.current_term;
            self.reply(
                call,
                Message::AppendEntriesReply {
                    term,
                    outcome,
                    round,
                },
            );
            return;
        }
        if !self.accept_leader(from) {
            return;
        }
        if let Err(conflict) = self.contradiction(prev_log) {
            self.contradicted(from, conflict);
            return;
        }
        // Rule 2.
        if let Some(hint) = self.mismatch(prev_log) {
            let outcome = AppendOutcome::Rejected {
                rejected: prev_log.index,
                hint,
            };
            self.reply(
                call,
                Message::AppendEntriesReply {
                    term,
                    outcome,
                    round,
                },
            );
            return;
        }
        // Rules 3 and 4.
        let full = self.is_full();
        if full {
            let known = entries.iter().take_while(|entry| self.has(entry.id));
            entries.truncate(known.count());
        }
        let heartbeat = entries.is_empty();
        let proven = entries
            .last()
            .map_or(prev_log.index, |entry| entry.id.index);
        if let Err(conflict) = self.take_entries(entries) {
            self.contradicted(from, conflict);
            return;
        }
        // Rule 5: never beyond what this message proves to be the leader's log (failure 29).
        self.commit_upto(leader_commit.min(proven));

        let (match_index, write) = if heartbeat {
            (
                proven.min(self.journal.durable_index()),
                self.journal.durable_id(),
            )
        } else {
            (proven, self.journal.covers_log(proven))
        };
        let outcome = if full {
            AppendOutcome::Full { match_index }
        } else {
            AppendOutcome::Accepted { match_index }
        };
        self.reply_after(
            write,
            call,
            Message::AppendEntriesReply {
                term,
                outcome,
                round,
            },
        );
    }

    /// As leader: learns how far a follower is, and goes on from there.
    pub(super) fn on_append_entries_reply(
        &mut self,
        from: NodeId,
        term: Term,
        outcome: AppendOutcome,
        round: u64,
    ) {
        if !self.hear_follower(from, term) {
            return;
        }
        self.count_round(from, round);
        match outcome {
            AppendOutcome::Accepted { match_index } => self.on_accepted(from, match_index, false),
            AppendOutcome::Full { match_index } => self.on_accepted(from, match_index, true),
            AppendOutcome::Rejected { rejected, hint } => self.on_rejected(from, rejected, hint),
        }
    }

    /// As leader: notes a reply of `term`. False if it is none to what we, as leader of that term,
    /// ask of this node.
    pub(super) fn hear_follower(&mut self, from: NodeId, term: Term) -> bool {
        if self.role != Role::Leader || term != self.current_term {
            return false;
        }
        let progress = self.progress.get_mut(&from);
        if let Some(progress) = progress {
            progress.last_heard = self.now;
            return true;
        }
        false
    }

    /// Takes `from` for the leader of our term. False, and the end of this node, if another node
    /// leads it: election safety (§5.2) is broken (failure 12).
    pub(super) fn accept_leader(&mut self, from: NodeId) -> bool {
        if let Some(leader) = self.leader
            && leader != from
        {
            self.halt(format!(
                "{leader} and {from} both lead term {}",
                self.current_term
            ));
            return false;
        }
        self.hear_leader(from);
        true
    }

    /// As leader: what is known of a peer.
    pub(super) fn progress_of(&mut self, peer: NodeId) -> &mut super::progress::Progress {
        self.progress
            .get_mut(&peer)
            .expect("a leader has one per peer")
    }

    /// Sends one message of entries, if there is something to send and room for it.
    fn send_entries(&mut self, to: NodeId) -> bool {
        let last = self.log.last().index;
        let progress = &self.progress[&to];
        let next_index = progress.next_index;
        if next_index > last || !progress.may_send(&self.config) {
            return false;
        }
        let Some(prev_log) = self.log.id_at(next_index.prev()) else {
            self.start_snapshot(to);
            return false;
        };
        let entries = self
            .log
            .slice(next_index, last, self.config.max_message_bytes);
        let progress = self
            .progress
            .get_mut(&to)
            .expect("it was there a moment ago");
        progress.sent(&entries, self.now, &self.config);
        self.send_append(to, prev_log, entries);
        true
    }

    fn send_append(&mut self, to: NodeId, prev_log: LogId, entries: Vec<Entry>) {
        let message = Message::AppendEntries {
            term: self.current_term,
            prev_log,
            entries,
            leader_commit: self.commit_index,
            round: self.reads.round(),
        };
        self.send(to, message);
    }

    /// Where the logs may still agree, if ours has no such entry as `prev_log`.
    ///
    /// Never before `commit_index`: what is committed, the leader has (§5.4.3).
    fn mismatch(&self, prev_log: LogId) -> Option<LogId> {
        // Compacted here, so committed, and part of the leader's log: what it sends after that is
        // skipped up to where our log begins (failure 32, original's defect 20).
        if prev_log.index < self.log.prev().index || self.log.contains(prev_log) {
            return None;
        }
        let upto = self.log.last().index.min(prev_log.index.prev());
        let hint = self.log.last_of_term_at_most(prev_log.term, upto);
        let committed = self
            .log
            .id_at(self.commit_index)
            .expect("the log has what is committed");
        Some(hint.max(committed))
    }

    /// Whether the part of the log that this node can get rid of by itself, by applying it and taking a
    /// snapshot, has reached its bound: what is committed. Entries that are not must be taken all the
    /// same, or a leader whose own are behind those of an older term could commit none of them
    /// (§5.4.2); they are bounded by what a leader proposes before it applies.
    fn is_full(&self) -> bool {
        let (bytes, most) = (self.log.bytes(), self.config.max_log_bytes);
        let uncommitted = (self.commit_index.next(), self.log.last().index);
        bytes > most && bytes - self.log.bytes_between(uncommitted.0, uncommitted.1) > most
    }

    /// Whether our log has, or once had, exactly this entry of the leader's.
    fn has(&self, theirs: LogId) -> bool {
        theirs.index <= self.log.prev().index || self.log.contains(theirs)
    }

    /// Names the committed entry that an entry of the leader's log contradicts, if it does: that
    /// leader was not elected by the rules (§5.4.3; failure 50).
    fn contradiction(&self, theirs: LogId) -> Result<(), LogId> {
        match self.log.id_at(theirs.index) {
            Some(ours) if ours != theirs && ours.index <= self.commit_index => Err(ours),
            _ => Ok(()),
        }
    }

    fn contradicted(&mut self, leader: NodeId, ours: LogId) {
        let term = self.current_term;
        self.halt(format!(
            "leader {leader} of term {term} contradicts entry {ours}, which is committed"
        ));
    }

    /// Adds the entries that are new, after removing what conflicts with them (Fig. 2,
    /// *AppendEntries RPC*, rules 3 and 4). An error names a committed entry that would have to go.
    fn take_entries(&mut self, entries: Vec<Entry>) -> Result<(), LogId> {
        for entry in entries {
            let index = entry.id.index;
            self.contradiction(entry.id)?;
            if index <= self.log.prev().index {
                continue;
            }
            match self.log.id_at(index) {
                // An old message that arrives late truncates nothing (failure 28).
                Some(ours) if ours == entry.id => continue,
                Some(_) => self.truncate(index),
                None => {}
            }
            // Only a committed entry can be in the way: the others were compared, or removed.
            let before = self.log.last();
            if entry.id.term < before.term {
                return Err(before);
            }
            self.append_to_log(entry);
        }
        Ok(())
    }

    /// Removes the whole tail from `from` on (failure 27, original's defect 19).
    fn truncate(&mut self, from: LogIndex) {
        assert!(
            from > self.commit_index,
            "committed entries are never truncated"
        );
        tracing::info!(node = %self.config.id, %from, last = %self.log.last(), "truncates its log");
        self.log.truncate(from);
        self.journal.truncate(from);
        self.held.disown(from.prev());
        if self.memberships.truncate(from) {
            self.membership_changed();
        }
    }

    fn on_accepted(&mut self, from: NodeId, match_index: LogIndex, full: bool) {
        let last = self.log.last().index;
        if match_index > last {
            return self.complain(from, "an acceptance of what was never sent");
        }
        let (now, log_prev) = (self.now, self.log.prev().index);
        let progress = self
            .progress
            .get_mut(&from)
            .expect("a leader has one per peer");
        let is_news = progress.accepted(match_index, last, log_prev, now, &self.config);
        progress.set_full(full);
        if is_news {
            self.advance_commit();
        }
    }

    fn on_rejected(&mut self, from: NodeId, rejected: LogIndex, hint: LogId) {
        let progress = &self.progress[&from];
        // What was proven stays proven: an answer that came late, or a follower whose disk lost what
        // it had acknowledged. The latter must not be helped to forget it (failures 34, 35).
        if rejected <= progress.match_index {
            tracing::debug!(node = %self.config.id, %from, %rejected, "ignores a rejection of what is proven");
            return;
        }
        if !progress.is_answered_by(rejected) {
            return;
        }
        let upto = hint.index.min(rejected.prev());
        let agreed = match self.log.prev().index {
            prev if upto < prev => upto,
            _ => self.log.last_of_term_at_most(hint.term, upto).index,
        };
        self.progress_of(from).back_up(agreed.next());
    }
}
