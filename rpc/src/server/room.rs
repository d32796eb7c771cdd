//! [`Room`]: how much the streams of one connection may still send.

use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How much of what streams may send the peer has not taken yet. Streams take room on any thread;
/// the connection makes it, on its loop's.
#[derive(Debug)]
pub(crate) struct Room {
    /// The last frame may take more than there is.
    bytes_max: usize,
    /// Bytes at the socket, of whatever kind.
    unsent: AtomicUsize,
    /// Bytes of items that have not come to the socket yet.
    queued: AtomicUsize,
    /// A stream found no room, and wants to hear when there is again.
    stalled: AtomicBool,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Room {
        Room {
            bytes_max,
            unsent: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
        }
    }

    /// Takes room for an item's frame; `false`: there is none, and the connection will tell all
    /// streams when there is. The last frame may take more than there is.
    pub(crate) fn reserve(&self, frame_bytes: usize) -> bool {
        self.try_reserve(frame_bytes) || {
            // Whoever makes room looks at the flag after that, so one of us two sees the other.
            self.stalled.store(true, Ordering::SeqCst);
            self.try_reserve(frame_bytes)
        }
    }

    fn try_reserve(&self, frame_bytes: usize) -> bool {
        // What is collected meanwhile changes `queued`, so that both are looked at again.
        let reserved = |queued| {
            let unsent = self.unsent.load(Ordering::SeqCst);
            (unsent + queued <= self.bytes_max).then_some(queued + frame_bytes)
        };
        self.queued
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, reserved)
            .is_ok()
    }

    // ---- for the connection, on its loop's thread

    /// So many bytes of items came to the socket, where `unsent` bytes wait now.
    pub(crate) fn note_collected(&self, unsent: usize, item_bytes: usize) {
        if item_bytes > 0 {
            self.unsent.store(unsent, Ordering::SeqCst);
            self.queued.fetch_sub(item_bytes, Ordering::SeqCst);
        }
    }

    /// So much waits at the socket after a write. `true`: streams that stopped for want of room must
    /// be told, as half of it is free.
    #[must_use]
    pub(crate) fn note_unsent(&self, unsent: usize) -> bool {
        self.unsent.store(unsent, Ordering::SeqCst);
        self.stalled.load(Ordering::SeqCst)
            && unsent + self.queued.load(Ordering::SeqCst) <= self.bytes_max / 2
            && self.stalled.swap(false, Ordering::SeqCst)
    }
}
