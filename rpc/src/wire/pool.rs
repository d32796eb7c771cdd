//! Large buffers that are used again.
//!
//! What a large message costs most is fresh memory: the allocator gives it back to the system as
//! soon as it is free, and the next message pays for each of its pages again. So the process keeps
//! a few buffers, whoever needs one. They are everybody's: what a caller encodes into is free
//! again in the thread that has sent it, and what a loop reads into, where the reply is dropped.
//!
//! ```text
//!  to be read to:      full buffers, whose bytes are overwritten; no byte is set before
//!  to be encoded into: empty ones
//! ```
//!
//! Buffers come in few sizes, each twice the one before, so that most find another use.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// The size of the smallest pooled buffer.
pub(super) const BUFFER_BYTES: usize = (128 << 10) + HEAD_BYTES;

/// Payloads tend to be powers of two; their frames are a bit larger.
const HEAD_BYTES: usize = 1 << 10;

/// Of the largest: what needs more pays for its pages.
const LARGEST_BYTES: usize = (4 << 20) + HEAD_BYTES;

/// What needs less is not worth a pooled buffer.
const WORTH_BYTES: usize = 32 << 10;

/// Bytes of either kind of buffer that the process keeps at most.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The one of the process.
pub(super) static POOL: Pool = Pool::new();

/// Taken from and given to by any thread; a lock is held for a look at a short list.
#[derive(Debug)]
pub(super) struct Pool {
    /// Their length is their capacity.
    full: Mutex<Kept>,
    empty: Mutex<Kept>,
}

/// A frame of this many bytes is encoded into it, and it is given back by whoever has sent it.
pub(crate) fn frame_buffer(len: usize) -> Vec<u8> {
    POOL.take_empty(len)
}

impl Default for &'static Pool {
    fn default() -> Self {
        &POOL
    }
}

/// Buffers that wait for their next use; the one given back last is at the back.
#[derive(Debug)]
struct Kept {
    buffers: VecDeque<Vec<u8>>,
    /// Together at most [`KEPT_BYTES_MAX`].
    bytes: usize,
}

impl Pool {
    pub(super) const fn new() -> Pool {
        Pool {
            full: Mutex::new(Kept::new()),
            empty: Mutex::new(Kept::new()),
        }
    }

    /// An empty buffer with room for `len` bytes.
    pub(super) fn take_empty(&self, len: usize) -> Vec<u8> {
        let Some(size) = size_for(len) else {
            return Vec::with_capacity(len);
        };
        let kept = self.empty.lock().take(size);
        kept.unwrap_or_else(|| Vec::with_capacity(size))
    }

    /// A buffer of at least `len` bytes, whatever they are.
    pub(super) fn take_full(&self, len: usize) -> Vec<u8> {
        let kept = self.take_kept_full(len);
        kept.unwrap_or_else(|| vec![0; size_for(len).unwrap_or(len)])
    }

    /// As [`take_full`](Pool::take_full), if there is one: it costs no memory that was not held
    /// before.
    pub(super) fn take_kept_full(&self, len: usize) -> Option<Vec<u8>> {
        let size = size_for(len)?;
        self.full.lock().take(size)
    }

    /// A buffer that begins with these bytes, one after the other.
    pub(super) fn take_joined(&self, first: &[u8], second: &[u8]) -> Vec<u8> {
        let len = first.len() + second.len();
        if !is_worth(len) {
            return [first, second].concat();
        }
        let mut buffer = self.take_full(len);
        buffer[..first.len()].copy_from_slice(first);
        buffer[first.len()..len].copy_from_slice(second);
        buffer
    }

    /// Gives a buffer back, wherever it came from.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        if !has_pool_size(&buffer) {
            return;
        }
        let kept = if buffer.len() == buffer.capacity() {
            &self.full
        } else {
            buffer.clear();
            &self.empty
        };
        let unused = kept.lock().give(buffer);
        drop(unused); // which takes a while, and needs no lock
    }

    /// The first `len` bytes of a buffer, to be shared. It is given back with its last share.
    pub(super) fn share(&'static self, mut buffer: Vec<u8>, len: usize) -> Bytes {
        if has_pool_size(&buffer) {
            Bytes::from_owner(Shared { buffer, pool: self }).slice(..len)
        } else {
            buffer.truncate(len);
            Bytes::from(buffer)
        }
    }
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

    /// Makes room for it with those that nobody has used for longest, and yields these.
    fn give(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        let mut unused = Vec::new();
        while self.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.capacity();
            unused.push(oldest);
        }
        unused
    }
}

