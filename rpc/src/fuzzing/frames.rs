//! Frames: that where the transport cuts them changes nothing.

use std::fmt;

use bytes::Bytes;

use crate::client::Raw;
use crate::wire::{
    FrameError, InputBuffer, Limits, Peeked, PlainCall, ReplyHead, RequestHead, RequestKind,
    check_body, names_in_header, peek_dialect, peek_plain_call, peek_reply, peek_request,
    put_reply, put_request, reply_len, request_len,
};

/// The loop's shared read buffer in small, so that reads of a few KiB fill it.
const SCRATCH_BYTES: usize = 1 << 10;

/// Memory that a connection may hold beyond twice what has arrived: room made for a large frame.
const SPARE_BYTES_MAX: usize = 130 << 10;

/// Of a large frame whose eighth has arrived, a buffer may be kept that is twice the frame.
const KEPT_TIMES_MAX: usize = 16;

/// Takes `data` as what both peers of a connection send, cut anywhere.
///
/// The first four bytes choose the limits and the cuts; the rest is the stream. Reading it piece by
/// piece, as connections do, must bring the same frames and end at the same error as looking at all
/// of it at once; each frame is within the limits, and is the one that its own encoding brings.
///
/// # Panics
/// When one of that does not hold.
pub fn frame_decoder(data: &[u8]) {
    let Some((choices, stream)) = data.split_at_checked(4) else {
        return;
    };
    let limits = limits(choices[0]);
    let cuts = &choices[1..];

    let whole = requests_at_once(stream, &limits);
    assert_eq!(requests_in_pieces(stream, cuts, &limits), whole);
    let whole = replies_at_once(stream, &limits);
    assert_eq!(replies_in_pieces(stream, cuts, &limits), whole);
}

/// The usual limits, or such as a short stream can reach.
fn limits(choice: u8) -> Limits {
    let usual = Limits::default();
    match choice % 4 {
        0 => usual,
        1 => Limits {
            max_header_bytes: 40,
            max_body_bytes: 64,
            ..usual
        },
        2 => Limits {
            max_body_bytes: 0,
            ..usual
        },
        _ => Limits {
            max_header_bytes: u32::MAX,
            max_body_bytes: u32::MAX,
            ..usual
        },
    }
}

/// What a stream comes to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Each frame, with `None` for a body that was skipped because it is over the limit.
    frames: Vec<(String, Option<Bytes>)>,
    /// Why no more could be taken.
    error: Option<String>,
    /// Bytes behind the last frame.
    rest: Vec<u8>,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            frames: Vec::new(),
            error: None,
            rest: Vec::new(),
        }
    }

    fn push(&mut self, head: &impl fmt::Debug, body: Option<Bytes>) {
        self.frames.push((format!("{head:?}"), body));
    }

    /// Ends with an error, after which nobody looks at the rest.
    fn broken(mut self, error: &FrameError) -> Outcome {
        self.error = Some(format!("{error:?}"));
        self
    }

    fn left(mut self, rest: &[u8]) -> Outcome {
        rest.clone_into(&mut self.rest);
        self
    }
}

// ---- requests

fn requests_at_once(stream: &[u8], limits: &Limits) -> Outcome {
    let mut outcome = Outcome::new();
    let mut rest = stream;
    // Of the call before.
    let mut names = None;
    loop {
        let dialect = peek_dialect(rest, limits);
        let peeked = peek_request(rest, limits);
        check_plain_call(rest, names.as_deref(), &peeked, limits);
        let frame = match peeked {
            Ok(Peeked::Complete(frame)) => frame,
            Ok(Peeked::Incomplete { frame_bytes }) => {
                assert!(frame_bytes == 0 || frame_bytes > rest.len(), "it is there");
                assert_eq!(frame_bytes > 0, matches!(dialect, Ok(Some(_))));
                return outcome.left(rest);
            }
            Err(error) => return outcome.broken(&error),
        };
        check_sizes(frame.body_start, frame.body_size, limits);
        assert_eq!(dialect.ok(), Some(Some(frame.head.request_id != 0)));
        let (front, after) = rest.split_at(frame.body_start + frame.body_size);
        let body = &front[frame.body_start..];
        check_request_is_read_again(&frame.head, body);
        let head = &frame.head;
        let text = |name| std::str::from_utf8(name).ok();
        let called = text(&head.service_name).zip(text(&head.method_name));
        names = called.map(|(service, method)| names_in_header(service, method));
        check_plain_call(rest, names.as_deref(), &peek_request(rest, limits), limits);
        outcome.push(&frame.head, Some(Bytes::copy_from_slice(body)));
        rest = after;
    }
}

