//! [`CallState`]: how far a call is, between the threads that ask about it and the one that
//! answers.

use super::sync::atomic::{AtomicU64, Ordering};

/// The connection's book holds an entry for the call.
const IN_BOOK: u64 = 1;
/// The call has been answered, or is about to be.
const ANSWERED: u64 = 2;
/// There is metadata for the reply.
const REPLY_METADATA: u64 = 4;

/// Where the number of that entry stands, above the flags.
const ENTRY_SHIFT: u32 = 3;

/// The three flags of a call that threads set while it runs, and which of the book's entries is
/// its.
pub(super) struct CallState(AtomicU64);

/// Whether a call may be entered into the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entering {
    /// It was not there, and has to be put there.
    First,
    /// It is there already, under this number.
    Again(u64),
    Answered,
}

impl CallState {
    /// Of a call that begins.
    pub(super) fn new() -> CallState {
        CallState(AtomicU64::new(0))
    }

    /// Marks the call as being in the book, under the number `next_entry` if it is not there yet.
    /// The caller holds the book's lock, so that one who answers meanwhile finds the entry when it
    /// has the lock.
    pub(super) fn enter_book(&self, next_entry: u64) -> Entering {
        let entering = |state| match state & (ANSWERED | IN_BOOK) {
            0 => Some(state | IN_BOOK | (next_entry << ENTRY_SHIFT)),
            IN_BOOK => Some(state),
            _ => None,
        };
        let entered = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, entering);
        match entered {
            Ok(before) if before & IN_BOOK == 0 => Entering::First,
            Ok(before) => Entering::Again(before >> ENTRY_SHIFT),
            Err(_) => Entering::Answered,
        }
    }

    /// Marks the call as answered. The entry that it has in the book it has to leave.
    #[must_use]
    pub(super) fn answer(&self) -> Option<u64> {
        let before = self.0.fetch_or(ANSWERED, Ordering::AcqRel);
        (before & IN_BOOK != 0).then_some(before >> ENTRY_SHIFT)
    }

    /// There is metadata for the reply from now on.
    pub(super) fn note_reply_metadata(&self) {
        self.0.fetch_or(REPLY_METADATA, Ordering::Release);
    }

    pub(super) fn has_reply_metadata(&self) -> bool {
        self.0.load(Ordering::Acquire) & REPLY_METADATA != 0
    }
}
