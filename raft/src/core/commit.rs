//! What is committed (paper §5.3, §5.4.2; Fig. 8).

use super::effect::Role;
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
        let own = self.journal.durable_index();
        let reached = self.reached(own, |progress| progress.match_index, LogIndex::ZERO);
        if reached >= self.term_start && reached > self.commit_index {
            self.commit_upto(reached);
            self.go_on_with_change();
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
