//! Frames: what stands between two calls on one connection.
//!
//! ```text
//! request  varint32 header_size | RpcHeader      (header_size bytes) | args (args_size bytes)
//! reply    varint32 header_size | RpcReplyHeader (header_size bytes) | body (body_size bytes)
//! ```
//!
//! Reading looks at bytes that have arrived and consumes none; the sizes that a peer announces are
//! held against [`Limits`] before anything is reserved for them.

use prost::Message;

use super::header::{
    MessageHead, PlainCall, ReplyHead, RequestHead, put_reply_head, put_request_head,
    reply_head_len, request_head_len,
};
use super::limits::{Limits, METADATA_ENTRIES_MAX};
use super::varint::{Varint32, peek_varint32, put_varint, varint_len};

/// Why a frame was refused. Each of these closes its own connection and touches no other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("the header's size is no varint of 32 bits")]
    HeaderSize,
    #[error("header of {size} bytes is over the limit of {limit} (Limits::max_header_bytes)")]
    HeaderTooLarge { size: u32, limit: u32 },
    #[error("malformed header: {0}")]
    Header(#[from] prost::DecodeError),
    #[error("header with {entries} entries of metadata, over the limit of {METADATA_ENTRIES_MAX}")]
    TooManyEntries { entries: usize },
    #[error("body of {size} bytes is over the limit of {limit} (Limits::max_body_bytes)")]
    BodyTooLarge { size: u32, limit: u32 },
}

/// A frame's header, and where its body lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<H> {
    pub(crate) head: H,
    /// Offset of the body; the frame's bytes before it are the size and the header.
    pub(crate) body_start: usize,
    pub(crate) body_size: usize,
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Peeked<H> {
    /// More bytes are needed; the whole frame takes `frame_bytes` (0 while that is unknown).
    Incomplete { frame_bytes: usize },
    /// A whole frame.
    Complete(Frame<H>),
}

/// The frame at the front of a buffer: its header is looked at when it has arrived, and once more
/// when the body has, however many reads there are between.
#[derive(Debug, Default)]
pub(crate) struct FrontFrame {
    /// Size of the whole frame; 0 while it is unknown.
    frame_bytes: usize,
}

impl FrontFrame {
    /// Size of the whole frame in bytes; 0 while it is unknown.
    pub(crate) fn bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Looks at the frame at the front of `input`, which has grown, and nothing else, since it was
    /// `Incomplete` the last time.
    pub(crate) fn peek<'a, H>(
        &mut self,
        input: &'a [u8],
        peek: impl FnOnce(&'a [u8]) -> Result<Peeked<H>, FrameError>,
    ) -> Result<Peeked<H>, FrameError> {
        if input.len() < self.frame_bytes {
            return Ok(Peeked::Incomplete {
                frame_bytes: self.frame_bytes,
            });
        }
        let peeked = peek(input)?;
        self.frame_bytes = match peeked {
            Peeked::Incomplete { frame_bytes } => frame_bytes,
            Peeked::Complete(_) => 0,
        };
        Ok(peeked)
    }
}

/// Looks at the request at the front of `input`.
pub(crate) fn peek_request<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<Peeked<RequestHead<'a>>, FrameError> {
    let Some((header, body_start)) = peek_header(input, limits)? else {
        return Ok(Peeked::Incomplete { frame_bytes: 0 });
    };
    let head = RequestHead::decode(header)?;
    let body_size = check_body(head.args_size, limits)?;
    Ok(whole_or_incomplete(input, head, body_start, body_size))
}

/// Looks at the request at the front of `input`, if it is whole and a plain call of the method with
/// these [names](super::header::names_in_header): nearly every request calls what the one before it
/// called. `None` leaves it to [`peek_request`], which would find the same.
#[inline]
pub(crate) fn peek_plain_call(
    input: &[u8],
    names: &[u8],
    limits: &Limits,
) -> Option<Frame<PlainCall>> {
    let (header, body_start) = peek_header(input, limits).ok()??;
    let head = PlainCall::decode(header, names)?;
    let body_size = check_body(head.args_size, limits).ok()?;
    (input.len() - body_start >= body_size).then_some(Frame {
        head,
        body_start,
        body_size,
    })
}

