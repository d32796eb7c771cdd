//! Notices disks that hold things up: this node's own, and those of a majority.
//!
//! A leader whose disk hangs or is full goes on sending heartbeats, so nobody replaces it, though it
//! holds up every commit that needs its copy. So it resigns. It cannot come back before its disk
//! does: its requests for votes wait for a durable term. ([`DiskWatch`])
//!
//! A full disk holds nothing up at once, so there is time to hand over well: the leader takes no more
//! writes, and goes once the others have committed those that it took and its own disk has not. Then a
//! majority of them has room, and a successor among them has everything. Until then nobody would lead
//! better; it stays.
//!
//! When the disks of a majority hang or are full, nobody can lead better. The leader stays, for reads
//! and for the moment when the disks answer, but takes no more writes: they could only end as
//! "unknown", while a refusal is certain. ([`CommitWatch`])

use std::time::{Duration, Instant};

use crate::core::{LogIndex, Raft, Role, WriteId};
use crate::node::Refusal;

/// Writes handed over and reported, and since when nothing has moved.
#[derive(Clone, Debug)]
pub struct DiskWatch {
    handed_over: WriteId,
    written: WriteId,
    /// When the disk last finished a write, or got one to do after it had none.
    moved_at: Instant,
    /// The log writer waits for room.
    full: bool,
    limit: Duration,
}

impl DiskWatch {
    /// A write may take `limit` before the disk counts as hanging.
    #[must_use]
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self {
            handed_over: WriteId::ZERO,
            written: WriteId::ZERO,
            moved_at: now,
            full: false,
            limit,
        }
    }

    /// The log writer has got a write to do.
    pub fn handed_over(&mut self, write: WriteId, now: Instant) {
        if self.in_flight() == 0 {
            self.moved_at = now;
        }
        self.handed_over = write;
    }

    /// The log writer has reported that everything up to this write is durable.
    pub fn written(&mut self, write: WriteId, now: Instant) {
        self.written = write;
        self.moved_at = now;
        self.full = false;
    }

    /// The log writer has no space for its next write.
    pub fn ran_full(&mut self) {
        self.full = true;
    }

    /// Whether it still has none, as far as this thread has heard.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Writes handed over and not yet reported.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.handed_over.get() - self.written.get()
    }

    /// For how long the disk has been at one write, if that is longer than it may. One that is full
    /// does not hang: it answers.
    #[must_use]
    pub fn hangs_for(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.moved_at);
        (self.in_flight() > 0 && !self.full && waited > self.limit).then_some(waited)
    }

    /// Whether a leader's disk is full and the others have committed what it took: it should resign, and
    /// they lead on while it waits for room.
    #[must_use]
    pub fn others_can_lead(&self, raft: &Raft) -> bool {
        self.full && raft.is_stored_by_others()
    }
}

/// Notices that nothing is committed though something waits for it.
#[derive(Clone, Debug)]
pub struct CommitWatch {
    commit_index: LogIndex,
    /// When the commit index last rose, or last had nothing to rise to.
    moved_at: Instant,
    limit: Duration,
    stalled: bool,
}

impl CommitWatch {
    /// An entry may take `limit` to be committed before commits count as stalled.
    #[must_use]
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self {
            commit_index: LogIndex::ZERO,
            moved_at: now,
            limit,
            stalled: false,
        }
    }

    /// Looks at the core as it is now.
    pub fn watch(&mut self, raft: &Raft, now: Instant) {
        let leads = raft.role() == Role::Leader;
        self.observe(leads, raft.commit_index(), raft.last_log().index, now);
    }

    /// What the core says now. `last_index` is where its log ends; `leads`: only a leader's entries
    /// wait for a majority's disks.
    fn observe(&mut self, leads: bool, commit_index: LogIndex, last_index: LogIndex, now: Instant) {
        if !leads || commit_index != self.commit_index || commit_index == last_index {
            self.commit_index = commit_index;
            self.moved_at = now;
        }
        let waited = now.saturating_duration_since(self.moved_at);
        let stalled = waited > self.limit;
        if stalled && !self.stalled {
            tracing::error!(
                %commit_index, %last_index, waited_ms = waited.as_millis(),
                "no majority of the nodes stores what this leader sends; it takes no writes until \
                 one does: see to the others' disks and links"
            );
        } else if self.stalled && !stalled {
            tracing::info!(%commit_index, "a majority stores again; writes are taken");
        }
        self.stalled = stalled;
    }

    /// Whether one more proposal would only wait with the others.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }
}

