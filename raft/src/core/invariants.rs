//! What must hold: of a state that storage restored, and between any two inputs.

use super::config::ConfigError;
use super::effect::Role;
use super::raft::Raft;
use super::types::Restored;

/// Entries of a log that debug builds look through after every batch of inputs. Longer logs would
/// make such builds slower with every entry.
const SCANNED_MAX: usize = 1024;

impl Raft {
    /// What holds between any two inputs. Cheap, but for a look at the whole log
    /// in debug builds, while it is short.
    pub(super) fn assert_invariants(&self) {
        assert!(
            self.last_applied <= self.handed,
            "applied only what was handed out"
        );
        assert!(
            self.handed <= self.commit_index,
            "handed out only what is committed"
        );
        assert!(
            self.commit_index <= self.log.last().index,
            "committed only what the log has"
        );
        assert!(
            self.snapshot.index <= self.commit_index,
            "snapshots are of committed entries"
        );
        assert!(
            self.log.prev().index <= self.snapshot.index,
            "dropped only what a snapshot has"
        );
        assert!(
            self.log.last().term <= self.current_term,
            "terms come before their entries"
        );
        let next_to_hand = self
            .snapshot_to_hand
            .map_or(self.handed, |snapshot| snapshot.index);
        assert!(
            self.log.prev().index <= next_to_hand,
            "what is to be handed out was not dropped"
        );
        self.journal.assert_invariants(&self.log);

        let leads = self.role == Role::Leader;
        assert!(
            leads == (self.leader == Some(self.config.id)),
            "who leads knows it"
        );
        assert!(
            self.progress.len() == if leads { self.peers.len() } else { 0 },
            "a leader knows its peers"
        );
        assert!(
            self.role == Role::Follower || self.role == Role::PreCandidate || self.has_own_vote()
        );
        assert!(
            self.memberships.latest_index() <= self.log.last().index,
            "the membership in force is the log's"
        );
        for progress in self.progress.values() {
            assert!(
                progress.match_index < progress.next_index,
                "nothing is sent that arrived"
            );
            assert!(
                progress.next_index <= self.log.last().index.next(),
                "only the log is sent"
            );
        }
        if cfg!(debug_assertions) && self.log.len() <= SCANNED_MAX {
            assert!(self.log.is_well_formed(), "entries follow one another");
            let unapplied = self
                .log
                .bytes_between(self.last_applied.next(), self.log.last().index);
            assert!(
                !leads || self.unapplied_bytes == unapplied,
                "what waits is counted"
            );
            let since_snapshot = self
                .log
                .bytes_between(self.snapshot.index.next(), self.handed);
            assert!(
                self.bytes_since_snapshot == since_snapshot,
                "what a snapshot can let go is counted"
            );
        }
    }

    fn has_own_vote(&self) -> bool {
        self.voted_for == Some(self.config.id)
    }
}

/// Storage has checked its files; this checks what the algorithm relies on.
pub(super) fn check_restored(restored: &Restored) -> Result<(), ConfigError> {
    let Restored {
        hard_state,
        snapshot,
        membership: _,
        prev,
        entries,
    } = restored;
    if prev.index > snapshot.index {
        return Err(ConfigError::Gap {
            prev: prev.index,
            snapshot: snapshot.index,
        });
    }
    let mut before = *prev;
    for entry in entries {
        if entry.id.index != before.index.next() || entry.id.term < before.term {
            return Err(ConfigError::BrokenLog {
                before,
                found: entry.id,
            });
        }
        before = entry.id;
    }
    let log = before.term.max(snapshot.term);
    if log > hard_state.current_term {
        return Err(ConfigError::LostTerm {
            log,
            hard_state: hard_state.current_term,
        });
    }
    Ok(())
}
