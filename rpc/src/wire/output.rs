//! [`OutputQueue`]: encoded frames on their way to a socket.
//!
//! Frames are appended to a segment until it is full, and segments leave together in one write: many
//! small replies cost one system call, large ones are encoded once and never moved, and memory goes
//! back as segments are sent. A frame never spans two segments.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use super::pool::{POOL, frame_buffer};

/// Frames are put together in one segment up to this size.
const SEGMENT_BYTES: usize = 128 << 10;

/// Segments that leave in one write at most. A large frame fills one, and is a bit larger than a
/// packet can be: alone, each would leave in two packets, the second one nearly empty.
const SEGMENTS_PER_WRITE: usize = 16;

/// A sent segment of at most this capacity is kept for the next frames.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// How a write ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing is left to be sent.
    All,
    /// The share is used up.
    Share,
    /// The socket takes no more for now.
    Blocked,
}

/// Bytes to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct OutputQueue {
    segments: VecDeque<Vec<u8>>,
    /// Bytes of the first segment that were sent. Less than its length.
    sent_of_first: usize,
    unsent_bytes: usize,
    spare: Vec<u8>,
}

impl OutputQueue {
    /// Bytes that wait to be sent.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.unsent_bytes == 0
    }

    /// Appends a frame of `len` bytes, which `put` writes.
    pub(crate) fn push_frame(&mut self, len: usize, put: impl FnOnce(&mut Vec<u8>)) {
        if self
            .segments
            .back()
            .is_none_or(|last| last.len() + len > SEGMENT_BYTES)
        {
            let mut segment = std::mem::take(&mut self.spare);
            if segment.capacity() < len {
                segment = frame_buffer(len);
            }
            self.segments.push_back(segment);
        }
        let segment = self.segments.back_mut().expect("there is a last segment");
        let before = segment.len();
        put(segment);
        debug_assert_eq!(
            segment.len() - before,
            len,
            "a frame's length is known before"
        );
        self.unsent_bytes += segment.len() - before;
    }

    /// Appends bytes that were put together elsewhere.
    pub(crate) fn push_segment(&mut self, segment: Vec<u8>) {
        if !segment.is_empty() {
            self.unsent_bytes += segment.len();
            self.segments.push_back(segment);
        }
    }

    /// Moves everything from `other` to the end of this queue.
    pub(crate) fn append(&mut self, other: &mut OutputQueue) {
        debug_assert_eq!(
            other.sent_of_first, 0,
            "only the queue at the socket is sent from"
        );
        if self.is_empty() {
            std::mem::swap(&mut self.segments, &mut other.segments);
            std::mem::swap(&mut self.unsent_bytes, &mut other.unsent_bytes);
            // The queue that is filled keeps getting a buffer back.
            if other.spare.capacity() == 0 {
                other.spare = std::mem::take(&mut self.spare);
            }
        } else {
            self.segments.append(&mut other.segments);
            self.unsent_bytes += std::mem::take(&mut other.unsent_bytes);
        }
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        *self = OutputQueue::default();
    }

    /// Lets all memory go if nothing waits.
    pub(crate) fn trim(&mut self) {
        if self.is_empty() {
            *self = OutputQueue::default();
        }
    }

    /// Takes the frames apart, whose lengths `lens` lists in order, and puts back what `rewrite`
    /// puts into the queue for each of them. Nothing may have been sent yet.
    pub(crate) fn rewrite_frames(
        &mut self,
        lens: impl IntoIterator<Item = usize>,
        mut rewrite: impl FnMut(&[u8], &mut OutputQueue),
    ) {
        debug_assert_eq!(self.sent_of_first, 0, "no frame is cut in two");
        let old = std::mem::take(self);
        let mut segments = old.segments.iter().map(Vec::as_slice);
        let mut segment: &[u8] = &[];
        for len in lens {
            if segment.is_empty() {
                segment = segments
                    .next()
                    .expect("the lengths are those of the frames");
            }
            let (frame, rest) = segment.split_at(len);
            segment = rest;
            rewrite(frame, self);
        }
    }

    /// Writes as much as `sink` takes.
    pub(crate) fn write_to(&mut self, sink: &mut impl Write) -> io::Result<Written> {
        self.write_up_to(usize::MAX, sink)
    }

    /// Writes as much as `sink` takes, and `share` bytes at most.
    pub(crate) fn write_up_to(
        &mut self,
        mut share: usize,
        sink: &mut impl Write,
    ) -> io::Result<Written> {
        while !self.is_empty() {
            if share == 0 {
                return Ok(Written::Share);
            }
            match self.write_once(share, sink) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.sent(bytes);
                    share = share.saturating_sub(bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    fn write_once(&self, share: usize, sink: &mut impl Write) -> io::Result<usize> {
        let first = &self.segments[0][self.sent_of_first..];
        if self.segments.len() == 1 || first.len() >= share {
            return sink.write(&first[..first.len().min(share)]);
        }
        let mut slices = [IoSlice::new(&[]); SEGMENTS_PER_WRITE];
        slices[0] = IoSlice::new(first);
        let mut filled = 1;
        let mut left = share - first.len();
        for (slice, segment) in slices[1..].iter_mut().zip(self.segments.iter().skip(1)) {
            if left == 0 {
                break;
            }
            *slice = IoSlice::new(&segment[..segment.len().min(left)]);
            left -= slice.len();
            filled += 1;
        }
        sink.write_vectored(&slices[..filled])
    }

    fn sent(&mut self, mut bytes: usize) {
        self.unsent_bytes -= bytes;
        while let Some(first) = self.segments.front()
            && bytes > 0
        {
            let left = first.len() - self.sent_of_first;
            if bytes < left {
                self.sent_of_first += bytes;
                return;
            }
            bytes -= left;
            self.sent_of_first = 0;
            if let Some(segment) = self.segments.pop_front() {
                self.keep_or_give(segment);
            }
        }
    }

    fn keep_or_give(&mut self, mut segment: Vec<u8>) {
        if segment.capacity() <= SPARE_BYTES_MAX {
            segment.clear();
            self.spare = segment;
        } else {
            POOL.give(segment);
        }
    }

    /// Memory held, for tests of the bounds.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.segments.iter().map(Vec::capacity).sum::<usize>() + self.spare.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `limit` bytes a write and counts writes.
    struct Sink {
        bytes: Vec<u8>,
        room: usize,
        writes: usize,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let before = self.bytes.len();
            for slice in slices {
                let n = slice.len().min(self.room);
                self.bytes.extend_from_slice(&slice[..n]);
                self.room -= n;
            }
            self.writes += 1;
            Ok(self.bytes.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink(room: usize) -> Sink {
        Sink {
            bytes: Vec::new(),
            room,
            writes: 0,
        }
    }

    fn push(queue: &mut OutputQueue, bytes: &[u8]) {
        queue.push_frame(bytes.len(), |out| out.extend_from_slice(bytes));
    }

    #[test]
    fn small_frames_leave_in_one_write() {
        let mut queue = OutputQueue::default();
        for byte in 0..100u8 {
            push(&mut queue, &[byte; 10]);
        }
        let mut sink = sink(usize::MAX);
        assert_eq!(queue.write_to(&mut sink).unwrap(), Written::All);
        assert_eq!((sink.writes, sink.bytes.len()), (1, 1000));
    }

    #[test]
    fn segments_leave_together_up_to_a_limit() {
        let mut queue = OutputQueue::default();
        for byte in 0..=SEGMENTS_PER_WRITE {
            queue.push_segment(vec![u8::try_from(byte).unwrap(); 3]);
        }
        let mut sink = sink(usize::MAX);
        queue.write_to(&mut sink).unwrap();
        assert_eq!(
            (sink.writes, sink.bytes.len()),
            (2, 3 * SEGMENTS_PER_WRITE + 3)
        );
        assert!(sink.bytes.is_sorted());
    }

    #[test]
    fn whoever_has_a_share_leaves_the_rest() {
        for share in 1..9 {
            let mut queue = OutputQueue::default();
            for segment in ["abc", "d", "efgh", "i"] {
                queue.push_segment(segment.into());
            }
            let mut sink = sink(usize::MAX);
            let mut before = 0;
            while queue.write_up_to(share, &mut sink).unwrap() == Written::Share {
                assert_eq!(sink.bytes.len() - before, share);
                before = sink.bytes.len();
            }
            assert_eq!(sink.bytes, b"abcdefghi");
        }
    }

    #[test]
    fn a_large_segment_is_cut_to_the_share() {
        let mut queue = OutputQueue::default();
        queue.push_segment(vec![7; 1000]);
        let mut sink = sink(usize::MAX);
        assert_eq!(queue.write_up_to(300, &mut sink).unwrap(), Written::Share);
        assert_eq!((sink.bytes.len(), queue.unsent_bytes()), (300, 700));
    }

    #[test]
    fn a_write_that_ends_within_any_segment_goes_on_there() {
        for room in 1..9 {
            let mut queue = OutputQueue::default();
            for segment in ["abc", "d", "efgh", "i"] {
                queue.push_segment(segment.into());
            }
            let mut got = Vec::new();
            while !queue.is_empty() {
                let mut sink = sink(room);
                queue.write_to(&mut sink).unwrap();
                got.extend(sink.bytes);
                assert_eq!(queue.unsent_bytes(), 9 - got.len());
            }
            assert_eq!(got, b"abcdefghi", "{room} bytes a write");
        }
    }

    /// A partial write loses nothing; the original's did.
    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn a_blocked_write_goes_on_where_it_stopped_and_memory_shrinks_back() {
        let mut queue = OutputQueue::default();
        let mut expected = Vec::new();
        for i in 0..3_000u32 {
            let frame = vec![i as u8; 1 + (i as usize * 37) % 2_000];
            push(&mut queue, &frame);
            expected.extend(frame);
        }
        let mut got = Vec::new();
        let mut room = 1;
        loop {
            assert_eq!(queue.unsent_bytes(), expected.len() - got.len());
            let mut sink = sink(room);
            let written = queue.write_to(&mut sink).unwrap();
            got.extend(sink.bytes);
            if written == Written::All {
                break;
            }
            room = room * 3 + 1;
        }
        assert!(got == expected);
        assert!(queue.held_bytes() <= SPARE_BYTES_MAX);
    }

    #[test]
    fn a_trimmed_queue_holds_no_memory_but_what_waits() {
        let mut queue = OutputQueue::default();
        push(&mut queue, &[1; 5_000]);
        queue.trim();
        assert_eq!(queue.unsent_bytes(), 5_000);
        queue.write_to(&mut sink(usize::MAX)).unwrap();
        assert!(
            queue.held_bytes() > 0,
            "it keeps a buffer for the next frames"
        );
        queue.trim();
        assert_eq!(queue.held_bytes(), 0);
    }

    #[test]
    fn dead_frames_are_cut_out() {
        let mut queue = OutputQueue::default();
        let large = vec![9; SEGMENT_BYTES];
        push(&mut queue, b"aa");
        push(&mut queue, b"bbb");
        push(&mut queue, &large);
        push(&mut queue, b"c");
        queue.rewrite_frames([2, 3, large.len(), 1], |frame, queue| {
            if frame.len() < 3 {
                push(queue, frame);
            }
        });
        let mut sink = sink(usize::MAX);
        queue.write_to(&mut sink).unwrap();
        assert_eq!(sink.bytes, b"aac");
        assert!(queue.is_empty());
    }

    #[test]
    fn appending_keeps_the_order() {
        let (mut socket, mut filled) = (OutputQueue::default(), OutputQueue::default());
        let mut sink = sink(3);
        push(&mut filled, b"first");
        socket.append(&mut filled);
        assert_eq!(socket.write_to(&mut sink).unwrap(), Written::Blocked);
        push(&mut filled, b"second");
        socket.append(&mut filled);
        assert!(filled.is_empty());
        sink.room = 100;
        assert_eq!(socket.write_to(&mut sink).unwrap(), Written::All);
        assert_eq!(sink.bytes, b"firstsecond");
    }
}
