//! [`Waiter`]: a thread that waits for one thing.

use std::sync::Arc;

use super::sync::Mutex;
use super::sync::thread::{self, Thread};

/// Where the thread that made it waits for something that another thread brings.
pub(crate) struct Waiter<T> {
    thread: Thread,
    brought: Mutex<Option<T>>,
}

impl<T> Waiter<T> {
    /// For the current thread.
    pub(crate) fn new() -> Arc<Waiter<T>> {
        Arc::new(Waiter {
            thread: thread::current(),
            brought: Mutex::new(None),
        })
    }

    /// Brings what is waited for.
    pub(crate) fn finish(&self, it: T) {
        *self.brought.lock() = Some(it);
        self.thread.unpark();
    }

    /// Whether it has been brought.
    pub(crate) fn has_come(&self) -> bool {
        self.brought.lock().is_some()
    }

    /// Waits for it. Somebody must bring it.
    pub(crate) fn wait(&self) -> T {
        loop {
            if let Some(it) = self.brought.lock().take() {
                return it;
            }
            thread::park();
        }
    }
}
