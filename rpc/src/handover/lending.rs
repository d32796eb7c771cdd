//! [`Lending`]: one thing that its owner lends to whoever comes first, and gets back.
//!
//! ```text
//!            lend             borrow
//!   Home ──────────► Idle ◄──────────► Lent
//!    ▲                │     give back    │ give back, of what is wanted back or must not be lent on
//!    │     fetch      │                  ▼
//!    └────────────────┴───────────── Returned
//! ```
//!
//! That it is in one hand at a time needs no lock of its own: it is moved. What can go wrong is that
//! one who has it does not hear that it is wanted, or that the owner does not hear of its return.

use super::sync::Mutex;
use super::sync::atomic::{AtomicBool, Ordering};

/// A thing, or where it is. `W` is what wakes the one who has it.
pub(crate) struct Lending<T, W> {
    state: Mutex<State<T, W>>,
    /// The state is `Idle`. Changed under the lock, looked at without it.
    idle: AtomicBool,
}

enum State<T, W> {
    /// The owner has it.
    Home,
    /// Whoever comes first.
    Idle {
        it: T,
        /// Since the owner looked last.
        used: bool,
    },
    /// A borrower.
    Lent {
        waker: W,
        /// The owner wants it back.
        recalled: bool,
    },
    /// On its way back to the owner.
    Returned(T),
    /// Nobody, ever again: the owner is gone.
    Abandoned,
}

impl<T, W: Clone> Lending<T, W> {
    pub(crate) fn new() -> Lending<T, W> {
        Lending {
            state: Mutex::new(State::Home),
            idle: AtomicBool::new(false),
        }
    }

    // ---- for the owner

    /// Lends it to whoever comes first.
    pub(crate) fn lend(&self, it: T) {
        let mut state = self.state.lock();
        debug_assert!(matches!(*state, State::Home), "it is lent by its owner");
        *state = State::Idle { it, used: true };
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Gets back what was lent.
    ///
    /// # Errors
    /// A borrower has it, and is to be woken by this. The owner is told once it is back.
    pub(crate) fn fetch(&self) -> Result<T, W> {
        let mut state = self.state.lock();
        if let State::Lent { waker, recalled } = &mut *state {
            *recalled = true;
            return Err(waker.clone());
        }
        self.idle.store(false, Ordering::Relaxed);
        match std::mem::replace(&mut *state, State::Home) {
            State::Idle { it, .. } | State::Returned(it) => Ok(it),
            _ => unreachable!("the owner fetches what it has lent"),
        }
    }

    /// Whether nobody has used it since this was asked last.
    pub(crate) fn is_unused(&self) -> bool {
        match &mut *self.state.lock() {
            State::Idle { used, .. } => !std::mem::take(used),
            _ => false,
        }
    }

    /// The owner goes. A borrower is to be woken by what this yields: it ends when that one gives it
    /// back.
    pub(crate) fn abandon(&self) -> Option<W> {
        let before = {
            let mut state = self.state.lock();
            self.idle.store(false, Ordering::Relaxed);
            std::mem::replace(&mut *state, State::Abandoned)
        };
        match before {
            State::Lent { waker, .. } => Some(waker),
            _ => None,
        }
    }

    // ---- for borrowers

    /// Whether it is worth while to ask for it.
    pub(crate) fn may_be_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// Takes it, if it waits for somebody and no other is about to take it.
    pub(crate) fn borrow(&self, waker: impl FnOnce(&T) -> W) -> Option<T> {
        let mut state = self.state.try_lock()?;
        let State::Idle { it, .. } = &*state else {
            return None;
        };
        let (waker, recalled) = (waker(it), false);
        let before = std::mem::replace(&mut *state, State::Lent { waker, recalled });
        self.idle.store(false, Ordering::Relaxed);
        let State::Idle { it, .. } = before else {
            unreachable!("it was just looked at");
        };
        Some(it)
    }

    /// Whether its borrower has to give it back. To be asked each time before it sleeps: a wake may
    /// have been taken for another.
    pub(crate) fn is_recalled(&self) -> bool {
        match &*self.state.lock() {
            State::Lent { recalled, .. } => *recalled,
            _ => true,
        }
    }

    /// Gives it back, to be lent on if that is possible. `true`: the owner must be told to fetch
    /// it.
    #[must_use]
    pub(crate) fn give_back(&self, it: T, lend_on: bool) -> bool {
        let mut state = self.state.lock();
        let State::Lent { recalled, .. } = *state else {
            // It ends here, after the lock.
            return false;
        };
        if lend_on && !recalled {
            *state = State::Idle { it, used: true };
            self.idle.store(true, Ordering::Relaxed);
            return false;
        }
        *state = State::Returned(it);
        true
    }
}
