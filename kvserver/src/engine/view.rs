//! A consistent view of the engine in memory.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;

use super::memory::Base;
use super::{EngineError, EngineView, Pair};

/// What keys changed since the view began had as their values then; `None`: they were absent.
pub(super) type BeforeImages = SkipMap<Bytes, Option<Bytes>>;

/// All pairs as they were when the view began, though the writer goes on.
///
/// Two rules make it so.
///
/// - **The writer** (`MemoryEngine`), before it changes a key for the first time since the view began
///   (sets it, inserts it, removes it), stores the key's old value, or that it was absent, among the
///   *before-images*. The view begins on the writer's thread, between two changes.
/// - **The reader** (`next`), to find the next pair after the key it stands at, reads the *base* first
///   and the before-images second, each for its first key beyond. It takes whichever key is smaller; at
///   the same key the before-image wins; a before-image of absence is stepped over.
///
/// Why this yields exactly the pairs that were there at the beginning, S. Let the reader stand at `c`,
/// and let `k` be the first key of S beyond `c`.
///
/// 1. *Nothing outside S is yielded.* If the base shows a key that is not in S, the writer inserted it
///    since the view began, after it had stored that the key was absent. The reader looks at the
///    before-images after it looked at the base, so it finds that note, at this key or a smaller one, and
///    never takes the base's word. Among the before-images, a key with a value is a key of S.
/// 2. *`k` is not missed, and its value is the old one.* Either `k` was not touched until the reader had
///    read the base: then the base shows it, with its old value, unless it shows a smaller key, which is
///    case 1. Or `k` was touched before that: then its before-image was stored earlier still, and the
///    reader, which looks there afterwards, finds it, and it wins. That the base may show `k` with its
///    new value, hollow, half removed or not at all makes no difference.
/// 3. *It ends*, once it has yielded as many pairs as there were. On the way each step moves `c` up: keys
///    inserted behind it are never met, and a step over an absence costs less than the write that left it.
///
/// "Afterwards" holds across threads through a pair of fences, release at the writer between the
/// before-image and the change, acquire at the reader between base and before-images.
pub struct MemoryView {
    base: Arc<Base>,
    before_images: Arc<BeforeImages>,
    /// How many pairs there were.
    total: usize,
    /// How many of them are still to come.
    remaining: usize,
    /// The key it stands at: every pair up to it has been yielded.
    after: Option<Bytes>,
}

impl MemoryView {
    pub(super) fn new(
        base: Arc<Base>,
        before_images: Arc<BeforeImages>,
        total: usize,
    ) -> MemoryView {
        MemoryView {
            base,
            before_images,
            total,
            remaining: total,
            after: None,
        }
    }
}

impl Iterator for MemoryView {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Result<Pair, EngineError>> {
        while self.remaining > 0 {
            let beyond = match &self.after {
                Some(key) => Bound::Excluded(key),
                None => Bound::Unbounded,
            };
            let from_base = self.base.lower_bound(beyond);
            let from_base = from_base.map(|entry| (entry.key().clone(), entry.value().value()));

            fence(Ordering::Acquire); // pairs with the one in `MemoryEngine::keep_before_image`

            let before_image = self.before_images.lower_bound(beyond);
            let before_image =
                before_image.map(|entry| (entry.key().clone(), entry.value().clone()));

            let (key, value) = match (from_base, before_image) {
                (None, None) => unreachable!("{} pairs of the view are gone", self.remaining),
                (Some((base_key, value)), None) => (base_key, Some(value)),
                (Some((base_key, value)), Some((image_key, _))) if base_key < image_key => {
                    (base_key, Some(value))
                }
                (_, Some(before_image)) => before_image,
            };
            self.after = Some(key.clone());
            if let Some(value) = value {
                self.remaining -= 1;
                return Some(Ok((key, value)));
            }
        }
        None
    }
}

impl EngineView for MemoryView {
    fn total(&self) -> usize {
        self.total
    }
}
