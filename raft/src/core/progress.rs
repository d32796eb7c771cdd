//! What a leader knows of one follower, and how much it may send to it.
//!
//! ```text
//!             accepted                       needs a compacted entry
//!   ┌───────┐ ───────────────> ┌───────────┐ ──────────────┐
//!   │ Probe │                  │ Replicate │               v
//!   └───────┘ <─────────────── └───────────┘         ┌──────────┐
//!     │   ^    rejected, lost,       ^               │ Snapshot │
//!     │   │    window stuck          └────────────── └──────────┘
//!     │   └── transfer failed ──── installed, or caught up │  ^
//!     └──────────────── needs a compacted entry ───────────┘──┘
//! ```
//!
//! - **Probe**: the follower's position is a guess, or the way to it is doubtful. One message, then
//!   wait for its answer.
//! - **Replicate**: the position is known. Messages are pipelined: `next_index` runs ahead of
//!   `match_index`, within a window of messages and bytes.
//! - **Snapshot**: the follower needs entries that are compacted away. The driver streams a file;
//!   nothing but heartbeats is sent meanwhile.
//!
//! Whatever its state, a follower that says it is *full* gets nothing but heartbeats. They are the
//! probe: their answers tell when it has room again, and no entry travels in vain.
//!
//! No message is sent again because a clock says so while its peer is silent: a resend needs a sign
//! of life (any reply), or the driver's word that the call was lost.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::types::{Entry, LogId, LogIndex, Millis};

/// The longest pause between two transfers of a snapshot to one follower. What keeps failing needs an
/// operator (a larger disk, say), who should not wait for longer once it is mended.
const SNAPSHOT_RETRY_MS_MAX: u64 = 15_000;

/// One follower, as its leader sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The follower's log equals ours up to here, durably. Never falls within a term.
    pub(super) match_index: LogIndex,
    /// The next entry to send. `match_index < next_index <= log.last().index + 1`.
    pub(super) next_index: LogIndex,
    pub(super) state: ProgressState,
    /// Entries sent in `Replicate` and not acknowledged, oldest first.
    inflight: VecDeque<Inflight>,
    /// Sum over `inflight`.
    inflight_bytes: usize,
    /// By its latest answer, it takes no entries.
    full: bool,
    /// After this an unanswered message counts as lost, if the follower is heard at all.
    resend_at: Millis,
    /// Before this no other transfer of a snapshot is started.
    snapshot_retry_at: Millis,
    /// Transfers that have failed, since one last brought the follower on.
    failed_transfers: u32,
    /// The snapshot sent last, and the furthest offset at which a transfer of it began: what the follower
    /// kept of those before.
    kept: (LogId, u64),
    /// The follower has answered in the transfer under way.
    is_transfer_answered: bool,
    /// When a reply of this term last came (`CheckQuorum`, thesis §6.2).
    pub(super) last_heard: Millis,
    /// The latest round of reads that this follower has confirmed (thesis §6.4).
    pub(super) acked_round: u64,
    catch_up: CatchUp,
}

