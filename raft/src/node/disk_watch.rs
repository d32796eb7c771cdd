//! Notices a disk that hangs without an error.
//!
//! A leader whose disk hangs goes on sending heartbeats, so nobody replaces it, though it holds up
//! every commit that needs its copy. So it resigns. It cannot come back before its disk does: its
//! requests for votes wait for a durable term.

use std::time::{Duration, Instant};

use crate::core::WriteId;

/// Writes handed over and reported, and since when nothing has moved.
pub(super) struct DiskWatch {
    handed_over: WriteId,
    written: WriteId,
    /// When the disk last finished a write, or got one to do after it had none.
    moved_at: Instant,
    limit: Duration,
}

impl DiskWatch {
    /// A write may take `limit` before the disk counts as hanging.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self {
            handed_over: WriteId::ZERO,
            written: WriteId::ZERO,
            moved_at: now,
            limit,
        }
    }

    pub(super) fn handed_over(&mut self, write: WriteId, now: Instant) {
        if self.in_flight() == 0 {
            self.moved_at = now;
        }
        self.handed_over = write;
    }

    pub(super) fn written(&mut self, write: WriteId, now: Instant) {
        self.written = write;
        self.moved_at = now;
    }

    /// Writes handed over and not yet reported.
    pub(super) fn in_flight(&self) -> u64 {
        self.handed_over.get() - self.written.get()
    }

    /// For how long the disk has been at one write, if that is longer than it may.
    pub(super) fn hangs_for(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.moved_at);
        (self.in_flight() > 0 && waited > self.limit).then_some(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
