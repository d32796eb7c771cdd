//! The engine in memory: a concurrent skip list.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use parking_lot::Mutex;

use super::view::{BeforeImages, MemoryView};
use super::{Engine, EngineError, Pair};

/// The keys. One thread writes; a view's thread reads along.
pub(super) type Base = SkipMap<Bytes, Slot>;

/// A key's value, replaced in place.
///
/// Were values the skip list's own, replacing one would mean a new node, and the old one, with its
/// value, would wait for the epochs that crossbeam reclaims by (measured: 147 values), and values may
/// have 32 MiB each. The lock is held for a pointer's exchange or clone only, and only a
/// view ever contends for it.
pub(super) struct Slot(Mutex<Bytes>);

impl Slot {
    fn new(value: Bytes) -> Slot {
        Slot(Mutex::new(value))
    }

    pub(super) fn value(&self) -> Bytes {
        self.0.lock().clone()
    }

    /// Stores `value`; returns what it replaces.
    fn replace(&self, value: Bytes) -> Bytes {
        std::mem::replace(&mut self.0.lock(), value)
    }
}

/// The engine in memory, on a skip list that one thread writes and a view's thread reads.
///
/// While a view is open, the first change of each key keeps the key's old value alive beside the
/// new one, so a view costs at most as much again as the map held when it began, and is freed with
/// the view. Why the view is consistent: [`MemoryView`].
#[derive(Default)]
pub struct MemoryEngine {
    base: Arc<Base>,
    len: usize,
    bytes: u64,
    /// Where the open view looks for what has changed since it began; dead once the view is dropped.
    before_images: Weak<BeforeImages>,
}

impl MemoryEngine {
    /// An engine without keys.
    #[must_use]
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// Keeps what an open view must still see at `key`, which is about to change for whatever reason.
    fn keep_before_image(&self, key: &Bytes, value: impl FnOnce() -> Option<Bytes>) {
        let Some(before_images) = self.before_images.upgrade() else {
            return;
        };
        // Only this thread inserts, so what is absent here stays absent until the next line.
        if !before_images.contains_key(key) {
            before_images.insert(key.clone(), value());
        }
        // Pairs with the fence in `MemoryView::next`: a reader that sees any of the changes after this
        // fence sees the before-image as well, whatever orderings the skip list uses within.
        fence(Ordering::Release);
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.base.get(key).map(|entry| entry.value().value()))
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        let value_bytes = value.len() as u64;
        if let Some(entry) = self.base.get(&key) {
            self.keep_before_image(entry.key(), || Some(entry.value().value()));
            let old = entry.value().replace(value);
            self.bytes = self.bytes - old.len() as u64 + value_bytes;
        } else {
            self.keep_before_image(&key, || None);
            self.len += 1;
            self.bytes += key.len() as u64 + value_bytes;
            self.base.insert(key, Slot::new(value));
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, EngineError> {
        let Some(entry) = self.base.get(key) else {
            return Ok(false);
        };
        self.keep_before_image(entry.key(), || Some(entry.value().value()));
        // The node waits for crossbeam's epochs; its value need not. A view that meets the hollow
        // node finds the before-image.
        let old = entry.value().replace(Bytes::new());
        assert!(
            entry.remove(),
            "one thread writes, so nobody else removed it"
        );
        self.len -= 1;
        self.bytes -= (key.len() + old.len()) as u64;
        Ok(true)
    }

    fn clear(&mut self) -> Result<(), EngineError> {
        *self = MemoryEngine::new(); // an open view keeps the old skip list, which nobody changes now
        Ok(())
    }

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn iter(&self) -> impl Iterator<Item = Result<Pair, EngineError>> + '_ {
        self.base
            .iter()
            .map(|entry| Ok((entry.key().clone(), entry.value().value())))
    }

    fn begin_view(&mut self) -> Option<MemoryView> {
        if self.before_images.strong_count() > 0 {
            return None;
        }
        let before_images = Arc::new(BeforeImages::new());
        self.before_images = Arc::downgrade(&before_images);
        Some(MemoryView::new(
            Arc::clone(&self.base),
            before_images,
            self.len,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;

    suite::engine_tests!(MemoryEngine::new);

    #[test]
    fn a_dropped_view_costs_nothing_more() {
        let mut engine = MemoryEngine::new();
        engine.put(Bytes::from("k"), Bytes::from("old")).unwrap();
        let view = engine.begin_view().unwrap();
        engine.put(Bytes::from("k"), Bytes::from("new")).unwrap();
        assert_eq!(engine.before_images.upgrade().unwrap().len(), 1);

        drop(view);
        assert!(engine.before_images.upgrade().is_none());
    }
}
