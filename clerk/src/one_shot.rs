//! One result, from the event loop that has it to the thread that waits for it.
//!
//! A channel of capacity one would do; but its receiver yields the CPU several times before it
//! sleeps, and with hundreds of waiting threads that was half of the process's CPU time.

use std::sync::Arc;
use std::thread::{self, Thread};

use parking_lot::Mutex;

/// Gives the result. Dropped without giving one, it ends the wait.
pub(crate) struct Giver<T>(Arc<Slot<T>>);

/// Waits for the result; belongs to the thread that made it.
pub(crate) struct Taker<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    taker: Thread,
}

enum State<T> {
    Awaited,
    Given(T),
    /// The giver is gone, and what it gave, if anything, is taken.
    Over,
}

/// A result that the calling thread will wait for.
pub(crate) fn one_shot<T>() -> (Giver<T>, Taker<T>) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State::Awaited),
        taker: thread::current(),
    });
    (Giver(Arc::clone(&slot)), Taker(slot))
}

impl<T> Giver<T> {
    pub(crate) fn give(self, result: T) {
        *self.0.state.lock() = State::Given(result);
        // Dropping `self` wakes the taker.
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            if matches!(*state, State::Awaited) {
                *state = State::Over;
            }
        }
        self.0.taker.unpark();
    }
}

impl<T> Taker<T> {
    /// Blocks until the result is there; `None` if it never will be.
    pub(crate) fn take(self) -> Option<T> {
        loop {
            let mut state = self.0.state.lock();
            if !matches!(*state, State::Awaited) {
                return match std::mem::replace(&mut *state, State::Over) {
                    State::Given(result) => Some(result),
                    State::Awaited | State::Over => None,
                };
            }
            drop(state);
            // May return without reason, or for an `unpark` meant for an earlier wait.
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_given_before_or_after_the_wait_began_is_taken() {
        let (giver, taker) = one_shot();
        giver.give(1);
        assert_eq!(taker.take(), Some(1));

        let (giver, taker) = one_shot();
        let other = thread::spawn(move || giver.give(2));
        assert_eq!(taker.take(), Some(2));
        other.join().unwrap();
    }

    #[test]
    fn a_giver_that_goes_away_ends_the_wait() {
        let (giver, taker) = one_shot::<u8>();
        let other = thread::spawn(move || drop(giver));
        assert_eq!(taker.take(), None);
        other.join().unwrap();
    }

    #[test]
    fn a_stray_unpark_does_not_end_the_wait() {
        thread::current().unpark();
        let (giver, taker) = one_shot();
        let other = thread::spawn(move || giver.give(3));
        assert_eq!(taker.take(), Some(3));
        other.join().unwrap();
    }
}
