//! [`Cell64`]: a number with one writer and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread writes and any thread reads.
///
/// With one writer, a load and a store are an addition: nothing can come between them. On a machine
/// with 64-bit stores that is as cheap as a plain variable. Readers may see one cell before another
/// that was written earlier; each by itself is exact.
#[derive(Debug, Default)]
pub(crate) struct Cell64(AtomicU64);

impl Cell64 {
    /// Adds, on the writer's thread.
    pub(crate) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Overwrites, on the writer's thread.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Reads, on any thread.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
