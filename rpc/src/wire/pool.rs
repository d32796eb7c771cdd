//! Large buffers that are used again.
//!
//! What a large message costs most is fresh memory: the allocator gives it back to the system as
//! soon as it is free, and the next message pays for each of its pages again. So each thread keeps
//! a few buffers, whoever needs one.
//!
//! ```text
//!  to be read to:      full buffers, whose bytes are overwritten; no byte is set before
//!  to be encoded into: empty ones
//! ```
//!
//! Buffers come in few sizes, each twice the one before, so that most find another use.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;

/// The size of the smallest pooled buffer.
pub(super) const BUFFER_BYTES: usize = (128 << 10) + HEAD_BYTES;

/// Payloads tend to be powers of two; their frames are a bit larger.
const HEAD_BYTES: usize = 1 << 10;

/// Of the largest: what needs more pays for its pages.
const LARGEST_BYTES: usize = (4 << 20) + HEAD_BYTES;

/// What needs less is not worth a pooled buffer.
const WORTH_BYTES: usize = 32 << 10;

/// Bytes of either kind of buffer that a thread keeps at most.
const KEPT_BYTES_MAX: usize = 8 << 20;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { full: Kept::new(), empty: Kept::new() }) };
}

struct Pool {
    /// Their length is their capacity.
    full: Kept,
    empty: Kept,
}

/// Buffers that wait for their next use; the one given back last is at the back.
struct Kept {
    buffers: VecDeque<Vec<u8>>,
    /// Together at most [`KEPT_BYTES_MAX`].
    bytes: usize,
}

impl Kept {
    const fn new() -> Kept {
        Kept {
            buffers: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The one used last of that size: it is the likeliest to be in the processor's cache.
    fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        let at = self
            .buffers
            .iter()
            .rposition(|kept| kept.capacity() == size)?;
        self.bytes -= size;
        self.buffers.remove(at)
    }

    /// Makes room for it with those that nobody has used for longest.
    fn give(&mut self, buffer: Vec<u8>) {
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        while self.bytes > KEPT_BYTES_MAX
            && let Some(unused) = self.buffers.pop_front()
        {
            self.bytes -= unused.capacity();
        }
    }
}

/// An empty buffer with room for `len` bytes.
pub(super) fn take_empty(len: usize) -> Vec<u8> {
    let Some(size) = size_for(len) else {
        return Vec::with_capacity(len);
    };
    let kept = POOL.with_borrow_mut(|pool| pool.empty.take(size));
    kept.unwrap_or_else(|| Vec::with_capacity(size))
}

/// A buffer of at least `len` bytes, whatever they are.
pub(super) fn take_full(len: usize) -> Vec<u8> {
    let Some(size) = size_for(len) else {
        return vec![0; len];
    };
    take_kept_full(len).unwrap_or_else(|| vec![0; size])
}

/// As [`take_full`], if the thread has one: it costs no memory that was not held before.
pub(super) fn take_kept_full(len: usize) -> Option<Vec<u8>> {
    let size = size_for(len)?;
    POOL.with_borrow_mut(|pool| pool.full.take(size))
}

/// A buffer that begins with these bytes, one after the other.
pub(super) fn take_joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    let len = first.len() + second.len();
    if !is_worth(len) {
        return [first, second].concat();
    }
    let mut buffer = take_full(len);
    buffer[..first.len()].copy_from_slice(first);
    buffer[first.len()..len].copy_from_slice(second);
    buffer
}

/// Whether a message of this length had better have a pooled buffer.
pub(super) fn is_worth(len: usize) -> bool {
    (WORTH_BYTES..=LARGEST_BYTES).contains(&len)
}

/// The size of the pooled buffer for a message of this length, if it had better have one.
fn size_for(len: usize) -> Option<usize> {
    is_worth(len).then(|| {
        let payload = len.saturating_sub(HEAD_BYTES).next_power_of_two();
        payload.max(BUFFER_BYTES - HEAD_BYTES) + HEAD_BYTES
    })
}

