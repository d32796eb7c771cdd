//! Leader election (paper §5.2, §5.4.1; pre-vote: thesis §9.6; quorum check: thesis §6.2).
//!
//! A follower that hears from no leader for one election timeout first asks whether it could win,
//! in a round of pre-votes that changes nobody's term; only a majority's yes makes it stand in a new
//! term. One term cannot have two leaders: a node votes once a term, and its vote is on disk before
//! it is sent, or counted.
//!
//! ```text
//!            timeout                majority would            majority votes
//!  Follower ─────────> PreCandidate ───────────────> Candidate ─────────────> Leader
//!     ^                  │ timeout: again │             │ timeout: asks first    │
//!     └──────────────────┴────────────────┴─ newer term, or a leader heard ──────┘
//!                                                       or no majority heard (CheckQuorum)
//! ```
//!
//! Whoever hears a leader ignores candidates (thesis §4.2.3), so a node that comes back from a
//! partition disturbs nobody. What a new leader does with its log: [`replication`](super::replication).

use std::sync::Arc;

use super::effect::Role;
use super::message::Message;
use super::progress::Progress;
use super::raft::Raft;
use super::types::{CallId, LogId, LogIndex, Millis, NodeId, Payload, Term};

impl Raft {
    /// Draws a new election timeout (§5.2: randomized, so that split votes are rare).
    pub(super) fn restart_election_timer(&mut self) {
        let (min, max) = self.config.election_timeout_ms;
        self.election_deadline = self.now.plus(self.rng.u64(min..=max));
    }