/// How fast a follower closes in (thesis §4.2.1): in rounds, each up to where our log ended when
/// the one before was through.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CatchUp {
    /// The running round ends here.
    goal: LogIndex,
    began: Millis,
    /// The time that the last round took, in milliseconds.
    took_ms: Option<u64>,
}

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ProgressState {
    /// `waiting`: the one message is out, or was lost.
    Probe {
        waiting: bool,
    },
    Replicate,
    Snapshot {
        last_included: LogId,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Inflight {
    last: LogIndex,
    bytes: usize,
}

impl Progress {
    /// A new leader's guess: the follower's log is like ours (Fig. 2, *volatile state on leaders*).
    pub(super) fn new(next_index: LogIndex, now: Millis) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            next_index,
            state: ProgressState::Probe { waiting: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            full: false,
            resend_at: now,
            snapshot_retry_at: now,
            failed_transfers: 0,
            kept: (LogId::ZERO, 0),
            is_transfer_answered: false,
            last_heard: now,
            acked_round: 0,
            catch_up: CatchUp {
                goal: next_index.prev(),
                began: now,
                took_ms: None,
            },
        }
    }

    /// Whether a reply came within the last `within_ms`.
    pub(super) fn is_heard(&self, now: Millis, within_ms: u64) -> bool {
        now.since(self.last_heard) < within_ms
    }

    /// Whether it would hold up no commit as a voter: it has everything, or its last round took
    /// less than `round_ms` and the running one has not taken longer either.
    pub(super) fn is_caught_up(&self, last: LogIndex, now: Millis, round_ms: u64) -> bool {
        let running_ms = now.since(self.catch_up.began);
        let is_fast = self.catch_up.took_ms.is_some_and(|took| took < round_ms);
        self.match_index == last || (is_fast && running_ms < round_ms)
    }

    /// Whether entries may be sent now.
    pub(super) fn may_send(&self, config: &Config) -> bool {
        match self.state {
            _ if self.full => false,
            ProgressState::Probe { waiting } => !waiting,
            ProgressState::Replicate => {
                self.inflight.len() < config.max_inflight_messages
                    && self.inflight_bytes < config.max_inflight_bytes
            }
            ProgressState::Snapshot { .. } => false,
        }
    }

    /// `entries`, starting at `next_index`, were sent.
    pub(super) fn sent(&mut self, entries: &[Entry], now: Millis, config: &Config) {
        let last = entries
            .last()
            .expect("only messages with entries are counted")
            .id
            .index;
        let resend_at = now.plus(config.election_timeout_ms.1);
        match &mut self.state {
            ProgressState::Probe { waiting } => {
                *waiting = true;
                self.resend_at = resend_at;
            }
            ProgressState::Replicate => {
                if self.inflight.is_empty() {
                    self.resend_at = resend_at;
                }
                let bytes = entries.iter().map(Entry::size_bytes).sum();
                self.inflight.push_back(Inflight { last, bytes });
                self.inflight_bytes += bytes;
                self.next_index = last.next();
            }
            ProgressState::Snapshot { .. } => unreachable!("may_send() was asked first"),
        }
    }

    /// The follower has everything up to `match_index`, at most `last_index`, durably. True if that
    /// is news. A sign of life in any case, and so the moment to send again what was lost.
    pub(super) fn accepted(
        &mut self,
        match_index: LogIndex,
        last_index: LogIndex,
        log_prev: LogIndex,
        now: Millis,
        config: &Config,
    ) -> bool {
        if match_index <= self.match_index {
            self.resume(last_index, now);
            return false;
        }
        self.match_index = match_index;
        self.failed_transfers = 0;
        if match_index >= self.catch_up.goal {
            self.catch_up = CatchUp {
                goal: last_index,
                began: now,
                took_ms: Some(now.since(self.catch_up.began)),
            };
        }
        while let Some(message) = self
            .inflight
            .pop_front_if(|message| message.last <= match_index)
        {
            self.inflight_bytes -= message.bytes;
        }
        self.resend_at = now.plus(config.election_timeout_ms.1);
        match self.state {
            ProgressState::Probe { .. } => self.replicate(),
            ProgressState::Replicate => self.next_index = self.next_index.max(match_index.next()),
            // Found its way by the log, or by an earlier snapshot (failure 88).
            ProgressState::Snapshot { .. } if match_index >= log_prev => self.replicate(),
            ProgressState::Snapshot { .. } => {
                self.next_index = self.next_index.max(match_index.next());
            }
        }
        true
    }

    /// Its latest answer says whether it takes entries. What is under way to a follower that is full it
    /// may leave out, so once it has room one message finds out what it lacks.
    pub(super) fn set_full(&mut self, full: bool) {
        self.full = full;
        match &mut self.state {
            _ if !full => {}
            // It has a better idea already of where to go on.
            ProgressState::Probe { waiting } => *waiting = false,
            ProgressState::Replicate => self.back_up(self.match_index.next()),
            ProgressState::Snapshot { .. } => {}
        }
    }

    /// The follower has no such entry before `next_index`; go on from `next_index`.
    pub(super) fn back_up(&mut self, next_index: LogIndex) {
        self.probe();
        self.next_index = next_index.max(self.match_index.next());
    }

    /// Whether `rejected` answers what this follower was asked, and not an older question.
    pub(super) fn is_answered_by(&self, rejected: LogIndex) -> bool {
        match self.state {
            ProgressState::Probe { .. } => rejected == self.next_index.prev(),
            ProgressState::Replicate => rejected < self.next_index,
            ProgressState::Snapshot { .. } => false,
        }
    }

    /// A call was lost. Nothing goes out again before the follower is heard.
    pub(super) fn lost(&mut self, now: Millis) {
        match self.state {
            ProgressState::Probe { .. } => {}
            ProgressState::Replicate => self.back_up(self.match_index.next()),
            // The driver reports the transfer's end by itself.
            ProgressState::Snapshot { .. } => return,
        }
        self.state = ProgressState::Probe { waiting: true };
        self.resend_at = now;
    }

    /// The driver streams `last_included` from now on.
    pub(super) fn send_snapshot(&mut self, last_included: LogId) {
        self.clear_inflight();
        if self.kept.0 != last_included {
            self.kept = (last_included, 0);
        }
        self.is_transfer_answered = false;
        self.state = ProgressState::Snapshot { last_included };
    }

    /// Whether a snapshot may be sent: a transfer that cannot succeed is not tried in a loop.
    pub(super) fn may_send_snapshot(&self, now: Millis) -> bool {
        now >= self.snapshot_retry_at
    }

    /// It holds so many bytes of a snapshot. The first answer of a transfer tells what it has kept of the
    /// earlier ones: as long as that is ever more, transfers get on, and the next may come soon.
    ///
    /// What it takes after that proves nothing. A disk that is too small takes nearly all each time, of a
    /// larger snapshot even more, and keeps none of it.
    pub(super) fn holds_of_snapshot(&mut self, last_included: LogId, bytes: u64) {
        if self.state != (ProgressState::Snapshot { last_included })
            || std::mem::replace(&mut self.is_transfer_answered, true)
        {
            return;
        }
        if bytes > self.kept.1 {
            self.kept.1 = bytes;
            self.failed_transfers = 0;
        }
    }

    /// The transfer failed: probe again when the follower is heard, but send no snapshot before an
    /// election timeout has passed, and twice as long after each further failure: all that a follower
    /// cannot keep (its disk is too small, say) would travel again each time.
    pub(super) fn snapshot_failed(&mut self, now: Millis, config: &Config) {
        let doubled = 1_u64.checked_shl(self.failed_transfers).unwrap_or(u64::MAX);
        let pause_ms = config.election_timeout_ms.1.saturating_mul(doubled);
        let longest_ms = SNAPSHOT_RETRY_MS_MAX.max(config.election_timeout_ms.1);
        self.pause_transfers(now, pause_ms.min(longest_ms));
        self.failed_transfers = self.failed_transfers.saturating_add(1);
    }

    /// The transfer was not begun, so it says nothing of the follower: the next pause is none the longer.
    pub(super) fn snapshot_postponed(&mut self, now: Millis, config: &Config) {
        self.pause_transfers(now, config.election_timeout_ms.1);
    }

    fn pause_transfers(&mut self, now: Millis, pause_ms: u64) {
        self.state = ProgressState::Probe { waiting: true };
        self.resend_at = now;
        self.snapshot_retry_at = now.plus(pause_ms);
    }

    /// The transfer ended well. If that changed nothing else, probing finds out what is needed.
    pub(super) fn transfer_ended(&mut self) {
        if let ProgressState::Snapshot { .. } = self.state {
            self.probe();
        }
    }

    /// A reply without news. Sends again what is overdue.
    fn resume(&mut self, last_index: LogIndex, now: Millis) {
        let overdue = now >= self.resend_at;
        match self.state {
            ProgressState::Probe { waiting: true } if overdue => {
                if self.match_index == last_index {
                    self.replicate();
                } else {
                    self.probe();
                }
            }
            ProgressState::Replicate if overdue && !self.inflight.is_empty() => {
                self.back_up(self.match_index.next());
            }
            _ => {}
        }
    }

    fn probe(&mut self) {
        self.clear_inflight();
        self.state = ProgressState::Probe { waiting: false };
    }

    fn replicate(&mut self) {
        self.clear_inflight();
        self.state = ProgressState::Replicate;
        self.next_index = self.match_index.next();
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }
}
