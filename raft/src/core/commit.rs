//! What is committed (paper §5.3, §5.4.2; Fig. 8).

use super::effect::Role;
use super::quorum::reached_by_majority;
use super::raft::Raft;
use super::types::LogIndex;

impl Raft {
    /// As leader: commits what a majority has durably, if it ends in an entry of our own term.
    ///
    /// An older term's entry may sit on a majority and still be overwritten (Fig. 8), so only our
    /// own entries are counted; they carry those before them (§5.4.2). Our own copy counts like any
    /// other, once it is on disk; the others need not wait for it.
    pub(super) fn advance_commit(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let mut copies: Vec<LogIndex> = self
            .progress
            .values()
            .map(|progress| progress.match_index)
            .collect();
        copies.push(self.journal.durable_index());
        let reached = reached_by_majority(&mut copies);
        if reached >= self.term_start {
            self.commit_upto(reached);
        }
    }

    /// Everything up to `upto` is committed, as far as our log has it. Never goes back.
    pub(super) fn commit_upto(&mut self, upto: LogIndex) {
        let upto = upto.min(self.log.last().index);
        if upto > self.commit_index {
            tracing::trace!(node = %self.config.id, commit_index = %upto, "commits");
            self.commit_index = upto;
        }
    }
}
