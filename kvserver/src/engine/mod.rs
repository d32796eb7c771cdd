//! Where keys and values live.
//!
//! An [`Engine`] is a sorted map with one writer, from which a consistent view can be taken that another
//! thread walks while the writer goes on: that is how a snapshot is written without stopping the
//! applies. [`MemoryEngine`] is the one in memory. The state machine, the sessions and the snapshots
//! know nothing of it but this trait.
//!
//! Every implementation passes the same tests: `engine/suite.rs`.

mod memory;
#[cfg(test)]
mod suite;
mod view;

use bytes::Bytes;

pub use self::memory::MemoryEngine;
pub use self::view::MemoryView;

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// A sorted map of byte strings, with one writer and at most one [`EngineView`] at a time.
pub trait Engine: Send + 'static {
    /// See [`Engine::begin_view`].
    type View: EngineView;

    /// The value of `key`.
    ///
    /// # Errors
    /// [`EngineError`]: storage failed.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Sets the value of `key`. Both are kept as they are: a `Bytes` that is a slice of something
    /// larger would keep that alive.
    ///
    /// # Errors
    /// [`EngineError`]: storage failed.
    fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError>;

    /// Removes `key`; tells whether it was there.
    ///
    /// # Errors
    /// [`EngineError`]: storage failed.
    fn remove(&mut self, key: &[u8]) -> Result<bool, EngineError>;

    /// Removes every key. An open view goes on showing what it showed, and counts as over: another
    /// one may begin.
    ///
    /// # Errors
    /// [`EngineError`]: storage failed.
    fn clear(&mut self) -> Result<(), EngineError>;

    /// How many keys there are.
    fn len(&self) -> usize;

    /// Whether there are no keys.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of all keys and values together; what the engine needs beside them is not counted.
    fn bytes(&self) -> u64;

    /// All pairs, in ascending order of their keys.
    fn iter(&self) -> impl Iterator<Item = Result<Pair, EngineError>> + '_;

    /// The map as it is now, for another thread to walk while this one goes on writing. `None` while
    /// an earlier view is still open: one view at a time bounds what views cost.
    fn begin_view(&mut self) -> Option<Self::View>;
}

/// All pairs of an engine as they were when the view began, in ascending order of their keys.
/// Dropping it ends the view.
pub trait EngineView: Iterator<Item = Result<Pair, EngineError>> + Send + 'static {
    /// How many pairs the whole view has.
    fn total(&self) -> usize;
}

/// An engine's storage failed. What the node applied from here on could differ from the others: it
/// must stop (failure 52).
#[derive(Debug, thiserror::Error)]
#[error("the storage engine failed")]
pub struct EngineError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
