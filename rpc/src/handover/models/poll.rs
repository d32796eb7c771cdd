//! What the system's poll does for a thread: a wake is kept until the thread sleeps.

use loom::sync::{Condvar, Mutex};

#[derive(Default)]
pub(super) struct Poll {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Poll {
    pub(super) fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }

    pub(super) fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }

    /// Does not wait. A wake that it finds is over.
    pub(super) fn look(&self) {
        *self.woken.lock().unwrap() = false;
    }
}
