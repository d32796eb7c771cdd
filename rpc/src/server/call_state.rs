//! [`CallState`]: how far a call is, between the threads that ask about it and the one that answers.

use super::sync::atomic::{AtomicU8, Ordering};

/// The connection's book holds an entry for the call.
const IN_BOOK: u8 = 1;
/// The call has been answered, or is about to be.
const ANSWERED: u8 = 2;
/// There is metadata for the reply.
const REPLY_METADATA: u8 = 4;

/// The three flags of a call that threads set while it runs.
pub(super) struct CallState(AtomicU8);

/// Whether a call may be entered into the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entering {
    /// It was not there, and has to be put there.
    First,
    Again,
    Answered,
}

impl CallState {
    /// Of a call that begins.
    pub(super) fn new() -> CallState {
        CallState(AtomicU8::new(0))
    }

    /// Marks the call as being in the book. The caller holds the book's lock, so that one who
    /// answers meanwhile finds the entry when it has the lock.
    pub(super) fn enter_book(&self) -> Entering {
        let entering = |state| (state & ANSWERED == 0).then_some(state | IN_BOOK);
        let entered = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, entering);
        match entered {
            Ok(before) if before & IN_BOOK == 0 => Entering::First,
            Ok(_) => Entering::Again,
            Err(_) => Entering::Answered,
        }
    }

    /// Marks the call as answered; `true`: it is in the book, which it has to leave.
    #[must_use]
    pub(super) fn answer(&self) -> bool {
        self.0.fetch_or(ANSWERED, Ordering::AcqRel) & IN_BOOK != 0
    }

    /// There is metadata for the reply from now on.
    pub(super) fn note_reply_metadata(&self) {
        self.0.fetch_or(REPLY_METADATA, Ordering::Release);
    }

    pub(super) fn has_reply_metadata(&self) -> bool {
        self.0.load(Ordering::Acquire) & REPLY_METADATA != 0
    }
}
