//! Snapshots and log compaction (paper §7, Fig. 13).
//!
//! The core handles their names; bytes pass through it only as chunks on their way to a file. Ours
//! are taken by the driver and reported here, and let the head of the log go, but for a tail for
//! followers that were away briefly. A follower that needs more gets the file.

use std::sync::Arc;

use bytes::Bytes;

use super::effect::{Effect, Role};
use super::membership::{Membership, Memberships};
use super::message::Message;
use super::progress::ProgressState;
use super::raft::Raft;
use super::types::{CallId, Compaction, LogId, LogIndex, NodeId, Term, WriteId};

/// While a follower receives a snapshot, what follows that snapshot is kept for it, up to this many
/// times [`Config::retained_log_bytes`](super::Config::retained_log_bytes), and half of
/// [`Config::max_log_bytes`](super::Config::max_log_bytes): otherwise a transfer slower than the log
/// grows would never be the last (failure 85).
pub(super) const RECEIVER_TAIL_FACTOR: usize = 32;

impl Raft {
    /// Whether the state machine was handed more than `log_bytes` of entries since the latest
    /// snapshot: so much, and not what is kept behind that snapshot, another one can let go.
    ///
    /// Half of [`Config::max_log_bytes`](super::Config::max_log_bytes) is enough in any case. No more
    /// than the other half is kept, so a log at its bound comes to this, and a snapshot makes room.
    #[must_use]
    pub fn snapshot_is_due(&self, log_bytes: usize) -> bool {
        self.bytes_since_snapshot > log_bytes.min(self.config.max_log_bytes / 2)
    }

    /// A snapshot of everything up to `last_included` is durable. Lets the head of the log go (§7).
    ///
    /// # Panics
    /// If that entry was not applied yet, or is none of ours.
    pub fn snapshot_taken(&mut self, last_included: LogId) {
        // One that was received meanwhile may be newer.
        if last_included.index <= self.snapshot.index {
            return;
        }
        assert!(
            last_included.index <= self.last_applied,
            "a snapshot is of what was applied"
        );
        assert!(
            self.log.contains(last_included),
            "a snapshot is of our own log"
        );
        self.snapshot = last_included;
        self.bytes_since_snapshot = self
            .log
            .bytes_between(last_included.index.next(), self.handed);
        self.memberships.compact(last_included.index);
        let retained_bytes = self.config.retained_log_bytes;
        let mut drop_upto = self.log.tail_start(last_included.index, retained_bytes);
        if let Some(needed) = self.needed_by_receivers() {
            let most_bytes = retained_bytes.saturating_mul(RECEIVER_TAIL_FACTOR);
            let most_bytes = most_bytes.min(self.config.max_log_bytes / 2);
            let at_most = self.log.tail_start(last_included.index, most_bytes);
            drop_upto = drop_upto.min(needed).max(at_most);
        }
        self.compact(drop_upto);
    }

    /// A chunk that came with [`Effect::ReceiveSnapshot`] is stored, or was refused for being out
    /// of place: the next one must start at `next_offset`. `complete`: the whole file is verified
    /// and durable, and includes this membership. Answers the call.
    pub fn chunk_stored(
        &mut self,
        call: CallId,
        last_included: LogId,
        next_offset: u64,
        complete: Option<Arc<Membership>>,
    ) {
        if self.is_halted() {
            return;
        }
        let installed = complete.is_some_and(|members| self.install(last_included, members));
        let write = if installed {
            self.covers_installed(last_included)
        } else {
            self.journal.durable_id()
        };
        let term = self.current_term;
        self.reply_after(
            write,
            call,
            Message::InstallSnapshotReply {
                term,
                last_included,
                next_offset,
                installed,
            },
        );
    }

    /// As leader: the transfer that [`Effect::SendSnapshot`] asked for has ended.
    pub fn snapshot_sent(&mut self, to: NodeId, last_included: LogId, installed: bool) {
        if self.is_halted() {
            return;
        }
        if installed {
            self.on_installed(to, last_included);
        } else if let Some(progress) = self.progress.get_mut(&to)
            && progress.state == (ProgressState::Snapshot { last_included })
        {
            progress.snapshot_failed(self.now, &self.config);
        }
    }

    /// As leader: the transfer that [`Effect::SendSnapshot`] asked for was not begun, because an older one
    /// to that follower is still ending. It is asked for again after a pause.
    pub fn snapshot_postponed(&mut self, to: NodeId, last_included: LogId) {
        if self.is_halted() {
            return;
        }
        if let Some(progress) = self.progress.get_mut(&to)
            && progress.state == (ProgressState::Snapshot { last_included })
        {
            progress.snapshot_postponed(self.now, &self.config);
        }
    }

    /// As leader: this follower needs what is compacted away.
    pub(super) fn start_snapshot(&mut self, to: NodeId) {
        let (now, last_included, term) = (self.now, self.snapshot, self.current_term);
        if !self.progress_of(to).may_send_snapshot(now) {
            return;
        }
        tracing::info!(node = %self.config.id, %to, %last_included, "sends a snapshot");
        self.progress_of(to).send_snapshot(last_included);
        self.effects.push(Effect::SendSnapshot {
            to,
            last_included,
            term,
        });
    }

