//! What the code in [`handover`](super) is built on; the models have another one.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread;

use std::time::Duration;

pub(crate) use parking_lot::{Mutex, MutexGuard};

/// A condition variable with the interface that both can have.
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

impl Condvar {
    /// Waits while `in_vain`, for `longest` at most; `false`: that time ran out.
    pub(crate) fn wait_while_for<T>(
        &self,
        mut content: MutexGuard<'_, T>,
        in_vain: impl FnMut(&mut T) -> bool,
        longest: Duration,
    ) -> bool {
        let waited = self.0.wait_while_for(&mut content, in_vain, longest);
        !waited.timed_out()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
