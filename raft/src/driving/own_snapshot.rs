//! When a node takes snapshots of its own state: one at a time, and after one that failed not at once.

use std::time::{Duration, Instant};

/// After a snapshot failed (disk full, say) the next try waits this long.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);

/// The snapshot of this node's own state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnSnapshot {
    /// None is being taken.
    #[default]
    Idle,
    /// The state machine is taking one.
    Running,
    /// The last one failed at that time.
    Failed(Instant),
}

impl OwnSnapshot {
    /// Whether one that is due may be started.
    #[must_use]
    pub fn may_start(self, now: Instant) -> bool {
        self != Self::Running && self.pause_left(now).is_zero()
    }

    /// How long one that is due must wait, for the last one failed.
    #[must_use]
    pub fn pause_left(self, now: Instant) -> Duration {
        match self {
            Self::Idle | Self::Running => Duration::ZERO,
            Self::Failed(at) => SNAPSHOT_RETRY.saturating_sub(now.saturating_duration_since(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_failed_is_tried_again_after_a_pause() {
        let start = Instant::now();
        assert!(OwnSnapshot::Idle.may_start(start));
        assert!(!OwnSnapshot::Running.may_start(start + SNAPSHOT_RETRY * 9));
        let failed = OwnSnapshot::Failed(start);
        assert!(!failed.may_start(start + SNAPSHOT_RETRY / 2));
        assert!(failed.may_start(start + SNAPSHOT_RETRY));
    }
}