/// Whether a message of this length should have a pooled buffer.
pub(super) fn is_worth(len: usize) -> bool {
    (WORTH_BYTES..=LARGEST_BYTES).contains(&len)
}

/// The size of the pooled buffer for a message of this length, if it should have one.
fn size_for(len: usize) -> Option<usize> {
    is_worth(len).then(|| {
        let payload = len.saturating_sub(HEAD_BYTES).next_power_of_two();
        payload.max(BUFFER_BYTES - HEAD_BYTES) + HEAD_BYTES
    })
}

fn has_pool_size(buffer: &Vec<u8>) -> bool {
    size_for(buffer.capacity()) == Some(buffer.capacity())
}

struct Shared {
    buffer: Vec<u8>,
    pool: &'static Pool,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// One of the test's own: that of the process is every test's.
    fn pool() -> &'static Pool {
        Box::leak(Box::new(Pool::new()))
    }

    #[test]
    fn a_buffer_is_used_again_once_its_last_share_is_gone() {
        let pool = pool();
        let mut buffer = pool.take_full(WORTH_BYTES);
        buffer[..13].copy_from_slice(b"head and body");
        let place = buffer.as_ptr();
        let mut shares = pool.share(buffer, 13);
        let body = shares.split_off(9);
        drop(shares);
        let another = pool.take_full(WORTH_BYTES);
        assert_ne!(another.as_ptr(), place, "a share is alive");
        assert_eq!(&body[..], b"body");
        drop(body);
        let again = pool.take_full(WORTH_BYTES);
        assert_eq!(again.as_ptr(), place);
        assert_eq!(&again[..13], b"head and body", "nothing was set");
    }

    #[test]
    fn a_buffer_that_was_encoded_into_is_empty_when_it_is_used_again() {
        let pool = pool();
        let mut buffer = pool.take_empty(WORTH_BYTES);
        buffer.extend_from_slice(b"frame");
        let place = buffer.as_ptr();
        pool.give(buffer);
        assert_eq!(pool.take_full(WORTH_BYTES).len(), BUFFER_BYTES);
        let again = pool.take_empty(WORTH_BYTES);
        assert!(again.as_ptr() == place && again.is_empty());
    }

    #[test]
    fn a_few_megabytes_are_kept() {
        let pool = pool();
        let many = 2 * KEPT_BYTES_MAX / BUFFER_BYTES;
        for take in [Pool::take_full, Pool::take_empty] {
            let taken: Vec<_> = (0..many).map(|_| take(pool, BUFFER_BYTES)).collect();
            for buffer in taken {
                pool.give(buffer);
            }
        }
        for len in [1, WORTH_BYTES - 1, LARGEST_BYTES + 1] {
            pool.give(pool.take_empty(len));
        }
        for kept in [&pool.full, &pool.empty] {
            let kept = kept.lock();
            let bytes: usize = kept.buffers.iter().map(Vec::capacity).sum();
            assert_eq!(bytes, kept.bytes);
            assert!(kept.buffers.iter().all(has_pool_size));
            let room = KEPT_BYTES_MAX - bytes;
            assert!(room < BUFFER_BYTES, "{room}");
        }
    }

    #[test]
    fn what_one_thread_has_given_back_another_takes() {
        let pool = pool();
        let buffer = pool.take_full(BUFFER_BYTES);
        let place = buffer.as_ptr();
        thread::scope(|scope| scope.spawn(|| pool.give(buffer)).join()).unwrap();
        let again = pool.take_full(BUFFER_BYTES);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn what_nobody_used_makes_room_for_what_was_used_last() {
        let pool = pool();
        let small: Vec<_> = (0..KEPT_BYTES_MAX / BUFFER_BYTES)
            .map(|_| pool.take_full(BUFFER_BYTES))
            .collect();
        for buffer in small {
            pool.give(buffer);
        }
        let large = pool.take_full(2 << 20);
        let place = large.as_ptr();
        pool.give(large);
        let again = pool.take_full(2 << 20);
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
