//! [`Share`]: how much a source may move before the others of its loop have their turn.
//!
//! Large messages cost least in large pieces. But whoever calls another source meanwhile waits for
//! the piece to end, so they are small as long as somebody else uses the loop, too.

use std::time::{Duration, Instant};

use super::SourceId;

/// What a source may move in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Bytes read from its socket.
    pub(crate) read_bytes: usize,
    /// Bytes written to it in one go.
    pub(crate) write_bytes: usize,
    /// Frames taken off its input. What their handlers do takes time as well.
    frames: usize,
}

/// So many frames are always part of a turn: each costs a write, and a wake at the peer.
const FRAMES_MIN: usize = 32;

/// What larger turns look at and put together should stay in the first caches.
const FRAME_BYTES_MAX: usize = 32 << 10;

impl Share {
    /// Of a source that has a thread for itself.
    pub(crate) const ALONE: Share = Share {
        read_bytes: 256 << 10,
        write_bytes: 1 << 20,
        frames: 256,
    };

    /// Of one of several.
    pub(super) const AMONG_OTHERS: Share = Share {
        read_bytes: 64 << 10,
        write_bytes: 64 << 10,
        frames: FRAMES_MIN,
    };
}

/// What one turn takes of the frames that have arrived on a connection: half of them, if they are not
/// few. Then what they led to leaves, so that the peer has something to do while the other half is
/// looked at, and both work at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    frames_max: usize,
    /// Bytes of the other half.
    rest: usize,
}

impl Batch {
    /// Of so many bytes that have arrived.
    pub(crate) fn of(unread: usize, share: Share) -> Batch {
        Batch {
            frames_max: share.frames,
            rest: unread - (unread / 2).min(FRAME_BYTES_MAX),
        }
    }

    /// Whether another frame is part of it, after `taken` ones, with so many bytes unread.
    pub(crate) fn goes_on(self, taken: usize, unread: usize) -> bool {
        taken < FRAMES_MIN || (taken < self.frames_max && unread > self.rest)
    }
}

/// Whoever was called so lately is likely to be called again.
const COMPANY_LASTS: Duration = Duration::from_millis(100);

/// Whether a loop has served several sources lately.
#[derive(Debug, Default)]
pub(super) struct Company {
    latest: Option<SourceId>,
    /// When it turned last from one to another.
    turned_at: Option<Instant>,
}

impl Company {
    /// A source has something to do.
    pub(super) fn called(&mut self, id: SourceId, now: Instant) {
        if self.latest.is_some_and(|latest| latest != id) {
            self.turned_at = Some(now);
        }
        self.latest = Some(id);
    }

    /// What each source may move now.
    pub(super) fn share(&self, now: Instant) -> Share {
        let lately = |at| now.saturating_duration_since(at) < COMPANY_LASTS;
        if self.turned_at.is_some_and(lately) {
            Share::AMONG_OTHERS
        } else {
            Share::ALONE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(slot: u32) -> SourceId {
        SourceId {
            slot,
            generation: 0,
        }
    }

    /// How many of `waiting` frames of `bytes` each a turn takes.
    fn taken(waiting: usize, bytes: usize, share: Share) -> usize {
        let batch = Batch::of(waiting * bytes, share);
        let goes_on = |&taken: &usize| batch.goes_on(taken, (waiting - taken) * bytes);
        (0..waiting).take_while(goes_on).count()
    }

    #[test]
    fn a_turn_takes_half_of_what_waits_within_bounds() {
        for (waiting, bytes, expected) in [
            (10, 50, 10),
            (40, 50, 32),
            (100, 50, 50),
            (1000, 50, 256),
            (128, 1024, 32),
            (2000, 200, 164),
        ] {
            let case = format!("{waiting} frames of {bytes} bytes");
            assert_eq!(taken(waiting, bytes, Share::ALONE), expected, "{case}");
            let among_others = taken(waiting, bytes, Share::AMONG_OTHERS);
            assert_eq!(among_others, waiting.min(32), "{case}");
        }
    }

    #[test]
    fn a_source_alone_keeps_its_large_share() {
        let mut company = Company::default();
        let now = Instant::now();
        for _ in 0..3 {
            company.called(source(1), now);
            assert_eq!(company.share(now), Share::ALONE);
        }
    }

    #[test]
    fn shares_are_small_from_the_first_call_of_another_until_there_is_none() {
        let mut company = Company::default();
        let now = Instant::now();
        company.called(source(1), now);
        company.called(source(2), now);
        for after in [Duration::ZERO, COMPANY_LASTS / 2] {
            company.called(source(1), now + after);
            assert_eq!(company.share(now + after), Share::AMONG_OTHERS);
        }
        let later = now + COMPANY_LASTS / 2 + COMPANY_LASTS;
        company.called(source(1), later);
        assert_eq!(company.share(later), Share::ALONE);
    }
}
