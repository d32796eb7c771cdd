//! [`InputBuffer`]: what has arrived on one connection and is not consumed yet.
//!
//! ```text
//!  read ──► partial (grows in place) ──► a whole frame is there: whole (shared, never moved) ──► take
//!              ▲                                                    │
//!              └───────── more is needed: the rest is copied ───────┘
//! ```
//!
//! Small reads go through a scratch buffer that all connections of a loop share, so that an idle
//! connection holds no memory; the rest of a large frame is read straight into place. Room grows
//! with what has arrived, never with what a peer announces: a frame of 60 MiB that stops after a
//! byte costs a byte; but buffers are not smaller than 129 KiB once more than a few KiB are there. Of a
//! frame of which a share is there, the rest gets a buffer that the process holds anyway, if it has one.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::pool::{self, Pool};

/// From this many missing bytes on, a frame is read straight into its buffer.
const DIRECT_BYTES_MIN: usize = 16 << 10;

/// The most room that is made ahead of bytes that have not arrived, unless more has arrived
/// already.
const ROOM_BYTES: usize = 64 << 10;

/// Of a frame whose eighth has arrived, room for all of it is made where that costs no memory that
/// was not held before: so nobody can keep more than sixteen times what they have sent, as a buffer
/// may be twice the frame.
const KEPT_FOR_SHARE: usize = 8;

/// The most bytes read at once, so that others have their turn between.
const WINDOW_BYTES_MAX: usize = 128 << 10;

/// Room for what follows a large frame: its successor's header, so that its size is known. A read
/// that leaves it empty has emptied the socket, which saves the read that would tell.
const AHEAD_BYTES: usize = 256;

/// Largest rest that is moved to a buffer of its own so that the large one can go.
const COMPACT_BYTES_MAX: usize = 4 << 10;

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadOutcome {
    /// Bytes that arrived; 0 at the end of the stream.
    pub(crate) bytes: usize,
    /// The read did not fill its window, so the socket held nothing more at that moment.
    pub(crate) drained: bool,
}

/// The unread bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct InputBuffer {
    /// They are here while a frame of them is being taken apart; then `filled` is 0.
    whole: Bytes,
    /// The capacity of the buffer that `whole` is a part of.
    whole_capacity: usize,
    /// Or the first `filled` bytes of this; the others are room to read to.
    partial: Vec<u8>,
    filled: usize,
    /// Size of the frame taken last. The next one is likely to be as large.
    last_frame_bytes: usize,
    /// Bytes still to be thrown away as they arrive. While it is not 0, there are no others.
    skip: usize,
    /// Where large buffers come from and go to.
    pool: &'static Pool,
}

impl InputBuffer {
    /// The bytes that arrived and were not taken.
    pub(crate) fn unread(&self) -> &[u8] {
        if self.filled == 0 {
            &self.whole
        } else {
            &self.partial[..self.filled]
        }
    }