    /// Asks whether an election could be won (thesis §9.6).
    pub(super) fn campaign(&mut self) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.restart_election_timer();
        tracing::debug!(node = %self.config.id, term = %self.current_term, "asks for pre-votes");
        self.ask_for_votes(self.current_term.next(), true, false);
        self.record_vote(self.config.id, true);
    }

    /// Enters `term`, newer than ours, without knowing its leader (§5.1).
    pub(super) fn become_follower(&mut self, term: Term) {
        assert!(term > self.current_term, "terms never fall");
        self.current_term = term;
        self.voted_for = None;
        self.save_hard_state();
        self.held.drop_requests_before(term);
        self.step_down();
    }

    /// Answers a candidate (Fig. 2, *RequestVote RPC*; §5.2, §5.4.1).
    ///
    /// The vote goes to one candidate a term, and only to a log at least as up to date as ours. A
    /// pre-vote binds nobody: it says yes to a term in which the vote could still be given.
    pub(super) fn on_request_vote(
        &mut self,
        from: NodeId,
        call: CallId,
        term: Term,
        last_log: LogId,
        pre_vote: bool,
        transfer: bool,
    ) {
        if !transfer && self.hears_another_leader(from) {
            let term = self.current_term;
            self.reply(
                call,
                Message::RequestVoteReply {
                    term,
                    vote_granted: false,
                    pre_vote,
                },
            );
            return;
        }
        if term > self.current_term && !pre_vote {
            self.become_follower(term);
        }
        let free_to_vote = match self.voted_for {
            _ if term != self.current_term => term > self.current_term,
            voted_for => voted_for.is_none_or(|voted| voted == from),
        };
        let vote_granted = free_to_vote && last_log >= self.log.last();
        if vote_granted && !pre_vote {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.save_hard_state();
            }
            self.restart_election_timer();
        }
        // A yes to a pre-vote speaks for the term asked about. A no carries our own, so that a
        // candidate that lags behind can catch up (failures 14, 15).
        let term = if vote_granted {
            term
        } else {
            self.current_term
        };
        self.reply(
            call,
            Message::RequestVoteReply {
                term,
                vote_granted,
                pre_vote,
            },
        );
    }

    /// Counts an answer, if it is one to the question that is being asked.
    pub(super) fn on_request_vote_reply(
        &mut self,
        from: NodeId,
        term: Term,
        vote_granted: bool,
        pre_vote: bool,
    ) {
        let asked = match self.role {
            Role::PreCandidate if pre_vote && vote_granted => term == self.current_term.next(),
            Role::PreCandidate => pre_vote && term == self.current_term,
            Role::Candidate => !pre_vote && term == self.current_term,
            Role::Follower | Role::Leader => false,
        };
        if asked {
            self.record_vote(from, vote_granted);
        }
    }

    /// A candidate's vote for itself counts like any other: once it is durable.
    pub(super) fn count_own_vote(&mut self) {
        let durable = self.journal.covers_hard_state() <= self.journal.durable_id();
        if self.role == Role::Candidate && durable && !self.votes.contains_key(&self.config.id) {
            // The requests leave only now: however slow the disk, the others have a whole timeout.
            self.restart_election_timer();
            self.record_vote(self.config.id, true);
        }
    }

    /// As leader: steps down when no majority was heard for an election timeout (thesis §6.2).
    ///
    /// Its clients go elsewhere, and it trusts itself no longer after a pause of its process.
    pub(super) fn check_quorum(&mut self) {
        if self.role == Role::Leader && self.now >= self.quorum_deadline() {
            tracing::warn!(node = %self.config.id, term = %self.current_term, "hears no majority, steps down");
            self.step_down();
        }
    }

    /// When a leader has not heard from a majority for too long.
    pub(super) fn quorum_deadline(&self) -> Millis {
        if self.memberships.latest().is_sole_voter(self.config.id) {
            return Millis::new(u64::MAX);
        }
        let heard = self.reached(self.now, |progress| progress.last_heard, Millis::ZERO);
        heard.plus(self.config.election_timeout_ms.1)
    }

    /// Follows `leader`, of our term, and waits for the next sign of it.
    pub(super) fn hear_leader(&mut self, leader: NodeId) {
        if self.role != Role::Follower {
            self.step_down();
        }
        if self.leader != Some(leader) {
            tracing::info!(node = %self.config.id, term = %self.current_term, %leader, "follows a leader");
            self.leader = Some(leader);
        }
        self.heard = Some((leader, self.now));
        self.restart_election_timer();
    }

    /// Becomes a follower without a leader, in the current term.
    pub(super) fn step_down(&mut self) {
        let role = std::mem::replace(&mut self.role, Role::Follower);
        self.leader = None;
        self.votes.clear();
        if role == Role::Leader {
            tracing::info!(node = %self.config.id, term = %self.current_term, "leads no longer");
            self.progress.clear();
            self.term_start = LogIndex::ZERO;
            self.heartbeat_due = false;
            self.unapplied_bytes = 0;
            self.transfer = None;
            self.forget_leaving();
            self.refuse_reads();
        }
        // A follower's timer goes on: to learn of a term is not to hear a leader.
        if role != Role::Follower {
            self.restart_election_timer();
        }
    }

    /// True while a leader other than `candidate` was heard within the shortest election timeout,
    /// of whatever term: it may answer reads on the strength of that (thesis §6.4.1). The leader
    /// itself asks for votes only when it leads no longer (failure 17).
    fn hears_another_leader(&self, candidate: NodeId) -> bool {
        let shortest_ms = self.config.election_timeout_ms.0;
        match self.heard {
            _ if self.role == Role::Leader => true,
            Some((leader, at)) if leader != candidate => self.now.since(at) < shortest_ms,
            Some(_) => false,
            // A promise of silence may have been forgotten in the restart.
            None => self.now < self.silent_until,
        }
    }

    fn ask_for_votes(&mut self, term: Term, pre_vote: bool, transfer: bool) {
        self.votes.clear();
        let last_log = self.log.last();
        let members = Arc::clone(self.memberships.latest());
        let own = self.config.id;
        for to in members.deciders().filter(|node| *node != own) {
            self.send(
                to,
                Message::RequestVote {
                    term,
                    last_log,
                    pre_vote,
                    transfer,
                },
            );
        }
    }

    /// Records a vote, ours or another's, and acts on a majority for or against.
    fn record_vote(&mut self, voter: NodeId, granted: bool) {
        let members = Arc::clone(self.memberships.latest());
        if !members.is_voter(voter) {
            return;
        }
        self.votes.insert(voter, granted);
        let says = |voter: NodeId, what: bool| self.votes.get(&voter) == Some(&what);
        let won = members.has_majority(|voter| says(voter, true));
        let lost = members.is_refused(|voter| says(voter, false));
        match self.role {
            Role::PreCandidate if won => self.stand(false),
            Role::Candidate if won => self.become_leader(),
            // Let the timer that is running decide when to try again.
            _ if lost => self.role = Role::Follower,
            _ => {}
        }
    }

    /// Stands for election in a new term (§5.2). `transfer`: the leader wants it (thesis §3.10).
    pub(super) fn stand(&mut self, transfer: bool) {
        self.role = Role::Candidate;
        self.leader = None;
        self.current_term = self.current_term.next();
        self.voted_for = Some(self.config.id);
        self.save_hard_state();
        self.held.drop_requests_before(self.current_term);
        self.restart_election_timer();
        tracing::info!(node = %self.config.id, term = %self.current_term, "stands for election");
        // These, and our own vote, wait for the disk.
        self.ask_for_votes(self.current_term, false, transfer);
    }

    /// Begins to lead: an empty entry of the new term commits what earlier terms left (§5.4.2, §8).
    fn become_leader(&mut self) {
        tracing::info!(
            node = %self.config.id, term = %self.current_term, votes = self.votes.len(), "became leader"
        );
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.votes.clear();
        let next_index = self.log.last().index.next();
        self.progress = self
            .peers
            .iter()
            .map(|peer| (*peer, Progress::new(next_index, self.now)))
            .collect();
        self.term_start = next_index;
        self.heartbeat_at = self.now.plus(self.config.heartbeat_ms);
        self.unapplied_bytes = self
            .log
            .bytes_between(self.last_applied.next(), self.log.last().index);
        self.append_own_unchecked(Payload::Empty);
    }
}