    /// A chunk of the leader's snapshot (Fig. 13, *InstallSnapshot RPC*).
    #[expect(
        clippy::too_many_arguments,
        reason = "the message's fields, as in Fig. 13"
    )]
    pub(super) fn on_install_snapshot(
        &mut self,
        from: NodeId,
        call: CallId,
        term: Term,
        last_included: LogId,
        offset: u64,
        data: Bytes,
        done: bool,
    ) {
        // Rule 1.
        if term < self.current_term {
            let term = self.current_term;
            let reply = Message::InstallSnapshotReply {
                term,
                last_included,
                next_offset: 0,
                installed: false,
            };
            self.reply(call, reply);
            return;
        }
        if !self.accept_leader(from) {
            return;
        }
        if last_included.index <= self.commit_index {
            // What it brings we have; to take it would turn the state machine back (failure 79).
            let next_offset = offset.saturating_add(data.len() as u64);
            let write = self.covers_installed(last_included);
            let reply = Message::InstallSnapshotReply {
                term,
                last_included,
                next_offset,
                installed: true,
            };
            self.reply_after(write, call, reply);
            return;
        }
        self.effects.push(Effect::ReceiveSnapshot {
            call,
            last_included,
            offset,
            data,
            done,
        });
    }

    /// As leader: a chunk was answered. The driver goes on with the stream; we note what it proves.
    pub(super) fn on_install_snapshot_reply(
        &mut self,
        from: NodeId,
        term: Term,
        last_included: LogId,
        next_offset: u64,
        installed: bool,
    ) {
        if !self.hear_follower(from, term) {
            return;
        }
        if installed {
            self.on_installed(from, last_included);
        } else {
            self.progress_of(from)
                .holds_of_snapshot(last_included, next_offset);
        }
    }

    /// Takes a complete snapshot file for our state (Fig. 13, rules 5-8). False if we cannot use it.
    fn install(&mut self, last_included: LogId, membership: Arc<Membership>) -> bool {
        if last_included.index <= self.commit_index {
            return true;
        }
        if self.role == Role::Leader {
            tracing::warn!(node = %self.config.id, %last_included, "leads meanwhile, needs no snapshot");
            return false;
        }
        tracing::info!(node = %self.config.id, %last_included, "installs a snapshot");
        let agreed = self.commit_index;
        self.bytes_since_snapshot = 0;
        self.snapshot = last_included;
        self.snapshot_to_hand = Some(last_included);
        self.commit_index = last_included.index;
        if self.log.contains(last_included) {
            // Rule 6: what follows it stays.
            self.compact(last_included.index);
            self.memberships.compact(last_included.index);
        } else {
            // Rule 7: another term there, or nothing: the whole log goes (failure 77).
            self.log.reset(last_included);
            self.journal.reset(last_included, agreed);
            self.held.disown(agreed);
            let is_news = membership != *self.memberships.latest();
            self.memberships = Memberships::new(last_included.index, membership);
            if is_news {
                self.membership_changed();
            }
        }
        true
    }

    /// Drops the head of the log up to `upto`, but nothing that a write has still to take: that goes
    /// once it is taken.
    fn compact(&mut self, upto: LogIndex) {
        self.drop_upto = upto;
        self.drop_what_may_go();
        self.journal.compact(Compaction {
            snapshot: self.snapshot,
            drop_upto: self.log.prev(),
        });
    }

    /// The crash may have come between a snapshot and the compaction that goes with it. No other snapshot
    /// would be due, and a log at its bound would stay there.
    pub(super) fn compact_after_restart(&mut self) {
        let retained_bytes = self.config.retained_log_bytes;
        self.drop_upto = self.log.tail_start(self.snapshot.index, retained_bytes);
        self.go_on_with_compaction();
    }

    /// A write took what was gathered. Drops what waited for that.
    pub(super) fn go_on_with_compaction(&mut self) {
        if self.drop_what_may_go() {
            self.journal.compact(Compaction {
                snapshot: self.snapshot,
                drop_upto: self.log.prev(),
            });
        }
    }

    fn drop_what_may_go(&mut self) -> bool {
        let upto = self.drop_upto.min(self.journal.unwritten_from().prev());
        let some = upto > self.log.prev().index;
        if some {
            self.log.compact(upto);
        }
        some
    }

    /// The write that makes a snapshot, or a later state, durable here.
    fn covers_installed(&self, last_included: LogId) -> WriteId {
        self.journal.covers_log(last_included.index)
    }

    /// As leader: the follower has everything up to `last_included`, durably.
    fn on_installed(&mut self, from: NodeId, last_included: LogId) {
        let (now, last, log_prev) = (self.now, self.log.last().index, self.log.prev().index);
        if last_included.index > self.snapshot.index {
            return self.complain(from, "the installation of what was never sent");
        }
        let Some(progress) = self.progress.get_mut(&from) else {
            return;
        };
        let ends_transfer = progress.state == (ProgressState::Snapshot { last_included });
        if progress.accepted(last_included.index, last, log_prev, now, &self.config) {
            self.advance_commit();
        }
        // Compacted further meanwhile: probing will find that another snapshot is needed.
        if ends_transfer {
            self.progress_of(from).transfer_ended();
        }
    }

    /// The entry up to which receivers of a snapshot will have everything.
    ///
    /// A follower in the pause after a transfer that failed is none: the next one is of the latest snapshot,
    /// so nothing before that is needed. It is another snapshot than before if one was taken in the pause, and
    /// then what the follower kept of the older one is worthless. Where a link breaks every transfer, and
    /// every pause brings a snapshot, the follower gets on only once a transfer gets through in one go.
    fn needed_by_receivers(&self) -> Option<LogIndex> {
        let receiving = self
            .progress
            .values()
            .filter_map(|progress| match progress.state {
                ProgressState::Snapshot { last_included } => Some(last_included.index),
                _ => None,
            });
        receiving.min()
    }
}
