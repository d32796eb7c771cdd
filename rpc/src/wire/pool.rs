//! Large buffers that are used again.
//!
//! What a message of 64 KiB costs most is fresh memory: the allocator gives it back to the system
//! as soon as it is free, and the next message pays for sixteen pages again. So each thread keeps a
//! few buffers of one size, whoever needs one.
//!
//! ```text
//!  to be read to:      full buffers, whose bytes are overwritten; no byte is set before
//!  to be encoded into: empty ones
//! ```

use std::cell::RefCell;

use bytes::Bytes;

/// The size of a pooled buffer.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

/// What needs less is not worth a pooled buffer.
const WORTH_BYTES: usize = 32 << 10;

/// Buffers of either kind that a thread keeps: at most 4 MiB in all.
const BUFFERS_MAX: usize = 16;

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { full: Vec::new(), empty: Vec::new() })
    };
}

struct Pool {
    /// Their length is [`BUFFER_BYTES`].
    full: Vec<Vec<u8>>,
    empty: Vec<Vec<u8>>,
}

/// An empty buffer with room for `len` bytes.
pub(super) fn take_empty(len: usize) -> Vec<u8> {
    if !is_worth(len) {
        return Vec::with_capacity(len);
    }
    let kept = POOL.with_borrow_mut(|pool| pool.empty.pop());
    kept.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// A buffer of at least `len` bytes, whatever they are.
pub(super) fn take_full(len: usize) -> Vec<u8> {
    if !is_worth(len) {
        return vec![0; len];
    }
    let kept = POOL.with_borrow_mut(|pool| pool.full.pop());
    kept.unwrap_or_else(|| vec![0; BUFFER_BYTES])
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
    (WORTH_BYTES..=BUFFER_BYTES).contains(&len)
}

/// Gives a buffer back, wherever it came from.
pub(super) fn give(mut buffer: Vec<u8>) {
    if !is_pooled(&buffer) {
        return;
    }
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let kept = if buffer.len() == BUFFER_BYTES {
            &mut pool.full
        } else {
            buffer.clear();
            &mut pool.empty
        };
        if kept.len() < BUFFERS_MAX {
            kept.push(buffer);
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
    buffer.capacity() == BUFFER_BYTES
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
    fn a_thread_keeps_a_few_buffers_of_one_size() {
        let take =
            |take: fn(usize) -> Vec<u8>| (0..3 * BUFFERS_MAX).map(move |_| take(BUFFER_BYTES));
        let taken: Vec<_> = take(take_full).chain(take(take_empty)).collect();
        taken.into_iter().for_each(give);
        for len in [1, WORTH_BYTES - 1, BUFFER_BYTES + 1] {
            give(take_empty(len));
        }
        let kept = POOL.with_borrow(|pool| {
            let kept = pool.full.iter().chain(&pool.empty);
            kept.map(Vec::capacity).sum::<usize>()
        });
        assert_eq!(kept, 2 * BUFFERS_MAX * BUFFER_BYTES);
    }
}