/// Gives a buffer back, wherever it came from.
pub(super) fn give(mut buffer: Vec<u8>) {
    if !is_pooled(&buffer) {
        return;
    }
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if buffer.len() == buffer.capacity() {
            pool.full.give(buffer);
        } else {
            buffer.clear();
            pool.empty.give(buffer);
        }
    });
}

/// The first `len` bytes of a buffer, to be shared. It is given back with its last share.
pub(super) fn share(mut buffer: Vec<u8>, len: usize) -> Bytes {
    if is_pooled(&buffer) {
        Bytes::from_owner(Shared(buffer)).slice(..len)
    } else {
        buffer.truncate(len);
        Bytes::from(buffer)
    }
}

fn is_pooled(buffer: &Vec<u8>) -> bool {
    size_for(buffer.capacity()) == Some(buffer.capacity())
}

struct Shared(Vec<u8>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_its_last_share_is_gone() {
        let mut buffer = take_full(WORTH_BYTES);
        buffer[..13].copy_from_slice(b"head and body");
        let place = buffer.as_ptr();
        let mut shares = share(buffer, 13);
        let body = shares.split_off(9);
        drop(shares);
        let another = take_full(WORTH_BYTES);
        assert_ne!(another.as_ptr(), place, "a share is alive");
        assert_eq!(&body[..], b"body");
        drop(body);
        let again = take_full(WORTH_BYTES);
        assert_eq!(again.as_ptr(), place);
        assert_eq!(&again[..13], b"head and body", "nothing was set");
    }

    #[test]
    fn a_buffer_that_was_encoded_into_is_empty_when_it_is_used_again() {
        let mut buffer = take_empty(WORTH_BYTES);
        buffer.extend_from_slice(b"frame");
        let place = buffer.as_ptr();
        give(buffer);
        assert_eq!(take_full(WORTH_BYTES).len(), BUFFER_BYTES);
        let again = take_empty(WORTH_BYTES);
        assert!(again.as_ptr() == place && again.is_empty());
    }

    #[test]
    fn a_thread_keeps_a_few_megabytes() {
        let many = 2 * KEPT_BYTES_MAX / BUFFER_BYTES;
        for take in [take_full, take_empty] {
            let taken: Vec<_> = (0..many).map(|_| take(BUFFER_BYTES)).collect();
            taken.into_iter().for_each(give);
        }
        for len in [1, WORTH_BYTES - 1, LARGEST_BYTES + 1] {
            give(take_empty(len));
        }
        POOL.with_borrow(|pool| {
            for kept in [&pool.full, &pool.empty] {
                let bytes: usize = kept.buffers.iter().map(Vec::capacity).sum();
                assert_eq!(bytes, kept.bytes);
                let room = KEPT_BYTES_MAX - bytes;
                assert!(room < BUFFER_BYTES, "{room}");
            }
        });
    }

    #[test]
    fn what_nobody_used_makes_room_for_what_was_used_last() {
        let small: Vec<_> = (0..KEPT_BYTES_MAX / BUFFER_BYTES)
            .map(|_| take_full(BUFFER_BYTES))
            .collect();
        small.into_iter().for_each(give);
        let large = take_full(2 << 20);
        let place = large.as_ptr();
        give(large);
        let again = take_full(2 << 20);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn a_payload_of_any_power_of_two_leaves_no_room_unused_but_its_head() {
        for power in 17..=22 {
            let payload = 1 << power;
            assert_eq!(size_for(payload + 40), Some(payload + HEAD_BYTES));
            assert_eq!(size_for(payload + HEAD_BYTES), Some(payload + HEAD_BYTES));
        }
        assert_eq!(size_for(WORTH_BYTES), Some(BUFFER_BYTES));
        assert_eq!(size_for(LARGEST_BYTES + 1), None);
    }
}
