//! [`CallState`]: how far a call is, between the threads that ask about it and the one that
//! answers.

use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The connection's book holds an entry for the call.
const IN_BOOK: u64 = 1;
/// The call has been answered, or is about to be.
const ANSWERED: u64 = 2;
/// Where the number of that entry stands, above the flags.
const ENTRY_SHIFT: u32 = 2;

/// What threads set of a call while it runs.
pub(super) struct CallState {
    /// Two flags, and which of the book's entries is its.
    book: AtomicU64,
    /// There is metadata for the reply.
    reply_metadata: AtomicBool,
}

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
        CallState {
            book: AtomicU64::new(0),
            reply_metadata: AtomicBool::new(false),
        }
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
            .book
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
        // Nobody asks any more for an entry that it had. A swap is one instruction; to add a flag
        // and learn what was there is a loop.
        let before = self.book.swap(ANSWERED, Ordering::AcqRel);
        (before & IN_BOOK != 0).then_some(before >> ENTRY_SHIFT)
    }

    /// There is metadata for the reply from now on.
    pub(super) fn note_reply_metadata(&self) {
        self.reply_metadata.store(true, Ordering::Release);
    }

    pub(super) fn has_reply_metadata(&self) -> bool {
        self.reply_metadata.load(Ordering::Acquire)
    }
}
