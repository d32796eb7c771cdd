//! Large buffers that are used again.
//!
//! What a message of 64 KiB costs most is fresh memory: the allocator gives it back to the system
//! as soon as it is free, and the next message pays for sixteen pages again. So each thread keeps a
//! few buffers of one size, whoever needs one.

use std::cell::RefCell;

use bytes::Bytes;

/// The size of a pooled buffer.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

/// What needs less is not worth a pooled buffer.
const WORTH_BYTES: usize = 32 << 10;

/// Buffers that a thread keeps: at most 2 MiB.
const BUFFERS_MAX: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `len` bytes.
pub(super) fn take_empty(len: usize) -> Vec<u8> {
    if !is_worth(len) {
        return Vec::with_capacity(len);
    }
    let mut buffer = take();
    buffer.clear();
    buffer
}

/// A buffer of at least `len` bytes, whatever they are.
pub(super) fn take_full(len: usize) -> Vec<u8> {
    if !is_worth(len) {
        return vec![0; len];
    }
    let mut buffer = take();
    // Costs nothing for one that was full before.
    buffer.resize(BUFFER_BYTES, 0);
    buffer
}

fn is_worth(len: usize) -> bool {
    (WORTH_BYTES..=BUFFER_BYTES).contains(&len)
}

fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// Gives a buffer back, wherever it came from.
pub(super) fn give(buffer: Vec<u8>) {
    if !is_pooled(&buffer) {
        return;
    }
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < BUFFERS_MAX {
            pool.push(buffer);
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
        let another = take_empty(WORTH_BYTES);
        assert_ne!(another.as_ptr(), place, "a share is alive");
        assert_eq!(&body[..], b"body");
        drop(body);
        let again = take_empty(WORTH_BYTES);
        assert!(again.as_ptr() == place && again.is_empty());
    }

    #[test]
    fn a_thread_keeps_a_few_buffers_of_one_size() {
        let taken = (0..3 * BUFFERS_MAX).map(|_| take_full(BUFFER_BYTES));
        let taken: Vec<_> = taken.collect();
        taken.into_iter().for_each(give);
        for len in [1, WORTH_BYTES - 1, BUFFER_BYTES + 1] {
            give(take_empty(len));
        }
        let kept = POOL.with_borrow(|pool| pool.iter().map(Vec::capacity).sum::<usize>());
        assert_eq!(kept, BUFFERS_MAX * BUFFER_BYTES);
    }
}