/// The short cut for another call of a method finds nothing, or what is there.
fn check_plain_call(
    input: &[u8],
    names: Option<&[u8]>,
    peeked: &Result<Peeked<RequestHead<'_>>, FrameError>,
    limits: &Limits,
) {
    let Some(plain) = names.and_then(|names| peek_plain_call(input, names, limits)) else {
        return;
    };
    let Ok(Peeked::Complete(frame)) = peeked else {
        panic!("a plain call where there is none: {plain:?}");
    };
    let place = (plain.body_start, plain.body_size);
    assert_eq!(place, (frame.body_start, frame.body_size));
    let PlainCall {
        args_size,
        request_id,
        timeout_ms,
    } = plain.head;
    let RequestHead {
        service_name,
        method_name,
        ..
    } = frame.head.clone();
    let same = RequestHead {
        service_name,
        method_name,
        args_size,
        request_id,
        timeout_ms,
        ..RequestHead::default()
    };
    assert_eq!(frame.head, same, "it has nothing else");
}

fn requests_in_pieces(stream: &[u8], cuts: &[u8], limits: &Limits) -> Outcome {
    let mut outcome = Outcome::new();
    let mut pieces = Pieces::new(stream, cuts);
    let mut frame_bytes = 0;
    while pieces.read(frame_bytes) {
        loop {
            let unread = pieces.input.unread();
            match peek_request(unread, limits) {
                Ok(Peeked::Complete(frame)) => {
                    let (start, size) = (frame.body_start, frame.body_size);
                    assert!(
                        frame_bytes == 0 || frame_bytes == start + size,
                        "announced to take {frame_bytes} bytes, not {}",
                        start + size
                    );
                    frame_bytes = 0;
                    outcome.push(&frame.head, None);
                    let body = pieces.input.take(start, size);
                    outcome.frames.last_mut().expect("it was pushed").1 = Some(body);
                }
                Ok(Peeked::Incomplete { frame_bytes: bytes }) => {
                    assert!(
                        frame_bytes == 0 || bytes == frame_bytes,
                        "its size is known"
                    );
                    frame_bytes = bytes;
                    break;
                }
                Err(error) => return outcome.broken(&error),
            }
        }
    }
    outcome.left(pieces.input.unread())
}

/// What we would send for it means the same.
fn check_request_is_read_again(head: &RequestHead<'_>, body: &[u8]) {
    if head.kind == RequestKind::Unknown {
        return; // nobody writes such a header
    }
    let mut frame = Vec::new();
    put_request(&mut frame, head, &Raw(body));
    assert_eq!(frame.len(), request_len(head));
    let again = peek_request(&frame, &limits(3)).expect("we wrote it");
    let Peeked::Complete(again) = again else {
        panic!("our own frame is cut off: {frame:?}");
    };
    assert_eq!((&again.head, &frame[again.body_start..]), (head, body));
}

// ---- replies

fn replies_at_once(stream: &[u8], limits: &Limits) -> Outcome {
    let mut outcome = Outcome::new();
    let mut rest = stream;
    loop {
        let frame = match peek_reply(rest, limits) {
            Ok(Some(frame)) => frame,
            Ok(None) => return outcome.left(rest),
            Err(error) => return outcome.broken(&error),
        };
        let end = frame.body_start + frame.body_size;
        if check_body(frame.head.body_size, limits).is_err() {
            outcome.push(&frame.head, None);
            rest = rest.get(end..).unwrap_or_default();
            continue;
        }
        check_sizes(frame.body_start, frame.body_size, limits);
        let Some(body) = rest.get(frame.body_start..end) else {
            return outcome.left(rest);
        };
        check_reply_is_read_again(&frame.head, body);
        outcome.push(&frame.head, Some(Bytes::copy_from_slice(body)));
        rest = &rest[end..];
    }
}

