//! [`handover::sync`](crate::handover::sync) as loom has it, under the names of the real one.

pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::thread;

use std::time::Duration;

/// loom's mutex with the interface of `parking_lot`'s.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(content: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(content))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("no thread of a model panics")
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// loom's condition variable with the interface of the real one. A wait never times out, unless it is
/// for no time at all: whoever waits in vain fails the model.
#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn wait_while_for<T>(
        &self,
        mut content: MutexGuard<'_, T>,
        mut in_vain: impl FnMut(&mut T) -> bool,
        longest: Duration,
    ) -> bool {
        while in_vain(&mut content) {
            if longest.is_zero() {
                return false;
            }
            content = self.0.wait(content).expect("no thread of a model panics");
        }
        true
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// loom's atomics. It takes sequentially consistent accesses for acquiring and releasing ones, so
/// each of them has a fence on both sides, which loom does take for what it is.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    fn access<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
        let fence = || {
            if order == Ordering::SeqCst {
                loom::sync::atomic::fence(order);
            }
        };
        fence();
        let outcome = access();
        fence();
        outcome
    }

    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> AtomicBool {
            AtomicBool(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            access(order, || self.0.load(order))
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            access(order, || self.0.store(value, order));
        }

        pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
            access(order, || self.0.swap(value, order))
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct AtomicUsize(loom::sync::atomic::AtomicUsize);

    impl AtomicUsize {
        pub(crate) fn new(value: usize) -> AtomicUsize {
            AtomicUsize(loom::sync::atomic::AtomicUsize::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> usize {
            access(order, || self.0.load(order))
        }

        pub(crate) fn store(&self, value: usize, order: Ordering) {
            access(order, || self.0.store(value, order));
        }

        pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
            access(order, || self.0.fetch_sub(value, order))
        }

        pub(crate) fn fetch_update(
            &self,
            set: Ordering,
            fetch: Ordering,
            f: impl FnMut(usize) -> Option<usize>,
        ) -> Result<usize, usize> {
            access(set, || self.0.fetch_update(set, fetch, f))
        }
    }
}
