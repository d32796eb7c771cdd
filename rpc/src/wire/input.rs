//! [`InputBuffer`]: what has arrived on one connection and is not consumed yet.
//!
//! ```text
//!            |<------------------ buffer.len() ----------------->|
//!            | unread bytes              | zeroed room to read to |
//!            0                           filled
//! ```
//!
//! Small reads go through a scratch buffer that all connections of a loop share, so that an idle
//! connection holds no memory; the rest of a large frame is read straight into place. Room grows
//! with what has arrived, never with what a peer announces: a frame of 60 MiB that stops after a
//! byte costs a byte.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};

/// From this many missing bytes on, a frame is read straight into its buffer.
const DIRECT_BYTES_MIN: usize = 16 << 10;

/// The most room that is made ahead of bytes that have not arrived, unless more has arrived already.
const ROOM_BYTES: usize = 64 << 10;

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
    /// `filled <= buffer.len()`; the bytes from `filled` on are zeroes, ready to be read to.
    buffer: BytesMut,
    filled: usize,
    /// Bytes still to be thrown away as they arrive. While it is not 0, `filled` is 0.
    skip: usize,
}

impl InputBuffer {
    /// The bytes that arrived and were not taken.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Takes `len` bytes after throwing `skip` away. The slice shares the buffer's memory.
    ///
    /// # Panics
    /// When that many have not arrived.
    pub(crate) fn take(&mut self, skip: usize, len: usize) -> Bytes {
        assert!(skip + len <= self.filled, "a whole frame was seen");
        self.buffer.advance(skip);
        self.filled -= skip + len;
        let taken = self.buffer.split_to(len).freeze();
        if self.filled == 0 {
            self.buffer = BytesMut::new();
        }
        taken
    }

    /// Throws away `len` bytes, those that have arrived and those that have not.
    pub(crate) fn discard(&mut self, len: usize) {
        let here = len.min(self.filled);
        self.buffer.advance(here);
        self.filled -= here;
        self.skip += len - here;
        if self.filled == 0 {
            self.buffer = BytesMut::new();
        }
    }

    /// Lets a large buffer go that only a small rest of unread bytes keeps alive.
    pub(crate) fn compact(&mut self) {
        if self.filled <= COMPACT_BYTES_MAX && self.buffer.capacity() > 2 * COMPACT_BYTES_MAX {
            self.buffer = BytesMut::from(self.unread());
        }
    }

    /// Reads once from `source`. `frame_bytes` is the size of the frame at the front, 0 if unknown.
    pub(crate) fn read_from(
        &mut self,
        source: &mut impl Read,
        scratch: &mut [u8],
        frame_bytes: usize,
    ) -> io::Result<ReadOutcome> {
        let missing = frame_bytes.saturating_sub(self.filled);
        if missing < DIRECT_BYTES_MIN {
            let bytes = source.read(scratch)?;
            self.append(&scratch[..bytes]);
            return Ok(ReadOutcome {
                bytes,
                drained: bytes < scratch.len(),
            });
        }
        if self.buffer.len() == self.filled {
            let room = missing.min(self.filled.max(ROOM_BYTES));
            self.buffer.resize(self.filled + room, 0);
        }
        let window = &mut self.buffer[self.filled..];
        let window_bytes = window.len();
        let bytes = source.read(window)?;
        self.filled += bytes;
        Ok(ReadOutcome {
            bytes,
            drained: bytes < window_bytes,
        })
    }

    fn append(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
        }
        if self.filled == 0 {
            self.buffer = BytesMut::from(bytes);
        } else {
            self.buffer.truncate(self.filled);
            self.buffer.extend_from_slice(bytes);
        }
        self.filled = self.buffer.len();
    }

    /// Memory held for this connection, for tests of the bounds.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
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

    #[test]
    fn a_peer_that_announces_60_mib_and_sends_a_byte_costs_next_to_nothing() {
        let mut buffer = InputBuffer::default();
        read(&mut buffer, &[1], 0);
        for _ in 0..100 {
            read(&mut buffer, &[2], 60 << 20);
        }
        assert_eq!(buffer.unread().len(), 101);
        assert!(
            buffer.held_bytes() <= 2 * ROOM_BYTES + 64,
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