/// Looks at the reply at the front of `input`.
///
/// Whether its body is within the limit is for the caller to check: it can give up that one call.
/// The body need not have arrived for `Complete`.
pub(crate) fn peek_reply<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<Option<Frame<ReplyHead<'a>>>, FrameError> {
    let Some((header, body_start)) = peek_header(input, limits)? else {
        return Ok(None);
    };
    let head = ReplyHead::decode(header)?;
    let body_size = head.body_size as usize;
    Ok(Some(Frame {
        head,
        body_start,
        body_size,
    }))
}

/// Whether the caller of the request at the front of `input` speaks in frames (or is a legacy
/// caller), as soon as its header is there.
pub(crate) fn peek_dialect(input: &[u8], limits: &Limits) -> Result<Option<bool>, FrameError> {
    let Some((header, _)) = peek_header(input, limits)? else {
        return Ok(None);
    };
    let head = RequestHead::decode(header)?;
    Ok(Some(head.request_id != 0))
}

fn peek_header<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<Option<(&'a [u8], usize)>, FrameError> {
    let (size, start) = match peek_varint32(input) {
        Varint32::Incomplete => return Ok(None),
        Varint32::Malformed => return Err(FrameError::HeaderSize),
        Varint32::Value(size, start) => (size, start),
    };
    if size > limits.max_header_bytes {
        return Err(FrameError::HeaderTooLarge {
            size,
            limit: limits.max_header_bytes,
        });
    }
    let end = start + size as usize;
    Ok(input.get(start..end).map(|header| (header, end)))
}

/// Holds a body's announced size against the limit.
pub(crate) fn check_body(size: u32, limits: &Limits) -> Result<usize, FrameError> {
    if size > limits.max_body_bytes {
        return Err(FrameError::BodyTooLarge {
            size,
            limit: limits.max_body_bytes,
        });
    }
    Ok(size as usize)
}

fn whole_or_incomplete<H>(input: &[u8], head: H, body_start: usize, body_size: usize) -> Peeked<H> {
    if input.len() - body_start < body_size {
        return Peeked::Incomplete {
            frame_bytes: body_start + body_size,
        };
    }
    Peeked::Complete(Frame {
        head,
        body_start,
        body_size,
    })
}

/// Bytes of the whole frame that [`put_request`] appends.
pub(crate) fn request_len(head: &RequestHead<'_>) -> usize {
    frame_len(request_head_len(head), head.args_size)
}

fn frame_len(head_len: usize, body_size: u32) -> usize {
    varint_len(head_len as u64) + head_len + body_size as usize
}

/// Appends a request. `head.args_size` is `args.encoded_len()`; a frame of control has `()`.
pub(crate) fn put_request(out: &mut Vec<u8>, head: &RequestHead<'_>, args: &impl Message) {
    put_sized(out, |out| put_request_head(out, head));
    args.encode(out).expect("a Vec grows as needed");
}

/// Bytes of the whole frame that [`put_reply`] appends.
pub(crate) fn reply_len(head: &ReplyHead<'_>) -> usize {
    frame_len(reply_head_len(head), head.body_size)
}

/// Appends a reply. `head.body_size` is `body.encoded_len()`, or 0 without a body.
pub(crate) fn put_reply(out: &mut Vec<u8>, head: &ReplyHead<'_>, body: Option<&impl Message>) {
    put_sized(out, |out| put_reply_head(out, head));
    if let Some(body) = body {
        body.encode(out).expect("a Vec grows as needed");
    }
}

/// Bytes of the whole frame that [`put_message`] appends.
pub(crate) fn message_len(head: &MessageHead, body_size: u32) -> usize {
    head.as_bytes().len() + body_size as usize
}

/// Appends a reply that is nothing but a message, with the head that was made for its size.
pub(crate) fn put_message(out: &mut Vec<u8>, head: &MessageHead, body: &impl Message) {
    out.extend_from_slice(head.as_bytes());
    body.encode(out).expect("a Vec grows as needed");
}

/// Appends what `put` appends, after its size: nearly always that is one byte, so that it need not
/// be known before.
#[expect(clippy::cast_possible_truncation, reason = "it was compared")]
fn put_sized(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    put(out);
    let size = out.len() - start - 1;
    if size < 0x80 {
        out[start] = size as u8;
    } else {
        let mut prefix = Vec::new();
        put_varint(&mut prefix, size as u64);
        out.splice(start..=start, prefix);
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