fn replies_in_pieces(stream: &[u8], cuts: &[u8], limits: &Limits) -> Outcome {
    let mut outcome = Outcome::new();
    let mut pieces = Pieces::new(stream, cuts);
    let mut frame_bytes = 0;
    while pieces.read(frame_bytes) {
        loop {
            frame_bytes = 0;
            let unread = pieces.input.unread();
            let frame = match peek_reply(unread, limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return outcome.broken(&error),
            };
            let (start, size) = (frame.body_start, frame.body_size);
            if check_body(frame.head.body_size, limits).is_err() {
                outcome.push(&frame.head, None);
                pieces.input.discard(start + size);
                continue;
            }
            if unread.len() < start + size {
                frame_bytes = start + size;
                break;
            }
            outcome.push(&frame.head, None);
            let body = pieces.input.take(start, size);
            outcome.frames.last_mut().expect("it was pushed").1 = Some(body);
        }
    }
    outcome.left(pieces.input.unread())
}

fn check_reply_is_read_again(head: &ReplyHead<'_>, body: &[u8]) {
    if head.kind == crate::wire::ReplyKind::Unknown {
        return; // nobody writes such a header
    }
    let mut frame = Vec::new();
    put_reply(&mut frame, head, Some(&Raw(body)));
    assert_eq!(frame.len(), reply_len(head));
    let again = peek_reply(&frame, &limits(3)).expect("we wrote it");
    let again = again.expect("we wrote all of it");
    assert_eq!((&again.head, &frame[again.body_start..]), (head, body));
}

// ---- both

fn check_sizes(body_start: usize, body_size: usize, limits: &Limits) {
    let header_max = limits.max_header_bytes as usize;
    assert!(
        body_start > 0 && body_start <= 5 + header_max,
        "{body_start}"
    );
    assert!(body_size <= limits.max_body_bytes as usize, "{body_size}");
}

/// A stream that arrives in pieces, and the buffer of the connection that reads it.
struct Pieces<'a> {
    input: InputBuffer,
    scratch: [u8; SCRATCH_BYTES],
    rest: &'a [u8],
    /// What has arrived of the piece under way.
    piece: &'a [u8],
    /// Sizes of the pieces, in turn.
    cuts: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    arrived: usize,
}

impl<'a> Pieces<'a> {
    fn new(stream: &'a [u8], cuts: &'a [u8]) -> Pieces<'a> {
        Pieces {
            input: InputBuffer::default(),
            scratch: [0; SCRATCH_BYTES],
            rest: stream,
            piece: &[],
            cuts: cuts.iter().cycle(),
            arrived: 0,
        }
    }

    /// Reads once, as a connection whose first frame takes `frame_bytes` (0: unknown) does; `false`
    /// at the end of the stream.
    fn read(&mut self, frame_bytes: usize) -> bool {
        if self.piece.is_empty() {
            // A connection compacts when the socket has nothing more.
            let before = self.input.unread().to_vec();
            self.input.compact();
            assert_eq!(self.input.unread(), before);
            let cut = self.cuts.next().map_or(1, |&cut| match cut {
                // Most pieces are short, a few as large as reads are.
                0 => 1,
                1..200 => usize::from(cut),
                200.. => usize::from(cut - 199) * 512,
            });
            (self.piece, self.rest) = self.rest.split_at(cut.min(self.rest.len()));
        }
        let offered = self.piece.len();
        let read = self
            .input
            .read_from(&mut self.piece, &mut self.scratch, frame_bytes)
            .expect("a slice can be read");
        assert_eq!(read.bytes, offered - self.piece.len());
        self.arrived += read.bytes;
        let held = self.input.held_bytes();
        let bound = (2 * self.arrived + SPARE_BYTES_MAX).max(KEPT_TIMES_MAX * self.arrived);
        assert!(
            held <= bound,
            "{held} bytes held for the {} that arrived",
            self.arrived
        );
        read.bytes > 0
    }
}
