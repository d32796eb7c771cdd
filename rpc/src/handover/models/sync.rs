//! [`handover::sync`](crate::handover::sync) as loom has it, under the names of the real one.

pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::sync::atomic;
pub(crate) use loom::thread;

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
