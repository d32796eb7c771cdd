//! How many calls a clerk has under way at most.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A counted number of places. Everything a clerk queues belongs to a call that holds one, which
/// is what bounds its memory.
#[derive(Debug)]
pub(crate) struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One place, free again when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        assert!(count > 0, "without a permit no call could ever start");
        Arc::new(Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
        })
    }

    /// A place, if there is one now.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let mut free = self.free.lock();
        *free = free.checked_sub(1)?;
        Some(Permit(Arc::clone(self)))
    }

    /// A place, or `None` if there was none until `deadline`.
    pub(crate) fn take_until(self: &Arc<Self>, deadline: Instant) -> Option<Permit> {
        let mut free = self.free.lock();
        while *free == 0 {
            if self.freed.wait_until(&mut free, deadline).timed_out() && *free == 0 {
                return None;
            }
        }
        *free -= 1;
        Some(Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn at_the_bound_one_is_refused_or_waits_for_a_place() {
        let permits = Permits::new(1);
        let only = permits.try_take().unwrap();
        assert!(permits.try_take().is_none());
        assert!(permits.take_until(Instant::now()).is_none());

        let of_thread = Arc::clone(&permits);
        let waiter = thread::spawn(move || {
            of_thread
                .take_until(Instant::now() + Duration::from_mins(1))
                .is_some()
        });
        drop(only);
        assert!(waiter.join().unwrap());
        assert!(permits.try_take().is_some());
    }
}