/// Why this node, if it leads, takes no proposal at the moment.
#[must_use]
pub fn why_no_writes(raft: &Raft, disk: &DiskWatch, commits: &CommitWatch) -> Option<Refusal> {
    if raft.role() != Role::Leader {
        return None;
    }
    // It resigns as soon as somebody else can lead. Where its disk lacks no entry (what has no space
    // is a compaction, say), it takes one: that shows whether others have room.
    let lacks_entries = raft.durable_index() < raft.last_log().index;
    if disk.is_full() && lacks_entries {
        Some(Refusal::DiskFull)
    } else if commits.is_stalled() {
        Some(Refusal::Stalled)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Config, Membership, Millis, NodeId, Restored};

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn a_disk_hangs_when_one_write_takes_longer_than_the_limit() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut watch = DiskWatch::new(LIMIT, start);
        assert_eq!(
            watch.hangs_for(after(9_000)),
            None,
            "nothing to do is not hanging"
        );

        watch.handed_over(WriteId::new(1), after(9_000));
        watch.handed_over(WriteId::new(2), after(9_900));
        assert_eq!(watch.hangs_for(after(10_000)), None);
        assert_eq!(
            watch.hangs_for(after(10_001)),
            Some(Duration::from_millis(1_001))
        );

        watch.written(WriteId::new(1), after(10_100));
        assert_eq!(watch.hangs_for(after(11_000)), None, "slow, but it moves");
        assert!(watch.hangs_for(after(11_200)).is_some());
        watch.written(WriteId::new(2), after(11_300));
        assert_eq!(watch.hangs_for(after(99_000)), None);
    }

    #[test]
    fn a_disk_is_full_until_its_next_write_is_done() {
        let start = Instant::now();
        let mut watch = DiskWatch::new(LIMIT, start);
        watch.handed_over(WriteId::new(1), start);
        watch.handed_over(WriteId::new(2), start);
        watch.written(WriteId::new(1), start);
        assert!(!watch.is_full());
        watch.ran_full();
        assert!(watch.is_full());
        let much_later = start + LIMIT * 9;
        assert_eq!(watch.hangs_for(much_later), None, "it answers");
        watch.written(WriteId::new(2), start);
        assert!(!watch.is_full());
    }

    /// A leader without others, whose disk has all of its log.
    fn leader() -> Raft {
        let id = NodeId::new(1);
        let members = Membership::of_voters([(id, "127.0.0.1:1".to_owned())]).unwrap();
        let config = Config::new(id, members);
        let mut raft = Raft::new(config, Restored::default(), 1, Millis::ZERO).unwrap();
        raft.tick(raft.next_deadline());
        while let Some(batch) = raft.take_write() {
            raft.persisted(batch.id);
        }
        assert_eq!(raft.role(), Role::Leader);
        raft
    }

    /// Where a vote or a compaction has no space, nobody knows whether an entry would have: the others may
    /// store it. One is let in, and shows it.
    #[test]
    fn a_leader_with_a_full_disk_that_lacks_no_entry_takes_one() {
        let (mut raft, start) = (leader(), Instant::now());
        let mut disk = DiskWatch::new(LIMIT, start);
        let commits = CommitWatch::new(LIMIT, start);
        disk.ran_full();
        assert_eq!(why_no_writes(&raft, &disk, &commits), None);
        assert!(
            !disk.others_can_lead(&raft),
            "nothing shows that others have room"
        );

        raft.propose("one".into()).unwrap();
        assert_eq!(
            why_no_writes(&raft, &disk, &commits),
            Some(Refusal::DiskFull)
        );
        let batch = raft.take_write().unwrap();
        raft.persisted(batch.id);
        assert_eq!(
            why_no_writes(&raft, &disk, &commits),
            None,
            "its disk lacks nothing"
        );
    }

    #[test]
    fn commits_stall_when_one_takes_longer_than_the_limit() {
        let start = Instant::now();
        let mut watch = CommitWatch::new(LIMIT, start);
        let mut stalls = |leads, commit, last, ms| {
            let now = start + Duration::from_millis(ms);
            watch.observe(leads, LogIndex::new(commit), LogIndex::new(last), now);
            watch.is_stalled()
        };
        assert!(!stalls(true, 5, 5, 9_000), "nothing waits");
        assert!(!stalls(true, 5, 6, 9_001));
        assert!(!stalls(true, 5, 7, 10_000));
        assert!(stalls(true, 5, 7, 10_001), "since 9,000");
        assert!(!stalls(true, 6, 7, 10_100), "one is committed");
        assert!(!stalls(true, 6, 7, 11_100), "slow, but it moves");
        assert!(stalls(true, 6, 9, 11_101));
        assert!(!stalls(false, 6, 9, 11_102), "leads no longer");
        assert!(!stalls(true, 6, 9, 12_102));
        assert!(stalls(true, 6, 9, 12_103));
        assert!(!stalls(true, 9, 9, 12_200), "all is committed");
    }
}