    /// Whether all that arrived was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0 && self.whole.is_empty()
    }

    /// Takes `len` bytes after throwing `skip` away. The slice shares the buffer's memory.
    ///
    /// # Panics
    /// When that many have not arrived.
    pub(crate) fn take(&mut self, skip: usize, len: usize) -> Bytes {
        self.share();
        assert!(skip + len <= self.whole.len(), "a whole frame was seen");
        self.last_frame_bytes = skip + len;
        self.whole.advance(skip);
        if len == self.whole.len() {
            std::mem::take(&mut self.whole)
        } else {
            self.whole.split_to(len)
        }
    }

    /// Throws away `len` bytes, those that have arrived and those that have not.
    pub(crate) fn discard(&mut self, len: usize) {
        self.share();
        let here = len.min(self.whole.len());
        self.whole.advance(here);
        self.skip += len - here;
        if self.whole.is_empty() {
            self.whole = Bytes::new();
        }
    }

    /// What has arrived grows no more.
    fn share(&mut self) {
        if self.filled > 0 {
            self.share_partial();
        }
    }

    #[cold]
    fn share_partial(&mut self) {
        self.whole_capacity = self.partial.capacity();
        let partial = std::mem::take(&mut self.partial);
        self.whole = self.pool.share(partial, std::mem::take(&mut self.filled));
    }

    /// Lets a large buffer go that only a small rest of unread bytes keeps alive.
    pub(crate) fn compact(&mut self) {
        let small = self.unread().len() <= COMPACT_BYTES_MAX;
        if small && self.held() > 2 * COMPACT_BYTES_MAX {
            let rest = self.unread().to_vec();
            self.move_to(rest);
        }
    }

    /// Reads once from `source`. `frame_bytes` is the size of the frame at the front, 0 if unknown.
    pub(crate) fn read_from(
        &mut self,
        source: &mut impl Read,
        scratch: &mut [u8],
        frame_bytes: usize,
    ) -> io::Result<ReadOutcome> {
        let unread = self.unread().len();
        let expected = match frame_bytes {
            0 if self.skip > 0 => 0,
            0 => self.last_frame_bytes.min(2 * ROOM_BYTES - AHEAD_BYTES),
            frame_bytes => frame_bytes,
        };
        if expected < DIRECT_BYTES_MIN || expected <= unread {
            // Together they fit into a pooled buffer.
            let window = pool::BUFFER_BYTES - unread.min(pool::BUFFER_BYTES / 2);
            let window = window.min(scratch.len());
            let bytes = source.read(&mut scratch[..window])?;
            self.append(&scratch[..bytes]);
            return Ok(ReadOutcome {
                bytes,
                drained: bytes < window,
            });
        }
        let rest = expected - unread + AHEAD_BYTES;
        let paid_for = match frame_bytes {
            0 => rest,
            _ => rest.min(unread.max(ROOM_BYTES) + AHEAD_BYTES),
        };
        let has_share = unread >= expected / KEPT_FOR_SHARE;
        self.make_room(paid_for, if has_share { rest } else { paid_for });
        let window = rest.min(self.partial.len() - unread).min(WINDOW_BYTES_MAX);
        let bytes = source.read(&mut self.partial[unread..unread + window])?;
        self.filled = unread + bytes;
        Ok(ReadOutcome {
            bytes,
            drained: bytes < window,
        })
    }

    /// Sees to it that `partial` has what has arrived and room behind it: `room` at least, and
    /// `best` if that costs no memory that was not held before.
    fn make_room(&mut self, room: usize, best: usize) {
        if self.has_room(room) {
            return;
        }
        let unread = self.unread();
        let kept = self.pool.take_kept_full(unread.len() + best);
        let mut larger = kept.unwrap_or_else(|| self.pool.take_full(unread.len() + room));
        larger[..unread.len()].copy_from_slice(unread);
        self.move_to(larger);
    }

    fn has_room(&self, room: usize) -> bool {
        let unread = self.unread().len();
        (unread == 0 || self.filled > 0) && unread + room <= self.partial.len()
    }

    /// What has arrived is at the beginning of `buffer`.
    fn move_to(&mut self, buffer: Vec<u8>) {
        self.filled = self.unread().len();
        self.whole = Bytes::new();
        self.pool.give(std::mem::replace(&mut self.partial, buffer));
    }

    fn append(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
        }
        if self.is_empty() && self.partial.is_empty() && !pool::is_worth(bytes.len()) {
            // Most reads bring whole small frames: they are shared as they are.
            self.whole = Bytes::copy_from_slice(bytes);
            self.whole_capacity = bytes.len();
            return;
        }
        let (unread, filled) = (self.unread(), self.unread().len() + bytes.len());
        if self.has_room(bytes.len()) {
            self.partial[filled - bytes.len()..filled].copy_from_slice(bytes);
        } else {
            let joined = self.pool.take_joined(unread, bytes);
            self.move_to(joined);
        }
        self.filled = filled;
    }

    fn held(&self) -> usize {
        let whole = if self.whole.is_empty() {
            0
        } else {
            self.whole_capacity
        };
        whole + self.partial.capacity()
    }

    /// Memory held for this connection, for tests of the bounds.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut InputBuffer, mut bytes: &[u8], frame_bytes: usize) -> ReadOutcome {
        let mut scratch = [0; 32];
        buffer
            .read_from(&mut bytes, &mut scratch, frame_bytes)
            .unwrap()
    }

    /// With buffers that no other test takes away.
    fn with(pool: &'static Pool) -> InputBuffer {
        InputBuffer {
            pool,
            ..InputBuffer::default()
        }
    }

    #[test]
    fn a_peer_that_announces_60_mib_and_sends_a_byte_costs_next_to_nothing() {
        let mut buffer = InputBuffer::default();
        read(&mut buffer, &[1], 0);
        for _ in 0..100 {
            read(&mut buffer, &[2], 60 << 20);
        }
        assert_eq!(buffer.unread().len(), 101);
        assert!(
            buffer.held_bytes() <= pool::BUFFER_BYTES,
            "{} bytes held",
            buffer.held_bytes()
        );
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn large_frames_are_read_into_place_and_small_ones_through_the_scratch() {
        let body: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let mut buffer = InputBuffer::default();
        let mut rest = &body[..];
        let mut scratch = [0; 64];
        while buffer.unread().len() < body.len() {
            buffer
                .read_from(&mut rest, &mut scratch, body.len())
                .unwrap();
        }
        assert_eq!(buffer.take(0, body.len()), body);
        assert_eq!(buffer.held_bytes(), 0);
    }

    #[test]
    fn a_frame_as_large_as_one_before_is_read_into_its_buffer() {
        let frame = vec![7; 1 << 20];
        let mut scratch = [0; 64];
        let mut buffers = Vec::new();
        let pool = Box::leak(Box::new(Pool::new()));
        for reads_max in [20, 10] {
            let mut buffer = with(pool);
            let mut rest = &frame[..];
            let mut reads = 0;
            while !rest.is_empty() {
                buffer
                    .read_from(&mut rest, &mut scratch, frame.len())
                    .unwrap();
                reads += 1;
            }
            assert!(reads <= reads_max, "{reads} reads");
            let taken = buffer.take(0, frame.len());
            assert_eq!(taken, frame);
            buffers.push(taken.as_ptr());
        }
        assert_eq!(buffers[0], buffers[1], "it was used again");
    }

    #[test]
    fn whoever_announces_much_gets_no_kept_buffer_before_a_share_of_it_is_there() {
        let pool: &Pool = Box::leak(Box::new(Pool::new()));
        pool.give(pool.take_full(4 << 20));
        let mut buffer = with(pool);
        let mut scratch = [0; 64];
        for _ in 0..10 {
            let mut some = &[7; 1000][..];
            buffer.read_from(&mut some, &mut scratch, 4 << 20).unwrap();
        }
        assert!(buffer.held_bytes() <= pool::BUFFER_BYTES);
        let share = vec![7; 512 << 10];
        let mut share = &share[..];
        while !share.is_empty() {
            buffer.read_from(&mut share, &mut scratch, 4 << 20).unwrap();
        }
        buffer
            .read_from(&mut &[7][..], &mut scratch, 4 << 20)
            .unwrap();
        assert!(buffer.held_bytes() >= 4 << 20);
    }

    #[test]
    fn what_is_discarded_never_shows_up() {
        let mut buffer = InputBuffer::default();
        read(&mut buffer, b"headbo", 0);
        buffer.discard(8);
        assert_eq!(buffer.unread(), b"");
        read(&mut buffer, b"dynext", 0);
        assert_eq!(buffer.unread(), b"next");
        assert_eq!(buffer.take(1, 2), &b"ex"[..]);
        assert_eq!(buffer.unread(), b"t");
    }

    #[test]
    fn an_emptied_buffer_holds_no_memory_and_a_small_rest_little() {
        let mut buffer = InputBuffer::default();
        let mut scratch = vec![0; 100_000];
        buffer
            .read_from(&mut &vec![7; 100_000][..], &mut scratch, 0)
            .unwrap();
        let kept = buffer.take(0, 99_990);
        buffer.compact();
        assert_eq!(buffer.unread(), [7; 10]);
        assert!(buffer.held_bytes() <= 2 * COMPACT_BYTES_MAX);
        buffer.take(0, 10);
        assert_eq!(buffer.held_bytes(), 0);
        assert_eq!(kept.len(), 99_990);
    }
}
